/**
 * The only file that names native symbols: the types of the addon's surface.
 * Handles are opaque objects owned by C++; ragged rows travel as `Int32Array` tokens laid end to end with
 * `Int32Array` offsets (row r is `tokens[offsets[r] .. offsets[r + 1])`), copied in at the call.
 */
import { loadAddon } from './load.js';

/** A started native job: its result, and a way to stop it within one step. `cancel` is idempotent. */
export interface NativeJob<T> {
  promise: Promise<T>;
  cancel(): void;
  /** What the work wanted to say although it went on, for example that memory was short. Read after the end. */
  warnings(): string[];
}

/** Progress of a job, delivered at most once a step; later reports replace undelivered earlier ones. */
export interface Progress {
  /** Work finished, in the job's own unit (tokens for score and adapt, rows for generate, bytes for load). */
  done: number;
  total: number;
  /** Steps taken so far (forward passes, optimizer steps, decode steps). */
  step: number;
  /** Mean loss of the last step where there is one, else NaN. */
  loss: number;
}
export type ProgressCallback = ((progress: Progress) => void) | undefined;

/** Normalised architecture description; TypeScript makes it from config.json or GGUF metadata. */
export interface ModelConfig {
  architecture: string; // a name of lib/format/architecture.ts
  vocabSize: number;
  hiddenSize: number;
  intermediateSize: number;
  layers: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  maxPositions: number;
  rmsEps: number;
  ropeTheta: number;
  ropeScaling: RopeScaling | null;
  /** Biases on q, k and v (Qwen2), on the attention output, on the MLP. */
  qkvBias: boolean;
  outputBias: boolean;
  mlpBias: boolean;
  /** The head shares the embedding matrix. */
  tied: boolean;
  /** RMSNorm of every head of q and k, before the rotation (Qwen3, Gemma 3). Default false. */
  qkNorm?: boolean;
  /** RMSNorm of what attention and MLP give, before it is added to the residual (Gemma 3). Default false. */
  postNorms?: boolean;
  /** Of the gate. Default `silu`. */
  activation?: 'silu' | 'gelu_pytorch_tanh';
  /** Factor of the embedding's rows on their way in (Gemma: √hiddenSize). Default 1. */
  embeddingScale?: number;
  /** Factor of the attention scores. Default 1 / √headDim. */
  attentionScale?: number;
  /** Tokens that a query of a `sliding_attention` layer sees, itself included; null or absent: all before it. */
  slidingWindow?: number | null;
  /** One a layer. Default: every layer `sliding_attention` where there is a window, else `full_attention`. */
  layerTypes?: LayerType[];
  /** Rotation of the `sliding_attention` layers where it is not that of the others (Gemma 3). */
  localRope?: { ropeTheta: number; ropeScaling: RopeScaling | null } | null;
}

export type LayerType = 'full_attention' | 'sliding_attention';

/** Change of the rotary frequencies θ^(−2j/d). */
export interface RopeScaling {
  /** `linear` divides by `factor`; `llama3` by a factor that grows with the wavelength; the others by `factors`. */
  type: 'linear' | 'llama3' | 'yarn' | 'longrope';
  factor: number;
  lowFreqFactor?: number;
  highFreqFactor?: number;
  originalMaxPositions?: number;
  /** `yarn`, `longrope`: divisors of the frequencies, headDim / 2 of them. */
  factors?: number[];
  /** `yarn`, `longrope`: factor of the sines and cosines. Default 1. */
  attentionFactor?: number;
}

/** How a file keeps weights in another form than the graph uses them. */
export interface WeightLayout {
  /** Rows of q and k are permuted (GGUF of the Llama family). */
  permutedQK: boolean;
  /** Gains are stored without this much (Gemma's safetensors: 1; its GGUF: 0). */
  normOffset: 0 | 1;
  /** q, k and v are one matrix, gate and up too (Phi-3). */
  fused: boolean;
}

