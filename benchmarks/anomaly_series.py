"""VUS-PR of detectors on four series of the Numenta Anomaly Benchmark.

python benchmarks/anomaly_series.py [--data-dir DIR] [--rows nyc_taxi-forecaster,...] [--again]

`SERIES-MODEL`: one channel in windows of 64 steps, every model with its defaults, the same for all
    four series. The first half of the rows trains, without the windows that touch a labelled span;
    the rest tests. Labels (`combined_windows.json`) choose nothing else. A row's score is the mean of
    the windows that cover it, for the models and for the baselines of the same report alike: sub-
    sequence PCA and windowed z-score, and beside these nearest neighbours, Mahalanobis and isolation
    forest of windows. Asked: on three of the four, the best model is no worse than the better of the
    first two.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from results_file import dlkit, row

SERIES = (
    "art_daily_jumpsup",
    "ec2_cpu_utilization_5f5533",
    "machine_temperature_system_failure",
    "nyc_taxi",
)
MODELS = ("forecaster", "lstm-autoencoder", "conv-autoencoder")
BESIDE = ("windowed_z_score", "subsequence_pca")
ASKED = 3
METRICS = ("vus_pr", "auroc", "event_precision", "event_recall", "event_f1", "false_positive_rate")


def labelled(folder: Path, series: str, target: Path) -> None:
    """Write a series with its labels, 1 within a window of `combined_windows.json`."""
    import pandas as pd

    known = json.loads((folder / "combined_windows.json").read_text())
    spans = next(v for k, v in known.items() if Path(k).stem == series)
    table = pd.read_csv(folder / f"{series}.csv")
    stamps = pd.to_datetime(table["timestamp"])
    table["anomaly"] = sum(stamps.between(begin, end).astype(int) for begin, end in spans)
    table.to_csv(target, index=False)


def measure(folder: Path, series: str, model: str) -> dict[str, Any]:
    """Train one model on one series and score it."""
    arguments = ["anomaly-detection", "train", "--time", "timestamp", "--label", "anomaly",
                 "--model", model]  # fmt: skip
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / f"{series}.csv"
        labelled(folder, series, file)
        result = dlkit(*arguments, "--data", str(file), cwd=Path(work))
        report = json.loads(Path(result["report"]).read_text())
    return {
        "typed": f"dlkit {' '.join(arguments)} --data {file.name}",
        **{name: report[name] for name in ("splits", "parameters", "training_seconds", "verdict")},
        "metrics": {name: report["metrics"][name] for name in METRICS},
        "intervals": {name: report["intervals"][name] for name in METRICS},
        "components": {k: v["vus_pr"] for k, v in report["components"].items()},
        "baselines": {
            k: {name: v["metrics"][name] for name in METRICS}
            for k, v in report["baselines"].items()
        },
        "seconds": result["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", default="../shared/data")
    names = [f"{series}-{model}" for series in SERIES for model in MODELS]
    parser.add_argument("--rows", default=",".join(names))
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    folder = (Path(given.data_dir) / "nab").resolve()
    asked = given.rows.split(",")
    for name in asked:
        if name not in names:
            parser.error(f"--rows: no row '{name}'; accepted: {', '.join(names)}")
    if not (folder / "combined_windows.json").is_file():
        parser.error(f"--data-dir: no file {folder / 'combined_windows.json'}")
    best: dict[str, dict[str, float]] = {}
    for name in asked:
        series, model = name.split("-", 1)
        found = row(
            "anomaly_series", name, lambda s=series, m=model: measure(folder, s, m), given.again
        )
        own = found["metrics"]["vus_pr"]
        beside = {k: v["vus_pr"] for k, v in found["baselines"].items()}
        best.setdefault(series, {})[model] = own
        best[series]["baseline"] = max(beside[k] for k in BESIDE)
        low, high = found["intervals"]["vus_pr"]
        print(
            f"{name:52} VUS-PR {own:.3f} [{low:.3f}, {high:.3f}], event F1 "
            f"{found['metrics']['event_f1']:.2f}; "
            + ", ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in beside.items())
            + f"; {found['seconds']:.0f} s",
            flush=True,
        )
    won = 0
    for series, each in best.items():
        model = max((k for k in each if k != "baseline"), key=lambda k: each[k])
        won += each[model] >= each["baseline"]
        print(f"{series}: best {model} {each[model]:.3f}, baseline {each['baseline']:.3f}")
    print(f"no worse than the baseline on {won} of {len(best)} (asked {ASKED} of {len(SERIES)})")
    for name in names:
        if name not in asked:
            print(f"{name}: not run")


if __name__ == "__main__":
    main()
