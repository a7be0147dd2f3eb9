// `demo` as a process, on a tiny model: that it runs to its table; what it learns is a matter for the real one.
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { fixture } from '../support/fixtures.js';
import { finished, selfedit, start, temporaryFolder } from './helpers.js';

const folder = temporaryFolder();
const model = join(folder, 'model');

beforeAll(() => {
  cpSync(fixture('models', 'llama-tied'), model, { recursive: true });
  const path = join(model, 'config.json');
  writeFileSync(path, readFileSync(path, 'utf8').replace(/("max_position_embeddings": )128/, '$12048'));
});

describe('the demo', () => {
  // Less than a round's time: one round, then the table.
  const args = ['demo', '--model', model, '--passages', '8', '--minutes', '0.0001'];

  it('prints its settings, its rounds and a table that claims no more than it shows', async () => {
    const { code, stdout, stderr } = await selfedit(args);
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(/passages to train on, 4 unseen ones for the table/);
    expect(stdout).toMatch(/^round 1: reward /m);
    expect(stdout).not.toMatch(/^round 2: /m);
    for (const row of ['unedited', 'passage only', 'untrained edits', 'trained edits']) {
      expect(stdout).toMatch(new RegExp(`^ *${row}.*\\[.*\\]`, 'm'));
    }
    expect(stdout).toMatch(/4 unseen passages, \d+ questions/);
    expect(stdout).toContain('can and cannot show');
  });

  it('takes other data, and refuses what is none before anything else', async () => {
    const data = join(folder, 'data.json');
    writeFileSync(data, '[{"title": "T", "questions": []}]');
    const { code, stdout, stderr } = await selfedit([
      'demo',
      '--data',
      data,
      '--model',
      join(folder, 'none'),
    ]);
    expect(stderr).toMatch(/^error \[INPUT_INVALID\]: .*data\.json \[0\]\.context is missing.*\n$/);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  });

  it('stops when it is interrupted', async () => {
    const child = start(['demo', '--model', model, '--minutes', '60']);
    child.stdout.once('data', () => child.kill('SIGINT'));
    expect(await finished(child)).toMatchObject({ code: 130, stderr: 'error [ABORTED]: interrupted\n' });
  });
});