/** One weight that a delta can change. Its index in `NativeModel.tensors` is its id. */
export interface MatrixInfo {
  /** Hugging Face module path, for example `model.layers.0.self_attn.q_proj`. */
  name: string;
  /** −1 outside of the layers. */
  layer: number;
  /**
   * `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`; beyond the linear maps `embed_tokens`,
   * `lm_head`, `input_layernorm`, `post_attention_layernorm`, `norm` and `q_proj.bias` …
   */
  module: string;
  out: number;
  in: number;
}

export interface NativeModel {
  readonly config: ModelConfig;
  /** The linear maps of the layers. */
  readonly matrices: MatrixInfo[];
  /** All that deltas can change: the linear maps (the same ids), embedding, untied head, gains, biases. */
  readonly tensors: MatrixInfo[];
  readonly dtype: 'float32' | 'bfloat16' | 'float64';
  readonly device: string;
  /** Number of parameters. */
  readonly parameters: number;
  /** Host bytes of the weights, packed copies for the products included. */
  readonly bytes: number;
  fork(): NativeFork;
  /** Byte string of every token id, for stop strings: bytes end to end, offsets of length vocabSize + 1. */
  setTokenBytes(bytes: Uint8Array, offsets: Int32Array): void;
  /** SHA-256 (hex) over names, shapes and bytes of all weights of a tensor subset; '' for all. For tests and resume. */
  fingerprint(): NativeJob<string>;
  createPolicy(spec: NativePolicySpec): NativePolicy;
  /** Marks closed; weights are freed when the last child is gone. */
  close(): void;
}

export interface NativeFork {
  /** Number of deltas applied. */
  readonly depth: number;
  fork(): NativeFork;
  /** Appends a delta, multiplied by `scale`. O(1), shares the delta's memory. */
  apply(delta: NativeDelta, scale: number): void;
  /** Drops all deltas beyond the first `depth`. */
  revert(depth: number): void;
  /** Bytes shared with the model, and bytes of the deltas that this fork holds. */
  memory(): { shared: number; own: number };
  /** Whether copied rows take the place of the overlay. */
  readonly materialised: boolean;
  /** Copies and changes the touched row blocks of the linear maps; forks of this fork share them until they change. */
  materialise(): NativeJob<void>;
  dematerialise(): void;
  /** Effective weight of one matrix (base plus all deltas), row-major float32, for tests and export. */
  weight(matrix: number): NativeJob<Float32Array>;
  close(): void;
}

export type DeltaKind = 'lowRank' | 'sparse' | 'dense' | 'spectral';

/** One part of a delta: which weight (index into `tensors`) it changes, and how. */
export interface DeltaPartInfo {
  kind: DeltaKind;
  matrix: number;
  /** Rank of a low-rank or spectral part, else 0. */
  rank: number;
  scale: number;
  /** Numbers that training would move: of A and B, or the values. */
  values: number;
}
interface PartBase {
  matrix: number;
  scale: number;
}
export interface LowRankPart extends PartBase {
  kind: 'lowRank';
  rank: number;
  a: Float32Array;
  b: Float32Array;
}
export interface SparsePart extends PartBase {
  kind: 'sparse';
  rowOffsets: Int32Array;
  columns: Int32Array;
  values: Float32Array;
}
export interface DensePart extends PartBase {
  kind: 'dense';
  values: Float32Array;
}
export interface SpectralPart extends PartBase {
  kind: 'spectral';
  u: Float32Array;
  sigma: Float32Array;
  v: Float32Array;
  values: Float32Array;
}

/** Norms of one part. */
export interface PartStatistics {
  matrix: number;
  kind: DeltaKind;
  /** Numbers that the part stores of its own. */
  values: number;
  /** Frobenius norm of the change. */
  norm: number;
  /** The same divided by the weight's. */
  relative: number;
  /** Largest magnitude of one entry. */
  largest: number;
  /** Largest singular value. */
  spectral: number;
}

export interface NativeDelta {
  readonly kind: DeltaKind | 'mixed';
  readonly parts: DeltaPartInfo[];
  readonly bytes: number;
  /** One part, copied out: A is [rank, in], B is [out, rank], U is [out, rank], V is [rank, in], row-major float32. */
  part(index: number): LowRankPart | SparsePart | DensePart | SpectralPart;
  /** Writes safetensors atomically: PEFT's layout for low-rank parts on linear maps, else selfedit-delta-1. */
  save(path: string): NativeJob<void>;
  close(): void;
}

