"""Linear forecasters: one linear map, DLinear and NLinear."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers, ops

from dlkit.data.spec import SeriesSpec
from dlkit.models.cosines import Basis, in_basis
from dlkit.models.forecaster import forecaster


def linear_map(
    x: Any,
    horizon: int,
    values: int,
    name: str,
    initializer: str = "glorot_uniform",
    bias: bool = True,
) -> Any:
    """Map all of `(n, lookback, features)` to `(n, horizon, values)` by one matrix, and a bias."""
    if len(x.shape) == 3:
        x = layers.Flatten(name=f"{name}_flat")(x)
    y = layers.Dense(horizon * values, use_bias=bias, kernel_initializer=initializer, name=name)(x)
    return layers.Reshape((horizon, values), name=f"{name}_steps")(y)


def linear(
    spec: SeriesSpec,
    *,
    basis: Basis = "cosines",
    instance_norm: Literal["none", "last", "standard"] = "none",
    noise: float = 0.0,
    bias: bool = True,
) -> keras.Model:
    """Linear forecaster: every step of the horizon is a weighted sum of the window.

    Args:
        spec: see `SeriesSpec`; any lookback and horizon.
        basis: what the window is a sum of for the map, "steps" or "cosines". The maps are the same;
            in cosines they are learned in far fewer steps.
        instance_norm: how each target of a window is normalised, and its forecast given back: "none",
            "last" (its last value subtracted), "standard" (its mean subtracted, divided by its
            deviation).
        noise: deviation of the noise added to the normalised window in training, 0 to 1: ridge
            regression with its square as the penalty.
        bias: let each step of the horizon have a constant of its own. It is the drift of the training
            span, in a normalised window; over a long horizon it may do harm.
    Returns:
        A `keras.Model` from scaled float32 `window` `(b, lookback, channels)`, with covariates
        `future` `(b, horizon, future)` and `static` `(b, static)`, to `(b, horizon, targets)`, with
        quantiles `(b, horizon, targets, q)`. `lookback x features` times `horizon x values` weights.
    Reference:
        Zeng et al. 2023, arXiv:2205.13504, section 4, "Linear".
    """

    def body(x: Any, values: int) -> Any:
        return linear_map(in_basis(x, basis), spec.horizon, values, "linear", bias=bias)

    return forecaster(spec, body, instance_norm=instance_norm, name="linear", noise=noise)


def nlinear(
    spec: SeriesSpec,
    *,
    basis: Basis = "cosines",
    instance_norm: Literal["none", "last", "standard"] = "last",
    noise: float = 0.0,
    bias: bool = True,
) -> keras.Model:
    """NLinear: a linear map of the window less its last value, which is then added back.

    Args:
        spec: see `SeriesSpec`; any lookback and horizon.
        basis: as for `linear`.
        instance_norm: as for `linear`; "last" is what makes it NLinear.
        noise, bias: as for `linear`.
    Returns:
        As for `linear`.
    Reference:
        Zeng et al. 2023, arXiv:2205.13504, section 4, "NLinear".
    """

    def body(x: Any, values: int) -> Any:
        return linear_map(in_basis(x, basis), spec.horizon, values, "linear", bias=bias)

    return forecaster(spec, body, instance_norm=instance_norm, name="nlinear", noise=noise)


def dlinear(
    spec: SeriesSpec,
    *,
    kernel_size: int = 25,
    instance_norm: Literal["none", "last", "standard"] = "none",
    noise: float = 0.0,
) -> keras.Model:
    """DLinear: the trend (a moving average) and what remains, each through a linear map.

    Args:
        spec: see `SeriesSpec`; any lookback and horizon.
        kernel_size: steps of the moving average, at least 1; the window's ends are repeated for it.
        instance_norm: as for `linear`.
        noise: as for `linear`.
    Returns:
        As for `linear`.
    Reference:
        Zeng et al. 2023, arXiv:2205.13504, section 4, "DLinear". Departs from it: weights start at
        random, not at one over the lookback.
    """
    before = (kernel_size - 1) // 2
    after = kernel_size - 1 - before

    def body(x: Any, values: int) -> Any:
        first, last = ops.repeat(x[:, :1], before, 1), ops.repeat(x[:, -1:], after, 1)
        padded = ops.concatenate([first, x, last], 1)  # (n, lookback + kernel_size - 1, features)
        trend = layers.AveragePooling1D(kernel_size, 1, name="trend")(padded)
        remainder = layers.Subtract(name="remainder")([x, trend])
        return layers.Add(name="sum")(
            [
                linear_map(trend, spec.horizon, values, "trend_linear"),
                linear_map(remainder, spec.horizon, values, "remainder_linear"),
            ]
        )

    return forecaster(spec, body, instance_norm=instance_norm, name="dlinear", noise=noise)
