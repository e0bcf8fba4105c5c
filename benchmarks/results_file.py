"""Results of a benchmark: one JSON file, written row by row, so that a broken run loses nothing."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def commit() -> str:
    """Return the commit, with `+` where tracked code differs from it."""
    head = _git("rev-parse", "--short", "HEAD")
    return head + (
        "+" if _git("status", "--porcelain", "--untracked-files=no", "dlkit", "pipelines") else ""
    )


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def machine() -> str:
    """Name the processor and the number of cores this process may use."""
    name = platform.processor() or "unknown processor"
    for line in (
        Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    ):
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def row(
    name: str,
    key: str,
    measure: Callable[[], dict[str, Any]],
    again: bool = False,
    **asked: Any,
) -> dict:
    """Return row `key` of benchmark `name`, measured now unless this commit's code has it already.

    What was `asked` for, such as seconds, is written with the row, which stands for no other.
    """
    path = RESULTS / f"{name}.json"

    def written() -> dict[str, Any]:
        return json.loads(path.read_text()) if path.exists() else {}

    rows, at = written(), commit()
    wanted, there = {"commit": at, **asked}, rows.get(key, {})
    if not again and not at.endswith("+") and wanted == {name: there.get(name) for name in wanted}:
        return there
    command = " ".join(["python", f"benchmarks/{name}.py", *sys.argv[1:]])
    figures = measure()
    rows = written()  # again: another run may have measured other rows meanwhile
    rows[key] = {"commit": at, "machine": machine(), "command": command, **asked, **figures}
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n")
    return rows[key]


def dlkit(*arguments: str, cwd: Path) -> dict[str, Any]:
    """Run a dlkit command with `--json` in a folder of its own and return what it printed."""
    command = [sys.executable, "-m", "pipelines.cli", *arguments, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def peak(*arguments: str, cwd: Path) -> dict[str, float]:
    """Run a dlkit command in a process of its own; return its peak resident memory and its seconds."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed")
    return {
        "peak_mb": round(usage.ru_maxrss * 1024 / 1e6, 1),
        "seconds": round(time.monotonic() - began, 1),
    }
