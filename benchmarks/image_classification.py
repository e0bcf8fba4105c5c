"""Accuracy of the image classifiers, each row the command that a user would type.

python benchmarks/image_classification.py [--data-dir DIR] [--rows digits,...] [--again]

`digits` is the default command over five split seeds, beside 1-nearest-neighbour on the same
splits. The tfds rows need Fashion-MNIST and MNIST prepared in `--data-dir`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from results_file import dlkit, row

TRAIN = ("image-classification", "train")
ROWS = {
    "fashion_mnist-lenet-5m": ("tfds:fashion_mnist", "lenet", "5m"),
    "mnist-lenet-3m": ("tfds:mnist", "lenet", "3m"),
}


def digits() -> dict[str, Any]:
    """Train the default model on five splits of the digits."""
    ours, theirs, seconds = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for split_seed in range(5):
            result = dlkit(*TRAIN, "--split-seed", str(split_seed), cwd=Path(folder))
            ours.append(result["metrics"]["accuracy"])
            theirs.append(result["baselines"]["nearest_neighbour"]["accuracy"])
            seconds.append(result["seconds"])
            print(f"split seed {split_seed}: {ours[-1]:.4f}, 1-NN {theirs[-1]:.4f}", flush=True)
    return {
        "accuracy": ours,
        "mean": statistics.mean(ours),
        "deviation": statistics.stdev(ours),
        "lowest": min(ours),
        "nearest_neighbour": theirs,
        "nearest_neighbour_mean": statistics.mean(theirs),
        "seconds": seconds,
    }


def timed(source: str, model: str, limit: str, data_dir: str) -> dict[str, Any]:
    """Train a model on a tfds set within a time limit, seed 0."""
    arguments = ["--data", source, "--no-download", "--model", model, "--time-limit", limit]
    with tempfile.TemporaryDirectory() as folder:
        result = dlkit(*TRAIN, *arguments, "--data-dir", data_dir, cwd=Path(folder))
        report = json.loads(Path(result["report"]).read_text())
    return {
        "typed": f"dlkit {' '.join([*TRAIN, *arguments])} --data-dir DIR",
        "seed": 0,
        "training_seconds": report["training_seconds"],
        "metrics": result["metrics"],
        "intervals": result["intervals"],
        "baselines": result["baselines"],
        "seconds": result["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", default="../shared/data/tfds")
    parser.add_argument("--rows", default=",".join(["digits", *ROWS]))
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    data_dir = str(Path(given.data_dir).resolve())
    for name in given.rows.split(","):
        if name == "digits":
            figures = row("image_classification", name, digits, given.again)
            print(
                f"digits  mean {figures['mean']:.4f} (deviation {figures['deviation']:.4f}, "
                f"lowest {figures['lowest']:.4f}), 1-NN {figures['nearest_neighbour_mean']:.4f}"
            )
        else:
            figures = row(
                "image_classification", name, lambda n=name: timed(*ROWS[n], data_dir), given.again
            )
            low, high = figures["intervals"]["accuracy"]
            print(f"{name}  {figures['metrics']['accuracy']:.4f} [{low:.4f}, {high:.4f}]")


if __name__ == "__main__":
    main()