/**
 * Gradients of Σ weights[t] · logprob[t] + Σ divergenceWeights[t] · KL[t] with respect to the values of one delta of
 * each fork's list.
 */
export interface GradientSpec extends Ragged {
  forks: NativeFork[];
  rowFork: Int32Array;
  /** Which delta of each fork; −1 for a fork that rows are only compared with. */
  level: Int32Array;
  /** One a token. */
  weights: Float32Array;
  temperature: number;
  /** Row -> index of the fork that it is compared with by KL(row's fork ‖ reference), −1 for none; empty: none at all. */
  rowReference: Int32Array;
  /** dLoss / dKL at each token's position; as long as `tokens`, or empty. */
  divergenceWeights: Float32Array;
  maxBatchTokens: number;
}
export interface GradientResult {
  /** One a fork (null at level −1): parts like the delta's, gradients in the place of the values. */
  gradients: (NativeDelta | null)[];
  logprobs: Float32Array;
  /** KL at each position; NaN in rows without a reference. */
  divergence: Float32Array;
}

export interface Ragged {
  tokens: Int32Array;
  offsets: Int32Array;
}

export interface ScoreSpec extends Ragged {
  forks: NativeFork[];
  /** Row -> index into `forks`. */
  rowFork: Int32Array;
  /** Log-probs are of the distribution logits / temperature. 1 by default. */
  temperature: number;
  /** Most tokens of one forward pass. 0: chosen from the model. */
  maxBatchTokens: number;
}

export interface GenerateSpec extends Ragged {
  /** `tokens`/`offsets` hold the P prompts. */
  forks: NativeFork[];
  /** Prompt -> index into `forks`. */
  promptFork: Int32Array;
  /** Prompt -> how many of its first tokens are read once for all prompts of its fork that begin with them. */
  sharedPrefix: Int32Array;
  /** Row -> prompt. Rows of one prompt share its keys and values. All of the following have one entry a row. */
  rowPrompt: Int32Array;
  maxTokens: Int32Array;
  /** 0 is greedy (log-probs are then those of temperature 1). */
  temperature: Float32Array;
  topP: Float32Array;
  /** 0 is off. */
  topK: Int32Array;
  /** Philox key of each row (see `deriveKey`). */
  keys: BigUint64Array;
  /** Token ids that end a row; the token itself is part of the result, with its log-prob. */
  stopTokens: Int32Array;
  /** Strings that end a row, as UTF-8 bytes of the detokenised text; the tokens that complete one are part of the result. */
  stopStrings: string[];
  /** Most rows decoded together. 0: chosen. */
  maxRows: number;
  /** How deltas are applied: 0 by the cost model, 1 overlay, 2 materialised. */
  application: number;
}
export interface GenerateResult extends Ragged {
  logprobs: Float32Array;
  /** Per row: 0 'length', 1 'stop token', 2 'stop string', 3 'context full'. */
  finish: Uint8Array;
}

