"""Pictures of a forecaster's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

from dlkit.data.series import SeriesData
from dlkit.evaluation.plots import new_figure, save_figure

# Forecasts that are drawn, and steps of the past before each.
ORIGINS = 4
LAGS = 60


def date_axis(axes: Any) -> None:
    """Name few dates below an axis of stamps, each as briefly as can be, over a light grid."""
    axes.margins(x=0.01)
    dates = AutoDateLocator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(dates)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(dates))
    axes.grid(alpha=0.3)


def by_step(errors: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw the mean squared error of each step of the horizon, of the model and each baseline."""
    figure = new_figure(7, 4)
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
    save_figure(figure, path)


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
    figure = new_figure(9, 1.9 * len(places) + 0.6)
    target = data.roles.targets[0]
    before = min(lookback, max(2 * horizon, 24))
    for row, i in enumerate(places):
        axes = figure.add_subplot(len(places), 1, row + 1)
        span = data.spans[owners[i]]
        index = data.stamps(span)
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
        date_axis(axes)
        axes.set_ylabel(target if not span.name else f"{target}, {span.name}", fontsize=8)
        if row == 0:
            axes.legend(fontsize=8, ncols=3, loc="upper left")
    save_figure(figure, path)


def residuals(values: np.ndarray, season: int, path: Path) -> None:
    """Draw the residuals one step ahead, and their autocorrelation with a 95 % band."""
    figure = new_figure(9, 3.2)
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
    save_figure(figure, path)


def folds(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the squared and the scaled error of each fold of a backtest, beside the baselines'."""
    figure = new_figure(9, 3.4)
    names = ("mse", "mase")
    axes = figure.subplots(1, 2)
    stamps = [row["first"] for row in rows]
    for side, metric in zip(axes, names, strict=True):
        for name in rows[0]["baselines"]:
            values = [row["baselines"][name][metric] for row in rows]
            side.plot(stamps, values, marker=".", linewidth=1, label=name.replace("_", " "))
        side.plot(
            stamps, [r[metric] for r in rows], "o-", color="black", linewidth=2, label="model"
        )
        top = 2.5 * max(
            max(row[metric], row["baselines"]["closed_form_linear"][metric]) for row in rows
        )
        side.set_ylim(0, top)
        side.set(xlabel="first origin of the fold", ylabel=metric)
        side.tick_params(axis="x", labelrotation=30, labelsize=7)
        side.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    save_figure(figure, path)


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
    figure = new_figure(9, 2.2 * len(panels) + 0.4)
    for row, ((newest, stamps, found), t) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, row + 1)
        kept = min(len(newest.window), 4 * len(stamps))
        index = pd.date_range(end=newest.last, periods=kept, freq=alias)
        axes.plot(index, newest.window[-kept:, t], color="C7", label="past", linewidth=1)
        axes.plot(stamps, found["forecast"][:, t], color="C0", label="forecast")
        low, high = found["lower"][:, t], found["upper"][:, t]
        axes.fill_between(stamps, low, high, color="C0", alpha=0.2, linewidth=0, label="interval")
        date_axis(axes)
        axes.set_ylabel(f"{targets[t]}{f', {newest.name}' if newest.name else ''}", fontsize=8)
        if row == 0:
            axes.legend(fontsize=8, ncols=3, loc="upper left")
    save_figure(figure, path)


def attributions(summary: Any, title: str, units: str, season: int, step: int, path: Path) -> None:
    """Draw which lags and covariates mattered: a heat map, and above it the sums of its columns.

    Args:
        summary: a `dlkit.attributions.Summary`.
        title: above all.
        units: of the attributions.
        season: its steps, 1 for none; the rows a whole number of them before `step` are marked.
        step: of the horizon, from 1.
        path: the file.
    """
    # More rows than that cannot be read.
    shown = np.sort(np.argsort(-summary.share, kind="stable")[:24])
    grid, lookback, ahead = summary.absolute[shown], summary.lookback, summary.ahead
    # A gap before what is known of the horizon, and before static features.
    cuts = [c for c in (lookback, lookback + ahead) if 0 < c < grid.shape[1]]
    at = np.insert(np.arange(grid.shape[1]), sorted(set(cuts)), -1)
    wide = np.where(at >= 0, grid[:, at], np.nan)  # (rows, columns and gaps)
    place = {int(column): i for i, column in enumerate(at) if column >= 0}
    figure = new_figure(10, 2.9 + 0.3 * max(2, len(shown)))
    ratios = (1.6, 0.3 * max(2, len(shown)))
    top, map_ = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
    if len(shown) < len(summary.share):
        title = f"{title}; the {len(shown)} channels with most, of {len(summary.share)}"
    figure.suptitle(title, fontsize=10)

    sums = np.nansum(np.where(at >= 0, summary.absolute[:, at], np.nan), 0)
    top.bar(np.arange(len(at)), sums, width=0.85, color="C0")
    multiples = [lag for lag in range(season - step + 1, lookback + 1, max(1, season)) if lag > 0]
    if season > 1 and multiples:
        for number, lag in enumerate(multiples):
            label = f"{season} steps (a season), and its multiples, before step {step}"
            top.axvline(
                place[lookback - lag],
                color="C3",
                linestyle=":",
                linewidth=1,
                zorder=0,
                label=None if number else label,
            )
        # Over the axes: inside it would hide bars.
        top.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 0.98))
    top.set_ylabel("sum over channels", fontsize=8)
    top.tick_params(labelbottom=False, labelsize=8)

    map_.set_facecolor("0.9")  # no input
    drawn = map_.imshow(wide, aspect="auto", cmap="magma_r", vmin=0, interpolation="nearest")
    figure.colorbar(drawn, ax=[top, map_], label=f"mean absolute attribution\n({units})")
    map_.set_yticks(range(len(shown)), [summary.names[row] for row in shown], fontsize=8)
    every = max(season, 1)
    while lookback / every > 16:
        every *= 2
    lags = [1, *(lag for lag in range(every, lookback + 1, every) if lag > 1 + lookback / 30)]
    ticks = {place[lookback - lag]: f"{lag}" for lag in lags}
    for number in sorted({1, ahead} if ahead else ()):
        ticks[place[lookback + number - 1]] = f"+{number}"
    if grid.shape[1] > lookback + ahead:
        ticks[len(at) - 1] = "static"
    map_.set_xticks(list(ticks), list(ticks.values()), fontsize=8)
    map_.set_xlabel(f"lag, 1 is the newest row{'; + step of the horizon' if ahead else ''}")
    save_figure(figure, path)
