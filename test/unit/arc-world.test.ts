// What `npm run bench:arc` is made of; whether adaptation helps is for the benchmark itself to say.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { textOf } from '../../bench/arc/report.mjs';
import { tokenizerJson, VOCABULARY } from '../../bench/arc/tokenizer.mjs';
import { COMPOSED, candidates, corpus, EDIT, RULES, ruleOf, taskOf, tasks } from '../../bench/arc/world.mjs';
import { renderEditPrompt } from '../../lib/edit/prompts.js';
import { gridKey, toGrid } from '../../lib/task/arc/grids.js';
import { Tokenizer } from '../../lib/tokenizer/tokenizer.js';

let folder: string;
let tokenizer: Tokenizer;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'selfedit-arc-world-'));
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(tokenizerJson()));
  tokenizer = await Tokenizer.fromFolder(folder);
});
afterAll(() => rm(folder, { recursive: true }));

describe('the easy grids', () => {
  it('are a function of their seed', () => {
    expect(tasks(3, 4)).toEqual(tasks(3, 4));
    expect(tasks(3, 4)).toEqual(tasks(3, 8).slice(0, 4));
    expect(tasks(3, 4)).not.toEqual(tasks(4, 4));
  });

  it('follow their rules, all of them in turn', () => {
    const names = Object.keys(RULES);
    const made = tasks(1, names.length);
    expect(made.map(({ id }) => ruleOf(id))).toEqual(names);
    for (const { id, demonstrations, tests } of made) {
      for (const { input, output } of [...demonstrations, ...tests]) {
        toGrid(input, id);
        const rows = input.map((row) => row.join(''));
        const reversed = rows.map((row) => [...row].reverse().join(''));
        const expected: Record<string, string> = {
          copy: rows.join('/'),
          flipRows: [...rows].reverse().join('/'),
          flipColumns: reversed.join('/'),
          rotate180: [...reversed].reverse().join('/'),
        };
        const rule = ruleOf(id);
        if (rule in expected) expect(gridKey(output), id).toBe(expected[rule]);
        else if (rule === 'fill') expect(output.flat().includes(0), id).toBe(false);
        else expect(new Set(output.flat().filter((cell: number) => cell > 0)).size, id).toBe(1);
      }
    }
    expect(tasks(1, 4, { composed: true }).map(({ id }) => ruleOf(id))).toEqual(
      COMPOSED.map((two) => two.join('-')),
    );
  });

  it('are told to the model with loss on outputs and directives alone', () => {
    for (const { tokens, mask } of corpus(tokenizer, 1, 40)) {
      expect(mask).toHaveLength(tokens.length);
      const shown = Array.from(tokens, (token, at) => (mask[at] ? tokenizer.decode([token]) : '')).join('');
      expect(shown).toMatch(/^(?:(?:\d{3}\n\d{3}\n\d{3}#)+|\{"augmentations":\[.*\],"learningRate":.*\})$/);
      expect(Math.max(...tokens)).toBeLessThan(VOCABULARY);
    }
  });

  it('have directives that can be followed, asked for as the model knows it', () => {
    const task = taskOf(tasks(1, 1), { seed: 1 });
    const [context] = task.contexts(0, 1);
    const edits = candidates(1, 30).map((text) => task.parse(text, context!));
    expect(edits.filter(({ invalid }) => invalid)).toEqual([]);
    expect(Math.max(...edits.map(({ documents }) => documents.length))).toBe(32);
    const prompt = renderEditPrompt(EDIT.prompt, context!, tokenizer, 'base').text;
    expect(prompt).toMatch(/^<\d{3}\n\d{3}\n\d{3}>\d{3}\n[\d\D]*\n\?$/);
  });

  it('make tables', () => {
    expect(textOf({} as never)).toEqual([]);
    const share = { mean: 0.5, low: 0.25, high: 0.75 };
    const arm = { name: 'none', plain: share, attempt1: share, solved: share, cells: 0.5, likelihood: -1 };
    const lines = textOf({
      edits: { moves: [{ ...arm, byRule: { copy: { n: 2, solved: 1 } } }], composed: [] },
    } as never);
    expect(lines).toContain('| none | 50 % [25, 75] | 50 % [25, 75] | 50 % [25, 75] | 50 % | −1.00 |');
    expect(lines).toContain('| none | 1 of 2 |');
  });
});
