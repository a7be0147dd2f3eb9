/** Data beside the repository (`../shared/data`), where a checkout has it. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = join(dirname(fileURLToPath(import.meta.url)), '../../../../shared/data');

/** Path of a data file, or undefined where it is missing: the test then skips, naming the file. */
export function sharedData(name: string): string | undefined {
  const path = join(folder, name);
  return existsSync(path) ? path : undefined;
}

/** Contents of a JSON data file. */
export function sharedJson<T>(path: string): T {
  return JSON.parse(readFileSync(path, 'utf8')) as T;
}
