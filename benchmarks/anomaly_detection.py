"""Ranking of anomalies in seven tables of ADBench, beside PyOD's detectors on the same splits.

python benchmarks/anomaly_detection.py [--data-dir DIR] [--rows autoencoder,pyod-vae,...] [--again]

A shuffled half of the normal rows trains (a fifth of it is held out, as always), the rest and all
anomalies test; five splits, on none of which anything was chosen; every setting is the default, the
same for all tables. AUROC in per cent, mean over the splits, then over the tables.

`MODEL`: a builder. `untrained`: the autoencoder as it starts, with the same fusion. `ensemble`:
    `--ensemble 5`. `baselines`: k-nearest neighbours (5), Mahalanobis, isolation forest and PCA on the
    whole training half. `pyod-NAME`: PyOD's, with its defaults, on the whole training half, z-scored.
`false-alarms`: share of normal test rows that raise an alarm where 1 % is asked for.
`planted`: a normal test row is changed in one column by 3 to 6 deviations; how often that column is
    the first of the reasons, over 200 such rows a table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import sides
from results_file import ROOT, row

TABLES = ("cardio", "thyroid", "satellite", "pendigits", "vowels", "breastw", "ionosphere")
MODELS = (
    "autoencoder", "denoising-autoencoder", "sparse-autoencoder", "vae", "usad", "deep-svdd",
)  # fmt: skip
PEERS = ("pyod-autoencoder", "pyod-vae", "pyod-deep-svdd")
SPLITS = (10, 11, 12, 13, 14)
ASKED = 96.1
TRIALS = 200


def loaded(file: Path, split: int, **options: Any) -> tuple[Any, Any]:
    """Return a config and its data."""
    from pipelines.anomaly_detection.config import Config, load

    config = Config(data=str(file), split_seed=split, seed=split, **options)
    return config, load(config)


def detector_of(config: Any, data: Any, trained: bool = True) -> Any:
    """Train what the config says, and calibrate it."""
    import keras

    from dlkit.detection.detector import Detector
    from pipelines.anomaly_detection.setup import compiled_model, fitted

    keras.backend.clear_session()
    models = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(config.ensemble):
            seed = config.seed + i
            models.append(compiled_model(config, data.spec, seed))
            if trained:
                path = Path(folder) / f"checkpoint-{i}.npz"
                fitted(models[-1], config, data, path, seed=seed, quiet=True)
    return Detector(models, data)


def ours(folder: Path, trained: bool = True, **options: Any) -> dict[str, Any]:
    """Return the figures of one of dlkit's rows."""
    from sklearn.metrics import roc_auc_score

    tables: dict[str, Any] = {}
    for table in TABLES:
        each: dict[str, list[float]] = {}
        for split in SPLITS:
            config, data = loaded(folder / f"{table}.npz", split, **options)
            detector, y = detector_of(config, data, trained), data.test.y
            scores = detector.scores(data.test.at)
            for name, values in scores.items():
                each.setdefault(name, []).append(100 * roc_auc_score(y, values))
            alarms = scores["score"][y == 0] > detector.threshold
            each.setdefault("false_alarms", []).append(100 * float(alarms.mean()))
        tables[table] = each
    return summed(tables)


