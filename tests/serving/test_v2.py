"""The Open Inference Protocol V2: the golden cases, and what lies around them."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import ml_dtypes
import numpy as np
import pytest
from golden_v2_models import CASES, MODELS, Specs, content
from processes import write_version

from dlkit.serving.app import create_app
from dlkit.serving.batching import Batching
from dlkit.serving.model import ServedModel, Signature, load_version
from dlkit.serving.servables import Servables
from dlkit.serving.service import Limits, Service
from dlkit.serving.tensors import TensorSpec
from dlkit.serving.v2_tensors import TYPES

LENGTH = "Inference-Header-Content-Length"
BOTH = CASES["json: flat data"]["request"]["body"]


def specs(described: Specs) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(TYPES[datatype][0], tuple(None if n < 0 else n for n in shape))
        for name, (datatype, shape) in described.items()
    }


def served(name: str, version: int = 1, **signatures: Signature) -> ServedModel:
    metadata = {"signature_def": {key: {} for key in signatures}}
    return ServedModel(name, version, Path(), signatures, metadata, None, None, None)


def golden_models() -> list[ServedModel]:
    found = []
    for name, model in MODELS.items():

        def run(arrays: Mapping[str, np.ndarray], model: Any = model) -> dict[str, np.ndarray]:
            return model.run(**arrays)

        signature = Signature(specs(model.inputs), specs(model.outputs), run, batchable=True)
        found.append(served(name, serving_default=signature))
    return found


class Client:
    """Sends requests to an app in this process, on one event loop."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.runner = asyncio.Runner()
        transport = httpx.ASGITransport(app=create_app(service))
        self.http = httpx.AsyncClient(transport=transport, base_url="http://test")

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.runner.run(self.http.request(method, path, content=data, headers=named))

    def infer(self, body: Any, model: str = "two", **headers: str) -> httpx.Response:
        return self.send("POST", f"/v2/models/{model}/infer", body, **headers)

    def close(self) -> None:
        self.runner.run(self.http.aclose())
        self.runner.close()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    service = Service(Servables(golden_models()), Limits(body=200_000, decompressed=400_000))
    with closing(Client(service)) as client:
        yield client


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    with ExitStack() as stack:

        def connect(*args: Any) -> Client:
            return stack.enter_context(closing(Client(Service(*args))))

        yield connect


@pytest.mark.parametrize("name", CASES)
def test_golden(client: Client, name: str) -> None:
    case = CASES[name]
    request = case["request"]
    body, headers = content(request)
    answer = client.send(request["method"], request["path"], body, **headers)
    assert answer.status_code == case["status"], answer.text
    if "error" in case:
        assert "\n" not in answer.text and list(answer.json()) == ["error"]
        assert case["error"] in answer.json()["error"]
        assert len(answer.text) < 400
        return
    length = int(answer.headers.get(LENGTH, len(answer.content)))
    kind = "octet-stream" if LENGTH in answer.headers else "json"
    assert answer.headers["content-type"] == f"application/{kind}"
    if "answer" in case:
        assert json.loads(answer.content[:length]) == case["answer"]
        assert answer.content[length:] == bytes.fromhex(case.get("answer_binary", ""))


def test_server_and_health(client: Client, connect: Callable[..., Client]) -> None:
    about = client.send("GET", "/v2").json()
    assert (about["name"], "binary_tensor_data" in about["extensions"]) == ("dlkit", True)
    assert client.send("GET", "/v2/health/live").json() == {"live": True}
    empty = connect(Servables())
    assert empty.send("GET", "/v2/health/ready").status_code == 400
    assert empty.send("POST", "/v2/repository/index").json() == []
    servables = empty.service.servables
    servables.mark("two", 1, "LOADING")
    assert empty.send("GET", "/v2/health/ready").json() == {"ready": False}
    assert empty.send("GET", "/v2/models/two/ready").status_code == 404
    servables.put(golden_models()[0])
    servables.mark("two", 2, "END", "cut short")
    assert empty.send("GET", "/v2/health/ready").json() == {"ready": True}
    index = empty.send("POST", "/v2/repository/index", {}).json()
    assert [(m["version"], m["state"], m["reason"]) for m in index] == [
        ("2", "UNAVAILABLE", "cut short"),
        ("1", "READY", ""),
    ]
    empty.service.draining = True
    assert empty.send("GET", "/v2/health/ready").status_code == 400
    assert empty.send("GET", "/v2/health/live").status_code == 200
    assert empty.infer(BOTH).status_code == 200  # what comes while it drains is answered


