"""Temporal convolutional network."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers

from dlkit.data.spec import SeriesSpec
from dlkit.errors import SpecError
from dlkit.models.forecaster import forecaster
from dlkit.models.linear_forecasters import linear_map


def tcn(
    spec: SeriesSpec,
    *,
    depth: int | None = None,
    filters: int = 32,
    kernel_size: int = 3,
    dropout: float = 0.1,
    skip: bool = True,
    instance_norm: Literal["none", "last", "standard"] = "standard",
) -> keras.Model:
    """Temporal convolutional network: residual blocks of dilated causal convolutions.

    Args:
        spec: see `SeriesSpec`; any lookback and horizon.
        depth: number of blocks; the dilation doubles from each to the next. None: as many as let the
            last step see the whole window: `1 + 2 (kernel_size - 1) (2**depth - 1)` steps.
        filters: channels of every convolution.
        kernel_size: steps of a kernel, at least 2.
        dropout: fraction of channels dropped after each convolution in training, in [0, 1).
        skip: add a linear map from the window to the horizon.
        instance_norm: how each target of a window is normalised, and its forecast given back: "none",
            "last" (its last value subtracted), "standard" (its mean subtracted, divided by its
            deviation).
    Returns:
        A `keras.Model` from scaled float32 `window` `(b, lookback, channels)`, with covariates
        `future` `(b, horizon, future)` and `static` `(b, static)`, to `(b, horizon, targets)`, with
        quantiles `(b, horizon, targets, q)`.
    Raises:
        SpecError: a kernel of less than 2 steps.
    Reference:
        Bai et al. 2018, arXiv:1803.01271, figure 1, first weights as in the authors' code. Departs from
        it: no weight norm; the forecast is read off the last step, beside a linear path. What the
        last step does not see is not computed.
    """
    if kernel_size < 2:
        raise SpecError(
            f"-p kernel_size: {kernel_size} step sees nothing of the past; accepted: at least 2"
        )
    lookback = spec.input_shape[0]
    if depth is None:
        depth = 1
        while 1 + 2 * (kernel_size - 1) * (2**depth - 1) < lookback:
            depth += 1

    def body(x: Any, values: int) -> Any:
        y = x
        for block in range(1, depth + 1):
            if block > 1:
                # What a dilation of 2**(block - 1) reads is every second step that the block before
                # read, counted from the last: among those the dilation is 1.
                y = y[:, (y.shape[1] - 1) % 2 :: 2]
            name, entry = f"block{block}", y
            for i in (1, 2):
                y = layers.Conv1D(
                    filters,
                    kernel_size,
                    padding="causal",
                    activation="relu",
                    kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
                    name=f"{name}_conv{i}",
                )(y)  # (n, lookback / 2**(block - 1), filters)
                y = layers.SpatialDropout1D(dropout, name=f"{name}_dropout{i}")(y)
            if entry.shape[-1] != filters:
                entry = layers.Conv1D(filters, 1, name=f"{name}_shortcut")(entry)
            y = layers.Add(name=f"{name}_add")([y, entry])
            y = layers.Activation("relu", name=f"{name}_act")(y)
        y = linear_map(y[:, -1], spec.horizon, values, "head")  # (n, horizon, values)
        if skip:
            y = layers.Add(name="sum")([y, linear_map(x, spec.horizon, values, "skip")])
        return y

    return forecaster(spec, body, instance_norm=instance_norm, name="tcn")
