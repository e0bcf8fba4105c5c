"""Endpoints of generators and of translators of pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from dlkit.data.pixels import decode_image
from dlkit.sampling import noise_of, to_pixels

# The checked pictures' first seed: none that training or evaluation shows.
FIRST = 2**30


def as_png(pixels: Any) -> Any:
    """Return uint8 `(b, h, w, c)` as strings `(b,)`."""
    return tf.map_fn(tf.io.encode_png, pixels, fn_output_signature=tf.string)


class PictureGenerator(tf.Module):
    """Seeds in, pictures out.

    `serving_default` takes `seed` int32 `(b,)`, and `label` int32 `(b,)` where the model is
    conditional, and gives `pixels` uint8 `(b, h, w, c)`; `png` takes the same and gives
    `image_bytes` string `(b,)`; `from_noise` takes `noise` float32 `(b, *noise_shape)`, and `label`.
    A model with a code also has `encode`, from `pixels` (and `label`) to `noise`, the code's mean.
    A label out of range takes the nearest that there is.
    """

    def __init__(self, model: Any, labels: int) -> None:
        super().__init__()
        self.model_variables = [v.value for v in model.variables]
        self.conditional, self.noise_shape = model.conditional, model.noise_shape
        self.labels = labels

        def make(noise: Any, label: Any) -> Any:
            if model.conditional:
                label = tf.clip_by_value(label, 0, labels - 1)
            return to_pixels(model.generate(noise, label if model.conditional else None))

        seed = tf.TensorSpec((None,), tf.int32, "seed")
        noise = tf.TensorSpec((None, *model.noise_shape), tf.float32, "noise")
        self.serving_default = self._endpoint(
            seed, lambda s, y: {"pixels": make(noise_of(s, model.noise_shape), y)}
        )
        self.png = self._endpoint(
            seed, lambda s, y: {"image_bytes": as_png(make(noise_of(s, model.noise_shape), y))}
        )
        self.from_noise = self._endpoint(noise, lambda z, y: {"pixels": make(z, y)})
        self.encode = None
        if hasattr(model, "encode"):
            shape = tuple(model.encoder.inputs[0].shape[1:])

            def code(pixels: Any, label: Any) -> dict[str, Any]:
                x = tf.cast(pixels, tf.float32) / 127.5 - 1.0
                mean, _ = model.encode(x, label if model.conditional else None)
                return {"noise": mean}

            self.encode = self._endpoint(tf.TensorSpec((None, *shape), tf.uint8, "pixels"), code)

    def _endpoint(self, spec: tf.TensorSpec, answer: Callable[[Any, Any], dict[str, Any]]) -> Any:
        """Return the traced function of one input, and of a label where there is one."""
        if not self.conditional:
            return tf.function(lambda given: answer(given, None), input_signature=[spec])
        label = tf.TensorSpec((None,), tf.int32, "label")
        return tf.function(lambda given, y: answer(given, y), input_signature=[spec, label])

    def signatures(self) -> dict[str, Any]:
        """Return the concrete function of each endpoint."""
        return {name: f.get_concrete_function() for name, f in self._functions().items()}

    def _functions(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in ("serving_default", "png", "from_noise")}
        return found | ({"encode": self.encode} if self.encode is not None else {})

    def held_out(self, pixels: np.ndarray, y: np.ndarray) -> tuple[dict, dict]:
        """Return requests, and this model's answers to them; `pixels` are what `encode` is asked."""
        rows = len(y)
        seeds = np.arange(FIRST, FIRST + rows, dtype=np.int32)
        given = {
            "serving_default": ("seed", seeds),
            "png": ("seed", seeds),
            "from_noise": ("noise", noise_of(tf.constant(seeds), self.noise_shape).numpy()),
            "encode": ("pixels", pixels),
        }
        requests, expected = {}, {}
        for name, function in self._functions().items():
            key, value = given[name]
            inputs = {key: value} | ({"label": y.astype(np.int32)} if self.conditional else {})
            answers = function(*(tf.constant(v) for v in inputs.values()))
            requests[name] = inputs
            expected[name] = told(answers)
        return requests, expected


class Translator(tf.Module):
    """Pictures of one domain in, pictures of the other out.

    `serving_default` (a to b) and `b_to_a` take `image`, string `(b,)` of encoded pictures of any
    size, and give `pixels` uint8 `(b, h, w, c)`; `png` and `png_b_to_a` give `image_bytes`;
    `from_pixels` and `from_pixels_b_to_a` take `pixels` uint8 `(b, h, w, c)`.
    """

    def __init__(self, model: Any, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.model_variables = [v.value for v in model.variables]
        self.functions: dict[str, Any] = {}
        image = tf.TensorSpec((None,), tf.string, "image")
        pixels = tf.TensorSpec((None, *shape), tf.uint8, "pixels")

        def decoded(contents: Any) -> Any:
            found = tf.map_fn(
                lambda each: decode_image(each, shape), contents, fn_output_signature=tf.uint8
            )
            return tf.ensure_shape(found, (None, *shape))

        def add(direction: str, ending: str) -> None:
            def translate(x: Any) -> Any:
                return to_pixels(model.translate(tf.cast(x, tf.float32) / 127.5 - 1.0, direction))

            for name, spec, answer in (
                ("b_to_a" if ending else "serving_default", image,
                 lambda given: {"pixels": translate(decoded(given))}),
                (f"png{ending}", image,
                 lambda given: {"image_bytes": as_png(translate(decoded(given)))}),
                (f"from_pixels{ending}", pixels, lambda given: {"pixels": translate(given)}),
            ):  # fmt: skip
                self.functions[name] = tf.function(answer, input_signature=[spec])

        add("a-to-b", "")
        add("b-to-a", "_b_to_a")

    def signatures(self) -> dict[str, Any]:
        """Return the concrete function of each endpoint."""
        return {name: f.get_concrete_function() for name, f in self.functions.items()}

    def held_out(self, a: Any, b: Any, rows: int = 16) -> tuple[dict, dict]:
        """Return requests from two splits, and this model's answers to them."""
        requests, expected = {}, {}
        for name, function in self.functions.items():
            split = b if name.endswith("b_to_a") else a
            n = min(rows, len(split))
            if name.startswith("from_pixels"):
                inputs = {"pixels": np.asarray(split.x[:n])}
            else:
                encoded = [split.encoded(i) for i in range(n)]
                inputs = {"image": np.array([*encoded, None], dtype=object)[:-1]}
            (given,) = inputs.values()
            sent = tf.constant(given.tolist()) if given.dtype == object else tf.constant(given)
            requests[name] = inputs
            expected[name] = told(function(sent))
        return requests, expected


def told(answers: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return answers as arrays, encoded pictures by their hash, as the check of an export does."""
    found = {name: value.numpy() for name, value in answers.items()}
    for name in found:
        if name.endswith("_bytes"):
            found[name] = np.array([hashlib.sha256(each).hexdigest() for each in found[name]])
    return found
