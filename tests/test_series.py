"""Series: what is read, how it is cut, what is refused; baselines and intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made import REAL_DATA

from dlkit.data.calendar import seasons
from dlkit.data.calendar_covariates import calendar_names, with_calendar
from dlkit.data.newest import newest
from dlkit.data.series import cuts, gathered, load_series
from dlkit.data.series_sources import Roles
from dlkit.errors import DataError, OptionError
from dlkit.evaluation.calibration import conformal
from dlkit.evaluation.forecast import errors, naive_errors, quantile_loss
from dlkit.evaluation.forecast_baselines import baselines, closed_form


def days(n: int = 200, **columns: object) -> pd.DataFrame:
    """A table of days with a weekly wave."""
    t = np.arange(n)
    wave = 10 + 3 * np.sin(2 * np.pi * t / 7) + 0.01 * t
    stamps = pd.date_range("2024-01-01", periods=n, freq="D")
    return pd.DataFrame({"day": stamps, "sales": wave, **columns})


def written(frame: pd.DataFrame, folder: Path, name: str = "sales.csv") -> str:
    path = folder / name
    if name.endswith(".parquet"):
        frame.to_parquet(path)
    elif name.endswith(".jsonl"):
        text = frame.assign(day=frame["day"].astype(str)).to_json(orient="records", lines=True)
        path.write_text(str(text))
    else:
        frame.to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize(
    ("source", "fill", "alias", "season", "rows"),
    [
        ("sunspots", "none", "YS", 11, 309),
        ("elnino", "none", "MS", 12, 732),
        ("co2", "interpolate", "W", 52, 2284),
    ],
)
def test_built_in_series(source: str, fill: str, alias: str, season: int, rows: int) -> None:
    data = load_series(source, fill=fill)
    assert data.alias.startswith(alias)
    assert (data.season, len(data.rows)) == (season, rows)
    assert np.isfinite(data.rows).all()
    if source == "co2":
        assert "59 values of 'co2' are missing" in data.notes[0]
        with pytest.raises(DataError, match=r"59 values.*--fill forward or --fill interpolate"):
            load_series(source)


@pytest.mark.parametrize("name", ["sales.csv", "sales.parquet", "sales.jsonl"])
def test_a_table_of_each_kind(tmp_path: Path, name: str) -> None:
    data = load_series(written(days(), tmp_path, name), lookback=14, horizon=7)
    assert (data.alias, data.season, data.roles.targets) == ("D", 7, ("sales",))
    np.testing.assert_allclose(data.rows[:, 0], days()["sales"])


def test_windows_lie_in_the_split_of_their_horizon_and_none_is_dropped(tmp_path: Path) -> None:
    data = load_series(written(days(), tmp_path), split="120/40/40", lookback=14, horizon=7)
    for split, low, high in (("train", 0, 120), ("validation", 120, 160), ("test", 160, 200)):
        starts, _ = data.starts(split)
        first = max(low, 14)
        np.testing.assert_array_equal(starts + 14, np.arange(first, high - 7 + 1))
        whole = gathered(data.rows, starts, 21)
        np.testing.assert_array_equal(whole[3, :, 0], data.rows[starts[3] : starts[3] + 21, 0])
        np.testing.assert_array_equal(data.windows_of(data.rows, split), whole[:, 14:, :1])


def test_scalers_know_train_alone(tmp_path: Path) -> None:
    plain, leaking = days(), days()
    leaking.loc[150:, "sales"] = 1e6  # in the test span
    one, other = (
        load_series(written(frame, tmp_path, f"{i}.csv"), lookback=14, horizon=7)
        for i, frame in enumerate((plain, leaking))
    )
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.deviation, other.deviation)


@pytest.mark.parametrize(
    ("split", "found"),
    [
        ("70/10/20", (140, 160, 200)),
        ("100/50/30", (100, 150, 180)),
        ("2024-03-01/2024-05-01", (60, 121, 200)),
    ],
)
def test_cuts(split: str, found: tuple[int, int, int]) -> None:
    assert cuts(split, pd.date_range("2024-01-01", periods=200, freq="D")) == found


@pytest.mark.parametrize("split", ["70/30", "0/50/50", "100/200/300", "a/b/c", "50/50/0.5", "1"])
def test_cuts_that_are_refused(split: str) -> None:
    with pytest.raises(OptionError, match="--split: got"):
        cuts(split, pd.date_range("2024-01-01", periods=200, freq="D"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"day": "2024-01-01", "sales": 1}\n[1, 2]\n', "line 2 holds no object"),
        ('{"day":\n', "line 1 is no JSON"),
        ("\n", "has no rows"),
    ],
)
def test_json_lines_that_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match=words):
        load_series(str(tmp_path / "a.jsonl"))


def hole(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(index=[5, 6])


@pytest.mark.parametrize(
    ("make", "roles", "words"),
    [
        (lambda f: f, Roles(targets=("salse",)), "no column 'salse' .did you mean 'sales'"),
        (lambda f: f.assign(sales="much"), Roles(targets=("sales",)), "row 1 holds 'much'"),
        (lambda f: f.assign(day="soon"), Roles(time="day"), "hold no stamp, such as 'soon'"),
        (lambda f: pd.concat([f, f[:3]]), Roles(), "stand there more than once"),
        (hole, Roles(), "2 stamps are missing .2024-01-06, 2024-01-07.*--fill forward"),
        (lambda f: f.assign(sales=4.0), Roles(), "is constant"),
        (lambda f: f.assign(sales=np.nan), Roles(), "no number at all"),
        (lambda f: f[:20], Roles(), "need 21, 7 and 7"),
        (lambda f: f.assign(sales=np.inf), Roles(), "infinite"),
        (lambda f: f[["sales"]], Roles(), "no column of stamps"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, make: object, roles: Roles, words: str) -> None:
    source = written(make(days()), tmp_path)  # pyright: ignore[reportCallIssue]
    with pytest.raises(DataError, match=words):
        load_series(source, roles=roles, lookback=14, horizon=7)


def test_a_panel_leaves_out_what_cannot_be_used_and_says_so(tmp_path: Path) -> None:
    parts = [days().assign(shop=name) for name in ("a", "b")]
    parts += [days().assign(shop="short")[:20], days().assign(shop="empty", sales=np.nan)]
    source = written(pd.concat(parts), tmp_path)
    roles = Roles(series_id="shop")
    data = load_series(source, roles=roles, lookback=14, horizon=7)
    assert [span.name for span in data.spans] == ["a", "b"]
    assert "series short" in data.notes[-1]
    assert "series empty" in data.notes[-1]
    _, owners = data.starts("test")
    np.testing.assert_array_equal(np.unique(owners), [0, 1])
    with pytest.raises(DataError, match="series"):
        load_series(source, roles=roles, lookback=14, horizon=7, strict=True)


def test_gaps_are_filled_as_asked(tmp_path: Path) -> None:
    source = written(hole(days()), tmp_path)
    forward = load_series(source, fill="forward", lookback=14, horizon=7)
    line = load_series(source, fill="interpolate", lookback=14, horizon=7)
    sales = days()["sales"].to_numpy()
    np.testing.assert_allclose(forward.rows[5:7, 0], sales[4])
    np.testing.assert_allclose(line.rows[5:7, 0], np.interp([5, 6], [4, 7], sales[[4, 7]]))


def test_filled_values_that_are_scored_are_counted(tmp_path: Path) -> None:
    for rows, count in (([5, 6], 0), ([5, 170, 180], 2)):
        frame = days().drop(index=rows)
        data = load_series(written(frame, tmp_path), fill="forward", lookback=14, horizon=7)
        said = [note for note in data.notes if "scored as truths" in note]
        assert said == [f"{count} filled values of the test span are scored as truths"] * (
            count > 0
        )


def test_the_newest_window_and_its_future_covariates(tmp_path: Path) -> None:
    frame = days(promo=np.arange(200) % 3)
    frame.loc[190:, "sales"] = np.nan  # what is to be forecast
    source = written(frame, tmp_path)
    roles = Roles("day", ("sales",), None, (), ("promo",))
    (found,), _ = newest(source, roles, alias="D", lookback=14, horizon=7)
    assert found.last == pd.Timestamp("2024-07-08")
    np.testing.assert_allclose(found.window[:, 0], frame["sales"][176:190])
    np.testing.assert_allclose(found.future[:, 0], frame["promo"][190:197])
    with pytest.raises(DataError, match=r"future covariates .promo. are needed up to"):
        newest(source, roles, alias="D", lookback=14, horizon=11)
    with pytest.raises(DataError, match="every D; the run was trained on every W"):
        newest(source, roles, alias="W", lookback=14, horizon=7)


@pytest.mark.parametrize(
    ("alias", "cycles"),
    [("500ms", ["day", "week"]), ("15min", ["day", "week"]), ("h", ["day", "week"]), ("D", ["week", "year"]), ("B", ["week", "year"]),
     ("W-SAT", ["year"]), ("MS", ["year"]), ("ME", ["year"]), ("SMS", ["year"]), ("QS-OCT", ["year"])],
)  # fmt: skip
def test_the_calendar_has_the_cycles_of_a_frequency(alias: str, cycles: list[str]) -> None:
    index, notes = pd.DatetimeIndex(["2000-01-01", "2003-01-01"]), []
    names = calendar_names(alias, index, notes)
    assert not notes
    assert [name.removeprefix("calendar:").split(" ")[0] for name in names[::4]] == cycles
    assert len(set(names)) == 4 * len(cycles)


def test_a_cycle_has_to_be_held_three_times() -> None:
    """Of fewer, a wave is a trend that goes on for ever."""
    notes: list[str] = []
    index = pd.date_range("2024-01-01", periods=21)
    assert {n.split(" ")[0] for n in calendar_names("D", index, notes)} == {"calendar:week"}
    assert notes == ["--calendar: the year is left out: the series hold fewer than 3"]
    with pytest.raises(
        DataError, match="got series of 20 days; accepted: series of at least 3 weeks"
    ):
        calendar_names("D", index[:-1], notes)


def test_the_calendar_of_a_stamp() -> None:
    """Wednesday the 3rd of July 2024, six in the evening: 184 of the 366 days are over."""
    names = [f"calendar:{c} {w} {k}" for c in ("day", "week", "year") for w in ("sin", "cos") for k in (1, 2)]  # fmt: skip
    (row,) = with_calendar(pd.DataFrame(index=[pd.Timestamp("2024-07-03 18:00")]), names).to_dict(
        "records"
    )
    for cycle, at in (("day", 0.75), ("week", 2.75 / 7), ("year", 184.75 / 366)):
        for k in (1, 2):
            assert row[f"calendar:{cycle} sin {k}"] == pytest.approx(np.sin(2 * np.pi * k * at))
            assert row[f"calendar:{cycle} cos {k}"] == pytest.approx(np.cos(2 * np.pi * k * at))


def test_the_calendar_needs_no_column_and_no_row_ahead(tmp_path: Path) -> None:
    frame = days(promo=np.arange(200) % 3)
    source = written(frame, tmp_path)
    data = load_series(
        source,
        roles=Roles("day", ("sales",), None, ("promo",)),
        lookback=14,
        horizon=7,
        calendar=True,
    )
    assert data.columns[:2] == ("sales", "promo")
    assert (data.spec.past, data.spec.future) == (1, 4)
    weekly = data.rows[:, data.columns.index("calendar:week sin 1")]
    np.testing.assert_allclose(weekly[7:], weekly[:-7], atol=1e-12)
    # The same numbers, wherever the rows end.
    (found,), notes = newest(
        written(frame[:150], tmp_path, "short.csv"), data.roles, alias="D", lookback=14, horizon=7
    )
    assert not notes
    np.testing.assert_allclose(found.window, data.rows[136:150])
    np.testing.assert_allclose(found.future, data.rows[150:157, 2:])


def test_years_are_alike_in_the_calendar() -> None:
    with pytest.raises(
        OptionError, match="--calendar: got rows every YS-JAN; accepted: every quarter"
    ):
        load_series("sunspots", calendar=True)


def test_baselines_are_what_their_names_say(tmp_path: Path) -> None:
    data = load_series(written(days(), tmp_path), lookback=14, horizon=9)
    scaled = (data.rows - data.mean) / data.deviation
    found = baselines(data, scaled)
    x = scaled[None, 50:64]
    np.testing.assert_allclose(found["repeat_last"](x)[0, :, 0], scaled[63, 0])
    again = scaled[[57, 58, 59, 60, 61, 62, 63, 57, 58], 0]
    np.testing.assert_allclose(found["seasonal_naive"](x)[0, :, 0], again)
    slope = (scaled[63] - scaled[50]) / 13
    np.testing.assert_allclose(found["drift"](x)[0, 8], scaled[63] + 9 * slope)
    # A wave on a line is a linear recurrence: least squares finds it.
    exact = closed_form(data, scaled, ridge=1e-9)
    np.testing.assert_allclose(exact(x)[0, :, 0], scaled[64:73, 0], atol=1e-3)


def test_scores_by_hand(tmp_path: Path) -> None:
    data = load_series(written(days(), tmp_path), lookback=14, horizon=2)
    truth, forecast = np.array([[[1.0], [2.0]]]), np.array([[[1.5], [1.0]]])
    naive = naive_errors(data)
    found = errors(data, truth, forecast, np.array([0]), naive)
    assert found["mse"][0] == pytest.approx((0.25 + 1) / 2)
    assert found["mae_units"][0] == pytest.approx(0.75 * data.deviation[0])
    assert found["mase"][0] == pytest.approx(0.75 / naive[0, 0])
    assert quantile_loss(truth, truth[..., None] - 1, [0.5]) == pytest.approx(2 / 3)


def test_conformal_intervals_cover_as_asked() -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(size=(4000, 3, 2)) * [[1, 2]]
    guess = np.zeros_like(truth)
    radius = conformal(truth[:2000], guess[:2000], guess[:2000], 0.8)
    assert radius.shape == (3, 2)
    inside = np.abs(truth[2000:]) <= radius
    assert inside.mean(0) == pytest.approx(np.full((3, 2), 0.8), abs=0.04)


def test_seasons_of_frequencies() -> None:
    assert seasons("h") == (24, 168)
    assert seasons("15min") == (4, 96)
    assert seasons("MS") == (12,)
    assert seasons("YS-JAN") == (1,)


def test_closed_form_linear_on_etth1() -> None:
    file = REAL_DATA / "ETTh1.csv"
    if not file.is_file():
        pytest.skip(f"no {file}")
    data = load_series(str(file), split="8640/2880/2880", lookback=336, horizon=96)
    assert data.sizes() == {"train": 8209, "validation": 2785, "test": 2785}
    scaled = (data.rows - data.mean) / data.deviation
    found = closed_form(data, scaled)(gathered(scaled, data.starts("test")[0], 336))
    assert ((found - data.windows_of(scaled, "test")) ** 2).mean() == pytest.approx(0.370, abs=3e-3)


def test_offsets_from_utc_are_told(tmp_path: Path) -> None:
    hours = pd.date_range("2024-03-30", periods=72, freq="h", tz="Europe/Berlin")
    frame = pd.DataFrame({"time": hours.map(str), "load": np.sin(np.arange(72.0))})
    frame.to_csv(tmp_path / "load.csv", index=False)
    data = load_series(str(tmp_path / "load.csv"), lookback=6, horizon=3)
    assert data.alias == "h"
    (note,) = (n for n in data.notes if "UTC" in n)
    assert "(+01:00, +02:00)" in note
    assert "changes 1 time, first in row 27" in note


def test_gaps_in_the_newest_rows_are_filled_as_asked(tmp_path: Path) -> None:
    t = np.arange(40.0)
    weeks = pd.DataFrame(
        {"week": pd.date_range("2024-01-06", periods=40, freq="W-SAT"), "level": t**2}
    )
    # The first row of the window of 14 lacks its value, a row within it is not there at all.
    weeks.loc[[25, 36], "level"] = np.nan
    source, roles = written(weeks.drop(index=30), tmp_path), Roles("week", ("level",))
    with pytest.raises(DataError, match=r"2024-08-03.*; give --fill forward or --fill interp"):
        newest(source, roles, alias="W-SAT", lookback=14, horizon=3)
    whole = t**2
    filled = {"forward": whole[[24, 29, 35]], "interpolate": 0.5 * (whole[[24, 29, 35]] + whole[[26, 31, 37]])}  # fmt: skip
    for fill, values in filled.items():
        (found,), notes = newest(source, roles, alias="W-SAT", lookback=15, horizon=3, fill=fill)
        expected = whole[25:].copy()
        expected[[0, 5, 11]] = values
        np.testing.assert_allclose(found.window[:, 0], expected)
        assert "1 stamp is missing (2024-08-03)" in notes[0]

    # Rows enough once the missing one is there again.
    (found,), _ = newest(source, roles, alias="W-SAT", lookback=40, horizon=3, fill="forward")
    assert found.window.shape == (40, 1)
    with pytest.raises(DataError, match="has 40 rows; the run looks back on 41"):
        newest(source, roles, alias="W-SAT", lookback=41, horizon=3, fill="forward")

    # Rows to be forecast are no gap.
    ends = written(weeks.assign(level=np.where(t < 38, t, np.nan)), tmp_path)
    (found,), notes = newest(ends, roles, alias="W-SAT", lookback=9, horizon=3)
    assert found.last == weeks["week"][37]
    assert "2 rows at the end without a target: forecasts begin after 2024-09-21" in notes[0]
