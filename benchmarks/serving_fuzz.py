"""Generated requests, valid and not, against a server of its own process.

python benchmarks/serving_fuzz.py [--rows generated,schemathesis] [--requests 100000]
    [--examples 40] [--seed 0] [--exports DIR] [--again]

Serves an image classifier and a text generator that were trained for seconds on data that ships with
dlkit. Requests go over loopback on a few kept connections: TensorFlow Serving's V1, the Open Inference
Protocol V2 in JSON and in binary, completions, and paths of all kinds; a third are meant to be right,
the others are broken somewhere. Counted are the answers by status. What must not be: a 5xx, a request
that has no answer in time, an error of several lines, a server that dies. Its resident memory is
compared with what it was after a tenth of the requests. `schemathesis` is that tool, in its own
environment, on the server's OpenAPI document.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results_file import ROOT, dlkit, row
from serving_requests import Generator, Request, images_for
from sides import schemathesis_python

THREADS = 4
SECONDS = 30.0  # after which a request counts as hung
WARM = 0.1  # the part of the requests after which memory is looked at first
SHOWN = 10  # faults that are kept in full
CHECKS = ["not_a_server_error", "content_type_conformance", "response_schema_conformance"]
CHECKS += ["status_code_conformance"]


class Tally:
    """What came back, from all threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.statuses: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.faults: list[str] = []
        self.wrong = 0
        self.slowest = 0.0

    def add(self, request: Request, status: int | None, answer: bytes, seconds: float) -> None:
        """Count an answer; None where there was none."""
        fault = fault_of(request, status, answer)
        with self.lock:
            self.statuses["none" if status is None else str(status)] += 1
            self.kinds[
                request.path.partition("?")[0].split("/")[1][:12] if status == 200 else "refused"
            ] += 1
            self.slowest = max(self.slowest, seconds)
            self.wrong += fault is not None
            if fault is not None and len(self.faults) < SHOWN:
                what = f"{fault}: {request.method} {request.path[:200]} {request.headers}"
                self.faults.append(f"{what} {request.body[:400]!r} -> {answer[:200]!r}")


def fault_of(request: Request, status: int | None, answer: bytes) -> str | None:
    """Return what is wrong with an answer."""
    if status is None:
        return "no answer"
    if status >= 500:
        return f"status {status}"
    if status >= 400 and request.method != "HEAD" and status != 405:
        try:
            error = json.loads(answer)["error"]
            message = error["message"] if isinstance(error, dict) else error
        except (ValueError, KeyError, TypeError):
            return "an error that is no JSON"
        if len(message.splitlines()) != 1 or len(message) > 2000:
            return "an error of no line or several"
    return None


def sent(port: int, requests: Callable[[], Request | None], tally: Tally) -> None:
    """Send requests one after the other until there are no more."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    while (request := requests()) is not None:
        began = time.perf_counter()
        for fresh in (False, True):  # the server may close a kept connection at any time
            try:
                connection.request(request.method, request.path, request.body, request.headers)
                response = connection.getresponse()
                tally.add(request, response.status, response.read(), time.perf_counter() - began)
                break
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if fresh or isinstance(error, TimeoutError):
                    tally.add(request, None, repr(error).encode(), time.perf_counter() - began)
                    break


def exports(folder: Path) -> tuple[Path, Path]:
    """Train what is served, unless it is there."""
    store = {
        "image": ("image-classification", "--model", "mlp", "--epochs", "1"),
        "text": ("text-generation", "--model", "gru", "--steps", "20", "--eval-every", "20"),
    }
    found = []
    for name, (task, *options) in store.items():
        if not (folder / name).exists():
            dlkit(task, "train", *options, cwd=folder)
            dlkit(task, "export", "latest", "--out", str(folder / name), cwd=folder)
        found.append(folder / name)
    return found[0], found[1]


class Server:
    """A server of its own process, on loopback; its log is kept in a file."""

    def __init__(self, folder: Path) -> None:
        image, text = exports(folder)
        self.image, self.text = (
            json.loads((path / "1/assets.extra/dlkit.json").read_text())["endpoints"]
            for path in (image, text)
        )
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "pipelines.cli", "serve"),
                    *(f"image={image}", f"text={text}", "--require-manifest", "--port", "0"),
                ],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the server did not start: {self.log.read_text()[-500:]}")
        self.port = int(line.split("http://127.0.0.1:")[1].split("/")[0])

    def get(self, path: str) -> bytes:
        """Return the body at a path."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        connection.request("GET", path)
        with contextlib.closing(connection):
            return connection.getresponse().read()

    def memory(self) -> float:
        """Return its resident memory in MB, 0 if it has died."""
        if self.process.poll() is not None:
            return 0.0
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def end(self, warm: float) -> dict[str, Any]:
        """Stop it; return how it stood at the end."""
        end, alive = self.memory(), self.process.poll() is None
        self.process.terminate()
        try:
            code = self.process.wait(60)
        finally:
            self.process.kill()
        return {
            "memory_warm_mb": round(warm, 1),
            "memory_end_mb": round(end, 1),
            "memory_growth": round(end / warm - 1, 4),
            "alive_at_the_end": alive,
            "exit_status": code,
            "tracebacks_in_the_log": self.log.read_text(errors="replace").count("Traceback"),
        }