def test_signatures_and_types_beyond_the_protocol(connect: Callable[..., Client]) -> None:
    bare = TensorSpec("bfloat16", None)
    odd = {"z": TensorSpec("complex64", (None,))}
    signatures = {
        "serving_default": Signature({"x": bare}, {"x": bare}, dict),
        "twice": Signature({"x": bare}, {"y": bare}, lambda a: {"y": a["x"] + a["x"]}),
        "takes": Signature(odd, {"x": bare}, dict),
        "gives": Signature({"x": bare}, odd, dict),
        "constant": Signature({}, {"x": bare}, dict),
    }
    client = connect(Servables([served("m", 3, **signatures), served("m", 5, **signatures)]))
    about = client.send("GET", "/v2/models/m", None).json()
    assert (about["versions"], about["inputs"][0]["shape"]) == (["3", "5"], [-1])
    about = client.send("GET", "/v2/models/m?signature_name=takes").json()
    assert about["inputs"] == [{"name": "z", "datatype": "COMPLEX64", "shape": [-1]}]
    data = np.array([1, 2.5], ml_dtypes.bfloat16)
    entry = {"name": "x", "datatype": "BF16", "shape": [2, 1, 1]}
    body = {
        "inputs": [entry | {"data": [[[1]], [[2.5]]]}],
        "parameters": {"signature_name": "twice"},
    }
    answer = client.infer(body, "m").json()
    assert (answer["outputs"][0]["data"], answer["model_version"]) == ([2.0, 5.0], "5")
    head = json.dumps({"inputs": [entry | {"parameters": {"binary_data_size": 4}}]}).encode()
    answer = client.infer(head + data.tobytes(), "m", **{LENGTH: str(len(head))})
    assert answer.json()["outputs"][0]["data"] == [1.0, 2.5]
    for name, words in {
        "no": "Model 'm' has no signature \"no\"; parameter 'signature_name' may be gives, serving",
        "constant": 'has no signature "constant"',
        "takes": "Input 'z' is of type complex64, which the protocol lacks",
        "gives": "Output 'z' is of type complex64, which the protocol lacks",
    }.items():
        inputs = [entry | {"name": "z", "data": [1, 2]} if name == "takes" else body["inputs"][0]]
        answer = client.infer({"inputs": inputs, "parameters": {"signature_name": name}}, "m")
        assert (answer.status_code, words in answer.json()["error"]) == (400, True), answer.text
    for shape in ([0] * 65, [0, 2**40, 2**40], [2**40, 0]):
        body = {"inputs": [{"name": "x", "datatype": "BF16", "shape": shape, "data": []}]}
        answer = client.infer(body, "m")
        assert (answer.status_code, "too large" in answer.json()["error"]) == (400, True)


def test_the_platform_is_that_of_the_engine(tmp_path: Path, connect: Callable[..., Client]) -> None:
    pytest.importorskip("onnxruntime")
    model = load_version("n", write_version(tmp_path, 1), engine="onnx")
    engines = ("onnx-int8", "litert", "litert-int8")
    models = [model, *(replace(model, name=engine, engine=engine) for engine in engines)]
    asked = connect(Servables(models))
    platforms = {
        m.name: asked.send("GET", f"/v2/models/{m.name}").json()["platform"] for m in models
    }
    assert platforms == {
        "n": "onnx_onnxv1",
        "onnx-int8": "onnx_onnxv1",
        "litert": "litert_tflite",
        "litert-int8": "litert_tflite",
    }


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compression(client: Client, encoding: str) -> None:
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    undo = {"gzip": gzip.decompress, "deflate": zlib.decompress}[encoding]
    numbers = np.arange(4000, dtype="<f2")
    entry = {
        "name": "x",
        "datatype": "FP16",
        "shape": [4000],
        "parameters": {"binary_data_size": 8000},
    }
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    sent = pack(head + numbers.tobytes())
    named = {LENGTH: str(len(head)), "Content-Encoding": encoding, "Accept-Encoding": encoding}
    request = client.http.build_request(
        "POST", "/v2/models/half/infer", content=sent, headers=named
    )

    async def raw() -> tuple[httpx.Response, bytes]:
        answer = await client.http.send(request, stream=True)
        return answer, b"".join([part async for part in answer.aiter_raw()])

    answer, body = client.runner.run(raw())
    assert answer.headers["content-encoding"] == encoding and len(body) < 8000
    assert undo(body)[int(answer.headers[LENGTH]) :] == numbers.tobytes()
    bad = {
        sent[:-5]: f"Body is not complete {encoding}",
        sent + b"x": f"Body goes on after its {encoding} ends",
        b"{}": f"Body is not {encoding}, as its Content-Encoding says",
    }
    for body, words in bad.items():
        refused = client.infer(body, "half", **named)
        assert (refused.status_code, refused.json()["error"]) == (400, words)
    assert client.infer(pack(b" " * 400_001), **named).status_code == 413


