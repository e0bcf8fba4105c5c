"""Training: seed, and one `fit` that stops, saves and resumes bit-exactly between any two steps."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from dlkit import checkpoint, health, plan, steps
from dlkit.errors import DataError, Interrupted, TrainingError
from dlkit.plan import Pace, Position, Validated
from dlkit.progress import Progress
from dlkit.signals import deferred_signals

CHUNK_SECONDS = 0.5
# A checkpoint of ResNet-20 costs about 40 ms: at this distance a thousandth of the time.
SAVE_EVERY_SECONDS = 30.0
# How often training goes back and halves the rate before it gives up.
RETRIES = 2
# An epoch's loss this many times that of the untrained model is no spike any more. The validation
# loss may be far off while batch norm's moving statistics are young.
DIVERGED, DIVERGED_VALIDATION = 10.0, 100.0
# Examples that gradients are monitored on.
PROBE_ROWS = 64


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed Python, NumPy and TensorFlow; `deterministic` also forbids ops that are not (GPUs)."""
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def fit(
    model: keras.Model,
    stream: Callable[[int, int], tf.data.Dataset],
    validation: tf.data.Dataset | Callable[[dict[str, float]], Validated],
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
    micro_batch: int | None = None,
    keep: Literal["best", "last"] = "best",
    monitor_gradients: bool = False,
    freeze: steps.Freeze | None = None,
    precision: str = "float32",
    compiled: bool = False,
    descends: bool = True,
    carried: Sequence[Any] = (),
    taught: Callable[[Any], Any] | None = None,
    remedy: str = "a smaller --learning-rate, or --clip-norm 1",
    on_save: Callable[[], None] = lambda: None,
    quiet: bool = False,
) -> Position:
    """Train a compiled model, from its checkpoint if there is one, and leave the weights to keep in it.

    The good state is that at the end of the last epoch, or at the start. Training goes back to it,
    with half the learning rate, where it diverges: where the loss, the validation loss or a
    variable is not finite, or where the loss of an epoch is 10 times, or its validation loss 100
    times, that of the untrained model.
    It also goes back to it where memory runs out, with half the micro-batch. What it goes back from
    has not been logged yet, and where it goes back to does not depend on when checkpoints were
    written: a run that is killed and resumed around it ends in the same weights.

    Args:
        model: compiled; its `train_step` and `test_step` do the work.
        stream: `(epoch, step)` to an endless dataset of training batches from there.
        validation: finite dataset, read after each epoch; or a function called then with the
            epoch's metrics, and with the averaged weights in the model where there are any.
        steps_per_epoch: batches an epoch.
        batch_size: examples a batch, for the rate shown.
        epochs: most epochs, or None (then `time_limit` is needed).
        time_limit: seconds for tracing, training and validation, or None. After a few measured
            steps it is turned into a number of steps, which is looked at again at a half, three
            quarters and nine tenths of the limit and changed where it would miss the limit by more
            than 1 %. A resumed run keeps the number that it finds.
        schedule, learning_rate, warmup: see `scheduled_rate`.
        patience: epochs without a better `monitor` before training ends, or None for never.
        monitor: validation metric that picks the best epoch, larger being better but of "loss";
            equals are told apart by the validation loss.
        keep: leave the weights of the "best" epoch, or of the "last". The best of many noisy scores
            is partly luck, and before the rate has fallen weights are noisy too: where the validation
            span is unlike what comes after it, the last may be better.
        path: the checkpoint file. Written at the start, every 30 seconds, when the plan changes, on
            SIGINT or SIGTERM, and at the end.
        on_epoch: called as `(epoch from 1, logs)` after each epoch.
        ema: decay of the weights' moving average per step, in [0, 1), or None. The average is what
            is validated and kept; it includes batch norm's statistics, and its decay starts low, as
            `(1 + step) / (10 + step)`.
        micro_batch: most examples in memory at once, see `accumulated_step`; None for whole
            batches. Halved by itself where memory runs out.
        monitor_gradients: record each layer's gradient and activation after every epoch, see
            `health`; what is trained stays the same, bit for bit.
        freeze: layers that are not trained at first; patience counts from when they are. Under a
            time limit the number of steps is planned once all are trained, unless the limit comes
            before that.
        precision: what the layers compute in, see `precision`.
        compiled: compile whole steps by XLA. Transformers train faster so, convolutions slower.
        descends: whether the loss goes down as training goes well; where two losses fight it need
            not, and a high one is no divergence.
        carried: variables of the training run that are not the model's, such as the state that
            recurrent layers carry from batch to batch.
        taught: makes of a batch of the stream what the model trains on, within the step.
        remedy: what to try where training diverged for the third time.
        on_save: called before each checkpoint: what was logged up to there must be safe by then,
            since a resumed run does not repeat it.
        quiet: show nothing.
    Returns:
        The final position.
    Raises:
        TrainingError: training diverged for the third time, or one example does not fit into
            memory; the last good checkpoint stays.
        Interrupted: after SIGINT or SIGTERM, with the checkpoint written.
        DataError: a file that the stream reads is gone, or may not be read any more.
        CheckpointError, StoreError: from the checkpoint file.
    """
    at = Position(time_limit=time_limit, epochs=epochs, micro_batch=micro_batch)
    best: list[np.ndarray] = []
    good: list[np.ndarray] = []
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    # Metrics make their variables on first use, which cannot be inside the traced loop below.
    sample: Any = ()
    rows = min(PROBE_ROWS, micro_batch or PROBE_ROWS)
    for batch in stream(0, 0).take(1):
        given = batch if taught is None else taught(batch)
        sample = tf.nest.map_structure(lambda t: t[:rows], given)
    if not callable(validation):
        model.test_step(tf.nest.map_structure(lambda t: t[:1], sample))
        model.reset_metrics()
    counters = list(model.metrics_variables)
    # The optimiser belongs to a compiled model but not to its variables.
    live = [*model.variables, *optimizer.variables, *counters, *carried]
    averages = (
        [tf.Variable(v, trainable=False) for v in steps.floats(model)] if ema is not None else []
    )
    resumed = path.exists()
    if resumed:
        groups, state = checkpoint.load(path)
        checkpoint.restore(live, groups["live"], path)
        best = [array for _, array in groups["best"]]
        good = [array for _, array in groups.get("good", [])]
        for average, (_, array) in zip(averages, groups.get("ema", []), strict=True):
            average.assign(array)
        at = plan.restored(state, epochs, time_limit, steps_per_epoch)
    if epochs is not None and time_limit is None:
        at.total = epochs * steps_per_epoch
        at.schedule_total = float(at.total)
    probe = health.make_probe(model) if monitor_gradients else None

    def trained_by() -> Callable[..., None]:
        return steps.train_loop(
            model,
            schedule=schedule,
            learning_rate=learning_rate,
            warmup=warmup,
            averages=averages,
            ema=ema,
            micro_batch=at.micro_batch,
            steps_per_epoch=steps_per_epoch,
            precision=precision,
            compiled=compiled and at.micro_batch is None,  # parts of a batch differ in size
            taught=taught,
        )

    # One trace for all sizes of batches. The loop over them stays outside: AutoGraph, which would
    # convert it, unrolls it without end where this file has changed since it was imported.
    @tf.function(input_signature=None if callable(validation) else [validation.element_spec])
    def test(batch: Any) -> None:
        model.test_step(batch)

    def validate(logs: dict[str, float]) -> Validated:
        if callable(validation):
            return validation(logs)
        for batch in validation:
            test(batch)
        return Validated(results())

    def results() -> dict[str, float]:
        return {name: float(value) for name, value in model.get_metrics_result().items()}

    def state_now() -> list[np.ndarray]:
        return [np.array(v) for v in (*live, *averages)]

    def spent() -> float:
        return before + time.monotonic() - started

    def save() -> None:
        nonlocal saved_at
        on_save()
        at.seconds = spent()
        groups = {"live": live, "best": best, "ema": averages}
        # At the end of an epoch the live state is the good one.
        groups["good"] = good if at.step != at.good_step else []
        checkpoint.save(path, groups, dataclasses.asdict(at))
        saved_at = time.monotonic()

    def go_back(why: str) -> None:
        """Take up the good state again, and tell why."""
        nonlocal batches, train, chunk, traced, pace
        for variable, value in zip((*live, *averages), good, strict=True):
            variable.assign(value)
        at.step, at.finished = at.good_step, None
        epoch = at.step // steps_per_epoch
        note = f"{why}; went back to " + (f"the end of epoch {epoch}" if epoch else "the start")
        at.notes.append(note)
        progress.note(f"note: {note}")
        batches, train = iter(stream(*divmod(at.step, steps_per_epoch))), trained_by()
        chunk, traced, pace = 1, False, Pace()
        if at.total is not None and time_limit is not None:
            plan.revise(at, pace, spent(), steps_per_epoch, tolerance=0.0)
        save()

    def diverged(reason: str) -> None:
        """Go back with half the rate, or give up."""
        rates = [learning_rate * 0.5**k for k in range(at.retries + 1)]
        if at.retries == RETRIES:
            raise TrainingError(
                f"training diverged at learning rates {rates[0]:g}, {rates[1]:g} and {rates[2]:g}: "
                f"{reason}; try {remedy}"
            )
        at.retries, at.rate_factor = at.retries + 1, at.rate_factor * 0.5
        go_back(f"{reason}: learning rate halved from {rates[-1]:g} to {rates[-1] / 2:g}")

    def end_epoch(logs: dict[str, float], rate: float) -> str | None:
        """Validate and log an epoch; return what is wrong with it, then having logged nothing."""
        nonlocal best, good
        first = max(at.first_loss or 0.0, 1e-3) if descends else math.inf
        if logs["loss"] > DIVERGED * first:
            return f"the loss rose from {first:.3g} to {logs['loss']:.3g}"
        logs |= {"learning_rate": float(optimizer.learning_rate), "examples_per_second": rate}
        model.reset_metrics()
        if ema is not None:
            steps.catch_up(averages, model, ema, at.step, steps_per_epoch)
        now = state_now()
        if not all(np.isfinite(a).all() for a in now if a.dtype.kind == "f"):
            return f"a variable is not finite after step {at.step}"
        held = steps.swap_in(averages, model)
        found = validate(logs)
        logs |= {f"val_{name}": value for name, value in found.metrics.items()}
        model.reset_metrics()
        if found.trouble is not None and not found.ends:
            return found.trouble
        if not logs["val_loss"] <= DIVERGED_VALIDATION * first:  # or not a number
            return f"the validation loss is {logs['val_loss']:.3g}; training began at {first:.3g}"
        epoch = math.ceil(at.step / steps_per_epoch)
        better = -1.0 if monitor == "loss" else 1.0
        score = (better * logs[f"val_{monitor}"], -logs["val_loss"])
        if improved := at.best is None or score > at.best:
            at.best, at.wait = score, 0
        else:
            at.wait += 1
        if improved or keep == "last":
            at.best_epoch, best = epoch, [np.array(v) for v in model.variables]
        if freeze is not None and freeze.holds(at.step - 1):
            at.wait = 0
        steps.put_back(held, model)
        good, at.good_step = now, at.step
        if found.trouble is not None:
            at.finished = found.trouble
        elif at.step == at.total:
            at.finished = "planned steps done"
        elif patience is not None and at.wait >= patience:
            at.finished = f"no better {monitor} for {patience} epochs"
        planned = math.ceil(at.total / steps_per_epoch) if at.total else None
        progress.epoch(epoch, planned, logs)
        if probe is not None:
            at.probes, more = health.record(at.probes, epoch, probe, sample)
            logs |= more
        on_epoch(epoch, logs)
        return None

    def plans_later() -> bool:
        """Whether the layers now frozen will be trained within the limits: a step then costs more."""
        if freeze is None or not freeze.holds(at.step):
            return False
        left = (freeze.steps - at.step) * pace.seconds / max(1, pace.steps)
        in_time = time_limit is not None and spent() + left < time_limit
        return in_time and (epochs is None or freeze.steps < epochs * steps_per_epoch)

    batches: Any = None
    started, before = time.monotonic(), at.seconds
    saved_at, chunk, traced, own_plan = started, 1, False, not resumed or at.total is None
    pace, train, validated, frozen = Pace(), trained_by(), False, False
    progress = Progress(quiet)
    good = good or state_now()
    try:
        with deferred_signals() as signals:
            if not resumed:
                if probe is not None:
                    at.probes, _ = health.record(None, 0, probe, sample)
                save()
            batches = iter(stream(*divmod(at.step, steps_per_epoch)))
            while at.finished is None:
                left = steps_per_epoch - at.step % steps_per_epoch
                factor = at.rate_factor
                if freeze is not None:
                    if frozen != freeze.holds(at.step):
                        frozen = not frozen
                        freeze.set(frozen)
                        train, chunk, traced, pace = trained_by(), 1, False, Pace()
                    left = min(left, freeze.steps - at.step) if frozen else left
                    factor *= 1.0 if frozen else freeze.rate
                if at.total is not None:
                    left = min(left, at.total - at.step)
                count, began = min(chunk, left), time.monotonic()
                line = tf.constant((*plan.schedule_line(at), factor), tf.float64)
                try:
                    train(batches, *(tf.constant(n, tf.int64) for n in (count, at.step)), line)
                    logs = results()
                except tf.errors.ResourceExhaustedError:
                    size = min(at.micro_batch or batch_size, batch_size)
                    if size == 1:
                        raise TrainingError(
                            "one example at a time does not fit into memory"
                        ) from None
                    at.micro_batch = (size + 1) // 2
                    go_back(f"{size} examples do not fit into memory: micro-batch {at.micro_batch}")
                    continue
                except (tf.errors.NotFoundError, tf.errors.PermissionDeniedError) as error:
                    # "... with iterator: ...: PATH; No such file or directory\n\t [[{{node ...}}]]"
                    what = error.message.partition("\n\t [[")[0].splitlines()[-1]
                    what = what.rpartition("}} ")[2].rpartition(": ")[2]
                    raise DataError(
                        f"a file could not be read while training: {what}; the checkpoint is kept"
                    ) from None
                at.step += count
                took = time.monotonic() - began
                if not np.isfinite(logs["loss"]):
                    diverged(f"the loss is {logs['loss']} after step {at.step}")
                    continue
                if at.first_loss is None:
                    at.first_loss = logs["loss"]
                if traced:
                    pace.step(count, took)
                    chunk = max(1, min(4096, round(count * CHUNK_SECONDS / max(took, 1e-4))))
                traced = True
                rate = count * batch_size / took
                progress.update(at.step, at.total, logs, rate)
                if at.total is None and plan.measured(at, pace, spent()) and not plans_later():
                    if not pace.ends:
                        pace.end(plan.cost_of_epoch_end(counters, lambda: validate({})))
                    plan.make_plan(at, pace, spent(), steps_per_epoch)
                    save()
                    pace = Pace()
                elif own_plan and plan.due(at, spent()):
                    if plan.revise(at, pace, spent(), steps_per_epoch):
                        save()
                    pace = Pace()
                if at.step % steps_per_epoch == 0 or at.step == at.total:
                    began = time.monotonic()
                    trouble = end_epoch(logs, rate)
                    if validated:  # the first time traces
                        pace.end(time.monotonic() - began)
                    validated = True
                    if trouble is not None:
                        diverged(trouble)
                        continue
                if at.finished or signals or time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                    save()
                if signals and at.finished is None:
                    raise Interrupted(signals[0])
    finally:
        # A stream that outlives Python's shutdown complains; an exception's frames would keep it.
        batches = None
        progress.close()
        if frozen and freeze is not None:
            freeze.set(False)
    for variable, value in zip(model.variables, best, strict=True):
        variable.assign(value)
    return at


def weights_hash(model: keras.Model) -> str:
    """Return a sha256 over every weight of a model, in order."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
