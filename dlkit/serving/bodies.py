"""Bodies of HTTP requests, read within limits and unzipped, and answers, zipped where asked for."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import zlib

from starlette.requests import Request

from dlkit.serving.service import Limits
from dlkit.serving.tensors import RequestError

SMALL = 1024  # bytes; an answer of fewer is not worth zipping
CHUNK = 2**16
AT_ONCE = 2**14  # bytes that are unzipped on the event loop: a hop to a thread would take longer
# Of zlib: deflate is its own format (RFC 9110, 8.4.1.2), gzip another around the same data.
WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


async def read(request: Request, limits: Limits) -> bytes:
    """Return a request's body, unzipped.

    Neither the length in the header nor the one that gzip promises is believed.

    Raises:
        RequestError: 413 for more bytes than `limits` allow, 415 for an encoding other than gzip
            and deflate, 400 for one that is not what it says.
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
    if encoding in WINDOWS:
        if len(body) > AT_ONCE:
            return await asyncio.to_thread(unzipped, body, limits.decompressed, encoding)
        return unzipped(body, limits.decompressed, encoding)
    if encoding not in ("", "identity"):
        known = ", ".join(WINDOWS)
        raise RequestError(f"Content-Encoding {encoding[:40]} is not known; accepted: {known}", 415)
    return body


def unzipped(body: bytes, most: int, encoding: str = "gzip") -> bytes:
    """Undo gzip or deflate, no further than to `most` bytes.

    Its time is in proportion to the bytes that go in and come out: what is left over is copied at
    each step, so the steps are small, and gzip of several members, each of which starts anew, is
    not taken.

    Raises:
        RequestError: 413 for more, 400 for what is not of that encoding, is cut short or goes on.
    """
    parts: list[bytes] = []
    size = 0
    stream = zlib.decompressobj(WINDOWS[encoding])
    try:
        for start in range(0, len(body), CHUNK):
            left = body[start : start + CHUNK]
            while left and not stream.eof:
                parts.append(stream.decompress(left, CHUNK))
                left = stream.unconsumed_tail
                size += len(parts[-1])
                if size > most:
                    raise _unzips_to_more(most)
            if stream.eof and (stream.unused_data or start + CHUNK < len(body)):
                raise RequestError(f"Body goes on after its {encoding} ends")
        parts.append(stream.flush())  # of few bytes: all that came in was taken
        if size + len(parts[-1]) > most:
            raise _unzips_to_more(most)
    except zlib.error:
        raise RequestError(f"Body is not {encoding}, as its Content-Encoding says") from None
    if not stream.eof:
        raise RequestError(f"Body is not complete {encoding}")
    return b"".join(parts)


def zipped(request: Request, body: bytes) -> tuple[bytes, dict[str, str]]:
    """Return an answer's body and its headers, zipped where the client takes it and it pays."""
    encoding = preferred(request.headers.get("accept-encoding", ""))
    if len(body) < SMALL or not encoding:
        return body, {}
    small = gzip.compress(body, 1) if encoding == "gzip" else zlib.compress(body, 1)
    return small, {"Content-Encoding": encoding, "Vary": "Accept-Encoding"}


def preferred(accepted: str) -> str:
    """Return the encoding that an Accept-Encoding header prefers, "" for none of ours.

    By RFC 9110, 12.5.3: the highest weight, of which 0 means "not acceptable"; gzip of two alike.
    """
    weights: dict[str, float] = {}
    for item in accepted.lower().split(","):
        name, _, parameter = item.partition(";")
        weight = parameter.strip().removeprefix("q=") if parameter else "1"
        with contextlib.suppress(ValueError):
            weights[name.strip()] = float(weight)
    best = max(WINDOWS, key=lambda name: weights.get(name, 0.0))
    return best if weights.get(best, 0.0) > 0 else ""


def _too_large(most: int) -> RequestError:
    return RequestError(f"Request body is larger than {most} bytes", 413)


def _unzips_to_more(most: int) -> RequestError:
    return RequestError(f"Request body unzips to more than {most} bytes", 413)
