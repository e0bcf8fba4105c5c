"""What `train` starts from: checked options, a compiled model, a stream, a net that judges."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dlkit.errors import DataError, OptionError, SpecError, nearest, one_of
from pipelines.commands import as_dict
from pipelines.image_synthesis.config import (
    BINARY,
    LIKELIHOOD,
    TASK,
    TRANSLATORS,
    Config,
    side_of,
)

# Draws of black and white are others than those of mirrors.
BINARY_DRAWS = 1 << 62
# Options of the step of one generator against one discriminator.
OF_STEP = ("loss", "r1", "r2", "gradient_penalty", "critic_steps", "diff_augment")
# Why others have no use for --on-collapse.
WATCHED = "generators against a discriminator are watched for it alone"
DIFF_AUGMENT = ("color", "translation", "cutout")


def checked(config: Config, resumed: bool = False) -> dict[str, Any]:
    """Return every parameter of the model.

    What a person may have mistyped is told here, before anything heavy is loaded.

    Args:
        config: the run's.
        resumed: whether the run has begun: it goes on with what was accepted then.
    Raises:
        OptionError, DataError: a name, value or file that is not accepted.
    """
    from dlkit import models
    from dlkit.data.images import check_classes
    from dlkit.data.pictures import check_pictures

    builder, implied = models.find(TASK, config.model)
    params = models.check_params(builder, {**implied, **config.params})
    augmentations(config)
    if not resumed:
        no_use(config)
        unmixed(config, params)
    if config.binarise != "none" and config.model not in BINARY:
        raise OptionError(f"--binarise is for {one_of(BINARY)}; {config.model} takes grey levels")
    pair = config.data_b is not None or config.domains is not None
    if config.model in TRANSLATORS and (config.data_b is None) == (config.domains is None):
        raise OptionError(
            f"{config.model} translates between two domains; accepted: --data-b SOURCE, or "
            "--domains A,B for two classes of --data"
        )
    if pair and config.model not in TRANSLATORS:
        raise OptionError(f"--data-b and --domains are for cyclegan, not for {config.model}")
    if config.domains is not None:
        a, comma, b = config.domains.partition(",")
        if not (a and comma and b) or a == b:
            raise OptionError(f"--domains: got '{config.domains}'; accepted: two classes, A,B")
        check_classes(config.data, (a, b), "--domains", config.data_dir, config.download)
    side = side_of(config.model)
    if (
        side is not None
        and config.image_size is not None
        and side(config.image_size) != (config.image_size)
    ):
        raise OptionError(
            f"--image-size: {config.model} cannot make {config.image_size} x {config.image_size}; "
            f"the nearest side that it can: {side(config.image_size)}"
        )
    check_pictures(config.data, config.data_dir, config.download)
    if config.data_b is not None:
        try:
            check_pictures(config.data_b, config.data_dir, config.download)
        except DataError as error:
            raise DataError(str(error).replace("--data", "--data-b", 1)) from None
    if config.feature_weights is not None and not Path(config.feature_weights).is_file():
        raise OptionError(f"--feature-weights: no file {config.feature_weights}")
    group = config.critic_steps * params.get("pac", 1)
    if config.batch_size % params.get("pac", 1):
        raise OptionError(
            f"--batch-size: {config.batch_size} pictures cannot be judged {params['pac']} at a time; "
            f"accepted: multiples of {group}"
        )
    return params


def no_use(config: Config) -> None:
    """Refuse options that the config's model, or its loss, has no use for.

    Raises:
        OptionError: one of them is given.
    """
    why: dict[str, str] = {}
    if config.model in TRANSLATORS:
        why = dict.fromkeys(OF_STEP, "its losses are those of its paper")
        why |= {"count": "all test pictures are translated", "on_collapse": WATCHED}
    elif config.model in LIKELIHOOD:
        why = dict.fromkeys((*OF_STEP, "discriminator_rate"), "it has no discriminator")
        why["on_collapse"] = WATCHED
    own = {**as_dict(Config()), **Config.presets({"model": config.model})}
    for name, reason in why.items():
        if getattr(config, name) != own[name]:
            raise OptionError(f"--{name.replace('_', '-')}: not for {config.model}: {reason}")
    if config.loss != "wgan-gp" and config.gradient_penalty != own["gradient_penalty"]:
        raise OptionError(f"--gradient-penalty: not for --loss {config.loss}: it is of wgan-gp")


def classless(config: Config, params: Mapping[str, Any], spec: Any) -> None:
    """Refuse what goes by labels where there are none to tell.

    Raises:
        SpecError: a model that is told labels, or guidance by them.
    """
    if config.model == "cgan" and spec.outputs < 2:
        raise SpecError("cgan is told labels, and the data has no classes to tell; accepted: dcgan")
    told = params.get("conditional")
    told = spec.outputs > 1 if told is None else told
    if config.model == "ddpm" and not told and params["guidance"] != 1.0:
        raise SpecError(
            f"-p guidance: got {params['guidance']:g}, and no label is told that could guide; "
            "accepted: 1"
        )


def unmixed(config: Config, params: Mapping[str, Any]) -> None:
    """Refuse gradient penalties where batch norm mixes the pictures that they are of.

    Raises:
        OptionError: the discriminator has batch norm and a penalty.
    """
    if params.get("discriminator_norm") != "batch":
        return
    penalties = {
        "wgan-gp": config.loss == "wgan-gp",
        "--r1": config.r1 > 0,
        "--r2": config.r2 > 0,
    }
    for name, given in penalties.items():
        if given:
            raise OptionError(
                f"-p discriminator_norm=batch: the penalty of {name} is of single pictures, which "
                "batch norm mixes; accepted with it: layer, none, spectral"
            )


def augmentations(config: Config) -> tuple[str, ...]:
    """Return the names in `--diff-augment`.

    Raises:
        OptionError: a name that is none of them.
    """
    if config.diff_augment == "none":
        return ()
    names = tuple(name.strip() for name in config.diff_augment.split(","))
    for name in names:
        if name not in DIFF_AUGMENT:
            raise OptionError(
                f"--diff-augment: no '{name}'{nearest(name, DIFF_AUGMENT)}; accepted: none, or of "
                f"{one_of(DIFF_AUGMENT)}"
            )
    return names


def compiled_model(config: Config, spec: Any) -> Any:
    """Build and compile the config's model for pictures of a spec."""
    import keras

    from dlkit import models, training
    from dlkit.models.adversarial import Adversarial
    from dlkit.models.cycle import CycleGan

    training.seed_everything(config.seed, config.deterministic)
    model = models.build(TASK, config.model, spec, config.params)

    def adam() -> Any:
        return keras.optimizers.Adam(
            config.learning_rate, beta_1=config.beta_1, beta_2=config.beta_2
        )

    given: dict[str, Any] = {"optimizer": adam(), "jit_compile": False}
    if isinstance(model, (Adversarial, CycleGan)):
        given["discriminator_optimizer"] = adam()
        given["discriminator_rate"] = config.discriminator_rate
    if isinstance(model, Adversarial):
        given |= {
            "adversary": config.loss,
            "r1": config.r1,
            "r2": config.r2,
            "gradient_penalty": config.gradient_penalty,
            "critic_steps": config.critic_steps,
            "augment": augmentations(config),
        }
    model.compile(**given)
    return model


