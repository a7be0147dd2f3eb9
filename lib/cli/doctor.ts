/** `selfedit doctor`: what this installation has, and the next command for what it lacks. */
import type { Command } from 'commander';
import { type DoctorReport, doctor } from '../doctor.js';
import { bytesText } from './meter.js';
import type { Session } from './session.js';
import { table } from './table.js';

export function addDoctor(program: Command, session: Session): void {
  program
    .command('doctor')
    .description('What was found: Node.js, addon, libtorch, devices, threads, memory; and what to do next.')
    .option('--json', 'one JSON object')
    .addHelpText('after', '\nExit code 1 when something is missing.\n\nExample:\n  selfedit doctor')
    .action(async (options: { json?: boolean }) => {
      const report = await doctor();
      await session.print(options.json ? `${JSON.stringify(report, null, 2)}\n` : describeReport(report));
      process.exitCode = report.ok ? 0 : 1;
    });
}

function describeReport(report: DoctorReport): string {
  const { node, addon, libtorch, memory } = report;
  const state = addon.loads ? 'loads' : addon.found ? 'does not load' : 'missing';
  const rows = [
    ['selfedit', report.version],
    ['Node.js', `${node.version}, ${node.platform} ${node.arch}${node.supported ? '' : ' (too old)'}`],
    ['addon', `${state}, ${addon.path}`],
    ['libtorch', libtorch ? `${libtorch.version} ${libtorch.variant}, ${libtorch.path}` : 'not known'],
    ['', libtorch ? `found by: ${libtorch.source}` : ''],
    ['devices', report.devices.join(', ') || 'none'],
    ...report.gpus.map((gpu) => [
      gpu.name,
      `${gpu.product}, compute capability ${gpu.capability}, ${bytesText(gpu.free)} free of ${bytesText(gpu.total)}`,
    ]),
    ['', report.noGpu ? `no GPU: ${report.noGpu}` : ''],
    ['threads', report.threads > 0 ? `${report.threads}` : 'not known'],
    ['kernels', report.simd || 'not known'],
    ['many ranks', addon.loads ? (report.noRanks ?? 'Gloo on the CPU') : 'not known'],
    ['memory', `${bytesText(memory.free)} free of ${bytesText(memory.total)}`],
  ].filter(([, value]) => value !== '');
  const problems = report.problems.map((problem) => `\nproblem: ${problem}\n`).join('');
  const next = report.ok
    ? '\neverything that is needed works\n'
    : report.next
      ? `\nnext: ${report.next}\n`
      : '';
  return `${table(rows)}${problems}${next}`;
}
