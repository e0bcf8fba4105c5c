"""Text that comes in records: a field of JSON Lines, a column of a CSV, a feature of a tfds set."""

from __future__ import annotations

import codecs
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dlkit.data.text_sources import Pieces, decoded, not_utf8
from dlkit.data.tfds_sets import prepared
from dlkit.errors import DataError, counted, nearest

# In which order the splits of a tfds set are joined; others follow by name.
ORDER = ("train", "validation", "test")


def chosen(field: str | None, there: Sequence[str], where: str, what: str) -> str:
    """Return the field to read: the one asked for, or the only one.

    Args:
        field: asked for, or None.
        there: the fields that hold text.
        where, what: for errors: the source, and what a field is called there.
    Raises:
        DataError: there is no such field, or several and none asked for.
    """
    if not there:
        raise DataError(f"{where}: has no {what} to read")
    if field is None and len(there) == 1:
        return there[0]
    listed = f"{what}s: {', '.join(there)}"
    if field is None:
        raise DataError(f"{where}: --field is needed; {listed}")
    if field not in there:
        raise DataError(f"{where}: has no {what} '{field}'{nearest(field, there)}; {listed}")
    return field


def json_lines(path: Path, where: str, field: str | None, text: Pieces) -> None:
    """Add one field of every line, a newline between; empty lines are skipped.

    Args:
        path: UTF-8, a JSON object a line.
        where: how errors begin.
        field: which one; None where the first line has one field with text.
        text: gets it.
    Raises:
        DataError: with the line's number: it is no object, or has no such field with text.
    """
    text.extend(_json_values(path, where, field), "\n")


def check_json_lines(path: Path, where: str, field: str | None) -> None:
    """Check the first line as `json_lines` does."""
    next(_json_values(path, where, field), None)


def _json_values(path: Path, where: str, field: str | None) -> Iterator[str]:
    for number, line in _lines(path, where):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: line {number} is no JSON: {error}") from None
        if not isinstance(record, dict):
            kind = type(record).__name__
            raise DataError(f"{where}: line {number} is no object but a {kind}")
        if field is None:
            strings = [name for name, value in record.items() if isinstance(value, str)]
            field = chosen(None, strings, where, "field")
        if field not in record:
            raise DataError(
                f"{where}: line {number} has no field '{field}'{nearest(field, record)}; "
                f"has: {', '.join(record) or 'none'}"
            )
        value = record[field]
        if not isinstance(value, str):
            shown = json.dumps(value)
            shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
            raise DataError(f"{where}: line {number} has no text in field '{field}' but {shown}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"{ord(value[error.start]):#x}"
            raise DataError(
                f"{where}: line {number} has half a surrogate pair ({half}) in field '{field}'"
            ) from None
        yield value


def _lines(path: Path, where: str) -> Iterator[tuple[int, str]]:
    """Give the number, from 1, and the characters of each line that is not blank."""
    at = 0
    try:
        with open(path, "rb") as raw:
            for number, line in enumerate(raw, 1):
                if number == 1 and line.startswith(codecs.BOM_UTF8):
                    line, at = line[3:], 3
                try:
                    characters = line.decode()
                except UnicodeDecodeError as error:
                    raise not_utf8(where, at + error.start, line[error.start]) from None
                at += len(line)
                if not characters.isspace():
                    yield number, characters
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror}") from None


def column(path: Path, where: str, field: str | None, text: Pieces) -> None:
    """Add one column of a CSV, row after row, a newline between.

    Args:
        path: UTF-8, the columns' names in its first line.
        where: how errors begin.
        field: which column; None where there is one.
        text: gets it.
    Raises:
        DataError: no such column; with the line's number, a row with too few or too many cells.
    """
    text.extend(_cells(path, where, field), "\n")


def check_column(path: Path, where: str, field: str | None) -> None:
    """Check the names of the columns as `column` does."""
    next(_cells(path, where, field), None)


def _cells(path: Path, where: str, field: str | None) -> Iterator[str]:
    # A text may be longer than the 128 KiB that a cell is allowed by default.
    allowed = csv.field_size_limit(sys.maxsize)
    number = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as raw:
            reader = csv.reader(raw, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if not any(header):
                raise DataError(f"{where}: is empty; its first line must name the columns")
            name = chosen(field, header, where, "column")
            if header.count(name) > 1:
                raise DataError(f"{where}: has column '{name}' twice")
            at = header.index(name)
            for cells in reader:
                number = reader.line_num
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise DataError(
                        f"{where}: line {number} has {counted(len(cells), 'cell')}, the header "
                        f"{len(header)} (a comma within a cell needs quotes)"
                    )
                yield cells[at]
    except UnicodeDecodeError as error:
        # Reading it once more as plain text tells where.
        for _ in decoded(path, where, []):
            pass
        raise DataError(f"{where}: is not UTF-8: {error.reason}") from None
    except csv.Error as error:
        raise DataError(f"{where}: line {number + 1} is no CSV: {error}") from None
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror}") from None
    finally:
        csv.field_size_limit(allowed)


def tfds_text(
    name: str,
    data_dir: str | None,
    download: bool,
    field: str | None,
    text: Pieces,
    notes: list[str],
) -> None:
    """Add a feature of every example of a set of tensorflow-datasets, one split after the other.

    A newline stands between examples, but none where each split is one example: such a set is one
    text that was cut.

    Args:
        name: the set, as tensorflow-datasets spells it.
        data_dir: where sets are kept; tensorflow-datasets' own default if None.
        download: whether a set that is not there may be downloaded and prepared.
        field: which feature; None where there is one of strings.
        text, notes: get it, and what should be said of it.
    Raises:
        DataError: no such set or feature, it cannot be prepared, or it holds no UTF-8.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    where = f"--data tfds:{name}"
    builder = prepared(name, data_dir, download)
    features: Any = builder.info.features
    # What is read from the disk comes in no order of its own.
    there = sorted(
        key
        for key, feature in (features.items() if hasattr(features, "items") else ())
        if feature.shape == () and feature.tf_dtype == tf.string
    )
    key = chosen(field, there, where, "text feature")
    given = builder.info.splits
    splits = [split for split in ORDER if split in given]
    splits += sorted(set(given) - set(splits))
    between = "" if all(given[split].num_examples == 1 for split in splits) else "\n"
    config = tfds.ReadConfig(interleave_cycle_length=1)  # one shard after the other
    only = tfds.decode.PartialDecoding({key: True})

    def examples() -> Iterator[str]:
        for split in splits:
            dataset: Any = builder.as_dataset(
                split=split, shuffle_files=False, read_config=config, decoders=only
            )
            batches = dataset.map(lambda example: example[key]).batch(1024).as_numpy_iterator()
            for number, value in enumerate(value for batch in batches for value in batch):
                try:
                    yield value.decode()
                except UnicodeDecodeError as error:
                    place = f"{where}: example {number} of {split}"
                    raise not_utf8(place, error.start, value[error.start]) from None

    count = text.extend(examples(), between)
    notes.append(f"'{key}' of {count:,} examples of tfds:{name}: {' then '.join(splits)}")
