"""Multilayer perceptron."""

from typing import Literal

import keras
from keras import layers

from dlkit.data.spec import Spec


def mlp(
    spec: Spec,
    *,
    depth: int = 2,
    units: int = 256,
    activation: Literal["relu", "tanh", "sigmoid", "gelu", "leaky_relu"] = "relu",
    dropout: float = 0.2,
    l1: float = 0.0,
    l2: float = 0.0,
    initializer: Literal[
        "he_normal", "glorot_uniform", "truncated_normal", "orthogonal"
    ] = "he_normal",
) -> keras.Model:
    """Multilayer perceptron on flattened pixels.

    Args:
        spec: `input_shape` is `(height, width, channels)`, any size.
        depth: number of hidden layers, at least 0 (0 is multinomial logistic regression).
        units: width of each hidden layer.
        activation: nonlinearity of the hidden layers.
        dropout: fraction of hidden units dropped in training, in [0, 1).
        l1: L1 penalty on every kernel.
        l2: L2 penalty on every kernel.
        initializer: initialiser of the hidden kernels.
    Returns:
        A `keras.Model` from standardised float32 `(b, h, w, c)` to logits `(b, classes)`.
    Reference:
        Rumelhart, Hinton & Williams 1986, Nature 323; dropout after Srivastava et al. 2014,
        JMLR 15. Departs from the former: rectified units and He et al. 2015 initialisation.
    """
    penalty = {"kernel_regularizer": keras.regularizers.L1L2(l1, l2) if l1 or l2 else None}
    inputs = layers.Input(spec.input_shape, dtype=spec.dtype, name="pixels")
    x = layers.Flatten()(inputs)  # (b, h * w * c)
    for i in range(depth):
        x = layers.Dense(
            units, activation, kernel_initializer=initializer, name=f"hidden_{i + 1}", **penalty
        )(x)
        x = layers.Dropout(dropout, name=f"dropout_{i + 1}")(x)
    logits = layers.Dense(spec.outputs, name="logits", **penalty)(x)
    return keras.Model(inputs, logits, name="mlp")
