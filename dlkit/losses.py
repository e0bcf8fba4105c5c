"""Losses: of a classifier on logits, for class numbers and mixed targets alike; of forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


def classification_loss(
    name: str,
    classes: int,
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
    focus: float = 2.0,
) -> Any:
    """Return a loss `(targets, logits) -> (b,)`.

    Args:
        name: "cross-entropy"; "mse", the Brier score: squared distance between probabilities and
            target, summed over the classes; or "focal", cross-entropy weighted by
            `(1 - p) ** focus`, p being the probability of the target.
        classes: number of classes.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        class_weights: weight of each class, `(classes,)`, or None for all alike.
        focus: gamma of the focal loss, at least 0.
    Returns:
        A function of int `(b,)` class numbers, or float `(b, classes)` shares that sum to 1, and
        of logits `(b, classes)`, to float32 `(b,)`.
    Reference:
        Szegedy et al. 2016, arXiv:1512.00567 (smoothing); Lin et al. 2017, arXiv:1708.02002
        (focal loss, here over a softmax); Brier 1950, Monthly Weather Review 78.
    """
    weights = None if class_weights is None else [float(w) for w in class_weights]

    plain = name == "cross-entropy" and not label_smoothing and weights is None

    def loss(targets: Any, logits: Any) -> Any:
        logits = ops.cast(logits, "float32")
        if plain and len(targets.shape) < 2:
            return keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
        if len(targets.shape) < 2 or targets.shape[-1] == 1:
            targets = ops.one_hot(ops.reshape(targets, (-1,)), classes)  # (b, classes)
        share = ops.sum(targets * weights, -1) if weights is not None else 1.0
        if label_smoothing:
            targets = targets * (1.0 - label_smoothing) + label_smoothing / classes
        if name == "mse":
            each = ops.sum(ops.square(ops.softmax(logits) - targets), -1)
        elif name == "focal":
            log_p = ops.log_softmax(logits)
            each = -ops.sum(targets * (1.0 - ops.exp(log_p)) ** focus * log_p, -1)
        else:
            each = keras.losses.categorical_crossentropy(targets, logits, from_logits=True)
        return share * each

    return loss


def accuracy(targets: Any, logits: Any) -> Any:
    """Return 1.0 where the largest logit is the target's (largest) class, float32 `(b,)`.

    What stands behind the shares of the classes, a teacher's logits, does not count.
    """
    if len(targets.shape) < 2 or targets.shape[-1] == 1:
        found = ops.reshape(targets, (-1,))
    else:
        found = ops.argmax(targets[:, : logits.shape[-1]], -1)
    return ops.cast(
        ops.cast(found, "int32") == ops.cast(ops.argmax(logits, -1), "int32"), "float32"
    )


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Return weights by which every class that occurs counts the same and the mean row counts 1.

    King & Zeng 2001, Political Analysis 9: rows / (classes * rows of the class).
    """
    there = [c for c in counts if c]
    total = sum(there)
    return [total / (len(there) * c) if c else 0.0 for c in counts]


def error(name: str) -> Any:
    """Return a loss of forecasts `(b, horizon, targets)`: "mse" or "mae", to float32 `(b,)`."""

    def loss(targets: Any, forecast: Any) -> Any:
        off = ops.cast(forecast, "float32") - ops.cast(targets, "float32")
        each = ops.square(off) if name == "mse" else ops.abs(off)
        return ops.mean(each, (1, 2))

    return loss


def pinball(levels: Sequence[float]) -> Any:
    """Return the loss of quantiles `(b, horizon, targets, q)`, to float32 `(b,)`.

    Twice the pinball loss (Koenker & Bassett 1978), so that the median alone gives the absolute
    error.
    """

    def loss(targets: Any, forecast: Any) -> Any:
        level = ops.convert_to_tensor(levels, "float32")
        off = ops.expand_dims(ops.cast(targets, "float32"), -1) - ops.cast(forecast, "float32")
        return 2.0 * ops.mean(ops.maximum(level * off, (level - 1.0) * off), (1, 2, 3))

    return loss


@keras.saving.register_keras_serializable("dlkit")
def reconstruction(x: Any, answer: Any) -> Any:
    """Return the mean squared error of each example, float32 `(b,)`, over all of its features."""
    axes = list(range(1, len(answer.shape)))
    return ops.mean(ops.square(ops.cast(answer, "float32") - ops.cast(x, "float32")), axes)


@keras.saving.register_keras_serializable("dlkit")
def distance(x: Any, answer: Any) -> Any:
    """Return the squared length of each answer `(b, d)`, a code minus its centre, float32 `(b,)`."""
    return ops.sum(ops.square(ops.cast(answer, "float32")), -1)
