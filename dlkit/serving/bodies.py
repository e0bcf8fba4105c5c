"""Bodies of HTTP requests, read within limits and unzipped, and answers, zipped where asked for."""

from __future__ import annotations

import gzip
import zlib

from starlette.requests import Request

from dlkit.serving.service import Limits
from dlkit.serving.tensors import RequestError

SMALL = 1024  # bytes; an answer of fewer is not worth zipping
CHUNK = 2**16


async def read(request: Request, limits: Limits) -> bytes:
    """Return a request's body, unzipped.

    Neither the length in the header nor the one that gzip promises is believed.

    Raises:
        RequestError: 413 for more bytes than `limits` allow, 415 for an encoding other than gzip,
            400 for one that is not what it says.
    """
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > limits.body:
        raise _too_large(limits.body)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limits.body:
            raise _too_large(limits.body)
        parts.append(part)
    body = b"".join(parts)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "gzip":
        return unzipped(body, limits.decompressed)
    if encoding not in ("", "identity"):
        raise RequestError(f"Content-Encoding {encoding[:40]} is not known; accepted: gzip", 415)
    return body


def unzipped(body: bytes, most: int) -> bytes:
    """Undo gzip, no further than to `most` bytes.

    Raises:
        RequestError: 413 for more, 400 for what is not gzip, or cut short.
    """
    parts: list[bytes] = []
    size = 0
    while body:
        stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            while not stream.eof:
                part = stream.decompress(body, CHUNK)
                body = stream.unconsumed_tail
                if not part and not stream.eof and not body:
                    raise RequestError("Body is not complete gzip")
                size += len(part)
                if size > most:
                    raise RequestError(f"Request body unzips to more than {most} bytes", 413)
                parts.append(part)
        except zlib.error:
            raise RequestError("Body is not gzip, as its Content-Encoding says") from None
        body = stream.unused_data  # a file of several members
    return b"".join(parts)


def zipped(request: Request, body: bytes) -> tuple[bytes, dict[str, str]]:
    """Return an answer's body and its headers, zipped where the client takes gzip and it pays."""
    if len(body) < SMALL or "gzip" not in request.headers.get("accept-encoding", "").lower():
        return body, {}
    return gzip.compress(body, 1), {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}


def _too_large(most: int) -> RequestError:
    return RequestError(f"Request body is larger than {most} bytes", 413)
