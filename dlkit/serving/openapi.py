"""The OpenAPI document of everything the server answers over HTTP.

Written down by hand, path by path, and held against the routes by the tests; what a model takes is
added from the signatures of those that are served.
"""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import dlkit
from dlkit.serving import openapi_completions, openapi_v2
from dlkit.serving.model import ServedModel
from dlkit.serving.openapi_parts import (
    ERROR,
    MODEL,
    VERSION,
    Part,
    answer_of,
    json_of,
    operation,
    ref,
)
from dlkit.serving.openapi_schemas import BASE64, key, model_schemas
from dlkit.serving.page import example_row
from dlkit.serving.service import Service
from dlkit.serving.streaming import is_text

TAGS = {
    "models": "TensorFlow Serving's REST interface. Paths are answered under `/V1` as well.",
    "completions": "OpenAI's text completions.",
    "v2": "The Open Inference Protocol V2.",
    "health": "For probes and for Prometheus.",
    "pages": "For people; what the pages are made of.",
}
LABEL: Part = {**MODEL, "name": "label", "description": "A version's label, such as `stable`."}
# How a version is named in a path of V1, and the parameters of that.
WHICH: dict[str, list[Part]] = {
    "": [],
    "/versions/{version}": [VERSION],
    "/labels/{label}": [LABEL],
}
VERBS = {
    "predict": "Answer rows (`instances`) or columns (`inputs`).",
    "classify": "Classes and scores of `examples`, by a signature of that method.",
    "regress": "A number for each of the `examples`, by a signature of that method.",
}


def routes(service: Service, secured: bool) -> list[Route]:
    """Return the route of the document.

    Args:
        service: its models are described as they are when asked.
        secured: requests need a key.
    """

    async def answer(request: Request) -> Response:
        body = orjson.dumps(document(service, secured), option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, media_type="application/json")

    return [Route("/openapi.json", answer)]


def document(service: Service, secured: bool) -> Part:
    """Return the document, of OpenAPI 3.1."""
    models = [
        versions[0]
        for name in service.servables.names()
        if (versions := service.servables.versions(name))
    ]
    schemas: Part = {"Error": ERROR, "Base64": BASE64}
    schemas |= openapi_completions.schemas([m.name for m in models if is_text(m)])
    schemas |= openapi_v2.SCHEMAS
    for model in models:
        schemas |= model_schemas(model)
    security: list[Part] = [{"bearer": []}, {"key": []}]
    paths: Part = {
        **health(),
        **v1(models),
        **openapi_completions.paths(),
        **openapi_v2.paths(),
        **pages(),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dlkit",
            "version": dlkit.__version__,
            "description": "Exported models over HTTP.",
        },
        "tags": [{"name": name, "description": words} for name, words in TAGS.items()],
        "paths": paths,
        "security": security if secured else [{}],
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def v1(models: list[ServedModel]) -> Part:
    """Return TensorFlow Serving's paths, and those of the models that are served with their schemas."""
    list_refused = "Always refused, as TensorFlow Serving does; see `/page/models.json`."
    found: Part = {
        "/v1/models": {"get": operation("models", list_refused, {}, 400)},
    }
    for which, parameters in WHICH.items():
        path, given = f"/v1/models/{{model}}{which}", [MODEL, *parameters]
        for verb, summary in VERBS.items():
            body = {"required": True, "content": json_of({"type": "object"})}
            found[f"{path}:{verb}"] = {
                "parameters": given,
                "post": operation(
                    "models", summary, answer_of("The answers."),
                    400, 404, 408, 413, 415, 500, 501, 503, 504, requestBody=body,
                ),
            }  # fmt: skip
        status, metadata = "Where its versions stand.", "Its signatures."
        for ending, words in (("", status), ("/metadata", metadata)):
            found[path + ending] = {
                "parameters": given,
                "get": operation("models", words, answer_of(words), 400, 404),
            }
    for model in models:
        found[f"/v1/models/{model.name}:predict"] = {"post": _predict(model)}
    return found


def _predict(model: ServedModel) -> Part:
    row = example_row(model)
    example: Part = {}
    if row:
        example["example"] = {"instances": [row if len(row) > 1 else next(iter(row.values()))]}
    return operation(
        "models",
        f"Ask {model.name}.",
        answer_of("The answers.", ref(key(model.name, "answer"))),
        400, 404, 408, 413, 415, 500, 501, 503, 504,
        requestBody={"required": True, "content": json_of(ref(key(model.name, "request")), **example)},
    )  # fmt: skip


def health() -> Part:
    """Return the paths for probes and counters."""
    counters = {
        "200": {
            "description": "Counters.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    }
    scraped = {"get": operation("health", "Counters in Prometheus's text format.", counters)}
    ready = answer_of("Every model answers.") | answer_of(
        "Not yet, or no longer.", ref("Error"), 503
    )
    return {
        "/healthz": {"get": operation("health", "Say whether it is ready.", ready, security=[])},
        "/metrics": scraped,
        "/monitoring/prometheus/metrics": scraped,
    }


def pages() -> Part:
    """Return the paths of the pages."""

    def page(summary: str, kind: str = "text/html", more: Part | None = None) -> Part:
        content = {kind: {"schema": {"type": "string"}}}
        answer = {"200": {"description": summary, "content": content}}
        return {"get": operation("pages", summary, answer | (more or {}), security=[])}

    file = {**MODEL, "name": "file", "description": "A script or the style sheet."}
    none = answer_of("There is no such file.", ref("Error"), 404)
    script = page("A file of the pages.", "text/javascript", none)
    return {
        "/": page("What is served, and a form for each model."),
        "/docs": page("This document, to be read."),
        "/page/{file}": {"parameters": [file], **script},
        "/page/models.json": {
            "get": operation(
                "pages", "What the page shows of the models.", answer_of("The models.")
            )
        },
        "/openapi.json": {"get": operation("pages", "This document.", answer_of("OpenAPI 3.1."))},
    }
