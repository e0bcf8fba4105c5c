"""Servers as processes, and small exports for them that load without TensorFlow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from dlkit.export import checksums

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "import sys; from pipelines.cli import main; sys.exit(main())"]
# A SavedModel of one empty graph with the tag `serve`: nothing but ONNX Runtime runs these.
EMPTY = bytes([8, 1, 18, 9, 10, 7, 34, 5]) + b"serve"


def write_version(directory: Path, number: int) -> Path:
    """Export a model to `directory/number`, by rename, that answers with its number, twice a row."""
    import onnx
    from onnx import TensorProto, helper

    def row(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b"])

    zero, mine = (
        helper.make_tensor(name, TensorProto.FLOAT, [1], [value])
        for name, value in (("zero", 0.0), ("mine", float(number)))
    )
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["none"]),
        helper.make_node("Add", ["none", "mine"], ["version"]),
        helper.make_node("Identity", ["version"], ["again"]),
    ]
    graph = helper.make_graph(nodes, "g", [row("x")], [row("version"), row("again")], [zero, mine])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    making = directory / f".{number}.partial"
    (making / "assets.extra").mkdir(parents=True)
    (making / "saved_model.pb").write_bytes(EMPTY)
    onnx.save(model, str(making / "assets.extra" / "model.onnx"))
    column = {"dtype": "float32", "shape": [-1]}
    entry = {
        "endpoint": "serving_default",
        "file": "assets.extra/model.onnx",
        "inputs": {"x": column},
        "outputs": {"version": column, "again": column},
    }
    manifest = {"format": 1, "task": "numbers", "formats": {"onnx": entry}}
    manifest["files"] = checksums(making)
    (making / "assets.extra" / "dlkit.json").write_text(json.dumps(manifest))
    os.replace(making, directory / str(number))
    return directory / str(number)


class Started:
    """A server that was started; its log is read as it comes."""

    def __init__(self, *arguments: str) -> None:
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([*COMMAND, "serve", *arguments], cwd=ROOT, **pipes)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line)

    @property
    def log(self) -> str:
        """What was logged so far."""
        return "".join(self.lines)

    def url(self) -> str:
        """Wait until the first model is announced; return its address."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert ": http://" in line, self.log
        return "http://" + line.split(": http://")[1].strip().removesuffix(":predict")

    def workers(self) -> list[psutil.Process]:
        """Return the processes that serve."""
        found = psutil.Process(self.process.pid).children()
        return [p for p in found if "spawn_main" in " ".join(p.cmdline())]

    def until(self, true: Callable[[], Any], seconds: float = 30.0) -> None:
        """Wait until something is so."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end and self.process.poll() is None, self.log
            time.sleep(0.02)

    def close(self) -> None:
        """Close the pipes of a server that has ended."""
        self._reader.join()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()

    def ended(self, seconds: float = 30.0) -> tuple[int, str]:
        """Wait for the end; return the status and what was printed since."""
        status = self.process.wait(seconds)
        self._reader.join()
        assert self.process.stdout
        return status, self.process.stdout.read()


@contextmanager
def started(*arguments: str) -> Iterator[Started]:
    """Start a server, and end it with the block."""
    server = Started(*arguments)
    timer = threading.Timer(90, server.process.kill)  # one that hangs fails the test
    timer.start()
    try:
        yield server
    finally:
        timer.cancel()
        server.process.kill()
        server.process.wait()
        server.close()


class Asking:
    """Clients that ask over and over, each on its own connection.

    Attributes:
        answers: when each answer came, its status and its predictions.
        lost: errors of requests that were sent and not answered.
    """

    def __init__(self, url: str, clients: int = 4, rows: int = 3) -> None:
        self.url, self.body = url, {"instances": [1.0] * rows}
        self.answers: list[tuple[float, int, Any]] = []
        self.lost: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._stop.is_set():
            with httpx.Client(timeout=30) as client:
                try:
                    while not self._stop.is_set():
                        answer = client.post(f"{self.url}:predict", json=self.body)
                        found = answer.json().get("predictions")
                        self.answers.append((time.monotonic(), answer.status_code, found))
                except httpx.ConnectError:
                    self._stop.wait(0.05)  # the port is closed: nothing was accepted
                except httpx.TransportError as error:
                    self.lost.append(repr(error))

    def versions(self) -> list[float]:
        """Return the version of each answer; each must be whole and of one version."""
        found = []
        for _, status, rows in self.answers:
            assert status == 200 and len(rows) == len(self.body["instances"])
            numbers = {row[name] for row in rows for name in ("version", "again")}
            assert len(numbers) == 1, f"an answer mixes versions: {rows}"
            found += numbers
        return found
