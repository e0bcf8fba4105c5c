"""The pages for a person: `/`, where what is served can be asked, and `/docs`.

The pages themselves hold nothing of the models and need no key; what they show comes from
`/page/models.json` and `/openapi.json`, which do. Where a key is needed the page asks for it, keeps
it for the browser's tab alone and sends it in a header. Nothing comes from another server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dlkit.serving.model import ServedModel
from dlkit.serving.service import Service
from dlkit.serving.streaming import is_text
from dlkit.serving.tensors import TensorSpec, to_base64

FOLDER = Path(__file__).with_name("page")
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
PAGES = {"/": "index.html", "/docs": "docs.html"}
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self' data: blob:",  # pictures that were chosen, and those that are answers
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# What of a manifest helps to ask the model; its files and where its data lay are nobody's business.
ABOUT = (
    "task", "model", "run", "kind", "labels", "columns", "categories", "feature_names", "roles",
    "lookback", "horizon", "frequency", "coverage", "window", "input_shape", "picture_shape",
    "directions", "threshold", "false_positive_rate", "context", "vocabulary",
)  # fmt: skip
LARGEST_EXAMPLE = 100_000  # bytes of JSON


def page_files() -> dict[str, Path]:
    """Return the files of the pages by the path that they are served at."""
    files = {f"/page/{path.name}": path for path in sorted(FOLDER.iterdir())}
    return files | {path: FOLDER / name for path, name in PAGES.items()}


# Open to everybody, also where a key is needed.
OPEN = frozenset(page_files())


def routes(service: Service) -> list[Route]:
    """Return the routes of the pages."""

    def static(path: str, file: Path) -> Route:
        content, kind = file.read_bytes(), TYPES[file.suffix]

        async def answer(request: Request) -> Response:
            return Response(content, headers=HEADERS, media_type=kind)

        return Route(path, answer)

    async def models(request: Request) -> Response:
        body = orjson.dumps(described(service), option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, headers=HEADERS, media_type="application/json")

    found = [static(path, file) for path, file in page_files().items()]
    return [*found, Route("/page/models.json", models)]


def described(service: Service) -> dict[str, Any]:
    """Return what the page shows: the models that answer, newest version each, and the limits."""
    models = []
    for name in service.servables.names():
        versions = service.servables.versions(name)
        states = service.servables.states(name)
        entry: dict[str, Any] = {
            "name": name,
            "versions": [{"version": s.version, "state": s.state} for s in states],
            "labels": service.servables.labels(name),
        }
        models.append(entry | (_model(versions[0]) if versions else {}))
    limits = {"body": service.limits.body, "rows": service.limits.rows}
    return {"models": models, "limits": limits}


def _model(model: ServedModel) -> dict[str, Any]:
    manifest = model.manifest or {}
    return {
        "version": model.version,
        "about": {key: manifest[key] for key in ABOUT if key in manifest},
        "streams": is_text(model),
        "endpoints": {
            name: {"inputs": _tensors(each.inputs), "outputs": _tensors(each.outputs)}
            for name, each in model.signatures.items()
        },
        "example": example_row(model),
    }


def _tensors(specs: dict[str, TensorSpec]) -> dict[str, Any]:
    return {name: {"dtype": spec.dtype, "shape": spec.shape} for name, spec in specs.items()}


def example_row(model: ServedModel) -> dict[str, Any] | None:
    """Return the first row of a recorded request by input, unless it is large."""
    row = {
        name: _plain(np.ascontiguousarray(array)[0])
        for name, array in (model.example or {}).items()
        if array.ndim
    }
    size = len(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY))
    return row if row and size <= LARGEST_EXAMPLE else None


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return to_base64(value)
    if isinstance(value, np.ndarray):
        # As arrays, float32 is written in the few digits that it has.
        return [_plain(each) for each in value] if value.dtype == object else value
    return value
