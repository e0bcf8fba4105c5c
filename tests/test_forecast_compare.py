"""Several forecasters in one command: children, seeds, order, resume, words."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import Done, exports_unchecked, runner
from PIL import Image

from dlkit import tracking
from dlkit.errors import OptionError
from dlkit.evaluation import forecast_paired, forecast_plots, plots
from pipelines.cli import main
from pipelines.forecasting.comparison import Comparison, complete, configs
from pipelines.forecasting.ranking import remarks, verdict

Run = Callable[..., Done]
TASK = "forecasting"
COMPARE = (TASK, "compare")
SHORT = ("--lookback", 14, "--horizon", 7, "--epochs", 3, "--batch-size", 16)


@pytest.fixture(scope="module")
def sales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sales of 260 days that follow the week, with noise."""
    generator, t = np.random.default_rng(0), np.arange(260)
    values = 20 + 5 * np.sin(2 * np.pi * t / 7) + generator.normal(size=260)
    day = pd.date_range("2024-01-01", periods=260, freq="D")
    path = tmp_path_factory.mktemp("sales") / "sales.csv"
    pd.DataFrame({"day": day, "sales": values}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module", autouse=True)
def children_are_not_drawn() -> Iterator[None]:
    """What takes seconds for each model, and has tests of its own."""
    with exports_unchecked(), pytest.MonkeyPatch.context() as patch:
        for picture in ("by_step", "origins", "residuals"):
            patch.setattr(forecast_plots, picture, lambda *_: None)
        patch.setattr(plots, "curves", lambda *_: None)
        yield


def run_for_json(words: tuple[Any, ...]) -> tuple[int, dict[str, Any]]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([str(word) for word in words])
    return code, json.loads(out.getvalue())


@pytest.fixture(scope="module")
def compared(
    tmp_path_factory: pytest.TempPathFactory, sales: Path, empty_store: Path
) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """A folder where a comparison was stopped in its last training and gone on with.

    Two models of two seeds, and one that does not fit the windows. With it what each of the two
    commands printed.
    """
    folder = tmp_path_factory.mktemp("compared")
    shutil.copytree(empty_store, folder / "mlruns")
    log = tracking.Run.metrics

    def metrics(self: tracking.Run, step: int, values: dict[str, float]) -> None:
        log(self, step, values)
        run = tracking.client().get_run(self.id).data
        if (run.tags["dlkit.model"], run.params.get("seed"), step) == ("mlp", "1", 2):
            signal.raise_signal(signal.SIGINT)

    before = Path.cwd()
    os.chdir(folder)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tracking.Run, "metrics", metrics)
            code, stopped = run_for_json(
                (*COMPARE, "--models", "patchtst,nlinear,mlp", "--seeds", "0,1", "--data", sales,
                 *SHORT, "-p", "mlp.units=8", "-p", "patch_length=99", "--json")
            )  # fmt: skip
        assert code == 130
        # By the start of a child's id: it means the comparison.
        child = next(row for row in stopped["models"] if row["model"] == "mlp")["run"]
        code, ended = run_for_json((*COMPARE, "--resume", child[:12], "--json"))
    finally:
        os.chdir(before)
    assert code == 0
    return folder, stopped, ended


