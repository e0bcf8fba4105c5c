"""Denoising diffusion: its schedule, its way from noise to pictures, its training step.

The training step is TensorFlow's.
"""

from __future__ import annotations

from math import pi
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops, random

# What `test_step` draws times, noise and labels left out from: every validation sees the same.
TEST_SEEDS = (17, 18, 19)
# Offset of the cosine schedule, and the most noise that one step adds.
OFFSET, MOST = 0.008, 0.999


def cosine_schedule(steps: int) -> np.ndarray:
    """Return the share of a picture's variance that is left after each step, float64 `(steps + 1,)`.

    Nichol & Dhariwal 2021, arXiv:2102.09672, equation 17: the first is 1, the last nearly 0.
    """
    at = np.arange(steps + 1) / steps
    f = np.cos((at + OFFSET) / (1.0 + OFFSET) * pi / 2.0) ** 2
    beta = np.minimum(1.0 - f[1:] / f[:-1], MOST)
    return np.concatenate([[1.0], np.cumprod(1.0 - beta)])


@keras.saving.register_keras_serializable("dlkit")
class Diffusion(keras.Model):
    """A net that tells a picture from the noise in it, and the way from noise to a picture.

    Args:
        net: functional, from noisy pictures `(b, h, w, c)` and times `(b,)` in [0, 1], or those and
            labels `(b,)`, to what `target` says, of the picture's shape.
        target: "v" or "epsilon", see `ddpm`.
        steps: of the schedule.
        sample_steps: steps from noise to a picture, at most `steps`.
        label_dropout: share of the pictures whose label is left out in training.
        guidance: weight of the difference that the label makes.
        none: the label that stands for none told.
    """

    def __init__(
        self,
        net: keras.Model,
        *,
        target: str = "v",
        steps: int = 1000,
        sample_steps: int = 20,
        label_dropout: float = 0.1,
        guidance: float = 1.0,
        none: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.net, self.target, self.none = net, target, none
        self.steps, self.sample_steps = steps, sample_steps
        self.label_dropout, self.guidance = label_dropout, guidance
        self.noise_shape = tuple(net.inputs[0].shape[1:])
        self.conditional = len(net.inputs) > 2
        left = cosine_schedule(steps)
        # Roots of the shares of picture and noise at each step. `(steps + 1,)`
        self.signal, self.spoilt = (np.sqrt(a).astype("float32") for a in (left, 1.0 - left))
        self.seed_generator = random.SeedGenerator()
        self.means = {name: keras.metrics.Mean(name) for name in ("loss", "picture_error")}
        self.built = True

    @property
    def metrics(self) -> list[Any]:
        """The running means that are shown and logged."""
        return list(self.means.values())

    def noisy(self, x: Any, at: Any, noise: Any) -> Any:
        """Return pictures after `at` steps, int32 `(b,)`, of the forward process (equation 4)."""
        signal, spoilt = self._shares(at)
        return signal * x + spoilt * noise

    def _shares(self, at: Any) -> tuple[Any, Any]:
        """Return the roots of the shares of picture and noise after `at` steps, `(b, 1, 1, 1)`."""
        both = (ops.take(ops.convert_to_tensor(table), at) for table in (self.signal, self.spoilt))
        signal, spoilt = (ops.reshape(a, (-1, 1, 1, 1)) for a in both)
        return signal, spoilt

    def _predicted(self, x: Any, at: Any, label: Any, training: bool) -> Any:
        time = ops.cast(at, "float32") / self.steps
        given = [x, time, label] if self.conditional else [x, time]
        return ops.cast(self.net(given, training=training), "float32")

    def _picture(self, x: Any, at: Any, answer: Any) -> Any:
        """Return the picture that an answer of the net means, before it is clipped."""
        signal, spoilt = self._shares(at)
        if self.target == "v":
            return signal * x - spoilt * answer
        return (x - spoilt * answer) / signal

    def _denoised(self, x: Any, at: Any, label: Any) -> Any:
        """Return the picture in [-1, 1] that the net sees in `x`; with guidance, beyond it."""
        if self.conditional and self.guidance != 1.0:
            labels = ops.concatenate([label, ops.full_like(label, self.none)])
            both, times = (ops.concatenate([a, a]) for a in (x, at))
            told, untold = ops.split(self._predicted(both, times, labels, training=False), 2)
            answer = untold + self.guidance * (told - untold)
        else:
            answer = self._predicted(x, at, label, training=False)
        return ops.clip(self._picture(x, at, answer), -1.0, 1.0)

    def generate(self, noise: Any, label: Any = None) -> Any:
        """Return pictures in [-1, 1] from standard Gaussian noise, `(b, h, w, c)` both.

        DDIM: equation 12 of the paper with sigma 0, so that noise and label alone decide.
        """
        spread = np.linspace(self.steps, 0, self.sample_steps + 1).round()
        times = ops.convert_to_tensor(spread.astype("int32"))
        rows = ops.shape(noise)[0]
        if self.conditional:
            label = ops.convert_to_tensor(label, "int32")

        def step(i: Any, x: Any) -> tuple[Any, Any]:
            now, later = (ops.full((rows,), times[k], "int32") for k in (i, i + 1))
            picture = self._denoised(x, now, label)
            signal, spoilt = self._shares(now)
            return i + 1, self.noisy(picture, later, (x - signal * picture) / spoilt)

        start = (ops.convert_to_tensor(0, "int32"), ops.convert_to_tensor(noise, "float32"))
        _, x = ops.while_loop(lambda i, x: i < self.sample_steps, step, start)
        return x

    def _loss_parts(self, data: Any, seeds: Any, training: bool) -> dict[str, Any]:
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        rows = ops.shape(x)[0]
        # Spread evenly over a batch: each time is as likely as any, and batches are more alike.
        places = ops.arange(rows, dtype="float32") + random.uniform((), seed=seeds[0])
        at = 1 + ops.cast(self.steps * places / ops.cast(rows, "float32"), "int32")
        at = ops.minimum(at, self.steps)  # (b,), from 1
        noise = random.normal(ops.shape(x), seed=seeds[1])
        if self.conditional:
            left_out = random.uniform((rows,), seed=seeds[2]) < self.label_dropout
            y = ops.where(left_out, self.none, ops.cast(y, "int32"))
        spoilt = self.noisy(x, at, noise)
        answer = self._predicted(spoilt, at, y, training)
        wanted = noise
        if self.target == "v":
            signal, share = self._shares(at)
            wanted = signal * noise - share * x
        picture = ops.clip(self._picture(spoilt, at, answer), -1.0, 1.0)
        return {
            "loss": ops.mean(ops.square(answer - wanted)),
            "picture_error": ops.mean(ops.square(picture - x)),
        }

    def _noted(self, losses: dict[str, Any], data: Any) -> dict[str, Any]:
        for name, mean in self.means.items():
            mean.update_state(losses[name], sample_weight=ops.shape(data[0])[0])
        return self.get_metrics_result()

    def train_step(self, data: Any) -> dict[str, Any]:
        """Lower the loss of a batch of pictures in [-1, 1] and labels."""
        with tf.GradientTape() as tape:
            losses = self._loss_parts(data, [self.seed_generator] * 3, training=True)
        weights = self.trainable_variables
        gradients = tape.gradient(losses["loss"], weights)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return self._noted(losses, data)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Measure the loss of a batch, by the same times and noise each time."""
        return self._noted(self._loss_parts(data, TEST_SEEDS, training=False), data)

    def get_config(self) -> dict[str, Any]:
        """Return what it was made from."""
        names = ("name", "target", "steps", "sample_steps", "label_dropout", "guidance", "none")
        net = keras.saving.serialize_keras_object(self.net)
        return {name: getattr(self, name) for name in names} | {"net": net}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make it from what `get_config` returned."""
        net = keras.saving.deserialize_keras_object(config["net"], custom_objects)
        return cls(**{**config, "net": net})

    def get_compile_config(self) -> None:
        """Say nothing of training: a saved model is there to generate."""
        return None
