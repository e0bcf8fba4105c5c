"""Where training stands, and how long it goes on."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# Shares of the time limit at which the plan is looked at again: a machine that changes its speed at
# the worst moment then moves the end by at most a tenth of that change.
REVISED_AT = (0.5, 0.75, 0.9)
# A smaller miss of the limit is left alone: so a steady machine keeps its first plan.
TOLERANCE = 0.01

# The least share of the limit that a revised plan leaves for the end of the schedule.
LANDING = 0.02


@dataclasses.dataclass
class Position:
    """Where training stands; all of it goes into the checkpoint.

    Attributes:
        step: batches trained on.
        total: batches to train on in all; None until `time_limit` has been turned into steps.
        schedule_total: length of the learning rate's schedule; `total`, unless that was revised.
        origin: the step at which `total` was last revised, and how far the schedule was by then;
            from there to `total` the schedule runs evenly to its end.
        revisions: how many of `REVISED_AT` are past.
        seconds: wall time spent in `fit` over all its processes.
        time_limit, epochs: the limits that `total` was made for.
        step_seconds, epoch_seconds: measured cost of a step, and of an epoch's end.
        best: validation metric and negated loss of the best epoch so far.
        best_epoch: the epoch whose weights are kept, from 1: that one, or the last; 0 before the first.
        wait: epochs since the best.
        good_step: the step of the last good state: the end of the last epoch, or 0.
        first_loss: the loss of the first batch, before anything was learnt.
        retries: how often training went back because it diverged.
        rate_factor: what the learning rate is multiplied by since then.
        micro_batch: most examples in memory at once; None for whole batches.
        probes: see `health.record`; None where gradients are not monitored.
        notes: what a reader of the report should know of this training.
        finished: why training ended; None while it goes on.
    """

    step: int = 0
    total: int | None = None
    schedule_total: float | None = None
    origin: tuple[int, float] = (0, 0.0)
    revisions: int = 0
    seconds: float = 0.0
    time_limit: float | None = None
    epochs: int | None = None
    step_seconds: float = 0.0
    epoch_seconds: float = 0.0
    best: tuple[float, float] | None = None
    best_epoch: int = 0
    wait: int = 0
    good_step: int = 0
    first_loss: float | None = None
    retries: int = 0
    rate_factor: float = 1.0
    micro_batch: int | None = None
    probes: dict[str, Any] | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    finished: str | None = None


class Validated(NamedTuple):
    """What the end of an epoch found.

    Attributes:
        metrics: by name; `loss` is among them.
        trouble: what is wrong with the model, or None.
        ends: whether training ends there; it goes back otherwise, with half the learning rate.
    """

    metrics: dict[str, float]
    trouble: str | None = None
    ends: bool = False


@dataclasses.dataclass
class Pace:
    """What was measured since the plan was last made: steps and ends of epochs, without tracing."""

    steps: int = 0
    seconds: float = 0.0
    ends: int = 0
    end_seconds: float = 0.0

    def step(self, count: int, seconds: float) -> None:
        """Note `count` steps."""
        self.steps, self.seconds = self.steps + count, self.seconds + seconds

    def end(self, seconds: float) -> None:
        """Note the end of an epoch: validation and what is logged."""
        self.ends, self.end_seconds = self.ends + 1, self.end_seconds + seconds


def restored(
    state: dict[str, Any], epochs: int | None, time_limit: float | None, steps_per_epoch: int
) -> Position:
    """Return a checkpoint's position, extended where the limits are larger than they were.

    The plan it was made for stays otherwise.
    """
    at = Position(**state)
    at.best = (at.best[0], at.best[1]) if at.best else None
    at.origin = (at.origin[0], at.origin[1])
    if at.total is not None and at.schedule_total is None:
        at.schedule_total = float(at.total)
    more = 0
    if time_limit is not None and at.time_limit is not None and time_limit > at.time_limit:
        more = int((time_limit - at.time_limit) / _per_step(at, steps_per_epoch))
    if epochs is not None and at.epochs is not None and epochs > at.epochs and time_limit is None:
        more = (epochs - at.epochs) * steps_per_epoch
    if more and at.total is not None and at.schedule_total is not None:
        at.schedule_total += more * _slope(at)
        at.total, at.finished, at.wait = at.total + more, None, 0
    at.epochs, at.time_limit = epochs, time_limit
    return at


def schedule_line(at: Position) -> tuple[float, float, float]:
    """Return `(a, b, length)`: at step s the schedule is at a + b * s of its length.

    With the first plan, and with none yet, that is s itself.
    """
    slope = _slope(at)
    length = at.schedule_total if at.schedule_total is not None else 2.0**40
    return at.origin[1] - slope * at.origin[0], slope, length


def measured(at: Position, pace: Pace, spent: float) -> bool:
    """Whether a plan can be made: steps were measured, or a tenth of the limit went by around them."""
    assert at.time_limit is not None
    enough = pace.seconds + pace.end_seconds > max(0.5, 0.04 * at.time_limit)
    return pace.steps > 0 and (enough or spent > 0.1 * at.time_limit)


def make_plan(at: Position, pace: Pace, spent: float, per_epoch: int) -> None:
    """Turn the time limit into a number of steps, from what a step and an epoch's end cost."""
    at.step_seconds, at.epoch_seconds = pace.seconds / pace.steps, pace.end_seconds / pace.ends
    at.total = _steps_within_limit(at, spent, per_epoch)
    at.schedule_total = float(at.total)


