import type { NativePolicy, PolicyStepSpec, PolicyStepStats } from './binding.js';
import { Delta } from './delta.js';
import { makeError } from './errors.js';
import { Fork } from './fork.js';
import type { Model } from './model.js';
import { type CallOptions, runJob, runSync } from './native-job.js';
import { toSeed } from './random.js';
import { Resource } from './resource.js';
import { splitBy, toRagged } from './rows.js';
import { resolveTargets } from './targets.js';

export interface PolicyOptions {
  /** Rank of the policy's own delta. 16. */
  rank?: number;
  /** The delta is scaled by alpha / rank. Twice the rank. */
  alpha?: number;
  /** Patterns over modules and layers (see `resolveTargets`). All seven projections. */
  targets?: readonly string[];
  seed?: number | bigint;
  /** A linear value head on the (detached) last hidden state. false. */
  valueHead?: boolean;
  /** First bias of the value head: the mean reward, when it is known. 0. */
  valueBias?: number;
}

/** One rollout: prompt and sampled tokens; the per-token arrays have one entry a token of `tokens`. */
export interface PolicyRow {
  tokens: Int32Array;
  /** Tokens before this index are the prompt; the others are actions. At least 1. */
  promptLength: number;
  /** One byte a token, 1 for an action, where the actions are not simply all tokens after the prompt. */
  actionMask?: Uint8Array;
  oldLogprobs?: Float32Array;
  referenceLogprobs?: Float32Array;
  advantages: Float32Array;
  returns?: Float32Array;
  oldValues?: Float32Array;
  importance?: Float32Array;
}

/** The scalars of the objective; each is explained at `POLICY_STEP_DEFAULTS` and in docs/notation.md. */
export type PolicyStepOptions = Omit<
  PolicyStepSpec,
  | 'tokens'
  | 'offsets'
  | 'actionMask'
  | 'oldLogprobs'
  | 'referenceLogprobs'
  | 'advantages'
  | 'returns'
  | 'oldValues'
  | 'importance'
>;

/** A minibatch of rollouts with the scalars of the objective (defaults: `POLICY_STEP_DEFAULTS`). */
export interface PolicyMinibatch extends Partial<PolicyStepOptions>, Pick<CallOptions, 'signal'> {
  rows: readonly PolicyRow[];
}

export const POLICY_STEP_DEFAULTS: PolicyStepOptions = {
  loss: 'ppo',
  temperature: 1,
  clipLow: 0.2,
  clipHigh: 0.2,
  klCoefficient: 0,
  entropyCoefficient: 0,
  valueCoefficient: 0.5,
  valueClip: 0.2,
  normalizer: 1,
  learningRate: 1e-4,
  valueLearningRate: 1e-3,
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-8,
  weightDecay: 0,
  maxGradNorm: 1,
  maxBatchTokens: 0,
  dryRun: false,
};

const PER_TOKEN = [
  'oldLogprobs',
  'referenceLogprobs',
  'advantages',
  'returns',
  'oldValues',
  'importance',
] as const;

/** A model plus its own trainable low-rank delta, optional value head and optimizer state. */
export class Policy extends Resource {
  protected readonly noun = 'policy';
  readonly model: Model;
  readonly #handle: NativePolicy;

  private constructor(model: Model, handle: NativePolicy) {
    super();
    this.model = model;
    this.#handle = handle;
  }

  /** A policy that starts out equal to the model. Errors: `DeltaError` for targets that match nothing. */
  static create(model: Model, options: PolicyOptions = {}): Policy {
    model.assertOpen();
    const { rank = 16, targets = ['all'], seed = 0, valueHead = false, valueBias = 0 } = options;
    const { alpha = 2 * rank } = options;
    if (!Number.isInteger(rank) || rank < 1) {
      throw makeError('OPTION_INVALID', `rank is ${rank}; expected an integer from 1`);
    }
    const matrices = resolveTargets(model, targets);
    const spec = { matrices, rank, alpha, key: toSeed(seed), valueHead, valueBias };
    return new Policy(
      model,
      runSync(() => model.handle.createPolicy(spec)),
    );
  }

