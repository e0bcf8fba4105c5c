"""What a language model wrote: how varied it is, and how much of it is copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dlkit.evaluation.ngram import code_points

PIECE = 1 << 20  # characters of train that are looked through at once
TABLE_BITS = 20


class Memorised(NamedTuple):
    """The longest span of a sample that stands in train, and its first place there (-1: none)."""

    length: int
    text: str
    where: int


def distinct(items: Sequence[Any] | np.ndarray, n: int) -> float:
    """Return the share of distinct ones among the n-grams of words, tokens or a string's characters.

    1.0 where there are fewer than n items. Reference: Li et al. 2016, arXiv:1510.03055.
    Departs from it: divided by the number of n-grams, not of words.
    """
    grams = list(zip(*(items[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(text: str, n: int = 10) -> float:
    """Return the share of a text's n-grams of characters that repeat another: 1 - distinct-n.

    Reference: seq-rep-n of Welleck et al. 2020, arXiv:1908.04319. Departs from it: characters
    in place of tokens, so that any tokenizer is measured alike.
    """
    return 1.0 - distinct(text, n)


def memorised(sample: str, train: str) -> Memorised:
    """Find the longest span of a sample that stands word for word in train.

    One pass over train marks where 8 characters occur in the sample too, by a hash that never
    misses. Runs of marks bound the spans, so that only runs longer than the best span so far are
    looked at; few are. Time grows with train, not with train times sample. Without 8 characters in
    common, 4, 2 and 1 are tried.
    """
    best = ""
    for width in (8, 4, 2, 1):
        # A span of twice the width would have been found before.
        longest = len(sample) if width == 8 else min(len(sample), 2 * width - 1)
        best = _shared(sample, train, width, longest)
        if best:
            break
    return Memorised(len(best), best, train.find(best) if best else -1)


def _shared(sample: str, train: str, width: int, longest: int) -> str:
    """Return the longest common span of at least `width` characters; stop at one of `longest`."""
    table, best = np.zeros(1 << TABLE_BITS, bool), ""
    table[_hashes(sample, width)] = True
    for at in range(0, len(train), PIECE):
        piece = train[at : at + PIECE + len(sample)]
        marks = table[_hashes(piece, width)]
        edges = np.flatnonzero(np.diff(marks, prepend=False, append=False))
        first, reach = edges[::2], edges[1::2] - edges[::2] + width - 1
        held = np.flatnonzero(reach > max(len(best), width - 1))
        for i in held[np.argsort(-reach[held], kind="stable")]:
            run = piece[first[i] : first[i] + reach[i]]
            for start in range(len(run)):
                least = max(len(best) + 1, width)
                while start + least <= len(run) and run[start : start + least] in sample:
                    best, least = run[start : start + least], least + 1
                if len(best) >= longest:
                    return best
                if start + least >= len(run):
                    break
    return best


def _hashes(text: str, width: int) -> np.ndarray:
    """Return a number below 2 ** 20 for each window of 1, 2, 4 or 8 characters."""
    h, half = code_points(text).astype(np.uint32), 1
    while half < width:
        h = h[:-half] * np.uint32(0x9E3779B1 + 2 * half) + h[half:]
        half *= 2
    return h & np.uint32((1 << TABLE_BITS) - 1)