def due(at: Position, spent: float) -> bool:
    """Whether the plan is to be looked at again, `spent` seconds into the time limit."""
    return (
        at.total is not None
        and at.time_limit is not None
        and at.revisions < len(REVISED_AT)
        and spent >= REVISED_AT[at.revisions] * at.time_limit
    )


def revise(
    at: Position, pace: Pace, spent: float, per_epoch: int, tolerance: float = TOLERANCE
) -> bool:
    """Change the number of steps where it would miss the limit by more than `tolerance` of it.

    The rate goes on from where it is, only faster or slower.

    Returns:
        Whether the plan was changed.
    """
    assert at.total is not None and at.time_limit is not None
    at.revisions = sum(spent >= share * at.time_limit for share in REVISED_AT)
    if pace.steps:
        at.step_seconds = pace.seconds / pace.steps
    if pace.ends:
        at.epoch_seconds = pace.end_seconds / pace.ends
    total = _steps_within_limit(at, spent, per_epoch)
    # However late it is, the rate needs some steps to come down.
    landing = math.ceil(LANDING * at.time_limit / _per_step(at, per_epoch))
    total = max(total, min(at.step + landing, at.total))
    if abs(total - at.total) * _per_step(at, per_epoch) <= tolerance * at.time_limit:
        return False
    reached, slope, _ = schedule_line(at)
    if at.step < at.origin[0]:  # gone back to before the last revision
        reached, slope = 0.0, at.origin[1] / at.origin[0]
    at.origin, at.total = (at.step, reached + slope * at.step), total
    return True


def _slope(at: Position) -> float:
    if at.total is None or at.schedule_total is None or at.total <= at.origin[0]:
        return 1.0
    return (at.schedule_total - at.origin[1]) / (at.total - at.origin[0])


def _per_step(at: Position, per_epoch: int) -> float:
    return at.step_seconds + at.epoch_seconds / per_epoch


def _steps_within_limit(at: Position, spent: float, per_epoch: int) -> int:
    """Return the number of steps whose training and validation end just within the limit."""
    assert at.time_limit is not None
    left = at.time_limit * 0.99 - spent
    begun = at.step // per_epoch

    def excess(total: int) -> float:
        ends = math.ceil(total / per_epoch) - begun
        return (total - at.step) * at.step_seconds + ends * at.epoch_seconds - left

    total = at.step + max(0, int(left / _per_step(at, per_epoch))) + per_epoch
    while total > at.step and excess(total) > 0:
        # Not past the end of an epoch at once: there a whole validation is saved as well.
        over = math.ceil(excess(total) / at.step_seconds)
        total -= min(over, total % per_epoch or per_epoch)
    if at.epochs is not None:
        total = min(total, at.epochs * per_epoch)
    return max(total, at.step)


def cost_of_epoch_end(counters: list[Any], validate: Callable[[], Any]) -> float:
    """Time one validation, leaving the running epoch's metrics as they were."""
    values = [np.array(v) for v in counters]
    validate()  # traces
    began = time.monotonic()
    validate()
    for variable, value in zip(counters, values, strict=True):
        variable.assign(value)
    return time.monotonic() - began
