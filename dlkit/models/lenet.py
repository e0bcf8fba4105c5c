"""LeNet-5."""

from typing import Literal

import keras
from keras import layers

from dlkit.data.spec import Spec


def lenet(
    spec: Spec,
    *,
    activation: Literal["relu", "tanh", "sigmoid", "gelu"] = "relu",
    pooling: Literal["max", "average"] = "max",
    dropout: float = 0.0,
) -> keras.Model:
    """LeNet-5: two convolutions with pooling, then layers of 120 and 84 units.

    Args:
        spec: `input_shape` is `(height, width, channels)`. As in the paper the net sees 32 x 32:
            smaller images are enlarged by a whole factor, then padded with their mean.
        activation: nonlinearity of every layer; the paper's is tanh.
        pooling: how the feature maps are halved; the paper's is average.
        dropout: fraction of the 120 and of the 84 units dropped in training, in [0, 1).
    Returns:
        A `keras.Model` from standardised float32 `(b, h, w, c)` to logits `(b, classes)`.
        61,706 parameters at 32 x 32 x 1 and 10 classes.
    Reference:
        LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document
        recognition", figure 2. Departs from it: C3 sees all six maps of S2, pooling has no
        trained coefficients, logits for the radial basis outputs, rectified units and max pooling
        by default, and images above 32 x 32 average C5 over its positions.
    """
    height, width, _ = spec.input_shape
    pool = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}[pooling]
    inputs = layers.Input(spec.input_shape, dtype=spec.dtype, name="pixels")
    x = inputs
    factor = max(1, 32 // max(height, width))
    if factor > 1:
        x = layers.UpSampling2D(factor, interpolation="bilinear", name="enlarge")(x)
    rows, columns = max(0, 32 - factor * height), max(0, 32 - factor * width)
    if rows or columns:
        # Standardised pixels have mean zero, so zero padding is padding with the mean.
        split = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2))
        x = layers.ZeroPadding2D(split, name="pad")(x)
    x = layers.Conv2D(6, 5, activation=activation, name="c1")(x)
    x = pool(2, name="s2")(x)
    x = layers.Conv2D(16, 5, activation=activation, name="c3")(x)
    x = pool(2, name="s4")(x)
    x = layers.Conv2D(120, 5, activation=activation, name="c5")(x)
    x = layers.GlobalAveragePooling2D(name="positions")(x)  # (b, 120)
    x = layers.Dropout(dropout, name="c5_dropout")(x)
    x = layers.Dense(84, activation=activation, name="f6")(x)
    x = layers.Dropout(dropout, name="f6_dropout")(x)
    logits = layers.Dense(spec.outputs, name="logits")(x)
    return keras.Model(inputs, logits, name="lenet")
