"""Training: seed, and one `fit` that stops, saves and resumes bit-exactly between any two steps."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlkit import checkpoint
from dlkit.errors import Interrupted, TrainingError
from dlkit.optimizers import scheduled_rate
from dlkit.progress import Progress

CHUNK_SECONDS = 0.5
# A checkpoint of ResNet-20 costs about 40 ms: at this distance a thousandth of the time.
SAVE_EVERY_SECONDS = 30.0
# Averaging every fifth step costs a fifth and averages as well.
EMA_EVERY = 5


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed Python, NumPy and TensorFlow; `deterministic` also forbids ops that are not (GPUs)."""
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


@dataclasses.dataclass
class Position:
    """Where training stands; all of it goes into the checkpoint.

    Attributes:
        step: batches trained on.
        total: batches to train on in all; None until `time_limit` has been turned into steps.
        seconds: wall time spent in `fit` over all its processes.
        time_limit, epochs: the limits that `total` was made for.
        step_seconds, epoch_seconds: measured cost of a step, and of an epoch's end.
        best: validation metric and negated loss of the best epoch so far.
        best_epoch: that epoch, from 1; 0 before the first.
        wait: epochs since then.
        finished: why training ended; None while it goes on.
    """

    step: int = 0
    total: int | None = None
    seconds: float = 0.0
    time_limit: float | None = None
    epochs: int | None = None
    step_seconds: float = 0.0
    epoch_seconds: float = 0.0
    best: tuple[float, float] | None = None
    best_epoch: int = 0
    wait: int = 0
    finished: str | None = None


