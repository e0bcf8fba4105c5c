"""Cutting rows into train, validation and test, and finding rows that stand in two of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dlkit.data.spec import digests

SHARE = 0.1


def cut(y: np.ndarray, seed: int, parts: int) -> list[np.ndarray]:
    """Cut rows into a large first part and `parts` parts of a tenth each, stratified by class.

    Args:
        y: class numbers `(n,)`.
        seed: the split seed; the cut depends on it and on `y` alone.
        parts: number of tenths to cut off, 1 or 2.
    Returns:
        `parts + 1` sorted arrays of row numbers. A class with too few rows for every part keeps
        its first row in the first part.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, parts]))
    pieces = [[np.zeros(0, np.int64)] for _ in range(parts + 1)]
    for label in np.unique(y):
        rows = generator.permutation(np.flatnonzero(y == label))
        tenth = max(1, round(SHARE * len(rows))) if len(rows) > parts else 0
        for part in range(parts):
            pieces[part + 1].append(rows[part * tenth : (part + 1) * tenth])
        pieces[0].append(rows[parts * tenth :])
    return [np.sort(np.concatenate(piece)) for piece in pieces]


def duplicates(splits: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """Count rows of a later split whose bytes also stand in an earlier one.

    Returns:
        `{("train", "test"): 3}` for three test rows that equal some training row; pairs without
        any are left out.
    """
    seen: dict[str, set[bytes]] = {}
    found: dict[tuple[str, str], int] = {}
    for name, rows in splits.items():
        hashes = [row.tobytes() for row in digests(rows)]
        for earlier, known in seen.items():
            count = sum(h in known for h in hashes)
            if count:
                found[earlier, name] = count
        seen[name] = set(hashes)
    return found
