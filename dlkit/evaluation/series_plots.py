"""Pictures of series before training: gaps, autocorrelation, the mean season."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dlkit.data.stationarity import correlogram, filled
from dlkit.evaluation.forecast_plots import date_axis
from dlkit.evaluation.plots import new_figure, save_figure

# Targets that are drawn, points of a line, and lags where there is no season.
DRAWN, POINTS, LAGS = 4, 8000, 60
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def series(
    name: str,
    index: pd.DatetimeIndex,
    values: np.ndarray,
    targets: Sequence[str],
    season: int,
    alias: str | None,
    path: Path,
    irregular: tuple[Any, np.ndarray] | None = None,
) -> None:
    """Draw the first targets of one series: the values, their autocorrelation, the mean season.

    Args:
        name: of the series; "" where there is only one.
        index, values: on the frequency, float64 `(n, targets)`, NaN where a value is missing.
        targets: names of all.
        season: steps, 1 for none.
        alias: the frequency, None for none.
        path: the file.
        irregular: stamps off the frequency, and their values `(m, targets)`.
    """
    shown = list(targets)[:DRAWN]
    figure = new_figure(13, 2.9 * len(shown) + 0.3)
    grid = figure.add_gridspec(len(shown), 3, width_ratios=(2.4, 1.3, 1.1))
    for row, target in enumerate(shown):
        line, lags, profile = (figure.add_subplot(grid[row, i]) for i in range(3))
        own = values[:, row]
        _values(line, index, own)
        if irregular is not None and len(irregular[0]):
            line.plot(
                irregular[0], irregular[1][:, row], "x", color="C1", label="off the frequency"
            )
        line.set_ylabel(f"{target}, {name}" if name else target, fontsize=8)
        handles, labels = line.get_legend_handles_labels()
        if len(labels) > 1:
            line.legend(handles, labels, fontsize=8, loc="best")
        held = own[np.isfinite(own)]
        if len(held) < 3 or held.min() == held.max():
            why = "constant" if len(held) and held.min() == held.max() else "too few numbers"
            for axes in (lags, profile):
                axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)
                axes.set(xticks=[], yticks=[])
        else:
            whole = filled(own)
            _correlogram(lags, whole, season)
            _profile(profile, index, whole, season, alias)
        if row == 0:
            line.set_title("Values, what is missing in red")
            lags.set_title("Autocorrelation, 95 % band")
            profile.set_title("Mean season, band: deviation")
    save_figure(figure, path)


def _values(axes: Any, index: pd.DatetimeIndex, values: np.ndarray) -> None:
    """Draw the values, and a red stripe over each run of those that are missing."""
    missing = ~np.isfinite(values)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], missing.astype(int), [0]]))).reshape(-1, 2)
    if len(edges):
        # matplotlib counts days since 1970.
        days = (index - pd.Timestamp(0)) / pd.Timedelta(days=1)
        half = (days[-1] - days[0]) / max(1, len(days) - 1) / 2
        stripes = [(days[a] - half, days[b - 1] - days[a] + 2 * half) for a, b in edges]
        axes.broken_barh(
            stripes,
            (0, 1),
            transform=axes.get_xaxis_transform(),
            facecolor="C3",
            edgecolor="C3",
            linewidth=0.8,
            alpha=0.35,
            label=f"missing, {int(missing.sum()):,}",
        )
    if len(values) > POINTS:
        # The lowest and highest of each stretch: every k-th point would hide the spikes.
        size = -(-len(values) // (POINTS // 2))
        parts = [slice(i, i + size) for i in range(0, len(values), size)]
        kept = [
            i.start + part(values[i])
            for i in parts
            if np.isfinite(values[i]).any()
            for part in (np.nanargmin, np.nanargmax)
        ]
        at = np.unique([*kept, *edges[:, 0]]).astype(int)
    else:
        at = np.arange(len(values))
    alone = len(values) < 100
    axes.plot(
        index[at],
        values[at],
        color="C0",
        linewidth=0.8,
        marker="." if alone else "",
        label="values",
    )
    date_axis(axes)


def _correlogram(axes: Any, values: np.ndarray, season: int) -> None:
    """Draw the autocorrelation without the straight line, and the season."""
    n = len(values)
    most = min(n - 1, max(LAGS, min(3 * season + season // 2, n // 2)))
    found, lags = correlogram(values, most), np.arange(most + 1)
    if most <= 200:
        axes.vlines(lags[1:], 0, found[1:], color="C0", linewidth=1.5 if most <= 100 else 0.8)
    else:
        axes.plot(lags[1:], found[1:], color="C0", linewidth=0.9)
    axes.axhline(0, color="black", linewidth=0.6)
    band = 1.96 / np.sqrt(n)
    axes.axhspan(-band, band, color="C7", alpha=0.3, linewidth=0)
    if 1 < season <= most:
        axes.axvline(season, color="C3", linestyle=":", label=f"season, {season}")
        axes.legend(fontsize=8, loc="upper right")
    axes.set_xlabel("lag, steps", fontsize=8)
    axes.set_ylim(min(-0.25, float(found.min()) - 0.05), 1.0)


def _profile(
    axes: Any, index: pd.DatetimeIndex, values: np.ndarray, season: int, alias: str | None
) -> None:
    """Draw the mean and deviation of each step of the season, without the straight line."""
    if season < 2 or season > len(values) // 2:
        axes.text(0.5, 0.5, "no season", ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    t = np.arange(len(values))
    fitted = np.polyval(np.polyfit(t - len(t) / 2, values, 1), t - len(t) / 2)
    rest = values - fitted + values.mean()

    phase, label, names = t % season, "step of the season, from the first stamp", None
    if season == 7 and alias == "D":
        phase, label, names = index.day_of_week.to_numpy(), "", WEEKDAYS
    elif season == 24 and alias == "h":
        phase, label = index.hour.to_numpy(), "hour of the day"
    elif season == 12 and alias in ("MS", "ME", "BMS", "BME"):
        phase, label = index.month.to_numpy() - 1, "month"
        names = tuple("JFMAMJJASOND")
    sizes = np.maximum(np.bincount(phase, minlength=season), 1)
    mean = np.bincount(phase, rest, season) / sizes
    spread = np.sqrt(np.maximum(np.bincount(phase, rest**2, season) / sizes - mean**2, 0))
    steps = np.arange(season)
    axes.fill_between(steps, mean - spread, mean + spread, color="C0", alpha=0.2, linewidth=0)
    axes.plot(steps, mean, color="C0", marker="." if season <= 60 else "")
    if names:
        axes.set_xticks(steps, names, fontsize=8)
    axes.set_xlabel(label, fontsize=8)
    axes.margins(x=0.02)
    axes.grid(alpha=0.3)
