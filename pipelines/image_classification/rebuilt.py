"""A run's Keras model again, with the weights that it exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dlkit.errors import CheckpointError, RunError
from pipelines.image_classification.config import TASK, Config, load


def rebuild(
    run: Any, config: Config, path: Path, shape: tuple[int, ...], labels: tuple[str, ...]
) -> tuple[Any, Any]:
    """Build a run's model with the weights that it exported, and its preprocessing layer.

    Args:
        run: a `dlkit.tracking.Run`.
        config: of the run.
        path: its checkpoint.
        shape, labels: of its data.
    Raises:
        CheckpointError: the checkpoint is of another model, or holds other weights than the export.
    """
    import keras

    from dlkit import checkpoint, models, training
    from dlkit.data.spec import Spec

    model = models.build(TASK, config.model, Spec(shape, len(labels), labels), config.params)
    groups, _ = checkpoint.load(path)
    checkpoint.restore(model.variables, groups["live"][: len(model.variables)], path)
    for variable, (_, best) in zip(model.variables, groups["best"], strict=True):
        variable.assign(best)
    exported = run.store.get_run(run.id).data.tags.get("dlkit.weights")
    if exported not in (None, training.weights_hash(model)):
        raise CheckpointError(
            f"the checkpoint {path} holds other weights than the run's export; finish its training "
            f"with dlkit {TASK} train --resume {run.id[:8]}"
        )
    try:
        saved = json.loads(run.artifact("preprocess.json").read_text(encoding="utf-8"))
    except RunError:
        # A run from before that was kept: fitted once more, on the same rows.
        return model, load(config).preprocess
    return model, keras.saving.deserialize_keras_object(saved)