def test_limits_and_counters(connect: Callable[..., Client]) -> None:
    went = threading.Event()

    def wait(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        went.wait(5)
        return dict(arrays)

    tensor = {"x": TensorSpec("float", (None,))}
    model = served("slow", serving_default=Signature(tensor, tensor, wait))
    limits = Limits(body=1000, rows=2)
    client = connect(Servables([model]), limits, Batching(max_queue=1))
    entry = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
    body = {"inputs": [entry]}
    assert client.infer(b" " * 1001, "slow").status_code == 413
    assert client.infer(body, "slow", Content_Encoding="br").status_code == 415
    three = {"inputs": [entry | {"shape": [3], "data": [1, 2, 3]}]}
    assert client.infer(three, "slow").json() == {
        "error": "3 rows in a request; at most 2 are accepted"
    }

    async def crowd() -> list[httpx.Response]:
        def ask(timeout: int) -> Any:
            given = json.dumps(body | {"parameters": {"timeout": timeout}})
            return client.http.post("/v2/models/slow/infer", content=given)

        first = asyncio.create_task(ask(0))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(ask(1000))  # waits behind it for more than a millisecond
        await asyncio.sleep(0.05)
        third = await ask(0)
        went.set()
        return [await first, await second, third]

    assert [answer.status_code for answer in client.runner.run(crowd())] == [200, 504, 503]
    counters = client.send("GET", "/metrics").text
    assert ':request_count{model_name="slow",status="OK"} 1.0' in counters
    # The 503 came before the model was looked for.
    assert 'request_latency_count{API="infer",entrypoint="REST",model_name="slow"} 5.0' in counters
    assert 'responses_total{protocol="v2",status="503"} 1.0' in counters


def test_rows_of_many_requests_come_back_to_each(client: Client) -> None:
    async def ask(start: int) -> httpx.Response:
        rows = start % 3 + 1
        left = {"name": "left", "datatype": "FP32", "shape": [rows, 2], "data": [start] * 2 * rows}
        right = {"name": "right", "datatype": "INT32", "shape": [rows], "data": list(range(rows))}
        body = json.dumps(
            {"id": str(start), "inputs": [left, right], "outputs": [{"name": "total"}]}
        )
        return await client.http.post("/v2/models/two/infer", content=body)

    async def all_at_once() -> list[httpx.Response]:
        return await asyncio.gather(*map(ask, range(60)))

    for start, answer in enumerate(client.runner.run(all_at_once())):
        expected = [2.0 * start + row for row in range(start % 3 + 1)]
        assert answer.json()["outputs"][0]["data"] == expected
        assert answer.json()["id"] == str(start)


def test_odd_characters_and_numbers_do_no_harm(client: Client) -> None:
    lone = json.dumps(BOTH | {"id": "\ud800"})
    assert (
        client.infer(lone.encode()).json()["error"] == "JSON String holds half of a surrogate pair"
    )
    lone = lone.replace('"left"', '"\\ud800\\n"').replace('"id": "\\ud800"', '"id": ""')
    words = client.infer(lone.encode()).json()["error"]
    assert words == 'There is no input "\\ud800\\n"; the inputs are left, right'
    for number in ("-Infinity", "NaN"):
        body = json.dumps(BOTH).replace("2.5", number).encode()
        total = client.infer(body)
        assert (total.status_code, total.text.count(number)) == (200, 1)
    for number in ("1" + "0" * 400, "1" * 5000, "[" * 3000):
        body = json.dumps(BOTH).replace("2.5", number).encode()
        assert client.infer(body).status_code == 400
    body = BOTH | {"parameters": {"timeout": 10**400}}
    assert client.infer(body).status_code == 400
