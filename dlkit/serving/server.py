"""A serving process's life: take the port, load, answer, drain."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import logging
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from dlkit.errors import ServeError
from dlkit.runtime import load_tensorflow
from dlkit.serving.accepting import Acceptor
from dlkit.serving.announce import announcement, reachable
from dlkit.serving.app import create_app
from dlkit.serving.connections import IDLE_SECONDS, Connection
from dlkit.serving.loader import Loader
from dlkit.serving.servables import Servables
from dlkit.serving.service import Service
from dlkit.serving.settings import Settings
from dlkit.serving.watch import Finder, Plan, Watcher

if TYPE_CHECKING:
    from dlkit.serving.grpc_api import GrpcServer

DRAIN_SECONDS = 1.0  # how long /healthz can be seen to fail before the port closes
STOP_SECONDS = 25.0  # how long accepted requests may take after that
ACCEPT_SECONDS = 0.05  # in which what waits on a port that is closing is accepted
BACKLOG = 2048
TRIM_SECONDS = 1.0  # after the last refusal
SO_ATTACH_FILTER = 26  # of Linux


def bind(host: str, port: int, shared: bool = False) -> socket.socket:
    """Take a port without listening yet, so that nobody connects to a server that is not ready.

    Args:
        host: a name or an IPv4 or IPv6 address.
        port: 0 takes any free one.
        shared: whether other sockets of this user may take it as well, if they say so too.
    Raises:
        ServeError: the port is in use or not allowed, or the host is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise ServeError(f"host {host} is not known; give an address with --host") from None
    listener = socket.socket(family, kind, protocol)
    # Without it a port is refused for a minute after its last server stopped.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _port_error(error, host, port) from None
    return listener


@contextlib.contextmanager
def held(host: str, port: int) -> Iterator[int]:
    """Keep a port for gRPC, whose library takes it by its number once the models are loaded.

    Raises:
        ServeError: see `bind`.
    """
    try:
        with bind(host, port) as alone:  # one that is shared already could be taken as well
            port = alone.getsockname()[1]
        with bind(host, port, shared=True):
            yield port
    except ServeError as error:
        raise ServeError(str(error).replace("--port", "--grpc-port")) from None


def listen(listener: socket.socket, host: str) -> None:
    """Let connections wait to be accepted.

    Raises:
        ServeError: another process listens on the port by now.
    """
    try:
        listener.listen(BACKLOG)
    except OSError as error:  # two can bind one port as long as neither listens
        raise _port_error(error, host, listener.getsockname()[1]) from None


def refuse_new(listener: socket.socket) -> None:
    """Let no more connections come in, while those that wait can still be accepted.

    Closing a port resets the connections that wait in its queue, which their clients have begun to
    send on. Where the system cannot do this, so it is.
    """
    # A filter that drops every packet that would open a connection; see socket(7).
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # return 0
    with contextlib.suppress(OSError):
        program = struct.pack("HL", 1, ctypes.addressof(code))
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def _port_error(error: OSError, host: str, port: int) -> ServeError:
    if error.errno == errno.EADDRINUSE:
        return ServeError(f"port {port} on {host} is in use; choose another with --port")
    if error.errno == errno.EACCES:
        return ServeError(f"port {port} on {host} is not allowed to you; choose one above 1023")
    return ServeError(f"port {port} on {host} cannot be taken: {error.strerror}")


