"""Peer of `fork`: a deep copy of the model, weights and all, and dropping it. Result: {"parameters": n}."""

import copy

from common import load, serve


def prepare(work):
    model = load(work)

    def run():
        duplicate = copy.deepcopy(model)
        return {"parameters": sum(parameter.numel() for parameter in duplicate.parameters())}

    return run


if __name__ == "__main__":
    serve(prepare)
