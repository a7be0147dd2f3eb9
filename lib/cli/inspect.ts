/** `selfedit inspect`: what a model is, from its headers alone. */
import { basename } from 'node:path';
import type { Command } from 'commander';
import { z } from 'zod';
import { type ModelConfig, native } from '../binding.js';
import { makeError } from '../errors.js';
import { type ModelSource, resolveModel } from '../format/folder.js';
import { runJob } from '../native-job.js';
import { loadTokenizer } from '../tokenizer/load.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';
import { bytesText } from './meter.js';
import { findModel } from './options.js';
import type { Session } from './session.js';
import { table } from './table.js';

const size = z.int().nonnegative();
const headerSchema = z.object({
  tensors: z.array(z.object({ name: z.string(), dtype: z.string(), shape: z.array(size), bytes: size })),
});

interface TensorInfo {
  name: string;
  dtype: string;
  shape: number[];
  bytes: number;
  file: string;
}

interface TypeTotal {
  dtype: string;
  tensors: number;
  parameters: number;
  bytes: number;
}

/** What `--json` prints. */
interface Inspection {
  path: string;
  format: 'safetensors' | 'gguf';
  architecture: string;
  config: ModelConfig;
  parameters: number;
  bytes: number;
  files: string[];
  dtypes: TypeTotal[];
  tensors: TensorInfo[];
  tokenizer: null | { vocabSize: number; bosTokenId: number | null; eosTokenIds: readonly number[] };
  chatTemplate: string | null;
}

export function addInspect(program: Command, session: Session): void {
  program
    .command('inspect')
    .description('Architecture, parameters, tensors, types, tokenizer and chat template of a model.')
    .argument('<model>', 'Hugging Face model folder, .gguf file, or a name that pull knows')
    .option('--json', 'one JSON object')
    .addHelpText(
      'after',
      '\nReads headers only, no weights.\n\nExample:\n  selfedit inspect smollm2-135m-instruct',
    )
    .action(async (given: string, options: { json?: boolean }) => {
      const inspect = (file: string) => runJob(() => native().inspect(file), { signal: session.signal });
      const source = await resolveModel(await findModel(given, session), { inspect });
      const tensors: TensorInfo[] = [];
      for (const file of source.files) tensors.push(...readTensors(await inspect(file), file));
      const tokenizer = await loadTokenizer(source);
      const found = summarise(source, tensors, tokenizer);
      await session.print(
        options.json ? `${JSON.stringify(found, null, 2)}\n` : describeModel(found, tokenizer),
      );
    });
}

function readTensors(header: Uint8Array, path: string): TensorInfo[] {
  const parsed = headerSchema.safeParse(JSON.parse(Buffer.from(header).toString('utf8')));
  if (!parsed.success) throw makeError('INTERNAL', `${path}: the header read is not of the expected form`);
  return parsed.data.tensors.map((tensor) => ({ ...tensor, file: basename(path) }));
}

function summarise(source: ModelSource, tensors: TensorInfo[], tokenizer: Tokenizer | undefined): Inspection {
  const totals = new Map<string, TypeTotal>();
  for (const { dtype, shape, bytes } of tensors) {
    const total = totals.get(dtype) ?? { dtype, tensors: 0, parameters: 0, bytes: 0 };
    total.tensors++;
    total.parameters += product(shape);
    total.bytes += bytes;
    totals.set(dtype, total);
  }
  const counted = tensors.filter(({ name }) => isParameter(name, source.config));
  return {
    path: source.path,
    format: source.format,
    architecture: source.config.architecture,
    config: source.config,
    parameters: counted.reduce((sum, { shape }) => sum + product(shape), 0),
    bytes: tensors.reduce((sum, { bytes }) => sum + bytes, 0),
    files: source.files.map((file) => basename(file)),
    dtypes: [...totals.values()].sort((a, b) => b.bytes - a.bytes),
    tensors,
    tokenizer: tokenizer
      ? {
          vocabSize: tokenizer.vocabSize,
          bosTokenId: tokenizer.bosTokenId ?? null,
          eosTokenIds: tokenizer.eosTokenIds,
        }
      : null,
    chatTemplate: tokenizer?.chatTemplate ?? null,
  };
}