@pytest.fixture
def result(compared: tuple[Path, Any, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Work in the folder of the comparison; gives what it printed in the end."""
    monkeypatch.chdir(compared[0])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return compared[2]


@pytest.fixture
def there(result: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line beside the comparison."""
    return runner(capfd)


def row(result: dict[str, Any], model: str) -> dict[str, Any]:
    return next(each for each in result["models"] if each["model"] == model)


@pytest.mark.slow
def test_models_are_chosen_on_validation_and_held_against_baselines_and_each_other(
    result: dict[str, Any],
) -> None:
    assert (result["status"], result["split"], result["seeds"]) == ("FINISHED", "test", [0, 1])
    assert [each["status"] for each in result["models"]] == ["FINISHED", "FINISHED", "FAILED"]
    first, second, failed = result["models"]
    assert result["best"] == first["model"]
    assert first["validation"]["mse"] <= second["validation"]["mse"]
    assert "99" in failed["reason"]
    assert [each["status"] for each in failed["seeds"]] == ["FAILED", "FAILED"]
    store = tracking.client()
    bar = min(each["metrics"]["mse"] for each in result["baselines"].values())
    for model in (first, second):
        seeds = model["seeds"]
        assert [each["seed"] for each in seeds] == [0, 1]
        for each in seeds:
            child = store.get_run(each["run"])
            assert child.data.tags["mlflow.parentRunId"] == result["run"]
            assert child.data.params["seed"] == str(each["seed"])
            losses = {m.step: m.value for m in store.get_metric_history(each["run"], "val_loss")}
            # The export's forecasts of the validation windows are those of the best epoch.
            assert each["validation_mse"] == pytest.approx(losses[each["best_epoch"]], rel=1e-4)
            assert losses[each["best_epoch"]] == min(losses.values())
            assert each["mse"] == child.data.metrics["test_mse"]
        for name, mean in (("validation_mse", model["validation"]), ("mse", model["metrics"])):
            values = [each[name] for each in seeds]
            assert mean["mse"] == pytest.approx(fmean(values))
            assert model["spread"][name] == pytest.approx(stdev(values))
        best = min(seeds, key=lambda each: each["validation_mse"])
        assert model["run"] == best["run"]
        low, high = model["intervals"]["mse"]
        assert low < model["metrics"]["mse"] < high
        assert len(model["by_step"]) == 7
        assert fmean(model["by_step"]) == pytest.approx(model["metrics"]["mse"], rel=1e-4)
        moved = model["against_baseline"]["difference"]
        assert moved == pytest.approx(model["metrics"]["mse"] - bar, rel=1e-3)
        assert model["beats_baselines"] == (moved < 0)
        assert model["verdict"].startswith("beats" if moved < 0 else "does NOT beat")
    assert "against_best" not in first
    moved = second["metrics"]["mse"] - first["metrics"]["mse"]
    assert second["against_best"]["difference"] == pytest.approx(moved, rel=1e-3)
    low, high = second["against_best"]["interval"]
    assert low < moved < high
    assert result["block_length"] >= 7
    # The baselines are the models' own reports'.
    report = json.loads(
        tracking.Run(first["run"], TASK, store).artifact("report.json").read_text(encoding="utf-8")
    )
    assert set(report["baselines"]) == set(result["baselines"])
    for name, each in report["baselines"].items():
        assert result["baselines"][name]["metrics"] == each["metrics"]
        assert result["baselines"][name]["by_step"] == report["by_step"][name]


@pytest.mark.slow
def test_what_finished_before_an_interrupt_is_told_and_not_trained_again(
    compared: tuple[Path, dict[str, Any], dict[str, Any]], result: dict[str, Any]
) -> None:
    stopped = compared[1]
    assert stopped["status"] == "KILLED"
    states = {each["model"]: [s["status"] for s in each["seeds"]] for each in stopped["models"]}
    assert states == {
        "nlinear": ["FINISHED", "FINISHED"],
        "mlp": ["FINISHED", "KILLED"],
        "patchtst": ["FAILED", "FAILED"],
    }
    assert "mlp: 1 of 2 seeds" in stopped["notes"]
    assert result["run"] == stopped["run"]
    assert row(result, "nlinear")["seeds"] == row(stopped, "nlinear")["seeds"]
    assert row(result, "mlp")["seeds"][0] == row(stopped, "mlp")["seeds"][0]
    assert row(result, "mlp")["seeds"][1]["run"] == row(stopped, "mlp")["seeds"][1]["run"]
    store = tracking.client()
    ended = store.get_run(result["run"]).info
    assert ended.status == "FINISHED"
    children = {run.info.run_id: run.info for run in tracking.children(result["run"])}
    assert len(children) == 4
    again = row(stopped, "mlp")["seeds"][1]["run"]
    kept = [info.end_time for run, info in children.items() if run != again]
    # Each ended before the one that was stopped began.
    assert max(kept) <= children[again].start_time
    steps = [m.step for m in store.get_metric_history(again, "val_loss")]
    assert steps == [1, 2, 3]


@pytest.mark.slow
def test_the_parent_holds_the_table_and_the_picture_and_stands_for_its_best_child(
    result: dict[str, Any], there: Run
) -> None:
    with open(result["table"], encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["model"] for line in lines] == [each["model"] for each in result["models"]]
    assert float(lines[1]["mse"]) == result["models"][1]["metrics"]["mse"]
    assert lines[1]["seeds_finished"] == "2"
    assert json.loads(Path(result["report"]).read_text())["models"] == result["models"]
    with Image.open(result["picture"]) as picture:
        drawn = np.asarray(picture.convert("RGB"))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 50
    best = result["models"][0]
    shown = there("runs", "show", result["run"], "--json").json
    assert {"compare.json", "compare.csv", "compare.png", "config.json"} <= set(shown["files"])
    assert shown["metrics"]["val_mse"] == best["validation"]["mse"]
    assert shown["metrics"]["test_mse"] == best["metrics"]["mse"]
    for ref in ("latest", result["run"]):
        assert tracking.find_run(ref, TASK).info.run_id == best["run"]
    assert tracking.find_run("latest", TASK, finished=False).info.run_id == result["run"]
    listed = [json.loads(line) for line in there("runs", "list", "--json").out.splitlines()]
    assert [each.get("parent") for each in listed] == [None] + [result["run"]] * 4
    done = there(TASK, "train", "--resume", result["run"])
    assert done.code == 2
    assert f"compare --resume {result['run'][:8]}" in done.err


@pytest.mark.slow
def test_a_finished_comparison_is_shown_again_without_training(
    result: dict[str, Any], there: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("dlkit.training.fit", never)
    done = there(*COMPARE, "--resume", result["run"])
    assert done.code == 0, done.err
    assert "nlinear, seed 1: kept" in done.err
    lines = done.out.splitlines()
    assert "ranked by validation mse" in lines[0]
    places = {line.split()[1]: line for line in lines if line[:2] in ("1 ", "2 ")}
    assert set(places) == {"nlinear", "mlp"}
    for name, line in places.items():
        assert f"{row(result, name)['metrics']['mse']:.4f} ±" in line
        assert row(result, name)["verdict"] in line
    assert any(line.split()[:3] == ["closed", "form", "linear"] for line in lines)
    assert any("patchtst, seed 0: " in line for line in lines)
    done = there(*COMPARE, "--resume", result["run"], "--seeds", "3")
    assert done.code == 2
    assert "--seeds" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "gru,nlinar"], ["--models", "did you mean 'nlinear'?"]),
        (["--models", "gru, gru"], ["'gru' is there twice"]),
        (["--models", ""], ["--models: got '', an empty list"]),
        (["-p", "nlinear.unitz=3", "--models", "nlinear"], ["-p", "unitz"]),
        (["-p", "unist=3"], ["none of the models", "did you mean 'units'?"]),
        (["--seeds", "0,1,0"], ["--seeds: got '0,1,0'", "such as 0,1,2"]),
        (["--seeds", ""], ["--seeds: got ''"]),
        (["--seeds", "-1"], ["--seeds: got '-1'"]),
        (["--seeds", "0,one"], ["--seeds: got '0,one'"]),
        (["--data", "sunspot"], ["did you mean 'sunspots'?"]),
        (["--quantiles", "0.5"], ["two or more different numbers"]),
        (["--time-limit", "soon"], ["such as 90s, 10m or 1h30m"]),
        (["--model", "gru"], ["--model"]),
    ],
    ids=lambda value: " ".join(value)[-40:],
)
def test_mistakes_are_told_before_the_first_model_trains(
    dlkit: Run, arguments: list[str], words: list[str]
) -> None:
    done = dlkit(*COMPARE, *arguments)
    assert (done.code, done.out) == (2, ""), done
    for word in words:
        assert word in done.err, done.err
    assert done.err.count("\n") == 1
    assert not list(Path("mlruns").glob("checkpoints/*"))


