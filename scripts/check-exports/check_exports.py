"""Exports against PEFT and transformers: what they load gives the log-probs that selfedit gives.

Each MODEL (a folder or a .gguf; by default every folder of test/fixtures/models) is adapted on all linear maps, the adapter is
exported as `peft` and as `merged`, and both are loaded in float32 with eager attention: PEFT on the base (for a .gguf: on a
merged export of a delta of zero, which is the dequantised base), transformers on the merged folder. Prints the largest
difference of a token's log-prob from `selfedit score --adapter`; exits 1 where one exceeds LIMIT.

Run: npm run build && python scripts/check-exports/check_exports.py [MODEL …]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 1e-4
MAPS = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"


def selfedit(*arguments, lines=()):
    """Runs the command line on JSONL; the lines that it prints."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    command = ["node", str(ROOT / "dist/cli/main.js"), *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"selfedit {arguments[0]} ended with {done.returncode}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def token_rows(model):
    """Rows beyond windows and original lengths for the fixtures; text for a real model."""
    expected = model / "expected.json"
    if model.is_dir() and expected.exists():
        return [row["tokens"] for row in json.loads(expected.read_text())["rows"] if len(row["tokens"]) > 1]
    passages = json.loads((ROOT.parent / "shared/data/squad/passages.json").read_text())
    lines = [{"text": passage["context"]} for passage in passages[:6]]
    return [row["tokens"] for row in selfedit("score", "--model", model, "--input", "-", lines=lines)]


def adapt(model, rows, out):
    settings = ["--rank", 4, "--alpha", 8, "--lr", "1e-2" if model.is_dir() else "1e-3", "--epochs", 3, "--targets", MAPS]
    edit = {"id": "edit", "documents": rows}
    selfedit("adapt", "--model", model, "--input", "-", "--out", out, *settings, lines=[edit])
    return out / "edit"


def zero_adapter(adapter, out):
    """The adapter with B = 0, so that merging it leaves the base."""
    out.mkdir()
    (out / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({name: torch.zeros_like(t) if "lora_B" in name else t for name, t in tensors.items()},
              out / "adapter_model.safetensors")
    return out


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def logprobs(model, tokens):
    logits = model(torch.tensor([tokens])).logits[0].double()
    return torch.log_softmax(logits, -1)[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].numpy()


def check(model, work):
    rows = token_rows(model)
    adapter = adapt(model, rows, work / "adapters")
    export = lambda what, source, out: selfedit("export", source, "--model", model, "--out", out, "--format", what,
                                                *(["--dtype", "float32"] if what == "merged" else []))
    export("peft", adapter, work / "peft")
    export("merged", adapter, work / "merged")
    base = model
    if not model.is_dir():
        base = work / "base"
        export("merged", zero_adapter(adapter, work / "zero"), base)
    lines = [{"tokens": row} for row in rows]
    plain = selfedit("score", "--model", model, "--input", "-", lines=lines)
    ours = selfedit("score", "--model", model, "--adapter", adapter, "--input", "-", lines=lines)
    loaded = {"PEFT": PeftModel.from_pretrained(load(base), work / "peft"), "transformers": load(work / "merged")}
    gap = lambda own, others: max(np.abs(np.array(a["logprobs"][1:]) - b).max() for a, b in zip(own, others))
    found = {name: gap(ours, [logprobs(other, row) for row in rows]) for name, other in loaded.items()}
    moved = gap(ours, [np.array(row["logprobs"][1:]) for row in plain])
    return found, moved


def main():
    folders = sorted(path.parent for path in (ROOT / "test/fixtures/models").glob("*/config.json"))
    good = True
    for model in [Path(name).resolve() for name in sys.argv[1:]] or folders:
        with tempfile.TemporaryDirectory() as work:
            found, moved = check(model, Path(work))
        # An adapter that changes nothing would prove nothing.
        good = good and max(found.values()) <= LIMIT and moved > 100 * LIMIT
        gaps = ", ".join(f"{name} {gap:.1e}" for name, gap in found.items())
        print(f"{model.name}: {gaps}; the adapter moved log-probs by up to {moved:.2g}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
