"""NVIDIA's own client, unmodified, talks to the server over HTTP, in binary and in JSON."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import uvicorn
from tritonclient.http import (
    InferenceServerClient,
    InferenceServerClientPlugin,
    InferInput,
    InferRequestedOutput,
)
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from dlkit.serving.app import create_app
from dlkit.serving.model import load_model
from dlkit.serving.servables import Servables
from dlkit.serving.service import Service

VALUES: dict[str, np.ndarray] = {
    "bool": np.array([True, False, True]),
    **{
        name: np.array([np.iinfo(name).min, 7, np.iinfo(name).max], name)
        for name in ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
    },
    "float16": np.array([0.1, -65504, np.inf], np.float16),
    "bfloat16": np.array([0.1, -3e38, np.inf], ml_dtypes.bfloat16),
    "float32": np.array([0.1, -3e38, np.inf], np.float32),
    "float64": np.array([0.1, -1e308, np.nan]),
    "string": np.array(["", "zwölf", "a\nb"], object),
}


class Key(InferenceServerClientPlugin):
    def __call__(self, request: Any) -> None:
        request.headers["authorization"] = "Bearer secret"


@pytest.fixture(scope="module")
def service(every_type: Path, tools: Path, pictures: Path) -> Service:
    paths = {"every": every_type, "t": tools, "pic": pictures}
    return Service(Servables(load_model(name, path) for name, path in paths.items()))


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[InferenceServerClient]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(create_app(service, ["secret"]), log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        url = f"127.0.0.1:{listener.getsockname()[1]}"
        with InferenceServerClient(url, concurrency=4) as client:
            client.register_plugin(Key())
            yield client
        server.should_exit = True
        thread.join()


def given(name: str, values: np.ndarray, *, binary: bool) -> InferInput:
    entry = InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    return entry.set_data_from_numpy(values, binary_data=binary)


def numbers(start: int, *, binary: bool) -> list[InferInput]:
    left = np.array([[start, 1], [start, 2]], np.float32)
    right = np.array([0, 10], np.int32)
    return [given("left", left, binary=binary), given("right", right, binary=binary)]


def test_readiness_and_metadata(client: InferenceServerClient, service: Service) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("t") and client.is_model_ready("t", "10")
    assert not client.is_model_ready("t", "2") and not client.is_model_ready("no")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    about = client.get_model_metadata("t", "10", query_params={"signature_name": "serving_default"})
    assert about["inputs"][0] == {"name": "left", "datatype": "FP32", "shape": [-1, 2]}
    index = client.get_model_repository_index()
    assert [(m["name"], m["state"]) for m in index] == [(n, "READY") for n in ("every", "pic", "t")]
    service.draining = True
    assert not client.is_server_ready()
    service.draining = False


@pytest.mark.parametrize("binary", [True, False])
def test_every_type(client: InferenceServerClient, binary: bool) -> None:
    inputs = [given(n, v, binary=binary or n == "bfloat16") for n, v in VALUES.items()]
    outputs = [InferRequestedOutput(name, binary_data=binary) for name in reversed(VALUES)]
    result = client.infer("every", inputs, outputs=None if binary else outputs, request_id="7")
    for name, values in VALUES.items():
        found = result.as_numpy(name)
        if binary and name == "string":
            found = np.array([value.decode() for value in found], object)
        np.testing.assert_array_equal(found, values, strict=True)
    response = result.get_response()
    assert (response["id"], response["model_version"]) == ("7", "1")
    order = [output["name"] for output in response["outputs"]]
    assert order == (sorted(VALUES) if binary else list(reversed(VALUES)))


def test_signatures_and_images(client: InferenceServerClient, png: Callable[[int], bytes]) -> None:
    image = given("image", np.array([png(255), png(0)], object), binary=True)
    result = client.infer("pic", [image])
    assert result.as_numpy("label").tolist() == [b"light", b"dark"]
    pixels = given("pixels", np.full([1, 2, 2, 1], 255, np.uint8), binary=False)
    wanted = [InferRequestedOutput("label", binary_data=False)]
    named = {"signature_name": "from_pixels"}
    result = client.infer("pic", [pixels], outputs=wanted, parameters=named)
    assert result.get_output("label")["data"] == ["light"]


@pytest.mark.parametrize("binary", [True, False])
def test_many_at_once(client: InferenceServerClient, binary: bool) -> None:
    asked = [client.async_infer("t", numbers(n, binary=binary)) for n in range(8)]
    for start, request in enumerate(asked):
        totals = request.get_result().as_numpy("total")
        np.testing.assert_array_equal(totals, np.array([start + 1, start + 12], np.float32))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compression(client: InferenceServerClient, algorithm: str, binary: bool) -> None:
    text = np.array([str(n) for n in range(2000)], object)
    result = client.infer(
        "t",
        [given("text", text, binary=binary)],
        outputs=[InferRequestedOutput("text", binary_data=binary)],
        parameters={"signature_name": "echo"},
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert [str(t, "utf-8") if binary else t for t in result.as_numpy("text")] == text.tolist()


def test_errors_are_exceptions(client: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"unknown model: .no. is not found") as told:
        client.infer("no", numbers(1, binary=True))
    assert told.value.status() == "404"
    with pytest.raises(InferenceServerException, match="Missing input 'left'") as told:
        client.async_infer("t", numbers(1, binary=True)[1:]).get_result()
    assert told.value.status() == "400"
    with pytest.raises(InferenceServerException, match=r"no output .totals"):
        client.infer("t", numbers(1, binary=True), outputs=[InferRequestedOutput("totals")])
    with pytest.raises(InferenceServerException, match="Not found"):
        client.get_model_config("t")
    late = given("seconds", np.array([0.3]), binary=True)
    slow = client.async_infer("t", [late], parameters={"signature_name": "wait"})
    waits = given("seconds", np.array([0.0]), binary=True)
    with pytest.raises(InferenceServerException, match="Deadline exceeded") as told:
        client.infer("t", [waits], parameters={"signature_name": "wait"}, timeout=1000)
    assert told.value.status() == "504"
    assert slow.get_result().as_numpy("late").tolist() == [True]
