"""Knowledge distillation: a classifier learns from the answers of a larger one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


def taught_by(teacher: keras.Model, classes: int) -> Callable[[Any], Any]:
    """Return what puts a teacher's logits behind the targets of a batch.

    Args:
        teacher: from its own prepared images to logits `(b, classes)`; it is not trained.
        classes: number of classes.
    Returns:
        A function from `((x, theirs), y)`, `theirs` being the same images as the teacher takes
        them, `y` class numbers `(b,)` or shares `(b, classes)`, to `(x, targets)`, float32
        `(b, 2 * classes)`.
    """
    teacher.trainable = False

    def taught(batch: Any) -> Any:
        (x, theirs), y = batch
        shares = y if len(y.shape) == 2 else ops.one_hot(y, classes)
        logits = ops.cast(teacher(theirs, training=False), "float32")
        return x, ops.concatenate([ops.cast(shares, "float32"), logits], -1)

    return taught


def distilled(
    hard: Callable[[Any, Any], Any], classes: int, temperature: float, weight: float
) -> Callable[[Any, Any], Any]:
    """Return a loss `(targets, logits) -> (b,)` by which a student learns from teacher and labels.

    Args:
        hard: loss of the labels, see `dlkit.losses.classification_loss`.
        classes: number of classes.
        temperature: T, by which both sides' logits are divided, above 0.
        weight: of the teacher, in [0, 1]; the labels have the rest.
    Returns:
        Of targets with a teacher's logits behind them, see `taught_by`:
        `(1 - weight) * hard + weight * T**2 * KL(teacher || student)`, the divergence being that of
        the softened answers; of other targets, as in validation, `hard` alone.
    Reference:
        Hinton et al. 2015, arXiv:1503.02531, section 2, which has the cross-entropy where the
        divergence stands here: they differ by the teacher's entropy, which has no gradient. T**2
        keeps the size of the gradient as T changes.
    """

    def loss(targets: Any, logits: Any) -> Any:
        if len(targets.shape) < 2 or targets.shape[-1] != 2 * classes:
            return hard(targets, logits)
        softened = ops.log_softmax(targets[:, classes:] / temperature)  # (b, classes)
        own = ops.log_softmax(ops.cast(logits, "float32") / temperature)
        divergence = ops.sum(ops.exp(softened) * (softened - own), -1)
        return (1.0 - weight) * hard(targets[:, :classes], logits) + (
            weight * temperature**2 * divergence
        )

    return loss
