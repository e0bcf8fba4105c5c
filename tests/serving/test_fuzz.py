"""Generated requests, valid and not: every one is answered, none of them with a fault of the server.

A wider and longer run against a process is `benchmarks/serving_fuzz.py`.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import gzip
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_completions import Scripted

from dlkit.runtime import load_tensorflow
from dlkit.serving.app import create_app
from dlkit.serving.model import ServedModel, Signature, by_row
from dlkit.serving.servables import Servables
from dlkit.serving.service import Limits, Service
from dlkit.serving.tensors import DTYPES, TensorSpec
from dlkit.serving.v2_tensors import FROM_SERVING, TYPES

FEW = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
MODELS = ("echo", "words", "odd", "s")
NUMBERS = [name for name in DTYPES if name != "string"]


def endpoint(inputs: Mapping[str, TensorSpec]) -> Signature:
    """Return an endpoint that gives back what it is given, batched where it can be."""
    return Signature(dict(inputs), dict(inputs), dict, batchable=by_row(inputs, inputs))


def model(name: str, signatures: dict[str, Signature]) -> ServedModel:
    metadata = {"signature_def": {key: {"inputs": {}, "outputs": {}} for key in sorted(signatures)}}
    return ServedModel(name, 1, Path(), signatures, metadata, None, None, None)


@pytest.fixture(scope="module")
def ask() -> Iterator[Any]:
    """Give a function that sends a request to a server of odd and plain models."""
    load_tensorflow()  # draws tokens; its import is longer than an answer may take
    rows, pairs = (None,), (None, 2)
    echo = {name: endpoint({"x": TensorSpec(name, pairs)}) for name in NUMBERS}
    echo["serving_default"] = endpoint(
        {"image": TensorSpec("string", rows), "n_bytes": TensorSpec("string", rows)}
    )
    odd = {
        "serving_default": endpoint({"any": TensorSpec("float", None)}),
        "scalar": endpoint({"x": TensorSpec("int32", ()), "y": TensorSpec("string", ())}),
        "half": endpoint({"x": TensorSpec("half", rows)}),
        "complex": endpoint({"x": TensorSpec("complex64", rows)}),
        "nothing": Signature({}, {"y": TensorSpec("float", rows)}, lambda _: {}),
        "two": endpoint({"a": TensorSpec("int64", pairs), "b": TensorSpec("bool", rows)}),
    }
    words = {"serving_default": endpoint({"text": TensorSpec("string", (None, None))})}
    served = [model("echo", echo), model("words", words), model("odd", odd)]
    scripted = Scripted(limit=8).served
    served.append(dataclasses.replace(scripted, metadata={"signature_def": {}}))
    app = create_app(Service(Servables(served), Limits(body=10_000, decompressed=50_000)))
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app))
    loop = asyncio.new_event_loop()

    def send(method: str, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        async def exchange() -> httpx.Response:
            async with asyncio.timeout(20):
                return await client.request(
                    method, f"http://test{path}", content=body, headers=headers
                )

        answer = loop.run_until_complete(exchange())
        check(answer, method)
        return answer

    yield send
    loop.run_until_complete(client.aclose())
    loop.close()


def check(answer: httpx.Response, method: str) -> None:
    """Assert that an answer is none of the server's faults, and that an error is one line."""
    # 501: a type that the protocol cannot carry. 504: a deadline that the request itself set.
    assert answer.status_code < 500 or answer.status_code in (501, 504), answer.text
    if answer.status_code >= 400 and method != "HEAD":
        error = answer.json()["error"]
        message = error["message"] if isinstance(error, dict) else error
        assert message and "\n" not in message and len(message) < 2000, message
        assert "Traceback" not in message and "Internal" not in message


