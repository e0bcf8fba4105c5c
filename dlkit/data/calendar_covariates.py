"""Covariates that stamps alone give: where in the day, the week and the year a step lies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dlkit.errors import DataError, OptionError

PREFIX = "calendar:"
# Waves a cycle: the second lets a cycle rise faster than it falls.
WAVES = 2
# The cycles that steps of a frequency go through, by pandas' alias without its anchor; those of the
# others, from a week to a quarter, go through the year alone.
CYCLES = {
    **dict.fromkeys(("ns", "us", "ms", "s", "min", "h"), ("day", "week")),
    **dict.fromkeys(("D", "B"), ("week", "year")),
    **dict.fromkeys(("YE", "YS", "BYE", "BYS"), ()),
}
# Days a cycle, and how many a series has to hold: of fewer, a wave is a trend that does not last.
DAYS, CYCLES_HELD = {"day": 1, "week": 7, "year": 365}, 3


def calendar_names(alias: str, index: pd.DatetimeIndex, notes: list[str]) -> tuple[str, ...]:
    """Return the names of the covariates of a series, such as `calendar:year sin 1`.

    Args:
        alias: pandas' name of the frequency.
        index: the stamps of the longest series. A cycle is left out of which it holds fewer than 3.
        notes: gets a sentence about what is left out.
    Raises:
        OptionError: steps of years, which are alike in the calendar.
        DataError: a series that is too short for all cycles.
    """
    offset = pd.tseries.frequencies.to_offset(alias)
    cycles = CYCLES.get(str(offset.rule_code).split("-")[0], ("year",))
    if not cycles:
        raise OptionError(
            f"--calendar: got rows every {alias}; accepted: every quarter or more often"
        )
    days = (index[-1] - index[0]) / pd.Timedelta(days=1) + 1
    held = [cycle for cycle in cycles if days >= CYCLES_HELD * DAYS[cycle]]
    if not held:
        raise DataError(
            f"--calendar: got series of {days:,.0f} days; accepted: series of at least "
            f"{CYCLES_HELD} {cycles[0]}s"
        )
    if left_out := [cycle for cycle in cycles if cycle not in held]:
        notes.append(
            f"--calendar: the {left_out[0]} is left out: the series hold fewer than {CYCLES_HELD}"
        )
    return tuple(
        f"{PREFIX}{cycle} {wave} {k}"
        for cycle in held
        for k in range(1, WAVES + 1)
        for wave in ("sin", "cos")
    )


def in_table(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names that a table has to have: all but those of the calendar."""
    return tuple(name for name in names if not name.startswith(PREFIX))


def with_calendar(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return a table with the covariates of the calendar among these names behind its columns.

    A cycle runs from 0 to 1 over the day from midnight, over the week from Monday, over the year from
    the first of January, leap or not; `sin 2` is the sine of its second wave, in [-1, 1].

    Args:
        frame: its index are stamps.
        names: of columns, others among them.
    """
    index = pd.DatetimeIndex(frame.index)
    day = ((index - index.normalize()) / pd.Timedelta(days=1)).to_numpy(np.float64)
    position = {
        "day": day,
        "week": (index.day_of_week.to_numpy() + day) / 7,
        "year": (index.day_of_year.to_numpy() - 1 + day) / np.where(index.is_leap_year, 366, 365),
    }
    found = {}
    for name in names:
        if name.startswith(PREFIX):
            cycle, wave, k = name.removeprefix(PREFIX).split(" ")
            found[name] = getattr(np, wave)(2 * np.pi * int(k) * position[cycle])
    return frame.assign(**found)
