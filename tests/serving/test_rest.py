"""The routes answer as TensorFlow Serving does: values, errors, status and metadata."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from dlkit.serving import rest
from dlkit.serving.app import create_app
from dlkit.serving.model import ServedModel, Signature, load_model
from dlkit.serving.servables import Servables
from dlkit.serving.service import Limits, Service
from dlkit.serving.tensors import RequestError, TensorSpec

Call = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def app(pictures: Path, tools: Path) -> Any:
    models = [load_model(name, path) for name, path in [("pic", pictures), ("t", tools)]]
    return create_app(Service(Servables(models), Limits(body=100_000)))


def send(app: Any, method: str, path: str, body: Any = None) -> httpx.Response:
    async def exchange() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            content = body if body is None or isinstance(body, bytes) else json.dumps(body)
            return await client.request(method, path, content=content)

    return asyncio.run(exchange())


@pytest.fixture
def call(app: Any) -> Call:
    return functools.partial(send, app)


def b64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def test_row_format(call: Call, png: Callable[[int], bytes]) -> None:
    images = [b64(png(255)), {"b64": base64.b64encode(png(0)).decode().rstrip("=")}]
    for instances in (images, [{"image": image} for image in images]):
        answer = call("POST", "/v1/models/pic:predict", {"instances": instances})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        light, dark = answer.json()["predictions"]
        assert light == {"label": "light", "probability": 1.0, "probabilities": [0.0, 1.0]}
        assert dark == {"label": "dark", "probability": 1.0, "probabilities": [1.0, 0.0]}


def test_column_format_and_versions(call: Call) -> None:
    body = {"inputs": {"left": [[1, 2.5], [3, 4]], "right": [10, 20]}}
    expected = {"outputs": {"total": [13.5, 27.0], "raw_bytes": [b64(b"10"), b64(b"20")]}}
    for path in ("/v1/models/t:predict", "/V1/models/t/versions/10:predict"):
        assert call("POST", path, body).json() == expected
    pixels = np.full([1, 2, 2, 1], 255).tolist()
    body = {"signature_name": "from_pixels", "inputs": pixels}
    assert call("POST", "/v1/models/pic:predict", body).json()["outputs"]["label"] == ["light"]
    body = {"signature_name": "echo", "instances": ["plain", b64(b"bin")]}
    assert call("POST", "/v1/models/t:predict", body).json() == {"predictions": ["plain", "bin"]}


def test_non_finite_numbers_are_bare_tokens(call: Call) -> None:
    body = b'{"signature_name": "log", "instances": [0.1, 0, -1, NaN, Infinity]}'
    answer = call("POST", "/v1/models/t:predict", body)
    assert answer.text == '{"predictions":[-2.3025851,-Infinity,NaN,NaN,Infinity]}'


# Two by two pixels of grey, of which none follows.
CUT_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\2\0\0\0\2\x08\0\0\0\0W\xddR\xf8"
BOTH = {"left": [1, 2], "right": 3}
REFUSED = [  # model, body, words of the answer
    ("t", b"", "JSON Parse error: The document is empty"),
    ("t", b'{"instances": [1, }', "JSON Parse error: Invalid value. at offset: 18"),
    ("t", b"[" * 5000, "JSON Parse error: "),
    ("t", b"\xff", "JSON Parse error: Invalid encoding"),
    ("t", [1], "JSON Value: [1] Is not object"),
    ("t", {}, "Missing 'inputs' or 'instances' key"),
    ("t", {"inputs": BOTH, "instances": [BOTH]}, "only one of 'inputs' or 'instances'"),
    ("t", {"instances": 1}, "to be an list/array"),
    ("t", {"instances": []}, "No values in 'instances' array"),
    ("t", {"signature_name": 1, "instances": []}, "'signature_name' key must be a string"),
    ("t", {"signature_name": "no"}, 'Serving signature name: "no" not found in signature def'),
    ("t", {"instances": [[1, 2]]}, "instances is a plain list, but expecting list of objects"),
    ("t", {"instances": [BOTH, [1]]}, "Expecting object but got list at item 1"),
    ("t", {"instances": [{"left": [1, 2]}]}, "keys must be equal to: left,right"),
    ("t", {"instances": [BOTH | {"x": 1}]}, "element: 0 key: x of 'instances' list"),
    ("t", {"instances": [BOTH, BOTH | {"left": [1, 2, 3]}]}, "tensor size: 2 but got: 3"),
    ("t", {"instances": [BOTH | {"left": [1]}]}, "shape [1,1] but expecting shape [-1,2]"),
    ("t", {"instances": [BOTH | {"left": [1, [2]]}]}, "list at unexpected level"),
    ("t", {"instances": [BOTH | {"right": 3.0}]}, "3.0 Type: Number is not of expected type: int"),
    ("t", {"instances": [BOTH | {"right": True}]}, "JSON Value: true Type: True is not of"),
    ("t", {"instances": [BOTH | {"right": 2**31}]}, "2147483648 Type: Number is not of"),
    ("t", {"instances": [BOTH | {"left": ["a", 1]}]}, "Type: String is not of expected type: f"),
    ("t", {"inputs": [1]}, "inputs is a plain value/list, but expecting an object"),
    ("t", {"inputs": {"left": [[1, 2]]}}, "Missing named input: right in 'inputs' object."),
    ("t", {"inputs": {"left": [[1, 2], [3]], "right": [1]}}, "list at unexpected size: 1"),
    ("t", {"signature_name": "uneven", "instances": [1, 2]}, "inconsistent batch size: 1"),
    ("pic", {"inputs": "not in a list"}, "shape [] but expecting shape [-1]"),
    ("pic", {"instances": [{"b64": "???"}]}, "Unable to base64 decode"),
    ("pic", {"instances": [{"image": {"b64": 1}}]}, "not formatted correctly for base64 data"),
    ("pic", {"signature_name": "from_pixels", "instances": [[[[256]]]]}, "expected type: uint8"),
    ("pic", {"instances": ["no picture"]}, "Unknown image file format. One of JPEG, "),
    ("pic", {"instances": [""]}, "Input is empty."),
    ("pic", {"instances": [b64(CUT_PNG)]}, "Invalid PNG"),
]


@pytest.mark.parametrize(("model", "body", "words"), REFUSED)
def test_bad_requests(call: Call, model: str, body: Any, words: str) -> None:
    answer = call("POST", f"/v1/models/{model}:predict", body)
    message = answer.json()["error"]
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert words in message
    assert "\n" not in message and len(message) < 400


UNFOUND = [
    ("POST", "/v1/models/no:predict", 404, "Servable not found for request: Latest(no)"),
    ("POST", "/v1/models/t/versions/2:predict", 404, "not found for request: Specific(t, 2)"),
    ("POST", f"/v1/models/t/versions/{2**63}:predict", 400, "Failed to convert version: "),
    ("POST", "/v1/models/t:classify", 400, "key 'examples' is expected and was not found"),
    ("GET", "/v1/models/no", 404, "Could not find any versions of model no"),
    ("GET", "/v1/models/t/versions/2", 404, "Could not find version 2 of model t"),
    ("GET", "/v1/models/no/metadata", 404, "Servable not found for request: Latest(no)"),
    ("GET", "/v1/models", 400, "Missing model name in request."),
    ("GET", "/v1/models/t:predict", 400, "Malformed request: GET /v1/models/t:predict"),
    ("POST", "/v1/foo", 400, "Malformed request: POST /v1/foo"),
    ("GET", "/foo", 404, "Not found: /foo"),
]


@pytest.mark.parametrize(("method", "path", "status", "words"), UNFOUND)
def test_unknown_paths(call: Call, method: str, path: str, status: int, words: str) -> None:
    answer = call(method, path, {"instances": [1]} if method == "POST" else None)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True)


def test_status_metadata_and_size(call: Call) -> None:
    status = {"error_code": "OK", "error_message": ""}
    entry = {"version": "10", "state": "AVAILABLE", "status": status}
    for path in ("/v1/models/t", "/v1/models/t/versions/10"):
        assert call("GET", path).json() == {"model_version_status": [entry]}
    assert call("HEAD", "/v1/models/t").status_code == 200
    answer = call("GET", "/v1/models/pic/metadata").json()
    assert answer["model_spec"] == {"name": "pic", "signature_name": "", "version": "1"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["from_pixels"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    pixels = signature["inputs"]["pixels"]
    assert (pixels["dtype"], pixels["name"]) == ("DT_UINT8", "from_pixels_pixels:0")
    dims = [{"size": size, "name": ""} for size in ("-1", "2", "2", "1")]
    assert pixels["tensor_shape"] == {"dim": dims, "unknown_rank": False}
    assert call("POST", "/v1/models/t:predict", b" " * 100_001).status_code == 413


def test_status_and_metadata_are_the_protos_json(call: Call) -> None:
    from google.protobuf import json_format
    from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

    def printed(message: Any, content: dict[str, Any]) -> Any:
        """Return JSON read as a message and printed with Serving's options."""
        json_format.ParseDict(content, message)
        return json_format.MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )

    status: Any = get_model_status_pb2
    content = call("GET", "/v1/models/t").json()
    assert printed(status.GetModelStatusResponse(), content) == content
    metadata: Any = get_model_metadata_pb2
    model: Any = model_pb2
    content = call("GET", "/v1/models/pic/metadata").json()
    assert printed(model.ModelSpec(), content["model_spec"]) == content["model_spec"]
    signatures = content["metadata"]["signature_def"]
    assert printed(metadata.SignatureDefMap(), signatures) == signatures


