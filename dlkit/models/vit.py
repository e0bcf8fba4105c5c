"""Vision Transformer."""

from typing import Any, Literal

import keras
from keras import layers, ops

from dlkit.data.spec import Spec
from dlkit.errors import SpecError

# dim, depth, heads. Base: Dosovitskiy et al. 2021, table 1. Tiny and small: Touvron et al. 2021,
# arXiv:2012.12877, table 1. Micro is ours, for small images on CPUs.
VARIANTS = {"micro": (64, 6, 4), "tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}
# Images with a longer side under this get patches of about an eighth of it.
SMALL = 96
EPSILON = 1e-6


@keras.saving.register_keras_serializable("dlkit")
class Positions(layers.Layer):
    """Adds a trained vector to each position; with `token`, first puts a trained one in front.

    `(b, n, d)` to `(b, n, d)`, or to `(b, n + 1, d)` with the class token at position 0.
    """

    def __init__(self, token: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.token = token

    def build(self, input_shape: Any) -> None:
        """Make the positions `(1, n or n + 1, d)` and perhaps the token `(1, 1, d)`."""
        _, n, d = input_shape
        if self.token:
            self.class_token = self.add_weight(
                shape=(1, 1, d), initializer="zeros", name="class_token"
            )
        self.positions = self.add_weight(
            shape=(1, n + self.token, d),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            name="positions",
        )

    def call(self, inputs: Any) -> Any:
        """Return the tokens with their positions."""
        if self.token:
            first = ops.broadcast_to(self.class_token, (ops.shape(inputs)[0], 1, inputs.shape[-1]))
            inputs = ops.concatenate([first, inputs], 1)
        return inputs + self.positions

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """Return the shape with the class token."""
        batch, n, d = input_shape
        return (batch, n + self.token, d)

    def get_config(self) -> dict[str, Any]:
        """Return what makes an equal layer."""
        return {**super().get_config(), "token": self.token}


@keras.saving.register_keras_serializable("dlkit")
class SelfAttention(layers.Layer):
    """Multi-head self-attention, queries, keys and values by one product.

    `(b, n, d)` to the same. Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2.
    """

    def __init__(self, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, input_shape: Any) -> None:
        """Make both projections."""
        d = input_shape[-1]
        glorot = keras.initializers.GlorotUniform
        self.kernel = self.add_weight(shape=(d, 3 * d), initializer=glorot(), name="qkv_kernel")
        self.bias = self.add_weight(shape=(3 * d,), initializer="zeros", name="qkv_bias")
        self.out_kernel = self.add_weight(shape=(d, d), initializer=glorot(), name="out_kernel")
        self.out_bias = self.add_weight(shape=(d,), initializer="zeros", name="out_bias")

    def call(self, inputs: Any) -> Any:
        """Let each token take from all."""
        n, d = inputs.shape[1:]
        each = d // self.heads
        qkv = ops.matmul(inputs, self.kernel) + self.bias
        q, k, v = (
            ops.transpose(ops.reshape(part, (-1, n, self.heads, each)), (0, 2, 1, 3))
            for part in ops.split(qkv, 3, -1)
        )  # (b, heads, n, d / heads)
        weights = ops.softmax(ops.matmul(q * each**-0.5, ops.swapaxes(k, 2, 3)))  # (b, heads, n, n)
        taken = ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3))
        return ops.matmul(ops.reshape(taken, (-1, n, d)), self.out_kernel) + self.out_bias

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape that came in."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return what makes an equal layer."""
        return {**super().get_config(), "heads": self.heads}


