"""Counters in Prometheus's text format, under TensorFlow Serving's names and our own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

# Seconds; from the fastest answer of a small net to the longest wait.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SHARED = "PROMETHEUS_MULTIPROC_DIR"  # where workers of one server keep their counters


class Metrics:
    """The counters of a server; with several workers, those of all."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # TensorFlow Serving's own, from servables/tensorflow/util.cc and http_rest_api_handler.cc.
        self.requests = Counter(
            ":tensorflow:serving:request_count",
            "The total number of requests.",
            ("model_name", "status"),
            registry=self.registry,
        )
        self.latency = Histogram(
            ":tensorflow:serving:request_latency",
            "Distribution of wall time (in microseconds) for Tensorflow Serving Request.",
            ("model_name", "API", "entrypoint"),
            buckets=[seconds * 1e6 for seconds in BUCKETS],
            registry=self.registry,
        )
        self.responses = Counter(
            "dlkit_serving_responses",
            "HTTP answers by protocol and status.",
            ("protocol", "status"),
            registry=self.registry,
        )
        self.waiting = Gauge(
            "dlkit_serving_requests_in_flight",
            "Requests accepted and not yet answered.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )

    def request(self, model: str, api: str, entrypoint: str, status: str, seconds: float) -> None:
        """Count a request that was answered.

        Args:
            model: its name; only of models that exist, so that names are few.
            api: "predict", "classify", "regress", "infer" or "completions".
            entrypoint: "REST" or "GRPC".
            status: the code's name, such as "OK" or "INVALID_ARGUMENT".
            seconds: from the request's arrival to its answer.
        """
        self.requests.labels(model, status).inc()
        self.latency.labels(model, api, entrypoint).observe(seconds * 1e6)

    def text(self) -> bytes:
        """Return all counters as Prometheus reads them."""
        registry = self.registry
        if SHARED in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        plain = CollectorRegistry()
        plain.register(_AsServing(registry))
        # The library would name a counter otherwise: see _AsServing.
        named = b"# TYPE :tensorflow:serving:request_count "
        return generate_latest(plain).replace(named + b"untyped", named + b"counter")


class _AsServing:
    """Metrics of a registry, with TensorFlow Serving's counters named as it names them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Any]:
        for metric in self._registry.collect():
            if metric.name.startswith(":tensorflow"):
                # The library adds "_total" to the name of a counter, and when it was made.
                metric.type = "unknown" if metric.type == "counter" else metric.type
                metric.samples = [
                    sample._replace(name=sample.name.removesuffix("_total"))
                    for sample in metric.samples
                    if not sample.name.endswith("_created")
                ]
            yield metric
