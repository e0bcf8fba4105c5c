"""SparseTSF: each phase of the season is forecast by itself, all by the same small net."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers, ops

from dlkit.data.spec import SeriesSpec
from dlkit.errors import SpecError
from dlkit.models.forecaster import forecaster


def sparsetsf(
    spec: SeriesSpec,
    *,
    period: int | None = None,
    depth: int = 1,
    units: int = 128,
    dropout: float = 0.0,
    instance_norm: Literal["none", "last", "standard"] = "standard",
) -> keras.Model:
    """SparseTSF: a net from the past of one phase of the season to its future, shared by all phases.

    A convolution over about a season smooths the window and is added to it; then every `period`-th
    step makes one sequence, and what a phase was seasons ago gives what it will be. Far fewer weights
    than a map of the whole window, so it overfits late.

    Args:
        spec: see `SeriesSpec`; any lookback and horizon. Where `period` does not divide the lookback,
            the oldest steps are seen by the convolution alone.
        period: steps of a season, 1 to the lookback. None: the data's season, or 1 where it is longer
            than the lookback.
        depth: number of hidden layers, at least 0 (0: one linear map).
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
        SpecError: a period longer than the lookback.
    Reference:
        Lin et al. 2024, arXiv:2405.00946, section 3; the hidden layer after the authors' SparseTSF/MLP.
        Departs from it: windows are divided by their deviation too.
    """
    lookback = spec.input_shape[0]
    if period is not None and period > lookback:
        raise SpecError(
            f"-p period: {period} steps do not fit the lookback of {lookback}; "
            f"accepted: 1 to {lookback}"
        )
    if period is None:
        period = spec.season if spec.season <= lookback else 1

    def body(x: Any, values: int) -> Any:
        features = x.shape[-1]
        smooth = layers.DepthwiseConv1D(
            1 + 2 * (period // 2), padding="same", use_bias=False, name="smooth"
        )(x)
        x = layers.Add(name="smoothed")([x, smooth])
        seasons, ahead = lookback // period, -(-spec.horizon // period)
        x = ops.reshape(x[:, lookback - seasons * period :], (-1, seasons, period, features))
        x = ops.transpose(x, (0, 2, 1, 3))
        y = ops.reshape(x, (-1, period, seasons * features))  # (n, period, seasons * features)
        for i in range(1, depth + 1):
            y = layers.Dense(units, "relu", name=f"hidden_{i}")(y)
            y = layers.Dropout(dropout, name=f"hidden_{i}_dropout")(y)
        y = layers.Dense(ahead * values, name="head")(y)
        y = ops.transpose(ops.reshape(y, (-1, period, ahead, values)), (0, 2, 1, 3))
        y = ops.reshape(y, (-1, ahead * period, values))
        return y[:, : spec.horizon]  # (n, horizon, values)

    return forecaster(spec, body, instance_norm=instance_norm, name="sparsetsf")
