"""Forecasts of a span, calibrated and scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Answer = Callable[..., dict[str, Any]]


def calibrated(model: Any, data: Any, coverage: float) -> tuple[Any, float]:
    """Return what the validation span tells: how wide intervals have to be, and the squared error.

    The former is `(horizon, targets)`, both are scaled.
    """
    from dlkit.evaluation.calibration import conformal
    from dlkit.export.forecast import endpoint, forecasts

    seen = forecasts(endpoint(model, data), data, "validation")
    truth = data.windows_of(data.scaled, "validation")
    error = float(((seen["forecast"] - truth) ** 2).mean())
    return conformal(truth, seen["lower"], seen["upper"], coverage), error


def scored_split(data: Any) -> str:
    """Return the split that is reported: the test split, or validation where there is none."""
    return "test" if data.sizes()["test"] else "validation"


def report_on(
    answer: Answer,
    data: Any,
    folder: Path,
    *,
    coverage: float,
    notes: Sequence[str] = (),
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Score what answers on every window of the reported split; write the report.

    Args:
        answer: an endpoint, see `dlkit.export.forecast`.
        data: the series.
        folder: of the report and its pictures.
        coverage: that the intervals are to have.
        notes: what a reader should know.
        about: more entries of the report.
    """
    from dlkit.evaluation.forecast import forecast_report
    from dlkit.export.forecast import forecasts

    split = scored_split(data)
    found = forecasts(answer, data, split)
    return forecast_report(
        data,
        data.scaled,
        split,
        found["forecast"],
        found["lower"],
        found["upper"],
        folder,
        coverage=coverage,
        quantiles=found.get("quantiles"),
        notes=notes,
        about={**about, "splits": data.sizes(), "data_notes": data.notes},
    )