@contextlib.contextmanager
def signals_while_loading() -> Iterator[None]:
    """Let SIGTERM end the process with code 0 while it loads, and SIGHUP do nothing.

    As process 1 of a container it would otherwise ignore SIGTERM: there is no default action.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGTERM, stop), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGHUP, before[1])


def serve_alone(
    settings: Settings, finder: Finder, plan: Plan, listener: socket.socket, poll: float
) -> None:
    """Load what is planned, announce it on standard output, and answer until a signal; see `run`.

    Args:
        settings: of one worker.
        finder: of the plans to come.
        plan: its first.
        listener: see `bind`.
        poll: seconds between looks for other versions; 0 never looks.
    Raises:
        DlkitError: a model cannot be loaded, or another process listens on the port by now.
        KeyboardInterrupt: after a drain that Ctrl-C began; one that SIGTERM began returns.
    """
    settings.limit_threads()
    service, loader = load(settings, plan)
    drain_on_sigterm(service)
    listen(listener, settings.host)
    print(announced(service, settings, listener), flush=True)
    if poll:
        Watcher(finder, plan, poll, loader.apply).start()
    if run(service, settings, listener):
        raise KeyboardInterrupt


def load(settings: Settings, plan: Plan) -> tuple[Service, Loader]:
    """Make a service and load what is planned into it.

    Raises:
        DlkitError: a model cannot be loaded.
    """
    if settings.runtime == "tensorflow":
        load_tensorflow()
    # The collector would walk all that these imports made, 0.2 s a time, for every few hundred
    # requests: the lists that JSON becomes are what sets it off. Measured: half the CPU time of a
    # request of 28 x 28 pixels. What models leave behind is still collected.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    service = Service(Servables(), settings.limits, settings.batching)
    loader = Loader(service, settings)
    loader.start(plan)
    return service, loader


def announced(service: Service, settings: Settings, listener: socket.socket) -> str:
    """Return what is said of all models when they are ready."""
    port = listener.getsockname()[1]
    models = [service.servables.find(name) for name in service.servables.names()]
    lines = [announcement(model, settings.host, port) for model in models]
    if settings.grpc_port is not None:
        lines.append(f"gRPC: {reachable(settings.host)}:{settings.grpc_port}")
    return "\n".join(lines)


def drain_on_sigterm(service: Service) -> None:
    """Let a SIGTERM that comes before `run` minds it begin the drain there.

    From here on there may be connections that wait to be accepted.
    """

    def note(number: int, frame: FrameType | None) -> None:
        service.draining = True

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, note)


class Server(uvicorn.Server):
    """uvicorn, draining.

    Args:
        config: uvicorn's.
        service: learns of the drain.
        worker: whether a supervisor minds Ctrl-C and a second signal.
        grpc: answers beside it.
    """

    def __init__(
        self, config: uvicorn.Config, service: Service, worker: bool, grpc: GrpcServer | None
    ) -> None:
        super().__init__(config)
        self.service, self.worker, self.grpc = service, worker, grpc
        self.signalled: float | None = None
        self.interrupted = False
        self.acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections; uvicorn itself is given none of the ports."""
        await super().startup(sockets=[])

        def protocol() -> Connection:
            return Connection(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )

        self.acceptors = [Acceptor(listener, protocol) for listener in sockets or []]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; uvicorn would close the port at once and raise the signal again."""
        if self.worker and sig == signal.SIGINT:
            return  # a terminal sends it to all processes
        if self.signalled is not None and not self.worker:
            self.should_exit = self.force_exit = True
            if self.grpc:
                self.grpc.server.stop(0)
        self.signalled = self.signalled or time.monotonic()
        self.interrupted = self.interrupted or sig == signal.SIGINT
        self.service.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Close the port some time after readiness failed; tidy up after an overload."""
        if self.service.draining and self.signalled is None:  # before the signal was minded here
            self.signalled = time.monotonic()
        if self.signalled is not None and time.monotonic() > self.signalled + DRAIN_SECONDS:
            self.should_exit = True
        refused = self.service.refused
        if refused is not None and time.monotonic() > refused + TRIM_SECONDS:
            self.service.refused = None
            await asyncio.to_thread(trim)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the ports and wait for what was accepted."""
        for listener in sockets or []:
            refuse_new(listener)
        await asyncio.sleep(ACCEPT_SECONDS)
        for acceptor in self.acceptors:
            await acceptor.stop()
        grace = 0.0 if self.force_exit else STOP_SECONDS
        rest = asyncio.to_thread(self.grpc.stop, grace) if self.grpc else asyncio.sleep(0)
        await asyncio.gather(super().shutdown(sockets), rest)


def run(
    service: Service, settings: Settings, listener: socket.socket, worker: bool = False
) -> bool:
    """Answer until SIGTERM or Ctrl-C.

    After the signal readiness fails at once, requests are accepted for `DRAIN_SECONDS` more, and
    all that were accepted are answered, as far as they can be within `STOP_SECONDS`. A second
    signal drops their connections.

    Returns:
        Whether Ctrl-C began the end.
    Raises:
        ServeError: gRPC cannot have its port.
    """
    grpc = None
    if settings.grpc_port is not None:
        from dlkit.serving import grpc_api

        port, keys = settings.grpc_port, settings.keys
        grpc = grpc_api.start(service, settings.host, port, keys, shared=True)
    server = Server(
        uvicorn.Config(
            create_app(service, settings.keys),
            http=Connection,
            log_config=None,
            access_log=False,  # the guard writes one that holds more
            lifespan="off",
            ws="none",
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=int(STOP_SECONDS),
        ),
        service,
        worker,
        grpc,
    )
    server.run(sockets=[listener])
    rest = threading.Thread(target=service.batcher.close, daemon=True)
    rest.start()
    rest.join(1.0)
    if rest.is_alive():
        # Python would wait for the thread that computes what nobody waits for.
        logging.getLogger("dlkit.serving").warning("a model still computes; its answer is dropped")
        leave(130 if server.interrupted else 0)
    return server.interrupted


def trim() -> None:
    """Give the system back what is free between the pieces of memory in use, where it is glibc's.

    After an overload that is what its bodies took, a fifth of a worker's memory, and glibc keeps it.
    """
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)


def leave(code: int) -> None:
    """End the process without waiting for its threads."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)
