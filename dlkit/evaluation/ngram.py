"""What a language model has to beat: character n-grams with Witten-Bell smoothing, and compressors."""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlkit.errors import DataError, OptionError, counted

LARGEST = 10_000_000  # characters of train that are counted
TAIL = 0.1  # share of train, its end, on which the order is chosen
CODE_POINTS = 0x110000
# xz looks back 8 MiB; bz2 compresses blocks of 900 kB, each by itself, and adds to runs before.
XZ_CHARACTERS, BZ2_BYTES = 2_000_000, 890_000


@dataclass(frozen=True)
class NgramResult:
    """What came of the n-gram model.

    Attributes:
        order: the chosen one: it predicts a character from the `order - 1` characters before it.
        loss: nats per character of the scored text.
        losses: nats per character of the end of train, which chose the order, by order.
        note: sentences that say what was done and what was cut.
        per_character: log-probability of each scored character, in nats, float32 `(n,)`.
        unigram: the same under order 1, which knows how often each character occurs.
    """

    order: int
    loss: float
    losses: dict[int, float]
    note: str
    per_character: np.ndarray
    unigram: np.ndarray


def ngram_baseline(
    train: str, scored: str, orders: Iterable[int] = range(1, 9), largest: int = LARGEST
) -> NgramResult:
    """Fit character n-grams and score a text with the best order.

    An n-gram of order n counts n characters: the predicted one and n - 1 before it. (Order 5, so
    counted, scores 1.669 nats per character on the last tenth of tiny Shakespeare, fitted on the
    rest.) The order is chosen on the last tenth of train with counts from the rest; ties go to the
    lowest. The counts of the chosen order are then made of all of train.

    Args:
        train: the text that is counted; of a longer one, the last `largest` characters.
        scored: another text, which goes on where train ends: its first characters are predicted
            from train's last ones.
        orders: candidates, each at least 1.
        largest: see `train`.
    Raises:
        DataError: fewer than 2 characters of train, or none to score.
        OptionError: no order, or one below 1.
    Reference:
        Witten & Bell 1991, "The zero-frequency problem", IEEE Trans. Inf. Theory 37(4), method C;
        interpolated as in Chen & Goodman 1999, "An empirical study of smoothing techniques for
        language modeling", Computer Speech & Language 13, section 2.5.
    """
    candidates = sorted(set(orders))
    if not candidates or candidates[0] < 1:
        raise OptionError(f"orders of n-grams: got {candidates}; accepted: whole numbers from 1")
    if len(train) < 2 or not scored:
        raise DataError(
            f"n-grams: got {counted(len(train), 'character')} of train and {len(scored)} to score; "
            "accepted: at least 2 and 1"
        )
    said = []
    if len(train) > largest:
        said.append(f"the last {largest:,} of {len(train):,} characters of train")
        train = train[-largest:]
    tail = max(1, round(TAIL * len(train)))
    found = log_probabilities(train[:-tail], train[-tail:], candidates[-1])
    losses = {n: -float(found[n - 1].mean(dtype=np.float64)) for n in candidates}
    best = min(candidates, key=losses.__getitem__)
    del found
    answer = log_probabilities(train, scored, best)
    said.append(f"order {best} was the best on the last {tail:,} characters of train")
    unseen = set(scored) - set(train)
    if unseen:
        are, share = ("is", "it has") if len(unseen) == 1 else ("are", "they share")
        said.append(
            f"{counted(len(unseen), 'character')} of the scored text {are} not in train: {share} one "
            "more place in the vocabulary"
        )
    return NgramResult(
        order=best,
        loss=-float(answer[-1].mean(dtype=np.float64)),
        losses=losses,
        note="; ".join(said),
        per_character=answer[-1],
        unigram=answer[0],
    )


