"""The PyTorch side of `speednet.py`: dlkit's speednet and its recipe, written for PyTorch.

Runs in an environment of its own, with torch and numpy and without dlkit. Takes one JSON object as
its argument and prints one.
"""

# torch lives in the peer's environment alone.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

BATCH, RATE, DECAY, WARMUP = 128, 2e-3, 0.01, 50
EMA, EMA_EVERY = 0.998, 5
REACH = 2  # pixels that an image is moved by at most


class Scaled(nn.Module):
    """The fixed factor on the logits."""

    def forward(self, x: Any) -> Any:
        return 0.11 * x


def conv(before: int, filters: int) -> Any:
    """A convolution whose first filters start as the identity."""
    layer = nn.Conv2d(before, filters, 3, padding=1, bias=False)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    nn.init.dirac_(layer.weight.data[: min(before, filters)])
    return layer


def norm(filters: int) -> Any:
    """Batch norm whose scale stays 1."""
    layer = nn.BatchNorm2d(filters, eps=1e-3, momentum=0.2)
    layer.weight.requires_grad_(False)
    return layer


def whitening(images: Any, size: int = 3) -> Any:
    """The fixed first layer: whitened patches of `images`, standardised `(n, 1, h, w)`."""
    patches = functional.unfold(images, size).transpose(1, 2).reshape(-1, size * size).double()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    kernels = (vectors / torch.sqrt(values.clamp(min=0) + 5e-4)).flip(1).T
    layer = nn.Conv2d(1, 2 * size * size, size)
    layer.weight.data = torch.cat([kernels, -kernels]).float().reshape(-1, 1, size, size)
    layer.weight.requires_grad_(False)
    nn.init.zeros_(layer.bias)
    return layer


def speednet(images: Any) -> Any:
    """Speednet at its defaults, for grey images."""
    parts: list[Any] = [whitening(images), nn.ReLU(inplace=True)]
    before = 18
    for filters in (32, 64, 128):
        parts += [conv(before, filters), nn.MaxPool2d(2), norm(filters), nn.ReLU(inplace=True)]
        parts += [conv(filters, filters), norm(filters), nn.ReLU(inplace=True)]
        before = filters
    head = nn.Linear(before, 10, bias=False)
    nn.init.xavier_uniform_(head.weight)
    return nn.Sequential(*parts, nn.AdaptiveMaxPool2d(1), nn.Flatten(), head, Scaled())


def augmented(padded: Any, rows: Any, epoch: int) -> Any:
    """Gather a batch from images padded by `REACH`, each moved at random and mirrored in turn."""
    side = padded.shape[-1] - 2 * REACH
    line = torch.arange(side)
    down = torch.randint(0, 2 * REACH + 1, (len(rows), 1)) + line
    right = torch.randint(0, 2 * REACH + 1, (len(rows), 1))
    turned = ((rows * 2654435761 >> 16) + epoch) % 2 == 1
    across = right + torch.where(turned[:, None], side - 1 - line, line)
    return padded[rows[:, None, None], :, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)


def answer(net: Any, x: Any, views: bool) -> Any:
    """Return logits, with `views` the mean over shifted and mirrored images."""
    if not views:
        return net(x)
    side = x.shape[-1]
    wide = functional.pad(x, (1, 1, 1, 1), mode="reflect")
    total: Any = 0.0
    for shift, weight in ((0, 0.25), (-1, 0.125), (1, 0.125)):
        start = 1 - shift
        view = wide[:, :, start : start + side, start : start + side]
        total = total + weight * (net(view) + net(view.flip(3)))
    return total


@torch.no_grad()
def accuracy(net: Any, x: Any, y: Any, views: bool = False) -> float:
    net.eval()
    parts = [answer(net, part, views).argmax(1) for part in x.split(500)]
    net.train()
    return float((torch.cat(parts) == y).float().mean())


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.manual_seed(job["seed"])
    stored = np.load(job["arrays"])
    mean, deviation = stored["x_train"].mean(), stored["x_train"].std()

    def images(name: str) -> Any:
        pixels = (stored[f"x_{name}"].astype(np.float32) - mean) / deviation
        return torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32).copy())

    split = {
        name: (images(name), torch.from_numpy(stored[f"y_{name}"].astype(np.int64)))
        for name in ("train", "validation", "test")
    }
    x, y = split["train"]
    padded = functional.pad(x, (REACH,) * 4, mode="reflect")
    net = speednet(x[:5000]).to(memory_format=torch.channels_last)
    average = speednet(x[:5000]).to(memory_format=torch.channels_last)
    average.load_state_dict(net.state_dict())
    weights = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in weights if p.ndim > 1]},
            {"params": [p for p in weights if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=RATE,
        weight_decay=DECAY,
        eps=1e-7,  # Keras's
        fused=True,
    )
    curve: list[tuple[float, float]] = []
    step, epoch, began = 0, 0, time.monotonic()
    share = 0.0
    while share < 1:
        order = torch.randperm(len(x))
        for rows in order[: len(x) // BATCH * BATCH].split(BATCH):
            share = (time.monotonic() - began) / job["seconds"]
            if share >= 1:
                break
            rise = min(1.0, (step + 1) / WARMUP)
            for group in optimizer.param_groups:
                group["lr"] = RATE * rise * 0.5 * (1 + math.cos(math.pi * share))
            batch = augmented(padded, rows, epoch).contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(net(batch), y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            if step % EMA_EVERY == 0:
                kept = min(EMA, (1 + step) / (10 + step)) ** EMA_EVERY
                pairs = zip(average.state_dict().values(), net.state_dict().values(), strict=True)
                for mean_value, value in pairs:
                    if value.is_floating_point():
                        mean_value.lerp_(value, 1 - kept)
        epoch += 1
        curve.append((time.monotonic() - began, accuracy(average, *split["validation"])))
    found = {
        "curve": curve,
        "parameters": sum(p.numel() for p in weights),
        "test": accuracy(average, *split["test"]),
        "test_views": accuracy(average, *split["test"], views=True),
        "versions": {"torch": torch.__version__},
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
