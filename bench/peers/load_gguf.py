"""Peer of loading a GGUF file: gguf-py reads it and dequantises every tensor into the wanted type.

Work, besides what common.py reads: gguf (the file). Result: {"parameters": n}.
"""

import torch
from gguf import GGUFReader
from gguf.quants import dequantize

from common import DTYPES, serve


def prepare(work):
    dtype = DTYPES[work["dtype"]]

    def run():
        tensors = [torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).to(work["device"], dtype)
                   for tensor in GGUFReader(work["gguf"]).tensors]
        return {"parameters": sum(tensor.numel() for tensor in tensors)}

    return run


if __name__ == "__main__":
    serve(prepare)
