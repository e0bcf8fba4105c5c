"""How a feature net is trained: the same recipe for every data set, bit-exact from a seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlkit import layers, losses, models, optimizers, training
from dlkit.data.augment import augment, mix
from dlkit.data.policy import policy
from dlkit.data.preprocess import standardise
from dlkit.data.spec import Spec
from dlkit.data.stream import eval_stream, train_stream

MOST_EPOCHS = 60
# Larger pictures are shrunk to this side: a feature net is trained in minutes.
LARGEST_SIDE = 64
# The smallest side that speednet, which pools three times, is trained on.
SPEEDNET_SIDE = 20


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a net is trained: chosen on validation, and the same for every data set.

    Attributes:
        builder: name of an image classifier.
        params: its parameters.
        head: the layer that makes logits; what goes into it are the features.
        batch_size: pictures a step.
        epochs: passes over the training split, at least.
        steps: steps, at least: of few pictures there are more passes, up to 60.
    """

    builder: str
    params: dict[str, Any]
    head: str
    batch_size: int
    epochs: int
    steps: int

    def batch(self, rows: int) -> int:
        """Return the size of a batch: of few pictures smaller, so that there are 20 an epoch."""
        return max(1, min(self.batch_size, max(8, rows // 20), rows))

    def passes(self, rows: int) -> int:
        """Return the number of epochs for so many training pictures."""
        return max(self.epochs, min(MOST_EPOCHS, -(-self.steps // (rows // self.batch(rows)))))


SPEEDNET = Recipe("speednet", {}, "head", batch_size=128, epochs=6, steps=1500)
# Without a dense layer: in its features the mean of a class lies as near to real pictures of it as
# they to each other, and blurred pictures would pass.
CNN = Recipe(
    "cnn",
    {
        "conv_layers": [
            {"filters": 32, "batch_norm": True},
            {"filters": 64, "pool_size": 2, "batch_norm": True},
        ],
        "fc_layers": [],
        "global_pooling": True,
    },
    "logits",
    batch_size=64,
    epochs=10,
    steps=600,
)


def recipe_for(shape: tuple[int, ...]) -> Recipe:
    """Return how a net for pictures of `(h, w, c)` is trained."""
    return SPEEDNET if min(shape[:2]) >= SPEEDNET_SIDE else CNN


def build(recipe: Recipe, shape: tuple[int, ...], outputs: int) -> keras.Model:
    """Return the untrained net for raw pictures of `(h, w, c)`."""
    spec = Spec((*seen_side(shape), shape[2]), outputs)
    return models.build("image-classification", recipe.builder, spec, recipe.params)


def seen_side(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return height and width that a net sees pictures of `(h, w, c)` at."""
    share = min(1.0, LARGEST_SIDE / max(shape[:2]))
    return max(1, round(shape[0] * share)), max(1, round(shape[1] * share))


def _fitted(x: Any, shape: tuple[int, ...], preprocess: Any) -> Any:
    """Return the net's input from pixels, within a TensorFlow function."""
    x = tf.cast(x, tf.float32)
    if seen_side(shape) != tuple(shape[:2]):
        x = tf.image.resize(x, seen_side(shape), antialias=True)
    return preprocess(x)


def _turned(x: Any) -> Any:
    """Return each square picture turned by 0, 90, 180 and 270 degrees, `(b, 4, h, w, c)`."""
    return tf.stack([tf.image.rot90(x, quarters) for quarters in range(4)], axis=1)


def fit_net(
    train: tuple[Any, np.ndarray],
    validation: tuple[Any, np.ndarray],
    outputs: int,
    path: Path,
    *,
    kind: str,
    seed: int,
    rotation: bool = False,
    quiet: bool = False,
) -> tuple[keras.Model, Any]:
    """Train the net of `recipe_for`; return it with its best weights, and the final position.

    Args:
        train, validation: uint8 `(n, h, w, c)` and class numbers `(n,)`.
        outputs: classes, or 4 rotations.
        path: the checkpoint, from which an interrupted training goes on.
        kind: what the pictures show, which decides the augmentation.
        seed: of weights, order and augmentation.
        rotation: tell how a picture was turned, whatever its class.
        quiet: show nothing.
    """
    x, y = train[0], np.asarray(train[1], np.int32)
    shape = x.shape[1:]
    recipe, preprocess = recipe_for(shape), standardise(x)
    changes = policy("crop" if rotation else "auto", kind)
    batch_size = recipe.batch(len(x))
    training.seed_everything(seed)
    model = build(recipe, shape, outputs)
    rate = optimizers.LEARNING_RATES["adamw"]
    model.compile(
        optimizer=optimizers.make_optimizer("adamw", rate, 0.01),
        loss=losses.classification_loss("cross-entropy", outputs),
        metrics=[keras.metrics.MeanMetricWrapper(losses.accuracy, name="accuracy")],
        jit_compile=False,  # XLA makes small nets slower on CPUs
    )
    layers.adapt(model, lambda: np.asarray(_fitted(x[:5000], shape, preprocess)))

    def prepare(draw_seed: Any, rows: Any, x: Any, y: Any) -> tuple:
        x = augment(x, draw_seed, rows, changes)
        if rotation:
            own = draw_seed + tf.constant([2**50, 0], tf.int64)  # augment draws from others
            y = tf.random.stateless_uniform(tf.shape(y), own, 0, 4, tf.int32)
            x = tf.gather(_turned(x), y, axis=1, batch_dims=1)
        return mix(_fitted(x, shape, preprocess), y, draw_seed, changes, outputs)

    def held_out(x: Any, y: Any) -> tuple:
        if rotation:
            y = tf.tile(tf.range(4), tf.shape(x)[:1])
            x = tf.reshape(_turned(x), (-1, *shape))
        return _fitted(x, shape, preprocess), y

    def stream(epoch: int, step: int) -> Any:
        at = {"epoch": epoch, "step": step}
        return train_stream((x, y), prepare, batch_size=batch_size, seed=seed, **at)

    position = training.fit(
        model,
        stream,
        eval_stream((validation[0], np.asarray(validation[1], np.int32)), held_out, batch_size=256),
        steps_per_epoch=len(x) // batch_size,
        batch_size=batch_size,
        epochs=recipe.passes(len(x)),
        time_limit=None,
        schedule="cosine",
        learning_rate=rate,
        warmup=50,
        patience=None,
        monitor="accuracy",
        ema=0.998,
        path=path,
        on_epoch=lambda epoch, logs: None,
        quiet=quiet,
    )
    return model, position


def answer_of(model: keras.Model, x: Any) -> Callable[[Any], Any]:
    """Return the traced function from uint8 pixels to features and probabilities.

    Args:
        model: as `fit_net` trains it.
        x: the pictures that it was trained on.
    """
    shape, recipe, preprocess = x.shape[1:], recipe_for(x.shape[1:]), standardise(x)
    inner = keras.Model(model.inputs, [model.get_layer(recipe.head).input, model.output])

    @tf.function(input_signature=[tf.TensorSpec((None, *shape), tf.uint8)])
    def answer(pixels: Any) -> Any:
        features, logits = inner(_fitted(pixels, shape, preprocess), training=False)
        return features, tf.nn.softmax(logits)

    return answer
