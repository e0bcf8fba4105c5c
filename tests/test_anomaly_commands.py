"""Anomaly detection after training: evaluate, predict, encode, reconstruct, on a made table."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import Done, charts_undrawn, exports_unchecked, runner

from dlkit.data import pieces
from pipelines.cli import main

TASK = "anomaly-detection"
Runs = Callable[..., Done]
PLANTED = 300


def made(n: int, seed: int) -> pd.DataFrame:
    """Return rows that follow two hidden numbers; the last eighth, of kind "bad", does not."""
    generator = np.random.default_rng(seed)
    z = generator.normal(size=(n, 2))
    noise = 0.1 * generator.normal(size=(n, 4))
    frame = pd.DataFrame(
        {
            "flow": z[:, 0] + noise[:, 0],
            "heat": 1000 + 100 * (z[:, 0] + noise[:, 1]),
            "load": z[:, 1] + noise[:, 2],
            "wear": z.sum(1) + noise[:, 3],
            "gear / state": np.where(z[:, 1] > 0, "up", "down"),
            "Size": generator.choice(["S", "M"], n),
            "kind": "ok",
        }
    )
    bad = n // 8
    frame.loc[n - bad :, "kind"] = "bad"
    frame.loc[n - bad :, "flow"] += 8.0
    frame.loc[::23, "flow"] = np.nan
    frame.loc[::31, "Size"] = None
    return frame


@pytest.fixture(scope="module")
def at(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> tuple[Path, dict[str, Any], Path]:
    """A folder with a run on `rows.csv`, what its training printed, and its export in `out/`."""
    folder = tmp_path_factory.mktemp("detector")
    shutil.copytree(empty_store, folder / "mlruns")
    made(800, 0).to_csv(folder / "rows.csv", index=False)
    before, out = Path.cwd(), io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), exports_unchecked(), charts_undrawn():
            arguments = [TASK, "train", "--data", "rows.csv", "--label", "kind", "--normal", "ok"]
            assert main([*arguments, "--epochs", "8", "--json"]) == 0
            found = json.loads(out.getvalue())
            assert main([TASK, "export", found["run"][:8], "--out", "out"]) == 0
    finally:
        os.chdir(before)
    return folder, found, folder / "out"


@pytest.fixture
def run(
    at: tuple[Path, dict[str, Any], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Runs:
    """Run a command of the task in an empty folder; its first argument is followed by the export."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(at[0] / "rows.csv", tmp_path)
    call = runner(capfd)
    return lambda name, *arguments: call(TASK, name, at[2], *arguments)


def endpoint(at: tuple[Path, dict[str, Any], Path], frame: pd.DataFrame, name: str) -> dict:
    """Ask a served model, as `dlkit serve` loads it."""
    from dlkit.serving.model import load_model

    signature = load_model("detector", at[2]).signatures[name]
    numbers = frame[["flow", "heat", "load", "wear"]].to_numpy(np.float32)
    texts = {
        key: np.array([v.encode() for v in frame[column].fillna("")], object)
        for key, column in (("gear___state", "gear / state"), ("Size", "Size"))
    }
    return signature.run({"rows": numbers, **texts})


