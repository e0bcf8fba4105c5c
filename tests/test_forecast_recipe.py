"""Forecasting through its commands: train, predict, export, serve, resume, refuse."""

from __future__ import annotations

import csv
import importlib.util
import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import Done

from dlkit import tracking
from dlkit.evaluation.plots import new_figure, save_figure
from dlkit.models import MODELS

TASK = "forecasting"
Runs = Callable[..., Done]
TINY = ["--lookback", "14", "--horizon", "7", "--epochs", "3", "--batch-size", "16"]
# The formats whose extras are installed.
OTHERS = [
    f"--format={name}"
    for name, module in (("onnx", "tf2onnx"), ("litert", "ai_edge_litert"))
    if importlib.util.find_spec(module)
]
CHILD = """
import sys
from dlkit import training
training.SAVE_EVERY_SECONDS = 0.2
from pipelines.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shops, 200 days each; sales follow the week and a promotion that is known ahead."""
    generator = np.random.default_rng(0)
    parts = []
    for shop, level in (("north", 10.0), ("south", 30.0)):
        t = np.arange(210)
        promotion = (generator.random(210) < 0.3).astype(float)
        sales = level + 3 * np.sin(2 * np.pi * t / 7) + 4 * promotion
        day = pd.date_range("2024-01-01", periods=210, freq="D")
        weather, size = generator.normal(size=210), level / 10
        parts.append(
            pd.DataFrame(
                {"day": day, "shop": shop, "sales": sales, "promotion": promotion}
                | {"weather": weather, "size": size}
            )
        )
    path = tmp_path_factory.mktemp("shops") / "shops.csv"
    pd.concat(parts).to_csv(path, index=False)
    return path


ROLES = ["--target", "sales", "--series-id", "shop", "--future-covariates", "promotion",
         "--past-covariates", "weather", "--static", "size"]  # fmt: skip


