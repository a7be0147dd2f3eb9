/** The maps of a model as files of others have them: Phi-3's q, k, v and gate, up are one map each there. */
import type { Model } from '../model.js';
import { ARCHITECTURES } from './architecture.js';

export interface FileModule {
  /** `model.layers.0.self_attn.q_proj` */
  name: string;
  kind: 'linear' | 'embedding' | 'head';
  in: number;
  out: number;
  /** The weights of the model that lie in it, one under the other. None: it is a tied head, which is the embedding. */
  weights: { matrix: number; firstRow: number }[];
}

const FUSED: Record<string, string> = {
  q_proj: 'qkv_proj',
  k_proj: 'qkv_proj',
  v_proj: 'qkv_proj',
  gate_proj: 'gate_up_proj',
  up_proj: 'gate_up_proj',
};

/** Whether safetensors and adapters of this architecture hold q, k, v and gate, up fused. */
export function isFused(model: Model): boolean {
  return ARCHITECTURES.some(
    ({ name, folderLayout }) => name === model.config.architecture && folderLayout.fused,
  );
}

/** Linear maps of the layers in the order of their ids, then embedding and head; `fused` as the architecture's own files are. */
export function fileModules(model: Model, fused = isFused(model)): FileModule[] {
  const modules = new Map<string, FileModule>();
  for (const [matrix, info] of model.matrices.entries()) {
    const own = fused ? (FUSED[info.module] ?? info.module) : info.module;
    const name = info.name.slice(0, info.name.length - info.module.length) + own;
    const module = modules.get(name) ?? { name, kind: 'linear', in: info.in, out: 0, weights: [] };
    module.weights.push({ matrix, firstRow: module.out });
    module.out += info.out;
    modules.set(name, module);
  }
  const { tied } = model.config;
  for (const [matrix, info] of model.tensors.entries()) {
    if (info.module !== 'embed_tokens' && info.module !== 'lm_head') continue;
    const kind = info.module === 'lm_head' ? 'head' : 'embedding';
    modules.set(info.name, {
      name: info.name,
      kind,
      in: info.in,
      out: info.out,
      weights: [{ matrix, firstRow: 0 }],
    });
    if (tied && kind === 'embedding') {
      modules.set('lm_head', { name: 'lm_head', kind: 'head', in: info.in, out: info.out, weights: [] });
    }
  }
  return [...modules.values()];
}
