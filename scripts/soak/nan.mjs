// Numbers that are not finite, or lead to some: in every input of a policy step, in rates, in deltas, in rewards. What they
// touch is refused or skipped, all else is as if they had not been.
import {
  bits,
  draws,
  expectSame,
  liveTensors,
  native,
  rowOf,
  scoreBits,
  se,
  tinyModel,
  tokensOf,
} from './common.mjs';

const INFINITE = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
/** What leaves no finite loss, gradient or moment wherever it stands. An old log-prob of -∞ is clipped away. */
const BAD = {
  advantages: [...INFINITE, 3e38],
  oldLogprobs: [Number.NaN],
  referenceLogprobs: INFINITE,
  importance: INFINITE,
  returns: INFINITE,
  oldValues: INFINITE,
};

export async function nan({ times, seed }) {
  const draw = draws(seed);
  const model = await tinyModel();
  const policy = se.Policy.create(model, { rank: 2, seed: 1, valueHead: true });
  const twin = se.Policy.create(model, { rank: 2, seed: 1, valueHead: true });
  const [{ delta, loss }] = await se.adapt([goodEdit(model)], { epochs: 2, rank: 2 });
  const fork = model.fork().apply(delta);
  const expected = { score: await scoreBits(fork), loss: bits(loss) };
  const kinds = kindsOf({ model, policy, draw, expected });
  const names = Object.keys(kinds);
  const counts = { injections: 0, byCode: {}, byKind: {} };
  for (const kind of names) await kinds[kind]();
  for (const one of [policy, twin]) await one.step(goodStep()); // makes the moments
  const tensors = await liveTensors(model);
  for (let n = 0; n < times; n++) {
    const kind = names[n % names.length];
    const before = `${bits(policy.parameters())} ${policy.version}`;
    const code = await kinds[kind]().catch((error) => {
      throw new Error(`${kind}: ${error.message}`, { cause: error });
    });
    counts.injections++;
    counts.byCode[code] = (counts.byCode[code] ?? 0) + 1;
    counts.byKind[kind] = (counts.byKind[kind] ?? 0) + 1;
    expectSame(`${kind}: the policy`, `${bits(policy.parameters())} ${policy.version}`, before);
    expectSame(`${kind}: bits of the next call`, await scoreBits(fork), expected.score);
    // A step as good as that of a policy that has seen nothing of all this: moments and counters are untouched too.
    if (n % 10 === 9) {
      for (const one of [policy, twin]) await one.step(goodStep());
      expectSame(`${kind}: the next step`, bits(policy.parameters()), bits(twin.parameters()));
    }
  }
  expectSame('live tensors', await liveTensors(model), tensors);
  for (const thing of [policy, twin, fork, delta, model]) await thing.close();
  return { ...counts, liveTensors: native.tensorMemory().tensors };
}

const filled = (value) => new Float32Array(60).fill(value);
const goodStep = (row = {}, more = {}) => ({
  rows: [
    rowOf({
      returns: filled(1),
      oldValues: filled(0),
      referenceLogprobs: filled(-5),
      importance: filled(1),
      ...row,
    }),
  ],
  klCoefficient: 0.1,
  learningRate: 1e-3,
  ...more,
});
const goodEdit = (fork) => ({ fork, documents: [tokensOf(30)], seed: 5 });

async function codeOf(work, allowed) {
  const error = await work.then(
    () => undefined,
    (thrown) => thrown,
  );
  if (!allowed.includes(error?.code)) {
    throw new Error(
      `found ${error?.code ?? 'no error'} (${error?.message}), expected ${allowed.join(' or ')}`,
    );
  }
  return error.code;
}

/** Each gives the code of what became of its bad number. */
function kindsOf({ model, policy, draw, expected }) {
  const oneOf = (list) => list[Math.floor(draw() * list.length)];
  const poisoned = (name) => async () => {
    const values = goodStep().rows[0][name].slice();
    // At an action: what stands at the prompt is never looked at.
    values[5 + Math.floor(draw() * 55)] = oneOf(BAD[name]);
    // Nothing is clipped, so that squares of large gradients come into the moments.
    const step = goodStep({ [name]: values }, { maxGradNorm: 0 });
    return codeOf(policy.step(step), ['LOSS_NOT_FINITE']);
  };
  return {
    ...Object.fromEntries(Object.keys(BAD).map((name) => [`policy step: ${name}`, poisoned(name)])),
    'policy step: rate': () =>
      codeOf(policy.step(goodStep({}, { learningRate: oneOf(INFINITE) })), ['OPTION_INVALID']),
    'policy step: rate and decay': () =>
      codeOf(policy.step(goodStep({}, { weightDecay: 3e38, learningRate: 3e38 })), ['LOSS_NOT_FINITE']),
    'adapt: rate': async () => {
      const learningRate = oneOf([...INFINITE, 3e38, 1e30]);
      const work = se.adapt([goodEdit(model)], { epochs: 3, rank: 2, learningRate });
      const code = await codeOf(work, ['LOSS_NOT_FINITE', 'OPTION_INVALID']);
      const [{ delta, loss }] = await se.adapt([goodEdit(model)], { epochs: 2, rank: 2 });
      await delta.close();
      expectSame('adapt: the next one', bits(loss), expected.loss);
      return code;
    },
    'a delta': async () => {
      const { out, in: width } = model.matrices[0];
      const values = new Float32Array(out * width).fill(3e38);
      values[Math.floor(draw() * values.length)] = oneOf([...INFINITE, 3e38]);
      const use = async () => {
        const delta = se.Delta.fromParts(model, [{ kind: 'dense', matrix: 0, scale: 1, values }]);
        const fork = model.fork().apply(delta);
        try {
          await se.score([{ fork, tokens: tokensOf(20) }]);
        } finally {
          await fork.close();
          await delta.close();
        }
      };
      return codeOf(use(), ['DELTA_INVALID', 'LOSS_NOT_FINITE']);
    },
  };
}
