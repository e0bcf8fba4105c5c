"""Connections that wait on a port are taken in few turns of the event loop, however long those are."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import uvloop

from dlkit.serving.accepting import MOST_AT_ONCE, Acceptor

WAITING = 300


class Counting(asyncio.Protocol):
    """Counts connections and closes them."""

    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Counting.made += 1
        transport.close()


def test_many_that_wait_are_taken_in_few_turns() -> None:
    async def turns(listener: socket.socket) -> int:
        Counting.made, count = 0, 0
        acceptor = Acceptor(listener, Counting)
        while Counting.made < WAITING and count < WAITING:
            await asyncio.sleep(0)
            count += 1
        await acceptor.stop()
        return count

    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=WAITING))
        for _ in range(WAITING):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        # 1, 2, 4 ... 64, and 64 a turn; each connection is open some turns after it is taken.
        assert uvloop.run(turns(listener)) < WAITING / MOST_AT_ONCE + 30


def test_stopping_takes_what_waits_and_nothing_after_it() -> None:
    async def stopped(listener: socket.socket) -> None:
        Counting.made = 0
        acceptor = Acceptor(listener, Counting)
        await acceptor.stop()
        assert Counting.made == 9
        with socket.create_connection(listener.getsockname()):
            await asyncio.sleep(0.05)
        assert Counting.made == 9

    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=WAITING))
        for _ in range(9):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        uvloop.run(stopped(listener))
