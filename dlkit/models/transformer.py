"""Decoder-only transformer: a language model."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers, ops

from dlkit.data.spec import Spec
from dlkit.errors import SpecError
from dlkit.models.attention import CausalSelfAttention, LearnedPositions
from dlkit.models.causal import refuse_bidirectional
from dlkit.models.layer_lists import TransformerLayers

# nanoGPT (github.com/karpathy/nanoGPT, commit 3adf61e): the CPU run of its README, and
# config/train_shakespeare_char.py.
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {"depth": 4, "dim": 128, "heads": 4, "dropout": 0.0},
    "nanogpt-cpu": {"depth": 4, "dim": 128, "heads": 4, "dropout": 0.0},
    "nanogpt-gpu": {"depth": 6, "dim": 384, "heads": 6, "dropout": 0.2},
}


def transformer(
    spec: Spec,
    *,
    variant: Literal["base", "nanogpt-cpu", "nanogpt-gpu"] = "base",
    depth: int | None = None,
    dim: int | None = None,
    heads: int | None = None,
    mlp_ratio: float = 4.0,
    positions: Literal["learned", "rotary"] | None = None,
    norm: Literal["layer", "rms"] | None = None,
    activation: Literal["gelu", "relu2"] | None = None,
    qk_norm: bool | None = None,
    dropout: float | None = None,
    tied: bool | None = None,
    transformer_layers: TransformerLayers = (),  # pyright: ignore[reportArgumentType]
    bidirectional: bool = False,
) -> keras.Model:
    """Transformer language model: blocks of causal self-attention, normalised before each part.

    Args:
        spec: `input_shape` is `(context_length,)`; `outputs` is the vocabulary.
        variant: gives what is None. "base": 4 blocks of width 128, rotary positions, RMS norm,
            squared ReLU, normalised queries and keys, a head of its own. "nanogpt-cpu": nanoGPT's
            on a CPU: 4 blocks, 4 heads, width 128, no dropout; "nanogpt-gpu": its on a GPU: 6, 6,
            384, dropout 0.2; both with learned positions, layer norm without bias, GELU, tied head.
        depth: number of blocks.
        dim: width; divides by `heads`.
        heads: attention heads.
        mlp_ratio: width of the two-layer net over `dim`.
        positions: "learned" (Vaswani et al. 2017), or "rotary" (Su et al. 2021).
        norm: "layer" (Ba et al. 2016), or "rms" (Zhang & Sennrich 2019) without a scale.
        activation: "gelu", or "relu2", the squared ReLU (So et al. 2021, arXiv:2109.08668).
        qk_norm: normalise queries and keys.
        dropout: fraction dropped of the embedding, the attention and both parts of each block, in
            [0, 1).
        tied: use the embedding's matrix for the logits as well.
        transformer_layers: the blocks themselves, in place of `depth` and `heads`: a list such as
            `[{"heads": 4, "mlp_ratio": 4}, {"heads": 8, "dropout": 0.1}]`.
        bidirectional: refused: a model that generates must not see what comes after.
    Returns:
        A `keras.Model` from tokens int32 `(b, t)`, t up to `context_length`, to logits float32
        `(b, t, vocabulary)`.
    Raises:
        SpecError: `dim` does not divide by `heads`; `bidirectional` is asked for.
    Reference:
        Vaswani et al. 2017, arXiv:1706.03762; Radford et al. 2019 (GPT-2) for the placing of the
        norms and the first weights. Departs from it in "base" as said above.
    """
    refuse_bidirectional(bidirectional)
    given = VARIANTS[variant]
    nano = variant != "base"
    depth, dim, heads = depth or given["depth"], dim or given["dim"], heads or given["heads"]
    dropout = given["dropout"] if dropout is None else dropout
    positions = positions or ("learned" if nano else "rotary")
    norm = norm or ("layer" if nano else "rms")
    activation = activation or ("gelu" if nano else "relu2")
    qk_norm = not nano if qk_norm is None else qk_norm
    tied = nano if tied is None else tied
    assert depth and dim and heads and dropout is not None
    blocks = transformer_layers or [{"heads": heads}] * depth
    for i, block in enumerate(blocks):
        if dim % block["heads"]:
            where = f"-p transformer_layers[{i}].heads" if transformer_layers else "-p heads"
            raise SpecError(
                f"{where}: got {block['heads']}, which does not divide the width {dim}; "
                f"accepted: {', '.join(str(n) for n in range(1, dim + 1) if dim % n == 0)}"
            )
    (context_length,) = spec.input_shape
    normal = keras.initializers.RandomNormal
    # Each block adds to the stream twice (Radford et al. 2019, section 2.3).
    out_scale = (2 * len(blocks)) ** -0.5

    def normed(x: Any, name: str) -> Any:
        if norm == "layer":
            return layers.LayerNormalization(epsilon=1e-5, center=False, name=name)(x)
        return RootMeanSquare(name=name)(x)

    def dropped(x: Any, rate: float, name: str) -> Any:
        return layers.Dropout(rate, name=name)(x) if rate else x

    tokens = layers.Input((None,), dtype="int32", name="tokens")
    embedding = layers.ReversibleEmbedding(
        spec.outputs, dim, embeddings_initializer=normal(stddev=0.02), name="embedding"
    )
    x = embedding(tokens)  # (b, t, dim)
    if positions == "learned":
        x = LearnedPositions(context_length, name="positions")(x)
    x = dropped(x, dropout, "drop")
    for i, block in enumerate(blocks, 1):
        drop = block.get("dropout", dropout)
        y = CausalSelfAttention(
            block["heads"],
            context_length,
            rotary=positions == "rotary",
            qk_norm=qk_norm,
            use_bias=False,
            dropout=drop,
            out_scale=out_scale,
            name=f"attention{i}",
        )(normed(x, f"norm{i}_1"))
        x = layers.Add(name=f"add{i}_1")([x, dropped(y, drop, f"drop{i}_1")])
        y = layers.Dense(
            round(dim * block.get("mlp_ratio", mlp_ratio)),
            activation="gelu" if activation == "gelu" else squared_relu,
            use_bias=False,
            kernel_initializer=normal(stddev=0.02),
            name=f"mlp{i}_1",
        )(normed(x, f"norm{i}_2"))
        y = layers.Dense(
            dim,
            use_bias=False,
            kernel_initializer=normal(stddev=0.02 * out_scale),
            name=f"mlp{i}_2",
        )(y)
        x = layers.Add(name=f"add{i}_2")([x, dropped(y, drop, f"drop{i}_2")])
    x = normed(x, "norm")
    if tied:
        logits = embedding(x, reverse=True)
    else:
        logits = layers.Dense(
            spec.outputs, use_bias=False, kernel_initializer=normal(stddev=0.02), name="logits"
        )(x)
    return keras.Model(tokens, logits, name="transformer")


@keras.saving.register_keras_serializable("dlkit")
def squared_relu(x: Any) -> Any:
    """Return max(x, 0) squared."""
    return ops.square(ops.relu(x))


@keras.saving.register_keras_serializable("dlkit")
class RootMeanSquare(layers.Layer):
    """Divides `(b, t, d)` by the root mean square over d; nothing is trained.

    Zhang & Sennrich 2019, arXiv:1910.07467, without the scale.
    """

    def call(self, inputs: Any) -> Any:
        """Return `(b, t, d)`."""
        return inputs * ops.rsqrt(ops.mean(ops.square(inputs), -1, keepdims=True) + 1e-6)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape that came in."""
        return input_shape
