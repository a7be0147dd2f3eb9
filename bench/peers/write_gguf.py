"""Writes a model folder as a GGUF file: matrices in Q8_0 (F16 where a row is no multiple of 32), vectors in F32.

Work, besides what common.py reads: gguf (the file to write). Result: {"tensors": n}.
"""

import json
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from safetensors.torch import load_file

from common import serve

NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    module, kind = name.rsplit(".", 1)
    if module.startswith("model.layers."):
        _, _, layer, rest = module.split(".", 3)
        return f"blk.{layer}.{NAMES[rest]}.{kind}"
    return f"{NAMES[module]}.{kind}"


def permuted(values, heads):
    """llama.cpp's order of the rows of q and k."""
    return values.reshape(heads, 2, values.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)


def prepare(work):
    folder = Path(work["model"])
    config = json.loads((folder / "config.json").read_text())

    def run():
        writer = GGUFWriter(work["gguf"], config["model_type"])
        writer.add_vocab_size(config["vocab_size"])
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(config["rope_theta"])
        tensors = load_file(folder / "model.safetensors")
        for name, tensor in tensors.items():
            values = tensor.float().numpy()
            if config["model_type"] == "llama" and "q_proj" in name:
                values = permuted(values, config["num_attention_heads"])
            if config["model_type"] == "llama" and "k_proj" in name:
                values = permuted(values, config["num_key_value_heads"])
            if values.ndim == 1:
                writer.add_tensor(gguf_name(name), values)
            elif values.shape[1] % 32 == 0:
                kind = GGMLQuantizationType.Q8_0
                writer.add_tensor(gguf_name(name), quantize(values, kind), raw_dtype=kind)
            else:
                writer.add_tensor(gguf_name(name), values.astype(np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return {"tensors": len(tensors)}

    return run


if __name__ == "__main__":
    serve(prepare)
