"""What compression costs and saves: formats, 8 bits, pruning, distillation, on Fashion-MNIST.

python benchmarks/compression.py [--data-dir DIR] [--epochs 10] [--again]

One `lenet` is trained, exported in every format and in 8 bits, and pruned. A student of 25,450
parameters is trained on labels alone, and once more taught by that `lenet`. All accuracies are of the
test split's 10,000 images. Needs the extras `onnx` and `litert`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from results_file import dlkit, row

TASK = "image-classification"
SHARE = "0.8"
SOFT = ("--temperature", "4", "--distill-weight", "0.9")
STUDENT = ("--model", "mlp", "-p", "units=32", "-p", "depth=1")


def trained(folder: Path, *arguments: str) -> dict[str, Any]:
    """Train by a command line; return what it printed, less the export, and of its report more."""
    result = dlkit(TASK, "train", *arguments, cwd=folder)
    report = json.loads(Path(result["report"]).read_text())
    return {
        "run": result["run"],
        "typed": f"dlkit {TASK} train {' '.join(arguments)}",
        "accuracy": result["metrics"]["accuracy"],
        "interval": result["intervals"]["accuracy"],
        **{k: report[k] for k in ("parameters", "training_seconds", "pruned") if k in report},
    }


def measure(data_dir: str, epochs: int) -> dict[str, Any]:
    """Return the figures of all five, each the outcome of a command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = ("--data", "tfds:fashion_mnist", "--data-dir", data_dir, "--no-download")
        limit = ("--epochs", str(epochs))
        lenet = trained(folder, *data, "--model", "lenet", *limit)
        asked = ("--format", "onnx", "--format", "litert", "--quantize", "int8")
        exported = dlkit(TASK, "export", lenet["run"], "--out", "model", *asked, cwd=folder)
        half = ("--epochs", str(max(1, epochs // 2)))
        return {
            "lenet": lenet,
            "formats": exported["formats"],
            "pruned": trained(folder, "--init-from", lenet["run"], "--prune", SHARE, *half),
            "student": trained(folder, *data, *STUDENT, *limit),
            "taught": trained(folder, *data, *STUDENT, *limit, "--teacher", lenet["run"], *SOFT),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", default="../shared/data/tfds")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    data_dir = str(Path(given.data_dir).resolve())
    key = f"fashion-{given.epochs}-epochs"
    figures = row("compression", key, lambda: measure(data_dir, given.epochs), given.again)
    print(figures["machine"])
    for each in figures["formats"]:
        one, many = each["latency_ms"].values()
        accuracy = each["metrics"]["accuracy"]
        print(
            f"{each['format']:12} {each['bytes'] / 1e3:8.1f} kB  {one:7.3f} ms at batch 1  "
            f"{many:7.3f} ms at batch 32  accuracy {accuracy:.4f}"
        )
    for name in ("lenet", "pruned", "student", "taught"):
        each = figures[name]
        low, high = each["interval"]
        print(
            f"{name:12} {each['parameters']:8,} parameters  accuracy {each['accuracy']:.4f} "
            f"[{low:.4f}, {high:.4f}]  {each['training_seconds']:.0f} s of training"
        )
    pruned = figures["pruned"]["pruned"]
    print(
        f"pruned       {pruned['sparsity']:.2f} zeros: {pruned['bytes'] / 1e3:.1f} kB of weights, "
        f"in gzip {pruned['gzip_bytes'] / 1e3:.1f} kB"
    )


if __name__ == "__main__":
    main()
