"""The models that the golden cases of the V2 protocol ask for, and the cases themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Specs = dict[str, tuple[str, list[int]]]  # name -> datatype, shape

FILES = sorted(Path(__file__).with_name("golden_v2").glob("*.json"))
CASES: dict[str, dict[str, Any]] = {
    f"{path.stem}: {case['name']}": case
    for path in FILES
    for case in json.loads(path.read_text(encoding="utf-8"))
}


@dataclass(frozen=True)
class Model:
    """What a model takes, gives and does; any server of the protocol can be given it."""

    inputs: Specs
    outputs: Specs
    run: Callable[..., Arrays]


TYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"]
TYPES += ["FP32", "FP64", "BYTES"]
PLAIN: Specs = {datatype.lower(): (datatype, [-1]) for datatype in TYPES}


def add(left: np.ndarray, right: np.ndarray) -> Arrays:
    total = left.sum(-1) + right.astype(np.float32)
    return {"positive": total > 0, "total": total}


MODELS = {
    "two": Model(
        {"left": ("FP32", [-1, 2]), "right": ("INT32", [-1])},
        {"positive": ("BOOL", [-1]), "total": ("FP32", [-1])},
        add,
    ),
    "types": Model(PLAIN, PLAIN, lambda **arrays: arrays),
    "half": Model({"x": ("FP16", [-1])}, {"y": ("FP16", [-1])}, lambda x: {"y": x}),
    "text": Model(
        {"text": ("BYTES", [-1])},
        {"raw_bytes": ("BYTES", [-1]), "text": ("BYTES", [-1])},
        lambda text: {"raw_bytes": text, "text": text},
    ),
}


def content(request: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a golden case's request."""
    headers = dict(request.get("headers", {}))
    if "raw" in request:
        return bytes.fromhex(request["raw"]), headers
    if "body" not in request:
        return b"", headers
    body = json.dumps(request["body"]).encode()
    if "binary" in request:
        headers["Inference-Header-Content-Length"] = str(len(body))
        body += bytes.fromhex(request["binary"])
    return body, headers
