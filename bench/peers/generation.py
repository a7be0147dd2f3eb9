"""transformers' own generate on a left-padded batch, greedy, for the peers that generate."""

import torch


def left_padded(rows, device):
    length = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, length - len(row):] = torch.tensor(row)
        mask[i, length - len(row):] = 1
    return tokens.to(device), mask.to(device)


def without_defaults(model):
    """No row ends early: end-of-text is an ordinary token, so that both sides do all steps."""
    model.generation_config = type(model.generation_config)(eos_token_id=None, pad_token_id=0)
    return model


def generate(model, batch, max_tokens, logprobs):
    """[[ids]] and, when wanted, [[log-prob of each of them]]."""
    prompt, mask = batch
    output = model.generate(input_ids=prompt, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False,
                            return_dict_in_generate=True, output_scores=logprobs)
    tokens = output.sequences[:, prompt.shape[1]:].tolist()
    if not logprobs:
        return tokens, []
    picked = [torch.log_softmax(scores.float(), -1).gather(1, output.sequences[:, prompt.shape[1] + i, None])
              for i, scores in enumerate(output.scores)]
    return tokens, torch.cat(picked, 1).tolist()
