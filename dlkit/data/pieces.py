"""Files read piece by piece, as a trained detector's endpoints take them; memory stays flat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dlkit.data import tables
from dlkit.data.piece_notes import Clock, Lacking, Unseen
from dlkit.data.table_files import json_rows
from dlkit.data.tables import Columns
from dlkit.errors import DataError, counted, some_of

# Rows read at once, and images.
ROWS, IMAGES = 20_000, 128
# Cells that pandas, and so training, takes as missing in a .csv.
MISSING = (
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
    "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """Some rows of a file, in order.

    Attributes:
        frame: the rows as they came; text where the file is text.
        inputs: what the endpoints take, by name.
        scored: of `frame`, the first row that has inputs: a series needs a whole window.
    """

    frame: pd.DataFrame
    inputs: Mapping[str, np.ndarray]
    scored: int = 0


def columns_of(about: Mapping[str, Any]) -> Columns:
    """Return the columns that a manifest tells of."""
    known = about.get("categories", {})
    return Columns(tuple(about["columns"]), {name: tuple(each) for name, each in known.items()})


def pieces(
    files: Sequence[str], about: Mapping[str, Any], notes: list[str]
) -> Callable[[], Iterator[Piece]]:
    """Check files as far as is possible without reading them; return what reads them.

    Args:
        files: tables, or images and folders of them, taken as one after the other.
        about: the export's manifest.
        notes: gets sentences a user should read, once all is read.
    Raises:
        DataError: no such file, or one of another kind. When read: missing columns, text among
            numbers, infinities, stamps that fall (each with its row), or no rows.
    """
    if about["kind"] == "images":
        from dlkit.data.images import images_under

        found = [name for file in files for name in images_under(Path(file).expanduser())]
        if not found:
            raise DataError(f"FILE: no images in {some_of(list(files))}")
        return lambda: _images(found, tuple(about["input_shape"]), notes)
    for file in files:
        try:
            tables.kind_of(file)
        except DataError as error:
            raise DataError(str(error).replace("--data", "FILE", 1)) from None
    return lambda: _tables(files, about, notes)


def frames(file: str) -> Iterator[pd.DataFrame]:
    """Read a table piece by piece; the cells of a .csv stay text, "NA" and the like too.

    Raises:
        DataError: a file that cannot be parsed.
    """
    kind, path = tables.kind_of(file), Path(file).expanduser()
    try:
        if kind == "csv":
            with pd.read_csv(
                path, dtype=str, chunksize=ROWS, keep_default_na=False, na_values=[""]
            ) as reader:
                yield from reader
        elif kind == "jsonl":
            held: list[dict] = []
            for row in json_rows(path):
                held.append(row)
                if len(held) == ROWS:
                    yield pd.DataFrame(held)
                    held = []
            if held:
                yield pd.DataFrame(held)
        elif kind == "parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(path) as parquet:
                for batch in parquet.iter_batches(ROWS):
                    yield batch.to_pandas()
        else:
            whole, _ = tables.read(file)
            for i in range(0, len(whole), ROWS):
                yield whole.iloc[i : i + ROWS]
    except ImportError:  # pandas may have another reader of parquet
        yield tables.read(file)[0]
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"FILE {file}: cannot be read as {kind}: {reason}") from None


def _tables(files: Sequence[str], about: Mapping[str, Any], notes: list[str]) -> Iterator[Piece]:
    columns = columns_of(about)
    unseen, lacking = Unseen(columns), Lacking(about, columns)
    heading: list[str] | None = None
    left_out: dict[str, None] = {}
    for file in files:
        first, own, clock = 1, None, Clock(about, f"FILE {file}")
        windows = Windows(about) if about["kind"] == "series" else None
        for frame in frames(file):
            if not len(frame):
                continue
            names = pd.Index([str(name).strip() for name in frame.columns])
            twice = names[names.duplicated()]
            if len(twice):
                raise DataError(f"FILE {file}: has two columns '{twice[0]}'")
            frame.columns, frame.index = names, pd.RangeIndex(len(frame))
            own = list(frame.columns) if own is None else own
            # A line of JSON may leave out what another has; what the first ones lack is an error.
            frame = frame.reindex(columns=list(dict.fromkeys([*own, *frame.columns])))
            heading = own if heading is None else heading
            left_out |= dict.fromkeys(name for name in frame if name not in heading)
            raw = tables.inputs(numbers(frame, columns), columns, f"FILE {file}", first)
            if windows is not None and first == 1 and len(frame) < windows.size:
                raise DataError(
                    f"FILE {file}: {counted(len(frame), 'row')}; the model reads windows of "
                    f"{windows.size}"
                )
            clock.look(frame, first)
            unseen.look(raw)
            lacking.look(raw)
            frame = frame.reindex(columns=heading)
            piece = Piece(frame, raw) if windows is None else windows.piece(frame, raw["rows"])
            yield piece
            first += len(frame)
        if first == 1:
            raise DataError(f"FILE {file}: has no rows")
        if windows is not None and first <= windows.size:
            raise DataError(
                f"FILE {file}: has {counted(first - 1, 'row')}; accepted: at least {windows.size}, "
                "a window"
            )
        notes += clock.told()
    notes += [*unseen.told(), *lacking.told()]
    if left_out:
        notes.append(f"not in the first rows, and left out: {some_of(list(left_out))}")


def numbers(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """Return a table with the numbers in its text as numbers; what is none stays, to be told.

    Words that stand for a missing value become one, where they are no category.
    """
    found = {}
    for name in columns.names:
        column = frame.get(name)
        if column is None or not isinstance(column.dtype, pd.StringDtype):
            continue
        words = set(MISSING).difference(columns.categories.get(name, ()))
        column = found[name] = column.mask(column.isin(words))
        if name in columns.numeric:
            try:
                found[name] = pd.to_numeric(column)
            except ValueError:
                truth = column.str.lower().map({"true": 1.0, "false": 0.0})
                if not (truth.isna() & column.notna()).any():
                    found[name] = truth
        elif set(columns.categories[name]) <= {"True", "False"}:
            found[name] = column.str.capitalize()
    return frame.assign(**found)


class Windows:
    """Windows over the rows of one file, each ending in the row that it is the answer for."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.size = int(about["input_shape"][0])
        self.before = np.empty((0, len(about["columns"])), np.float32)

    def piece(self, frame: pd.DataFrame, values: np.ndarray) -> Piece:
        """Return the next rows with the windows that end in them; gaps hold the value before."""
        whole = np.concatenate([self.before, values])
        whole = pd.DataFrame(whole).ffill().to_numpy(np.float32)
        fresh = len(whole) - len(frame)
        self.before = whole[-(self.size - 1) :]
        missing = min(self.size - 1 - fresh, len(frame))
        seen = np.lib.stride_tricks.sliding_window_view(whole, self.size, axis=0)
        return Piece(frame, {"window": seen.transpose(0, 2, 1)}, missing)


def _images(files: list[Path], shape: tuple[int, ...], notes: list[str]) -> Iterator[Piece]:
    from dlkit.data.folder import left_out, none_of
    from dlkit.runtime import load_tensorflow

    tf = load_tensorflow()
    from dlkit.data.pixels import decode_image

    unreadable: list[Path] = []
    for i in range(0, len(files), IMAGES):
        names, images = [], []
        for file in files[i : i + IMAGES]:
            try:
                images.append(decode_image(file.read_bytes(), shape).numpy())
                names.append(str(file))
            except (tf.errors.OpError, OSError, ValueError):
                unreadable.append(file)
        if names:
            yield Piece(pd.DataFrame({"file": names}), {"pixels": np.stack(images)})
    if len(unreadable) == len(files):
        raise DataError(f"FILE: {none_of(unreadable)}")
    if unreadable:
        notes.append(left_out(unreadable))
