"""Folders of class folders of image files."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dlkit.errors import DataError, one_of

FORMATS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")
SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}  # fmt: skip
MAX_PIXELS = 50_000_000
EXIF_ORIENTATION = 0x0112
Files = dict[str, list[tuple[Path, int]]]


def _subfolders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _split_folders(path: Path) -> dict[str, Path]:
    """Return the folder of each split; `{"train": path}` where there are none."""
    given = {SPLITS[p.name]: p for p in _subfolders(path) if p.name in SPLITS}
    return given if "train" in given else {"train": path}


def check(path: Path) -> None:
    """Check that a folder has class folders with images, without opening a file.

    Raises:
        DataError: it has none, or cannot be read.
    """
    try:
        train = _split_folders(path)["train"]
        classes = [p.name for p in _subfolders(train) if any(_images(p))]
    except OSError as error:
        raise DataError(f"--data {path}: cannot be read: {error.strerror}") from None
    if not classes:
        raise DataError(f"--data {path}: no class folders with images ({' '.join(FORMATS)}) in it")


def images_under(path: Path) -> list[Path]:
    """Return a file itself, or every image file under a folder, sorted.

    Raises:
        DataError: there is no such file or folder.
    """
    if path.is_dir():
        return _images(path)
    if not path.exists():
        raise DataError(f"INPUT: no file or folder {path}")
    return [path]


def _images(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.suffix.lower() in FORMATS and p.is_file())


def scan(
    path: Path, shape: tuple[int, int, int | None] | None, strict: bool
) -> tuple[tuple[int, int, int], Files, tuple[str, ...], list[str]]:
    """Read the header of every image under class folders.

    Returns:
        The common shape `(h, w, c)` (the commonest size and, if every image is grey, one channel,
        unless `shape` says otherwise), `(file, class number)` by split, label names, notes.
    Raises:
        DataError: no readable image; an unreadable one if `strict`.
    """
    from PIL import Image

    folders = _split_folders(path)
    labels = tuple(sorted({c.name for f in folders.values() for c in _subfolders(f) if _images(c)}))
    sizes: Counter[tuple[int, int]] = Counter()
    files: Files = {name: [] for name in folders}
    grey, rotated, bad = True, 0, []
    for name, split_folder in folders.items():
        for class_folder in _subfolders(split_folder):
            if class_folder.name not in labels:
                continue
            for file in _images(class_folder):
                try:
                    with Image.open(file) as image:
                        if image.width * image.height > MAX_PIXELS:
                            bad.append(file)
                            continue
                        sizes[image.height, image.width] += 1
                        grey = grey and image.mode in ("1", "L", "LA", "I", "I;16", "I;16B")
                        rotated += image.getexif().get(EXIF_ORIENTATION, 1) != 1
                except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                    bad.append(file)
                    continue
                files[name].append((file, labels.index(class_folder.name)))
    notes: list[str] = []
    unreadable(bad, strict, notes)
    if not sizes:
        raise DataError(f"--data {path}: none of its {len(bad)} images can be read")
    height, width = max(sizes, key=lambda s: (sizes[s], -s[0] * s[1]))
    channels = 1 if grey else 3
    if shape is not None:
        height, width, channels = shape[0], shape[1], shape[2] or channels
    other = sum(count for size, count in sizes.items() if size != (height, width))
    if other:
        notes.append(f"{other} of {sum(sizes.values())} images are resized to {height} x {width}")
    if rotated:
        notes.append(f"{rotated} images carry an EXIF rotation, which is not applied")
    return (height, width, channels), files, labels, notes


def unreadable(files: list[Path], strict: bool, notes: list[str]) -> None:
    """Note unreadable files by name, or refuse them."""
    if not files:
        return
    shown = ", ".join(str(f) for f in files[:5]) + (", ..." if len(files) > 5 else "")
    if strict:
        raise DataError(f"--strict: {len(files)} unreadable images: {shown}")
    notes.append(f"{len(files)} unreadable images left out: {shown}")


def decode(
    files: Files, shape: tuple[int, int, int], strict: bool, notes: list[str]
) -> dict[str, tuple[np.ndarray, np.ndarray, list[str]]]:
    """Decode every file to uint8 `(n, h, w, c)`, leaving out those that do not decode.

    Raises:
        DataError: the pixels would not fit into memory, or a file does not decode and `strict`.
    """
    import tensorflow as tf

    from dlkit.data.pixels import decode_image

    need = sum(map(len, files.values())) * int(np.prod(shape))
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if need > free:
        raise DataError(
            f"--data: {need / 1e9:.1f} GB of pixels at {shape[0]} x {shape[1]}, more than half of "
            "this machine's memory; give a smaller --image-size"
        )

    def pixels(item: tuple[Path, int]) -> np.ndarray | None:
        try:
            return decode_image(tf.io.read_file(str(item[0])), shape).numpy()
        except tf.errors.OpError:
            return None

    result, bad = {}, []
    with ThreadPoolExecutor() as pool:
        for name, items in files.items():
            decoded = list(pool.map(pixels, items))
            bad += [item[0] for item, x in zip(items, decoded, strict=True) if x is None]
            kept = [(x, item) for x, item in zip(decoded, items, strict=True) if x is not None]
            result[name] = (
                np.stack([x for x, _ in kept]) if kept else np.zeros((0, *shape), np.uint8),
                np.array([item[1] for _, item in kept], np.int32),
                [str(item[0]) for _, item in kept],
            )
    unreadable(bad, strict, notes)
    if not any(len(x) for x, _, _ in result.values()):
        raise DataError(f"--data: none of the {len(bad)} images can be decoded ({one_of(FORMATS)})")
    return result
