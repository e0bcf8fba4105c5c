"""How models are compared, in every task: a parent run, a child run for each training, resume.

All train in this process, one after the other. The data are loaded and TensorFlow is imported
once, and the limit counts from `fit`, so neither falls on a model's seconds. What a model leaves
behind is cleared before the next, and each starts from its own seeding: its weights are those that
`train` alone would give it.
"""

from __future__ import annotations

import csv
import gc
import json
import logging
import shutil
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dlkit.errors import (
    DataError,
    DlkitError,
    OptionError,
    RunError,
    StoreError,
    TrainingError,
    counted,
)
from dlkit.options import check_keys, options_of, resolve
from pipelines.commands import as_dict, plain

Row = dict[str, Any]


def parent_run(
    task: str, config: Any, models: Sequence[str], fingerprint: str, resume: str | None
) -> Any:
    """Start the run of a comparison, or open it again.

    Raises:
        RunError: the data have changed since.
    """
    from dlkit import tracking

    if resume is None:
        return tracking.start_run(
            task,
            as_dict(config),
            {"dlkit.model": f"compare({','.join(models)})", "dlkit.data": config.data}
            | {tracking.COMPARED_TAG: ",".join(models), tracking.FINGERPRINT_TAG: fingerprint},
            name=f"{counted(len(models), 'model')} on {config.data}",
        )
    parent = tracking.resume_run(task, resume)
    tracking.same_data(parent, fingerprint)
    return parent


def keep_config(parent: Any, config: Any) -> None:
    """Put a comparison's config beside its checkpoints and on its run."""
    from dlkit import tracking

    folder = tracking.checkpoint_folder(parent.id)
    log = folder / "log"
    log.mkdir(exist_ok=True)
    for each in (folder, log):
        (each / "config.json").write_text(json.dumps(as_dict(config), indent=1))
    parent.artifacts(log)


def train_children(
    parent: Any,
    plans: Mapping[str, Any],
    rows: dict[str, Row],
    train: Callable[[Any, str | None], dict[str, Any]],
    finished: Callable[[str, str], Row],
    quiet: bool,
) -> None:
    """Train every plan, one after the other, and fill in its row.

    A child that has finished is kept, and one that was ended goes on. What is wrong with the data
    or the store ends the comparison; whatever else fails is its row's reason.

    Args:
        parent: the run of the comparison.
        plans: configs of `train`, by what they are called.
        rows: of these, with at least `model` and `status`.
        train: from a plan, and the id of the child to go on with, to a result.
        finished: from what a plan is called and the id of its child to what is to stand in its row.
        quiet: show nothing on the way.
    """
    import keras

    from dlkit.progress import say

    # Each model is traced once, and TensorFlow takes several for one that is traced again and again.
    retraced = "triggered tf.function retracing"
    logging.getLogger("tensorflow").addFilter(lambda record: retraced not in record.getMessage())

    before = _children(parent.id)
    for place, (name, plan) in enumerate(plans.items(), 1):
        was = before.get(_key(plan))
        done = was is not None and was.status == "FINISHED"
        say(f"\n[{place} of {len(plans)}] {name}{': kept' if done else ''}", quiet)
        start, rows[name] = rows[name], {**rows[name], "status": "KILLED"}
        try:
            run = was.run_id if was else None
            if run is None or not done:
                run = train(plan, run)["run"]
            rows[name] = {**start, "status": "FINISHED", "run": run} | finished(name, run)
        except (DataError, RunError, StoreError):
            raise  # no fault of this model's: the next would meet it too
        except Exception as error:
            if done:
                raise
            rows[name] = {**start, "status": "FAILED", "reason": _reason(error)}
            say(f"{name} failed: {rows[name]['reason']}", quiet)
            if not isinstance(error, DlkitError):
                say("".join(traceback.format_exception(error)), quiet)
        # What Keras and TensorFlow keep of a model is not to weigh on the next.
        keras.utils.clear_session()
        gc.collect()


