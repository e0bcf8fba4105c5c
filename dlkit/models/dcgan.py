"""Convolutional GANs: unconditional, and conditional on labels."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers, ops

from dlkit.data.spec import Spec
from dlkit.layers import BatchNormalization
from dlkit.models.adversarial import Adversarial
from dlkit.models.sides import doublings_of
from dlkit.models.spectral import SpectralConv2D, SpectralDense, SpectralEmbedding

# Radford et al. 2015, section 4: weights start as a Gaussian of deviation 0.02, leaks are 0.2.
DEVIATION, LEAK = 0.02, 0.2


def normal() -> keras.initializers.Initializer:
    """Return the initialiser of every kernel."""
    return keras.initializers.RandomNormal(stddev=DEVIATION)


def make_generator(
    spec: Spec, noise: Any, given: list[Any], *, filters: int, kernel_size: int, name: str
) -> keras.Model:
    """Build a generator of transposed convolutions.

    Args:
        spec: pictures.
        noise: what the first dense layer takes, `(b, n)`.
        given: the model's inputs.
        filters: of the last hidden map; each map before it has twice as many.
        kernel_size: side of a kernel.
        name: of the model that is told where a picture's size does not fit.
    """
    base, count = doublings_of(name, spec.input_shape)
    wide = filters * 2 ** (count - 1)
    x = layers.Dense(
        base * base * wide, use_bias=False, kernel_initializer=normal(), name="generator_dense"
    )(noise)
    x = layers.Reshape((base, base, wide), name="generator_maps")(x)
    x = BatchNormalization(momentum=0.9, name="generator_norm_0")(x)
    x = layers.ReLU(name="generator_act_0")(x)
    for i in range(1, count):
        wide //= 2
        x = layers.Conv2DTranspose(
            wide, kernel_size, 2, "same", use_bias=False, kernel_initializer=normal(),
            name=f"generator_{i}",
        )(x)  # fmt: skip
        x = BatchNormalization(momentum=0.9, name=f"generator_norm_{i}")(x)
        x = layers.ReLU(name=f"generator_act_{i}")(x)
    x = layers.Conv2DTranspose(
        spec.input_shape[-1], kernel_size, 2, "same", activation="tanh",
        kernel_initializer=normal(), name=f"generator_{count}",
    )(x)  # fmt: skip
    return keras.Model(given, x, name="generator")


def features_of(
    spec: Spec, pictures: Any, *, filters: int, kernel_size: int, norm: str, name: str
) -> Any:
    """Apply a discriminator's strided convolutions to pictures; return `(b, n)`."""
    _, count = doublings_of(name, spec.input_shape)
    convolution: Any = SpectralConv2D if norm == "spectral" else layers.Conv2D
    x = pictures
    for i in range(1, count + 1):
        normed = norm in ("batch", "layer") and i > 1
        x = convolution(
            filters * 2 ** (i - 1), kernel_size, 2, "same", use_bias=not normed,
            kernel_initializer=normal(), name=f"discriminator_{i}",
        )(x)  # fmt: skip
        if normed and norm == "batch":
            x = BatchNormalization(momentum=0.9, name=f"discriminator_norm_{i}")(x)
        elif normed:
            x = layers.GroupNormalization(1, name=f"discriminator_norm_{i}")(x)
        x = layers.LeakyReLU(LEAK, name=f"discriminator_act_{i}")(x)
    return layers.Flatten(name="discriminator_flat")(x)


def logit(x: Any, norm: str) -> Any:
    """Return the logits `(b, 1)` of features `(b, n)`."""
    dense: Any = SpectralDense if norm == "spectral" else layers.Dense
    return dense(1, kernel_initializer=normal(), name="discriminator_logit")(x)


