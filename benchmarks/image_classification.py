"""Accuracy of the image classifiers, each row the command that a user would type.

python benchmarks/image_classification.py [--data-dir DIR] [--rows fashion-mlp,...] [--again]

Choices (builder defaults, recipes, augmentation) were made on validation splits; each row's test
split is scored once, at its end. `digits-5-fold` trains on four fifths of scikit-learn's digits and
tests on the rest, five times; `digits` is the default command over five split seeds. The other rows
need Fashion-MNIST and MNIST prepared in `--data-dir`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from results_file import dlkit, row

TRAIN = ("image-classification", "train")
BEST = ("--model", "speednet", "--tta")
CHARACTERS = "translate=0.125,rotate=10,zoom=0.1"

WIDE = ("--augment", "flip,mixup", "-p", "units=1024", "-p", "dropout=0.2", "--ema", "0.998")
MUON = ("--optimizer", "muon", "--batch-size", "128", "--ema", "0.998")
# Where the CPU multiplies bfloat16 (AMX), up to twice as many images a second.
HALF = ("--precision", "bfloat16")


class Row(NamedTuple):
    """What is typed after `train --data DATA --model MODEL`, and the accuracy asked for."""

    data: str
    model: str
    limit: str
    asked: float | None = None
    options: tuple[str, ...] = ()


ROWS = {
    "fashion-mlp": Row("tfds:fashion_mnist", "mlp", "10m", 0.903, WIDE),
    "fashion-lenet": Row("tfds:fashion_mnist", "lenet", "10m", 0.910),
    "fashion-cnn": Row("tfds:fashion_mnist", "cnn", "10m", 0.930, HALF),
    "fashion-vgg": Row("tfds:fashion_mnist", "vgg", "10m", 0.933, ("--tta", *HALF)),
    "fashion-googlenet": Row("tfds:fashion_mnist", "googlenet", "10m", 0.933, ("--tta", *HALF)),
    "fashion-resnet-20": Row("tfds:fashion_mnist", "resnet-20", "10m", 0.933, (*MUON, *HALF)),
    "fashion-speednet": Row("tfds:fashion_mnist", "speednet", "10m", 0.942, ("--tta", *HALF)),
    "fashion-vit": Row("tfds:fashion_mnist", "vit", "10m", None, HALF),
    "mnist-cnn": Row("tfds:mnist", "cnn", "10m", 0.995, HALF),
    # Shorter ones.
    "fashion_mnist-lenet-5m": Row("tfds:fashion_mnist", "lenet", "5m", 0.90),
    "mnist-lenet-3m": Row("tfds:mnist", "lenet", "3m", 0.99),
}


def digits() -> dict[str, Any]:
    """Train the default model on five splits of the digits."""
    with tempfile.TemporaryDirectory() as folder:
        return several(
            [dlkit(*TRAIN, "--split-seed", str(seed), cwd=Path(folder)) for seed in range(5)]
        )


def folds() -> dict[str, Any]:
    """Train on four fifths of the digits and test on the rest, five times, a minute each."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import StratifiedKFold

    found = load_digits()
    x, y = np.round(found.images * 255 / 16).astype(np.uint8)[..., None], found.target
    results = []
    with tempfile.TemporaryDirectory() as folder:
        cut = StratifiedKFold(5, shuffle=True, random_state=0).split(x, y)
        for i, (train, test) in enumerate(cut):
            file = Path(folder) / f"fold{i}.npz"
            np.savez(file, x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test])
            typed = ("--data", str(file), "--augment", CHARACTERS, "--time-limit", "1m", *BEST)
            results.append(dlkit(*TRAIN, *typed, cwd=Path(folder)))
            print(f"fold {i}: {results[-1]['metrics']['accuracy']:.4f}", flush=True)
    return several(results)


def several(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum up runs that differ in their split."""
    ours = [r["metrics"]["accuracy"] for r in results]
    theirs = [r["baselines"]["nearest_neighbour"]["accuracy"] for r in results]
    return {
        "accuracy": ours,
        "mean": statistics.mean(ours),
        "deviation": statistics.stdev(ours),
        "lowest": min(ours),
        "nearest_neighbour": theirs,
        "nearest_neighbour_mean": statistics.mean(theirs),
        "seconds": [r["seconds"] for r in results],
    }


def timed(what: Row, data_dir: str, seed: int = 0) -> dict[str, Any]:
    """Train a model on a tfds set within a time limit."""
    arguments = ["--data", what.data, "--no-download", "--model", what.model]
    arguments += ["--time-limit", what.limit, *what.options, "--seed", str(seed)]
    with tempfile.TemporaryDirectory() as folder:
        result = dlkit(*TRAIN, *arguments, "--data-dir", data_dir, cwd=Path(folder))
        report = json.loads(Path(result["report"]).read_text())
    return {
        "typed": f"dlkit {' '.join([*TRAIN, *arguments])} --data-dir DIR",
        "seed": seed,
        "asked": what.asked,
        "training_seconds": report["training_seconds"],
        "best_epoch": report["best_epoch"],
        "metrics": result["metrics"],
        "intervals": result["intervals"],
        "baselines": result["baselines"],
        "seconds": result["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", default="../shared/data/tfds")
    parser.add_argument("--rows", default=",".join([*ROWS, "digits-5-fold", "digits"]))
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    data_dir = str(Path(given.data_dir).resolve())
    splits = {"digits": digits, "digits-5-fold": folds}
    for name in given.rows.split(","):
        measure = splits.get(name) or (lambda n=name: timed(ROWS[n], data_dir))
        figures = row("image_classification", name, measure, given.again)
        if name in splits:
            print(
                f"{name}  mean {figures['mean']:.4f} (deviation {figures['deviation']:.4f}, lowest "
                f"{figures['lowest']:.4f}), 1-NN {figures['nearest_neighbour_mean']:.4f}",
                flush=True,
            )
        else:
            low, high = figures["intervals"]["accuracy"]
            asked = f", asked {figures['asked']:.3f}" if figures["asked"] else ""
            print(
                f"{name}  {figures['metrics']['accuracy']:.4f} [{low:.4f}, {high:.4f}]{asked}",
                flush=True,
            )


if __name__ == "__main__":
    main()
