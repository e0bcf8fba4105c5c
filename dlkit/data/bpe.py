"""Byte pair encoding: bytes merged into tokens, by the `tokenizers` library."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dlkit.data.tokens import Tokenizer, UnknownCharacters, checked, ends, refused, surrogates
from dlkit.errors import DataError, OptionError

VOCABULARY = 1024
BYTES = 256
# Characters of a piece, and pieces that the library's threads are given at once.
PIECE = 1 << 16
PIECES = 64
# Between words the library's pattern always ends one and begins another.
BETWEEN_WORDS = re.compile(r"(?<=\S)[ \n]")


class BpeTokenizer(Tokenizer):
    """A token for each byte of UTF-8 and for each of the byte sequences that were merged.

    As for bytes, only halves of surrogate pairs are unknown.

    Args:
        model: JSON of the `tokenizers` library: a byte-level BPE as `train_bpe` makes it.
    Raises:
        DataError: the library does not take it.
    Reference:
        Sennrich et al. 2016, arXiv:1508.07909; on bytes, Radford et al. 2019, "Language models are
        unsupervised multitask learners", section 2.2.
    """

    kind = "bpe"

    def __init__(self, model: Mapping[str, Any]) -> None:
        import tokenizers

        self._json = dict(model)
        try:
            self._model: Any = tokenizers.Tokenizer.from_str(json.dumps(self._json))
        except Exception as error:  # the library has no class of its own for it
            raise DataError(f"no tokenizer of byte pairs: {error}") from None
        self.size = self._model.get_vocab_size()
        names = self._model.get_vocab()
        alphabet = _alphabet()
        raw = [bytes(alphabet[c] for c in name) for name in sorted(names, key=names.__getitem__)]
        self._lengths = np.array([len(b) for b in raw], np.int64)
        self._begins = np.cumsum(self._lengths) - self._lengths
        self._flat = np.frombuffer(b"".join(raw), np.uint8)

    def encode(self, text: str, unknown: str = "refuse", dtype: Any = np.int32) -> np.ndarray:
        """See `Tokenizer.encode`."""
        refuses, found = refused(unknown), [np.empty(0, dtype)]
        pieces = _pieces(text)
        while batch := list(itertools.islice(pieces, PIECES)):
            try:
                encodings = self._model.encode_batch_fast(batch)
            except (UnicodeEncodeError, TypeError):
                # What the library says of half a surrogate pair.
                if refuses:
                    raise UnknownCharacters(surrogates(text), self.size) from None
                batch = [piece.encode(errors="ignore").decode() for piece in batch]
                encodings = self._model.encode_batch_fast(batch)
            found += [np.array(encoding.ids, dtype) for encoding in encodings]
        return np.concatenate(found)

    def unknown_characters(self, text: str) -> dict[str, int]:
        """See `Tokenizer.unknown_characters`."""
        return surrogates(text)

    def decode(self, tokens: Any) -> str:
        """See `Tokenizer.decode`."""
        return self._raw(tokens)[0].tobytes().decode(errors="replace")

    def characters(self, tokens: Any) -> np.ndarray:
        """See `Tokenizer.characters`."""
        raw, begins = self._raw(tokens)
        return np.add.reduceat(ends(raw), begins) if len(begins) else np.empty(0, np.int32)

    def to_json(self) -> dict[str, Any]:
        """See `Tokenizer.to_json`."""
        return {"kind": self.kind, "tokenizers": self._json}

    def _raw(self, tokens: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the bytes of tokens, uint8, and where those of each begin, int64 `(n,)`."""
        tokens = checked(tokens, self.size)
        lengths = self._lengths[tokens]
        begins = np.cumsum(lengths) - lengths
        at = np.repeat(self._begins[tokens] - begins, lengths)
        at += np.arange(len(at))
        return self._flat[at], begins


def train_bpe(text: str, size: int = VOCABULARY) -> BpeTokenizer:
    """Merge the commonest pairs of neighbours within words, again and again.

    The same text gives the same merges. A pair that stands once is not merged: a short text gives
    fewer tokens than asked for.

    Args:
        text: what the pairs are counted in.
        size: most tokens, 256 bytes included; in [257, 65536].
    Raises:
        OptionError: the size is out of range.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if not BYTES < size <= 1 << 16:
        raise OptionError(f"--vocabulary: got {size}; accepted: a whole number in [257, 65536]")
    model: Any = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    model.train_from_iterator(_pieces(text), trainer)
    return BpeTokenizer(json.loads(model.to_str()))


def _pieces(text: str) -> Iterator[str]:
    """Cut a text between words, so that the tokens of the pieces are those of the whole."""
    start = 0
    while start < len(text):
        cut = BETWEEN_WORDS.search(text, start + PIECE)
        end = cut.start() if cut else len(text)
        yield text[start:end]
        start = end


def _alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level token stands for.

    A byte with a printable Latin-1 character is that character; the others follow in their order.
    """
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    own = {c: ord(c) for c in letters if ord(c) < BYTES}
    rest = sorted(set(range(BYTES)) - set(own.values()))
    return own | dict(zip((c for c in letters if ord(c) >= BYTES), rest, strict=True))
