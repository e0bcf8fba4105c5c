"""What an export of a detector is asked, what it has to answer, and how exact that can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from dlkit.data.anomalies import AnomalyData
from dlkit.detection.detector import Detector, by_column, prepared
from dlkit.export import TOLERANCE

# Relative change of the input that does as much as the rounding of every layer.
ROUNDING = 5e-6


def scales(detector: Detector) -> dict[str, np.ndarray]:
    """Return the size of what each output is made of, for the check of an export.

    A feature's score is `(r / s) ** 2`, r being the small difference of two numbers of the size of
    x: it is as exact as `x / s` is.
    """
    data, sizes = detector.data, np.zeros(detector.data.spec.input_shape)
    found: dict[str, Any] = conditions(detector)
    for x in prepared(data, data.test.at if len(data.test) else data.holdout.at):
        sizes = np.maximum(sizes, np.abs(x.numpy()).max(0))
    # A code, and a reconstruction, are sums over all of the input.
    largest = np.maximum(1.0, np.max(sizes))
    found["code"] = largest
    if not all(member.reconstructs for member in detector.members):
        return found
    whole = np.sum([sizes / member.scale.numpy() for member in detector.members], 0)
    found["feature_scores"] = by_column(tf.constant(whole[None], tf.float32), data).numpy()[0]
    if data.restore is not None:
        ends = [
            data.restore(tf.fill((1, *data.spec.input_shape), np.float32(end)))
            for end in (largest, -largest)
        ]
        if "reconstruction" in ends[0]:
            high, low = (end["reconstruction"].numpy()[0] for end in ends)
            found["reconstruction"] = np.maximum(np.abs(high), np.abs(low))
            if high.dtype == np.uint8:  # rounded: one level is allowed
                found["reconstruction"] = np.float64(1.0 / TOLERANCE)
    return found


def conditions(detector: Detector, draws: int = 4) -> dict[str, np.ndarray]:
    """Return how far rounding may move score and chance, in tolerances, `(n,)` each.

    Where ranks are steep, because the held-out scores lie close together, they show a change of the
    input many times larger than their own size would say: how much so is measured, by steps of
    several sizes, since two held-out scores may be closer than any one of them.
    """
    x = next(prepared(detector.data, shown(detector.data)))
    size = tf.maximum(tf.abs(x), tf.sqrt(tf.reduce_mean(x**2)))
    generator = np.random.default_rng(0)
    before, found = detector.answer(x), {}
    for step in (1e-3, 1e-4, 1e-5, 1e-6) * draws:
        sign = generator.choice([-1.0, 1.0], x.shape).astype(np.float32)
        after = detector.answer(x + step * size * sign)
        for name in ("score", "p_value"):
            change = np.abs((after[name] - before[name]).numpy()) / step
            found[name] = np.maximum(found.get(name, 0.0), change * ROUNDING / TOLERANCE)
    return found


def shown(data: AnomalyData, rows: int = 64) -> np.ndarray:
    """Return the examples by which an export is checked, of the whole test split."""
    split = data.test if len(data.test) else data.holdout
    return split.at[np.unique(np.linspace(0, len(split) - 1, rows).round().astype(int))]


def held_out(detector: Detector) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return raw requests from the test split, and the trained detector's own answers to them."""
    data = detector.data
    given: Mapping[str, np.ndarray] = data.inputs(shown(data))
    tensors = {k: tf.constant(v.tolist() if v.dtype == object else v) for k, v in given.items()}
    x = data.preprocess(tensors)
    expected = {
        endpoint: {name: _plain(value) for name, value in function(x).items()}
        for endpoint, function in detector.functions().items()
    }
    return {endpoint: dict(given) for endpoint in expected}, expected


def _plain(value: Any) -> np.ndarray:
    """Return a tensor as an array, strings as text."""
    array = value.numpy()
    return np.char.decode(array.astype(np.bytes_), "utf-8") if array.dtype == object else array
