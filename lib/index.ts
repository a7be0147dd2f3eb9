/**
 * selfedit: models that edit themselves (SEAL, arXiv 2506.10943).
 * @packageDocumentation
 */
export {
  ADAPT_DEFAULTS,
  type AdaptCallOptions,
  type AdaptEdit,
  type Adapted,
  type AdaptOptions,
  adapt,
  planAdapt,
} from './adapt.js';
export type {
  DeltaKind,
  DeltaPartInfo,
  DensePart,
  GpuInfo,
  HeadStepSpec,
  HeadStepStats,
  LayerType,
  LowRankPart,
  MatrixInfo,
  MemoryPlan,
  ModelConfig,
  PartStatistics,
  PolicyStepSpec,
  PolicyStepStats,
  RopeScaling,
  SparsePart,
  SpectralPart,
} from './binding.js';
export {
  Delta,
  type DeltaPartInput,
  type LowRankFactors,
  type MatrixName,
  type SpectralInput,
  type SpectralOptions,
} from './delta.js';
export { type DivergenceRow, divergence } from './divergence.js';
export { type DoctorReport, doctor } from './doctor.js';
export * from './errors.js';
export {
  type ExportDtype,
  type Exported,
  type ExportFormat,
  type ExportOptions,
  exportDelta,
} from './export.js';
export { Fork } from './fork.js';
export type { GgufMetadata } from './format/gguf.js';
export {
  type GenerateOptions,
  type GenerateRow,
  type Generation,
  generate,
  planGenerate,
  type SamplingOptions,
} from './generate.js';
export { type Gradient, type GradientOptions, type GradientRow, gradient } from './gradient.js';
export * from './learn.js';
export {
  type Dtype,
  type LoadOptions,
  Model,
  type RandomOptions,
  setMemoryLimit,
  setThreads,
} from './model.js';
export { type CallOptions, type Progress, watch } from './native-job.js';
export {
  POLICY_STEP_DEFAULTS,
  Policy,
  type PolicyMinibatch,
  type PolicyOptions,
  type PolicyRow,
  type PolicyStepOptions,
} from './policy.js';
export {
  modelNames,
  type PipPiece,
  type PullOptions,
  type PullProgress,
  type PullSource,
  pull,
} from './pull.js';
export { deriveKey, permutation, uniform } from './random.js';
export { type RankPlace, ranksFromEnvironment } from './ranks/environment.js';
export { type JoinOptions, Ranks, type RankTraffic } from './ranks/ranks.js';
export { Resource } from './resource.js';
export type { RankPhase, RankTimings, RoundRanks } from './round.js';
export type { TokenInput } from './rows.js';
export { type ScoreOptions, type ScoreRow, score } from './score.js';
export { DEFAULT_TARGETS, resolveTargets } from './targets.js';
export type { ChatMessage } from './tokenizer/chat.js';
export {
  type ChatOptions,
  type DecodeOptions,
  type EncodeOptions,
  Tokenizer,
  type TokenizerParts,
} from './tokenizer/tokenizer.js';
