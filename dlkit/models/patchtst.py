"""PatchTST: a transformer encoder over patches of a window."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers, ops

from dlkit.data.spec import SeriesSpec
from dlkit.errors import SpecError
from dlkit.models.forecaster import forecaster
from dlkit.models.linear_forecasters import linear_map
from dlkit.models.vit import Positions, SelfAttention


def patchtst(
    spec: SeriesSpec,
    *,
    patch_length: int = 16,
    stride: int = 8,
    depth: int = 3,
    dim: int = 16,
    heads: int = 4,
    mlp_ratio: float = 8.0,
    norm: Literal["batch", "layer"] = "batch",
    dropout: float = 0.3,
    head_dropout: float = 0.0,
    instance_norm: Literal["none", "last", "standard"] = "standard",
) -> keras.Model:
    """PatchTST: patches of the window as the tokens of a transformer encoder.

    Args:
        spec: see `SeriesSpec`; a lookback of at least `patch_length`, any horizon.
        patch_length: steps of a patch, at most the lookback.
        stride: steps from one patch to the next, 1 to `patch_length`. The last value is repeated so
            many times at the end, so there are `(lookback - patch_length) // stride + 2` patches.
        depth: number of blocks.
        dim: width of a patch's token, a multiple of `heads`. (This and the other defaults are the
            paper's for ETTh1.)
        heads: attention heads of a block.
        mlp_ratio: width of a block's hidden layer over `dim`.
        norm: after each half of a block: "batch", as in the paper, or "layer".
        dropout: fraction dropped of the embedded patches, of the hidden layers and of what each half
            of a block adds, in [0, 1).
        head_dropout: fraction dropped of what the head sees, in [0, 1).
        instance_norm: how each target of a window is normalised, and its forecast given back: "none",
            "last" (its last value subtracted), "standard" (its mean subtracted, divided by its
            deviation).
    Returns:
        A `keras.Model` from scaled float32 `window` `(b, lookback, channels)`, with covariates
        `future` `(b, horizon, future)` and `static` `(b, static)`, to `(b, horizon, targets)`, with
        quantiles `(b, horizon, targets, q)`.
    Raises:
        SpecError: a patch longer than the lookback, a stride longer than the patch, or a `dim` that
            does not divide by `heads`.
    Reference:
        Nie et al. 2023, arXiv:2211.14730, section 3 and appendix A.1.4. Departs from it: the
        scores of a block's attention are not added to the next block's, as the authors' code does.
    """
    lookback = spec.input_shape[0]
    if patch_length > lookback:
        raise SpecError(
            f"-p patch_length: {patch_length} steps do not fit the lookback of {lookback}; "
            f"accepted: 1 to {lookback}"
        )
    if stride > patch_length:
        raise SpecError(
            f"-p stride: got {stride} for patches of {patch_length}; accepted: 1 to {patch_length}"
        )
    if dim % heads:
        raise SpecError(
            f"-p dim: {dim} does not divide by the {heads} heads; "
            f"accepted: a multiple of {heads}, such as {max(1, round(dim / heads)) * heads}"
        )

    def normed(x: Any, name: str) -> Any:
        if norm == "layer":
            return layers.LayerNormalization(epsilon=1e-5, name=name)(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)

    def body(x: Any, values: int) -> Any:
        x = ops.concatenate([x, ops.repeat(x[:, -1:], stride, 1)], 1)
        # A linear map of each patch is a convolution that moves on by the stride.
        x = layers.Conv1D(
            dim, patch_length, stride, kernel_initializer="lecun_normal", name="patches"
        )(x)  # (n, patches, dim)
        x = Positions(name="position_embedding")(x)
        x = layers.Dropout(dropout, name="patches_dropout")(x)
        for i in range(1, depth + 1):
            name = f"block{i}"
            y = SelfAttention(heads, name=f"{name}_attention")(x)
            y = layers.Dropout(dropout, name=f"{name}_attention_dropout")(y)
            x = layers.Add(name=f"{name}_attention_add")([x, y])
            x = normed(x, f"{name}_attention_norm")
            y = layers.Dense(round(dim * mlp_ratio), "gelu", name=f"{name}_mlp_hidden")(x)
            y = layers.Dropout(dropout, name=f"{name}_mlp_hidden_dropout")(y)
            y = layers.Dense(dim, name=f"{name}_mlp_out")(y)
            y = layers.Dropout(dropout, name=f"{name}_mlp_dropout")(y)
            x = layers.Add(name=f"{name}_mlp_add")([x, y])
            x = normed(x, f"{name}_mlp_norm")
        x = layers.Flatten(name="flat")(x)  # (n, patches * dim)
        x = layers.Dropout(head_dropout, name="head_dropout")(x)
        return linear_map(x, spec.horizon, values, "head")

    return forecaster(spec, body, instance_norm=instance_norm, name="patchtst")