/** The inner loop: K slots, each with its own documents and settings. Per-slot arrays have K entries. */
export interface AdaptSpec extends Ragged {
  forks: NativeFork[];
  /** Slot -> index into `forks`: what the slot's delta is stacked on. */
  slotFork: Int32Array;
  /** Slot s owns documents `slotDocuments[s] .. slotDocuments[s + 1])` of the ragged rows. */
  slotDocuments: Int32Array;
  /** One byte a token: 1 if predicting this token carries loss. Empty: all. The first token of a document never does. */
  lossMask: Uint8Array;
  /** How many of a document's first tokens are attended to, a document each; the rest is padding. Empty: all. */
  attended: Int32Array;
  rank: Int32Array;
  alpha: Float32Array;
  learningRate: Float32Array;
  epochs: Int32Array;
  batchSize: Int32Array;
  /** 0 constant, 1 linear to 0, 2 cosine to 0. */
  schedule: Int32Array;
  warmupSteps: Int32Array;
  beta1: Float32Array;
  beta2: Float32Array;
  epsilon: Float32Array;
  weightDecay: Float32Array;
  /** Largest gradient norm; 0 is off. */
  clip: Float32Array;
  /** 1: visit the documents in a fresh keyed order each epoch. */
  shuffle: Uint8Array;
  keys: BigUint64Array;
  /** Slot s changes matrices `matrices[matrixOffsets[s] .. matrixOffsets[s + 1])` (ids, ascending). */
  matrices: Int32Array;
  matrixOffsets: Int32Array;
  /** 0 lowRank, 1 sparse. */
  kind: Int32Array;
  /** Part of each matrix that a sparse delta changes. */
  density: Float32Array;
  /** How its support is chosen: 0 largest gradients, 1 largest Fisher information. */
  selection: Int32Array;
  /** Start from these values instead of the seeded initialisation; null: seeded. */
  init: (NativeDelta | null)[];
  /** Tokens of one lockstep step. 0: chosen. */
  maxStepTokens: number;
  /** Most slots trained together. 0: by the memory plan. */
  slots: number;
  /** Equal bits whatever the other slots are. */
  deterministic: boolean;
}
export interface AdaptResult {
  deltas: NativeDelta[];
  /** Loss of every optimizer step, slot by slot: slot s is `loss[lossOffsets[s] .. lossOffsets[s + 1])`. */
  loss: Float32Array;
  lossOffsets: Int32Array;
  /** Lockstep steps taken. */
  steps: number;
}

/** What a call will take, in bytes, decided before its work starts. */
export interface MemoryPlan {
  /** What can still be allocated, and how much of it the call may use. */
  free: number;
  budget: number;
  /** Packed weights still to be made, chunks of logits. */
  fixed: number;
  /** One edit with its optimizer state (adapt), or one row with its keys and values (generate): the largest. */
  each: number;
  /** How many of these are worked on together. */
  count: number;
  /** Activations of one token, and the most tokens of one step. */
  token: number;
  tokens: number;
  /** fixed + each · count + token · tokens */
  total: number;
}

/** KL(p_fork ‖ p_reference) over the whole vocabulary, in nats, at every position of every row. */
export interface DivergenceSpec extends Ragged {
  forks: NativeFork[];
  rowFork: Int32Array;
  rowReference: Int32Array;
  maxBatchTokens: number;
}

export interface NativePolicySpec {
  /** Matrix ids, ascending. */
  matrices: Int32Array;
  rank: number;
  alpha: number;
  key: bigint;
  valueHead: boolean;
  /** First bias of the value head. */
  valueBias: number;
}

/** One minibatch of the clipped objective; arrays named `…PerToken` have one entry a token of the ragged rows. */
export interface PolicyStepSpec extends Ragged {
  /** 'ppo': clipped objective. 'nll': weighted negative log-likelihood (advantages are the weights). */
  loss: 'ppo' | 'nll';
  /** 1 where the token is an action of the policy. */
  actionMask: Uint8Array;
  /** May be empty for 'nll': entropy, `klOld…` and `maxLogprobGap` are then 0. */
  oldLogprobs: Float32Array;
  /** Log-probs of the frozen reference; empty when `klCoefficient` is 0. */
  referenceLogprobs: Float32Array;
  advantages: Float32Array;
  /** Targets and old values of the value head; empty without one. */
  returns: Float32Array;
  oldValues: Float32Array;
  /** Truncated importance weight of the sampler, one a token; empty: 1. */
  importance: Float32Array;
  temperature: number;
  clipLow: number;
  clipHigh: number;
  /** Coefficient of the k2 estimate 0.5 (log p − log p_ref)² in the loss. */
  klCoefficient: number;
  entropyCoefficient: number;
  valueCoefficient: number;
  valueClip: number;
  /** Sums over action tokens are divided by this constant, not by the batch's own token count. */
  normalizer: number;
  learningRate: number;
  valueLearningRate: number;
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
  maxGradNorm: number;
  maxBatchTokens: number;
  /** Only compute the statistics and gradients, do not move the weights. */
  dryRun: boolean;
}
export interface PolicyStepStats {
  loss: number;
  policyLoss: number;
  klLoss: number;
  valueLoss: number;
  entropy: number;
  /** k1 and k3 estimates of KL(policy ‖ reference), mean a token. */
  klReference1: number;
  klReference3: number;
  /** k1 and k3 estimates of KL(old ‖ new), mean a token. */
  klOld1: number;
  klOld3: number;
  clipFraction: number;
  /** 1 − Var(returns − values) / Var(returns); NaN without a value head. */
  explainedVariance: number;
  gradNorm: number;
  /** Largest |new − old| log-prob before this step. */
  maxLogprobGap: number;
  tokens: number;
}

