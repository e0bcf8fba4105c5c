"""The code that a version's status tells of a load that failed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import EMPTY, write_version

from dlkit.export import checksums
from dlkit.runtime import load_tensorflow
from dlkit.serving.loader import Loader
from dlkit.serving.servables import Servables
from dlkit.serving.service import Service
from dlkit.serving.settings import Settings
from dlkit.serving.v1 import RestV1
from dlkit.serving.watch import Plan

GRAPH = "saved_model.pb"
VARIABLES = "variables/variables.data-00000-of-00001"
WARM_UP = "assets.extra/tf_serving_warmup_requests"
Change = Callable[[Path], Any]


@pytest.fixture(scope="module")
def halving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version of a foreign SavedModel that has a variable."""
    tf = load_tensorflow()
    module = tf.Module()
    module.half = tf.Variable(0.5)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def run(x: Any) -> dict[str, Any]:
        return {"y": x * module.half}

    path = tmp_path_factory.mktemp("halving") / "1"
    tf.saved_model.save(module, str(path), signatures={"serving_default": run})
    return path


def status(path: Path, **settings: Any) -> dict[str, str]:
    """Return what the status says of a version that is found while a server runs."""
    service = Service(Servables())
    loader = Loader(service, Settings(**settings))
    assert len(loader.apply(Plan({"n": {1: path}}))) == 1
    told = json.loads(RestV1(service).status("n", None, None))["model_version_status"]
    assert [(each["version"], each["state"]) for each in told] == [("1", "END")]
    assert told[0]["status"]["error_message"]
    return told[0]["status"]


def cut(name: str, size: int) -> Change:
    return lambda path: os.truncate(path / name, size)


def write(name: str, contents: bytes) -> Change:
    def change(path: Path) -> None:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(contents)

    return change


def damage(path: Path) -> None:
    contents = bytearray((path / VARIABLES).read_bytes())
    contents[0] ^= 255
    (path / VARIABLES).write_bytes(contents)


def warm_up_of_another(path: Path) -> None:
    tf = load_tensorflow()
    from tensorflow_serving.apis import prediction_log_pb2

    protobuf: Any = prediction_log_pb2
    log = protobuf.PredictionLog()
    log.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto(["a"]))
    (path / WARM_UP).parent.mkdir()
    with tf.io.TFRecordWriter(str(path / WARM_UP)) as writer:
        writer.write(log.SerializeToString())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda path: (path / GRAPH).unlink(), "NOT_FOUND"),
        (lambda path: (path / GRAPH).rename(path / "model.h5"), "NOT_FOUND"),
        (cut(GRAPH, 100), "OUT_OF_RANGE"),  # as TensorFlow Serving 2.21 was seen to say
        (write(GRAPH, EMPTY.replace(b"serve", b"train")), "NOT_FOUND"),
        (cut(VARIABLES, 2), "OUT_OF_RANGE"),
        (damage, "DATA_LOSS"),
        (cut("variables/variables.index", 9), "DATA_LOSS"),
        (lambda path: (path / VARIABLES).unlink(), "NOT_FOUND"),
        (write(WARM_UP, b"no records at all"), "DATA_LOSS"),
        (warm_up_of_another, "INVALID_ARGUMENT"),
        (lambda path: (path / "away").symlink_to("/etc/passwd"), "PERMISSION_DENIED"),
    ],
)
def test_a_savedmodel(halving: Path, tmp_path: Path, change: Change, code: str) -> None:
    path = shutil.copytree(halving, tmp_path / "1")
    change(path)
    assert status(path)["error_code"] == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (write("assets.extra/model.onnx", b"cut"), "DATA_LOSS"),  # not what the manifest says
        (lambda path: (path / "assets.extra/dlkit.json").unlink(), "FAILED_PRECONDITION"),
    ],
)
def test_what_the_manifest_says(tmp_path: Path, change: Change, code: str) -> None:
    path = write_version(tmp_path, 1)
    change(path)
    assert status(path, runtime="onnx", require_manifest=True)["error_code"] == code


def test_another_runtime(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = write_version(tmp_path, 1)
    assert status(path, runtime="litert")["error_code"] == "NOT_FOUND"
    (path / "assets.extra/model.onnx").write_bytes(b"junk")
    manifest = json.loads((path / "assets.extra/dlkit.json").read_text())
    manifest["files"] = checksums(path)
    (path / "assets.extra/dlkit.json").write_text(json.dumps(manifest))
    assert status(path, runtime="onnx")["error_code"] == "DATA_LOSS"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionError(13, "Permission denied"), "PERMISSION_DENIED"),
        (OSError(24, "Too many open files"), "RESOURCE_EXHAUSTED"),
        (MemoryError(), "RESOURCE_EXHAUSTED"),
        (ArithmeticError("odd"), "UNKNOWN"),
    ],
)
def test_the_systems_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    def fail(path: Path) -> bytes:
        raise error

    path = write_version(tmp_path, 1)
    monkeypatch.setattr(Path, "read_bytes", fail)
    assert status(path)["error_code"] == code
