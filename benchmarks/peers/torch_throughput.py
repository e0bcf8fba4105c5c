"""The PyTorch side of `train_throughput.py`: trains one net and answers with timings.

Runs in an environment of its own, with torch and numpy and without dlkit. Takes one JSON object as
its argument; then each line on standard input asks for one measurement, and standard output answers
with a line of JSON.
"""

# torch lives in the peer's environment alone.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset


class Block(nn.Module):
    """Residual block with the parameter-free shortcut: every second pixel, zeros for new channels."""

    def __init__(self, before: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv_a = nn.Conv2d(before, filters, 3, stride, padding=1, bias=False)
        self.norm_a = nn.BatchNorm2d(filters)
        self.conv_b = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.norm_b = nn.BatchNorm2d(filters)
        self.stride, self.new = stride, filters - before

    def forward(self, x: Any) -> Any:
        y = functional.relu(self.norm_a(self.conv_a(x)), inplace=True)
        y = self.norm_b(self.conv_b(y))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))
        return functional.relu(y + x, inplace=True)


def lenet(linear: bool) -> Any:
    """LeNet-5; padding of 2 brings 28 x 28 to the 32 x 32 that the first convolution reads.

    Its third convolution has 1 x 1 outputs: as a linear layer it is the same function.
    """
    c5 = [nn.Flatten(), nn.Linear(400, 120)] if linear else [nn.Conv2d(16, 120, 5), nn.Flatten()]
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        *c5, nn.ReLU(inplace=True),
        nn.Linear(120, 84), nn.ReLU(inplace=True), nn.Linear(84, 10),
    )  # fmt: skip


def resnet_20() -> Any:
    """ResNet-20 of the CIFAR family."""
    parts = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    before = 16
    for filters in (16, 32, 64):
        for block in range(3):
            parts.append(Block(before, filters, 2 if filters > 16 and block == 0 else 1))
            before = filters
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def make_loader(x: Any, y: Any, batch_size: int, whole: bool, generator: Any) -> Any:
    """Return the loader; `whole` draws each batch by one index into the tensors.

    The plain loader fetches row by row and stacks, in this process: workers only cost more when the
    rows lie in memory.
    """
    rows = TensorDataset(x, y)
    if not whole:
        return DataLoader(rows, batch_size, shuffle=True, drop_last=True, generator=generator)
    batches = BatchSampler(RandomSampler(rows, generator=generator), batch_size, drop_last=True)
    return DataLoader(rows, sampler=batches, batch_size=None)


def main() -> None:
    job = json.loads(sys.argv[1])
    variant = set(job["variant"].split("-"))
    torch.manual_seed(job["seed"])
    stored = np.load(job["arrays"])
    rows = job["steps"] * job["batch_size"]
    x = torch.from_numpy(stored["x"][:rows].transpose(0, 3, 1, 2).copy())  # (n, c, h, w)
    y = torch.from_numpy(stored["y"][:rows].astype(np.int64))
    net = lenet("linear" in variant) if job["net"] == "lenet" else resnet_20()
    if "channelslast" in variant:
        net = net.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        lr=job["learning_rate"],
        weight_decay=job["weight_decay"],
        eps=1e-7,  # Keras's
        fused="fused" in variant or None,
    )
    whole = "batches" in variant
    generator = torch.Generator().manual_seed(job["seed"])
    loader = make_loader(x, y, job["batch_size"], whole, generator)
    forward = torch.compile(net) if "compiled" in variant else net

    def epoch() -> dict[str, float]:
        net.train()
        loss_sum, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for images, labels in loader:
            logits = forward(images)
            loss = functional.cross_entropy(logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach()
            correct += (logits.detach().argmax(1) == labels).sum()
        return {"loss": loss_sum.item() / job["steps"], "accuracy": correct.item() / rows}

    began = time.perf_counter()
    epoch()
    about = {
        "parameters": sum(p.numel() for p in net.parameters()),
        "versions": {"torch": torch.__version__},
        "settings": {"threads": torch.get_num_threads()},
        "warmup_seconds": round(time.perf_counter() - began, 2),
    }
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        began, images, logs = time.perf_counter(), 0, {}
        while not images or time.perf_counter() - began < job["seconds"]:
            logs = epoch()
            images += rows
        seconds = time.perf_counter() - began
        print(json.dumps({"images": images, "seconds": seconds, **logs}), flush=True)


if __name__ == "__main__":
    main()
