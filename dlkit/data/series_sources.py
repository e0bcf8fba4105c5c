"""Tables that hold series: a source in, a pandas frame and the roles of its columns out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from dlkit.data import table_files
from dlkit.data.calendar import offsets, read_stamps, stamps
from dlkit.data.calendar_covariates import in_table
from dlkit.data.table_files import ENDINGS
from dlkit.errors import DataError, counted, nearest, one_of

BUILT_IN = ("sunspots", "elnino", "co2")
# Series and stamps that are named where many are meant.
NAMED = 3
TIME_NAMES = ("time", "date", "datetime", "timestamp", "ds", "month", "year")


class Roles(NamedTuple):
    """What each column is; names of columns.

    Attributes:
        time: of the stamps; None: found by its name or content.
        targets: to forecast; empty: every column of numbers without another role.
        series_id: tells the series of a panel apart; None: there is one.
        past, future: covariates known up to now alone, and those known for the horizon too; the latter
            may end with names of `calendar_covariates`, which are no columns of the table.
        static: features of a series as a whole.
    """

    time: str | None = None
    targets: tuple[str, ...] = ()
    series_id: str | None = None
    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    static: tuple[str, ...] = ()


def kind_of(source: str) -> str:
    """Check a source as far as is possible without reading it.

    Returns:
        "built-in", "tfds", "csv", "parquet" or "jsonl".
    Raises:
        DataError: see `table_files.kind_of`.
    """
    return (
        "tfds"
        if source.startswith("tfds:")
        else table_files.kind_of(source, BUILT_IN, ENDINGS, "tfds:NAME, ")
    )


def read(source: str, data_dir: str | None = None, download: bool = True) -> pd.DataFrame:
    """Read a source as one table.

    Raises:
        DataError: see `kind_of`; a file that cannot be parsed; a table without rows.
    """
    kind = kind_of(source)
    if kind == "built-in":
        return _built_in(source)
    if kind == "tfds":
        return _tfds(source.removeprefix("tfds:"), data_dir, download)
    return table_files.read(source, kind)


def _built_in(name: str) -> pd.DataFrame:
    """Return sunspots a year, sea surface temperature a month, or CO2 a week."""
    from statsmodels import datasets

    if name == "sunspots":
        found = datasets.sunspots.load_pandas().data
        return pd.DataFrame({"year": found["YEAR"].astype(int), "sunspots": found["SUNACTIVITY"]})
    if name == "elnino":
        wide = datasets.elnino.load_pandas().data.set_index("YEAR")
        values = wide.to_numpy().ravel()
        month = pd.date_range(f"{int(wide.index[0])}-01-01", periods=len(values), freq="MS")
        return pd.DataFrame({"month": month, "temperature": values}).dropna()
    found = datasets.co2.load_pandas().data
    return pd.DataFrame({"week": found.index, "co2": found["co2"].to_numpy()})


def _tfds(name: str, data_dir: str | None, download: bool) -> pd.DataFrame:
    """Read a tfds set of series, such as those of the Monash archive, in long format."""
    from dlkit.data.tfds_sets import prepared

    builder = prepared(name, data_dir, download)
    features = builder.info.features
    wanted = ("series_name", "series_value", "start_timestamp")
    lacking = [each for each in wanted if each not in features]
    if lacking:
        raise DataError(
            f"--data tfds:{name}: holds no series: it has no '{lacking[0]}'; accepted: sets with "
            f"{one_of(wanted)}"
        )
    alias = (getattr(builder.builder_config, "description", "") or "").lower()
    steps = {"hour": "h", "dai": "D", "week": "W", "month": "MS", "quarter": "QS", "year": "YS"}
    freq = next((v for k, v in steps.items() if k in f"{name} {alias}".lower()), None)
    if freq is None:
        raise DataError(f"--data tfds:{name}: says no frequency in its name or description")
    split = "train" if "train" in builder.info.splits else next(iter(builder.info.splits))
    parts = []
    for row in builder.as_dataset(split=split, shuffle_files=False).as_numpy_iterator():
        start = row["start_timestamp"]
        start = start.decode() if isinstance(start, bytes) else pd.Timestamp(int(start), unit="s")
        index = pd.date_range(start, periods=len(row["series_value"]), freq=freq)
        series = row["series_name"].decode()
        parts.append(pd.DataFrame({"series": series, "time": index, "value": row["series_value"]}))
    return pd.concat(parts, ignore_index=True)


def find_roles(frame: pd.DataFrame, asked: Roles, where: str) -> Roles:
    """Settle which column is what.

    Raises:
        DataError: a column that is not there (with the nearest), text where numbers are needed, or
            no column left to forecast.
    """
    columns = list(frame.columns)
    flags = {
        "--time": [asked.time] if asked.time else [],
        "--target": asked.targets,
        "--series-id": [asked.series_id] if asked.series_id else [],
        "--past-covariates": asked.past,
        "--future-covariates": in_table(asked.future),
        "--static": asked.static,
    }
    taken: dict[str, str] = {}
    for flag, names in flags.items():
        for name in names:
            if name not in columns:
                raise DataError(
                    f"{flag}: {where} has no column '{name}'{nearest(name, columns)}; "
                    f"it has: {one_of(columns)}"
                )
            if name in taken:
                raise DataError(f"{flag}: '{name}' is given by {taken[name]} already")
            taken[name] = flag
    time = asked.time or time_column(frame, [c for c in columns if c not in taken], where)
    series_id = asked.series_id
    if series_id is None and where.startswith("--data tfds:"):
        series_id = "series"
    used = {time, series_id, *asked.past, *asked.future, *asked.static}
    rest = [c for c in columns if c not in used]
    targets = asked.targets or tuple(c for c in rest if _numeric(frame[c]))
    if not targets:
        raise DataError(f"{where}: no column of numbers to forecast; it has: {one_of(columns)}")
    for flag, names in (
        ("--target", targets),
        ("--past-covariates", asked.past),
        ("--future-covariates", in_table(asked.future)),
        ("--static", asked.static),
    ):
        for name in names:
            _check_numbers(frame[name], name, flag, where)
    return asked._replace(time=time, targets=tuple(targets), series_id=series_id)


def _numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _check_numbers(column: pd.Series, name: str, flag: str, where: str) -> None:
    if _numeric(column):
        if np.isinf(column.to_numpy(np.float64, na_value=np.nan)).any():
            raise DataError(f"{flag}: '{name}' of {where} holds infinite values")
        return
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = np.flatnonzero(numbers.isna() & column.notna())
    at = int(wrong[0]) if len(wrong) else 0
    raise DataError(
        f"{flag}: '{name}' of {where} is no column of numbers: row {at + 1} holds "
        f"{str(column.iloc[at])!r}"
    )


def time_column(frame: pd.DataFrame, free: Sequence[str], where: str) -> str:
    """Return the column of stamps: by its type or name, else the first that reads as stamps."""
    for name in free:
        if pd.api.types.is_datetime64_any_dtype(frame[name]) or name.lower() in TIME_NAMES:
            return name
    for name in free:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            try:
                found = read_stamps(frame[name].head(20), where, name)
            except DataError:  # so few may not tell days from months
                return name
            except ValueError:
                continue
            if found.notna().all():
                return name
    raise DataError(
        f"--time: {where} has no column of stamps among {one_of(frame.columns)}; name it"
    )


def table_parts(
    frame: pd.DataFrame, roles: Roles, where: str, notes: list[str]
) -> list[tuple[str, pd.DataFrame]]:
    """Return each series, its stamps in order and without doubles."""
    assert roles.time is not None
    index = stamps(frame[roles.time], where, roles.time)
    zones = offsets(frame[roles.time])
    if zones is not None:
        kinds, changed = sorted(set(zones.tolist())), np.flatnonzero(zones[1:] != zones[:-1]) + 2
        said = f"{where}: stamps carry offsets from UTC ({', '.join(kinds)})"
        if (index == index.normalize()).all():
            said += ", all of them midnights, and are taken as dates"
        else:
            said += " and are taken as UTC"
        if len(changed):
            rows = ", ".join(str(row) for row in changed[:NAMED])
            said += f"; the offset changes {counted(len(changed), 'time')}, first in row {rows}"
        notes.append(said)
    if roles.series_id and frame[roles.series_id].isna().any():
        nameless = np.flatnonzero(frame[roles.series_id].isna())
        raise DataError(
            f"--series-id: '{roles.series_id}' of {where} is empty in "
            f"{counted(len(nameless), 'row')}, first in row {nameless[0] + 1}"
        )
    names = frame[roles.series_id].astype(str) if roles.series_id else None
    values = frame.drop(columns=[roles.time, *([roles.series_id] if roles.series_id else [])])
    values = values.set_axis(index, axis=0)
    groups = values.groupby(names.to_numpy(), sort=True) if names is not None else [("", values)]
    found = []
    for name, part in groups:
        here = f"series {name}" if names is not None else where
        if not part.index.is_monotonic_increasing:
            notes.append(f"{here}: the stamps were not in order and have been sorted")
            part = part.sort_index(kind="stable")
        twice = part.index[part.index.duplicated()].unique()
        if len(twice):
            shown = ", ".join(str(stamp) for stamp in twice[:NAMED])
            raise DataError(
                f"{here}: {len(twice):,} stamps stand there more than once ({shown}); keep one row "
                "each, or name the column that tells series apart with --series-id"
            )
        found.append((str(name), part))
    return found


def static_of(part: pd.DataFrame, roles: Roles, name: str) -> np.ndarray:
    """Return what holds for a whole series, float32 `(static,)`."""
    for column in roles.static:
        values = part[column]
        if values.isna().any() or values.nunique() > 1:
            raise DataError(
                f"--static: '{column}' of series {name or 'there'} is missing or changes; accepted: "
                "one number a series"
            )
    return part[list(roles.static)].iloc[0].to_numpy(np.float32)
