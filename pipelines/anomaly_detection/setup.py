"""What training starts from: checked options, a compiled model, streams of examples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dlkit.errors import OptionError
from pipelines.anomaly_detection.config import (
    DEFAULT_STEPS,
    EPOCH_STEPS,
    LEAST_EPOCHS,
    TASK,
    Config,
    listed,
    of_series,
)
from pipelines.anomaly_detection.starting import PRETRAINING, pretrains, start_from

# A model that gathers codes around a centre goes there by shrinking, if it can: at the smaller rate,
# the paper's of Deep SVDD, it keeps more of what its encoder told apart before.
LEARNING_RATE, CENTRED_RATE = 1e-3, 1e-4


def checked(config: Config) -> dict[str, Any]:
    """Return every parameter of the model.

    What a person may have mistyped is told here, before anything heavy is loaded.

    Raises:
        OptionError, DataError: a name, value or file that is not accepted.
    """
    from dlkit import models

    builder, implied = models.find(TASK, config.model)
    params = models.check_params(builder, {**implied, **config.params})
    if config.normal_class is not None:
        from dlkit.data.anomaly_images import OPTION
        from dlkit.data.images import check_classes

        for name in ("label", "normal", "ignore", "time", "channels", "window"):
            if getattr(config, name) is not None:
                raise OptionError(
                    f"--{name} is for tables and series, and --normal-class for images"
                )
        check_classes(
            config.data, listed(config.normal_class), OPTION, config.data_dir, config.download
        )
        return params
    if of_series(config):
        from dlkit.data.anomaly_series import check_source

        check_source(config.data)
        if config.split_seed:
            raise OptionError("--split-seed: is for tables and images; a series is cut by time")
        no_images(config)
        return params
    if config.data == "digits" or config.data.startswith("tfds:") or Path(config.data).is_dir():
        raise OptionError(f"--data {config.data}: of images, say which are normal: --normal-class")

    from dlkit.data.tables import kind_of

    kind_of(config.data)
    no_images(config)
    return params


def no_images(config: Config) -> None:
    """Check that nothing is asked for that only images have.

    Raises:
        OptionError: `--image-size`, `--data-dir` or `--no-download`.
    """
    given = {
        "image-size": config.image_size is not None,
        "data-dir": config.data_dir is not None,
        "no-download": not config.download,
    }
    for name, there in given.items():
        if there:
            raise OptionError(f"--{name}: is for images; say which are normal: --normal-class")


def compiled_model(config: Config, spec: Any, seed: int) -> Any:
    """Build and compile the config's model."""
    from dlkit import models, training

    training.seed_everything(seed, config.deterministic)
    return compiled(config, models.build(TASK, config.model, spec, config.params))


def compiled(config: Config, model: Any) -> Any:
    """Compile a model; with a layer named `centre` it learns to come close to it."""
    from dlkit import losses, optimizers

    model.compile(
        optimizer=optimizers.make_optimizer(
            config.optimizer,
            rate(config, model),
            config.weight_decay,
            config.clip_norm,
        ),
        loss=losses.distance if centred(model) else losses.reconstruction,
        jit_compile=False,  # XLA makes small nets slower on CPUs
    )
    return model


def centred(model: Any) -> bool:
    """Whether a model learns to come close to a centre."""
    return any(layer.name == "centre" for layer in model.layers)


def rate(config: Config, model: Any) -> float:
    """Return the peak learning rate of a model."""
    return config.learning_rate or (CENTRED_RATE if centred(model) else LEARNING_RATE)


def streams(config: Config, data: Any, seed: int) -> tuple[Callable, Any, int, int]:
    """Return `(epoch, step)` to the training batches from there, and what belongs to them.

    Returns:
        That function, the validation batches, the batch size, the batches of an epoch.
    """
    import numpy as np

    from dlkit.data.stream import eval_stream, train_stream

    # An epoch of few examples is several passes over them: nobody wants a line of log for each.
    batch = min(config.batch_size, len(data.train))
    passes = -(-EPOCH_STEPS // (len(data.train) // batch))
    train = data.arrays(np.tile(data.train.at, passes))

    def pair(*arrays: Any) -> tuple[Any, Any]:
        x = data.prepare(*arrays)
        return x, x

    def stream(epoch: int, step: int) -> Any:
        return train_stream(
            train,
            lambda _, __, *arrays: pair(*arrays),
            batch_size=batch,
            seed=seed,
            epoch=epoch,
            step=step,
        )

    held = eval_stream(data.arrays(data.holdout.at), pair, batch_size=256)
    return stream, held, batch, len(train[0]) // batch


def fitted(
    model: Any,
    config: Config,
    data: Any,
    path: Path,
    *,
    seed: int,
    time_limit: float | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, logs: None,
    on_save: Callable[[], None] = lambda: None,
    quiet: bool = False,
) -> Any:
    """Train a model, from its checkpoint if there is one; return its position.

    Args:
        model: from `compiled_model`.
        config: what it is made from.
        data: the examples.
        path: the checkpoint.
        seed: of this member of an ensemble.
        time_limit: seconds for this member, or None.
        on_epoch, on_save: see `dlkit.training.fit`.
        quiet: print nothing.
    """
    from dlkit import checkpoint, training
    from dlkit.models.deep_svdd import pretraining
    from dlkit.progress import say
    from dlkit.weights import take_encoder

    stream, validation, batch_size, steps_per_epoch = streams(config, data, seed)
    usual = max(DEFAULT_STEPS // steps_per_epoch, LEAST_EPOCHS)
    epochs = config.epochs or (None if time_limit is not None else usual)

    def fit(
        model: Any, path: Path, share: float, on_epoch: Callable[[int, dict[str, float]], None]
    ) -> Any:
        return training.fit(
            model,
            stream,
            validation,
            steps_per_epoch=steps_per_epoch,
            batch_size=batch_size,
            epochs=epochs and max(1, round(share * epochs)),
            time_limit=time_limit and share * time_limit,
            schedule=config.schedule,
            learning_rate=rate(config, model),
            warmup=config.warmup,
            patience=config.patience,
            monitor="loss",
            ema=config.ema,
            monitor_gradients=config.monitor_gradients,
            precision=config.precision,
            path=path,
            on_epoch=on_epoch,
            on_save=on_save,
            quiet=quiet,
        )

    # First weights; a run that has begun to train has them in its checkpoint.
    share, before, new = 1.0, 0.0, not path.exists()
    if pretrains(config):
        share, earlier = 1.0 - PRETRAINING, path.with_name(f"pretrain{path.name[10:]}")
        if new:
            params = {**config.params, "pretrain": True}
            first = compiled(config, pretraining(data.spec, **params))
            say("pretraining: the autoencoder of this encoder", quiet)
            fit(first, earlier, PRETRAINING, lambda epoch, logs: on_epoch(epoch, pretrained(logs)))
            say(take_encoder(model, [(v.path, v) for v in first.weights], "pretraining"), quiet)
        before = checkpoint.load(earlier)[1]["seconds"]
    elif config.init_from is not None and new:
        start_from(config.init_from, model)
    if new and centred(model):
        from dlkit.detection.centre import fix_centre

        fix_centre(model, data)
    position = fit(model, path, share, on_epoch)
    position.seconds += before
    return position


def pretrained(logs: dict[str, float]) -> dict[str, float]:
    """Return an epoch's figures under names of pretraining."""
    return {f"pretrain_{name}": value for name, value in logs.items()}
