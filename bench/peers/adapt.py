"""Peer of `adapt`: transformers + PEFT + torch AdamW, one edit after another, one unpadded document a step.

Work, besides what common.py reads:
  edits [[[token ids] a document] an edit], rank (32), alpha (64), targets (["q_proj", "v_proj"]), learningRate (1e-3),
  epochs (10), schedule ("linear"), clip (1.0), seed (0), init (a PEFT folder: every edit starts from its values)
Documents are visited in the given order. The frozen base is loaded once; every edit starts from the same first adapter.
The adapter is float32 whatever the base's type, as PEFT makes it by default.
Result: {"loss": [[per step] an edit], "steps": n, "norms": [[Frobenius norm of B·A·scale per matrix] an edit]}.
`tokens` counts document tokens times epochs.

Run: echo '{"model": "FOLDER", "edits": [[[1, 2, 3]]], "epochs": 1}' | python bench/peers/adapt.py
"""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import get_scheduler

from common import load, serve


def attach(model, work):
    if "init" in work:
        return PeftModel.from_pretrained(model, work["init"], is_trainable=True)
    torch.manual_seed(work.get("seed", 0))
    config = LoraConfig(r=work.get("rank", 32), lora_alpha=work.get("alpha", 64), lora_dropout=0.0, bias="none",
                        target_modules=work.get("targets", ["q_proj", "v_proj"]), task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def train(model, parameters, documents, work):
    total = work.get("epochs", 10) * len(documents)
    optimizer = torch.optim.AdamW(parameters, lr=work.get("learningRate", 1e-3), betas=(0.9, 0.999), eps=1e-8,
                                  weight_decay=0.0)
    scheduler = get_scheduler(work.get("schedule", "linear"), optimizer, 0, total)
    losses = []
    for _ in range(work.get("epochs", 10)):
        for tokens in documents:
            loss = model(tokens, labels=tokens, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, work.get("clip", 1.0))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
    return [float(loss) for loss in losses]


def norms(model):
    """Read from the trained factors, outside the steps; a few milliseconds."""
    layers = [module for module in model.modules() if hasattr(module, "lora_A") and len(module.lora_A) > 0]
    return [float((layer.lora_B["default"].weight @ layer.lora_A["default"].weight).norm() * layer.scaling["default"])
            for layer in layers]


def prepare(work):
    model = attach(load(work), work).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    first = [parameter.detach().clone() for parameter in parameters]
    edits = [[torch.tensor([tokens]) for tokens in documents] for documents in work["edits"]]

    def run():
        losses, sizes = [], []
        for documents in edits:
            with torch.no_grad():
                for parameter, value in zip(parameters, first, strict=True):
                    parameter.copy_(value)
            losses.append(train(model, parameters, documents, work))
            sizes.append(norms(model))
        tokens = work.get("epochs", 10) * sum(document.numel() for documents in edits for document in documents)
        return tokens, {"loss": losses, "steps": sum(map(len, losses)), "norms": sizes}

    return run


if __name__ == "__main__":
    serve(prepare)
