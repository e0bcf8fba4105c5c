"""Stamps of a series: their frequency, what is missing or twice, and what is done about it."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pandas as pd

from dlkit.errors import DataError, counted, one_of

FILLS = ("none", "forward", "interpolate")
# Rows that are named where something is wrong with them.
NAMED = 3
# Steps for a row, beyond which a series is not filled: one wrong stamp may lie 50 years of seconds away.
MOST_GAPS = 1000
# An offset from UTC behind a time of day.
ZONE = r"(:\d\d(?:[.,]\d+)?)\s*(Z|[+-]\d\d:?\d\d)$"
# 31/12/24, of which pandas guesses no format.
SHORT_YEAR = r"^(\d{1,2}[/.-]\d{1,2}[/.-])(\d\d)(?!\d)"
# Different values of a column of text by which its format is guessed.
GUESSED = 50
DAY = np.timedelta64(1, "D")
# How many steps a season has, by frequency; several where several are usual, the shortest first.
SEASONS = {"s": (60,), "min": (60, 1440), "h": (24, 168), "D": (7,), "B": (5,), "W": (52,),
           "M": (12,), "Q": (4,), "Y": (1,)}  # fmt: skip


def stamps(column: Any, where: str, name: str) -> pd.DatetimeIndex:
    """Read a column as stamps, without zones: see `read_stamps`.

    Raises:
        DataError: a value that is no stamp (with its row), none there, or days and months that cannot
            be told apart.
    """
    values = pd.Series(column)
    found = read_stamps(values, where, name)
    wrong = np.flatnonzero(found.isna())
    if len(wrong):
        raise DataError(
            f"{where}: {_rows(wrong)} of the time column '{name}' hold no stamp, such as "
            f"{str(values.iloc[wrong[0]])!r}"
        )
    return found


def read_stamps(values: pd.Series, where: str, name: str) -> pd.DatetimeIndex:
    """Read what can be read as stamps, the rest as NaT.

    Whole numbers of four digits are years. One format holds for all of a column of text: the one by
    which the most can be read. Stamps with offsets from UTC are taken as UTC, but where all of them are
    midnights, they are taken as the dates that they show.

    Raises:
        DataError: other numbers, or text that can be read as day first and as month first, of which
            neither gives steps more regular.
    """
    if pd.api.types.is_numeric_dtype(values) and values.notna().all():
        whole = (values == values.round()).all()
        if whole and values.between(1000, 2999).all():
            return pd.DatetimeIndex(pd.to_datetime(values.astype(int).astype(str), format="%Y"))
        raise DataError(
            f"{where}: the time column '{name}' holds numbers such as {values.iloc[0]:g}; accepted: "
            "stamps such as 2024-01-31 or 2024-01-31 13:00, or years"
        )
    if pd.api.types.is_datetime64_any_dtype(values):
        index = pd.DatetimeIndex(values)
        return index if index.tz is None else _zoneless(index.tz_localize(None), index)
    text = values.astype(str)
    zoned = text.str.extract(ZONE)[1].notna().any()
    index = _read_text(values, bool(zoned), where, name)
    if not zoned:
        return index
    return _zoneless(
        _read_text(text.str.replace(ZONE, r"\1", regex=True), False, where, name), index
    )


def _zoneless(shown: pd.DatetimeIndex, index: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """Return stamps as they show where they are days, else in UTC: summer has no other midnight."""
    days = shown[shown.notna()]
    return shown if (days == days.normalize()).all() else index.tz_convert("UTC").tz_localize(None)


def _read_text(values: pd.Series, utc: bool, where: str, name: str) -> pd.DatetimeIndex:
    """Read text in the one format by which the most of it can be read."""
    there = values.notna().to_numpy()
    best = _by(values, "ISO8601", utc)
    if best.notna()[there].all():
        return best
    readings = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas: that a day stands first after all
        for each in values[there].astype(str).unique()[:GUESSED]:
            long = re.sub(SHORT_YEAR, r"\g<1>20\2", each)
            for first in (False, True):
                form = pd.tseries.api.guess_datetime_format(long, dayfirst=first)
                if form is not None and long != each:
                    form = form.replace("%Y", "%y")
                if form is not None and form not in readings:
                    readings[form] = _by(values, form, utc)
        if not readings:  # "Jan 2024"
            readings["mixed"] = _by(values, "mixed", utc)
    most = max(int(each.notna().sum()) for each in readings.values())
    if most <= best.notna().sum():
        return best
    equal = {form: each for form, each in readings.items() if each.notna().sum() == most}
    first, *others = equal.values()
    if all(first.equals(other) for other in others):
        return first
    ordered = [each for each in equal.values() if _inferred(each.dropna().unique().sort_values())]
    if len(ordered) == 1:
        return ordered[0]
    raise DataError(
        f"{where}: the time column '{name}' can be read as {one_of(equal)}: "
        f"{str(values[there].iloc[0])!r}; write stamps as 2024-01-31"
    )


def _by(values: pd.Series, form: str, utc: bool) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(pd.to_datetime(values, errors="coerce", utc=utc, format=form))


def offsets(column: pd.Series) -> np.ndarray | None:
    """Return each stamp's offset from UTC as it is written, or None where none has one."""
    zoned = isinstance(column.dtype, pd.DatetimeTZDtype)
    if pd.api.types.is_numeric_dtype(column) or (
        pd.api.types.is_datetime64_any_dtype(column) and not zoned
    ):
        return None
    found = column.astype(str).str.extract(ZONE)[1]
    return found.fillna("none").to_numpy(str) if found.notna().any() else None


