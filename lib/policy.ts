import type { NativeJob, NativePolicy, NativeRanks, PolicyStepSpec, PolicyStepStats } from './binding.js';
import { Delta } from './delta.js';
import { makeError } from './errors.js';
import { Fork } from './fork.js';
import type { Model } from './model.js';
import { type CallOptions, runJob, runSync } from './native-job.js';
import { stepSpec } from './policy-rows.js';
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
    if (minibatch.rows.length === 0) throw makeError('INPUT_INVALID', 'the minibatch has no rows');
    const spec = stepSpec(minibatch);
    return runJob(() => this.#handle.step(spec), { signal: minibatch.signal }, [this]);
  }

  /** @internal The gradient of these rows (none: zero) is left in place; gives the sums that `applyGradient` needs. */
  async accumulate(minibatch: PolicyMinibatch): Promise<Float64Array> {
    const spec = stepSpec(minibatch);
    return runJob(() => this.#handle.accumulate(spec), { signal: minibatch.signal }, [this]);
  }

  /** @internal Puts the gradient aside, as that of the next group of rows. */
  async keepGradient(): Promise<void> {
    await runJob(() => this.#handle.keepGradient(), {}, [this]);
  }

  /** @internal A job that makes the gradient the sum over ranks, or the sum of those put aside, by their owners. */
  sumGradient(ranks: NativeRanks | null, owners?: readonly number[]): NativeJob<void> {
    this.assertOpen();
    const job =
      owners || !ranks
        ? this.#handle.sumKept(ranks, Int32Array.from(owners ?? []))
        : this.#handle.reduceGradient(ranks);
    this.hold(job.promise);
    return job;
  }

  /** @internal Moves the weights by the gradient in place. As `step`, whose numbers these are. */
  async applyGradient(numbers: Partial<PolicyStepOptions>, sums: Float64Array): Promise<PolicyStepStats> {
    const spec = stepSpec({ ...numbers, rows: [] });
    return runJob(() => this.#handle.apply(spec, sums), {}, [this]);
  }

  /** @internal Bytes of the gradient of one step. */
  get gradientBytes(): number {
    this.assertOpen();
    return runSync(() => this.#handle.gradientBytes);
  }

  /** SHA-256 of everything that the next step depends on: values, optimizer moments, counters. */
  async fingerprint(): Promise<string> {
    return runJob(() => this.#handle.fingerprint(), {}, [this]);
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