def test_a_panel_with_covariates_from_table_to_forecast(
    dlkit: Runs, here: Path, shops: Path
) -> None:
    done = dlkit(TASK, "train", "--data", str(shops), *ROLES, *TINY, "--calendar", "--model", "mlp",
                 "-p", "units=32", "--quantiles", "0.1,0.5,0.9", "--json")  # fmt: skip
    assert done.code == 0, done.err
    found = done.json
    assert {"mse", "mae", "mae_units", "smape", "mase", "coverage_80"} <= set(found["metrics"])
    assert {"repeat_last", "seasonal_naive", "drift", "closed_form_linear"} == set(
        found["baselines"]
    )
    report = json.loads(Path(found["report"]).read_text())
    assert report["windows"] == 2 * (42 - 7 + 1)
    assert (report["lookback"], report["horizon"], len(report["by_step"]["model"])) == (14, 7, 7)
    for name in ("by_step.png", "forecasts.png", "residuals.png", "curves.png"):
        assert Path(found["report"]).with_name(name).stat().st_size > 5000

    # What is to be forecast has its covariates, and no sales.
    ahead = pd.read_csv(shops)
    ahead.loc[pd.to_datetime(ahead["day"]) >= "2024-07-22", "sales"] = np.nan
    ahead.to_csv("ahead.csv", index=False)
    done = dlkit(TASK, "predict", "latest", "ahead.csv", "--output", "f.csv", "--plot", "f.png")
    assert done.code == 0, done.err
    rows = list(csv.DictReader(Path("f.csv").read_text().splitlines()))
    assert len(rows) == 2 * 7
    assert [row["series"] for row in rows[::7]] == ["north", "south"]
    assert rows[0]["stamp"].startswith("2024-07-22")
    for row in rows:
        assert float(row["lower"]) <= float(row["forecast"]) <= float(row["upper"])
    levels = [np.mean([float(r["forecast"]) for r in rows[i : i + 7]]) for i in (0, 7)]
    assert levels[0] < 20 < levels[1]
    assert Path("f.png").stat().st_size > 5000

    done = dlkit(TASK, "predict", "latest", "ahead.csv", "--horizon", "8")
    assert done.code == 2
    assert "beyond it the past covariates (weather) are not known" in done.err
    done = dlkit(TASK, "predict", "latest", str(shops))
    assert done.code == 2
    assert "future covariates (promotion) are needed up to" in done.err
    short = ahead[pd.to_datetime(ahead["day"]) < "2024-07-25"]
    short.to_csv("short.csv", index=False)
    near = dlkit(TASK, "predict", "latest", "short.csv", "--horizon", "3", "--json")
    assert near.code == 0, near.err
    for line, row in zip(near.out.splitlines(), [*rows[:3], *rows[7:10]], strict=True):
        assert json.loads(line)["forecast"] == pytest.approx(float(row["forecast"]), rel=1e-5)

    # The exported graph takes raw rows; a longer lookback than it has is not its business.
    exported = dlkit(TASK, "export", "latest", "--out", "out", *OTHERS, "--json")
    assert exported.code == 0, exported.err
    for row in exported.json.get("formats", ()):
        assert row["metrics"]["mse"] == pytest.approx(found["metrics"]["mse"], rel=1e-4)
    shutil.rmtree(here / "mlruns")
    again = dlkit(TASK, "predict", "out", "ahead.csv", "--json")
    assert again.code == 0, again.err
    first = json.loads(again.out.splitlines()[0])
    assert first["forecast"] == pytest.approx(float(rows[0]["forecast"]), rel=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_evaluated_again_and_fold_by_fold(dlkit: Runs, shops: Path) -> None:
    done = dlkit(TASK, "train", "--data", str(shops), "--target", "sales", "--series-id", "shop",
                 *TINY, "--model", "nlinear", "--json")  # fmt: skip
    assert done.code == 0, done.err
    again = dlkit(TASK, "evaluate", "latest", "--json")
    assert again.code == 0, again.err
    for name, value in done.json["metrics"].items():
        assert again.json["metrics"][name] == pytest.approx(value, rel=1e-4), name
    assert again.json["baselines"] == done.json["baselines"]
    known = dlkit(TASK, "evaluate", "latest", "--split", "30/30/40")
    assert known.code == 0, known.err
    assert "84 of 156 test windows begin no later than what the run was trained" in known.err

    # Another table, in which each value is twice as large: errors in the run's scale are as well.
    other = pd.read_csv(shops)
    other["sales"] *= 2
    other.drop(columns=["promotion", "weather"]).to_csv("double.csv", index=False)
    double = dlkit(
        TASK, "evaluate", "latest", "--data", "double.csv", "--split", "10/10/80", "--json"
    )
    assert double.code == 0, double.err
    naive = "seasonal_naive"
    assert double.json["baselines"][naive]["mae"] > 1.5 * done.json["baselines"][naive]["mae"]
    report = json.loads(Path(double.json["report"]).read_text())
    assert report["windows"] == 2 * (168 - 7 + 1)
    weekly = other.groupby("shop").head(2000).iloc[::7]
    weekly.to_csv("weekly.csv", index=False)
    done = dlkit(TASK, "evaluate", "latest", "--data", "weekly.csv", "--split", "30/30/40")
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1

    whole = dlkit(TASK, "backtest", "latest", "--folds", "3", "--json")
    assert whole.code == 0, whole.err
    found = whole.json
    # Every origin is in one fold; one model for all, so the whole is what evaluate found.
    assert sum(row["windows"] for row in found["folds"]) == 2 * (42 - 7 + 1)
    assert found["metrics"]["mse"] == pytest.approx(again.json["metrics"]["mse"], rel=1e-4)
    for name, values in found["baselines"].items():
        assert values["mse"] == pytest.approx(again.json["baselines"][name]["mse"], rel=1e-6)
    firsts = [row["first"] for row in found["folds"]]
    assert firsts == sorted(firsts)
    rows = list(csv.DictReader(Path(found["table"]).read_text().splitlines()))
    assert [row["fold"] for row in rows] == ["1", "2", "3"]

    anew = dlkit(TASK, "backtest", "latest", "--folds", "2", "--refit", "--json")
    assert anew.code == 0, anew.err
    first, second = anew.json["folds"]
    assert first["train_rows"] < second["train_rows"]
    assert first["mse"] != pytest.approx(found["folds"][0]["mse"])
    assert Path(anew.json["report"]).with_name("folds.png").stat().st_size > 5000

    many = dlkit(TASK, "backtest", "latest", "--folds", "99")
    assert many.code == 2
    assert "--folds: got 99; accepted: 1 to 36" in many.err


@pytest.mark.usefixtures("unchecked", "undrawn")
def test_beyond_the_trained_horizon(dlkit: Runs, shops: Path) -> None:
    sales = pd.read_csv(shops).query("shop == 'north'")[["day", "sales"]]
    sales.to_csv("north.csv", index=False)
    done = dlkit(TASK, "train", "--data", "north.csv", *TINY, "--model", "nlinear", "--json")
    assert done.code == 0, done.err
    short = dlkit(TASK, "predict", "latest", "north.csv", "--json")
    long = dlkit(TASK, "predict", "latest", "north.csv", "--horizon", "17", "--json")
    assert (short.code, long.code) == (0, 0), long.err
    near, far = ([json.loads(line) for line in d.out.splitlines()] for d in (short, long))
    assert len(far) == 17
    assert far[:7] == near
    assert all(row["lower"] is None for row in far[7:])
    assert far[-1]["stamp"].startswith("2024-08-14")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--data", "sunspot"], "did you mean 'sunspots'?"),
        (["--data", "nowhere.csv"], "no file nowhere.csv"),
        (["--data", "notes.txt"], "accepted: a .csv, .parquet or .jsonl file"),
        (["--target", "spots"], "no column 'spots' (did you mean 'sunspots'?)"),
        (["--model", "lstmm"], "did you mean 'lstm'?"),
        (["--quantiles", "0.5"], "two or more different numbers"),
        (["--quantiles", "0.1,1.5"], "between 0 and 1"),
        (["--quantiles", "0.1,0.9"], "the median, 0.5, is the forecast"),
        (["--split", "80/20"], "--split: got '80/20'"),
        (["--horizon", "400"], "need"),
        (["--fill", "forwards"], "did you mean 'forward'?"),
        (["--data", "co2"], "--fill forward or --fill interpolate"),
        (["--coverage", "1"], "below 1"),
        (
            ["--calendar"],
            "--calendar: got rows every YS-JAN; accepted: every quarter or more often",
        ),
        (["--future-covariates", "calendar:year sin 1"], "and --calendar beside them"),
        (["-p", "units=0"], "-p units: got 0; accepted: at least 1"),
    ],
)
def test_mistakes(dlkit: Runs, more: list[str], words: str) -> None:
    Path("notes.txt").write_text("text")
    done = dlkit(TASK, "train", *more)
    assert done.code == 2, done.err
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not list(Path("mlruns").glob("checkpoints/*"))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS[TASK])
def test_a_killed_run_ends_as_the_whole_one(
    dlkit: Runs, here: Path, shops: Path, model: str
) -> None:
    arguments = [TASK, "train", "--data", str(shops), *ROLES, *TINY, "--lookback", "21",
                 "--epochs", "12", "--model", model, "--ema", "0.9"]  # fmt: skip
    whole = dlkit(*arguments, "--json")
    assert whole.code == 0, whole.err
    command = [sys.executable, "-c", CHILD, *arguments]
    with subprocess.Popen(command, cwd=here, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        while not process.stderr.readline().startswith("epoch 4/"):
            assert process.poll() is None
        process.kill()
        assert process.wait() == -signal.SIGKILL
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in dlkit("runs", "list", "--json").out.splitlines()
    ]
    killed = next(r["run"] for r in rows if r["run"] != whole.json["run"])
    resumed = dlkit(TASK, "train", "--resume", killed, "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["metrics"] == whole.json["metrics"]
    store = tracking.client()
    one, two = (store.get_run(r).data.tags["dlkit.weights"] for r in (whole.json["run"], killed))
    assert one == two


@pytest.mark.parametrize("model", ["patchtst", "transformer"])
def test_heads_that_do_not_divide_the_width(dlkit: Runs, model: str) -> None:
    done = dlkit(TASK, "train", "--model", model, "-p", "dim=64", "-p", "heads=5")
    assert done.code == 2
    assert f"-p dim: 64 does not divide by the 5 heads of {model}; accepted: a multiple" in done.err
    # Told before the data are looked for.
    done = dlkit(
        TASK, "compare", "--data", "no.csv", "--models", f"{model},linear", "-p", "heads=3"
    )
    assert done.code == 2
    assert f"the 3 heads of {model}" in done.err


def test_a_picture_is_whole_or_the_one_before(tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    picture.write_bytes(b"before")
    figure = new_figure(9, 9)
    figure.add_subplot().imshow(np.random.default_rng(0).random((300, 300)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_figure(figure, picture)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert picture.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [picture]
    save_figure(figure, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
