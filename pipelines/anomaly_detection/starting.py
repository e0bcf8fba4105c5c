"""Where a model's first weights come from: another run's encoder, or pretraining of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlkit.errors import RunError
from pipelines.anomaly_detection.config import TASK, Config

# Share of the epochs, or of the time limit, that pretraining takes.
PRETRAINING = 1 / 3


def source_of(ref: str) -> str:
    """Return the id of the run that `--init-from` names.

    Raises:
        RunError: no such run of this task, or its checkpoint is not here.
    """
    from dlkit import tracking

    run = tracking.find_run(ref, TASK).info.run_id
    if not _checkpoint(run).is_file():
        raise RunError(f"--init-from: run {run} has no checkpoint at {_checkpoint(run)}")
    return run


def start_from(run: str, model: Any) -> str:
    """Put the encoder of a run's model into a model; say how much of it fits.

    Raises:
        CheckpointError: nothing does, or the checkpoint is damaged.
    """
    from dlkit.weights import best_weights, take_encoder

    found = best_weights(_checkpoint(run), "--init-from")
    return take_encoder(model, found, f"--init-from {run[:8]}")


def pretrains(config: Config) -> bool:
    """Whether the config's model starts from an autoencoder that is trained before it."""
    from dlkit import models

    builder, implied = models.find(TASK, config.model)
    params = models.check_params(builder, {**implied, **config.params})
    return builder.name == "deep-svdd" and params["pretrain"] and config.init_from is None


def _checkpoint(run: str) -> Path:
    from dlkit import tracking

    return tracking.checkpoint_folder(run) / "checkpoint.npz"
