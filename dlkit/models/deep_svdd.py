"""Deep support vector data description, and the autoencoder that its encoder is pretrained in."""

from __future__ import annotations

from math import ceil, prod
from typing import Any

import keras
from keras import layers, ops

from dlkit.data.spec import DetectorSpec
from dlkit.errors import SpecError
from dlkit.models.conv_autoencoder import cropped

SLOPE, EPSILON, MOMENTUM = 0.1, 1e-4, 0.9
KERNEL = 5
# A coordinate of the centre is at least this far from 0, which a net reaches with weights of 0.
FROM_ZERO = 0.1


@keras.saving.register_keras_serializable("dlkit")
class Centre(keras.layers.Layer):
    """Take a centre off codes `(b, d)`; it is fixed once, and not trained.

    The weights are the centre, 0 at first, and how far the codes spread around it when it was fixed.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the centre."""
        for name, shape in (("point", (input_shape[-1],)), ("spread", ())):
            weight = self.add_weight(shape=shape, initializer="zeros", trainable=False, name=name)
            setattr(self, name, weight)

    def fix(self, codes: Any) -> None:
        """Put the centre into the mean of codes `(n, d)`, no coordinate within 0.1 of 0."""
        mean = ops.mean(codes, 0)
        moved = ops.where(mean < 0, -FROM_ZERO, FROM_ZERO)
        self.point.assign(ops.where(ops.abs(mean) < FROM_ZERO, moved, mean))
        self.spread.assign(ops.sqrt(ops.mean(ops.var(codes, 0))))

    def call(self, code: Any) -> Any:
        """Return `(b, d)`."""
        return code - ops.cast(self.point, code.dtype)


@keras.saving.register_keras_serializable("dlkit")
class Contrast(keras.layers.Layer):
    """Give images `(b, h, w, c)` mean 0 and mean size 1 each; return these, means and sizes too."""

    def call(self, images: Any) -> tuple[Any, Any, Any]:
        """Return float `(b, h, w, c)`, `(b, 1, 1, 1)` and `(b, 1, 1, 1)`."""
        mean = ops.mean(images, (1, 2, 3), keepdims=True)
        size = ops.mean(ops.abs(images - mean), (1, 2, 3), keepdims=True)
        size = ops.maximum(size, EPSILON)  # of an image of one grey
        return (images - mean) / size, mean, size


def deep_svdd(
    spec: DetectorSpec,
    *,
    filters: list[int] = (8, 4),  # type: ignore[assignment]
    units: list[int] = (128,),  # type: ignore[assignment]
    latent_dim: int = 32,
    contrast: bool = True,
    pretrain: bool = True,
) -> keras.Model:
    """Deep SVDD: an encoder without biases that gathers normal examples around a fixed centre.

    Args:
        spec: see `DetectorSpec`; any kind. Windows are read as one long row.
        filters: of images, the convolutions of 5 x 5, each followed by batch norm, leaky
            rectifier and 2 x 2 max pooling; the paper's are 8 and 4 for MNIST, 32, 64 and 128 for
            CIFAR-10.
        units: of tables and windows, the widths of the hidden layers.
        latent_dim: width of the code.
        contrast: whether images are first given mean 0 and mean size 1, each by itself.
        pretrain: whether training begins with the autoencoder of `pretraining`, for a third of its
            steps or time; the net is the same without.
    Returns:
        A `keras.Model` from prepared float32 `(b, *input_shape)` to code minus centre `(b, d)`.
        The centre, of the layer named `centre`, is 0 until `Centre.fix` is called.
    Raises:
        SpecError: an empty list of filters.
    Reference:
        Ruff et al. 2018, ICML, "Deep one-class classification", equation 4 (one class) and
        appendix; centre, and the contrast of images, as in the authors' code.
    """
    inputs = x = keras.Input(spec.input_shape, name="example")
    if contrast and spec.kind == "images":
        x, _, _ = Contrast(name="contrast")(x)
    latent, _ = encoded(x, spec, filters, units, latent_dim)
    return keras.Model(inputs, Centre(name="centre")(latent), name="deep_svdd")


