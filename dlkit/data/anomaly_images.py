"""Images for a detector: those of the normal classes train, those of all classes test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dlkit.data.anomalies import FEWEST, HELD_OUT, AnomalyData, Examples, divide
from dlkit.data.images import check_labels, read
from dlkit.data.spec import DetectorSpec, joined, taken
from dlkit.errors import DataError, counted

OPTION = "--normal-class"


def load_images_for_detection(
    source: str,
    *,
    normal_class: Sequence[str],
    contaminated: bool = False,
    split_seed: int = 0,
    data_dir: str | None = None,
    download: bool = True,
    shape: tuple[int, int, int | None] | None = None,
    stream: bool | None = None,
) -> AnomalyData:
    """Load a source of classified images as a detector's data: some classes are normal.

    Where the source has a test split, that is the test, with all of its classes, and the training
    images of the normal classes train, a fifth of them held out (all normal ones of its validation
    split instead, if it has one): the protocol of Ruff et al. 2018, ICML. Its training images of
    other classes are left out. Else it is cut as a table is, see `divide`. Pixels stay uint8, or on
    disk, and become standardised float32 batch by batch.

    Args:
        source, data_dir, download, shape, stream: see `dlkit.data.images.load_images`.
        normal_class: names of the classes that are normal.
        contaminated: train on images of every class, as if nobody knew.
        split_seed: decides what is held out, or the cut.
    Raises:
        DataError: see `load_images`; no such class; too few normal images.
    """
    import tensorflow as tf

    from dlkit.data.preprocess import standardise

    found = read(source, data_dir, download, shape, stream=stream)
    check_labels(source, normal_class, found.labels, OPTION)
    rows = {name: part for name, part in found.rows.items() if len(part.x)}
    x = joined([part.x for part in rows.values()])
    classes = [found.labels.index(name) for name in normal_class]
    numbers = np.concatenate([part.y for part in rows.values()])
    y = (~np.isin(numbers, classes)).astype(np.int32)
    notes = list(found.notes)
    if contaminated:
        notes.append("trained as if nobody knew what is normal: images of every class train")
    if "test" in rows:
        starts = np.cumsum([0, *(len(part.x) for part in rows.values())])
        places = {name: np.arange(*starts[i : i + 2]) for i, name in enumerate(rows)}
        train, holdout, test = given_splits(
            places, y, contaminated=contaminated, seed=split_seed, where=f"--data {source}"
        )
        if not contaminated:
            notes.append(
                "the test split is the source's own, with all of its classes; of its other images "
                f"the {len(train) + len(holdout):,} normal ones are used"
            )
    else:
        train, holdout, test = divide(
            y, len(y), contaminated=contaminated, seed=split_seed, where=f"--data {source}"
        )
    layer = standardise(taken(x, train.at))

    def prepare(pixels: Any) -> Any:
        return layer(tf.cast(pixels, tf.float32))

    def restore(image: Any) -> dict[str, Any]:
        levels = tf.round((image - tf.constant(layer.offset)) / tf.constant(layer.scale))
        return {"reconstruction": tf.cast(tf.clip_by_value(levels, 0.0, 255.0), tf.uint8)}

    def preprocess(raw: Mapping[str, Any]) -> Any:
        return prepare(raw["pixels"])

    size = tuple(int(side) for side in x.shape[1:])
    return AnomalyData(
        source=source,
        train=train,
        holdout=holdout,
        test=test,
        spec=DetectorSpec(size, int(np.prod(size)), tuple(found.labels), kind="images"),
        inputs=lambda at: {"pixels": x[at]},
        arrays=lambda at: (taken(x, at),),
        prepare=prepare,
        preprocess=preprocess,
        about={"normal_class": list(normal_class), "labels": list(found.labels)},
        contaminated=contaminated,
        notes=notes,
        restore=restore,
    )


def given_splits(
    places: Mapping[str, np.ndarray], y: np.ndarray, *, contaminated: bool, seed: int, where: str
) -> tuple[Examples, Examples, Examples]:
    """Return the examples to train on, the held-out ones and the test, of splits that were given.

    Args:
        places: which examples each given split has; "test" is among them.
        y: 0 normal, 1 anomalous, of all examples.
        contaminated: train on anomalies as well.
        seed: decides which fifth of the training examples is held out where there is no
            "validation" to take them from.
        where: the source, for messages.
    Raises:
        DataError: fewer than 10 examples to train on, or fewer than 2 held out.
    """
    usable = {name: at if contaminated else at[y[at] == 0] for name, at in places.items()}
    trained, held = usable.get("train", np.zeros(0, int)), usable.get("validation")
    if held is None:
        generator = np.random.default_rng(np.random.SeedSequence([seed, 1]))
        shuffled = generator.permutation(trained)
        count = round(HELD_OUT * len(trained))
        held, trained = shuffled[:count], shuffled[count:]
    if len(trained) < FEWEST or len(held) < 2:
        raise DataError(
            f"{where}: {counted(len(trained), 'normal image')} to train on and "
            f"{counted(len(held), 'held out', 'held out')}; accepted: at least {FEWEST} and 2"
        )
    return tuple(  # type: ignore[return-value]
        Examples(np.sort(at), y[np.sort(at)]) for at in (trained, held, places["test"])
    )
