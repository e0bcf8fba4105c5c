"""The newest rows of a table, from which a trained model forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from dlkit.data.calendar import frequency, offsets, regular, short_stamp
from dlkit.data.calendar_covariates import in_table, with_calendar
from dlkit.data.series_sources import NAMED, Roles, find_roles, read, static_of, table_parts
from dlkit.errors import DataError, counted

# Of the endpoint, see `dlkit.export.forecast.Forecaster`.
INPUTS = ("window", "future", "static")


class Newest(NamedTuple):
    """What one series is forecast from.

    Attributes:
        name: of the series, "" where there is only one.
        window: float64 `(lookback, channels)`: targets, past covariates, future covariates.
        future: float64 `(horizon, future)`.
        static: float32 `(static,)`.
        last: the last stamp of the window, in UTC where the table's stamps carry offsets.
    """

    name: str
    window: np.ndarray
    future: np.ndarray
    static: np.ndarray
    last: pd.Timestamp


def newest(
    source: str,
    roles: Roles,
    *,
    alias: str,
    lookback: int,
    horizon: int,
    padded: int | None = None,
    fill: str = "none",
    strict: bool = False,
    data_dir: str | None = None,
) -> tuple[list[Newest], list[str]]:
    """Return the newest window of each series of a source, and sentences to read.

    Rows at the end without any target give the future covariates, or are to be forecast.

    Args:
        source: as for `load_series`.
        roles: what the columns are; all of them have to be there.
        alias: the frequency that the stamps have to have.
        lookback: rows a window.
        horizon: steps for which future covariates are needed.
        padded: steps for which they are given, the last ones standing again; `horizon` if None.
        fill: what is done about gaps, see `dlkit.data.calendar.regular`.
        strict: refuse a panel with a series that cannot be used; else it is left out, and said.
        data_dir: of tensorflow-datasets.
    Raises:
        DataError: see above; no series can be used.
    """
    where, notes = f"DATA {source}", []
    frame = read(source, data_dir, download=False)
    roles = find_roles(frame, roles, where)
    columns = [*roles.targets, *roles.past, *in_table(roles.future)]
    ahead = (horizon, padded or horizon)
    found, refused = [], []
    parts = table_parts(frame, roles, where, notes)
    assert roles.time is not None
    zoned = offsets(frame[roles.time]) is not None and any(
        (part.index != part.index.normalize()).any() for _, part in parts
    )
    for name, part in parts:
        here = f"series {name}" if name else where
        try:
            one, said = _newest(part, name, here, roles, columns, alias, lookback, ahead, fill)
            if zoned:
                one = one._replace(last=one.last.tz_localize("UTC"))
            found.append(one)
            notes += said
        except DataError as error:
            if not name or strict or "--fill" in str(error):
                raise
            refused.append(str(error))
    if not found:
        raise DataError(f"{where}: no series can be used: {refused[0]}")
    if refused:
        more = f" (and {len(refused) - NAMED:,} more)" if len(refused) > NAMED else ""
        notes.append(f"series left out: {'; '.join(refused[:NAMED])}{more}")
    return found, notes


def _newest(
    part: pd.DataFrame,
    name: str,
    here: str,
    roles: Roles,
    columns: list[str],
    alias: str,
    lookback: int,
    ahead: tuple[int, int],
    fill: str,
) -> tuple[Newest, list[str]]:
    there = part[list(roles.targets)].notna().any(axis=1).to_numpy()
    if not there.any():
        raise DataError(f"{here}: '{roles.targets[0]}' holds no number at all")
    end = len(there) - int(np.argmax(there[::-1]))
    past, coming = part.iloc[:end], part.iloc[end:]
    horizon, padded = ahead
    if len(past) >= 3:
        found = frequency(past.index, here)
        if found != alias:
            raise DataError(
                f"{here}: has a row every {found}; the run was trained on every {alias}"
            )
    begin = max(0, len(past) - lookback)
    if fill != "none":
        # What is filled at the window's edge is filled from what is known before it.
        known = past[columns].notna().all(axis=1).to_numpy()[: begin + 1]
        begin = int(np.flatnonzero(known)[-1]) if known.any() else 0
    # What is older is not looked at, holes included.
    whole, notes = regular(past[columns].iloc[begin:], alias, fill, here)
    if len(whole) < lookback:
        raise DataError(f"{here}: has {len(whole):,} rows; the run looks back on {lookback:,}")
    wanted = pd.date_range(whole.index[-1], periods=horizon + 1, freq=alias)[1:]
    own = list(in_table(roles.future))
    known = coming[own].reindex(wanted)
    if own:
        missing = known.index[known.isna().any(axis=1)]
        if len(missing):
            raise DataError(
                f"{here}: future covariates ({', '.join(own)}) are needed up to "
                f"{wanted[-1]}; {missing[0]} has none: add rows with these columns and no target"
            )
    elif len(coming):
        rows = f"{counted(len(coming), 'row')} at the end without a target"
        notes.append(f"{here}: {rows}: forecasts begin after {short_stamp(whole.index[-1])}")
    whole_horizon = pd.date_range(whole.index[-1], periods=padded + 1, freq=alias)[1:]
    known = known.reindex(whole_horizon).ffill()
    window = with_calendar(whole, roles.future).to_numpy(np.float64)[-lookback:]
    future = with_calendar(known, roles.future).to_numpy(np.float64)
    return Newest(name, window, future, static_of(part, roles, name), whole.index[-1]), notes


def stacked(found: Sequence[Newest]) -> dict[str, np.ndarray]:
    """Return what the endpoint takes for these, float32 by name; what the model lacks is left out."""
    parts = {name: np.stack([getattr(each, name) for each in found]) for name in INPUTS}
    return {name: each.astype(np.float32) for name, each in parts.items() if each.shape[-1]}
