"""Loss of the language models on tiny Shakespeare, each row the command that a user would type.

python benchmarks/text_generation.py [--data-dir DIR] [--rows nanogpt-cpu,...] [--again]

The first 90 % are trained on, the last 10 % scored (`--split 90/10`, the usual benchmark). Presets
were chosen on the last tenth of those 90 %. `loss_random_windows` is nanoGPT's own way of measuring,
`loss` that of the whole text by a sliding window; both in nats.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from results_file import dlkit, row


class Row(NamedTuple):
    """What is typed after `train --data FILE --split 90/10`, and what is asked of which metric."""

    options: tuple[str, ...]
    metric: str = "loss"
    asked: float | None = None


ROWS = {
    "nanogpt-cpu": Row(("--model", "transformer-nanogpt-cpu"), "loss_random_windows", 1.85),
    # nanoGPT's batches and as many of them.
    "equal-tokens": Row(
        ("--context-length", "64", "--batch-size", "12", "--steps", "2000"),
        "loss_random_windows",
        1.72,
    ),
    "best-30m": Row(("--time-limit", "30m"), asked=1.58),
    "lstm-30m": Row(("--model", "lstm", "--time-limit", "30m"), asked=1.64),
    "gru-10m": Row(("--model", "gru", "--time-limit", "10m")),
    "simple-rnn-10m": Row(("--model", "simple-rnn", "--time-limit", "10m")),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", default="../shared/data")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    file = (Path(given.data_dir) / "tinyshakespeare.txt").resolve()
    names = given.rows.split(",")
    for name in names:
        if name not in ROWS:
            parser.error(f"--rows: no row '{name}'; accepted: {', '.join(ROWS)}")
    if not file.is_file():
        parser.error(f"--data-dir: no file {file}")
    for name in names:
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
