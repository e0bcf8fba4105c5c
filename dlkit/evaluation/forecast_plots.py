"""Pictures of a forecaster's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dlkit.data.series import SeriesData
from dlkit.evaluation.plots import _figure

# Forecasts that are drawn, and steps of the past before each.
ORIGINS = 4
LAGS = 60


def by_step(errors: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw the mean squared error of each step of the horizon, of the model and each baseline."""
    figure = _figure(7, 4)
    axes = figure.add_subplot()
    for name, values in errors.items():
        steps = np.arange(1, len(values) + 1)
        own = name == "model"
        axes.plot(
            steps,
            values,
            label=name.replace("_", " "),
            linewidth=2 if own else 1,
            color="black" if own else None,
            marker="." if len(values) <= 24 else None,
        )
    # A naive forecast far off would hide what the others differ by.
    top = 2.5 * max(max(errors["model"]), max(errors.get("closed_form_linear", [0])))
    if max(map(max, errors.values())) > top:
        axes.set_ylim(0, top)
    axes.set(xlabel="step of the horizon", ylabel="mean squared error, scaled")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path)


def origins(
    data: SeriesData,
    scaled: np.ndarray,
    split: str,
    forecast: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    path: Path,
) -> None:
    """Draw forecasts of the first target with their intervals over the truth, at several origins."""
    lookback, horizon = data.spec.input_shape[0], data.spec.horizon
    starts, owners = data.starts(split)
    places = np.unique(np.linspace(0, len(starts) - 1, ORIGINS).round().astype(int))
    figure = _figure(9, 1.9 * len(places) + 0.6)
    target = data.roles.targets[0]
    before = min(lookback, max(2 * horizon, 24))
    for row, i in enumerate(places):
        axes = figure.add_subplot(len(places), 1, row + 1)
        span = data.spans[owners[i]]
        index = pd.date_range(span.first, periods=span.ends[2] - span.begin, freq=data.alias)
        origin = int(starts[i]) + lookback

        def units(values: Any) -> Any:
            return values * data.deviation[0] + data.mean[0]

        past = slice(origin - before, origin + horizon)
        stamps = index[past.start - span.begin : past.stop - span.begin]
        axes.plot(stamps, units(scaled[past, 0]), color="C7", label="truth", linewidth=1)
        ahead = index[origin - span.begin : origin - span.begin + horizon]
        axes.plot(ahead, units(forecast[i, :, 0]), color="C0", label="forecast")
        axes.fill_between(
            ahead,
            units(lower[i, :, 0]),
            units(upper[i, :, 0]),
            color="C0",
            alpha=0.2,
            linewidth=0,
            label="interval",
        )
        axes.margins(x=0.01)
        axes.grid(alpha=0.3)
        axes.set_ylabel(target if not span.name else f"{target}, {span.name}", fontsize=8)
        if row == 0:
            axes.legend(fontsize=8, ncols=3, loc="upper left")
    figure.savefig(path)


def residuals(values: np.ndarray, season: int, path: Path) -> None:
    """Draw the residuals one step ahead, and their autocorrelation with a 95 % band."""
    figure = _figure(9, 3.2)
    left, right = figure.subplots(1, 2)
    left.plot(values, linewidth=0.7)
    left.axhline(0, color="black", linewidth=0.6)
    left.set(xlabel="window", ylabel="truth - forecast, scaled", title="One step ahead")
    lags = np.arange(1, min(LAGS, len(values) - 1) + 1)
    centred = values - values.mean()
    power = float(centred @ centred) or 1.0
    found = [float(centred[lag:] @ centred[:-lag]) / power for lag in lags]
    right.bar(lags, found, width=0.8)
    band = 1.96 / np.sqrt(len(values))
    right.axhspan(-band, band, color="C7", alpha=0.3, linewidth=0)
    if 1 < season <= len(lags):
        right.axvline(season, color="C3", linestyle=":", label=f"season, {season}")
        right.legend(fontsize=8)
    right.set(
        xlabel="lag", ylabel="autocorrelation", title="Residuals, 95 % band of chance in grey"
    )
    figure.savefig(path)


def ahead(
    drawn: Sequence[tuple[Any, Any, Mapping[str, np.ndarray]]],
    targets: Sequence[str],
    alias: str,
    path: Path,
) -> None:
    """Draw what is forecast after the newest rows, one panel a series and target, at most twelve.

    Args:
        drawn: of each series a `dlkit.data.newest.Newest`, the stamps, and `forecast`, `lower` and
            `upper` `(horizon, targets)`.
        targets: names of the targets.
        alias: the frequency.
        path: the file.
    """
    panels = [(each, t) for each in drawn for t in range(len(targets))][:12]
    figure = _figure(9, 2.2 * len(panels) + 0.4)
    for row, ((newest, stamps, found), t) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, row + 1)
        kept = min(len(newest.window), 4 * len(stamps))
        index = pd.date_range(end=newest.last, periods=kept, freq=alias)
        axes.plot(index, newest.window[-kept:, t], color="C7", label="past", linewidth=1)
        axes.plot(stamps, found["forecast"][:, t], color="C0", label="forecast")
        low, high = found["lower"][:, t], found["upper"][:, t]
        axes.fill_between(stamps, low, high, color="C0", alpha=0.2, linewidth=0, label="interval")
        axes.margins(x=0.01)
        axes.grid(alpha=0.3)
        axes.set_ylabel(f"{targets[t]}{f', {newest.name}' if newest.name else ''}", fontsize=8)
        if row == 0:
            axes.legend(fontsize=8, ncols=3, loc="upper left")
    figure.savefig(path)
