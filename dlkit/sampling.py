"""Pictures from seeds: one seed, one picture, on every machine and beside any other rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

# Pictures made at once.
BATCH = 250


def noise_of(seeds: Any, shape: tuple[int, ...], truncation: float | None = None) -> Any:
    """Return standard Gaussian noise, float32 `(b, *shape)`, a function of each seed alone.

    Args:
        seeds: int32 `(b,)`.
        shape: of one picture's noise.
        truncation: noise beyond so many deviations is drawn in (Brock et al. 2019,
            arXiv:1809.11096, section 3.1, by the distribution's inverse: the same seed stays near
            the same picture); None for all of it.
    """
    low = 0.5 * (1.0 + tf.math.erf(-(truncation or 6.0) / np.sqrt(2.0)))

    def one(seed: Any) -> Any:
        return tf.random.stateless_uniform(
            shape, tf.stack([seed, 0]), alg="philox", minval=1e-7, maxval=1.0 - 1e-7
        )

    uniform = tf.map_fn(one, seeds, fn_output_signature=tf.TensorSpec(shape, tf.float32))
    if truncation is not None:
        low = tf.cast(low, tf.float32)
        uniform = low + uniform * (1.0 - 2.0 * low)
    return tf.math.ndtri(uniform)


def to_pixels(pictures: Any) -> Any:
    """Return uint8 of pictures in [-1, 1]."""
    return tf.cast(tf.clip_by_value(tf.round((pictures + 1.0) * 127.5), 0.0, 255.0), tf.uint8)


def labels_like(y: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return `count` labels drawn from those of a split, int32."""
    generator = np.random.default_rng(np.random.SeedSequence([seed, 7]))
    return y[generator.integers(0, len(y), count)].astype(np.int32)


class Sampler:
    """A model's pictures of many seeds, traced once.

    Args:
        model: see `dlkit.models`; has `generate`.
    """

    def __init__(self, model: Any) -> None:
        self.conditional = model.conditional

        @tf.function(reduce_retracing=True)
        def draw(seeds: Any, labels: Any) -> Any:
            noise = noise_of(seeds, model.noise_shape)
            return to_pixels(model.generate(noise, labels if model.conditional else None))

        self.draw = draw

    def __call__(self, first: int, labels: np.ndarray) -> np.ndarray:
        """Return the pictures of seeds from `first` on, one a label, uint8 `(n, h, w, c)`."""
        return np.concatenate(list(self.batches(first, labels)))

    def batches(self, first: int, labels: np.ndarray) -> Iterator[np.ndarray]:
        """Yield them batch by batch."""
        for at in range(0, len(labels), BATCH):
            part = labels[at : at + BATCH]
            seeds = np.arange(first + at, first + at + len(part), dtype=np.int32)
            yield self.draw(tf.constant(seeds), tf.constant(part, tf.int32)).numpy()
