"""The adversarial training step of nets that grow. TensorFlow's, as `Adversarial` is."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from dlkit.models.adversarial import Adversarial
from dlkit.models.diff_augment import augmented


class Growth(NamedTuple):
    """How far the nets have grown.

    Attributes:
        stage: number of the stage, from 0.
        alpha: share of its block that is blended in, a scalar in [0, 1].
    """

    stage: int
    alpha: Any


@keras.saving.register_keras_serializable("dlkit")
class Progressive(Adversarial):
    """A generator and a discriminator that are trained on small pictures first.

    All stages' variables are there from the start. A stage trains those of its own path alone, and
    which stage it is depends on the optimiser's count of steps alone, so that a resumed run needs
    nothing more.

    Args:
        generator: functional, from noise `(b, ...)` and alpha `(b,)` to the pictures of every
            stage, `(b, h, w, c)`, each side twice the one before.
        discriminator: functional, from the pictures of every stage, and alpha, to the logits
            `(b, 1)` of every stage.
    """

    def __init__(self, generator: keras.Model, discriminator: keras.Model, **kwargs: Any) -> None:
        super().__init__(generator, discriminator, **kwargs)
        self.conditional = False
        self.count = len(generator.outputs)
        # Stage and alpha, added: `generate` goes by it, also where nothing was compiled.
        self.grown = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self.count),
            trainable=False,
            name="grown",
        )

    def compile(
        self,
        optimizer: Any = "adam",
        discriminator_optimizer: Any = "adam",
        *,
        adversary: str = "wgan-gp",
        stages: Sequence[Sequence[int]] = (),
        drift: float = 0.001,
        **kwargs: Any,
    ) -> None:
        """Set how the two are trained.

        Args:
            optimizer, discriminator_optimizer, adversary, drift, kwargs: see `Adversarial.compile`.
            stages: of each stage its first step and the step at which it is blended in, see
                `dlkit.growth`; without, the whole nets are trained from the start.
        """
        super().compile(
            optimizer, discriminator_optimizer, adversary=adversary, drift=drift, **kwargs
        )
        self.stages = tuple((int(first), int(end)) for first, end in stages)
        self.stages = self.stages or ((0, 0),) * self.count

    def generate(self, noise: Any, label: Any = None, grown: Any = None) -> Any:
        """Return pictures `(b, h, w, c)` in [-1, 1], those of a smaller stage enlarged.

        Args:
            noise: `(b, *noise_shape)`.
            label: not taken.
            grown: how far the nets are taken to have grown, stage and alpha added: at 1.25 the
                block of stage 1 is blended in by a quarter. The model's own state where None.
        """
        grown = self.grown if grown is None else grown
        grown = tf.clip_by_value(tf.cast(grown, tf.float32), 0.0, float(self.count))
        # 2.0 is the end of stage 1 and the start of stage 2, which look the same.
        stage = tf.maximum(tf.cast(tf.math.ceil(grown), tf.int32) - 1, 0)
        alpha = grown - tf.cast(stage, tf.float32)

        def drawn(k: int) -> Any:
            pictures = self._picture(noise, Growth(k, alpha), training=False)
            return tf.clip_by_value(enlarged(pictures, self._smaller(k)), -1.0, 1.0)

        return tf.switch_case(stage, [functools.partial(drawn, k) for k in range(self.count)])

    def train_step(self, data: Any) -> dict[str, Any]:
        """Train on the stage that the optimiser's count of steps has reached.

        Args:
            data: pictures `(b, h, w, c)` in [-1, 1] and their labels; `b` divides by
                `critic_steps`.
        """
        stage, alpha = self._reached()
        self.grown.assign(tf.cast(stage, tf.float32) + alpha)

        def trained(k: int) -> Any:
            self.train_stage(data, k, alpha)
            return tf.zeros(())

        tf.switch_case(stage, [functools.partial(trained, k) for k in range(self.count)])
        return self.get_metrics_result()

    def train_stage(self, data: Any, stage: int, alpha: Any) -> None:
        """Update discriminator and generator on the pictures of one stage.

        Args:
            data: see `train_step`; the pictures are of full size.
            stage: its number.
            alpha: share of its block that is blended in; the real pictures are blended likewise.
        """
        x, *_ = keras.utils.unpack_x_y_sample_weight(data)
        self.discriminator_optimizer.learning_rate.assign(
            self.optimizer.learning_rate * self.discriminator_rate
        )
        x = shrunk(x, self._smaller(stage))
        if stage:
            x = faded(x, alpha)
        for real in tf.split(x, self.critic_steps):
            self._train_discriminator(real, Growth(stage, alpha))
        self._train_generator(real, Growth(stage, alpha))

    def _reached(self) -> tuple[Any, Any]:
        """Return stage, int32, and alpha at the next step."""
        step = tf.cast(self.optimizer.iterations, tf.int64)
        firsts, ends = (tf.constant(each, tf.int64) for each in zip(*self.stages, strict=True))
        stage = tf.reduce_sum(tf.cast(firsts <= step, tf.int32)) - 1
        first, end = firsts[stage], ends[stage]
        share = tf.cast(step - first, tf.float32) / tf.cast(tf.maximum(end - first, 1), tf.float32)
        return stage, tf.where(step < end, share, 1.0)

    def _smaller(self, stage: int) -> int:
        """Return how many times smaller the sides of a stage are."""
        return 2 ** (self.count - 1 - stage)

    def _nets(self, label: Growth) -> tuple[keras.Model, keras.Model]:
        """Return the parts of generator and discriminator that a stage uses."""
        stage = label.stage
        noise, alpha = self.generator.inputs
        pictures = self.discriminator.inputs[stage]
        return (
            keras.Model([noise, alpha], self.generator.outputs[stage], name=f"generator_{stage}"),
            keras.Model(
                [pictures, self.discriminator.inputs[-1]],
                self.discriminator.outputs[stage],
                name=f"discriminator_{stage}",
            ),
        )

    def _picture(self, noise: Any, label: Growth, training: bool) -> Any:
        alpha = tf.fill((tf.shape(noise)[0],), label.alpha)
        return tf.cast(self._nets(label)[0]([noise, alpha], training=training), tf.float32)

    def _judge(self, pictures: Any, label: Growth, training: bool) -> Any:
        x = augmented(pictures, self.augment, self.seed_generator)
        alpha = tf.fill((tf.shape(x)[0],), label.alpha)
        return tf.cast(self._nets(label)[1]([x, alpha], training=training), tf.float32)


def shrunk(x: Any, times: int) -> Any:
    """Return pictures `(b, h, w, c)` with sides so many times smaller, means of their pixels."""
    return tf.nn.avg_pool2d(x, times, times, "VALID") if times > 1 else x


def enlarged(x: Any, times: int) -> Any:
    """Return pictures `(b, h, w, c)` with every pixel repeated so many times each way."""
    return tf.repeat(tf.repeat(x, times, 1), times, 2) if times > 1 else x


def faded(x: Any, alpha: Any) -> Any:
    """Return pictures blended by `alpha` from what half their sides could show."""
    coarse = enlarged(shrunk(x, 2), 2)
    return coarse + alpha * (x - coarse)
