"""Residual networks: the CIFAR family of the first ResNet paper."""

from typing import Literal

import keras
from keras import layers

from dlkit.data.spec import Spec
from dlkit.layers import BatchNormalization

# He et al. 2015, table 6: 6n + 2 layers.
BLOCKS_PER_STAGE = {20: 3, 32: 5, 44: 7, 56: 9}


def resnet(
    spec: Spec,
    *,
    variant: Literal[20, 32, 44, 56] = 20,
    filters: int = 16,
    dropout: float = 0.0,
) -> keras.Model:
    """Residual network of three stages, for small images.

    Args:
        spec: `input_shape` is `(height, width, channels)`, any size; the last stage works at a
            quarter of it.
        variant: number of weighted layers, 6n + 2.
        filters: width of the first stage; the next two have twice and four times as many.
        dropout: fraction of the pooled features dropped in training, in [0, 1).
    Returns:
        A `keras.Model` from standardised float32 `(b, h, w, c)` to logits `(b, classes)`.
        ResNet-20 at 32 x 32 x 3 and 10 classes has 269,722 trained parameters (the paper's
        0.27 M) and 1,376 moving statistics: 432 in the stem, 13,824 + 50,688 + 202,752 in the
        three stages' kernels, 1,376 in batch norms, 650 in the head.
    Reference:
        He, Zhang, Ren & Sun 2015, arXiv:1512.03385, section 4.2, with its parameter-free
        shortcuts (option A). Departs from it in nothing but the free choice of width.
    """
    inputs = layers.Input(spec.input_shape, dtype=spec.dtype, name="pixels")
    x = _conv_norm(inputs, filters, 1, "stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage in range(3):
        for block in range(BLOCKS_PER_STAGE[variant]):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _block(x, filters * 2**stage, stride, f"stage{stage + 1}_block{block + 1}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)  # (b, 4 * filters)
    x = layers.Dropout(dropout, name="dropout")(x)
    logits = layers.Dense(spec.outputs, kernel_initializer="he_normal", name="logits")(x)
    return keras.Model(inputs, logits, name=f"resnet-{variant}")


def _block(x: keras.KerasTensor, filters: int, stride: int, name: str) -> keras.KerasTensor:
    y = _conv_norm(x, filters, stride, f"{name}_a")
    y = layers.ReLU(name=f"{name}_a_relu")(y)
    y = _conv_norm(y, filters, 1, f"{name}_b")
    if stride > 1:
        # Option A: every second pixel, with zeros for the new channels.
        x = layers.AveragePooling2D(1, strides=stride, padding="same", name=f"{name}_skip")(x)
        new = filters - x.shape[-1]
        x = keras.ops.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))
    y = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=f"{name}_relu")(y)


def _conv_norm(x: keras.KerasTensor, filters: int, stride: int, name: str) -> keras.KerasTensor:
    x = layers.Conv2D(
        filters,
        3,
        stride,
        "same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    return BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)
