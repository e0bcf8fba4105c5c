"""What every recipe does about its run: begin or go on, keep what made it, tidy up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.commands import as_dict


def begin(
    task: str,
    config: Any,
    params: Mapping[str, Any],
    fingerprint: str,
    resume: str | None,
    parent: str | None = None,
) -> tuple[Any, Path]:
    """Start a run, or go on with one; return it and the folder of its checkpoints.

    Args:
        task: the task's name.
        config: the resolved Config.
        params: every parameter of the model.
        fingerprint: of the data; a resumed run has to have the same.
        resume: the run to go on with, or None.
        parent: the comparison that the run is part of.
    """
    from dlkit import tracking

    if resume is None:
        run = tracking.start_run(
            task,
            {**{k: v for k, v in as_dict(config).items() if k != "params"}, **params},
            {"dlkit.model": config.model, "dlkit.data": config.data}
            | {tracking.FINGERPRINT_TAG: fingerprint},
            name=f"{config.model} on {config.data}",
            parent=parent,
        )
    else:
        run = tracking.resume_run(task, resume)
        tracking.same_data(run, fingerprint)
    return run, tracking.checkpoint_folder(run.id)


def keep(run: Any, folder: Path, config: Any, model: Any, **more: Any) -> None:
    """Log what made a run: environment, config, model, and more by name, each as JSON."""
    from dlkit import tracking

    notes = folder / "log"
    notes.mkdir(exist_ok=True)
    (notes / "model.json").write_text(model.to_json(indent=1))
    for name, value in {"environment": tracking.environment(), **more}.items():
        (notes / f"{name}.json").write_text(json.dumps(value, indent=1))
    (notes / "config.json").write_text(json.dumps(as_dict(config), indent=1))
    shutil.copyfile(notes / "config.json", folder / "config.json")
    run.artifacts(notes)


def end(run: Any, folder: Path, quiet: bool) -> None:
    """Remove what has been logged, and say where the store failed."""
    from dlkit.progress import say

    for name in ("report", "export"):
        shutil.rmtree(folder / name, ignore_errors=True)
    if run.spooling:
        say(f"note: the store failed ({run.spooling}); deliver with: dlkit runs sync", quiet)
