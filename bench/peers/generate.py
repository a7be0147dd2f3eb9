"""Peer of `generate`: transformers' own generate, one left-padded batch, prompts repeated for several samples, greedy.

Work, besides what common.py reads: prompts [[token ids]], samples, maxTokens.
Result: {"tokens": [[ids]], "logprobs": [[…]]}, row-major: prompt 0 sample 0, prompt 0 sample 1, …
"""

import torch

from common import load, serve
from generation import generate, left_padded, without_defaults


def prepare(work):
    model = without_defaults(load(work))
    batch = left_padded([prompt for prompt in work["prompts"] for _ in range(work["samples"])], work["device"])

    @torch.inference_mode()
    def run():
        tokens, logprobs = generate(model, batch, work["maxTokens"], True)
        return {"tokens": tokens, "logprobs": logprobs}

    return run


if __name__ == "__main__":
    serve(prepare)
