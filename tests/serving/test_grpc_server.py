"""The gRPC server: deadlines, limits, counters, keys, its end, its port."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_client import HEALTH, STATUS, Client, Code, request

from dlkit.errors import ServeError
from dlkit.serving import grpc_api
from dlkit.serving.batching import Batching
from dlkit.serving.grpc_health import MOST_WATCHERS
from dlkit.serving.model import ServedModel, Signature
from dlkit.serving.servables import Servables
from dlkit.serving.service import Limits, Service
from dlkit.serving.tensors import TensorSpec


def slow_service(went: threading.Event, **more: Any) -> Service:
    def wait(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        went.wait(5)
        if arrays["x"][0] < 0:
            raise ValueError("SECRET")
        return {"y": arrays["x"]}

    tensor = TensorSpec("float", (None,))
    signature = Signature({"x": tensor}, {"y": tensor}, wait, batchable=True)
    model = ServedModel(
        "slow", 1, Path(), {"serving_default": signature}, {"signature_def": {}}, None, None, None
    )
    return Service(Servables([model]), **more)


def test_deadlines_limits_and_counters(caplog: pytest.LogCaptureFixture) -> None:
    went = threading.Event()
    service = slow_service(
        went, limits=Limits(concurrency=3, rows=2), batching=Batching(max_queue=1, max_batch=1)
    )
    server = grpc_api.start(service, "127.0.0.1", 0)
    with Client(server.port) as client:

        def ask(*values: float, timeout: float = 10.0) -> Any:
            asked = request("slow", {"x": np.array(values, np.float32)})
            future = client.predictions.Predict.future(asked, timeout=timeout)
            time.sleep(0.1)
            return future

        running = ask(1)
        late = ask(2, timeout=0.15)
        full = ask(3)
        assert full.exception().code() is Code.UNAVAILABLE
        assert late.exception().code() is Code.DEADLINE_EXCEEDED
        time.sleep(0.1)
        assert service.metrics.registry.get_sample_value("dlkit_serving_requests_in_flight") == 1
        went.set()
        assert running.result().outputs["y"].float_val == [1.0]
        assert ask(4).result().outputs["y"].float_val == [4.0]
        assert ask(1, 2, 3).exception().code() is Code.INVALID_ARGUMENT
        went.clear()
        crowd = [ask(n) for n in range(4)]
        assert client.health.Check(HEALTH.HealthCheckRequest(), timeout=5).status == 1
        went.set()
        codes = [future.exception() and future.exception().code() for future in crowd]
        assert codes == [None, None, Code.UNAVAILABLE, Code.UNAVAILABLE]
        error = ask(-1).exception()
        assert (error.code(), error.details()) == (Code.INTERNAL, "Internal error: ValueError")
    server.stop(1)
    assert "SECRET" not in caplog.text
    text = service.metrics.text().decode()
    assert ':request_count{model_name="slow",status="UNAVAILABLE"} ' in text
    assert 'count{API="predict",entrypoint="GRPC",model_name="slow"}' in text


def test_keys() -> None:
    service = slow_service(threading.Event())
    server = grpc_api.start(service, "127.0.0.1", 0, ["first", "second"])
    with Client(server.port) as client:
        asked = STATUS.GetModelStatusRequest()
        asked.model_spec.name = "slow"
        for metadata in ((("authorization", "Bearer second"),), (("x-api-key", "first"),)):
            client.models.GetModelStatus(asked, timeout=10, metadata=metadata)
        for metadata in ((), (("x-api-key", "third"),), (("authorization", "first"),)):
            with pytest.raises(grpc.RpcError) as told:
                client.models.GetModelStatus(asked, timeout=10, metadata=metadata)
            assert told.value.code() is Code.UNAUTHENTICATED
        assert client.health.Check(HEALTH.HealthCheckRequest(), timeout=5).status == 1
    server.stop(0)


def told_or_code(watched: Any) -> Iterator[Any]:
    """Yield the states that are told, then the code of the end."""
    with contextlib.suppress(grpc.RpcError):
        for told in watched:
            yield told.status
    yield watched.code()


def test_health_is_watched() -> None:
    service = slow_service(threading.Event())
    server = grpc_api.start(service, "127.0.0.1", 0, keys=("key",))
    states = HEALTH.HealthCheckResponse

    def watch(client: Client, name: str = "") -> Any:
        return client.health.Watch(HEALTH.HealthCheckRequest(service=name), timeout=30)

    with Client(server.port) as client:
        watched = watch(client, "tensorflow.serving.PredictionService")
        unknown = watch(client, "no")
        assert next(watched).status == states.SERVING
        assert next(unknown).status == states.SERVICE_UNKNOWN
        service.servables.mark("other", 1, "LOADING")
        assert next(watched).status == states.NOT_SERVING
        service.servables.put(replace(service.servables.find("slow"), name="other"))
        assert next(watched).status == states.SERVING

        more = [watch(client) for _ in range(MOST_WATCHERS)]
        refused = [each for each in more if next(told_or_code(each)) is Code.RESOURCE_EXHAUSTED]
        assert len(refused) == 2
        for each in (*more, unknown):
            each.cancel()

        service.draining = True
        assert next(watched).status == states.NOT_SERVING
        began = time.monotonic()
        server.stop(20)
        assert time.monotonic() - began < 5  # who only watches keeps no server from ending
        assert list(told_or_code(watched)) == [Code.OK]
    text = service.metrics.text().decode()
    assert 'responses_total{protocol="grpc",status="RESOURCE_EXHAUSTED"}' in text


def test_crowd_and_drain() -> None:
    went = threading.Event()
    service = slow_service(went, limits=Limits(concurrency=1))
    server = grpc_api.start(service, "127.0.0.1", 0)
    with Client(server.port) as client:
        health = HEALTH.HealthCheckRequest(service="tensorflow.serving.PredictionService")
        assert client.health.Check(health, timeout=5).status == HEALTH.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as told:
            client.health.Check(HEALTH.HealthCheckRequest(service="no"), timeout=5)
        assert told.value.code() is Code.NOT_FOUND
        asked = request("slow", {"x": np.array([1], np.float32)})
        accepted = client.predictions.Predict.future(asked, timeout=10)
        time.sleep(0.1)
        with pytest.raises(grpc.RpcError, match="Too many requests at once") as told:
            client.predictions.Predict(asked, timeout=5)
        assert told.value.code() is Code.RESOURCE_EXHAUSTED
        service.draining = True
        state = client.health.Check(health, timeout=5).status
        assert state == HEALTH.HealthCheckResponse.NOT_SERVING
        stopping = threading.Thread(target=server.stop, args=(5,))
        stopping.start()
        time.sleep(0.1)
        went.set()
        assert accepted.result().outputs["y"].float_val == [1.0]
        stopping.join(5)
        assert not stopping.is_alive()
        with pytest.raises(grpc.RpcError) as told:
            client.predictions.Predict(asked, timeout=5)
        assert told.value.code() is Code.UNAVAILABLE


def test_ports() -> None:
    service = slow_service(threading.Event())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"port {port} on .* in use; .* with --grpc-port"):
            grpc_api.start(service, "127.0.0.1", port)
    with pytest.raises(ServeError, match=r"host no.such.host is not known"):
        grpc_api.start(service, "no.such.host", 0)
    one = grpc_api.start(service, "127.0.0.1", port, shared=True)
    two = grpc_api.start(service, "127.0.0.1", port, shared=True)
    assert one.port == two.port == port
    with pytest.raises(ServeError, match="in use"):
        grpc_api.start(service, "127.0.0.1", port)
    one.stop(0)
    two.stop(0)
