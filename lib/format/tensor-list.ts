/** The tensors of a safetensors or GGUF file, from its header. */
import { z } from 'zod';
import { native } from '../binding.js';
import { makeError } from '../errors.js';
import { runJob } from '../native-job.js';
import { check } from './json.js';

const size = z.int().nonnegative();
const header = z.object({
  metadata: z.record(z.string(), z.unknown()),
  tensors: z.array(z.object({ name: z.string(), dtype: z.string(), shape: z.array(size), bytes: size })),
});
export type TensorEntry = z.infer<typeof header>['tensors'][number];
export type TensorFileHeader = z.infer<typeof header>;

/** Shapes are row-major for both formats. Errors: those of the native readers (`FileError`). */
export async function readTensorList(path: string): Promise<TensorFileHeader> {
  const text = Buffer.from(await runJob(() => native().inspect(path))).toString('utf8');
  try {
    return check(header, JSON.parse(text), path, 'FILE_FORMAT');
  } catch (error) {
    throw makeError('FILE_FORMAT', `${path}: the header cannot be read`, error);
  }
}
