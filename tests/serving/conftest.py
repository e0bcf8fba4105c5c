"""Small SavedModels to serve, written with TensorFlow alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlkit.export import checksums
from dlkit.runtime import load_tensorflow


@pytest.fixture(scope="session", name="png")
def png_maker() -> Callable[[int], bytes]:
    """Make a PNG of one grey level."""
    return png


@pytest.fixture(scope="session", name="write_warm_up")
def warm_up_writer() -> Callable[[Path, list[bytes]], None]:
    """Record one request of images beside a SavedModel."""
    return write_warm_up


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported image classifier: says `light` where the mean pixel is above 127."""
    tf = load_tensorflow()

    def classify(pixels: Any) -> dict[str, Any]:
        light = tf.reduce_mean(tf.cast(pixels, tf.float32), [1, 2, 3]) / 255.0
        probabilities = tf.stack([1.0 - light, light], -1)  # (b, 2)
        return {
            "label": tf.gather(["dark", "light"], tf.argmax(probabilities, -1)),
            "probability": tf.reduce_max(probabilities, -1),
            "probabilities": probabilities,
        }

    @tf.function(input_signature=[tf.TensorSpec([None, 2, 2, 1], tf.uint8, "pixels")])
    def from_pixels(pixels: Any) -> dict[str, Any]:
        return classify(pixels)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image")])
    def from_bytes(image: Any) -> dict[str, Any]:
        def decode(contents: Any) -> Any:
            return tf.io.decode_image(contents, channels=1, expand_animations=False)

        spec = tf.TensorSpec([None, None, 1], tf.uint8)
        return classify(tf.map_fn(decode, image, fn_output_signature=spec))

    directory = tmp_path_factory.mktemp("pictures")
    signatures = {"serving_default": from_bytes, "from_pixels": from_pixels}
    tf.saved_model.save(tf.Module(), str(directory / "1"), signatures=signatures)
    write_warm_up(directory / "1", [png(255)])
    manifest: dict[str, Any] = {
        "format": 1,
        "task": "image-classification",
        "model": "lenet",
        "run": "abc",
    }
    manifest |= {"files": checksums(directory / "1")}
    (directory / "1/assets.extra/dlkit.json").write_text(json.dumps(manifest))
    return directory


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A foreign SavedModel of versions 2 and 10, without a manifest, with odd signatures."""
    tf = load_tensorflow()

    def taking(*specs: Any) -> Any:
        return tf.function(input_signature=[tf.TensorSpec(*spec) for spec in specs])

    @taking(([None, 2], tf.float32, "left"), ([None], tf.int32, "right"))
    def two(left: Any, right: Any) -> dict[str, Any]:
        total = tf.reduce_sum(left, -1) + tf.cast(right, tf.float32)
        return {"total": total, "raw_bytes": tf.strings.as_string(right)}

    @taking(([None], tf.float32, "x"))
    def log(x: Any) -> dict[str, Any]:
        return {"y": tf.math.log(x)}

    @taking(([None], tf.float32, "x"))
    def uneven(x: Any) -> dict[str, Any]:
        return {"all": x, "first": x[:1]}

    @taking(([None], tf.string, "text"))
    def echo(text: Any) -> dict[str, Any]:
        return {"text": text}

    @taking(([None], tf.float64, "seconds"))
    def wait(seconds: Any) -> dict[str, Any]:
        end = tf.timestamp() + tf.reduce_max(seconds)
        now = tf.while_loop(lambda t: t < end, lambda t: (tf.timestamp(),), [tf.timestamp()])[0]
        return {"late": tf.fill(tf.shape(seconds), now >= end)}

    signatures = {"serving_default": two, "log": log, "uneven": uneven, "echo": echo}
    signatures["wait"] = wait
    directory = tmp_path_factory.mktemp("tools")
    (directory / "2").mkdir()  # an older version, which must not even be looked at
    tf.saved_model.save(tf.Module(), str(directory / "10"), signatures=signatures)
    return directory


@pytest.fixture(scope="session")
def every_type(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A foreign SavedModel that gives back what it is given: an input `(b,)` of each type."""
    tf = load_tensorflow()
    names = (
        "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32 float64"
    )
    specs = [tf.TensorSpec([None], name, name) for name in [*names.split(), "string"]]

    @tf.function(input_signature=specs)
    def same(*inputs: Any) -> dict[str, Any]:
        return {spec.name: tf.identity(each) for spec, each in zip(specs, inputs, strict=True)}

    directory = tmp_path_factory.mktemp("every_type")
    tf.saved_model.save(tf.Module(), str(directory / "1"), signatures={"serving_default": same})
    return directory


def png(level: int) -> bytes:
    """Return a PNG of one grey level, 2 pixels wide and high."""
    tf = load_tensorflow()
    return tf.io.encode_png(np.full([2, 2, 1], level, np.uint8)).numpy()


def write_warm_up(path: Path, image: list[bytes]) -> None:
    """Record one request for the SavedModel at `path`."""
    tf = load_tensorflow()
    from tensorflow_serving.apis import prediction_log_pb2

    protobuf: Any = prediction_log_pb2
    log = protobuf.PredictionLog()
    log.predict_log.request.inputs["image"].CopyFrom(tf.make_tensor_proto(image))
    (path / "assets.extra").mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path / "assets.extra/tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())
