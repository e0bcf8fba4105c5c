"""Series to forecast: a table in, windows of scaled numbers out, split by time."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from dlkit.data.calendar import frequency, regular
from dlkit.data.calendar_covariates import calendar_names, in_table, with_calendar
from dlkit.data.season import season_of, usual_horizon
from dlkit.data.series_sources import NAMED, Roles, find_roles, read, static_of, table_parts
from dlkit.data.series_split import cuts
from dlkit.data.spec import SeriesSpec
from dlkit.errors import DataError, OptionError, counted

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Span:
    """Where one series lies in the rows of all, and how it is cut by time.

    Attributes:
        name: of the series; "" where there is only one.
        begin: its first row.
        ends: the rows after the last of train, validation and test.
        first: its first stamp.
    """

    name: str
    begin: int
    ends: tuple[int, int, int]
    first: pd.Timestamp


@dataclass(frozen=True)
class SeriesData:
    """Series on one frequency, cut by time.

    Attributes:
        source: the string that names it.
        rows: all series end to end, float64 `(n, channels)` in their own units: the targets, the
            past covariates, the future covariates.
        static: float32 `(series, static)`.
        spans: of each series.
        spec: what a model must know.
        roles: what each column is.
        alias: pandas' name of the frequency.
        season: steps of a season, 1 for none.
        mean, deviation: of each channel over the training spans, float64 `(channels,)`; what is
            constant there has a deviation of 1.
        static_mean, static_deviation: the same of static features, over the series.
        notes: sentences a user should read.
    """

    source: str
    rows: np.ndarray
    static: np.ndarray
    spans: tuple[Span, ...]
    spec: SeriesSpec
    roles: Roles
    alias: str
    season: int
    mean: np.ndarray
    deviation: np.ndarray
    static_mean: np.ndarray
    static_deviation: np.ndarray
    notes: list[str] = field(default_factory=list)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the channels, in the order of the rows."""
        return (*self.roles.targets, *self.roles.past, *self.roles.future)

    @functools.cached_property
    def scaled(self) -> np.ndarray:
        """The rows less the mean, over the deviation, of the training spans."""
        return (self.rows - self.mean) / self.deviation

    def starts(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return where each window of a split starts, and of which series it is.

        A window belongs to the split that its whole horizon lies in; what it looks back on may lie
        before. None is left out.

        Returns:
            Row numbers int64 `(n,)`, and numbers of series int32 `(n,)`, in order.
        """
        lookback, horizon = self.spec.input_shape[0], self.spec.horizon
        at = SPLITS.index(split)
        found, owners = [], []
        for number, span in enumerate(self.spans):
            low = span.begin if at == 0 else max(span.begin, span.ends[at - 1] - lookback)
            high = span.ends[at] - lookback - horizon
            found.append(np.arange(low, high + 1, dtype=np.int64))
            owners.append(np.full(len(found[-1]), number, np.int32))
        return np.concatenate(found), np.concatenate(owners)

    def stamps(self, span: Span) -> pd.DatetimeIndex:
        """Return the stamps of a series' rows."""
        return pd.date_range(span.first, periods=span.ends[2] - span.begin, freq=self.alias)

    def known_until(self) -> dict[str, str]:
        """Return the last stamp of training and validation, by series."""
        return {
            span.name: str(self.stamps(span)[span.ends[1] - span.begin - 1]) for span in self.spans
        }

    def windows_of(self, rows: np.ndarray, split: str) -> np.ndarray:
        """Return what the windows of a split forecast, `(n, horizon, targets)`, of these rows."""
        starts = self.starts(split)[0] + self.spec.input_shape[0]
        return gathered(rows[:, : self.spec.outputs], starts, self.spec.horizon)

    def fingerprint(self) -> str:
        """Return a sha256 over every row and cut, in order."""
        whole = hashlib.sha256(repr((self.columns, self.alias)).encode())
        whole.update(np.ascontiguousarray(self.rows).data)
        whole.update(np.ascontiguousarray(self.static).data)
        for span in self.spans:
            whole.update(repr((span.name, span.begin, span.ends, str(span.first))).encode())
        return whole.hexdigest()

    def sizes(self) -> dict[str, int]:
        """Return the number of windows of each split."""
        return {name: len(self.starts(name)[0]) for name in SPLITS}

    def describe(self) -> str:
        """Say what was loaded, in one line."""
        lookback, channels = self.spec.input_shape
        of = f"{len(self.spans):,} series of " if len(self.spans) > 1 else ""
        sizes = ", ".join(f"{n:,} {name}" for name, n in self.sizes().items())
        return (
            f"data {self.source}: {of}{channels} channel{'s' * (channels > 1)}, "
            f"{len(self.rows):,} rows, every {self.alias}, season {self.season}; lookback "
            f"{lookback}, horizon {self.spec.horizon}; windows {sizes}"
        )


def load_series(
    source: str,
    *,
    roles: Roles | None = None,
    fill: str = "none",
    split: str = "70/10/20",
    lookback: int | None = None,
    horizon: int | None = None,
    season: int | None = None,
    quantiles: tuple[float, ...] = (),
    joint: bool = False,
    calendar: bool = False,
    strict: bool = False,
    data_dir: str | None = None,
    download: bool = True,
) -> SeriesData:
    """Load series, bring them onto their frequency and cut them by time.

    Args:
        source: `sunspots`, `elnino` or `co2` (statsmodels), a `.csv`, `.parquet` or `.jsonl` file,
            or `tfds:NAME`.
        roles: what the columns are; what is not said is found.
        fill: what is done about gaps, see `regular`.
        split: see `cuts`; each series of a panel is cut by it.
        lookback: steps that a model sees; three times the larger of horizon and season if None, at
            most a third of the training rows.
        horizon: steps to forecast; see `usual_horizon` if None.
        season: steps of a season; by the frequency and the training span's autocorrelation if None.
        quantiles, joint: see `SeriesSpec`.
        calendar: add to the future covariates what `calendar_names` finds for the series. Such names
            among those of `roles` are computed too, whatever the series.
        strict: refuse a panel with a series that cannot be used; else it is left out, and said.
        data_dir, download: of tensorflow-datasets.
    Raises:
        DataError: a source or column that cannot be used, gaps while `fill` is "none", a series
            that is too short for lookback and horizon, or constant.
        OptionError: a split that is not accepted; a calendar of years.
    """
    where, notes = f"--data {source}", []
    frame = read(source, data_dir, download)
    roles = find_roles(frame, roles or Roles(), where)
    parts = table_parts(frame, roles, where, notes)
    longest = max((each.index for _, each in parts), key=len)
    alias = frequency(longest, where)
    if calendar:
        names = calendar_names(alias, longest, notes)
        roles = roles._replace(future=(*roles.future, *names))
    columns = [*roles.targets, *roles.past, *in_table(roles.future)]
    kept: list[tuple[str, pd.DataFrame]] = []
    static: dict[str, np.ndarray] = {}
    filled: dict[str, np.ndarray] = {}
    refused: list[str] = []
    ahead = 0
    for name, part in parts:
        try:
            known = without_end(part, roles.targets)
            ahead += len(part) - len(known)
            whole, said = regular(known[columns], alias, fill, f"series {name}" if name else where)
            filled[name] = known[list(roles.targets)].reindex(whole.index).isna().to_numpy()
            whole = with_calendar(whole, roles.future)
            static[name] = static_of(part, roles, name)
            varies = [(whole[t] != whole[t].iloc[0]).any() for t in roles.targets]
            if not any(varies):
                raise DataError(f"{f'series {name}' if name else where}: is constant")
        except DataError as error:
            if not name or strict or "--fill" in str(error):
                raise
            refused.append(str(error))
            continue
        notes += said
        for target, moves in zip(roles.targets, varies, strict=True):
            if not moves:
                notes.append(f"'{target}'{f' of series {name}' if name else ''} is constant")
        kept.append((name, whole))
    if not kept:
        raise DataError(f"{where}: no series can be used: {refused[0]}")
    if ahead:
        notes.append(f"{counted(ahead, 'row')} at the end without a target, left out")
    ends: dict[str, tuple[int, int, int]] = {}
    for name, part in kept:
        try:
            ends[name] = cuts(split, part.index)
        except OptionError as error:
            if not name or strict:
                raise
            refused.append(f"series {name}: {error}")
    if not ends:  # the split itself is at fault
        cuts(split, kept[0][1].index)
    kept = [(name, part) for name, part in kept if name in ends]
    most = max(each[0] for each in ends.values())
    if season is None:
        season = season_of(kept, ends, alias)
    elif season >= most:
        raise OptionError(
            f"--season: got {season}; accepted: 1 to {most - 1}, of {most} training rows"
        )
    horizon = horizon or usual_horizon(season)
    shortest = min(each[0] for each in ends.values()) if len(kept) == 1 else None
    if lookback is None:
        lookback = 3 * max(horizon, season)
        if shortest:
            lookback = max(1, min(lookback, shortest // 3))
    long_enough = []
    for name, part in kept:
        needed = lookback + horizon
        last = ends[name]
        short = last[0] < needed or last[1] - last[0] < horizon
        if short or (last[2] > last[1] and last[2] - last[1] < horizon):
            message = (
                f"{f'series {name}' if name else where}: {last[0]:,} training, "
                f"{last[1] - last[0]:,} validation and {last[2] - last[1]:,} test rows; a lookback "
                f"of {lookback} and a horizon of {horizon} need {needed:,}, {horizon} and {horizon}"
            )
            if not name or strict:
                raise DataError(message)
            refused.append(message)
            continue
        long_enough.append((name, part))
    if not long_enough:
        raise DataError(f"{where}: no series can be used: {refused[-1]}")
    untrue = sum(int(filled[name][ends[name][1] : ends[name][2]].sum()) for name, _ in long_enough)
    if untrue:
        are = "is" if untrue == 1 else "are"
        notes.append(f"{counted(untrue, 'filled value')} of the test span {are} scored as truths")
    if refused:
        more = f" (and {len(refused) - NAMED:,} more)" if len(refused) > NAMED else ""
        notes.append(f"series left out: {'; '.join(refused[:NAMED])}{more}")
    return _assembled(
        source,
        long_enough,
        ends,
        roles,
        alias,
        season,
        lookback,
        horizon,
        quantiles,
        joint,
        notes,
        static,
    )


def without_end(part: pd.DataFrame, targets: Sequence[str]) -> pd.DataFrame:
    """Return a series without the rows at its end that have no target: they are yet to come."""
    there = np.flatnonzero(part[list(targets)].notna().any(axis=1))
    return part.iloc[: there[-1] + 1] if len(there) else part


def _assembled(
    source: str,
    kept: list[tuple[str, pd.DataFrame]],
    ends: dict[str, tuple[int, int, int]],
    roles: Roles,
    alias: str,
    season: int,
    lookback: int,
    horizon: int,
    quantiles: tuple[float, ...],
    joint: bool,
    notes: list[str],
    static: dict[str, np.ndarray],
) -> SeriesData:
    columns = [*roles.targets, *roles.past, *roles.future]
    spans, begin = [], 0
    for name, part in kept:
        a, b, c = ends[name]
        spans.append(Span(name, begin, (begin + a, begin + b, begin + c), part.index[0]))
        begin += len(part)
    rows = np.concatenate([part[columns].to_numpy(np.float64) for _, part in kept])
    mean, deviation = scale_of(rows, spans)
    fixed = np.stack([static[name] for name, _ in kept])
    spread = fixed.std(0)
    return SeriesData(
        source=source,
        rows=rows,
        static=fixed,
        spans=tuple(spans),
        spec=spec_of(roles, lookback, horizon, season, quantiles, joint),
        roles=roles,
        alias=alias,
        season=season,
        mean=mean,
        deviation=deviation,
        static_mean=fixed.mean(0),
        static_deviation=np.where(spread > 0, spread, 1.0),
        notes=notes,
    )


def scale_of(rows: np.ndarray, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each channel over the training spans; constant ones have 1."""
    trained = np.concatenate([rows[span.begin : span.ends[0]] for span in spans])
    deviation = trained.std(0)
    moves = deviation > 1e-12 * np.abs(trained).max(0)
    return trained.mean(0), np.where(moves, deviation, 1.0)


def spec_of(
    roles: Roles,
    lookback: int,
    horizon: int,
    season: int,
    quantiles: tuple[float, ...],
    joint: bool,
) -> SeriesSpec:
    """Return what a model must know of series with these columns."""
    return SeriesSpec(
        (lookback, len(roles.targets) + len(roles.past) + len(roles.future)),
        len(roles.targets),
        labels=roles.targets,
        horizon=horizon,
        season=season,
        past=len(roles.past),
        future=len(roles.future),
        static=len(roles.static),
        quantiles=quantiles,
        joint=joint,
    )


def gathered(rows: Any, starts: Any, length: int) -> Any:
    """Gather windows of rows in one product of indices, in NumPy: `(n, length, channels)`."""
    return rows[np.asarray(starts)[:, None] + np.arange(length)]
