"""Two classifiers on the same rows: their difference is surer than their two intervals say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.evaluation.classification import RESAMPLES, TINY


def write(probabilities: np.ndarray, y: np.ndarray, path: Path) -> None:
    """Write what is kept of a classifier's answers, so that two can be compared row by row.

    Args:
        probabilities: `(n, classes)`, rows summing to 1.
        y: class numbers `(n,)`.
        path: an .npz file; it gets arrays `(n,)`: int32 `truth` and `answer`, float32 `confidence`
            (the answer's probability) and `picked` (the true class's), both in [0, 1].
    """
    np.savez_compressed(
        path,
        truth=y.astype(np.int32),
        answer=probabilities.argmax(1).astype(np.int32),
        confidence=probabilities.max(1).astype(np.float32),
        picked=probabilities[np.arange(len(y)), y].astype(np.float32),
    )


def differences(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], seed: int = 0
) -> dict[str, Any]:
    """Compare two sets of answers to the same rows, in the same order.

    Args:
        first, second: the arrays that `write` wrote.
        seed: of the 1,000 resamples of rows; each keeps a row's two answers together.
    Returns:
        `accuracy` and `log_loss` (nats), each with `difference` (second less first) and `interval`
        (its 95 % percentile bootstrap interval); `only_first_right`, `only_second_right` (rows).
    """
    right = [each["answer"] == each["truth"] for each in (first, second)]
    loss = [
        -np.log(np.maximum(each["picked"].astype(np.float64), TINY)) for each in (first, second)
    ]
    rows = np.stack([right[1].astype(np.float64) - right[0], loss[1] - loss[0]], 1)  # (n, 2)
    generator = np.random.default_rng(seed)
    n = len(rows)
    draws = np.stack(
        [np.bincount(generator.integers(0, n, n), minlength=n) @ rows / n for _ in range(RESAMPLES)]
    )
    low, high = np.percentile(draws, (2.5, 97.5), axis=0)
    result: dict[str, Any] = {
        name: {
            "difference": float(rows[:, i].mean()),
            "interval": [float(low[i]), float(high[i])],
        }
        for i, name in enumerate(("accuracy", "log_loss"))
    }
    result["only_first_right"] = int(np.sum(right[0] & ~right[1]))
    result["only_second_right"] = int(np.sum(right[1] & ~right[0]))
    return result
