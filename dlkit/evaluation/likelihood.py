"""How likely pictures are to a variational autoencoder, in nats."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

# Pictures and codes of each that are decoded at once.
PICTURES, CODES = 10, 500
# Pictures whose bound is taken at once.
BATCH = 500


def bounds(model: Any, x: np.ndarray, y: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Return the lower bound on log p(x) of each picture, `(n,)`: one code, divergence in closed form.

    Args:
        model: a `Variational`; its beta and its samples play no part.
        x: float32 pictures `(n, h, w, c)` in [-1, 1]. For a bound on a probability they are of two
            values, and it is the caller who says how they were made so.
        y: int32 labels `(n,)` where the model is conditional.
        seed: of the codes.
    """

    @tf.function(reduce_retracing=True)
    def of(pictures: Any, label: Any, start: Any) -> Any:
        noise = _noise(model, pictures, 1, seed, start)
        likely, divergence, _ = model.terms(pictures, label, noise)
        return likely[:, 0] - divergence

    parts = [of(*_taken(x, y, i, BATCH), tf.constant(i, tf.int64)) for i in range(0, len(x), BATCH)]
    return np.concatenate(parts).astype(np.float64)


def log_likelihood(
    model: Any, x: np.ndarray, y: np.ndarray | None = None, samples: int = 5000, seed: int = 0
) -> np.ndarray:
    """Return an estimate of log p(x) for each picture, from below in the mean, `(n,)`.

    log of the mean of p(x, z) / q(z | x) over codes drawn from q (Burda et al. 2016,
    arXiv:1509.00519, equation 8 and section 5: 5,000 samples). Memory does not grow with `samples`.

    Args:
        model: a `Variational`.
        x: float32 pictures `(n, h, w, c)` in [-1, 1]; see `bounds`.
        y: int32 labels `(n,)` where the model is conditional: log p(x | y) then.
        samples: codes drawn for one picture, at least 1.
        seed: of the codes.
    """
    rounds, rest = divmod(samples, CODES)

    def drawn(pictures: Any, label: Any, start: Any, at: Any, codes: int) -> Any:
        """Return the logarithm of the sum of the weights of some more codes, `(b,)`."""
        noise = _noise(model, pictures, codes, seed, start * (rounds + 1) + at)
        return tf.reduce_logsumexp(model.log_weights(pictures, label, noise), -1)

    @tf.function(reduce_retracing=True)
    def estimates(pictures: Any, label: Any, start: Any) -> Any:
        total = tf.fill([tf.shape(pictures)[0]], -np.inf)
        for at in tf.range(rounds, dtype=tf.int64):
            # Parts side by side would take the memory that they are there to save.
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            more = drawn(pictures, label, start, at, CODES)
            total = tf.reduce_logsumexp(tf.stack([total, more]), 0)
        if rest:
            more = drawn(pictures, label, start, rounds, rest)
            total = tf.reduce_logsumexp(tf.stack([total, more]), 0)
        return total

    starts = range(0, len(x), PICTURES)
    parts = [estimates(*_taken(x, y, i, PICTURES), tf.constant(i, tf.int64)) for i in starts]
    return np.concatenate(parts).astype(np.float64) - np.log(samples)


def _noise(model: Any, pictures: Any, codes: int, seed: int, part: Any) -> Any:
    """Draw standard Gaussian noise for some codes of each picture; each part draws its own."""
    shape: Any = (tf.shape(pictures)[0], codes, *model.noise_shape)
    words: Any = tf.stack([tf.constant(seed, tf.int64), part])
    return tf.random.stateless_normal(shape, words)


def _taken(x: np.ndarray, y: np.ndarray | None, start: int, count: int) -> tuple[Any, Any]:
    label = None if y is None else tf.constant(y[start : start + count], tf.int32)
    return tf.constant(x[start : start + count], tf.float32), label
