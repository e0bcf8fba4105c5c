"""The gRPC server: what every request passes, and the server's life. See `grpc_services`.

A request waits on a thread of its own, asleep, so that as many can be run together as over HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from dlkit.errors import ServeError
from dlkit.runtime import load_tensorflow
from dlkit.serving.grpc_health import MOST_WATCHERS, Watching
from dlkit.serving.guard import REQUEST_ID, access, admitted, identity
from dlkit.serving.logs import place
from dlkit.serving.server import bind
from dlkit.serving.service import Service
from dlkit.serving.tensors import RequestError

logger = logging.getLogger("dlkit.serving")

Code = grpc.StatusCode
# HTTP's status -> gRPC's code; UNKNOWN for the others.
CODES = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    409: Code.ABORTED,
    412: Code.FAILED_PRECONDITION,
    413: Code.RESOURCE_EXHAUSTED,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}
OPEN = ("/grpc.health.v1.Health/Check",)  # what a probe may see without a key
SPARE = 4  # threads that refuse, and answer probes, while all others wait


@dataclass(frozen=True)
class Method:
    """What answers a method: given the parsed message and the call, it returns the answer's message.

    It raises RequestError for what the client can mend.
    """

    message: Any
    answer: Callable[[Any, grpc.ServicerContext], Any]


@dataclass(frozen=True)
class GrpcServer:
    """A server that answers. `port` is the one it listens on, `watching` its Health.Watch."""

    port: int
    server: grpc.Server
    watching: Watching

    def stop(self, grace: float) -> None:
        """Accept nothing more; return when all is answered, or dropped after `grace` seconds."""
        self.watching.end()
        self.server.stop(grace).wait()


def start(
    service: Service, host: str, port: int, keys: Iterable[str] = (), shared: bool = False
) -> GrpcServer:
    """Answer over gRPC, without TLS.

    Args:
        service: its models may still change.
        host: a name or an IPv4 or IPv6 address.
        port: 0 takes any free one.
        keys: API keys, one of which every request must carry but those to Health: in its metadata
            as `authorization: Bearer KEY` or `x-api-key: KEY`.
        shared: whether other processes of this user may listen on the port as well.
    Raises:
        ServeError: the port is in use or not allowed, or the host is not this machine's.
    """
    try:
        bind(host, port, shared).close()  # gRPC's library does not say what is wrong
    except ServeError as error:
        raise ServeError(str(error).replace("--port", "--grpc-port")) from None
    load_tensorflow()  # whose protos the services need
    from dlkit.serving.grpc_services import methods

    guard = Guard(service, keys)
    watching = Watching(service, guard.log)
    threads = service.limits.concurrency + MOST_WATCHERS + SPARE
    server = grpc.server(
        ThreadPoolExecutor(threads, thread_name_prefix="grpc"),
        handlers=[*guard.handlers(methods(service)), watching.handler()],
        options=[
            # Of a compressed message also after it is undone.
            ("grpc.max_receive_message_length", service.limits.body),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", int(shared)),
        ],
    )
    try:
        chosen = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError:
        raise ServeError(f"gRPC cannot listen on port {port} of {host}") from None
    server.start()
    return GrpcServer(chosen, server, watching)


def as_headers(metadata: Any) -> dict[bytes, bytes]:
    """Return a call's metadata as HTTP's headers are had."""
    return {
        key.encode(): value if isinstance(value, bytes) else value.encode()
        for key, value in metadata or ()
    }


class Guard:
    """What every request passes: the key, the number at once, an id, the log; see `guard.Guard`."""

    def __init__(self, service: Service, keys: Iterable[str] = ()) -> None:
        self.service = service
        self.keys = [key.encode() for key in keys]
        self.free = threading.Semaphore(service.limits.concurrency)

    def handlers(self, served: Mapping[str, Method]) -> list[grpc.GenericRpcHandler]:
        """Return what a server is made of.

        Args:
            served: by path, such as "/grpc.health.v1.Health/Check".
        """
        handlers = []
        for path, method in served.items():
            _, service, name = path.split("/")
            handler = grpc.unary_unary_rpc_method_handler(self.guarded(path, method))
            handlers.append(grpc.method_handlers_generic_handler(service, {name: handler}))
        return handlers

    def guarded(self, path: str, method: Method) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        """Return a handler of bytes whose errors are codes with one line of words."""

        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            began = time.perf_counter()
            metadata = context.invocation_metadata() or ()
            headers = as_headers(metadata)
            code, words, answer = Code.OK, "", b""
            try:
                answer = self.answer(request, context, path, method, headers)
            except RequestError as error:
                code, words = CODES.get(error.status, Code.UNKNOWN), str(error)
            except CancelledError:
                code, words = Code.CANCELLED, "The client has left"
            except Exception as error:  # ours; the message may quote a payload and is not logged
                logger.error("%s", place(error))
                code, words = Code.INTERNAL, f"Internal error: {type(error).__name__}"
            self.log(path, code, metadata, time.perf_counter() - began)
            if code is not Code.OK:
                context.abort(code, words)
            return answer

        return handle

    def answer(
        self,
        request: bytes,
        context: grpc.ServicerContext,
        path: str,
        method: Method,
        headers: Mapping[bytes, bytes],
    ) -> bytes:
        """Return the answer's bytes.

        Raises:
            RequestError: for the caller to write.
        """
        counted = path not in OPEN
        if counted and not admitted(headers, self.keys):
            raise RequestError("Unauthorized: a key is needed", 401)
        try:
            message = method.message.FromString(request)
        except Exception:  # DecodeError of one implementation, others of others
            raise RequestError(f"Request is no {method.message.__name__}") from None
        if not counted:
            return method.answer(message, context).SerializeToString()
        if not self.free.acquire(blocking=False):
            raise RequestError("Too many requests at once; try again", 429)
        self.service.metrics.waiting.inc()
        try:
            return method.answer(message, context).SerializeToString()
        finally:
            self.service.metrics.waiting.dec()
            self.free.release()

    def log(self, path: str, code: grpc.StatusCode, metadata: Any, seconds: float) -> None:
        """Count the request and write its line."""
        name = identity(as_headers(metadata).get(REQUEST_ID, b""))
        self.service.metrics.responses.labels("grpc", code.name).inc()
        if access.isEnabledFor(logging.INFO):
            entry = {"id": name.decode("latin-1"), "method": "GRPC", "path": path}
            entry |= {"status": code.name, "ms": round(seconds * 1000, 2)}
            line = "%(method)s %(path)s %(status)s %(ms)s ms, id %(id)s"
            access.info(line, entry, extra={"request": entry})
