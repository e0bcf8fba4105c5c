"""Several forecasters under equal seconds: child runs of one parent, one table, one picture."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dlkit.errors import counted
from pipelines import comparing
from pipelines.forecasting.comparison import Comparison, complete, configs, seeds, show
from pipelines.forecasting.config import TASK, load
from pipelines.forecasting.ranking import COLUMNS, by_model, flat, remarks
from pipelines.forecasting.scoring import scored_split
from pipelines.forecasting.setup import checked
from pipelines.forecasting.train import train


def compare(
    config: Any,
    resume: str | None = None,
    quiet: bool = False,
    interrupted: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Train several forecasters under equal seconds and tell which is best, and how surely.

    Models are ranked by the mean squared error of every validation window, averaged over seeds; the
    test windows are scored beside it and choose nothing.

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
    names = list(dict.fromkeys(plan.model for plan in plans.values()))

    # Data, once for all, by pandas alone.
    data = load(next(iter(plans.values())))

    from dlkit import tracking
    from dlkit.progress import say
    from dlkit.runtime import load_tensorflow

    say(data.describe(), quiet)
    for note in [*data.notes, *notes]:
        say(f"note: {note}", quiet)
    tracking.client()
    load_tensorflow(keras=True)

    from dlkit.evaluation.forecast_paired import simple_errors

    # Parent.
    parent = comparing.parent_run(TASK, config, names, data.fingerprint(), resume)
    say(f"run {parent.id}  {counted(len(plans), 'training')}, one after the other", quiet)
    rows: dict[str, dict[str, Any]] = {
        name: {"model": plan.model, "seed": plan.seed, "status": "NOT RUN"}
        for name, plan in plans.items()
    }
    split = scored_split(data)
    simple = {each: simple_errors(data, each) for each in {"validation", split}}
    # What a row cannot hold: the errors of each window.
    errors: dict[str, Any] = {}

    def finished(name: str, run: str) -> dict[str, Any]:
        row, errors[name] = _finished(run, data, split)
        return row

    def result(status: str) -> dict[str, Any]:
        return _recorded(parent, config, data, rows, errors, simple, [*notes], status, began)

    with tracking.recorded(parent, "compare"):
        comparing.keep_config(parent, config)
        try:
            comparing.train_children(
                parent,
                plans,
                rows,
                lambda plan, run: train(plan, run, quiet, data=data, parent=parent.id),
                finished,
                quiet,
            )
        except KeyboardInterrupt:
            comparing.name_children(parent, plans, rows)
            interrupted(result("KILLED"))
            raise
        comparing.name_children(parent, plans, rows)
        ended = result("FINISHED" if errors else "FAILED")
        if not errors:
            raise comparing.none_trained(rows)
        best = ended["models"][0]
        values = {f"test_{k}": v for k, v in best["metrics"].items()}
        parent.metrics(len(errors), {"val_mse": best["validation"]["mse"], **values})
        parent.tags({tracking.BEST_TAG: best["run"]})
    if parent.spooling:
        say(f"note: the store failed ({parent.spooling}); deliver with: dlkit runs sync", quiet)
    return ended


def _finished(run: str, data: Any, split: str) -> tuple[dict[str, Any], Any]:
    """Return what a child that has finished recorded, and its errors of each window of the split.

    Its export forecasts the windows again: a report holds only the means of their errors.
    """
    import tensorflow as tf

    from dlkit import tracking
    from dlkit.evaluation.forecast_paired import window_errors
    from dlkit.export.forecast import forecasts

    child = tracking.Run(run, TASK, tracking.client())
    report = json.loads(child.artifact("report.json").read_text(encoding="utf-8"))
    loaded = tf.saved_model.load(str(child.export() / "1"))
    errors = {
        each: window_errors(
            data, each, forecasts(loaded.signatures["serving_default"], data, each)["forecast"]
        )
        for each in {"validation", split}
    }
    kept = ("metrics", "baselines", "by_step", "block_length", "parameters", "steps")
    row = {"validation": {"mse": float(errors["validation"].mean())}}
    return row | {k: report[k] for k in (*kept, "training_seconds", "best_epoch")}, errors[split]


def _recorded(
    parent: Any,
    config: Any,
    data: Any,
    rows: Mapping[str, dict[str, Any]],
    errors: Mapping[str, Any],
    simple: Mapping[str, Mapping[str, Any]],
    notes: list[str],
    status: str,
    began: float,
) -> dict[str, Any]:
    """Put the table and the picture on the parent run; return what `--json` prints."""
    from dlkit.evaluation import forecast_paired

    split = scored_split(data)
    # The same for every child: they share the data.
    first: dict[str, Any] = next((row for row in rows.values() if row["status"] == "FINISHED"), {})
    baselines = {
        name: {**each, "validation": {"mse": float(simple["validation"][name].mean())}}
        | {"by_step": first["by_step"][name]}
        for name, each in first.get("baselines", {}).items()
    }
    block = first.get("block_length", 1)
    order = by_model(rows, errors, simple[split], block)
    done = {row["model"]: row["by_step"] for row in order if row["status"] == "FINISHED"}
    result = {
        "run": parent.id,
        "task": TASK,
        "data": config.data,
        "status": status,
        "split": split,
        "ranked_by": "validation mse",
        "time_limit": config.time_limit,
        "epochs": config.epochs,
        "seeds": seeds(config.seeds),
        "lookback": data.spec.input_shape[0],
        "horizon": data.spec.horizon,
        "windows": data.sizes(),
        "block_length": block,
        "best": next(iter(done), None),
        "models": order,
        "baselines": baselines,
        "reasons": [f"{name}: {row['reason']}" for name, row in rows.items() if "reason" in row],
        "notes": notes + remarks(order, split, len(seeds(config.seeds))),
    }

    def draw(path: Path) -> None:
        linear = baselines["closed_form_linear"]["by_step"]
        forecast_paired.by_step(done, ("closed form linear", linear), split, path)

    table = (flat(row) for row in order)
    result = comparing.keep(parent, result, COLUMNS, table, draw if done else None)
    return {**result, "seconds": round(time.monotonic() - began, 2)}


compare_command = comparing.command(TASK, Comparison, compare, show)
