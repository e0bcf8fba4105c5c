"""Several classifiers under equal seconds: child runs of one parent, one table, one picture."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from dlkit.errors import counted
from pipelines import comparing
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

    # Data, once for all.
    first = next(iter(plans.values()))
    data = load(first)
    say(data.describe(), quiet)
    if config.tta:
        notes.append("validation accuracy is that of single views, test accuracy with --tta")
    for note in [*data.notes, *notes]:
        say(f"note: {note}", quiet)

    # Parent.
    parent = comparing.parent_run(TASK, config, list(plans), data.fingerprint(), resume)
    say(f"run {parent.id}  {counted(len(plans), 'model')}, one after the other", quiet)
    rows: dict[str, dict[str, Any]] = {n: {"model": n, "status": "NOT RUN"} for n in plans}

    def result(status: str) -> dict[str, Any]:
        return _recorded(parent, config, rows, [*notes], status, began)

    with tracking.recorded(parent, "compare"):
        comparing.keep_config(parent, config)

        try:
            # Children.
            comparing.train_children(
                parent,
                plans,
                rows,
                lambda plan, run: train(plan, run, quiet, data=data, parent=parent.id),
                _finished,
                quiet,
            )

            # Speed, all in turn.
            from dlkit.evaluation.latency import latencies

            ends = {n: _endpoint(row["run"]) for n, row in rows.items() if "metrics" in row}
            for name, seconds in latencies(ends, data.test.x[0]).items():
                rows[name]["latency_ms"] = round(1000 * seconds, 4)
        except KeyboardInterrupt:
            comparing.name_children(parent, plans, rows)
            interrupted(result("KILLED"))
            raise
        comparing.name_children(parent, plans, rows)
        done = [row for row in ranked(list(rows.values())) if row["status"] == "FINISHED"]
        ended = result("FINISHED" if done else "FAILED")
        if not done:
            raise comparing.none_trained(rows)
        best = done[0]
        values = {f"test_{k}": v for k, v in best["metrics"].items()}
        parent.metrics(len(done), {"val_accuracy": best["validation"]["accuracy"], **values})
        parent.tags({tracking.BEST_TAG: best["run"]})
    if parent.spooling:
        say(f"note: the store failed ({parent.spooling}); deliver with: dlkit runs sync", quiet)
    return ended


def _finished(model: str, run: str) -> dict[str, Any]:
    """Return what a child that has finished recorded, for the row of its model."""
    from statistics import median

    from dlkit import tracking

    child = tracking.Run(run, TASK, tracking.client())
    report = json.loads(child.artifact("report.json").read_text(encoding="utf-8"))
    key = "examples_per_second"
    # A store that failed has no history; the report may then be in the spool.
    spooled = tracking.spool_folder(run).exists()
    rates = [] if spooled else [rate for _, rate in child.history((key,))[key]]
    return {
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


def _recorded(
    parent: Any,
    config: Any,
    rows: dict[str, dict[str, Any]],
    notes: list[str],
    status: str,
    began: float,
) -> dict[str, Any]:
    """Put the table and the picture on the parent run; return what `--json` prints."""
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
    result = comparing.keep(
        parent,
        result,
        COLUMNS,
        (_flat(row) for row in order),
        (lambda path: plots.comparison(done, result["baselines"], path)) if done else None,
    )
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


compare_command = comparing.command(TASK, Comparison, compare, show)
