"""Who is let in, how much at once and how slowly, and what is written down of it."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from dlkit.errors import ServeError
from dlkit.serving import connections
from dlkit.serving.batching import Batching
from dlkit.serving.guard import read_keys
from dlkit.serving.logs import Json, Text
from dlkit.serving.model import ServedModel, Signature
from dlkit.serving.servables import Servables
from dlkit.serving.server import bind, listen, run
from dlkit.serving.service import Limits, Service
from dlkit.serving.settings import Settings
from dlkit.serving.tensors import TensorSpec

SECRET = "an apple a day"


def model(answer: Callable[[Any], Any]) -> ServedModel:
    """Return a model of one input and one output that a Python function answers."""
    row = TensorSpec("float", (None,))
    signature = Signature({"x": row}, {"y": row}, lambda arrays: {"y": answer(arrays["x"])})
    described = {"signature_def": {"serving_default": {}}}
    signatures = {"serving_default": signature}
    return ServedModel("m", 1, Path("/"), signatures, described, None, None, None)


@contextmanager
def serving(
    answer: Callable[[Any], Any] = lambda x: x, keys: tuple[str, ...] = (), **limits: Any
) -> Iterator[tuple[str, Service]]:
    """Serve a function in this process, over a real socket; drain at the end of the block."""
    batching = Batching(max_batch=1, max_queue=limits.pop("max_queue", 512))
    service = Service(Servables([model(answer)]), Limits(**limits), batching)
    listener = bind("127.0.0.1", 0)
    listen(listener, "127.0.0.1")
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread = threading.Thread(target=run, args=(service, Settings(keys=keys), listener))
    thread.start()
    try:
        yield address, service
    finally:
        service.draining = True
        thread.join()


def ask(address: str, **headers: str) -> httpx.Response:
    """Send a request of one row."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{address}/v1/models/m:predict", json={"instances": [1.0]}, headers=given)


def connected(address: str) -> socket.socket:
    """Open a connection of one's own."""
    made = socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), timeout=5)
    made.settimeout(5)
    return made


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_key_is_asked_for() -> None:
    with serving(keys=("first-key", "second-key")) as (address, _):
        assert ask(address).status_code == ask(address, X_API_Key="wrong").status_code == 401
        assert ask(address).headers["www-authenticate"] == "Bearer"
        assert ask(address, Authorization="Basic first-key").status_code == 401
        assert ask(address, Authorization="Bearer second-key").status_code == 200
        assert ask(address, X_API_Key="first-key").status_code == 200
        assert httpx.get(f"{address}/healthz").status_code == 200
        assert httpx.get(f"{address}/metrics").status_code == 401


def test_keys_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys"
    for content, words in {
        "": "holds no key",
        " \n\n": "holds no key",
        "two words\n": "API key 1 cannot stand in a header",
        "fine\nschlüssel\n": "API key 2 cannot stand in a header",
    }.items():
        file.write_text(content)
        with pytest.raises(ServeError, match=words):
            read_keys(str(file))
    with pytest.raises(ServeError, match="cannot be read: No such file"):
        read_keys(str(tmp_path / "none"))
    with pytest.raises(ServeError, match="DLKIT_API_KEY is empty"):
        read_keys(None, "")
    file.write_text("one\n two \n")
    file.chmod(0o644)
    assert read_keys(str(file), "three") == ("one", "two", "three")
    assert "can be read by everybody: chmod 600" in capsys.readouterr().err
    file.chmod(0o600)
    assert read_keys(str(file)) == ("one", "two") and read_keys(None) == ()
    assert capsys.readouterr().err == ""


def test_too_many_at_once() -> None:
    entered, leave = threading.Event(), threading.Event()

    def answer(x: Any) -> Any:
        entered.set()
        assert leave.wait(10)
        return x

    with serving(answer, concurrency=1) as (address, _):
        first: list[int] = []
        thread = threading.Thread(target=lambda: first.append(ask(address).status_code))
        thread.start()
        assert entered.wait(10)
        refused = ask(address)
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        assert httpx.get(f"{address}/healthz").status_code == 200
        assert "dlkit_serving_requests_in_flight 1.0" in httpx.get(f"{address}/metrics").text
        leave.set()
        thread.join()
        assert first == [200] and ask(address).status_code == 200


