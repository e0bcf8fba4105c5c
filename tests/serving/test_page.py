"""The pages: everything in its place, nothing from elsewhere, nothing that could be markup."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from dlkit.serving.app import create_app
from dlkit.serving.model import load_model
from dlkit.serving.page import FOLDER, page_files
from dlkit.serving.servables import Servables
from dlkit.serving.service import Limits, Service

SCRIPT = "<script>alert(1)</script>"


def got(app: Any, path: str, **headers: str) -> httpx.Response:
    async def exchange() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(exchange())


@pytest.fixture(scope="module")
def service(pictures: Path, tools: Path) -> Service:
    light = load_model("pic", pictures)
    light = dataclasses.replace(light, manifest={**(light.manifest or {}), "labels": [SCRIPT, "b"]})
    service = Service(Servables([light, load_model("t", tools)]), Limits(body=12345))
    service.servables.label("t", {"stable": 10})
    return service


@pytest.mark.parametrize("path", page_files())
def test_files_are_served_with_a_strict_policy(service: Service, path: str) -> None:
    answer = got(create_app(service), path)
    assert answer.status_code == 200
    policy = dict(
        each.split(" ", 1) for each in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    kind = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
    ending = Path(path).suffix or ".html"
    assert answer.headers["content-type"] == f"{kind[ending]}; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    text = answer.text
    # The one address is a name, never asked for.
    assert set(re.findall(r"(?:https?:)?//[\w.]+", re.sub(r"// .*", "", text))) <= {
        "http://www.w3.org"
    }
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text)
    if ending == ".html":
        assert not re.search(r"<script(?![^>]* src=)|<style|\s(on\w+|style)=", text)
        named = re.findall(r'(?:src|href)="([^"#]+)"', text)
    else:
        named = [f"page/{each}" for each in re.findall(r'from "\./([^"]+)"', text)]
    known = {each.lstrip("/") for each in page_files()} | {"./", "data:,", "openapi.json"}
    assert set(named) <= known


def test_every_file_is_of_a_known_kind_and_used() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    text = "".join(path.read_text(encoding="utf-8") for path in FOLDER.iterdir())
    unused = {name for name in names if f'page/{name}"' not in text and f'./{name}"' not in text}
    assert unused == {"index.html", "docs.html"}


def test_what_the_page_shows(service: Service) -> None:
    shown = got(create_app(service), "/page/models.json").json()
    assert shown["limits"] == {"body": 12345, "rows": 4096}
    pic, tool = shown["models"]
    assert pic["about"] == {
        "task": "image-classification",
        "model": "lenet",
        "run": "abc",
        "labels": [SCRIPT, "b"],
    }
    assert pic["endpoints"]["from_pixels"]["inputs"] == {
        "pixels": {"dtype": "uint8", "shape": [None, 2, 2, 1]}
    }
    assert pic["example"]["image"].keys() == {"b64"}
    assert tool["labels"] == {"stable": 10}
    assert tool["versions"] == [{"version": 10, "state": "AVAILABLE"}]
    assert (tool["about"], tool["example"], tool["streams"]) == ({}, None, False)
    service.servables.mark("late", 1, "LOADING")
    late = got(create_app(service), "/page/models.json").json()["models"][0]
    assert late == {"name": "late", "versions": [{"version": 1, "state": "LOADING"}], "labels": {}}


def test_with_a_key_only_the_empty_pages_are_open(service: Service) -> None:
    app = create_app(service, ["secret"])
    assert all(got(app, path).status_code == 200 for path in page_files())
    for path in ("/page/models.json", "/openapi.json"):
        assert got(app, path).status_code == 401
        assert got(app, path, authorization="Bearer secret").status_code == 200
    assert got(app, "/page/", authorization="Bearer secret").status_code == 404
    assert "pic" not in got(app, "/").text
