// The small world of `npm run bench:arc`: easy grids, and a model's texts about them.
import {
  ARC_AUGMENTATION_NAMES,
  answerText,
  arc,
  deriveKey,
  permutation,
  promptText,
  SAME_COLOURS,
  transformGrid,
  uniform,
} from 'selfedit';

/** A token a cell, a character a mark. */
export const FORM = { instruction: '', input: '<', output: '>', end: '#', separator: '\n', gap: '' };
/** Height and width of every grid; colours of one task beside black. */
const SIDE = 3;
const PALETTE = 4;
const DEMONSTRATIONS = 4;
const MARK = '\n?';

const turn = (symmetry) => () => (grid) => transformGrid(grid, { symmetry, colours: SAME_COLOURS });
const cells = (change) => (grid) => grid.map((row) => row.map(change));
const colour = (draw) => 1 + draw(9);

/** Rules by name: draws → grid → grid. */
export const RULES = {
  copy: turn('identity'),
  flipRows: turn('flipRows'),
  flipColumns: turn('flipColumns'),
  rotate180: turn('rotate180'),
  /** Black becomes one colour. */
  fill: (draw) => {
    const to = colour(draw);
    return cells((cell) => (cell === 0 ? to : cell));
  },
  /** Everything but black becomes one colour. */
  paint: (draw) => {
    const to = colour(draw);
    return cells((cell) => (cell === 0 ? 0 : to));
  },
};
const NAMES = Object.keys(RULES);

/** Two rules one after the other: no text of the model shows any of these. */
export const COMPOSED = [
  ['flipRows', 'fill'],
  ['flipColumns', 'paint'],
  ['rotate180', 'fill'],
  ['rotate180', 'paint'],
];

/** A keyed stream of draws from 0 … n − 1. */
function drawsOf(seed, purpose, index) {
  let values = [];
  let block = 0;
  return (n) => {
    if (values.length === 0) values = Array.from(uniform(deriveKey(seed, purpose, [index, block++]), 128));
    return Math.floor(values.pop() * n);
  };
}

const paletteOf = (draw) =>
  Array.from(permutation(deriveKey(draw(2 ** 30), 'palette'), 9).subarray(0, PALETTE), (one) => one + 1);

function gridOf(draw, palette) {
  const cell = () => [0, ...palette][draw(PALETTE + 1)];
  return Array.from({ length: SIDE }, () => Array.from({ length: SIDE }, cell));
}

/**
 * `count` ARC tasks with solutions, of the rules in turn, or of two at once. Never the same as in the model's texts: these come
 * from draws of another purpose.
 */
export function tasks(seed, count, { composed = false } = {}) {
  return Array.from({ length: count }, (_, index) => {
    const draw = drawsOf(seed, composed ? 'composed' : 'task', index);
    const names = composed ? COMPOSED[index % COMPOSED.length] : [NAMES[index % NAMES.length]];
    const rules = names.map((name) => RULES[name](draw));
    const palette = paletteOf(draw);
    const pair = () => {
      const input = gridOf(draw, palette);
      return { input, output: rules.reduce((grid, rule) => rule(grid), input) };
    };
    const demonstrations = Array.from({ length: DEMONSTRATIONS }, pair);
    return { id: `${String(index).padStart(3, '0')}-${names.join('-')}`, demonstrations, tests: [pair()] };
  });
}

/** The name of a task's rule. */
export const ruleOf = (id) => id.slice(4);

/** Directives by chance: what the untrained model writes. */
export function directivesOf(draw) {
  return JSON.stringify({
    augmentations: ARC_AUGMENTATION_NAMES.filter(() => draw(2) === 0),
    learningRate: [0.0001, 0.0003, 0.001, 0.003][draw(4)],
    epochs: 1 + draw(4),
    loss: ['all', 'output'][draw(2)],
  });
}

/** `count` directives, one of `draws` keyed streams. */
export function candidates(seed, count) {
  return Array.from({ length: count }, (_, index) => directivesOf(drawsOf(seed, 'directives', index)));
}

/**
 * What the model is pre-trained on: one to five pairs of grids, **each by a rule of its own**, so that it knows the moves and does
 * not learn to read off the demonstrations which one is wanted; and, one text in eight, directives by chance behind
 * demonstrations. Returns {tokens, mask}: the mask leaves out what is drawn, the inputs and the demonstrations of an edit.
 */
export function corpus(tokenizer, seed, count) {
  const end = tokenizer.eosTokenIds[0];
  return Array.from({ length: count }, (_, index) => {
    const draw = drawsOf(seed, 'corpus', index);
    const palette = paletteOf(draw);
    const pair = () => {
      const input = gridOf(draw, palette);
      return { input, output: RULES[NAMES[draw(NAMES.length)]](draw)(input) };
    };
    const pairs = Array.from({ length: draw(2) === 0 ? 1 : 2 + draw(4) }, pair);
    // Pieces in turn: without loss, with loss.
    const pieces =
      draw(8) === 0
        ? [`${contextText(pairs)}${MARK}`, directivesOf(draw)]
        : pairs.flatMap(({ input, output }, at) => [
            (at === 0 ? '' : FORM.separator) + promptText({ demonstrations: [], input }, FORM),
            answerText(output, FORM),
          ]);
    const encoded = pieces.map((piece) => Array.from(tokenizer.encode(piece)));
    const mask = encoded.flatMap((piece, at) => piece.map(() => at % 2));
    return { tokens: Int32Array.from([...encoded.flat(), end]), mask: Uint8Array.from([...mask, 1]) };
  });
}

const contextText = (pairs) =>
  pairs
    .map(
      ({ input, output }) =>
        promptText({ demonstrations: [], input }, FORM) + answerText(output, FORM).slice(0, -1),
    )
    .join(FORM.separator);

/** How the policy is asked for directives; every template must name {task} and {title}, which are empty here. */
const PROMPT = `{task}\n{title}\n{context}${MARK}`;
export const EDIT = {
  prompt: { name: 'arc-world', base: PROMPT, chat: { user: PROMPT } },
  form: 'base',
  maxTokens: 110,
  temperature: 1,
};

/** The inner loop: smaller than the published one, as the model is. */
export const ADAPT = {
  rank: 16,
  alpha: 16,
  targets: ['all'],
  batchSize: 2,
  schedule: 'cosine',
  warmupSteps: 2,
};
/** At most 32 training problems, each leaving out one demonstration. */
export const EXAMPLES = { most: 32, leaveOut: [1] };

/** The few-shot task over tasks of this world. Titles are empty: they would only be noise to this model. */
export function taskOf(trained, options = {}) {
  const few = arc(trained, { form: FORM, examples: EXAMPLES, description: '', ...options });
  const untitled = (contexts) => contexts.map((context) => ({ ...context, title: '' }));
  return {
    ...few,
    evaluation: untitled(few.evaluation),
    contexts: (round, count) => untitled(few.contexts(round, count)),
  };
}
