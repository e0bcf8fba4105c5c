"""What a training run of a generator of pictures is made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dlkit.options import option

TASK = "image-synthesis"
DEFAULT_MODEL = "dcgan"
DEFAULT_EPOCHS = 40
LOSSES = ("ns", "wgan-gp", "hinge", "lsgan", "relativistic")
# Models that make a picture from another, not from noise.
TRANSLATORS = ("cyclegan",)
# Those of a likelihood, without a discriminator; and those whose pixels may be binary.
LIKELIHOOD = ("vae", "ddpm")
BINARY = ("vae",)

# Where a family of models trains better otherwise than by the defaults; chosen on validation.
PRESETS: dict[str, dict[str, Any]] = {
    "vae": {"beta_1": 0.9, "ema": 0.99},
    "ddpm": {"beta_1": 0.9, "ema": 0.995},
    "cgan": {"loss": "hinge"},
    "progan": {
        "loss": "wgan-gp", "learning_rate": 3e-3, "beta_1": 0.0,
        "beta_2": 0.99, "batch_size": 32, "ema": 0.99,
    },
    "cyclegan": {
        "loss": "lsgan", "learning_rate": 5e-4, "schedule": "linear", "batch_size": 8,
        "discriminator_rate": 4.0, "ema": None,
    },
}  # fmt: skip
# What a loss asks of the discriminator and of the optimisers; a model's own preset comes first.
LOSS_PRESETS: dict[str, dict[str, Any]] = {
    "wgan-gp": {"beta_1": 0.0, "beta_2": 0.9, "params": {"discriminator_norm": "layer"}},
    "hinge": {"params": {"discriminator_norm": "spectral"}},
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What a training run is made from; the resolved values are saved with it."""

    data: str = option(
        "digits",
        "digits, tfds:NAME, stacked-mnist, a folder of pictures, an .npz, or a .csv of path,label.",
    )
    data_b: str | None = option(
        None, "Pictures of the other domain, for cyclegan.", metavar="SOURCE"
    )
    domains: str | None = option(
        None, "Two classes of --data to translate between, for cyclegan.", metavar="A,B"
    )
    data_dir: str | None = option(None, "Folder of tensorflow-datasets.", metavar="DIR")
    download: bool = option(True, "Let tensorflow-datasets download what is missing.")
    image_size: int | None = option(
        None,
        "Side that pictures are brought to.",
        minimum=4,
        maximum=1024,
        shown="their own, or the nearest that the model makes",
    )
    split_seed: int = option(0, "Seed of the cut into splits.", minimum=0, maximum=2**31 - 1)
    strict: bool = option(False, "Refuse a source with unreadable files.")
    stream: bool | None = option(
        None,
        "Leave pictures on disk, decoded as needed; by itself if they take over a quarter of memory.",
    )
    mirror: bool = option(False, "Show each picture mirrored half of the time.")
    binarise: str = option(
        "none",
        "Make pixels black or white by chance, for a vae: once for all (fixed), or anew each time.",
        choices=("none", "dynamic", "fixed"),
    )
    model: str = option(DEFAULT_MODEL, "A name from `dlkit models`, or package.module:function.")
    params: dict = option({}, "A parameter of the model; may be repeated.")
    loss: str = option("ns", "Adversarial loss; ns: non-saturating cross-entropy.", choices=LOSSES)
    r1: float = option(0.0, "Weight of the gradient penalty at real pictures.", minimum=0)
    r2: float = option(0.0, "Weight of the gradient penalty at generated ones.", minimum=0)
    gradient_penalty: float = option(10.0, "Weight of the penalty of wgan-gp.", minimum=0)
    critic_steps: int = option(
        1, "Updates of the discriminator for one of the generator.", minimum=1
    )
    diff_augment: str = option(
        "none",
        "Change what the discriminator sees: none, or of color,translation,cutout.",
        metavar="LIST",
    )
    discriminator_rate: float = option(
        1.0, "Factor on the learning rate for the discriminator.", above=0
    )
    seed: int = option(0, "Seed of weights, order and noise.", minimum=0, maximum=2**31 - 1)
    epochs: int | None = option(
        None, "Most epochs.", minimum=1, shown=f"{DEFAULT_EPOCHS}, or as the time limit allows"
    )
    time_limit: float | None = option(
        None, "Time to train and validate in, such as 10m.", duration=True, metavar="TIME"
    )
    batch_size: int = option(64, "Pictures a step.", minimum=1)
    precision: str = option(
        "float32",
        "What the layers compute in while training; weights and answers stay float32.",
        choices=("float32", "bfloat16"),
    )
    learning_rate: float = option(1e-3, "Peak learning rate of Adam.", above=0)
    beta_1: float = option(0.5, "Decay of Adam's first moments.", minimum=0, below=1)
    beta_2: float = option(0.999, "Decay of Adam's second moments.", above=0, below=1)
    schedule: str = option(
        "constant",
        "How the rate goes on after warm-up.",
        choices=("cosine", "linear", "one-cycle", "constant"),
    )
    warmup: int = option(0, "Steps over which the rate rises.", minimum=0)
    ema: float | None = option(
        0.998,
        "Decay a step of the weights' moving average, which is then the model.",
        above=0,
        below=1,
    )
    patience: int | None = option(
        None,
        "Epochs without a better validation figure before training ends.",
        minimum=1,
        shown="never",
    )
    on_collapse: str = option(
        "warn",
        "Where a GAN's pictures become alike: warn; stop; or restore the last good state, rate halved.",
        choices=("warn", "stop", "restore"),
    )
    feature_weights: str | None = option(
        None, "Judge by InceptionV3 with these weights, not by dlkit's own net.", metavar="FILE"
    )
    count: int = option(10_000, "Most pictures that are made and judged.", minimum=20)
    deterministic: bool = option(False, "Forbid ops that are not deterministic; for GPUs.")

    @staticmethod
    def presets(values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults of the model's family, and of its loss."""
        own = PRESETS.get(values.get("model", DEFAULT_MODEL), {})
        loss = LOSS_PRESETS.get(values.get("loss", own.get("loss", "ns")), {})
        if values.get("model", DEFAULT_MODEL) not in ("dcgan", "cgan"):
            loss = {name: value for name, value in loss.items() if name != "params"}
        return {**loss, **own}


def load(config: Config, fresh: bool = False) -> Any:
    """Load the config's pictures: a `Data`, or for a translator a pair of them.

    They are as they come, grey where `--binarise` is given: what a model makes is held against
    such pictures. What it learns is `learnt` of them.

    Args:
        config: the run's.
        fresh: whether the run is to begin: then pictures above 256 a side need an `--image-size`.
    Raises:
        DataError: see `dlkit.data.pictures.load_pictures`.
    """
    from dlkit.data import pictures

    given: dict[str, Any] = {
        "data_dir": config.data_dir,
        "download": config.download,
        "split_seed": config.split_seed,
        "strict": config.strict,
        "stream": config.stream,
        "largest": pictures.LARGEST_SIDE if fresh else None,
    }
    data = pictures.load_pictures(
        config.data, image_size=config.image_size, side=side_of(config.model), **given
    )
    if config.model not in TRANSLATORS:
        return data
    if config.domains is not None:
        a, _, b = config.domains.partition(",")
        return tuple(pictures.of_class(data, label, "--domains") for label in (a, b))
    assert config.data_b is not None
    other = pictures.load_pictures(
        config.data_b, image_size=data.spec.input_shape[0], like=data.spec.input_shape, **given
    )
    return data, other


def learnt(config: Config, data: Any) -> Any:
    """Return pictures as the config's model learns them: black or white where it says so."""
    if config.binarise == "none":
        return data
    from dlkit.data import pictures

    return pictures.binarised(data, config.split_seed, train=config.binarise == "fixed")


def side_of(model: str) -> Any:
    """Return the function from a side to the nearest that a model makes, or None for any shape."""
    from dlkit.models import sides

    return {
        "dcgan": sides.doubled, "cgan": sides.doubled, "progan": sides.doubled,
        "cyclegan": sides.fours, "ddpm": sides.fours, "gan": None, "vae": None,
    }.get(model)  # fmt: skip
