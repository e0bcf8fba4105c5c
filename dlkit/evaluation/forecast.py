"""The report of a forecaster: errors of every window, baselines, intervals, words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.data.series import SeriesData
from dlkit.evaluation.blocks import FEWEST, intervals
from dlkit.evaluation.forecast_baselines import baselines

# Windows forecast at once.
CHUNK = 1024
BAR = "closed_form_linear"


def naive_errors(data: SeriesData) -> np.ndarray:
    """Return the mean absolute step of a season in training, scaled, float64 `(series, targets)`.

    What the mean absolute scaled error (Hyndman & Koehler 2006) divides by; 1 where nothing moves.
    """
    targets, found = data.spec.outputs, []
    for span in data.spans:
        rows = data.rows[span.begin : span.ends[0], :targets] / data.deviation[:targets]
        season = min(data.season, len(rows) - 1)
        found.append(np.abs(rows[season:] - rows[:-season]).mean(0))
    errors = np.array(found)
    return np.where(errors > 0, errors, 1.0)


def errors(
    data: SeriesData,
    truth: np.ndarray,
    forecast: np.ndarray,
    owners: np.ndarray,
    naive: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return the mean errors of each window, float64 `(n,)`.

    Args:
        data: gives the scale of the targets.
        truth, forecast: scaled, `(n, horizon, targets)`.
        owners: number of each window's series, `(n,)`.
        naive: see `naive_errors`.
    Returns:
        `mse` and `mae`, scaled by the training span's mean and deviation; `mae_units`; `smape`, in
        [0, 2]; `mase`.
    """
    targets = data.spec.outputs
    mean, deviation = data.mean[:targets], data.deviation[:targets]
    off = np.abs(forecast - truth)
    a, b = np.abs(truth * deviation + mean), np.abs(forecast * deviation + mean)
    total = a + b
    share = np.divide(2 * off * deviation, total, out=np.zeros_like(total), where=total > 0)
    each = {
        "mse": off**2,
        "mae": off,
        "mae_units": off * deviation,
        "smape": share,
        "mase": off / naive[owners][:, None],
    }
    return {name: values.mean((1, 2)) for name, values in each.items()}


def interval_errors(
    truth: np.ndarray, lower: np.ndarray, upper: np.ndarray, coverage: float
) -> dict[str, np.ndarray]:
    """Return coverage, width and score of each window's intervals, float64 `(n,)`.

    The score is that of Winkler 1972: the width, and 2 / (1 - coverage) times what lies outside;
    scaled, as are the widths.
    """
    name = f"{round(100 * coverage)}"
    below, above = np.maximum(lower - truth, 0), np.maximum(truth - upper, 0)
    score = (upper - lower) + 2 / (1 - coverage) * (below + above)
    inside = (truth >= lower) & (truth <= upper)
    return {
        f"coverage_{name}": inside.mean((1, 2)),
        f"width_{name}": (upper - lower).mean((1, 2)),
        f"interval_score_{name}": score.mean((1, 2)),
    }


def quantile_loss(truth: np.ndarray, found: np.ndarray, levels: Sequence[float]) -> float:
    """Return the weighted quantile loss: twice the pinball loss over the sum of absolute truths.

    Args:
        truth: `(n, horizon, targets)`, in units.
        found: `(n, horizon, targets, q)`, in units.
        levels: of the quantiles.
    """
    off = truth[..., None] - found
    level = np.asarray(levels)
    loss = np.maximum(level * off, (level - 1) * off).mean(-1).sum()
    return float(2 * loss / max(float(np.abs(truth).sum()), 1e-12))


def summed(each: Mapping[str, np.ndarray], block: int) -> tuple[dict, dict]:
    """Return means and 95 % block bootstrap intervals of what each window has."""
    rows = np.stack(list(each.values()), 1)
    means = {name: float(value) for name, value in zip(each, rows.mean(0), strict=True)}
    return means, dict(zip(each, intervals(rows, 0, block), strict=True))


