// Rewards from outside the model in whole rounds: a judge that a configuration names, preferences, majority votes.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  collapseAlarm,
  type Fork,
  knowledge,
  majorityLabels,
  Policy,
  preferences,
  preferenceTerm,
  type RoundResult,
  type RunConfigInput,
  readConfig,
  resolveConfig,
  restem,
  type SelfEdit,
  seal,
  type Task,
  train,
  type VoteFigures,
  voteFigures,
} from '../../lib/index.js';
import { fail, type JudgeServer, judgeServer, say } from '../support/judge-server.js';
import { failureOf } from '../support/tiny.js';
import { tinyModel } from './helpers/tiny-model.js';

let folder: string;
let server: JudgeServer | undefined;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'selfedit-judge-run-'));
  process.env.SELFEDIT_TEST_JUDGE = 'sk-secret';
});
afterEach(async () => {
  delete process.env.SELFEDIT_TEST_JUDGE;
  await server?.close();
  await rm(folder, { recursive: true });
});

const passages = Array.from({ length: 4 }, (_, index) => ({
  title: `Title ${index}`,
  context: `The thing number ${index} is made of wood.`,
  questions: [
    { question: `Made of what? (${index})`, answer: 'wood' },
    { question: `Which number? (${index})`, answer: `${index}` },
  ],
}));

const configured = (judge: unknown, more: object = {}): RunConfigInput =>
  ({
    model: 'tiny',
    seed: 4,
    rounds: 1,
    contextsPerRound: 4,
    editsPerContext: 2,
    task: { data: join(folder, 'data.json'), evaluation: 0, retention: 0 },
    edit: { maxTokens: 8 },
    adapt: { rank: 2, alpha: 4, epochs: 1 },
    reward: { measure: 'judge', judge, beta: 0, retentionTexts: 0, maxAnswerTokens: 4, ...more },
    policy: { rank: 2, alpha: 4 },
  }) as RunConfigInput;

interface Line {
  type: string;
  reward: number | null;
  unknown?: string;
  scores: Record<'paying' | 'report', { judge?: { edited: number | null; unedited: number | null } }>;
}

describe('a run that is judged', () => {
  it('pays by the verdicts; what the judge cannot say is unknown in the journal, with its cause', async () => {
    await writeFile(join(folder, 'data.json'), JSON.stringify(passages));
    server = await judgeServer(({ body, authorization }, response) => {
      const asked = body.messages[0]!.content;
      if (authorization !== 'Bearer sk-secret') return fail(response, 401, 'who?');
      // One passage's questions cannot be judged at all.
      if (/\([0]\)/.test(asked)) return fail(response, 422, 'no opinion, sk-secret');
      say(response, asked.length % 2 === 0 ? 'yes' : 'no');
    });
    const judge = {
      endpoint: server.endpoint,
      model: 'big',
      apiKeyVariable: 'SELFEDIT_TEST_JUDGE',
      cache: join(folder, 'judge.jsonl'),
      retries: 0,
    };
    await using model = await tinyModel();
    const config = resolveConfig(configured(judge));
    await train(config, { run: join(folder, 'run'), model });
    const journal = await readFile(join(folder, 'run', 'journal.jsonl'), 'utf8');
    const edits = journal
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Line & { title: string })
      .filter(({ type }) => type === 'edit');
    expect(edits).toHaveLength(8);
    for (const { title, reward, unknown, scores } of edits) {
      const { edited, unedited } = scores.paying.judge!;
      if (title === 'Title 0') {
        expect({ edited, reward }).toEqual({ edited: null, reward: null });
        expect(unknown).toMatch(/^judge http.* HTTP 422: no opinion, \*\*\*$/);
        continue;
      }
      expect([0, 1]).toContain(edited);
      expect([0, 1]).toContain(unedited);
      expect(reward).toBe(edited! - unedited!);
      expect(unknown).toBeUndefined();
    }
    for (const file of ['run/journal.jsonl', 'run/config.json', 'run/environment.json', 'judge.jsonl']) {
      expect(await readFile(join(folder, file), 'utf8'), file).not.toContain('sk-secret');
    }
    // The same run again needs only what had no verdict.
    const asked = server.received.length;
    const again = await tinyModel();
    await train(config, { run: join(folder, 'again'), model: again });
    await again.close();
    for (const { body } of server.received.slice(asked)) {
      expect(body.messages[0]!.content).toContain('(0)');
    }
    const second = await readFile(join(folder, 'again', 'journal.jsonl'), 'utf8');
    const rewards = (text: string) =>
      [...text.matchAll(/"reward":(-?[\d.]+|null)/g)].map(([, reward]) => reward);
    expect(rewards(second)).toEqual(rewards(journal));
  });

  it('is refused before it begins where its settings are wrong', async () => {
    await writeFile(join(folder, 'data.json'), JSON.stringify(passages));
    await using model = await tinyModel();
    const base = { endpoint: 'http://127.0.0.1:9/v1', model: 'big' };
    const run = join(folder, 'run');
    const begin = (judge: object) => train(resolveConfig(configured(judge)), { run, model });
    expect(await failureOf(begin({ ...base, apiKeyVariable: 'SELFEDIT_NO_SUCH_KEY' }))).toMatchObject({
      code: 'OPTION_INVALID',
      message: expect.stringMatching(/SELFEDIT_NO_SUCH_KEY is not set/),
    });
    expect((await failureOf(() => resolveConfig(configured({ ...base, apiKey: 'sk' })))).message).toMatch(
      /apiKey/,
    );
    expect((await failureOf(() => resolveConfig(configured({ model: 'x' })))).message).toMatch(/endpoint/);
    await writeFile(join(folder, 'c.yaml'), JSON.stringify(configured({ ...base, cache: 'kept.jsonl' })));
    const read = await readConfig(join(folder, 'c.yaml'));
    expect(read.reward.judge).toMatchObject({
      cache: join(folder, 'kept.jsonl'),
      concurrency: 8,
      form: 'verdict',
    });
  });
});

