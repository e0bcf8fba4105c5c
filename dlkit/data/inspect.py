"""What a source of images holds, and what is wrong with it, before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dlkit.data import duplicates
from dlkit.data.arrays import Rows
from dlkit.data.folder import Found, named
from dlkit.data.images import cut, read
from dlkit.errors import counted

SPLITS = ("train", "validation", "test")
# The largest class may be so many times the smallest before a word is said.
IMBALANCED = 3.0


@dataclass
class Twin:
    """Two images that are one: `splits`, `names` and `labels` of the earlier and the later."""

    distance: float
    splits: tuple[str, str]
    names: tuple[str, str]
    labels: tuple[str, str]
    rows: tuple[int, int]

    @property
    def leak(self) -> bool:
        """Whether the two stand in different splits."""
        return self.splits[0] != self.splits[1]


@dataclass
class Inspection:
    """What `inspect_images` found.

    Attributes:
        source: the string that names the source.
        labels: label names, in the order of the class numbers.
        rows: images by split; a split that training would cut off is cut off here.
        given: names of the splits that the source came with.
        found: sizes and modes as they are in the source, and unreadable files.
        exact, near: images that are there twice.
        notes: what the loader said.
    """

    source: str
    labels: tuple[str, ...]
    rows: dict[str, Rows]
    given: tuple[str, ...]
    found: Found
    exact: list[Twin]
    near: list[Twin]
    notes: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of images of each class, by split."""
        return {
            name: dict(
                zip(
                    self.labels,
                    np.bincount(rows.y, minlength=len(self.labels)).tolist(),
                    strict=True,
                )
            )
            for name, rows in self.rows.items()
        }

    def leaks(self) -> list[Twin]:
        """Return the twins across splits, exact ones first."""
        return [twin for twin in (*self.exact, *self.near) if twin.leak]

    def fatal(self) -> list[str]:
        """Say what training would refuse, and what makes its score false."""
        said, counts = [], self.counts()
        train = counts["train"]
        there = sum(count > 0 for count in train.values())
        if there < 2:
            said.append(f"{counted(there, 'class', 'classes')} in train; a classifier needs two")
        for label in (label for label in self.labels if not train[label]):
            others = [name for name in counts if counts[name][label]]
            if others:
                said.append(f"class '{label}' is in {' and '.join(others)} and not in train")
        for one_is, many_are, twins in (
            ("equals one", "equal images", self.exact),
            ("is a copy of one", "are copies of images", self.near),
        ):
            across = Counter(twin.splits for twin in twins if twin.leak)
            for (one, two), count in sorted(across.items()):
                kind = one_is if count == 1 else many_are
                said.append(f"{counted(count, f'{two} image')} {kind} of {one}")
        if self.found.corrupt:
            files = counted(len(self.found.corrupt), "unreadable file")
            said.append(f"{files}: {named(self.found.corrupt, 3)}")
        return said

    def warnings(self) -> list[str]:
        """Say what training takes, and a person should know."""
        said = []
        differing = sum(t.labels[0] != t.labels[1] for t in (*self.exact, *self.near))
        if differing:
            pairs = counted(differing, "pair")
            said.append(
                f"{pairs} of the same image {'has' if differing == 1 else 'have'} different labels"
            )
        if self.imbalance() > IMBALANCED:
            said.append(
                f"the largest class has {self.imbalance():.1f} times the images of the smallest; "
                "train with --class-weight balanced"
            )
        return said

    def imbalance(self) -> float:
        """Return images of train's largest class over those of its smallest that has any."""
        there = [count for count in self.counts()["train"].values() if count]
        return max(there) / min(there) if there else 1.0


def inspect_images(
    source: str,
    *,
    data_dir: str | None = None,
    download: bool = True,
    shape: tuple[int, int, int | None] | None = None,
    split_seed: int = 0,
) -> Inspection:
    """Look at a source as training would load and split it; see `load_images` for the arguments.

    Raises:
        DataError: the source cannot be loaded at all, or holds no image.
    """
    found = read(source, data_dir, download, shape)
    given = tuple(name for name in SPLITS if name in found.rows)
    about = found.found or _found(found.rows)
    notes = [note for note in found.notes if "unreadable" not in note]
    rows, said = cut(source, found, split_seed)
    rows = {name: rows[name] for name in SPLITS if name in rows}
    starts = np.cumsum([0, *(len(part.x) for part in rows.values())])
    traits = duplicates.traits([part.x for part in rows.values()])

    def twin(pair: duplicates.Pair) -> Twin:
        at = (pair.first, pair.second)
        places = [int(np.searchsorted(starts, i, "right")) - 1 for i in at]
        names = [list(rows)[place] for place in places]
        inner = [int(i - starts[place]) for i, place in zip(at, places, strict=True)]
        parts = [rows[name] for name in names]
        return Twin(
            pair.distance,
            (names[0], names[1]),
            (parts[0].names[inner[0]], parts[1].names[inner[1]]),
            (found.labels[parts[0].y[inner[0]]], found.labels[parts[1].y[inner[1]]]),
            (inner[0], inner[1]),
        )

    exact = [twin(pair) for pair in duplicates.exact(traits)]
    near = [twin(pair) for pair in duplicates.near(traits)]
    if traits.side < duplicates.FREQUENCIES:
        said.append(
            f"images under {duplicates.FREQUENCIES} pixels a side are compared for equality"
        )
    return Inspection(source, found.labels, rows, given, about, exact, near, [*notes, *said])


def _found(rows: Mapping[str, Rows]) -> Found:
    """Say of arrays what a folder's files say in their headers."""
    found = Found()
    for part in rows.values():
        _, height, width, channels = part.x.shape
        found.sizes[height, width] += len(part.x)
        found.modes["L" if channels == 1 else "RGB"] += len(part.x)
    return found


def mean_images(rows: Rows, classes: int) -> np.ndarray:
    """Return the mean image of each class, float32 `(classes, h, w, c)`; NaN for one without rows."""
    total = np.zeros((classes, *rows.x.shape[1:]), np.float64)
    for start in range(0, len(rows.x), 512):
        part, y = rows.x[start : start + 512], rows.y[start : start + 512]
        for label in np.unique(y):
            total[label] += part[y == label].sum(0, dtype=np.int64)
    counts = np.bincount(rows.y, minlength=classes).reshape(-1, 1, 1, 1)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan).astype(np.float32)
