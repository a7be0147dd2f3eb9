"""How fast the hardware is: {"operations": a second, of torch's best product, "bandwidth": bytes a second, reading}."""

import statistics

import torch

from common import DTYPES, serve, timed


def median_seconds(call, device):
    call()
    return statistics.median(timed(call, device)[0] for _ in range(5))


def prepare(work):
    device, dtype = work["device"], DTYPES[work["dtype"]]

    def run():
        size = 8192 if device.startswith("cuda") else 2048
        x, w = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        products = [lambda: x @ w]
        if device == "cpu" and torch.backends.mkldnn.is_available():
            from torch.utils import mkldnn

            linear = torch.nn.Linear(size, size, bias=False, dtype=dtype).eval()
            packed = mkldnn.to_mkldnn(linear, dtype) if dtype == torch.float32 else linear
            given = x.to_mkldnn() if dtype == torch.float32 else x
            products.append(lambda: packed(given))
        with torch.inference_mode():
            best = min(median_seconds(product, device) for product in products)
            array = torch.ones(1 << 28, device=device, dtype=torch.float32)
            reading = median_seconds(array.sum, device)
        return {"operations": 2 * size ** 3 / best, "bandwidth": array.numel() * 4 / reading}

    return run


if __name__ == "__main__":
    serve(prepare)
