"""The golden cases of the V2 protocol, asked of NVIDIA's Triton with models of the same signatures.

Runs where `nvidia-pytriton` is installed, which brings Triton's own server. A case in which Triton
answers otherwise says how, and why, under `triton`: that is the list of the differences.
"""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from golden_v2_models import CASES, MODELS, Model, Specs, content

pytriton = pytest.importorskip("pytriton.triton", reason="nvidia-pytriton is not installed")
model_config = pytest.importorskip("pytriton.model_config")

LENGTH = "Inference-Header-Content-Length"
NUMPY = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.bytes_}


def tensors(described: Specs) -> list[Any]:
    return [
        model_config.Tensor(
            name=name, dtype=NUMPY.get(datatype) or np.dtype(datatype.lower()).type, shape=shape
        )
        for name, (datatype, shape) in described.items()
    ]


def bind(server: Any, name: str, model: Model) -> None:
    def infer(requests: list[Any]) -> list[Any]:
        return [model.run(**dict(request.items())) for request in requests]

    config = model_config.ModelConfig(batching=False)
    ends = {"inputs": tensors(model.inputs), "outputs": tensors(model.outputs)}
    server.bind(model_name=name, infer_func=infer, config=config, **ends)


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    ports = []
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    config = pytriton.TritonConfig(
        http_address="127.0.0.1",
        http_port=ports[0],
        grpc_address="127.0.0.1",
        grpc_port=ports[1],
        metrics_port=ports[2],
    )
    workspace = str(tmp_path_factory.mktemp("triton") / "workspace")
    with pytriton.Triton(config=config, workspace=workspace) as server:
        for name, model in MODELS.items():
            bind(server, name, model)
        server.run()
        with httpx.Client(base_url=f"http://127.0.0.1:{ports[0]}", timeout=30) as client:
            yield client


@pytest.mark.parametrize("name", CASES)
def test_golden(triton: httpx.Client, name: str) -> None:
    case = CASES[name]
    request = case["request"]
    body, headers = content(request)
    found = triton.request(request["method"], request["path"], content=body, headers=headers)
    expected = case.get("triton", case)["status"]
    assert found.status_code == expected, found.text
    if expected == 200 and "answer" in case:
        length = int(found.headers.get(LENGTH, len(found.content)))
        try:
            same = alike(json.loads(found.content[:length]), case["answer"])
        except UnicodeDecodeError:
            same = False
        same = same and found.content[length:] == bytes.fromhex(case.get("answer_binary", ""))
        assert same == ("triton" not in case), found.text


def alike(found: Any, expected: Any) -> bool:
    """Say whether two answers are equal but for the digits of floats, which servers choose."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(alike(found[k], expected[k]) for k in found)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(alike, found, expected))
    if isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=1e-6)
    return found == expected and type(found) is type(expected)
