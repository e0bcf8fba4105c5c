"""VGG: deep networks of 3 x 3 convolutions."""

from typing import Literal

import keras
from keras import layers

from dlkit.data.spec import Spec
from dlkit.layers import BatchNormalization

# Simonyan & Zisserman 2015, table 1, columns A, B, D and E: convolutions of each stage.
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
# The same table: 64, 128, 256, 512, 512 filters.
WIDTHS = (1, 2, 4, 8, 8)
# Images with a longer side under this get the slim widths.
SMALL = 96


def vgg(
    spec: Spec,
    *,
    variant: Literal[11, 13, 16, 19] = 11,
    filters: int | None = None,
    units: int | None = None,
    batch_norm: bool = True,
    dropout: float | None = None,
) -> keras.Model:
    """VGG: five stages of 3 x 3 convolutions, each halved by max pooling, and two dense layers.

    Args:
        spec: `input_shape` is `(height, width, channels)`, any size; a map with a side of one pixel
            is not pooled any further.
        variant: number of weighted layers.
        filters: width of the first stage; the next have 2, 4, 8 and 8 times as many. None: the
            paper's 64, but 32 where both sides are under 96 pixels.
        units: width of the two dense layers. None: the paper's 4096, but 256 where both sides are
            under 96 pixels.
        batch_norm: normalise after each convolution, which then has no bias.
        dropout: fraction of each dense layer dropped in training, in [0, 1). None: the paper's 0.5,
            but 0.2 where both sides are under 96 pixels.
    Returns:
        A `keras.Model` from standardised float32 `(b, h, w, c)` to logits `(b, classes)`.
        At 224 x 224 x 3 and 1000 classes, without batch norm: 132,863,336 parameters (VGG-11),
        133,047,848 (13), 138,357,544 (16), 143,667,240 (19), the paper's 133, 133, 138 and 144 M.
    Reference:
        Simonyan & Zisserman 2015, arXiv:1409.1556, table 1. Departs from it: batch norm (Ioffe &
        Szegedy 2015, arXiv:1502.03167) unless told otherwise, He et al. 2015 initialisation in
        place of weights from shallower nets, and slim widths for small images.
    """
    small = max(spec.input_shape[:2]) < SMALL
    filters = filters or (32 if small else 64)
    units = units or (256 if small else 4096)
    dropout = (0.2 if small else 0.5) if dropout is None else dropout
    inputs = layers.Input(spec.input_shape, dtype=spec.dtype, name="pixels")
    x = inputs
    for stage, (depth, width) in enumerate(zip(CONVOLUTIONS[variant], WIDTHS, strict=True), 1):
        for i in range(1, depth + 1):
            x = layers.Conv2D(
                filters * width,
                3,
                padding="same",
                use_bias=not batch_norm,
                kernel_initializer="he_normal",
                name=f"conv{stage}_{i}",
            )(x)
            if batch_norm:
                x = BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"norm{stage}_{i}")(x)
            x = layers.ReLU(name=f"relu{stage}_{i}")(x)
        if min(x.shape[1:3]) > 1:
            x = layers.MaxPooling2D(2, name=f"pool{stage}")(x)
    x = layers.Flatten(name="flatten")(x)  # (b, 8 * filters * positions)
    for i in (6, 7):
        x = layers.Dense(units, "relu", kernel_initializer="he_normal", name=f"fc{i}")(x)
        x = layers.Dropout(dropout, name=f"fc{i}_dropout")(x)
    logits = layers.Dense(spec.outputs, name="logits")(x)
    return keras.Model(inputs, logits, name=f"vgg-{variant}")