def generated(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Send requests of our own and count."""
    server = Server(folder)
    shape = tuple(server.image["from_pixels"]["inputs"]["pixels"]["shape"][1:])
    generator = Generator(seed, images_for(shape), shape, server.text)
    tally, lock, left, warm = Tally(), threading.Lock(), count, 0.0

    def next_request() -> Request | None:
        nonlocal left, warm
        with lock:
            left -= 1
            if left == count - int(count * WARM) - 1:
                warm = server.memory()
            return generator.draw() if left >= 0 else None

    began = time.perf_counter()
    threads = [
        threading.Thread(target=sent, args=(server.port, next_request, tally))
        for _ in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "requests": sum(tally.statuses.values()),
        "seed": seed,
        "seconds": round(time.perf_counter() - began, 1),
        "statuses": dict(sorted(tally.statuses.items())),
        "answered_200_by_path": dict(tally.kinds.most_common()),
        "faults": tally.wrong,
        "examples_of_faults": tally.faults,
        "slowest_seconds": round(tally.slowest, 2),
        **server.end(warm),
    }


def schemathesis(folder: Path, examples: int, seed: int) -> dict[str, Any]:
    """Let schemathesis send what it makes of the OpenAPI document.

    Args:
        folder: see `exports`.
        examples: most requests an operation.
        seed: of its generator.
    """
    server = Server(folder)
    server.get("/openapi.json")
    warm, report = server.memory(), folder / "schemathesis.json"
    began = time.perf_counter()
    done = subprocess.run(
        [
            *(schemathesis_python().with_name("schemathesis"), "run"),
            f"http://127.0.0.1:{server.port}/openapi.json",
            *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing"),
            *("--max-examples", str(examples), "--seed", str(seed), "--workers", "1"),
            *("--continue-on-failure", "--request-timeout", str(SECONDS), "--no-color"),
            *("--report", "json", "--report-json-path", str(report)),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if not report.exists():
        raise SystemExit(f"schemathesis did not run: {done.stderr[-500:]}")
    told = json.loads(report.read_text())
    figures = {
        "version": told["schemathesis_version"],
        "checks": CHECKS,
        "operations": told["operations"]["tested"],
        "requests": told["test_cases"]["generated"],
        "seconds": round(time.perf_counter() - began, 1),
        "seed": seed,
        "failures": told["failures"],
        "errors": told["errors"],
        "told": done.stdout.partition("= ERRORS =")[2][:2000],
        "faults": len(told["errors"]) + len(told["failures"]),
    }
    return figures | server.end(warm)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--examples", type=int, default=40, help="of schemathesis, an operation")
    parser.add_argument("--rows", default="generated,schemathesis")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exports", type=Path, help="folder to keep what is served in")
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept = (asked.exports or Path(folder)).absolute()
        kept.mkdir(parents=True, exist_ok=True)
        rows = {
            f"generated-{asked.requests}": lambda: generated(kept, asked.requests, asked.seed),
            f"schemathesis-{asked.examples}": lambda: schemathesis(
                kept, asked.examples, asked.seed
            ),
        }
        found = {
            key: row("serving_fuzz", key, measure, asked.again)
            for key, measure in rows.items()
            if key.split("-")[0] in asked.rows.split(",")
        }
    print(json.dumps(found, indent=1))
    if any(each["faults"] or not each["alive_at_the_end"] for each in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
