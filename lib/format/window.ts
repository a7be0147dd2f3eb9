/** Sliding-window attention: which layers see only the last tokens, from config.json and from GGUF. */
import type { LayerType, ModelConfig } from '../binding.js';
import { makeError } from '../errors.js';
import type { Architecture } from './architecture.js';
import type { ConfigJson } from './config-json.js';
import { show } from './json.js';

export type Windows = Pick<ModelConfig, 'slidingWindow' | 'layerTypes'>;

/** What transformers takes where config.json is silent. */
const MAX_WINDOW_LAYERS = 28;
const PATTERN = 6;

/** Errors: `CONFIG_INVALID`, `UNSUPPORTED_ARCHITECTURE` (key, found, expected). */
export function readWindows(json: ConfigJson, entry: Architecture, source: string): Windows {
  if (entry.windows === 'none') return {};
  const layers = json.num_hidden_layers;
  const stated = readLayerTypes(json, source);
  const window = json.sliding_window === undefined ? entry.defaults.slidingWindow : json.sliding_window;
  if (entry.windows === 'all') {
    if (window == null) return {};
    const other = stated?.find((type) => type !== 'sliding_attention');
    if (other !== undefined) {
      throw makeError(
        'UNSUPPORTED_ARCHITECTURE',
        `${source}: "layer_types" has ${show(other)}, expected "sliding_attention" in every layer of ${entry.name}`,
      );
    }
    return { slidingWindow: window };
  }
  const used = entry.windows === 'pattern' || json.use_sliding_window === true ? window : undefined;
  const first = json.max_window_layers ?? MAX_WINDOW_LAYERS;
  const isSliding =
    entry.windows === 'pattern'
      ? everyButNth(json.sliding_window_pattern ?? PATTERN)
      : (layer: number) => used != null && layer >= first;
  const types = stated ?? typesOf(layers, isSliding);
  if (!types.includes('sliding_attention')) return {};
  if (used == null) {
    const needed =
      entry.windows === 'upper' && json.use_sliding_window !== true
        ? '"use_sliding_window" to be true'
        : 'a "sliding_window"';
    throw makeError(
      'CONFIG_INVALID',
      `${source}: "layer_types" has "sliding_attention", expected ${needed} with it`,
    );
  }
  return { slidingWindow: used, layerTypes: types };
}

/** llama.cpp stores the window, and for Gemma 3 sometimes the pattern; the layers follow from the architecture. */
export function windowsFromGguf(
  window: number | undefined,
  pattern: number | boolean[] | undefined,
  layers: number,
  entry: Architecture,
  source: string,
): Windows {
  if (!window) return {};
  if (entry.windows === 'upper') {
    throw makeError(
      'UNSUPPORTED_ARCHITECTURE',
      `${source}: "${entry.gguf}.attention.sliding_window" is ${window}, expected none: the file does not say in which layers`,
    );
  }
  if (entry.windows !== 'pattern') return { slidingWindow: window };
  if (Array.isArray(pattern)) {
    if (pattern.length !== layers) {
      throw makeError(
        'CONFIG_INVALID',
        `${source}: "${entry.gguf}.attention.sliding_window_pattern" has ${pattern.length} values, expected ${layers}`,
      );
    }
    return { slidingWindow: window, layerTypes: typesOf(layers, (layer) => pattern[layer]!) };
  }
  return { slidingWindow: window, layerTypes: typesOf(layers, everyButNth(pattern ?? PATTERN)) };
}

const everyButNth =
  (n: number) =>
  (layer: number): boolean =>
    (layer + 1) % n !== 0;

function typesOf(layers: number, isSliding: (layer: number) => boolean): LayerType[] {
  return Array.from({ length: layers }, (_, layer) =>
    isSliding(layer) ? 'sliding_attention' : 'full_attention',
  );
}

function readLayerTypes(json: ConfigJson, source: string): LayerType[] | undefined {
  const types = json.layer_types;
  if (types == null) return undefined;
  if (types.length !== json.num_hidden_layers) {
    throw makeError(
      'CONFIG_INVALID',
      `${source}: "layer_types" has ${types.length} entries, expected "num_hidden_layers" (${json.num_hidden_layers})`,
    );
  }
  return types.map((type) => {
    if (type === 'full_attention' || type === 'sliding_attention') return type;
    throw makeError(
      'UNSUPPORTED_ARCHITECTURE',
      `${source}: "layer_types" has ${show(type)}, expected "full_attention" or "sliding_attention"`,
    );
  });
}
