"""Images made here, and what a command line did."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LABELS = ("cross", "stripe", "dot")
REAL_DATA = Path(os.environ.get("DLKIT_TEST_DATA", "../shared/data"))


class Done(NamedTuple):
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def pictures(
    n: int, side: int = 12, channels: int = 1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw noisy crosses, stripes and dots: uint8 (n, side, side, channels) and labels (n,)."""
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 60, (n, side, side, channels))
    y = np.arange(n) % len(LABELS)
    for image, label in zip(x, y, strict=True):
        at = int(generator.integers(side // 3, 2 * side // 3))
        if label == 0:
            image[at, :] += 150
            image[:, at] += 150
        elif label == 1:
            image[::3, :] += 150
        else:
            image[at - 1 : at + 2, at - 1 : at + 2] += 180
    return x.clip(0, 255).astype(np.uint8), y
