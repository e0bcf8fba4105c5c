"""Loss of the language models on tiny Shakespeare, each row the command that a user would type.

python benchmarks/text_generation.py [--data-dir DIR] [--rows nanogpt-cpu,...] [--again]

The first 90 % are trained on, the last 10 % scored (`--split 90/10`, the usual benchmark). Presets
were chosen on the last tenth of those 90 %. `loss_random_windows` is nanoGPT's own way of measuring,
`loss` that of the whole text by a sliding window; both in nats. `nanogpt-cpu-torch` is nanoGPT's own run in
PyTorch, three seeds, scored on the same windows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from results_file import ROOT, dlkit, row
from sides import torch_python

TORCH = ROOT / "benchmarks" / "peers" / "torch_nanogpt.py"
PEER = "nanogpt-cpu-torch"


class Row(NamedTuple):
    """What is typed after `train --data FILE --split 90/10`, and what is asked of which metric."""

    options: tuple[str, ...]
    metric: str = "loss"
    asked: float | None = None


ROWS = {
    "nanogpt-cpu": Row(("--model", "transformer-nanogpt-cpu"), "loss_random_windows", 1.85),
    # The same at a higher rate, chosen on the last tenth of the 90 %.
    "nanogpt-cpu-3e-3": Row(
        ("--model", "transformer-nanogpt-cpu", "--learning-rate", "3e-3"),
        "loss_random_windows",
        1.85,
    ),
    # nanoGPT's batches and as many of them.
    "equal-tokens": Row(
        ("--context-length", "64", "--batch-size", "12", "--steps", "2000"),
        "loss_random_windows",
        1.72,
    ),
    # Asked of 30 minutes.
    "best-10m": Row(("--time-limit", "10m"), asked=1.58),
    "lstm-10m": Row(("--model", "lstm", "--time-limit", "10m"), asked=1.64),
    "gru-3m": Row(("--model", "gru", "--time-limit", "3m")),
    "simple-rnn-3m": Row(("--model", "simple-rnn", "--time-limit", "3m")),
}


def measure(what: Row, file: Path) -> dict[str, Any]:
    """Train one row."""
    arguments = ["text-generation", "train", "--split", "90/10", *what.options]
    with tempfile.TemporaryDirectory() as folder:
        result = dlkit(*arguments, "--data", str(file), cwd=Path(folder))
        report = json.loads(Path(result["report"]).read_text())
    return {
        "typed": f"dlkit {' '.join(arguments)} --data {file.name}",
        "metric": what.metric,
        "asked": what.asked,
        "metrics": result["metrics"],
        "intervals": result["intervals"],
        "baselines": result["baselines"],
        **{name: report[name] for name in ("parameters", "steps", "tokens_seen", "best_epoch")},
        "training_seconds": report["training_seconds"],
        "seconds": result["seconds"],
    }


def torch_nanogpt(file: Path, seeds: int = 3) -> dict[str, Any]:
    """Train nanoGPT's CPU run in PyTorch and score the windows that dlkit's runs are scored on."""
    import numpy as np

    from dlkit.data.text import load_text
    from dlkit.data.windows import random_windows

    text = load_text(str(file), split="90/10", context_length=64)
    x, y = random_windows(text.validation, 64, 1000, 0)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder) / "text.npz"
        windows = np.concatenate([x, y[:, -1:]], 1)
        np.savez(arrays, train=text.train, windows=windows, vocabulary=text.tokenizer.size)
        for seed in range(seeds):
            job = json.dumps({"arrays": str(arrays), "seed": seed})
            command = [str(torch_python()), str(TORCH), job]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    losses = [each["loss_random_windows"] for each in runs]
    mean, deviation = statistics.mean(losses), statistics.stdev(losses)
    return {"loss_random_windows": losses, "mean": mean, "deviation": deviation, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", default="../shared/data")
    parser.add_argument("--rows", default=",".join([*ROWS, PEER]))
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    file = (Path(given.data_dir) / "tinyshakespeare.txt").resolve()
    names = given.rows.split(",")
    for name in names:
        if name not in (*ROWS, PEER):
            parser.error(f"--rows: no row '{name}'; accepted: {', '.join([*ROWS, PEER])}")
    if not file.is_file():
        parser.error(f"--data-dir: no file {file}")
    for name in names:
        if name == PEER:
            found = row("text_generation", name, lambda: torch_nanogpt(file), given.again)
            print(f"{name:16} loss_random_windows {found['mean']:.4f} ({found['deviation']:.4f})")
            continue
        what = ROWS[name]
        found = row("text_generation", name, lambda w=what: measure(w, file), given.again)
        ngram = found["baselines"]["ngram"]["loss"]
        print(
            f"{name:16} {what.metric} {found['metrics'][what.metric]:.4f}"
            + (f", asked {what.asked}" if what.asked else "")
            + f"; loss {found['metrics']['loss']:.4f} beside the n-gram's {ngram:.4f}",
            flush=True,
        )
    for name in set(ROWS) - set(names):
        print(f"{name}: not run")


if __name__ == "__main__":
    main()
