"""Forecasters on the same windows: their difference is surer than their two intervals say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.data.series import SeriesData
from dlkit.evaluation.blocks import intervals
from dlkit.evaluation.forecast import baseline_errors, naive_errors
from dlkit.evaluation.plots import new_figure, save_figure


def window_errors(data: SeriesData, split: str, forecast: np.ndarray) -> np.ndarray:
    """Return the mean squared error of each window of a split, scaled, float64 `(n,)`.

    Args:
        data: the series.
        split: which windows.
        forecast: scaled, `(n, horizon, targets)`, in the order of `data.starts`.
    """
    return ((forecast - data.windows_of(data.scaled, split)) ** 2).mean((1, 2))


def simple_errors(data: SeriesData, split: str) -> dict[str, np.ndarray]:
    """Return the mean squared error of each window of a split, by baseline, `(n,)` each."""
    truth = data.windows_of(data.scaled, split)
    found = baseline_errors(data, split, truth, naive_errors(data))
    return {name: errors["mse"] for name, (errors, _) in found.items()}


def interval(errors: np.ndarray, block: int, seed: int = 0) -> list[float]:
    """Return the 95 % circular block bootstrap interval of the mean of windows' errors `(n,)`.

    See `dlkit.evaluation.blocks.intervals` for few of them.

    Args:
        errors: in the order of time; windows overlap, so that neighbours are alike.
        block: windows drawn together, at least a horizon.
        seed: of the resamples.
    """
    return intervals(errors[:, None], seed, block)[0]


def difference(first: np.ndarray, second: np.ndarray, block: int) -> dict[str, Any]:
    """Compare two forecasters' errors of the same windows, `(n,)` each, in the same order.

    Returns:
        `difference`, the mean of the second less the first, and `interval` (see `interval`).
    """
    off = second - first
    return {"difference": float(off.mean()), "interval": interval(off, block)}


def by_step(
    errors: Mapping[str, Sequence[float]],
    baseline: tuple[str, Sequence[float]],
    split: str,
    path: Path,
) -> None:
    """Draw the mean squared error of each step of the horizon, a line a model, the baseline dashed.

    Args:
        errors: by model, the best first.
        baseline: what it is called, and its errors.
        split: whose errors these are.
        path: the file.
    """
    figure = new_figure(8.5, 4.4)
    axes = figure.add_subplot()
    name, simple = baseline
    for place, (model, values) in enumerate(errors.items()):
        axes.plot(
            np.arange(1, len(values) + 1),
            values,
            label=model,
            color=f"C{place % 10}",
            linestyle="-" if place < 10 else "-.",
            linewidth=2.2 if place == 0 else 1.1,
            marker="." if len(values) <= 24 else None,
            zorder=3 if place == 0 else 2,
        )
    axes.plot(
        np.arange(1, len(simple) + 1), simple, label=name, color="black", linestyle="--", zorder=4
    )
    # A model far off would hide what the others differ by.
    top = 2.5 * max(max(next(iter(errors.values()))), max(simple))
    if max(map(max, errors.values())) > top:
        axes.set_ylim(0, top)
    axes.set(xlabel="step of the horizon", ylabel="mean squared error, scaled")
    axes.set_title(
        f"All {split} windows; ordered by validation mse, the best first (thick)", fontsize=10
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)
