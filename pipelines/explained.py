"""What every task's `explain` begins and ends with: a run with its checkpoint, a folder of results."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from dlkit.errors import OptionError, RunError


class Explained(NamedTuple):
    """A run that can be explained.

    Attributes:
        run: a `dlkit.tracking.Run`.
        folder: where the results go; it need not exist.
        export: the exported directory, which holds `1/`.
        manifest: of the export.
        checkpoint: the file with the Keras model's variables.
    """

    run: Any
    folder: Path
    export: Path
    manifest: dict[str, Any]
    checkpoint: Path


def to_explain(ref: str, task: str, out: str | None) -> Explained:
    """Find a run and check that its Keras model can be built again and its results be written.

    Args:
        ref: a run; not an exported directory.
        task: of the run.
        out: folder of the results; `./explain-RUN8` if None.
    Raises:
        RunError: no such run, an exported directory, or the checkpoint is gone.
        OptionError: `out` is a file.
    """
    from dlkit import export, tracking

    if not ref.startswith("models:/") and ("/" in ref or Path(ref).is_dir()):
        raise RunError(
            f"RUN: {ref} is an exported directory or none at all; an export holds no Keras model to "
            "explain: give the run that made it"
        )
    found = tracking.find_run(ref, task)
    run = tracking.Run(found.info.run_id, task, tracking.client())
    folder = Path(out).expanduser() if out else Path(f"explain-{run.id[:8]}")
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"--out: {folder} is a file; accepted: a folder")
    directory = tracking.run_export(found)
    checkpoint = tracking.checkpoint_folder(run.id) / "checkpoint.npz"
    if not checkpoint.is_file():
        raise RunError(
            f"RUN: the checkpoint of {run.id} is gone ({checkpoint}); explaining needs the Keras "
            f"model: dlkit {task} train --resume {run.id[:8]} trains it again"
        )
    return Explained(run, folder, directory, export.read_manifest(directory / "1"), checkpoint)


def hand_over(drawn: Path, what: Explained) -> None:
    """Copy results to their folder, all or none, and put them on the run.

    Raises:
        OptionError: the folder cannot be written.
    """
    try:
        copy_all(drawn, what.folder)
    except OSError as error:
        raise OptionError(
            f"--out: {what.folder} cannot be written: {error.strerror or error}"
        ) from None
    what.run.artifacts(drawn, "explanations")


def copy_all(drawn: Path, folder: Path) -> None:
    """Copy the files of one folder into another, which is made: all of them, or none and an OSError.

    Files that were there before are replaced only once all the new ones are on their disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".dlkit-", dir=folder) as held:
        for file in drawn.iterdir():
            shutil.copyfile(file, Path(held, file.name))
        for file in Path(held).iterdir():
            os.replace(file, folder / file.name)
