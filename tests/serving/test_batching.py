"""Requests that wait are answered together, each with its own rows, within bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlkit.serving.batching import Batching
from dlkit.serving.model import ServedModel, Signature, by_row
from dlkit.serving.servables import Servables
from dlkit.serving.service import Limits, Service
from dlkit.serving.tensors import RequestError, TensorSpec

ROWS = TensorSpec("float", (None, None))


class Doubling:
    """A model that doubles rows of one width, refuses those that hold 13, and notes its batches.

    It stands still until `go` is set.
    """

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go = threading.Event()
        self.begun = threading.Event()
        signature = Signature({"x": ROWS}, {"y": ROWS}, self.run, batchable=True)
        metadata = {"signature_def": {"serving_default": {}}}
        signatures = {"serving_default": signature}
        self.model = ServedModel("m", 1, Path(), signatures, metadata, None, None, None)

    def run(self, arrays: Any) -> dict[str, np.ndarray]:
        self.batches.append(len(arrays["x"]))
        self.begun.set()
        assert self.go.wait(20)
        if (arrays["x"] == 13).any():
            raise RequestError("13 is refused")
        return {"y": 2 * arrays["x"]}


@pytest.fixture
def doubling() -> Iterator[Doubling]:
    model = Doubling()
    yield model
    model.go.set()


Ask = Callable[..., Future]


def asking(doubling: Doubling, limits: Limits | None = None, **batching: Any) -> Ask:
    """Return a function that queues rows of one value; the first is being run by then."""
    service = Service(Servables([doubling.model]), limits or Limits(), Batching(**batching))

    def ask(value: float, rows: int = 1, width: int = 2, timeout: float | None = None) -> Future:
        x = np.full((rows, width), value, np.float32)
        return service.submit(doubling.model, "serving_default", {"x": x}, timeout)

    return ask


def test_what_waits_is_run_together_and_each_gets_its_rows(doubling: Doubling) -> None:
    ask = asking(doubling, max_batch=8)
    first = ask(0)
    assert doubling.begun.wait(5)
    asked = {value: ask(value, rows=value % 3 + 1) for value in range(1, 8)}
    narrow = ask(9, width=1)
    doubling.go.set()
    for value, future in asked.items():
        answer = future.result(5)["y"]
        assert answer.shape == (value % 3 + 1, 2) and (answer == 2 * value).all()
    assert narrow.result(5)["y"].tolist() == [[18]] and first.result(5)["y"].tolist() == [[0, 0]]
    # 2 + 3 + 1 + 2 rows; 3 + 1 + 2 and as many more as make a power of two; another width alone.
    assert doubling.batches == [1, 8, 8, 1]


def test_a_bad_row_is_the_fault_of_one_request(doubling: Doubling) -> None:
    ask = asking(doubling)
    first = ask(0)
    assert doubling.begun.wait(5)
    good, bad, other = ask(1), ask(13), ask(2)
    doubling.go.set()
    assert first.result(5) and good.result(5)["y"][0, 0] == 2 and other.result(5)["y"][0, 0] == 4
    with pytest.raises(RequestError, match="13 is refused"):
        bad.result(5)


def test_the_queue_is_bounded(doubling: Doubling) -> None:
    ask = asking(doubling, max_queue=3)
    first = ask(0)
    assert doubling.begun.wait(5)
    waiting = [ask(1) for _ in range(3)]
    with pytest.raises(
        RequestError, match="queue to which this task was submitted is full"
    ) as full:
        ask(1)
    assert full.value.status == 503
    doubling.go.set()
    assert all(future.result(5) for future in [first, *waiting])
    assert ask(1).result(5)


def test_what_is_late_or_given_up_is_not_run(doubling: Doubling) -> None:
    ask = asking(doubling, Limits(timeout=10))
    first = ask(0)
    assert doubling.begun.wait(5)
    late, gone, kept = ask(1, timeout=0.01), ask(2), ask(3, timeout=99)
    assert gone.cancel()
    time.sleep(0.05)
    doubling.go.set()
    assert first.result(5) and kept.result(5)["y"][0, 0] == 6
    with pytest.raises(RequestError, match="Deadline exceeded") as raised:
        late.result(5)
    assert raised.value.status == 504 and doubling.batches == [1, 1]


def test_what_is_given_up_leaves_its_place_to_others(doubling: Doubling) -> None:
    ask = asking(doubling, max_queue=2)
    first = ask(0)
    assert doubling.begun.wait(5)
    gone, kept = ask(1), ask(2)
    assert gone.cancel() and not first.cancel()
    other = ask(3)
    with pytest.raises(RequestError, match="full"):
        ask(4)
    doubling.go.set()
    assert [f.result(5)["y"][0, 0] for f in (first, kept, other)] == [0, 4, 6]
    assert doubling.batches == [1, 2]


def test_a_batch_waits_for_others_where_a_timeout_says_so(doubling: Doubling) -> None:
    doubling.go.set()
    ask = asking(doubling, timeout=5.0, max_batch=4)
    began = time.monotonic()
    answers = [ask(value) for value in range(4)]
    assert [future.result(4)["y"][0, 0] for future in answers] == [0, 2, 4, 6]
    assert doubling.batches == [4] and time.monotonic() - began < 4


def test_rows_and_what_cannot_be_put_together(doubling: Doubling) -> None:
    ask = asking(doubling, Limits(rows=4), max_batch=1)
    with pytest.raises(RequestError, match="5 rows in a request; at most 4"):
        ask(1, rows=5)
    first = ask(0)
    assert doubling.begun.wait(5)
    both = [ask(1), ask(1)]
    doubling.go.set()
    assert all(future.result(5) for future in [first, *both]) and doubling.batches == [1, 1, 1]


def test_a_request_of_many_rows_is_run_in_parts(doubling: Doubling) -> None:
    doubling.go.set()
    service = Service(Servables([doubling.model]))
    rows = np.arange(100, 700, dtype=np.float32)[:, None]
    answer = service.submit(doubling.model, "serving_default", {"x": rows}).result(20)
    assert (answer["y"] == 2 * rows).all()
    assert doubling.batches == [256, 256, 88]


def test_only_endpoints_of_rows_are_batched() -> None:
    open_rows, fixed = TensorSpec("float", (None, 3)), TensorSpec("float", (2, 3))
    scalar, tokens = TensorSpec("int32", ()), TensorSpec("int32", (None, None))
    unknown = TensorSpec("float", None)
    assert by_row({"x": open_rows, "t": tokens}, {"y": open_rows})
    assert not by_row({"x": open_rows}, {"y": tokens})  # as wide as the longest row of the batch
    assert not by_row({"x": open_rows, "s": scalar}, {"y": open_rows})
    assert not by_row({"x": fixed}, {"y": open_rows})
    assert not by_row({"x": open_rows}, {"y": unknown})


def test_a_retired_version_answers_what_it_accepted() -> None:
    old, new = Doubling(), Doubling()
    servables = Servables([old.model])
    service = Service(servables)
    found = servables.find("m")
    x = {"x": np.ones((1, 2), np.float32)}
    waiting = service.submit(found, "serving_default", x)
    assert old.begun.wait(5)
    servables.put(ServedModel("m", 2, *[getattr(new.model, f) for f in
                  ("path", "signatures", "metadata", "manifest", "example", "loaded")]))  # fmt: skip
    servables.retire("m", 1)
    assert servables.find("m").version == 2
    with pytest.raises(RequestError, match=r"Specific\(m, 1\)"):
        servables.find("m", 1)
    assert [(s.version, s.state) for s in servables.states("m")] == [(2, "AVAILABLE"), (1, "END")]
    old.go.set()
    assert waiting.result(5)["y"].tolist() == [[2, 2]]
    again = service.submit(found, "serving_default", x)  # found before, asked after
    assert again.result(5)["y"].tolist() == [[2, 2]]
