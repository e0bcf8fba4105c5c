"""Image sources: a string in, a `Data` of uint8 pixels out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dlkit.data import arrays, folder, manifest, splits
from dlkit.data.arrays import Rows, Source
from dlkit.data.spec import Data, Spec, Split, joined, taken
from dlkit.errors import DataError, counted, nearest, one_of, some_of

BUILT_IN = ("digits",)
# Sets of characters: a mirrored character is another one or none.
CHARACTERS = ("digits", "mnist", "stacked-mnist", "emnist", "kmnist", "svhn", "omniglot")
# Classes that are listed where many are accepted.
NAMED = 20
TFDS_HOME = Path("~/tensorflow_datasets")


def check_source(
    source: str,
    data_dir: str | None = None,
    download: bool = True,
    training: bool = True,
    labelled: bool = True,
    built_in: Sequence[str] = BUILT_IN,
) -> str:
    """Check the name of a source as far as is possible without loading it.

    Args:
        source, data_dir, download: as for `load_images`.
        training: whether to refuse a manifest that cannot be trained on.
        labelled: see `read`.
        built_in: names that the caller knows, for the message.
    Returns:
        Its kind: "built-in", "tfds", "npz", "manifest" or "folder".
    Raises:
        DataError: no such built-in, file or folder; an ending that is neither `.npz` nor `.csv`; a
            manifest with a mistake in it; a folder without class folders; a tfds set that is not
            on disk while downloads are off.
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
            f"--data: no built-in source '{source}'{nearest(source, built_in)}; "
            f"accepted: {one_of(built_in)}, tfds:NAME, a folder (with a slash), an .npz or a .csv "
            f"file{path_hint(source)}"
        )
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(f"--data: no file or folder {source}")
    if path.is_dir():
        folder.listed(path, labelled)
        return "folder"
    if path.suffix.lower() == ".csv":
        manifest.listed(path, training)
        return "manifest"
    if path.suffix != ".npz":
        raise DataError(
            f"--data: {source} is a file of no known kind; accepted: .npz, .csv, or a folder"
        )
    return "npz"


def check_classes(
    source: str, names: Sequence[str], option: str, data_dir: str | None, download: bool
) -> None:
    """Check the names of a source and of some of its classes without reading an image.

    Args:
        source, data_dir, download: see `check_source`.
        names: of classes.
        option: that they were given by.
    Raises:
        DataError: see `check_source`; a class that is not among those of the built-in source, a
            folder or a manifest.
    """
    kind, path = check_source(source, data_dir, download, training=False), Path(source).expanduser()
    if kind == "built-in":
        check_labels(source, names, [str(digit) for digit in range(10)], option)
    elif kind in ("folder", "manifest"):
        found = manifest.listed(path) if kind == "manifest" else folder.listed(path)
        labels = sorted({label for rows in found.values() for _, label in rows})
        check_labels(source, names, labels, option)


def check_labels(source: str, names: Sequence[str], labels: Sequence[str], option: str) -> None:
    """Check that classes are among a source's.

    Raises:
        DataError: there is no such class, with the nearest name, or none is named.
    """
    accepted = some_of(labels, NAMED)
    if not names:
        raise DataError(f"{option}: names no class; accepted: {accepted}")
    for name in names:
        if name not in labels:
            raise DataError(
                f"{option}: --data {source} has no class '{name}'{nearest(name, labels)}; "
                f"accepted: {accepted}"
            )


def path_hint(source: str) -> str:
    """Return how to write a name so that it means the file or folder here, or `""` for none."""
    path = Path(source)
    if not source or not path.exists():
        return ""
    kind, written = ("folder", f"{source}/") if path.is_dir() else ("file", f"./{source}")
    return f"; for the {kind} '{source}' write {written}"


def prepared(home: Path) -> list[str]:
    """Return the names of the tensorflow-datasets sets that are ready in a folder."""
    plain = {p.parents[1].name for p in home.glob("*/*/dataset_info.json")}
    return sorted(plain | {p.parents[2].name for p in home.glob("*/*/*/dataset_info.json")})


