"""Two sides of a timing, each a process of its own, measured in turn.

A side gets one JSON object as its argument, prints one line of JSON about itself when it is warm,
and then answers each line on its standard input with one measurement, `{"done": n, "seconds": s}`.
It waits in between, so that no two thread pools work at once, and loading and tracing stay outside
the clock.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from results_file import ROOT

TORCH = (".peer-torch", "torch==2.13.0", "numpy")
LITSERVE = (".peer-litserve", "litserve==0.2.19", "onnxruntime==1.32.0", "numpy")
# Its deep detectors import tqdm without declaring it.
PYOD = (".peer-pyod", "torch==2.13.0", "pyod==3.6.7", "tqdm")
SCHEMATHESIS = (".peer-schemathesis", "schemathesis==4.32.5")


def torch_python() -> Path:
    """Return the Python of PyTorch's own environment, which is made on first use."""
    return _python(*TORCH)


def pyod_python() -> Path:
    """Return the Python of PyOD's own environment, which is made on first use."""
    return _python(*PYOD)


def schemathesis_python() -> Path:
    """Return the Python of schemathesis's own environment, which is made on first use."""
    return _python(*SCHEMATHESIS)


def litserve_python() -> Path:
    """Return the Python of LitServe's own environment, which is made on first use."""
    return _python(*LITSERVE)


def _python(name: str, *packages: str) -> Path:
    home, wanted = ROOT / name, " ".join(packages)
    python, made = home / "bin" / "python", home / "packages.txt"
    if not made.exists() or made.read_text() != wanted:
        print(f"making {name} with {wanted}", file=sys.stderr)
        venv.create(home, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        made.write_text(wanted)
    return python


class Side:
    """A process that measures when asked.

    Args:
        name: for messages.
        script: the command without its argument.
        job: what it is to do.
    """

    def __init__(self, name: str, script: list[Any], job: dict[str, Any]) -> None:
        self.name = name
        # TensorFlow's start-up chatter is of interest only where the process fails.
        self.errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*map(str, script), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.about = self.read()

    def read(self) -> dict[str, Any]:
        """Return the process's next line."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.errors.seek(0)
            raise SystemExit(f"{self.errors.read()}\n{self.name} ended with status {status}")
        return json.loads(line)

    def measure(self) -> dict[str, Any]:
        """Ask for one measurement."""
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """Let the process end by itself: the end of its input tells it to."""
        self.process.communicate()
        self.errors.close()


@contextlib.contextmanager
def started(name: str, script: list[Any], job: dict[str, Any]) -> Iterator[Side]:
    """Start a side, and end it with the block."""
    side = Side(name, script, job)
    try:
        yield side
    finally:
        side.close()


def answer(work: Callable[[], Any], seconds: float, about: dict[str, Any], each: int = 1) -> None:
    """Be a side: do the work over and over for some seconds, each time that a line comes in.

    Args:
        work: called twice beforehand.
        seconds: least length of a measurement.
        about: what the side says of itself.
        each: how many things one call does.
    """
    work()
    work()
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            work()
            done += each
        print(json.dumps({"done": done, "seconds": time.perf_counter() - began}), flush=True)


def in_turn(ours: Side, theirs: Side, pairs: int) -> dict[str, Any]:
    """Measure two sides in turn, the first one alternating.

    Returns:
        `ratio`, the median of our speed over theirs, its `range`, and both speeds.
    """
    found: dict[Side, list[float]] = {ours: [], theirs: []}
    for pair in range(pairs):
        for side in (ours, theirs) if pair % 2 == 0 else (theirs, ours):
            measured = side.measure()
            found[side].append(measured["done"] / measured["seconds"])
    ratios = [a / b for a, b in zip(found[ours], found[theirs], strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "ours_per_second": round(statistics.median(found[ours]), 2),
        "theirs_per_second": round(statistics.median(found[theirs]), 2),
        "pairs": pairs,
        "ours": ours.about,
        "theirs": theirs.about,
    }
