/** The half of the public API that learns: edits, rewards, algorithms, tasks, the loop and its runs. */

export { generalizedAdvantages, groupRelative, leaveOneOut, whiten } from './algorithm/advantages.js';
export type { Algorithm, Rollout, UpdateContext, UpdateStatistics } from './algorithm/algorithm.js';
export { GRPO_DEFAULTS, type GrpoOptions, grpo } from './algorithm/grpo.js';
export { KlController } from './algorithm/kl-controller.js';
export {
  ALGORITHM_NAMES,
  type AlgorithmName,
  type AlgorithmOptions,
  algorithmNamed,
} from './algorithm/named.js';
export { PPO_DEFAULTS, type PpoOptions, ppo } from './algorithm/ppo.js';
export {
  type Choosable,
  chooseEdits,
  RESTEM_DEFAULTS,
  type RestemOptions,
  restem,
} from './algorithm/restem.js';
export { RLOO_DEFAULTS, type RlooOptions, rloo } from './algorithm/rloo.js';
export type { PolicyGradientOptions, UpdateOptions } from './algorithm/update-options.js';
export type {
  WeightAlgorithm,
  WeightLoss,
  WeightObjective,
  WeightReward,
  WeightUpdateContext,
} from './algorithm/weight-algorithm.js';
export {
  WEIGHT_GRADIENT_DEFAULTS,
  type WeightGradientOptions,
  weightGradient,
} from './algorithm/weight-gradient.js';
export { WEIGHT_PPO_DEFAULTS, type WeightPpoOptions, weightPpo } from './algorithm/weight-ppo.js';
export {
  type CompareOptions,
  type Comparison,
  compareMethods,
  METHODS,
  type Method,
  type MethodDifference,
  type MethodResult,
} from './compare.js';
export { comparisonText, conclusions } from './comparison-text.js';
export {
  type ContinuedArm,
  type ContinuedOptions,
  continuedPretraining,
  PASSAGES,
  UNEDITED,
} from './continued.js';
export { type DemoOptions, runDemo } from './demo.js';
export {
  type Applicable,
  applyEdits,
  type EditedFork,
  type InnerOptions,
  type Trainable,
} from './edit/apply.js';
export type { CalibrateOptions, Calibration } from './edit/calibrate.js';
export {
  type ClosedRange,
  DIRECTIVE_DEFAULTS,
  DIRECTIVE_TARGETS,
  type DirectiveBounds,
  type DirectiveScope,
  type Directives,
  directedOptions,
} from './edit/directives.js';
export {
  type MarkedDocument,
  type Span,
  type TrainingDocument,
  type TrainingRow,
  textOf,
  toTrainingRow,
} from './edit/documents.js';
export {
  INVALID_REASONS,
  type InvalidCounts,
  type InvalidReason,
  type SelfEdit,
  type TextEdit,
} from './edit/edit.js';
export {
  type LossRule,
  PARSE_DEFAULTS,
  PARSE_PUBLISHED,
  type ParseOptions,
  parseEdit,
  passageOnly,
  type ReadOptions,
} from './edit/parse.js';
export {
  DEFAULT_TASK,
  EDIT_TEMPLATES,
  type EditSubject,
  type EditTemplate,
  editTemplate,
  type PromptForm,
  type PromptTokenizer,
  type RenderedPrompt,
  renderEditPrompt,
} from './edit/prompts.js';
export { type DirectiveReading, readDirectives } from './edit/read-directives.js';
export {
  SPACES,
  type SpaceBlock,
  type SpaceChoice,
  type SpaceName,
  type SpaceOptions,
} from './edit/spaces.js';
export { type EditContext, Reading, type WeightEdit, WrittenWeightEdit } from './edit/weight.js';
export {
  toRollouts,
  WRITE_DEFAULTS,
  type WriteCall,
  type WriteOptions,
  type WrittenEdit,
  writeEdits,
} from './edit/write.js';
export {
  EditHead,
  type EditHeadOptions,
  HEAD_STEP_DEFAULTS,
  type HeadStep,
  type ReadContextOptions,
  type WriteWeightOptions,
} from './edit-head.js';
export type { EditResult, RoundResult, ScorePair } from './edit-result.js';
export {
  type ForgettingFigures,
  type ForgettingMatrix,
  forgettingFigures,
  meanMatrix,
  type SequenceFigures,
} from './forgetting-matrix.js';
export {
  GUARD_DEFAULTS,
  GUARDS,
  type GuardAlarm,
  type GuardFigures,
  type GuardName,
  type GuardOptions,
  type RoundGuards,
} from './guard/guards.js';
export { type GuardSummary, guardLines, summarizeGuards } from './guard/summary.js';
export { type AnswerLossOptions, answerLoss } from './reward/answer-loss.js';
export {
  askForks,
  type ContextAnswers,
  type ForkAnswers,
  type ForkExam,
} from './reward/ask-forks.js';
export {
  type AnchorOutcome,
  type BradleyTerry,
  type BradleyTerryOptions,
  bradleyTerry,
  type PairOutcome,
} from './reward/bradley-terry.js';
export {
  COLLAPSE_DEFAULTS,
  type CollapseOptions,
  collapseAlarm,
  type VoteFigures,
  voteFigures,
} from './reward/collapse.js';
export {
  type ForkReward,
  meanDivergence,
  type RewardCall,
  type RewardRow,
  rewardForks,
} from './reward/evaluate.js';
export { exact } from './reward/exact.js';
export { f1 } from './reward/f1.js';
export { type ForgettingOptions, forgettingOf } from './reward/forgetting.js';
export { BUILT_IN_GRADERS, type GradeRow, type Grader } from './reward/grader.js';
export {
  JUDGE_DEFAULTS,
  type Judge,
  type JudgeFailure,
  type JudgeOptions,
  type JudgeStatistics,
  judge,
} from './reward/judge.js';
export type { JudgeFailureKind } from './reward/judge-client.js';
export {
  JUDGE_PROMPTS,
  type JudgeForm,
  type JudgePrompt,
} from './reward/judge-prompts.js';
export { type LikelihoodRow, likelihood } from './reward/likelihood.js';
export { LOCAL_RIGHT, local, localGrader } from './reward/local.js';
export {
  type Labelled,
  type LabelOptions,
  type MajorityOptions,
  majority,
  majorityLabels,
  type QuestionVote,
  type Vote,
  type VoteGroup,
  type VoteRow,
} from './reward/majority.js';
export {
  type Answered,
  type Asked,
  type AskOptions,
  ask,
  MEASURES,
  type MeasureName,
} from './reward/measure.js';
export { normalizeAnswer } from './reward/normalize.js';
export { REWARD_DEFAULTS, type RewardOptions, rewardOptions } from './reward/options.js';
export {
  type EditRating,
  type PairChoice,
  type Preference,
  parsePreferences,
  readPreferences,
} from './reward/preference-file.js';
export {
  type PreferenceOptions,
  type Preferences,
  preferences,
  preferenceTerm,
  type RatedEdit,
} from './reward/preferences.js';
export { QUESTION_TEMPLATE, type QuestionTemplate, renderQuestion } from './reward/question.js';
export { recall } from './reward/recall.js';
export {
  type Estimate,
  type ReliabilityOptions,
  type RewardReliability,
  type RewardSample,
  reliability,
  spearmanBrown,
} from './reward/reliability.js';
export {
  floorReward,
  type Measured,
  meanReward,
  type RewardParts,
  SHAPE_DEFAULTS,
  type ShapedReward,
  type ShapeOptions,
  shapeReward,
  type WrittenShape,
  whitenRewards,
} from './reward/shape.js';
export {
  type BootstrapOptions,
  bootstrapDifference,
  bootstrapMean,
  bootstrapRatio,
  direction,
  type Interval,
  wilson,
} from './reward/statistics.js';
export type { RewardSubject, RewardTerm } from './reward/terms.js';
export type { Phase, RoundListeners } from './round.js';
export type { LabelSettings } from './round-contexts.js';
export { type RunConfig, type RunConfigInput, readConfig, resolveConfig } from './run/config.js';
export type { JournalLine } from './run/journal.js';
export { type TrainEvent, type TrainOptions, type TrainResult, train } from './run/train.js';
export { type SealOptions, seal } from './seal.js';
export { sealWeights, type WeightSealOptions } from './seal-weights.js';
export {
  measureSequence,
  type SequenceEdit,
  type SequenceOptions,
  type SequenceResult,
} from './sequence.js';
export {
  runStream,
  type StreamCandidate,
  type StreamOptions,
  type StreamPlace,
  type StreamResult,
  type StreamStep,
} from './stream.js';
export { GATE_DEFAULTS, type GateAttempt, type GateOptions } from './stream-gate.js';
export {
  ARC_AUGMENTATION_NAMES,
  ARC_AUGMENTATIONS,
  type ArcAugmentation,
  type GridChange,
} from './task/arc/augment.js';
export {
  ARC_ADAPT,
  ARC_EDIT_DEFAULTS,
  ARC_MOST_STEPS,
  ARC_TEMPLATE,
  type ArcEditOptions,
  arcDocuments,
  arcEdit,
} from './task/arc/edit.js';
export { EXAMPLE_DEFAULTS, type ExampleOptions, trainingProblems } from './task/arc/examples.js';
export {
  ARC_MEASURES,
  type ArcMeasure,
  type GradedRow,
  type GradeProblemOptions,
  gradeProblems,
} from './task/arc/grade.js';
export { type Grid, gridText, readGrid, toGrid } from './task/arc/grids.js';
export {
  IDENTITY_VIEW,
  type Prediction,
  type PredictRow,
  predictGrids,
  VIEW_DEFAULTS,
  type ViewOptions,
  viewsOf,
} from './task/arc/predict.js';
export {
  ARC_FORM,
  type ArcForm,
  type ArcProblem,
  answerText,
  type ProblemView,
  promptText,
  type SolvedProblem,
  viewProblem,
} from './task/arc/problems.js';
export {
  type ArcPair,
  type ArcTask,
  type ArcTest,
  type NamedText,
  parseArc,
  readArc,
} from './task/arc/read.js';
export {
  ARC_DEFAULTS,
  type ArcOptions,
  type ArcReading,
  type ArcTaskKit,
  arc,
} from './task/arc/task.js';
export {
  type ColourMap,
  colourPermutation,
  composeTransforms,
  type GridTransform,
  IDENTITY_TRANSFORM,
  inverseTransform,
  SAME_COLOURS,
  SYMMETRIES,
  type Symmetry,
  transformGrid,
} from './task/arc/transforms.js';
export { type Ballot, type Candidate, countVotes } from './task/arc/vote.js';
export { type Augmentation, KNOWLEDGE_AUGMENTATIONS } from './task/augmentations.js';
export {
  DIALOGUE_DEFAULTS,
  type Dialogue,
  type DialogueOptions,
  dialogue,
  parseDialogues,
  readDialogues,
  transcript,
} from './task/dialogue.js';
export { KNOWLEDGE_DEFAULTS, type KnowledgeOptions, knowledge } from './task/knowledge.js';
export {
  type Passage,
  type PassageOptions,
  parsePassages,
  readPassages,
  readTexts,
} from './task/passages.js';
export { sequencesOf } from './task/stream.js';
export type { Question, Task, TaskContext, TaskHooks } from './task/task.js';