def test_a_full_queue_is_told_before_a_body_is_read() -> None:
    entered, leave = threading.Event(), threading.Event()

    def answer(x: Any) -> Any:
        entered.set()
        assert leave.wait(10)
        return x

    with serving(answer, max_queue=1) as (address, service):
        found: list[int] = []
        asking = [
            threading.Thread(target=lambda: found.append(ask(address).status_code)) for _ in "12"
        ]
        asking[0].start()
        assert entered.wait(10)
        asking[1].start()
        while not service.batcher.full():
            time.sleep(0.01)
        unread = connected(address)
        unread.sendall(
            b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        )
        assert unread.recv(1000).startswith(b"HTTP/1.1 503 ")
        unread.close()
        assert httpx.get(f"{address}/v1/models/m").status_code == 200
        told = httpx.post(f"{address}{COMPLETIONS}", json={})
        assert openai_error(told) == (503, "server_error", None)
        leave.set()
        for thread in asking:
            thread.join()
        assert found == [200, 200]


COMPLETIONS = "/v1/completions"


def openai_error(answer: httpx.Response) -> tuple[int, str, str | None]:
    """Return the status, type and code of an error in OpenAI's shape."""
    assert list(answer.json()) == ["error"], answer.text
    error = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"] and "\n" not in error["message"] and error["param"] is None
    return answer.status_code, error["type"], error["code"]


def test_each_protocol_is_refused_in_its_own_shape() -> None:
    entered, leave = threading.Event(), threading.Event()

    def answer(x: Any) -> Any:
        entered.set()
        assert leave.wait(10)
        return x

    with serving(keys=("key",)) as (address, _):
        told = httpx.post(f"{address}{COMPLETIONS}", json={})
        assert openai_error(told) == (401, "invalid_request_error", "invalid_api_key")
        assert told.headers["www-authenticate"] == "Bearer"
        for path in ("/v1/models/m:predict", "/v2/models/m/infer"):
            told = httpx.post(f"{address}{path}", json={})
            assert told.json() == {"error": "Unauthorized: a key is needed"}

    with serving(answer, concurrency=1, timeout=0.3) as (address, _):
        slow = connected(address)
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        told = slow.recv(10_000)
        assert told.startswith(b"HTTP/1.1 408 ")
        assert json.loads(told.split(b"\r\n\r\n")[1])["error"]["type"] == "invalid_request_error"
        slow.close()
        for path, asked in (("/v1/chat/completions", "POST"), ("/v1/files/x%09y", "GET")):
            told = httpx.request(asked, f"{address}{path}")
            assert openai_error(told) == (404, "invalid_request_error", "unknown_url")
        told = httpx.get(f"{address}{COMPLETIONS}")
        assert openai_error(told) == (405, "invalid_request_error", "method_not_supported")
        assert told.headers["allow"] == "POST"
        told = httpx.post(f"{address}{COMPLETIONS}", json={"model": "m", "prompt": ""})
        assert told.status_code == 404 and told.json()["error"]["param"] == "model"
        thread = threading.Thread(target=ask, args=(address,))
        thread.start()
        assert entered.wait(10)
        told = httpx.post(f"{address}{COMPLETIONS}", json={})
        assert openai_error(told) == (429, "rate_limit_error", "rate_limit_exceeded")
        assert isinstance(ask(address).json()["error"], str)
        leave.set()
        thread.join()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/models/m:predict", {"instances": [2.0]}),
        (
            "/v2/models/m/infer",
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [2.0]}]},
        ),
    ],
)
def test_who_goes_away_leaves_the_queue(path: str, body: Any) -> None:
    entered, leave, seen = threading.Event(), threading.Event(), list[float]()

    def answer(x: Any) -> Any:
        entered.set()
        assert leave.wait(10)
        seen.extend(x.tolist())
        return x

    with serving(answer) as (address, service):
        thread = threading.Thread(target=ask, args=(address,))
        thread.start()
        assert entered.wait(10)
        content = json.dumps(body).encode()
        gone = connected(address)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
        gone.sendall(head.encode() + content)
        until(lambda: service.batcher.waiting == 1)
        gone.close()
        until(lambda: service.batcher.waiting == 0)
        counted = 'request_count{model_name="m",status="CANCELLED"} 1.0'
        until(lambda: counted in httpx.get(f"{address}/metrics").text)
        assert 'status="499"} 1.0' in httpx.get(f"{address}/metrics").text
        leave.set()
        thread.join()
        assert ask(address).status_code == 200
    assert seen == [1.0, 1.0]


