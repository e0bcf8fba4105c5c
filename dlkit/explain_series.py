"""Which inputs made a forecast what it is: integrated gradients of a forecasting model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlkit.data.series import SeriesData
from dlkit.export.forecast import answer

# Deviations of the target; a change of the forecast smaller than this is not divided by.
SMALLEST_CHANGE = 1e-2
# Deviations in all; a window with less evidence has no shares: it is rounding.
SMALLEST_EVIDENCE = 1e-6
TOLERANCE, FIRST_STEPS, MOST_STEPS = 1e-2, 32, 4096
# Points of the path at once, and numbers that they may hold.
BATCH, NUMBERS = 512, 1 << 24


@dataclass(frozen=True)
class Attributions:
    """The change of a forecast from its baseline, shared out over the inputs.

    Attributes:
        parts: of each input of the model, in its order, float64 `(n, *shape)`, in the target's units.
        forecast, baseline: of each window, the forecast explained and that at the baseline, float64
            `(n,)`, in units.
        completeness_error: `(n,)`, see `integrated_gradients`.
        steps: intervals of the path, `(n,)`.
        evidence: the least sum of absolute attributions, in units, that is more than rounding.
    """

    parts: list[np.ndarray]
    forecast: np.ndarray
    baseline: np.ndarray
    completeness_error: np.ndarray
    steps: np.ndarray
    evidence: float


def baselines(inputs: list[np.ndarray], targets: int) -> list[np.ndarray]:
    """Return what forecasts are compared with: each target held at its mean over the window, else 0.

    Scaled covariates and static features of 0 are the training span's means, and models take them
    as they are. A target's level is another matter. Models with instance normalisation take it out
    of the window and give it back, and in a panel each series has its own, so that from a baseline of
    0 the level is most of the change and hides which lags matter. Held at its own mean, a target has
    the level already, and what is shared out is what the shape of the window adds.
    """
    window = np.zeros_like(inputs[0])
    window[:, :, :targets] = inputs[0][:, :, :targets].mean(1, keepdims=True)
    return [window, *(np.zeros_like(each) for each in inputs[1:])]


def integrated_gradients(
    model: keras.Model,
    data: SeriesData,
    inputs: list[np.ndarray],
    *,
    target: int,
    step: int | None = None,
    tolerance: float = TOLERANCE,
    most_steps: int = MOST_STEPS,
) -> Attributions:
    """Share a forecast out over everything that the model was given.

    The path is straight from `baselines` to the inputs, in all of them together. A constant window
    has a deviation of 0, so a model that divides by it turns sharply near the start, where the
    gradients stay finite (1e-5 is added to the variance) but change within a few thousandths of the
    way. The path is therefore walked as `t * t`, t from 0 to 1 in equal intervals: the trapezoidal
    rule, with 32 of them and then twice as many, window by window, until the completeness error is
    below `tolerance`. That error is |sum of attributions - change| over |change|, or over 0.01
    deviations of the target where the forecast changes by less.

    Args:
        model: see `dlkit.models.forecaster`.
        data: gives the scale; its rows are not looked at.
        inputs: of the model, scaled, float32 `(n, *shape)` each.
        target: number of the target whose forecast is explained; of quantiles, the one nearest the
            median.
        step: of the horizon, from 1; None for the mean over the horizon.
        tolerance: completeness error to reach.
        most_steps: number of intervals at which to stop without having reached it.
    Reference:
        Sundararajan, Taly & Yan 2017, arXiv:1703.01365, equation 1 and section 5.
    """
    # In scaled numbers: float32 cannot tell small changes of a large level.
    plain = dataclasses.replace(
        data, mean=np.zeros_like(data.mean), deviation=np.ones_like(data.deviation)
    )
    shapes = [tf.TensorSpec((None, *each.shape[1:]), tf.float32) for each in inputs]

    def score(*points: Any) -> tf.Tensor:
        y = answer(model, plain, list(points), None)["forecast"][:, :, target]  # (b, horizon)
        return tf.reduce_mean(y, 1) if step is None else y[:, step - 1]

    @tf.function(input_signature=shapes)
    def slopes(*points: Any) -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(points)
            total = tf.reduce_sum(score(*points))
        return tape.gradient(total, points, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    starts, n = baselines(inputs, data.spec.outputs), len(inputs[0])
    ways = [x - start for x, start in zip(inputs, starts, strict=True)]
    batch = max(1, min(BATCH, NUMBERS // sum(each[0].size for each in inputs)))
    run = tf.function(score, input_signature=shapes)

    def scores(points: list[np.ndarray]) -> np.ndarray:
        found = [run(*(each[i : i + batch] for each in points)) for i in range(0, n, batch)]
        return np.concatenate([each.numpy() for each in found]).astype(np.float64)

    def along(at: np.ndarray, t: np.ndarray) -> list[np.ndarray]:
        """Return the sum over `t` of the gradients at `t * t`, times `2 t`, of the windows `at`."""
        sums = [np.zeros(each.shape) for each in inputs]
        owners, places = np.repeat(at, len(t)), np.tile(t, len(at))
        for i in range(0, len(owners), batch):
            own, place = owners[i : i + batch], places[i : i + batch]
            shaped = [place.reshape(-1, *(1,) * (each.ndim - 1)) for each in inputs]
            points = [
                (start[own] + p * p * way[own]).astype(np.float32)
                for start, way, p in zip(starts, ways, shaped, strict=True)
            ]
            for total, gradient, p in zip(sums, slopes(*points), shaped, strict=True):
                np.add.at(total, own, 2 * p * gradient.numpy())
        return sums

    first, last = scores(starts), scores(inputs)
    change, steps = last - first, np.full(n, FIRST_STEPS)
    left, count = np.arange(n), FIRST_STEPS
    ends = along(left, np.array([1.0]))  # at 0 the weight is 0
    inner = along(left, np.arange(1, count) / count)
    error = np.zeros(n)
    while True:
        total = np.zeros(len(left))
        for way, end, middle in zip(ways, ends, inner, strict=True):
            part = way[left] * (end[left] / 2 + middle[left]) / count
            total += part.reshape(len(left), -1).sum(1)
        error[left] = np.abs(total - change[left]) / np.maximum(
            np.abs(change[left]), SMALLEST_CHANGE
        )
        steps[left] = count
        left = left[~(error[left] < tolerance)]
        if not len(left) or 2 * count > most_steps:
            break
        # Half way between the points there are.
        for middle, more in zip(inner, along(left, (np.arange(count) + 0.5) / count), strict=True):
            middle += more
        count *= 2
    mean, deviation = float(data.mean[target]), float(data.deviation[target])
    whole = [
        deviation * way * (end / 2 + middle) / steps.reshape(-1, *(1,) * (way.ndim - 1))
        for way, end, middle in zip(ways, ends, inner, strict=True)
    ]
    units = (first * deviation + mean, last * deviation + mean)
    return Attributions(whole, units[1], units[0], error, steps, SMALLEST_EVIDENCE * deviation)
