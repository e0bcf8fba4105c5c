"""Multilayer perceptron."""

from typing import Any, Literal

import keras
from keras import layers

from dlkit.data.spec import Spec
from dlkit.models.layer_lists import DenseLayers


def mlp(
    spec: Spec,
    *,
    fc_layers: DenseLayers = (),  # pyright: ignore[reportArgumentType]
    depth: int = 2,
    units: int = 512,
    activation: Literal["relu", "leaky_relu", "sigmoid", "tanh", "gelu"] = "relu",
    dropout: float = 0.3,
    batch_norm: bool = False,
    input_noise: float = 0.0,
    l1: float = 0.0,
    l2: float = 0.0,
    initializer: Literal[
        "he_normal",
        "he_uniform",
        "glorot_normal",
        "glorot_uniform",
        "truncated_normal",
        "orthogonal",
    ] = "he_normal",
) -> keras.Model:
    """Multilayer perceptron on flattened pixels.

    Args:
        spec: `input_shape` is `(height, width, channels)`, any size.
        fc_layers: hidden layers as a list of tables: `units`, and perhaps `activation`,
            `batch_norm`, `dropout`, `initializer`, `l1`, `l2`, each falling back on the parameter of
            that name. An empty list makes `depth` layers of `units`.
        depth: number of hidden layers, at least 0 (0 is multinomial logistic regression).
        units: width of each hidden layer.
        activation: nonlinearity of the hidden layers.
        dropout: fraction of hidden units dropped in training, in [0, 1).
        batch_norm: normalise each hidden layer before its nonlinearity.
        input_noise: deviation of the Gaussian noise added to the standardised pixels in training.
        l1: L1 penalty on every kernel.
        l2: L2 penalty on every kernel.
        initializer: initialiser of the hidden kernels.
    Returns:
        A `keras.Model` from standardised float32 `(b, h, w, c)` to logits `(b, classes)`.
    Reference:
        Rumelhart, Hinton & Williams 1986, Nature 323; dropout after Srivastava et al. 2014,
        JMLR 15; batch norm by Ioffe & Szegedy 2015, arXiv:1502.03167; input noise after Bishop
        1995, Neural Computation 7. Departs from the first: rectified units and He et al. 2015
        initialisation.
    """
    common = {
        "activation": activation,
        "batch_norm": batch_norm,
        "dropout": dropout,
        "initializer": initializer,
        "l1": l1,
        "l2": l2,
    }
    inputs = layers.Input(spec.input_shape, dtype=spec.dtype, name="pixels")
    x = layers.Flatten()(inputs)  # (b, h * w * c)
    if input_noise:
        x = layers.GaussianNoise(input_noise, name="input_noise")(x)
    for i, layer in enumerate(fc_layers or [{"units": units}] * depth):
        x = dense(x, f"hidden_{i + 1}", {**common, **layer})
    penalty = keras.regularizers.L1L2(l1, l2) if l1 or l2 else None
    logits = layers.Dense(spec.outputs, kernel_regularizer=penalty, name="logits")(x)
    return keras.Model(inputs, logits, name="mlp")


def dense(x: keras.KerasTensor, name: str, layer: dict[str, Any]) -> keras.KerasTensor:
    """Add one dense layer as a table of a layer list describes it, `(b, n)` to `(b, units)`."""
    l1, l2, norm = layer.get("l1", 0.0), layer.get("l2", 0.0), layer.get("batch_norm", False)
    x = layers.Dense(
        layer["units"],
        use_bias=not norm,
        kernel_initializer=layer.get("initializer", "he_normal"),
        kernel_regularizer=keras.regularizers.L1L2(l1, l2) if l1 or l2 else None,
        name=name,
    )(x)
    if norm:
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    x = layers.Activation(layer.get("activation", "relu"), name=f"{name}_act")(x)
    return layers.Dropout(layer.get("dropout", 0.0), name=f"{name}_dropout")(x)
