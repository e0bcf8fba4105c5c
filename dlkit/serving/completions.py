"""OpenAI's `POST /v1/completions` for served text generators.

Departures: a prompt that is longer than the context keeps its last part (OpenAI refuses it), and
characters that the model has no token for are left out of it; log-probabilities are the model's own,
at temperature 1. What is refused and what is ignored is told in `completion_request`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from dlkit.serving import bodies, openai_errors
from dlkit.serving.codes import CODES
from dlkit.serving.completion_request import FieldError, Wish, parse
from dlkit.serving.model import ServedModel
from dlkit.serving.service import Service
from dlkit.serving.streaming import BROKEN, Drawn, TextModel, Unfolding, is_text
from dlkit.serving.tensors import QUOTED, RequestError

logger = logging.getLogger("dlkit.serving")

# Tokens of a prompt that a model without a context of its own is shown.
LONGEST_PROMPT = 2**15
# Characters of a prompt that is encoded on the event loop: a hop to a thread would take longer.
AT_ONCE = 2**12


@dataclass
class Piece:
    """What one text grew by: `text`, and `tokens` with their `logprobs` where asked for.

    `finish` is None until the last piece, then "stop" or "length"; `drawn` is set there.
    """

    index: int
    text: str
    logprobs: list[Logprob] = field(default_factory=list)
    finish: str | None = None
    drawn: int = 0


@dataclass(frozen=True)
class Logprob:
    """A token's text, its log-probability, those of the likeliest, and where its text begins."""

    token: str
    own: float
    top: dict[str, float]
    offset: int


class Completions:
    """Answers `POST /v1/completions`."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.running = 0  # texts being written
        self._texts: WeakKeyDictionary[ServedModel, TextModel] = WeakKeyDictionary()

    async def __call__(self, request: Request) -> Response:
        """Answer a request; errors in OpenAI's shape."""
        try:
            body = await bodies.read(request, self.service.limits)
            wish = parse(body)
            model = await self._model(wish.model)
            prompts = [await self._encoded(model, prompt) for prompt in wish.prompts]
            pieces = self._pieces(request, wish, model, prompts)
            used = sum(map(len, prompts))
            if not wish.stream:
                return await _whole(wish, pieces, used)
            # What is refused before the first token is still told by the status.
            first = await anext(pieces)
            return EventStream(_events(wish, first, pieces, used))
        except RequestError as error:
            param, code = None, None
            if isinstance(error, FieldError):
                param, code = error.param, error.code
            return openai_errors.refusal(str(error), error.status, param, code)

    async def _model(self, name: str) -> TextModel:
        try:
            model = self.service.servables.find(name)
        except RequestError:
            message = f"The model `{name[:QUOTED]}` does not exist"
            raise FieldError(message, "model", "model_not_found", 404) from None
        if not is_text(model):
            message = f"`{name}` is no text generator: it does not take part in v1/completions"
            raise FieldError(message, "model", None, 404)
        if model not in self._texts:
            self._texts[model] = await asyncio.to_thread(TextModel, model)
        return self._texts[model]

    async def _encoded(self, model: TextModel, prompt: str) -> list[int]:
        if len(prompt) <= AT_ONCE:
            tokens = model.encode(prompt)
        else:
            tokens = await asyncio.to_thread(model.encode, prompt)
        if model.context is None and len(tokens) > LONGEST_PROMPT:
            raise FieldError(
                f"The prompt has {len(tokens)} tokens; at most {LONGEST_PROMPT} are accepted",
                "prompt",
                "context_length_exceeded",
            )
        return tokens

    async def _pieces(
        self, request: Request, wish: Wish, model: TextModel, prompts: Sequence[list[int]]
    ) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of all texts as they come, and count the request in the end."""
        count, began = len(prompts) * wish.n, time.perf_counter()
        # A text has one step in the queue at a time: half of it is left to others.
        if self.running + count > max(count, self.service.batching.max_queue // 2):
            raise FieldError("Too many texts are being written; try again", None, None, 429)
        texts = [
            self._written(wish, model, prompts[k // wish.n], wish.prompts[k // wish.n], k)
            for k in range(count)
        ]
        self.running += count
        code = "OK"
        try:
            async with contextlib.aclosing(together(texts, request)) as pieces:
                async for piece in pieces:
                    yield piece
        except RequestError as error:
            code = CODES.get(error.status, "UNKNOWN")
            raise
        except (GeneratorExit, asyncio.CancelledError, ClientDisconnect):
            code = "CANCELLED"
            raise
        except Exception:
            code = "INTERNAL"
            raise
        finally:
            self.running -= count
            seconds = time.perf_counter() - began
            self.service.metrics.request(wish.model, "completions", "REST", code, seconds)

    async def _written(
        self, wish: Wish, model: TextModel, prompt: Sequence[int], shown: str, index: int
    ) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of one text."""
        if wish.echo and shown:
            yield Piece(index, shown)
        unfolding, drawn = Unfolding(model.tokenizer, wish.stops), 0
        logprobs: list[Logprob] = []
        how = wish.how._replace(seed=(wish.how.seed + index % wish.n) % 2**31)
        tokens = model.draw(self.service, prompt, wish.max_tokens, how)
        async with contextlib.aclosing(tokens):
            async for each in tokens:
                drawn += 1
                if wish.logprobs is not None:
                    at = len(unfolding.text)
                    logprobs.append(_logprob(model.tokenizer, each, wish.logprobs, at))
                unfolding.add(each.token)
                if unfolding.stopped:
                    break
                if text := unfolding.fresh():
                    yield Piece(index, text, _until(logprobs, unfolding.shown))
        finish = "stop" if unfolding.stopped else "length"
        unfolding.end()
        # Of a text cut before a stop, the tokens of the stop are not told.
        text = unfolding.fresh()
        told = _until(logprobs, unfolding.shown) if finish == "stop" else logprobs
        yield Piece(index, text, told, finish, drawn)


