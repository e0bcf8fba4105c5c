"""nanoGPT's CPU run in PyTorch, by its own recipe: the peer of `text_generation.py`.

Runs in an environment of its own, with torch and numpy and without dlkit. Takes one JSON object as
its argument: `arrays`, an `.npz` of `train`, `windows` (token numbers) and `vocabulary`; `seed`.
Recipe: README ("I only have a macbook") and train.py of github.com/karpathy/nanoGPT, commit 3adf61e.
"""

# torch lives in the peer's environment alone.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import math
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch_text import Gpt

CONTEXT, BATCH, STEPS = 64, 12, 2000
RATE, LOWEST, WARMUP = 1e-3, 1e-4, 100


def rate(step: int) -> float:
    """Warm-up, then half a cosine down to a tenth."""
    if step < WARMUP:
        return RATE * (step + 1) / (WARMUP + 1)
    share = (step - WARMUP) / (STEPS - WARMUP)
    return LOWEST + 0.5 * (1 + math.cos(math.pi * share)) * (RATE - LOWEST)


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.manual_seed(job["seed"])
    stored = np.load(job["arrays"])
    train = torch.from_numpy(stored["train"].astype(np.int64))
    windows = torch.from_numpy(stored["windows"].astype(np.int64))  # (n, context + 1)
    sizes = {"dim": 128, "heads": 4, "depth": 4, "context": CONTEXT}
    net = Gpt({**sizes, "vocabulary": int(stored["vocabulary"])})
    for name, weights in net.named_parameters():
        if weights.ndim > 1:
            ends = name.endswith(("out.weight", "down.weight"))
            nn.init.normal_(weights, 0, 0.02 / math.sqrt(8) if ends else 0.02)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in net.parameters() if p.ndim > 1]},
            {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=RATE,
        betas=(0.9, 0.99),
        weight_decay=0.1,
        fused=True,
    )
    began = time.monotonic()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        starts = torch.randint(len(train) - CONTEXT, (BATCH,))
        rows = torch.stack([train[i : i + CONTEXT + 1] for i in starts])
        logits = net(rows[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    seconds = time.monotonic() - began
    with torch.no_grad():
        logits = net(windows[:, :-1])
        scored = functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    print(
        json.dumps(
            {
                "loss_random_windows": float(scored),
                "training_seconds": seconds,
                "parameters": sum(p.numel() for p in net.parameters()),
                "versions": {"torch": torch.__version__},
            }
        )
    )


if __name__ == "__main__":
    main()
