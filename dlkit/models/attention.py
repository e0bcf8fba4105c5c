"""Causal self-attention with a cache of keys and values, and the positions that go with it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops


@keras.saving.register_keras_serializable("dlkit")
class LearnedPositions(layers.Layer):
    """Adds a trained vector to each position: `(b, t, d)` to the same, t at most `length`.

    Args:
        length: number of positions; tokens beyond take the last one's.
    """

    def __init__(self, length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length = length

    def build(self, input_shape: Any) -> None:
        """Make the positions `(length, d)`."""
        self.positions = self.add_weight(
            shape=(self.length, input_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="positions",
        )

    def initial_state(self, batch: Any) -> list[Any]:
        """Return nothing: the count of tokens says it all."""
        return []

    def call(self, inputs: Any) -> Any:
        """Add the first positions."""
        return inputs + self.positions[: ops.shape(inputs)[1]]

    def advance(
        self, inputs: Any, state: list[Any], *, count: Any, lengths: Any, training: bool = False
    ) -> tuple[Any, list[Any]]:
        """Add the positions after the first `count`."""
        at = count[:, None] + ops.arange(ops.shape(inputs)[1])[None]
        return inputs + ops.take(self.positions, ops.minimum(at, self.length - 1), axis=0), []

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape that came in."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return what makes an equal layer."""
        return {**super().get_config(), "length": self.length}


