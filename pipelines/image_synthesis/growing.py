"""When a progressively grown model takes on its next size: planned before training, and kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLAN = "growth.json"


def growth(
    model: Any,
    config: Any,
    stream: Callable[[int, int], Any],
    steps_per_epoch: int,
    epochs: int | None,
    folder: Path,
    quiet: bool,
) -> Any:
    """Plan the stages of a model that grows, and tell them; others have none.

    Under a time limit each stage's share of it becomes steps by what a step of that stage costs
    here, measured; else the stages are shares of the steps. The plan is kept beside the checkpoint,
    so that a resumed run grows at the same steps.

    Returns:
        What tells `fit` to plan its time limit once the last stage has begun, or None.
    """
    if not hasattr(model, "stages"):
        return None
    from dlkit import growth as plan
    from dlkit.checkpoint import write_atomically
    from dlkit.progress import say
    from dlkit.steps import Freeze

    path = folder / PLAN
    if path.exists():
        stages = [tuple(stage) for stage in json.loads(path.read_text(encoding="utf-8"))]
    else:
        if config.time_limit is not None:
            batch = next(iter(stream(0, 0)))
            costs = plan.measure(model, batch)
            stages = plan.stages_in_time(config.time_limit, costs)
        else:
            assert epochs is not None
            stages = plan.stages(epochs * steps_per_epoch, model.count)
        write_atomically(path, lambda file: file.write(json.dumps(stages).encode()))
    model.stages = tuple(stages)
    for (first, fades), pictures in zip(stages, model.generator.outputs, strict=True):
        side = pictures.shape[1]
        say(f"{side} x {side} from step {first:,}, faded in by step {fades:,}", quiet)
    return Freeze([], stages[-1][0], 1.0) if config.time_limit is not None else None
