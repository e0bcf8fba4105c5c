"""A process under more load than it carries: what waits on its port, and its memory afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import socket

import psutil
import pytest
import uvloop

from dlkit.serving.accepting import MOST_AT_ONCE, Acceptor
from dlkit.serving.server import trim

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators give it back")
def test_what_is_free_between_pieces_in_use_goes_back() -> None:
    pieces = [bytearray(20_000) for _ in range(4000)]  # each too small to be mapped by itself
    held = [piece for number, piece in enumerate(pieces) if number % 20 == 19]
    del pieces
    before = psutil.Process().memory_info().rss
    trim()
    assert before - psutil.Process().memory_info().rss > 40e6, len(held)
