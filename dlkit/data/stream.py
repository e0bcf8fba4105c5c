"""The deterministic training stream: batch `step` of epoch `epoch` is a function of the seed alone.

A resumed run therefore sees what the uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of `n` rows in one epoch, int64 `(n,)`.

    Each epoch has a generator of its own. (`tf.random.index_shuffle` with neighbouring seeds gives
    orders that correlate at 0.9.)
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    return generator.permutation(n)


def train_stream(
    arrays: tuple[Any, ...],
    prepare: Callable[..., tuple],
    *,
    batch_size: int,
    seed: int,
    epoch: int = 0,
    step: int = 0,
) -> tf.data.Dataset:
    """Stream training batches for ever, from a position.

    Args:
        arrays: row-aligned arrays, or rows on disk (`dlkit.data.streamed.Streamed`); batches are
            gathered from them, the same ones from either.
        prepare: `(draw_seed, rows, *batch)` to what the model trains on, called on whole batches;
            `draw_seed` is int64 `(2,)`, `(seed, epoch * 2**32 + step)`; `rows` int64 `(b,)`, the
            numbers of the batch's rows.
        batch_size: rows a batch, at most the number of rows; the rest of an epoch is left out,
            and is another rest each epoch.
        seed: the run's seed.
        epoch: epoch to start in, from 0.
        step: batch of that epoch to start at, from 0.
    """
    n = len(arrays[0])
    steps = n // batch_size

    def order(at: np.ndarray) -> np.ndarray:
        return permutation(n, seed, int(at))[: steps * batch_size].reshape(steps, batch_size)

    gathers = tuple(map(_gather, arrays))

    def batches(at: Any) -> tf.data.Dataset:
        first = tf.where(tf.equal(at, epoch), tf.constant(step, tf.int64), 0)
        rows = tf.ensure_shape(tf.numpy_function(order, [at], tf.int64), (steps, batch_size))
        draws = at * 2**32 + tf.range(first, steps, dtype=tf.int64)
        draws = tf.stack([tf.fill(tf.shape(draws), tf.constant(seed, tf.int64)), draws], 1)
        return tf.data.Dataset.from_tensor_slices((draws, rows[first:]))

    def batch(draw_seed: tf.Tensor, rows: tf.Tensor) -> tuple:
        rows = tf.ensure_shape(rows, (batch_size,))
        return prepare(draw_seed, rows, *(gather(rows) for gather in gathers))

    # Behind `from_generator` every batch would lie in memory fresh from the system, and the faults of
    # its pages cost more than the gathering.
    dataset: Any = tf.data.Dataset.range(epoch, tf.int64.max)
    dataset = dataset.flat_map(batches).map(batch, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _gather(a: Any) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the function from row numbers to rows, within a TensorFlow function."""
    if not isinstance(a, np.ndarray):
        return a.gather
    tensor = tf.constant(a)
    return lambda rows: tf.gather(tensor, rows)


def eval_stream(
    arrays: tuple[Any, ...], prepare: Callable[..., tuple], *, batch_size: int
) -> tf.data.Dataset:
    """Stream every row once, in order, the last batch short; `prepare` gets the batch alone."""
    if all(isinstance(a, np.ndarray) for a in arrays):
        dataset = tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size)
    else:
        gathers = tuple(map(_gather, arrays))
        rows = tf.data.Dataset.range(len(arrays[0])).batch(batch_size)
        dataset = rows.map(
            lambda at: tuple(gather(at) for gather in gathers), num_parallel_calls=tf.data.AUTOTUNE
        )
    return dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
