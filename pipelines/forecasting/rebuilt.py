"""What an exported run says of its series, its Keras model again, the newest windows for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from dlkit.errors import CheckpointError
from pipelines.forecasting.config import TASK, Config

# The exported model's forecasts and the rebuilt one's, relative above 1, on so many windows.
AGREES, CHECKED = 1e-4, 64
# What of a `SeriesData` an export's manifest holds as numbers.
SCALE = ("mean", "deviation", "static_mean", "static_deviation")


def roles_of(about: dict[str, Any]) -> Any:
    """Return the roles of columns that an export's manifest tells."""
    from dlkit.data.series_sources import Roles

    named: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in about["roles"].items()
    }
    return Roles(**named)


def scaled_as(series: Any, about: dict[str, Any]) -> Any:
    """Return series with the scale that an export's manifest tells."""
    import numpy as np

    scale: dict[str, Any] = {name: np.array(about[name]) for name in SCALE if name in about}
    return dataclasses.replace(series, **scale)


def without_rows(about: dict[str, Any], config: Config) -> Any:
    """Return a run's series as its export's manifest tells them: spec, roles and scale, no rows.

    None where the model has static features and the manifest, an older one, has no scale of them.
    """
    import numpy as np

    from dlkit.data.series import SeriesData, spec_of

    roles = roles_of(about)
    if roles.static and "static_mean" not in about:
        return None
    season, quantiles = int(about["season"]), tuple(about["quantiles"])
    lookback, horizon = int(about["lookback"]), int(about["horizon"])
    spec = spec_of(roles, lookback, horizon, season, quantiles, config.joint)
    none = np.zeros(0)
    return scaled_as(
        SeriesData(
            source=config.data,
            rows=np.zeros((0, spec.input_shape[1])),
            static=np.zeros((0, spec.static), np.float32),
            spans=(),
            spec=spec,
            roles=roles,
            alias=about["frequency"],
            season=season,
            mean=none,
            deviation=none,
            static_mean=none,
            static_deviation=none,
        ),
        about,
    )


def newest_of(
    source: str,
    about: dict[str, Any],
    fill: str | None,
    strict: bool,
    data_dir: str | None,
    quiet: bool,
) -> dict[str, Any]:
    """Return what the endpoint takes for the newest window of each series of a table."""
    from dlkit.data.newest import newest, stacked
    from dlkit.progress import say

    found, notes = newest(
        source,
        roles_of(about),
        alias=about["frequency"],
        lookback=int(about["lookback"]),
        horizon=int(about["horizon"]),
        fill=fill or "none",
        strict=strict,
        data_dir=data_dir,
    )
    for note in notes:
        say(f"note: {note}", quiet)
    return stacked(found)


def rebuild(
    run: Any, config: Config, path: Path, data: Any, directory: Path, given: dict[str, Any]
) -> Any:
    """Build a run's Keras model with the weights that it exported.

    Args:
        run: a `dlkit.tracking.Run`.
        config: of the run.
        path: its checkpoint, whose best weights are those that were exported.
        data: gives the spec and the scale.
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