export interface NativePolicy {
  /** Optimizer steps taken. */
  readonly steps: number;
  readonly valueHead: boolean;
  readonly gradientBytes: number;
  /** A fork holding the policy's present delta; later updates do not change it. */
  fork(): NativeFork;
  /** The present delta, as an immutable snapshot. */
  delta(): NativeDelta;
  step(spec: PolicyStepSpec): NativeJob<PolicyStepStats>;
  /** The gradient of these rows (none: zero) is left in place; gives the sums that `apply` makes the figures of. */
  accumulate(spec: PolicyStepSpec): NativeJob<Float64Array>;
  /** Puts the gradient aside, as that of the next group of rows. */
  keepGradient(): NativeJob<void>;
  /** The gradient becomes the sum over ranks. */
  reduceGradient(ranks: NativeRanks): NativeJob<void>;
  /** The gradient becomes the sum of those put aside, in the order of their owners; null: one rank. */
  sumKept(ranks: NativeRanks | null, owners: Int32Array): NativeJob<void>;
  /** Moves the weights by the gradient in place; only the numbers of `spec` are read. */
  apply(spec: PolicyStepSpec, sums: Float64Array): NativeJob<PolicyStepStats>;
  /** SHA-256 of values, moments and counters. */
  fingerprint(): NativeJob<string>;
  /** Value head's estimate before every token: V(state in which token t is chosen); first of a row NaN. */
  values(rows: Ragged): NativeJob<Float32Array>;
  /** Gradients of the last step in the order of the values: per part A then B. For tests. */
  gradients(): Float32Array;
  /** Values in that same order. */
  parameters(): Float32Array;
  setParameters(values: Float32Array): void;
  /** Zero moments, bias correction anew; values and steps stay. */
  resetOptimizer(): void;
  /** Values, optimizer moments and counters as safetensors, written atomically. */
  save(path: string): NativeJob<void>;
  load(path: string): NativeJob<void>;
  close(): void;
}

/** A process among others. */
export interface RanksSpec {
  host: string;
  port: number;
  rank: number;
  world: number;
  /** This process serves the store. */
  hostsStore: boolean;
  /** Of the collectives' keys. */
  prefix: string;
  /** `cpu`: Gloo. `cuda:N`: NCCL. */
  device: string;
  /** Milliseconds to reach the store, and for a collective. */
  timeout: number;
}

/** Which connection to the store: the one that may be waiting, or that of the signs of life. */
export type Line = 0 | 1;

/** Connections of a process to the store and to the other ranks. Jobs of one line run one after the other. */
export interface NativeRanks {
  /** Reaches the store. */
  open(): NativeJob<void>;
  /** Connects the ranks with each other; all must be about to. */
  connect(): NativeJob<void>;
  set(line: Line, key: string, value: string): NativeJob<void>;
  add(line: Line, key: string, by: number): NativeJob<number>;
  /** Empty strings where there is no such key. */
  get(line: Line, keys: string[]): NativeJob<string[]>;
  remove(line: Line, key: string): NativeJob<void>;
  /** Whether the key was there within so many milliseconds. */
  wait(line: Line, key: string, ms: number): NativeJob<boolean>;
  /** The bytes of rank `root`. */
  broadcast(bytes: Uint8Array, root: number): NativeJob<Uint8Array>;
  /** The bytes of every rank. */
  allGather(bytes: Uint8Array): NativeJob<Uint8Array[]>;
  /** Sum over ranks, the same bits on all. */
  allReduce(values: Float32Array): NativeJob<Float32Array>;
  close(): void;
}

