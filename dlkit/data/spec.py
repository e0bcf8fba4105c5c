"""What a model must know of its data, and what a recipe gets from a source."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dlkit.errors import counted

if TYPE_CHECKING:
    import keras


def digests(x: Any) -> np.ndarray:
    """Return 16 bytes that tell each row, `V16` `(n,)`; known already of rows on disk."""
    if not isinstance(x, np.ndarray):
        return x.store.digests[x.rows]
    return np.array([np.void(digest(row)) for row in x], "V16")


def digest(row: np.ndarray) -> bytes:
    """Return 16 bytes that tell a row's bytes."""
    return hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=16).digest()


def taken(x: Any, at: np.ndarray) -> Any:
    """Return some rows: of an array an array, of rows on disk rows on disk."""
    return x[at] if isinstance(x, np.ndarray) else x.view(at)


def joined(parts: list[Any]) -> Any:
    """Return rows end to end: rows on disk where all are of one store, else an array of them all."""
    stores = {id(getattr(part, "store", None)) for part in parts}
    if len(stores) > 1 or isinstance(parts[0], np.ndarray):
        return np.concatenate([np.asarray(part) for part in parts])
    whole = np.concatenate([part.rows for part in parts])
    return type(parts[0])(parts[0].store, whole)


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
class SeriesSpec(Spec):
    """What a forecasting builder is given.

    `input_shape` is `(lookback, channels)`: a window's channels are the targets, then the past
    covariates, then the past of the future covariates. `outputs` is the number of targets.

    Attributes:
        horizon: steps to forecast, at least 1.
        season: steps of a season, 1 for none.
        past: number of covariates known up to now alone.
        future: number of covariates known for the horizon too.
        static: number of features that a series has as a whole.
        quantiles: levels in (0, 1), rising; empty for one forecast a step.
        joint: forecast all targets together, not each by itself with the same weights.
    """

    horizon: int = 1
    season: int = 1
    past: int = 0
    future: int = 0
    static: int = 0
    quantiles: tuple[float, ...] = ()
    joint: bool = False

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one forecast: `(horizon, targets)`, with quantiles `(horizon, targets, q)`."""
        shape = (self.horizon, self.outputs)
        return (*shape, len(self.quantiles)) if self.quantiles else shape


@dataclass(frozen=True)
class DetectorSpec(Spec):
    """What a builder of an anomaly detector is given.

    `input_shape` is `(features,)` of a table, `(window, channels)` of series, `(h, w, c)` of images;
    `outputs` is their product.

    Attributes:
        kind: "table", "series" or "images".
    """

    kind: str = "table"


@dataclass(frozen=True)
class Split:
    """Rows of one split.

    Attributes:
        x: raw examples; for images uint8 `(n, h, w, c)`: an array, or `dlkit.data.streamed.Streamed`,
            which stays on disk and is read by index and by slice as an array is.
        y: int32 class numbers `(n,)`.
        names: where each row came from (a file, or the source's own row number), length n.
        encoded: gives the raw encoded bytes of row i, as a user would send them.
    """

    x: Any
    y: np.ndarray
    names: tuple[str, ...]
    encoded: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.x)

    def fingerprint(self) -> str:
        """Return a sha256 over every row and label, in order."""
        return _fingerprint([self])


def _fingerprint(splits: list[Split]) -> str:
    whole = hashlib.sha256()
    for split in splits:
        whole.update(repr(split.x.shape).encode())
        whole.update(digests(split.x).tobytes())
        whole.update(np.ascontiguousarray(split.y).data)
    return whole.hexdigest()


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
        classes = counted(self.spec.outputs, "class", "classes")
        return f"data {self.source}: {shape}, {classes}, {sizes}"

    def sizes(self) -> dict[str, Any]:
        """Return the number of rows of each split."""
        return {name: len(getattr(self, name)) for name in ("train", "validation", "test")}
