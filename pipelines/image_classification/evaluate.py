"""Score a trained classifier again, on its own test split or on other data."""

from __future__ import annotations

import dataclasses
import shutil
import time
from typing import Any

from pipelines.commands import outcome
from pipelines.image_classification.config import TASK, Config, load


def evaluate(
    ref: str,
    data: str | None = None,
    data_dir: str | None = None,
    download: bool = True,
    strict: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Score RUN's exported model on its test split, or on other data with the same labels.

    Other data are also compared with the run's own: see `dlkit.evaluation.drift`.
    """
    began = time.monotonic()
    from dlkit import tracking
    from dlkit.data.images import check_source, load_rows
    from dlkit.progress import say

    if data is not None:
        check_source(data, data_dir, download, training=False)
    found = tracking.find_run(ref, TASK)
    run = tracking.Run(found.info.run_id, TASK, tracking.client())
    directory = tracking.run_export(found)
    config = Config(**tracking.config_of(run.id))

    from dlkit.runtime import load_tensorflow

    tf = load_tensorflow(keras=True)
    from dlkit import export
    from dlkit.data import splits
    from dlkit.evaluation.drift import drift
    from dlkit.evaluation.report import classification_report
    from dlkit.export.images import classify

    manifest = export.read_manifest(directory / "1")
    labels, shape = tuple(manifest["labels"]), tuple(manifest["input_shape"])
    own = load(dataclasses.replace(config, data_dir=data_dir or config.data_dir, strict=strict))
    rows, split, notes = own.test, "test", own.notes
    if data is not None:
        rows, split, notes = load_rows(data, labels, shape, data_dir, download, strict)
        seen = splits.duplicates({"train": own.train.x, "these": rows.x}).get(("train", "these"), 0)
        if seen:
            notes = [
                *notes,
                f"{seen:,} of {len(rows):,} of these images also stand in the run's train",
            ]
    for note in notes:
        say(f"note: {note}", quiet)
    endpoint = tf.saved_model.load(str(directory / "1")).signatures["from_pixels"]
    probabilities = classify(endpoint, rows.x)
    shift = None
    if data is not None:
        shift = drift(probabilities, rows.y, classify(endpoint, own.test.x), own.train.y, labels)
    source = data or config.data
    about = {"run": run.id, "task": TASK, "model": config.model, "data": source}
    folder = tracking.checkpoint_folder(run.id) / "evaluation"
    report = classification_report(
        probabilities,
        rows,
        own.train,
        labels,
        folder,
        split=split,
        calibration=manifest.get("calibration"),
        drift=shift,
        about={**about, "data_notes": notes},
    )
    under = "evaluations/" + "".join(c if c.isalnum() else "-" for c in source).strip("-")
    run.artifacts(folder, under)
    shutil.rmtree(folder)
    return outcome(report, run.artifact(f"{under}/report.json"), directory, began)