def images_under(path: Path) -> list[Path]:
    """Return a file itself, the files that a manifest lists, or every image file under a folder.

    Raises:
        DataError: there is no such file or folder, or the manifest has a mistake in it.
    """
    if path.is_dir():
        return [Path(file) for file in folder.images_in(path)]
    if not path.exists():
        raise DataError(f"INPUT: no file or folder {path}")
    return manifest.paths(path) if path.suffix.lower() == ".csv" else [path]


def load_images(
    source: str,
    *,
    data_dir: str | None = None,
    download: bool = True,
    shape: tuple[int, int, int | None] | None = None,
    split_seed: int = 0,
    strict: bool = False,
    stream: bool | None = None,
) -> Data:
    """Load an image source and split it.

    Args:
        source: `digits` (scikit-learn's 1,797 8 x 8 digits), `tfds:NAME`, a folder of class
            folders (with or without `train/`, `val/`, `test/`), a `.csv` with columns `path`,
            `label` and perhaps `split`, or an `.npz` with `x` and `y`, or `x_train`, `y_train`,
            `x_test`, `y_test` and perhaps `x_val`, `y_val`.
        data_dir: where tensorflow-datasets keeps its sets; its own default if None.
        download: whether tensorflow-datasets may download a set that is not there.
        shape: height, width and channels that every image is brought to; channels None keeps the
            source's own, and None for all of it takes the commonest size.
        split_seed: decides the cut where the source has no validation or test split.
        strict: refuse a source with unreadable files instead of leaving them out.
        stream: leave files, or the shards of a tfds set, on disk and decode as needed; None: if
            they take over a quarter of the memory. Training sees the same batches either way.
    Returns:
        Data of uint8 `(n, h, w, c)`, channels 1 or 3, with a preprocessing layer that standardises
        each channel by the training split's mean and deviation.
    Raises:
        DataError: the source is missing, unreadable, empty, or has fewer than two classes.
    """
    found = read(source, data_dir, download, shape, strict, stream)
    return _assemble(source, found, split_seed)


def read(
    source: str,
    data_dir: str | None = None,
    download: bool = True,
    shape: tuple[int, int, int | None] | None = None,
    strict: bool = False,
    stream: bool | None = None,
    labelled: bool = True,
    fits: Callable[[int, int], None] | None = None,
) -> Source:
    """Read a source with the splits it came with; see `load_images`.

    Where it need not be `labelled`, a folder of images alone, or an .npz without labels, is one
    class. `fits` is told the height and width of all images, of files before any is decoded, and
    raises where they will not do.
    """
    kind = check_source(source, data_dir, download, training=False, labelled=labelled)
    if kind == "built-in":
        found = arrays.digits()
    elif kind == "tfds":
        found = arrays.tfds_set(source.removeprefix("tfds:"), data_dir, download, shape, stream)
    elif kind == "npz":
        found = arrays.npz(Path(source).expanduser(), labelled)
    else:
        path = Path(source).expanduser()
        images = manifest.listed(path) if kind == "manifest" else folder.listed(path, labelled)
        common, files, labels, notes, about = folder.scan(source, images, shape)
        if fits is not None:
            fits(*common[:2])
        decoded = folder.decode(files, common, strict, notes, about, stream)
        rows = {
            name: Rows(x, y, names, lambda i, names=names: Path(names[i]).read_bytes())
            for name, (x, y, names) in decoded.items()
        }
        found = Source(rows, labels, notes, about)
    if kind in ("built-in", "npz"):
        if stream:
            found.notes.append("--stream is for files and tensorflow-datasets: this source is held")
        if shape is not None:
            _bring_to(shape, found)
    if fits is not None:
        fits(*next(iter(found.rows.values())).x.shape[1:3])
    return found


