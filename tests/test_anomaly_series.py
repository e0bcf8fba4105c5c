"""Detectors of series: windows, splits by time, one-step forecasts, VUS-PR and events."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import Done

from dlkit.data import pieces
from dlkit.data.anomaly_series import load_windows, per_row
from dlkit.data.spec import DetectorSpec
from dlkit.errors import DataError, SpecError
from dlkit.evaluation.anomaly_series import events, moving_z, runs, vus_pr
from pipelines.anomaly_detection.config import Config
from pipelines.anomaly_detection.config import load as load_by_config

TASK = "anomaly-detection"


def frame(n: int = 400, channels: int = 2, odd: tuple[tuple[int, int], ...] = ()) -> pd.DataFrame:
    """Waves with a little noise, the rows of `odd` moved away and labelled."""
    generator = np.random.default_rng(0)
    t = np.arange(n)
    table = pd.DataFrame({"when": pd.date_range("2024-01-01", periods=n, freq="h")})
    for i in range(channels):
        table[f"c{i}"] = 50 + 10 * np.sin(t / (3 + i)) + generator.normal(0, 0.3, n)
    table["state"] = "normal"
    for begin, end in odd:
        table.loc[begin : end - 1, "c0"] += 40
        table.loc[begin : end - 1, "state"] = "fault"
    return table


def load(source: Path, **options: Any) -> Any:
    """Load a file of series with every option left out but the given ones."""
    usual: dict[str, Any] = dict.fromkeys(("time", "label", "window"))
    usual |= {"channels": (), "ignored": (), "normal": (), "contaminated": False}
    return load_windows(str(source), **usual | options)


@pytest.fixture
def waves(tmp_path: Path) -> Path:
    """A file of 400 rows with two labelled spans in the test and one in the training rows."""
    path = tmp_path / "waves.csv"
    frame(odd=((50, 54), (250, 262), (330, 338))).to_csv(path, index=False)
    return path


def test_windows_stay_in_their_split_and_out_of_labelled_spans(waves: Path) -> None:
    data = load(waves, window=16, label="state")
    assert data.spec == DetectorSpec((16, 2), 32, kind="series") and data.columns == ("c0", "c1")
    assert data.holdout.at[0] == 160 and data.holdout.at[-1] == 200 - 16
    assert data.test.at[0] == 200 and data.test.at[-1] == 400 - 16
    # A window that begins 15 rows before the span, or in it, touches it.
    assert set(range(145)) - set(data.train.at) == set(range(50 - 15, 54))
    assert not data.train.y.any() and not data.holdout.y.any()
    touched = data.test.at[data.test.y == 1]
    assert set(touched) == {*range(250 - 15, 262), *range(330 - 15, 338)}
    assert any("19 windows with labelled anomalies left out" in note for note in data.notes)
    whole = load(waves, window=16, label="state", contaminated=True)
    assert list(whole.train.at) == list(range(145)) and whole.train.y.sum() == 19


def test_windows_are_raw_outside_and_scaled_by_the_training_span_inside(waves: Path) -> None:
    data = load(waves, window=16, label="state")
    table = pd.read_csv(waves)
    raw = data.inputs(np.array([300]))["window"]
    assert raw.dtype == np.float32 and raw.shape == (1, 16, 2)
    assert np.allclose(raw[0], table.loc[300:315, ["c0", "c1"]])
    own = np.asarray(data.prepare(*data.arrays(np.array([300]))))
    assert np.allclose(own, data.preprocess({"window": raw}), atol=1e-5)
    scaled = np.asarray(data.prepare(data.train.at))
    assert np.abs(scaled.mean((0, 1))).max() < 0.2 and np.abs(scaled.std((0, 1)) - 1).max() < 0.2
    changed = table.copy()
    changed.loc[200:, ["c0", "c1"]] += 1000
    changed.to_csv(waves.with_name("b.csv"), index=False)
    other = load(waves.with_name("b.csv"), window=16, label="state")
    assert np.array_equal(other.preprocess.mean, data.preprocess.mean)


def test_a_far_value_is_drawn_in_alike_in_training_and_in_the_export(waves: Path) -> None:
    table = pd.read_csv(waves)
    table.loc[300, "c1"] = 9.97e36
    table.to_csv(waves, index=False)
    data = load(waves, window=16, label="state")
    at = np.array([290, 320])
    own = np.asarray(data.prepare(*data.arrays(at)))
    assert 50 < own.max() < 100
    assert np.array_equal(own, data.preprocess(data.inputs(at)))


def test_rows_out_of_order_gaps_and_doubles_are_told(tmp_path: Path) -> None:
    table = frame(300)
    table.loc[[7, 8], "c1"] = np.nan
    table = table.drop(index=[100, 101, 102]).sample(frac=1, random_state=0)
    path = tmp_path / "holes.csv"
    table.to_csv(path, index=False)
    data = load(path, time="when", channels=("c1",))
    said = " ".join(data.notes)
    for words in ("have been sorted", "3 stamps missing", "2 values of 'c1' missing", "no labels"):
        assert words in said
    assert data.columns == ("c1",) and data.spec.input_shape[0] < 64
    values = data.series.values[:, 0]
    assert values[7] == values[6] == values[8]
    assert data.about["frequency"] == "h"


def test_one_stamp_far_away_is_a_gap_that_is_counted_only(tmp_path: Path) -> None:
    table, path = frame(300), tmp_path / "file.csv"
    table["when"] = pd.date_range("2024-01-01", periods=300, freq="10ms")
    table.loc[0, "when"] = pd.Timestamp("1970-01-01")
    table.to_csv(path, index=False)
    data = load(path, window=8)
    missing = 100 * 86400 * 19723  # of 10 ms in 54 years
    assert any(f"{missing:,} stamps missing at frequency 10ms" in note for note in data.notes)


def read_in_pieces(file: Path, **about: Any) -> tuple[list[pieces.Piece], list[str]]:
    """Read a file as predict does, by a manifest of windows of 4 steps; also what is told."""
    notes: list[str] = []
    manifest = {"kind": "series", "input_shape": [4, 1], "columns": ["c0"]}
    manifest |= {"time": "when", "frequency": "h"} | about
    return list(pieces.pieces([str(file)], manifest, notes)()), notes


def test_stamps_that_fall_are_refused_when_predicting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "ROWS", 10)
    table, path = frame(40), tmp_path / "file.csv"
    table[::-1].to_csv(path, index=False)
    with pytest.raises(DataError, match=r"'when' falls .* in row 2; .* sort the file first"):
        read_in_pieces(path)
    # Where the second piece begins, and within it.
    for at in (20, 23):
        pd.concat([table[:20], table[20 : at + 1], table[3:9]]).to_csv(path, index=False)
        with pytest.raises(DataError, match=f"to 2024-01-01 03:00:00 in row {at + 2};"):
            read_in_pieces(path)
    with_hole = table.drop(index=[9, 10, 30])
    pd.concat([with_hole[:5], with_hole[4:]]).to_csv(path, index=False)
    _, notes = read_in_pieces(path)
    assert len(notes) == 2
    assert "1 stamp there more than once" in notes[0]
    assert "stamps missing in 2 places at frequency h" in notes[1]


def test_stamps_in_order_and_those_that_cannot_be_read_leave_rows_as_they_stand(
    tmp_path: Path,
) -> None:
    table, path = frame(40), tmp_path / "file.csv"
    for stamps, alias in (
        (pd.date_range("1900-01-01", periods=40, freq="YS").year, "YS-JAN"),
        (pd.date_range("2024-01-31", periods=40, freq="ME"), "ME"),
        (pd.date_range("2024-01-01", periods=40, freq="B"), "B"),
    ):
        table.assign(when=stamps).to_csv(path, index=False)
        found, notes = read_in_pieces(path, frequency=alias)
        assert not notes and len(found[0].inputs["window"]) == 37
    table.loc[[6, 7], "c0"] = np.nan
    table.to_csv(path, index=False)
    found, (note,) = read_in_pieces(path)
    assert note == "2 rows lack 'c0', filled with the value before"
    assert np.isfinite(found[0].inputs["window"]).all()
    table["c0"] = 1.0
    table.assign(when="soon").to_csv(path, index=False)
    found, (note,) = read_in_pieces(path)
    assert "hold no stamp, such as 'soon'; rows are taken in the order" in note
    assert len(found[0].inputs["window"]) == 37
    table.drop(columns="when").rename(columns={"c0": " c0 "}).to_csv(path, index=False)
    assert not read_in_pieces(path)[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"time": "wen"}, r"--time: .* no column 'wen' \(did you mean 'when'\?\)"),
        ({"channels": ("c9",)}, r"--channels: .* no column 'c9'"),
        ({"window": 60}, r"--window: got 60; accepted .*: 4 to 31"),
        ({"window": 2}, r"--window: got 2"),
        ({"label": "state", "normal": ("fine",)}, r"--normal: no row .* 'fine'"),
    ],
)
def test_what_cannot_be_is_said(waves: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        load(waves, **options)


def test_ignored_columns_and_channels_go_together_and_evaluation_needs_neither(
    waves: Path,
) -> None:
    assert load(waves, window=16, label="state", channels=("c0",), ignored=("c1",)).columns == (
        "c0",
    )
    with pytest.raises(DataError, match=r"--ignore: .* no column 'c9'"):
        load(waves, window=16, channels=("c0",), ignored=("c9",))
    table = pd.read_csv(waves).rename(columns={"c0": "c, 0"})
    table.drop(columns="c1").to_csv(waves, index=False)
    config = Config(data=str(waves), window=8, ignore="c1", label="state")
    about = {"columns": ["c, 0"], "window": 16}
    other = load_by_config(config, about)
    assert other.columns == ("c, 0",) and other.spec.input_shape == (16, 1)


def test_too_few_rows_or_two_series_in_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    frame(60).to_csv(path, index=False)
    with pytest.raises(DataError, match="has 60 rows; accepted: at least 140"):
        load(path, window=8)
    pd.concat([frame(200), frame(200)]).to_csv(path, index=False)
    with pytest.raises(DataError, match="accepted: one series"):
        load(path, window=8)
    frame(400, odd=((160, 200),)).to_csv(path, index=False)
    with pytest.raises(DataError, match=r"rows 161 to 200 0 windows .* --contaminated"):
        load(path, window=8, label="state")


def test_the_score_of_a_row_is_the_mean_of_the_windows_over_it() -> None:
    found = per_row(np.array([0, 1, 4]), np.array([1.0, 3.0, 5.0]), 2, 7)
    assert np.array_equal(found, [1, 2, 3, np.nan, 5, 5, np.nan], equal_nan=True)


@pytest.mark.parametrize("params", [{"core": "cnn"}, {"core": "lstm"}, {"kernel_size": 2}])
def test_a_forecast_depends_on_the_steps_before_it_alone(params: dict[str, Any]) -> None:
    from dlkit import models

    spec = DetectorSpec((20, 2), 40, kind="series")
    model = models.build(TASK, "forecaster", spec, {"units": 8, **params})
    x = np.random.default_rng(0).normal(size=(1, 20, 2)).astype(np.float32)
    before = np.asarray(model(x))
    for t in (0, 7, 18):
        y = x.copy()
        y[:, t] += 5.0
        moved = np.abs(np.asarray(model(y)) - before).max((0, 2)) > 1e-6
        assert not moved[: t + 1].any() and moved[t + 1]
    # The last step still sees the first one.
    y = x.copy()
    y[:, 0] += 50.0
    assert np.abs(np.asarray(model(y)) - before)[0, -1].max() > 0


def test_the_lstm_autoencoder_tells_a_window_from_its_code_alone() -> None:
    import keras

    from dlkit import models

    spec = DetectorSpec((12, 3), 36, kind="series")
    model = models.build(TASK, "lstm-autoencoder", spec, {"units": 8, "depth": 2})
    assert model.get_layer("latent").output.shape == (None, 8)
    x = np.random.default_rng(0).normal(size=(4, 12, 3)).astype(np.float32)
    code = keras.Model(model.input, model.get_layer("latent").output)(x)
    at = model.layers.index(model.get_layer("latent"))
    again = code
    for layer in model.layers[at + 1 :]:
        again = layer(again)
    assert np.allclose(again, model(x), atol=1e-6)
    with pytest.raises(SpecError, match="--time"):
        models.build(TASK, "lstm-autoencoder", DetectorSpec((12,), 12))


def by_hand(y: np.ndarray, score: np.ndarray, window: int) -> float:
    """VUS-PR the slow way, threshold by threshold."""
    areas = []
    for length in np.unique(np.linspace(0, 2 * window, 17).round().astype(int)):
        label = np.zeros(len(y))
        for i in range(len(y)):
            d = np.abs(np.flatnonzero(y) - i).min()
            label[i] = 1.0 if d == 0 else (1 - d / length) ** 0.5 if 2 * d <= length else 0.0
        spans, area, last = runs(label > 0), 0.0, 0.0
        for limit in np.unique(score)[::-1]:
            raised = score >= limit
            recall = min(1.0, label[raised].sum() / ((y.sum() + label.sum()) / 2))
            found = np.mean([raised[b:e].any() for b, e in spans])
            area += (recall * found - last) * label[raised].sum() / raised.sum()
            last = recall * found
        areas.append(area)
    return float(np.mean(areas))


def test_vus_pr_is_that_of_the_definition() -> None:
    y = np.array([0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0])
    generator = np.random.default_rng(0)
    for score in (generator.random(12), generator.integers(0, 3, 12) / 2.0, np.zeros(12)):
        for window in (1, 2, 9):
            assert vus_pr(y, score, window) == pytest.approx(by_hand(y, score, window))
    # Without a buffer, and with one span, it is average precision times nothing else.
    assert vus_pr(np.array([0, 1, 0, 0]), np.array([0.0, 1, 0, 0]), 0) == pytest.approx(1.0)
    # Two of two rows found, then a miss: recall 1/2 at precision 1, 1 at 2/3.
    assert vus_pr(np.array([1, 1, 0]), np.array([3.0, 1, 2]), 0) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert np.isnan(vus_pr(np.zeros(5), np.arange(5.0), 2))


def test_vus_pr_of_perfect_and_of_random_scores() -> None:
    import time

    y = np.zeros(5000, int)
    for begin in (700, 2100, 3900):
        y[begin : begin + 150] = 1
    generator = np.random.default_rng(0)
    began = time.perf_counter()
    # What is nearer to an anomaly is stranger: the buffer is found after the span.
    near = -np.min([np.abs(np.arange(5000) - i) for i in np.flatnonzero(y)], 0)
    assert vus_pr(y, near.astype(float), 16) > 0.97
    assert vus_pr(y, y.astype(float), 16) > 0.9
    chance = np.mean([vus_pr(y, generator.random(5000), 16) for _ in range(5)])
    assert abs(chance - y.mean()) < 0.02
    assert vus_pr(y, -near.astype(float) * -1.0, 16) > vus_pr(
        y, near + 40 * generator.random(5000), 16
    )
    assert vus_pr(y, -near.astype(float), 16) < 1.1 * y.mean()
    assert time.perf_counter() - began < 10


def test_events_count_once_and_false_alarms_by_runs() -> None:
    y = np.zeros(60, int)
    y[10:20] = y[40:45] = 1
    raised = np.zeros(60, bool)
    raised[[18, 19, 20, 21]] = True  # one hit, and what spills over its end
    raised[[30, 31, 33]] = True  # two false alarms
    found = events(y, raised, 3)
    assert found == pytest.approx(
        {"event_precision": 1 / 3, "event_recall": 1 / 2, "event_f1": 2 / 5}
    )
    # One lucky row does not make the ten rows of an event right, nor is silence precise.
    silent = events(y, np.zeros(60, bool), 3)
    assert silent == {"event_precision": 0.0, "event_recall": 0.0, "event_f1": 0.0}
    always = events(y, np.ones(60, bool), 3)
    assert always["event_recall"] == 1 and always["event_precision"] == pytest.approx(2 / 5)
    assert events(np.zeros(60), raised, 3) == {}


def test_the_moving_z_score_looks_back_alone() -> None:
    values = np.random.default_rng(0).normal(size=(50, 1))
    z = moving_z(values, 8)
    past = values[22:30, 0]
    assert z[30] == pytest.approx(abs(values[30, 0] - past.mean()) / past.std())
    changed = values.copy()
    changed[31:] += 100
    assert np.allclose(moving_z(changed, 8)[:31], z[:31])


@pytest.mark.usefixtures("unchecked")
def test_a_series_is_trained_on_scored_and_exported(
    dlkit: Callable[..., Done], waves: Path
) -> None:
    import tensorflow as tf

    done = dlkit(
        TASK, "train", "--data", waves, "--window", 16, "--label", "state", "--model",
        "forecaster", "-p", "units=16", "--epochs", 6, "--learning-rate", "3e-3", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    result = done.json
    report = json.loads(Path(result["report"]).read_text())
    assert report["kind"] == "series" and report["splits"]["test"] == 185
    names = {"vus_pr", "event_precision", "event_recall", "event_f1", "auroc"}
    assert names <= set(result["metrics"]) and names <= set(result["intervals"])
    assert {"windowed_z_score", "subsequence_pca"} <= set(report["baselines"])
    assert result["metrics"]["vus_pr"] > 0.4 and result["metrics"]["event_recall"] == 1.0
    assert "vus_pr" in report["components"]["reconstruction"] and "VUS-PR" in report["verdict"]
    low, high = result["intervals"]["vus_pr"]
    assert 0 <= low <= result["metrics"]["vus_pr"] + 0.2 and high <= 1.0
    assert (Path(result["report"]).parent / "series.png").stat().st_size > 10_000

    served = tf.saved_model.load(str(Path(result["export"]) / "1"))
    window = pd.read_csv(waves)[["c0", "c1"]].to_numpy(np.float32)[[range(100, 116)] * 2].copy()
    window[1, 9, 1] += 40
    answer = served.signatures["serving_default"](window=tf.constant(window))
    assert answer["feature_scores"].shape == (2, 16, 2)
    assert list(answer["is_anomaly"].numpy()) == [False, True]
    where = np.unravel_index(np.argmax(answer["feature_scores"][1]), (16, 2))
    assert where[1] == 1 and 9 <= where[0] <= 12

    pd.read_csv(waves).head(5).to_csv("five.csv", index=False)
    done = dlkit(TASK, "predict", "latest", "five.csv", "--output", "out.csv")
    assert done.code == 2
    assert done.err == ("dlkit: error: FILE five.csv: 5 rows; the model reads windows of 16\n")
    assert not Path("out.csv").exists()


def test_series_options_do_not_go_with_images_and_names_are_told(
    dlkit: Callable[..., Done], waves: Path
) -> None:
    done = dlkit(TASK, "train", "--data", "digits", "--normal-class", "0", "--window", "8")
    assert done.code == 2 and "--window is for tables and series" in done.err
    done = dlkit(TASK, "train", "--data", "sunspot", "--window", "8")
    assert done.code == 2 and "did you mean 'sunspots'?" in done.err
    done = dlkit(TASK, "train", "--data", waves, "--window", "8", "--label", "stat")
    assert done.code == 2 and "did you mean 'state'?" in done.err