# Halves of surrogate pairs among them: JSON can write what UTF-8 cannot.
LETTERS = "aZ0 ._-/%:'\"\\\n\r\x00\u00e9\u2028\u20ac\U0001f600\ud83d\udfff"
texts = st.text(st.sampled_from(LETTERS), max_size=8)
floats = st.one_of(st.floats(), st.floats(width=32), st.sampled_from([-0.0, 1e39, 5e-324]))
integers = st.one_of(
    st.integers(-3, 300), st.integers(), st.sampled_from([2**24, 2**31, 2**53, 2**63, 2**64])
)
encoded = st.one_of(
    st.binary(max_size=20).map(lambda b: {"b64": base64.b64encode(b).decode()}),
    st.fixed_dictionaries({"b64": st.one_of(texts, st.none(), integers)}),
)
leaves = st.one_of(st.none(), st.booleans(), integers, floats, texts, encoded)
names = st.sampled_from(["x", "y", "any", "text", "image", "n_bytes", "a", "b", "inputs", "b64"])
anything = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(names, texts), inner, max_size=4),
    ),
    max_leaves=12,
)
signatures = st.sampled_from([*NUMBERS, "serving_default", "scalar", "half", "complex", "nothing", "two", "no"])  # fmt: skip
v1_documents = st.fixed_dictionaries(
    {},
    optional={
        "signature_name": st.one_of(signatures, leaves),
        "instances": st.one_of(st.lists(anything, max_size=4), anything),
        "inputs": st.one_of(st.dictionaries(names, anything, max_size=3), anything),
        "examples": st.one_of(st.lists(anything, max_size=3), anything),
        "context": anything,
    },
)
v2_tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.one_of(names, leaves),
        "datatype": st.one_of(st.sampled_from(sorted(TYPES)), leaves),
        "shape": st.one_of(
            st.lists(st.integers(-1, 4), max_size=3), st.lists(integers, max_size=3), anything
        ),
        "data": st.one_of(st.lists(leaves, max_size=6), anything),
        "parameters": st.one_of(
            st.fixed_dictionaries({"binary_data_size": st.integers(-1, 30)}),
            st.fixed_dictionaries({"binary_data": st.booleans()}),
            anything,
        ),
    },
)
v2_documents = st.fixed_dictionaries(
    {},
    optional={
        "id": leaves,
        "inputs": st.one_of(st.lists(v2_tensors, max_size=3), anything),
        "outputs": st.one_of(st.lists(v2_tensors, max_size=2), anything),
        "parameters": st.one_of(
            st.fixed_dictionaries(
                {},
                optional={
                    "signature_name": signatures,
                    "timeout": st.integers(0, 10**9),
                    "binary_data_output": st.booleans(),
                },
            ),
            anything,
        ),
    },
)
completions = st.fixed_dictionaries(
    {"model": st.one_of(st.just("s"), st.just("echo"), leaves)},
    optional={
        "prompt": st.one_of(texts, st.lists(texts, max_size=3), anything),
        "max_tokens": st.one_of(st.integers(0, 12), st.sampled_from([-1, 2**40]), leaves),
        "temperature": st.one_of(st.floats(0, 2), leaves),
        "top_p": st.one_of(st.floats(0, 1), leaves),
        "top_k": st.one_of(st.integers(0, 300), leaves),
        "min_p": st.one_of(st.floats(0, 1), leaves),
        "n": st.one_of(st.integers(1, 3), leaves),
        "seed": st.one_of(st.integers(), leaves),
        "stop": st.one_of(texts, st.lists(texts, max_size=5), anything),
        "stream": st.one_of(st.booleans(), leaves),
        "stream_options": st.one_of(st.just({"include_usage": True}), anything),
        "echo": st.one_of(st.booleans(), leaves),
        "logprobs": st.one_of(st.integers(0, 6), leaves),
        "logit_bias": anything,
        "other": anything,
    },
)


@st.composite
def bodies(draw: Any, documents: st.SearchStrategy[Any]) -> tuple[bytes, dict[str, str]]:
    """Draw a body and its headers: a document, one that is broken, or one that is packed wrongly."""
    body = json.dumps(draw(st.one_of(documents, documents, documents, anything))).encode()
    headers: dict[str, str] = {}
    change = draw(st.integers(0, 9))
    if change == 0 and body:
        at = draw(st.integers(0, len(body) - 1))
        body = body[:at] + draw(st.binary(max_size=3)) + body[at + draw(st.integers(0, 3)) :]
    elif change == 1:
        body = draw(st.binary(max_size=40))
    elif change == 2:
        body = b"[" * draw(st.integers(0, 9000)) + body
    elif change == 3:
        encoding = draw(st.sampled_from(["gzip", "deflate", "br", "identity", ""]))
        headers["content-encoding"] = encoding
        body = gzip.compress(body) if draw(st.booleans()) else body
    elif change == 4:
        body += draw(st.binary(max_size=60))
        length = st.one_of(st.just(len(body)), st.integers(-1, 80))
        headers["inference-header-content-length"] = str(draw(length))
    if draw(st.booleans()):
        headers["accept-encoding"] = draw(st.sampled_from(["gzip", "deflate;q=0.5", "*", "q"]))
    return body, headers


