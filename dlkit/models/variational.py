"""Variational autoencoder: its bound and its training step, which is TensorFlow's."""

from __future__ import annotations

from math import log, pi, prod
from typing import Any

import keras
import tensorflow as tf
from keras import ops, random

from dlkit.models.codes import GaussianCode

# What `test_step` draws its noise from, so that every validation sees the same.
TEST_SEED = 13


@keras.saving.register_keras_serializable("dlkit")
class Variational(keras.Model):
    """An encoder of pictures to Gaussian codes, a decoder of codes to pictures, and their bound.

    Inside, a pixel x in [-1, 1] is t = (x + 1) / 2, and every likelihood is one of t, in nats.

    Args:
        encoder: functional, from pictures, or pictures and labels `(b,)`, to the code's mean and log
            variance, `(b, d)` each.
        decoder: functional, from codes `(b, d)`, or codes and labels, to `(b, h, w, c)`: logits of
            t for a Bernoulli likelihood, the mean of t for a Gaussian one.
        beta: weight of the divergence.
        samples: codes drawn for one picture; more than 1 makes the bound importance-weighted.
        likelihood: "bernoulli" or "gaussian".
        variance: of t around its mean, with "gaussian".
    """

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        *,
        beta: float = 1.0,
        samples: int = 1,
        likelihood: str = "bernoulli",
        variance: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.encoder, self.decoder = encoder, decoder
        self.beta, self.samples = beta, samples
        self.likelihood, self.variance = likelihood, variance
        self.noise_shape = tuple(decoder.inputs[0].shape[1:])
        self.conditional = len(decoder.inputs) > 1
        self.seed_generator = random.SeedGenerator()
        names = ("loss", "reconstruction", "divergence")
        self.means = {name: keras.metrics.Mean(name) for name in names}
        self.built = True

    @property
    def metrics(self) -> list[Any]:
        """The running means that are shown and logged."""
        return list(self.means.values())

    def _with(self, given: Any, label: Any) -> Any:
        """Return what a net takes: the label as well where it is conditional."""
        given = ops.convert_to_tensor(given)
        return [given, ops.convert_to_tensor(label, "int32")] if self.conditional else given

    def encode(self, x: Any, label: Any = None) -> tuple[Any, Any]:
        """Return the mean and the log variance `(b, d)` of the codes of pictures in [-1, 1]."""
        mean, log_variance = self.encoder(self._with(x, label))
        return ops.cast(mean, "float32"), ops.cast(log_variance, "float32")

    def decode(self, z: Any, label: Any = None) -> Any:
        """Return the mean pictures `(b, h, w, c)` in [-1, 1] of codes `(b, d)`."""
        t = self.decoder(self._with(z, label))
        t = ops.sigmoid(t) if self.likelihood == "bernoulli" else ops.clip(t, 0.0, 1.0)
        return 2.0 * t - 1.0

    def generate(self, noise: Any, label: Any = None) -> Any:
        """Return pictures `(b, h, w, c)` in [-1, 1] from standard Gaussian noise `(b, d)`."""
        return self.decode(noise, label)

    def log_likelihood_of(self, x: Any, z: Any, label: Any = None) -> Any:
        """Return log p(x | z) in nats, summed over the pixels.

        Args:
            x: pictures `(b, h, w, c)` in [-1, 1].
            z: codes `(b, k, d)`, `k` for each picture.
            label: int32 `(b,)` where the model is conditional.
        Returns:
            float32 `(b, k)`.
        """
        _, k, d = z.shape
        flat = ops.reshape(z, (-1, d))  # (b * k, d)
        each = ops.repeat(label, k, 0) if self.conditional else None
        answer = ops.cast(self.decoder(self._with(flat, each)), "float32")
        pixels = prod(answer.shape[1:])
        answer = ops.reshape(answer, (-1, k, pixels))
        t = ops.reshape(0.5 * (x + 1.0), (-1, pixels, 1))
        if self.likelihood == "bernoulli":
            # t log p + (1 - t) log(1 - p), where log p = l - softplus(l), log(1 - p) = -softplus(l).
            return ops.squeeze(answer @ t, -1) - ops.sum(ops.softplus(answer), -1)
        squares = ops.sum(ops.square(answer - ops.swapaxes(t, 1, 2)), -1)
        return -0.5 * (squares / self.variance + pixels * log(2.0 * pi * self.variance))

    def terms(self, x: Any, label: Any, noise: Any) -> tuple[Any, Any, Any]:
        """Return what a bound is made of, for noise `(b, k, d)`.

        Returns:
            log p(x | z) `(b, k)`; the divergence of q(z | x) from the standard Gaussian `(b,)`, in
            closed form; and log p(z) - log q(z | x) `(b, k)`.
        """
        mean, log_variance = self.encode(x, label)
        wide = ops.expand_dims(log_variance, 1)
        z = ops.expand_dims(mean, 1) + ops.exp(0.5 * wide) * noise
        # Both densities' constants are the same, and z - mean is the deviation times the noise.
        ratio = 0.5 * ops.sum(ops.square(noise) + wide - ops.square(z), -1)
        divergence = GaussianCode.divergence(mean, log_variance)
        return self.log_likelihood_of(x, z, label), divergence, ratio

    def log_weights(self, x: Any, label: Any, noise: Any) -> Any:
        """Return log p(x, z) - log q(z | x) in nats of codes z drawn by noise.

        Args:
            x: pictures `(b, h, w, c)` in [-1, 1].
            label: int32 `(b,)`, or None where the model is not conditional.
            noise: standard Gaussian `(b, k, d)`.
        Returns:
            float32 `(b, k)`. Their mean is the evidence's lower bound, the logarithm of the mean of
            their exponentials an estimate of log p(x).
        """
        likely, _, ratio = self.terms(x, label, noise)
        return likely + ratio

    def _loss_parts(self, data: Any, seed: Any) -> dict[str, Any]:
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        shape = (ops.shape(x)[0], self.samples, *self.noise_shape)
        likely, divergence, ratio = self.terms(x, y, random.normal(shape, seed=seed))
        reconstruction, divergence = -ops.mean(likely), ops.mean(divergence)
        if self.samples == 1:
            loss = reconstruction + self.beta * divergence
        else:
            loss = log(self.samples) - ops.mean(ops.logsumexp(likely + ratio, -1))
        return {"loss": loss, "reconstruction": reconstruction, "divergence": divergence}

    def _noted(self, losses: dict[str, Any], data: Any) -> dict[str, Any]:
        for name, mean in self.means.items():
            mean.update_state(losses[name], sample_weight=ops.shape(data[0])[0])
        return self.get_metrics_result()

    def train_step(self, data: Any) -> dict[str, Any]:
        """Lower the loss of a batch of pictures in [-1, 1] and labels."""
        with tf.GradientTape() as tape:
            losses = self._loss_parts(data, self.seed_generator)
        weights = self.trainable_variables
        gradients = tape.gradient(losses["loss"], weights)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return self._noted(losses, data)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Measure the loss of a batch, by the same noise each time."""
        return self._noted(self._loss_parts(data, TEST_SEED), data)

    def get_config(self) -> dict[str, Any]:
        """Return what it was made from."""
        settings = ("name", "beta", "samples", "likelihood", "variance")
        parts = ("encoder", "decoder")
        return {name: getattr(self, name) for name in settings} | {
            name: keras.saving.serialize_keras_object(getattr(self, name)) for name in parts
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make it from what `get_config` returned."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("encoder", "decoder")
        }
        return cls(**{**config, **parts})

    def get_compile_config(self) -> None:
        """Say nothing of training: a saved model is there to generate."""
        return None
