"""Tables of rows: a source in, columns of numbers and of names out, unscaled."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dlkit.data import table_files
from dlkit.data.calendar import read_stamps
from dlkit.errors import DataError, counted, nearest, one_of, some_of

BUILT_IN = ("breast-cancer",)
ENDINGS = {**table_files.ENDINGS, ".npz": "npz"}
# Fewer rows may differ in every name without being names of rows.
FEW = 5
# A column of names with more than this many of them says who a row is, not what it is like.
MOST_CATEGORIES = 100
# A column of text of which so many are numbers, or stamps, was meant to be of them.
MEANT = 0.9
# Text in which a date may stand: days and months that words name, such as weekdays, are categories.
DATE = r"\d[-/.]\w+[-/.]\d"


@dataclass(frozen=True)
class Columns:
    """What each column of a table is.

    Attributes:
        numeric: names of the columns of numbers, in the order of `rows`.
        categories: the names that occur in each other column, sorted, by column.
    """

    numeric: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """Every column, numbers first."""
        return (*self.numeric, *self.categories)

    @property
    def endpoint(self) -> dict[str, str]:
        """The endpoint's input for each column of categories: its name, made fit for TensorFlow."""
        taken, found = {"rows", "self"}, {}
        for name in self.categories:
            plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
            plain = plain if plain[:1].isalpha() else f"column_{plain}"
            free, number = plain, 2
            while free in taken:
                free, number = f"{plain}_{number}", number + 1
            taken.add(free)
            found[name] = free
        return found


def kind_of(source: str) -> str:
    """Check a source as far as is possible without reading it.

    Returns:
        "built-in", "csv", "parquet", "jsonl" or "npz".
    Raises:
        DataError: see `table_files.kind_of`.
    """
    return table_files.kind_of(source, BUILT_IN, ENDINGS)


def read(source: str) -> tuple[pd.DataFrame, str | None]:
    """Read a source as one table.

    Returns:
        The table, and the column that tells normal rows from anomalies where the source itself
        brings one: "diagnosis" of the built-in table, "y" of an `.npz` (1 is an anomaly).
    Raises:
        DataError: see `kind_of`; a file that cannot be parsed; a table without rows.
    """
    kind = kind_of(source)
    if kind == "built-in":
        return _breast_cancer(), "diagnosis"
    if kind == "npz":
        return _arrays(Path(source).expanduser(), source)
    return table_files.read(source, kind), None


def _breast_cancer() -> pd.DataFrame:
    """Return 569 tumours by 30 measures of their cells, "benign" or "malignant"."""
    from sklearn.datasets import load_breast_cancer

    found: Any = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in found.feature_names]
    frame = pd.DataFrame(found.data, columns=names)
    return frame.assign(diagnosis=found.target_names[found.target])


def _arrays(path: Path, source: str) -> tuple[pd.DataFrame, str | None]:
    """Read `X` `(n, features)` and, where it is there, `y` `(n,)`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
        raise DataError(
            f"--data {source}: is no .npz of plain arrays, as numpy.savez writes it"
        ) from None
    x, y = arrays.get("X"), arrays.get("y")
    if x is None or x.ndim != 2 or x.dtype.kind not in "fiub":
        got = f"an X of shape {x.shape} and type {x.dtype}" if x is not None else one_of(arrays)
        raise DataError(
            f"--data {source}: got {got or 'no arrays'}; accepted: numbers X (rows, features) and, "
            "where known, y (rows,), 1 for an anomaly"
        )
    if not len(x):
        raise DataError(f"--data {source}: has no rows")
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])])
    if y is None:
        return frame, None
    if y.shape != (len(x),) or not set(np.unique(y).tolist()) <= {0, 1}:
        raise DataError(
            f"--data {source}: got a y of shape {y.shape}; accepted: ({len(x)},), 0 for a normal "
            "row and 1 for an anomaly"
        )
    return frame.assign(y=y.astype(int)), "y"


def labels(
    frame: pd.DataFrame, label: str | None, normal: Sequence[str], where: str
) -> np.ndarray | None:
    """Return 0 for each normal row and 1 for each anomaly, int32 `(n,)`; None without a label.

    Args:
        frame: the table.
        label: its column of labels, or None.
        normal: the values that are normal, as text. Where none are named: 0, false, "normal" or
            "benign".
        where: the source, for messages.
    Raises:
        DataError: no such column or value (with the nearest), a missing label, or no normal row.
    """
    if label is None:
        if normal:
            raise DataError("--normal: says which values of --label are normal; name that column")
        return None
    if label not in frame:
        raise DataError(
            f"--label: {where} has no column '{label}'{nearest(label, frame.columns)}; it has: "
            f"{some_of(list(frame.columns))}"
        )
    column = frame[label]
    missing = np.flatnonzero(column.isna())
    if len(missing):
        raise DataError(
            f"--label: {counted(len(missing), 'row')} of {where} "
            f"{'has' if len(missing) == 1 else 'have'} no '{label}', the first is row "
            f"{int(missing[0]) + 1}"
        )
    text = column.map(as_text)
    known = sorted(set(text))
    usual = [v for v in known if v.lower() in ("0", "false", "normal", "benign")]
    chosen = list(normal) or usual
    if not chosen:
        raise DataError(
            f"--normal: name the values of '{label}' that are normal; it holds: {some_of(known)}"
        )
    for value in chosen:
        if value not in known:
            raise DataError(
                f"--normal: no row of {where} has the {label} '{value}'{nearest(value, known)}; "
                f"it holds: {some_of(known)}"
            )
    return (~text.isin(chosen)).to_numpy(np.int32)


def as_text(value: Any) -> str:
    """Return a label or category as a person would type it: 1.0 is "1"."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def find_columns(
    frame: pd.DataFrame, ignored: Sequence[str], where: str, notes: list[str]
) -> Columns:
    """Settle which columns are numbers and which are categories.

    Args:
        frame: the table, without its labels.
        ignored: columns left out.
        where: the source, for messages.
        notes: gets a sentence for each column that is left out or taken in an unexpected way.
    Raises:
        DataError: an ignored column that is not there; a column of numbers among which text stands,
            too various to be categories; or no column left.
    """
    for name in ignored:
        if name not in frame:
            raise DataError(
                f"--ignore: {where} has no column '{name}'{nearest(name, frame.columns)}; it has: "
                f"{some_of(list(frame.columns))}"
            )
    numeric, categories = [], {}
    for name in frame.columns:
        column = frame[name]
        if name in ignored:
            continue
        if column.isna().all():
            notes.append(f"column '{name}' holds nothing and is left out")
        elif pd.api.types.is_bool_dtype(column) or pd.api.types.is_numeric_dtype(column):
            numeric.append(name)
            if column.is_unique and (column.diff().dropna() == 1).all() and len(frame) > FEW:
                notes.append(
                    f"column '{name}' counts the rows; if it only names them: --ignore {name}"
                )
        elif column.map(lambda v: isinstance(v, (list, dict, np.ndarray))).any():
            notes.append(f"column '{name}' holds lists or objects and is left out")
        elif _of_stamps(column):
            notes.append(f"column '{name}' holds stamps and is left out")
        else:
            found = tuple(sorted({as_text(v) for v in column.dropna()}))
            many = len(found) > MOST_CATEGORIES or (len(found) == len(frame) > FEW)
            odd = _among_numbers(column)
            if many and odd:
                raise DataError(
                    f"{where}: '{name}' holds numbers, but for {odd}; leave such cells empty, or the "
                    f"column out with --ignore {name}"
                )
            if many:
                notes.append(
                    f"column '{name}' holds {len(found):,} different names and is left out"
                )
                continue
            if odd:
                notes.append(
                    f"column '{name}' holds numbers, but for {odd}: each different number is taken as "
                    "a category; with such cells empty it is a column of numbers"
                )
            categories[name] = found
    if not numeric and not categories:
        raise DataError(
            f"{where}: no column of numbers or categories; it has: {some_of(list(frame.columns))}"
        )
    return Columns(tuple(numeric), categories)


