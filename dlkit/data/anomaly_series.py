"""Series for a detector: windows gathered from a table of stamps and channels, split by time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dlkit.data import series_sources, tables
from dlkit.data.anomalies import FEWEST, HELD_OUT, TRAINED, AnomalyData, Examples
from dlkit.data.anomaly_tables import said_of_labels
from dlkit.data.calendar import NAMED, frequency, short_stamp, stamps
from dlkit.data.spec import DetectorSpec
from dlkit.errors import DataError, counted, nearest, some_of

# Steps of a window unless said, and least.
WINDOW, SHORTEST = 64, 4


@dataclass(frozen=True)
class Rows:
    """The rows that windows are gathered from, in order of time.

    Attributes:
        values: float32 `(n, channels)`, raw, without gaps.
        y: int32 `(n,)`: 0 normal, 1 anomalous, -1 not known.
        stamps: datetime64 `(n,)`.
        window: steps of a window.
        ends: the rows after the last of training, of the held-out span and of the test.
    """

    values: np.ndarray
    y: np.ndarray
    stamps: np.ndarray
    window: int
    ends: tuple[int, int, int]


def per_row(at: np.ndarray, scores: np.ndarray, window: int, count: int) -> np.ndarray:
    """Return the score of each row: the mean of the scores of the windows that cover it.

    Args:
        at: first rows of the windows, `(m,)`, no two the same.
        scores: of each window, `(m,)`.
        window: steps of a window.
        count: number of rows.
    Returns:
        float64 `(count,)`, NaN where no window covers a row.
    """
    total, covered = np.zeros(count), np.zeros(count)
    for step in range(window):
        total[at + step] += scores
        covered[at + step] += 1
    return np.divide(total, covered, out=np.full(count, np.nan), where=covered > 0)


def load_windows(
    source: str,
    *,
    time: str | None,
    channels: Sequence[str],
    ignored: Sequence[str],
    label: str | None,
    normal: Sequence[str],
    window: int | None,
    contaminated: bool,
) -> AnomalyData:
    """Load a table of stamps and channels as a detector's data.

    Rows are put in order of time and taken as equally far apart. The first half of them trains, its
    last fifth held out, the rest tests; no window reaches from one split into another. An example is
    known by the row that its window begins with; it is anomalous if any of its rows is.

    Args:
        source: see `series_sources.kind_of`; no tfds set.
        time: the column of stamps; None: found by its name or content.
        channels: columns of numbers; empty: all of them.
        ignored: columns left out.
        label, normal: see `tables.labels`; a label for each row.
        window: steps; None: 64, fewer for a short series.
        contaminated: train on windows with labelled anomalies as well.
    Raises:
        DataError: see `series_sources` and `tables`; too few rows or normal windows.
    """
    where, notes = f"--data {source}", []
    check_source(source)
    frame = series_sources.read(source)
    asked = {"--time": [time] if time else [], "--channels": channels, "--ignore": ignored}
    for flag, names in asked.items():
        for name in names:
            if name not in frame:
                raise DataError(
                    f"{flag}: {where} has no column '{name}'{nearest(name, frame.columns)}; it "
                    f"has: {some_of(list(frame.columns))}"
                )
    y = tables.labels(frame, label, normal, where)
    free = [c for c in frame.columns if c not in (label, *channels)]
    time = time or series_sources.time_column(frame, free, where)
    index = stamps(frame[time], where, time)
    chosen = list(channels) or [c for c in frame.columns if c not in (time, label)]
    frame = frame[chosen]
    if not index.is_monotonic_increasing:
        order = np.argsort(index.to_numpy(), kind="stable")
        frame, index = frame.iloc[order], index[order]
        y = y if y is None else y[order]
        notes.append(f"{where}: the stamps were not in order and have been sorted")
    alias = said_of_stamps(index, where, notes)
    ignored = [name for name in ignored if name in frame]
    values = filled(frame, ignored, channels, where, notes)
    names, array = tuple(values.columns), values.to_numpy(np.float32)

    n = len(array)
    trained = round(TRAINED * n)
    ends = (trained - round(HELD_OUT * trained), trained, n)
    window = fitting_window(window, ends, where, notes)
    known = np.full(n, -1, np.int32) if y is None else y.astype(np.int32)
    splits = cut(known, ends, window, contaminated, where, notes)
    notes += said_of_labels(y, contaminated, label)

    import tensorflow as tf

    from dlkit.data.table_scaler import fit_scaler
    from dlkit.data.window_scaler import WindowScaler

    columns = tables.Columns(names, {})
    fitted = fit_scaler({"rows": trained_rows(array, splits[0], window)}, columns, notes)
    scaler = WindowScaler(fitted.mean, fitted.deviation, name="scale")
    scaled = scaler({"window": array})
    steps = np.arange(window)
    return AnomalyData(
        source=source,
        train=splits[0],
        holdout=splits[1],
        test=splits[2],
        spec=DetectorSpec(
            input_shape=(window, len(names)), outputs=window * len(names), kind="series"
        ),
        inputs=lambda at: {"window": array[at[:, None] + steps]},
        arrays=lambda at: (at,),
        prepare=lambda at: tf.gather(scaled, at[:, None] + steps),  # (b, window, channels)
        preprocess=scaler,
        columns=names,
        about={"columns": list(names), "window": window, "time": time, "label": label}
        | {"frequency": alias},
        contaminated=contaminated,
        notes=notes,
        series=Rows(array, known, index.to_numpy(), window, ends),
        restore=scaler.restore,
    )


def check_source(source: str) -> None:
    """Check a source as far as is possible without reading it.

    Raises:
        DataError: see `series_sources.kind_of`; a tfds set.
    """
    if series_sources.kind_of(source) == "tfds":
        raise DataError(f"--data {source}: accepted for series: a .csv, .parquet or .jsonl file")


def said_of_stamps(index: pd.DatetimeIndex, where: str, notes: list[str]) -> str | None:
    """Return the frequency, or None for none; tell of doubles and gaps, which are left as they are.

    Raises:
        DataError: most stamps stand there more than once.
    """
    twice = index[index.duplicated()]
    if 2 * len(twice) >= len(index):
        raise DataError(
            f"{where}: most stamps stand there more than once, such as {short_stamp(twice[0])}; "
            "accepted: one series"
        )
    if len(twice):
        named = ", ".join(short_stamp(stamp) for stamp in twice[:NAMED])
        notes.append(
            f"{where}: {counted(len(twice), 'stamp')} there more than once ({named}), as where a "
            "clock is set back; all rows are kept"
        )
    once = index[~index.duplicated()]
    try:
        alias = frequency(once, where)
    except DataError:
        notes.append(f"{where}: the stamps follow no regular step; rows are taken as equally apart")
        return None
    step: Any = pd.tseries.frequencies.to_offset(alias)
    if isinstance(step, pd.tseries.offsets.Tick):  # one wrong stamp may be years of seconds away
        missing = (once[-1] - once[0]) // pd.Timedelta(step) + 1 - len(once)
    else:
        missing = len(pd.date_range(once[0], once[-1], freq=step).difference(once))
    if missing > 0:
        notes.append(
            f"{where}: {counted(missing, 'stamp')} missing at frequency {alias}; windows run over "
            "the gaps"
        )
    return alias


def filled(
    frame: pd.DataFrame,
    ignored: Sequence[str],
    channels: Sequence[str],
    where: str,
    notes: list[str],
) -> pd.DataFrame:
    """Return the channels, float32, what is missing filled with the value before.

    Raises:
        DataError: text among numbers, infinities, or no channel left.
    """
    columns = tables.find_columns(frame, ignored, where, notes)
    for name in columns.categories:
        if name in channels:
            tables.inputs(frame, tables.Columns((name,), {}), where)  # says which row is no number
        notes.append(f"column '{name}' holds no numbers and is left out")
    if not columns.numeric:
        raise DataError(f"{where}: no channel of numbers; it has: {some_of(list(frame.columns))}")
    plain = tables.Columns(columns.numeric, {})
    values = pd.DataFrame(tables.inputs(frame, plain, where)["rows"], columns=columns.numeric)
    for name in values:
        missing = int(values[name].isna().sum())
        if missing:
            notes.append(
                f"{counted(missing, 'value')} of '{name}' missing; filled with the value before"
            )
    return values.ffill().bfill()


def fitting_window(
    window: int | None, ends: tuple[int, int, int], where: str, notes: list[str]
) -> int:
    """Return the steps of a window, such that the held-out span has windows enough.

    Raises:
        DataError: too few rows, or a window that is too long for them.
    """
    held = ends[1] - ends[0]
    longest = held - FEWEST + 1
    if longest < SHORTEST:
        least = round((SHORTEST + FEWEST) / (TRAINED * HELD_OUT))
        raise DataError(f"{where}: has {counted(ends[2], 'row')}; accepted: at least {least}")
    if window is None:
        window = min(WINDOW, max(SHORTEST, held // 2))
        if window < WINDOW:
            notes.append(
                f"{counted(ends[2], 'row')}: windows of {window} steps, not {WINDOW}; choose "
                "another length with --window"
            )
    elif not SHORTEST <= window <= longest:
        raise DataError(
            f"--window: got {window}; accepted for the {counted(ends[2], 'row')} of {where}: "
            f"{SHORTEST} to {longest}"
        )
    return window


def cut(
    y: np.ndarray,
    ends: tuple[int, int, int],
    window: int,
    contaminated: bool,
    where: str,
    notes: list[str],
) -> tuple[Examples, Examples, Examples]:
    """Return the windows of each span, those to train on or hold out without labelled anomalies.

    Raises:
        DataError: fewer than 10 windows are left of a span.
    """
    before = np.concatenate([[0], np.cumsum(y == 1)])
    found, left_out = [], 0
    for begin, end in zip((0, *ends[:2]), ends, strict=True):
        at = np.arange(begin, end - window + 1)
        touched = before[at + window] > before[at]
        if end <= ends[1] and not contaminated:
            left_out += int(touched.sum())
            at, touched = at[~touched], touched[~touched]
        if len(at) < FEWEST:
            raise DataError(
                f"{where}: of rows {begin + 1:,} to {end:,} {counted(len(at), 'window')} hold no "
                f"labelled anomaly; needed: {FEWEST}; try a shorter --window, or --contaminated"
            )
        known = np.where(y[at] < 0, -1, touched).astype(np.int32)
        found.append(Examples(at, known))
    said = f"split by time: rows 1 to {ends[0]:,} train, to {ends[1]:,} held out, the rest test"
    if left_out:
        said += f"; {counted(left_out, 'window')} with labelled anomalies left out of the first two"
    notes.append(said)
    return tuple(found)  # type: ignore[return-value]


def trained_rows(values: np.ndarray, train: Examples, window: int) -> np.ndarray:
    """Return the rows that windows of the training split cover."""
    covered = np.zeros(len(values), bool)
    for step in range(window):
        covered[train.at + step] = True
    return values[covered]