def summed(tables: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Return means over splits for each table, over tables, and the deviation over splits of those."""
    names = list(tables[TABLES[0]])
    means = {
        name: [mean(tables[t][name][i] for t in TABLES) for i in range(len(SPLITS))]
        for name in names
    }
    return {
        "tables": {
            t: {k: round(mean(v), 2) for k, v in each.items()} for t, each in tables.items()
        },
        "mean": {name: round(mean(values), 2) for name, values in means.items()},
        "deviation_over_splits": {name: round(spread(values), 2) for name, values in means.items()},
    }


def mean(values: Any) -> float:
    """Return the mean."""
    found = list(values)
    return sum(found) / len(found)


def spread(values: list[float]) -> float:
    """Return the standard deviation."""
    return (sum((v - mean(values)) ** 2 for v in values) / (len(values) - 1)) ** 0.5


def halves(folder: Path, table: str, split: int) -> tuple[Any, Any, Any]:
    """Return the whole training half and the test rows, z-scored, and the test labels."""
    import numpy as np

    _, data = loaded(folder / f"{table}.npz", split)
    raw = [data.inputs(at)["rows"] for at in (data.train.at, data.holdout.at, data.test.at)]
    train, test = np.concatenate(raw[:2]).astype(float), raw[2].astype(float)
    deviation = np.where(train.std(0) > 0, train.std(0), 1.0)
    return (train - train.mean(0)) / deviation, (test - train.mean(0)) / deviation, data.test.y


def simple(folder: Path) -> dict[str, Any]:
    """Return the figures of the detectors that need no training."""
    from sklearn.metrics import roc_auc_score

    from dlkit.evaluation.anomaly import baselines

    tables: dict[str, Any] = {}
    for table in TABLES:
        each: dict[str, list[float]] = {}
        for split in SPLITS:
            train, test, y = halves(folder, table, split)
            for name, (_, scores) in baselines(train, test[:2], test).items():
                each.setdefault(name, []).append(100 * roc_auc_score(y, scores))
        tables[table] = each
    return summed(tables)


def peer(folder: Path, name: str) -> dict[str, Any]:
    """Return the figures of one of PyOD's detectors."""
    import numpy as np

    script, tables = ROOT / "benchmarks" / "peers" / "pyod_detectors.py", {}
    for table in TABLES:
        with tempfile.TemporaryDirectory() as scratch:
            arrays = {}
            for split in SPLITS:
                parts = halves(folder, table, split)
                arrays |= dict(
                    zip((f"{split}/{k}" for k in ("train", "test", "y")), parts, strict=True)
                )
            np.savez(f"{scratch}/splits.npz", allow_pickle=True, **arrays)
            done = subprocess.run(
                [sides.pyod_python(), script, name, f"{scratch}/splits.npz"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"PyOD's {name} failed: {done.stderr.strip().splitlines()[-1]}")
        found = json.loads(done.stdout.strip().splitlines()[-1])
        tables[table] = {"score": [100 * each["auroc"] for each in found]}
    return summed(tables)


def planted(folder: Path) -> dict[str, Any]:
    """Return how often the changed column is the first reason."""
    import numpy as np
    import tensorflow as tf

    shares = {}
    for table in TABLES:
        config, data = loaded(folder / f"{table}.npz", SPLITS[0])
        detector = detector_of(config, data)
        generator = np.random.default_rng(0)
        normal = data.test.at[data.test.y == 0]
        rows = data.inputs(generator.choice(normal, TRIALS))["rows"].copy()
        deviation = data.inputs(data.train.at)["rows"].std(0)
        moving = np.flatnonzero(deviation > 0)
        column = generator.choice(moving, TRIALS)
        size = generator.uniform(3, 6, TRIALS) * generator.choice([-1, 1], TRIALS)
        rows[np.arange(TRIALS), column] += (size * deviation[column]).astype(np.float32)
        answer = detector.answer(data.preprocess({"rows": tf.constant(rows)}))
        first = answer["feature_scores"].numpy().argmax(1)
        shares[table] = round(100 * float((first == column).mean()), 1)
    return {"tables": shares, "mean": {"score": round(mean(shares.values()), 1)}}


def main() -> None:
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", default="../shared/data")
    names = [*MODELS, "untrained", "ensemble", "baselines", *PEERS, "planted"]
    parser.add_argument("--rows", default=",".join(names))
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    folder, asked = (Path(given.data_dir) / "adbench").resolve(), given.rows.split(",")
    for name in asked:
        if name not in names:
            parser.error(f"--rows: no row '{name}'; accepted: {', '.join(names)}")
    if not folder.is_dir():
        parser.error(f"--data-dir: no folder {folder}")
    for name in asked:
        began = time.monotonic()
        if name.startswith("pyod-"):
            measure = lambda n=name: peer(folder, n.removeprefix("pyod-"))  # noqa: E731
        else:
            measure = {
                "untrained": lambda: ours(folder, trained=False),
                "ensemble": lambda: ours(folder, ensemble=5),
                "baselines": lambda: simple(folder),
                "planted": lambda: planted(folder),
            }.get(name, lambda n=name: ours(folder, model=n))
        found = row("anomaly_detection", name, measure, given.again)
        parts = ", ".join(f"{k} {v:.2f}" for k, v in found["mean"].items())
        print(f"{name:22} {parts}; asked {ASKED} ({time.monotonic() - began:.0f} s)", flush=True)
    for name in names:
        if name not in asked:
            print(f"{name}: not run")


if __name__ == "__main__":
    from dlkit.runtime import load_tensorflow

    load_tensorflow(keras=True)
    main()
