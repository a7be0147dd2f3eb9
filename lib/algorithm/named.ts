/** The algorithms by name, as configurations and `seal` choose them. */
import type { Algorithm } from './algorithm.js';
import { type GrpoOptions, grpo } from './grpo.js';
import { type PpoOptions, ppo } from './ppo.js';
import { type RestemOptions, restem } from './restem.js';
import { type RlooOptions, rloo } from './rloo.js';
import { checkName } from './update-options.js';

export interface AlgorithmOptions {
  ppo: PpoOptions;
  grpo: GrpoOptions;
  rloo: RlooOptions;
  restem: RestemOptions;
}
export type AlgorithmName = keyof AlgorithmOptions;

const MAKERS: { readonly [Name in AlgorithmName]: (options: Partial<AlgorithmOptions[Name]>) => Algorithm } =
  {
    ppo,
    grpo,
    rloo,
    restem,
  };

export const ALGORITHM_NAMES = Object.keys(MAKERS) as AlgorithmName[];

/** The algorithm of that name with the given options over its defaults. Throws `OPTION_INVALID`. */
export function algorithmNamed<Name extends AlgorithmName>(
  name: Name,
  options: Partial<AlgorithmOptions[Name]> = {},
): Algorithm {
  checkName('algorithm', name, ALGORITHM_NAMES);
  return MAKERS[name](options);
}
