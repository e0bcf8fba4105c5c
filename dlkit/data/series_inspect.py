"""What a table of series holds, reported and not refused: its stamps and its values.

First the stamps, gaps, doubles and values of each series, then its trend, seasons and stationarity.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from dlkit.data.calendar import frequency, offsets, read_stamps, stamps
from dlkit.data.series_sources import Roles, find_roles, read
from dlkit.errors import DataError, counted

# Gaps, stamps and rows that are named where there are more.
NAMED = 5
# Stamps of a series' whole span for each row that it has, past which it is not laid on its grid.
SPARSE = 50


@dataclass(frozen=True)
class Inspected:
    """One series.

    Attributes:
        name: "" where there is only one.
        rows: its rows in the table, by time; of doubles the first comes first.
        first: of `rows`, those that stand first at their stamp.
        at: steps after the first regular stamp of each of `rows[first]`; -1 off the frequency.
        origin: the first regular stamp.
        stamps: see `_stamps`.
        missing, infinite: number of NaN and of infinite values by column.
        targets: see `_values`, by name.
    """

    name: str
    rows: np.ndarray
    first: np.ndarray
    at: np.ndarray
    origin: pd.Timestamp
    stamps: dict[str, Any]
    missing: dict[str, int]
    infinite: dict[str, int]
    targets: dict[str, dict[str, Any]]

    @property
    def empty(self) -> list[str]:
        """Columns without any number."""
        return [name for name, n in self.missing.items() if n == len(self.rows)]

    @property
    def sparse(self) -> bool:
        """Whether its span is too long for its rows to be laid on a grid."""
        return int(self.at.max(initial=0)) > SPARSE * len(self.rows) + 100_000

    @property
    def troubled(self) -> bool:
        """Whether there is anything to mend."""
        found, constant = self.stamps, any(t["constant"] for t in self.targets.values())
        wrong = ("missing", "duplicates", "irregular", "unsorted", "offset_changes")
        holes = (*self.missing.values(), *self.infinite.values())
        return constant or any(holes) or any(found[k] for k in wrong)


@dataclass(frozen=True)
class Inspection:
    """All series of a source.

    Attributes:
        source: the string that names it.
        roles: what each column is.
        alias: the frequency, of the longest series as in training; None where there is none.
        series: each, by name.
        index: stamps of the table's rows.
        values: float64 `(rows, columns)`: targets, past, future, static; infinite ones are NaN.
        problems: sentences on the table as a whole.
    """

    source: str
    roles: Roles
    alias: str | None
    series: list[Inspected]
    index: pd.DatetimeIndex
    values: np.ndarray
    problems: list[str] = field(default_factory=list)

    def regular(self, one: Inspected) -> tuple[pd.DatetimeIndex, np.ndarray]:
        """Return a series on its frequency, float64 `(n, targets)`, NaN where a value is missing.

        What is off the frequency is left out, of doubles the first is kept. Without a frequency, or
        where the span is far too long for the rows, the rows are taken as they follow each other.
        """
        rows = one.rows[one.first]
        values = self.values[rows, : len(self.roles.targets)]
        on = one.at >= 0
        if self.alias is None or one.sparse or not on.any():
            return self.index[rows], values
        whole = np.full((int(one.at.max()) + 1, values.shape[1]), np.nan)
        whole[one.at[on]] = values[on]
        return pd.date_range(one.origin, periods=len(whole), freq=self.alias), whole


def inspect_series(
    source: str, roles: Roles, data_dir: str | None = None, download: bool = True
) -> Inspection:
    """Read a source and report its stamps and values.

    Raises:
        DataError: a source that cannot be read, a column that is not there or not of its kind, no
            column of stamps or nothing to forecast.
    """
    where, problems = f"--data {source}", []
    frame = read(source, data_dir, download)
    numbers = frame.select_dtypes("number").columns
    endless = [c for c in numbers if np.isinf(frame[c].to_numpy(np.float64, na_value=np.nan)).any()]
    # Training refuses these; here they are counted below.
    tame = frame.replace({c: [np.inf, -np.inf] for c in endless}, np.nan) if endless else frame
    roles = find_roles(tame, roles, where)
    assert roles.time is not None
    index, good = _read_stamps(frame[roles.time], where, roles.time)
    if not good.all():
        wrong = np.flatnonzero(~good)
        named = ", ".join(str(row + 1) for row in wrong[:NAMED])
        more = ", ..." if len(wrong) > NAMED else ""
        problems.append(
            f"{counted(len(wrong), 'row')} without a stamp that can be read (row {named}{more}), "
            "left out here"
        )
        frame = frame[good].reset_index(drop=True)
    if roles.series_id and frame[roles.series_id].isna().any():
        named = frame[roles.series_id].notna().to_numpy()
        if not named.any():
            raise DataError(f"--series-id: '{roles.series_id}' of {where} names no series at all")
        problems.append(
            f"{counted(int((~named).sum()), 'row')} without a name of a series, left out here"
        )
        frame, index = frame[named].reset_index(drop=True), index[named]
    written = offsets(frame[roles.time])
    columns = [*roles.targets, *roles.past, *roles.future, *roles.static]
    values = np.column_stack([frame[c].to_numpy(np.float64, na_value=np.nan) for c in columns])
    groups = [("", np.arange(len(frame)))]
    if roles.series_id:
        codes, names = pd.factorize(frame[roles.series_id].astype(str), sort=True)
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(len(names) + 1))
        groups = [
            (str(name), order[starts[i] : starts[i + 1]]) for i, name in enumerate(names)
        ]  # rows of each series, as they stand in the table
    sorted_rows = []
    for _, rows in groups:
        by_time = rows[np.argsort(index.to_numpy()[rows], kind="stable")]
        own = index.to_numpy()[by_time]
        sorted_rows.append((by_time, np.concatenate([[True], own[1:] != own[:-1]])))
    alias = None
    try:
        rows, first = max(sorted_rows, key=lambda each: int(each[1].sum()))
        alias = frequency(index[rows[first]], "the longest series" if roles.series_id else source)
    except DataError as error:
        problems.append(f"no frequency: {error}")
    series = []
    for (name, rows), (by_time, first) in zip(groups, sorted_rows, strict=True):
        unique = index[by_time[first]]
        at, origin = positions(unique, alias)
        whole = values[by_time]
        zones = written[rows] if written is not None else None
        counts = (np.isnan(whole).sum(0).tolist(), np.isinf(whole).sum(0).tolist())
        missing, infinite = (dict(zip(columns, each, strict=True)) for each in counts)
        targets = {t: _values(whole[:, i]) for i, t in enumerate(roles.targets)}
        found = _stamps(index[rows], unique, first, at, origin, alias, zones)
        series.append(
            Inspected(name, by_time, first, at, origin, found, missing, infinite, targets)
        )
    if not roles.series_id and series[0].stamps["duplicates"]:
        text = [c for c in frame.select_dtypes(exclude=["number", "datetime"]) if c != roles.time]
        telling = [c for c in text if not frame.duplicated([roles.time, c]).any()]
        if telling:
            problems.append(
                f"no stamp of a '{telling[0]}' stands there more than once: give --series-id "
                f"{telling[0]} if it tells series apart"
            )
    values[np.isinf(values)] = np.nan
    return Inspection(source, roles, alias, series, index, values, problems)


def _read_stamps(column: pd.Series, where: str, name: str) -> tuple[pd.DatetimeIndex, np.ndarray]:
    """Return the stamps that can be read, and which rows hold them."""
    good = column.notna().to_numpy(copy=True)
    found = read_stamps(column[good], where, name)
    if found.isna().all():
        stamps(column, where, name)  # says which
    good[good] = found.notna()
    return found.dropna(), good


def positions(index: pd.DatetimeIndex, alias: str | None) -> tuple[np.ndarray, pd.Timestamp]:
    """Return how many steps each stamp lies after the first regular one, -1 off the frequency.

    Args:
        index: sorted stamps without doubles.
        alias: of the frequency; None takes the stamps as they follow each other.
    Returns:
        int64 `(n,)`, and the first regular stamp: the first that most others agree with.
    """
    best = (np.arange(len(index), dtype=np.int64), index[0])
    if alias is None:
        return best
    offset: Any = pd.tseries.frequencies.to_offset(alias)
    kept = -1
    for k in range(min(len(index), 10)):
        if isinstance(offset, (pd.offsets.Tick, pd.offsets.Day)):
            # By division: a grid from one stray stamp far away could be as long as memory.
            step = ((index[k] + offset) - index[k]).to_timedelta64()
            steps, rest = np.divmod(index.to_numpy() - index.to_numpy()[k], step)
            at = np.where((rest == np.timedelta64(0)) & (steps >= 0), steps, -1).astype(np.int64)
        else:
            at = pd.date_range(index[k], index[-1], freq=alias).get_indexer(index).astype(np.int64)
        agreed = int((at >= 0).sum())
        if agreed > kept:
            begin = int(np.argmax(at >= 0))
            best, kept = (np.where(at >= 0, at - at[begin], -1), index[begin]), agreed
        if 2 * agreed > len(index):
            break
    return best


def _stamps(
    index: pd.DatetimeIndex,
    unique: pd.DatetimeIndex,
    first: np.ndarray,
    at: np.ndarray,
    origin: pd.Timestamp,
    alias: str | None,
    zones: np.ndarray | None,
) -> dict[str, Any]:
    """Describe the stamps of one series as plain values."""
    offset: Any = pd.tseries.frequencies.to_offset(alias) if alias else None
    on, off = unique[at >= 0], unique[at < 0]
    steps = np.diff(at[at >= 0])
    gaps = np.flatnonzero(steps > 1) if alias else np.array([], int)
    again = unique[np.add.reduceat(~first, np.flatnonzero(first)) > 0]
    own = None
    if len(off) > len(unique) / 10:
        try:
            own = frequency(unique, "")
        except DataError:
            own = None
    return {
        "first": str(unique[0]),
        "last": str(unique[-1]),
        "rows": len(index),
        "frequency": alias if own is None else own,
        "missing": int((steps[gaps] - 1).sum()),
        "gaps": len(gaps),
        "longest_gap": int((steps[gaps] - 1).max(initial=0)),
        "first_gaps": [
            {"from": str(on[i] + offset), "to": str(on[i + 1] - offset), "stamps": int(steps[i] - 1)}
            for i in gaps[:NAMED]
        ],
        "duplicates": len(again),
        "duplicate_rows": int((~first).sum()),
        "first_duplicates": [str(stamp) for stamp in again[:NAMED]],
        "irregular": len(off),
        "first_irregular": [str(stamp) for stamp in off[:NAMED]],
        "unsorted": int((np.diff(index.to_numpy()) < np.timedelta64(0)).sum()),
        "utc_offsets": sorted(set(zones.tolist())) if zones is not None else [],
        "offset_changes": int((zones[1:] != zones[:-1]).sum()) if zones is not None else 0,
    }  # fmt: skip


def _values(column: np.ndarray) -> dict[str, Any]:
    """Describe the finite values of one target as plain values; None where there are none."""
    held = column[np.isfinite(column)]
    if not len(held):
        return {"values": 0} | dict.fromkeys(
            ("min", "mean", "max", "deviation", "constant", "zeros")
        )
    return {
        "values": len(held),
        "min": float(held.min()),
        "mean": float(held.mean()),
        "max": float(held.max()),
        "deviation": float(held.std()),
        "constant": bool(held.min() == held.max()),
        "zeros": float((held == 0).mean()),
    }
