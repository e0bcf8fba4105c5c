"""A picture of a series with the score of each row, the alarms and the labelled spans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

from dlkit.data.anomalies import AnomalyData
from dlkit.errors import counted
from dlkit.evaluation.anomaly_series import runs
from dlkit.evaluation.plots import new_figure, save_figure

# Channels that are drawn, and points of a line.
DRAWN, POINTS = 4, 6000


def series(
    data: AnomalyData, score: np.ndarray, raised: np.ndarray, limit: float, path: Path
) -> None:
    """Draw the channels of the test rows, and below them the score with its threshold.

    Args:
        data: examples of a series.
        score: of each test row, `(n,)`.
        raised: whether it raises an alarm, bool `(n,)`.
        limit: the threshold.
        path: the file.
    """
    assert data.series is not None
    rows, first = data.series, data.series.ends[1]
    stamps: Any = date2num(rows.stamps[first:])
    shown = data.columns[:DRAWN]
    figure = new_figure(12, 1.9 * len(shown) + 2.2)
    axes = figure.subplots(len(shown) + 1, 1, sharex=True, squeeze=False)[:, 0]
    spans = runs(rows.y[first:] == 1)
    for i, name in enumerate(shown):
        values = rows.values[first:, i]
        at = thinned(values)
        axes[i].plot(stamps[at], values[at], linewidth=0.7, color="tab:blue")
        axes[i].set_ylabel(name)
    at = thinned(score)
    axes[-1].plot(stamps[at], score[at], linewidth=0.9, color="black", label="score")
    axes[-1].axhline(limit, color="tab:orange", linestyle="--", label="threshold")
    bottom = float(min(score.min(), 0.0))
    for i, (begin, end) in enumerate(runs(raised)):
        axes[-1].plot(
            [stamps[begin], stamps[end - 1]], [bottom] * 2, color="tab:orange", linewidth=5,
            solid_capstyle="butt", label=None if i else "alarm: most windows there exceed it",
        )  # fmt: skip
    for panel in axes:
        for i, (begin, end) in enumerate(spans):
            panel.axvspan(
                stamps[begin], stamps[end - 1], color="tab:red", alpha=0.18, linewidth=0,
                label=None if i else "labelled anomaly",
            )  # fmt: skip
    axes[-1].set_ylabel("score")
    axes[-1].legend(fontsize=8, loc="upper right", framealpha=0.8)
    locator = AutoDateLocator()
    axes[-1].xaxis.set_major_locator(locator)
    axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))
    more = len(data.columns) - len(shown)
    axes[0].set_title(
        f"{data.source}, {counted(len(score), 'test row')}"
        + (f"; {counted(more, 'more channel')}" if more else "")
    )
    save_figure(figure, path)


def thinned(values: np.ndarray) -> np.ndarray:
    """Return the rows to draw: of many, the smallest and the largest of each stretch."""
    if len(values) <= POINTS:
        return np.arange(len(values))
    parts = np.array_split(np.arange(len(values)), POINTS // 2)
    ends = [(p[values[p].argmin()], p[values[p].argmax()]) for p in parts]
    return np.unique(np.array(ends))
