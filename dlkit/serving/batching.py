"""Requests that wait for one endpoint are run together: dynamic batching with a bounded queue.

Nothing waits while a thread is free, unless a batch timeout says so: what arrives while the threads
are busy is the next batch. Under light load a request is run at once and alone, under heavy load
batches grow by themselves. The words are those of TensorFlow Serving's batching parameters.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from dlkit.serving.model import Signature
from dlkit.serving.tensors import RequestError

Arrays = Mapping[str, np.ndarray]
ROWS_AT_ONCE = 256  # of one request


@dataclass(frozen=True)
class Batching:
    """How requests are put together.

    Attributes:
        max_batch: most rows of several requests run together; 1 runs each request by itself.
        timeout: seconds that the first request of a batch waits for others; 0 never waits.
        max_queue: most requests that wait for a thread; the next one is refused.
        threads: requests or batches that run at once.
    """

    max_batch: int = 64
    timeout: float = 0.0
    max_queue: int = 512
    threads: int = 1


@dataclass(slots=True)
class Waiting:
    """A request in the queue: its arrays, their number of rows, and when its answer is of no use."""

    arrays: Arrays
    rows: int
    deadline: float
    arrived: float
    kind: Any
    future: Future = field(default_factory=Future)


class Batcher:
    """Runs requests on a few threads, and those that wait for one endpoint together."""

    def __init__(self, batching: Batching) -> None:
        self.batching = batching
        self._pool = ThreadPoolExecutor(batching.threads, thread_name_prefix="predict")
        self._changed = threading.Condition()
        self._queues: dict[int, deque[Waiting]] = {}
        self._running: dict[int, int] = {}
        self.waiting = 0

    def full(self) -> bool:
        """Say whether a request would be refused now."""
        return self.waiting >= self.batching.max_queue

    def submit(self, signature: Signature, arrays: Arrays, rows: int, deadline: float) -> Future:
        """Queue a request.

        Args:
            signature: the endpoint; held until it has answered.
            arrays: every input by name, as `Signature.run` takes them.
            rows: their first dimension.
            deadline: of `time.monotonic`; a request that has not begun by then is not run.
        Returns:
            A future of the outputs by name. It raises RequestError: what `Signature.run` raises, or
            504 past the deadline. A cancelled one leaves the queue and is not run.
        Raises:
            RequestError: 503, the queue is full.
        """
        kind = None
        if signature.batchable and self.batching.max_batch > 1:
            # Rows of other shapes or types cannot stand in one array.
            kind = tuple((name, a.shape[1:], a.dtype.str) for name, a in sorted(arrays.items()))
        request = Waiting(arrays, rows, deadline, time.monotonic(), kind)
        key = id(signature)
        with self._changed:
            if self.full():
                raise RequestError(
                    "The batch scheduling queue to which this task was submitted is full; "
                    f"currently {self.waiting} requests wait",
                    503,
                )
            self._queues.setdefault(key, deque()).append(request)
            self.waiting += 1
            if self._running.get(key, 0) < self.batching.threads:
                self._running[key] = self._running.get(key, 0) + 1
                # The job holds the signature, so that its id is not given to another.
                self._pool.submit(self._serve, signature)
            elif self.batching.timeout:
                self._changed.notify_all()
        request.future.add_done_callback(partial(self._left, key))
        return request.future

    def _left(self, key: int, future: Future) -> None:
        """Take a request out of its queue if it was cancelled there."""
        if not future.cancelled():
            return
        with self._changed:
            queue = self._queues.get(key, deque())
            for place, request in enumerate(queue):
                if request.future is future:
                    del queue[place]
                    self.waiting -= 1
                    return

    def _serve(self, signature: Signature) -> None:
        """Run a batch of one endpoint, and come again behind what other endpoints have waiting."""
        key = id(signature)
        with self._changed:
            batch = self._next(self._queues[key])
            if not batch:
                self._running[key] -= 1
                if not self._running[key]:
                    del self._running[key], self._queues[key]
                return
        _answer(signature, batch, self.batching.max_batch)
        self._pool.submit(self._serve, signature)

    def _next(self, queue: deque[Waiting]) -> list[Waiting]:
        """Take the oldest request and those behind it that can be run with it."""
        batch: list[Waiting] = []
        rows, most = 0, self.batching.max_batch
        while True:
            while queue and (not batch or _fits(queue[0], batch[0], rows, most)):
                request = queue.popleft()
                self.waiting -= 1
                if not request.future.set_running_or_notify_cancel():
                    continue
                if request.deadline < time.monotonic():
                    request.future.set_exception(_late())
                    continue
                batch.append(request)
                rows += request.rows
            left = batch[0].arrived + self.batching.timeout - time.monotonic() if batch else 0.0
            if left <= 0 or queue or rows >= most or batch[0].kind is None:
                return batch
            self._changed.wait(left)

    def close(self) -> None:
        """Wait for what was submitted and let the threads go."""
        self._pool.shutdown()


def _fits(request: Waiting, first: Waiting, rows: int, most: int) -> bool:
    return first.kind is not None and request.kind == first.kind and rows + request.rows <= most


def _late() -> RequestError:
    return RequestError("Deadline exceeded: the request waited too long for its turn", 504)


def _answer(signature: Signature, batch: Sequence[Waiting], most: int) -> None:
    """Run requests together and give each its rows."""
    try:
        if len(batch) == 1:
            batch[0].future.set_result(_in_parts(signature, batch[0]))
            return
        outputs = signature.run(_joined(batch, most))
        start = 0
        for request in batch:
            rows = slice(start, start + request.rows)
            request.future.set_result({name: array[rows] for name, array in outputs.items()})
            start += request.rows
    except RequestError as error:
        if len(batch) == 1:
            batch[0].future.set_exception(error)
            return
        for request in batch:  # one bad row is the fault of one request alone
            _answer(signature, [request], most)
    except Exception as error:
        for request in batch:
            request.future.set_exception(error)


def _in_parts(signature: Signature, request: Waiting) -> dict[str, np.ndarray]:
    """Run a request of many rows in parts where its endpoint allows it.

    A few bytes of a request can stand for megabytes inside a net: 4,096 tiny images for a net of
    224 x 224 pixels would take 13 GB, and the process with it.
    """
    if not signature.batchable or request.rows <= ROWS_AT_ONCE:
        return signature.run(request.arrays)
    answers = [
        signature.run({k: a[at : at + ROWS_AT_ONCE] for k, a in request.arrays.items()})
        for at in range(0, request.rows, ROWS_AT_ONCE)
    ]
    return {name: np.concatenate([each[name] for each in answers]) for name in answers[0]}


def _joined(batch: Sequence[Waiting], most: int) -> dict[str, np.ndarray]:
    """Put the rows of requests together, with the last row again up to a power of two.

    Kernels are prepared for each shape they meet: few sizes are met again.
    """
    rows = sum(request.rows for request in batch)
    more = max(0, min(1 << (rows - 1).bit_length(), most) - rows)
    joined = {}
    for name, last in batch[-1].arrays.items():
        parts = [request.arrays[name] for request in batch]
        joined[name] = np.concatenate(parts + [last[-1:]] * more)
    return joined
