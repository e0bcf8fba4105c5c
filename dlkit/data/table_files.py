"""Files that hold a table: `.csv`, `.parquet`, and `.jsonl` with an object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from dlkit.errors import DataError, nearest, one_of

ENDINGS = {".csv": "csv", ".parquet": "parquet", ".jsonl": "jsonl"}


def kind_of(
    source: str, built_in: Sequence[str], endings: Mapping[str, str], more: str = ""
) -> str:
    """Check a source as far as is possible without reading it.

    Args:
        source: a path where it holds a slash or an ending, else a built-in name.
        built_in: the names there are.
        endings: of the files that are accepted, and the kind of each.
        more: other sources, for messages.
    Returns:
        "built-in", or the kind of its ending.
    Raises:
        DataError: no such built-in or file, a file of another kind, or an empty one.
    """
    files = f"a {', '.join(list(endings)[:-1])} or {list(endings)[-1]} file"
    if "/" not in source and os.sep not in source and not Path(source).suffix:
        if source not in built_in:
            raise DataError(
                f"--data: no built-in source '{source}'{nearest(source, built_in)}; accepted: "
                f"{one_of(built_in)}, {more}or {files}"
            )
        return "built-in"
    path = Path(source).expanduser()
    if not path.is_file():
        raise DataError(f"--data: no file {source}")
    if path.suffix.lower() not in endings:
        raise DataError(f"--data {source}: accepted: {files}")
    if not path.stat().st_size:
        raise DataError(f"--data {source}: is empty")
    return endings[path.suffix.lower()]


def read(source: str, kind: str) -> pd.DataFrame:
    """Read a file; an index that has a name or holds stamps becomes a column.

    Names of columns lose the spaces around them.

    Raises:
        DataError: a file that cannot be parsed; a table without rows; two columns of one name.
    """
    path = Path(source).expanduser()
    try:
        if kind == "csv":
            frame = pd.read_csv(path)
        elif kind == "parquet":
            frame = pd.read_parquet(path)
            if frame.index.name is not None or isinstance(frame.index, pd.DatetimeIndex):
                frame = frame.reset_index()
        else:
            frame = pd.DataFrame(json_rows(path))
    except (ValueError, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"--data {source}: cannot be read as {kind}: {reason}") from None
    names = pd.Index([str(name).strip() for name in frame.columns])
    frame.columns, twice = names, names[names.duplicated()]
    if len(twice):
        raise DataError(f"--data {source}: has two columns '{twice[0]}'")
    if not len(frame):
        raise DataError(f"--data {source}: has no rows")
    return frame


def json_rows(path: Path) -> Iterator[dict]:
    """Read an object a line, one by one."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                reason = str(error).partition(":")[0]
                raise ValueError(f"line {number} is no JSON: {reason}") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} holds no object")
            yield row
