"""Checkpoints: every variable of a training run and its position, in one file, written atomically."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from dlkit.errors import CheckpointError, RunError, StoreError

FORMAT = 1


def save(path: Path, groups: Mapping[str, Sequence[Any]], state: Mapping[str, Any]) -> None:
    """Write variables and state beside the file at `path`, then take its place.

    A process killed at any moment, or a full disk, leaves the old file whole.

    Args:
        path: the checkpoint file; its folder is made.
        groups: lists of Keras variables or arrays by name.
        state: whatever else the run needs, as JSON values.
    Raises:
        StoreError: the disk is full or not writable; what was there before is intact.
    """
    arrays: dict[str, np.ndarray] = {}
    index: dict[str, list[dict[str, Any]]] = {}
    for group, variables in groups.items():
        index[group] = []
        for i, variable in enumerate(variables):
            array = np.asarray(variable)
            index[group].append({"path": getattr(variable, "path", ""), "dtype": array.dtype.name})
            # numpy's file format has no bfloat16: its bits travel as integers.
            plain = array.dtype.isbuiltin == 1
            arrays[f"{group}/{i}"] = array if plain else array.view(f"u{array.dtype.itemsize}")
    header = json.dumps({"format": FORMAT, "index": index, "state": dict(state)})
    arrays["header"] = np.frombuffer(header.encode(), np.uint8)

    def write(file: IO[bytes]) -> None:
        np.savez(file, allow_pickle=False, **arrays)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)
    except OSError as error:
        kept = (
            f"the checkpoint before it is intact at {path}" if path.exists() else "none was there"
        )
        raise StoreError(
            f"cannot write the checkpoint {path}: {error.strerror or error}; {kept}"
        ) from None


def write_atomically(path: Path, write: Any) -> None:
    """Call `write(binary file)` on a temporary file and rename it to `path` once it is on disk."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def load(path: Path) -> tuple[dict[str, list[tuple[str, np.ndarray]]], dict[str, Any]]:
    """Read a checkpoint.

    Returns:
        `(variable path, array)` pairs by group, and the state.
    Raises:
        CheckpointError: the file is broken or of another format.
    """
    try:
        # np.load leaves a file open that is no zip: open it here.
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            header = json.loads(file["header"].tobytes())
            if header["format"] != FORMAT:
                raise ValueError(f"format {header['format']}, expected {FORMAT}")
            groups = {
                group: [
                    (entry["path"], _typed(file[f"{group}/{i}"], entry["dtype"]))
                    for i, entry in enumerate(entries)
                ]
                for group, entries in header["index"].items()
            }
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"the checkpoint {path} is broken ({type(error).__name__}: {error}); "
            "remove it to train this run from its start"
        ) from None
    return groups, header["state"]


def _typed(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.name == name:
        return array
    import ml_dtypes

    return array.view(getattr(ml_dtypes, name))


def restore(variables: Sequence[Any], saved: Sequence[tuple[str, np.ndarray]], path: Path) -> None:
    """Assign saved arrays to variables, each to the one at its place.

    Raises:
        CheckpointError: the checkpoint holds other variables; nothing is assigned.
    """
    here = [(_plain(v.path), tuple(v.shape)) for v in variables]
    there = [(_plain(name), array.shape) for name, array in saved]
    if here != there:
        differ = [f"{h} against {t}" for h, t in zip(here, there, strict=False) if h != t]
        raise CheckpointError(
            f"the checkpoint {path} is of another model: {len(there)} variables against "
            f"{len(here)} here" + (f", first difference {differ[0]}" if differ else "")
        )
    for variable, (_, array) in zip(variables, saved, strict=True):
        variable.assign(array)


def _plain(path: str) -> str:
    """Take away the numbers by which Keras tells apart objects of a kind within one process."""
    return "/".join(re.sub(r"_\d+$", "", part) for part in path.split("/"))


@contextlib.contextmanager
def claim(folder: Path, run: str) -> Iterator[None]:
    """Hold a run's checkpoint folder for this process; a killed process lets go of it.

    Raises:
        RunError: another process is training the run.
        StoreError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "lock", "w")  # noqa: SIM115 (held open as long as the claim)
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"run {run} is being trained by another process") from None
        yield
