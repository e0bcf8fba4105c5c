"""Pictures for generators: the sources of image classification, labelled or not, made square."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from dlkit.data import images, splits
from dlkit.data.arrays import Rows, Source, from_arrays
from dlkit.data.spec import Data, Spec, Split, taken
from dlkit.errors import DataError, counted

# Three digits of MNIST as the channels of one picture (Metz et al. 2017, arXiv:1611.02163, 3.3.1).
STACKED = "stacked-mnist"
DIGITS = "tfds:mnist"
# Fewer pictures than this in train, or in another split, cannot be split and judged.
FEWEST, FEWEST_HELD_OUT = 20, 2
# Larger pictures are made where their size was asked for: weights grow with the area.
LARGEST_SIDE = 256


def check_pictures(source: str, data_dir: str | None = None, download: bool = True) -> None:
    """Check the name of a source as far as is possible without loading it.

    Raises:
        DataError: see `dlkit.data.images.check_source`.
    """
    images.check_source(
        DIGITS if source == STACKED else source,
        data_dir,
        download,
        training=False,
        labelled=False,
        built_in=(*images.BUILT_IN, STACKED),
    )


def load_pictures(
    source: str,
    *,
    data_dir: str | None = None,
    download: bool = True,
    image_size: int | None = None,
    side: Callable[[int], int] | None = None,
    largest: int | None = None,
    like: tuple[int, ...] | None = None,
    split_seed: int = 0,
    strict: bool = False,
    stream: bool | None = None,
) -> Data:
    """Load pictures and split them.

    Args:
        source: see `dlkit.data.images.load_images`; class folders and labels are not needed. Also
            `stacked-mnist`, made from tensorflow-datasets' `mnist`.
        data_dir, download, strict, stream: see `load_images`.
        image_size: side that pictures are brought to; None takes their own, or the nearest that
            the model can make.
        side: from a side to the nearest that the model can make; None where any shape will do.
        largest: side that pictures may have where `image_size` does not say; None for any.
        like: shape `(h, w, c)` of other pictures that these are brought to, grey to colour too.
        split_seed: decides the cut where the source lacks a split, and what is stacked.
    Returns:
        Data of uint8 `(n, side, side, c)`, with a preprocessing layer to [-1, 1].
    Raises:
        DataError: see `load_images`; fewer than 20 pictures; larger ones than `largest`.
    """
    import keras

    check_pictures(source, data_dir, download)
    name = DIGITS if source == STACKED else source

    def read(shape: tuple[int, int, int | None] | None, **more: Any) -> Source:
        return images.read(name, data_dir, download, shape, strict, stream, labelled=False, **more)

    def wanted_of(height: int, width: int) -> int | None:
        return side(round((height * width) ** 0.5)) if side else None

    def fits(height: int, width: int) -> None:
        if largest is not None and max(height, width, wanted_of(height, width) or 0) > largest:
            raise DataError(
                f"--data {source}: pictures of {height} x {width}; give --image-size, such as 64"
            )

    if like is not None:
        found = read((like[0], like[1], like[2]))
    elif image_size is not None:
        found = read((image_size, image_size, None))
    else:
        found = read(None, fits=fits)
        height, width = next(iter(found.rows.values())).x.shape[1:3]
        wanted = wanted_of(height, width)
        if wanted is not None and (height, width) != (wanted, wanted):
            found = read((wanted, wanted, None))
            found.notes.append(
                f"pictures of {height} x {width} are brought to {wanted} x {wanted}, the nearest "
                "that the model makes"
            )
    labels, notes = found.labels, list(found.notes)
    rows, said = images.cut(source, found, split_seed)
    notes += said
    for split in ("train", "validation", "test"):
        least = FEWEST if split == "train" else FEWEST_HELD_OUT
        if len(rows[split].x) < least:
            there = counted(len(rows[split].x), "picture")
            raise DataError(f"--data {source}: {there} in {split}; accepted: at least {least}")
    if source == STACKED:
        rows = {name: _stacked(part, split_seed + i) for i, (name, part) in enumerate(rows.items())}
        labels = tuple(f"{mode:03}" for mode in range(1000))
    repeated = splits.duplicates({k: rows[k].x for k in ("train", "validation", "test")})
    for (earlier, later), count in repeated.items():
        notes.append(
            f"{count} of {counted(len(rows[later].x), f'{later} picture')} also "
            f"{'stands' if count == 1 else 'stand'} in {earlier}"
        )
    parts: dict[str, Any] = {
        k: Split(rows[k].x, rows[k].y, tuple(rows[k].names), rows[k].encoded)
        for k in ("train", "validation", "test")
    }
    return Data(
        source=source,
        **parts,
        spec=Spec(tuple(parts["train"].x.shape[1:]), len(labels), labels),
        preprocess=keras.layers.Rescaling(1 / 127.5, -1.0, name="to_plus_minus_one"),
        notes=notes,
        given=tuple(found.rows),
        kind=images.kind_of(source),
    )


def other_pictures(
    source: str,
    shape: tuple[int, int, int],
    *,
    data_dir: str | None = None,
    download: bool = True,
    strict: bool = False,
) -> tuple[Split, str, list[str]]:
    """Load the pictures of a source to hold generated ones against.

    Args:
        source, data_dir, download, strict: see `load_pictures`.
        shape: `(h, w, c)` that they are brought to.
    Returns:
        The source's own test split, else all of its pictures; "test" or "all"; and notes.
    Raises:
        DataError: see `dlkit.data.images.load_rows`.
    """
    check_pictures(source, data_dir, download)
    name = DIGITS if source == STACKED else source
    rows, split, notes = images.load_rows(name, None, shape, data_dir, download, strict)
    if split == "all":
        notes.append(f"{source} has no test split: these are all of its pictures")
    if source == STACKED:
        made = _stacked(rows, 2)  # as `load_pictures` stacks the test split
        rows = Split(made.x, made.y, tuple(made.names), made.encoded)
    return rows, split, notes


def _stacked(rows: Rows | Split, seed: int) -> Rows:
    """Return as many pictures as there are digits, each of three digits drawn at random."""
    generator = np.random.default_rng(np.random.SeedSequence([seed, 3]))
    drawn = generator.integers(0, len(rows.x), (len(rows.x), 3))
    x = np.stack([rows.x[drawn[:, i], ..., 0] for i in range(3)], -1)
    return from_arrays(x, rows.y[drawn] @ np.array([100, 10, 1]), STACKED)


def binarised(data: Data, seed: int, train: bool) -> Data:
    """Return pictures whose pixels are 0 or 255, each by the chance that its level gives.

    Args:
        data: held in memory.
        seed: decides all draws.
        train: whether the training split is drawn too, once for all (fixed binarisation, as
            Larochelle & Murray 2011 have it); else its pixels are drawn anew at every step by the
            stream (dynamic). Validation and test are drawn once either way.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, 4]))
    parts = {}
    for name in ("train", "validation", "test"):
        split: Split = getattr(data, name)
        if name == "train" and not train:
            continue
        x = np.asarray(split.x[:])
        drawn = generator.random(x.shape, np.float32) * 255.0 < x
        parts[name] = dataclasses.replace(split, x=drawn.astype(np.uint8) * 255)
    return dataclasses.replace(data, **parts)


def of_class(data: Data, label: str, option: str) -> Data:
    """Return the pictures of one class alone.

    Raises:
        DataError: there is no such class, or it has too few pictures.
    """
    images.check_labels(data.source, [label], data.spec.labels, option)
    number, parts = data.spec.labels.index(label), {}
    for name in ("train", "validation", "test"):
        split: Split = getattr(data, name)
        at = np.flatnonzero(split.y == number)
        least = FEWEST if name == "train" else FEWEST_HELD_OUT
        if len(at) < least:
            there = counted(len(at), "picture")
            raise DataError(f"{option}: {there} of '{label}' in {name}; at least {least} needed")
        parts[name] = _part(split, at)
    spec = dataclasses.replace(data.spec, outputs=1, labels=(label,))
    return dataclasses.replace(data, **parts, spec=spec)


def _part(split: Split, at: np.ndarray) -> Split:
    encoded: Any = split.encoded
    return Split(
        taken(split.x, at),
        np.zeros(len(at), np.int32),
        tuple(split.names[i] for i in at),
        lambda i: encoded(int(at[i])),
    )
