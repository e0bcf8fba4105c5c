"""`/v1/completions`: the same texts as everywhere else, OpenAI's shape, streams that end."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from dlkit.data.tokenizers import ByteTokenizer
from dlkit.serving.app import create_app
from dlkit.serving.batching import Batching
from dlkit.serving.completion_request import MOST_TOKENS
from dlkit.serving.model import ServedModel, Signature, by_row, load_model
from dlkit.serving.servables import Servables
from dlkit.serving.service import Limits, Service
from dlkit.serving.tensors import RequestError, TensorSpec

SCRIPT = "caf\u00e9 \u20ac5 \U0001f600 END of it. "


def asked(app: Any, body: Any) -> httpx.Response:
    async def exchange() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            content = body if isinstance(body, bytes) else json.dumps(body)
            return await client.post("/v1/completions", content=content)

    return asyncio.run(exchange())


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    parts = answer.text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def joined(chunks: list[dict[str, Any]], count: int = 1) -> list[str]:
    texts = [""] * count
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        texts[choice["index"]] += choice["text"]
    return texts


class Scripted:
    """A model of bytes that goes on with `SCRIPT`, over and over; what it is asked is kept."""

    def __init__(
        self,
        seconds: float = 0.0,
        fails: tuple[int, Exception] | None = None,
        limit: int | None = None,
    ) -> None:
        self.steps, self.seconds, self.fails = 0, seconds, fails
        self.widths, self.prompts = list[int](), list[bytes]()
        row, number = TensorSpec("int32", (None,)), TensorSpec("float", (None, 256))
        outputs = {"logits": number, "state_00": row, "state_01": row}
        prefill = {"tokens": TensorSpec("int32", (None, None)), "lengths": row}
        step = {"token": row, "state_00": row, "state_01": row}
        signatures = {
            "prefill": Signature(prefill, outputs, self.prefill, batchable=True),
            "step": Signature(step, outputs, self.step, batchable=by_row(step, outputs)),
        }
        about = {"tokenizer": "byte", "start": 0, "context": limit, "limit": limit}
        self.served = ServedModel(
            "s", 1, Path(), signatures, {}, about, None, None,
            tokenizer=json.dumps(ByteTokenizer().to_json()),
        )  # fmt: skip

    def prefill(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.prompts.append(bytes(arrays["tokens"][0].tolist()))
        return self.next(arrays["lengths"], np.zeros_like(arrays["lengths"]))

    def step(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.steps += 1
        self.widths.append(len(arrays["token"]))
        if self.fails and self.steps >= self.fails[0]:
            raise self.fails[1]
        time.sleep(self.seconds)
        return self.next(arrays["state_00"] + np.int32(1), arrays["state_01"])

    def next(self, seen: np.ndarray, place: np.ndarray) -> dict[str, np.ndarray]:
        script = np.frombuffer(SCRIPT.encode(), np.uint8)
        logits = np.zeros((len(place), 256), np.float32)
        logits[np.arange(len(place)), script[place % len(script)]] = 100.0
        return {"logits": logits, "state_00": seen, "state_01": place + np.int32(1)}


@pytest.fixture(scope="module")
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture(scope="module")
def app(scripted: Scripted, pictures: Path) -> Any:
    models = [scripted.served, load_model("pic", pictures)]
    return create_app(Service(Servables(models), Limits(body=100_000), Batching(max_queue=20)))


def test_the_shape_of_an_answer(app: Any) -> None:
    answer = asked(app, {"model": "s", "prompt": ["x", "yz"], "n": 2, "echo": True, "user": "u"})
    whole = answer.json()
    assert whole["object"] == "text_completion"
    assert whole["model"] == "s"
    assert whole["id"].startswith("cmpl-")
    assert abs(whole["created"] - time.time()) < 60
    text = SCRIPT.encode()[:16].decode()
    assert whole["choices"] == [
        {"text": p + text, "index": i, "logprobs": None, "finish_reason": "length"}
        for i, p in enumerate(["x", "x", "yz", "yz"])
    ]
    used = {"prompt_tokens": 3, "completion_tokens": 64, "total_tokens": 67}
    assert whole["usage"] == used
    wish = {"model": "s", "prompt": ["x", "yz"], "n": 2, "echo": True, "stream": True}
    chunks = events(asked(app, wish | {"stream_options": {"include_usage": True}}))
    assert chunks.pop()["usage"] == used
    assert {json.dumps(c["usage"]) for c in chunks} == {"null"}
    assert len({(c["id"], c["created"], c["object"], c["model"]) for c in chunks}) == 1
    assert joined(chunks, 4) == [c["text"] for c in whole["choices"]]
    reasons = [c["choices"][0]["finish_reason"] for c in chunks]
    assert sorted(filter(None, reasons)) == ["length"] * 4
    assert len(chunks) > 4 * 10  # token by token


def test_stops_and_characters_of_several_tokens(app: Any, scripted: Scripted) -> None:
    wish = {"model": "s", "prompt": "", "max_tokens": 60, "stop": ["it. c", "END o", "\u20ac6"]}
    before = scripted.steps
    answer = asked(app, wish).json()
    end = SCRIPT.index("END o")
    assert answer["choices"][0]["text"] == SCRIPT[:end]
    assert answer["choices"][0]["finish_reason"] == "stop"
    drawn = len(SCRIPT[: end + 5].encode())
    assert answer["usage"]["completion_tokens"] == drawn
    assert scripted.steps - before == drawn - 1  # nothing is drawn behind the stop
    chunks = events(asked(app, wish | {"stream": True}))
    pieces = [c["choices"][0]["text"] for c in chunks]
    assert joined(chunks) == [SCRIPT[:end]]
    assert {"\u00e9", "\u20ac5"} <= set(pieces)  # what may begin a stop is held back
    assert not any("\ufffd" in piece for piece in pieces)
    # Of a text that ends within a character, as `generate` shows it.
    cut = asked(app, {"model": "s", "max_tokens": 4}).json()["choices"][0]["text"]
    assert cut == "caf\ufffd"
    nothing = asked(app, {"model": "s", "prompt": "p", "max_tokens": 0, "echo": True}).json()
    assert nothing["choices"][0]["text"] == "p"
    assert nothing["usage"]["completion_tokens"] == 0


def test_a_full_context_is_made_anew_from_its_last_half() -> None:
    ending = Scripted(limit=8)
    app = create_app(Service(Servables([ending.served])))
    text = asked(app, {"model": "s", "prompt": "0123456789", "max_tokens": 12}).json()
    written = text["choices"][0]["text"]
    whole = f"789{written}".encode()
    # The prompt fills it; made anew, it is full after 4 steps more.
    assert ending.prompts == [b"23456789", whole[:4], whole[5:9], whole[10:14]]


def test_logprobs(app: Any) -> None:
    wish = {"model": "s", "prompt": "x", "max_tokens": 6, "logprobs": 2, "stop": " "}
    answer = asked(app, wish).json()["choices"][0]
    assert answer["text"] == "caf\u00e9"
    told = answer["logprobs"]
    assert told["tokens"] == ["c", "a", "f", "token_id:195", "token_id:169"]
    assert told["text_offset"] == [0, 1, 2, 3, 3]
    assert told["token_logprobs"] == pytest.approx([0.0] * 5, abs=1e-6)
    assert [len(top) for top in told["top_logprobs"]] == [2] * 5
    assert told["top_logprobs"][0]["c"] == told["token_logprobs"][0]
    chunks = events(asked(app, wish | {"stream": True}))
    parts = [c["choices"][0]["logprobs"] for c in chunks]
    assert [token for part in parts for token in part["tokens"]] == told["tokens"]


@pytest.mark.parametrize(
    ("body", "status", "param", "code", "words"),
    [
        (b"{", 400, None, None, "not JSON"),
        (b"[]", 400, None, None, "not a JSON object but an array"),
        ({}, 400, "model", None, "you must provide a model parameter"),
        ({"model": "no"}, 404, "model", "model_not_found", "`no` does not exist"),
        ({"model": "pic"}, 404, "model", None, "`pic` is no text generator"),
        ({"model": 3}, 400, "model", "invalid_type", "expected a string, but got an integer"),
        ({"promt": "x"}, 400, "promt", "unknown_parameter", "supplied: promt (did you mean 'prompt'?)"),
        ({"messages": []}, 400, "messages", "unknown_parameter", "Unrecognized request argument"),
        ({"prompt": [1, 2]}, 400, "prompt", "invalid_type", "a string or an array of strings"),
        ({"prompt": []}, 400, "prompt", "empty_array", "empty"),
        ({"n": 0}, 400, "n", "integer_below_min_value", ">= 1, but got 0"),
        ({"n": 65, "prompt": ["a", "b"]}, 400, "n", "integer_above_max_value", "at most 128 texts"),
        ({"n": True}, 400, "n", "invalid_type", "but got a boolean"),
        ({"best_of": 3, "n": 2}, 400, "best_of", "unsupported_parameter", "the value of 'n'"),
        ({"max_tokens": 10**6}, 400, "max_tokens", "integer_above_max_value", f"<= {MOST_TOKENS}"),
        ({"temperature": 2.5}, 400, "temperature", "decimal_above_max_value", "<= 2, but got 2.5"),
        ({"temperature": "hot"}, 400, "temperature", "invalid_type", "a decimal, but got a string"),
        ({"top_p": -0.1}, 400, "top_p", "decimal_below_min_value", ">= 0"),
        ({"seed": 0.5}, 400, "seed", "invalid_type", "an integer, but got a decimal"),
        ({"stop": ["a"] * 5}, 400, "stop", None, "up to 4 strings"),
        ({"stop": ""}, 400, "stop", None, "none of them empty"),
        ({"suffix": "x"}, 400, "suffix", "unsupported_parameter", "'suffix' is not supported"),
        ({"presence_penalty": 1}, 400, "presence_penalty", "unsupported_parameter", "accepted: 0"),
        ({"logprobs": 6}, 400, "logprobs", "integer_above_max_value", "<= 5"),
        ({"logprobs": 1, "echo": True}, 400, "logprobs", "unsupported_parameter", "'echo'"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", None, "'stream' alone"),
        ({"stream": True, "stream_options": {"x": 1}}, 400, "stream_options", "unknown_parameter", "x"),
        ({"n": 20, "stream": True}, 200, None, None, ""),  # more than the share, but alone
        ({"prompt": "a" * 40_000}, 400, "prompt", "context_length_exceeded", "40000 tokens"),
        ({"prompt": "a" * 200_000}, 413, None, None, "larger than 100000 bytes"),
    ],
)  # fmt: skip
def test_what_is_refused(
    app: Any, body: Any, status: int, param: str | None, code: str | None, words: str
) -> None:
    if isinstance(body, dict) and body and status != 404 and "model" not in body:
        body = {"model": "s", **body}
    answer = asked(app, body)
    assert answer.status_code == status, answer.text
    if status != 200:
        error = answer.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert (error["param"], error["code"]) == (param, code)
        assert words in error["message"]
        assert "\n" not in error["message"]
        assert error["type"] == "invalid_request_error"


def test_what_says_what_is_done_anyway_is_accepted(app: Any) -> None:
    fields: dict[str, Any] = {"best_of": 1, "suffix": None, "logit_bias": {}, "stop": None}
    fields |= {"frequency_penalty": 0, "presence_penalty": 0.0, "seed": -(2**63), "top_k": 3}
    fields |= {"logprobs": None, "min_p": 0.1, "top_p": 0, "stream": None, "stream_options": None}
    assert asked(app, {"model": "s", "prompt": None, **fields}).status_code == 200


@pytest.fixture
def slow() -> Scripted:
    """Steps of 20 ms."""
    return Scripted(seconds=0.02)


@pytest.fixture
def listening(slow: Scripted) -> Iterator[tuple[str, int]]:
    """The address of a real server: how a connection ends is its part."""
    service = Service(Servables([slow.served]), batching=Batching(max_queue=20))
    config = uvicorn.Config(create_app(service), port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    thread.join()
    service.batcher.close()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_text(
    listening: tuple[str, int], slow: Scripted, stream: bool
) -> None:
    body = json.dumps({"model": "s", "max_tokens": 1000, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(listening) as connection:
        connection.sendall(head.encode() + body)
        while slow.steps < 5:
            time.sleep(0.01)
    gone = slow.steps
    time.sleep(0.3)
    assert slow.steps <= gone + 2
    url = "http://{}:{}/v1/completions".format(*listening)
    again = httpx.post(url, json={"model": "s", "max_tokens": 2})
    assert again.json()["usage"]["completion_tokens"] == 2


def test_texts_are_written_side_by_side_within_bounds(slow: Scripted) -> None:
    app = create_app(Service(Servables([slow.served]), batching=Batching(max_queue=20)))
    asked(app, {"model": "s", "max_tokens": 1})  # opens the tokenizer; none comes first by that

    async def exchange() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            sent = [{"model": "s", "max_tokens": 12, "n": n} for n in (6, 4, 1)]
            posts = [client.post("/v1/completions", content=json.dumps(each)) for each in sent]
            return await asyncio.gather(*posts)

    *written, refused = asyncio.run(exchange())
    assert [answer.status_code for answer in written] == [200, 200]
    assert max(slow.widths) >= 8  # padded to a power of two
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "rate_limit_error"


def test_what_fails_midway_is_told(caplog: pytest.LogCaptureFixture) -> None:
    for reason, kind, words in (
        (RequestError("full", 503), "server_error", "full"),
        (ValueError("SECRET"), "server_error", "Internal error: ValueError"),
    ):
        failing = Scripted(fails=(3, reason))
        app = create_app(Service(Servables([failing.served])))
        wish = {"model": "s", "max_tokens": 9}
        *pieces, last = asked(app, wish | {"stream": True}).text.removesuffix("\n\n").split("\n\n")
        assert len(pieces) == 3
        error = json.loads(last.removeprefix("data: "))["error"]
        assert (error["type"], error["message"]) == (kind, words)
        failing.steps = 0
        answer = asked(app, wish)
        assert answer.status_code >= 500
        assert answer.json()["error"]["message"] == words
    assert "SECRET" not in caplog.text
