"""The server's routes: TensorFlow Serving's paths, codes and error bodies, and /healthz."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from dlkit.serving import rest
from dlkit.serving.model import ServedModel
from dlkit.serving.tensors import QUOTED, RequestError

logger = logging.getLogger("dlkit.serving")

MAX_BODY = 64 * 2**20
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
# As in http_rest_api_util.cc, less version labels.
PREDICT = re.compile(
    r"/v1/models/([^/:]+)(?:/versions/([0-9]+))?:(classify|regress|predict)", re.IGNORECASE
)
STATUS = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:/versions/([0-9]+))?(?:/(metadata))?", re.IGNORECASE
)


def create_app(models: Mapping[str, ServedModel], *, max_body: int = MAX_BODY) -> Starlette:
    """Return the ASGI application that serves `models`, keyed by the name in the URL.

    While `app.state.draining` is true /healthz fails, every other request is still answered, and
    answers close their connection.

    Args:
        models: loaded and warm.
        max_body: bytes; a longer request is refused with 413.
    """
    # Requests are parsed, run and written on these threads, so that the event loop stays free for
    # /healthz. TensorFlow spreads one request over the cores by itself: more threads only queue.
    pool = ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="predict")

    async def healthz(request: Request) -> Response:
        if app.state.draining:
            return _json({"error": "draining"}, 503)
        return _json({"status": "ok"})

    async def v1(request: Request) -> Response:
        path = request.scope["path"]
        predict = PREDICT.fullmatch(path) if request.method == "POST" else None
        status = STATUS.fullmatch(path) if request.method in ("GET", "HEAD") else None
        if predict:
            name, version, verb = predict.groups()
            if verb.lower() != "predict":
                raise RequestError(f"{verb} is not served here: use predict")
            number = _number(version)
            body = await _read(request, max_body)
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(pool, _predict, models, name, number, body)
            return Response(answer, media_type="application/json")
        if status:
            name, version, metadata = status.groups()
            if not name:
                raise RequestError("Missing model name in request.")
            describe = _metadata if metadata else _status
            return _json(describe(models, name, _number(version)))
        if not path.lower().startswith("/v1/"):
            raise RequestError(f"Not found: {path[:QUOTED]}", 404)
        raise RequestError(f"Malformed request: {request.method} {path[:QUOTED]}")

    async def guarded(request: Request) -> Response:
        try:
            response = await v1(request)
        except RequestError as error:
            response = _json({"error": str(error)}, error.status)
        except ClientDisconnect:
            response = Response(status_code=499)  # nobody reads it but the access log
        except Exception as error:  # ours; the message may quote a payload and is not logged
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind = type(error).__name__
            logger.error("%s at %s:%s", kind, os.path.basename(where.filename), where.lineno)
            response = _json({"error": f"Internal error: {kind}"}, 500)
        if app.state.draining:
            response.headers["Connection"] = "close"
        return response

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _json({"error": error.detail}, error.status_code)

    app = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/{path:path}", guarded, methods=METHODS),
        ],
        exception_handlers={HTTPException: unknown},
    )
    app.state.draining = False
    return app


def _predict(
    models: Mapping[str, ServedModel], name: str, version: int | None, body: bytes
) -> bytes:
    # In Serving's order: a malformed body is told before an unknown model.
    document = rest.parse_document(body)
    wanted = rest.signature_name(document)
    model = _find(models, name, version)
    if wanted not in model.metadata["signature_def"]:
        quoted = f'"{wanted[:QUOTED]}"'
        raise RequestError(f"Serving signature name: {quoted} not found in signature def")
    signature = model.signatures.get(wanted)
    if signature is None or not signature.inputs:
        raise RequestError(f"Failed to get input map for signature: {wanted}")
    arrays, row_format = rest.decode_inputs(document, signature.inputs)
    return rest.encode_outputs(signature.run(arrays), row_format=row_format)


def _find(models: Mapping[str, ServedModel], name: str, version: int | None) -> ServedModel:
    model = models.get(name)
    if model is None or version not in (None, model.version):
        wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        raise RequestError(f"Servable not found for request: {wanted}", 404)
    return model


def _status(models: Mapping[str, ServedModel], name: str, version: int | None) -> dict[str, Any]:
    model = models.get(name)
    if model is None or version not in (None, model.version):
        wanted = "any versions" if version is None else f"version {version}"
        raise RequestError(f"Could not find {wanted} of model {name}", 404)
    status = {"error_code": "OK", "error_message": ""}
    entry = {"version": str(model.version), "state": "AVAILABLE", "status": status}
    return {"model_version_status": [entry]}


def _metadata(models: Mapping[str, ServedModel], name: str, version: int | None) -> dict[str, Any]:
    model = _find(models, name, version)
    spec = {"name": name, "signature_name": "", "version": str(model.version)}
    return {"model_spec": spec, "metadata": {"signature_def": model.metadata}}


def _number(version: str | None) -> int | None:
    if version is None:
        return None
    if len(version) > 19 or int(version) >= 2**63:
        raise RequestError(f"Failed to convert version: {version[:QUOTED]} to numeric.")
    return int(version)


async def _read(request: Request, limit: int) -> bytes:
    """Return the request's body, of no more than `limit` bytes whatever its header says."""
    refusal = RequestError(f"Request body is larger than {limit} bytes", 413)
    if int(request.headers.get("content-length", 0)) > limit:
        raise refusal
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise refusal
        parts.append(part)
    return b"".join(parts)


def _json(content: dict[str, Any], status: int = 200) -> Response:
    body = json.dumps(content, indent=1).encode()
    return Response(body, status, media_type="application/json")
