"""The fully connected GAN of the first paper."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers, ops

from dlkit.data.spec import Spec
from dlkit.errors import SpecError
from dlkit.models.adversarial import Adversarial


@keras.saving.register_keras_serializable("dlkit")
class Maxout(layers.Layer):
    """The largest of several linear maps, unit by unit (Goodfellow et al. 2013, arXiv:1302.4389).

    Args:
        units: width of the output.
        pieces: maps a unit.
    """

    def __init__(self, units: int, pieces: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.pieces = units, pieces
        self.maps = layers.Dense(units * pieces, name="maps")

    def build(self, input_shape: Any) -> None:
        """Make the maps."""
        self.maps.build(input_shape)

    def call(self, x: Any) -> Any:
        """Map `(b, n)` to `(b, units)`."""
        return ops.max(ops.reshape(self.maps(x), (-1, self.units, self.pieces)), -1)

    def get_config(self) -> dict[str, Any]:
        """Return what it was made from."""
        return super().get_config() | {"units": self.units, "pieces": self.pieces}


def gan(
    spec: Spec,
    *,
    latent_dim: int = 100,
    generator: list[int] = (512, 512),  # type: ignore[assignment]
    discriminator: list[int] = (240, 240),  # type: ignore[assignment]
    pieces: int = 5,
    dropout: float = 0.3,
    pac: int = 1,
) -> keras.Model:
    """GAN: a fully connected generator against a maxout discriminator.

    Args:
        spec: pictures of any size.
        latent_dim: width of the noise, standard Gaussian.
        generator: widths of the generator's hidden layers, rectified.
        discriminator: units of the discriminator's maxout layers.
        pieces: linear maps of a maxout unit.
        dropout: share of each hidden layer of the discriminator dropped in training.
        pac: pictures judged together (see `Adversarial`).
    Returns:
        An `Adversarial` of pictures `(b, h, w, c)` in [-1, 1].
    Raises:
        SpecError: an empty list.
    Reference:
        Goodfellow et al. 2014, arXiv:1406.2661, and its code for MNIST. Departs from it: Gaussian
        noise, a tanh at the end, Adam, narrower layers.
    """
    for name, widths in (("generator", generator), ("discriminator", discriminator)):
        if not widths:
            raise SpecError(f"-p {name}: got an empty list; accepted: widths such as [512,512]")
    height, width, channels = spec.input_shape
    noise = x = keras.Input((latent_dim,), name="noise")
    for i, units in enumerate(generator, 1):
        x = layers.Dense(units, "relu", name=f"generator_{i}")(x)
    x = layers.Dense(math.prod(spec.input_shape), "tanh", name="generator_pixels")(x)
    x = layers.Reshape(spec.input_shape, name="generator_picture")(x)
    made = keras.Model(noise, x, name="generator")

    pictures = keras.Input((height, width, channels * pac), name="pictures")
    x = layers.Flatten(name="discriminator_flat")(pictures)
    for i, units in enumerate(discriminator, 1):
        x = Maxout(units, pieces, name=f"discriminator_{i}")(x)
        x = layers.Dropout(dropout, name=f"discriminator_dropout_{i}")(x)
    x = layers.Dense(1, name="discriminator_logit")(x)
    judge = keras.Model(pictures, x, name="discriminator")
    return Adversarial(made, judge, pac=pac, name="gan")
