"""Peer of a policy update: TRL's own clipped loss on a PEFT model, on fixed rollouts.

TRL's trainers sample their rollouts themselves. So a GRPOTrainer is built (its patched forward, its chunked head, its
`dr_grpo` loss: the clipped surrogate, summed and divided by rows × completion length), and its loss is called on our
rollouts in a plain loop with torch's AdamW and gradient clipping.

Work, besides what common.py reads: init (a PEFT folder), rows [[token ids]], promptLength, advantages [one a row],
minibatch, clip, learningRate, maxGradNorm, weightDecay.
Result: {"loss": [per step], "gradNorm": [per step, before clipping]}.
"""

import contextlib
import sys
import tempfile

import torch
from peft import PeftModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from common import load, serve

with contextlib.redirect_stdout(sys.stderr):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer


def trainer_of(model, work, completion, folder):
    """Nothing of the tokenizer, the data and the reward is used: the rollouts are given."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a")),
                                        pad_token="a", eos_token="b")
    options = GRPOConfig(
        output_dir=folder, loss_type="dr_grpo", beta=0.0, epsilon=work["clip"], max_completion_length=completion,
        per_device_train_batch_size=work["minibatch"], num_generations=work["minibatch"], report_to="none",
        use_cpu=work["device"] == "cpu", bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        disable_dropout=True, temperature=1.0,
    )
    trainer = GRPOTrainer(model=model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=options,
                          train_dataset=Dataset.from_dict({"prompt": ["a"] * work["minibatch"]}),
                          processing_class=tokenizer)
    trainer.current_gradient_accumulation_steps = 1  # its training loop sets it
    return trainer


def prepare(work):
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        completion = len(work["rows"][0]) - work["promptLength"]
        model = PeftModel.from_pretrained(load(work), work["init"], is_trainable=True).train()
        trainer = trainer_of(model, work, completion, folder)
    model = trainer.model
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    first = [parameter.detach().clone() for parameter in parameters]
    tokens = torch.tensor(work["rows"], device=work["device"])
    advantages = torch.tensor(work["advantages"], device=work["device"])
    mask = torch.ones_like(tokens)
    at, size = work["promptLength"], work["minibatch"]

    def run():
        with torch.no_grad():
            for parameter, value in zip(parameters, first, strict=True):
                parameter.copy_(value)
        optimizer = torch.optim.AdamW(parameters, lr=work["learningRate"], weight_decay=work["weightDecay"])
        losses, norms, old = [], [], []
        with torch.no_grad():
            for start in range(0, len(tokens), size):
                rows = slice(start, start + size)
                old.append(trainer._get_per_token_logps_and_entropies(model, tokens[rows], mask[rows], completion)[0])
        old = torch.cat(old)
        for start in range(0, len(tokens), size):
            rows = slice(start, start + size)
            loss = trainer._compute_loss(model, {
                "prompt_ids": tokens[rows, :at], "prompt_mask": mask[rows, :at], "completion_ids": tokens[rows, at:],
                "completion_mask": mask[rows, at:], "advantages": advantages[rows], "old_per_token_logps": old[rows],
            })
            loss.backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, work["maxGradNorm"])))
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss))
        return {"loss": losses, "gradNorm": norms}

    return run


if __name__ == "__main__":
    serve(prepare)
