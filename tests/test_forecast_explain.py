"""Explained forecasts: which lag and which covariate get the share, what adds up, what is refused."""

from __future__ import annotations

import contextlib
import csv
import errno
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
from made import Done, charts_undrawn, cores_uncompiled, exports_unchecked, runner

from pipelines.cli import main

TASK = "forecasting"
LAGS = ["--lookback", "14", "--horizon", "3", "--season", "7", "--learning-rate", "1e-2",
        "--batch-size", "16", "--epochs", "12", "--warmup", "0"]  # fmt: skip
ROLES = ["--target", "sales", "--series-id", "shop", "--future-covariates", "promotion",
         "--past-covariates", "weather", "--static", "size"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Two tables: a series that is 0.9 of itself 7 days before, and two shops that promotions drive."""
    path, generator = tmp_path_factory.mktemp("explained"), np.random.default_rng(0)
    x = list(generator.normal(size=7))
    for _ in range(400):
        x.append(0.9 * x[-7] + generator.normal() / 2)
    day = pd.date_range("2024-01-01", periods=len(x), freq="D")
    pd.DataFrame({"day": day, "sales": 50 + 10 * np.array(x)}).to_csv(
        path / "week.csv", index=False
    )
    parts = []
    for shop, level in (("north", 10.0), ("south", 30.0)):
        promotion = (generator.random(150) < 0.3).astype(float)
        columns = {"day": day[:150], "shop": shop, "promotion": promotion, "size": level / 10}
        columns["sales"] = level + 6 * promotion + generator.normal(size=150) / 5
        columns["weather"] = generator.normal(size=150)
        parts.append(pd.DataFrame(columns))
    pd.concat(parts).to_csv(path / "shops.csv", index=False)
    shutil.copytree(empty_store, path / "mlruns")
    return path


def train(folder: Path, *arguments: str) -> dict[str, Any]:
    before, out = Path.cwd(), io.StringIO()
    os.chdir(folder)
    try:
        with (
            contextlib.redirect_stdout(out),
            exports_unchecked(),
            charts_undrawn(),
            cores_uncompiled(),
        ):
            assert main([TASK, "train", *arguments, "--json"]) == 0
    finally:
        os.chdir(before)
    return json.loads(out.getvalue())


@pytest.fixture(scope="module")
def weekly(folder: Path) -> str:
    """The run of a linear model on the series of lag 7."""
    return train(folder, "--data", "week.csv", *LAGS, "--model", "nlinear")["run"]


@pytest.fixture(scope="module")
def driven(folder: Path) -> str:
    """The run of a GRU on the shops, a median and its quantiles."""
    return train(folder, "--data", "shops.csv", *ROLES, *LAGS, "--model", "gru", "-p", "units=16",
                 "--quantiles", "0.1,0.5,0.9", "--ema", "0.9")["run"]  # fmt: skip


@pytest.fixture
def there(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run a command line beside the tables."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return runner(capfd)


Run = Callable[..., Done]


def test_the_lag_that_the_series_follows(there: Run, weekly: str) -> None:
    done = there(TASK, "explain", weekly, "--step", "1", "--windows", "20", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert (found["split"], found["windows"], found["target"]) == ("test", 20, "sales")
    assert found["top_lags"][0]["lag"] == 7
    assert found["top_lags"][0]["share"] > 2 * found["top_lags"][1]["share"]
    assert found["completeness_error"] < 1e-2
    assert found["channels"][0]["share"] == pytest.approx(1)
    assert Path(found["heat_map"]).parent == Path(f"explain-{weekly[:8]}").absolute()

    # The table holds each lag once; all of them add up to the change from the baseline.
    rows = list(csv.DictReader(Path(found["table"]).read_text().splitlines()))
    assert sorted(int(row["lag"]) for row in rows) == list(range(1, 15))
    change = found["forecast"] - found["forecast_at_baseline"]
    total = sum(float(row["mean_attribution"]) for row in rows)
    assert total == pytest.approx(change, abs=1e-2 * abs(change) + 1e-3)
    largest = max(rows, key=lambda row: float(row["mean_absolute_attribution"]))
    assert largest["lag"] == "7"

    # A later step looks on rows that are nearer to the end of the window.
    later = there(TASK, "explain", weekly, "--step", "3", "--out", "later", "--json")
    assert later.json["top_lags"][0]["lag"] == 5
    assert Path("later/attributions.png").stat().st_size > 5000
    logged = next(Path("mlruns").glob(f"artifacts/{weekly}/artifacts/explanations/report.json"))
    assert json.loads(logged.read_text())["step"] == 3


def test_what_is_explained_is_the_forecast_of_the_export(there: Run, weekly: str) -> None:
    explained = there(TASK, "explain", weekly, "week.csv", "--step", "2", "--out", "new", "--json")
    assert explained.code == 0, explained.err
    found = explained.json
    assert (found["split"], found["windows"], found["data"]) == (None, 1, "week.csv")
    forecast = there(TASK, "predict", weekly, "week.csv", "--json").out.splitlines()[1]
    assert found["forecast"] == pytest.approx(json.loads(forecast)["forecast"], rel=1e-4)
    window = pd.read_csv("week.csv")["sales"].to_numpy()[-14:]
    rows = csv.DictReader(Path(found["table"]).read_text().splitlines())
    shifted = {int(row["lag"]): float(row["mean_attribution"]) for row in rows}
    # Of a series that follows its value of 7 days before, whose deviation from the mean counts.
    assert np.sign(shifted[6]) == np.sign(window[-6] - window.mean())


def test_the_covariate_that_drives_the_target(there: Run, driven: str) -> None:
    done = there(TASK, "explain", driven, "--step", "2", "--windows", "16", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert found["completeness_error"] < 1e-2
    share = {row["channel"]: row["share"] for row in found["channels"]}
    assert sum(share.values()) == pytest.approx(1)
    assert share["promotion"] > 0.4
    assert share["promotion"] > 5 * share["weather"]
    roles = [row["role"] for row in found["channels"]]
    assert roles == ["target", "past covariate", "future covariate", "static"]
    assert [row["step"] for row in found["ahead"]] == [1, 2, 3]
    # The promotion of that very day counts most.
    assert max(found["ahead"], key=lambda row: row["mean_absolute"])["step"] == 2
    rows = list(csv.DictReader(Path(found["table"]).read_text().splitlines()))
    assert len(rows) == 3 * 14 + 3 + 1

    # The newest window of each series, with its promotions to come; the median is what is explained.
    ahead = pd.read_csv("shops.csv")
    ahead.loc[ahead["day"] > "2024-05-26", "sales"] = np.nan
    ahead.to_csv("ahead.csv", index=False)
    arguments = (driven, "ahead.csv", "--json")
    newest = there(TASK, "explain", *arguments[:2], "--out", "ahead", "--json")
    assert newest.code == 0, newest.err
    assert newest.json["windows"] == 2
    assert newest.json["completeness_error"] < 1e-2
    lines = there(TASK, "predict", *arguments).out.splitlines()
    forecasts = [json.loads(line)["forecast"] for line in lines]
    assert newest.json["forecast"] == pytest.approx(np.mean(forecasts), rel=1e-4)


def test_a_table_to_read(there: Run, weekly: str) -> None:
    done = there(TASK, "explain", weekly, "--windows", "2", "--out", "read")
    assert done.code == 0, done.err
    assert "forecast of sales, mean of 3 steps, 2 test windows" in done.out
    assert "completeness error" in done.out
    assert str(Path("read/attributions.png").absolute()) in done.out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--target", "sale"], "no target 'sale' (did you mean 'sales'?); accepted: sales"),
        (["--step", "4"], "--step: got 4; accepted: 1 to 3"),
        (["--step", "0"], "--step: got 0; accepted: 1 to 3"),
        (["nowhere.csv"], "no file nowhere.csv"),
        (["week.csv", "--windows", "3"], "--windows is for the run's own data"),
        (["--fill", "forward"], "--fill and --strict are for DATA"),
        (["--out", "week.csv"], "week.csv is a file"),
    ],
)
def test_mistakes(there: Run, weekly: str, more: list[str], words: str) -> None:
    done = there(TASK, "explain", weekly, *more)
    assert done.code == 2, done.err
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_runs_that_cannot_be_explained(there: Run, folder: Path, weekly: str) -> None:
    assert there(TASK, "export", weekly, "--out", "exported").code == 0
    done = there(TASK, "explain", "exported", "--out", "none")
    assert done.code == 2
    assert "exported is an exported directory" in done.err
    kept = (folder / "week.csv").read_bytes()
    (folder / "week.csv").write_bytes(kept + b"2025-02-11,50\n")
    try:
        changed = there(TASK, "explain", weekly, "--out", "none")
    finally:
        (folder / "week.csv").write_bytes(kept)
    assert changed.code == 2
    assert "have changed since it started" in changed.err
    checkpoint = Path("mlruns/checkpoints", weekly, "checkpoint.npz")
    away = checkpoint.rename(checkpoint.with_name("away"))
    try:
        gone = there(TASK, "explain", weekly, "--out", "none")
    finally:
        away.rename(checkpoint)
    assert gone.code == 2
    assert f"the checkpoint of {weekly} is gone" in gone.err
    assert not Path("none").exists()


def test_a_table_given_needs_the_old_one_no_more(there: Run, folder: Path, driven: str) -> None:
    ahead = pd.read_csv("shops.csv")
    ahead.loc[ahead["day"] > "2024-05-26", "sales"] = np.nan
    ahead.to_csv("coming.csv", index=False)
    away = (folder / "shops.csv").rename(folder / "away.csv")
    try:
        found = there(TASK, "explain", driven, "coming.csv", "--out", "alone", "--json")
        own = there(TASK, "explain", driven, "--out", "none")
    finally:
        away.rename(folder / "shops.csv")
    assert found.code == 0, found.err
    assert [row["role"] for row in found.json["channels"]][-1] == "static"
    lines = there(TASK, "predict", driven, "coming.csv", "--json").out.splitlines()
    forecasts = [json.loads(line)["forecast"] for line in lines]
    assert found.json["forecast"] == pytest.approx(np.mean(forecasts), rel=1e-4)
    assert own.code == 2
    assert "no file shops.csv" in own.err
    # A folder that cannot take all files keeps those that it has.
    before = {file: file.read_bytes() for file in Path("alone").iterdir()}
    table = Path("alone/attributions.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "copyfile", _full_disk)
        full = there(TASK, "explain", driven, "coming.csv", "--out", "alone", "--step", "2")
    assert full.code == 2
    assert "--out: alone cannot be written: No space left on device" in full.err
    assert {file: file.read_bytes() for file in Path("alone").iterdir()} == before
    assert table in before


def _full_disk(source: str, target: Path, **_: Any) -> None:
    Path(target).write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")
