"""What a training run of an image classifier is made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dlkit.options import option

TASK = "image-classification"
DEFAULT_MODEL = "resnet"
DEFAULT_EPOCHS = 60
DEFAULT_PATIENCE = 20
DEFAULT_FREEZE_EPOCHS = 2

# Where a family of models trains better otherwise than by the defaults; chosen on validation.
PRESETS: dict[str, dict[str, Any]] = {
    # Without convolutions a moved image is another one: mirrored alone it trains better.
    "mlp": {"batch_size": 128, "augment": "mirror"},
    "cnn": {"batch_size": 128, "ema": 0.998},
    "googlenet": {"optimizer": "muon", "batch_size": 128, "ema": 0.998},
    "speednet": {"batch_size": 128, "ema": 0.998},
    "vgg": {"batch_size": 128, "ema": 0.998},
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What a training run is made from; the resolved values are saved with it."""

    data: str = option(
        "digits",
        "digits, tfds:NAME, a folder of class folders, an .npz, or a .csv of path,label[,split].",
    )
    data_dir: str | None = option(None, "Folder of tensorflow-datasets.", metavar="DIR")
    download: bool = option(True, "Let tensorflow-datasets download what is missing.")
    image_size: int | None = option(
        None, "Side that images are resized to.", minimum=4, maximum=1024, shown="commonest size"
    )
    split_seed: int = option(0, "Seed of the cut into splits.", minimum=0, maximum=2**31 - 1)
    strict: bool = option(False, "Refuse a source with unreadable files.")
    stream: bool | None = option(
        None,
        "Leave images on disk, decoded as needed; by itself if they take over a quarter of memory.",
    )
    augment: str = option(
        "auto",
        "none, mirror, light, strong, or a list such as flip,crop=2,mixup; auto: light.",
        metavar="LIST",
    )
    model: str = option(DEFAULT_MODEL, "A name from `dlkit models`, or package.module:function.")
    params: dict = option({}, "A parameter of the model; may be repeated.")
    weights: str | None = option(
        None,
        "Weights to start from: imagenet (for applications/NAME), none, or a file: .keras, "
        ".weights.h5, .h5, a run's checkpoint.npz.",
        shown="imagenet for applications/NAME, else none",
        metavar="WEIGHTS",
    )
    init_from: str | None = option(
        None,
        "Run of the same model to start from the weights of; its model and data are the defaults.",
        metavar="RUN",
    )
    prune: float | None = option(
        None,
        "Share of the kernels' weights, the smallest, that become zero before training goes on.",
        above=0,
        below=1,
    )
    teacher: str | None = option(
        None, "Run with the same labels whose answers to learn from.", metavar="RUN"
    )
    # Of 4 and 0.9, and 2 and 0.5, the better on validation for small students on Fashion-MNIST.
    temperature: float = option(2.0, "What softens the answers of --teacher.", above=0)
    distill_weight: float = option(
        0.5, "Weight of --teacher in the loss; the labels have the rest.", minimum=0, maximum=1
    )
    freeze_epochs: int | None = option(
        None,
        "Epochs in which the head alone is trained.",
        minimum=0,
        shown=f"{DEFAULT_FREEZE_EPOCHS} for applications/NAME with weights, else 0",
    )
    fine_tune_rate: float = option(
        0.1, "Factor on the learning rate after --freeze-epochs.", above=0, maximum=1
    )
    seed: int = option(
        0, "Seed of weights, order, dropout, augmentation.", minimum=0, maximum=2**31 - 1
    )
    epochs: int | None = option(
        None, "Most epochs.", minimum=1, shown=f"{DEFAULT_EPOCHS}, or as the time limit allows"
    )
    time_limit: float | None = option(
        None, "Time to train and validate in, such as 10m.", duration=True, metavar="TIME"
    )
    batch_size: int = option(64, "Images a step.", minimum=1)
    micro_batch: int | None = option(
        None,
        "Most images in memory at once; gradients of a step are accumulated.",
        minimum=1,
        shown="a whole batch, halved where memory runs out",
    )
    precision: str = option(
        "float32",
        "What the layers compute in while training; weights and answers stay float32.",
        choices=("float32", "bfloat16"),
    )
    optimizer: str = option("adamw", "Optimiser.", choices=("adamw", "muon", "rmsprop", "sgd"))
    learning_rate: float | None = option(
        None, "Peak learning rate.", above=0, shown="2e-3; rmsprop 1e-3, sgd 0.05"
    )
    schedule: str = option(
        "cosine",
        "How the rate falls to zero.",
        choices=("cosine", "linear", "one-cycle", "constant"),
    )
    warmup: int = option(50, "Steps over which the rate rises.", minimum=0)
    weight_decay: float = option(0.01, "Decoupled decay of kernels.", minimum=0)
    clip_norm: float | None = option(None, "Largest norm of the gradient.", above=0)
    loss: str = option(
        "cross-entropy", "What is minimised.", choices=("cross-entropy", "focal", "mse")
    )
    class_weight: str = option(
        "none", "balanced: every class counts the same in the loss.", choices=("none", "balanced")
    )
    label_smoothing: float = option(
        0.0, "Share of the target spread over all classes.", minimum=0, maximum=0.9
    )
    ema: float | None = option(
        None,
        "Decay a step of the weights' moving average, which is then the model.",
        above=0,
        below=1,
    )
    tta: bool = option(
        False,
        "Answer with the mean over moved views of an image, mirrored ones too if it trained on such.",
    )
    calibrate: bool = option(
        True, "Divide the logits by a temperature fitted on validation, if that lowers its loss."
    )
    patience: int | None = option(
        None,
        "Epochs without a better validation accuracy before training ends.",
        minimum=1,
        shown=f"{DEFAULT_PATIENCE}, or never under a time limit",
    )
    monitor_gradients: bool = option(
        False,
        "Record each layer's gradient and activation, and say whether they vanish or explode.",
    )
    deterministic: bool = option(False, "Forbid ops that are not deterministic; for GPUs.")

    @staticmethod
    def presets(values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults of the model's family, and of the run that it starts from."""
        given: dict[str, Any] = {}
        if values.get("init_from") is not None:
            from pipelines.image_classification.other_run import defaults_from

            given = defaults_from(values["init_from"], values)
        model = values.get("model") or given.get("model", DEFAULT_MODEL)
        family = PRESETS.get(model) or PRESETS.get(model.rpartition("-")[0]) or {}
        return {**family, **given}


def load(config: Config) -> Any:
    """Load the config's source, at its `--image-size` where it has one."""
    from dlkit.data.images import load_images

    size = config.image_size
    return load_images(
        config.data,
        data_dir=config.data_dir,
        download=config.download,
        shape=(size, size, None) if size else None,
        split_seed=config.split_seed,
        strict=config.strict,
        stream=config.stream,
    )


def fit_to_model(config: Config, data: Any) -> Any:
    """Return the data as the config's model takes them: some prepare raw pixels themselves."""
    from dlkit import models
    from dlkit.data.preprocess import raw

    if models.find(TASK, config.model)[0].name in models.RAW_PIXELS:
        return dataclasses.replace(data, preprocess=raw())
    return data


def starting_weights(config: Config, resume: bool = False) -> tuple[str, int]:
    """Return what `--weights` and `--freeze-epochs` come to for the config's model.

    A resumed run has its weights already, and no file is asked for.

    Raises:
        OptionError: weights that the model does not take, or a file that is not there.
        CheckpointError: a file that is not what its ending says.
    """
    from dlkit import models
    from dlkit.weights import IMAGENET, NONE, check_weights

    application = models.find(TASK, config.model)[0].name == "applications"
    weights = config.weights or (IMAGENET if application else NONE)
    if not resume:
        check_weights(weights, application)
    default = DEFAULT_FREEZE_EPOCHS if application and weights != NONE else 0
    return weights, default if config.freeze_epochs is None else config.freeze_epochs