def test_slow_clients_hold_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.4)
    begin = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n"
    with serving(timeout=0.5) as (address, _):
        silent, dripping, half = connected(address), connected(address), connected(address)
        half.sendall(begin + b"\r\n{")
        began = time.monotonic()
        dripping.sendall(b"GET / HTTP/1.1\r\n")
        while time.monotonic() < began + 0.3:
            dripping.sendall(b"X-A: b\r\n")
            time.sleep(0.05)
        assert silent.recv(100) == dripping.recv(100) == b""
        told = b""
        while part := half.recv(4096):  # until the server closes it
            told += part
        assert told.startswith(b"HTTP/1.1 408 ") and b"connection: close" in told.lower()
        assert b"Body did not arrive within 0.5 seconds" in told
        assert time.monotonic() - began < 2.0

        large = connected(address)
        large.sendall(b"GET / HTTP/1.1\r\nX-Large: " + b"a" * (connections.HEADER_BYTES + 100))
        assert large.recv(100).startswith(b"HTTP/1.1 400 ")
        kept = connected(address)  # one that takes its time between requests is kept
        for _ in range(2):
            kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert kept.recv(1000).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.5)
        for each in (silent, dripping, half, large, kept):
            each.close()


def test_draining_answers_what_is_under_way() -> None:
    def answer(x: Any) -> Any:
        time.sleep(1.5)
        return x

    answers: list[httpx.Response] = []
    with serving(answer) as (address, service):
        thread = threading.Thread(target=lambda: answers.append(ask(address)))
        thread.start()
        time.sleep(0.3)
        begun = connected(address)  # its request is half sent when the port closes
        begun.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        service.draining = True
        unready = httpx.get(f"{address}/healthz")
        assert unready.status_code == 503 and unready.headers["connection"] == "close"
        time.sleep(1.25)
        with pytest.raises(OSError, match=r"refused|timed out"):
            socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), 0.2)
        begun.sendall(b"\r\n")
        assert begun.recv(100).startswith(b"HTTP/1.1 503 ")
        thread.join()
        begun.close()
    assert answers[0].json() == {"predictions": [1.0]}
    assert answers[0].headers["connection"] == "close"


def test_what_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(x: Any) -> Any:
        raise ValueError(SECRET)

    with caplog.at_level(logging.INFO, "dlkit.serving"), serving(fail) as (address, _):
        given = ask(address, X_Request_Id="mine-1")
        assert given.status_code == 500 and given.headers["x-request-id"] == "mine-1"
        made = ask(address, X_Request_Id="not one").headers["x-request-id"]
        assert len(made) == 32
        httpx.get(f"{address}/v1/a%0Ab?key={SECRET}")
    records = [r for r in caplog.records if r.name == "dlkit.serving.access"]
    first, _, last = (json.loads(Json().format(record)) for record in records)
    assert {k: first[k] for k in ("id", "method", "path", "status", "level")} == {
        "id": "mine-1",
        "method": "POST",
        "path": "/v1/models/m:predict",
        "status": 500,
        "level": "info",
    }
    assert first["ms"] > 0 and last["path"] == "/v1/a%0Ab"
    every = [Json().format(r) + Text().format(r) for r in caplog.records]
    assert not any(SECRET in line or "\n" in line for line in every)
    assert "POST /v1/models/m:predict 500 " in Text().format(records[0])
    try:
        fail(np.zeros(1))
    except ValueError as error:
        kept = logging.LogRecord("uvicorn", 40, "", 1, "failed\n", (), (ValueError, error, error.__traceback__))  # fmt: skip
    assert "ValueError at test_guard.py:" in json.loads(Json().format(kept))["error"]
    assert "ValueError at test_guard.py:" in Text().format(kept) and SECRET not in Text().format(
        kept
    )
