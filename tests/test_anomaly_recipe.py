"""Anomaly detection through `train`: sources, splits, thresholds, ensembles, resume, refusals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import REAL_DATA, Done

from dlkit import tracking
from dlkit.data.anomaly_tables import load_table
from dlkit.detection.thresholds import threshold
from dlkit.errors import DataError
from dlkit.evaluation.anomaly import ranking
from dlkit.models import MODELS

TASK = "anomaly-detection"
Runs = Callable[..., Done]
TINY = ["-p", "encoder=[8,3]", "--epochs", "2"]
CHILD = """
import sys
from dlkit import training
training.SAVE_EVERY_SECONDS = 0.2
from pipelines.cli import main
sys.exit(main(sys.argv[1:]))
"""
DEFAULTS: dict[str, Any] = {
    "label": None, "normal": (), "ignored": (), "contaminated": False, "split_seed": 0,
}  # fmt: skip


def table(path: Path, n: int = 200, anomalies: int = 20, **columns: Any) -> Path:
    """Write two correlated columns, the label `kind`, and more columns; anomalies come last."""
    generator = np.random.default_rng(0)
    first = generator.normal(size=n)
    frame = pd.DataFrame({"a": first, "b": first + 0.1 * generator.normal(size=n), "kind": "ok"})
    frame.loc[n - anomalies :, "a"] += 6.0
    frame.loc[n - anomalies :, "kind"] = "bad"
    frame.assign(**columns).to_csv(path, index=False)
    return path


@pytest.mark.usefixtures("unchecked")
def test_the_default_run_reports_what_it_promises(dlkit: Runs, here: Path) -> None:
    done = dlkit(TASK, "train", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert {"auroc", "average_precision", "precision_at_k", "f1", "false_positive_rate"} <= set(
        found["metrics"]
    )
    assert {"nearest_neighbours", "mahalanobis", "isolation_forest", "pca_reconstruction"} == set(
        found["baselines"]
    )
    for name, (low, high) in found["intervals"].items():
        assert low <= found["metrics"][name] + 0.05 and found["metrics"][name] - 0.05 <= high
    report = json.loads(Path(found["report"]).read_text())
    assert {"reconstruction", "mahalanobis", "neighbours", "local", "fusion"} == set(
        report["components"]
    )
    # 357 benign rows: half trains, a fifth of which is held out.
    assert report["splits"] == {"train": 142, "holdout": 36, "test": 391}
    assert report["verdict"].startswith("beats its best baseline, mahalanobis")
    for name in ("scores.png", "ranking.png", "curves.png"):
        assert Path(found["report"]).with_name(name).stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked", "undrawn")
def test_an_ensemble_on_contaminated_rows(dlkit: Runs, here: Path) -> None:
    path = table(here / "rows.csv")
    done = dlkit(TASK, "train", "--data", str(path), "--label", "kind", "--normal", "ok", *TINY,
                 "--contaminated", "--ensemble", "2", "--threshold", "pot", "--json")  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads(Path(done.json["report"]).read_text())
    assert report["contaminated"] and report["threshold_method"] == "pot"
    assert sum(report["splits"].values()) == 200
    assert "anomalies may be among the rows" in " ".join(report["notes"])
    # Two models of 2 to 8 to 3 to 8 to 2.
    assert report["parameters"] == 2 * (3 * 8 + 9 * 3 + 4 * 8 + 9 * 2)


def test_the_scale_is_that_of_training_rows_alone(tmp_path: Path) -> None:
    path = table(tmp_path / "rows.csv", 400, 40)
    options = {**DEFAULTS, "label": "kind", "normal": ("ok",)}
    data = load_table(str(path), **options)
    frame = pd.read_csv(path)
    later = np.setdiff1d(np.arange(400), data.train.at)
    frame.loc[later, "a"] *= 1000.0
    frame.to_csv(tmp_path / "other.csv", index=False)
    other = load_table(str(tmp_path / "other.csv"), **options)
    np.testing.assert_array_equal(data.arrays(data.train.at)[0], other.arrays(other.train.at)[0])


def test_numbers_whose_squares_are_infinite_are_drawn_in(tmp_path: Path) -> None:
    path = table(tmp_path / "rows.csv")
    frame = pd.read_csv(path)
    frame.loc[196:, "a"] = [99999, 1e20, 3e38, -1e30]
    frame.to_csv(path, index=False)
    data = load_table(str(path), **{**DEFAULTS, "label": "kind", "normal": ("ok",)})
    x = data.arrays(data.test.at)[0]
    assert np.abs(x).max() < 100
    assert 10 < x[-4, 0] < x[-3, 0] < x[-2, 0] and x[-1, 0] < -10
    assert x[:-4, 0].max() < 10


@pytest.mark.parametrize("outlier", [1000.0, -99999.0])
def test_one_gross_outlier_leaves_the_scale_of_its_column(tmp_path: Path, outlier: float) -> None:
    path = table(tmp_path / "rows.csv", 400, 40)
    options = {**DEFAULTS, "label": "kind", "normal": ("ok",)}
    data, frame = load_table(str(path), **options), pd.read_csv(path)
    frame.loc[data.train.at[3], "a"] = outlier
    frame.to_csv(path, index=False)
    x = load_table(str(path), **options).arrays(data.train.at)[0][:, 0]
    assert 0.9 < np.delete(x, 3).std() < 1.2
    assert 10 < abs(x[3]) < 25


def test_odd_columns_are_told_and_harmless(tmp_path: Path) -> None:
    path = table(
        tmp_path / "rows.csv",
        same=3.0, name=[f"row {i}" for i in range(200)], empty=np.nan,
        colour=["red", "blue"] * 100, number=np.arange(200), gaps=np.where(np.arange(200) % 7, 1.0 * np.arange(200), np.nan),
    )  # fmt: skip
    data = load_table(str(path), **{**DEFAULTS, "label": "kind", "normal": ("ok",)})
    told = " ".join(data.notes)
    for words in (
        "'same'",
        "'name' holds 200 different names",
        "'empty' holds nothing",
        "missing",
        "--ignore number",
    ):
        assert words in told
    assert data.columns == ("a", "b", "same", "number", "gaps", "colour")
    # Five numbers, one of which says where it was missing; two colours and any other.
    assert data.spec.input_shape == (5 + 1 + 3,)
    x = data.arrays(data.test.at)[0]
    assert np.isfinite(x).all() and (x[:, 2] == 0).all()
    unseen = {k: v[:1] for k, v in data.inputs(data.test.at).items()} | {
        "colour": np.array(["green"], object)
    }
    import tensorflow as tf

    given = {k: tf.constant(v.tolist() if v.dtype == object else v) for k, v in unseen.items()}
    np.testing.assert_array_equal(np.array(data.preprocess(given))[0, -3:], [0, 0, 1])


def test_text_that_was_meant_as_numbers_or_stamps_is_told(tmp_path: Path) -> None:
    options: dict[str, Any] = {**DEFAULTS, "label": "kind", "normal": ("ok",)}
    days = pd.date_range("2024-01-01", periods=200, freq="6h")
    digits = np.where(np.arange(200) == 41, "?", (np.arange(200) % 9).astype(str))
    path = table(
        tmp_path / "rows.csv", day=days.strftime("%Y-%m-%d"), short=days.strftime("%d/%m/%y"),
        digit=digits, weekday=days.strftime("%a"),
    )  # fmt: skip
    data = load_table(str(path), **options)
    assert data.columns == ("a", "b", "digit", "weekday")
    told = " ".join(data.notes)
    for words in (
        "'day' holds stamps and is left out",
        "'short' holds stamps",
        "'digit' holds numbers, but for 1 row, the first is row 42 with '?': each different",
    ):
        assert words in told
    measured = np.arange(200.0).astype(str)
    measured[[7, 90]] = ["n.a.", "-"]
    path = table(tmp_path / "rows.csv", measured=measured)
    words = "'measured' holds numbers, but for 2 rows, the first is row 8 with 'n.a.'"
    with pytest.raises(DataError, match=words):
        load_table(str(path), **options)
    assert load_table(str(path), **{**options, "ignored": ("measured",)}).columns == ("a", "b")


@pytest.mark.parametrize("levels", [2, 7, 1000])
def test_scores_are_ranked_as_scikit_learn_does(levels: int) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    for seed in range(20):
        generator = np.random.default_rng(seed)
        y = np.arange(40) < generator.integers(1, 40)
        y, score = generator.permutation(y).astype(int), generator.integers(0, levels, 40) / 8
        found = ranking(y, score)
        assert found["auroc"] == pytest.approx(roc_auc_score(y, score))
        assert found["average_precision"] == pytest.approx(average_precision_score(y, score))
        first = sorted(range(40), key=lambda i: -score[i])[: y.sum()]
        assert found["precision_at_k"] == pytest.approx(y[first].mean())


@pytest.mark.parametrize("method", ["quantile", "mad", "pot"])
def test_thresholds_keep_to_the_rate(method: str) -> None:
    generator = np.random.default_rng(0)
    shares = [
        float((generator.normal(size=20_000) > threshold(held, 0.02, method)).mean())
        for held in generator.normal(size=(40, 500))
    ]
    assert np.mean(shares) == pytest.approx(0.02, abs=0.004)


def test_few_held_out_rows_cannot_show_a_small_rate() -> None:
    notes: list[str] = []
    held = np.random.default_rng(0).normal(size=30)
    assert threshold(held, 0.001, "quantile", notes) > held.max()
    assert "30 held-out examples cannot show" in notes[0]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--label", "knd"], "has no column 'knd' (did you mean 'kind'?)"),
        (["--label", "kind"], "name the values of 'kind' that are normal; it holds: bad, ok"),
        (["--label", "kind", "--normal", "okay"], "has the kind 'okay' (did you mean 'ok'?)"),
        (["--normal", "ok"], "name that column"),
        (["--ignore", "c", "--label", "kind", "--normal", "ok"], "has no column 'c'"),
        (["--ignore", "a,b", "--label", "kind", "--normal", "ok"], "no column of numbers"),
        (
            ["--image-size", "8"],
            "--image-size: is for images; say which are normal: --normal-class",
        ),
        (["--no-download"], "--no-download: is for images"),
        (["--window", "8", "--data-dir", "sets"], "--data-dir: is for images"),
        (
            ["--window", "8", "--split-seed", "3"],
            "--split-seed: is for tables and images; a series",
        ),
        (["--model", "autoencodr"], "did you mean 'autoencoder'?"),
        (["-p", "encoder=[8,x]"], "-p encoder"),
        (["--score", "fuson"], "did you mean 'fusion'?"),
        (["--false-positive-rate", "0.7"], "below 0.5"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(
    dlkit: Runs, here: Path, more: list[str], words: str
) -> None:
    done = dlkit(TASK, "train", "--data", str(table(here / "rows.csv")), *more)
    assert done.code == 2, done.err
    assert words in done.err and "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 1 or "Usage" in done.err
    assert not list((here / "mlruns").glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ({"a": [1.0] * 9, "y": [0] * 9}, "9 normal rows; accepted: at least 20"),
        ({"a": [1.0], "y": [0]}, "1 normal row; accepted: at least 20"),
        ({"a": [1.0] * 30, "y": [1] * 30}, "name the values of 'y' that are normal"),
        ({"a": [1.0] * 29 + [np.inf], "y": [0] * 30}, "row 30; accepted: finite numbers"),
        ({"a": ["1"] * 29 + ["x" * 9], "y": [0] * 30}, None),
    ],
)
def test_sources_that_cannot_be_learnt_from(
    tmp_path: Path, frame: dict[str, Any], words: str | None
) -> None:
    pd.DataFrame(frame).to_csv(tmp_path / "rows.csv", index=False)
    options = {**DEFAULTS, "label": "y"}
    if words is None:  # text makes categories
        assert load_table(str(tmp_path / "rows.csv"), **options).columns == ("a",)
        return
    with pytest.raises(DataError, match=words):
        load_table(str(tmp_path / "rows.csv"), **options)


def test_arrays_of_other_shapes_are_refused(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for arrays, words in (
        ({"X": generator.normal(size=(30, 2, 2))}, r"an X of shape \(30, 2, 2\)"),
        ({"x": generator.normal(size=(30, 2))}, "accepted: numbers X"),
        ({"X": generator.normal(size=(30, 2)), "y": np.arange(30)}, "1 for an anomaly"),
        ({"X": np.empty((0, 2))}, "has no rows"),
    ):
        np.savez(tmp_path / "rows.npz", allow_pickle=True, **arrays)
        with pytest.raises(DataError, match=words):
            load_table(str(tmp_path / "rows.npz"), **DEFAULTS)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--model", "lstm-autoencoder"], "reads windows of series"),
        (["--score", "distance"], "--score: autoencoder has no 'distance'; accepted: fusion, lo"),
    ],
)
def test_what_does_not_fit_leaves_no_run(
    dlkit: Runs, here: Path, more: list[str], words: str
) -> None:
    path = str(table(here / "rows.csv"))
    done = dlkit(TASK, "train", "--data", path, "--label", "kind", "--normal", "ok", *more)
    assert done.code == 2 and words in done.err
    assert not list((here / "mlruns").glob("checkpoints/*"))


def test_what_is_no_archive_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez_compressed(path, X=np.random.default_rng(0).normal(size=(400, 9)))
    damaged = bytearray(path.read_bytes())
    damaged[500:600] = bytes(100)
    np.save(tmp_path / "rows.npy", np.zeros((30, 2)))
    for content in (b"junk", damaged, (tmp_path / "rows.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"is no \.npz of plain arrays"):
            load_table(str(path), **DEFAULTS)


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_columns_of_lists_are_left_out(tmp_path: Path, ending: str) -> None:
    path, frame = tmp_path / f"rows{ending}", pd.read_csv(table(tmp_path / "rows.csv"))
    frame["tags"] = [["x", "y"][: i % 3] for i in range(200)]
    if ending == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    data = load_table(str(path), **{**DEFAULTS, "label": "kind", "normal": ("ok",)})
    assert data.columns == ("a", "b")
    assert "column 'tags' holds lists or objects and is left out" in data.notes


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"no real data at {REAL_DATA}")
@pytest.mark.slow
def test_a_real_table_beats_chance_by_far(dlkit: Runs) -> None:
    done = dlkit(
        TASK, "train", "--data", str((REAL_DATA / "adbench/thyroid.npz").resolve()), "--json"
    )
    assert done.code == 0, done.err
    assert done.json["metrics"]["auroc"] > 0.97
    assert done.json["metrics"]["false_positive_rate"] < 0.03


SMALL = {
    "conv-autoencoder": ["-p", "filters=[4]", "--window", "16", "--time", "t"],
    "lstm-autoencoder": ["-p", "units=4", "--window", "16", "--time", "t"],
    "forecaster": ["-p", "units=4", "--window", "16", "--time", "t"],
    "deep-svdd": ["-p", "units=[4]"],
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(MODELS[TASK]))
def test_a_killed_run_ends_as_the_whole_one(dlkit: Runs, here: Path, model: str) -> None:
    more = SMALL.get(model, ["-p", "encoder=[8,3]"])
    data = here / "rows.csv"
    if "--time" in more:
        t = pd.date_range("2024-01-01", periods=400, freq="h")
        pd.DataFrame({"t": t, "v": np.sin(np.arange(400) / 4)}).to_csv(data, index=False)
    else:
        table(data, 400, 40)
        more = [*more, "--label", "kind", "--normal", "ok"]
    arguments = [TASK, "train", "--data", str(data), "--model", model, *more, "--epochs", "30"]
    whole = dlkit(*arguments, "--json")
    assert whole.code == 0, whole.err
    command = [sys.executable, "-c", CHILD, *arguments]
    with subprocess.Popen(command, cwd=here, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        while not process.stderr.readline().startswith("epoch 9/"):
            assert process.poll() is None
        process.kill()
        assert process.wait() == -signal.SIGKILL
    rows = [json.loads(line) for line in dlkit("runs", "list", "--json").out.splitlines()]
    killed = next(r["run"] for r in rows if r["run"] != whole.json["run"])
    resumed = dlkit(TASK, "train", "--resume", killed, "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["metrics"] == whole.json["metrics"]
    store = tracking.client()
    one, two = (store.get_run(r).data.tags["dlkit.weights"] for r in (whole.json["run"], killed))
    assert one == two