@contextmanager
def _deferred_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that training stops between two steps, not within one.

    A second SIGINT is not held back.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def fit(
    model: keras.Model,
    stream: Callable[[int, int], tf.data.Dataset],
    validation: tf.data.Dataset,
    *,
    steps_per_epoch: int,
    batch_size: int,
    epochs: int | None,
    time_limit: float | None,
    schedule: str,
    learning_rate: float,
    warmup: int,
    patience: int | None,
    monitor: str,
    path: Path,
    on_epoch: Callable[[int, dict[str, float]], None],
    ema: float | None = None,
    on_save: Callable[[], None] = lambda: None,
    quiet: bool = False,
) -> Position:
    """Train a compiled model, from its checkpoint if there is one, and leave the best weights in it.

    Args:
        model: compiled; its `train_step` and `test_step` do the work.
        stream: `(epoch, step)` to an endless dataset of training batches from there.
        validation: finite dataset, read after each epoch.
        steps_per_epoch: batches an epoch.
        batch_size: examples a batch, for the rate shown.
        epochs: most epochs, or None (then `time_limit` is needed).
        time_limit: seconds for tracing, training and validation, or None. After a few measured
            steps it is turned into a fixed number of steps.
        schedule, learning_rate, warmup: see `scheduled_rate`.
        patience: epochs without a better `monitor` before training ends, or None for never.
        monitor: validation metric that picks the best epoch, larger being better; equals are told
            apart by the validation loss.
        path: the checkpoint file. Written every 30 seconds, when the plan is fixed, on SIGINT or
            SIGTERM, and at the end.
        on_epoch: called as `(epoch from 1, logs)` after each epoch.
        ema: decay of the weights' moving average per step, in [0, 1), or None. The average is what
            is validated and kept; it includes batch norm's statistics, and its decay starts low, as
            `(1 + step) / (10 + step)`.
        on_save: called before each checkpoint: what was logged up to there must be safe by then,
            since a resumed run does not repeat it.
        quiet: show nothing.
    Returns:
        The final position.
    Raises:
        TrainingError: the loss is not finite; the last good checkpoint stays.
        Interrupted: after SIGINT or SIGTERM, with the checkpoint written.
        CheckpointError, StoreError: from the checkpoint file.
    """
    at = Position(time_limit=time_limit, epochs=epochs)
    best: list[np.ndarray] = []
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    # Metrics make their variables on first use, which cannot be inside the traced loop below.
    for batch in stream(0, 0).take(1):
        model.test_on_batch(*batch)
    model.reset_metrics()
    counters = list(model.metrics_variables)
    # The optimiser belongs to a compiled model but not to its variables.
    live = [*model.variables, *optimizer.variables, *counters]
    averages = [tf.Variable(v, trainable=False) for v in _floats(model)] if ema is not None else []
    if path.exists():
        groups, state = checkpoint.load(path)
        checkpoint.restore(live, groups["live"], path)
        best = [array for _, array in groups["best"]]
        for average, (_, array) in zip(averages, groups.get("ema", []), strict=True):
            average.assign(array)
        state["best"] = tuple(state["best"]) if state["best"] else None
        at = _extend(Position(**state), epochs, time_limit, steps_per_epoch)
    if epochs is not None and time_limit is None:
        at.total = epochs * steps_per_epoch

    @tf.function
    def train(batches: Any, count: tf.Tensor, step: tf.Tensor, total: tf.Tensor) -> None:
        for i in tf.range(count):
            rate = scheduled_rate(schedule, learning_rate, warmup, step + i, total)
            optimizer.learning_rate.assign(rate)
            model.train_step(next(batches))
            if ema is not None and (step + i + 1) % EMA_EVERY == 0:
                _average(averages, model, ema, step + i)

    @tf.function
    def validate() -> None:
        for batch in validation:
            model.test_step(batch)

    def results() -> dict[str, float]:
        return {name: float(value) for name, value in model.get_metrics_result().items()}

    def save() -> None:
        nonlocal saved_at
        on_save()
        at.seconds = before + time.monotonic() - started
        checkpoint.save(path, {"live": live, "best": best, "ema": averages}, dataclasses.asdict(at))
        saved_at = time.monotonic()

    batches = None
    started, before = time.monotonic(), at.seconds
    saved_at, chunk, traced = started, 1, False
    measured_steps, measured_seconds = 0, 0.0
    progress = Progress(quiet)
    try:
        with _deferred_signals() as signals:
            batches = iter(stream(*divmod(at.step, steps_per_epoch)))
            while at.finished is None:
                left = steps_per_epoch - at.step % steps_per_epoch
                if at.total is not None:
                    left = min(left, at.total - at.step)
                count, began = min(chunk, left), time.monotonic()
                total = at.total if at.total is not None else 2**40
                numbers = (tf.constant(n, tf.int64) for n in (count, at.step, total))
                train(batches, *numbers)
                at.step += count
                logs = results()
                took = time.monotonic() - began
                if not np.isfinite(logs["loss"]):
                    raise TrainingError(
                        f"the loss is {logs['loss']} after step {at.step}: try a smaller "
                        f"--learning-rate than {learning_rate:g}, or --clip-norm 1"
                    )
                if traced:
                    measured_steps, measured_seconds = (
                        measured_steps + count,
                        measured_seconds + took,
                    )
                    chunk = max(1, min(4096, round(count * CHUNK_SECONDS / max(took, 1e-4))))
                traced = True
                rate = count * batch_size / took
                progress.update(at.step, at.total, logs, rate)
                if at.total is None and measured_seconds > max(0.5, 0.04 * (time_limit or 0)):
                    at.step_seconds = measured_seconds / measured_steps
                    at.epoch_seconds = _cost_of_epoch_end(counters, validate, save)
                    spent = before + time.monotonic() - started
                    at.total = _plan(at, spent, steps_per_epoch)
                    save()
                if at.step % steps_per_epoch == 0 or at.step == at.total:
                    logs |= {
                        "learning_rate": float(optimizer.learning_rate),
                        "examples_per_second": rate,
                    }
                    model.reset_metrics()
                    held = _swap_in(averages, model)
                    validate()
                    logs |= {f"val_{name}": value for name, value in results().items()}
                    model.reset_metrics()
                    epoch = math.ceil(at.step / steps_per_epoch)
                    score = (logs[f"val_{monitor}"], -logs["val_loss"])
                    if at.best is None or score > at.best:
                        at.best, at.best_epoch, at.wait = score, epoch, 0
                        best = [np.array(v) for v in model.variables]
                    else:
                        at.wait += 1
                    _put_back(held, model)
                    if at.step == at.total:
                        at.finished = "planned steps done"
                    elif patience is not None and at.wait >= patience:
                        at.finished = f"no better {monitor} for {patience} epochs"
                    planned = math.ceil(at.total / steps_per_epoch) if at.total else None
                    progress.epoch(epoch, planned, logs)
                    on_epoch(epoch, logs)
                if at.finished or signals or time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                    save()
                if signals and at.finished is None:
                    raise Interrupted(signals[0])
    finally:
        # A stream that outlives Python's shutdown complains; an exception's frames would keep it.
        batches = None
        progress.close()
    for variable, value in zip(model.variables, best, strict=True):
        variable.assign(value)
    return at


