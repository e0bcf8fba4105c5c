"""How long a reader waits: the first token, and a token after 10 and after 500 others.

python benchmarks/text_latency.py [--rounds 20] [--rows transformer ...] [--again]

Each row trains a model for 20 steps on the built-in text (what it writes does not matter here),
exports it and goes on with a prompt as `dlkit text-generation generate` does, in a warm process.
`nanogpt-cpu` is that configuration with its context of 64, the others have a context of 512.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results_file import ROOT, dlkit, row

LONG = ("--context-length", "512", "--batch-size", "4")
ROWS = {
    "nanogpt-cpu": ("--model", "transformer-nanogpt-cpu"),
    "nanogpt-cpu-512": ("--model", "transformer-nanogpt-cpu", *LONG),
    "transformer": ("--model", "transformer", *LONG),
    "lstm": ("--model", "lstm"),
}
EARLY, LATE, AROUND = 10, 500, 10
PROMPT = "The assert statement"


def timed(rounds: int) -> dict[str, Any]:
    """Measure the last run of this folder's store; milliseconds, medians over `rounds`."""
    from pipelines.text_generation.generate import Generator, Wish, generate

    generator = Generator("latest")
    list(generate("latest", PROMPT, Wish(max_tokens=20), source=generator))  # warms
    first, early, late = [], [], []
    for i in range(rounds):
        rows = list(generate("latest", PROMPT, Wish(max_tokens=1, seed=i), source=generator))
        first.append(rows[-1]["seconds_to_first"])
    tokens, _ = generator.encode(PROMPT[:1], strict=True)
    for i in range(rounds):
        drawn = generator.draw(tokens, Wish(max_tokens=LATE + AROUND, seed=i))
        at = [time.perf_counter() for _ in drawn]
        for found, place in ((early, EARLY), (late, LATE)):
            found.append((at[place + AROUND - 1] - at[place - 1]) / AROUND)
    medians = [1000 * statistics.median(each) for each in (first, early, late)]
    names = ("first_token_ms", f"token_at_{EARLY}_ms", f"token_at_{LATE}_ms")
    return {**dict(zip(names, medians, strict=True)), "late_over_early": medians[2] / medians[1]}


def measure(options: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """Train, then measure in a fresh process."""
    arguments = ("text-generation", "train", "--steps", "20", "--eval-every", "20", *options)
    with tempfile.TemporaryDirectory() as folder:
        dlkit(*arguments, cwd=Path(folder))
        done = subprocess.run(
            [sys.executable, __file__, json.dumps(rounds)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return {"typed": f"dlkit {' '.join(arguments)}", **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    for name in given.rows:
        found = row(
            "text_latency", name, lambda n=name: measure(ROWS[n], given.rounds), given.again
        )
        print(
            f"{name:16} first token {found['first_token_ms']:.1f} ms (asked under 50); after "
            f"{EARLY} {found[f'token_at_{EARLY}_ms']:.2f} ms, after {LATE} "
            f"{found[f'token_at_{LATE}_ms']:.2f} ms: {found['late_over_early']:.2f} times "
            "(asked at most 2)",
            flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].isdigit():
        print(json.dumps(timed(int(sys.argv[1]))))
    else:
        main()