def pretraining(
    spec: DetectorSpec,
    *,
    filters: list[int] = (8, 4),  # type: ignore[assignment]
    units: list[int] = (128,),  # type: ignore[assignment]
    latent_dim: int = 32,
    contrast: bool = True,
    pretrain: bool = True,
) -> keras.Model:
    """Autoencoder with the encoder of `deep_svdd`, mirrored: upsampling for pooling.

    Args:
        spec, filters, units, latent_dim, contrast, pretrain: see `deep_svdd`.
    Returns:
        A `keras.Model` from prepared float32 `(b, *input_shape)` to a reconstruction of that shape,
        which is given the contrast of the input again.
    """
    inputs = x = keras.Input(spec.input_shape, name="example")
    contrasted = contrast and spec.kind == "images"
    mean = size = None
    if contrasted:
        x, mean, size = Contrast(name="contrast")(x)
    x, sizes = encoded(x, spec, filters, units, latent_dim)
    if spec.kind == "images":
        maps = (*sizes[-1], filters[-1])
        x = layers.Dense(prod(maps), use_bias=False, name="decoder_0")(x)
        x = layers.Reshape(maps, name="decoder_maps")(x)
        for i, count in enumerate([*filters[-2::-1], spec.input_shape[-1]], 1):
            x = layers.LeakyReLU(SLOPE, name=f"decoder_activation_{i}")(x)
            x = layers.UpSampling2D(2, name=f"decoder_up_{i}")(x)
            x = cropped(x, sizes[-1 - i], f"decoder_crop_{i}")
            x = layers.Conv2D(count, KERNEL, padding="same", name=f"decoder_{i}")(x)
        if contrasted:
            x = layers.Add(name="restored")([layers.Multiply(name="sized")([x, size]), mean])
    else:
        for i, width in enumerate(units[::-1], 1):
            x = layers.Dense(width, name=f"decoder_{i}")(x)
            x = layers.LeakyReLU(SLOPE, name=f"decoder_activation_{i}")(x)
        x = layers.Dense(spec.outputs, name="reconstruction")(x)
        x = layers.Reshape(spec.input_shape, name="shaped")(x)
    return keras.Model(inputs, x, name="deep_svdd_pretraining")


def encoded(
    x: Any, spec: DetectorSpec, filters: list[int], units: list[int], latent_dim: int
) -> tuple[Any, list[tuple[int, ...]]]:
    """Return the code, and the sizes of an image's maps from the input on."""
    sizes = [tuple(spec.input_shape[:-1])]
    if spec.kind == "images":
        if not filters:
            raise SpecError("-p filters: got an empty list; accepted: numbers such as [8,4]")
        for i, count in enumerate(filters, 1):
            x = layers.Conv2D(count, KERNEL, padding="same", use_bias=False, name=f"encoder_{i}")(x)
            x = layers.BatchNormalization(
                center=False, scale=False, epsilon=EPSILON, momentum=MOMENTUM, name=f"norm_{i}"
            )(x)
            x = layers.LeakyReLU(SLOPE, name=f"encoder_activation_{i}")(x)
            x = layers.MaxPooling2D(2, padding="same", name=f"pool_{i}")(x)
            sizes.append(tuple(ceil(side / 2) for side in sizes[-1]))
    if len(x.shape) > 2:
        x = layers.Flatten(name="flat")(x)
    if spec.kind != "images":
        for i, width in enumerate(units, 1):
            x = layers.Dense(width, use_bias=False, name=f"encoder_{i}")(x)
            x = layers.LeakyReLU(SLOPE, name=f"encoder_activation_{i}")(x)
    return layers.Dense(latent_dim, use_bias=False, name="latent")(x), sizes  # (b, d)
