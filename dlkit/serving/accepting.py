"""Takes the connections that wait on the port, however busy the process is."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("dlkit.serving")

MOST_AT_ONCE = 64
PAUSE = 1.0  # seconds before another try where the process may open no more files


class Acceptor:
    """Accepts one connection at a turn of the event loop, twice as many at each that follows.

    uvloop takes one at each turn. Under more load than a process carries, a turn takes a tenth of
    a second, and connections wait on the port for half a minute, neither answered nor refused.
    asyncio takes all that wait: the first worker that wakes has what was its idle neighbours'.
    This begins as the one does, and soon goes as fast as the other.

    Args:
        listener: which the workers of a server share.
        protocol: makes what answers a connection.
    """

    def __init__(
        self, listener: socket.socket, protocol: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        listener.setblocking(False)
        self.listener, self.protocol = listener, protocol
        self.loop = asyncio.get_running_loop()
        self.opening: set[asyncio.Task[Any]] = set()
        self.most = 1
        self.start()

    def start(self) -> None:
        """Wait for connections."""
        if self.listener.fileno() >= 0:
            self.loop.add_reader(self.listener, self.accept)

    def accept(self) -> None:
        """Take some of those that wait."""
        try:
            for _ in range(self.most):
                self.open(self.listener.accept()[0])
            self.most = min(2 * self.most, MOST_AT_ONCE)
        except (BlockingIOError, ConnectionAbortedError):
            self.most = 1
        except OSError as error:
            logger.error("no connection can be accepted: %s", error.strerror)
            self.loop.remove_reader(self.listener)
            self.loop.call_later(PAUSE, self.start)

    def open(self, connection: socket.socket) -> None:
        """Let a connection be answered."""
        connection.setblocking(False)
        opened = self.loop.connect_accepted_socket(self.protocol, connection)
        task = self.loop.create_task(opened)
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)

    async def stop(self) -> None:
        """Take all that wait, and no more."""
        self.loop.remove_reader(self.listener)
        try:
            while True:
                self.open(self.listener.accept()[0])
        except OSError:  # nothing waits any longer
            pass
        if self.opening:
            await asyncio.wait(self.opening)
