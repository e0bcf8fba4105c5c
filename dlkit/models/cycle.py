"""The training step of two generators and two discriminators: there and back. Two losses with
gradients of their own make it TensorFlow's."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from dlkit.models.gan_losses import lsgan_discriminator, lsgan_generator
from dlkit.models.image_pool import ImagePool

DIRECTIONS = ("a-to-b", "b-to-a")
NETS = ("a_to_b", "b_to_a", "judge_a", "judge_b")


@keras.saving.register_keras_serializable("dlkit")
class CycleGan(keras.Model):
    """Two generators, and for each domain a discriminator with its pool of generated pictures.

    Args:
        a_to_b, b_to_a: functional, from pictures `(b, h, w, c)` in [-1, 1] to such pictures.
        judge_a, judge_b: functional, from pictures to logits of patches `(b, ph, pw, 1)`.
        pool: pictures kept of each domain.
        cycle: weight of the mean absolute difference after there and back.
        identity: weight of that between a picture of the target domain and its translation.
    """

    def __init__(
        self,
        a_to_b: keras.Model,
        b_to_a: keras.Model,
        judge_a: keras.Model,
        judge_b: keras.Model,
        *,
        pool: int = 50,
        cycle: float = 10.0,
        identity: float = 5.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.a_to_b, self.b_to_a, self.judge_a, self.judge_b = a_to_b, b_to_a, judge_a, judge_b
        self.pool, self.cycle, self.identity = pool, cycle, identity
        self.pool_a, self.pool_b = ImagePool(pool, name="pool_a"), ImagePool(pool, name="pool_b")
        self.pool_a.build(b_to_a.output_shape)
        self.pool_b.build(a_to_b.output_shape)
        self.noise_shape, self.conditional = None, False
        names = ("loss", "cycle", "identity", "discriminator_loss")
        self.means = {name: keras.metrics.Mean(name) for name in names}
        self.built = True

    def compile(
        self,
        optimizer: Any = "adam",
        discriminator_optimizer: Any = "adam",
        *,
        discriminator_rate: float = 1.0,
        **kwargs: Any,
    ) -> None:
        """Set how they are trained.

        Args:
            optimizer, discriminator_optimizer: of both generators and of both discriminators.
            discriminator_rate: factor on the learning rate for the discriminators.
        """
        super().compile(optimizer=optimizer, **kwargs)
        self.discriminator_optimizer = keras.optimizers.get(discriminator_optimizer)
        # Each has slots for its own weights alone.
        self.optimizer.build(self._weights(self.a_to_b, self.b_to_a))
        self.discriminator_optimizer.build(self._weights(self.judge_a, self.judge_b))
        self.discriminator_rate = discriminator_rate

    @property
    def metrics(self) -> list[Any]:
        """The running means that are shown and logged."""
        return list(self.means.values())

    @property
    def averaged(self) -> list[Any]:
        """The variables of which a moving average is worth keeping: the generators'."""
        return [*self.a_to_b.variables, *self.b_to_a.variables]

    def translate(self, pictures: Any, direction: str) -> Any:
        """Return pictures `(b, h, w, c)` in [-1, 1] as of the other domain.

        Args:
            pictures: of one domain, in [-1, 1].
            direction: of `DIRECTIONS`.
        """
        made = {"a-to-b": self.a_to_b, "b-to-a": self.b_to_a}[direction]
        return made(pictures, training=False)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Update both generators once, then both discriminators.

        Args:
            data: pictures `(b, h, w, c)` in [-1, 1] of domain a, and as many of domain b.
        """
        a, b = data
        self.discriminator_optimizer.learning_rate.assign(
            self.optimizer.learning_rate * self.discriminator_rate
        )
        fake_a, fake_b = self._train_generators(a, b)
        self._train_discriminators(a, b, self.pool_a(fake_a), self.pool_b(fake_b))
        return self.get_metrics_result()

    def _train_generators(self, a: Any, b: Any) -> tuple[Any, Any]:
        weights = self._weights(self.a_to_b, self.b_to_a)
        with tf.GradientTape() as tape:
            # Instance norm keeps the pictures of a batch apart, so that two batches go as one.
            if self.identity:
                fake_b, same_b = tf.split(answer(self.a_to_b, tf.concat([a, b], 0)), 2)
                fake_a, same_a = tf.split(answer(self.b_to_a, tf.concat([b, a], 0)), 2)
                identity = absolute(same_a, a) + absolute(same_b, b)
            else:
                fake_b, fake_a = answer(self.a_to_b, a), answer(self.b_to_a, b)
                identity = 0.0
            back_a, back_b = answer(self.b_to_a, fake_b), answer(self.a_to_b, fake_a)
            cycle = absolute(back_a, a) + absolute(back_b, b)
            of_fake = answer(self.judge_a, fake_a), answer(self.judge_b, fake_b)
            # The weights of the others are for least squares without a half.
            deceived = 2.0 * tf.add_n([lsgan_generator(logits, logits) for logits in of_fake])
            loss = deceived + self.cycle * cycle + self.identity * identity
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        for name, value in (("loss", loss), ("cycle", cycle), ("identity", identity)):
            self.means[name].update_state(value)
        return fake_a, fake_b

    def _train_discriminators(self, a: Any, b: Any, fake_a: Any, fake_b: Any) -> None:
        weights = self._weights(self.judge_a, self.judge_b)
        with tf.GradientTape() as tape:
            pairs = (self.judge_a, (a, fake_a)), (self.judge_b, (b, fake_b))
            loss = tf.add_n([
                lsgan_discriminator(*tf.split(answer(judge, tf.concat(pair, 0)), 2))
                for judge, pair in pairs
            ])  # fmt: skip
        gradients = tape.gradient(loss, weights)
        self.discriminator_optimizer.apply_gradients(zip(gradients, weights, strict=True))
        self.means["discriminator_loss"].update_state(loss)

    @staticmethod
    def _weights(*nets: keras.Model) -> list[Any]:
        return [weight for net in nets for weight in net.trainable_variables]

    def get_config(self) -> dict[str, Any]:
        """Return what it was made from."""
        nets = {name: getattr(self, name) for name in NETS}
        parts = {name: keras.saving.serialize_keras_object(net) for name, net in nets.items()}
        weights = {"pool": self.pool, "cycle": self.cycle, "identity": self.identity}
        return {"name": self.name, **weights, **parts}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make it from what `get_config` returned."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in NETS
        }
        return cls(**{**config, **parts})

    def get_compile_config(self) -> None:
        """Say nothing of training: a saved model is there to translate."""
        return None


def answer(net: keras.Model, x: Any) -> Any:
    """Return what a net gives in training; losses are float32, also where layers compute in less."""
    return tf.cast(net(x, training=True), tf.float32)


def absolute(x: Any, y: Any) -> Any:
    """Return the mean absolute difference of two batches."""
    return tf.reduce_mean(tf.abs(x - y))