def name_children(parent: Any, plans: Mapping[str, Any], rows: Mapping[str, Row]) -> None:
    """Give rows that did not finish the id of the run they left, where they left one."""
    try:
        left = _children(parent.id)
    except StoreError:
        return
    for name, row in rows.items():
        was = left.get(_key(plans[name]))
        if was is not None and row["status"] in ("FAILED", "KILLED"):
            row["run"] = was.run_id


def _key(plan: Any) -> tuple[str, str]:
    return plan.model, str(plan.seed)


def _children(parent: str) -> dict[tuple[str | None, str | None], Any]:
    """Return what is known of a run's children, by model and seed."""
    from dlkit import tracking

    return {
        (run.data.tags.get("dlkit.model"), run.data.params.get("seed")): run.info
        for run in tracking.children(parent)
    }


def _reason(error: Exception) -> str:
    """Say in one line why a model failed; our own errors are one line already."""
    if isinstance(error, DlkitError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"


def none_trained(rows: Mapping[str, Row]) -> TrainingError:
    """Return the error that says why not one of the models could be trained."""
    reasons = "; ".join(f"{name}: {row['reason']}" for name, row in rows.items())
    return TrainingError(f"no model could be trained: {reasons}")


def keep(
    parent: Any,
    result: dict[str, Any],
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    draw: Callable[[Path], None] | None,
) -> dict[str, Any]:
    """Put a result on the parent run as JSON, as a table and as a picture; return it with their paths.

    Args:
        parent: the run of the comparison.
        result: what `compare.json` is to hold.
        columns: of `compare.csv`.
        rows: of it; what has no column is left out.
        draw: draws the picture at a path; None where there is nothing to draw.
    """
    from dlkit import tracking

    folder = tracking.checkpoint_folder(parent.id) / "report"
    folder.mkdir(exist_ok=True)
    names = {"report": "compare.json", "table": "compare.csv"}
    (folder / "compare.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    with open(folder / "compare.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    if draw is not None:
        names["picture"] = "compare.png"
        draw(folder / "compare.png")
    parent.artifacts(folder)
    shutil.rmtree(folder)
    return result | {key: parent.artifact(name) for key, name in names.items()}


def comparison_of(ref: str, task: str) -> str:
    """Return the id of the comparison that RUN is, or is a child of."""
    from dlkit import tracking

    run = tracking.find_run(ref, task, finished=False)
    parent = run.data.tags.get(tracking.CHILD_TAG)
    if parent:
        run = tracking.find_run(parent, task, finished=False)
    if tracking.COMPARED_TAG not in run.data.tags:
        raise RunError(
            f"--resume: {run.info.run_id} is no comparison; go on with: "
            f"dlkit {task} train --resume {run.info.run_id[:8]}"
        )
    return run.info.run_id


def command(
    task: str,
    comparison: Any,
    compare: Callable[..., dict[str, Any]],
    show: Callable[[dict[str, Any]], str],
) -> click.Command:
    """Make the command `compare`: the comparison's options, `--config`, `--resume` and `--json`."""

    @click.command("compare", help=(compare.__doc__ or "").split("\n\n")[0])
    @options_of(comparison)
    @click.option("--config", "file", metavar="FILE", help="Options from a TOML or JSON file.")
    @click.option("--resume", metavar="RUN", help="Go on with a comparison; what finished is kept.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
    def made(file: str | None, resume: str | None, as_json: bool, **given: Any) -> None:
        def echo(result: dict[str, Any]) -> None:
            click.echo(json.dumps(plain(result)) if as_json else show(result))

        run = None
        if resume is None:
            config = resolve(comparison, given, file)
        else:
            others = [k for k, v in given.items() if v not in (None, ())] + ["config"] * bool(file)
            if others:
                raise OptionError(
                    f"--resume takes the comparison's own --{others[0].replace('_', '-')}"
                )
            from dlkit import tracking

            run = comparison_of(resume, task)
            values = check_keys(tracking.config_of(run), comparison, f"config of {run}")
            config = comparison(**values)
        echo(compare(config, run, quiet=as_json, interrupted=echo))

    return made