async def together(
    texts: Sequence[AsyncGenerator[Piece, None]], request: Request
) -> AsyncGenerator[Piece, None]:
    """Yield the pieces of several texts as they come; at its end none is written any further.

    Raises:
        ClientDisconnect: the client went away.
        Exception: what writing one of the texts raised.
    """
    arrived: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()

    async def write(text: AsyncGenerator[Piece, None]) -> None:
        try:
            async for piece in text:
                arrived.put_nowait(piece)
            arrived.put_nowait(None)
        except Exception as error:
            arrived.put_nowait(error)

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        arrived.put_nowait(ClientDisconnect())

    tasks = [asyncio.create_task(write(text)) for text in texts]
    tasks.append(asyncio.create_task(watch()))
    try:
        left = len(texts)
        while left:
            each = await arrived.get()
            if isinstance(each, Exception):
                raise each
            if each is None:
                left -= 1
            else:
                yield each
    finally:
        for task in tasks:
            task.cancel()  # a step that has begun is the last
        await asyncio.gather(*tasks, return_exceptions=True)


async def _whole(wish: Wish, pieces: AsyncGenerator[Piece, None], used: int) -> Response:
    """Return the texts when they are written, in order."""
    whole = [Piece(k, "") for k in range(len(wish.prompts) * wish.n)]
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            text = whole[piece.index]
            text.text += piece.text
            text.logprobs += piece.logprobs
            text.finish, text.drawn = piece.finish, piece.drawn
    choices = [_choice(wish, piece) for piece in whole]
    answer = _head(wish) | {"choices": choices, "usage": _usage(used, whole)}
    return Response(orjson.dumps(answer), media_type="application/json")


async def _events(
    wish: Wish, first: Piece, pieces: AsyncGenerator[Piece, None], used: int
) -> AsyncGenerator[bytes, None]:
    """Write pieces as server-sent events.

    An error in their midst is an event `{"error": ...}`, after which there is no `[DONE]`.
    """
    head = _head(wish)
    usage = {"usage": None} if wish.include_usage else {}
    ended: list[Piece] = []
    try:
        async with contextlib.aclosing(pieces):
            piece: Piece | None = first
            while piece is not None:
                ended += [piece] if piece.finish else []
                yield _event(head | {"choices": [_choice(wish, piece)]} | usage)
                piece = await anext(pieces, None)
        if wish.include_usage:
            yield _event(head | {"choices": [], "usage": _usage(used, ended)})
        yield b"data: [DONE]\n\n"
    except ClientDisconnect:
        return
    except RequestError as error:
        yield _event(openai_errors.error(str(error), error.status))
    except Exception as error:  # ours; the message may quote a payload
        logger.error("%s while a text was streamed", type(error).__name__)
        yield _event(openai_errors.error(f"Internal error: {type(error).__name__}", 500))


class EventStream(StreamingResponse):
    """Server-sent events that end with the connection."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        # A proxy that holds events back would undo the stream.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; whatever ends that ends the texts too."""
        async with contextlib.aclosing(self.events):
            await super().__call__(scope, receive, send)


def _logprob(tokenizer: Any, drawn: Drawn, top: int, at: int) -> Logprob:
    shares = drawn.logits - np.logaddexp.reduce(drawn.logits)
    likeliest = np.argsort(-shares, kind="stable")[:top].tolist()
    ids = dict.fromkeys([*likeliest, drawn.token])
    named = {_name(tokenizer, i): float(shares[i]) for i in ids}
    return Logprob(_name(tokenizer, drawn.token), float(shares[drawn.token]), named, at)


def _name(tokenizer: Any, token: int) -> str:
    text = tokenizer.decode([token])
    return f"token_id:{token}" if BROKEN in text else text  # of half a character


def _until(logprobs: list[Logprob], end: int) -> list[Logprob]:
    """Take out the tokens that begin before a place in the text."""
    count = next((k for k, each in enumerate(logprobs) if each.offset >= end), len(logprobs))
    taken, logprobs[:] = logprobs[:count], logprobs[count:]
    return taken


def _head(wish: Wish) -> dict[str, Any]:
    about = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion"}
    return about | {"created": int(time.time()), "model": wish.model}


def _choice(wish: Wish, piece: Piece) -> dict[str, Any]:
    logprobs = None
    if wish.logprobs is not None:
        logprobs = {
            "tokens": [each.token for each in piece.logprobs],
            "token_logprobs": [each.own for each in piece.logprobs],
            "top_logprobs": [each.top for each in piece.logprobs],
            "text_offset": [each.offset for each in piece.logprobs],
        }
    return {
        "text": piece.text,
        "index": piece.index,
        "logprobs": logprobs,
        "finish_reason": piece.finish,
    }


def _usage(used: int, ended: Sequence[Piece]) -> dict[str, int]:
    drawn = sum(piece.drawn for piece in ended)
    return {"prompt_tokens": used, "completion_tokens": drawn, "total_tokens": used + drawn}


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"
