"""Scores of a classifier, each with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

BINS = 15
RESAMPLES = 1000
TINY = 1e-12


def scores(probabilities: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> dict:
    """Score predicted probabilities.

    Args:
        probabilities: `(n, classes)`, rows summing to 1.
        y: class numbers `(n,)`.
        weights: how often each row counts, `(n,)`; once if None.
    Returns:
        `accuracy`, `macro_f1` (mean over the classes that occur in `y` or in the answers),
        `log_loss` (nats), `ece` (expected calibration error in 15 equal-width bins, Guo et al.
        2017, arXiv:1706.04599) and, with more than 5 classes, `top_5_accuracy`: all but log loss
        in [0, 1].
    """
    n, classes = probabilities.shape
    w = np.ones(n) if weights is None else weights
    answer, confidence = probabilities.argmax(1), probabilities.max(1)
    correct = answer == y
    confusion = np.bincount(y * classes + answer, weights=w, minlength=classes**2)
    confusion = confusion.reshape(classes, classes)
    precise = confusion.diagonal()
    occurring = confusion.sum(0) + confusion.sum(1)
    f1 = 2 * precise[occurring > 0] / occurring[occurring > 0]
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gap = np.bincount(bins, weights=w * (correct - confidence), minlength=BINS)
    picked = np.maximum(probabilities[np.arange(n), y], TINY)
    total = w.sum()
    result = {
        "accuracy": float(w @ correct / total),
        "macro_f1": float(f1.mean()),
        "log_loss": float(-(w @ np.log(picked)) / total),
        "ece": float(np.abs(gap).sum() / total),
    }
    if classes > 5:
        above = (probabilities > probabilities[np.arange(n), y][:, None]).sum(1)
        result["top_5_accuracy"] = float(w @ (above < 5) / total)
    return result


def reliability(probabilities: np.ndarray, y: np.ndarray) -> list[dict[str, float]]:
    """Return the bins that the expected calibration error is a mean over, empty ones left out.

    Returns:
        Of each bin `low` and `high` (confidence in [low, high), the last closed), `rows`, their mean
        `confidence` and their `accuracy`. The mean of |accuracy - confidence|, weighted by rows, is
        `ece`.
    """
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == y
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        {
            "low": i / BINS,
            "high": (i + 1) / BINS,
            "rows": int(np.sum(number == i)),
            "confidence": float(confidence[number == i].mean()),
            "accuracy": float(correct[number == i].mean()),
        }
        for i in range(BINS)
        if np.any(number == i)
    ]


def intervals(
    probabilities: np.ndarray, y: np.ndarray, names: Mapping[str, Any], seed: int = 0
) -> dict[str, list[float]]:
    """Return a 95 % percentile bootstrap interval of each named score, over 1,000 resamples."""
    generator = np.random.default_rng(seed)
    n = len(y)
    draws = {name: np.empty(RESAMPLES) for name in names}
    for i in range(RESAMPLES):
        weights = np.bincount(generator.integers(0, n, n), minlength=n).astype(float)
        sample = scores(probabilities, y, weights)
        for name in draws:
            draws[name][i] = sample[name]
    return {
        name: [float(v) for v in np.percentile(values, (2.5, 97.5))]
        for name, values in draws.items()
    }


def per_class(
    probabilities: np.ndarray, y: np.ndarray, labels: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return label, rows, precision, recall and F1 of each class; undefined ones are None."""
    answer = probabilities.argmax(1)
    table = []
    for number, label in enumerate(labels):
        hit = int(np.sum((answer == number) & (y == number)))
        given, there = int(np.sum(answer == number)), int(np.sum(y == number))
        table.append(
            {
                "label": label,
                "rows": there,
                "precision": hit / given if given else None,
                "recall": hit / there if there else None,
                "f1": 2 * hit / (given + there) if given + there else None,
            }
        )
    return table
