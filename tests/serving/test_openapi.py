"""The OpenAPI document says what the routes do: all of them, and nothing else."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from dlkit.serving import v1
from dlkit.serving.app import create_app
from dlkit.serving.model import load_model
from dlkit.serving.page import page_files
from dlkit.serving.servables import Servables
from dlkit.serving.service import Service

# Behind these a protocol takes the path apart by itself.
OPEN_ENDED = {"/v1/{path:path}", "/V1/{path:path}", "/v2/{path:path}", "/{path:path}"}
VALUES = {"model": "t", "version": "10", "label": "stable", "file": "page.css"}


def asked(app: Any, method: str, path: str, body: Any = None) -> httpx.Response:
    async def exchange() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            content = None if body is None else json.dumps(body)
            return await client.request(method, path, content=content)

    return asyncio.run(exchange())


@pytest.fixture(scope="module")
def app(pictures: Path, tools: Path) -> Any:
    service = Service(Servables([load_model("pic", pictures), load_model("t", tools)]))
    service.servables.label("t", {"stable": 10})
    return create_app(service)


@pytest.fixture(scope="module")
def document(app: Any) -> dict[str, Any]:
    return asked(app, "GET", "/openapi.json").json()


def test_it_is_openapi(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()
    assert document["security"] == [{}]
    tags = {tag["name"] for tag in document["tags"]}
    for item in document["paths"].values():
        for method in ("get", "post"):
            assert set(item.get(method, {"tags": []})["tags"]) <= tags


def test_every_route_is_documented(app: Any, document: dict[str, Any]) -> None:
    routes = {route.path for route in app.app.routes if isinstance(route, Route)}
    assert routes >= OPEN_ENDED
    files = {path for path in page_files() if path.startswith("/page/")}
    expected = routes - OPEN_ENDED - files | {"/page/{file}"}
    which = ("", "/versions/{version}", "/labels/{label}")
    verbs = [f":{verb}" for verb in v1.VERBS]
    for each, ending in itertools.product(which, ["", "/metadata", *verbs]):
        path = f"/v1/models/{{model}}{each}{ending}"
        pattern = v1.INFER if ":" in ending else v1.DESCRIBE
        assert pattern.fullmatch(path.format(**VALUES))
        expected.add(path)
    expected |= {f"/v1/models/{name}:predict" for name in ("pic", "t")} | {"/v1/models"}
    expected |= {f"/v2/health/{each}" for each in ("live", "ready")} | {"/v2/repository/index"}
    for each, ending in itertools.product(which[:2], ["", "/ready", "/infer"]):
        expected.add(f"/v2/models/{{model}}{each}{ending}")
    assert set(document["paths"]) == expected


def test_every_documented_path_is_a_route(app: Any, document: dict[str, Any]) -> None:
    for template, item in document["paths"].items():
        path = re.sub(r"\{(\w+)\}", lambda found: VALUES[found[1]], template)
        assert {p["name"] for p in item.get("parameters", [])} == set(
            re.findall(r"\{(\w+)\}", template)
        )
        for method in {"get", "post"} & item.keys():
            answer = asked(app, method.upper(), path, {} if method == "post" else None)
            assert answer.status_code != 405
            assert not re.match(r'{"error":\s*"(Not found|Malformed request)', answer.text), path
            assert str(answer.status_code) in item[method]["responses"], (path, answer.text)
            other = asked(app, "DELETE", path)
            assert other.status_code in (400, 404, 405)


def test_schemas_of_models_are_what_the_models_take(app: Any, document: dict[str, Any]) -> None:
    def valid(name: str, value: Any) -> bool:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        return jsonschema.Draft202012Validator(schema).is_valid(value)

    rows = [{"left": [1, 2], "right": 3}]
    good = [
        ("pic", document["paths"]["/v1/models/pic:predict"]["post"]["requestBody"]["content"]
         ["application/json"]["example"]),
        ("pic", {"signature_name": "from_pixels", "instances": [[[[0], [1]], [[2], [255]]]]}),
        ("t", {"instances": rows}),
        ("t", {"inputs": {"left": [[1, 2.5]], "right": [3]}, "signature_name": "serving_default"}),
        ("t", {"signature_name": "echo", "instances": ["a", {"b64": "YQ=="}]}),
    ]  # fmt: skip
    for model, body in good:
        assert valid(f"{model}.request", body), body
        answer = asked(app, "POST", f"/v1/models/{model}:predict", body)
        assert answer.status_code == 200, answer.text
        assert valid(f"{model}.answer", answer.json()), answer.text
    bad = [
        ("pic", {"signature_name": "from_pixels", "instances": [[[[0], [1]], [[2], [256]]]]}),
        ("pic", {"signature_name": "from_pixels", "instances": [[[0], [1]], [[2], [3]]]}),
        ("pic", {"signature_name": "from_bytes", "instances": ["x"]}),
        ("t", {"instances": [{"left": [1, 2]}]}),
        ("t", {"instances": [{"left": [1, 2, 3], "right": 3}]}),
        ("t", {"instances": [{"left": [1, 2], "right": 3.5}]}),
        ("t", {"instances": rows, "inputs": {"left": [[1, 2]], "right": [3]}}),
        ("t", {"instances": []}),
        ("t", {}),
    ]
    for model, body in bad:
        assert not valid(f"{model}.request", body), body
        assert asked(app, "POST", f"/v1/models/{model}:predict", body).status_code == 400


def test_a_server_with_a_key_says_so(pictures: Path) -> None:
    app = create_app(Service(Servables([load_model("pic", pictures)])), ["secret"])

    async def exchange() -> httpx.Response:
        transport, key = httpx.ASGITransport(app=app), {"x-api-key": "secret"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/openapi.json", headers=key)

    told = asyncio.run(exchange()).json()
    assert told["security"] == [{"bearer": []}, {"key": []}]
    open_paths = {
        p for p, item in told["paths"].items() if item.get("get", {}).get("security") == []
    }
    assert open_paths == {
        "/",
        "/docs",
        "/page/{file}",
        "/healthz",
        "/v2/health/live",
        "/v2/health/ready",
    }
