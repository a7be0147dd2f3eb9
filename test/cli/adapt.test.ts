// `adapt` as a process: the numbers of PEFT, and what is on disk when something goes wrong.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { fixture, readJson, relativeDifference } from '../support/fixtures.js';
import {
  finished,
  jsonl,
  lines,
  main,
  readSafetensors,
  selfedit,
  start,
  temporaryFolder,
} from './helpers.js';

interface Spec {
  settings: { rank: number; alpha: number; learningRate: number; epochs: number };
  documents: number[][];
  loss: number[];
}
interface Adapted {
  id: string;
  steps: number;
  loss: number[];
}

const TINY = fixture('models', 'llama-tied');
const folder = temporaryFolder();
const adaptTiny = ['adapt', '--model', TINY];

/** ΔW of every matrix in an adapter folder, row-major, in float64. */
function products(path: string): Map<string, Float64Array> {
  const tensors = readSafetensors(join(path, 'adapter_model.safetensors'));
  const { r, lora_alpha: alpha } = JSON.parse(readFileSync(join(path, 'adapter_config.json'), 'utf8')) as {
    r: number;
    lora_alpha: number;
  };
  const result = new Map<string, Float64Array>();
  for (const [name, { shape, values: a }] of tensors) {
    if (!name.endsWith('.lora_A.weight')) continue;
    const { shape: outer, values: b } = tensors.get(name.replace('.lora_A.', '.lora_B.'))!;
    const [rank, width, out] = [shape[0]!, shape[1]!, outer[0]!];
    const product = new Float64Array(out * width);
    for (let o = 0; o < out; o++) {
      for (let k = 0; k < rank; k++) {
        for (let i = 0; i < width; i++) {
          product[o * width + i]! += (alpha / r) * b[o * rank + k]! * a[k * width + i]!;
        }
      }
    }
    result.set(name, product);
  }
  return result;
}

function bytesOf(...parts: string[]): Buffer {
  return readFileSync(join(folder, ...parts, 'adapter_model.safetensors'));
}

