"""Image sources: a string in, a `Data` of uint8 pixels out."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.data import folder, splits
from dlkit.data.spec import Data, Spec, Split
from dlkit.errors import DataError, nearest, one_of

BUILT_IN = ("digits",)
# Sets of characters: a mirrored character is another one or none.
CHARACTERS = ("digits", "mnist", "emnist", "kmnist", "svhn", "omniglot")
SPLIT_NAMES = {"train": "train", "val": "validation", "valid": "validation"} | {
    "validation": "validation",
    "test": "test",
}
TFDS_HOME = Path("~/tensorflow_datasets")


@dataclass
class Rows:
    """Rows of one given split before the missing splits are cut off."""

    x: np.ndarray
    y: np.ndarray
    names: list[str]
    encoded: Callable[[int], bytes]


@dataclass
class Source:
    """What a loader read: rows by split, label names, and what should be said about them."""

    rows: dict[str, Rows]
    labels: tuple[str, ...]
    notes: list[str] = field(default_factory=list)


def check_source(source: str, data_dir: str | None = None, download: bool = True) -> str:
    """Check the name of a source as far as is possible without loading it.

    Returns:
        Its kind: "built-in", "tfds", "npz" or "folder".
    Raises:
        DataError: no such built-in, file or folder; an ending that is no `.npz`; a folder without
            two classes; a tfds set that is not on disk while downloads are off.
    """
    if source.startswith("tfds:"):
        name = source.removeprefix("tfds:")
        home = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or TFDS_HOME).expanduser()
        if data_dir is not None and not home.is_dir() and not download:
            raise DataError(f"--data-dir: no folder {home}")
        here = prepared(home)
        if not download and name.split("/")[0].split(":")[0] not in here:
            raise DataError(
                f"--data {source}: not prepared in {home}{nearest(name, here)}; "
                f"there: {one_of(here) or 'nothing'} (or allow --download)"
            )
        return "tfds"
    if source in BUILT_IN:
        return "built-in"
    if "/" not in source and os.sep not in source and not Path(source).suffix:
        raise DataError(
            f"--data: no built-in source '{source}'{nearest(source, BUILT_IN)}; "
            f"accepted: {one_of(BUILT_IN)}, tfds:NAME, a folder (with a slash) or an .npz file"
        )
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(f"--data: no file or folder {source}")
    if path.is_dir():
        folder.check(path)
        return "folder"
    if path.suffix != ".npz":
        raise DataError(f"--data: {source} is a file of no known kind; accepted: .npz, or a folder")
    return "npz"


def prepared(home: Path) -> list[str]:
    """Return the names of the tensorflow-datasets sets that are ready in a folder."""
    plain = {p.parents[1].name for p in home.glob("*/*/dataset_info.json")}
    return sorted(plain | {p.parents[2].name for p in home.glob("*/*/*/dataset_info.json")})


def load_images(
    source: str,
    *,
    data_dir: str | None = None,
    download: bool = True,
    shape: tuple[int, int, int | None] | None = None,
    split_seed: int = 0,
    strict: bool = False,
) -> Data:
    """Load an image source and split it.

    Args:
        source: `digits` (scikit-learn's 1,797 8 x 8 digits), `tfds:NAME`, a folder of class
            folders (with or without `train/`, `val/`, `test/`), or an `.npz` with `x` and `y`, or
            `x_train`, `y_train`, `x_test`, `y_test` and perhaps `x_val`, `y_val`.
        data_dir: where tensorflow-datasets keeps its sets; its own default if None.
        download: whether tensorflow-datasets may download a set that is not there.
        shape: height, width and channels that every image is brought to; channels None keeps the
            source's own, and None for all of it takes the commonest size.
        split_seed: decides the cut where the source has no validation or test split.
        strict: refuse a source with unreadable files instead of leaving them out.
    Returns:
        Data of uint8 `(n, h, w, c)`, channels 1 or 3, with a preprocessing layer that standardises
        each channel by the training split's mean and deviation.
    Raises:
        DataError: the source is missing, unreadable, empty, or has fewer than two classes.
    """
    found = read(source, data_dir, download, shape, strict)
    return _assemble(source, found, split_seed)


def read(
    source: str,
    data_dir: str | None = None,
    download: bool = True,
    shape: tuple[int, int, int | None] | None = None,
    strict: bool = False,
) -> Source:
    """Read a source with the splits it came with; see `load_images`."""
    kind = check_source(source, data_dir, download)
    if kind == "built-in":
        found = _digits()
    elif kind == "tfds":
        found = _tfds(source.removeprefix("tfds:"), data_dir, download, shape)
    elif kind == "npz":
        found = _npz(Path(source).expanduser())
    else:
        common, files, labels, notes = folder.scan(Path(source).expanduser(), shape, strict)
        rows = {
            name: Rows(x, y, names, lambda i, names=names: Path(names[i]).read_bytes())
            for name, (x, y, names) in folder.decode(files, common, strict, notes).items()
        }
        found = Source(rows, labels, notes)
    if shape is not None and kind != "folder":
        _bring_to(shape, found)
    return found


def load_rows(
    source: str,
    labels: tuple[str, ...],
    shape: tuple[int, int, int],
    data_dir: str | None = None,
    download: bool = True,
    strict: bool = False,
) -> tuple[Split, str, list[str]]:
    """Load rows to score a trained model on.

    Args:
        source, data_dir, download, strict: as for `load_images`.
        labels: the model's labels; the source may use some of them and no others.
        shape: what the model takes.
    Returns:
        The source's own test split, else all of its rows; "test" or "all"; and notes.
    Raises:
        DataError: a label that the model does not know, or no rows.
    """
    found = read(source, data_dir, download, shape, strict)
    for label in found.labels:
        if label not in labels:
            raise DataError(
                f"--data {source}: the model has no class '{label}'{nearest(label, labels)}; "
                f"accepted: {one_of(labels)}"
            )
    numbers = np.array([labels.index(label) for label in found.labels], np.int32)
    parts = [found.rows["test"]] if "test" in found.rows else list(found.rows.values())
    x = np.concatenate([p.x for p in parts])
    if not len(x):
        raise DataError(f"--data {source}: no images in it")
    y = numbers[np.concatenate([p.y for p in parts])]
    places = [(part, i) for part in parts for i in range(len(part.x))]

    def encoded(i: int) -> bytes:
        part, at = places[i]
        return part.encoded(at)

    names = tuple(name for p in parts for name in p.names)
    split = "test" if "test" in found.rows else "all"
    return Split(x, y, names, encoded), split, found.notes


def _assemble(source: str, found: Source, split_seed: int) -> Data:
    from dlkit.data.preprocess import standardise

    rows, notes = found.rows, list(found.notes)
    for name, given in rows.items():
        if not len(given.x):
            raise DataError(f"--data {source}: the {name} split is empty")
    given = tuple(rows)
    missing = [name for name in ("validation", "test") if name not in rows]
    if missing:
        train = rows["train"]
        pieces = splits.cut(train.y, split_seed, len(missing))
        for name, at in zip(["train", *missing], pieces, strict=True):
            rows[name] = _take(train, at)
        if missing == ["validation"]:
            notes.append("the test split is the source's own; validation is a tenth of its train")
    counts = np.bincount(rows["train"].y, minlength=len(found.labels))
    if np.count_nonzero(counts) < 2:
        raise DataError(
            f"--data {source}: {np.count_nonzero(counts)} class in train; a classifier needs two"
        )
    for name in ("validation", "test"):
        if not len(rows[name].x):
            raise DataError(f"--data {source}: too few rows to cut off a {name} split")
        only = sorted(set(rows[name].y.tolist()) - set(np.flatnonzero(counts).tolist()))
        if only:
            raise DataError(
                f"--data {source}: class '{found.labels[only[0]]}' is in {name} and not in train"
            )
    repeated = splits.duplicates({k: rows[k].x for k in ("train", "validation", "test")})
    for (earlier, later), count in repeated.items():
        notes.append(f"{count} of {len(rows[later].x)} {later} images also stand in {earlier}")
    parts = {
        k: Split(rows[k].x, rows[k].y, tuple(rows[k].names), rows[k].encoded)
        for k in ("train", "validation", "test")
    }
    name = source.removeprefix("tfds:").split("/")[0].split(":")[0]
    return Data(
        source=source,
        **parts,
        spec=Spec(tuple(parts["train"].x.shape[1:]), len(found.labels), found.labels),
        preprocess=standardise(parts["train"].x),
        notes=notes,
        given=given,
        kind="characters" if name in CHARACTERS else "photo",
    )


def _take(rows: Rows, at: np.ndarray) -> Rows:
    encoded = rows.encoded
    return Rows(rows.x[at], rows.y[at], [rows.names[i] for i in at], lambda i: encoded(int(at[i])))


def _from_arrays(x: np.ndarray, y: np.ndarray, name: str) -> Rows:
    def encoded(i: int) -> bytes:
        from dlkit.data.pixels import encode_png

        return encode_png(x[i])

    return Rows(x, y.astype(np.int32), [f"{name}[{i}]" for i in range(len(x))], encoded)


def _bring_to(shape: tuple[int, int, int | None], found: Source) -> None:
    """Bring rows from arrays to a shape; what a user would send stays as it was."""
    from dlkit.data.pixels import fit_image

    for rows in found.rows.values():
        wanted = (*shape[:2], shape[2] or rows.x.shape[-1])
        if rows.x.shape[1:] != wanted:
            rows.x = np.stack([fit_image(image, wanted).numpy() for image in rows.x])


def _digits() -> Source:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    # Values are counts from 0 to 16 of the dark pixels in a 4 x 4 block.
    x = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    return Source({"train": _from_arrays(x, bunch.target, "digits")}, tuple("0123456789"))


def _npz(path: Path) -> Source:
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"--data {path}: not a readable .npz: {error}") from None
    pairs = {"train": ("x", "y")} if "x" in arrays else {}
    for suffix, name in SPLIT_NAMES.items():
        if f"x_{suffix}" in arrays:
            pairs[name] = (f"x_{suffix}", f"y_{suffix}")
    if "train" not in pairs:
        raise DataError(
            f"--data {path}: needs x and y, or x_train and y_train; has {one_of(arrays)}"
        )
    targets = {}
    for name, (x_key, y_key) in pairs.items():
        if y_key not in arrays:
            raise DataError(f"--data {path}: has {x_key} and no {y_key}")
        if len(arrays[x_key]) != len(arrays[y_key]) or arrays[y_key].ndim != 1:
            raise DataError(
                f"--data {path}: {x_key} has shape {arrays[x_key].shape} and {y_key} "
                f"{arrays[y_key].shape}; {y_key} must have one label a row"
            )
        targets[name] = arrays[y_key]
    labels, numbers = _labels(path, targets, arrays.get("labels"))
    rows = {
        name: _from_arrays(_pixels(path, x_key, arrays[x_key]), numbers[name], x_key)
        for name, (x_key, _) in pairs.items()
    }
    if len({r.x.shape[1:] for r in rows.values()}) > 1:
        raise DataError(f"--data {path}: the splits hold images of different shapes")
    return Source(rows, labels)


def _labels(
    path: Path, targets: dict[str, np.ndarray], names: np.ndarray | None
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Number the label values; `names`, if given, names the classes 0, 1, 2, ..."""
    for name, y in targets.items():
        if y.dtype.kind not in "iubSU":
            if y.dtype.kind != "f" or not np.all(np.isfinite(y)) or np.any(y != np.round(y)):
                raise DataError(
                    f"--data {path}: labels of {name} are neither whole numbers nor text"
                )
            targets[name] = y.astype(np.int64)
    values = np.unique(np.concatenate(list(targets.values())))
    if names is not None:
        if values.dtype.kind not in "iub" or values.min() < 0 or values.max() >= len(names):
            raise DataError(f"--data {path}: y must number the {len(names)} names in 'labels'")
        return tuple(map(str, names)), targets
    shown = tuple(v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist())
    return shown, {name: np.searchsorted(values, y) for name, y in targets.items()}


def _pixels(path: Path, key: str, x: np.ndarray) -> np.ndarray:
    """Bring an array of images to uint8 `(n, h, w, 1 or 3)`."""
    if x.ndim == 3:
        x = x[..., np.newaxis]
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or 0 in x.shape[1:]:
        raise DataError(
            f"--data {path}: {key} has shape {x.shape}; accepted: (n, h, w), (n, h, w, 1 or 3)"
        )
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind not in "iufb" or not np.all(np.isfinite(x)):
        raise DataError(f"--data {path}: {key} holds values that are not finite numbers")
    low, high = (float(x.min()), float(x.max())) if x.size else (0.0, 0.0)
    if low < 0 or high > 255:
        raise DataError(
            f"--data {path}: {key} ranges over [{low:g}, {high:g}]; accepted: [0, 255] or [0, 1]"
        )
    scale = 255.0 if x.dtype.kind in "fb" and high <= 1.0 else 1.0
    return np.round(x.astype(np.float64) * scale).astype(np.uint8)


def _tfds(
    name: str, data_dir: str | None, download: bool, wanted: tuple[int, int, int | None] | None
) -> Source:
    import tensorflow_datasets as tfds

    from dlkit.data.pixels import fit_image

    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if download:
            builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders()
        raise DataError(
            f"--data: tensorflow-datasets has no '{name}'{nearest(name, known)}"
        ) from None
    except Exception as error:  # the network, the disk or the publisher's checksum
        raise DataError(
            f"--data tfds:{name} cannot be prepared: {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'}"
        ) from None
    features = builder.info.features
    keys = builder.info.supervised_keys
    if not keys or not isinstance(features[keys[0]], tfds.features.Image):
        raise DataError(f"--data tfds:{name}: holds no pairs of image and label")
    if not isinstance(features[keys[1]], tfds.features.ClassLabel):
        raise DataError(f"--data tfds:{name}: its '{keys[1]}' is no class label")
    height, width, channels = features[keys[0]].shape
    side = wanted[:2] if wanted else (height, width)
    if None in side:
        raise DataError(f"--data tfds:{name}: its images differ in size; give --image-size")
    shape = (*side, (wanted[2] if wanted else None) or channels or 3)
    source = Source({}, tuple(features[keys[1]].names))
    for given in builder.info.splits:
        if given not in SPLIT_NAMES:
            source.notes.append(f"the split '{given}' of tfds:{name} is not used")
            continue
        dataset = builder.as_dataset(split=given, as_supervised=True, shuffle_files=False)
        if (height, width, channels) != shape:
            dataset = dataset.map(lambda x, y: (fit_image(x, shape), y))
        pairs = list(dataset.batch(1024).as_numpy_iterator())
        x = np.concatenate([p[0] for p in pairs])
        y = np.concatenate([p[1] for p in pairs])
        source.rows[SPLIT_NAMES[given]] = _from_arrays(x, y, f"{name}/{given}")
    if "train" not in source.rows:
        raise DataError(f"--data tfds:{name}: has no train split")
    return source
