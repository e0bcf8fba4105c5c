"""What a model must know of its data, and what a recipe gets from a source."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Spec:
    """What a builder is given.

    Attributes:
        input_shape: shape of one preprocessed example, without the batch.
        outputs: number of outputs; classes for a classifier.
        labels: name of each class, in the order of the logits.
        dtype: dtype of a preprocessed example.
    """

    input_shape: tuple[int, ...]
    outputs: int
    labels: tuple[str, ...] = ()
    dtype: str = "float32"


@dataclass(frozen=True)
class Split:
    """Rows of one split.

    Attributes:
        x: raw examples; for images uint8 `(n, h, w, c)`.
        y: int32 class numbers `(n,)`.
        names: where each row came from (a file, or the source's own row number), length n.
        encoded: gives the raw encoded bytes of row i, as a user would send them.
    """

    x: np.ndarray
    y: np.ndarray
    names: tuple[str, ...]
    encoded: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.x)

    def fingerprint(self) -> str:
        """Return a sha256 over every row and label, in order."""
        return _fingerprint([self])


def _fingerprint(splits: list[Split]) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(np.ascontiguousarray(split.x).data)
        digest.update(np.ascontiguousarray(split.y).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Data:
    """A source, split, with the layer that prepares its raw rows.

    Attributes:
        source: the string that names it.
        train, validation, test: the splits.
        spec: shape, dtype and labels.
        preprocess: Keras layer from raw rows to the model's input, fitted on train alone.
        notes: sentences a user should read: what was cut, skipped, converted or duplicated.
        given: names of the splits that the source came with.
        kind: what the pictures show, which decides the default augmentation.
    """

    source: str
    train: Split
    validation: Split
    test: Split
    spec: Spec
    preprocess: keras.Layer
    notes: list[str] = field(default_factory=list)
    given: tuple[str, ...] = ("train",)
    kind: str = "photo"

    def fingerprint(self) -> str:
        """Return a sha256 over every row and label of every split, in order."""
        return _fingerprint([self.train, self.validation, self.test])

    def describe(self) -> str:
        """Say what was loaded, in one line."""
        shape = " x ".join(map(str, self.spec.input_shape))
        sizes = ", ".join(f"{n:,} {name}" for name, n in self.sizes().items())
        return f"data {self.source}: {shape}, {self.spec.outputs} classes, {sizes}"

    def sizes(self) -> dict[str, Any]:
        """Return the number of rows of each split."""
        return {name: len(getattr(self, name)) for name in ("train", "validation", "test")}