describe('the inner loop', () => {
  it('trains on marked documents and on padding, as the published code does', async () => {
    const spec = readJson<{
      texts: string[];
      paddingLength: number;
      loss: number[];
      settings: Spec['settings'];
    }>('padding', 'published', 'spec.json');
    const { learningRate, epochs } = spec.settings;
    const whole = spec.texts.map((text) => ({ text, spans: [[0, text.length]] }));
    const args = [
      '--init',
      fixture('padding', 'published', 'init'),
      '--no-shuffle',
      '--lr',
      String(learningRate),
    ];
    const { code, stdout, stderr } = await selfedit(
      [
        ...adaptTiny,
        ...args,
        '--epochs',
        String(epochs),
        '--input',
        '-',
        '--out',
        'padded',
        '--faithful-padding',
        '96',
      ],
      {
        input: jsonl([
          { id: 'plain', documents: spec.texts },
          { id: 'marked', documents: whole },
        ]),
        cwd: folder,
      },
    );
    expect(code, stderr).toBe(0);
    const [plain, marked] = lines<Adapted>(stdout);
    expect(marked!.loss).toEqual(plain!.loss);
    for (const [step, loss] of spec.loss.entries()) expect(plain!.loss[step]! / loss).toBeCloseTo(1, 4);
  });

  it.each([
    [{ text: 'One two.', spans: [[0, 99]] }, /document 0: a loss span of a document is 0 to 99/],
    [{ text: 'One two.', spans: [] }, /document 0 has no token that bears loss/],
    [{ text: 'One two.', mask: [1] }, /document 0: the loss mask of a document has 1 entries/],
    [{ text: 'One two.', span: [[0, 1]] }, /"documents\[0\]" is an object; expected a text, token ids, or/],
  ])('refuses %j', async (document, message) => {
    const { code, stdout, stderr } = await selfedit([...adaptTiny, '--input', '-', '--out', 'refused'], {
      input: jsonl([{ id: 'a', documents: [document] }]),
      cwd: folder,
    });
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toMatch(message);
  });

  it('gives the losses and adapters of PEFT from its initialisation, edits of one call apart', async () => {
    const spec = readJson<Spec>('peft', 'q-v', 'spec.json');
    const { learningRate, epochs } = spec.settings;
    // Rank, alpha and targets are those of the adapter to start from.
    const args = ['--init', fixture('peft', 'q-v', 'init'), '--no-shuffle', '--lr', String(learningRate)];
    const input = jsonl([
      { id: 'first', documents: spec.documents },
      { id: 'other', documents: [[9, 8, 7, 6]] },
      { id: '3rd one', documents: spec.documents },
    ]);
    const { code, stdout, stderr } = await selfedit(
      [...adaptTiny, ...args, '--epochs', String(epochs), '--input', '-', '--out', 'peft'],
      { input, cwd: folder },
    );
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const found = lines<Adapted>(stdout);
    expect(found.map(({ id, steps }) => [id, steps])).toEqual([
      ['first', 85],
      ['other', 17],
      ['3rd one', 85],
    ]);
    expect(found[0]!.loss).toHaveLength(85);
    for (const [step, loss] of spec.loss.entries()) {
      expect(Math.abs(found[0]!.loss[step]! - loss) / loss, `loss of step ${step}`).toBeLessThan(1e-3);
    }
    const expected = products(fixture('peft', 'q-v', 'after-85'));
    expect(expected.size).toBe(4);
    const own = products(join(folder, 'peft', 'first'));
    for (const [name, product] of expected) {
      expect(relativeDifference(own.get(name)!, product), name).toBeLessThan(1e-3);
    }
    expect(bytesOf('peft', '3rd one')).toEqual(bytesOf('peft', 'first'));
    expect(readdirSync(join(folder, 'peft')).sort()).toEqual(['3rd one', 'first', 'other']);
  });

  it('is the same for any --slots and from a file, and differs by seed and place', async () => {
    const edits = [
      { id: 'a', documents: ['Rain falls.', 'It is wet.'] },
      { id: 'b', documents: ['Snow falls.'] },
      { id: 'c', documents: ['Rain falls.', 'It is wet.'] },
    ];
    writeFileSync(join(folder, 'edits.jsonl'), jsonl(edits));
    const common = [...adaptTiny, '--rank', '2', '--epochs', '3', '--targets', 'q_proj,layers.1.mlp.*'];
    const [one, many, seeded] = await Promise.all([
      selfedit([...common, '--input', 'edits.jsonl', '--out', 'one', '--slots', '1'], { cwd: folder }),
      selfedit([...common, '--input', '-', '--out', 'many'], { cwd: folder, input: jsonl(edits) }),
      selfedit([...common, '--input', 'edits.jsonl', '--out', 'seeded', '--seed', '5'], { cwd: folder }),
    ]);
    expect([one.code, many.code, seeded.code]).toEqual([0, 0, 0]);
    expect(many.stdout).toBe(one.stdout);
    for (const { id } of edits) expect(bytesOf('many', id)).toEqual(bytesOf('one', id));
    expect(bytesOf('one', 'c')).not.toEqual(bytesOf('one', 'a'));
    expect(bytesOf('seeded', 'a')).not.toEqual(bytesOf('one', 'a'));
    const names = [...readSafetensors(join(folder, 'one', 'a', 'adapter_model.safetensors')).keys()];
    expect(
      names.filter((name) => name.includes('lora_A')).map((name) => name.replace(/^.*layers\./, '')),
    ).toEqual(expect.arrayContaining(['0.self_attn.q_proj.lora_A.weight', '1.mlp.up_proj.lora_A.weight']));
    expect(names).toHaveLength(2 * (2 + 3));
  });

  it('is what score then loads', async () => {
    const edit = [{ id: 'x', documents: [[5, 6, 7, 8, 9]] }];
    const out = join(folder, 'used');
    const common = [...adaptTiny, '--input', '-', '--out', out, '--lr', '5e-3', '--schedule', 'constant'];
    const adapted = await selfedit([...common, '--epochs', '12'], { input: jsonl(edit) });
    const [{ loss }] = lines<Adapted>(adapted.stdout) as [Adapted];
    const input = jsonl([{ tokens: edit[0]!.documents[0] }]);
    const scored = await selfedit(['score', '--model', TINY, '--adapter', join(out, 'x')], { input });
    const [{ logprobs }] = lines<{ logprobs: number[] }>(scored.stdout) as [{ logprobs: number[] }];
    const after = -logprobs.slice(1).reduce((sum, value) => sum + value, 0) / 4;
    // After the last step, so below the loss that the last step saw.
    expect(after).toBeLessThan(loss.at(-1)!);
    expect(loss.at(-1)!).toBeLessThan(loss[0]!);
  });
});