verbs = st.sampled_from([":predict", ":predict", ":predict", ":classify", ":regress", "/metadata", ""])  # fmt: skip


@FEW
@given(
    st.sampled_from(MODELS),
    st.sampled_from(["", "/versions/1", "/labels/stable"]),
    verbs,
    bodies(v1_documents),
)
def test_rest_v1(ask: Any, name: str, version: str, verb: str, request: Any) -> None:
    ask("POST", f"/v1/models/{name}{version}{verb}", *request)


@FEW
@given(st.sampled_from(MODELS), st.sampled_from(["", "/versions/1"]), bodies(v2_documents))
def test_open_inference_v2(ask: Any, name: str, version: str, request: Any) -> None:
    ask("POST", f"/v2/models/{name}{version}/infer", *request)


@FEW
@given(bodies(completions))
def test_completions(ask: Any, request: Any) -> None:
    ask("POST", "/v1/completions", *request)


KNOWN = """
    v1 v2 models echo versions labels 1 stable health ready live metadata repository index
    echo:predict completions healthz metrics docs openapi.json .. -1 999999999999999999999
"""
parts = st.one_of(st.sampled_from(KNOWN.split(" ")), texts)


@FEW
@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
    st.lists(parts, max_size=5),
    st.binary(max_size=20),
)
def test_paths(ask: Any, method: str, path: list[str], body: bytes) -> None:
    ask(method, "/" + "/".join(quote(part, ":", errors="surrogatepass") for part in path), body, {})


@st.composite
def numbers(draw: Any) -> tuple[str, list[list[Any]]]:
    """Draw a type and rows of two numbers that it holds."""
    name = draw(st.sampled_from(NUMBERS))
    dtype = DTYPES[name]
    if dtype.kind == "b":
        one: Any = st.booleans()
    elif dtype.kind == "f":
        one = st.floats(width=32 if dtype.itemsize == 4 else 64)
    else:
        info = np.iinfo(dtype)
        one = st.integers(int(info.min), int(info.max))
    return name, draw(st.lists(st.lists(one, min_size=2, max_size=2), min_size=1, max_size=4))


@FEW
@given(numbers(), st.sampled_from(["instances", "inputs"]))
def test_numbers_come_back_as_they_were_sent(ask: Any, rows: Any, key: str) -> None:
    name, values = rows
    body = {"signature_name": name, key: values}
    answer = ask("POST", "/v1/models/echo:predict", json.dumps(body).encode(), {})
    assert answer.status_code == 200
    array = np.array(values, DTYPES[name])
    got = answer.json()["predictions" if key == "instances" else "outputs"]
    np.testing.assert_array_equal(np.array(got, DTYPES[name]), array)

    tensor = {"name": "x", "datatype": FROM_SERVING[name], "shape": array.shape}
    tensor["parameters"] = {"binary_data_size": array.nbytes}
    options = {"signature_name": name, "binary_data_output": True}
    head = json.dumps({"inputs": [tensor], "parameters": options}).encode()
    length = {"inference-header-content-length": str(len(head))}
    answer = ask("POST", "/v2/models/echo/infer", head + array.tobytes(), length)
    assert answer.status_code == 200
    size = int(answer.headers["inference-header-content-length"])
    assert answer.content[size:] == array.tobytes()


@FEW
@given(st.lists(st.binary(max_size=9), min_size=1, max_size=4))
def test_bytes_come_back_as_they_were_sent(ask: Any, values: list[bytes]) -> None:
    row = [{"b64": base64.b64encode(value).decode()} for value in values]
    body = {"instances": [{"image": each, "n_bytes": each} for each in row]}
    answer = ask("POST", "/v1/models/echo:predict", json.dumps(body).encode(), {})
    assert [each["n_bytes"] for each in answer.json()["predictions"]] == row

    data = b"".join(struct.pack("<I", len(value)) + value for value in values)
    tensors = [{"name": name, "datatype": "BYTES", "shape": [len(values)]} for name in ("image", "n_bytes")]  # fmt: skip
    tensors = [each | {"parameters": {"binary_data_size": len(data)}} for each in tensors]
    options = {"binary_data_output": True}
    head = json.dumps({"inputs": tensors, "parameters": options}).encode()
    length = {"inference-header-content-length": str(len(head))}
    answer = ask("POST", "/v2/models/echo/infer", head + data + data, length)
    size = int(answer.headers["inference-header-content-length"])
    assert answer.content[size:] == data + data
