"""Residual networks: the CIFAR and the ImageNet family of the first ResNet paper."""

from typing import Literal

import keras
from keras import layers

from dlkit.data.spec import Spec
from dlkit.layers import BatchNormalization

# He et al. 2015, section 4.2: 6n + 2 layers, as n blocks in each of three stages.
CIFAR = {20: (3, 3, 3), 32: (5, 5, 5), 44: (7, 7, 7), 56: (9, 9, 9)}
# The same, table 1: blocks of the four stages.
IMAGENET = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
BOTTLENECK = (50,)
# Images with a longer side under this keep their size through the stem of the ImageNet family.
SMALL = 96


def resnet(
    spec: Spec,
    *,
    variant: Literal[20, 32, 44, 56, 18, 34, 50] = 20,
    filters: int | None = None,
    dropout: float = 0.0,
) -> keras.Model:
    """Residual network: 20 to 56 layers for small images, or 18, 34, 50 for larger ones.

    Args:
        spec: `input_shape` is `(height, width, channels)`, any size. The last stage of the CIFAR
            family (20, 32, 44, 56) works at a quarter of it, that of the ImageNet family (18, 34,
            50) at a 32nd, or at an eighth where both sides are under 96 pixels: the stem is then a
            3 x 3 convolution, for the paper's 7 x 7 of stride 2 and pooling.
        variant: number of weighted layers.
        filters: width of the first stage, doubled from stage to stage. None: the paper's, 16 in the
            CIFAR and 64 in the ImageNet family.
        dropout: fraction of the pooled features dropped in training, in [0, 1).
    Returns:
        A `keras.Model` from standardised float32 `(b, h, w, c)` to logits `(b, classes)`.
        ResNet-20 at 32 x 32 x 3 and 10 classes has 269,722 trained parameters (the paper's
        0.27 M) and 1,376 moving statistics: 432 in the stem, 13,824 + 50,688 + 202,752 in the
        three stages' kernels, 1,376 in batch norms, 650 in the head. At 224 x 224 x 3 and 1000
        classes, ResNet-18 has 11,689,512, ResNet-34 21,797,672 and ResNet-50 25,557,032 trained.
    Reference:
        He, Zhang, Ren & Sun 2015, arXiv:1512.03385, section 4.2, with its parameter-free
        shortcuts (option A), and table 1, with projections where the shape changes (option B).
        Departs from it: in the bottleneck the 3 x 3 convolution has the stride (as in Goyal et al.
        2017, arXiv:1706.02677), not the first 1 x 1, and the stem for small images.
    """
    cifar = variant in CIFAR
    bottleneck = variant in BOTTLENECK
    width = filters or (16 if cifar else 64)
    inputs = layers.Input(spec.input_shape, dtype=spec.dtype, name="pixels")
    if cifar or max(spec.input_shape[:2]) < SMALL:
        x = _conv_norm(inputs, width, 3, 1, "stem")
        x = layers.ReLU(name="stem_relu")(x)
    else:
        x = _conv_norm(inputs, width, 7, 2, "stem")
        x = layers.ReLU(name="stem_relu")(x)
        x = layers.MaxPooling2D(3, 2, "same", name="stem_pool")(x)
    for stage, blocks in enumerate((CIFAR | IMAGENET)[variant]):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            name = f"stage{stage + 1}_block{block + 1}"
            x = _block(x, width * 2**stage, stride, name, bottleneck, projection=not cifar)
    x = layers.GlobalAveragePooling2D(name="pool")(x)  # (b, width of the last stage)
    x = layers.Dropout(dropout, name="dropout")(x)
    logits = layers.Dense(spec.outputs, kernel_initializer="he_normal", name="logits")(x)
    return keras.Model(inputs, logits, name=f"resnet-{variant}")


def _block(
    x: keras.KerasTensor, filters: int, stride: int, name: str, bottleneck: bool, projection: bool
) -> keras.KerasTensor:
    """Figure 5 of the paper: two 3 x 3 convolutions, or the bottleneck 1 x 1, 3 x 3, 1 x 1."""
    sizes = (1, 3, 1) if bottleneck else (3, 3)
    last = len(sizes) - 1
    wide = 4 * filters if bottleneck else filters
    y = x
    for i, size in enumerate(sizes):
        step = stride if i == last - 1 else 1
        y = _conv_norm(y, wide if i == last else filters, size, step, f"{name}_{'abc'[i]}")
        if i < last:
            y = layers.ReLU(name=f"{name}_{'abc'[i]}_relu")(y)
    if projection and (stride > 1 or x.shape[-1] != wide):
        # Option B.
        x = _conv_norm(x, wide, 1, stride, f"{name}_skip")
    elif stride > 1:
        # Option A: every second pixel, with zeros for the new channels.
        x = layers.AveragePooling2D(1, strides=stride, padding="same", name=f"{name}_skip")(x)
        new = wide - x.shape[-1]
        x = keras.ops.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))
    y = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=f"{name}_relu")(y)


def _conv_norm(
    x: keras.KerasTensor, filters: int, size: int, stride: int, name: str
) -> keras.KerasTensor:
    x = layers.Conv2D(
        filters,
        size,
        stride,
        "same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    return BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)
