"""Peer of the inner loop: transformers + PEFT + torch AdamW, one edit after another, one unpadded document a step.

Work, besides what common.py reads: edits [[[token ids] a document] an edit], init (a PEFT folder: every edit starts from
its values), learningRate, epochs, clip. The rate falls linearly to 0; documents are visited in the given order. The
adapter is float32 whatever the base's type, as PEFT makes it by default.
Result: {"loss": [[per step] an edit], "norms": [Frobenius norm of B·A·scale per matrix of the first edit]}.
"""

import torch
from peft import PeftModel
from transformers import get_scheduler

from common import load, serve


def train(model, parameters, documents, work):
    total = work["epochs"] * len(documents)
    optimizer = torch.optim.AdamW(parameters, lr=work["learningRate"], betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    scheduler = get_scheduler("linear", optimizer, 0, total)
    losses = []
    for _ in range(work["epochs"]):
        for tokens in documents:
            loss = model(tokens, labels=tokens, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, work["clip"])
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
    return [float(loss) for loss in losses]


def norms(model):
    """Read from the trained factors, in the first run, which is not timed."""
    layers = [module for module in model.modules() if hasattr(module, "lora_A") and len(module.lora_A) > 0]
    return [float((layer.lora_B["default"].weight @ layer.lora_A["default"].weight).norm() * layer.scaling["default"])
            for layer in layers]


def prepare(work):
    model = PeftModel.from_pretrained(load(work), work["init"], is_trainable=True).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    first = [parameter.detach().clone() for parameter in parameters]
    edits = [[torch.tensor([tokens], device=work["device"]) for tokens in documents] for documents in work["edits"]]

    sizes = []

    def run():
        losses = []
        for documents in edits:
            with torch.no_grad():
                for parameter, value in zip(parameters, first, strict=True):
                    parameter.copy_(value)
            losses.append(train(model, parameters, documents, work))
            if not sizes:
                sizes.extend(norms(model))
        return {"loss": losses, "norms": sizes}

    return run


if __name__ == "__main__":
    serve(prepare)
