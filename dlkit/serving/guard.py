"""What every HTTP request passes first: the key, the number at once, an id, the log."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dlkit.errors import ServeError
from dlkit.serving import openai_errors, page
from dlkit.serving.service import Service
from dlkit.serving.tensors import RequestError

access = logging.getLogger("dlkit.serving.access")

ACCESS = "%(method)s %(path)s %(status)s %(ms)s ms, id %(id)s"
REQUEST_ID = b"x-request-id"
LONGEST_ID = 128
# What a probe or a person may see without a key: nothing of the models.
OPEN = page.OPEN | {"/healthz", "/v2/health/live", "/v2/health/ready"}


# What is answered however many others are: a look at the server must not depend on its load.
UNCOUNTED = {*OPEN, "/metrics", "/monitoring/prometheus/metrics"}


class Guard:
    """ASGI middleware around all protocols.

    Refuses with 401 what lacks the key (`Authorization: Bearer KEY` or `X-API-Key: KEY`), with 429
    what comes while `Limits.concurrency` requests are being answered, with 503 what comes while the
    queue is full, with 408 one whose body takes longer than `Limits.timeout` to arrive. Gives each
    answer an `X-Request-Id`, the client's own where it sent one, and each a line in the log, which
    holds nothing of the payload.
    """

    def __init__(self, app: ASGIApp, service: Service, keys: Iterable[str] = ()) -> None:
        self.app, self.service = app, service
        self.keys = [key.encode() for key in keys]
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, close = time.perf_counter(), 500, False
        headers = dict(scope["headers"])
        name = identity(headers.get(REQUEST_ID, b""))

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [(REQUEST_ID, name)]
                if close or self.service.draining:
                    extra.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        loop, read = asyncio.get_running_loop(), False
        until = loop.time() + self.service.limits.timeout

        async def in_time() -> Message:
            nonlocal read, close
            if read:  # what follows the body is the client's leaving
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                read = close = True
                limit = self.service.limits.timeout
                raise RequestError(f"Body did not arrive within {limit:g} seconds", 408) from None
            read = not message.get("more_body", False)
            return message

        path = scope["path"]
        counted = path not in UNCOUNTED
        if path not in OPEN and not admitted(headers, self.keys):
            await refuse(answered, path, 401, "Unauthorized: a key is needed", b"Bearer")
        elif counted and self.running >= self.service.limits.concurrency:
            self.service.refused = time.monotonic()
            await refuse(answered, path, 429, "Too many requests at once; try again")
        elif counted and scope["method"] == "POST" and self.service.batcher.full():
            # Before the body is read and parsed, which is most of the work.
            self.service.refused = time.monotonic()
            await refuse(answered, path, 503, "The queue of requests is full; try again")
        else:
            self.running += counted
            self.service.metrics.waiting.inc(counted)
            try:
                await self.app(scope, in_time, answered)
            finally:
                self.running -= counted
                self.service.metrics.waiting.dec(counted)
        self.log(scope, status, name, time.perf_counter() - began)

    def log(self, scope: Scope, status: int, name: bytes, seconds: float) -> None:
        """Count the request and write its line; the path without its query, cut short."""
        protocol = scope["path"].split("/", 2)[1][:20] if scope["path"].count("/") > 1 else "other"
        protocol = protocol if protocol in ("v1", "v2") else "other"
        self.service.metrics.responses.labels(protocol, str(status)).inc()
        if access.isEnabledFor(logging.INFO):
            entry = {
                "id": name.decode("latin-1"),
                "method": scope["method"],
                # As it was sent: unquoted, it may hold the end of a line.
                "path": scope["raw_path"][:200].decode("ascii", "backslashreplace"),
                "status": status,
                "ms": round(seconds * 1000, 2),
            }
            access.info(ACCESS, entry, extra={"request": entry})


def admitted(headers: Mapping[bytes, bytes], keys: Iterable[bytes]) -> bool:
    """Say whether a request carries one of the keys, where there are such.

    Args:
        headers: by lower-case name: `authorization` and `x-api-key` are looked at.
        keys: none lets everybody in. Compared in constant time.
    """
    kind, _, given = headers.get(b"authorization", b"").partition(b" ")
    key = given.strip() if kind.lower() == b"bearer" else headers.get(b"x-api-key", b"")
    # All are compared: the time tells nothing of which was nearly right.
    right = [hmac.compare_digest(key, known) for known in keys]
    return any(right) or not right


def read_keys(file: str | None, variable: str | None = None) -> tuple[str, ...]:
    """Return the API keys of a file, one a line, and of an environment variable's value.

    Raises:
        ServeError: the file cannot be read, or neither it nor the variable, where given, holds a
            key that a header can carry.
    """
    keys: list[str] = []
    if file is not None:
        path = Path(file).expanduser()
        try:
            text = path.read_text(encoding="utf-8")
            mode = path.stat().st_mode
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise ServeError(f"--api-key-file {file} cannot be read: {reason}") from None
        keys = [line.strip() for line in text.splitlines() if line.strip()]
        if not keys:
            raise ServeError(f"--api-key-file {file} holds no key; write one a line")
        if mode & 0o077:
            others = "everybody" if mode & 0o007 else "its group"
            print(
                f"dlkit: warning: {file} can be read by {others}: chmod 600 {file}", file=sys.stderr
            )
    if variable is not None:
        if not variable.strip():
            raise ServeError("DLKIT_API_KEY is empty; give it a key, or unset it")
        keys.append(variable.strip())
    for number, key in enumerate(keys, 1):
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ServeError(
                f"API key {number} cannot stand in a header: printable ASCII without spaces only"
            )
    return tuple(keys)


def identity(given: bytes) -> bytes:
    """Return the client's request id if it is short and printable, else a new one."""
    if 0 < len(given) <= LONGEST_ID and all(33 <= byte < 127 for byte in given):
        return given
    return uuid.uuid4().hex.encode()


async def refuse(send: Send, path: str, status: int, reason: str, challenge: bytes = b"") -> None:
    """Answer without asking the models, in the shape that the path's errors have."""
    openai = openai_errors.is_openai(path)
    content = openai_errors.error(reason, status) if openai else {"error": reason}
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if challenge:
        headers.append((b"www-authenticate", challenge))
    if status in (429, 503):
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