def dcgan(
    spec: Spec,
    *,
    latent_dim: int = 100,
    filters: int = 32,
    discriminator_filters: int = 32,
    kernel_size: int = 4,
    discriminator_norm: Literal["batch", "layer", "spectral", "none"] = "batch",
    pac: int = 1,
) -> keras.Model:
    """DCGAN: transposed convolutions against strided ones.

    Args:
        spec: square pictures of a side that doubling a map of 4 to 7 leads to (8, 12, 28, 32, ...).
        latent_dim: width of the noise, standard Gaussian.
        filters: of the generator's last hidden map; each map before it has twice as many.
        discriminator_filters: of the discriminator's first map; each after it has twice as many.
        kernel_size: side of a kernel; 4 spreads evenly over what a stride of 2 leaves out.
        discriminator_norm: batch normalisation (the paper's), layer normalisation (what the
            gradient penalty of `wgan-gp` asks for), spectral normalisation, or none.
        pac: pictures judged together (see `Adversarial`).
    Returns:
        An `Adversarial` of pictures `(b, h, w, c)` in [-1, 1].
    Raises:
        SpecError: pictures of another size.
    Reference:
        Radford et al. 2015, arXiv:1511.06434, section 3. Departs from it: kernels of 4 x 4 and
        fewer filters; Gaussian noise.
    """
    noise = keras.Input((latent_dim,), name="noise")
    made = make_generator(
        spec, noise, [noise], filters=filters, kernel_size=kernel_size, name="dcgan"
    )
    height, width, channels = spec.input_shape
    pictures = keras.Input((height, width, channels * pac), name="pictures")
    x = features_of(
        spec, pictures, filters=discriminator_filters, kernel_size=kernel_size,
        norm=discriminator_norm, name="dcgan",
    )  # fmt: skip
    judge = keras.Model(pictures, logit(x, discriminator_norm), name="discriminator")
    return Adversarial(made, judge, pac=pac, name="dcgan")


def cgan(
    spec: Spec,
    *,
    latent_dim: int = 100,
    label_dim: int = 50,
    filters: int = 32,
    discriminator_filters: int = 32,
    kernel_size: int = 4,
    labels: Literal["projection", "concatenated"] = "projection",
    discriminator_norm: Literal["batch", "layer", "spectral", "none"] = "spectral",
) -> keras.Model:
    """Conditional GAN: generator and discriminator are told the label.

    Args:
        spec: square pictures of a side that doubling a map of 4 to 7 leads to; `outputs` labels.
        latent_dim: width of the noise, standard Gaussian.
        label_dim: width of a label's embedding in the generator, where it joins the noise.
        filters, discriminator_filters, kernel_size, discriminator_norm: see `dcgan`.
        labels: how the discriminator is told: "projection", the inner product of its features with
            a label's embedding (Miyato & Koyama 2018, arXiv:1802.05637, equation 3); or
            "concatenated", a map of the label beside the picture's channels (Mirza & Osindero 2014).
    Returns:
        An `Adversarial` of pictures `(b, h, w, c)` in [-1, 1], conditional.
    Raises:
        SpecError: pictures of another size.
    Reference:
        Mirza & Osindero 2014, arXiv:1411.1784. Departs from it: convolutions (those of `dcgan`).
    """
    options: dict[str, Any] = {"kernel_size": kernel_size, "name": "cgan"}
    noise = keras.Input((latent_dim,), name="noise")
    label = keras.Input((), dtype="int32", name="label")
    embedded = layers.Embedding(spec.outputs, label_dim, name="generator_label")(label)
    x = layers.Concatenate(name="generator_noise")([noise, embedded])
    made = make_generator(spec, x, [noise, label], filters=filters, **options)

    pictures = keras.Input(spec.input_shape, name="pictures")
    label = keras.Input((), dtype="int32", name="label")
    shown = pictures
    if labels == "concatenated":
        height, width, _ = spec.input_shape
        drawn = layers.Embedding(spec.outputs, height * width, name="discriminator_label")(label)
        drawn = layers.Reshape((height, width, 1), name="discriminator_map")(drawn)
        shown = layers.Concatenate(name="discriminator_shown")([pictures, drawn])
    x = features_of(spec, shown, filters=discriminator_filters, norm=discriminator_norm, **options)
    y = logit(x, discriminator_norm)
    if labels == "projection":
        embedding: Any = SpectralEmbedding if discriminator_norm == "spectral" else layers.Embedding
        wide = embedding(
            spec.outputs, x.shape[-1], embeddings_initializer=normal(), name="discriminator_label"
        )(label)
        y = layers.Add(name="discriminator_judged")([y, Inner(name="discriminator_fit")([wide, x])])
    judge = keras.Model([pictures, label], y, name="discriminator")
    return Adversarial(made, judge, name="cgan")


@keras.saving.register_keras_serializable("dlkit")
class Inner(layers.Layer):
    """Inner product of two vectors, row by row: two of `(b, n)` to `(b, 1)`."""

    def call(self, inputs: Any) -> Any:
        """Multiply and sum."""
        return ops.sum(inputs[0] * inputs[1], -1, keepdims=True)