  /** Version: optimizer steps taken. */
  get version(): number {
    this.assertOpen();
    return runSync(() => this.#handle.steps);
  }

  get valueHead(): boolean {
    this.assertOpen();
    return runSync(() => this.#handle.valueHead);
  }

  /** A fork of the model with the policy's present delta; later updates do not change it. */
  fork(): Fork {
    this.assertOpen();
    return new Fork(
      this.model,
      runSync(() => this.#handle.fork()),
    );
  }

  /** The present delta, immutable. */
  delta(): Delta {
    this.assertOpen();
    return new Delta(
      this.model,
      runSync(() => this.#handle.delta()),
    );
  }

  /**
   * One optimizer step on a minibatch: token-level clipped objective (PPO, arXiv 1707.06347) with a k2 term towards the
   * reference, entropy bonus and clipped value loss; sums over action tokens are divided by `normalizer`.
   * Nothing is changed when the loss or the gradient is not finite (`LOSS_NOT_FINITE`).
   */
  async step(minibatch: PolicyMinibatch): Promise<PolicyStepStats> {
    const { rows, signal, ...scalars } = minibatch;
    if (rows.length === 0) throw makeError('INPUT_INVALID', 'the minibatch has no rows');
    const ragged = toRagged(rows.map(({ tokens }) => tokens));
    const actionMask = new Uint8Array(ragged.tokens.length);
    for (const [r, { promptLength, tokens, actionMask: own }] of rows.entries()) {
      if (own) {
        if (own.length !== tokens.length) {
          throw makeError(
            'INPUT_INVALID',
            `row ${r}: actionMask has ${own.length} entries; expected ${tokens.length}, one a token`,
          );
        }
        actionMask.set(own, ragged.offsets[r]);
        continue;
      }
      if (!Number.isInteger(promptLength) || promptLength < 1 || promptLength > tokens.length) {
        throw makeError(
          'INPUT_INVALID',
          `row ${r}: promptLength is ${promptLength}; expected 1 to ${tokens.length}`,
        );
      }
      actionMask.fill(1, ragged.offsets[r]! + promptLength, ragged.offsets[r + 1]);
    }
    const perToken = Object.fromEntries(PER_TOKEN.map((name) => [name, joinRows(rows, name)])) as Record<
      (typeof PER_TOKEN)[number],
      Float32Array
    >;
    const spec: PolicyStepSpec = {
      ...POLICY_STEP_DEFAULTS,
      ...definedOf(scalars),
      ...ragged,
      ...perToken,
      actionMask,
    };
    return runJob(() => this.#handle.step(spec), { signal }, [this]);
  }

  /** Value head's estimates, one a token: V of the state in which the token is chosen; the first of a row is NaN. */
  async values(rows: readonly Int32Array[]): Promise<Float32Array[]> {
    if (rows.length === 0) return [];
    const ragged = toRagged(rows);
    return splitBy(await runJob(() => this.#handle.values(ragged), {}, [this]), ragged.offsets);
  }

  /** Values of the delta, per part A then B, then weights and bias of the value head. */
  parameters(): Float32Array {
    this.assertOpen();
    return runSync(() => this.#handle.parameters());
  }

  /** Gradients of the last step, before clipping, in the order of `parameters()`. */
  gradients(): Float32Array {
    this.assertOpen();
    return runSync(() => this.#handle.gradients());
  }

  setParameters(values: Float32Array): void {
    this.assertOpen();
    runSync(() => this.#handle.setParameters(values));
  }

  /** A fresh optimizer: zero moments, and Adam's bias correction begins anew. Values and version stay. */
  resetOptimizer(): void {
    this.assertOpen();
    runSync(() => this.#handle.resetOptimizer());
  }

  /** Writes values, optimizer moments and counters as safetensors: whole or not at all. Errors: `WorkError` (`IO`). */
  async save(path: string): Promise<void> {
    await runJob(() => this.#handle.save(path), {}, [this]);
  }

  /** Restores what `save` wrote, to the bit. The policy is unchanged when the file is missing, damaged or of another shape. */
  async load(path: string): Promise<void> {
    await runJob(() => this.#handle.load(path), {}, [this]);
  }

  protected override get parent(): Model {
    return this.model;
  }

  protected release(): void {
    this.#handle.close();
  }
}

/** One array end to end; empty when no row has it, an error when only some have. */
function joinRows(rows: readonly PolicyRow[], name: (typeof PER_TOKEN)[number]): Float32Array {
  const present = rows.filter((row) => row[name] !== undefined).length;
  if (present === 0) return new Float32Array(0);
  const total = rows.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const joined = new Float32Array(total);
  let offset = 0;
  for (const [r, row] of rows.entries()) {
    const values = row[name];
    if (values?.length !== row.tokens.length) {
      throw makeError(
        'INPUT_INVALID',
        `row ${r}: ${name} has ${values?.length ?? 'no'} entries; expected ${row.tokens.length}, one a token`,
      );
    }
    joined.set(values, offset);
    offset += values.length;
  }
  return joined;
}

function definedOf<T extends object>(object: T): Partial<T> {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as Partial<T>;
}