/** What a vector changes: one block a matrix. All arrays have one entry a block, matrices ascend. */
export interface EditHeadSpec {
  matrices: Int32Array;
  /** 0 spectral, 1 lowRank, 2 sparse, 3 gradient, 4 modulated. */
  spaces: Int32Array;
  /** Entries of the vector. */
  sizes: Int32Array;
  /** The basis of lowRank and gradient blocks is a parameter. */
  learntBasis: boolean;
  key: bigint;
}

/** What contexts give to the spaces, on top of a fork: one delta a context. */
export interface MaterialSpec extends Ragged {
  fork: NativeFork;
  /** Context c owns documents `contextDocuments[c] .. contextDocuments[c + 1])` of the ragged rows. */
  contextDocuments: Int32Array;
  /** The inner loop's delta of each context, for modulated blocks. */
  adapted: (NativeDelta | null)[];
  /** Learning rate of the gradient step. */
  rate: number;
  /** Sparse supports by Fisher information instead of gradients. */
  fisher: boolean;
  /** Where singular factors are kept; '': nowhere. */
  folder: string;
}

/** One optimizer step of an edit head: C contexts, N samples, d entries a vector, M blocks, c features. */
export interface HeadStepSpec {
  /** [C, c]. */
  features: Float32Array;
  /** The context of each sample, [N]. */
  context: Int32Array;
  /** [N, d]; with the means and noise that they were drawn with, [N, d] and [M]. */
  vectors: Float32Array;
  oldMeans: Float32Array;
  oldNoise: Float32Array;
  /** [N]. */
  advantages: Float32Array;
  /** dLoss / dmean, [C, d], and dLoss / dbasis, of a loss whose gradient is known; empty: none. */
  gradient: Float32Array;
  basisGradient: Float32Array;
  clipLow: number;
  clipHigh: number;
  /** Coefficient of KL(now ‖ untrained head), nats a vector, mean over the contexts. */
  klCoefficient: number;
  /** One step moves an entry of the mean by about this many units (see `EditHead`). */
  learningRate: number;
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
  maxGradNorm: number;
  dryRun: boolean;
}
export interface HeadStepStats {
  loss: number;
  policyLoss: number;
  klLoss: number;
  /** KL(now ‖ untrained head), nats a vector, mean over contexts. */
  klStart: number;
  /** KL(sampling ‖ now), nats a vector, mean over samples. */
  klOld: number;
  /** Of the Gaussian, nats a vector. */
  entropy: number;
  /** Part of the (sample, block) ratios that the clipping cut off. */
  clipFraction: number;
  gradNorm: number;
}

export interface NativeEditHead {
  readonly steps: number;
  /** Block m is `vector[offsets[m] .. offsets[m + 1])`. */
  readonly offsets: Int32Array;
  /** Standard deviation of each block's entries. */
  noise: Float32Array;
  /** Mean hidden state of each row, root mean square 1: [rows, c]. */
  features(fork: NativeFork, rows: Ragged): NativeJob<Float32Array>;
  /** [C, d] from features [C, c]. */
  means(features: Float32Array): Float32Array;
  /** [C · samples, d] around means [C, d]. */
  sample(spec: {
    means: Float32Array;
    keys: BigUint64Array;
    samples: number;
    antithetic: boolean;
  }): Float32Array;
  material(spec: MaterialSpec, progress: ProgressCallback): NativeJob<NativeDelta[]>;
  /** One delta a vector, each from the material beside it. */
  compose(materials: NativeDelta[], vectors: Float32Array): NativeJob<NativeDelta[]>;
  /** dLoss/dvector of each vector from dLoss/dvalues of what `compose` gave; dLoss/dbasis summed (empty when fixed). */
  pullBack(
    materials: NativeDelta[],
    vectors: Float32Array,
    gradients: NativeDelta[],
  ): NativeJob<{ vectors: Float32Array; basis: Float32Array }>;
  step(spec: HeadStepSpec): NativeJob<HeadStepStats>;
  /** Of the last step, before clipping, in the order of `parameters()`: [d, c + 1] with the bias last, then the basis. */
  gradients(): Float32Array;
  parameters(): Float32Array;
  setParameters(values: Float32Array): void;
  save(path: string): NativeJob<void>;
  load(path: string): NativeJob<void>;
  close(): void;
}

