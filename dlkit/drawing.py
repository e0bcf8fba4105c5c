"""The draw of the next token.

A token is drawn by inverting the cumulative distribution at a number that is a hash of the seed and
of the token's place: the same seed gives the same text token by token, in one graph and on a server,
alone or in a batch. Needs TensorFlow alone, for the server.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

COLDEST = 1e-3


class Sampling(NamedTuple):
    """How the next token is drawn; each a tensor `(b,)`.

    Attributes:
        temperature: float32: the logits are divided by it, or by 0.001 where it is not above that.
        top_k: int32: only so many of the likeliest tokens; 0 for all, 1 for the likeliest alone.
        top_p: float32, in (0, 1]: the fewest likeliest tokens that reach this share together
            (Holtzman et al. 2020, arXiv:1904.09751).
        min_p: float32, in [0, 1): tokens with at least this share of the likeliest one's.
    """

    temperature: Any
    top_k: Any
    top_p: Any
    min_p: Any


def uniform(seed: Any, place: Any) -> tf.Tensor:
    """Return a number in [0, 1) for each row, float32 `(b,)`: a hash, the same everywhere.

    Args:
        seed: int32 `(b,)`.
        place: int32 `(b,)`, the number of the token.
    Reference:
        Steele et al. 2014, "Fast splittable pseudorandom number generators": the mixer of
        SplitMix64.
    """
    golden = tf.constant(0x9E3779B97F4A7C15, tf.uint64)

    def mixed(z: Any) -> Any:
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, tf.constant(shift, tf.uint64)))
            z *= tf.constant(factor, tf.uint64)
        return tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, tf.constant(31, tf.uint64)))

    z = mixed(tf.cast(tf.cast(seed, tf.int64), tf.uint64) * golden + golden)
    z = mixed(z + tf.cast(tf.cast(place, tf.int64), tf.uint64) * golden)
    top = tf.bitwise.right_shift(z, tf.constant(40, tf.uint64))
    return tf.cast(tf.cast(top, tf.int64), tf.float32) * 2.0**-24


def choose(logits: Any, seed: Any, place: Any, sampling: Sampling) -> tf.Tensor:
    """Draw the next token of each row, int32 `(b,)`.

    Args:
        logits: float32 `(b, vocabulary)`.
        seed, place: see `uniform`.
        sampling: what may be drawn, and how likely.
    """
    # What is not above 0 (a server cannot ask) comes to the likeliest token.
    temperature = tf.where(sampling.temperature > COLDEST, sampling.temperature, COLDEST)
    scaled = logits / temperature[:, None]
    order = tf.argsort(scaled, axis=-1, direction="DESCENDING", stable=True)
    shares = tf.nn.softmax(tf.gather(scaled, order, batch_dims=1))  # (b, v), falling
    rank = tf.range(tf.shape(logits)[1])[None]
    top_k = tf.where(sampling.top_k > 0, sampling.top_k, tf.shape(logits)[1])[:, None]
    kept = tf.logical_and(
        tf.logical_and(rank < top_k, shares >= sampling.min_p[:, None] * shares[:, :1]),
        # Rounding must not take away the last of all.
        tf.logical_or(
            tf.cumsum(shares, axis=1, exclusive=True) < sampling.top_p[:, None],
            sampling.top_p[:, None] >= 1.0,
        ),
    )
    kept = tf.logical_or(kept, rank == 0)
    reached = tf.cumsum(tf.where(kept, shares, 0.0), axis=1)
    mark = uniform(seed, place)[:, None] * reached[:, -1:]
    at = tf.reduce_sum(tf.cast(reached <= mark, tf.int32), axis=1)
    # At the very end rounding could step past the last one kept.
    at = tf.minimum(at, tf.reduce_sum(tf.cast(kept, tf.int32), axis=1) - 1)
    return tf.cast(tf.gather(order, at, batch_dims=1), tf.int32)
