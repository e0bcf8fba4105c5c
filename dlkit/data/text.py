"""Text sources: a string in, a `Text` of tokens out."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from dlkit.data import images, text_records, text_sources
from dlkit.data.spec import Spec
from dlkit.data.text_sources import Pieces
from dlkit.data.tokenizers import Tokenizer, check_tokenizer, code_points_of, make_tokenizer
from dlkit.data.tokens import CHUNK, shown
from dlkit.errors import DataError, OptionError, counted, nearest, one_of

BUILT_IN = ("pydoc",)
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Text:
    """A text, cut by position, as tokens.

    Attributes:
        source: the string that names it.
        train, validation, test: tokens `(n,)`, of the tokenizer's own dtype: uint8, uint16 or
            int32. Test is empty where the split has two parts.
        text: the characters of each split, the same ones as the tokens stand for.
        tokenizer: fitted on train alone.
        spec: `input_shape` `(context_length,)`, `outputs` the size of the vocabulary.
        notes: sentences a user should read: what was joined, left out, or not found.
    """

    source: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    text: dict[str, str]
    tokenizer: Tokenizer
    spec: Spec
    notes: list[str] = field(default_factory=list)

    def fingerprint(self) -> str:
        """Return a sha256 over the characters of every split, whatever the tokenizer."""
        whole = hashlib.sha256()
        for name in SPLITS:
            text = self.text[name]
            whole.update(f"{name} {len(text)}\n".encode())
            for at in range(0, len(text), CHUNK):
                whole.update(text[at : at + CHUNK].encode())
        return whole.hexdigest()

    def describe(self) -> str:
        """Say what was loaded, in one line."""
        sizes = ", ".join(f"{len(self.text[name]):,} {name}" for name in SPLITS if self.text[name])
        tokens = (
            "" if self.tokenizer.kind == "char" else f" in {sum(self.sizes().values()):,} tokens"
        )
        return (
            f"data {self.source}: {sizes} characters{tokens}, "
            f"vocabulary of {self.tokenizer.size:,} ({self.tokenizer.kind})"
        )

    def sizes(self) -> dict[str, int]:
        """Return the number of tokens of each split."""
        return {name: len(getattr(self, name)) for name in SPLITS}


def check_source(
    source: str, data_dir: str | None = None, download: bool = True, field: str | None = None
) -> str:
    """Check a source as far as is possible without reading all of it.

    Args:
        source, data_dir, download, field: as for `load_text`.
    Returns:
        Its kind: "built-in", "tfds", "folder", "jsonl", "csv" or "file".
    Raises:
        DataError: no such built-in, file, folder or field; a file that is empty or by its first
            bytes no text; a folder without files; a tfds set that is not on disk while downloads
            are off.
    """
    where = f"--data {source}"
    if source.startswith("tfds:"):
        return images.check_source(source, data_dir, download)
    if "/" not in source and os.sep not in source and not Path(source).suffix:
        if source not in BUILT_IN:
            raise DataError(
                f"--data: no built-in source '{source}'{nearest(source, BUILT_IN)}; accepted: "
                f"{one_of(BUILT_IN)}, tfds:NAME, a folder (with a slash), a file (with its ending)"
                f"{images.path_hint(source)}"
            )
        kind = "built-in"
    else:
        path = Path(source).expanduser()
        if not path.exists():
            raise DataError(f"--data: no file or folder {source}")
        ending = path.suffix.lower()
        kind = "folder" if path.is_dir() else {".jsonl": "jsonl", ".csv": "csv"}.get(ending, "file")
        if kind == "folder":
            text_sources.files_in(path, where)
        else:
            text_sources.check_file(path, where)
        if kind == "jsonl":
            text_records.check_json_lines(path, where, field)
        elif kind == "csv":
            text_records.check_column(path, where, field)
    if field is not None and kind not in ("jsonl", "csv"):
        raise DataError(f"--field: got '{field}'; accepted with .jsonl, .csv or tfds:NAME alone")
    return kind


def percentages(split: str) -> tuple[Fraction, Fraction, Fraction]:
    """Return the shares of train, validation and test that a split names, summing to 1.

    Args:
        split: per cent, by position: "90/5/5", or "90/10" for a test split without text.
    Raises:
        OptionError: other than two or three numbers that sum to 100, or nothing for train or
            validation.
    """
    accepted = "accepted: per cent that sum to 100, such as 90/5/5, or 90/10 for no test"
    try:
        # As floats first: a fraction of 1e999999 would take long to write out.
        within = all(0 <= float(part) <= 100 for part in split.split("/"))
        parts = [Fraction(part.strip()) / 100 for part in split.split("/")] if within else []
    except ValueError:
        raise OptionError(f"--split: got '{split}'; {accepted}") from None
    if len(parts) not in (2, 3):
        raise OptionError(f"--split: got '{split}'; {accepted}")
    if not all(parts[:2]):
        raise OptionError(f"--split: got '{split}', nothing for train or validation; {accepted}")
    if sum(parts) != 1:
        raise OptionError(
            f"--split: got '{split}', a sum of {float(sum(parts) * 100):g}; {accepted}"
        )
    return parts[0], parts[1], (*parts, Fraction(0))[2]


def load_text(
    source: str,
    *,
    tokenizer: str = "char",
    vocabulary: int | None = None,
    split: str = "90/5/5",
    field: str | None = None,
    context_length: int = 128,
    data_dir: str | None = None,
    download: bool = True,
) -> Text:
    """Load a text and cut it by position in characters.

    Args:
        source: `pydoc` (the help text of Python itself), a UTF-8 text file, a folder of them (all
            files under it, hidden ones aside, in order, a newline between), a `.jsonl` or `.csv`
            (rows of one field, a newline between), or `tfds:NAME`.
        tokenizer: "char" (each character of the training split), "byte" or "bpe".
        vocabulary: most tokens of bpe; 1024 if None.
        split: see `percentages`.
        field: of `.jsonl`, `.csv` or a tfds set; may be None where only one holds text.
        context_length: tokens that a model is to see at once.
        data_dir: where tensorflow-datasets keeps its sets; its own default if None.
        download: whether tensorflow-datasets may download a set that is not there.
    Returns:
        The text. Its characters are those of the source, line ends as they are, but for byte order
        marks and, with "char", the characters of validation and test that train lacks: those are
        left out, and a note counts them.
    Raises:
        DataError: the source is missing, no text, or empty; train is of one character; a split has
            too few tokens for the context.
        OptionError: a tokenizer, vocabulary or split that is not accepted.
    """
    check_tokenizer(tokenizer, vocabulary)
    shares = percentages(split)
    notes: list[str] = []
    pieces = read(source, field, data_dir, download, notes)
    length = len(pieces)
    ends = [0, *(int(length * sum(shares[: i + 1])) for i in range(3))]
    text = {name: pieces.take(ends[i + 1] - ends[i]) for i, name in enumerate(SPLITS)}
    del pieces
    points = code_points_of(text["train"])
    if len(points) < 2:
        only = f"{chr(points[0])!r} alone" if points else "nothing"
        raise DataError(f"--data {source}: train holds {only}; needed: two different characters")
    fitted = make_tokenizer(tokenizer, text["train"], vocabulary)
    tokens = {}
    for name in SPLITS:
        tokens[name] = fitted.encode(text[name], "drop", fitted.dtype)
        left_out = fitted.unknown_characters(text[name]) if name != "train" else {}
        if left_out:
            text[name] = fitted.decode(tokens[name])
            count = sum(left_out.values())
            notes.append(
                f"{count:,} character{'s' * (count != 1)} of {name} that train lacks left out: "
                f"{shown(left_out)}"
            )
    for name, share in zip(SPLITS, shares, strict=True):
        if share and len(tokens[name]) <= context_length:
            raise DataError(
                f"--data {source}: {name} has {counted(len(tokens[name]), 'token')}, a context of "
                f"{context_length} needs {context_length + 1:,}; give more text, a shorter "
                "--context-length or another --split"
            )
    if vocabulary and fitted.size < vocabulary:
        notes.append(f"the text gives {fitted.size:,} tokens of bpe, not {vocabulary:,}")
    spec = Spec((context_length,), fitted.size, dtype="int32")
    return Text(source, **tokens, text=text, tokenizer=fitted, spec=spec, notes=notes)


def read(
    source: str, field: str | None, data_dir: str | None, download: bool, notes: list[str]
) -> Pieces:
    """Read all characters of a source; see `load_text`."""
    kind = check_source(source, data_dir, download, field)
    text, where, path = Pieces(), f"--data {source}", Path(source).expanduser()
    if kind == "built-in":
        text_sources.pydoc(text, notes)
    elif kind == "tfds":
        name = source.removeprefix("tfds:")
        text_records.tfds_text(name, data_dir, download, field, text, notes)
    elif kind == "folder":
        text_sources.folder(path, where, text, notes)
    elif kind == "jsonl":
        text_records.json_lines(path, where, field, text)
    elif kind == "csv":
        text_records.column(path, where, field, text)
    else:
        text_sources.file(path, where, text, notes)
    if not len(text):
        raise DataError(f"{where}: is empty")
    return text


def load_other(
    source: str,
    own: Text,
    *,
    field: str | None = None,
    data_dir: str | None = None,
    download: bool = True,
) -> Text:
    """Load another text for a model that `own` trained: all of it as the test split.

    Args:
        source, field, data_dir, download: as for `load_text`.
        own: gives the tokenizer; characters that it lacks are left out, and a note counts them.
    Raises:
        DataError: as for `load_text`; too few tokens to score one.
    """
    notes: list[str] = []
    pieces = read(source, field, data_dir, download, notes)
    text = pieces.take(len(pieces))
    tokens = own.tokenizer.encode(text, "drop", own.tokenizer.dtype)
    left_out = own.tokenizer.unknown_characters(text)
    if left_out:
        text = own.tokenizer.decode(tokens)
        count = sum(left_out.values())
        notes.append(
            f"{counted(count, 'character')} that the run's text lacks {'is' if count == 1 else 'are'} "
            f"left out: {shown(left_out)}"
        )
    if len(tokens) < 2:
        raise DataError(
            f"--data {source}: has {counted(len(tokens), 'token')}; needed: 2 to score one"
        )
    none = tokens[:0]
    texts = {"train": "", "validation": "", "test": text}
    return Text(source, none, none, tokens, texts, own.tokenizer, own.spec, notes)
