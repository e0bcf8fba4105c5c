"""What a detector is trained on and tested with: normal rows, held-out rows, and the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dlkit.data.spec import DetectorSpec
from dlkit.errors import DataError, counted

if TYPE_CHECKING:
    from dlkit.data.anomaly_series import Rows

# Of the normal rows, the share that trains; of these, the share held out for thresholds.
TRAINED, HELD_OUT = 0.5, 0.2
# With fewer rows to train on, nothing can be said of what is normal.
FEWEST = 10


@dataclass(frozen=True)
class Examples:
    """Examples of one split: rows of a table, windows of series, or images.

    Attributes:
        at: which of the source's examples these are, int64 `(n,)`; a window is known by its start.
        y: int32 `(n,)`: 0 normal, 1 anomalous, -1 not known.
    """

    at: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.at)


@dataclass(frozen=True)
class AnomalyData:
    """A source, split, with what prepares its raw examples.

    Attributes:
        source: the string that names it.
        train, holdout, test: the splits. `holdout` is normal, as `train` is, or as contaminated.
        spec: kind and shape of a prepared example.
        inputs: gives the raw inputs of the endpoint for some examples, by name.
        arrays: gives what the training stream gathers for some examples.
        prepare: from a batch of gathered arrays to model inputs, by TensorFlow.
        preprocess: from raw inputs by name to model inputs; fitted on `train` alone.
        owners: the column or channel of each feature, int32, or None where features stand for
            themselves.
        columns: the names that `feature_scores` are of.
        about: more of what the manifest has to say: columns, roles, frequency.
        contaminated: whether `train` may hold anomalies.
        notes: sentences a user should read.
        series: the rows that windows come from; None where there are no windows.
        restore: from a model's reconstruction back to raw units, by the name of the endpoint's
            output: `reconstruction`, and of tables each column of categories.
    """

    source: str
    train: Examples
    holdout: Examples
    test: Examples
    spec: DetectorSpec
    inputs: Callable[[np.ndarray], dict[str, np.ndarray]]
    arrays: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    prepare: Callable[..., Any]
    preprocess: Callable[[Mapping[str, Any]], Any]
    owners: np.ndarray | None = None
    columns: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    contaminated: bool = False
    notes: list[str] = field(default_factory=list)
    series: Rows | None = None
    restore: Callable[[Any], dict[str, Any]] | None = None

    def fingerprint(self) -> str:
        """Return a sha256 over every example of every split, in order."""
        whole = hashlib.sha256()
        for split in (self.train, self.holdout, self.test):
            whole.update(np.ascontiguousarray(split.y).data)
            for i in range(0, len(split), 4096):
                for value in self.inputs(split.at[i : i + 4096]).values():
                    plain = value.astype("U") if value.dtype == object else value
                    whole.update(np.ascontiguousarray(plain).data)
        return whole.hexdigest()

    def describe(self) -> str:
        """Say what was loaded, in one line."""
        shape = " x ".join(map(str, self.spec.input_shape))
        what = {"table": "rows", "series": "windows", "images": "images"}[self.spec.kind]
        kept = f"{len(self.train):,} {what} to train on, {len(self.holdout):,} held out"
        test = f"{len(self.test):,} to test"
        wrong = int((self.test.y == 1).sum())
        if (self.test.y >= 0).all() and len(self.test):
            test += f", {counted(wrong, 'anomaly', 'anomalies')} among them"
        return f"data {self.source}: {shape}, {kept}, {test}"


def divide(
    y: np.ndarray | None, count: int, *, contaminated: bool, seed: int, where: str
) -> tuple[Examples, Examples, Examples]:
    """Cut examples into those to train on, held-out ones and the test.

    Half of the normal ones train, a fifth of which is held out; the rest and all anomalies test.
    Contaminated data are cut the same way, anomalies and all.

    Args:
        y: 0 normal, 1 anomalous, `(n,)`; None where nobody knows: then all are taken as normal.
        count: number of examples.
        contaminated: train on anomalies as well, as if nobody knew.
        seed: the split seed.
        where: the source, for messages.
    Raises:
        DataError: fewer than 10 rows to train on.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    usable = np.arange(count) if y is None or contaminated else np.flatnonzero(y == 0)
    if len(usable) < 2 * FEWEST:
        kind = "row" if y is None or contaminated else "normal row"
        raise DataError(
            f"{where}: has {counted(len(usable), kind)}; accepted: at least {2 * FEWEST}, half of "
            "which train"
        )
    shuffled = generator.permutation(usable)
    trained = shuffled[: round(TRAINED * len(usable))]
    held = max(2, round(HELD_OUT * len(trained)))
    rest = np.setdiff1d(np.arange(count), trained)
    known = np.full(count, -1, np.int32) if y is None else y.astype(np.int32)
    return tuple(  # type: ignore[return-value]
        Examples(np.sort(at), known[np.sort(at)]) for at in (trained[held:], trained[:held], rest)
    )
