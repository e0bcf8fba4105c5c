"""The server's life: take the port, announce, answer, drain."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType

import numpy as np
import uvicorn

from dlkit.errors import ServeError
from dlkit.serving.app import create_app
from dlkit.serving.model import ServedModel
from dlkit.serving.rest import DEFAULT_SIGNATURE
from dlkit.serving.service import Service
from dlkit.serving.tensors import DTYPES, TensorSpec, to_base64

DRAIN_SECONDS = 1.0  # how long /healthz can be seen to fail before the port closes
STOP_SECONDS = 60.0  # how long accepted requests may take after that
PASTE = 1000  # characters of a request that one still cares to paste into a terminal
BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """Take the port without listening yet, so that nobody connects to a server that is not ready.

    Args:
        host: a name or an IPv4 or IPv6 address.
        port: 0 takes any free one.
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
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _port_error(error, host, port) from None
    return listener


def _port_error(error: OSError, host: str, port: int) -> ServeError:
    if error.errno == errno.EADDRINUSE:
        return ServeError(f"port {port} on {host} is in use; choose another with --port")
    if error.errno == errno.EACCES:
        return ServeError(f"port {port} on {host} is not allowed to you; choose one above 1023")
    return ServeError(f"port {port} on {host} cannot be taken: {error.strerror}")


def log_to_stderr() -> None:
    """Send the server's and uvicorn's log to standard error; standard output is for results."""
    # Not by dictConfig, which closes the handlers of everybody else in this process.
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("dlkit.serving", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the process with code 0 while it loads.

    As process 1 of a container it would otherwise ignore the signal: there is no default action.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def serve_models(
    service: Service, listener: socket.socket, host: str, keys: Iterable[str] = ()
) -> None:
    """Announce the models on standard output and answer until SIGTERM or Ctrl-C.

    Args:
        service: its models loaded and warm.
        listener: see `bind`.
        host: that was asked for.
        keys: see `create_app`.

    After the signal /healthz fails at once, requests are accepted for `DRAIN_SECONDS` more, and
    all that were accepted are answered. A second signal drops their connections.

    Raises:
        ServeError: another process listens on the port by now.
        KeyboardInterrupt: after a drain that Ctrl-C began; one that SIGTERM began returns.
    """
    app = create_app(service, keys)

    class Server(uvicorn.Server):
        signalled: float | None = None
        interrupted = False

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            # uvicorn would close the port at once and raise the signal again in the end.
            if self.signalled is not None:
                self.should_exit = self.force_exit = True
            self.signalled = self.signalled or time.monotonic()
            self.interrupted = self.interrupted or sig == signal.SIGINT
            service.draining = True

        async def on_tick(self, counter: int) -> bool:
            if self.signalled is not None and time.monotonic() > self.signalled + DRAIN_SECONDS:
                self.should_exit = True
            return await super().on_tick(counter)

    port = listener.getsockname()[1]
    try:
        listener.listen(BACKLOG)
    except OSError as error:  # two can bind one port as long as neither listens
        raise _port_error(error, host, port) from None
    for name in service.servables.names():
        print(announcement(service.servables.find(name), host, port), flush=True)
    server = Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # the guard writes one that holds more
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=int(STOP_SECONDS),
        )
    )
    server.run(sockets=[listener])
    if server.interrupted:
        raise KeyboardInterrupt


def announcement(model: ServedModel, host: str, port: int) -> str:
    """Return the model's URL and a curl command that can be pasted, as two lines."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    host = f"[{host}]" if ":" in host else host
    url = f"http://{host}:{port}/v1/models/{model.name}"
    body = _example(model)
    if body is not None:
        command = f"curl -d {shlex.quote(body)} {url}:predict"
    elif _inputs(model).keys() == {"image"}:
        start, end = """'{"instances": [{"b64": "'""", """'"}]}'"""
        base64 = "base64 < image.png | tr -d '\\n'"
        command = f"(printf {start}; {base64}; printf {end}) | curl -d @- {url}:predict"
    else:
        command = f"curl {url}/metadata"
    manifest = model.manifest or {}
    known = [str(manifest[key]) for key in ("task", "model", "run") if manifest.get(key)]
    about = f" ({', '.join(known)})" if known else ""
    return f"{model.name}{about}: {url}:predict\n  {command}"


def _inputs(model: ServedModel) -> Mapping[str, TensorSpec]:
    signature = model.signatures.get(DEFAULT_SIGNATURE)
    return signature.inputs if signature is not None else {}


def _example(model: ServedModel) -> str | None:
    """Return a request short enough to paste: a recorded one, else zeros; None for an image."""
    inputs = _inputs(model)
    # Rows are needed, of few numbers each.
    if not inputs or not all(
        spec.dtype in DTYPES and spec.shape and math.prod(n or 1 for n in spec.shape) <= PASTE
        for spec in inputs.values()
    ):
        return None
    arrays = model.example
    if arrays is None and inputs.keys() != {"image"}:
        arrays = {
            name: np.full(
                [size or 1 for size in spec.shape or ()],
                b"text" if spec.dtype == "string" else 0,
                DTYPES[spec.dtype],
            )
            for name, spec in inputs.items()
        }
    body = _instance(arrays) if arrays else ""
    return body if 0 < len(body) <= PASTE else None


def _instance(inputs: Mapping[str, np.ndarray]) -> str:
    """Write the first row of inputs by name as the body of a request in row format."""
    row = {name: array[:1].tolist()[0] for name, array in inputs.items()}
    only = next(iter(row.values()))
    return json.dumps({"instances": [row if len(row) > 1 else only]}, default=_text_or_base64)


def _text_or_base64(value: bytes) -> str | dict[str, str]:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return to_base64(value)
    return text if text.isprintable() else to_base64(value)
