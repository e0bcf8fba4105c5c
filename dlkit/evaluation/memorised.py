"""Whether generated pictures are copies: their nearest training pictures, in the space of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

RATIO = 1 / 3
# Root mean square over the values of a picture: a level, as rounding to uint8 leaves.
NEARLY_ZERO = 1.0
# Candidates by single-precision products, of which the exact distance is then taken.
CANDIDATES = 4
# Values of training pictures, and of distances, in a block.
VALUES = 2**25


@dataclass(frozen=True)
class Copies:
    """What training pictures lie nearest to each of n samples.

    Attributes:
        nearest: row of the nearest and of the second nearest, int64 `(n, 2)`.
        distance: Euclidean, over values in [0, 255], float64 `(n, 2)`.
        memorised: whether the nearest is suspiciously near, bool `(n,)`.
    """

    nearest: np.ndarray
    distance: np.ndarray
    memorised: np.ndarray

    @property
    def share(self) -> float:
        """Share of the samples that are memorised."""
        return float(self.memorised.mean())


def memorised(samples: np.ndarray, training: Any) -> Copies:
    """Find the two nearest training pictures of each sample, and say which samples are copies.

    A sample is one whose nearest training picture is nearer than a third of the second nearest, or
    a level away (root mean square), which finds copies of pictures that stand in the training set
    twice.

    Args:
        samples: uint8 `(n, h, w, c)`.
        training: uint8 `(m, h, w, c)`, m at least 2, an array or rows on disk.
    Reference:
        Yoon et al. 2023, "Diffusion probabilistic models generalize when they fail to memorize",
        ICML workshop on structured probabilistic inference, for the third.
    """
    width = int(np.prod(samples.shape[1:]))
    # About grey the products are smaller, and so is the error of single precision.
    x = samples.reshape(len(samples), -1).astype(np.float32) - 127.5
    block = int(max(1, min(len(training), VALUES // max(width, len(samples)))))
    best = np.full((len(samples), CANDIDATES), np.inf, np.float32)
    rows = np.zeros((len(samples), CANDIDATES), np.int64)
    for start in range(0, len(training), block):
        y = training[start : start + block].reshape(-1, width).astype(np.float32) - 127.5
        # Without the sample's own square, which changes no order.
        near = np.einsum("ij,ij->i", y, y) - 2.0 * (x @ y.T)  # (n, block)
        some = min(CANDIDATES, len(y))
        at = np.argpartition(near, some - 1, axis=1)[:, :some]
        near = np.concatenate([best, np.take_along_axis(near, at, 1)], 1)
        at = np.concatenate([rows, at + start], 1)
        kept = np.argsort(near, axis=1, kind="stable")[:, :CANDIDATES]
        best, rows = np.take_along_axis(near, kept, 1), np.take_along_axis(at, kept, 1)
    exact = np.full(best.shape, np.inf)
    for place in range(CANDIDATES):
        for start in range(0, len(samples), 256):
            some = slice(start, start + 256)
            other = training[rows[some, place]].reshape(-1, width).astype(np.int32)
            apart = samples[some].reshape(-1, width).astype(np.int32) - other
            exact[some, place] = np.sqrt(np.square(apart).sum(1, dtype=np.int64))
    exact[~np.isfinite(best)] = np.inf  # fewer training pictures than candidates
    order = np.argsort(exact, axis=1, kind="stable")[:, :2]
    nearest, distance = (np.take_along_axis(a, order, 1) for a in (rows, exact))
    copied = (distance[:, 0] < RATIO * distance[:, 1]) | (
        distance[:, 0] <= NEARLY_ZERO * width**0.5
    )
    return Copies(nearest, distance, copied)
