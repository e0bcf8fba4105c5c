"""Errors in OpenAI's shape, and the paths that have them.

Under `/v1` its paths and TensorFlow Serving's stand side by side; of `/v1/models`, which both have,
Serving's are served. OpenAI's clients choose the exception by the status and read the body's
`message`, `type`, `param` and `code`.
"""

from __future__ import annotations

import re
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from dlkit.serving.tensors import QUOTED

COMPLETIONS = "/v1/completions"
# The first part of each of OpenAI's paths but `models`; of them one is served.
OPENAI = re.compile(
    "/v1/(assistants|audio|batches|chat|completions|conversations|edits|embeddings|engines|evals|"
    "files|fine_tuning|images|moderations|realtime|responses|threads|uploads|vector_stores|videos)"
    "(/.*)?"
)
CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


def is_openai(path: str) -> bool:
    """Say whether a path is one of OpenAI's."""
    return OPENAI.fullmatch(path) is not None


def error(message: str, status: int, param: str | None = None, code: str | None = None) -> Any:
    """Return an error's content.

    Args:
        message: one line.
        status: of HTTP.
        param: the field that is wrong.
        code: the reason, for programs; that of the status unless given.
    """
    kind = "server_error" if status >= 500 else "invalid_request_error"
    kind = "rate_limit_error" if status == 429 else kind
    code = code or CODES.get(status)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusal(
    message: str, status: int, param: str | None = None, code: str | None = None
) -> Response:
    """Return an answer that is an error; see `error`."""
    body = orjson.dumps(error(message, status, param, code))
    headers = {"Allow": "POST"} if status == 405 else None
    return Response(body, status, headers, "application/json")


async def not_served(request: Request) -> Response:
    """Answer what no completion is asked with."""
    path = request.scope["path"]
    asked = f"{request.method} {path[:QUOTED].encode('unicode_escape').decode()}"
    if path == COMPLETIONS:
        return refusal(f"Not allowed: {asked}; accepted: POST", 405, code="method_not_supported")
    message = f"Unknown request URL: {asked}; served: POST {COMPLETIONS}"
    return refusal(message, 404, code="unknown_url")
