/** What this installation has, what it lacks, and the next command: works also when the addon is missing. */
import { readFileSync } from 'node:fs';
import { freemem, totalmem } from 'node:os';
import { join } from 'node:path';
import { type GpuInfo, native } from './binding.js';
import { AddonLoadError } from './errors.js';
import { buildCommand, findAddon, loaded, packageRoot } from './load.js';

export interface DoctorReport {
  /** True when everything that is needed works. */
  ok: boolean;
  version: string;
  node: { version: string; platform: string; arch: string; supported: boolean };
  addon: { found: boolean; loads: boolean; path: string };
  /** The libtorch that was loaded, or else the one that the addon was built with; null when neither is known. */
  libtorch: { version: string; variant: string; path: string; source: string } | null;
  /** Devices that tensors can live on, for example `['cpu', 'cuda:0']`; empty when the addon does not load. */
  devices: string[];
  /** Facts of the GPUs among them. */
  gpus: GpuInfo[];
  /** Why there is no GPU, in words; null when there is one, or when the addon does not load. Not a problem: the CPU will do. */
  noGpu: string | null;
  /** Threads of the compute thread's pool; 0 when the addon does not load. */
  threads: number;
  /** Instruction set of the CPU kernels: `avx512`, `avx2` or `portable`; empty when the addon does not load. */
  simd: string;
  /** Why several ranks cannot work together on the CPU, and what to install; null when they can, or when the addon does not load. */
  noRanks: string | null;
  /** Bytes of memory of this machine. */
  memory: { total: number; free: number };
  /** What is wrong, in words; one entry a problem. */
  problems: string[];
  /** The command or action that repairs the first problem; null when there is none. */
  next: string | null;
}

function supportsNode(version: string): boolean {
  const [major = 0, minor = 0] = version.replace(/^v/, '').split('.').map(Number);
  return major > 20 || (major === 20 && minor >= 19);
}

/** Examines this installation. Never throws for what it finds; problems are part of the report. */
export async function doctor(): Promise<DoctorReport> {
  const manifest = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { version: string };
  const place = findAddon();
  const report: DoctorReport = {
    ok: false,
    version: manifest.version,
    node: {
      version: process.version,
      platform: process.platform,
      arch: process.arch,
      supported: supportsNode(process.version),
    },
    addon: { found: place.built !== undefined, loads: false, path: place.addon },
    libtorch: place.built
      ? {
          version: place.built.version,
          variant: place.built.variant,
          path: place.built.root,
          source: place.built.source,
        }
      : null,
    devices: [],
    gpus: [],
    noGpu: null,
    threads: 0,
    simd: '',
    noRanks: null,
    memory: { total: totalmem(), free: freemem() },
    problems: [],
    next: null,
  };
  if (!report.node.supported) {
    report.problems.push(`Node.js ${process.version} is too old; selfedit needs 20.19 or newer`);
    report.next = 'install Node.js 20.19 or newer';
  }
  try {
    const info = native().info();
    report.addon.loads = true;
    report.devices = info.devices;
    report.gpus = native().gpus();
    report.noGpu = info.whyNoGpu || null;
    report.noRanks = info.whyNoGloo || null;
    report.threads = info.threads;
    report.simd = info.simd;
    if (loaded) {
      const { from, found } = loaded.libtorch;
      report.libtorch = {
        version: found.version ?? info.torch,
        variant: found.variant ?? '',
        path: found.root,
        source: from,
      };
    }
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    report.problems.push(message);
    report.next ??=
      (error instanceof AddonLoadError ? /^Next: (.*)$/m.exec(message)?.[1] : undefined) ??
      `run "${buildCommand}"`;
  }
  report.ok = report.problems.length === 0;
  return report;
}
