"""`forecasting inspect`: each thing planted in a table is told, with the right numbers."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import Done
from PIL import Image
from statsmodels.tsa.stattools import adfuller

from dlkit.data import stationarity
from dlkit.data.series_sources import read

Run = Callable[..., Done]
INSPECT = ("forecasting", "inspect")


def weekly(n: int, seed: int = 0) -> np.ndarray:
    """A season of seven steps and noise."""
    generator = np.random.default_rng(seed)
    return 20 + 5 * np.sin(2 * np.pi * np.arange(n) / 7) + generator.normal(0, 0.5, n)


def only(result: dict[str, Any], target: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The stamps of the one series, and what is told of a target."""
    (detail,) = result["details"]
    return detail["stamps"], detail["targets"][target]


def test_sunspots(dlkit: Run, here: Path) -> None:
    done = dlkit(*INSPECT, "sunspots", "--json")
    assert (done.code, done.err) == (0, "")
    stamps, about = only(done.json, "sunspots")
    assert (stamps["first"][:4], stamps["last"][:4], stamps["rows"]) == ("1700", "2008", 309)
    assert done.json["problems"] == []
    assert about["season"] == done.json["training"]["season"] == 11
    assert about["autocorrelation"]["peaks"][0]["lag"] in (10, 11)
    assert 0.5 < about["at_season"] < 0.7
    tests = about["stationarity"]
    # statsmodels' own choice of lags, which takes a regression for each.
    expected = adfuller(read("sunspots")["sunspots"], regression="c", result_object=True)
    assert tests["adf"]["statistic"] == pytest.approx(expected.statistic, rel=1e-5)
    assert (tests["adf"]["p"], tests["adf"]["lags"]) == ("0.053", expected.lags)
    assert (tests["kpss"]["p"], tests["verdict"]) == ("0.016", "unit root")

    plan = done.json["training"]
    assert plan["command"] == "dlkit forecasting train --data sunspots"
    assert (plan["horizon"], plan["lookback"], plan["refused"]) == (11, 33, None)
    # 216 training rows hold so many windows of 33 + 11.
    assert plan["windows"]["train"] == 216 - 44 + 1
    assert json.loads((here / "inspect-sunspots" / "report.json").read_text()) == done.json
    with Image.open(here / "inspect-sunspots" / "series.png") as drawn:
        assert drawn.width > 1000

    shown = dlkit(*INSPECT, "sunspots")
    assert shown.code == 0
    for words in ("no problems found", "0.053", "unit root", "season 11", "lookback 33"):
        assert words in shown.out


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """200 days: 5 and 1 missing, 2 stamps twice, 3 NaN, 1 infinite, 1 at noon, 2 rows misplaced."""
    frame = pd.DataFrame({"day": pd.date_range("2024-01-01", periods=200), "sales": weekly(200)})
    frame.loc[[20, 21, 60], "sales"] = np.nan
    frame.loc[150, "sales"] = np.inf
    frame.loc[120, "day"] += pd.Timedelta(hours=12)
    twice = frame.loc[[80, 80, 90]]
    frame = pd.concat([frame.drop([100, 101, 102, 103, 104, 110]), twice]).sort_values("day")
    order = np.arange(len(frame))
    order[[5, 50]] = order[[50, 5]]
    path = tmp_path / "damaged.csv"
    frame.iloc[order].to_csv(path, index=False)
    return path


def test_what_is_wrong_with_a_table_is_told(dlkit: Run, here: Path, damaged: Path) -> None:
    done = dlkit(*INSPECT, damaged, "--out", "found", "--json")
    assert (done.code, done.err) == (0, "")
    stamps, about = only(done.json, "sales")
    assert (stamps["rows"], stamps["frequency"]) == (197, "D")
    # The day whose stamp was moved to noon is missing as well.
    assert (stamps["missing"], stamps["gaps"], stamps["longest_gap"]) == (7, 3, 5)
    assert [gap["stamps"] for gap in stamps["first_gaps"]] == [5, 1, 1]
    assert stamps["first_gaps"][0]["from"].startswith("2024-04-10")
    assert stamps["first_gaps"][0]["to"].startswith("2024-04-14")
    assert (stamps["duplicates"], stamps["duplicate_rows"]) == (2, 3)
    assert stamps["first_duplicates"][0].startswith("2024-03-21")
    assert (stamps["irregular"], stamps["first_irregular"]) == (1, ["2024-04-30 12:00:00"])
    assert stamps["unsorted"] == 2
    (detail,) = done.json["details"]
    assert (detail["nan"], detail["infinite"]) == ({"sales": 3}, {"sales": 1})
    # A stamp that stands there twice counts as often.
    assert about["values"] == 197 - 3 - 1
    assert 12 < about["min"] < about["max"] < 28
    assert about["season"] == 7
    plan = done.json["training"]
    assert "holds infinite values" in plan["refused"]
    assert plan["command"].endswith("--fill interpolate") and plan["season"] == 7
    assert len(done.json["problems"]) == 6

    shown = dlkit(*INSPECT, damaged).out
    for words in (
        "7 stamps missing in 3 gaps, the longest of 5",
        "2 stamps more than once, 3 rows too many",
        "1 stamp off the frequency D, such as 2024-04-30 12:00:00",
        "2 rows before the row above",
        "3 values are NaN in 'sales'",
        "1 value is infinite in 'sales'",
        "refused  as it stands:",
    ):
        assert words in shown


