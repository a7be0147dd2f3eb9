import type { ChildProcess } from 'node:child_process';

export function findTorchrun(env?: NodeJS.ProcessEnv): string | undefined;
export function whyNoTorchrun(env?: NodeJS.ProcessEnv): string;
export function startTorchrun(
  torchrun: string,
  ranks: number,
  args: readonly string[],
  options?: { cwd?: string; restarts?: number; env?: Readonly<Record<string, string>> },
): { child: ChildProcess; ended: Promise<{ code: number | null; output: string }> };
export function ranksOf(agent: number): number[];
