"""Where text comes from: the text that ships with Python, a file, a folder of files."""

from __future__ import annotations

import codecs
import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path

from dlkit.errors import DataError

ACCEPTED = "a UTF-8 text file, a folder of them, .jsonl, .csv, pydoc, tfds:NAME"
# Bytes read at once, and characters held in one piece.
BLOCK = 1 << 22
# A text file has no NUL in its first bytes.
HEAD = 1 << 13


class Pieces:
    """A text under construction, as strings of some millions of characters.

    Python gives every character of a string as many bytes as the widest one needs. Within a piece a
    single wide character widens some megabytes, within the whole it would widen all.
    """

    def __init__(self) -> None:
        self._done: list[str] = []
        self._open: list[str] = []
        self._size = 0
        self._length = 0

    def add(self, text: str) -> None:
        """Append a string."""
        self._open.append(text)
        self._size += len(text)
        self._length += len(text)
        if self._size >= BLOCK:
            self._close()

    def extend(self, parts: Iterable[str], between: str) -> int:
        """Append strings, `between` two of them, and return how many there were."""
        count = 0
        for count, part in enumerate(parts, 1):
            if count > 1:
                self.add(between)
            self.add(part)
        return count

    def __len__(self) -> int:
        return self._length

    def take(self, count: int) -> str:
        """Remove the first `count` characters and return them."""
        self._close()
        taken: list[str] = []
        while count:
            piece = self._done.pop(0)
            if len(piece) > count:
                self._done.insert(0, piece[count:])
                piece = piece[:count]
            taken.append(piece)
            count -= len(piece)
            self._length -= len(piece)
        return "".join(taken)

    def _close(self) -> None:
        if self._open:
            self._done.append("".join(self._open))
        self._open, self._size = [], 0


def pydoc(text: Pieces, notes: list[str]) -> None:
    """Add the topics of Python's own help, in the order of their names, a blank line between."""
    from pydoc_data.topics import topics

    text.add("\n\n".join(topics[name] for name in sorted(topics)))
    notes.append(f"pydoc is the help text of Python {platform.python_version()}; others differ")


def file(path: Path, where: str, text: Pieces, notes: list[str]) -> None:
    """Add a text file: its characters as they are, but for a byte order mark.

    Raises:
        DataError: it cannot be read, looks binary or is not UTF-8; told as `where`.
    """
    for block in decoded(path, where, notes):
        text.add(block)


def folder(path: Path, where: str, text: Pieces, notes: list[str]) -> None:
    """Add every file under a folder, see `files_in`, a newline between.

    Raises:
        DataError: as for `file`, told with the file's path.
    """
    files, empty = files_in(path, where), 0
    for name in files:
        before, marks = len(text), []
        blocks = decoded(name, f"--data {name}", marks)
        first = next((block for block in blocks if block), None)
        if first is None:
            empty += 1
            continue
        if before:
            text.add("\n")
        text.add(first)
        for block in blocks:
            text.add(block)
        notes += marks
    used = len(files) - empty
    notes.append(f"{used} file{'s' * (used != 1)} of {path}, in the order of their names")
    if empty:
        notes.append(f"{empty} empty file{'s' * (empty != 1)} left out")


def files_in(path: Path, where: str) -> list[Path]:
    """Return every file under a folder, sorted by the parts of its path; none that is hidden.

    Raises:
        DataError: there is none, or a folder cannot be listed.
    """

    def stop(error: OSError) -> None:
        raise DataError(f"{where}: {error.filename} cannot be read: {error.strerror}")

    found: list[Path] = []
    for here, folders, names in os.walk(path, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(here, name) for name in names if not name.startswith(".")]
    found = sorted((p for p in found if p.is_file()), key=lambda p: p.parts)
    if not found:
        raise DataError(f"{where}: no files in it")
    return found


def decoded(path: Path, where: str, notes: list[str]) -> Iterator[str]:
    """Give the characters of a UTF-8 file, some millions at a time, without a byte order mark.

    Raises:
        DataError: it cannot be read, looks binary or is not UTF-8; told as `where`.
    """
    at, rest, last = 0, b"", False
    try:
        with open(path, "rb") as raw:
            while not last:
                block = raw.read(BLOCK)
                data, last = rest + block, not block
                if at == 0:
                    check_head(data[:HEAD], where)
                try:
                    text, used = codecs.utf_8_decode(data, "strict", last)
                except UnicodeDecodeError as error:
                    raise not_utf8(where, at + error.start, error.object[error.start]) from None
                if at == 0 and text.startswith("\ufeff"):
                    notes.append(f"the byte order mark at the start of {path} is left out")
                    text = text[1:]
                yield text
                at, rest = at + used, data[used:]
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror}") from None


def check_file(path: Path, where: str) -> None:
    """Check the first bytes of a text file.

    Raises:
        DataError: it is empty, cannot be read, looks binary, or is not UTF-8 as far as was looked.
    """
    if not path.is_file():
        raise DataError(f"{where}: is no regular file; accepted: {ACCEPTED}")
    try:
        with open(path, "rb") as raw:
            head = raw.read(HEAD)
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror}") from None
    if not head.removeprefix(codecs.BOM_UTF8):
        raise DataError(f"{where}: is empty")
    check_head(head, where)
    try:
        codecs.utf_8_decode(head, "strict", len(head) < HEAD)
    except UnicodeDecodeError as error:
        raise not_utf8(where, error.start, head[error.start]) from None


def check_head(head: bytes, where: str) -> None:
    """Check that the first bytes of a file look like text, told as `where`."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{where}: is UTF-16 by its first bytes; save it as UTF-8")
    if b"\0" in head:
        raise DataError(
            f"{where}: looks binary (byte 0x00 at offset {head.index(0)}); accepted: {ACCEPTED}"
        )


def not_utf8(where: str, at: int, byte: int) -> DataError:
    """Return the error for a byte that cannot stand where it does."""
    return DataError(
        f"{where}: is not UTF-8: byte {byte:#04x} at offset {at} cannot stand there; save it as UTF-8"
    )
