"""What the server says when it is ready: where each model is, and a request to paste."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping

import numpy as np

from dlkit.serving.model import ServedModel
from dlkit.serving.rest import DEFAULT_SIGNATURE
from dlkit.serving.tensors import DTYPES, TensorSpec, to_base64

PASTE = 1000  # characters of a request that one still cares to paste into a terminal


def reachable(host: str) -> str:
    """Return how a client on this machine writes the address that was listened on."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def announcement(model: ServedModel, host: str, port: int) -> str:
    """Return the model's URL and a curl command that can be pasted, as two lines."""
    url = f"http://{reachable(host)}:{port}/v1/models/{model.name}"
    body = _example(model)
    if body is not None:
        command = f"curl -d {shlex.quote(body)} {url}:predict"
    elif _inputs(model).keys() == {"image"}:
        start, end = """'{"instances": [{"b64": "'""", """'"}]}'"""
        base64 = "base64 < image.png | tr -d '\\n'"
        command = f"(printf {start}; {base64}; printf {end}) | curl -d @- {url}:predict"
    else:
        command = f"curl {url}/metadata"
    manifest = model.manifest or {}
    known = [str(manifest[key]) for key in ("task", "model", "run") if manifest.get(key)]
    about = f" ({', '.join(known)})" if known else ""
    return f"{model.name}{about}: {url}:predict\n  {command}"


def _inputs(model: ServedModel) -> Mapping[str, TensorSpec]:
    signature = model.signatures.get(DEFAULT_SIGNATURE)
    return signature.inputs if signature is not None else {}


def _example(model: ServedModel) -> str | None:
    """Return a request short enough to paste: a recorded one, else zeros; None for an image."""
    inputs = _inputs(model)
    # Rows are needed, of few numbers each.
    if not inputs or not all(
        spec.dtype in DTYPES and spec.shape and math.prod(n or 1 for n in spec.shape) <= PASTE
        for spec in inputs.values()
    ):
        return None
    arrays = model.example
    if arrays is None and inputs.keys() != {"image"}:
        arrays = {
            name: np.full(
                [size or 1 for size in spec.shape or ()],
                b"text" if spec.dtype == "string" else 0,
                DTYPES[spec.dtype],
            )
            for name, spec in inputs.items()
        }
    body = _instance(arrays) if arrays else ""
    return body if 0 < len(body) <= PASTE else None


def _instance(inputs: Mapping[str, np.ndarray]) -> str:
    """Write the first row of inputs by name as the body of a request in row format."""
    row = {name: array[:1].tolist()[0] for name, array in inputs.items()}
    only = next(iter(row.values()))
    return json.dumps({"instances": [row if len(row) > 1 else only]}, default=_text_or_base64)


def _text_or_base64(value: bytes) -> str | dict[str, str]:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return to_base64(value)
    return text if text.isprintable() else to_base64(value)