export interface LoadSpec {
  config: ModelConfig;
  /** Absolute paths: one GGUF file, or one or more safetensors shards. */
  files: string[];
  format: 'safetensors' | 'gguf';
  layout: WeightLayout;
  dtype: 'float32' | 'bfloat16' | 'float64';
  device: string;
}

/** Where one low-rank part lies in a file of factors: tensors `a` [r, in] and `b` [rows, r]. */
export interface FactorSource {
  matrix: number;
  scale: number;
  a: string;
  b: string;
  /** Of `b`, where one map of the file is several weights. */
  firstRow: number;
  /** Rows of `b` are permuted within this many heads; 0: they are not. */
  permutedHeads: number;
  /** PEFT's embeddings: `a` [r, vocabulary] and `b` [hidden, r] are the transposes of B and A. */
  transposed: boolean;
}

/** A tensor that must equal one of the model's weights: PEFT saves them beside factors of embedding and head. */
export interface BaseCopy {
  tensor: string;
  matrix: number;
}

export interface WriteFactorsSpec {
  path: string;
  /** q, k, v and gate, up are written as one map each. */
  fused: boolean;
  gguf: null | {
    architecture: string;
    maps: { module: string; tensor: string; permutedHeads: number; rows: number }[];
  };
}

/** One map of a written file of factors. */
export interface WrittenModule {
  module: string;
  rank: number;
  scale: number;
}

/** One tensor of a merged model. */
export interface MergedTensor {
  name: string;
  /** As safetensors names it: `F32`, `BF16` … */
  dtype: string;
  shape: number[];
  /** Its name in the base's files; empty: its values come from the model. */
  stored: string;
  /** Ids of the weights that it holds, one under the other; empty: no delta can change it. */
  weights: number[];
  /** Added to values of the model. */
  offset: number;
}

export interface WriteMergedSpec {
  /** Safetensors of the base, where tensors are `stored`. */
  files: string[];
  shards: { path: string; tensors: MergedTensor[] }[];
}

/** One GPU; memory in bytes. */
export interface GpuInfo {
  /** What the `device` option takes, for example `cuda:0`. */
  name: string;
  /** The maker's name. */
  product: string;
  total: number;
  free: number;
  /** Compute capability, for example `9.0`. */
  capability: string;
}

