"""Bootstrap by blocks: neighbours in a text or a series are alike."""

from __future__ import annotations

import numpy as np

RESAMPLES = 1000
# Fewer blocks than that, drawn again and again, come to the same sums: a ring of one block has no other.
FEWEST = 4


def block_length(n: int) -> int:
    """Return how many consecutive rows of n are drawn together: sqrt(n), rounded."""
    return max(1, round(n**0.5))


def resampled(rows: np.ndarray, seed: int = 0, block: int | None = None) -> np.ndarray:
    """Return the sums over 1,000 resamples of rows `(n, k)`, scaled to n rows, `(1000, k)`.

    Blocks of `block` consecutive rows are drawn (`block_length` of n if None), the rows closed to a
    ring.

    Reference:
        Politis & Romano 1992, "A circular block-resampling procedure for stationary data".
    """
    n = len(rows)
    block = min(n, block or block_length(n))
    count = -(-n // block)
    ring = np.concatenate([np.zeros_like(rows[:1]), rows, rows[: block - 1]])
    sums = np.cumsum(ring, 0)
    starts = np.random.default_rng(seed).integers(0, n, (RESAMPLES, count))
    return (sums[starts + block] - sums[starts]).sum(1) * (n / (count * block))


def intervals(rows: np.ndarray, seed: int = 0, block: int | None = None) -> list[list[float]]:
    """Return the 95 % interval of the mean of each column of rows `(n, k)`, neighbours alike.

    Of fewer than four blocks nothing can be told of chance: then it is the lowest and highest row, which
    the mean lies between.
    """
    if len(rows) < FEWEST * (block or block_length(len(rows))):
        return [
            [float(low), float(high)] for low, high in zip(rows.min(0), rows.max(0), strict=True)
        ]
    return [middle(each) for each in (resampled(rows, seed, block) / len(rows)).T]


def middle(values: np.ndarray) -> list[float]:
    """Return the interval that holds the middle 95 % of resampled values."""
    return [float(v) for v in np.percentile(values, (2.5, 97.5))]
