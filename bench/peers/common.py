"""What the peers share: reading the work, loading the model, timing, printing.

A peer does the same work as a benchmark of bench/ with transformers and PEFT. It reads one line of JSON (the work) from
standard input and prints one line of JSON:
  {"seconds": median, "tokens": tokens of one run, "samples": [seconds of each run], "result": …, "versions": {…}}
`result` is what was computed, so that the benchmark can check that both sides did the same.

Every work has
  model     Hugging Face folder or .gguf file; or
  config    a configuration as in config.json: random weights (speed does not depend on values); `seed`, 0 by default
  dtype     "float32" (default) or "bfloat16"
  threads   2 by default
  attention "sdpa" by default, the fastest that transformers has on a CPU; "eager" for comparisons
  warmup    runs before the timed ones, 1 by default
  repeats   timed runs, 3 by default
  alternate true: after the warm-up print {"ready": true}, then do one run for every further line of input and answer it with
            {"seconds": s}, so that both sides can be measured in turn; at the end of the input print the line above
"""

import json
import statistics
import sys
import time
from pathlib import Path

import peft
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load(work):
    options = {"dtype": DTYPES[work.get("dtype", "float32")], "attn_implementation": work.get("attention", "sdpa")}
    if "config" in work:
        torch.manual_seed(work.get("seed", 0))
        config = AutoConfig.for_model(**work["config"])
        return AutoModelForCausalLM.from_config(config, **options).eval()
    path = Path(work["model"])
    if path.suffix == ".gguf":
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, **options).eval()
    return AutoModelForCausalLM.from_pretrained(path, **options).eval()


def timed(run):
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


def answer(value):
    print(json.dumps(value), flush=True)


def serve(prepare):
    """`prepare(work)` returns `run`, and `run()` returns (tokens, result)."""
    work = json.loads(sys.stdin.readline())
    torch.set_num_threads(work.get("threads", 2))
    run = prepare(work)
    tokens = result = None
    for _ in range(work.get("warmup", 1)):
        tokens, result = run()
    samples = []
    if work.get("alternate"):
        answer({"ready": True})
        for _ in iter(sys.stdin.readline, ""):
            seconds, (tokens, result) = timed(run)
            samples.append(seconds)
            answer({"seconds": seconds})
    else:
        for _ in range(work.get("repeats", 3)):
            seconds, (tokens, result) = timed(run)
            samples.append(seconds)
    answer({
        "seconds": statistics.median(samples) if samples else None,
        "tokens": tokens,
        "samples": samples,
        "result": result,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
    })
