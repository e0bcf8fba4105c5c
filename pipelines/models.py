"""`dlkit models`: the models of each task, and what each takes."""

from __future__ import annotations

import contextlib
import json

import click

from dlkit.errors import OptionError, nearest, one_of
from dlkit.models import MODELS, describe, find, type_name


@click.command()
@click.argument("task", required=False)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
def models(task: str | None, name: str | None, as_json: bool) -> None:
    """List the models, or with a NAME its parameters, their types and defaults."""
    if task is not None and task not in MODELS:
        # A model's name alone is enough where it is not ambiguous.
        task, name = _task_of(task if name is None else name), task if name is None else name
    if name is None:
        tasks = [task] if task else list(MODELS)
        found = {
            t: {m: describe(m, target).summary for m, target in MODELS[t].items()} for t in tasks
        }
        if as_json:
            click.echo(json.dumps(found))
            return
        wide = max(len(m) for each in found.values() for m in each)
        for each, lines in found.items():
            click.echo(each)
            for model, line in lines.items():
                click.echo(f"  {model:{wide}}  {line}")
        click.echo("\ndlkit models NAME shows the parameters of one.")
        return
    assert task is not None
    builder, implied = find(task, name)
    parameters = builder.signature.parameters.values()
    if as_json:
        listed = {
            p.name: {"type": type_name(p.annotation), "default": implied.get(p.name, p.default)}
            for p in parameters
        }
        click.echo(json.dumps({"model": name, "task": task, "parameters": listed}))
        return
    click.echo(f"{name}  ({task})\n")
    click.echo(builder.doc)
    click.echo("\nParameters:")
    wide = max((len(p.name) for p in parameters), default=0)
    for p in parameters:
        click.echo(
            f"  -p {p.name:{wide}} = {implied.get(p.name, p.default)}  ({type_name(p.annotation)})"
        )


def _task_of(name: str) -> str:
    tasks = []
    for task in MODELS:
        with contextlib.suppress(OptionError):
            find(task, name)
            tasks.append(task)
    # A builder of the user's own, by import string, is of no task more than of another.
    if len(tasks) > 1 and ":" not in name:
        which = " or ".join(f"dlkit models {task} {name}" for task in tasks)
        raise OptionError(f"'{name}' is a model of {len(tasks)} tasks; accepted: {which}")
    if tasks:
        return tasks[0]
    known = {model for names in MODELS.values() for model in names} | set(MODELS)
    raise OptionError(f"no task or model '{name}'{nearest(name, known)}; accepted: {one_of(known)}")
