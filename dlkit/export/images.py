"""Endpoints of an image classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlkit.data.pixels import decode_image
from dlkit.data.policy import Operation
from dlkit.data.spec import Data

# Test-time augmentation: moved down and right by so many pixels, mirrored or not, and its weight.
View = tuple[int, int, bool, float]
# As in Jordan 2024 (arXiv:2404.00498, section 3.5): half the weight is the image's, in place.
MIRRORED: tuple[View, ...] = (
    (0, 0, False, 0.25),
    (0, 0, True, 0.25),
    *((d, d, mirror, 0.125) for d in (-1, 1) for mirror in (False, True)),
)
MOVED: tuple[View, ...] = (
    (0, 0, False, 0.5),
    *((y, x, False, 0.125) for y in (-1, 1) for x in (-1, 1)),
)


def views_of(changes: Sequence[Operation]) -> tuple[View, ...]:
    """Return the views that suit a model: mirrored ones where training showed it mirrored images.

    A model that never saw them takes the mirror of one character for another.
    """
    return MIRRORED if any(c.name in ("flip", "alternating-flip") for c in changes) else MOVED


def answer(model: keras.Model, data: Data, pixels: Any, views: Sequence[View] = ()) -> Any:
    """Return the logits of raw pixels.

    Args:
        model: the trained model.
        data: gives the preprocessing.
        pixels: uint8 or float `(b, h, w, c)` in [0, 255].
        views: average over these of each image; see `views_of`. Empty: the image alone.
    Returns:
        float32 `(b, classes)`.
    """
    x = data.preprocess(tf.cast(pixels, tf.float32))
    if not views:
        return tf.cast(model(x, training=False), tf.float32)
    height, width = x.shape[1:3]
    wide = tf.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="REFLECT")
    total: Any = 0.0
    for down, right, mirror, weight in views:
        view = wide[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width]
        view = view[:, :, ::-1] if mirror else view
        total += weight * tf.cast(model(view, training=False), tf.float32)
    return total


class ImageClassifier(tf.Module):
    """Raw images in, labels and probabilities out.

    `serving_default` takes `image`, string `(b,)` of encoded images of any size; `from_pixels`
    takes `pixels`, uint8 `(b, h, w, c)`. Both give `label` string `(b,)`, `probability` float32
    `(b,)` and `probabilities` float32 `(b, classes)`: the softmax of the logits over `temperature`.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Data,
        *,
        views: Sequence[View] = (),
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.model_variables = [v.value for v in model.variables]
        self.labels = tf.constant(data.spec.labels)
        shape = data.spec.input_shape

        def classify(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            probabilities = tf.nn.softmax(answer(model, data, pixels, views) / temperature)
            return {
                "label": tf.gather(self.labels, tf.argmax(probabilities, -1)),
                "probability": tf.reduce_max(probabilities, -1),
                "probabilities": probabilities,
            }

        @tf.function(input_signature=[tf.TensorSpec((None, *shape), tf.uint8, "pixels")])
        def from_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            return classify(pixels)

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "image")])
        def from_bytes(image: tf.Tensor) -> dict[str, tf.Tensor]:
            decoded = tf.map_fn(
                lambda contents: decode_image(contents, shape), image, fn_output_signature=tf.uint8
            )
            return classify(tf.ensure_shape(decoded, (None, *shape)))

        self.from_pixels, self.from_bytes = from_pixels, from_bytes

    def signatures(self) -> dict[str, Any]:
        """Return the concrete function of each endpoint."""
        return {
            "serving_default": self.from_bytes.get_concrete_function(),
            "from_pixels": self.from_pixels.get_concrete_function(),
        }


def classify(endpoint: Any, pixels: Any) -> np.ndarray:
    """Return the probabilities of uint8 `(n, h, w, c)`, an array or rows on disk, through a `from_pixels` endpoint."""
    parts = [
        endpoint(pixels=tf.constant(pixels[i : i + 256]))["probabilities"].numpy()
        for i in range(0, len(pixels), 256)
    ]
    return np.concatenate(parts)


def logits(
    model: keras.Model, data: Data, pixels: np.ndarray, views: Sequence[View] = ()
) -> np.ndarray:
    """Return the logits of uint8 `(n, h, w, c)`, float32 `(n, classes)`; see `answer`."""
    spec = tf.TensorSpec((None, *pixels.shape[1:]), tf.uint8)
    traced: Any = tf.function(lambda x: answer(model, data, x, views), input_signature=[spec])
    parts = [traced(pixels[i : i + 256]).numpy() for i in range(0, len(pixels), 256)]
    return np.concatenate(parts)


def held_out(
    model: keras.Model,
    data: Data,
    rows: int = 64,
    *,
    views: Sequence[View] = (),
    temperature: float = 1.0,
) -> tuple[dict, dict]:
    """Return raw requests from the test split, and the trained model's own answers to them.

    The answers go through the loader's pixels, not through the export's decoding.
    """
    n = min(rows, len(data.test))
    encoded = np.array([data.test.encoded(i) for i in range(n)] + [None], dtype=object)[:-1]
    pixels = data.test.x[:n]
    probabilities = tf.nn.softmax(answer(model, data, pixels, views) / temperature).numpy()
    answers = {
        "label": np.array(data.spec.labels)[probabilities.argmax(-1)],
        "probability": probabilities.max(-1),
        "probabilities": probabilities,
    }
    requests = {"serving_default": {"image": encoded}, "from_pixels": {"pixels": pixels}}
    return requests, {"serving_default": answers, "from_pixels": answers}