describe('preferences as a term', () => {
  it('gives the score of a rated text, and says of any other that nobody has rated it', async () => {
    const found = preferences([{ version: 1, kind: 'pair', context: '3', a: 'x', b: 'y', choice: 'a' }]);
    const term = preferenceTerm(found.score, 0.5);
    expect(term).toMatchObject({ name: 'preference', weight: 0.5 });
    const value = (id: string, edit: Partial<SelfEdit>) =>
      term.reward({ context: { id }, edit, fork: {} as Fork } as never, {
        signal: new AbortController().signal,
      });
    expect(value('3', { kind: 'text', text: 'x' })).toBe(found.score('3', 'x'));
    expect(value('3', { kind: 'text', text: 'x' })).toBeGreaterThan(0);
    for (const [id, edit] of [
      ['3', { kind: 'text', text: 'new' }],
      ['4', { kind: 'text', text: 'x' }],
      ['3', { kind: 'weight' as never }],
    ] as [string, Partial<SelfEdit>][]) {
      expect(() => value(id, edit)).toThrow(`nobody has rated this edit of context "${id}"`);
    }
  });
});

describe('majority votes as labels', () => {
  it('train a policy on questions without answers, labelled anew by the policy of each round', async () => {
    await using model = await tinyModel();
    await using policy = Policy.create(model, { rank: 2, alpha: 4, seed: 1 });
    const known = knowledge(
      passages.map(({ title, context, questions }) => ({
        ...{ title, context },
        questions: questions.map(({ question }) => ({ question, answers: [] })),
      })),
      { seed: 2, retention: 0, payingShare: 1 },
    );
    const history: VoteFigures[] = [];
    const results: RoundResult[] = [];
    for (let round = 0; round < 2; round++) {
      const voter = policy.fork();
      const { contexts, votes } = await majorityLabels(voter, known.contexts(round, 2), {
        ...{ openBook: true, form: 'base', samples: 4, maxTokens: 4, seed: round },
      });
      await voter.close();
      history.push(voteFigures(votes));
      expect(collapseAlarm(history)).toBeUndefined();
      const task: Task = { ...known, contexts: () => contexts };
      const settings = {
        ...{
          policy,
          task,
          startRound: round,
          rounds: round + 1,
          seed: 3,
          contextsPerRound: 2,
          editsPerContext: 2,
        },
        ...{ edit: { maxTokens: 8 }, adapt: { rank: 2, alpha: 4, epochs: 1 }, algorithm: restem() },
        reward: { measure: 'likelihood', beta: 0, retentionTexts: 0 },
      };
      for await (const result of seal(settings)) results.push(result);
    }
    expect(history.map(({ questions }) => questions)).toEqual([4, 4]);
    expect(results.map(({ round }) => round)).toEqual([0, 1]);
    for (const { edits } of results)
      for (const { reward } of edits) expect(Number.isFinite(reward)).toBe(true);
    expect(policy.version).toBeGreaterThan(0);
  });
});
