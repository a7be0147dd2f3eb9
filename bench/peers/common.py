"""What the peers share: reading the work, loading the model, timing, answering.

A peer does the same work as a benchmark of bench/ with transformers and PEFT. It reads one line of JSON (the work) from
standard input, does it once to warm up, and prints one line of JSON:
  {"seconds": of the warm run, "result": what was computed, so that both sides can be compared, "versions": {…}}
For every further line of input it does the work once more and answers {"seconds": s}; so both sides are measured in turn.

Every work has
  model     Hugging Face folder
  device    "cpu", "cuda", "cuda:1", …
  dtype     "float32" or "bfloat16"
  threads   on the CPU
Attention is "sdpa", the fastest that transformers has on a CPU.
"""

import json
import sys
import time
from importlib.metadata import PackageNotFoundError, version

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PACKAGES = ["torch", "transformers", "peft", "trl", "gguf"]


def load(work):
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(
        work["model"], dtype=DTYPES[work["dtype"]], attn_implementation="sdpa"
    ).to(work["device"]).eval()


def versions():
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            pass
    return found


def timed(run, device):
    begin = time.perf_counter()
    result = run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - begin, result


def answer(value):
    print(json.dumps(value), flush=True)


def serve(prepare):
    """`prepare(work)` returns `run`; `run()` does the work once and returns its result, ready for JSON."""
    work = json.loads(sys.stdin.readline())
    torch.set_num_threads(work["threads"])
    run = prepare(work)
    seconds, result = timed(run, work["device"])
    answer({"seconds": seconds, "result": result, "versions": versions()})
    for _ in iter(sys.stdin.readline, ""):
        seconds, _ = timed(run, work["device"])
        answer({"seconds": seconds})