def test_gaps_alone_are_filled_in_the_suggested_line(dlkit: Run, here: Path) -> None:
    frame = pd.DataFrame({"day": pd.date_range("2024-01-01", periods=200), "sales": weekly(200)})
    frame.drop([50, 51]).to_csv("gaps.csv", index=False)
    plan = dlkit(*INSPECT, "gaps.csv", "--target", "sales", "--json").json["training"]
    line = "dlkit forecasting train --data gaps.csv --target sales --fill interpolate"
    assert (plan["command"], plan["season"]) == (line, 7)
    assert sum(plan["windows"].values()) > 100


def test_offsets_and_stamps_that_cannot_be_read(dlkit: Run, here: Path) -> None:
    hours = pd.date_range("2024-03-30", periods=96, freq="h", tz="Europe/Berlin")
    frame = pd.DataFrame({"time": [stamp.isoformat() for stamp in hours], "load": weekly(96)})
    frame.loc[[3, 9], "time"] = ["unknown", None]
    frame.to_csv("zones.csv", index=False)
    done = dlkit(*INSPECT, "zones.csv", "--json")
    assert done.code == 0, done.err
    stamps, _ = only(done.json, "load")
    assert (stamps["utc_offsets"], stamps["offset_changes"]) == (["+01:00", "+02:00"], 1)
    assert (stamps["rows"], stamps["missing"], stamps["frequency"]) == (94, 2, "h")
    assert done.json["problems"][0].startswith(
        "2 rows without a stamp that can be read (row 4, 10)"
    )


@pytest.fixture
def panel(tmp_path: Path) -> Path:
    """30 shops of 120 days: one constant, one without a number, one with a gap."""
    parts = []
    for number in range(30):
        frame = pd.DataFrame(
            {"day": pd.date_range("2024-01-01", periods=120), "shop": f"shop {number:02}"}
        )
        frame["sales"] = weekly(120, number)
        if number == 25:
            frame["sales"] = 4.0
        if number == 26:
            frame["sales"] = np.nan
        parts.append(frame.drop([60, 61]) if number == 27 else frame)
    path = tmp_path / "panel.csv"
    pd.concat(parts).to_csv(path, index=False)
    return path


def test_a_panel(dlkit: Run, here: Path, panel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The group's `inspect` hides the module of that name. A picture takes half a second.
    monkeypatch.setattr(importlib.import_module("pipelines.forecasting.inspect"), "DETAILED", 5)
    done = dlkit(*INSPECT, panel, "--series-id", "shop", "--out", "found", "--json")
    assert (done.code, done.err) == (0, "")
    result = done.json
    assert (result["series"], len(result["details"]), result["not_detailed"]) == (30, 5, 25)
    names = [each["name"] for each in result["details"]]
    # Those in need of mending are among the details, wherever they stand.
    assert names == [f"shop {n:02}" for n in (0, 1, 25, 26, 27)]
    told = {each["name"]: each["targets"]["sales"] for each in result["details"]}
    assert (told["shop 25"]["constant"], told["shop 25"]["deviation"]) == (True, 0)
    assert (told["shop 26"]["values"], told["shop 26"]["mean"]) == (0, None)
    assert told["shop 00"]["season"] == 7
    held = result["summary"]["series_with"]
    assert (held["constant"], held["no_number"], held["missing"], held["nan"]) == (1, 1, 1, 1)
    assert result["summary"]["rows"] == {"min": 118, "median": 120, "max": 120}
    assert result["summary"]["targets"]["sales"]["at_season"]["median"] > 0.8
    assert result["training"]["series"] == 28
    assert result["training"]["command"].endswith("--series-id shop --fill interpolate")
    assert "series left out: " in result["training"]["notes"][-1]
    assert len(result["pictures"]) == len(set(result["pictures"])) == 5
    assert all(Path(path).stat().st_size > 5000 for path in result["pictures"])

    # Without the column every stamp stands there thirty times, and the column is named.
    done = dlkit(*INSPECT, panel, "--out", "found", "--json")
    assert only(done.json, "sales")[0]["duplicates"] == 120
    assert "give --series-id shop" in done.json["problems"][0]


@pytest.mark.parametrize(("walk", "verdict"), [(False, "stationary"), (True, "unit root")])
def test_verdicts_on_capped_series(
    walk: bool, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stationarity, "TESTED", 2000)
    noise = np.random.default_rng(3).normal(size=2500)
    values = noise.cumsum() if walk else noise
    values[:500] = 1e6  # before what is tested
    found = stationarity.stationarity(values)
    assert (found["points"], found["verdict"]) == (2000, verdict)
    assert found["kpss"]["p"] == ("<0.01" if walk else ">0.1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["panel.csv", "--target", "sale"], "no column 'sale' (did you mean 'sales'?)"),
        (["panel.csv", "--time", "shop"], "hold no stamp"),
        (["nowhere.csv"], "no file nowhere.csv"),
        (["sunspot"], "did you mean 'sunspots'?"),
        (["text.csv"], "no column of numbers to forecast"),
        (["sunspots", "--out", "text.csv"], "--out: text.csv is a file"),
        (["sunspots", "--out", "text.csv/below"], "--out: text.csv/below is a file"),
    ],
)
def test_mistakes(dlkit: Run, here: Path, panel: Path, arguments: list[str], words: str) -> None:
    (here / "text.csv").write_text("day,word\n2024-01-01,a\n2024-01-02,b\n2024-01-03,c\n")
    done = dlkit(*INSPECT, *arguments)
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1 and words in done.err
    assert not list(here.glob("inspect-*")) and (here / "text.csv").is_file()
