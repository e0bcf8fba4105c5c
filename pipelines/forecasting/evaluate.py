"""Score a trained forecaster again, on its own test span or on another table's."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from typing import Any

import click

from dlkit.errors import DataError
from pipelines.commands import outcome, plain
from pipelines.forecasting.config import TASK, Config, load
from pipelines.forecasting.rebuilt import roles_of, scaled_as
from pipelines.forecasting.result import show
from pipelines.forecasting.scoring import report_on


def evaluate(
    ref: str,
    data: str | None = None,
    split: str | None = None,
    fill: str | None = None,
    data_dir: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Score RUN's exported model on its test span, or on that of another table.

    The table is cut as the run's was, or by `split`; the baselines are fitted on its first part, the
    scores are scaled as the run scales.

    Raises:
        DataError: a column that the run needs is not there, another frequency, too few rows.
    """
    began = time.monotonic()
    from dlkit import tracking

    found = tracking.find_run(ref, TASK)
    run = tracking.Run(found.info.run_id, TASK, tracking.client())
    directory = tracking.run_export(found)
    from dlkit import export

    about = export.read_manifest(directory / "1")
    source, series, coverage = series_of(run.id, about, data, split, fill, data_dir)

    from dlkit.progress import say
    from dlkit.runtime import load_tensorflow

    say(series.describe(), quiet)
    for note in series.notes:
        say(f"note: {note}", quiet)
    tf = load_tensorflow()
    loaded = tf.saved_model.load(str(directory / "1"))
    folder = tracking.checkpoint_folder(run.id) / "evaluation"
    report = report_on(
        loaded.signatures["serving_default"],
        series,
        folder,
        coverage=coverage,
        about={"run": run.id, "task": TASK, "model": about["model"], "data": source},
    )
    under = "evaluations/" + "".join(c if c.isalnum() else "-" for c in source).strip("-")
    run.artifacts(folder, under)
    shutil.rmtree(folder)
    return outcome(report, run.artifact(f"{under}/report.json"), directory, began)


def series_of(
    run: str,
    about: dict[str, Any],
    data: str | None,
    split: str | None,
    fill: str | None,
    data_dir: str | None,
) -> tuple[str, Any, float]:
    """Load a run's own series, or others in its columns, lookback, horizon, season and scale.

    Returns:
        What names the series, the series, and the share of truths that intervals are to hold.
    Raises:
        DataError: another frequency than the run's.
    """
    from dlkit import tracking

    config = Config(**tracking.config_of(run))
    series = load(
        dataclasses.replace(
            config,
            data=data or config.data,
            calendar=False,  # its covariates are among the roles already
            split=split or config.split,
            fill=fill or config.fill,
            lookback=about["lookback"],
            horizon=about["horizon"],
            season=about["season"],
            data_dir=data_dir or config.data_dir,
        ),
        roles_of(about)._replace(time=config.time, series_id=config.series_id),
    )
    if series.alias != about["frequency"]:
        raise DataError(
            f"--data {data}: has a row every {series.alias}; the run was trained on every "
            f"{about['frequency']}"
        )
    seen = seen_windows(series, about.get("known_until", {}))
    if seen:
        series.notes.append(
            f"{seen:,} of {series.sizes()['test']:,} test windows begin no later than what the run was "
            "trained and chosen on: if these are the same series, that is no test"
        )
    return data or config.data, scaled_as(series, about), config.coverage


def seen_windows(series: Any, until: dict[str, str]) -> int:
    """Return how many test windows begin to forecast no later than a series' last known stamp."""
    import pandas as pd

    found, horizon = 0, series.spec.horizon
    for span in series.spans:
        if span.name in until:
            stamps = series.stamps(span)
            first = span.ends[1] - span.begin
            begins = stamps[first : max(first, len(stamps) - horizon + 1)]
            found += int((begins <= pd.Timestamp(until[span.name])).sum())
    return found


@click.command("evaluate", help=(evaluate.__doc__ or "").split("\n\n")[0])
@click.argument("run")
@click.option("--data", metavar="SOURCE", help="Another table with the run's columns.")
@click.option("--split", help="Another cut by time.  [default: the run's]")
@click.option("--fill", type=click.Choice(["none", "forward", "interpolate"]), help="Gaps.")
@click.option("--data-dir", metavar="DIR", help="Folder of tensorflow-datasets.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(run: str, as_json: bool, **given: Any) -> None:
    """Score a run again."""
    result = evaluate(run, quiet=as_json, **given)
    click.echo(json.dumps(plain(result)) if as_json else show(result))
