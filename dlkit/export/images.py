"""Endpoints of an image classifier."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlkit.data.pixels import decode_image
from dlkit.data.spec import Data


class ImageClassifier(tf.Module):
    """Raw images in, labels and probabilities out.

    `serving_default` takes `image`, string `(b,)` of encoded images of any size; `from_pixels`
    takes `pixels`, uint8 `(b, h, w, c)`. Both give `label` string `(b,)`, `probability` float32
    `(b,)` and `probabilities` float32 `(b, classes)`.
    """

    def __init__(self, model: keras.Model, data: Data) -> None:
        super().__init__()
        self.model_variables = [v.value for v in model.variables]
        self.labels = tf.constant(data.spec.labels)
        shape = data.spec.input_shape

        def classify(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            logits = model(data.preprocess(tf.cast(pixels, tf.float32)), training=False)
            probabilities = tf.nn.softmax(tf.cast(logits, tf.float32))  # (b, classes)
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


def classify(endpoint: Any, pixels: np.ndarray) -> np.ndarray:
    """Return the probabilities of uint8 `(n, h, w, c)` through a `from_pixels` endpoint."""
    parts = [
        endpoint(pixels=tf.constant(pixels[i : i + 256]))["probabilities"].numpy()
        for i in range(0, len(pixels), 256)
    ]
    return np.concatenate(parts)


def held_out(model: keras.Model, data: Data, rows: int = 64) -> tuple[dict, dict]:
    """Return raw requests from the test split, and the trained model's own answers to them.

    The answers go through the loader's pixels, not through the export's decoding.
    """
    n = min(rows, len(data.test))
    encoded = np.array([data.test.encoded(i) for i in range(n)] + [None], dtype=object)[:-1]
    pixels = data.test.x[:n]
    logits = model(data.preprocess(pixels.astype(np.float32)), training=False)
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    answers = {
        "label": np.array(data.spec.labels)[probabilities.argmax(-1)],
        "probability": probabilities.max(-1),
        "probabilities": probabilities,
    }
    requests = {"serving_default": {"image": encoded}, "from_pixels": {"pixels": pixels}}
    return requests, {"serving_default": answers, "from_pixels": answers}
