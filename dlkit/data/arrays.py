"""Image sources that come as arrays: the built-in digits, .npz files, tensorflow-datasets."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.data.folder import GREYED, SPLITS, Found
from dlkit.errors import DataError, one_of


@dataclass
class Rows:
    """Rows of one given split before the missing splits are cut off."""

    x: Any  # uint8 (n, h, w, c): an array, or Streamed
    y: np.ndarray
    names: list[str]
    encoded: Callable[[int], bytes]


@dataclass
class Source:
    """What a loader read: rows by split, label names, and what should be said about them.

    `found` tells of the images before they were brought to one shape; None for arrays, whose rows
    say it themselves.
    """

    rows: dict[str, Rows]
    labels: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    found: Found | None = None


def from_arrays(x: Any, y: np.ndarray, name: str) -> Rows:
    """Return rows of uint8 images; what a user would send of them is a PNG."""

    def encoded(i: int) -> bytes:
        from dlkit.data.pixels import encode_png

        return encode_png(x[i])

    return Rows(x, y.astype(np.int32), [f"{name}[{i}]" for i in range(len(x))], encoded)


def digits() -> Source:
    """Return scikit-learn's 1,797 handwritten digits, 8 x 8 x 1, values stretched to [0, 255]."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    # Values are counts from 0 to 16 of the dark pixels in a 4 x 4 block.
    x = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    return Source({"train": from_arrays(x, bunch.target, "digits")}, tuple("0123456789"))


