"""Backbones of `keras.applications` with a new head, for transfer learning."""

import keras
from keras import layers, ops

from dlkit.data.spec import Spec
from dlkit.models.backbones import BACKBONES

# One of the names in the table; checked where the parameters are.
Backbone = str

# ImageNet's mean and deviation per channel, red first, of pixels in [0, 1].
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Its mean as the Caffe models have it, blue first, of pixels in [0, 255].
CAFFE_MEAN = (103.939, 116.779, 123.68)


def applications(
    spec: Spec,
    *,
    backbone: Backbone = "mobilenet_v2",
    enlarge: int | None = None,
    dropout: float = 0.2,
) -> keras.Model:
    """A backbone of keras.applications, global average pooling and one dense layer.

    Reached as `applications/NAME`. It is given raw pixels, and prepares them itself as its ImageNet
    weights want them; that is part of the model and so of the export.

    Args:
        spec: `input_shape` is `(height, width, channels)`, any size; grey is repeated to three
            channels. (More than three channels are not taken: images have one or three.)
        backbone: name of the network, without its classifier.
        enlarge: images whose shorter side is below this are enlarged to it, bilinearly and with
            their aspect ratio. None: the smallest that the backbone takes (32 for most, 71 or 75
            for Xception and Inception). Features of ImageNet want more: 96 or above is a good start.
        dropout: fraction of the pooled features dropped in training, in [0, 1).
    Returns:
        A `keras.Model` from float32 `(b, h, w, c)` in [0, 255] to logits `(b, classes)`, with random
        weights.
    Reference:
        https://keras.io/api/applications, which names the paper of each. Departs from these: a head
        without hidden layers for VGG and MobileNetV3.
    """
    kind = BACKBONES[backbone]
    height, width, channels = spec.input_shape
    inputs = layers.Input(spec.input_shape, dtype=spec.dtype, name="pixels")
    x = inputs
    if channels == 1:
        x = layers.Concatenate(name="to_colour")([x, x, x])
    shortest = max(kind.smallest, enlarge or 0)
    if min(height, width) < shortest:
        factor = shortest / min(height, width)
        size = max(shortest, round(height * factor)), max(shortest, round(width * factor))
        x = layers.Resizing(*size, interpolation="bilinear", name="enlarge")(x)
    x = prepared(x, kind.pixels)
    features = getattr(keras.applications, kind.function)(
        include_top=False,
        weights=None,
        input_tensor=x,
        # NASNet takes its size from here alone.
        input_shape=tuple(x.shape[1:]),
        pooling="avg",
    ).output  # (b, d)
    features = layers.Dropout(dropout, name="dropout")(features)
    logits = layers.Dense(spec.outputs, name="logits")(features)
    return keras.Model(inputs, logits, name=backbone)


def prepared(x: keras.KerasTensor, pixels: str) -> keras.KerasTensor:
    """Bring raw colour pixels to the range that a backbone's weights were trained on.

    Args:
        x: `(b, h, w, 3)` in [0, 255].
        pixels: "tf": [-1, 1]; "torch": ImageNet's mean and deviation, of [0, 1]; "torch-255": the
            same times 255, for backbones that begin by dividing by 255; "caffe": blue first, less
            the mean; "own": the backbone prepares raw pixels itself.
    """
    if pixels == "tf":
        return layers.Rescaling(1 / 127.5, -1.0, name="prepare")(x)
    if pixels.startswith("torch"):
        by = 255.0 if pixels == "torch-255" else 1.0
        return layers.Rescaling(
            [by / 255 / d for d in DEVIATION],
            [-by * m / d for m, d in zip(MEAN, DEVIATION, strict=True)],
            name="prepare",
        )(x)
    if pixels == "caffe":
        return layers.Rescaling(1.0, [-m for m in CAFFE_MEAN], name="prepare")(ops.flip(x, -1))
    return x
