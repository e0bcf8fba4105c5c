"""What a training run of a forecaster is made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dlkit.errors import OptionError
from dlkit.options import option

TASK = "forecasting"
DEFAULT_MODEL = "gru"
# A short series has few windows: so many epochs, or more until there were so many steps.
DEFAULT_EPOCHS, DEFAULT_STEPS, DEFAULT_PATIENCE = 30, 1500, 10

# Where a model trains better otherwise than by the defaults; rates chosen on the validation spans of
# ETTh1, sunspots, elnino and co2 among 1e-3, 5e-3, 1e-2 and 3e-2. Linear maps of a window are badly
# conditioned: at 1e-3 they are far from their best when the steps are done.
PRESETS: dict[str, dict[str, Any]] = {
    **{name: {"learning_rate": 1e-2} for name in ("linear", "dlinear", "nlinear")},
    **{name: {"learning_rate": 5e-3} for name in ("mlp", "patchtst")},
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What a training run is made from; the resolved values are saved with it."""

    data: str = option("sunspots", "sunspots, elnino, co2, a .csv, .parquet or .jsonl, tfds:NAME.")
    time: str | None = option(None, "Column of the stamps.", shown="found by its name or content")
    target: str | None = option(
        None, "Columns to forecast, with commas.", shown="all columns of numbers left"
    )
    series_id: str | None = option(None, "Column that tells the series of a panel apart.")
    past_covariates: str | None = option(None, "Columns known up to now alone, with commas.")
    future_covariates: str | None = option(None, "Columns known for the horizon too, with commas.")
    calendar: bool = option(
        False, "Let the model know where in the day, the week or the year each step lies."
    )
    static: str | None = option(None, "Columns that hold one number a series, with commas.")
    fill: str = option(
        "none", "What is done about gaps.", choices=("none", "forward", "interpolate")
    )
    split: str = option(
        "70/10/20",
        "By time: per cent, rows such as 8640/2880/2880, or the first dates of validation and test.",
    )
    lookback: int | None = option(
        None, "Steps that a model sees.", minimum=1, shown="three horizons or seasons"
    )
    horizon: int | None = option(None, "Steps to forecast.", minimum=1, shown="a season, 4 to 48")
    season: int | None = option(
        None, "Steps of a season, 1 for none.", minimum=1, shown="found in the training span"
    )
    joint: bool = option(False, "Forecast all targets together, not each by itself.")
    quantiles: str | None = option(
        None, "Levels to forecast, such as 0.1,0.5,0.9, in place of the mean."
    )
    coverage: float = option(0.8, "Share of truths that intervals are to hold.", above=0, below=1)
    data_dir: str | None = option(None, "Folder of tensorflow-datasets.", metavar="DIR")
    download: bool = option(True, "Let tensorflow-datasets download what is missing.")
    strict: bool = option(False, "Refuse a panel with a series that cannot be used.")
    model: str = option(DEFAULT_MODEL, "A name from `dlkit models`, or package.module:function.")
    params: dict = option({}, "A parameter of the model; may be repeated.")
    seed: int = option(0, "Seed of weights, order, dropout.", minimum=0, maximum=2**31 - 1)
    epochs: int | None = option(
        None,
        "Most epochs.",
        minimum=1,
        shown=f"{DEFAULT_EPOCHS}, at least {DEFAULT_STEPS:,} steps, or as the time limit allows",
    )
    time_limit: float | None = option(
        None, "Time to train and validate in, such as 10m.", duration=True, metavar="TIME"
    )
    batch_size: int = option(64, "Windows a step.", minimum=1)
    precision: str = option(
        "float32",
        "What the layers compute in while training; weights and answers stay float32.",
        choices=("float32", "bfloat16"),
    )
    optimizer: str = option("adamw", "Optimiser.", choices=("adamw", "muon", "rmsprop", "sgd"))
    learning_rate: float | None = option(
        None, "Peak learning rate.", above=0, shown="1e-3, or what suits the model"
    )
    schedule: str = option(
        "cosine",
        "How the rate falls to zero.",
        choices=("cosine", "linear", "one-cycle", "constant"),
    )
    warmup: int = option(20, "Steps over which the rate rises.", minimum=0)
    weight_decay: float = option(1e-4, "Decoupled decay of kernels.", minimum=0)
    clip_norm: float | None = option(1.0, "Largest norm of the gradient.", above=0)
    loss: str = option("mse", "What is minimised; with --quantiles the pinball loss.", choices=("mse", "mae"))  # fmt: skip
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
        shown=f"{DEFAULT_PATIENCE}, or never under a time limit or to keep the last",
    )
    keep: str = option(
        "best",
        "Keep the weights of the epoch that validates best, or of the last, when the rate has fallen.",
        choices=("best", "last"),
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


def levels(text: str | None) -> tuple[float, ...]:
    """Return the levels of quantiles, rising.

    Raises:
        OptionError: other than two or more numbers between 0 and 1, each once, 0.5 among them.
    """
    accepted = (
        "accepted: two or more different numbers between 0 and 1, such as 0.1,0.5,0.9; the median, 0.5, "
        "is the forecast"
    )
    try:
        found = tuple(sorted(float(part) for part in listed(text)))
    except ValueError:
        raise OptionError(f"--quantiles: got '{text}'; {accepted}") from None
    if text is not None and (
        len(found) < 2
        or len(set(found)) < len(found)
        or not all(0 < x < 1 for x in found)
        or 0.5 not in found
    ):
        raise OptionError(f"--quantiles: got '{text}'; {accepted}")
    return found


def load(config: Config, roles: Any = None) -> Any:
    """Load the config's series, their columns as `roles` say, or else as the config does."""
    from dlkit.data.series import load_series
    from dlkit.data.series_sources import Roles

    return load_series(
        config.data,
        roles=roles
        or Roles(
            config.time,
            listed(config.target),
            config.series_id,
            listed(config.past_covariates),
            listed(config.future_covariates),
            listed(config.static),
        ),
        fill=config.fill,
        split=config.split,
        lookback=config.lookback,
        horizon=config.horizon,
        season=config.season,
        quantiles=levels(config.quantiles),
        joint=config.joint,
        calendar=config.calendar,
        strict=config.strict,
        data_dir=config.data_dir,
        download=config.download,
    )