def frequency(index: pd.DatetimeIndex, where: str) -> str:
    """Return the pandas offset alias that fits sorted stamps without doubles best.

    Where stamps are missing, it is the one that the longest run without a gap has.

    Raises:
        DataError: fewer than 3 stamps, or no regular step.
    """
    if len(index) < 3:
        raise DataError(
            f"{where}: has {counted(len(index), 'stamp')}; needed: at least 3 to tell a frequency"
        )
    found = _inferred(index)
    if found:
        return found
    steps = np.diff(index.to_numpy())
    if (index.day_of_week < 5).all() and steps.min() == DAY and steps.max() >= 3 * DAY:
        return "B"  # a holiday is missing; the longest run without a gap is a week of days
    # Months differ in length: they are looked for in the longest stretch of steps like the usual.
    usual = pd.Series(steps).mode().iloc[0]
    near = (steps >= usual * 0.85) & (steps <= usual * 1.15)
    ends = np.flatnonzero(np.diff(np.concatenate([[0], near.astype(int), [0]])))
    runs = ends.reshape(-1, 2)
    begin, end = runs[np.argmax(runs[:, 1] - runs[:, 0])]
    found = _inferred(index[begin : end + 1]) if end - begin >= 2 else None
    if found is None and np.mean(steps == usual) > 0.5:
        found = pd.tseries.frequencies.to_offset(pd.Timedelta(usual)).freqstr
    if found is None:
        raise DataError(
            f"{where}: the stamps follow no regular step (most often {pd.Timedelta(usual)}, "
            f"{np.mean(steps == usual):.0%} of them); resample them first"
        )
    return found


def _inferred(index: pd.DatetimeIndex) -> str | None:
    """Return the alias that all stamps follow, or None."""
    if len(index) < 3:
        return None
    with pd.option_context("future.infer_freq_returns_offset", True):
        found: Any = pd.infer_freq(index)
    return found.freqstr if found is not None else None


def seasons(alias: str) -> tuple[int, ...]:
    """Return how many steps the usual seasons of a frequency have; 1 alone where it has none."""
    offset = pd.tseries.frequencies.to_offset(alias)
    base = str(offset.rule_code).split("-")[0]
    key = {"ME": "M", "MS": "M", "QE": "Q", "QS": "Q", "YE": "Y", "YS": "Y", "BME": "M", "BMS": "M"}
    known = SEASONS.get(key.get(base, base), (1,))
    return tuple(max(1, round(each / offset.n)) for each in known)


def regular(
    frame: pd.DataFrame, alias: str, fill: str, where: str
) -> tuple[pd.DataFrame, list[str]]:
    """Bring one series onto its frequency without gaps.

    Args:
        frame: columns of numbers, the index sorted stamps without doubles.
        alias: see `frequency`.
        fill: "none" (a gap is refused), "forward" (the last value stays) or "interpolate"
            (a straight line; at the ends the nearest value).
        where: for errors and notes.
    Returns:
        The frame, of float64 without NaN, and sentences that say what was filled.
    Raises:
        DataError: gaps or NaN while `fill` is "none"; stamps off the frequency, or so far apart that
            hardly any are there; a column of NaN alone.
    """
    first, last = frame.index[0], frame.index[-1]
    step = (first + pd.tseries.frequencies.to_offset(alias)) - first
    rows = (last - first) // step + 1 if step > pd.Timedelta(0) else len(frame)
    if rows > MOST_GAPS * len(frame):
        raise DataError(
            f"{where}: from {short_stamp(first)} to {short_stamp(last)} there are {rows:,} steps of "
            f"{alias} and only {len(frame):,} rows; is a stamp wrong?"
        )
    whole = pd.date_range(first, last, freq=alias)
    off = ~frame.index.isin(whole)
    if off.any():
        raise DataError(
            f"{where}: {_stamps(frame.index[off])} lie off the frequency {alias}; "
            "resample them first"
        )
    notes, empty = [], [name for name in frame if frame[name].isna().all()]
    if empty:
        raise DataError(f"{where}: '{empty[0]}' holds no number at all")
    missing = whole.difference(frame.index)
    holes = frame.isna()
    said = []
    if len(missing):
        are = "is" if len(missing) == 1 else "are"
        said.append(f"{counted(len(missing), 'stamp')} {are} missing ({_stamps(missing)})")
    for name in frame:
        if holes[name].any():
            at = frame.index[holes[name]]
            are = "is" if len(at) == 1 else "are"
            said.append(f"{counted(len(at), 'value')} of '{name}' {are} missing ({_stamps(at)})")
    if said and fill == "none":
        raise DataError(f"{where}: {'; '.join(said)}; give --fill forward or --fill interpolate")
    frame = frame.reindex(whole)
    if said:
        filled = frame.ffill() if fill == "forward" else frame.interpolate("time")
        frame = filled.bfill().ffill()
        how = "the value before" if fill == "forward" else "a straight line between neighbours"
        notes.append(f"{where}: {'; '.join(said)}; filled with {how}")
    return frame.astype(np.float64), notes


def _stamps(index: pd.DatetimeIndex) -> str:
    named = ", ".join(short_stamp(stamp) for stamp in index[:NAMED])
    return named + (", ..." if len(index) > NAMED else "")


def short_stamp(stamp: pd.Timestamp) -> str:
    """Return a stamp as text, its date alone where it is midnight."""
    return str(stamp.date()) if stamp == stamp.normalize() else str(stamp)


def _rows(wrong: np.ndarray) -> str:
    """Name rows by their number, from 1."""
    named = ", ".join(str(i + 1) for i in wrong[:NAMED])
    more = f" and {len(wrong) - NAMED:,} more" if len(wrong) > NAMED else ""
    return f"row{'s' * (len(wrong) > 1)} {named}{more}"
