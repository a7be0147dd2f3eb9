export interface LibtorchRoot {
  root: string;
  version?: string;
  variant?: string;
  /** Libraries in the order in which they have to be opened. */
  libraries?: string[];
  /** Why the folder cannot be used, in words. */
  problem?: string;
}
export const SUPPORTED: { major: number; first: number; last: number };
export const DEFAULT_VERSION: string;
export function cacheFolder(env?: NodeJS.ProcessEnv): string;
export function libraryName(name: string, platform?: NodeJS.Platform): string;
export function inspectRoot(
  folder: string,
  options?: { headers?: boolean; missing?: (library: string) => string[] },
): LibtorchRoot;
export function supportedRange(): string;
export function missingLibraries(library: string): string[];
export function cachedRoots(env?: NodeJS.ProcessEnv): string[];
export function pythonCommand(env?: NodeJS.ProcessEnv): string;
export function pythonTorch(env?: NodeJS.ProcessEnv): string | undefined;
