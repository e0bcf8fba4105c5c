"""`dlkit runs`: look at runs, register them, deliver what a store would not take."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click

from pipelines.commands import Commands
from pipelines.compare_runs import compare_command


@click.group(cls=Commands)
def runs() -> None:
    """List, show, compare, register and deliver runs."""


runs.add_command(compare_command)


def _started(run: Any) -> str:
    return datetime.fromtimestamp(run.info.start_time / 1000).strftime("%Y-%m-%d %H:%M")


def _nested(found: list[Any]) -> list[tuple[Any, str | None]]:
    """Return runs, newest first, each with its parent's id; children stand beneath their parent."""
    from dlkit.tracking import CHILD_TAG

    ids = {run.info.run_id for run in found}
    beneath: dict[str, list[Any]] = {}
    for run in reversed(found):
        parent = run.data.tags.get(CHILD_TAG)
        if parent in ids:
            beneath.setdefault(parent, []).append(run)
    children = {run.info.run_id for each in beneath.values() for run in each}
    nested = []
    for run in found:
        if run.info.run_id not in children:
            nested.append((run, None))
            nested += [(child, run.info.run_id) for child in beneath.get(run.info.run_id, ())]
    return nested


@runs.command("list")
@click.option("--task", metavar="TASK", help="Only runs of one task.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a run.")
def list_command(task: str | None, limit: int, as_json: bool) -> None:
    """List the newest runs with their test accuracy, or whatever else they were scored by.

    The runs of a comparison follow it.
    """
    from dlkit import tracking

    found = _nested(tracking.list_runs(task))[:limit]
    for run, parent in found:
        scores = {k: v for k, v in run.data.metrics.items() if k.startswith("test_")}
        tags = run.data.tags
        row = {
            "run": run.info.run_id,
            "started": _started(run),
            "status": run.info.status,
            "task": tags[tracking.TASK_TAG],
            "model": tags.get("dlkit.model", ""),
            "data": tags.get("dlkit.data", ""),
            "metrics": scores,
            **({"parent": parent} if parent else {}),
        }
        if as_json:
            click.echo(json.dumps(row))
        else:
            first = next((f"{k[5:]} {v:.4f}" for k, v in scores.items()), "")
            # The children of a comparison stand beneath it, moved in.
            short = f"  {row['run'][:8]}" if parent else f"{row['run'][:8]}  "
            click.echo(
                f"{short}  {row['started']}  {row['status']:8}  {row['task']}  "
                f"{row['model']}  {row['data']}  {first}".rstrip()
            )
    if not found and not as_json:
        click.echo("no runs yet; start one with: dlkit image-classification train")


@runs.command("show")
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def show_command(run: str, as_json: bool) -> None:
    """Show a run: its parameters, last metrics, tags and files."""
    from dlkit import tracking

    found = tracking.find_run(run, finished=False)
    store = tracking.client()
    files = _files(store, found.info.run_id)
    details = {
        "run": found.info.run_id,
        "status": found.info.status,
        "started": _started(found),
        **_family(found),
        "artifacts": found.info.artifact_uri,
        "parameters": dict(sorted(found.data.params.items())),
        "metrics": dict(sorted(found.data.metrics.items())),
        "tags": {k: v for k, v in sorted(found.data.tags.items()) if not k.startswith("mlflow.")},
        "files": files,
    }
    if as_json:
        click.echo(json.dumps(details))
        return
    for key, value in details.items():
        if isinstance(value, dict):
            click.echo(key)
            for name, each in value.items():
                click.echo(f"  {name:24} {each if not isinstance(each, float) else f'{each:.6g}'}")
        elif isinstance(value, list):
            click.echo("\n  ".join([key, *value]))
        else:
            click.echo(f"{key:10} {value}")


def _family(run: Any) -> dict[str, Any]:
    """Return what says whose child a run is, or which children it has."""
    from dlkit import tracking

    if tracking.CHILD_TAG in run.data.tags:
        return {"parent": run.data.tags[tracking.CHILD_TAG]}
    if tracking.COMPARED_TAG not in run.data.tags:
        return {}
    children = tracking.children(run.info.run_id)
    return {"children": {r.info.run_id: r.data.tags.get("dlkit.model", "") for r in children}}


def _files(store: Any, run: str, under: str | None = None) -> list[str]:
    found = []
    for each in store.list_artifacts(run, under):
        found += _files(store, run, each.path) if each.is_dir else [each.path]
    return sorted(found)


@runs.command("register")
@click.argument("run")
@click.argument("name", metavar="NAME[@ALIAS]")
def register_command(run: str, name: str) -> None:
    """Register RUN's export under NAME, so that models:/NAME@ALIAS means it."""
    from dlkit import tracking

    version = tracking.register(run, name)
    ref = f"models:/{name}" if "@" in name else version
    click.echo(f"registered  {version}\nnext        dlkit serve {ref}")


@runs.command("sync")
def sync_command() -> None:
    """Deliver what runs logged while the tracking store was away."""
    from dlkit import tracking

    done = tracking.sync()
    for run, events in done:
        click.echo(f"{run}  {events} events delivered")
    if not done:
        click.echo("nothing to deliver")
