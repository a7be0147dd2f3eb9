"""Peer of loading a folder: transformers' from_pretrained, and one pass over the weights, which it only maps at first.

Work, besides what common.py reads: row [token ids]. Result: {"parameters": n, "logprobs": [of all but the first]}.
"""

import torch

from common import load, serve


def prepare(work):
    row = torch.tensor([work["row"]])
    logprobs = []

    @torch.inference_mode()
    def run():
        model = load(work)
        parameters = list(model.parameters())
        # Weights that are still on the disk are not loaded: every page is touched, as it is on our side.
        for parameter in parameters:
            parameter.view(-1)[::1024].sum()
        if not logprobs:
            scores = torch.log_softmax(model(row).logits[0, :-1].float(), -1)
            logprobs.extend(scores.gather(1, row[0, 1:, None])[:, 0].tolist())
        return {"parameters": sum(parameter.numel() for parameter in parameters), "logprobs": logprobs}

    return run


if __name__ == "__main__":
    serve(prepare)