def forecast_report(
    data: SeriesData,
    scaled: np.ndarray,
    split: str,
    forecast: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    folder: Path,
    *,
    coverage: float,
    quantiles: np.ndarray | None = None,
    notes: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score the forecast of every window of a split beside its baselines; write `report.json`.

    Args:
        data: the series.
        scaled: its rows, scaled.
        split: which windows.
        forecast, lower, upper: scaled, `(n, horizon, targets)`, in the order of `data.starts`.
        folder: where the files go.
        coverage: that the intervals are to have.
        quantiles: the model's own, scaled, `(n, horizon, targets, q)`.
        notes, about: what a reader should know, and more entries.
    Returns:
        What `report.json` holds: `windows`, `lookback`, `horizon`, `season`, `metrics`,
        `intervals`, `baselines` (each with `metrics` and `intervals`), `by_step` (mean squared error
        of each step, of the model and each baseline), `by_target`, `verdict`, `notes`.
    """
    from dlkit.evaluation import forecast_plots

    lookback, horizon, targets = data.spec.input_shape[0], data.spec.horizon, data.spec.outputs
    starts, owners = data.starts(split)
    naive = naive_errors(data)
    truth = targets_at(scaled, starts + lookback, horizon, targets)
    block = max(horizon, round(len(starts) ** 0.5))
    own = errors(data, truth, forecast, owners, naive)
    metrics, own_intervals = summed(own | interval_errors(truth, lower, upper, coverage), block)
    if quantiles is not None:
        mean, deviation = data.mean[:targets], data.deviation[:targets]
        units = quantiles * deviation[:, None] + mean[:, None]
        levels = data.spec.quantiles
        metrics["weighted_quantile_loss"] = quantile_loss(truth * deviation + mean, units, levels)
    notes = list(notes)
    if len(starts) < FEWEST * block:
        notes.append(
            f"{len(starts):,} windows that overlap over {horizon} steps tell little of chance: intervals "
            "are the range of single windows"
        )
    by_step = {"model": ((forecast - truth) ** 2).mean((0, 2)).tolist()}
    beside: dict[str, Any] = {}
    for name, (theirs, squares) in baseline_errors(data, split, truth, naive).items():
        values, spans = summed(theirs, block)
        beside[name] = {"metrics": values, "intervals": spans}
        by_step[name] = squares.tolist()
    by_target = {
        target: {
            "mse": float(((forecast - truth)[:, :, i] ** 2).mean()),
            "mae_units": float(np.abs(forecast - truth)[:, :, i].mean() * data.deviation[i]),
        }
        for i, target in enumerate(data.roles.targets)
    }
    report = {
        **(about or {}),
        "split": split,
        "windows": len(starts),
        "lookback": lookback,
        "horizon": horizon,
        "season": data.season,
        "frequency": data.alias,
        "metrics": metrics,
        "intervals": own_intervals,
        "block_length": block,
        "baselines": beside,
        "by_step": by_step,
        "by_target": by_target,
        "verdict": verdict(metrics, beside),
        "notes": notes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    forecast_plots.by_step(by_step, folder / "by_step.png")
    forecast_plots.origins(data, scaled, split, forecast, lower, upper, folder / "forecasts.png")
    residuals = (truth - forecast)[:, 0, 0]
    forecast_plots.residuals(residuals, data.season, folder / "residuals.png")
    (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    return report


def baseline_errors(
    data: SeriesData, split: str, truth: np.ndarray, naive: np.ndarray
) -> dict[str, tuple[dict[str, np.ndarray], np.ndarray]]:
    """Return what `errors` does for each baseline, and its mean squared error of each step."""
    lookback, horizon, targets = data.spec.input_shape[0], data.spec.horizon, data.spec.outputs
    starts, owners = data.starts(split)
    found = {}
    for name, simple in baselines(data, data.scaled).items():
        parts, squares = [], np.zeros(horizon)
        for i in range(0, len(starts), CHUNK):
            window = targets_at(data.scaled, starts[i : i + CHUNK], lookback, targets)
            forecast, right = simple(window), truth[i : i + CHUNK]
            parts.append(errors(data, right, forecast, owners[i : i + CHUNK], naive))
            squares += ((forecast - right) ** 2).mean(2).sum(0)
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        found[name] = joined, squares / len(starts)
    return found


def fold_errors(
    fold: SeriesData, scale: SeriesData, found: Mapping[str, np.ndarray], coverage: float
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the mean errors of one fold of a backtest, and those of each baseline.

    Args:
        fold: the series, the fold being its test span.
        scale: the series by whose training span errors are scaled, so that folds compare.
        found: `forecast`, `lower` and `upper`, `(n, horizon, targets)`, in the fold's own scale.
        coverage: that the intervals are to have.
    """
    targets = scale.spec.outputs
    units = {k: v * fold.deviation[:targets] + fold.mean[:targets] for k, v in found.items()}
    forecast, lower, upper = (
        (units[k] - scale.mean[:targets]) / scale.deviation[:targets]
        for k in ("forecast", "lower", "upper")
    )
    fold = dataclasses.replace(fold, mean=scale.mean, deviation=scale.deviation)
    truth, naive = fold.windows_of(fold.scaled, "test"), naive_errors(fold)
    own = errors(fold, truth, forecast, fold.starts("test")[1], naive)
    own |= interval_errors(truth, lower, upper, coverage)
    beside = baseline_errors(fold, "test", truth, naive)
    return _means(own), {name: _means(theirs) for name, (theirs, _) in beside.items()}


def _means(each: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in each.items()}


def targets_at(scaled: np.ndarray, starts: np.ndarray, length: int, targets: int) -> np.ndarray:
    """Gather the targets of windows, `(n, length, targets)`."""
    return scaled[np.asarray(starts)[:, None] + np.arange(length), :targets]


def verdict(metrics: Mapping[str, float], beside: Mapping[str, Any]) -> str:
    """Say in words which baselines the model's squared error is below."""
    own = metrics["mse"]
    best = min(beside, key=lambda name: beside[name]["metrics"]["mse"])
    bar = beside[best]["metrics"]["mse"]
    words = best.replace("_", " ")
    if own < bar:
        return f"beats every baseline (mse {own:.4f}; the best of them, {words}, {bar:.4f})"
    return f"does NOT beat {words} (mse {own:.4f} against {bar:.4f}): use {words} instead"


def table(report: Mapping[str, Any]) -> str:
    """Lay a report's scores out for a terminal, one row a score, one column a contestant."""
    columns = {"model": report, **report["baselines"]}
    lines = [["", *(name.replace("_", " ") for name in columns)]]
    for name in report["metrics"]:
        line = [name.replace("_", " ")]
        for values in columns.values():
            cell = f"{values['metrics'][name]:.4f}" if name in values["metrics"] else "-"
            low_high = values["intervals"].get(name) if values is report else None
            span = f" [{low_high[0]:.4f}, {low_high[1]:.4f}]" if low_high else ""
            line.append(cell + span)
        lines.append(line)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
