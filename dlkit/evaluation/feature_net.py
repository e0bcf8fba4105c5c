"""Feature nets: what generated pictures are compared with real ones by, without the internet.

dlkit trains one itself, from a seed and for a fixed number of epochs, and keeps it with its hash.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlkit import checkpoint, training
from dlkit.data.spec import Data
from dlkit.errors import CheckpointError, SpecError, counted
from dlkit.evaluation.feature_training import (
    LARGEST_SIDE,
    answer_of,
    build,
    fit_net,
    recipe_for,
)
from dlkit.progress import say

FORMAT = 1
# Pictures at a time.
BATCH = 256
CLASSES, ROTATION, GIVEN = "classes", "rotation", "given weights"


@dataclasses.dataclass
class FeatureNet:
    """A net whose penultimate activations stand for a picture.

    Attributes:
        answer: uint8 `(b, h, w, c)` to features `(b, d)` and probabilities `(b, classes)`.
        about: what `features.json` says of it.
        channels: how many pictures of one channel lie side by side in one, each looked at alone; 0
            where a picture is looked at as a whole.
        batch: pictures at a time.
    """

    answer: Callable[[Any], Any]
    about: dict[str, Any]
    channels: int = 0
    batch: int = BATCH

    @property
    def hash(self) -> str:
        """Sha256 over the weights."""
        return self.about["hash"]

    @property
    def accuracy(self) -> float | None:
        """Accuracy on the test split at what the net was trained for; None of given weights."""
        return self.about["accuracy"]

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes that it tells; none where it was not trained on classes."""
        single = tuple(self.about["labels"])
        whole = single
        for _ in range(self.channels - 1):
            whole = tuple(a + b for a in whole for b in single)
        return whole

    def look(self, pixels: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return features and probabilities of pictures.

        Args:
            pixels: uint8 `(n, h, w, c)`, an array or rows on disk.
        Returns:
            float32 `(n, d)`, and float32 `(n, classes)`, `(n, 0)` of given weights.
        """
        found = [self._batch(pixels[i : i + self.batch]) for i in range(0, len(pixels), self.batch)]
        features, probabilities = zip(*found, strict=True)
        return np.concatenate(features), np.concatenate(probabilities)

    def _batch(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self.channels:
            features, probabilities = self.answer(tf.constant(pixels))
            return features.numpy(), probabilities.numpy()
        if pixels.shape[-1] != self.channels:
            raise SpecError(f"got {pixels.shape[-1]} channels; accepted: {self.channels}")
        each = [self.answer(tf.constant(pixels[..., c : c + 1])) for c in range(self.channels)]
        whole = np.ones((len(pixels), 1), np.float32)
        for _, probabilities in each:  # of (a, b, c) the product, in the order 100 a + 10 b + c
            whole = (whole[:, :, None] * probabilities.numpy()[:, None]).reshape(len(pixels), -1)
        return np.concatenate([features.numpy() for features, _ in each], 1), whole

    def features(self, pixels: Any) -> np.ndarray:
        """Return penultimate activations of uint8 `(n, h, w, c)`, float32 `(n, d)`."""
        return self.look(pixels)[0]

    def probabilities(self, pixels: Any) -> np.ndarray:
        """Return the probability of each class, float32 `(n, classes)`.

        Raises:
            SpecError: the net was not trained on classes.
        """
        if not self.labels:
            raise SpecError(f"a feature net of {self.about['task']} tells no classes")
        return self.look(pixels)[1]

    def classes(self, pixels: Any) -> np.ndarray:
        """Return the most probable class of each picture, int64 `(n,)`; see `probabilities`."""
        return self.probabilities(pixels).argmax(1)

    def describe(self) -> str:
        """Say in one line what the net is and how good."""
        about = self.about
        if about["task"] == GIVEN:
            return f"feature net {about['builder']}, weights {about['source']}, {self.hash[:12]}"
        told = "rotations" if about["task"] == ROTATION else "classes"
        return (
            f"feature net {about['builder']} {self.hash[:12]}, trained on {about['source']} "
            f"({counted(about['epochs'], 'epoch')}, seed {about['seed']}): accuracy "
            f"{about['accuracy']:.4f} at telling {told} of {counted(about['rows'], 'test picture')}"
        )


def trained(
    data: Data, folder: Path, *, seed: int = 0, per_channel: bool = False, quiet: bool = False
) -> FeatureNet:
    """Return the feature net of a data set: from the cache, or trained now.

    It is a classifier; where the data have fewer than two classes it tells by how many quarters of a
    circle a picture was turned. Training sets the global seeds.

    Args:
        data: its own `preprocess` and the range that it maps to do not matter.
        folder: the cache; nets of other data, seeds and recipes stand side by side in it. A net
            whose training was interrupted is trained on from there.
        seed: of weights, order and augmentation.
        per_channel: for pictures each of whose three channels is a picture: the net is trained on
            `data`, of one channel, and looks at three, whose features stand side by side; three
            classes a, b, c are the class `100 a + 10 b + c` (of ten).
        quiet: show nothing.
    Raises:
        SpecError: pictures that are not square and of one class, or of several channels where
            `per_channel`.
        CheckpointError: the weights in the cache are not those that were written.
        RunError: another process is training it.
    Reference:
        Gidaris, Singh & Komodakis 2018, arXiv:1803.07728 (rotations). Departs from it: a step sees
        each picture turned one way, not all four.
    """
    task = CLASSES if len(np.unique(data.train.y)) > 1 else ROTATION
    shape = data.train.x.shape[1:]
    if task == ROTATION and (shape[0] != shape[1] or per_channel):
        raise SpecError(
            "pictures of one class are told apart by their rotation: accepted are squares with all "
            f"channels together, got {shape[0]} x {shape[1]}; nearest: --image-size "
            f"{round((shape[0] * shape[1]) ** 0.5)}"
        )
    if per_channel and shape[2] != 1:
        raise SpecError(f"--data {data.source}: got {shape[2]} channels; accepted: 1, each alone")
    recipe = recipe_for(shape)
    about = {"format": FORMAT, "source": data.source, "fingerprint": data.fingerprint()}
    about |= {"seed": seed, "task": task, "builder": recipe.builder, "kind": data.kind}
    about |= {"batch_size": recipe.batch(len(data.train))}
    about |= {"epochs": recipe.passes(len(data.train)), "largest_side": LARGEST_SIDE}
    key = hashlib.sha256(json.dumps(about | {"params": recipe.params}).encode()).hexdigest()
    place = folder / f"{recipe.builder}-{key[:16]}"
    weights, described = place / "weights.npz", place / "features.json"
    labels = data.spec.labels if task == CLASSES else ()
    outputs = data.spec.outputs if task == CLASSES else 4
    channels = 3 if per_channel else 0
    if described.exists():
        kept = json.loads(described.read_text(encoding="utf-8"))
        model = build(recipe, shape, outputs)
        groups, _ = checkpoint.load(weights)
        checkpoint.restore(model.weights, groups["weights"], weights)
        if training.weights_hash(model) != kept["hash"]:
            raise CheckpointError(
                f"the weights in {weights} are not those that {described.name} was written for; "
                f"remove {place} to train the feature net anew"
            )
        return FeatureNet(answer_of(model, data.train.x), kept, channels)
    with checkpoint.claim(place, f"{place.name} (feature net of {data.source})"):
        say(f"training a feature net on {data.source}, {counted(about['epochs'], 'epoch')}", quiet)
        model, position = fit_net(
            (data.train.x, data.train.y),
            (data.validation.x, data.validation.y),
            outputs,
            place / "training.npz",
            kind=data.kind,
            seed=seed,
            rotation=task == ROTATION,
            quiet=quiet,
        )
        about |= {"labels": list(labels), "hash": training.weights_hash(model)}
        about |= {"rows": len(data.test), "seconds": round(position.seconds, 1)}
        about["validation_accuracy"] = position.best[0] if position.best else None
        about["best_epoch"] = position.best_epoch
        answer = answer_of(model, data.train.x)
        about["accuracy"] = _accuracy(FeatureNet(answer, about), data.test.x, data.test.y)
        checkpoint.save(weights, {"weights": model.weights}, {})
        text = json.dumps(about, indent=1).encode()
        checkpoint.write_atomically(described, lambda file: file.write(text))
        (place / "training.npz").unlink(missing_ok=True)
    net = FeatureNet(answer, about, channels)
    say(net.describe(), quiet)
    return net


def _accuracy(net: FeatureNet, x: Any, y: np.ndarray) -> float:
    """Return how many pictures the net is right about; of rotations, of each turned four ways."""
    if net.about["task"] == CLASSES:
        return float((net.look(x)[1].argmax(1) == y).mean())
    right = 0
    for start in range(0, len(x), BATCH):
        for quarters in range(4):
            turned = np.rot90(x[start : start + BATCH], quarters, (1, 2))
            right += int((net.look(turned)[1].argmax(1) == quarters).sum())
    return right / (4 * len(x))


def from_weights(file: str | Path) -> FeatureNet:
    """Return Inception v3 with weights of the user's own, without its head, as a feature net.

    Pictures are resized to 299 x 299 (bilinear, antialiased) and scaled to [-1, 1]; grey ones get
    three equal channels. It tells no classes.

    Args:
        file: weights of `keras.applications.InceptionV3(include_top=False)`, `.h5` or `.weights.h5`.
    Raises:
        CheckpointError: no such file, or one that does not fit.
    """
    if not Path(file).is_file():
        raise CheckpointError(f"--feature-weights: no file {file}")
    try:
        model = keras.applications.InceptionV3(
            include_top=False, pooling="avg", weights=str(file), input_shape=(299, 299, 3)
        )
    except Exception as error:  # Keras raises whatever its reader of the file raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"--feature-weights: {file} does not fit Inception v3 without its head: {reason}"
        ) from None

    @tf.function(reduce_retracing=True)
    def answer(pixels: Any) -> Any:
        x = tf.image.resize(tf.cast(pixels, tf.float32), (299, 299), antialias=True)
        if x.shape[-1] == 1:
            x = tf.repeat(x, 3, axis=-1)
        features = model(x / 127.5 - 1.0, training=False)
        return features, tf.zeros((tf.shape(x)[0], 0))

    about = {"task": GIVEN, "builder": "inception-v3", "source": str(file), "accuracy": None}
    about |= {"labels": [], "hash": training.weights_hash(model)}
    return FeatureNet(answer, about, batch=32)
