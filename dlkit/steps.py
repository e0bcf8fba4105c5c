"""What is done in one step of training: whole batches, or one gradient from several small ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from dlkit.errors import TrainingError
from dlkit.optimizers import scheduled_rate
from dlkit.precision import computing_in

# Averaging every fifth step costs a fifth and averages as well.
EMA_EVERY = 5


@dataclasses.dataclass
class Freeze:
    """What is not trained at first: transfer learning in two phases.

    Attributes:
        layers: frozen for the first `steps`; their batch norms work in inference mode, and change
            no statistics.
        steps: after so many all is trained.
        rate: factor on the learning rate from there on.
    """

    layers: list[Any]
    steps: int
    rate: float

    def __post_init__(self) -> None:
        self.layers = [layer for layer in self.layers if layer.trainable]

    def holds(self, step: int) -> bool:
        """Whether the layers are frozen at a step."""
        return step < self.steps

    def set(self, frozen: bool) -> None:
        """Freeze the layers, or let them go; what was traced before has to be traced anew."""
        for layer in self.layers:
            layer.trainable = not frozen


def train_loop(
    model: keras.Model,
    *,
    schedule: str,
    learning_rate: float,
    warmup: int,
    averages: list[tf.Variable],
    ema: float | None,
    micro_batch: int | None,
    steps_per_epoch: int,
    precision: str = "float32",
    compiled: bool = False,
    taught: Callable[[Any], Any] | None = None,
) -> Callable[..., None]:
    """Return a traced function that trains on `count` batches, or on what `taught` makes of each.

    Where `compiled`, XLA compiles the step: many small operations become few.

    Its arguments are an iterator of batches, `count` and the first step (int64 scalars), and
    float64 `(4,)`: `schedule_line` of the position, and the factor of the learning rate.
    """
    step_on = model.train_step if micro_batch is None else accumulated_step(model, micro_batch)

    def step_once(batch: Any) -> None:
        if taught is not None:
            batch = taught(batch)
        with computing_in(model, precision):
            step_on(batch)

    once = tf.function(step_once, jit_compile=True) if compiled else step_once

    @tf.function
    def train(batches: Any, count: tf.Tensor, step: tf.Tensor, line: tf.Tensor) -> None:
        for i in tf.range(count):
            reached = line[0] + line[1] * tf.cast(step + i, tf.float64)
            rate = scheduled_rate(schedule, learning_rate, warmup, reached, line[2])
            model.optimizer.learning_rate.assign(rate * tf.cast(line[3], tf.float32))
            once(next(batches))
            if ema is not None and ((step + i) % steps_per_epoch + 1) % EMA_EVERY == 0:
                _average(averages, model, ema, step + i, EMA_EVERY)

    return train


def accumulated_step(model: keras.Model, size: int) -> Callable[[Any], None]:
    """Return a training step that holds at most `size` examples in memory at once.

    The gradients of the parts are averaged by their sizes and applied once, so that without batch
    norm and dropout the step is that of the whole batch, up to rounding. Where `size` does not
    divide the batch, the first part is the short one.

    Departs from the whole batch: batch norm normalises each part by the part's own statistics, and
    its moving average takes one step a part; dropout draws once a part.

    Raises:
        TrainingError: the model has a training step of its own.
    """
    if type(model).train_step is not keras.Model.train_step:
        raise TrainingError(f"--micro-batch: {model.name} has a training step of its own")
    weights = model.trainable_variables
    mean_loss = next(m for m in model.metrics if m.name == "loss")
    connected = [True] * len(weights)

    def gradients(part: Any, share: tf.Tensor) -> list[tf.Tensor]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(part)
        with tf.GradientTape() as tape:
            answer = model(x, training=True)
            loss = model.compute_loss(
                x=x, y=y, y_pred=answer, sample_weight=sample_weight, training=True
            )
            scaled = model.optimizer.scale_loss(loss) * tf.cast(share, loss.dtype)
        mean_loss.update_state(loss, sample_weight=_rows(part))
        model.compute_metrics(x, y, answer, sample_weight=sample_weight)
        found = tape.gradient(scaled, weights)
        connected[:] = [g is not None for g in found]
        return [
            tf.zeros_like(v.value) if g is None else tf.convert_to_tensor(g)
            for v, g in zip(weights, found, strict=True)
        ]

    def step(batch: Any) -> None:
        rows = _rows(batch)
        parts = (rows + size - 1) // size
        total = [tf.zeros_like(v.value) for v in weights]
        for i in tf.range(parts):
            # Parts side by side would take the memory that they are there to save.
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            end = rows - (parts - 1 - i) * size
            begin = tf.maximum(0, end - size)
            part = tf.nest.map_structure(lambda t, a=begin, b=end: t[a:b], batch)
            more = gradients(part, (end - begin) / rows)
            total = [a + b for a, b in zip(total, more, strict=True)]
        pairs = zip(total, weights, connected, strict=True)
        model.optimizer.apply_gradients([(g, v) for g, v, there in pairs if there])

    return step


def _rows(batch: Any) -> tf.Tensor:
    return tf.shape(tf.nest.flatten(batch)[0])[0]


def floats(model: keras.Model) -> list[Any]:
    """Return the variables that an average of makes sense: all but the states of random numbers.

    A model whose training takes more than what it is there for names them itself: `averaged`.
    """
    return [v for v in getattr(model, "averaged", model.variables) if "float" in v.dtype]


def catch_up(
    averages: list[tf.Variable], model: keras.Model, decay: float, step: int, steps_per_epoch: int
) -> None:
    """Bring the averages up to the model after `step` steps, before it is validated.

    Where an epoch is no multiple of `EMA_EVERY`, its last steps have not reached them.
    """
    rest = (step % steps_per_epoch or steps_per_epoch) % EMA_EVERY
    if rest:
        _average(averages, model, decay, step - 1, rest)


def _average(
    averages: list[tf.Variable], model: keras.Model, decay: float, step: Any, count: int
) -> None:
    """Move each average towards its variable, by as much as `count` steps would."""
    done = tf.cast(step, tf.float32)
    kept = tf.minimum(decay, (1.0 + done) / (10.0 + done)) ** count
    for average, v in zip(averages, floats(model), strict=True):
        average.assign_add((1.0 - tf.cast(kept, average.dtype)) * (v.value - average))


def swap_in(averages: list[tf.Variable], model: keras.Model) -> list[Any]:
    """Put the averages into the model; return what was there."""
    pairs = list(zip(floats(model), averages, strict=True)) if averages else []
    held = [tf.identity(v.value) for v, _ in pairs]
    for v, average in pairs:
        v.assign(average)
    return held


def put_back(held: list[Any], model: keras.Model) -> None:
    """Undo `swap_in`."""
    for v, value in zip(floats(model) if held else [], held, strict=True):
        v.assign(value)
