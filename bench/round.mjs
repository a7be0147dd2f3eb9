#!/usr/bin/env node
// B7: a whole round of SEAL as `seal()` plays it: write edits, answer without them, train copies, let the copies answer,
// update the policy; its time by phase. The peer is the published figure, 28.8 s an edit on two H100s, at 7B only.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Model, Policy, seal } from 'selfedit';
import { trainingLimit } from './lib/limits.mjs';
import { runIfMain } from './lib/main.mjs';
import { draws } from './lib/random.mjs';
import { makeFigure } from './lib/report.mjs';
import { median, sum } from './lib/statistics.mjs';
import { makeTokenizer } from './lib/tokenizer.mjs';
import { sizes } from './lib/workload.mjs';

/** Contexts, edits of each, trainings of each edit, epochs, tokens of an edit at most. */
const ROUND = { contexts: 50, samples: 5, repeats: 3, epochs: 10, editTokens: 232 };
const ON_CPU = { contexts: 2, samples: 4, repeats: 1, epochs: 10, editTokens: 232 };
const QUICK = { contexts: 1, samples: 2, repeats: 1, epochs: 1, editTokens: 24 };
/** Tokens of a line of a real edit. */
const LINE = 32;
const PUBLISHED = 28.8;
const TEMPLATE = {
  name: 'bench',
  base: '{task}{title}\n{context}\n',
  chat: { user: '{task}{title}\n{context}' },
};

export const round = {
  name: 'round',
  title: 'a round of SEAL',
  // Of the probe of the hardware.
  peerNeeds: ['torch'],
  async run(context) {
    const { device, quick, shape } = context;
    const size = quick ? QUICK : device === 'cpu' ? ON_CPU : ROUND;
    const contexts = context.forks ? Math.ceil(context.forks / size.samples / size.repeats) : size.contexts;
    const path = await context.writeModel();
    const tokenizer = makeTokenizer(shape.config.vocab_size, LINE);
    await writeFile(join(path, 'tokenizer.json'), JSON.stringify(tokenizer));
    context.log(`${shape.name} (${shape.like}): random weights and words, ${context.dtype}, ${device}`);
    const model = await Model.load(path, { device, dtype: context.dtype, signal: context.signal });
    const limits = await context.limits();
    const task = makeTask(model, context, contexts, quick);
    // A round to warm up, then the timed ones, each by a policy as it was at the start.
    const rounds = [];
    const repeats = context.repeats ?? (device === 'cpu' ? 3 : 2);
    for (let r = 0; r <= repeats; r++) {
      const policy = Policy.create(model, { rank: 16, alpha: 32, targets: ['all'], seed: 3 });
      const begin = performance.now();
      for await (const result of seal({
        policy,
        task,
        rounds: 1,
        contextsPerRound: contexts,
        editsPerContext: size.samples,
        repeats: size.repeats,
        edit: { prompt: TEMPLATE, form: 'base', maxTokens: size.editTokens },
        adapt: { epochs: size.epochs },
        reward: { measure: 'recall', report: [], form: 'base', maxAnswerTokens: quick ? 8 : 64 },
        signal: context.signal,
      })) {
        if (r > 0) rounds.push({ seconds: (performance.now() - begin) / 1e3, result });
      }
      await policy.close();
    }
    const edits = contexts * size.samples * size.repeats;
    const { encode } = model.tokenizer;
    const trained =
      size.repeats *
      size.epochs *
      sum(
        rounds[0].result.edits.flatMap(({ documents }) =>
          documents.map((text) => encode.call(model.tokenizer, text).length),
        ),
      );
    const ours = rounds.map(({ seconds }) => seconds);
    const published = shape.name === 'XL' ? [PUBLISHED * edits] : [];
    const figure = makeFigure(context, {
      name: this.name,
      ours,
      peer: published,
      // Of the inner trainings alone.
      limit: trainingLimit(limits, model.parameters, trained),
      work: { ...size, contexts, edits, trainedTokens: trained },
    });
    await model.close();
    const phases = Object.keys(rounds[0].result.timings);
    const timings = Object.fromEntries(
      phases.map((phase) => [phase, median(rounds.map(({ result }) => result.timings[phase]))]),
    );
    context.log(
      `seconds by phase: ${phases.map((phase) => `${phase} ${timings[phase].toPrecision(3)}`).join(', ')}; ` +
        `${(figure.ours / edits).toPrecision(3)} s an edit (published: ${PUBLISHED} at 7B on two H100s)`,
    );
    return [{ ...figure, timings, secondsPerEdit: figure.ours / edits }];
  },
};

/** Passages and questions of the recorded sizes, in the tokenizer's own words. */
function makeTask(model, context, count, quick) {
  const draw = draws(11);
  const { vocab_size: vocabulary, max_position_embeddings: longest } = context.shape.config;
  // Whole words without a newline.
  const words = (length) => {
    const ids = [];
    while (ids.length < Math.min(length, longest >> 2)) {
      const id = 256 + (draw() % (vocabulary - 256));
      if (id % LINE !== 0) ids.push(id);
    }
    return model.tokenizer.decode(Int32Array.from(ids));
  };
  const known = sizes(context.log);
  const contexts = Array.from({ length: count }, (_, c) => {
    const { seqs, questions } = known[c % known.length];
    const asked = (quick ? questions.slice(0, 2) : questions).map((length, q) => ({
      id: `${c}-${q}`,
      question: words(length),
      answers: [words(4)],
    }));
    return {
      id: `c${c}`,
      title: words(4),
      context: words(quick ? 24 : seqs.at(-1)),
      task: '',
      paying: asked,
      report: [],
    };
  });
  const retention = Array.from({ length: 4 }, () => words(quick ? 24 : 128));
  return { name: 'bench', contexts: (_, wanted) => contexts.slice(0, wanted), evaluation: [], retention };
}

await runIfMain(import.meta.url, round);
