"""What every tokenizer does, and what tokenizers share."""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from dlkit.errors import DataError

# Characters that are worked on at once: a table look-up takes 4 bytes and more for each.
CHUNK = 1 << 22
SHOWN = 5


class UnknownCharacters(DataError):
    """A text holds characters that a tokenizer has no token for."""

    def __init__(self, found: Mapping[str, int], size: int) -> None:
        count = sum(found.values())
        super().__init__(
            f"{count:,} {'character is' if count == 1 else 'characters are'} not in the vocabulary "
            f"of {size:,} tokens: {shown(found)}"
        )


def shown(found: Mapping[str, int]) -> str:
    """List counted characters, the first five of them by name."""
    names = [f"{c!r} ({n:,})" for c, n in list(found.items())[:SHOWN]]
    more = len(found) - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more else "")


class Tokenizer(abc.ABC):
    """Text to tokens and back.

    Attributes:
        kind: "char", "byte" or "bpe".
        size: number of tokens in the vocabulary; tokens lie in [0, size).
    """

    kind: ClassVar[str]
    size: int

    @property
    def dtype(self) -> np.dtype:
        """The smallest of uint8, uint16 and int32 that holds every token."""
        fits = [kind for kind in ("uint8", "uint16") if self.size <= np.iinfo(kind).max + 1]
        return np.dtype([*fits, "int32"][0])

    @abc.abstractmethod
    def encode(self, text: str, unknown: str = "refuse", dtype: Any = np.int32) -> np.ndarray:
        """Return the tokens of a text, `(n,)`.

        Args:
            text: any characters.
            unknown: what becomes of characters without a token: "refuse" or "drop".
            dtype: of the tokens.
        Raises:
            UnknownCharacters: there are some, and they are not to be dropped.
        """

    @abc.abstractmethod
    def unknown_characters(self, text: str) -> dict[str, int]:
        """Count the characters of a text that have no token, in the order of their code points."""

    @abc.abstractmethod
    def decode(self, tokens: Any) -> str:
        """Return the text of tokens `(n,)`; bytes that are no UTF-8 become U+FFFD.

        Raises:
            ValueError: a token outside [0, size).
        """

    @abc.abstractmethod
    def characters(self, tokens: Any) -> np.ndarray:
        """Return how many characters end in each token, int32 `(n,)`.

        A character of several bytes ends in the token that holds its last byte. The counts of a
        text, or of the pieces that it is cut into, sum to its characters; only of a piece of less
        than 4 bytes from within a character can it not be known whether that character ends.
        """

    @abc.abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return what `dlkit.data.tokenizers.from_json` makes the same tokenizer of."""


def refused(unknown: str) -> bool:
    """Return whether unknown characters are refused, not dropped."""
    if unknown not in ("refuse", "drop"):
        raise ValueError(f"unknown is 'refuse' or 'drop', not {unknown!r}")
    return unknown == "refuse"


def checked(tokens: Any, size: int) -> np.ndarray:
    """Return tokens as an array of whole numbers, each in [0, size)."""
    tokens = np.asarray(tokens)
    if not tokens.size:
        return np.empty(0, np.int32)
    if tokens.min() < 0 or tokens.max() >= size:
        wrong = int(tokens.min() if tokens.min() < 0 else tokens.max())
        raise ValueError(f"token {wrong} lies outside [0, {size})")
    return tokens


def code_points(text: str) -> Iterator[np.ndarray]:
    """Give the code points of a text, some millions at a time, uint8 or uint32."""
    for at in range(0, len(text), CHUNK):
        piece = text[at : at + CHUNK]
        if piece.isascii():
            yield np.frombuffer(piece.encode("ascii"), np.uint8)
        else:
            yield np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), "<u4")


def surrogates(text: str) -> dict[str, int]:
    """Count halves of surrogate pairs, which are the only characters that UTF-8 does not have."""
    found: Counter[int] = Counter()
    for codes in code_points(text):
        values, counts = np.unique(codes[(codes & ~np.uint32(0x7FF)) == 0xD800], return_counts=True)
        found.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return {chr(code): found[code] for code in sorted(found)}


def utf8(text: str, unknown: str, size: int) -> Iterator[bytes]:
    """Give the UTF-8 of a text, some millions of characters at a time.

    Raises:
        UnknownCharacters: it holds halves of surrogate pairs, and they are not to be dropped.
    """
    refuses = refused(unknown)
    for at in range(0, len(text), CHUNK):
        piece = text[at : at + CHUNK]
        try:
            yield piece.encode()
        except UnicodeEncodeError:
            if refuses:
                raise UnknownCharacters(surrogates(text), size) from None
            yield piece.encode(errors="ignore")


def ends(raw: np.ndarray) -> np.ndarray:
    """Return with which bytes of UTF-8 a character ends, int32 `(n,)` of 0 and 1."""
    inner = (raw & 0xC0) == 0x80
    found = np.ones(len(raw), np.int32)
    found[:-1] = ~inner[1:]
    # What follows the last byte is not there to be seen: the first of its character tells.
    first = np.flatnonzero(~inner[-4:])
    if len(first):
        tail = raw[-4:][first[-1] :]
        needed = 1 + int(tail[0] >= 0xC0) + int(tail[0] >= 0xE0) + int(tail[0] >= 0xF0)
        found[-1] = len(tail) >= needed
    return found
