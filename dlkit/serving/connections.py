"""HTTP connections that a slow or careless client cannot hold, on top of uvicorn's."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dlkit.serving.service import WAITS_FOR

HEADER_SECONDS = 10.0  # from the connection, or a request's first byte, to its last header
HEADER_BYTES = 2**16  # of one request, its first line too
IDLE_SECONDS = 75  # between requests; longer than clients' pools keep a connection
UNREAD_SECONDS = 30.0  # that a client may leave an answer unread
GRACE = 0.5  # seconds in which a request that is on its way may still come while draining


class Connection(HttpToolsProtocol):
    """A connection with limits on what comes before a request's body and on an unread answer.

    uvicorn 0.54 waits for headers for ever and takes any number of them, and on shutdown it
    closes a connection whose request is half read.
    """

    def connection_made(self, transport: Any) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self.header_bytes = 0
        self.in_headers = True
        self.closing = False
        self.clock: asyncio.TimerHandle | None = None
        self.unread: asyncio.TimerHandle | None = None
        self.start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks; what waits for its turn leaves the queue."""
        self.stop_clock()
        if self.answering() and WAITS_FOR in self.cycle.scope:
            self.cycle.scope[WAITS_FOR].cancel()
        super().connection_lost(exc)  # resumes writing
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Count what comes before the body, and pass it on."""
        if self.in_headers:
            if self.clock is None:  # the first byte after an answer
                self.start_clock()
            self.header_bytes += len(data)
        super().data_received(data)
        if self.in_headers and self.header_bytes > HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response(f"Request headers are larger than {HEADER_BYTES} bytes.")

    def on_headers_complete(self) -> None:
        """Stop the clock: what follows is the body, which the guard bounds."""
        self.in_headers = False
        self.stop_clock()
        super().on_headers_complete()
        if self.closing:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Wait for the next request."""
        super().on_message_complete()
        self.stop_clock()
        self.in_headers, self.header_bytes = True, 0

    def on_response_complete(self) -> None:
        """Give the rest of a body that was refused unread some time; drop what came of it."""
        if self.cycle.response_complete:  # else it is the next request's already
            self.cycle.body.clear()
        super().on_response_complete()
        if not self.in_headers and self.clock is None:
            self.start_clock()

    def pause_writing(self) -> None:
        """Give a client that does not read its answer some time."""
        super().pause_writing()
        self.unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Let the connection be."""
        if self.unread is not None:
            self.unread.cancel()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; what was written and is not read yet is dropped."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def start_clock(self) -> None:
        """Close the connection unless headers are complete in time."""
        self.clock = self.loop.call_later(HEADER_SECONDS, self.too_slow)

    def stop_clock(self) -> None:
        """Let the connection be."""
        if self.clock is not None:
            self.clock.cancel()
            self.clock = None

    def too_slow(self) -> None:
        """Close the connection, but not under an answer that is on its way."""
        if self.answering():
            self.start_clock()
        else:
            self.timeout_keep_alive_handler()

    def answering(self) -> bool:
        """Say whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def shutdown(self) -> None:
        """Close the connection after its answer, or soon where there is no request yet."""
        self.closing = True
        if self.answering():
            self.cycle.keep_alive = False
        elif self.cycle is not None and not self.header_bytes:
            self.transport.close()  # idle, and told so by its last answer's headers
        else:
            self.loop.call_later(GRACE, self.close_if_idle)

    def close_if_idle(self) -> None:
        """Close the connection unless its request has come meanwhile."""
        if not self.answering():
            self.transport.close()