def log_probabilities(train: str, scored: str, highest: int) -> np.ndarray:
    """Score a text by the n-grams of another, of every order up to the highest.

    With h the n - 1 characters before c, h' without its first, c(.) counts in train and T(h) the
    number of distinct characters that follow h there::

        P(c | h) = (c(hc) + T(h) P(c | h')) / (c(h) + T(h))

    and P(c | h') where h is not followed by anything in train. Below order 1 stands the uniform
    distribution over the characters of train and, where the scored text has others, one place more
    for all of those.

    Every window of train and text is sorted once. Equal n-grams then stand together for all n, so
    that counts are differences of places: n log n time, and some 40 bytes of memory a character.

    Args:
        train: at least 1 character.
        scored: goes on where train ends.
        highest: order, at least 1.
    Returns:
        Log-probability of each scored character by order, in nats, float32 `(highest, n)`.
    """
    ids, vocabulary = _encode(train, scored)
    split, n = len(train), len(train) + len(scored)
    padded = np.concatenate([ids, np.zeros(highest, ids.dtype)])
    order = _sorted_windows(padded, highest, vocabulary)  # starts of windows, (n,)
    place = np.empty_like(order)
    place[order] = np.arange(n, dtype=order.dtype)
    p = np.full(len(scored), 1.0 / vocabulary)
    result = np.empty((highest, len(scored)), np.float32)
    fresh = np.zeros(n, bool)  # where an n-gram differs from that of the place before
    fresh[0] = True
    for length in range(1, highest + 1):
        shorter = fresh.copy()
        last = padded[order + (length - 1)]
        fresh[1:] |= last[1:] != last[:-1]
        firsts = np.flatnonzero(fresh)
        # Only n-grams that lie in train as a whole count.
        joint = np.add.reduceat(order <= split - length, firsts, dtype=np.int64)  # c(hc)
        opens = shorter[firsts]
        contexts = np.flatnonzero(opens)
        total = np.add.reduceat(joint, contexts)  # c(h)
        kinds = np.add.reduceat(joint > 0, contexts, dtype=np.int64)  # T(h)

        # One that begins before train is longer than train, where none of its length is counted.
        start = np.maximum(np.arange(split - length + 1, n - length + 1), 0)
        gram = (np.cumsum(fresh) - 1)[place[start]]
        context = (np.cumsum(opens) - 1)[gram]
        followed = (total + kinds)[context]
        smoothed = joint[gram] + kinds[context] * p
        p = np.where(followed > 0, smoothed / np.maximum(followed, 1), p)
        result[length - 1] = np.log(p)
    return result


def code_points(text: str) -> np.ndarray:
    """Return the code point of each character, uint32 `(n,)`."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _encode(train: str, scored: str) -> tuple[np.ndarray, int]:
    """Return the characters of both texts as small numbers, `(n,)`, and how many there are."""
    points = code_points(train)
    present = np.zeros(CODE_POINTS, bool)
    present[points] = True
    size = int(present.sum())
    kind = np.uint8 if size < 1 << 8 else np.uint16 if size < 1 << 16 else np.uint32
    table = np.full(CODE_POINTS, size, kind)  # all that train lacks is one character
    table[present] = np.arange(size, dtype=kind)
    ids = np.concatenate([table[points], table[code_points(scored)]])
    return ids, size + int(ids.max() == size)


def _sorted_windows(padded: np.ndarray, length: int, base: int) -> np.ndarray:
    """Return where the windows of a text start, int32 or int64 `(n,)`, in the order of their ids.

    Args:
        padded: ids in [0, base), `(n + length,)`, the last `length` of them zeros.
        length: ids a window.
        base: see `padded`.
    """
    n = len(padded) - length
    fits = 1
    while fits < length and base ** (fits + 1) <= 1 << 64:
        fits += 1
    codes = np.zeros(n, np.uint64)
    for j in range(fits):
        codes *= np.uint64(base)
        codes += padded[j : j + n]
    order = np.argsort(codes)
    # What does not fit into 64 bits is sorted by the places of its two ends, which may overlap.
    while fits < length:
        codes = codes[order]
        rank = np.zeros(n + length, np.uint64)  # 0: beyond the end
        rank[order] = 1 + np.cumsum(np.append(False, codes[1:] != codes[:-1]))
        step = min(fits, length - fits)
        codes = rank[:n] * np.uint64(n + 1) + rank[step : step + n]
        order = np.argsort(codes)
        fits += step
    return order.astype(np.int32 if n + length < 1 << 31 else np.int64)


def compression(train: str, scored: str) -> dict[str, Any]:
    """Compress a text, as a baseline that anyone can check.

    Returns:
        Bits per character of the text. `bz2` and `xz` are given train: by how much compressed train
        grows when the text is put after it. (bz2 codes a block as a whole, so that its difference
        is no code that could be read by itself.) `bz2_alone` and `xz_alone` are of the text by
        itself, without the bytes of an empty file. Both see the end of train alone: xz 2 million
        characters, bz2 what fits into a block of 900 kB beside the text (nothing where the text is
        longer). `note` says what was cut.
    Raises:
        DataError: nothing to score.
    """
    if not scored:
        raise DataError("text to compress: got no characters; accepted: at least 1")
    text, before = scored[:XZ_CHARACTERS], train[-XZ_CHARACTERS:]
    raw, prefix = (t.encode("utf-8", "surrogatepass") for t in (text, before))
    room = max(0, BZ2_BYTES - len(raw))
    near = prefix[len(prefix) - min(room, len(prefix)) :]

    def bits(compress: Callable[[bytes], bytes], known: bytes) -> float:
        return 8 * (len(compress(known + raw)) - len(compress(known))) / len(text)

    cut = f"given the last {len(near):,} bytes of train for bz2, {len(before):,} characters for xz"
    if len(text) < len(scored):
        cut += f"; the first {len(text):,} of {len(scored):,} characters of the text"
    return {
        "bz2": bits(bz2.compress, near),
        "xz": bits(lzma.compress, prefix),
        "bz2_alone": bits(bz2.compress, b""),
        "xz_alone": bits(lzma.compress, b""),
        "note": cut,
    }
