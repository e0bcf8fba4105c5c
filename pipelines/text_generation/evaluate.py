"""Score a trained language model again, on its own held-out text or on another."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from typing import Any

import click

from pipelines.commands import outcome, plain
from pipelines.text_generation.config import TASK, Config, load
from pipelines.text_generation.result import show


def evaluate(
    ref: str,
    data: str | None = None,
    field: str | None = None,
    data_dir: str | None = None,
    download: bool = True,
    prompt: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Score RUN's model on its held-out text, or on all of another.

    Characters of another text that the vocabulary lacks are left out, and said.
    """
    began = time.monotonic()
    from dlkit import tracking
    from dlkit.data.text import check_source
    from dlkit.progress import say

    if data is not None:
        check_source(data, data_dir, download, field)
    found = tracking.find_run(ref, TASK)
    run = tracking.Run(found.info.run_id, TASK, tracking.client())
    directory = tracking.run_export(found)
    config = Config(**tracking.config_of(run.id))

    from dlkit.runtime import load_tensorflow

    load_tensorflow(keras=True)
    from dlkit import checkpoint, models
    from dlkit.data.text import load_other
    from pipelines.text_generation.scoring import report_on

    own = load(dataclasses.replace(config, data_dir=data_dir or config.data_dir))
    text, split, source = own, "test" if len(own.test) else "validation", data or config.data
    if data is not None:
        text = load_other(data, own, field=field, data_dir=data_dir, download=download)
        split = "test"
    for note in text.notes:
        say(f"note: {note}", quiet)
    model = models.build(TASK, config.model, own.spec, config.params)
    groups, _ = checkpoint.load(tracking.checkpoint_folder(run.id) / "checkpoint.npz")
    for variable, (_, best) in zip(model.variables, groups["best"], strict=True):
        variable.assign(best)
    folder = tracking.checkpoint_folder(run.id) / "evaluation"
    report = report_on(
        model,
        text,
        split,
        folder,
        prompt=config.sample_prompt if prompt is None else prompt,
        seed=config.seed,
        train=own.text["train"],
        about={"run": run.id, "task": TASK, "model": config.model, "data": source}
        | {"data_notes": text.notes, "parameters": model.count_params()},
    )
    under = "evaluations/" + "".join(c if c.isalnum() else "-" for c in source).strip("-")
    run.artifacts(folder, under)
    shutil.rmtree(folder)
    return outcome(report, run.artifact(f"{under}/report.json"), directory, began)


@click.command("evaluate", help=(evaluate.__doc__ or "").split("\n\n")[0])
@click.argument("run")
@click.option("--data", metavar="SOURCE", help="Another text; all of it is scored.")
@click.option("--field", help="Field of .jsonl, column of .csv, feature of tfds:NAME.")
@click.option("--data-dir", metavar="DIR", help="Folder of tensorflow-datasets.")
@click.option("--download/--no-download", default=True, help="Let tensorflow-datasets download.")
@click.option("--prompt", metavar="TEXT", help="What the samples go on from.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(run: str, as_json: bool, **given: Any) -> None:
    """Score a run again."""
    result = evaluate(run, quiet=as_json, **given)
    click.echo(json.dumps(plain(result)) if as_json else show(result))
