"""What is odd in files that are read piece by piece, and told once all is read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from dlkit.data.calendar import short_stamp, stamps
from dlkit.data.tables import Columns
from dlkit.errors import DataError, counted, some_of

# Names that are told where many are meant.
NAMED = 3


class Unseen:
    """Names of categories that training did not know."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.found: dict[str, tuple[int, dict[str, None]]] = {}

    def look(self, raw: Mapping[str, np.ndarray]) -> None:
        """Count the rows of a piece that have them, and keep a few of the names."""
        for name, endpoint in self.columns.endpoint.items():
            other = ~pd.Series(raw[endpoint]).isin(["", *self.columns.categories[name]]).to_numpy()
            if other.any():
                rows, names = self.found.get(name, (0, {}))
                fresh = raw[endpoint][other][: NAMED + 1] if len(names) <= NAMED else []
                self.found[name] = rows + int(other.sum()), names | dict.fromkeys(fresh)

    def told(self) -> list[str]:
        """Return a sentence for each column."""
        return [
            f"column '{name}': {counted(rows, 'row')} with names that training did not know "
            f"({some_of(list(names), NAMED)}); scored as unseen"
            for name, (rows, names) in self.found.items()
        ]


class Lacking:
    """Numbers that are missing where training lacked none.

    Args:
        about: the export's manifest; of a table that does not say where training lacked numbers, as
            those of older runs, nothing is told.
        columns: what each column is.
    """

    def __init__(self, about: Mapping[str, Any], columns: Columns) -> None:
        self.names, self.filled = columns.numeric, about["kind"] == "series"
        self.expected = set() if self.filled else set(about.get("gaps", columns.numeric))
        self.rows = np.zeros(len(columns.numeric), int)

    def look(self, raw: Mapping[str, np.ndarray]) -> None:
        """Count those of a piece."""
        if self.names:
            self.rows += np.isnan(raw["rows"]).sum(0)

    def told(self) -> list[str]:
        """Return a sentence for each column."""
        how = (
            "filled with the value before"
            if self.filled
            else "which training never lacked; taken as typical"
        )
        return [
            f"{counted(int(n), 'row')} {'lacks' if n == 1 else 'lack'} '{name}', {how}"
            for name, n in zip(self.names, self.rows, strict=True)
            if n and name not in self.expected
        ]


class Clock:
    """The stamps of a file of a series, which must not fall: windows are taken in order of rows.

    Args:
        about: the export's manifest; without a column of stamps, or where the file has none, nothing
            is looked at.
        where: the file, for messages.
    """

    def __init__(self, about: Mapping[str, Any], where: str) -> None:
        self.name, self.alias = about.get("time"), about.get("frequency")
        self.where = where
        self.last = pd.DatetimeIndex([])
        self.twice = self.gaps = 0
        self.unread = ""

    def look(self, frame: pd.DataFrame, first: int) -> None:
        """Look at the next rows.

        Args:
            frame: the rows.
            first: number of the first of them in the file.
        Raises:
            DataError: a stamp is earlier than the one before.
        """
        if self.name is None or self.name not in frame:
            return
        column = frame[self.name]
        text = isinstance(column.dtype, pd.StringDtype)  # years of a .csv are text as well
        numbers = pd.to_numeric(column, errors="coerce") if text else column
        try:
            index = stamps(numbers if numbers.notna().all() else column, self.where, self.name)
        except DataError as error:  # a piece may hold too few to tell days from months
            self.unread, self.last = self.unread or str(error), self.last[:0]
            return
        index = self.last.append(index)
        falls = np.flatnonzero(index[1:] < index[:-1])
        if len(falls):
            at = int(falls[0])
            raise DataError(
                f"{self.where}: '{self.name}' falls from {short_stamp(index[at])} to "
                f"{short_stamp(index[at + 1])} in row {first + at + 1 - len(self.last):,}; windows "
                "are taken in the order of the rows: sort the file first"
            )
        self.twice += int((index[1:] == index[:-1]).sum())
        if self.alias is not None:
            with warnings.catch_warnings():  # some offsets are added one by one
                warnings.simplefilter("ignore", pd.errors.PerformanceWarning)
                later = index[:-1] + 2 * pd.tseries.frequencies.to_offset(self.alias)
            self.gaps += int((index[1:] >= later).sum())
        self.last = index[-1:]

    def told(self) -> list[str]:
        """Return sentences on what was odd."""
        found = []
        if self.unread:
            found.append(f"{self.unread}; rows are taken in the order in which they stand")
        if self.twice:
            found.append(
                f"{self.where}: {counted(self.twice, 'stamp')} there more than once; all rows are kept"
            )
        if self.gaps:
            found.append(
                f"{self.where}: stamps missing in {counted(self.gaps, 'place')} at frequency "
                f"{self.alias}; windows run over the gaps"
            )
        return found
