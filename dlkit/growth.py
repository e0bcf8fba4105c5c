"""When nets that grow go on to their next stage: planned in steps, or in shares of a time limit."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlkit.models.progressive import Progressive

# Of each stage its first step, and the step at which its block is blended in.
Stages = tuple[tuple[int, int], ...]


def stages(
    total_steps: int, count: int, *, share: float | None = None, fade: float = 0.5
) -> Stages:
    """Plan stages in steps.

    Args:
        total_steps: of the whole training, at least `count`.
        count: number of stages.
        share: of the steps for each stage before the last, in (0, 1 / (count - 1)); None for half
            of what the last one gets.
        fade: share of a stage in which its block is blended in; the first stage has none.
    """
    shares = _shares(count, share)
    return _planned([part * total_steps for part in shares], fade)


def stages_in_time(
    seconds: float, seconds_per_step: Sequence[float], *, share: float | None = None,
    fade: float = 0.5,
) -> Stages:  # fmt: skip
    """Plan stages in shares of a time limit.

    The last stage runs on for as long as time is left; the end of its fade alone goes by what is
    expected of it.

    Args:
        seconds: for all steps.
        seconds_per_step: of each stage, see `measure`.
        share, fade: see `stages`.
    """
    shares = _shares(len(seconds_per_step), share)
    lengths = [part * seconds / s for part, s in zip(shares, seconds_per_step, strict=True)]
    return _planned(lengths, fade)


def _shares(count: int, share: float | None) -> list[float]:
    if share is None:
        share = 1.0 / (count + 1)
    return [share] * (count - 1) + [1.0 - share * (count - 1)]


def _planned(lengths: Sequence[float], fade: float) -> Stages:
    """Return stages of so many steps, each of one at least."""
    planned, first = [], 0
    for number, length in enumerate(lengths):
        steps = max(1, round(length))
        planned.append((first, first + round(fade * steps) if number else first))
        first += steps
    return tuple(planned)


def measure(model: Progressive, batch: Any, *, repeats: int = 3) -> list[float]:
    """Return the seconds of one training step of each stage; the model is left as it was.

    Args:
        model: compiled.
        batch: what `train_step` takes.
        repeats: steps timed of each stage, of which the median counts.
    """
    import tensorflow as tf

    variables = [
        *model.variables,
        *model.optimizer.variables,
        *model.discriminator_optimizer.variables,
        *model.metrics_variables,
    ]
    held = [tf.identity(v.value) for v in variables]
    found = []
    try:
        for stage in range(model.count):

            @tf.function
            def step(batch: Any, stage: int = stage) -> None:
                model.train_stage(batch, stage, tf.constant(0.5))

            step(batch)  # traces
            times = []
            for _ in range(repeats):
                began = time.monotonic()
                step(batch)
                times.append(time.monotonic() - began)
            found.append(statistics.median(times))
    finally:
        for variable, value in zip(variables, held, strict=True):
            variable.assign(value)
    return found
