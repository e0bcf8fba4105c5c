"""CSV manifests: a row an image, with columns `path`, `label` and perhaps `split`."""

from __future__ import annotations

import csv
import difflib
import os
from pathlib import Path

from dlkit.data.folder import SPLITS
from dlkit.errors import DataError, counted, nearest, one_of, some_of

COLUMNS = ("path", "label")
SHOWN = 3


def listed(path: Path, training: bool = False) -> dict[str, list[tuple[str, str]]]:
    """Read a manifest without opening an image.

    Args:
        path: a UTF-8 CSV with a header. Paths are relative to its folder, or absolute; `split`, if
            there, says train, val, valid, validation or test in every row. Other columns are
            ignored.
        training: whether to refuse what cannot be trained on: no train rows, one class in them, a
            class that stands in another split alone.
    Returns:
        `(file, label)` by split, in the manifest's order; "train" alone where there is no `split`.
    Raises:
        DataError: a column, a cell or a file is missing, a split is not known, or there are no rows.
    """
    where = f"--data {path}"
    found: dict[str, list[tuple[str, str]]] = {}
    for line, cells in _rows(path, where, COLUMNS):
        if not cells["label"]:
            raise DataError(f"{where}: line {line} has no label")
        split = cells.get("split", "train")
        if split not in SPLITS:
            raise DataError(
                f"{where}: line {line} has split '{split}'{nearest(split, SPLITS)}; "
                "accepted: train, val or validation, test"
            )
        found.setdefault(SPLITS[split], []).append((cells["path"], cells["label"]))
    if not found:
        raise DataError(f"{where}: has no rows")
    _there(where, [file for rows in found.values() for file, _ in rows])
    if training:
        check_classes(where, {name: {label for _, label in rows} for name, rows in found.items()})
    return {name: found[name] for name in ("train", "validation", "test") if name in found}


def paths(path: Path) -> list[Path]:
    """Return the files that a manifest lists, in its order; only `path` need be among its columns.

    Raises:
        DataError: as for `listed`.
    """
    where = f"INPUT {path}"
    found = [cells["path"] for _, cells in _rows(path, where, ("path",))]
    _there(where, found)
    return [Path(file) for file in found]


def check_classes(where: str, classes: dict[str, set[str]]) -> None:
    """Check the labels of each split: two in train, and none in another split alone.

    Raises:
        DataError: told as `where`.
    """
    train = classes.get("train", set())
    if not train:
        raise DataError(f"{where}: no row has split train; there are {one_of(classes)}")
    if len(train) < 2:
        raise DataError(f"{where}: 1 class in train, '{next(iter(train))}'; a classifier needs two")
    for name, labels in classes.items():
        for only in sorted(labels - train):
            raise DataError(f"{where}: class '{only}' is in {name} and not in train")


def _rows(path: Path, where: str, needed: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Return line number and cells by column of each row; `path` is joined to the CSV's folder."""
    result = []
    try:
        # Spreadsheets put a byte order mark first.
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(where, header, needed)
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise DataError(
                        f"{where}: line {reader.line_num} has {counted(len(cells), 'cell')}, the header "
                        f"{len(header)} (a comma within a cell needs quotes)"
                    )
                row = dict(zip(header, map(str.strip, cells), strict=True))
                if not row["path"]:
                    raise DataError(f"{where}: line {reader.line_num} has no path")
                row["path"] = str(path.parent / row["path"])
                result.append((reader.line_num, row))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: is not UTF-8 (byte {error.object[error.start]:#04x} cannot stand there); "
            "save it as UTF-8"
        ) from None
    except csv.Error as error:
        raise DataError(f"{where}: line {reader.line_num} is no CSV: {error}") from None
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror}") from None
    return result


def _check_header(where: str, header: list[str], needed: tuple[str, ...]) -> None:
    if not any(header):
        raise DataError(f"{where}: is empty; its first line must name columns path,label[,split]")
    for name in needed:
        if name not in header:
            others = [h for h in header if h not in (*COLUMNS, "split")]
            raise DataError(
                f"{where}: has no column '{name}'{nearest(name, others)}; "
                f"its first line has: {', '.join(header)}; needed: path,label[,split]"
            )
    twice = [name for name in (*COLUMNS, "split") if header.count(name) > 1]
    if twice:
        raise DataError(f"{where}: has column '{twice[0]}' twice")
    # A misspelt split column would be ignored in silence, and a new split cut.
    alike = difflib.get_close_matches("split", [h.lower() for h in header], 1, cutoff=0.75)
    if "split" not in header and alike:
        raise DataError(f"{where}: has no column 'split' but '{alike[0]}'; rename or remove it")


def _there(where: str, files: list[str]) -> None:
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        of = f"{len(missing)} of its {counted(len(files), 'file')}"
        are = "is" if len(missing) == 1 else "are"
        raise DataError(f"{where}: {of} {are} not there: {some_of(missing, SHOWN)}")
