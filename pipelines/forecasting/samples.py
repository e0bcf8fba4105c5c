"""What a run's own series tell of the formats of its export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.forecasting.evaluate import series_of
from pipelines.forecasting.scoring import scored_split

HELD_OUT, BATCH = 64, 256


def samples(run: str, about: Mapping[str, Any]) -> Any:
    """Return windows of the test span, and the mean squared error of what forecasts it, scaled.

    Args:
        run: its id.
        about: the manifest of its export.
    Raises:
        DataError: see `series_of`.
    """
    import numpy as np

    from dlkit.export.forecast import raw_inputs, scales
    from dlkit.export.formats import Samples

    _, series, _ = series_of(run, dict(about), None, None, None, None)
    split, targets = scored_split(series), series.spec.outputs
    starts, owners = series.starts(split)
    truth = series.windows_of(series.scaled, split)
    mean, deviation = series.mean[:targets], series.deviation[:targets]

    def mse(answer: Any) -> float:
        total = 0.0
        for i in range(0, len(starts), BATCH):
            part = slice(i, i + BATCH)
            given = raw_inputs(series, starts[part], owners[part])
            scaled = (answer(given)["forecast"] - mean) / deviation
            total += float(((scaled - truth[part]) ** 2).sum())
        return total / truth.size

    at = np.linspace(0, len(starts) - 1, min(HELD_OUT, len(starts))).round().astype(int)
    return Samples(
        held_out=raw_inputs(series, starts[at], owners[at]),
        metric="mse",
        score=mse,
        scales=scales(series),
    )
