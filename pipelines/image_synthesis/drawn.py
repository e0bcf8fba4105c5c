"""An exported generator, and the pictures that a command writes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dlkit.errors import DataError, OptionError, nearest, some_of
from pipelines.image_synthesis.config import TASK

BATCH = 250
SEEDS = 2**31
# A grid of more pictures than this is no picture any more.
MOST_IN_GRID = 2500


class Drawn:
    """An exported generator: the graphs that the server runs.

    Raises:
        OptionError: a label that the model does not have, or for a model without labels.
        RunError: RUN leads to no such export.
    """

    def __init__(self, ref: str, label: str | None = None, needs: str = "from_noise") -> None:
        from dlkit import export, tracking

        directory, _ = tracking.export_directory(ref, TASK)
        self.target = directory / "1"
        self.about = export.read_manifest(self.target)
        ends = self.about["endpoints"]
        if needs not in ends:
            raise OptionError(missing(self.about, needs))
        self.labels: list[str] = self.about.get("labels", [])
        self.label = self._number(label)

    def _number(self, label: str | None) -> int | None:
        if label is None:
            return None
        if not self.labels:
            raise OptionError(f"--label: {self.about['model']} knows no labels; leave it out")
        if label in self.labels:
            return self.labels.index(label)
        raise OptionError(
            f"--label: no label '{label}'{nearest(label, self.labels)}; "
            f"accepted: {some_of(self.labels, 20)}"
        )

    def load(self) -> None:
        """Load the graphs; what a person mistyped is told before."""
        from dlkit.runtime import load_tensorflow

        self.tf = load_tensorflow()
        self.loaded = self.tf.saved_model.load(str(self.target))

    def labels_for(self, first: int, count: int) -> Any:
        """Return the labels of the pictures from number `first` on: the one asked for, or in turn."""
        import numpy as np

        if self.label is not None:
            return np.full(count, self.label, np.int32)
        return (np.arange(first, first + count) % max(1, len(self.labels))).astype(np.int32)

    def of_noise(self, noise: Any, labels: Any) -> Any:
        """Return the pictures of noise, uint8 `(n, h, w, c)`."""
        given = {"label": self.tf.constant(labels)} if self.labels else {}
        answer = self.loaded.signatures["from_noise"](noise=self.tf.constant(noise), **given)
        return answer["pixels"].numpy()

    def noise(self, seeds: Sequence[int], truncation: float | None = None) -> Any:
        """Return the noise of seeds."""
        from dlkit.sampling import noise_of

        shape = tuple(self.about["noise_shape"])
        return noise_of(self.tf.constant(list(seeds), self.tf.int32), shape, truncation).numpy()

    def pictures(
        self, count: int, seed: int, truncation: float | None = None
    ) -> Iterator[tuple[list[int], Any, Any]]:
        """Yield seeds, labels and pictures, batch by batch."""
        for first in range(0, count, BATCH):
            n = min(BATCH, count - first)
            seeds = [(seed + first + i) % SEEDS for i in range(n)]
            labels = self.labels_for(first, n)
            yield seeds, labels, self.of_noise(self.noise(seeds, truncation), labels)

    def code(self, files: Sequence[str]) -> tuple[Any, Any, Any]:
        """Return the codes of picture files, their labels, and their pixels as the model sees them.

        Raises:
            DataError: a file that is no picture.
        """
        import numpy as np

        pixels = np.stack([self.read(Path(file).expanduser()) for file in files])
        labels = self.labels_for(0, len(files)) if self.label is None else None
        labels = np.full(len(files), self.label, np.int32) if labels is None else labels
        given = {"label": self.tf.constant(labels)} if self.labels else {}
        answer = self.loaded.signatures["encode"](pixels=self.tf.constant(pixels), **given)
        return answer["noise"].numpy(), labels, pixels

    def read(self, path: Path) -> Any:
        """Return a file's pixels in the model's shape."""
        from dlkit.data.pixels import decode_image

        try:
            return decode_image(path.read_bytes(), tuple(self.about["picture_shape"])).numpy()
        except OSError as error:
            raise DataError(f"PICTURE: {path} cannot be read: {error.strerror}") from None
        except self.tf.errors.InvalidArgumentError:
            raise DataError(f"PICTURE: {path} is no picture that can be read") from None


def missing(about: Any, needs: str) -> str:
    """Say what a model is asked for that it has not."""
    words = {
        "from_noise": "makes pictures from pictures; take translate",
        "encode": "has no code to find for a picture; accepted: a vae",
        "from_pixels": "makes pictures from noise; take generate",
    }
    return f"RUN: {about['model']} {words[needs]}"


def one_picture(name: str, endings: Sequence[str] = (".png",)) -> Path:
    """Return the path of one picture to write.

    Raises:
        OptionError: it has another ending, or is a folder, or lies in what is none.
    """
    path = Path(name).expanduser()
    if path.suffix.lower() not in endings:
        raise OptionError(f"--out: got '{name}'; accepted: a name in {' or '.join(endings)}")
    if path.is_dir():
        raise OptionError(f"--out: {path} is a folder; accepted: the name of a file")
    _in_folders(path)
    return path


def folder_or_picture(name: str) -> Path:
    """Return the path of a folder to write pictures into, or that of a grid in .png.

    Raises:
        OptionError: neither; or the folder holds something already, or lies in what is none.
    """
    path = Path(name).expanduser()
    if path.suffix:
        if path.suffix.lower() != ".png":
            raise OptionError(f"--out: got '{name}'; accepted: a folder, or a name in .png")
        return one_picture(name)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise OptionError(f"--out: {path} is not an empty folder")
    _in_folders(path)
    return path


def _in_folders(path: Path) -> None:
    """Refuse a path that leads through a file."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir():
        raise OptionError(f"--out: {there} is no folder, so nothing can be written in it")


def into_folder(folder: Path, batches: Iterator[list[tuple[str, Any]]]) -> int:
    """Write named pictures to a folder as they come, as PNGs; return how many.

    Args:
        folder: not there yet or empty, see `folder_or_picture`. Where not all are written, nothing
            is left of one that was made here.
        batches: names and pictures.
    Raises:
        OptionError: the folder cannot be written.
    """
    from PIL import Image

    from dlkit.checkpoint import write_atomically

    made, count = not folder.exists(), 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for batch in batches:
            for name, picture in batch:
                flat = picture[..., 0] if picture.shape[-1] == 1 else picture
                image = Image.fromarray(flat)
                write_atomically(folder / name, lambda file, i=image: i.save(file, format="PNG"))
                count += 1
    except BaseException as error:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise OptionError(f"--out: {folder} cannot be written: {error.strerror}") from None
    return count