def weights_hash(model: keras.Model) -> str:
    """Return a sha256 over every weight of a model, in order."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _floats(model: keras.Model) -> list[Any]:
    """Return the variables that an average of makes sense: all but the states of random numbers."""
    return [v for v in model.variables if "float" in v.dtype]


def _average(averages: list[tf.Variable], model: keras.Model, decay: float, step: Any) -> None:
    """Move each average towards its variable, by as much as `EMA_EVERY` steps would."""
    done = tf.cast(step, tf.float32)
    kept = tf.minimum(decay, (1.0 + done) / (10.0 + done)) ** EMA_EVERY
    for average, v in zip(averages, _floats(model), strict=True):
        average.assign_add((1.0 - tf.cast(kept, average.dtype)) * (v.value - average))


def _swap_in(averages: list[tf.Variable], model: keras.Model) -> list[np.ndarray]:
    """Put the averages into the model; return what was there."""
    held = [np.array(v) for v in _floats(model)] if averages else []
    for v, average in zip(_floats(model) if averages else [], averages, strict=True):
        v.assign(average)
    return held


def _put_back(held: list[np.ndarray], model: keras.Model) -> None:
    for v, value in zip(_floats(model) if held else [], held, strict=True):
        v.assign(value)


def _extend(
    at: Position, epochs: int | None, time_limit: float | None, steps_per_epoch: int
) -> Position:
    """Let a restored position take up larger limits; the plan it was made for stays otherwise."""
    more = 0
    if time_limit is not None and at.time_limit is not None and time_limit > at.time_limit:
        more = int((time_limit - at.time_limit) / _per_step(at, steps_per_epoch))
    if epochs is not None and at.epochs is not None and epochs > at.epochs and time_limit is None:
        more = (epochs - at.epochs) * steps_per_epoch
    if more and at.total is not None:
        at.total, at.finished, at.wait = at.total + more, None, 0
    at.epochs, at.time_limit = epochs, time_limit
    return at


def _per_step(at: Position, steps_per_epoch: int) -> float:
    return at.step_seconds + at.epoch_seconds / steps_per_epoch


def _cost_of_epoch_end(
    counters: list[Any], validate: Callable[[], None], save: Callable[[], None]
) -> float:
    """Time one validation and one checkpoint, leaving the running epoch's metrics as they were."""
    values = [np.array(v) for v in counters]
    validate()  # traces
    began = time.monotonic()
    validate()
    for variable, value in zip(counters, values, strict=True):
        variable.assign(value)
    save()
    return time.monotonic() - began


def _plan(at: Position, spent: float, steps_per_epoch: int) -> int:
    """Return the number of steps whose training and validation end just within the limit."""
    assert at.time_limit is not None
    left = at.time_limit * 0.99 - spent
    total = at.step + int(left / _per_step(at, steps_per_epoch))
    # A part of an epoch pays for a whole validation.
    if total % steps_per_epoch:
        share = 1 - (total % steps_per_epoch) / steps_per_epoch
        total -= math.ceil(share * at.epoch_seconds / at.step_seconds)
    if at.epochs is not None:
        total = min(total, at.epochs * steps_per_epoch)
    return max(total, at.step)
