"""Stamps as people write them: days first, holidays, zones, rows yet to come, names of columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dlkit.data.calendar import frequency, stamps
from dlkit.data.newest import newest
from dlkit.data.series import SeriesData, cuts, load_series
from dlkit.data.series_sources import Roles
from dlkit.errors import DataError, OptionError
from dlkit.evaluation.blocks import intervals
from pipelines.forecasting.config import levels

DAYS = pd.date_range("2022-01-01", periods=400)
MONTHS = pd.date_range("2019-01-01", periods=40, freq="MS")
NUMBERS = np.sin(np.arange(400) / 3)


def loaded(folder: Path, frame: pd.DataFrame, **options: object) -> SeriesData:
    frame.to_csv(folder / "t.csv", index=False)
    return load_series(str(folder / "t.csv"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "form",
    ["%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%d/%m/%y", "%m/%d/%y", "%d/%m/%Y %H:%M",
     "%Y%m%d", "%d %b %Y", "%B %d, %Y", "%Y-%m-%dT%H:%M:%SZ", "%m/%d/%Y %I:%M %p"],
)  # fmt: skip
@pytest.mark.parametrize("index", [DAYS, MONTHS], ids=["days", "months"])
def test_one_format_holds_for_a_column(form: str, index: pd.DatetimeIndex) -> None:
    found = stamps(pd.Series(index.strftime(form)), "DATA", "day")
    assert (found == index).all()


def test_days_and_months_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    text = pd.Series(DAYS[:12].strftime("%d/%m/%Y"))
    with pytest.raises(DataError, match=r"can be read as %[dm]/%[dm]/%Y, .*'01/01/2022'; write"):
        stamps(text, "DATA", "day")
    frame = pd.DataFrame({"Datum": text, "value": NUMBERS[:12], "flag": True})
    with pytest.raises(DataError, match="time column 'Datum' can be read as"):
        loaded(tmp_path, frame)
    # One more day, and there is but one way.
    text = pd.Series(DAYS[:13].strftime("%d/%m/%Y"))
    assert (stamps(text, "DATA", "day") == DAYS[:13]).all()


def test_a_holiday_leaves_business_days_what_they_are() -> None:
    business = pd.bdate_range("2023-01-02", periods=300)
    assert frequency(business.delete([20, 130]), "DATA") == "B"
    assert frequency(DAYS.delete([5, 9]), "DATA") == "D"
    assert frequency(DAYS[2:7], "DATA") == "D"  # Monday to Friday


@pytest.mark.parametrize("kind", ["text", "zoned"])
@pytest.mark.parametrize("freq", ["D", "MS"])
def test_midnights_of_a_zone_are_dates(freq: str, kind: str) -> None:
    index = pd.date_range("2022-01-01", periods=30 if freq == "MS" else 400, freq=freq)
    local = pd.Series(index.tz_localize("Europe/Berlin"))
    found = stamps(local.astype(str) if kind == "text" else local, "DATA", "day")
    assert (found == index).all()
    assert frequency(found, "DATA") == freq


def test_hours_of_a_zone_are_in_utc_and_said_so(tmp_path: Path) -> None:
    local = pd.date_range("2022-03-20", periods=400, freq="h", tz="Europe/Berlin")
    frame = pd.DataFrame({"hour": local, "value": NUMBERS})
    data = loaded(tmp_path, frame, split="2022-03-30T00:00Z/2022-04-02T00:00+02:00",
                  lookback=12, horizon=6)  # fmt: skip
    assert (data.alias, str(data.spans[0].first)) == ("h", "2022-03-19 23:00:00")
    assert data.spans[0].ends == (241, 311, 400)
    roles = Roles("hour", ("value",))
    (found,), _ = newest(str(tmp_path / "t.csv"), roles, alias="h", lookback=12, horizon=6)
    assert str(found.last).endswith("+00:00")


def test_one_wrong_stamp_is_no_gap_of_fifty_years(tmp_path: Path) -> None:
    seconds = pd.date_range("2024-01-01", periods=400, freq="s").insert(
        0, pd.Timestamp("1970-01-01")
    )
    frame = pd.DataFrame({"at": seconds, "value": np.arange(401.0)})
    with pytest.raises(
        DataError, match=r"1,704,067,\d+ steps of s and only 401 rows; is a stamp wrong"
    ):
        loaded(tmp_path, frame, fill="forward")


def test_what_wanders_has_no_season(tmp_path: Path) -> None:
    for seed in range(5):
        walk = np.random.default_rng(seed).normal(size=1000).cumsum()
        frame = pd.DataFrame({"day": pd.date_range("2020-01-01", periods=1000), "value": walk})
        assert loaded(tmp_path, frame).season == 1
    frame["value"] = walk + 9 * np.sin(2 * np.pi * np.arange(1000) / 7)
    assert loaded(tmp_path, frame).season == 7
    with pytest.raises(OptionError, match="--season: got 700; accepted: 1 to 699"):
        loaded(tmp_path, frame, season=700)


def test_rows_yet_to_come_are_no_gap(tmp_path: Path) -> None:
    frame = pd.DataFrame({"day": DAYS[:120], "sales": NUMBERS[:120], "promotion": 1.0})
    frame.loc[106:, "sales"] = np.nan
    roles = Roles(future=("promotion",), targets=("sales",))
    data = loaded(tmp_path, frame, roles=roles, lookback=14, horizon=7)
    assert len(data.rows) == 106
    assert "14 rows at the end without a target, left out" in data.notes


def test_a_short_or_late_series_is_left_out_by_name(tmp_path: Path) -> None:
    parts = [("a", DAYS[:120]), ("b", DAYS[:120]), ("short", DAYS[:3]), ("late", DAYS[100:120])]
    frame = pd.concat(
        pd.DataFrame({"day": days, "shop": name, "sales": NUMBERS[: len(days)]})
        for name, days in parts
    )
    roles = Roles(series_id="shop")
    for split in ("70/10/20", "80/20/20", "2022-03-20/2022-04-05"):
        data = loaded(tmp_path, frame, roles=roles, split=split, lookback=14, horizon=7)
        assert [span.name for span in data.spans] == ["a", "b"]
        (said,) = (note for note in data.notes if note.startswith("series left out"))
        assert "series short: " in said and "series late: " in said
        with pytest.raises((DataError, OptionError), match=r"short|late|--split"):
            loaded(tmp_path, frame, roles=roles, split=split, lookback=14, horizon=7, strict=True)
    with pytest.raises(OptionError, match="--split: got 'x/y'"):
        loaded(tmp_path, frame, roles=roles, split="x/y")


@pytest.mark.parametrize("empty", [1, 120])
def test_rows_without_the_name_of_a_series_are_refused(tmp_path: Path, empty: int) -> None:
    frame = pd.DataFrame({"day": DAYS[:120], "shop": "a", "sales": NUMBERS[:120]})
    frame.loc[: empty - 1, "shop"] = None
    with pytest.raises(DataError, match=f"'shop' .* is empty in {empty} rows?, first in row 1"):
        loaded(tmp_path, frame, roles=Roles(series_id="shop"))


def test_spaces_around_names_of_columns_are_none_of_theirs(tmp_path: Path) -> None:
    lines = [f"{day.date()}, {i % 7}" for i, day in enumerate(DAYS)]
    (tmp_path / "t.csv").write_text("\n".join(["day, sales", *lines]))
    data = load_series(str(tmp_path / "t.csv"), roles=Roles(targets=("sales",)))
    assert data.roles.targets == ("sales",)
    (tmp_path / "t.csv").write_text("day,sales, sales\n2022-01-01,1,2\n")
    with pytest.raises(DataError, match="two columns 'sales'"):
        load_series(str(tmp_path / "t.csv"))


def test_future_covariates_are_needed_as_far_as_is_asked(tmp_path: Path) -> None:
    frame = pd.DataFrame({"day": DAYS[:60], "sales": NUMBERS[:60], "promotion": np.arange(60.0)})
    frame.loc[57:, "sales"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    roles = Roles("day", ("sales",), future=("promotion",))
    given = {"alias": "D", "lookback": 14}
    (found,), _ = newest(str(tmp_path / "t.csv"), roles, horizon=3, padded=7, **given)  # type: ignore[arg-type]
    assert found.future[:, 0].tolist() == [57, 58, 59, 59, 59, 59, 59]
    with pytest.raises(DataError, match="are needed up to 2022-03-02"):
        newest(str(tmp_path / "t.csv"), roles, horizon=4, padded=7, **given)  # type: ignore[arg-type]


def test_the_median_is_the_forecast() -> None:
    assert levels("0.9,0.5,0.1") == (0.1, 0.5, 0.9)
    with pytest.raises(OptionError, match=r"got '0.1,0.9'; .* the median, 0.5, is the forecast"):
        levels("0.1,0.9")


def test_intervals_of_few_blocks_are_no_surer_than_their_rows() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 2))
    for n in (7, 13, 40):
        found = intervals(rows[:n], block=12)
        assert found == [[c.min(), c.max()] for c in rows[:n].T]
    (low, high), _ = intervals(rows, block=5)
    assert rows[:, 0].min() < low < rows[:, 0].mean() < high < rows[:, 0].max()


def test_a_split_with_zones() -> None:
    index = pd.date_range("2024-01-01", periods=48, freq="h")
    assert cuts("2024-01-02T01:00+01:00/2024-01-02T12:00Z", index) == (24, 36, 48)
