"""Several architectures under equal seconds: child runs of one parent, one table, one picture.

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
import time
import traceback
from collections.abc import Callable
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
from pipelines.image_classification.comparison import (
    Comparison,
    complete,
    configs,
    ranked,
    remarks,
    show,
)
from pipelines.image_classification.config import TASK, load
from pipelines.image_classification.setup import checked
from pipelines.image_classification.train import train

COLUMNS: tuple[str, ...] = (
    "model", "status", "run", "validation_accuracy", "test_accuracy", "test_accuracy_low",
    "test_accuracy_high", "parameters", "images_per_second", "latency_ms", "training_seconds",
    "best_epoch", "beats_baselines", "reason",
)  # fmt: skip


def compare(
    config: Any,
    resume: str | None = None,
    quiet: bool = False,
    interrupted: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Train several models under equal seconds and lay accuracy beside size and speed.

    Args:
        config: a `Comparison`.
        resume: id of a comparison's run to go on with: finished children are kept, an unfinished
            one goes on from its checkpoint.
        quiet: show nothing on the way.
        interrupted: gets the result so far where a signal ends the comparison.
    Raises:
        TrainingError: not one of the models could be trained.
    """
    began = time.monotonic()

    # A typo in the third model's name must not cost two trained models.
    config = complete(config)
    plans, notes = configs(config)
    for plan in plans.values():
        checked(plan)

    from dlkit import tracking
    from dlkit.progress import say
    from dlkit.runtime import load_tensorflow

    tracking.client()
    load_tensorflow(keras=True)
    import keras

    # Each model is traced once, and TensorFlow takes several for one that is traced again and again.
    retraced = "triggered tf.function retracing"
    logging.getLogger("tensorflow").addFilter(lambda record: retraced not in record.getMessage())

    # Data, once for all.
    first = next(iter(plans.values()))
    data = load(first)
    say(data.describe(), quiet)
    if config.tta:
        notes.append("validation accuracy is that of single views, test accuracy with --tta")
    for note in [*data.notes, *notes]:
        say(f"note: {note}", quiet)

    # Parent.
    fingerprint = data.fingerprint()
    if resume is None:
        parent = tracking.start_run(
            TASK,
            as_dict(config),
            {"dlkit.model": f"compare({','.join(plans)})", "dlkit.data": config.data}
            | {tracking.COMPARED_TAG: ",".join(plans), tracking.FINGERPRINT_TAG: fingerprint},
            name=f"{counted(len(plans), 'model')} on {config.data}",
        )
    else:
        parent = tracking.resume_run(TASK, resume)
        tracking.same_data(parent, fingerprint)
    folder = tracking.checkpoint_folder(parent.id)
    say(f"run {parent.id}  {counted(len(plans), 'model')}, one after the other", quiet)
    rows: dict[str, dict[str, Any]] = {n: {"model": n, "status": "NOT RUN"} for n in plans}

    def result(status: str) -> dict[str, Any]:
        return _recorded(parent, config, rows, [*notes], status, began)

    with tracking.recorded(parent, "compare"):
        log = folder / "log"
        log.mkdir(exist_ok=True)
        for each in (folder, log):
            (each / "config.json").write_text(json.dumps(as_dict(config), indent=1))
        parent.artifacts(log)

        try:
            # Children.
            before = {r.data.tags["dlkit.model"]: r.info for r in tracking.children(parent.id)}
            for place, (name, plan) in enumerate(plans.items(), 1):
                was = before.get(name)
                done = was is not None and was.status == "FINISHED"
                say(f"\n[{place} of {len(plans)}] {name}{': kept' if done else ''}", quiet)
                rows[name]["status"] = "KILLED"
                if was is not None and done:
                    rows[name] = _finished(name, was.run_id)
                    continue
                try:
                    trained = train(
                        plan,
                        resume=was.run_id if was else None,
                        quiet=quiet,
                        data=data,
                        parent=parent.id,
                    )
                    rows[name] = _finished(name, trained["run"])
                except (DataError, RunError, StoreError):
                    raise  # no fault of this model's: the next would meet it too
                except Exception as error:
                    rows[name] = {"model": name, "status": "FAILED", "reason": _reason(error)}
                    say(f"{name} failed: {rows[name]['reason']}", quiet)
                    if not isinstance(error, DlkitError):
                        say("".join(traceback.format_exception(error)), quiet)
                # What Keras and TensorFlow keep of a model is not to weigh on the next.
                keras.utils.clear_session()
                gc.collect()

            # Speed, all in turn.
            from dlkit.evaluation.latency import latencies

            ends = {n: _endpoint(row["run"]) for n, row in rows.items() if "metrics" in row}
            for name, seconds in latencies(ends, data.test.x[0]).items():
                rows[name]["latency_ms"] = round(1000 * seconds, 4)
        except KeyboardInterrupt:
            _name_children(parent.id, rows)
            interrupted(result("KILLED"))
            raise
        _name_children(parent.id, rows)
        done = [row for row in ranked(list(rows.values())) if row["status"] == "FINISHED"]
        ended = result("FINISHED" if done else "FAILED")
        if not done:
            reasons = "; ".join(f"{row['model']}: {row['reason']}" for row in rows.values())
            raise TrainingError(f"no model could be trained: {reasons}")
        best = done[0]
        values = {f"test_{k}": v for k, v in best["metrics"].items()}
        parent.metrics(len(done), {"val_accuracy": best["validation"]["accuracy"], **values})
        parent.tags({tracking.BEST_TAG: best["run"]})
    if parent.spooling:
        say(f"note: the store failed ({parent.spooling}); deliver with: dlkit runs sync", quiet)
    return ended


