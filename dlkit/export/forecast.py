"""Endpoint of a forecaster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlkit.data.series import SeriesData, gathered

# Windows forecast at once.
BATCH = 256


def model_inputs(data: SeriesData, window: Any, future: Any, static: Any) -> list[Any]:
    """Scale raw inputs, float32, for the model; those that the spec lacks are left out."""
    targets, past = data.spec.outputs, data.spec.past
    mean, deviation = (np.asarray(v, np.float32) for v in (data.mean, data.deviation))
    found = [(window - mean) / deviation]
    if data.spec.future:
        found.append((future - mean[targets + past :]) / deviation[targets + past :])
    if data.spec.static:
        means, deviations = (
            np.asarray(v, np.float32) for v in (data.static_mean, data.static_deviation)
        )
        found.append((static - means) / deviations)
    return found


def answer(
    model: keras.Model, data: SeriesData, inputs: list[Any], radius: np.ndarray | None
) -> dict[str, Any]:
    """Return `forecast`, and with a radius `lower` and `upper`, `(b, horizon, targets)`, in units.

    Args:
        model: the trained model.
        data: gives the scale.
        inputs: of the model, scaled.
        radius: see `conformal`, scaled; None where it is not known yet.
    Returns:
        These, and where the spec has quantiles `quantiles` `(b, horizon, targets, q)`.
    """
    targets = data.spec.outputs
    mean = np.asarray(data.mean[:targets], np.float32)
    deviation = np.asarray(data.deviation[:targets], np.float32)
    y = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    y = tf.cast(y, tf.float32)
    levels = data.spec.quantiles
    low = high = point = y
    found: dict[str, Any] = {}
    if levels:
        y = tf.sort(y, axis=-1)  # quantiles do not cross
        point = y[..., int(np.argmin(np.abs(np.asarray(levels) - 0.5)))]
        low, high = y[..., 0], y[..., -1]
        found["quantiles"] = y * deviation[:, None] + mean[:, None]
    spread = 0.0 if radius is None else np.asarray(radius, np.float32)
    # Quantiles that are too wide are drawn in (the radius is negative), but never past the forecast.
    low, high = tf.minimum(low - spread, point), tf.maximum(high + spread, point)
    units = {"forecast": point, "lower": low, "upper": high}
    return {name: value * deviation + mean for name, value in units.items()} | found


class Forecaster(tf.Module):
    """Raw windows in, forecasts in the target's units out.

    `serving_default` takes `window` float32 `(b, lookback, channels)`, and where the model has them
    `future` `(b, horizon, covariates)` and `static` `(b, features)`, all in their own units. It gives
    `forecast`, `lower` and `upper` float32 `(b, horizon, targets)`, and with quantiles `quantiles`
    `(b, horizon, targets, q)`.
    """

    def __init__(self, model: keras.Model, data: SeriesData, radius: np.ndarray | None) -> None:
        super().__init__()
        self.model_variables = [v.value for v in model.variables]
        spec = data.spec
        shapes = {"window": spec.input_shape}
        if spec.future:
            shapes["future"] = (spec.horizon, spec.future)
        if spec.static:
            shapes["static"] = (spec.static,)
        self.names = tuple(shapes)
        signature = [
            tf.TensorSpec((None, *shape), tf.float32, name) for name, shape in shapes.items()
        ]

        def forecast(*raw: Any) -> dict[str, Any]:
            given = dict(zip(shapes, raw, strict=True))
            inputs = model_inputs(data, given["window"], given.get("future"), given.get("static"))
            return answer(model, data, inputs, radius)

        self.forecast = tf.function(forecast, input_signature=signature)

    def signatures(self) -> dict[str, Any]:
        """Return the concrete function of each endpoint."""
        return {"serving_default": self.forecast.get_concrete_function()}


def raw_inputs(data: SeriesData, starts: np.ndarray, owners: np.ndarray) -> dict[str, np.ndarray]:
    """Gather what the endpoint takes for windows of the data itself, float32."""
    lookback, spec = data.spec.input_shape[0], data.spec
    found = {"window": gathered(data.rows, starts, lookback).astype(np.float32)}
    if spec.future:
        columns = data.rows[:, spec.outputs + spec.past :]
        ahead = gathered(columns, np.asarray(starts) + lookback, spec.horizon)
        found["future"] = ahead.astype(np.float32)
    if spec.static:
        found["static"] = data.static[owners]
    return found


def endpoint(
    model: keras.Model, data: SeriesData, radius: np.ndarray | None = None
) -> Callable[..., dict[str, Any]]:
    """Return what `serving_default` will be: a function from raw inputs by name."""
    return Forecaster(model, data, radius).signatures()["serving_default"]


def forecasts(
    run: Callable[..., dict[str, Any]], data: SeriesData, split: str
) -> dict[str, np.ndarray]:
    """Forecast every window of a split, by an endpoint; scaled again, in order."""
    starts, owners = data.starts(split)
    targets = data.spec.outputs
    mean, deviation = data.mean[:targets], data.deviation[:targets]
    parts: dict[str, list[np.ndarray]] = {}
    for i in range(0, len(starts), BATCH):
        given = raw_inputs(data, starts[i : i + BATCH], owners[i : i + BATCH])
        for name, value in run(**{k: tf.constant(v) for k, v in given.items()}).items():
            wide = name == "quantiles"
            m, d = (mean[:, None], deviation[:, None]) if wide else (mean, deviation)
            parts.setdefault(name, []).append((value.numpy() - m) / d)
    return {name: np.concatenate(each) for name, each in parts.items()}


def held_out(
    model: keras.Model, data: SeriesData, radius: np.ndarray, rows: int = 64
) -> tuple[dict, dict]:
    """Return raw requests from the test split, and the trained model's own answers to them."""
    starts, owners = data.starts("test" if data.sizes()["test"] else "validation")
    at = np.unique(np.linspace(0, len(starts) - 1, rows).round().astype(int))
    given = raw_inputs(data, starts[at], owners[at])
    inputs = model_inputs(data, given["window"], given.get("future"), given.get("static"))
    answers = answer(model, data, [tf.constant(x) for x in inputs], radius)
    expected = {name: value.numpy() for name, value in answers.items()}
    return {"serving_default": given}, {"serving_default": expected}


def scales(data: SeriesData) -> dict[str, np.ndarray]:
    """Return the size of what each output is a sum of: a deviation or so, and the mean."""
    targets = data.spec.outputs
    size = np.abs(data.mean[:targets]) + data.deviation[:targets]
    return {**dict.fromkeys(("forecast", "lower", "upper"), size), "quantiles": size[:, None]}
