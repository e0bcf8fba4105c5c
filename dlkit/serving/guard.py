"""What every HTTP request passes first: the key, the number at once, an id, the log."""

from __future__ import annotations

import hmac
import json
import logging
import time
import uuid
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dlkit.serving.service import Service

access = logging.getLogger("dlkit.serving.access")

REQUEST_ID = b"x-request-id"
LONGEST_ID = 128
# What a probe or a person may see without a key: nothing of the models.
OPEN = ("/healthz", "/v2/health/live", "/v2/health/ready")


class Guard:
    """ASGI middleware around all protocols.

    Refuses with 401 what lacks the key (`Authorization: Bearer KEY` or `X-API-Key: KEY`), with 429
    what comes while `Limits.concurrency` requests are being answered. Gives each answer an
    `X-Request-Id`, the client's own where it sent one, and each a line of JSON in the log, which
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
        began, status = time.perf_counter(), 500
        headers = dict(scope["headers"])
        name = identity(headers.get(REQUEST_ID, b""))

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [(REQUEST_ID, name)]
                if self.service.draining:
                    extra.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        path = scope["path"]
        counted = path not in OPEN
        if counted and not self.admitted(headers):
            await refuse(answered, 401, "Unauthorized: a key is needed", b"Bearer")
        elif counted and self.running >= self.service.limits.concurrency:
            await refuse(answered, 429, "Too many requests at once; try again")
        else:
            self.running += counted
            self.service.metrics.waiting.inc(counted)
            try:
                await self.app(scope, receive, answered)
            finally:
                self.running -= counted
                self.service.metrics.waiting.dec(counted)
        self.log(scope, status, name, time.perf_counter() - began)

    def admitted(self, headers: dict[bytes, bytes]) -> bool:
        """Say whether a request carries one of the keys; compared in constant time."""
        if not self.keys:
            return True
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        key = given.strip() if kind.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        # All are compared: the time tells nothing of which was nearly right.
        return any([hmac.compare_digest(key, known) for known in self.keys])

    def log(self, scope: Scope, status: int, name: bytes, seconds: float) -> None:
        """Write the request's line; the path without its query, cut short."""
        protocol = scope["path"].split("/", 2)[1][:20] if scope["path"].count("/") > 1 else "other"
        protocol = protocol if protocol in ("v1", "v2") else "other"
        self.service.metrics.responses.labels(protocol, str(status)).inc()
        if access.isEnabledFor(logging.INFO):
            entry: dict[str, Any] = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "id": name.decode("latin-1"),
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "ms": round(seconds * 1000, 2),
            }
            access.info(json.dumps(entry))


def identity(given: bytes) -> bytes:
    """Return the client's request id if it is short and printable, else a new one."""
    if 0 < len(given) <= LONGEST_ID and all(33 <= byte < 127 for byte in given):
        return given
    return uuid.uuid4().hex.encode()


async def refuse(send: Send, status: int, reason: str, challenge: bytes = b"") -> None:
    """Answer without asking the models."""
    headers = [(b"content-type", b"application/json")]
    if challenge:
        headers.append((b"www-authenticate", challenge))
    if status == 429:
        headers.append((b"retry-after", b"1"))
    body = json.dumps({"error": reason}).encode()
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
