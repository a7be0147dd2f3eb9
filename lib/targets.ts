/** Patterns that choose the matrices of a delta. */
import type { MatrixInfo } from './binding.js';
import { makeError } from './errors.js';
import type { Model } from './model.js';

/** What PEFT trains when SEAL's constants are used. */
export const DEFAULT_TARGETS: readonly string[] = ['q_proj', 'v_proj'];

/**
 * Ids, ascending, of the matrices that the patterns choose. A pattern is a module (`q_proj`), a full name or its end
 * (`layers.3.mlp.up_proj`), any of them with `*` for a run of characters (`layers.1?.*` has `?` for one); `all` is every
 * linear map of the layers. Patterns choose among these; only one that names none of them chooses among the other weights
 * (`embed_tokens`, `lm_head`, `input_layernorm`, `post_attention_layernorm`, `norm`, `q_proj.bias`). Errors: `DeltaError` (`TARGET_UNKNOWN`) naming a pattern that matches nothing, and what there is.
 */
export function resolveTargets(model: Model, patterns: readonly string[]): Int32Array {
  if (patterns.length === 0) {
    throw makeError('TARGET_UNKNOWN', 'no target is given; expected at least one module such as q_proj');
  }
  const chosen = new Set<number>();
  for (const pattern of patterns) {
    const expression = new RegExp(`(^|\\.)${toExpression(pattern)}$`);
    let matched = 0;
    for (const [id, { name }] of model.tensors.entries()) {
      if (id === model.matrices.length && matched > 0) break;
      if (pattern !== 'all' && !expression.test(name)) continue;
      chosen.add(id);
      matched++;
    }
    if (matched === 0) {
      const names = (list: readonly MatrixInfo[]): string =>
        [...new Set(list.map(({ module }) => module))].join(', ');
      const beyond = names(model.tensors.slice(model.matrices.length));
      throw makeError(
        'TARGET_UNKNOWN',
        `target "${pattern}" matches no matrix; the model has the modules ${names(model.matrices)} in layers 0 to ${model.config.layers - 1}, and beyond them ${beyond}`,
      );
    }
  }
  return Int32Array.from([...chosen].sort((a, b) => a - b));
}

function toExpression(pattern: string): string {
  return pattern
    .replace(/[.+^${}()|[\]\\]/g, '\\$&')
    .replace(/\*/g, '.*')
    .replace(/\?/g, '.');
}