def test_predict_gives_the_same_rows_with_the_served_answers(
    run: Runs, at: tuple[Path, dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "ROWS", 170)  # several pieces, the last of another size
    done = run("predict", "rows.csv", "--output", "out.csv", "--plot", "worst.png", "--top", "7")
    assert done.code == 0, done.err
    before, after = pd.read_csv("rows.csv"), pd.read_csv("out.csv")
    pd.testing.assert_frame_equal(after[before.columns], before)
    served = endpoint(at, before, "serving_default")
    np.testing.assert_allclose(after["score"], served["score"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after["p_value"], served["p_value"], rtol=1e-4, atol=1e-5)
    assert (after["is_anomaly"] == served["is_anomaly"]).all()
    assert after["is_anomaly"][before["kind"] == "bad"].mean() > 0.9
    assert after["is_anomaly"][before["kind"] == "ok"].mean() < 0.1
    assert f"{int(after['is_anomaly'].sum())} anomalies" in done.out
    assert Path("worst.png").stat().st_size > 5000

    lines = run("predict", "rows.csv", "--json").out.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["score"] for row in rows] == pytest.approx(after["score"].tolist(), rel=1e-5)
    assert rows[0]["flow"] is None and rows[1]["heat"] == before["heat"][1]
    shares = served["feature_scores"][1] / served["feature_scores"][1].sum()
    assert rows[1]["reasons"][0]["share"] == pytest.approx(shares.max(), abs=1e-3)
    assert len(rows[1]["reasons"]) == 3

    table = run("predict", "rows.csv", "--top", "4").out.splitlines()
    first = int(after["score"].argmax()) + 1
    assert table[1].split()[0] == str(first)
    assert len(table) == 4 + 2


def test_a_planted_value_ranks_first_among_the_reasons(run: Runs) -> None:
    frame = made(PLANTED, 5)
    frame = frame[frame["kind"] == "ok"].reset_index(drop=True).drop(columns="kind")
    columns = ["flow", "heat", "load", "wear"]
    planted = np.random.default_rng(1).integers(0, 4, len(frame))
    for i, column in enumerate(planted):
        sign = 1 if i % 2 else -1
        frame.loc[i, columns[column]] = (0 if column != 1 else 1000) + sign * 12 * (
            100 if column == 1 else 1
        )
    frame.to_csv("planted.csv", index=False)
    assert run("predict", "planted.csv", "--output", "out.jsonl").code == 0
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    right = [
        row["reasons"][0]["column"] == columns[column]
        for row, column in zip(rows, planted, strict=True)
    ]
    assert np.mean(right) > 0.9


def test_every_kind_of_table_gets_the_same_answers(run: Runs) -> None:
    frame = pd.read_csv("rows.csv").head(90)
    frame.to_csv("a.csv", index=False)
    frame.to_parquet("a.parquet")
    frame.to_json("a.jsonl", orient="records", lines=True, double_precision=15)
    # Other order, no label, a column more.
    frame[frame.columns[::-1]].drop(columns="kind").assign(more="x").to_csv("b.csv", index=False)
    found = {}
    for name in ("a.csv", "a.parquet", "a.jsonl", "b.csv"):
        done = run("predict", name, "--output", "out.csv")
        assert done.code == 0, done.err
        assert not done.err
        found[name] = pd.read_csv("out.csv")
    for name, each in found.items():
        np.testing.assert_allclose(each["score"], found["a.csv"]["score"], rtol=1e-5, err_msg=name)
    assert list(found["b.csv"].columns[:-4]) == [
        "Size", "gear / state", "wear", "load", "heat", "flow", "more",
    ]  # fmt: skip
    assert run("predict", "a.csv", "b.csv", "--output", "both.csv").code == 0
    both = pd.read_csv("both.csv")
    assert len(both) == 180
    assert list(both["score"][:90]) == list(both["score"][90:])


def test_what_is_wrong_with_rows_is_told_by_row(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "ROWS", 50)
    frame = pd.read_csv("rows.csv").head(120)

    def refused(changed: pd.DataFrame, *words: str) -> None:
        changed.to_csv("bad.csv", index=False)
        done = run("predict", "bad.csv", "--output", "out.csv")
        assert done.code == 2
        lines = done.err.strip().splitlines()
        assert len(lines) == 1
        for word in words:
            assert word in lines[0]
        assert not list(Path().glob("out.csv*"))

    refused(frame.drop(columns=["heat", "Size"]), "no column heat, Size")
    refused(frame.rename(columns={"load": "laod"}), "no column load", "did you mean 'laod'?")
    text = frame.astype({"load": object})
    text.loc[77, "load"] = "high"
    refused(text, "'load' is a column of numbers", "row 78 holds 'high'")
    infinite = frame.copy()
    infinite.loc[101, "wear"] = np.inf
    refused(infinite, "'wear' is not finite in 1 row, the first is row 102")
    refused(frame.head(0), "has no rows")
    unknown = frame.copy()
    unknown.loc[40:69, "gear / state"] = "stuck"
    unknown.to_csv("unknown.csv", index=False)
    done = run("predict", "unknown.csv", "--output", "out.csv")
    assert done.code == 0
    assert (
        "column 'gear / state': 30 rows with names that training did not know (stuck)" in done.err
    )
    rows = pd.read_csv("out.csv")
    assert rows["reasons"][40:70].str.startswith("gear / state").mean() > 0.9


def test_the_farthest_numbers_are_the_strangest(run: Runs) -> None:
    frame = pd.read_csv("rows.csv").head(60)
    for i, value in enumerate((1e20, -9.97e36, 3e38)):
        frame.loc[10 + i, "load"] = value
    frame.to_csv("far.csv", index=False)
    done = run("predict", "far.csv", "--output", "out.csv")
    assert done.code == 0, done.err
    found = pd.read_csv("out.csv")
    assert np.isfinite(found["score"]).all()
    assert found["is_anomaly"][10:13].all() and not found["is_anomaly"].all()
    assert found["score"][10:13].min() > found["score"].drop([10, 11, 12]).max()
    assert found["reasons"][10:13].str.startswith("load 1.00; ").all()


def test_numbers_that_training_never_lacked_are_told(
    run: Runs, at: tuple[Path, dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "ROWS", 50)
    frame = pd.read_csv("rows.csv").head(120)
    frame.loc[[4, 70, 71], "load"] = np.nan
    frame.loc[9, ["flow", "heat", "wear"]] = np.nan
    frame.to_csv("holes.csv", index=False)
    done = run("predict", "holes.csv", "--output", "out.csv")
    assert done.code == 0, done.err
    assert "3 rows lack 'load', which training never lacked; taken as typical" in done.err
    assert "1 row lacks 'heat'" in done.err and "'flow'" not in done.err
    assert "3 rows lack 'load'" in run("evaluate", "--data", "holes.csv").out
    # The manifest of an older run does not say what training lacked.
    older = json.loads((at[2] / "1/assets.extra/dlkit.json").read_text())
    del older["gaps"]
    notes: list[str] = []
    assert len(list(pieces.pieces(["holes.csv"], older, notes)())) == 3
    assert not notes


def test_cells_and_columns_come_out_as_they_went_in(run: Runs) -> None:
    frame = pd.read_csv("rows.csv").head(40).astype({"load": object})
    frame["note"] = ["NA", "null", "None", ""] * 10
    frame["score"], frame["anomaly_score"] = range(40), range(100, 140)
    frame.loc[5, "load"], frame.loc[6, "Size"] = "N/A", "NA"
    frame.to_csv("words.csv", index=False, na_rep="")
    assert run("predict", "words.csv", "--output", "out.csv").code == 0
    before, after = (pd.read_csv(f, dtype=str, keep_default_na=False)
                     for f in ("words.csv", "out.csv"))  # fmt: skip
    pd.testing.assert_frame_equal(after[before.columns], before)
    assert after.columns[-4] == "anomaly_anomaly_score"
    done = run("predict", "words.csv", "--json")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert rows[5]["load"] is None and rows[6]["Size"] is None and rows[4]["note"] == "NA"
    assert "names that training did not know" not in done.err
    # Lists where training knew names are names that it did not know.
    lines = pd.read_csv("rows.csv").head(3).assign(Size=[["S"], ["M"], "S"])
    lines.to_json("lists.jsonl", orient="records", lines=True)
    done = run("predict", "lists.jsonl", "--json")
    assert done.code == 0
    assert "column 'Size': 2 rows with names that training did not know" in done.err


def test_names_that_cannot_be(run: Runs, at: tuple[Path, dict[str, Any], Path]) -> None:
    for arguments, word in (
        (["predict", "none.csv"], "FILE: no file none.csv"),
        (["predict", "rows.csv", "--output", "x.txt"], "--output: got 'x.txt'"),
        (["predict", "rows.csv", "--output", "no/x.csv"], "in a folder there is"),
        (["predict", "rows.csv", "--plot", "x.jpg"], "--plot: got 'x.jpg'"),
        (["encode", "rows.csv", "--output", "x.jsonl"], ".csv or .npy"),
        (["reconstruct", "rows.csv", "--output", "folder"], ".csv or .jsonl"),
        (["evaluate"], "without a test split; give --data"),
        (["evaluate", "--normal", "ok"], "give --data"),
    ):
        done = run(*arguments)
        assert done.code == 2, arguments
        assert word in done.err
        assert len(done.err.strip().splitlines()) == 1


def test_columns_of_categories_have_no_other_format(
    at: tuple[Path, dict[str, Any], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tf2onnx", reason="the extra `onnx` is not installed")
    monkeypatch.chdir(at[0])
    arguments = ["--out", "other", "--format", "onnx"]
    done = runner(capfd)(TASK, "export", at[1]["run"], *arguments)
    assert done.code == 2
    assert (
        "categories come as strings, which neither runtime has; accepted: saved-model" in done.err
    )
    assert "Size" in done.err
    assert not Path("other").exists()


def test_a_killed_prediction_leaves_what_was_there(
    run: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted = importlib.import_module("pipelines.anomaly_detection.predict").Predicted
    Path("out.csv").write_text("old")
    before = predicted.frames

    def killed(self: Any, as_json: bool) -> Any:
        yield next(before(self, as_json))
        assert Path("out.csv.tmp").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(predicted, "frames", killed)
    assert run("predict", "rows.csv", "--output", "out.csv").code == 130
    assert Path("out.csv").read_text() == "old"
    assert not Path("out.csv.tmp").exists()


def test_encode_writes_the_served_codes(
    run: Runs, at: tuple[Path, dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "ROWS", 170)
    done = run("encode", "rows.csv", "--output", "codes.npy", "--plot", "codes.png")
    assert done.code == 0, done.err
    codes = np.load("codes.npy", allow_pickle=False)
    served = endpoint(at, pd.read_csv("rows.csv"), "encode")["code"]
    np.testing.assert_allclose(codes, served, rtol=1e-4, atol=1e-4)
    assert Path("codes.png").stat().st_size > 5000
    assert run("encode", "rows.csv", "--output", "codes.csv").code == 0
    table = pd.read_csv("codes.csv")
    assert table.columns[0] == "code_1"
    np.testing.assert_allclose(table.to_numpy(), codes, rtol=1e-4, atol=1e-4)


def test_reconstruct_restores_rows_in_their_units(run: Runs) -> None:
    assert run("reconstruct", "rows.csv", "--output", "restored.csv").code == 0
    before, after = pd.read_csv("rows.csv"), pd.read_csv("restored.csv")
    assert list(after.columns) == list(before.columns)
    assert (after["kind"] == before["kind"]).all()
    normal = before["kind"] == "ok"
    for name in ("heat", "load", "wear"):
        off = (after[name] - before[name])[normal].abs()
        assert off.median() < 0.3 * before[name][normal].std(), name
    assert (after["gear / state"] == before["gear / state"])[normal].mean() > 0.9
    assert set(after["Size"]) <= {"S", "M"}
    assert after["flow"].notna().all()


def test_evaluated_again_and_on_other_rows(
    run: Runs,
    at: tuple[Path, dict[str, Any], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    fresh = made(600, 9)
    fresh.to_csv("fresh.csv", index=False)
    shifted = fresh[fresh["kind"] == "ok"].copy()
    shifted["load"] += 3.0
    known = pd.read_csv("rows.csv").head(40)
    both = pd.concat([shifted, known]).drop(columns="kind")
    both.to_csv(at[0] / "shifted.csv", index=False)
    fresh.to_csv(at[0] / "fresh.csv", index=False)
    alone = run("evaluate", "--data", "fresh.csv", "--json")
    assert alone.code == 0, alone.err
    assert alone.json["baselines"] == {} and "report" not in alone.json
    assert alone.json["metrics"]["auroc"] > 0.95

    monkeypatch.chdir(at[0])
    call, trained = runner(capfd), at[1]
    own = call(TASK, "evaluate", trained["run"][:8], "--json")
    assert own.code == 0, own.err
    for name, value in trained["metrics"].items():
        assert own.json["metrics"][name] == pytest.approx(value, abs=1e-3), name
    assert own.json["baselines"] == trained["baselines"]

    other = call(TASK, "evaluate", "latest", "--data", "fresh.csv", "--json")
    assert other.code == 0, other.err
    assert other.json["metrics"] == pytest.approx(alone.json["metrics"])
    assert set(other.json["baselines"]) == set(trained["baselines"])
    assert json.loads(Path(other.json["report"]).read_text())["rows"] == 600
    drifted = call(TASK, "evaluate", "latest", "--data", "shifted.csv")
    assert drifted.code == 0, drifted.err
    assert "drift: p < 0.05 for" in drifted.out
    assert "no labels: all rows are taken as normal" in drifted.out
    assert "share that raised an alarm" in drifted.out
    assert "rows stand among those that the run was trained or calibrated on" in drifted.out
    assert f"next    dlkit {TASK} predict {trained['run'][:8]} FILE" in drifted.out
    # Rows that were added move the split: those that trained would test.
    own = pd.read_csv("rows.csv")
    pd.concat([own, own.head(9)]).to_csv("rows.csv", index=False)
    changed = call(TASK, "evaluate", "latest")
    assert changed.code == 2
    assert f"the data of run {trained['run']} have changed since it started" in changed.err
    bare = call(TASK, "evaluate", "latest", "--data", "fresh.csv", "--json")
    assert bare.code == 0, bare.err
    assert bare.json["baselines"] == {}
    assert bare.json["metrics"] == pytest.approx(alone.json["metrics"])
    assert "no baselines: the data of run" in Path(bare.json["report"]).read_text()
    own.to_csv("rows.csv", index=False)
    wrong = call(TASK, "evaluate", "latest", "--data", "fresh.csv", "--normal", "okay")
    assert wrong.code == 2
    assert "did you mean 'ok'?" in wrong.err
