"""Image files: those of class folders listed, and those of any listing read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.errors import DataError, counted

FORMATS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")
SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}  # fmt: skip
MAX_PIXELS = 50_000_000
# Unreadable files that a refusal names.
STRICT_SHOWN = 20
EXIF_ORIENTATION = 0x0112
GREY = ("1", "L", "LA", "I", "I;16", "I;16B")
# Said where a shape of one channel was asked for.
GREYED = "images in colour are made grey"
Files = dict[str, list[tuple[str, int]]]


@dataclass
class Found:
    """What the files or arrays of a source are like before anything is resized.

    Attributes:
        sizes: number of images by `(height, width)`.
        modes: number of images by Pillow's mode, such as "RGB" or "L".
        corrupt: names of files that cannot be read.
    """

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    corrupt: list[str] = field(default_factory=list)


def _subfolders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _split_folders(path: Path) -> dict[str, Path]:
    """Return the folder of each split; `{"train": path}` where there are none."""
    given = {SPLITS[p.name]: p for p in _subfolders(path) if p.name in SPLITS}
    return given if "train" in given else {"train": path}


def listed(path: Path, labelled: bool = True) -> dict[str, list[tuple[str, str]]]:
    """Return `(file, label)` of every image under class folders, by split, without opening one.

    Args:
        path: the folder.
        labelled: whether there have to be class folders; else a folder of images alone is one
            class, named as the folder is.
    Raises:
        DataError: train has no class folder with images, or a folder cannot be read.
    """
    try:
        found = {
            name: [(file, c.name) for c in _subfolders(folder) for file in images_in(c)]
            for name, folder in _split_folders(path).items()
        }
        if not labelled and not found["train"]:
            one = path.resolve().name
            found = {
                name: [(file, one) for file in images_in(folder)]
                for name, folder in _split_folders(path).items()
            }
    except OSError as error:
        raise DataError(f"--data {path}: cannot be read: {error.strerror}") from None
    if not found["train"]:
        what = "class folders with images" if labelled else "images"
        raise DataError(f"--data {path}: no {what} ({' '.join(FORMATS)}) in it")
    return found


def images_in(path: Path) -> list[str]:
    """Return every image file under a folder, sorted by the parts of their paths."""
    files = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(path)
        for name in names
        if name.lower().endswith(FORMATS)
    ]
    return sorted((f for f in files if os.path.isfile(f)), key=lambda f: f.split(os.sep))


def scan(
    source: str,
    images: Mapping[str, Sequence[tuple[str, str]]],
    shape: tuple[int, int, int | None] | None,
) -> tuple[tuple[int, int, int], Files, tuple[str, ...], list[str], Found]:
    """Read the header of every listed image; what has none that can be read is left out, unsaid.

    Args:
        source: names the listing in errors.
        images: `(file, label)` by split.
        shape: height, width and channels that images are brought to; see `load_images`.
    Returns:
        The common shape `(h, w, c)` (the commonest size and, if every image is grey, one channel,
        unless `shape` says otherwise), `(file, class number)` by split, sorted label names, notes,
        and what was found.
    Raises:
        DataError: no readable image.
    """
    labels = tuple(sorted({label for rows in images.values() for _, label in rows}))
    numbers = {label: number for number, label in enumerate(labels)}
    files: Files = {name: [] for name in images}
    found, rotated = Found(), 0
    with ThreadPoolExecutor() as pool:
        for name, rows in images.items():
            headers = pool.map(_header, [file for file, _ in rows], chunksize=64)
            for (file, label), header in zip(rows, headers, strict=True):
                if header is None:
                    found.corrupt.append(file)
                    continue
                size, mode, turned = header
                found.sizes[size] += 1
                found.modes[mode] += 1
                rotated += turned
                files[name].append((file, numbers[label]))
    notes: list[str] = []
    sizes = found.sizes
    if not sizes:
        raise DataError(f"--data {source}: {none_of(found.corrupt)}")
    height, width = max(sizes, key=lambda s: (sizes[s], -s[0] * s[1]))
    channels = own = 1 if set(found.modes) <= set(GREY) else 3
    if shape is not None:
        height, width, channels = shape[0], shape[1], shape[2] or channels
    other = sum(count for size, count in sizes.items() if size != (height, width))
    if other:
        of = f"{other} of {counted(sum(sizes.values()), 'image')}"
        notes.append(f"{of} {'is' if other == 1 else 'are'} resized to {height} x {width}")
    if channels < own:
        notes.append(GREYED)
    if rotated:
        notes.append(f"{counted(rotated, 'image')} with an EXIF rotation, which is not applied")
    return (height, width, channels), files, labels, notes, found


def _header(file: str) -> tuple[tuple[int, int], str, bool] | None:
    """Return size, mode and whether EXIF says it is turned; None for what is no image or too big."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            # Pillow decodes a whole PNG to look for EXIF behind the pixels.
            has_exif = image.format != "PNG" or "exif" in image.info
            turned = has_exif and image.getexif().get(EXIF_ORIENTATION, 1) != 1
            return (image.height, image.width), image.mode, turned
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def left_out(files: Sequence[str | Path]) -> str:
    """Say that files cannot be read, with the first few names."""
    return f"{counted(len(files), 'unreadable image')} left out: {named(files)}"


