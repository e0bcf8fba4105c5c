"""Convolutional networks written as lists of layers."""

from typing import Any

import keras
from keras import layers

from dlkit.data.spec import Spec
from dlkit.errors import SpecError
from dlkit.layers import BatchNormalization
from dlkit.models.layer_lists import ConvLayers, DenseLayers
from dlkit.models.mlp import dense


def cnn(
    spec: Spec,
    *,
    conv_layers: ConvLayers = (  # pyright: ignore[reportArgumentType]
        {"filters": 64, "kernel_size": 5, "pool_size": 2, "batch_norm": True},
        {"filters": 128, "kernel_size": 3, "pool_size": 2, "batch_norm": True},
    ),
    fc_layers: DenseLayers = (  # pyright: ignore[reportArgumentType]
        {"units": 256, "batch_norm": True, "dropout": 0.3},
    ),
    global_pooling: bool = False,
) -> keras.Model:
    """Convolutional network from lists: convolutions with pooling, then dense layers.

    Args:
        spec: `input_shape` is `(height, width, channels)`.
        conv_layers: one table a convolution: `filters`, and perhaps `kernel_size` (3), `strides`
            (1), `padding` ("same" or "valid"; same), `pool_size` (1), `pooling` ("max" or
            "average"; max), `activation` (relu), `batch_norm` (false; before the nonlinearity),
            `dropout` (0; of whole maps, after pooling), `initializer` (he_normal), `l1`, `l2`.
        fc_layers: one table a dense layer: `units`, and perhaps `activation`, `batch_norm`,
            `dropout`, `initializer`, `l1`, `l2`.
        global_pooling: average each map over its positions before the dense layers, instead of
            flattening the maps.
    Returns:
        A `keras.Model` from standardised float32 `(b, h, w, c)` to logits `(b, classes)`.
    Raises:
        SpecError: a layer that does not fit the map it meets (which layer, which map).
    Reference:
        LeCun, Bottou, Bengio & Haffner 1998, Proceedings of the IEEE 86; batch norm by Ioffe &
        Szegedy 2015, arXiv:1502.03167.
    """
    inputs = layers.Input(spec.input_shape, dtype=spec.dtype, name="pixels")
    x = inputs
    for i, layer in enumerate(conv_layers):
        x = _convolution(x, i, layer)
    if global_pooling:
        x = layers.GlobalAveragePooling2D(name="positions")(x)
    else:
        x = layers.Flatten(name="flatten")(x)
    for i, layer in enumerate(fc_layers):
        x = dense(x, f"fc_{i + 1}", layer)
    logits = layers.Dense(spec.outputs, name="logits")(x)
    return keras.Model(inputs, logits, name="cnn")


def _convolution(x: keras.KerasTensor, i: int, layer: dict[str, Any]) -> keras.KerasTensor:
    name, kernel, pool = f"conv_{i + 1}", layer.get("kernel_size", 3), layer.get("pool_size", 1)
    padding, smallest = layer.get("padding", "same"), min(x.shape[1:3])
    if padding == "valid" and kernel > smallest:
        raise SpecError(_misfit(i, "kernel_size", kernel, x, smallest))
    x = layers.Conv2D(
        layer["filters"],
        kernel,
        layer.get("strides", 1),
        padding,
        use_bias=not layer.get("batch_norm", False),
        kernel_initializer=layer.get("initializer", "he_normal"),
        kernel_regularizer=keras.regularizers.L1L2(layer.get("l1", 0.0), layer.get("l2", 0.0)),
        name=name,
    )(x)
    if layer.get("batch_norm", False):
        x = BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    x = layers.Activation(layer.get("activation", "relu"), name=f"{name}_act")(x)
    if pool > 1:
        if pool > min(x.shape[1:3]):
            raise SpecError(_misfit(i, "pool_size", pool, x, min(x.shape[1:3])))
        kind = {"max": layers.MaxPooling2D, "average": layers.AveragePooling2D}
        x = kind[layer.get("pooling", "max")](pool, name=f"{name}_pool")(x)
    if layer.get("dropout", 0.0):
        x = layers.SpatialDropout2D(layer["dropout"], name=f"{name}_dropout")(x)
    return x


def _misfit(i: int, key: str, value: int, x: keras.KerasTensor, largest: int) -> str:
    met = " x ".join(str(n) for n in x.shape[1:])
    return (
        f"-p conv_layers[{i}].{key}: {value} does not fit the map it meets, {met}; "
        f"accepted: at most {largest}"
    )
