"""Forecast what comes after the newest rows of a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from dlkit.errors import OptionError
from pipelines.commands import write_rows
from pipelines.forecasting.config import TASK
from pipelines.forecasting.rebuilt import roles_of

# Series that are forecast at once, and drawn at most.
BATCH, DRAWN = 256, 6


def predict(
    ref: str,
    source: str,
    horizon: int | None = None,
    fill: str | None = None,
    plot: str | None = None,
    strict: bool = False,
    data_dir: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Forecast what comes after the newest rows of DATA with RUN's exported model.

    Beyond the horizon that the model was trained for, its own forecasts are what it goes on from;
    intervals end there, since none were calibrated.

    Yields:
        `series`, `stamp`, `target`, `step` from 1, `forecast`, `lower` and `upper` (None beyond the
        trained horizon), for each step of each target of each series.
    Raises:
        DataError: a column that the run needs is not there, another frequency, fewer rows than the
            lookback, or future covariates that end before the horizon.
    """
    import numpy as np
    import pandas as pd

    from dlkit import export, tracking
    from dlkit.data.newest import newest, stacked
    from dlkit.data.series_sources import kind_of

    kind_of(source)
    directory, _ = tracking.export_directory(ref, TASK)
    about = export.read_manifest(directory / "1")
    roles = roles_of(about)
    trained, lookback = int(about["horizon"]), int(about["lookback"])
    steps = horizon or trained
    if steps > trained and roles.past:
        raise OptionError(
            f"--horizon: got {steps}; accepted: 1 to {trained}, what the model was trained for: "
            f"beyond it the past covariates ({', '.join(roles.past)}) are not known"
        )
    found, notes = newest(
        source,
        roles,
        alias=about["frequency"],
        lookback=lookback,
        horizon=steps,
        padded=-(-steps // trained) * trained,
        fill=fill or "none",
        strict=strict,
        data_dir=data_dir,
    )
    from dlkit.progress import say

    for note in notes:
        say(f"note: {note}")

    from dlkit.runtime import load_tensorflow

    tf = load_tensorflow()
    answer = tf.saved_model.load(str(directory / "1")).signatures["serving_default"]
    targets = len(roles.targets)
    drawn: list[tuple[Any, Any, dict[str, Any]]] = []
    for i in range(0, len(found), BATCH):
        part = found[i : i + BATCH]
        whole = stacked(part)
        window = whole["window"]
        parts: dict[str, list[Any]] = {"forecast": [], "lower": [], "upper": []}
        for at in range(0, steps, trained):
            given = {**whole, "window": window}
            if roles.future:
                given["future"] = whole["future"][:, at : at + trained]
            values = answer(**{k: tf.constant(v) for k, v in given.items()})
            for name, each in parts.items():
                value = values[name].numpy()
                each.append(value if at == 0 or name == "forecast" else np.full_like(value, np.nan))
            if at + trained < steps:
                own = values["forecast"].numpy()
                more = np.concatenate([own, given["future"]], 2) if roles.future else own
                window = np.concatenate([window, more], 1)[:, -lookback:]
        joined = {k: np.concatenate(v, 1)[:, :steps] for k, v in parts.items()}
        for row, each in enumerate(part):
            stamps = pd.date_range(each.last, periods=steps + 1, freq=about["frequency"])[1:]
            own = {k: v[row] for k, v in joined.items()}
            if len(drawn) < DRAWN:
                drawn.append((each, stamps, own))
            for step in range(steps):
                for t in range(targets):
                    cell = {k: float(v[step, t]) for k, v in own.items()}
                    yield {
                        "series": each.name,
                        "stamp": str(stamps[step]),
                        "target": roles.targets[t],
                        "step": step + 1,
                        **{k: v if np.isfinite(v) else None for k, v in cell.items()},
                    }
    if plot is not None:
        from dlkit.evaluation import forecast_plots

        path = Path(plot).expanduser()
        try:
            forecast_plots.ahead(drawn, roles.targets, about["frequency"], path)
        except OSError as error:
            raise OptionError(
                f"--plot: {path} cannot be written: {error.strerror or error}"
            ) from None


@click.command("predict", help=(predict.__doc__ or "").split("\n\n")[0])
@click.argument("run")
@click.argument("source", metavar="DATA")
@click.option("--horizon", type=click.IntRange(1), help="Steps.  [default: as trained]")
@click.option("--fill", type=click.Choice(["none", "forward", "interpolate"]), help="Gaps.")
@click.option("--output", metavar="FILE", help="Write .csv or .jsonl, not a table.")
@click.option("--plot", metavar="FILE", help="Draw the forecasts into a .png.")
@click.option("--strict", is_flag=True, help="Refuse a panel with a series that cannot be used.")
@click.option("--data-dir", metavar="DIR", help="Folder of tensorflow-datasets.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def command(run: str, source: str, output: str | None, as_json: bool, **given: Any) -> None:
    """Forecast."""
    plot = given["plot"]
    if output is not None and Path(output).suffix not in (".csv", ".jsonl"):
        raise OptionError(f"--output: got '{output}'; accepted: a name in .csv or .jsonl")
    if plot is not None and (
        Path(plot).suffix != ".png" or not Path(plot).expanduser().absolute().parent.is_dir()
    ):
        raise OptionError(f"--plot: got '{plot}'; accepted: a name in .png in a folder there is")
    rows = predict(run, source, **given)
    if output is not None:
        click.echo(f"{write_rows(rows, Path(output).expanduser())} rows in {output}")
        return
    first = True
    for row in rows:
        if as_json:
            click.echo(json.dumps(row))
            continue
        if first:
            click.echo(f"{'stamp':20} {'target':16} {'forecast':>12} {'lower':>12} {'upper':>12}")
            first = False
        cells = (f"{row[k]:12.5g}" if row[k] is not None else " " * 11 + "-" for k in ("forecast", "lower", "upper"))  # fmt: skip
        named = f"{row['target']} {row['series']}".strip()
        click.echo(f"{row['stamp']:20} {named:16} {' '.join(cells)}")
    if plot is not None and not as_json:
        click.echo(f"drawn in {plot}")
