"""What every protocol stands on: the models, the queue, the limits, the counters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import MutableMapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dlkit.serving.batching import Arrays, Batcher, Batching
from dlkit.serving.metrics import Metrics
from dlkit.serving.model import ServedModel
from dlkit.serving.pixels import check_pixels
from dlkit.serving.servables import Servables
from dlkit.serving.tensors import RequestError
from dlkit.serving.text_limits import check_text

WAITS_FOR = "dlkit.waits_for"  # key of an ASGI scope: the future of its answer


@dataclass(frozen=True)
class Limits:
    """What one request may ask for; past it, it is refused.

    Attributes:
        body: bytes of a request as sent (413).
        decompressed: bytes of a request after gzip is undone (413).
        pixels: of an encoded image, as its header tells (400).
        rows: of a request (400).
        concurrency: requests that are answered at once (429).
        timeout: seconds after which a request that has not begun to run is given up (504).
    """

    body: int = 64 * 2**20
    decompressed: int = 256 * 2**20
    pixels: int = 50_000_000
    rows: int = 4096
    concurrency: int = 512
    timeout: float = 30.0


@dataclass
class Service:
    """The state of a server, shared by its protocols.

    `draining` is set by the signal that ends it: readiness fails, requests are still answered.
    `refused` is when a request was last refused for too many others (`time.monotonic`).
    """

    servables: Servables
    limits: Limits = field(default_factory=Limits)
    batching: Batching = field(default_factory=Batching)
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False
    refused: float | None = None

    def __post_init__(self) -> None:
        self.batcher = Batcher(self.batching)

    def submit(
        self, model: ServedModel, signature: str, arrays: Arrays, timeout: float | None = None
    ) -> Future:
        """Queue a request of arrays that fit the signature; see `Batcher.submit`.

        Args:
            model: found by `Servables.find`.
            signature: one of its signatures' names.
            arrays: every input by name.
            timeout: seconds that it may wait; never more than the limit.
        Raises:
            RequestError: more rows, pixels or tokens than the limits allow, or a full queue.
        """
        endpoint = model.signatures[signature]
        rows = max((len(a) if a.ndim else 1 for a in arrays.values()), default=1)
        if rows > self.limits.rows:
            raise RequestError(f"{rows} rows in a request; at most {self.limits.rows} are accepted")
        if endpoint.batchable and any(len(a) != rows for a in arrays.values()):
            sizes = ", ".join(f"{name} {len(a)}" for name, a in sorted(arrays.items()))
            raise RequestError(f"Inputs have different numbers of rows: {sizes}")
        check_pixels(endpoint, arrays, self.limits.pixels)
        check_text(model, arrays)
        most = self.limits.timeout if timeout is None else min(timeout, self.limits.timeout)
        return self.batcher.submit(endpoint, arrays, rows, time.monotonic() + most)

    async def answer(
        self,
        model: ServedModel,
        signature: str,
        arrays: Arrays,
        timeout: float | None = None,
        scope: MutableMapping[str, Any] | None = None,
    ) -> dict[str, np.ndarray]:
        """Return a request's outputs by name; see `submit`.

        Args:
            scope: ASGI's, of the HTTP request; where its connection ends before the request's turn
                comes, it leaves the queue.
        Raises:
            RequestError: see `submit`; 499, the connection has ended.
        """
        future = self.submit(model, signature, arrays, timeout)
        if scope is not None:
            scope[WAITS_FOR] = future
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise RequestError("The client has left", 499) from None
