import { existsSync } from 'node:fs';
import { pull } from '../pull.js';

/** The path of a model: as it is when something is there, else what `pull` brings under that name. */
export async function modelPath(model: string): Promise<string> {
  return existsSync(model) ? model : pull(model);
}