def _finished(model: str, run: str) -> dict[str, Any]:
    """Return the row of a child that has finished, from what it recorded."""
    from statistics import median

    from dlkit import tracking

    child = tracking.Run(run, TASK, tracking.client())
    report = json.loads(child.artifact("report.json").read_text(encoding="utf-8"))
    key = "examples_per_second"
    # A store that failed has no history; the report may then be in the spool.
    spooled = tracking.spool_folder(run).exists()
    rates = [] if spooled else [rate for _, rate in child.history((key,))[key]]
    return {
        "model": model,
        "status": "FINISHED",
        "run": run,
        "validation": {"accuracy": report["validation_accuracy"]},
        "metrics": report["metrics"],
        "intervals": report["intervals"],
        "baselines": report["baselines"],
        "beats_baselines": report["verdict"].startswith("beats"),
        "verdict": report["verdict"],
        "parameters": report["parameters"],
        "images_per_second": median(rates) if rates else None,
        "latency_ms": None,
        "training_seconds": report["training_seconds"],
        "best_epoch": report["best_epoch"],
    }


def _endpoint(run: str) -> Any:
    import tensorflow as tf

    from dlkit import tracking

    export = tracking.Run(run, TASK, tracking.client()).export()
    return tf.saved_model.load(str(export / "1")).signatures["from_pixels"]


def _reason(error: Exception) -> str:
    """Say in one line why a model failed; our own errors are one line already."""
    if isinstance(error, DlkitError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"


def _name_children(parent: str, rows: dict[str, dict[str, Any]]) -> None:
    """Give rows that did not finish the id of the run they left, where they left one."""
    from dlkit import tracking

    try:
        left = {r.data.tags.get("dlkit.model"): r.info.run_id for r in tracking.children(parent)}
    except StoreError:
        return
    for name, row in rows.items():
        if name in left and row["status"] in ("FAILED", "KILLED"):
            row["run"] = left[name]


def _recorded(
    parent: Any,
    config: Any,
    rows: dict[str, dict[str, Any]],
    notes: list[str],
    status: str,
    began: float,
) -> dict[str, Any]:
    """Put the table and the picture on the parent run; return what `--json` prints."""
    from dlkit import tracking
    from dlkit.evaluation import plots

    order = ranked([dict(row) for row in rows.values()])
    # The same for every child: they share the data.
    beside = [row.pop("baselines") for row in order if "baselines" in row]
    done = [row for row in order if row["status"] == "FINISHED"]
    result = {
        "run": parent.id,
        "task": TASK,
        "data": config.data,
        "status": status,
        "split": "test",
        "ranked_by": "validation accuracy",
        "time_limit": config.time_limit,
        "epochs": config.epochs,
        "best": done[0]["model"] if done else None,
        "models": order,
        "baselines": beside[0] if beside else {},
        "notes": notes + remarks(order),
    }
    folder = tracking.checkpoint_folder(parent.id) / "report"
    folder.mkdir(exist_ok=True)
    names = {"report": "compare.json", "table": "compare.csv"}
    (folder / "compare.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    with open(folder / "compare.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(_flat(row) for row in order)
    if done:
        names["picture"] = "compare.png"
        plots.comparison(done, result["baselines"], folder / "compare.png")
    parent.artifacts(folder)
    shutil.rmtree(folder)
    result |= {key: parent.artifact(name) for key, name in names.items()}
    return {**result, "seconds": round(time.monotonic() - began, 2)}


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    if row["status"] != "FINISHED":
        return row
    low, high = row["intervals"]["accuracy"]
    return {
        **row,
        "validation_accuracy": row["validation"]["accuracy"],
        "test_accuracy": row["metrics"]["accuracy"],
        "test_accuracy_low": low,
        "test_accuracy_high": high,
    }


def _found(ref: str) -> str:
    """Return the id of the comparison that RUN is, or is a child of."""
    from dlkit import tracking

    run = tracking.find_run(ref, TASK, finished=False)
    parent = run.data.tags.get(tracking.CHILD_TAG)
    if parent:
        run = tracking.find_run(parent, TASK, finished=False)
    if tracking.COMPARED_TAG not in run.data.tags:
        raise RunError(
            f"--resume: {run.info.run_id} is no comparison; go on with: "
            f"dlkit {TASK} train --resume {run.info.run_id[:8]}"
        )
    return run.info.run_id


@click.command("compare")
@options_of(Comparison)
@click.option("--config", "file", metavar="FILE", help="Options from a TOML or JSON file.")
@click.option("--resume", metavar="RUN", help="Go on with a comparison; what finished is kept.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def compare_command(file: str | None, resume: str | None, as_json: bool, **given: Any) -> None:
    """Train several models under equal seconds; accuracy against size and speed."""

    def echo(result: dict[str, Any]) -> None:
        click.echo(json.dumps(plain(result)) if as_json else show(result))

    run = None
    if resume is None:
        config = resolve(Comparison, given, file)
    else:
        others = [k for k, v in given.items() if v not in (None, ())] + ["config"] * bool(file)
        if others:
            raise OptionError(
                f"--resume takes the comparison's own --{others[0].replace('_', '-')}"
            )
        from dlkit import tracking

        run = _found(resume)
        config = Comparison(**check_keys(tracking.config_of(run), Comparison, f"config of {run}"))
    echo(compare(config, run, quiet=as_json, interrupted=echo))
