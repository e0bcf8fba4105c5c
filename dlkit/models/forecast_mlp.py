"""Multilayer perceptron that forecasts."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers

from dlkit.data.spec import SeriesSpec
from dlkit.models.cosines import Basis, in_basis
from dlkit.models.forecaster import forecaster
from dlkit.models.linear_forecasters import linear_map


def mlp(
    spec: SeriesSpec,
    *,
    depth: int = 2,
    units: int = 256,
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu",
    dropout: float = 0.3,
    skip: bool = True,
    basis: Basis = "cosines",
    instance_norm: Literal["none", "last", "standard"] = "standard",
    noise: float = 0.0,
    bias: bool = True,
) -> keras.Model:
    """Multilayer perceptron on the whole window, beside a linear map of it.

    Args:
        spec: see `SeriesSpec`; any lookback and horizon.
        depth: number of hidden layers, at least 0 (0 is `linear`).
        units: width of each hidden layer.
        activation: nonlinearity of the hidden layers.
        dropout: fraction of hidden units dropped in training, in [0, 1).
        skip: add a linear map from the window to the horizon, so that the hidden layers, whose head
            then starts at zero, have only to learn what is not linear.
        basis: what the window is a sum of for the layers, "steps" or "cosines". In cosines the linear
            map is learned in far fewer steps.
        instance_norm: how each target of a window is normalised, and its forecast given back: "none",
            "last" (its last value subtracted), "standard" (its mean subtracted, divided by its
            deviation).
        noise: deviation of the noise added to the normalised window in training, 0 to 1.
        bias: let layers have biases. Without them, and with an odd activation such as tanh, a window
            turned upside down is forecast upside down, and a flat one flat: what drifts in the training
            span alone is not learned.
    Returns:
        A `keras.Model` from scaled float32 `window` `(b, lookback, channels)`, with covariates
        `future` `(b, horizon, future)` and `static` `(b, static)`, to `(b, horizon, targets)`, with
        quantiles `(b, horizon, targets, q)`.
    Reference:
        Rumelhart, Hinton & Williams 1986, Nature 323; the linear path after Das et al. 2023 (TiDE),
        arXiv:2304.08424, section 4. Departs from the latter: plain hidden layers.
    """

    def body(x: Any, values: int) -> Any:
        x = in_basis(x, basis)
        y = layers.Flatten(name="flat")(x)  # (n, lookback * features)
        for i in range(1, depth + 1):
            y = layers.Dense(
                units,
                activation,
                use_bias=bias,
                kernel_initializer="he_normal",
                name=f"hidden_{i}",
            )(y)
            y = layers.Dropout(dropout, name=f"hidden_{i}_dropout")(y)
        # Beside a linear map the hidden layers start at nothing: noise of theirs would be learned.
        beside = skip and depth > 0
        start = "zeros" if beside else "glorot_uniform"
        y = linear_map(y, spec.horizon, values, "head", start, bias)  # (n, horizon, values)
        if beside:
            past = linear_map(x, spec.horizon, values, "skip", bias=bias)
            y = layers.Add(name="sum")([y, past])
        return y

    return forecaster(spec, body, instance_norm=instance_norm, name="mlp", noise=noise)
