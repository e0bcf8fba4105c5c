"""The learning-rate range test: one short training whose rate grows from step to step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlkit.errors import TrainingError
from dlkit.steps import accumulated_step

# Steps between two looks at the loss.
CHUNK = 10
# A smoothed loss this many times its lowest ends the test.
BLOWN_UP = 4.0
RULE = "a tenth of the rate at which the smoothed loss is lowest"


def range_test(
    model: keras.Model,
    batches: tf.data.Dataset,
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 150,
    micro_batch: int | None = None,
    on_steps: Callable[[int, float], None] = lambda done, loss: None,
) -> dict[str, Any]:
    """Train a freshly compiled model while its rate grows exponentially; spoils the model.

    Args:
        model: compiled.
        batches: an endless stream of training batches.
        lowest, highest: the first rate and the last.
        steps: batches to train on, fewer if the smoothed loss exceeds four times its lowest.
        micro_batch: see `accumulated_step`, or None.
        on_steps: called now and then with the steps done and the last loss.
    Returns:
        `rates` and `losses`, one a step; `smoothed`, the mean over a fifteenth of all steps around
        each; `suggestion`, a tenth of `lowest_at`, the rate where that is lowest; `steepest_at`, the
        rate where it falls most steeply against the rate's logarithm; `diverged_at`, the rate at
        which the loss blew up, or None.
    Raises:
        TrainingError: the loss never fell: there is nothing to choose by.
    Reference:
        Smith 2017, arXiv:1506.01186, section 3.3, who reads the rate off the accuracy by eye, and
        lets the rate grow linearly.
    """
    iterator = iter(batches)
    sample = tf.nest.map_structure(lambda t: t[:1], next(iter(batches.take(1))))
    model.test_on_batch(*sample)
    model.reset_metrics()
    model.optimizer.build(model.trainable_variables)
    mean_loss = next(m for m in model.metrics if m.name == "loss")
    step = model.train_step if micro_batch is None else accumulated_step(model, micro_batch)

    @tf.function
    def train(batches: Any, rates: tf.Tensor) -> tf.Tensor:
        losses = tf.TensorArray(tf.float32, tf.size(rates))
        for i in tf.range(tf.size(rates)):
            model.optimizer.learning_rate.assign(rates[i])
            step(next(batches))
            losses = losses.write(i, tf.cast(mean_loss.result(), tf.float32))
            for variable in model.metrics_variables:
                variable.assign(tf.zeros_like(variable.value))
        return losses.stack()

    rates = np.geomspace(lowest, highest, steps)
    found: list[float] = []
    for i in range(0, steps, CHUNK):
        some = tf.constant(rates[i : i + CHUNK], tf.float32)
        found += np.array(train(iterator, some)).tolist()
        on_steps(len(found), found[-1])
        if _blown_up(found, steps) is not None:
            break
    return read(rates, np.array(found))


def read(rates: np.ndarray, losses: np.ndarray) -> dict[str, Any]:
    """Read a rate off the losses of a test; see `range_test`.

    Args:
        rates: float `(n,)`, all that were planned.
        losses: float `(m,)`, of those that were run.
    """
    end = _blown_up(losses.tolist(), len(rates))
    kept = losses[: end if end is not None else len(losses)]
    smoothed = _smooth(kept, len(rates))
    answer = {
        "rates": rates[: len(losses)].tolist(),
        "losses": [float(v) if np.isfinite(v) else None for v in losses],
        "smoothed": smoothed.tolist(),
        "diverged_at": float(rates[end]) if end is not None else None,
    }
    if len(smoothed) < 3 or smoothed.argmin() == 0:
        raise TrainingError(
            f"the loss never fell between the rates {rates[0]:.3g} and {rates[len(kept) - 1]:.3g}; "
            "try other bounds by --from and --to"
        )
    best = int(smoothed.argmin())
    slope = np.gradient(smoothed, np.log(rates[: len(smoothed)]))[: best + 1]
    return answer | {
        "suggestion": float(rates[best] / 10),
        "lowest_at": float(rates[best]),
        "steepest_at": float(rates[slope.argmin()]),
    }


def _smooth(losses: np.ndarray, steps: int) -> np.ndarray:
    """Return the mean over a window around each loss, shorter at both ends."""
    half = max(1, steps // 30)
    total = np.concatenate([[0.0], np.cumsum(losses)])
    at = np.arange(len(losses))
    begin, end = np.maximum(at - half, 0), np.minimum(at + half + 1, len(losses))
    return (total[end] - total[begin]) / (end - begin)


def _blown_up(losses: list[float], steps: int) -> int | None:
    """Return the step from which the loss is not finite or stays past `BLOWN_UP` its lowest."""
    values = np.array(losses)
    finite = np.isfinite(values)
    end = len(values) if finite.all() else int(np.argmin(finite))
    smoothed = _smooth(values[:end], steps) if end else values[:0]
    if end:
        past = smoothed > BLOWN_UP * np.minimum.accumulate(smoothed)
        if past.any():
            return int(np.argmax(past))
    return None if end == len(values) else end
