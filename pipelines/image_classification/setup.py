"""What `train` and `find-rate` both start from: checked options, a compiled model, a stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from dlkit.errors import OptionError
from pipelines.image_classification.config import TASK, Config, starting_weights


def checked(config: Config, resume: bool = False) -> dict[str, Any]:
    """Return every parameter of the model.

    What a person may have mistyped is told here, before anything heavy is loaded.

    Raises:
        OptionError, DataError: a name, value or file that is not accepted.
    """
    from dlkit import models
    from dlkit.data.images import check_source
    from dlkit.data.policy import policy

    policy(config.augment)
    builder, implied = models.find(TASK, config.model)
    params = models.check_params(builder, {**implied, **config.params})
    weights, _ = starting_weights(config, resume)
    if config.init_from is not None and config.weights is not None:
        raise OptionError("--init-from and --weights both say where weights come from; give one")
    if config.prune is not None and config.init_from is None and weights == "none":
        raise OptionError(
            "--prune: takes the smallest weights from a trained model; give it with --init-from RUN "
            "or --weights FILE"
        )
    check_source(config.data, config.data_dir, config.download)
    if config.micro_batch is not None and config.micro_batch > config.batch_size:
        raise OptionError(
            f"--micro-batch: got {config.micro_batch}; accepted: 1 to the batch size, "
            f"{config.batch_size}"
        )
    return params


def linked(config: Config, resume: bool = False) -> tuple[Config, Any, Any]:
    """Return a config that names other runs by their ids, and those runs.

    Returns:
        The config; the run that it starts from, None if it goes on with its own weights; its teacher.
    Raises:
        RunError: no such run.
        OptionError: the run to start from is of another model.
    """
    from pipelines.image_classification.other_run import other_run, same_model

    start = teacher = None
    if config.init_from is not None and not resume:
        start = other_run(config.init_from, "--init-from")
        same_model(start, config)
        config = dataclasses.replace(config, init_from=start.run.id)
    if config.teacher is not None:
        teacher = other_run(config.teacher, "--teacher")
        config = dataclasses.replace(config, teacher=teacher.run.id)
    return config, start, teacher


def compiled_model(config: Config, data: Any) -> tuple[Any, float]:
    """Build and compile the config's model for its data.

    Returns:
        The model, and the peak learning rate.
    """
    import keras
    import numpy as np

    from dlkit import layers, losses, models, optimizers, training
    from dlkit.distillation import distilled

    training.seed_everything(config.seed, config.deterministic)
    model = models.build(TASK, config.model, data.spec, config.params)
    classes, weights = data.spec.outputs, None
    if config.class_weight == "balanced":
        weights = losses.balanced_weights(np.bincount(data.train.y, minlength=classes).tolist())
    rate = config.learning_rate or optimizers.LEARNING_RATES[config.optimizer]
    loss = losses.classification_loss(
        config.loss, classes, label_smoothing=config.label_smoothing, class_weights=weights
    )
    if config.teacher is not None:
        loss = distilled(loss, classes, config.temperature, config.distill_weight)
    model.compile(
        optimizer=optimizers.make_optimizer(
            config.optimizer, rate, config.weight_decay, config.clip_norm
        ),
        loss=loss,
        metrics=[keras.metrics.MeanMetricWrapper(losses.accuracy, name="accuracy")],
        jit_compile=False,  # XLA makes small nets slower on CPUs
    )
    # Layers that fit themselves to the data; a resumed run takes theirs from the checkpoint.
    layers.adapt(model, lambda: data.preprocess(data.train.x[:5000].astype(np.float32)))
    return model, rate


def training_stream(
    config: Config, data: Any, theirs: Any = None
) -> tuple[Callable[[int, int], Any], int]:
    """Return `(epoch, step)` to the stream of augmented batches from there, and the batch's size.

    Where there is a teacher, `theirs` is the layer that prepares pixels for it: each batch then is
    `((x, what the teacher is shown), y)`, the same augmented images.
    """
    from dlkit.data.augment import augment, mix
    from dlkit.data.policy import policy
    from dlkit.data.stream import train_stream

    changes = policy(config.augment, data.kind)
    batch_size = min(config.batch_size, len(data.train))

    def prepare(draw_seed: Any, rows: Any, x: Any, y: Any) -> tuple:
        pixels = augment(x, draw_seed, rows, changes)
        x, targets = mix(data.preprocess(pixels), y, draw_seed, changes, data.spec.outputs)
        if theirs is None:
            return x, targets
        shown, _ = mix(theirs(pixels), y, draw_seed, changes, data.spec.outputs)
        return (x, shown), targets

    def stream(epoch: int, step: int) -> Any:
        arrays = (data.train.x, data.train.y)
        at = {"epoch": epoch, "step": step}
        return train_stream(arrays, prepare, batch_size=batch_size, seed=config.seed, **at)

    return stream, batch_size
