"""What a training run of an anomaly detector is made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dlkit.options import option

TASK = "anomaly-detection"
DEFAULT_MODEL = "autoencoder"
# So many steps in all, but no fewer epochs than that; an epoch has so many steps at least.
DEFAULT_STEPS, LEAST_EPOCHS, EPOCH_STEPS = 1500, 10, 50
SCORES = (
    "fusion", "reconstruction", "mahalanobis", "neighbours", "local", "distance", "adversarial",
    "bound", "reconstruction_probability",
)  # fmt: skip

# Where a model trains better otherwise than by the defaults.
PRESETS: dict[str, dict[str, Any]] = {
    # What is strange to a forecaster is what it did not foresee.
    "forecaster": {"score": "reconstruction"},
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What a training run is made from; the resolved values are saved with it."""

    data: str = option("breast-cancer", "breast-cancer, or a .csv, .parquet, .jsonl or .npz table.")
    normal_class: str | None = option(
        None,
        "Of images, the normal classes, with commas; --data is then digits, tfds:NAME, a folder of "
        "class folders, an .npz or a .csv of path,label[,split].",
    )
    image_size: int | None = option(
        None, "Side that images are resized to.", minimum=4, maximum=1024, shown="commonest size"
    )
    data_dir: str | None = option(None, "Folder of tensorflow-datasets.", metavar="DIR")
    download: bool = option(True, "Let tensorflow-datasets download what is missing.")
    label: str | None = option(
        None, "Column that says what a row is.", shown="the source's own, if it has one"
    )
    normal: str | None = option(
        None, "Its values that are normal, with commas.", shown="0, false, normal, benign"
    )
    ignore: str | None = option(None, "Columns left out, with commas.")
    time: str | None = option(
        None,
        "Column of stamps of a series.",
        shown="none, a table; with --window, found by its name or content",
    )
    channels: str | None = option(
        None, "Columns of a series to look at, with commas.", shown="all columns of numbers"
    )
    window: int | None = option(
        None, "Steps of a series seen at once.", minimum=1, shown="64, fewer for a short series"
    )
    contaminated: bool = option(
        False, "Train on rows of any kind, as if nobody knew which are anomalies."
    )
    split_seed: int = option(0, "Seed of the split.", minimum=0, maximum=2**31 - 1)
    score: str = option("fusion", "What examples are ranked by.", choices=SCORES)
    threshold: str = option(
        "quantile",
        "Where alarms begin: a quantile of held-out scores, their median absolute deviation, or a "
        "Pareto tail (peaks over threshold).",
        choices=("quantile", "mad", "pot"),
    )
    false_positive_rate: float = option(
        0.01, "Share of normal examples that may raise an alarm.", above=0, below=0.5
    )
    ensemble: int = option(1, "Models with seeds of their own, averaged.", minimum=1, maximum=50)
    model: str = option(DEFAULT_MODEL, "A name from `dlkit models`, or package.module:function.")
    params: dict = option({}, "A parameter of the model; may be repeated.")
    init_from: str | None = option(
        None, "Run of this task whose encoder the model's starts from.", metavar="RUN"
    )
    seed: int = option(0, "Seed of weights, order, noise.", minimum=0, maximum=2**31 - 1)
    epochs: int | None = option(
        None,
        "Most epochs.",
        minimum=1,
        shown=f"{DEFAULT_STEPS:,} steps, at least {LEAST_EPOCHS} epochs, or as the time limit allows",
    )
    time_limit: float | None = option(
        None, "Time to train and validate in, such as 10m.", duration=True, metavar="TIME"
    )
    batch_size: int = option(64, "Examples a step.", minimum=1)
    precision: str = option(
        "float32",
        "What the layers compute in while training; weights and answers stay float32.",
        choices=("float32", "bfloat16"),
    )
    optimizer: str = option("adamw", "Optimiser.", choices=("adamw", "muon", "rmsprop", "sgd"))
    learning_rate: float | None = option(
        None, "Peak learning rate.", above=0, shown="1e-3; deep-svdd, once pretrained, 1e-4"
    )
    schedule: str = option(
        "cosine",
        "How the rate falls to zero.",
        choices=("cosine", "linear", "one-cycle", "constant"),
    )
    warmup: int = option(20, "Steps over which the rate rises.", minimum=0)
    weight_decay: float = option(1e-4, "Decoupled decay of kernels.", minimum=0)
    clip_norm: float | None = option(1.0, "Largest norm of the gradient.", above=0)
    ema: float | None = option(
        None,
        "Decay a step of the weights' moving average, which is then the model.",
        above=0,
        below=1,
    )
    patience: int | None = option(
        None,
        "Epochs without a lower validation loss before training ends.",
        minimum=1,
        shown="never",
    )
    monitor_gradients: bool = option(
        False,
        "Record each layer's gradient and activation, and say whether they vanish or explode.",
    )
    deterministic: bool = option(False, "Forbid ops that are not deterministic; for GPUs.")

    @staticmethod
    def presets(values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults of the model."""
        return PRESETS.get(values.get("model", DEFAULT_MODEL), {})


def listed(text: str | None) -> tuple[str, ...]:
    """Return the names between commas."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def of_series(config: Config) -> bool:
    """Return whether the data are to be read as a series."""
    return not (config.time is None and config.window is None and config.channels is None)


def load(config: Config, about: Mapping[str, Any] | None = None) -> Any:
    """Load the config's examples.

    Args:
        config: of a run.
        about: the manifest of its export, where the source is another: a series is then read by the
            run's channels and window, images are brought to the run's size.
    """
    if config.normal_class is not None:
        from dlkit.data.anomaly_images import load_images_for_detection

        size = config.image_size
        shape = tuple(about["input_shape"]) if about else (size, size, None) if size else None
        return load_images_for_detection(
            config.data,
            normal_class=listed(config.normal_class),
            contaminated=config.contaminated,
            split_seed=config.split_seed,
            data_dir=config.data_dir,
            download=config.download,
            shape=shape,
        )
    if of_series(config):
        from dlkit.data.anomaly_series import load_windows

        return load_windows(
            config.data,
            time=config.time,
            channels=tuple(about["columns"]) if about else listed(config.channels),
            ignored=() if about else listed(config.ignore),
            label=config.label,
            normal=listed(config.normal),
            window=about["window"] if about else config.window,
            contaminated=config.contaminated,
        )
    from dlkit.data.anomaly_tables import load_table

    return load_table(
        config.data,
        label=config.label,
        normal=listed(config.normal),
        ignored=listed(config.ignore),
        contaminated=config.contaminated,
        split_seed=config.split_seed,
    )