def batch_of(config: Config, rows: int) -> int:
    """Return how many pictures a training batch holds: one generator's step takes them all.

    Raises:
        DataError: there are not enough.
    """
    group = config.critic_steps * int(config.params.get("pac", 1))
    size = min(config.batch_size * config.critic_steps, rows // group * group)
    if size == 0:
        raise DataError(f"--data {config.data}: {rows} pictures in train; a step takes {group}")
    return size


def training_stream(config: Config, data: Any) -> tuple[Callable[[int, int], Any], int]:
    """Return `(epoch, step)` to the stream of batches from there, and the batch's size."""
    import tensorflow as tf

    from dlkit.data.stream import train_stream

    size = batch_of(config, len(data.train))

    def prepare(draw_seed: Any, rows: Any, x: Any, y: Any) -> tuple:
        x = tf.cast(x, tf.float32)
        if config.mirror:
            drawn = tf.random.stateless_uniform((size, 1, 1, 1), draw_seed)
            x = tf.where(drawn < 0.5, x[:, :, ::-1], x)
        if config.binarise == "dynamic":
            drawn = tf.random.stateless_uniform(
                tf.shape(x), draw_seed + tf.constant([0, BINARY_DRAWS], tf.int64)
            )
            x = tf.where(drawn * 255.0 < x, 255.0, 0.0)
        return data.preprocess(x), y

    def stream(epoch: int, step: int) -> Any:
        arrays = (data.train.x, data.train.y)
        at = {"epoch": epoch, "step": step}
        return train_stream(arrays, prepare, batch_size=size, seed=config.seed, **at)

    return stream, size


def paired_stream(config: Config, a: Any, b: Any) -> tuple[Callable[[int, int], Any], int, int]:
    """Return the stream of batches of two domains, the batch's size, and the steps of an epoch.

    An epoch shows every picture of the larger domain; the smaller one begins again meanwhile.
    """
    import tensorflow as tf

    size = min(config.batch_size, len(a.train), len(b.train))
    one = dataclasses.replace(config, batch_size=size, critic_steps=1)
    streams = [training_stream(one, a)[0]]
    streams.append(training_stream(dataclasses.replace(one, seed=(config.seed + 1) % 2**31), b)[0])
    steps = [len(data.train) // size for data in (a, b)]
    epoch_steps = max(steps)

    def stream(epoch: int, step: int) -> Any:
        done = epoch * epoch_steps + step
        parts = [s(*divmod(done, n)) for s, n in zip(streams, steps, strict=True)]
        return tf.data.Dataset.zip(*parts).map(lambda first, second: (first[0], second[0]))

    return stream, size, epoch_steps


def judge(config: Config, data: Any, quiet: bool) -> Any:
    """Return the net by whose features pictures are judged, trained if it is not there yet."""
    from dlkit.data import pictures
    from dlkit.evaluation import feature_net
    from dlkit.tracking import checkpoint_folder

    if config.feature_weights is not None:
        return feature_net.from_weights(Path(config.feature_weights))
    folder = checkpoint_folder("features")
    stacked = config.data == pictures.STACKED
    if stacked:
        data = pictures.load_pictures(
            pictures.DIGITS, data_dir=config.data_dir, download=config.download,
            split_seed=config.split_seed, image_size=data.spec.input_shape[0],
        )  # fmt: skip
    return feature_net.trained(data, folder, per_channel=stacked, quiet=quiet)


def domain_judges(config: Config, domains: tuple[Any, Any], quiet: bool) -> tuple[Any, Any]:
    """Return the nets that judge pictures of two domains.

    Domains that share their labels have a net each, of those; else one net tells the domains apart.
    """
    import numpy as np

    from dlkit.data.spec import Split, joined
    from dlkit.evaluation import feature_net
    from dlkit.tracking import checkpoint_folder

    if config.feature_weights is not None:
        net = feature_net.from_weights(Path(config.feature_weights))
        return net, net
    a, b = domains
    folder = checkpoint_folder("features")
    if a.spec.labels == b.spec.labels and a.spec.outputs > 1:
        nets = [feature_net.trained(data, folder, quiet=quiet) for data in domains]
        return nets[0], nets[1]

    def both(name: str) -> Split:
        one, other = getattr(a, name), getattr(b, name)
        numbers = np.repeat(np.arange(2, dtype=np.int32), [len(one), len(other)])
        return Split(joined([one.x, other.x]), numbers, one.names + other.names, one.encoded)

    parts = {name: both(name) for name in ("train", "validation", "test")}
    spec = dataclasses.replace(a.spec, outputs=2, labels=("a", "b"))
    apart = dataclasses.replace(a, **parts, spec=spec, source=f"{a.source} and {b.source}")
    net = feature_net.trained(apart, folder, quiet=quiet)
    return net, net


def one_level() -> Any:
    """Return the scale by which uint8 pixels may differ by one level."""
    import numpy as np

    from dlkit.export import TOLERANCE

    return np.array(1.0 / TOLERANCE)
