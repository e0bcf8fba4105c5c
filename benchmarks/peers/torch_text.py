"""The PyTorch sides of `text_throughput.py`: nanoGPT's net and an LSTM, trained and generating.

Runs in an environment of its own, with torch and numpy and without dlkit. Takes one JSON object as
its argument; each line on standard input asks for one measurement.
"""

# torch lives in the peer's environment alone.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """A block of GPT-2, without biases."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_a, self.norm_b = nn.LayerNorm(dim, bias=False), nn.LayerNorm(dim, bias=False)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.up, self.down = (
            nn.Linear(dim, 4 * dim, bias=False),
            nn.Linear(4 * dim, dim, bias=False),
        )

    def forward(self, x: Any) -> Any:
        b, t, d = x.shape
        parts = self.qkv(self.norm_a(x)).split(d, 2)
        q, k, v = (p.view(b, t, self.heads, d // self.heads).transpose(1, 2) for p in parts)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, d))
        return x + self.down(functional.gelu(self.up(self.norm_b(x))))


class Gpt(nn.Module):
    """nanoGPT's net: learned positions, tied head."""

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__()
        dim, self.context = job["dim"], job["context"]
        self.tokens = nn.Embedding(job["vocabulary"], dim)
        self.positions = nn.Embedding(self.context, dim)
        self.blocks = nn.ModuleList(Block(dim, job["heads"]) for _ in range(job["depth"]))
        self.norm = nn.LayerNorm(dim, bias=False)

    def forward(self, x: Any) -> Any:
        h = self.tokens(x) + self.positions.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return functional.linear(self.norm(h), self.tokens.weight)


class Lstm(nn.Module):
    """Embedding, stacked LSTM, logits."""

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__()
        self.tokens = nn.Embedding(job["vocabulary"], job["embedding"])
        self.lstm = nn.LSTM(job["embedding"], job["units"], job["depth"], batch_first=True)
        self.head = nn.Linear(job["units"], job["vocabulary"])

    def forward(self, x: Any) -> Any:
        return self.head(self.lstm(self.tokens(x))[0])


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.manual_seed(0)
    net = (Gpt if job["net"] == "gpt" else Lstm)(job)
    matrices = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": others, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.99),
        weight_decay=0.1,
        fused=True,
    )
    x = torch.randint(0, job["vocabulary"], (job["batch"], job["context"] + 1))

    def train() -> None:
        logits = net(x[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    @torch.no_grad()
    def generate() -> None:
        """As nanoGPT does: the whole context again for each token."""
        row = x[:1, :1]
        for _ in range(job["tokens"]):
            logits = net(row[:, -job["context"] :])[:, -1] / 0.8
            row = torch.cat([row, torch.multinomial(logits.softmax(-1), 1)], 1)

    work = generate if job["work"] == "generate" else train
    work()
    work()
    about = {
        "parameters": sum(p.numel() for p in net.parameters()),
        "versions": {"torch": torch.__version__},
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < job["seconds"]:
            work()
            done += 1
        print(json.dumps({"done": done, "seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main()
