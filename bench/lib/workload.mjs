// Sizes of real self-edits: prompt, documents and questions of each, in tokens. The ids are random.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { draws } from './random.mjs';

const FILE = new URL('../../../shared/data/seal/workload.json', import.meta.url);
/** Stands in where the file is missing: invented, with about its means (8 documents, 420 tokens). */
const INVENTED = [
  { prompt: 160, seqs: [20, 22, 26, 28, 30, 34, 140], questions: [30, 28, 26, 32, 27] },
  { prompt: 240, seqs: [24, 28, 30, 34, 38, 40, 45, 210], questions: [28, 33, 25, 30] },
  { prompt: 300, seqs: [18, 20, 22, 24, 26, 30, 34, 42, 260], questions: [35, 29, 31, 27, 30] },
  { prompt: 210, seqs: [30, 32, 36, 44, 50, 180], questions: [26, 34, 30] },
];

/** Of each recorded edit: tokens of the prompt, of every document (`seqs`, the passage last) and of every question. */
export function sizes(log) {
  try {
    return JSON.parse(readFileSync(FILE, 'utf8'));
  } catch {
    log(`${fileURLToPath(FILE)} is missing: invented sizes of about the same means are used`);
    return INVENTED;
  }
}

/** `count` edits as token ids: {prompt, documents, questions (exactly `questionCount`)}. Sizes repeat when they run out. */
export function edits({ shape, quick, log }, count, { questionCount = 5, seed = 5 } = {}) {
  const known = sizes(log);
  const draw = draws(seed);
  const { vocab_size: vocabulary, max_position_embeddings: longest } = shape.config;
  const tokens = (length) =>
    Array.from({ length: Math.min(length, longest >> 1) }, () => draw() % vocabulary);
  return Array.from({ length: count }, (_, e) => {
    const { prompt, seqs, questions } = known[e % known.length];
    return {
      prompt: tokens(quick ? 24 : prompt),
      documents: (quick ? seqs.slice(0, 2) : seqs).map(tokens),
      questions: Array.from({ length: quick ? 2 : questionCount }, (_, q) =>
        tokens(questions[q % questions.length]),
      ),
    };
  });
}
