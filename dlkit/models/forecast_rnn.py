"""Recurrent forecasters: simple, LSTM and GRU."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers, ops

from dlkit.data.spec import SeriesSpec
from dlkit.errors import SpecError
from dlkit.models.forecaster import forecaster
from dlkit.models.linear_forecasters import linear_map
from dlkit.models.rnn import Recurrent

# A recurrence is as slow as it has steps, and forgets more the more it has.
STEPS = 14


def segments(x: Any, patch: int) -> Any:
    """Put each `patch` steps into one vector: `(n, t, d)` to `(n, t / patch, patch * d)`.

    The last steps fill whole segments; where the first do not, the first step is repeated.

    Raises:
        SpecError: a patch that is longer than the window.
    """
    _, lookback, features = x.shape
    if patch > lookback:
        raise SpecError(
            f"-p patch: segments of {patch} steps do not fit the lookback of {lookback}; "
            f"accepted: 1 to {lookback}"
        )
    if lookback % patch:
        x = ops.concatenate([ops.repeat(x[:, :1], -lookback % patch, 1), x], 1)
    return layers.Reshape((-1, patch * features), name="segments")(x)


def lstm(
    spec: SeriesSpec,
    *,
    depth: int = 1,
    units: int = 128,
    patch: int | None = None,
    bidirectional: bool = False,
    dropout: float = 0.3,
    instance_norm: Literal["none", "last", "standard"] = "standard",
) -> keras.Model:
    """LSTM forecaster: stacked LSTM layers read the window, the last state gives the whole horizon.

    Args:
        spec: see `SeriesSpec`; any lookback and horizon.
        depth: number of recurrent layers.
        units: width of each, and of each direction where there are two.
        patch: steps that are read at once, as one vector, 1 to the lookback; where it does not divide
            the lookback, the first step is repeated. None: as few as make at most 14 segments (24 of a
            lookback of 336, 1 up to 14).
        bidirectional: read the window in both directions; outputs are put side by side.
        dropout: fraction of each layer's output dropped in training, in [0, 1).
        instance_norm: how each target of a window is normalised, and its forecast given back: "none",
            "last" (its last value subtracted), "standard" (its mean subtracted, divided by its
            deviation).
    Returns:
        A `keras.Model` from scaled float32 `window` `(b, lookback, channels)`, with covariates
        `future` `(b, horizon, future)` and `static` `(b, static)`, to `(b, horizon, targets)`, with
        quantiles `(b, horizon, targets, q)`.
    Raises:
        SpecError: a patch longer than the lookback.
    Reference:
        Hochreiter & Schmidhuber 1997; segments after Lin et al. 2023 (SegRNN), arXiv:2308.11200,
        section 3. Departs from it: one linear head from the last state, no decoder.
    """
    return _recurrent("lstm", spec, depth, units, patch, bidirectional, dropout, instance_norm)


def gru(
    spec: SeriesSpec,
    *,
    depth: int = 1,
    units: int = 128,
    patch: int | None = None,
    bidirectional: bool = False,
    dropout: float = 0.3,
    instance_norm: Literal["none", "last", "standard"] = "standard",
) -> keras.Model:
    """GRU forecaster: stacked GRU layers read the window, the last state gives the whole horizon.

    Args:
        spec, depth, units, patch, bidirectional, dropout, instance_norm: as for `lstm`.
    Returns:
        As for `lstm`.
    Raises:
        SpecError: as for `lstm`.
    Reference:
        Cho et al. 2014, arXiv:1406.1078; segments after Lin et al. 2023, arXiv:2308.11200. Departs
        from them: the reset gate works after the recurrent product; one linear head, no decoder.
    """
    return _recurrent("gru", spec, depth, units, patch, bidirectional, dropout, instance_norm)


def simple_rnn(
    spec: SeriesSpec,
    *,
    depth: int = 1,
    units: int = 128,
    patch: int | None = None,
    bidirectional: bool = False,
    dropout: float = 0.3,
    instance_norm: Literal["none", "last", "standard"] = "standard",
) -> keras.Model:
    """Elman forecaster: stacked simple recurrent layers, the last state gives the whole horizon.

    Args:
        spec, depth, units, patch, bidirectional, dropout, instance_norm: as for `lstm`.
    Returns:
        As for `lstm`.
    Raises:
        SpecError: as for `lstm`.
    Reference:
        Elman 1990; segments after Lin et al. 2023, arXiv:2308.11200.
    """
    return _recurrent(
        "simple-rnn", spec, depth, units, patch, bidirectional, dropout, instance_norm
    )


def _recurrent(
    cell: str,
    spec: SeriesSpec,
    depth: int,
    units: int,
    patch: int | None,
    bidirectional: bool,
    dropout: float,
    instance_norm: Literal["none", "last", "standard"],
) -> keras.Model:
    lookback = spec.input_shape[0]
    if patch is None:
        patch = -(-lookback // STEPS)

    def body(x: Any, values: int) -> Any:
        if patch != 1:
            x = segments(x, patch)
            x = layers.Dense(units, "relu", name="segment_embedding")(x)  # (n, t / patch, units)
        last = x
        for i in range(1, depth + 1):
            # (n, t / patch, units)
            y = Recurrent(cell, units, name=f"{cell}{i}")(x)
            last = y[:, -1]
            if bidirectional:
                back = Recurrent(cell, units, name=f"{cell}{i}_back")(ops.flip(x, 1))
                last = ops.concatenate([last, back[:, -1]], -1)
                y = ops.concatenate([y, ops.flip(back, 1)], -1)
            x = layers.Dropout(dropout, name=f"drop{i}")(y) if i < depth else y
        last = layers.Dropout(dropout, name="drop")(last)  # (n, units), or 2 * units
        return linear_map(last, spec.horizon, values, "head")

    return forecaster(spec, body, instance_norm=instance_norm, name=cell)
