"""Rows a second and peak memory of `dlkit anomaly-detection predict --output` on made tables.

python benchmarks/anomaly_predict.py [--rows 100000 1000000] [--columns 20] [--again]

Rows of correlated numbers, five hidden ones and noise. A detector with the default settings is
trained on 20,000 of them, so that it keeps 10,000 codes; each row is one `predict` of a .csv in a
process of its own. `parts` says how long reading, asking the model and writing take on 100,000 rows.
`pyod` is the `decision_function` of PyOD's AutoEncoder, trained on the same rows, on the most rows of
`--rows`: an array in memory, scores out, neither p-values nor reasons.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import sides
from results_file import ROOT, dlkit, peak, row

HIDDEN, TRAINED, PIECE = 5, 20_000, 50_000


def draw(path: Path, rows: int, columns: int, seed: int) -> None:
    """Write rows of a linear model with noise, piece by piece."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(HIDDEN, columns))
    with path.open("w") as file:
        file.write(",".join(f"c{i}" for i in range(columns)) + "\n")
        for start in range(0, rows, PIECE):
            n = min(PIECE, rows - start)
            x = generator.normal(size=(n, HIDDEN)) @ mixing + 0.3 * generator.normal(
                size=(n, columns)
            )
            np.savetxt(file, x, fmt="%.5f", delimiter=",")


def trained(home: Path, columns: int) -> None:
    """Train the detector that all rows are scored by."""
    draw(home / "train.csv", TRAINED, columns, 1)
    dlkit("anomaly-detection", "train", "--data", "train.csv", cwd=home)


def measure(home: Path, rows: int, columns: int) -> dict[str, Any]:
    """Score a table in a process of its own."""
    draw(home / "rows.csv", rows, columns, 2)
    found = peak(
        "anomaly-detection", "predict", "latest", "rows.csv", "--output", "out.csv", cwd=home
    )
    with (home / "out.csv").open() as file:
        written = sum(1 for _ in file) - 1
    if written != rows:
        raise SystemExit(f"{written} rows written of {rows}")
    size = (home / "rows.csv").stat().st_size
    return {
        "rows": rows,
        "columns": columns,
        "csv_mb": round(size / 1e6, 1),
        **found,
        "rows_per_second": round(rows / found["seconds"]),
    }


def parts(home: Path, columns: int, rows: int = 100_000) -> dict[str, Any]:
    """Time reading, asking and writing alone, in one process, once warm."""
    from dlkit.evaluation.reasons import reasons
    from pipelines.anomaly_detection.answers import Opened, opened_model, rows_written

    draw(home / "rows.csv", rows, columns, 2)
    with contextlib.chdir(home), contextlib.redirect_stdout(io.StringIO()):
        opened = Opened("latest", ["rows.csv"], "serving_default")
        ask = opened_model(opened.path)("serving_default")
        began = time.monotonic()
        whole = list(opened.pieces)
        read = time.monotonic() - began
        ask(whole[0].inputs)
        began = time.monotonic()
        answers = [ask(piece.inputs) for piece in whole]
        asked = time.monotonic() - began
        began = time.monotonic()
        for each in answers:
            reasons(each["feature_scores"], opened.about)
        told = time.monotonic() - began
        began = time.monotonic()
        rows_written("out.csv", (piece.frame for piece in whole))
        write = time.monotonic() - began
        encode = opened_model(opened.path)("encode")
        encode(whole[0].inputs)
        began = time.monotonic()
        for piece in whole:
            encode(piece.inputs)
        encoded = time.monotonic() - began
    return {
        "rows": rows,
        "read_seconds": round(read, 2),
        "model_seconds": round(asked, 2),
        "of_which_encoder_seconds": round(encoded, 2),
        "reasons_seconds": round(told, 2),
        "write_seconds": round(write, 2),
    }


def pyod(home: Path, rows: int, columns: int) -> dict[str, Any]:
    """Score a table by PyOD's AutoEncoder."""
    draw(home / "rows.csv", rows, columns, 2)
    script = ROOT / "benchmarks" / "peers" / "pyod_rows.py"
    done = subprocess.run(
        [sides.pyod_python(), script, home / "train.csv", home / "rows.csv"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"PyOD failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        trained(home, given.columns)
        for rows in given.rows:
            found = row(
                "anomaly_predict",
                f"{rows} rows x {given.columns}",
                lambda rows=rows: measure(home, rows, given.columns),
                given.again,
            )
            print(
                f"{rows:,} rows: {found['rows_per_second']:,} rows/s with start-up, "
                f"{found['seconds']:.0f} s, {found['peak_mb']:,.0f} MB at most, "
                f"{found['csv_mb']:,.0f} MB of CSV",
                flush=True,
            )
        found = row("anomaly_predict", "parts", lambda: parts(home, given.columns), given.again)
        print(", ".join(f"{name} {found[name]}" for name in found if name.endswith("seconds")))
        most = max(given.rows)
        found = row("anomaly_predict", "pyod", lambda: pyod(home, most, given.columns), given.again)
        print(
            f"PyOD's AutoEncoder: {found['rows_per_second']:,} rows/s of {found['rows']:,}, reading "
            f"them {found['read_seconds']:.0f} s, {found['peak_mb']:,.0f} MB at most"
        )


if __name__ == "__main__":
    main()
