"""What a forecast has to beat: the last value, the last season, a straight line, a linear map."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dlkit.data.series import SeriesData

# Windows whose products are summed at once, and penalty on each weight beside one window's square.
CHUNK = 4096
RIDGE = 1e-3

Forecast = Callable[[np.ndarray], np.ndarray]
"""From the targets of windows, `(n, lookback, targets)`, to forecasts `(n, horizon, targets)`."""


def baselines(data: SeriesData, scaled: np.ndarray) -> dict[str, Forecast]:
    """Return the baselines by name.

    `repeat_last`, `seasonal_naive` (the last whole season again; left out where there is no season
    or the lookback is shorter than one), `drift` (the straight line from the window's first value to
    its last) and `closed_form_linear` (see `closed_form`).

    Args:
        data: the series.
        scaled: its rows, scaled, float `(n, channels)`; targets come first.
    """
    lookback, horizon, season = data.spec.input_shape[0], data.spec.horizon, data.season

    def repeat_last(x: np.ndarray) -> np.ndarray:
        return np.repeat(x[:, -1:], horizon, axis=1)

    def seasonal_naive(x: np.ndarray) -> np.ndarray:
        return x[:, lookback - season + np.arange(horizon) % season]

    def drift(x: np.ndarray) -> np.ndarray:
        slope = (x[:, -1:] - x[:, :1]) / max(1, lookback - 1)
        return x[:, -1:] + slope * np.arange(1, horizon + 1)[None, :, None]

    found: dict[str, Forecast] = {"repeat_last": repeat_last}
    if 1 < season <= lookback:
        found["seasonal_naive"] = seasonal_naive
    return {**found, "drift": drift, "closed_form_linear": closed_form(data, scaled)}


def closed_form(data: SeriesData, scaled: np.ndarray, ridge: float = RIDGE) -> Forecast:
    """Fit the linear map from a window to its horizon, least squares over all training windows.

    The window's last value is subtracted from both; all targets share one map, as they do in models
    that forecast them one by one. (Toner & Darlow 2024, arXiv:2403.14587, show that the linear
    forecasters trained by gradient descent come to this solution.)

    Args:
        data: the series.
        scaled: its rows, scaled; targets come first.
        ridge: penalty, per training window, on the square of each weight.
    """
    lookback, horizon, targets = data.spec.input_shape[0], data.spec.horizon, data.spec.outputs
    starts, _ = data.starts("train")
    xx = np.zeros((lookback, lookback))
    xy = np.zeros((lookback, horizon))
    at = np.arange(lookback + horizon)
    for i in range(0, len(starts), CHUNK):
        windows = scaled[starts[i : i + CHUNK, None] + at, :targets].astype(np.float64)
        windows = windows.transpose(0, 2, 1).reshape(-1, lookback + horizon)
        windows = windows - windows[:, lookback - 1 : lookback]
        x, y = windows[:, :lookback], windows[:, lookback:]
        xx += x.T @ x
        xy += x.T @ y
    penalty = ridge * len(starts) * targets
    weights = np.linalg.solve(xx + penalty * np.eye(lookback), xy)

    def linear(x: np.ndarray) -> np.ndarray:
        last = x[:, -1:]
        moved = np.einsum("nlt,lh->nht", (x - last).astype(np.float64), weights, optimize=True)
        return moved + last

    return linear
