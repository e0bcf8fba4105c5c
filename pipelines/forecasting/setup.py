"""What training starts from: checked options, a compiled model, streams of windows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dlkit.errors import OptionError
from pipelines.forecasting.config import (
    DEFAULT_EPOCHS,
    DEFAULT_PATIENCE,
    DEFAULT_STEPS,
    TASK,
    Config,
    levels,
    listed,
)

LEARNING_RATE = 1e-3
# Models whose width is shared out among heads.
ATTENTIVE = ("patchtst", "transformer")
# Steps gathered as one, where they divide lookback and horizon; the rows are held so many times.
PIECE = 4


def checked(config: Config) -> dict[str, Any]:
    """Return every parameter of the model.

    What a person may have mistyped is told here, before anything heavy is loaded.

    Raises:
        OptionError, DataError: a name, value or file that is not accepted.
    """
    from dlkit import models

    builder, implied = models.find(TASK, config.model)
    params = models.check_params(builder, {**implied, **config.params})
    if builder.name in ATTENTIVE and params["dim"] % params["heads"]:
        dim, heads = params["dim"], params["heads"]
        raise OptionError(
            f"-p dim: {dim} does not divide by the {heads} heads of {builder.name}; "
            f"accepted: a multiple of {heads}, such as {max(1, round(dim / heads)) * heads}"
        )
    levels(config.quantiles)

    from dlkit.data.calendar_covariates import in_table
    from dlkit.data.series_sources import kind_of

    kind_of(config.data)
    future = listed(config.future_covariates)
    if computed := [name for name in future if name not in in_table(future)]:
        raise OptionError(
            f"--future-covariates: got '{computed[0]}', which is no column; accepted: columns of the "
            "table, and --calendar beside them"
        )
    return params


def compiled_model(config: Config, spec: Any) -> Any:
    """Build and compile the config's model."""
    from dlkit import losses, models, optimizers, training

    training.seed_everything(config.seed, config.deterministic)
    model = models.build(TASK, config.model, spec, config.params)
    rate = config.learning_rate or LEARNING_RATE
    model.compile(
        optimizer=optimizers.make_optimizer(
            config.optimizer, rate, config.weight_decay, config.clip_norm
        ),
        loss=losses.pinball(spec.quantiles) if spec.quantiles else losses.error(config.loss),
        jit_compile=False,  # XLA makes small nets slower on CPUs
    )
    return model


def streams(config: Config, data: Any) -> tuple[Callable, Any, int]:
    """Return `(epoch, step)` to the training batches from there, the validation batches, batch size."""
    import math

    import numpy as np
    import tensorflow as tf

    from dlkit.data.stream import eval_stream, train_stream

    spec = data.spec
    lookback, horizon, targets = spec.input_shape[0], spec.horizon, spec.outputs
    rows = tf.constant(data.scaled, tf.float32)
    static = tf.constant(
        (data.static - data.static_mean) / data.static_deviation, tf.float32
    )  # (series, static)
    # Each row with the next ones beside it: a window is gathered in fewer, longer pieces.
    piece = math.gcd(lookback, horizon, PIECE)
    wide = tf.concat([rows[i : len(rows) - piece + 1 + i] for i in range(piece)], 1)

    def steps(starts: Any, first: int, count: int) -> Any:
        found = tf.gather(wide, starts[:, None] + np.arange(first, first + count, piece))
        return tf.reshape(found, (-1, count, rows.shape[1]))

    def windows(starts: Any, owners: Any) -> tuple[Any, Any]:
        """Gather a batch of windows from their starts: one gather for each tensor, and no slices."""
        future = steps(starts, lookback, horizon)
        inputs = [steps(starts, 0, lookback)]
        if spec.future:
            inputs.append(future[:, :, targets + spec.past :])
        if spec.static:
            inputs.append(tf.gather(static, owners))
        truth = future if targets == future.shape[-1] else future[:, :, :targets]
        return tuple(inputs) if len(inputs) > 1 else inputs[0], truth

    train = data.starts("train")
    batch = min(config.batch_size, len(train[0]))

    def stream(epoch: int, step: int) -> Any:
        return train_stream(
            train,
            lambda _, __, starts, owners: windows(starts, owners),
            batch_size=batch,
            seed=config.seed,
            epoch=epoch,
            step=step,
        )

    return stream, eval_stream(data.starts("validation"), windows, batch_size=256), batch


def fitted(
    config: Config,
    data: Any,
    path: Path,
    *,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, logs: None,
    on_save: Callable[[], None] = lambda: None,
    model: Any = None,
    quiet: bool = False,
) -> tuple[Any, Any]:
    """Train the config's model, from its checkpoint if there is one; return it and its position.

    Args:
        config: what it is made from.
        data: the series, cut by time.
        path: the checkpoint.
        on_epoch, on_save: see `dlkit.training.fit`.
        model: from `compiled_model`; built if None.
        quiet: print nothing.
    """
    from dlkit import training

    if model is None:
        model = compiled_model(config, data.spec)
    stream, validation, batch_size = streams(config, data)
    steps_per_epoch = len(data.starts("train")[0]) // batch_size
    limited, last = config.time_limit is not None, config.keep == "last"
    usual = max(DEFAULT_EPOCHS, -(-DEFAULT_STEPS // steps_per_epoch))
    position = training.fit(
        model,
        stream,
        validation,
        steps_per_epoch=steps_per_epoch,
        batch_size=batch_size,
        epochs=config.epochs or (None if limited else usual),
        time_limit=config.time_limit,
        schedule=config.schedule,
        learning_rate=config.learning_rate or LEARNING_RATE,
        warmup=config.warmup,
        patience=config.patience or (None if limited or last else DEFAULT_PATIENCE),
        monitor="loss",
        keep="last" if last else "best",
        ema=config.ema,
        monitor_gradients=config.monitor_gradients,
        precision=config.precision,
        path=path,
        on_epoch=on_epoch,
        on_save=on_save,
        quiet=quiet,
    )
    return model, position