def _of_stamps(column: pd.Series) -> bool:
    """Whether a column holds stamps, or text that reads as such."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return True
    there = column.dropna()
    if not there.astype(str).str.contains(DATE).mean() >= MEANT:
        return False
    try:
        return read_stamps(there, "", "").notna().mean() >= MEANT
    except DataError:  # stamps, of which nobody can tell days from months
        return True


def _among_numbers(column: pd.Series) -> str:
    """Return which rows of a column of text that is nearly all numbers hold something else, or ""."""
    there = column.notna()
    wrong = np.flatnonzero(pd.to_numeric(column.astype(str), errors="coerce").isna() & there)
    if not 0 < len(wrong) <= (1 - MEANT) * there.sum():
        return ""
    first = str(column.iloc[wrong[0]])
    return f"{counted(len(wrong), 'row')}, the first is row {wrong[0] + 1} with {first!r}"


def inputs(
    frame: pd.DataFrame, columns: Columns, where: str, first: int = 1
) -> dict[str, np.ndarray]:
    """Return a table's rows as the endpoint takes them.

    Args:
        frame: has the columns, in any order; others are not looked at.
        columns: what each is.
        where: the source, for messages.
        first: number of the frame's first row in the source, for messages.
    Returns:
        `rows` float32 `(n, numeric)`, NaN where a value is missing, and each column of categories
        as text `(n,)`, "" where it is missing, by its name in `columns.endpoint`.
    Raises:
        DataError: missing columns (named), text among numbers, or infinite numbers.
    """
    lacking = [name for name in columns.names if name not in frame]
    if lacking:
        hint = nearest(lacking[0], [c for c in frame.columns if c not in columns.names])
        raise DataError(f"{where}: has no column {some_of(lacking)}{hint}")
    rows = np.empty((len(frame), len(columns.numeric)), np.float32)
    for i, name in enumerate(columns.numeric):
        try:
            values = frame[name].to_numpy(np.float64, na_value=np.nan)
        except (TypeError, ValueError):
            numbers = pd.to_numeric(frame[name], errors="coerce")
            wrong = np.flatnonzero(numbers.isna() & frame[name].notna())
            at = int(wrong[0]) if len(wrong) else 0
            raise DataError(
                f"{where}: '{name}' is a column of numbers; row {at + first} holds "
                f"{str(frame[name].iloc[at])!r}"
            ) from None
        with np.errstate(over="ignore"):
            rows[:, i] = values
        wrong = np.flatnonzero(np.isinf(rows[:, i]))
        if len(wrong):
            raise DataError(
                f"{where}: '{name}' is not finite in {counted(len(wrong), 'row')}, the first is "
                f"row {int(wrong[0]) + first}; accepted: finite numbers within float32, or empty"
            )
    found: dict[str, np.ndarray] = {"rows": rows} if columns.numeric else {}
    for name, endpoint in columns.endpoint.items():
        column = frame[name]
        if isinstance(column.dtype, pd.StringDtype):
            found[endpoint] = column.fillna("").to_numpy(object)
        else:
            cells = zip(column, column.isna(), strict=True)
            found[endpoint] = np.array(["" if gone else as_text(v) for v, gone in cells], object)
    return found
