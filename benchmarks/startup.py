"""How long help takes: the median of several starts, beside importing TensorFlow and MLflow.

python benchmarks/startup.py [--again]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from typing import Any

from results_file import ROOT, row

CASES = {
    "help": ["-m", "pipelines.cli", "--help"],
    "train-help": ["-m", "pipelines.cli", "image-classification", "train", "--help"],
    "wrong-model": ["-m", "pipelines.cli", "image-classification", "train", "--model", "renset"],
    "python": ["-c", "pass"],
    "import-tensorflow": ["-c", "import tensorflow"],
    "import-mlflow": ["-c", "import mlflow"],
}


def measure(arguments: list[str], times: int) -> dict[str, Any]:
    """Run a Python command several times; return the median and range in seconds."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, capture_output=True, check=False
        )
        seconds.append(time.perf_counter() - began)
        if "--help" in arguments and done.stderr:
            raise SystemExit(f"help wrote to standard error: {done.stderr.decode()}")
    return {"median": statistics.median(seconds), "low": min(seconds), "high": max(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    for name, arguments in CASES.items():
        times = 3 if name.startswith("import") else 15
        figures = row("startup", name, lambda a=arguments, n=times: measure(a, n), given.again)
        print(f"{name:18} {figures['median']:.3f} s [{figures['low']:.3f}, {figures['high']:.3f}]")


if __name__ == "__main__":
    main()
