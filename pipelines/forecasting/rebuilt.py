"""A run's Keras model, as it was exported, and the newest windows of a table for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlkit.errors import CheckpointError
from pipelines.forecasting.config import TASK, Config

# The exported model's forecasts and the rebuilt one's, relative above 1, on so many windows.
AGREES, CHECKED = 1e-4, 64


def newest_of(
    source: str,
    about: dict[str, Any],
    roles: Any,
    fill: str | None,
    strict: bool,
    data_dir: str | None,
    quiet: bool,
) -> dict[str, Any]:
    """Return what the endpoint takes for the newest window of each series of a table."""
    import numpy as np

    from dlkit.data.newest import newest
    from dlkit.progress import say

    found, notes = newest(
        source,
        roles,
        alias=about["frequency"],
        lookback=int(about["lookback"]),
        horizon=int(about["horizon"]),
        fill=fill or "none",
        strict=strict,
        data_dir=data_dir,
    )
    for note in notes:
        say(f"note: {note}", quiet)
    given = {"window": np.stack([each.window for each in found]).astype(np.float32)}
    if roles.future:
        given["future"] = np.stack([each.future for each in found]).astype(np.float32)
    if roles.static:
        given["static"] = np.stack([each.static for each in found]).astype(np.float32)
    return given


def rebuild(
    run: Any, config: Config, path: Path, data: Any, directory: Path, given: dict[str, Any]
) -> Any:
    """Build a run's Keras model with the weights that it exported.

    Args:
        run: a `dlkit.tracking.Run`.
        config: of the run.
        path: its checkpoint, whose best weights are those that were exported.
        data: its series, which give the spec and the scale.
        directory: of its export.
        given: raw inputs by name, on which both have to forecast alike.
    Raises:
        CheckpointError: the checkpoint is of another model, or the two forecasts differ.
    """
    import numpy as np
    import tensorflow as tf

    from dlkit import checkpoint, models
    from dlkit.export.forecast import answer, model_inputs

    model = models.build(TASK, config.model, data.spec, config.params)
    groups, _ = checkpoint.load(path)
    checkpoint.restore(model.variables, groups["live"][: len(model.variables)], path)
    for variable, (_, best) in zip(model.variables, groups["best"], strict=True):
        variable.assign(best)
    part = {name: tf.constant(values[:CHECKED]) for name, values in given.items()}
    exported = tf.saved_model.load(str(directory / "1")).signatures["serving_default"](**part)
    inputs = model_inputs(data, part["window"], part.get("future"), part.get("static"))
    own, theirs = (
        each["forecast"].numpy() for each in (answer(model, data, inputs, None), exported)
    )
    far = float((np.abs(own - theirs) / np.maximum(1, np.abs(theirs))).max())
    if not far < AGREES:
        raise CheckpointError(
            f"the model of {path} forecasts otherwise than the run's export, by {far:.2g}: its "
            f"training went on since, or the series that give its scale have changed; finish it "
            f"with dlkit {TASK} train --resume {run.id[:8]}"
        )
    return model
