"""The adversarial training step, for the whole family. Two losses with gradients of their own make
it TensorFlow's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import random

from dlkit.models.diff_augment import augmented
from dlkit.models.gan_losses import ADVERSARIES


@keras.saving.register_keras_serializable("dlkit")
class Adversarial(keras.Model):
    """A generator, and a discriminator that tells its pictures from real ones.

    Args:
        generator: functional, from noise `(b, ...)`, or noise and label `(b,)`, to pictures
            `(b, h, w, c)` in [-1, 1].
        discriminator: functional, from pictures `(b, h, w, c * pac)`, or pictures and label, to
            logits `(b, 1)`; what is judged as real is large.
        pac: pictures that are judged together, stacked as channels (PacGAN: Lin et al. 2018,
            arXiv:1712.04086, section 3). Gradient penalties are of the logit of all of them.
    """

    def __init__(
        self, generator: keras.Model, discriminator: keras.Model, *, pac: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.generator, self.discriminator, self.pac = generator, discriminator, pac
        self.noise_shape = tuple(generator.inputs[0].shape[1:])
        self.conditional = len(generator.inputs) > 1
        self.seed_generator = random.SeedGenerator()
        names = ("loss", "discriminator_loss", "real_accuracy", "fake_accuracy")
        self.means = {name: keras.metrics.Mean(name) for name in names}
        self.built = True

    def compile(
        self,
        optimizer: Any = "adam",
        discriminator_optimizer: Any = "adam",
        *,
        adversary: str = "ns",
        r1: float = 0.0,
        r2: float = 0.0,
        gradient_penalty: float = 10.0,
        critic_steps: int = 1,
        augment: Sequence[str] = (),
        discriminator_rate: float = 1.0,
        drift: float = 0.0,
        **kwargs: Any,
    ) -> None:
        """Set how the two are trained.

        Args:
            optimizer, discriminator_optimizer: of the generator and of the discriminator.
            adversary: a name of `ADVERSARIES`.
            r1: weight gamma of half the squared gradient at real pictures (Mescheder et al. 2018,
                arXiv:1801.04406, equation 9); 0 for none.
            r2: the same at generated pictures (equation 10). Both, with the `relativistic` loss, are
                what Huang et al. 2024 (arXiv:2501.05441, sections 2 and 3) find stable.
            gradient_penalty: weight of `wgan-gp`'s (Gulrajani et al. 2017, arXiv:1704.00028,
                equation 3).
            critic_steps: updates of the discriminator for one of the generator; a training batch
                is cut into as many parts.
            augment: see `diff_augment.augmented`.
            discriminator_rate: factor on the learning rate for the discriminator (Heusel et al.
                2017, arXiv:1706.08500).
            drift: weight of the mean squared logit of real pictures, beside `wgan-gp`'s penalty
                (Karras et al. 2018, arXiv:1710.10196, appendix A.1).
        """
        super().compile(optimizer=optimizer, **kwargs)
        self.discriminator_optimizer = keras.optimizers.get(discriminator_optimizer)
        # Each has slots for its own weights alone.
        self.optimizer.build(self.generator.trainable_variables)
        self.discriminator_optimizer.build(self.discriminator.trainable_variables)
        self.adversary = ADVERSARIES[adversary]
        self.r1, self.r2, self.gradient_penalty, self.drift = r1, r2, gradient_penalty, drift
        self.critic_steps, self.discriminator_rate = critic_steps, discriminator_rate
        self.augment = tuple(augment)

    @property
    def metrics(self) -> list[Any]:
        """The running means that are shown and logged."""
        return list(self.means.values())

    @property
    def averaged(self) -> list[Any]:
        """The variables of which a moving average is worth keeping: the generator's."""
        return self.generator.variables

    def generate(self, noise: Any, label: Any = None) -> Any:
        """Return pictures `(b, h, w, c)` in [-1, 1] from noise, and labels if it is conditional."""
        return self._picture(noise, label, training=False)

    def _nets(self, label: Any) -> tuple[keras.Model, keras.Model]:
        """Return the parts of generator and discriminator that a step trains."""
        return self.generator, self.discriminator

    def _picture(self, noise: Any, label: Any, training: bool) -> Any:
        given = [noise, label] if self.conditional else noise
        # Losses and what is shown are float32, also where layers compute in less.
        return tf.cast(self.generator(given, training=training), tf.float32)

    def _judge(self, pictures: Any, label: Any, training: bool) -> Any:
        """Return logits of pictures as they are shown to the discriminator."""
        x = augmented(pictures, self.augment, self.seed_generator)
        if self.pac > 1:
            x = packed(x, self.pac)
        given = [x, label] if self.conditional else x
        return tf.cast(self.discriminator(given, training=training), tf.float32)

    def _noise(self, rows: Any) -> Any:
        return random.normal((rows, *self.noise_shape), seed=self.seed_generator)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Update the discriminator on each part of a batch, then the generator once.

        Args:
            data: pictures `(b, h, w, c)` in [-1, 1] and their labels; `b` divides by
                `critic_steps * pac`.
        """
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        self.discriminator_optimizer.learning_rate.assign(
            self.optimizer.learning_rate * self.discriminator_rate
        )
        pairs = zip(tf.split(x, self.critic_steps), tf.split(y, self.critic_steps), strict=True)
        for real, label in pairs:
            self._train_discriminator(real, label)
        self._train_generator(real, label)
        return self.get_metrics_result()

    def _train_discriminator(self, real: Any, label: Any) -> None:
        weights = self._nets(label)[1].trainable_variables
        fake = self._picture(self._noise(tf.shape(real)[0]), label, training=True)
        with tf.GradientTape() as tape:
            of_real, of_fake = (self._judge(x, label, training=True) for x in (real, fake))
            loss = told = self.adversary.discriminator(of_real, of_fake)
            if self.adversary.penalised:
                loss += self.gradient_penalty * self._steepness(real, fake, label)
                loss += self.drift * tf.reduce_mean(of_real**2)
            if self.r1:
                loss += 0.5 * self.r1 * self._squared_gradient(real, label)
            if self.r2:
                loss += 0.5 * self.r2 * self._squared_gradient(fake, label)
        gradients = tape.gradient(loss, weights)
        self.discriminator_optimizer.apply_gradients(zip(gradients, weights, strict=True))
        self._note(told, of_real, of_fake)

    def _train_generator(self, real: Any, label: Any) -> None:
        weights = self._nets(label)[0].trainable_variables
        with tf.GradientTape() as tape:
            fake = self._picture(self._noise(tf.shape(real)[0]), label, training=True)
            of_fake = self._judge(fake, label, training=True)
            # Most losses leave the real ones out; where one does not, they cost another pass.
            seen = self.adversary.relative
            of_real = self._judge(real, label, training=True) if seen else of_fake
            loss = self.adversary.generator(of_real, of_fake)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        self.means["loss"].update_state(loss)

    def _steepness(self, real: Any, fake: Any, label: Any) -> Any:
        """Return the mean squared departure from 1 of the gradient's norm between the two."""
        # What is judged together lies between in the same place.
        packs = tf.shape(real)[0] // self.pac
        share = random.uniform((packs, 1, 1, 1), seed=self.seed_generator)
        between = real + tf.repeat(share, self.pac, 0) * (fake - real)
        norm = tf.sqrt(self._squares(between, label) + 1e-12)
        return tf.reduce_mean((norm - 1.0) ** 2)

    def _squared_gradient(self, real: Any, label: Any) -> Any:
        return tf.reduce_mean(self._squares(real, label))

    def _squares(self, pictures: Any, label: Any) -> Any:
        """Return the squared length of each logit's gradient by all pixels judged, `(b / pac,)`."""
        with tf.GradientTape() as tape:
            tape.watch(pictures)
            logits = self._judge(pictures, label, training=True)
        each = tf.reduce_sum(tape.gradient(logits, pictures) ** 2, (1, 2, 3))
        return tf.reduce_sum(tf.reshape(each, (-1, self.pac)), 1)

    def _note(self, loss: Any, of_real: Any, of_fake: Any) -> None:
        middle = self.adversary.middle
        if middle is None:
            middle = 0.5 * (tf.reduce_mean(of_real) + tf.reduce_mean(of_fake))
        self.means["discriminator_loss"].update_state(loss)
        right = {"real_accuracy": of_real > middle, "fake_accuracy": of_fake < middle}
        for name, each in right.items():
            self.means[name].update_state(tf.cast(each, tf.float32))

    def get_config(self) -> dict[str, Any]:
        """Return what it was made from."""
        return {
            "name": self.name,
            "pac": self.pac,
            "generator": keras.saving.serialize_keras_object(self.generator),
            "discriminator": keras.saving.serialize_keras_object(self.discriminator),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make it from what `get_config` returned."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("generator", "discriminator")
        }
        return cls(**{**config, **parts})

    def get_compile_config(self) -> None:
        """Say nothing of training: a saved model is there to generate."""
        return None


def packed(x: Any, pac: int) -> Any:
    """Return pictures `(b, h, w, c)` stacked in groups as channels, `(b / pac, h, w, pac * c)`."""
    _, height, width, channels = x.shape
    x = tf.reshape(x, (-1, pac, height, width, channels))
    return tf.reshape(tf.transpose(x, (0, 2, 3, 1, 4)), (-1, height, width, pac * channels))
