"""MNIST, one digit against the rest: AUROC of each builder for each digit.

The protocol of Ruff et al. 2018 (ICML, "Deep one-class classification"): the training images of one
digit are normal, the test is all 10,000 test images. Nothing is chosen by the test; the weights kept
are those of the lowest loss on held-out images of the normal digit, and the score is the default one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from results_file import dlkit, row

NAME = "anomaly_images"
# Mean AUROC over the ten digits that is asked for.
ASKED = {"conv-autoencoder": 0.92, "deep-svdd": 0.94}


def measure(folder: Path, model: str, digit: int, limit: str) -> dict[str, Any]:
    """Train a model on one digit and return how it ranks the test images."""
    arguments = [
        "anomaly-detection", "train", "--data", "tfds:mnist", "--no-download",
        "--normal-class", str(digit), "--model", model, "--time-limit", limit,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as here:
        result = dlkit(*arguments, "--data-dir", str(folder), cwd=Path(here))
        report = json.loads(Path(result["report"]).read_text())
    return {
        "typed": f"dlkit {' '.join(arguments)} --data-dir {folder.name}",
        **{name: report[name] for name in ("parameters", "steps", "training_seconds")},
        "metrics": result["metrics"],
        "intervals": result["intervals"],
        "components": {name: each["auroc"] for name, each in report["components"].items()},
        "baselines": {name: each["auroc"] for name, each in result["baselines"].items()},
        "notes": report["notes"],
        "seconds": result["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", default="../shared/data/tfds")
    names = [f"{model}-{digit}" for model in ASKED for digit in range(10)]
    parser.add_argument("--rows", default=",".join(names))
    parser.add_argument("--time-limit", default="3m", help="for each digit, at most 10m")
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    folder, asked = Path(given.data_dir).resolve(), given.rows.split(",")
    for name in asked:
        if name not in names:
            parser.error(f"--rows: no row '{name}'; accepted: {', '.join(names)}")
    if not (folder / "mnist").is_dir():
        parser.error(f"--data-dir: no folder {folder / 'mnist'}")
    found: dict[str, list[float]] = {model: [] for model in ASKED}
    for name in asked:
        model, _, digit = name.rpartition("-")
        figures = row(
            NAME,
            name,
            lambda m=model, d=int(digit): measure(folder, m, d, given.time_limit),
            given.again,
        )
        auroc = figures["metrics"]["auroc"]
        found[model].append(auroc)
        parts = ", ".join(f"{k} {v:.4f}" for k, v in figures["components"].items())
        best = max(figures["baselines"], key=lambda k: figures["baselines"][k])
        print(
            f"{name:20} AUROC {auroc:.4f} ({parts}); {best} {figures['baselines'][best]:.4f}; "
            f"{figures['steps']:,} steps, {figures['seconds']:.0f} s",
            flush=True,
        )
    for model, values in found.items():
        if values:
            print(f"{model}: mean of {len(values)} {np.mean(values):.4f} (asked {ASKED[model]})")
    for name in names:
        if name not in asked:
            print(f"{name}: not run")


if __name__ == "__main__":
    main()
