"""Images that stay on disk: read and decoded when they are asked for, a bounded part kept decoded.

Files and the records of tensorflow-datasets' shards can both be read in any order. So the order of
training, and every batch, is what it would be in memory.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from dlkit.data.spec import digest
from dlkit.errors import DataError

# Memory that may hold a source's pixels: twice as much is needed while splits are cut.
SHARE = 1 / 4
STREAMED = "the images stay on disk and are decoded as they are needed"
# Decoded pixels that a streamed source keeps, in bytes.
CACHE = 256 * 2**20
# Decoded pixels of one step of a pass over a source, in bytes.
STEP = 8 * 2**20


@dataclass
class Origin:
    """Where encoded images come from.

    Attributes:
        names: a name for each image, for errors.
        contents: int64 `(b,)` of image numbers to what `decode` takes, `(b,)`; a TensorFlow function.
        decode: one of these to uint8 `shape`; a TensorFlow function.
        shape: `(h, w, c)` of a decoded image.
    """

    names: Sequence[str]
    contents: Callable[[tf.Tensor], tf.Tensor]
    decode: Callable[[tf.Tensor], Any]
    shape: tuple[int, int, int]


def files(paths: Sequence[str], shape: tuple[int, int, int]) -> Origin:
    """Return the origin that reads image files, brought to `shape` as `decode_image` does."""
    from dlkit.data.pixels import decode_image

    names = tf.constant(list(paths), tf.string)
    return Origin(
        paths,
        lambda rows: tf.gather(names, rows),
        lambda name: decode_image(tf.io.read_file(name), shape),
        shape,
    )


class Records:
    """The records of TFRecord files, which can be read in any order."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = list(paths)
        found = [_offsets(path) for path in self.paths]
        self.file = np.repeat(np.arange(len(found)), [len(f) for f in found])
        self.place = np.concatenate(found) if found else np.zeros((0, 2), np.int64)

    def __len__(self) -> int:
        return len(self.place)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the bytes of records by number, object `(b,)`."""
        result = np.empty(len(rows), object)
        for i, row in enumerate(rows.tolist()):
            start, length = self.place[row].tolist()
            # Opened each time: a set may have more shards than a process may have open files.
            with open(self.paths[self.file[row]], "rb", buffering=0) as file:
                file.seek(start)
                result[i] = file.read(length)
        return result

    def contents(self, rows: tf.Tensor) -> tf.Tensor:
        """Return the bytes of records by number, string `(b,)`, within a TensorFlow function."""
        found = tf.numpy_function(self.read, [rows], tf.string, stateful=False)
        return tf.ensure_shape(found, (None,))


def _offsets(path: str) -> np.ndarray:
    """Return start and length of each record of a TFRecord file, int64 `(n, 2)`.

    A record is its length (8 bytes), a checksum (4), its bytes, and another checksum (4).
    """
    places, at, size = [], 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while at + 12 <= size:
            length = struct.unpack("<Q", file.read(12)[:8])[0]
            places.append((at + 12, length))
            at += length + 16
            file.seek(at)
    if at != size:
        raise DataError(f"{path} is cut short or no TFRecord file")
    return np.array(places, np.int64).reshape(-1, 2)


def streams(n: int, shape: tuple[int, ...], stream: bool | None) -> bool:
    """Say whether a source stays on disk: as `stream` says, else where its pixels are too many.

    Args:
        n: number of images.
        shape: `(h, w, c)` of each.
        stream: True or False as the user said; None: if they take over a quarter of the memory.
    Raises:
        DataError: they are to be held, and take over half of the memory.
    """
    need = n * int(np.prod(shape))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if stream is False and need > memory / 2:
        raise DataError(
            f"--no-stream: {need / 1e9:.1f} GB of pixels at {shape[0]} x {shape[1]}, more than half "
            "of this machine's memory; leave it out, or give a smaller --image-size"
        )
    return need > SHARE * memory if stream is None else stream


class Store:
    """All images of a source, on disk, with what one pass over them tells.

    Attributes:
        shape: `(h, w, c)`.
        digests: hash of each image's pixels, `V16` `(n,)`.
        sums, squares: sum of the values of each channel and of their squares, int64 `(n, c)`.
        good: whether an image can be decoded, bool `(n,)`.
        kept: the first images, decoded: uint8 `(k, h, w, c)`.
    """

    def __init__(self, origin: Origin, budget: int | None = None) -> None:
        """Read every image once and keep as many decoded as go into `budget` bytes (CACHE)."""
        self.origin, self.shape = origin, origin.shape
        n, size = len(origin.names), int(np.prod(origin.shape))
        channels = origin.shape[2]
        self.digests = np.zeros(n, "V16")
        self.sums, self.squares = (np.zeros((n, channels), np.int64) for _ in range(2))
        self.good = np.ones(n, bool)
        self.kept = np.zeros(
            (min(n, (CACHE if budget is None else budget) // size), *self.shape), np.uint8
        )
        self.cached: Any = None
        self.read = self._traced()
        step = max(1, STEP // size)
        for start in range(0, n, step):
            self._look(np.arange(start, min(n, start + step)))

    def _traced(self) -> Any:
        signature = [tf.TensorSpec((None,), tf.int64)]
        return tf.function(self.gather, input_signature=signature).get_concrete_function()

    def _look(self, rows: np.ndarray) -> None:
        """Decode some images; where one of them fails, halves, down to the one that does."""
        try:
            pixels = self.read(tf.constant(rows)).numpy()
        except tf.errors.OpError:
            if len(rows) == 1:
                self.good[rows] = False
                return
            for half in np.array_split(rows, 2):
                self._look(half)
            return
        self.digests[rows] = [np.void(digest(image)) for image in pixels]
        self.sums[rows] = pixels.sum((1, 2), dtype=np.int64)
        self.squares[rows] = np.square(pixels, dtype=np.uint16).sum((1, 2), dtype=np.int64)
        kept = rows[rows < len(self.kept)]
        self.kept[kept] = pixels[: len(kept)]

    def whole(self) -> np.ndarray:
        """Return the images that can be decoded, of which all were kept, uint8 `(n, h, w, c)`."""
        return self.kept if self.good.all() else self.kept[self.good]

    def keep(self) -> None:
        """Answer from the kept images, where they hold what is asked, from here on."""
        if len(self.kept):
            self.cached, self.kept = tf.constant(self.kept), self.kept[:0]
        self.read = self._traced()

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """Return images by number, uint8 `(b, h, w, c)`; for use within a TensorFlow function."""
        cached = self.cached

        def one(item: tuple[tf.Tensor, tf.Tensor]) -> Any:
            row, content = item
            if cached is None:
                return self.origin.decode(content)
            return tf.cond(
                row < cached.shape[0],
                lambda: tf.gather(cached, row),
                lambda: self.origin.decode(content),
            )

        pixels = tf.map_fn(
            one,
            (rows, self.origin.contents(rows)),
            fn_output_signature=tf.uint8,
            parallel_iterations=32,
        )
        return tf.ensure_shape(pixels, (None, *self.shape))


class Streamed:
    """Images of one split on disk, read as an array is: `x[3]`, `x[10:20]`, `x[rows]`.

    `len`, `shape` and `dtype` are an array's; indexing gives uint8 arrays, and `view` the same
    images in another order without reading them. `np.asarray(x)` reads all of them.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, store: Store, rows: np.ndarray) -> None:
        self.store, self.rows = store, np.asarray(rows, np.int64)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Rows, height, width and channels."""
        return (len(self.rows), *self.store.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def view(self, at: np.ndarray) -> Streamed:
        """Return the images at some rows, still on disk."""
        return Streamed(self.store, self.rows[at])

    def __getitem__(self, at: Any) -> np.ndarray:
        rows = self.rows[at]
        single = np.ndim(rows) == 0
        rows = np.atleast_1d(rows)
        if not len(rows):
            return np.zeros((0, *self.store.shape), np.uint8)
        try:
            pixels = self.store.read(tf.constant(rows)).numpy()
        except tf.errors.OpError:
            raise DataError(f"{self._broken(rows)} can no longer be read") from None
        return pixels[0] if single else pixels

    def _broken(self, rows: np.ndarray) -> str:
        """Return the name of the first image that cannot be read any more."""
        for row in rows:
            try:
                self.store.read(tf.constant([row], tf.int64))
            except tf.errors.OpError:
                return self.store.origin.names[int(row)]
        return f"one of {len(rows)} images"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.uint8, copy=False)

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """Return the images at some rows within a TensorFlow function, uint8 `(b, h, w, c)`."""
        return self.store.gather(tf.gather(tf.constant(self.rows), rows))
