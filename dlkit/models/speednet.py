"""SpeedNet: a convolutional net made to reach its accuracy in the fewest CPU seconds."""

from typing import Literal

import keras
from keras import layers

from dlkit.data.spec import Spec
from dlkit.errors import SpecError
from dlkit.layers import BatchNormalization, PartialIdentity, PatchWhitening


def speednet(
    spec: Spec,
    *,
    filters: list[int] = (32, 64, 128),  # pyright: ignore[reportArgumentType]
    depth: int = 2,
    whitening: int | None = None,
    identity: bool = True,
    scale: bool = False,
    pool: Literal["early", "late"] = "early",
    activation: Literal["relu", "gelu", "silu"] = "relu",
    head_scale: float = 0.11,
    dropout: float = 0.0,
) -> keras.Model:
    """SpeedNet: patch whitening, then blocks of convolutions that start as the identity.

    Args:
        spec: `input_shape` is `(height, width, channels)`, at least 4 pixels a side.
        filters: width of each block; each halves the map.
        depth: convolutions a block.
        whitening: side of the whitened patches, in pixels; 0 leaves the layer out, None takes 3 for
            grey images and 2 for colour, so that 18 or 24 maps come out.
        identity: whether the first filters of a convolution start as the identity.
        scale: whether batch norm has a trained scale.
        pool: "early" halves the map after a block's first convolution, "late" after its last.
        activation: nonlinearity.
        head_scale: fixed factor on the logits (the paper: 1/9).
        dropout: fraction of the pooled features dropped in training, in [0, 1).
    Returns:
        A `keras.Model` from standardised float32 `(b, h, w, c)` to logits `(b, classes)`.
    Raises:
        SpecError: an empty list of filters, or patches that do not fit into the image.
    Reference:
        Jordan 2024, "94 % on CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498, figure 4.
        Departs from it: narrower blocks, rectified units and no biases of their own learning rate,
        for CPUs and AdamW; 3 x 3 patches for grey images.
    """
    height, width, channels = spec.input_shape
    size = (3 if channels == 1 else 2) if whitening is None else whitening
    if not filters:
        raise SpecError("-p filters: got an empty list; accepted: the width of one block or more")
    if not 0 <= size <= min(height, width):
        raise SpecError(
            f"-p whitening: patches of {size} pixels do not fit into {height} x {width}; "
            f"accepted: 0 to {min(height, width)}"
        )
    inputs = layers.Input(spec.input_shape, dtype=spec.dtype, name="pixels")
    x = inputs
    if size:
        x = PatchWhitening(size, name="whiten")(x)  # (b, h - size + 1, w - size + 1, 2 size**2 c)
        x = layers.Activation(activation, name="whiten_act")(x)
    for block, wide in enumerate(filters, 1):
        for at in range(1, depth + 1):
            name = f"block{block}_{at}"
            x = layers.Conv2D(
                wide,
                3,
                padding="same",
                use_bias=False,
                kernel_initializer=PartialIdentity() if identity else "he_normal",
                name=f"{name}_conv",
            )(x)
            if at == (1 if pool == "early" else depth) and min(x.shape[1:3]) > 1:
                x = layers.MaxPooling2D(2, name=f"{name}_pool")(x)
            x = BatchNormalization(momentum=0.8, scale=scale, name=f"{name}_norm")(x)
            x = layers.Activation(activation, name=f"{name}_act")(x)
    x = layers.GlobalMaxPooling2D(name="pool")(x)  # (b, filters[-1])
    x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Dense(spec.outputs, use_bias=False, name="head")(x)
    logits = layers.Rescaling(head_scale, name="logits")(x)
    return keras.Model(inputs, logits, name="speednet")
