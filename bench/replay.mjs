// The published recording of SEAL's rewards through this project's own code: verdicts in, rewards, baselines, best of n and reliability
// out, beside what the recording says of itself. `npm run bench:replay`. Exit code 1 on a difference that nothing explains.
//   --recording FILE   ../shared/data/seal/recorded_rewards.json
//   --choices FILE     the edits that were chosen from it, JSONL of {prompt, completion} (sft_best1of5_iter0.jsonl of the SEAL
//                      repository); without it the published rule is applied to the recorded means
//   --json             the figures as one JSON object
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { compare, tableOf } from './replay/compare.mjs';
import { replay } from './replay/replay.mjs';

const { values: given } = parseArgs({
  options: { recording: { type: 'string' }, choices: { type: 'string' }, json: { type: 'boolean' } },
});
const file =
  given.recording ?? fileURLToPath(new URL('../../shared/data/seal/recorded_rewards.json', import.meta.url));
if (!existsSync(file)) {
  console.error(`error: there is no recording ${file}; give one with --recording FILE`);
  process.exit(1);
}
const recording = JSON.parse(readFileSync(file, 'utf8'));
const choices = given.choices
  ? readFileSync(given.choices, 'utf8')
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line))
  : undefined;
const rows = compare(recording, replay(recording), choices);
console.log(given.json ? JSON.stringify(rows) : tableOf(rows).join('\n'));
process.exitCode = rows.every(({ agrees }) => agrees) ? 0 : 1;
