"""Tokenizers by name: a token a character, a token a byte, or byte pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dlkit.data.bpe import VOCABULARY, BpeTokenizer, train_bpe
from dlkit.data.tokens import (
    CHUNK,
    Tokenizer,
    UnknownCharacters,
    checked,
    code_points,
    ends,
    refused,
    surrogates,
    utf8,
)
from dlkit.errors import DataError, OptionError, nearest, one_of

__all__ = [
    "KINDS",
    "VOCABULARY",
    "BpeTokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "Tokenizer",
    "UnknownCharacters",
    "check_tokenizer",
    "code_points_of",
    "from_json",
    "make_tokenizer",
    "train_bpe",
]
KINDS = ("char", "byte", "bpe")
CODE_POINTS = 0x110000


class CharTokenizer(Tokenizer):
    """A token for each character of a table, whatever the character: newline, NUL, astral planes.

    Args:
        code_points: of the characters, rising; a character's token is its place.
    Raises:
        DataError: they are no rising code points.
    """

    kind = "char"

    def __init__(self, code_points: Iterable[int]) -> None:
        self.code_points = tuple(map(int, code_points))
        points = np.array(self.code_points, np.int64)
        within = len(points) and points[0] >= 0 and points[-1] < CODE_POINTS
        if not within or np.any(np.diff(points) <= 0):
            raise DataError(f"no table of characters: needs rising numbers in [0, {CODE_POINTS})")
        self.size = len(points)
        self._points = points.astype("<u4")
        # One entry more stands for every code point beyond.
        self._table = np.full(int(points[-1]) + 2, -1, np.int32)
        self._table[points] = np.arange(self.size)

    def encode(self, text: str, unknown: str = "refuse", dtype: Any = np.int32) -> np.ndarray:
        """See `Tokenizer.encode`."""
        refuses = refused(unknown)
        tokens, end = np.empty(len(text), dtype), 0
        for codes in code_points(text):
            found = self._look_up(codes)
            if found.min() < 0:
                if refuses:
                    raise UnknownCharacters(self.unknown_characters(text), self.size)
                found = found[found >= 0]
            tokens[end : end + len(found)] = found
            end += len(found)
        return tokens if end == len(tokens) else tokens[:end].copy()

    def unknown_characters(self, text: str) -> dict[str, int]:
        """See `Tokenizer.unknown_characters`."""
        found: Counter[int] = Counter()
        for codes in code_points(text):
            values, counts = np.unique(codes[self._look_up(codes) < 0], return_counts=True)
            found.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        return {chr(code): found[code] for code in sorted(found)}

    def decode(self, tokens: Any) -> str:
        """See `Tokenizer.decode`."""
        tokens = checked(tokens, self.size)
        return "".join(
            self._points[tokens[at : at + CHUNK]].tobytes().decode("utf-32-le", "surrogatepass")
            for at in range(0, len(tokens), CHUNK)
        )

    def characters(self, tokens: Any) -> np.ndarray:
        """See `Tokenizer.characters`."""
        return np.ones(len(tokens), np.int32)

    def to_json(self) -> dict[str, Any]:
        """See `Tokenizer.to_json`."""
        return {"kind": self.kind, "code_points": list(self.code_points)}

    def _look_up(self, codes: np.ndarray) -> np.ndarray:
        return self._table.take(codes, mode="clip")


class ByteTokenizer(Tokenizer):
    """A token for each byte of UTF-8; only halves of surrogate pairs are unknown."""

    kind = "byte"
    size = 256

    def encode(self, text: str, unknown: str = "refuse", dtype: Any = np.int32) -> np.ndarray:
        """See `Tokenizer.encode`."""
        raw = utf8(text, unknown, self.size)
        found = [np.frombuffer(piece, np.uint8).astype(dtype) for piece in raw]
        return np.concatenate([np.empty(0, dtype), *found])

    def unknown_characters(self, text: str) -> dict[str, int]:
        """See `Tokenizer.unknown_characters`."""
        return surrogates(text)

    def decode(self, tokens: Any) -> str:
        """See `Tokenizer.decode`."""
        return checked(tokens, self.size).astype(np.uint8).tobytes().decode(errors="replace")

    def characters(self, tokens: Any) -> np.ndarray:
        """See `Tokenizer.characters`."""
        return ends(checked(tokens, self.size).astype(np.uint8))

    def to_json(self) -> dict[str, Any]:
        """See `Tokenizer.to_json`."""
        return {"kind": self.kind}


def code_points_of(text: str) -> tuple[int, ...]:
    """Return the code points of the characters that stand in a text, rising."""
    there = np.zeros(CODE_POINTS, bool)
    for codes in code_points(text):
        there[codes] = True
    return tuple(np.flatnonzero(there).tolist())


def check_tokenizer(kind: str, vocabulary: int | None) -> None:
    """Check a kind of tokenizer and its vocabulary before any text is read.

    Raises:
        OptionError: no such kind; a vocabulary that is not bpe's, or out of range.
    """
    if kind not in KINDS:
        raise OptionError(
            f"--tokenizer: got '{kind}'{nearest(kind, KINDS)}; accepted: {one_of(KINDS)}"
        )
    if vocabulary is None:
        return
    if kind != "bpe":
        raise OptionError(f"--vocabulary: got {vocabulary}; accepted with --tokenizer bpe alone")
    if not 256 < vocabulary <= 1 << 16:
        raise OptionError(
            f"--vocabulary: got {vocabulary}; accepted: a whole number in [257, 65536]"
        )


def make_tokenizer(kind: str, text: str, vocabulary: int | None = None) -> Tokenizer:
    """Fit a tokenizer on a text.

    Args:
        kind: "char" (the characters of the text), "byte", or "bpe".
        text: the training split's.
        vocabulary: most tokens of bpe, 1024 if None; for no other kind.
    Raises:
        OptionError: see `check_tokenizer`.
        DataError: there is no character in the text.
    """
    check_tokenizer(kind, vocabulary)
    if kind == "byte":
        return ByteTokenizer()
    if kind == "bpe":
        return train_bpe(text, vocabulary or VOCABULARY)
    return CharTokenizer(code_points_of(text))


def from_json(made: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer that `to_json` made this of.

    Raises:
        DataError: no tokenizer made it.
    """
    try:
        if made["kind"] == "char":
            return CharTokenizer(made["code_points"])
        if made["kind"] == "bpe":
            return BpeTokenizer(made["tokenizers"])
        if made["kind"] == "byte":
            return ByteTokenizer()
        raise DataError(f"no tokenizer of kind '{made['kind']}'; accepted: {one_of(KINDS)}")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"no tokenizer: {error}") from None