def npz(path: Path, labelled: bool = True) -> Source:
    """Read `x` and `y`, or `x_train`, `y_train` and so on, from an .npz file.

    Images are `(n, h, w)` or `(n, h, w, 1 or 3)`: whole numbers in [0, 255], or floats in [0, 1] or
    [0, 255]. Labels are whole numbers or text; `labels`, if there, names the numbers 0, 1, 2, ...
    Where it need not be `labelled`, images without labels are one class, "picture".

    Raises:
        DataError: the file is not such an .npz; no pickled array is ever loaded.
    """
    arrays = _arrays(path)
    pairs = {"train": ("x", "y")} if "x" in arrays else {}
    for suffix, name in SPLITS.items():
        if f"x_{suffix}" in arrays:
            pairs[name] = (f"x_{suffix}", f"y_{suffix}")
    if "train" not in pairs:
        raise DataError(
            f"--data {path}: needs x and y, or x_train and y_train; has {one_of(arrays)}"
        )
    targets = {}
    for name, (x_key, y_key) in pairs.items():
        if y_key not in arrays and not labelled:
            arrays[y_key] = np.full(len(arrays[x_key]), "picture")
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
        name: from_arrays(_pixels(path, x_key, arrays[x_key]), numbers[name], x_key)
        for name, (x_key, _) in pairs.items()
    }
    if len({r.x.shape[1:] for r in rows.values()}) > 1:
        raise DataError(f"--data {path}: the splits hold images of different shapes")
    return Source(rows, labels)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz by name."""
    where = f"--data {path}: not a readable .npz"
    arrays: dict[str, np.ndarray] = {}
    key = ""
    try:
        # np.load reads other kinds of file too.
        if not zipfile.is_zipfile(path):
            with open(path, "rb"):
                raise DataError(f"{where}: no zip; accepted: what numpy.savez writes")
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            for key in file.files:
                if isinstance(value := file[key], np.ndarray):
                    arrays[key] = value
    except ValueError:
        raise DataError(
            f"{where}: '{key}' holds Python objects, which are not loaded; accepted: arrays of "
            "numbers or of text, such as numpy.array(values).astype(str)"
        ) from None
    except OSError as error:
        raise DataError(f"{where}: {error.strerror or 'damaged'}") from None
    except (zipfile.BadZipFile, EOFError, zlib.error):
        raise DataError(f"{where}: damaged{f' at {key!r}' if key else ''}") from None
    return arrays


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


def tfds_set(
    name: str,
    data_dir: str | None,
    download: bool,
    wanted: tuple[int, int, int | None] | None,
    stream: bool | None = None,
) -> Source:
    """Read a set of pairs of image and label from tensorflow-datasets.

    Args:
        name: the set, as tensorflow-datasets spells it.
        data_dir: where sets are kept; tensorflow-datasets' own default if None.
        download: whether a set that is not there may be downloaded and prepared.
        wanted: shape that the images are brought to; the set's own if None.
        stream: leave the images in their shards; None: if they take over a quarter of the memory.
    Raises:
        DataError: no such set, none that classifies, or it cannot be prepared.
    """
    import tensorflow_datasets as tfds

    from dlkit.data.pixels import fit_image
    from dlkit.data.streamed import STREAMED, streams
    from dlkit.data.tfds_sets import prepared

    builder = prepared(name, data_dir, download)
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
    shape = (side[0], side[1], (wanted[2] if wanted else None) or channels or 3)
    source = Source({}, tuple(features[keys[1]].names))
    if shape[2] < (channels or 3):
        source.notes.append(GREYED)
    used = {}
    for given, about in builder.info.splits.items():
        if given in SPLITS:
            used[given] = about
        else:
            source.notes.append(f"the split '{given}' of tfds:{name} is not used")
    if streams(sum(about.num_examples for about in used.values()), shape, stream):
        source.notes.append(STREAMED)
        from_shards(source, name, used, features, keys, shape)
        used = {}
    # One shard after the other, which is the order of from_shards too.
    order = tfds.ReadConfig(interleave_cycle_length=1)
    for given in used:
        dataset = builder.as_dataset(
            split=given, as_supervised=True, shuffle_files=False, read_config=order
        )
        if (height, width, channels) != shape:
            dataset = dataset.map(lambda x, y: (fit_image(x, shape), y))
        pairs = list(dataset.batch(1024).as_numpy_iterator())
        x = np.concatenate([p[0] for p in pairs])
        y = np.concatenate([p[1] for p in pairs])
        source.rows[SPLITS[given]] = from_arrays(x, y, f"{name}/{given}")
    if "train" not in source.rows:
        raise DataError(f"--data tfds:{name}: has no train split")
    return source


def from_shards(
    source: Source,
    name: str,
    used: Mapping[str, Any],
    features: Any,
    keys: tuple[str, str],
    shape: tuple[int, int, int],
) -> None:
    """Give `source` the rows of splits whose images stay in their shards.

    Args:
        source: gets `rows`.
        name: the set's name.
        used: tensorflow-datasets' SplitInfo by the name that the set gives a split.
        features: decodes a record.
        keys: names of image and label in a record.
        shape: what each image is brought to.
    Raises:
        DataError: the shards are no TFRecord files, or an image does not decode.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from dlkit.data.pixels import fit_image
    from dlkit.data.streamed import Origin, Records, Store, Streamed

    paths = {given: [str(path) for path in about.filepaths] for given, about in used.items()}
    for path in (path for found in paths.values() for path in found):
        if ".tfrecord" not in path:
            raise DataError(f"--data tfds:{name}: {path} is no TFRecord file; only those stream")
    records = Records([path for found in paths.values() for path in found])
    names = [f"{name}/{given}[{i}]" for given, a in used.items() for i in range(a.num_examples)]
    if len(records) != len(names):
        raise DataError(
            f"--data tfds:{name}: {len(records)} records in its shards, {len(names)} expected"
        )

    def decode(record: Any) -> Any:
        return fit_image(features.deserialize_example(record)[keys[0]], shape)

    def label(record: Any) -> Any:
        skipped = {keys[0]: tfds.decode.SkipDecoding()}
        return tf.cast(features.deserialize_example(record, decoders=skipped)[keys[1]], tf.int32)

    store = Store(Origin(names, records.contents, decode, shape))
    if not store.good.all():
        broken = names[int(np.flatnonzero(~store.good)[0])]
        raise DataError(f"--data tfds:{name}: {broken} does not decode")
    store.keep()
    rows = tf.data.Dataset.range(len(names)).batch(1024).map(records.contents)
    y = rows.unbatch().map(label, num_parallel_calls=tf.data.AUTOTUNE).batch(1024)
    numbers = np.concatenate(list(y.as_numpy_iterator()))
    start = 0
    for given, about in used.items():
        at = np.arange(start, start + about.num_examples)
        x = Streamed(store, at)
        source.rows[SPLITS[given]] = from_arrays(x, numbers[at], f"{name}/{given}")
        start += about.num_examples
