"""Servers as processes, dlkit's and its peers', and the load that they get."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from results_file import ROOT
from sides import litserve_python

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


class Running:
    """A server that runs.

    Attributes:
        port: it listens on.
        lines: of its log, each with the moment it came (`time.monotonic`), without those of
            single requests: they would be hundreds of thousands, and to look through them every
            10 ms, as is done here for what a server says, would take most of a core from it.
    """

    def __init__(self, command: list[Any], port: int, health: str) -> None:
        self.port = port
        self.lines: list[tuple[float, str]] = []
        self.process = subprocess.Popen(
            [*map(str, command)],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        end = time.monotonic() + 180
        while self.status(health) != 200:
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise SystemExit(f"{command} did not start:\n{self.log()}")
            time.sleep(0.2)

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            if '"method": ' not in line:
                self.lines.append((time.monotonic(), line))

    def log(self) -> str:
        """Return the end of the log."""
        return "".join(line for _, line in self.lines[-20:])

    def said(self, words: str) -> list[float]:
        """Return the moments of the log's lines that hold some words."""
        return [at for at, line in list(self.lines) if words in line]

    def status(self, path: str) -> int:
        """Return the status of a GET; 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0

    def processes(self) -> list[psutil.Process]:
        """Return the server's process and all under it."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def workers(self) -> list[psutil.Process]:
        """Return the processes of dlkit that serve."""
        return [p for p in self.processes()[1:] if "spawn_main" in " ".join(p.cmdline())]

    def megabytes(self) -> float:
        """Return the memory of all its processes that they share with nobody."""
        return sum(p.memory_full_info().uss for p in self.processes()) / 1e6

    def stop(self) -> None:
        """End it and all under it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._reader.join()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextlib.contextmanager
def running(command: list[Any], port: int, health: str) -> Iterator[Running]:
    """Start a server, and end it with the block."""
    server = Running(command, port, health)
    try:
        yield server
    finally:
        server.stop()


def ours(export: Path, *options: Any) -> Any:
    """Start `dlkit serve` on an export, as the model `n`."""
    port = free_port()
    command = [sys.executable, "-m", "pipelines.cli", "serve", f"n={export}", "--port", port]
    return running([*command, "--log-format", "json", *options], port, "/healthz")


@contextlib.contextmanager
def mlflow(export: Path, workers: int) -> Iterator[Running]:
    """Start `mlflow models serve` on the same SavedModel."""
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import Schema, TensorSpec
    from numpy import dtype

    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, "model")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks for type hints and an example
            save_model(
                str(saved),
                python_model=str(HERE / "peers" / "mlflow_pixels.py"),
                artifacts={"export": str(export)},
                signature=ModelSignature(Schema([TensorSpec(dtype("uint8"), (-1, 28, 28, 1))])),
                pip_requirements=["tensorflow"],
            )
        port = free_port()
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", saved, "-p", port]
        command += ["-w", workers, "--env-manager", "local"]
        with running(command, port, "/ping") as server:
            yield server


def litserve(export: Path, workers: int) -> Any:
    """Start LitServe, in an environment of its own, on the same export's ONNX file."""
    port = free_port()
    script = HERE / "peers" / "litserve_lenet.py"
    command = [litserve_python(), script, export / "1" / "model.onnx", port, workers]
    return running(command, port, "/health")


def load(server: Running, path: str, body: Path | None, **job: Any) -> dict[str, Any]:
    """Put a load on a server from a process of its own; return what came of it."""
    with started_load(server, path, body, **job) as process:
        output, _ = process.communicate()
    if process.returncode:
        raise SystemExit("the load generator failed")
    return json.loads(output)


@contextlib.contextmanager
def started_load(
    server: Running, path: str, body: Path | None, **job: Any
) -> Iterator[subprocess.Popen[str]]:
    """Start a load; it also ends when its standard input is closed."""
    given = {"port": server.port, "path": path, **job} | ({"file": str(body)} if body else {})
    process = subprocess.Popen(
        [sys.executable, str(HERE / "serving_load.py"), json.dumps(given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def move(version: Path, directory: Path) -> None:
    """Let a version appear in a directory at once."""
    directory.mkdir(exist_ok=True)
    shutil.move(version, directory / version.name)
