"""Peer of evaluating edited forks: one edit at a time, its questions as one left-padded batch, greedy.

Work, besides what common.py reads: questions [[[token ids] a question] an edit], maxTokens, and one of
  adapters  [a PEFT folder an edit]: all are loaded beforehand, each is switched on before its questions
  scatters  [a safetensors file an edit] with, per matrix, NAME.index (positions in the flat matrix) and NAME.values: added
            in place before the edit's questions, and taken back after them by putting the old values back
Result: {"tokens": [[ids]], "logprobs": [[…]]}, edit by edit, question by question. The log-probs are only computed in the
first run, which is not timed.
"""

import torch
from peft import PeftModel
from safetensors.torch import load_file

from common import load, serve
from generation import generate, left_padded, without_defaults


class Adapters:
    def __init__(self, model, folders):
        self.model = PeftModel.from_pretrained(model, folders[0], adapter_name="0")
        for index, folder in enumerate(folders[1:], 1):
            self.model.load_adapter(folder, adapter_name=str(index))
        self.model.eval()

    def edit(self, index):
        self.model.set_adapter(str(index))

    def revert(self):
        pass


class Scatters:
    def __init__(self, model, files):
        self.model = model
        weights = {name.removesuffix(".weight"): weight.data.view(-1) for name, weight in model.named_parameters()}
        self.edits = []
        for file in files:
            tensors = load_file(file, device=str(model.device))
            names = [name.removesuffix(".index") for name in tensors if name.endswith(".index")]
            self.edits.append([(weights[name], tensors[f"{name}.index"], tensors[f"{name}.values"]) for name in names])
        self.saved = []

    def edit(self, index):
        for weight, at, values in self.edits[index]:
            old = weight[at]
            self.saved.append((weight, at, old))
            weight[at] = (old.float() + values).to(old.dtype)

    def revert(self):
        for weight, at, old in self.saved:
            weight[at] = old
        self.saved.clear()


def prepare(work):
    model = without_defaults(load(work))
    edited = Adapters(model, work["adapters"]) if "adapters" in work else Scatters(model, work["scatters"])
    batches = [left_padded(questions, work["device"]) for questions in work["questions"]]
    first = True

    @torch.inference_mode()
    def run():
        nonlocal first
        tokens, logprobs = [], []
        for index, batch in enumerate(batches):
            edited.edit(index)
            ids, values = generate(edited.model, batch, work["maxTokens"], first)
            edited.revert()
            tokens += ids
            logprobs += values
        first = False
        return {"tokens": tokens, "logprobs": logprobs}

    return run


if __name__ == "__main__":
    serve(prepare)