def test_our_own_faults_do_not_tell_the_payload(caplog: pytest.LogCaptureFixture) -> None:
    def fail(text: Any) -> Any:
        raise ValueError(f"cannot take {text}")

    signature = Signature({"text": TensorSpec("string", None)}, {}, fail)
    metadata = {"signature_def": {"serving_default": {}}}
    signatures = {"serving_default": signature}
    model = ServedModel("m", 1, Path(), signatures, metadata, None, None, None)
    app = create_app(Service(Servables([model])))
    answer = send(app, "POST", "/v1/models/m:predict", {"inputs": "SECRET"})
    assert (answer.status_code, answer.json()) == (500, {"error": "Internal error: ValueError"})
    assert "ValueError at test_rest.py" in caplog.text and "SECRET" not in caplog.text
    counted = send(app, "GET", "/monitoring/prometheus/metrics").text
    assert ':tensorflow:serving:request_count{model_name="m",status="INTERNAL"} 1.0' in counted


def test_scalars_and_types_without_tensorflow() -> None:
    specs = {"a": TensorSpec("float", ()), "b": TensorSpec("int64", None)}
    arrays, row_format = rest.decode_inputs({"inputs": {"a": 1e400, "b": [[2**62]]}}, specs)
    assert not row_format
    assert {name: (a.dtype, a.shape) for name, a in arrays.items()} == {
        "a": (np.float32, ()),
        "b": (np.int64, (1, 1)),
    }
    with pytest.raises(RequestError, match="Conversion of JSON Value: 1 to type: half") as raised:
        rest.decode_inputs({"inputs": 1}, {"a": TensorSpec("half", None)})
    assert raised.value.status == 501
    outputs = {"a": np.array([[0.1], [np.nan]], np.float32), "b": np.array([True, False])}
    body = rest.encode_outputs(outputs, row_format=True)
    assert body == b'{"predictions":[{"a":[0.1],"b":true},{"a":[NaN],"b":false}]}'
    body = rest.encode_outputs({"a": np.array(2, np.uint8)}, row_format=False)
    assert body == b'{"outputs":2}'
