"""The golden cases: how they are read, sent and compared."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from golden_models import golden_service

from dlkit.serving.app import create_app

Case = dict[str, Any]
FILES = sorted(Path(__file__).with_name("golden").glob("v1_*.json"))
CASES: dict[str, Case] = {
    f"{file.stem}: {case['name']}": case for file in FILES for case in json.loads(file.read_text())
}


class Client:
    """Sends the cases to a server in this process, on one event loop.

    Args:
        directory: an empty one; the SavedModels are written there.
    """

    def __init__(self, directory: Path) -> None:
        self.runner = asyncio.Runner()
        transport = httpx.ASGITransport(app=create_app(golden_service(directory)))
        self.http = httpx.AsyncClient(transport=transport, base_url="http://test")
        # What the cases of the counters count.
        examples = {"signature_name": "classify_x_to_y", "examples": [{"x": 1.0}]}
        for verb, body in (
            ("predict", {"instances": [[1.0]]}),
            ("classify", examples),
            ("predict", {"instances": 1}),
        ):
            self.send({"method": "POST", "path": f"/v1/models/counted:{verb}", "body": body})

    def send(self, request: dict[str, Any]) -> httpx.Response:
        """Send a case's request."""
        content = request.get("raw", json.dumps(request["body"]) if "body" in request else "")
        data = gzip.compress(content.encode()) if request.get("gzip") else content.encode()
        headers, target = request.get("headers", {}), request["path"]
        asked = self.http.request(request["method"], target, content=data, headers=headers)
        return self.runner.run(asked)

    def close(self) -> None:
        """End the event loop."""
        self.runner.run(self.http.aclose())
        self.runner.close()


def wrong(case: Case, answer: httpx.Response) -> str:
    """Say what an answer has wrong; nothing if it is right."""
    text = answer.text
    if answer.status_code != case["status"]:
        return f"status {answer.status_code}: {text[:300]}"
    for header, value in case.get("answer_headers", {}).items():
        if answer.headers.get(header) != value:
            return f"{header}: {answer.headers.get(header)}"
    if "text" in case:
        return "" if text == case["text"] else f"body: {text}"
    if "pattern" in case:
        return "" if re.search(case["pattern"], text, re.DOTALL) else f"body: {text}"
    if "error" in case:
        expected = {"error": case["error"]}
    else:
        expected = case["answer"] if "answer" in case else json.loads(case["answer_text"])
    try:
        return "" if same(expected, json.loads(text)) else f"body: {text}"
    except ValueError as error:
        return f"{error}: {text}"


def same(expected: Any, value: Any) -> bool:
    """Compare JSON values; floats as float32, since Serving writes nine digits of one."""
    if type(expected) is not type(value):
        return False
    if isinstance(expected, dict):
        return expected.keys() == value.keys() and all(
            same(held, value[name]) for name, held in expected.items()
        )
    if isinstance(expected, list):
        return len(expected) == len(value) and all(map(same, expected, value))
    if isinstance(expected, float):
        pair = np.array([expected, value], np.float32)
        if np.isnan(pair).any():
            return bool(np.isnan(pair).all())
        return bool(pair[0] == pair[1] and np.signbit(pair[0]) == np.signbit(pair[1]))
    return expected == value
