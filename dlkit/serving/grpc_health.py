"""gRPC's own Health service, by gRPC's `doc/health-checking.md`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from dlkit.serving.service import Service
from dlkit.serving.tensors import QUOTED, RequestError

HEALTH: Any = health_pb2  # generated code; pyright sees none of its classes
STATES: Any = HEALTH.HealthCheckResponse
SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
WATCH = "/grpc.health.v1.Health/Watch"
MOST_WATCHERS = 16  # at once: each holds a thread, asleep, and needs no key
LOOK_SECONDS = 0.2  # between looks at what is watched


def state(service: Service, name: str) -> Any:
    """Return the state of a gRPC service, SERVICE_UNKNOWN of one that there is not."""
    if name not in SERVICES:
        return STATES.SERVICE_UNKNOWN
    ready = not service.draining and service.servables.ready()
    return STATES.SERVING if ready else STATES.NOT_SERVING


def check(service: Service, request: Any, context: grpc.ServicerContext) -> Any:
    """Answer Health.Check.

    Raises:
        RequestError: there is no such service.
    """
    found = state(service, request.service)
    if found == STATES.SERVICE_UNKNOWN:
        raise RequestError(f"There is no service {request.service[:QUOTED]}", 404)
    return STATES(status=found)


class Watching:
    """Answers Health.Watch: the state, and each other one that it comes to.

    Args:
        service: whose state it is.
        log: is told of each stream when it has ended: its path, code, metadata and seconds.
    """

    def __init__(self, service: Service, log: Callable[..., None]) -> None:
        self.service, self.log = service, log
        self.free = threading.Semaphore(MOST_WATCHERS)
        self.ended = threading.Event()

    def end(self) -> None:
        """End all streams: a server stops when nothing is being answered any longer."""
        self.ended.set()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a server is made of."""
        watch = grpc.unary_stream_rpc_method_handler(
            self.watch,
            request_deserializer=HEALTH.HealthCheckRequest.FromString,
            response_serializer=STATES.SerializeToString,
        )
        _, service, name = WATCH.split("/")
        return grpc.method_handlers_generic_handler(service, {name: watch})

    def watch(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Yield the states of a service until the client leaves or the server ends."""
        began, code = time.perf_counter(), grpc.StatusCode.RESOURCE_EXHAUSTED
        if not self.free.acquire(blocking=False):
            self.log(WATCH, code, context.invocation_metadata(), time.perf_counter() - began)
            context.abort(code, f"{MOST_WATCHERS} watch already; use Check")
        code, told = grpc.StatusCode.CANCELLED, None
        try:
            while context.is_active():
                found = state(self.service, request.service)
                if found != told:
                    told = found
                    yield STATES(status=found)
                if self.ended.wait(LOOK_SECONDS):
                    code = grpc.StatusCode.OK
                    return
        finally:
            self.free.release()
            self.log(WATCH, code, context.invocation_metadata(), time.perf_counter() - began)