def test_a_typo_and_wrong_data_are_told_before_tensorflow_loads(
    sales: Path, tmp_path: Path
) -> None:
    code = (
        "import sys\nfrom pipelines.cli import main\ncode = main(sys.argv[1:])\n"
        "sys.exit('tensorflow' in sys.modules or code)"
    )
    for words, said in (
        (["--models", "gru,nlinar"], "did you mean 'nlinear'?"),
        (["--models", "nlinear,gru", "--horizon", "200"], "need"),
    ):
        command = [sys.executable, "-c", code, *COMPARE, "--data", str(sales), *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_each_seed_trains_every_model_before_the_next() -> None:
    config = complete(Comparison(models="gru,nlinear", seeds="3,1", params={"gru.units": 4}))
    plans, _ = configs(config)
    assert list(plans) == ["gru, seed 3", "nlinear, seed 3", "gru, seed 1", "nlinear, seed 1"]
    assert [(p.model, p.seed) for p in plans.values()] == [
        ("gru", 3), ("nlinear", 3), ("gru", 1), ("nlinear", 1),
    ]  # fmt: skip
    assert plans["gru, seed 1"].params == {"units": 4}
    assert {plan.time_limit for plan in plans.values()} == {30.0}
    assert complete(Comparison(epochs=3)).time_limit is None
    assert {"gru", "nlinear", "patchtst"} <= set(complete(Comparison()).models.split(","))
    with pytest.raises(OptionError, match="--seeds"):
        configs(complete(Comparison(seeds="0.5")))


def test_intervals_of_paired_differences() -> None:
    generator = np.random.default_rng(0)
    first = generator.normal(size=400) ** 2
    same = forecast_paired.difference(first, first + 0.25, 20)
    assert same["difference"] == pytest.approx(0.25)
    assert same["interval"] == pytest.approx([0.25, 0.25])
    # By the normal approximation of a mean of 400 independent differences.
    off = generator.normal(0.1, 1, 400)
    found = forecast_paired.difference(first, first + off, 1)
    low, high = found["interval"]
    assert (high - low) / 2 == pytest.approx(1.96 * off.std() / 20, rel=0.15)
    # Windows that overlap are alike: single ones drawn would feign ten times the information.
    alike = np.repeat(off[:40], 10)
    spans = [forecast_paired.difference(first, first + alike, n)["interval"] for n in (1, 40)]
    narrow, wide = (high - low for low, high in spans)
    assert wide > 2 * narrow


def test_words_for_what_is_sure_and_what_is_not() -> None:
    def model(name: str, span: list[float] | None, beats: bool) -> dict[str, Any]:
        against = {"against_best": {"interval": span}} if span else {}
        return {
            "model": name, "status": "FINISHED", "beats_baselines": beats, **against,
            "seeds": [{"status": "FINISHED"}], "against_baseline": {"name": "closed_form_linear"},
        }  # fmt: skip

    said = remarks(
        [model("a", None, False), model("b", [-1, 1], False), model("c", [-2, -1], False)],
        "validation",
        1,
    )
    assert "between a and b the validation windows do not decide" in said
    assert any("validation chose a, but" in s and "c is better by more" in s for s in said)
    assert "no model beats closed form linear: use it instead" in said
    assert any("there is no test span" in s for s in said)
    assert any("--seeds 0,1,2" in s for s in said)
    assert remarks([model("a", None, True)], "test", 1) == []
    for difference, span, words in (
        (-1.0, [-2, -0.5], "beats drift"),
        (-1.0, [-2, 0.5], "beats drift, may be chance"),
        (1.0, [-2, 0.5], "does NOT beat drift"),
    ):
        against = {"name": "drift", "difference": difference, "interval": span}
        assert verdict(against) == words
