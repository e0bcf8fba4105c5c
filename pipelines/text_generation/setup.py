"""What training starts from: checked options, a compiled model, a stream of batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from dlkit.errors import OptionError
from pipelines.text_generation.config import DEFAULT_STEPS, RECURRENT, SIZES, TASK, Config

# Tokens of the validation text that are looked at during training.
LOOKED_AT = 200_000


class Plan(NamedTuple):
    """How long a run is.

    Attributes:
        steps_per_epoch: steps between two looks at the validation text.
        epochs: number of looks, or None where the time limit alone decides.
        per_pass: steps that show as many tokens as the training text has.
    """

    steps_per_epoch: int
    epochs: int | None
    per_pass: int


def checked(config: Config) -> dict[str, Any]:
    """Return every parameter of the model.

    What a person may have mistyped is told here, before anything heavy is loaded.

    Raises:
        OptionError, DataError: a name, value or file that is not accepted.
    """
    from dlkit import models
    from dlkit.data.text import check_source, percentages

    percentages(config.split)
    builder, implied = models.find(TASK, config.model)
    params = models.check_params(builder, {**implied, **config.params})
    if builder.name == "transformer":
        _check_heads(params)
    check_source(config.data, config.data_dir, config.download, config.field)
    if config.vocabulary is not None and config.tokenizer != "bpe":
        raise OptionError(
            f"--vocabulary: goes with --tokenizer bpe alone, got {config.tokenizer}, whose "
            "vocabulary is what the text has"
        )
    if config.micro_batch is not None and builder.name in RECURRENT:
        raise OptionError(
            f"--micro-batch: {builder.name} carries a state for each row from batch to batch; "
            "accepted for transformers alone"
        )
    if config.micro_batch is not None and config.micro_batch > config.batch_size:
        raise OptionError(
            f"--micro-batch: got {config.micro_batch}; accepted: 1 to the batch size, "
            f"{config.batch_size}"
        )
    return params


def _check_heads(params: dict[str, Any]) -> None:
    """Raise an OptionError where the heads of a block do not divide the transformer's width."""
    dim, heads = SIZES[params["variant"]]
    dim, blocks = params["dim"] or dim, params["transformer_layers"]
    for i, block in enumerate(blocks or [{"heads": params["heads"] or heads}]):
        if dim % block["heads"]:
            where = f"-p transformer_layers[{i}].heads" if blocks else "-p heads"
            raise OptionError(
                f"{where}: got {block['heads']}, which does not divide the width {dim}; "
                f"accepted: {', '.join(str(n) for n in range(1, dim + 1) if dim % n == 0)}"
            )


def planned(config: Config, tokens: int) -> Plan:
    """Turn `--steps`, `--epochs` and `--eval-every` into whole looks at the validation text.

    What they ask for is rounded up to a whole look.
    """
    per_pass = max(1, tokens // (config.batch_size * config.context_length))
    limits = [config.steps] if config.steps else []
    if config.epochs:
        limits.append(math.ceil(config.epochs * per_pass))
    if not limits and config.time_limit is None:
        limits = [DEFAULT_STEPS]
    if not limits:
        return Plan(config.eval_every, None, per_pass)
    # Whole looks alone, so that the last step is looked at.
    steps = min(config.eval_every, *limits)
    return Plan(steps, math.ceil(min(limits) / steps), per_pass)


def compiled_model(config: Config, spec: Any) -> tuple[Any, float]:
    """Build and compile the config's model.

    Returns:
        The model, and the peak learning rate.
    """
    import keras

    from dlkit import models, optimizers, training

    training.seed_everything(config.seed, config.deterministic)
    model = models.build(TASK, config.model, spec, config.params)
    rate = config.learning_rate or optimizers.LEARNING_RATES[config.optimizer]
    model.compile(
        optimizer=optimizers.make_optimizer(
            config.optimizer, rate, config.weight_decay, config.clip_norm, config.beta_2
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=False,  # XLA makes small nets slower on CPUs
    )
    return model, rate


def training_stream(
    config: Config, text: Any, model: Any, plan: Plan
) -> tuple[Callable, list[Any]]:
    """Return `(epoch, step)` to the stream of batches from there, and the carried variables.

    A recurrent model reads lanes of the text and carries its state along them; others read random
    windows.
    """
    from dlkit.data.windows import lane_stream, window_stream

    carried = model.carry(config.batch_size) if hasattr(model, "carry") else []
    made = lane_stream if carried else window_stream

    def stream(epoch: int, step: int) -> Any:
        return made(
            text.train,
            context_length=config.context_length,
            batch_size=config.batch_size,
            steps_per_epoch=plan.steps_per_epoch,
            seed=config.seed,
            epoch=epoch,
            step=step,
        )

    return stream, carried


def validation_stream(text: Any, context: int | None) -> Any:
    """Return the start of the validation text, cut into pieces, as batches `(x, y)`."""
    import numpy as np
    import tensorflow as tf

    tokens = text.validation[: LOOKED_AT + 1]
    length = min(context or 512, len(tokens) - 1)
    count = (len(tokens) - 1) // length
    rows = np.arange(count)[:, None] * length + np.arange(length + 1)
    pieces = tokens[rows].astype(np.int32)
    batch = max(1, 8192 // length)
    return tf.data.Dataset.from_tensor_slices((pieces[:, :-1], pieces[:, 1:])).batch(batch)
