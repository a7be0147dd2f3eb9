"""Peer of `score`: log-probs of given tokens by transformers, right-padded batches of rows of similar length.

Work, besides what common.py reads: rows [[token ids]], batch (rows at once).
Result: {"logprobs": [[of every token but the first]]} in the order of the rows.
"""

import torch

from common import load, serve


def prepare(work):
    model = load(work)
    rows, size, device = work["rows"], work["batch"], work["device"]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    batches = [order[i:i + size] for i in range(0, len(order), size)]

    @torch.inference_mode()
    def run():
        result = [None] * len(rows)
        for batch in batches:
            length = max(len(rows[i]) for i in batch)
            tokens = torch.tensor([rows[i] + [0] * (length - len(rows[i])) for i in batch], device=device)
            mask = torch.tensor([[1] * len(rows[i]) + [0] * (length - len(rows[i])) for i in batch], device=device)
            logits = model(tokens, attention_mask=mask, use_cache=False).logits[:, :-1].float()
            picked = torch.log_softmax(logits, -1).gather(2, tokens[:, 1:, None])[..., 0]
            for i, values in zip(batch, picked, strict=True):
                result[i] = values[:len(rows[i]) - 1].tolist()
        return {"logprobs": result}

    return run


if __name__ == "__main__":
    serve(prepare)
