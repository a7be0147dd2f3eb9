/**
 * A model layer without a model, for tests of the loop: a fork knows the documents that were trained into it. The
 * likelihood of an answer is higher by 1 nat a token on a fork with a document that holds the answer, and a fork
 * diverges from another by 0.01 nats for each document that only one of them knows.
 */
import { vi } from 'vitest';
import type { AdaptEdit } from '../../../lib/adapt.js';
import type { GenerateRow } from '../../../lib/generate.js';
import type { Policy } from '../../../lib/policy.js';
import type { ScoreRow } from '../../../lib/score.js';
import { fakeTokenizer } from './fake-tokenizer.js';

export class FakeFork {
  readonly documents: string[] = [];
  closed = false;
  constructor(
    readonly model: FakeModel,
    readonly name: string,
  ) {
    model.forks.push(this);
  }
  fork(): FakeFork {
    const child = new FakeFork(this.model, `${this.name}+`);
    child.documents.push(...this.documents);
    return child;
  }
  apply(delta: { documents: string[] }): this {
    this.documents.push(...delta.documents);
    return this;
  }
  close = vi.fn(async () => {
    this.closed = true;
  });
}

export class FakeModel {
  readonly forks: FakeFork[] = [];
  readonly deltas: { closed: boolean }[] = [];
  readonly config = { maxPositions: 1000, layers: 2 };
  readonly device = 'cpu';
  readonly tokenizer = fakeTokenizer();
  readonly documents: string[] = [];
  fork(): FakeFork {
    return new FakeFork(this, 'base');
  }
  fingerprint = async () => 'f'.repeat(64);
  close = async () => {};
}

/** A policy whose version counts its updates; `documents` is what it knows by itself. */
export function fakePolicy(model: FakeModel): Policy & { version: number } {
  const policy = {
    model,
    version: 0,
    fork: () => new FakeFork(model, `policy ${policy.version}`),
  };
  return policy as unknown as Policy & { version: number };
}

/** What the fake policy writes: by prompt, sample and the row's key. */
export type Writer = (prompt: string, sample: number, key: bigint) => string;

/** The four calls of the model layer, recording what they were asked. */
export function fakeEngine(model: FakeModel, writer: { write: Writer }) {
  const { tokenizer } = model;
  const knows = (fork: unknown) => (fork as FakeFork).documents;
  const textOf = (tokens: unknown) => tokenizer.decode(tokens as Int32Array);
  return {
    generate: vi.fn(async (rows: GenerateRow[], options: { temperature?: number; maxTokens?: number }) =>
      rows.flatMap((row, index) =>
        Array.from({ length: row.samples ?? 1 }, (_, sample) => {
          const prompt = textOf(row.prompt);
          const text =
            (options.temperature === 0 ? answerOf(prompt, knows(row.fork)) : '') ||
            writer.write(prompt, sample, BigInt(row.seed ?? 0));
          const tokens = Int32Array.from([
            ...tokenizer.encode(text).subarray(0, (options.maxTokens ?? 64) - 1),
            0,
          ]);
          const logprobs = new Float32Array(tokens.length).fill(-1);
          return { text, tokens, logprobs, finish: 'stop' as const, prompt: row.prompt, row: index, sample };
        }),
      ),
    ),
    score: vi.fn(async (rows: ScoreRow[]) =>
      rows.map(({ fork, tokens }) => {
        const text = textOf(tokens);
        const answer = text.split('Answer:\n')[1];
        const known = answer !== undefined && knows(fork).some((document) => document.includes(answer));
        return new Float32Array((tokens as Int32Array).length).fill(known ? -1 : -2).fill(Number.NaN, 0, 1);
      }),
    ),
    adapt: vi.fn(async (edits: AdaptEdit[]) =>
      edits.map(({ documents }) => {
        const delta = {
          documents: documents.map(textOf),
          closed: false,
          close: async () => {
            delta.closed = true;
          },
        };
        model.deltas.push(delta);
        return { delta, loss: Float32Array.of(2, 1), steps: documents.length };
      }),
    ),
    divergence: vi.fn(async (rows: { fork: unknown; reference: unknown; tokens: Int32Array }[]) =>
      rows.map(({ fork, reference, tokens }) => {
        const different = knows(fork).filter((document) => !knows(reference).includes(document)).length;
        return new Float32Array(tokens.length).fill(0.01 * different);
      }),
    ),
  };
}

// A greedy answer: the first known document that mentions the last word of the question.
function answerOf(prompt: string, documents: readonly string[]): string {
  const word = /(\w+)\?\nAnswer:/.exec(prompt)?.[1];
  return (word && documents.find((document) => document.includes(word))) || 'unknown';
}
