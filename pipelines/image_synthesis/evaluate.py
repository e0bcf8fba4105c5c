"""Judge a trained generator again, against its own test split or against other pictures."""

from __future__ import annotations

import dataclasses
import shutil
import time
from typing import Any

from dlkit.errors import OptionError
from pipelines.commands import outcome
from pipelines.image_synthesis.config import TASK, TRANSLATORS, Config, load
from pipelines.image_synthesis.drawn import Drawn
from pipelines.image_synthesis.setup import judge


def evaluate(
    ref: str,
    data: str | None = None,
    data_dir: str | None = None,
    download: bool = True,
    strict: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Judge the pictures of RUN's exported generator against its test split, or other pictures.

    Of other data the test split counts, else all. They are brought to the model's size; the judge is
    the run's own.
    """
    began = time.monotonic()
    from dlkit import tracking
    from dlkit.data import pictures
    from dlkit.progress import say

    if data is not None:
        pictures.check_pictures(data, data_dir, download)
    found = tracking.find_run(ref, TASK)
    run = tracking.Run(found.info.run_id, TASK, tracking.client())
    directory = tracking.run_export(found)
    config = Config(**tracking.config_of(run.id))
    if config.model in TRANSLATORS:
        raise OptionError(f"RUN: {config.model} is judged when it is trained; see its report")
    config = dataclasses.replace(config, data_dir=data_dir or config.data_dir, strict=strict)

    from dlkit.runtime import load_tensorflow

    load_tensorflow(keras=True)
    import numpy as np

    from dlkit.evaluation.synthesis_report import synthesis_report
    from dlkit.sampling import labels_like

    own = load(config)
    rows, split, notes = own.test, "test", own.notes
    if data is not None:
        rows, split, notes = pictures.other_pictures(
            data, own.spec.input_shape, data_dir=data_dir, download=download, strict=strict
        )
    for note in notes:
        say(f"note: {note}", quiet)
    net = judge(config, own, quiet)
    drawn = Drawn(str(directory))
    drawn.load()
    count = min(config.count, len(rows))
    labels = labels_like(own.train.y, count, config.seed)
    pixels = np.concatenate(
        [
            drawn.of_noise(drawn.noise(range(at, min(at + 250, count))), labels[at : at + 250])
            for at in range(0, count, 250)
        ]
    )
    source = data or config.data
    folder = tracking.checkpoint_folder(run.id) / "evaluation"
    report = synthesis_report(
        pixels,
        dataclasses.replace(own, source=source),
        net,
        folder,
        split=split,
        held_out=rows,
        wanted=labels if drawn.labels else None,
        about={"run": run.id, "task": TASK, "model": config.model, "data": source}
        | {"data_notes": notes, "judge": net.describe()},
        seed=config.seed,
    )
    under = "evaluations/" + "".join(c if c.isalnum() else "-" for c in source).strip("-")
    run.artifacts(folder, under)
    shutil.rmtree(folder)
    return outcome(report, run.artifact(f"{under}/report.json"), directory, began)