def load_rows(
    source: str,
    labels: tuple[str, ...] | None,
    shape: tuple[int, int, int],
    data_dir: str | None = None,
    download: bool = True,
    strict: bool = False,
) -> tuple[Split, str, list[str]]:
    """Load rows to score a trained model on.

    Args:
        source, data_dir, download, strict: as for `load_images`.
        labels: the model's labels; the source may use some of them and no others. None where
            labels do not matter: the source's own then count, if it has any.
        shape: what the model takes.
    Returns:
        The source's own test split, else all of its rows; "test" or "all"; and notes.
    Raises:
        DataError: a label that the model does not know, or no rows.
    """
    found = read(source, data_dir, download, shape, strict, labelled=labels is not None)
    labels = found.labels if labels is None else labels
    for label in found.labels:
        if label not in labels:
            raise DataError(
                f"--data {source}: the model has no class '{label}'{nearest(label, labels)}; "
                f"accepted: {one_of(labels)}"
            )
    numbers = np.array([labels.index(label) for label in found.labels], np.int32)
    parts = [found.rows["test"]] if "test" in found.rows else list(found.rows.values())
    x = joined([p.x for p in parts])
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


def cut(source: str, found: Source, split_seed: int) -> tuple[dict[str, Rows], list[str]]:
    """Cut the splits that a source lacks off its train split.

    Returns:
        The rows of every split, and what should be said.
    Raises:
        DataError: there is no train split.
    """
    rows = dict(found.rows)
    if "train" not in rows:
        raise DataError(f"--data {source}: has no train split; there are {one_of(rows)}")
    missing = [name for name in ("validation", "test") if name not in rows]
    if not missing:
        return rows, []
    train = rows["train"]
    pieces = splits.cut(train.y, split_seed, len(missing))
    for name, at in zip(["train", *missing], pieces, strict=True):
        rows[name] = _take(train, at)
    said = "the test split is the source's own; validation is a tenth of its train"
    return rows, [said] if missing == ["validation"] else []


def _assemble(source: str, found: Source, split_seed: int) -> Data:
    from dlkit.data.preprocess import standardise

    given = tuple(found.rows)
    for name, part in found.rows.items():
        if not len(part.x):
            raise DataError(f"--data {source}: the {name} split is empty")
    rows, said = cut(source, found, split_seed)
    notes = [*found.notes, *said]
    counts = np.bincount(rows["train"].y, minlength=len(found.labels))
    if np.count_nonzero(counts) < 2:
        there = counted(int(np.count_nonzero(counts)), "class", "classes")
        raise DataError(f"--data {source}: {there} in train; a classifier needs two")
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
        of = f"{count} of {counted(len(rows[later].x), f'{later} image')}"
        notes.append(f"{of} also {'stands' if count == 1 else 'stand'} in {earlier}")
    parts = {
        k: Split(rows[k].x, rows[k].y, tuple(rows[k].names), rows[k].encoded)
        for k in ("train", "validation", "test")
    }
    return Data(
        source=source,
        **parts,
        spec=Spec(tuple(parts["train"].x.shape[1:]), len(found.labels), found.labels),
        preprocess=standardise(parts["train"].x),
        notes=notes,
        given=given,
        kind=kind_of(source),
    )


def kind_of(source: str) -> str:
    """Return what the pictures of a source show, by its name: "characters" or "photo"."""
    name = source.removeprefix("tfds:").split("/")[0].split(":")[0]
    return "characters" if name in CHARACTERS else "photo"


def _take(rows: Rows, at: np.ndarray) -> Rows:
    encoded = rows.encoded
    return Rows(
        taken(rows.x, at), rows.y[at], [rows.names[i] for i in at], lambda i: encoded(int(at[i]))
    )


def _bring_to(shape: tuple[int, int, int | None], found: Source) -> None:
    """Bring rows from arrays to a shape; what a user would send stays as it was."""
    from dlkit.data.pixels import fit_image

    if any((shape[2] or 3) < rows.x.shape[-1] for rows in found.rows.values()):
        found.notes.append(folder.GREYED)
    for rows in found.rows.values():
        wanted = (*shape[:2], shape[2] or rows.x.shape[-1])
        if rows.x.shape[1:] != wanted:
            brought = [fit_image(image, wanted).numpy() for image in rows.x]
            rows.x = np.stack(brought) if brought else np.zeros((0, *wanted), np.uint8)
