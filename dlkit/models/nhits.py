"""N-HiTS: a hierarchy of forecasts at several rates."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import layers, ops

from dlkit.data.spec import SeriesSpec
from dlkit.errors import SpecError
from dlkit.models.forecaster import forecaster


def nhits(
    spec: SeriesSpec,
    *,
    pooling: list[int] = (16, 8, 1),  # pyright: ignore[reportArgumentType]
    downsampling: list[int] = (24, 12, 1),  # pyright: ignore[reportArgumentType]
    blocks: int = 1,
    depth: int = 2,
    units: int = 256,
    dropout: float = 0.0,
    instance_norm: Literal["none", "last", "standard"] = "standard",
) -> keras.Model:
    """N-HiTS: stacks that each explain the window at their own rate, and hand on what they cannot.

    Args:
        spec: see `SeriesSpec`; any lookback and horizon.
        pooling: for each stack, steps over which the maximum of its input is taken.
        downsampling: for each stack, steps of the horizon to one value that it forecasts (the inverse
            of the expressiveness ratio); between those values the forecast is a straight line.
        blocks: blocks of each stack.
        depth: hidden layers of a block.
        units: width of each.
        dropout: fraction of hidden units dropped in training, in [0, 1).
        instance_norm: how each target of a window is normalised, and its forecast given back: "none",
            "last" (its last value subtracted), "standard" (its mean subtracted, divided by its
            deviation).
    Returns:
        A `keras.Model` from scaled float32 `window` `(b, lookback, channels)`, with covariates
        `future` `(b, horizon, future)` and `static` `(b, static)`, to `(b, horizon, targets)`, with
        quantiles `(b, horizon, targets, q)`.
    Raises:
        SpecError: lists of different lengths, or empty.
    Reference:
        Challu et al. 2023, arXiv:2201.12886, section 3 and table A.3. Departs from it: the backcast
        is a value for each step, as in the authors' code; covariates go into every block, pooled.
    """
    if not pooling or len(pooling) != len(downsampling):
        raise SpecError(
            f"-p pooling, downsampling: got {list(pooling)}, {list(downsampling)}; "
            "accepted: lists of one length, a number for each stack"
        )
    lookback = spec.input_shape[0]

    def body(x: Any, values: int) -> Any:
        targets = values // max(1, len(spec.quantiles))
        residual, covariates = x[:, :, :targets], x[:, :, targets:]
        forecasts = []
        stacks = list(zip(pooling, downsampling, strict=True))
        for stack, (pool, rate) in enumerate(stacks, 1):
            for block in range(1, blocks + 1):
                name = f"stack{stack}_block{block}"
                y = (
                    ops.concatenate([residual, covariates], -1)
                    if covariates.shape[-1]
                    else residual
                )
                if pool > 1:
                    y = layers.MaxPooling1D(pool, padding="same", name=f"{name}_pool")(y)
                y = layers.Flatten(name=f"{name}_flat")(y)  # (n, lookback / pool * features)
                for i in range(1, depth + 1):
                    y = layers.Dense(
                        units, "relu", kernel_initializer="he_normal", name=f"{name}_hidden{i}"
                    )(y)
                    y = layers.Dropout(dropout, name=f"{name}_dropout{i}")(y)
                knots = max(1, spec.horizon // rate)
                z = layers.Dense(knots * values, name=f"{name}_knots")(y)
                z = layers.Reshape((knots, values), name=f"{name}_knots_steps")(z)
                forecasts.append(Interpolation(spec.horizon, name=f"{name}_forecast")(z))
                if stack == len(stacks) and block == blocks:
                    break  # nothing would read what is left
                z = layers.Dense(lookback * targets, name=f"{name}_backcast")(y)
                z = layers.Reshape((lookback, targets), name=f"{name}_backcast_steps")(z)
                residual = layers.Subtract(name=f"{name}_residual")([residual, z])
        # (n, horizon, values)
        return layers.Add(name="sum")(forecasts) if len(forecasts) > 1 else forecasts[0]

    return forecaster(spec, body, instance_norm=instance_norm, name="nhits")


@keras.saving.register_keras_serializable("dlkit")
class Interpolation(layers.Layer):
    """Draws straight lines between values at even distances: `(n, knots, d)` to `(n, length, d)`.

    Each value stands in the middle of its share of the steps; beyond the first and the last the line
    is level. Trains nothing.
    """

    def __init__(self, length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length = length

    def call(self, inputs: Any) -> Any:
        """Return the value at each step."""
        knots = inputs.shape[1]
        if knots == self.length:
            return inputs
        at = (np.arange(self.length) + 0.5) * knots / self.length - 0.5
        weights = np.stack([np.interp(at, np.arange(knots), row) for row in np.eye(knots)])
        weights = ops.cast(weights.T, inputs.dtype)  # (length, knots)
        return ops.matmul(weights, inputs)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """Return the shape at every step."""
        return (input_shape[0], self.length, input_shape[2])

    def get_config(self) -> dict[str, Any]:
        """Return what makes an equal layer."""
        return {**super().get_config(), "length": self.length}
