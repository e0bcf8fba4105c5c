"""Autoencoder of convolutions, for images and windows of series."""

from __future__ import annotations

from math import ceil, prod
from typing import Any, Literal

import keras
from keras import layers

from dlkit.data.spec import DetectorSpec
from dlkit.errors import SpecError


def conv_autoencoder(
    spec: DetectorSpec,
    *,
    filters: list[int] = (32, 64, 64),  # type: ignore[assignment]
    kernel_size: int = 4,
    latent_dim: int = 32,
    activation: Literal["relu", "gelu", "silu", "tanh"] = "silu",
) -> keras.Model:
    """Convolutional autoencoder: strided convolutions to a dense code, transposed ones back.

    Args:
        spec: see `DetectorSpec`; images of any size, or windows of series.
        filters: of each convolution; each halves height and width, or the window, rounding up.
        kernel_size: side of a kernel; an even one spreads evenly over what a stride of 2 leaves out.
        latent_dim: width of the code.
        activation: nonlinearity of the hidden layers; code and reconstruction have none.
    Returns:
        A `keras.Model` from prepared float32 `(b, *input_shape)` to a reconstruction of that shape.
    Raises:
        SpecError: a table, or an empty list.
    Reference:
        Masci et al. 2011, ICANN. Departs from it: strides for max pooling, a dense code, trained
        as a whole. Odena et al. 2016, Distill ("Deconvolution and checkerboard artifacts"), on
        kernels and strides.
    """
    if spec.kind == "table":
        raise SpecError(
            "conv-autoencoder takes images or windows of series, and these are rows of a table; "
            "take autoencoder"
        )
    if not filters:
        raise SpecError("-p filters: got an empty list; accepted: numbers such as [32,64]")
    flat = len(spec.input_shape) == 2
    convolution = layers.Conv1D if flat else layers.Conv2D
    transposed = layers.Conv1DTranspose if flat else layers.Conv2DTranspose
    sizes = [spec.input_shape[:-1]]
    for _ in filters:
        sizes.append(tuple(ceil(side / 2) for side in sizes[-1]))
    options: dict[str, Any] = {"strides": 2, "padding": "same"}

    inputs = keras.Input(spec.input_shape, name="example")
    x = inputs
    for i, count in enumerate(filters, 1):
        x = convolution(count, kernel_size, **options, name=f"encoder_{i}")(x)
        x = layers.Activation(activation, name=f"encoder_activation_{i}")(x)
    shape = x.shape[1:]
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(latent_dim, name="latent")(x)  # (b, d)
    x = layers.Dense(prod(shape), activation, name="decoder_0")(x)
    x = layers.Reshape(shape, name="decoder_maps")(x)
    for i, count in enumerate([*filters[-2::-1], spec.input_shape[-1]], 1):
        last = i == len(filters)
        name = "reconstruction" if last else f"decoder_{i}"
        x = transposed(count, kernel_size, **options, name=name)(x)
        if not last:
            x = layers.Activation(activation, name=f"decoder_activation_{i}")(x)
        x = cropped(x, sizes[-1 - i], f"decoder_crop_{i}")
    return keras.Model(inputs, x, name="conv_autoencoder")


def cropped(x: Any, size: tuple[int, ...], name: str) -> Any:
    """Leave out the last rows, columns or steps of maps `(b, *sides, c)` beyond a size."""
    over = [int(side) - wanted for side, wanted in zip(x.shape[1:-1], size, strict=True)]
    if not any(over):
        return x
    if len(over) == 1:
        return layers.Cropping1D((0, over[0]), name=name)(x)
    return layers.Cropping2D(tuple((0, each) for each in over), name=name)(x)