/** Tables of rotary factors are no parameters, nor is a head that only repeats the embedding. */
function isParameter(name: string, { tied }: ModelConfig): boolean {
  if (/^rope_(freqs|factors_(short|long))\.weight$/.test(name) || name.endsWith('rotary_emb.inv_freq'))
    return false;
  return !(tied && name === 'lm_head.weight');
}

function product(shape: readonly number[]): number {
  return shape.reduce((total, extent) => total * extent, 1);
}

function normsText({ qkNorm, postNorms }: ModelConfig): string {
  return `before each block${postNorms ? ' and after it' : ''}${qkNorm ? '; of q and k' : ''}`;
}

function windowsText({ layers, layerTypes, slidingWindow, localRope }: ModelConfig): string {
  const local = layerTypes?.filter((type) => type === 'sliding_attention').length ?? layers;
  const base = localRope ? `, rotary base ${localRope.ropeTheta}` : '';
  return `${slidingWindow} tokens in ${local} of ${layers} layers${base}`;
}

function describeModel(found: Inspection, tokenizer: Tokenizer | undefined): string {
  const { config } = found;
  const count = (value: number) => value.toLocaleString('en-US');
  const biases = [
    config.qkvBias ? 'q, k, v' : '',
    config.outputBias ? 'attention output' : '',
    config.mlpBias ? 'MLP' : '',
  ].filter((name) => name !== '');
  const scaling = config.ropeScaling
    ? `, ${config.ropeScaling.type} scaling by ${config.ropeScaling.factor}`
    : '';
  const token = (id: number) =>
    `${id} ${JSON.stringify(tokenizer?.decode([id], { skipSpecialTokens: false }))}`;
  const rows: string[][] = [
    ['model', found.path],
    ['architecture', config.architecture],
    ['parameters', count(found.parameters)],
    ['layers', `${config.layers}, hidden ${config.hiddenSize}, intermediate ${config.intermediateSize}`],
    ['attention', `${config.heads} heads of ${config.headDim}, ${config.kvHeads} for keys and values`],
    ['biases', biases.join('; ') || 'none'],
    ['norms', normsText(config)],
    ...(config.slidingWindow ? [['windows', windowsText(config)]] : []),
    ['positions', `${count(config.maxPositions)}, rotary base ${config.ropeTheta}${scaling}`],
    [
      'embedding',
      `${count(config.vocabSize)} rows, ${config.tied ? 'tied to the head' : 'not tied to the head'}`,
    ],
    [
      'weights',
      `${found.format}, ${found.files.length} file${found.files.length === 1 ? '' : 's'}, ${bytesText(found.bytes)}`,
    ],
    ...found.dtypes.map(({ dtype, tensors, parameters, bytes }) => [
      `  ${dtype}`,
      `${tensors} tensors, ${count(parameters)} values, ${bytesText(bytes)}`,
    ]),
    ['tokenizer', tokenizer ? `${count(tokenizer.vocabSize)} tokens` : 'none'],
  ];
  if (tokenizer?.bosTokenId !== undefined) rows.push(['  beginning', token(tokenizer.bosTokenId)]);
  if (tokenizer && tokenizer.eosTokenIds.length > 0)
    rows.push(['  end', tokenizer.eosTokenIds.map(token).join(', ')]);
  rows.push([
    'chat template',
    found.chatTemplate === null ? 'none' : `${found.chatTemplate.length} characters`,
  ]);
  const tensors = found.tensors.map(({ name, dtype, shape }) => [
    `  ${name}`,
    dtype,
    `[${shape.join(', ')}]`,
  ]);
  return `${table(rows)}\ntensors\n${table(tensors)}`;
}