describe('bad lines', () => {
  const good = { id: 'good', documents: ['One text.'] };
  it.each([
    {
      line: { id: '../out', documents: ['x y'] },
      says: /line 2: the id "\.\.\/out" leads to another folder/,
    },
    { line: { id: '..', documents: ['x y'] }, says: /"\.\."/ },
    { line: { id: '/tmp/x', documents: ['x y'] }, says: /"\/tmp\/x"/ },
    { line: { id: 'good', documents: ['x y'] }, says: /line 2: the id "good" is that of .* line 1/ },
    { line: { documents: ['x y'] }, says: /line 2: "id" is missing/ },
    { line: { id: 'b' }, says: /line 2: "documents" is missing/ },
    { line: { id: 'b', documents: [] }, says: /line 2: "documents" is an empty array/ },
    { line: { id: 'b', documents: ['x', 5] }, says: /line 2: "documents\[1\]" is 5/ },
    { line: { id: 'b', documents: [[4]] }, says: /line 2, document 0 has 1 token; expected at least 2/ },
    { line: { id: 'b', documents: [[1, 2], []] }, says: /\[PROMPT_EMPTY\].*line 2, document 1/ },
    {
      line: { id: 'b', documents: [[1, 512]] },
      says: /\[TOKEN_RANGE\].*line 2, document 0, position 1.*512/,
    },
    {
      line: { id: 'b', documents: [[1, 2.5]] },
      says: /\[TOKEN_RANGE\].*line 2, document 0, position 1.*2\.5/,
    },
    {
      line: { id: 'b', documents: [Array.from({ length: 129 }, () => 7)] },
      says: /\[CONTEXT_LENGTH\].*line 2, document 0 has 129 tokens.*128/,
    },
  ])('in a file stop it before any work: $says', async ({ line, says }) => {
    const input = join(folder, 'bad.jsonl');
    writeFileSync(input, jsonl([good, line]));
    const out = join(folder, 'never');
    const { code, stdout, stderr } = await selfedit([...adaptTiny, '--input', input, '--out', out]);
    expect(stderr).toMatch(/^error \[[A-Z_]+\]: .+\n$/);
    expect(stderr).toMatch(says);
    expect({ code, stdout, made: existsSync(out) }).toEqual({ code: 2, stdout: '', made: false });
  });

  it('in a stream leave what was done before', async () => {
    const out = join(folder, 'stream');
    const input = `${jsonl([good])}{"id": "b", "documents": ["cut`;
    const args = [...adaptTiny, '--epochs', '1', '--input', '-', '--out', out];
    const { code, stdout, stderr } = await selfedit(args, { input });
    expect(lines<Adapted>(stdout).map(({ id }) => id)).toEqual(['good']);
    expect(stderr).toMatch(/^error \[INPUT_INVALID\]: standard input line 2 is not JSON.*\n$/);
    expect(code).toBe(2);
    expect(readdirSync(out)).toEqual(['good']);
  });
});

describe('failures', () => {
  const edits = Array.from({ length: 3 }, (_, index) => ({
    id: `e${index}`,
    documents: [[5, 6, 7 + index]],
  }));

  it('of the disk leave earlier adapters whole', async ({ skip }) => {
    if (process.platform === 'win32') skip('Windows has no limit on the size of files');
    const out = join(folder, 'full');
    const args = [...adaptTiny, '--epochs', '1', '--input', '-', '--out', out];
    expect((await selfedit(args, { input: jsonl(edits.slice(0, 1)) })).code).toBe(0);
    const before = bytesOf('full', 'e0');
    // No file may grow beyond 4 blocks, as on a disk with no more room; e0 is to be replaced, e1 to be new.
    const { spawnSync } = await import('node:child_process');
    for (const input of [edits, edits.slice(1)]) {
      const { status, stdout, stderr } = spawnSync(
        'bash',
        ['-c', 'ulimit -f 4; exec "$0" "$@"', process.execPath, main, ...args],
        { input: jsonl(input), encoding: 'utf8' },
      );
      expect(stderr).toMatch(/^error \[IO\]: .*adapter_model\.safetensors.*\n$/);
      expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
      expect(readdirSync(out)).toEqual(['e0']);
      expect(bytesOf('full', 'e0')).toEqual(before);
    }
  });

  it('of the training name the edit, and keep those before it', async () => {
    const out = join(folder, 'diverged');
    const args = [...adaptTiny, '--epochs', '30', '--lr', '1e30', '--schedule', 'constant'];
    // A single step cannot see what it has done.
    const short = { id: 'short', documents: [[5, 6]] };
    const first = await selfedit([...adaptTiny, '--epochs', '1', '--input', '-', '--out', out], {
      input: jsonl([short]),
    });
    expect(first.code).toBe(0);
    const { code, stdout, stderr } = await selfedit([...args, '--input', '-', '--out', out], {
      input: jsonl(edits),
    });
    expect(stderr).toMatch(/^error \[LOSS_NOT_FINITE\]: standard input line 1 \(id "e0"\): .*\n$/);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(readdirSync(out)).toEqual(['short']);
  });

  it('by an interrupt leave whole adapters only', async () => {
    const out = join(folder, 'interrupted');
    const child = start([...adaptTiny, '--epochs', '1', '--input', '-', '--out', out]);
    const ends = finished(child);
    child.stdin.write(jsonl(edits.slice(0, 1)));
    await new Promise((resolve) => child.stdout.once('data', resolve));
    // Long enough to be in its middle when the interrupt comes.
    child.stdin.write(jsonl([{ id: 'long', documents: Array.from({ length: 20_000 }, () => [5, 6, 7, 8]) }]));
    await new Promise((resolve) => setTimeout(resolve, 300));
    child.kill('SIGINT');
    const { code, stdout, stderr } = await ends;
    expect({ code, stderr }).toEqual({ code: 130, stderr: 'error [ABORTED]: interrupted\n' });
    expect(lines<Adapted>(stdout).map(({ id }) => id)).toEqual(['e0']);
    expect(readdirSync(out)).toEqual(['e0']);
  });

  it('to write at all are told before the training', async () => {
    writeFileSync(join(folder, 'file'), '');
    mkdirSync(join(folder, 'fine'), { recursive: true });
    const args = [...adaptTiny, '--input', '-', '--out', join(folder, 'file')];
    const { code, stdout, stderr } = await selfedit(args, { input: jsonl(edits) });
    expect(stderr).toMatch(/^error \[IO\]: cannot write to .*file.*\n$/);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
  });
});
