"""What a training takes from another run: its weights to start from, or its answers to learn from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dlkit.errors import OptionError, RunError, SpecError
from pipelines.image_classification.config import TASK, Config

# What a training that starts from a run's weights takes from the run where nothing else is said.
TAKEN = ("model", "params", "data", "data_dir", "image_size", "split_seed")


class Other(NamedTuple):
    """Another run of this task.

    Attributes:
        flag: the option that named it.
        run: a `dlkit.tracking.Run`.
        config: of its training.
        export: its exported directory, which holds `1/`.
        manifest: of its export.
        checkpoint: the file with its Keras model's variables.
    """

    flag: str
    run: Any
    config: Config
    export: Path
    manifest: Mapping[str, Any]
    checkpoint: Path


def other_run(ref: str, flag: str) -> Other:
    """Find a finished run of this task.

    Raises:
        RunError: no such run, or its checkpoint or its export is gone.
    """
    from dlkit import export, tracking

    try:
        found = tracking.find_run(ref, TASK)
    except RunError as error:
        raise RunError(f"{flag}: {str(error).removeprefix('RUN: ')}") from None
    run = tracking.Run(found.info.run_id, TASK, tracking.client())
    checkpoint = tracking.checkpoint_folder(run.id) / "checkpoint.npz"
    if not checkpoint.is_file():
        raise RunError(f"{flag}: run {run.id} has no checkpoint at {checkpoint}")
    directory = tracking.run_export(found)
    config = Config(**tracking.config_of(run.id))
    return Other(flag, run, config, directory, export.read_manifest(directory / "1"), checkpoint)


def defaults_from(ref: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a training that starts from a run takes from it where nothing else is said.

    Args:
        ref: the run.
        values: what was given.
    """
    config = other_run(ref, "--init-from").config
    found = {name: getattr(config, name) for name in TAKEN}
    if values.get("model", config.model) != config.model:
        del found["params"]  # of another model; told once all is known
    return found


def same_model(other: Other, config: Config) -> None:
    """Check that a run's model is the config's.

    Raises:
        OptionError: another model, or another parameter.
    """
    from dlkit import models

    def whole(each: Config) -> tuple[str, dict[str, Any]]:
        builder, implied = models.find(TASK, each.model)
        return builder.target, models.check_params(builder, {**implied, **each.params})

    (theirs, there), (ours, here) = whole(other.config), whole(config)
    which = f"{other.flag}: run {other.run.id[:8]}"
    if theirs != ours:
        raise OptionError(f"{which} is of {other.config.model}; got --model {config.model}")
    for name, value in there.items():
        if here[name] != value:
            raise OptionError(f"{which} has -p {name}={value}; got {here[name]}")


def same_data(other: Other, data: Any) -> None:
    """Check that a run's images have the shape and the labels of the given data.

    Raises:
        SpecError: another shape, or other labels.
    """
    which = f"{other.flag}: run {other.run.id[:8]}"
    shape, labels = tuple(other.manifest["input_shape"]), tuple(other.manifest["labels"])
    if shape != tuple(data.spec.input_shape):
        raise SpecError(
            f"{which} takes images of {_by(shape)}; these are {_by(data.spec.input_shape)}"
        )
    if labels != tuple(data.spec.labels):
        differ = sorted(set(labels) ^ set(data.spec.labels)) or ["their order"]
        raise SpecError(
            f"{which} tells {len(labels)} labels apart, these data have {len(data.spec.labels)}; "
            f"the first difference: {differ[0]}"
        )


def _by(shape: Any) -> str:
    return " x ".join(map(str, shape))


def start_from(other: Other, model: Any) -> str:
    """Put the weights of a run's best epoch into the same model; return a sentence that says so.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another model.
    """
    from dlkit import checkpoint
    from dlkit.weights import best_weights

    ours = [v for v in model.variables if "seed_generator" not in v.path]
    checkpoint.restore(ours, best_weights(other.checkpoint, other.flag), other.checkpoint)
    return f"weights of run {other.run.id[:8]}"


def teacher_of(other: Other) -> tuple[Any, Any]:
    """Return a run's Keras model, and the layer that prepares raw pixels for it."""
    from pipelines.image_classification.rebuilt import rebuild

    shape, labels = tuple(other.manifest["input_shape"]), tuple(other.manifest["labels"])
    return rebuild(other.run, other.config, other.checkpoint, shape, labels)


def accuracy_of(other: Other, split: Any) -> dict[str, Any]:
    """Score a run's export on a split; return `run`, `model` and `accuracy`, for a report."""
    import tensorflow as tf

    from dlkit.evaluation.classification import scores
    from dlkit.export.images import classify

    endpoint = tf.saved_model.load(str(other.export / "1")).signatures["from_pixels"]
    accuracy = scores(classify(endpoint, split.x), split.y)["accuracy"]
    return {"run": other.run.id, "model": other.config.model, "accuracy": accuracy}


def beside(name: str, found: Mapping[str, Any]) -> str:
    """Return what `accuracy_of` found in words."""
    return (
        f"{name.replace('_', ' ')}: run {found['run'][:8]}, {found['model']}, accuracy "
        f"{found['accuracy']:.4f} on the same images"
    )