def none_of(files: Sequence[str | Path]) -> str:
    """Say that not one of the files can be read, with the first few names."""
    which = "the image" if len(files) == 1 else f"none of {len(files):,} images"
    cannot = "cannot" if len(files) == 1 else "can"
    return f"{which} {cannot} be read: {named(files)}; accepted: {' '.join(FORMATS)}"


def named(files: Sequence[str | Path], most: int = 5) -> str:
    """Return the first few names of unreadable files, each with what is known against it."""
    shown = ", ".join(f"{file}{_against(file)}" for file in files[:most])
    return shown + (", ..." if len(files) > most else "")


def _against(file: str | Path) -> str:
    """Name a kind of WebP that TensorFlow does not decode, which other programs show."""
    try:
        with open(file, "rb") as raw:
            head = raw.read(25)
    except OSError:
        return ""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 25:
        return ""
    # Flags of the extended container; of a lossless picture, the bit behind width and height.
    if head[12:16] == b"VP8X" and head[20] & 0x02:
        return " (an animated WebP: only still ones are read)"
    if (head[12:16] == b"VP8X" and head[20] & 0x10) or (head[12:16] == b"VP8L" and head[24] & 0x10):
        return " (a WebP with transparency: only opaque ones are read)"
    return ""


def decode(
    files: Files,
    shape: tuple[int, int, int],
    strict: bool,
    notes: list[str],
    found: Found,
    stream: bool | None = None,
) -> dict[str, tuple[Any, np.ndarray, list[str]]]:
    """Decode every file to uint8 `(n, h, w, c)`; say or refuse what here or in `scan` was left out.

    Args:
        files: file and class number, by split.
        shape: what each image is brought to.
        strict: refuse a file that does not decode.
        notes: what should be said is added here.
        found: what `scan` found; files that do not decode are added here.
        stream: leave the images on disk; None: if they take over a quarter of the memory.
    Returns:
        Images (an array, or `Streamed`), class numbers and file names, by split.
    Raises:
        DataError: a file was left out and `strict`, or none decodes.
    """
    from dlkit.data.streamed import STREAMED, Store, Streamed, streams
    from dlkit.data.streamed import files as origin

    items = [item for rows in files.values() for item in rows]
    names = [name for name, _ in items]
    on_disk = streams(len(items), shape, stream)
    store = Store(origin(names, shape), None if on_disk else len(items) * int(np.prod(shape)))
    bad = [name for name, good in zip(names, store.good, strict=True) if not good]
    found.corrupt += bad
    # Told once every file was looked at, so that one refusal names all kinds.
    if strict and found.corrupt:
        raise DataError(
            f"--strict: {counted(len(found.corrupt), 'unreadable image')}: "
            f"{named(found.corrupt, STRICT_SHOWN)}"
        )
    if len(bad) == len(items):
        raise DataError(f"--data: {none_of(found.corrupt)}")
    if found.corrupt:
        notes.append(left_out(found.corrupt))
    whole = None
    if on_disk:
        store.keep()
        notes.append(STREAMED)
    else:
        whole = store.whole()
    result, start, held = {}, 0, 0
    for split, rows in files.items():
        at = start + np.flatnonzero(store.good[start : start + len(rows)])
        x = Streamed(store, at) if whole is None else whole[held : held + len(at)]
        kept = [items[i] for i in at]
        result[split] = (x, np.array([y for _, y in kept], np.int32), [name for name, _ in kept])
        start, held = start + len(rows), held + len(at)
    return result