def vit(
    spec: Spec,
    *,
    variant: Literal["micro", "tiny", "small", "base"] = "micro",
    patch_size: int | None = None,
    dim: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    mlp_ratio: float = 4.0,
    dropout: float = 0.1,
    stochastic_depth: float = 0.0,
    pooling: Literal["mean", "class-token"] = "mean",
) -> keras.Model:
    """Vision Transformer: an image as a sequence of patches, under self-attention.

    Args:
        spec: `input_shape` is `(height, width, channels)`.
        variant: gives `dim`, `depth` and `heads` where they are None: micro 64, 6, 4 (for small
            images), tiny 192, 12, 3, small 384, 12, 6, base 768, 12, 12.
        patch_size: side of a square patch, in pixels; both sides of the image divide by it. None:
            16, but an eighth of the longer side (rounded up) where both are under 96 pixels, and an
            image that it does not divide is padded with the mean, below and on the right.
        dim: width of a token, a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads of a block.
        mlp_ratio: width of a block's hidden layer over `dim`.
        dropout: fraction dropped of the embedded patches and of what each half of a block adds, in
            [0, 1).
        stochastic_depth: probability that the last block is left out for an image in training, in
            [0, 1); rises linearly from 0 at the first.
        pooling: what the head sees: the mean of all tokens, or a class token put before them.
    Returns:
        A `keras.Model` from standardised float32 `(b, h, w, c)` to logits `(b, classes)`.
        At 224 x 224 x 3 and 1000 classes, with the class token: 5,717,416 parameters (tiny),
        22,050,664 (small), 86,567,656 (base, the paper's 86 M).
    Raises:
        SpecError: a side does not divide by `patch_size`, or `dim` by `heads`.
    Reference:
        Dosovitskiy et al. 2021, arXiv:2010.11929, figure 1 and table 1; stochastic depth by Huang et
        al. 2016, arXiv:1603.09382. Departs from it: mean pooling unless told otherwise, no hidden
        layer in the head.
    """
    height, width, _ = spec.input_shape
    preset = VARIANTS[variant]
    dim, depth, heads = dim or preset[0], preset[1] if depth is None else depth, heads or preset[2]
    if dim % heads:
        raise SpecError(
            f"-p dim: {dim} does not divide by the {heads} heads; "
            f"accepted: a multiple of {heads}, such as {max(1, round(dim / heads)) * heads}"
        )
    side = patch_size or (-(-max(height, width) // 8) if max(height, width) < SMALL else 16)
    if patch_size is not None:
        _check_patch(patch_size, height, width)
    inputs = layers.Input(spec.input_shape, dtype=spec.dtype, name="pixels")
    x = inputs
    if height % side or width % side:
        # Standardised pixels have mean zero.
        below, right = -height % side, -width % side
        x = layers.ZeroPadding2D(((0, below), (0, right)), name="pad")(x)
    x = layers.Conv2D(
        dim, side, side, kernel_initializer=_fans(side, spec.input_shape[2]), name="patches"
    )(x)
    x = layers.Reshape((-1, dim), name="tokens")(x)  # (b, n, d)
    x = Positions(pooling == "class-token", name="position_embedding")(x)
    x = layers.Dropout(dropout, name="patches_dropout")(x)
    for i in range(depth):
        leave = stochastic_depth * i / max(1, depth - 1)
        name = f"block{i + 1}"
        y = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_attention_norm")(x)
        y = SelfAttention(heads, name=f"{name}_attention")(y)
        x = _add(x, y, dropout, leave, f"{name}_attention")
        y = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_mlp_norm")(x)
        y = layers.Dense(round(dim * mlp_ratio), "gelu", name=f"{name}_mlp_hidden")(y)
        y = layers.Dense(dim, name=f"{name}_mlp_out")(y)
        x = _add(x, y, dropout, leave, f"{name}_mlp")
    x = layers.LayerNormalization(epsilon=EPSILON, name="norm")(x)
    # (b, d)
    x = layers.GlobalAveragePooling1D(name="pool")(x) if pooling == "mean" else x[:, 0]
    logits = layers.Dense(spec.outputs, name="logits")(x)
    return keras.Model(inputs, logits, name=f"vit-{variant}")


def _add(
    x: keras.KerasTensor, y: keras.KerasTensor, dropout: float, leave: float, name: str
) -> keras.KerasTensor:
    y = layers.Dropout(dropout, name=f"{name}_dropout")(y)
    if leave:
        y = layers.Dropout(leave, noise_shape=(None, 1, 1), name=f"{name}_leave")(y)
    return layers.Add(name=f"{name}_add")([x, y])


def _fans(side: int, channels: int) -> keras.initializers.Initializer:
    """LeCun's initialisation of the patch embedding, a linear map of `side**2 * channels` inputs."""
    return keras.initializers.TruncatedNormal(stddev=(side * side * channels) ** -0.5)


def _check_patch(patch: int, height: int, width: int) -> None:
    fit = [p for p in range(1, min(height, width) + 1) if not height % p and not width % p]
    for name, length in (("height", height), ("width", width)):
        if patch < 1 or length % patch:
            raise SpecError(
                f"-p patch_size: the {name} of {length} pixels does not divide by {patch}; "
                f"patches that fit {height} x {width}: {', '.join(map(str, fit))}"
            )
