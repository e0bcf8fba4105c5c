"""What would do harm is refused in one line before anything of it runs: models and requests."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from dlkit.errors import ServeError
from dlkit.runtime import load_tensorflow
from dlkit.serving.app import create_app
from dlkit.serving.model import ServedModel, Signature, load_model
from dlkit.serving.servables import Servables
from dlkit.serving.service import Limits, Service
from dlkit.serving.tensors import TensorSpec

ROOT = Path(__file__).parents[2]
# Each argument is served in turn, by one process; then it is said whether TensorFlow was loaded.
SCRIPT = """
import json, sys
from pipelines.cli import main
codes = [main(["serve", *run.split(" "), "--port", "0"]) for run in json.loads(sys.argv[1])]
print(json.dumps([codes, "tensorflow" in sys.modules]))
"""


class Trace:
    """What is left behind by a model that was run."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mknod, (self.path,)  # what a pickle of it does when it is read


def saved(directory: Path, function: Callable[[Any], Any], eager: Any = None) -> Path:
    tf = load_tensorflow()
    module = tf.Module()
    module.held = eager
    traced: Any = tf.function(function, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(module, str(directory / "1"), signatures=traced)
    return directory


@pytest.fixture(scope="module")
def harmful(
    tmp_path_factory: pytest.TempPathFactory, pictures: Path
) -> tuple[Path, dict[str, str]]:
    """Models by what is said of them, and the folder in which a trace would be left."""
    tf = load_tensorflow()
    folder = tmp_path_factory.mktemp("harmful")
    left = folder / "left"
    left.mkdir()
    expected: dict[str, str] = {}

    def writes(x: Any) -> dict[str, Any]:
        tf.io.write_file(str(left / "written"), "")
        return {"y": x}

    def writes_deep(x: Any) -> dict[str, Any]:
        def each(value: Any) -> Any:
            def write() -> Any:
                tf.io.write_file(str(left / "deep"), "")
                return value

            return tf.cond(value > 0, write, lambda: value)

        return {"y": tf.map_fn(each, x)}

    def runs_python(x: Any) -> dict[str, Any]:
        y = tf.py_function(lambda v: (left / "python").touch() or v, [x], tf.float32)
        return {"y": tf.ensure_shape(y, [None])}

    def reads(x: Any) -> dict[str, Any]:
        return {"y": x, "text": tf.io.read_file("/etc/hostname")}

    def prints(x: Any) -> dict[str, Any]:
        tf.print(x, output_stream=f"file://{left / 'printed'}")
        return {"y": x}

    for function, does in (
        (writes, "WriteFile (in function "),
        (writes_deep, "WriteFile (in function "),
        (runs_python, "EagerPyFunc (in function "),
        (reads, "ReadFile (in function "),
        (prints, "PrintV2 (in function "),
    ):
        expected[str(saved(folder / function.__name__, function))] = does

    def copied(name: str) -> Path:
        return shutil.copytree(pictures, folder / name)

    data = copied("changed") / "1/saved_model.pb"
    contents = bytearray(data.read_bytes())
    contents[len(contents) // 2] ^= 1
    data.write_bytes(contents)
    expected[str(folder / "changed")] = "was altered: saved_model.pb is not what its manifest says"
    (copied("link") / "1/assets.extra/more").symlink_to("/etc/passwd")
    expected[str(folder / "link")] = 'more" is a link that leads out of it'
    shutil.move(copied("version") / "1", folder / "hidden")
    (folder / "version/1").symlink_to("../hidden")
    expected[str(folder / "version")] = "is a link that leads out of it"
    foreign = copied("foreign")
    (foreign / "1/assets.extra/dlkit.json").unlink()
    expected[f"{foreign} --require-manifest"] = "has no manifest assets.extra/dlkit.json"

    pickled = pickle.dumps(Trace(left / "unpickled"))
    with zipfile.ZipFile(folder / "weights.pt", "w") as file:
        file.writestr("archive/data.pkl", pickled)
    for name, contents, kind in (
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(99), "a Keras file (HDF5); "),
        ("model.keras", b"PK\x03\x04", "a Keras file, which may hold code; "),
        ("model.pkl", pickled, "a pickle, which runs code when it is read; "),
        ("unnamed", pickled, "a pickle, which runs code when it is read; "),
        ("weights.pt", (folder / "weights.pt").read_bytes(), "a PyTorch file: a pickle, which"),
        ("arrays.npz", b"PK\x03\x04", "a file of NumPy arrays; "),
    ):
        (folder / name).write_bytes(contents)
        expected[str(folder / name)] = f"{name} is {kind}"
        inside = folder / f"folder-of-{name}" / "1"
        inside.mkdir(parents=True)
        (inside / name).write_bytes(contents)
        expected[str(inside.parent)] = f'it holds "{name}", {kind}'
    return left, expected


def test_harmful_models_are_refused_before_tensorflow_is_loaded(
    harmful: tuple[Path, dict[str, str]],
) -> None:
    left, expected = harmful
    command = [sys.executable, "-c", SCRIPT, json.dumps(list(expected))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    lines = done.stderr.splitlines()
    codes, loaded = json.loads(done.stdout)
    assert (codes, loaded) == ([2] * len(expected), False)
    told = [line for line in lines if line.startswith("Error") or "error" in line.lower()]
    assert len(told) == len(expected)
    for line, words in zip(told, expected.values(), strict=True):
        assert words in line
    assert not list(left.iterdir())


def test_a_recorded_request_that_would_unfold_to_much_is_refused(
    pictures: Path, tmp_path: Path
) -> None:
    tf = load_tensorflow()
    from tensorflow_serving.apis import prediction_log_pb2

    protobuf: Any = prediction_log_pb2
    model = shutil.copytree(pictures, tmp_path / "pictures")
    log = protobuf.PredictionLog()
    request = log.predict_log.request
    request.model_spec.signature_name = "from_pixels"
    pixels = request.inputs["pixels"]
    pixels.CopyFrom(tf.make_tensor_proto(np.zeros([1, 2, 2, 1], np.uint8)))
    pixels.ClearField("tensor_content")
    pixels.tensor_shape.dim[0].size = 10**12
    pixels.int_val.append(0)
    (model / "1/assets.extra/dlkit.json").unlink()
    with tf.io.TFRecordWriter(str(model / "1/assets.extra/tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())
    with pytest.raises(ServeError, match=r"request 1 of x fails: .* more than 268435456"):
        load_model("x", model)


def never(arrays: Any) -> dict[str, np.ndarray]:
    raise AssertionError("the model was asked")


IMAGE = Signature({"image": TensorSpec("string", (None,))}, {}, never)
SERVED = ServedModel("pic", 1, Path(), {"serving_default": IMAGE}, {"signature_def": {"serving_default": {}}}, None, None, None)  # fmt: skip


def send(
    path: str,
    body: bytes,
    headers: dict[str, str] | None = None,
    model: ServedModel = SERVED,
    **limits: int,
) -> Any:
    app = create_app(Service(Servables([model]), Limits(**limits)))

    async def exchange() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, content=body, headers=headers)

    answer = asyncio.run(exchange())
    message = answer.json()["error"]
    assert "\n" not in message
    return answer.status_code, message


def zeros(size: int) -> bytes:
    """Return gzip of so many zeros, in a thousandth of them."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:
        for _ in range(size >> 20):
            file.write(bytes(2**20))
    return packed.getvalue()


@pytest.fixture
def traced() -> Iterator[Callable[[], int]]:
    """Give a function that says how much memory Python has taken at most."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


BOMBS = {  # body, its status and what is said
    "one": (zeros(2**28), 413, "unzips to more than 4194304 bytes"),
    "many": (zeros(2**20) * 256, 400, "Body goes on after its gzip ends"),
}


@pytest.mark.parametrize("path", ["/v1/models/pic:predict", "/v2/models/pic/infer"])
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=list(BOMBS))
def test_a_body_that_unzips_to_much_is_refused_without_being_unzipped(
    path: str, bomb: tuple[bytes, int, str], traced: Callable[[], int]
) -> None:
    body, code, words = bomb
    assert len(body) < 2**19
    status, message = send(path, body, {"content-encoding": "gzip"}, decompressed=2**22)
    assert (status, words in message) == (code, True)
    assert traced() < 2**25


def png(width: int, height: int) -> bytes:
    """Return a PNG of zeros, which shrink to a thousandth, by its header alone and by its rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # fmt: skip

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")  # fmt: skip


def gif(screen: tuple[int, int], *frames: tuple[int, int], more: bytes = b"") -> bytes:
    first = b"GIF89a" + struct.pack("<HHBBB", *screen, 0, 0, 0)
    data = [b"," + struct.pack("<HHHHB", 0, 0, *size, 0) + b"\x02\x01\x00\x00" for size in frames]
    return first + b"".join(data) + more + b";"


SIZE = struct.pack(">HH", 40_000, 40_000)
LARGE = {
    "png": png(40_000, 40_000),
    "jpeg": b"\xff\xd8\xff\xe0\x00\x04ab" + b"junk\xff\xff\xc2\x00\x0b\x08" + SIZE + b"\x01",
    "bmp": b"BM" + bytes(16) + struct.pack("<ii", 40_000, -40_000) + bytes(40),
    "gif": gif((40_000, 40_000), (1, 1)),
    "gif of a large frame": gif((1, 1), (1, 1), (40_000, 40_000)),
    "gif of many frames": gif((1000, 1000), *[(1, 1)] * 51),
    "gif with a palette": gif((1, 1), (1, 1), more=b"!\xf9\x04abcd\x00,\0\0\0\0" + struct.pack("<HHB", 40_000, 40_000, 0x80)),
    "webp": b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0" + bytes(6) + struct.pack("<HH", 16_383, 16_383),
    "lossless webp": b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0/" + b"\xff\xff\xff\x0f" + bytes(9),
    "webp of many frames": b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xe7\3\0" * 2 + b"ANMF\0\0\0\0" * 51,
}  # fmt: skip


@pytest.mark.parametrize("image", LARGE.values(), ids=list(LARGE))
def test_an_image_that_would_unfold_to_much_is_refused_by_its_header(image: bytes) -> None:
    encoded = base64.b64encode(image).decode()
    body = json.dumps({"instances": [{"b64": encoded}]}).encode()
    status, message = send("/v1/models/pic:predict", body)
    assert status == 400
    assert message.startswith("The image has ") and message.endswith("50,000,000 are accepted")
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1]}
    tensor |= {"parameters": {"binary_data_size": 4 + len(image)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    data = head + struct.pack("<I", len(image)) + image
    length = {"Inference-Header-Content-Length": str(len(head))}
    assert send("/v2/models/pic/infer", data, length) == (status, message)


def test_images_that_are_large_together_or_of_too_many_blocks_are_refused() -> None:
    encoded = base64.b64encode(png(100, 100)).decode()
    body = json.dumps({"instances": [{"b64": encoded}] * 17}).encode()
    assert send("/v1/models/pic:predict", body, pixels=10_000) == (
        400,
        "The images have 170,000 pixels together; at most 160,000 are accepted",
    )
    for image in (
        gif((1, 1), *[(1, 1)] * 100_000),
        gif((1, 1), more=b"!\xfe" + b"\x01a" * 300_000),
        b"\xff\xd8" + b"\xff" * 300_000,
        b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(10) + b"ANMF\0\0\0\0" * 100_000,
    ):
        body = json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]}).encode()
        status, message = send("/v1/models/pic:predict", body)
        assert (status, message) == (400, "The image consists of too many blocks for its size")


@pytest.mark.parametrize("ending", ["png", "jpeg", "gif", "bmp", "webp"])
def test_the_size_is_that_of_the_decoded_image(ending: str) -> None:
    from PIL import Image

    from dlkit.serving.pixels import check_pixels

    image = Image.fromarray(np.zeros((31, 47), np.uint8))
    for options in ({}, {"progressive": True, "comment": b"x" * 999}, {"lossless": True}):
        file = io.BytesIO()
        image.save(file, ending, **options)
        arrays = {"image": np.array([file.getvalue(), None], object)[:1]}
        check_pixels(IMAGE, arrays, 31 * 47)
        with pytest.raises(Exception, match=f"has {31 * 47:,} pixels; at most 1,456"):
            check_pixels(IMAGE, arrays, 31 * 47 - 1)


def generator(vocabulary: int) -> ServedModel:
    """A text generator of dlkit's that must not be asked."""
    row = TensorSpec("int32", (None,))
    logits = {"logits": TensorSpec("float", (None, vocabulary))}
    ends = {
        "serving_default": {"prompt": TensorSpec("string", (None,)), "max_tokens": row},
        "score": {"text": TensorSpec("string", (None,))},
        "prefill": {"tokens": TensorSpec("int32", (None, None)), "lengths": row},
    }
    signatures = {name: Signature(inputs, logits, never) for name, inputs in ends.items()}
    about = {"signature_def": {name: {} for name in ends}}
    return ServedModel("text", 1, Path(), signatures, about, {"tokenizer": "char"}, None, None)


TOO_MUCH = [  # vocabulary, signature, inputs, words of the refusal
    (99, "serving_default", {"prompt": [], "max_tokens": [2**31 - 1]}, "max_tokens is 2,147,483,647; at most 4,096"),
    (99, "serving_default", {"prompt": ["a"] * 300, "max_tokens": [4096] * 300}, "at most 1,747 are drawn for each of 300 rows"),
    (99, "serving_default", {"prompt": ["a" * 2**17] * 3, "max_tokens": [1] * 3}, "prompt has 3 rows of up to 131,072 tokens or bytes; at most 262,144"),
    (99, "score", {"text": ["a" * 2**18 + "b"]}, "text has 1 rows of up to 262,145 tokens or bytes"),
    (2**13, "score", {"text": ["a" * 40_000]}, "at most 32,768 are read"),
    (2**13, "prefill", {"tokens": [[1] * 40_000], "lengths": [1]}, "tokens has 1 rows of up to 40,000"),
]  # fmt: skip


@pytest.mark.parametrize(("vocabulary", "signature", "inputs", "words"), TOO_MUCH)
def test_texts_for_which_there_is_no_room_are_refused(
    vocabulary: int, signature: str, inputs: dict[str, Any], words: str
) -> None:
    body = json.dumps({"signature_name": signature, "inputs": inputs}).encode()
    status, message = send("/v1/models/text:predict", body, model=generator(vocabulary))
    assert (status, words in message) == (400, True)
