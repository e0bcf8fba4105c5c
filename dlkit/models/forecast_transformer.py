"""Transformer encoder that forecasts."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers

from dlkit.data.spec import SeriesSpec
from dlkit.errors import SpecError
from dlkit.models.forecast_rnn import segments
from dlkit.models.forecaster import forecaster
from dlkit.models.linear_forecasters import linear_map
from dlkit.models.vit import Positions, SelfAttention

EPSILON = 1e-6
# Attention takes the square of its tokens: 336 of them cost 16 times what 84 do.
TOKENS = 84


def transformer(
    spec: SeriesSpec,
    *,
    patch: int | None = None,
    depth: int = 2,
    dim: int = 32,
    heads: int = 2,
    mlp_ratio: float = 4.0,
    dropout: float = 0.2,
    pooling: Literal["flatten", "mean", "last"] = "flatten",
    instance_norm: Literal["none", "last", "standard"] = "standard",
) -> keras.Model:
    """Transformer encoder over the window's steps, each of which sees all others.

    Args:
        spec: see `SeriesSpec`; any lookback and horizon.
        patch: steps that make one token, 1 to the lookback; where it does not divide the lookback, the
            first step is repeated. None: as few as make at most 84 tokens (4 of a lookback of 336, 1
            up to 84).
        depth: number of blocks.
        dim: width of a token, a multiple of `heads`.
        heads: attention heads of a block.
        mlp_ratio: width of a block's hidden layer over `dim`.
        dropout: fraction dropped of the embedded tokens and of what each half of a block adds, in
            [0, 1).
        pooling: what the linear head sees: all tokens side by side, their mean, or the last.
        instance_norm: how each target of a window is normalised, and its forecast given back: "none",
            "last" (its last value subtracted), "standard" (its mean subtracted, divided by its
            deviation).
    Returns:
        A `keras.Model` from scaled float32 `window` `(b, lookback, channels)`, with covariates
        `future` `(b, horizon, future)` and `static` `(b, static)`, to `(b, horizon, targets)`, with
        quantiles `(b, horizon, targets, q)`.
    Raises:
        SpecError: `dim` does not divide by `heads`, or a patch longer than the lookback.
    Reference:
        Vaswani et al. 2017, arXiv:1706.03762, section 3.1. Departs from it: the encoder alone, norms
        before each part, GELU, learned positions.
    """
    if dim % heads:
        raise SpecError(
            f"-p dim: {dim} does not divide by the {heads} heads; "
            f"accepted: a multiple of {heads}, such as {max(1, round(dim / heads)) * heads}"
        )

    if patch is None:
        patch = -(-spec.input_shape[0] // TOKENS)

    def body(x: Any, values: int) -> Any:
        x = segments(x, patch)  # (n, tokens, patch * features)
        x = layers.Dense(dim, name="tokens")(x)  # (n, tokens, dim)
        x = Positions(name="position_embedding")(x)
        x = layers.Dropout(dropout, name="tokens_dropout")(x)
        for i in range(1, depth + 1):
            name = f"block{i}"
            y = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_attention_norm")(x)
            y = SelfAttention(heads, name=f"{name}_attention")(y)
            y = layers.Dropout(dropout, name=f"{name}_attention_dropout")(y)
            x = layers.Add(name=f"{name}_attention_add")([x, y])
            y = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_mlp_norm")(x)
            y = layers.Dense(round(dim * mlp_ratio), "gelu", name=f"{name}_mlp_hidden")(y)
            y = layers.Dense(dim, name=f"{name}_mlp_out")(y)
            y = layers.Dropout(dropout, name=f"{name}_mlp_dropout")(y)
            x = layers.Add(name=f"{name}_mlp_add")([x, y])
        x = layers.LayerNormalization(epsilon=EPSILON, name="norm")(x)
        if pooling == "mean":
            x = layers.GlobalAveragePooling1D(name="pool")(x)  # (n, dim)
        elif pooling == "last":
            x = x[:, -1]  # (n, dim)
        return linear_map(x, spec.horizon, values, "head")

    return forecaster(spec, body, instance_norm=instance_norm, name="transformer")
