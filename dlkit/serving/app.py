"""The HTTP application: the protocols' routes behind one guard."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from dlkit.serving import openai_errors, openapi, page
from dlkit.serving.completions import Completions
from dlkit.serving.guard import Guard
from dlkit.serving.service import Service
from dlkit.serving.tensors import QUOTED, RequestError
from dlkit.serving.v1 import RestV1, json_response
from dlkit.serving.v2 import RestV2, error_response

logger = logging.getLogger("dlkit.serving")

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
Handler = Callable[[Request], Awaitable[Response]]


def create_app(service: Service, keys: Iterable[str] = ()) -> Any:
    """Return the ASGI application that serves `service`.

    Args:
        service: its models may still change.
        keys: API keys, one of which every request must carry but those to the health checks.
    """

    async def healthz(request: Request) -> Response:
        if service.draining:
            return json_response({"error": "draining"}, 503)
        if not service.servables.ready():
            return json_response({"error": "not ready"}, 503)
        return json_response({"status": "ok"})

    async def prometheus(request: Request) -> Response:
        text = service.metrics.text()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def unknown(request: Request) -> Response:
        raise RequestError(f"Not found: {request.scope['path'][:QUOTED]}", 404)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return json_response({"error": error.detail}, error.status_code)

    keys = tuple(keys)
    serving = guarded(RestV1(service))
    completions = guarded(Completions(service), openai_errors.refusal)

    async def v1(request: Request) -> Response:
        if openai_errors.is_openai(request.scope["path"]):
            return await openai_errors.not_served(request)
        return await serving(request)

    v2 = RestV2(service)
    app = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/metrics", prometheus),
            Route("/monitoring/prometheus/metrics", prometheus),
            Route(openai_errors.COMPLETIONS, completions, methods=["POST"]),
            Route("/v1/{path:path}", v1, methods=METHODS),
            Route("/V1/{path:path}", serving, methods=METHODS),  # Serving looks at no case
            Route("/v2", guarded(v2, error_response), methods=METHODS),
            Route("/v2/{path:path}", guarded(v2, error_response), methods=METHODS),
            *page.routes(service),
            *openapi.routes(service, secured=bool(keys)),
            Route("/{path:path}", guarded(unknown), methods=METHODS),
        ],
        exception_handlers={HTTPException: refused},
    )
    return Guard(app, service, keys)


def guarded(handler: Handler, write: Callable[[str, int], Response] | None = None) -> Handler:
    """Return a handler whose errors are answers.

    Args:
        handler: raises RequestError for what the client can mend.
        write: an error's message and HTTP status to the protocol's error body; `{"error": message}`
            unless given.
    """
    written = write or (lambda message, status: json_response({"error": message}, status))

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except RequestError as error:
            return written(str(error), error.status)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it but the access log
        except Exception as error:  # ours; the message may quote a payload and is not logged
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind = type(error).__name__
            logger.error("%s at %s:%s", kind, os.path.basename(where.filename), where.lineno)
            return written(f"Internal error: {kind}", 500)

    return answer
