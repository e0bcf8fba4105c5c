"""The part of the OpenAPI document that tells of the Open Inference Protocol V2."""

from __future__ import annotations

from dlkit.serving.openapi_parts import (
    MODEL,
    VERSION,
    Part,
    answer_of,
    json_of,
    operation,
    ref,
)
from dlkit.serving.v2_tensors import TYPES

PARAMETERS: Part = {"type": "object", "description": "Extensions, such as `signature_name`."}
TENSOR: Part = {
    "name": {"type": "string"},
    "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
    "datatype": {"enum": sorted(TYPES)},
    "parameters": PARAMETERS,
    "data": {"type": "array", "description": "Flat or nested; absent where it is binary data."},
}
DESCRIBED: Part = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "datatype": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
        },
        "required": ["name", "datatype", "shape"],
    },
}


def _tensor(*required: str) -> Part:
    return {"type": "object", "properties": TENSOR, "required": list(required)}


def _object(required: tuple[str, ...] = (), **properties: Part) -> Part:
    return {"type": "object", "properties": properties, "required": list(required)}


EXAMPLE: Part = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [0.5]}]}
OUTPUT = {"type": "object", "properties": {k: TENSOR[k] for k in ("name", "parameters")}}
SCHEMAS: Part = {
    "V2Request": _object(
        ("inputs",),
        id={"type": "string"},
        parameters=PARAMETERS,
        inputs={"type": "array", "items": _tensor("name", "shape", "datatype")},
        outputs={"type": "array", "items": {**OUTPUT, "required": ["name"]}},
    ),
    "V2Answer": _object(
        ("model_name", "outputs"),
        model_name={"type": "string"},
        model_version={"type": "string"},
        id={"type": "string"},
        parameters=PARAMETERS,
        outputs={"type": "array", "items": _tensor("name", "shape", "datatype")},
    ),
    "V2Model": _object(
        ("name", "inputs", "outputs"),
        name={"type": "string"},
        versions={"type": "array", "items": {"type": "string"}},
        platform={"type": "string"},
        inputs=DESCRIBED,
        outputs=DESCRIBED,
    ),
}


def paths() -> Part:
    """Return the paths."""

    def said(name: str) -> Part:
        return _object((name,), **{name: {"type": "boolean"}})

    live = answer_of("It runs.", said("live"))
    ready = answer_of("Every model answers.", said("ready"))
    ready |= answer_of("Not yet, or no longer.", said("ready"), 400)
    server = _object(
        name={"type": "string"},
        version={"type": "string"},
        extensions={"type": "array", "items": {"type": "string"}},
    )
    listed = {"type": "array", "items": {"type": "object"}}
    index = {"content": json_of(_object(ready={"type": "boolean"}))}
    found: Part = {
        "/v2": {"get": operation("v2", "About the server.", answer_of("It.", server))},
        "/v2/health/live": {"get": operation("v2", "Say whether it runs.", live, security=[])},
        "/v2/health/ready": {
            "get": operation("v2", "Say whether every model answers.", ready, security=[])
        },
        "/v2/repository/index": {
            "post": operation(
                "v2", "Where all versions stand.", answer_of("They.", listed), 400, 408, 413, 415,
                requestBody=index,
            )
        },
    }  # fmt: skip
    binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    words = "The answers; binary data stands behind the JSON, whose length is in a header."
    answered = {"200": {"description": words, "content": json_of(ref("V2Answer")) | binary}}
    length: Part = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "required": False,
        "description": "Bytes of JSON in a body with binary data behind it.",
        "schema": {"type": "integer", "minimum": 0},
    }
    signature: Part = {
        "name": "signature_name",
        "in": "query",
        "required": False,
        "schema": {"type": "string", "default": "serving_default"},
    }
    for which, version in (("", []), ("/versions/{version}", [VERSION])):
        path, given = f"/v2/models/{{model}}{which}", [MODEL, *version]
        about = answer_of("Them.", ref("V2Model"))
        found |= {
            path: {
                "parameters": given,
                "get": operation("v2", "Its inputs and outputs.", about, 400, 404, parameters=[signature]),
            },
            f"{path}/ready": {
                "parameters": given,
                "get": operation("v2", "Say whether it answers.", answer_of("It does."), 400, 404),
            },
            f"{path}/infer": {
                "parameters": given,
                "post": operation(
                    "v2", "Answer tensors.", answered, 400, 404, 408, 413, 415, 500, 503, 504,
                    parameters=[length],
                    requestBody={"required": True, "content": json_of(ref("V2Request"), example=EXAMPLE) | binary},
                ),
            },
        }  # fmt: skip
    return found
