"""The commands that every task has in the same form, made from its recipe."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from dlkit.errors import OptionError, counted, nearest, one_of
from dlkit.options import check_keys, options_of, resolve

GROWING = ("epochs", "steps", "time_limit")


class Commands(click.Group):
    """A group that answers a typo with the nearest command."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands:
            raise click.UsageError(
                f"no command '{cmd_name}'{nearest(cmd_name, self.commands)}; "
                f"accepted: {one_of(self.commands)}"
            )
        return self.commands[cmd_name]


def add_train(
    group: click.Group, config: type, train: Callable[..., dict], show: Callable[[dict], str]
) -> None:
    """Add `train`: the Config's options, `--config`, `--resume` and `--json`."""

    @group.command("train", help=(train.__doc__ or "").split("\n\n")[0])
    @options_of(config)
    @click.option("--config", "file", metavar="FILE", help="Options from a TOML or JSON file.")
    @click.option(
        "--resume", metavar="RUN", help="Go on with a run; epochs and time limit may grow."
    )
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
    def command(file: str | None, resume: str | None, as_json: bool, **given: Any) -> None:
        if resume is None:
            result = train(resolve(config, given, file), quiet=as_json)
        else:
            result = train(grown(config, resume, given, file), resume=resume, quiet=as_json)
        click.echo(json.dumps(plain(result)) if as_json else show(result))


def grown(config: type, resume: str, given: Mapping[str, Any], file: str | None) -> Any:
    """Return a run's own config with `--epochs`, `--steps` and `--time-limit` perhaps larger.

    Raises:
        OptionError: another option is given, or one of the two is smaller than the run's.
    """
    group = click.get_current_context().parent
    task = group.info_name if group else None
    others = [k for k, v in given.items() if v not in (None, ()) and k not in GROWING]
    if file or others:
        name = "config" if file else others[0].replace("_", "-")
        growing = [f"--{n.replace('_', '-')}" for n in GROWING if n in given]
        raise OptionError(
            f"--resume takes the run's own --{name}; only {' and '.join(growing)} may grow"
        )
    from dlkit import tracking

    found = tracking.find_run(resume, task, finished=False)
    run = found.info.run_id
    if tracking.COMPARED_TAG in found.data.tags:
        raise OptionError(
            f"--resume: {run} is a comparison; go on with: dlkit {task} compare --resume {run[:8]}"
        )
    values = check_keys(tracking.config_of(run), config, f"config of run {run}")
    planned = [n for n in GROWING if values.get(n) is not None]
    for name in GROWING:
        if given.get(name) is not None:
            if values[name] is None:
                other = " and ".join(f"--{n.replace('_', '-')}" for n in planned)
                raise OptionError(
                    f"--resume: the run was planned by {other or 'its defaults'}, which alone may "
                    "grow"
                )
            if given[name] < values[name]:
                flag = name.replace("_", "-")
                raise OptionError(
                    f"--{flag} may only grow on resume: {given[name]:g} is below {values[name]:g}"
                )
            values[name] = given[name]
    return config(**values)


def plain(value: Any) -> Any:
    """Return a result with paths as text, ready for JSON."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return str(value) if isinstance(value, Path) else value


def outcome(report: Mapping[str, Any], path: Path, export: Path, began: float) -> dict[str, Any]:
    """Return what `--json` prints of a report; `began` is of `time.monotonic`."""
    names = ("run", "task", "model", "data", "split", "metrics", "intervals")
    return {
        **{name: report[name] for name in names},
        "baselines": {name: each["metrics"] for name, each in report["baselines"].items()},
        "report": path,
        "export": export,
        "seconds": round(time.monotonic() - began, 2),
    }


def as_dict(config: Any) -> dict[str, Any]:
    """Return a Config as the dict that is itself a valid `--config`."""
    return dataclasses.asdict(config)


def add_evaluate(
    group: click.Group, evaluate: Callable[..., dict], show: Callable[[dict], str]
) -> None:
    """Add `evaluate`: RUN's own test split, or `--data SOURCE`."""

    @group.command("evaluate", help=(evaluate.__doc__ or "").split("\n\n")[0])
    @click.argument("run")
    @click.option("--data", metavar="SOURCE", help="Other data of the same kind.")
    @click.option("--data-dir", metavar="DIR", help="Folder of tensorflow-datasets.")
    @click.option(
        "--download/--no-download", default=True, help="Let tensorflow-datasets download."
    )
    @click.option("--strict", is_flag=True, help="Refuse a source with unreadable files.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
    def command(run: str, as_json: bool, **given: Any) -> None:
        result = evaluate(run, quiet=as_json, **given)
        click.echo(json.dumps(plain(result)) if as_json else show(result))


def add_predict(
    group: click.Group,
    predict: Callable[..., Iterator[dict[str, Any]]],
    inputs_name: str,
    columns: tuple[str, ...],
) -> None:
    """Add `predict`: a table of `columns`, or all that `predict` yields as CSV or JSON Lines."""

    @group.command("predict", help=(predict.__doc__ or "").split("\n\n")[0])
    @click.argument("run")
    @click.argument("inputs", nargs=-1, required=True, metavar=f"{inputs_name}...")
    @click.option("--output", metavar="FILE", help="Write .csv or .jsonl, not a table.")
    @click.option("--strict", is_flag=True, help="Stop at an input that cannot be read.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
    def command(
        run: str, inputs: tuple[str, ...], output: str | None, strict: bool, as_json: bool
    ) -> None:
        if output is not None and Path(output).suffix not in (".csv", ".jsonl"):
            raise OptionError(f"--output: got '{output}'; accepted: a name in .csv or .jsonl")
        rows = predict(run, inputs, strict)
        if output is not None:
            count = write_rows(rows, Path(output).expanduser())
            click.echo(f"{counted(count, 'row')} in {output}")
        elif as_json:
            for row in rows:
                click.echo(json.dumps(row))
        else:
            found = [[_cell(row[name]) for name in columns] for row in rows]
            widths = [max(len(line[i]) for line in found) for i in range(len(columns))]
            for line in found:
                cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
                click.echo("  ".join(cells).rstrip())


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Write rows to .csv or .jsonl, whole or not at all; a dict in a row becomes columns in .csv.

    Raises:
        OptionError: the file cannot be written.
    """
    from dlkit.checkpoint import write_atomically

    found = list(rows)

    def write(file: Any) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        if path.suffix == ".jsonl":
            text.writelines(json.dumps(row) + "\n" for row in found)
        else:
            flat = [flatten(row) for row in found]
            writer = csv.DictWriter(text, list(flat[0]))
            writer.writeheader()
            writer.writerows(flat)
        text.flush()
        text.detach()

    try:
        write_atomically(path, write)
    except OSError as error:
        raise OptionError(f"--output: {path} cannot be written: {error.strerror}") from None
    return len(found)


def flatten(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the entries of its inner dicts as its own; a name taken gets a prefix."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{k}" if k in row else k: v for k, v in value.items()}
        else:
            flat[key] = value
    return flat