@keras.saving.register_keras_serializable("dlkit")
class CausalSelfAttention(layers.Layer):
    """Multi-head self-attention in which no position sees what comes after it.

    `(b, t, d)` to the same; t is at most `length` at once.

    Args:
        heads: number of heads; divides d.
        length: context: tokens that are kept in the cache, and so seen.
        rotary: turn queries and keys by their positions (Su et al. 2021, arXiv:2104.09864), each
            half of a head's width against the other, base 10,000. What a token sees depends on
            distances alone, so a full cache goes on by overwriting its oldest entry.
        qk_norm: normalise queries and keys to a root mean square of 1 (Henry et al. 2020,
            arXiv:2010.04245, without its trained scale).
        use_bias: whether both products have a bias.
        dropout: fraction of the attention weights dropped in training, in [0, 1).
        out_scale: factor on the deviation of the output product's first weights (nanoGPT and GPT-2:
            1 over the root of twice the depth).
    """

    def __init__(
        self,
        heads: int,
        length: int,
        rotary: bool = False,
        qk_norm: bool = False,
        use_bias: bool = True,
        dropout: float = 0.0,
        out_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.heads, self.length, self.rotary, self.qk_norm = heads, length, rotary, qk_norm
        self.use_bias, self.dropout, self.out_scale = use_bias, dropout, out_scale
        self.drop = layers.Dropout(dropout) if dropout else None

    def build(self, input_shape: Any) -> None:
        """Make the product of queries, keys and values, and that of the output."""
        d = input_shape[-1]
        self.width = d // self.heads
        normal = keras.initializers.RandomNormal
        self.kernel = self.add_weight((d, 3 * d), normal(stddev=0.02), name="qkv_kernel")
        self.out_kernel = self.add_weight(
            (d, d), normal(stddev=0.02 * self.out_scale), name="out_kernel"
        )
        if self.use_bias:
            self.bias = self.add_weight((3 * d,), "zeros", name="qkv_bias")
            self.out_bias = self.add_weight((d,), "zeros", name="out_bias")
        if self.drop is not None:
            self.drop.build((None, self.heads, None, None))

    def initial_state(self, batch: Any) -> list[Any]:
        """Return an empty cache: keys and values, zeros `(b, heads, length, d / heads)`."""
        shape = (batch, self.heads, self.length, self.width)
        return [ops.zeros(shape), ops.zeros(shape)]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Let each token take from itself and those before."""
        t = ops.shape(inputs)[1]
        q, k, v = self._projected(inputs, ops.arange(t)[None])
        seen = ops.arange(t)[:, None] >= ops.arange(t)[None]  # (t, t)
        return self._taken(self._attention(q, k, seen, training), v)

    def attention(self, inputs: Any) -> Any:
        """Return the attention weights, `(b, heads, t, t)`, to look at."""
        t = ops.shape(inputs)[1]
        q, k, _ = self._projected(inputs, ops.arange(t)[None])
        return self._attention(q, k, ops.arange(t)[:, None] >= ops.arange(t)[None], False)

    def advance(
        self, inputs: Any, state: list[Any], *, count: Any, lengths: Any, training: bool = False
    ) -> tuple[Any, list[Any]]:
        """Run on from a cache that holds the last of `count` tokens.

        A token's place in the cache is its position modulo `length`. More than one token at once
        must fit in beside those before.
        """
        t = ops.shape(inputs)[1]
        at = count[:, None] + ops.arange(t)[None]  # (b, t) positions
        q, k, v = self._projected(inputs, at)
        places = ops.arange(self.length)
        if inputs.shape[1] == 1:
            keys, values = self._put(state[0], k, at), self._put(state[1], v, at)
        else:
            # Which of the new tokens, if any, lies at each place.
            new = (places[None] - count[:, None]) % self.length  # (b, length)
            here = (new < t)[:, None, :, None]
            new = ops.minimum(new, t - 1)[:, None, :, None]
            keys = ops.where(here, ops.take_along_axis(k, new, 2), state[0])
            values = ops.where(here, ops.take_along_axis(v, new, 2), state[1])
        # The position of what lies at each place: the largest below the count that fits.
        total = count[:, None] + t
        held = total - 1 - (total - 1 - places[None]) % self.length  # (b, length)
        held = held[:, None, None]
        seen = ops.logical_and(held >= 0, held <= at[:, None, :, None])
        if inputs.shape[1] == 1 and not training:
            return self._of_one(q, keys, values, seen[:, :, 0]), [keys, values]
        return self._taken(self._attention(q, keys, seen, training), values), [keys, values]

    def _put(self, held: Any, new: Any, at: Any) -> Any:
        """Write one token a row into the cache at `(b, 1)` positions."""
        shape = (ops.shape(held)[0], self.heads)
        rows, heads = ops.arange(shape[0])[:, None], ops.arange(self.heads)[None]
        index = [ops.broadcast_to(each, shape) for each in (rows, heads, at % self.length)]
        return ops.scatter_update(held, ops.stack(index, axis=-1), new[:, :, 0])

    def _of_one(self, q: Any, keys: Any, values: Any, seen: Any) -> Any:
        """Attend from one token a row.

        Products and sums: a CPU's kernels for matrices take longer to start than these do in all.
        """
        scores = ops.sum(q * keys, -1) * self.width**-0.5  # (b, heads, length)
        scores = ops.where(seen, ops.cast(scores, "float32"), -1e9)
        weights = ops.exp(scores - ops.max(scores, -1, keepdims=True))
        weights = ops.cast(weights / ops.sum(weights, -1, keepdims=True), q.dtype)
        taken = ops.sum(weights[..., None] * values, 2)  # (b, heads, d / heads)
        y = ops.matmul(ops.reshape(taken, (-1, 1, self.heads * self.width)), self.out_kernel)
        return y + self.out_bias if self.use_bias else y

    def _projected(self, inputs: Any, at: Any) -> tuple[Any, Any, Any]:
        """Return queries, keys and values `(b, heads, t, d / heads)` at positions `(b or 1, t)`."""
        t = ops.shape(inputs)[1] if inputs.shape[1] is None else inputs.shape[1]
        qkv = ops.matmul(inputs, self.kernel)
        qkv = qkv + self.bias if self.use_bias else qkv
        # Split, not sliced: the gradient of a slice is a sum over a tensor of zeros each.
        q, k, v = (
            ops.transpose(ops.reshape(each, (-1, t, self.heads, self.width)), (0, 2, 1, 3))
            for each in ops.split(qkv, 3, axis=-1)
        )
        if self.qk_norm:
            q, k = _unit(q), _unit(k)
        return (*self._turned(q, k, at), v) if self.rotary else (q, k, v)

    def _turned(self, q: Any, k: Any, at: Any) -> tuple[Any, Any]:
        half = self.width // 2
        rates = 10_000.0 ** (-np.arange(half, dtype=np.float32) / half)
        angle = ops.cast(at, "float32")[:, None, :, None] * rates  # (b, 1, t, half)
        cos, sin = ops.cast(ops.cos(angle), q.dtype), ops.cast(ops.sin(angle), q.dtype)

        def turn(x: Any) -> Any:
            a, b, *rest = ops.split(x, [half, 2 * half][: 1 + self.width % 2], axis=-1)
            return ops.concatenate([a * cos - b * sin, a * sin + b * cos, *rest], -1)

        return turn(q), turn(k)

    def _attention(self, q: Any, k: Any, seen: Any, training: bool | None) -> Any:
        scores = ops.matmul(q * self.width**-0.5, ops.swapaxes(k, 2, 3))  # (b, heads, t, n)
        weights = ops.softmax(ops.where(seen, ops.cast(scores, "float32"), -1e9))
        weights = ops.cast(weights, q.dtype)
        return self.drop(weights, training=training) if self.drop is not None else weights

    def _taken(self, weights: Any, v: Any) -> Any:
        taken = ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3))
        t = ops.shape(taken)[1] if taken.shape[1] is None else taken.shape[1]
        y = ops.matmul(ops.reshape(taken, (-1, t, self.heads * self.width)), self.out_kernel)
        return y + self.out_bias if self.use_bias else y

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape that came in."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return what makes an equal layer."""
        own = ("heads", "length", "rotary", "qk_norm", "use_bias", "dropout", "out_scale")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def _unit(x: Any) -> Any:
    return x * ops.rsqrt(ops.mean(ops.square(x), -1, keepdims=True) + 1e-6)
