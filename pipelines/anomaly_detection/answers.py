"""What predict, encode and reconstruct share: an export opened, asked piece by piece, written."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlkit.errors import OptionError, RunError
from pipelines.anomaly_detection.config import TASK

# Examples that the model is asked for at once.
BATCH = 1024


class Opened:
    """A run's export, and files that it is asked about.

    Attributes:
        about: the manifest.
        notes: sentences a user should read, once all files are read.
    """

    def __init__(self, ref: str, files: Sequence[str], endpoint: str) -> None:
        """Open an export; what is wrong with names and first rows is told before TensorFlow loads.

        Raises:
            RunError: no such run, or its model has no such endpoint.
            DataError: see `dlkit.data.pieces`.
        """
        from dlkit import export, tracking
        from dlkit.data import pieces

        directory, _ = tracking.export_directory(ref, TASK)
        self.path = directory / "1"
        self.about = export.read_manifest(self.path)
        if endpoint not in self.about["endpoints"]:
            raise RunError(
                f"RUN: {ref} has no endpoint '{endpoint}': its model, {self.about['model']}, gives "
                "distances and restores nothing"
                if endpoint == "reconstruct"
                else f"RUN: {ref} has no endpoint '{endpoint}'; train a new run"
            )
        self.kind = self.about["kind"]
        self.notes: list[str] = []
        read = pieces.pieces(files, self.about, self.notes)()
        self.pieces: Iterator[Any] = itertools.chain([next(read)], read)


def opened_model(path: Path) -> Callable[[str], Callable[[Mapping[str, Any]], dict[str, Any]]]:
    """Load a SavedModel; return what gives its endpoints, which take and give arrays of any length."""
    import numpy as np

    from dlkit.runtime import load_tensorflow

    tf = load_tensorflow()
    model = tf.saved_model.load(str(path))

    def tensor(values: Any) -> Any:
        if values.dtype == object:
            return tf.constant(values.tolist(), tf.string)
        return tf.constant(np.ascontiguousarray(values))

    def endpoint(name: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        def ask(inputs: Mapping[str, Any]) -> dict[str, Any]:
            count = len(next(iter(inputs.values())))
            function = model.signatures[name]  # which alone would not keep the model's variables
            parts: dict[str, list[Any]] = {}
            for i in range(0, max(count, 1), BATCH):
                given = {k: tensor(v[i : i + BATCH]) for k, v in inputs.items()}
                for output, value in function(**given).items():
                    parts.setdefault(output, []).append(value.numpy())
            return {output: np.concatenate(each) for output, each in parts.items()}

        return ask

    return endpoint


def json_lines(frame: Any) -> Iterator[str]:
    """Give each row of a table as one line of JSON; what is missing is null."""
    import numpy as np

    columns = []
    for name in frame:
        column = frame[name]
        if column.dtype == np.float32:  # in the digits that tell it from its neighbours
            column = column.astype(str).astype(float)
        plain = column.astype(object)
        columns.append(plain.where(column.notna(), None).tolist())
    for row in zip(*columns, strict=True):
        yield json.dumps(dict(zip(frame, row, strict=True)), default=str) + "\n"


def written(path: str, flag: str, write: Callable[[Any], int]) -> int:
    """Write a file, whole or not at all, by a function that is given it and counts its rows.

    Raises:
        OptionError: it cannot be written.
    """
    from dlkit.checkpoint import write_atomically

    counts: list[int] = []
    try:
        write_atomically(Path(path).expanduser(), lambda file: counts.append(write(file)))
    except OSError as error:
        raise OptionError(f"{flag}: {path} cannot be written: {error.strerror or error}") from None
    return counts[0]


def rows_written(path: str, frames: Iterator[Any]) -> int:
    """Write tables as one .csv or .jsonl, each as it comes; return the number of rows."""

    def write(file: Any) -> int:
        text, count = io.TextIOWrapper(file, encoding="utf-8", newline=""), 0
        for frame in frames:
            if path.endswith(".jsonl"):
                text.writelines(json_lines(frame))
            else:
                frame.to_csv(text, index=False, header=count == 0, lineterminator="\n")
            count += len(frame)
        text.flush()
        text.detach()
        return count

    return written(path, "--output", write)


def drawn(path: str, draw: Callable[[Path], None]) -> None:
    """Draw a picture by a function that is given its path.

    Raises:
        OptionError: it cannot be written.
    """
    try:
        draw(Path(path).expanduser())
    except OSError as error:
        raise OptionError(f"--plot: {path} cannot be written: {error.strerror or error}") from None


def check_name(path: str | None, flag: str, endings: Sequence[str]) -> None:
    """Check that a file of this name could be written.

    Raises:
        OptionError: another ending, or no such folder.
    """
    if path is None:
        return
    where = Path(path).expanduser()
    if where.suffix not in endings or not where.absolute().parent.is_dir():
        raise OptionError(
            f"{flag}: got '{path}'; accepted: a name in {' or '.join(endings)} in a folder there is"
        )
