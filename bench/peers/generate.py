"""Peer of `generate`: transformers' own generate, left-padded batches, prompts repeated for several samples.

Work, besides what common.py reads:
  prompts [[token ids]], samples (1), maxTokens, temperature (0 is greedy), topP (1), topK (0), seed (0),
  batch (all rows at once), logprobs (true: also the log-prob of every generated token)
No row ends early: end-of-text is an ordinary token, so that both sides do `maxTokens` steps.
Result: {"tokens": [[ids]], "logprobs": [[…]]}, row-major: prompt 0 sample 0, prompt 0 sample 1, …
`tokens` counts the generated tokens. With temperature, top-p or top-k the log-probs are those of the changed distribution.

Run: echo '{"model": "FOLDER", "prompts": [[1, 2, 3]], "maxTokens": 8}' | python bench/peers/generate.py
"""

import torch

from common import load, serve


def left_padded(rows):
    length = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, length - len(row):] = torch.tensor(row)
        mask[i, length - len(row):] = 1
    return tokens, mask


def prepare(work):
    model = load(work)
    # The model's own defaults (end of text, temperature, …) must not take part.
    model.generation_config = type(model.generation_config)(eos_token_id=None, pad_token_id=0)
    rows = [prompt for prompt in work["prompts"] for _ in range(work.get("samples", 1))]
    size = work.get("batch") or len(rows)
    batches = [left_padded(rows[i:i + size]) for i in range(0, len(rows), size)]
    temperature = work.get("temperature", 0)
    options = {"max_new_tokens": work["maxTokens"], "do_sample": temperature > 0, "return_dict_in_generate": True}
    wanted = work.get("logprobs", True)
    if temperature > 0:
        options.update(temperature=temperature, top_p=work.get("topP", 1.0), top_k=work.get("topK", 0))
    options["output_scores"] = wanted

    @torch.inference_mode()
    def run():
        torch.manual_seed(work.get("seed", 0))
        tokens, logprobs = [], []
        for prompt, mask in batches:
            output = model.generate(prompt, attention_mask=mask, **options)
            tokens += output.sequences[:, prompt.shape[1]:].tolist()
            if wanted:
                scores = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
                logprobs += scores.float().tolist()
        return sum(map(len, tokens)), {"tokens": tokens, "logprobs": logprobs}

    return run


if __name__ == "__main__":
    serve(prepare)
