"""What the paths of the OpenAPI document are put together from."""

from __future__ import annotations

from typing import Any

Part = dict[str, Any]

REF = "#/components/schemas/"
ERROR: Part = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
REFUSALS = {
    400: "What was sent is not what the model takes; the reason in one line.",
    401: "A key is needed.",
    404: "No such model, version or label.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "Of an encoding that is not known.",
    429: "Too many requests at once; try again.",
    500: "The server's own fault.",
    501: "JSON cannot carry a type that the model takes or gives.",
    503: "The queue is full, or the server stops.",
    504: "The request waited too long for its turn.",
}
MODEL: Part = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
VERSION: Part = {
    "name": "version",
    "in": "path",
    "required": True,
    "schema": {"type": "integer", "minimum": 0},
}


def ref(name: str) -> Part:
    """Return a reference to a component."""
    return {"$ref": REF + name}


def operation(tag: str, summary: str, answers: Part, *refusals: int, **more: Any) -> Part:
    """Return an operation.

    Args:
        tag: one of `TAGS`.
        summary: one line.
        answers: responses by status.
        refusals: statuses answered with `{"error": ...}`, beside 401 and 429.
        more: other members: parameters, requestBody, security.
    """
    refused = {
        str(status): {"description": REFUSALS[status], "content": json_of(ref("Error"))}
        for status in sorted({*refusals, 401, 429})
    }
    if more.get("security") == []:  # open to everybody, at any time
        refused = {k: v for k, v in refused.items() if k not in ("401", "429")}
    return {"tags": [tag], "summary": summary, "responses": answers | refused, **more}


def json_of(schema: Part, **more: Any) -> Part:
    """Return the content of a body in JSON."""
    return {"application/json": {"schema": schema, **more}}


def answer_of(words: str, schema: Part | None = None, status: int = 200) -> Part:
    """Return one response by status."""
    return {str(status): {"description": words, "content": json_of(schema or {"type": "object"})}}
