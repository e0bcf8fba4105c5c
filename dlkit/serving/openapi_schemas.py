"""JSON Schemas of what models take and give over REST V1, made from their signatures."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from dlkit.serving.model import ServedModel, Signature
from dlkit.serving.openapi_parts import Part, ref
from dlkit.serving.rest import DEFAULT_SIGNATURE
from dlkit.serving.tensors import INTEGERS, TensorSpec

BASE64: Part = {
    "type": "object",
    "properties": {"b64": {"type": "string", "contentEncoding": "base64"}},
    "required": ["b64"],
    "additionalProperties": False,
}


def key(*parts: str) -> str:
    """Return the name of a component: OpenAPI allows letters, digits, '.', '-' and '_'."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", ".".join(parts))


def value_schema(spec: TensorSpec, rows: bool) -> Part:
    """Return the schema of a tensor's value in JSON.

    Args:
        spec: of the tensor.
        rows: of one row, without the first dimension.
    """
    schema = _leaf(spec.dtype)
    if spec.shape is None:
        return {"description": f"{spec.dtype}, of any shape"}
    for size in reversed(spec.shape[1 if rows else 0 :]):
        schema = {"type": "array", "items": schema}
        if size is not None:
            schema |= {"minItems": size, "maxItems": size}
    return schema


def _leaf(dtype: str) -> Part:
    if dtype == "string":
        return {"oneOf": [{"type": "string"}, ref("Base64")]}
    if dtype == "bool":
        return {"type": "boolean"}
    if dtype in INTEGERS:
        limits = np.iinfo(dtype)
        return {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}
    return {"type": "number"}


def _fields(specs: Mapping[str, TensorSpec], rows: bool) -> Part:
    return {
        "type": "object",
        "properties": {name: value_schema(spec, rows) for name, spec in specs.items()},
        "required": list(specs),
        "additionalProperties": False,
    }


def _either(specs: Mapping[str, TensorSpec], rows: bool) -> Part:
    """A single tensor may stand without its name."""
    named = _fields(specs, rows)
    if len(specs) > 1:
        return named
    (only,) = specs.values()
    return {"anyOf": [value_schema(only, rows), named]}


def _request(name: str, signature: Signature) -> Part:
    chosen: Part = {"const": name}
    common = {
        "signature_name": {**chosen, "default": name} if name == DEFAULT_SIGNATURE else chosen
    }
    needed = [] if name == DEFAULT_SIGNATURE else ["signature_name"]
    rows = {"type": "array", "minItems": 1, "items": _either(signature.inputs, True)}
    columns = _either(signature.inputs, False)
    return {
        "title": name,
        "type": "object",
        "oneOf": [
            {"properties": common | {name_: schema}, "required": [*needed, name_]}
            for name_, schema in (("instances", rows), ("inputs", columns))
        ],
    }


def _answer(name: str, signature: Signature) -> Part:
    def bare(rows: bool) -> Part:
        if len(signature.outputs) > 1:
            return _fields(signature.outputs, rows)
        (only,) = signature.outputs.values()
        return value_schema(only, rows)

    return {
        "title": name,
        "type": "object",
        "properties": {
            "predictions": {"type": "array", "items": bare(True)},
            "outputs": bare(False),
        },
    }


def model_schemas(model: ServedModel) -> dict[str, Part]:
    """Return the components of a model: its request and its answer, one alternative a signature.

    A NaN or infinity that stands bare in JSON is taken and given too; no schema can say so.
    """
    taking = {name: each for name, each in model.signatures.items() if each.inputs}
    return {
        key(model.name, "request"): {
            "anyOf": [_request(name, each) for name, each in taking.items()]
        },
        key(model.name, "answer"): {
            "anyOf": [_answer(name, each) for name, each in taking.items()]
        },
    }