export interface NativeAddon {
  /** Build facts, and the names of the devices; `whyNoGpu` is empty when there is one. */
  info(): {
    version: string;
    torch: string;
    cuda: boolean;
    devices: string[];
    whyNoGpu: string;
    threads: number;
    simd: string;
    /** Whether several ranks can work on the CPU, and what to install where they cannot. */
    gloo: boolean;
    whyNoGloo: string;
    /** Groups of ranks on GPUs talk over NCCL. */
    nccl: boolean;
  };
  /** Facts of every GPU. Starts CUDA on each of them. */
  gpus(): GpuInfo[];
  /** Sets the compute thread's number of threads (all cores by default). */
  setThreads(threads: number): void;
  /**
   * For tests: tensors of the compute thread that something holds, their bytes, bytes kept for the next ones, and allocations
   * so far.
   */
  tensorMemory(): { tensors: number; bytes: number; kept: number; allocations: number };
  /** For tests: of all allocations of tensors from now on the first `after` succeed and the next `count` fail. */
  failAllocations(after: number, count: number, how: 'bad_alloc' | 'libtorch'): void;
  /** Nothing is connected yet. */
  ranks(spec: RanksSpec): NativeRanks;
  /** Header of a .safetensors or .gguf file as JSON (UTF-8), tensors not read. */
  inspect(path: string): NativeJob<Uint8Array>;
  loadModel(spec: LoadSpec, progress: ProgressCallback): NativeJob<NativeModel>;
  /** Seeded random weights, normal with the given standard deviation (norms 1, biases 0). */
  randomModel(
    config: ModelConfig,
    dtype: 'float32' | 'bfloat16' | 'float64',
    key: bigint,
    std: number,
  ): NativeJob<NativeModel>;
  editHead(model: NativeModel, spec: EditHeadSpec): NativeJob<NativeEditHead>;
  /** A delta in the layout of `NativeDelta.save`. */
  loadDelta(model: NativeModel, path: string): NativeJob<NativeDelta>;
  /** Low-rank factors of PEFT or llama.cpp; every tensor of the file must be named. */
  loadFactors(
    model: NativeModel,
    path: string,
    sources: FactorSource[],
    copies: BaseCopy[],
  ): NativeJob<NativeDelta>;
  /** Low-rank parts as PEFT (`gguf` null) or llama.cpp keep them; gives what was written, in its order. */
  writeFactors(delta: NativeDelta, spec: WriteFactorsSpec): NativeJob<WrittenModule[]>;
  /** The delta's model with the delta merged, as safetensors; progress counts bytes. */
  writeMerged(delta: NativeDelta, spec: WriteMergedSpec, progress: ProgressCallback): NativeJob<void>;
  makeDelta(model: NativeModel, parts: (LowRankPart | SparsePart | DensePart)[]): NativeDelta;
  /** Scales of the leading singular values; factors from the model, the folder ('': none), or a randomised SVD. */
  spectralDelta(
    model: NativeModel,
    parts: { matrix: number; values: Float32Array; scale: number }[],
    folder: string,
    progress: ProgressCallback,
  ): NativeJob<NativeDelta>;
  addDeltas(model: NativeModel, terms: { delta: NativeDelta; scale: number }[]): NativeJob<NativeDelta>;
  truncateDelta(delta: NativeDelta, options: { rank: number; energy: number }): NativeJob<NativeDelta>;
  sparsifyDelta(delta: NativeDelta, options: { density: number }): NativeJob<NativeDelta>;
  deltaDifference(to: NativeFork, from: NativeFork): NativeJob<NativeDelta>;
  deltaStatistics(delta: NativeDelta): NativeJob<PartStatistics[]>;
  gradient(spec: GradientSpec, progress: ProgressCallback): NativeJob<GradientResult>;
  score(spec: ScoreSpec, progress: ProgressCallback): NativeJob<Float32Array>;
  generate(spec: GenerateSpec, progress: ProgressCallback): NativeJob<GenerateResult>;
  adapt(spec: AdaptSpec, progress: ProgressCallback): NativeJob<AdaptResult>;
  planAdapt(spec: AdaptSpec): NativeJob<MemoryPlan>;
  planGenerate(spec: GenerateSpec): NativeJob<MemoryPlan>;
  /** Most bytes that tensors of the compute thread may hold, weights included; 0: no limit. */
  setMemoryLimit(bytes: number): void;
  divergence(spec: DivergenceSpec, progress: ProgressCallback): NativeJob<Float32Array>;
  /** 64-bit Philox key: hash of a seed, a purpose and indices. */
  deriveKey(seed: bigint, purpose: string, indices: Int32Array): bigint;
  /** Keyed permutation of 0 … n − 1. */
  permutation(key: bigint, n: number): Int32Array;
  /** Keyed uniform doubles in [0, 1). */
  uniform(key: bigint, n: number): Float64Array;
  /**
   * For tests: counts the system calls that save files from 0 on and does this to number `at`, once (native/format/file_calls.h);
   * a negative `at` ends it. Returns the calls counted before, as `write /path`.
   */
  fileFault(at: number, effect: 'none' | 'error' | 'short' | 'kill' | 'torn', errno: number): string[];
}

let addon: NativeAddon | undefined;
/** The addon, loaded at first use. Throws `AddonLoadError` with a diagnosis when it cannot be loaded. */
export function native(): NativeAddon {
  addon ??= loadAddon() as NativeAddon;
  return addon;
}
