"""The pool of generated pictures that a discriminator is shown, so that it does not forget."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers, random


@keras.saving.register_keras_serializable("dlkit")
class ImagePool(layers.Layer):
    """Keeps generated pictures, and gives half of the new ones back as old ones.

    What it keeps are variables, so that a checkpoint has them; float32 also where layers compute in
    less, since it has nothing to compute.

    Args:
        capacity: pictures kept.

    Reference:
        Shrivastava et al. 2017, arXiv:1612.07828, section 2.3, by the rule of Zhu et al.'s code:
        until it is full every picture is kept and given back; then each is, with probability 1/2,
        kept in place of an old one, which is given back instead. Departs from it: the pictures of
        a batch take places of their own, so that the batch is done at once; of a batch that fills
        the pool, or is larger than it, the rest is given back only.
    """

    full_precision = True

    def __init__(self, capacity: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.capacity = capacity
        self.seed_generator = random.SeedGenerator()

    def build(self, input_shape: Any) -> None:
        """Make room for pictures of `(b, h, w, c)`."""
        options: dict[str, Any] = {"initializer": "zeros", "trainable": False}
        self.kept = self.add_weight(shape=(self.capacity, *input_shape[1:]), name="kept", **options)
        self.filled = self.add_weight(shape=(), dtype="int32", name="filled", **options)

    def call(self, pictures: Any) -> Any:
        """Exchange pictures `(b, h, w, c)`; no gradient passes."""
        new = tf.stop_gradient(tf.cast(pictures, self.kept.dtype))
        count = tf.minimum(tf.shape(new)[0], self.capacity)
        new, rest = new[:count], new[count:]
        filled = tf.convert_to_tensor(self.filled)
        filling = filled < self.capacity
        order = random.shuffle(tf.range(self.capacity), seed=self.seed_generator)
        place = tf.where(filling, filled + tf.range(count), order[:count])
        chosen = random.uniform((count,), seed=self.seed_generator) < 0.5
        stays = tf.where(filling, place < self.capacity, chosen)
        place = tf.minimum(place, self.capacity - 1)
        old = tf.gather(self.kept.value, place)
        swapped = tf.reshape(stays & tf.logical_not(filling), (-1, 1, 1, 1))
        given = tf.where(swapped, old, new)
        self.kept.value.scatter_nd_update(
            tf.boolean_mask(place, stays)[:, None], tf.boolean_mask(new, stays)
        )
        self.filled.assign(tf.minimum(filled + count, self.capacity))
        return tf.concat([given, rest], 0)

    def get_config(self) -> dict[str, Any]:
        """Return what it was made from."""
        return super().get_config() | {"capacity": self.capacity}
