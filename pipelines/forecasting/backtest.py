"""Forecast the test span fold by fold, as if time went on: with one model, or trained anew."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from dlkit.errors import OptionError
from pipelines.commands import plain, write_rows
from pipelines.forecasting.config import TASK, Config
from pipelines.forecasting.evaluate import series_of
from pipelines.forecasting.scoring import calibrated
from pipelines.forecasting.setup import fitted


def backtest(
    ref: str,
    folds: int = 5,
    refit: bool = False,
    split: str | None = None,
    data_dir: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Score RUN's recipe on the test span, fold by fold, with rolling origins.

    The origins of the test span are cut into `folds` of equal length. Without `refit` the run's
    exported model answers all of them. With it, a model is trained for each fold from the run's
    config on what comes before: the rows of the validation span's length just before the fold stop
    training and calibrate the intervals, all older ones train, scalers and baselines included.

    Returns:
        `run`, `task`, `model`, `data`, `refit`, `lookback`, `horizon`, `folds` (each `fold`, `first`
        and `last` origin, `windows`, `train_rows`, the metrics of the model, and `baselines`),
        `metrics` and `baselines` over all windows, and the paths of `report` and `table`.
    Raises:
        OptionError: more folds than origins, or a run without a test span.
    """
    began = time.monotonic()
    from dlkit import tracking

    found = tracking.find_run(ref, TASK)
    run = tracking.Run(found.info.run_id, TASK, tracking.client())
    directory = tracking.run_export(found)
    from dlkit import export

    about = export.read_manifest(directory / "1")
    source, series, coverage = series_of(run.id, about, None, split, None, data_dir)
    origins = series.sizes()["test"]
    if not origins:
        raise OptionError("RUN: has no test span; give --split 70/10/20")
    shortest = min(span.ends[2] - span.ends[1] for span in series.spans) - series.spec.horizon + 1
    if folds > shortest:
        raise OptionError(f"--folds: got {folds}; accepted: 1 to {shortest}, the origins there are")

    from dlkit.progress import say
    from dlkit.runtime import load_tensorflow

    say(series.describe(), quiet)
    for note in series.notes if not refit else ():
        say(f"note: {note}", quiet)
    tf = load_tensorflow(keras=refit)
    from dlkit.data.calendar import short_stamp
    from dlkit.evaluation import forecast_plots
    from dlkit.evaluation.forecast import fold_errors
    from dlkit.export.forecast import endpoint, forecasts

    config = Config(**tracking.config_of(run.id))
    exported = tf.saved_model.load(str(directory / "1")).signatures["serving_default"]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dlkit-backtest-") as held:
        for number in range(folds):
            fold = fold_of(series, number, folds, refit)
            answer = exported
            if refit:
                model, position = fitted(config, fold, Path(held) / f"{number}.npz", quiet=True)
                answer = endpoint(model, fold, calibrated(model, fold, coverage)[0])
                say(f"fold {number + 1}: {config.keep} epoch {position.best_epoch}", quiet)
            # Scores are scaled by the run's own training span, so that folds compare.
            answers = forecasts(answer, fold, "test")
            answers.pop("quantiles", None)
            own, beside = fold_errors(fold, series, answers, coverage)
            first, last = bounds(fold)
            trained = (fold if refit else series).spans
            rows.append(
                {
                    "fold": number + 1,
                    "first": short_stamp(first),
                    "last": short_stamp(last),
                    "windows": fold.sizes()["test"],
                    "train_rows": sum(span.ends[0] - span.begin for span in trained),
                    **own,
                    "baselines": beside,
                }
            )
        report = {
            **{"run": run.id, "task": TASK, "model": about["model"], "data": source},
            **{"refit": refit, "lookback": about["lookback"], "horizon": about["horizon"]},
            "season": about["season"],
            "metrics": over_all(rows, rows),
            "baselines": {
                name: over_all(rows, [row["baselines"][name] for row in rows])
                for name in rows[0]["baselines"]
            },
            "folds": rows,
            "seconds": round(time.monotonic() - began, 2),
        }
        folder = Path(held) / "report"
        folder.mkdir()
        (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        write_rows(table(rows), folder / "folds.csv")
        forecast_plots.folds(rows, folder / "folds.png")
        under = "backtest-refit" if refit else "backtest"
        run.artifacts(folder, under)
        shutil.rmtree(folder)
    return {
        **report,
        "report": run.artifact(f"{under}/report.json"),
        "table": run.artifact(f"{under}/folds.csv"),
    }


def fold_of(series: Any, number: int, folds: int, refit: bool) -> Any:
    """Return the series with one fold of the origins as the test span.

    Every origin of the test span lies in exactly one fold. With `refit`, validation is what comes
    just before the fold, and training and its scale all that is older.
    """
    import numpy as np

    from dlkit.data.series import scale_of

    horizon, spans = series.spec.horizon, []
    for span in series.spans:
        a, b, c = span.ends
        # Origins lie in [b, c - horizon].
        cuts = b + np.linspace(0, c - horizon + 1 - b, folds + 1).round().astype(int)
        begin, end = int(cuts[number]), int(cuts[number + 1]) - 1 + horizon
        first = begin - (b - a) if refit else a
        spans.append(dataclasses.replace(span, ends=(first, begin, end)))
    fold = dataclasses.replace(series, spans=tuple(spans))
    if not refit:
        return fold
    mean, deviation = scale_of(series.rows, spans)
    return dataclasses.replace(fold, mean=mean, deviation=deviation)


def bounds(fold: Any) -> tuple[Any, Any]:
    """Return the stamps of a fold's first and last origin, the first step that is forecast."""
    stamps = []
    for span in fold.spans:
        index = fold.stamps(span)
        b, c = span.ends[1] - span.begin, span.ends[2] - span.begin
        stamps += [index[b], index[c - fold.spec.horizon]]
    return min(stamps), max(stamps)


def over_all(rows: list[dict[str, Any]], values: list[dict[str, Any]]) -> dict[str, float]:
    """Return the means over the windows of all folds."""
    import numpy as np

    weights = [row["windows"] for row in rows]
    names = [k for k in values[0] if isinstance(values[0][k], float)]
    return {k: float(np.average([v[k] for v in values], weights=weights)) for k in names}


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of `folds.csv`, a column for each baseline's squared and scaled error."""
    return [
        {k: v for k, v in row.items() if k != "baselines"}
        | {f"{n}_{k}": v[k] for n, v in row["baselines"].items() for k in ("mse", "mase")}
        for row in rows
    ]


def show(report: dict[str, Any]) -> str:
    """Lay a backtest out for a terminal."""
    coverage = next(k for k in report["metrics"] if k.startswith("coverage_"))
    bar = "closed_form_linear"
    lines = [["fold", "first origin", "last origin", "windows", "trained on", "mse", "mae", "mase",
              coverage.replace("_", " "), "closed form mse", "mase"]]  # fmt: skip
    whole = {
        **{"fold": "all", "first": "", "last": "", "train_rows": ""},
        "windows": sum(row["windows"] for row in report["folds"]),
        **report["metrics"],
        "baselines": report["baselines"],
    }
    for row in [*report["folds"], whole]:
        rest = row["baselines"][bar]
        lines.append(
            [str(row[k]) for k in ("fold", "first", "last", "windows", "train_rows")]
            + [f"{row[k]:.4f}" for k in ("mse", "mae", "mase", coverage)]
            + [f"{rest[k]:.4f}" for k in ("mse", "mase")]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    how = "trained anew for each fold" if report["refit"] else "one model for all folds"
    own, rest = report["metrics"]["mse"], report["baselines"][bar]["mse"]
    verdict = "beats" if own < rest else "does NOT beat"
    return "\n".join(
        [
            f"{report['model']} on {report['data']}, {how}; lookback {report['lookback']}, horizon "
            f"{report['horizon']}, season {report['season']}",
            *(
                "  ".join(
                    cell.ljust(width) for cell, width in zip(line, widths, strict=True)
                ).rstrip()
                for line in lines
            ),
            f"the model {verdict} closed form linear over all folds",
            "",
            f"report  {report['report']}",
            f"table   {report['table']}",
        ]
    )


@click.command("backtest", help=(backtest.__doc__ or "").split("\n\n")[0])
@click.argument("run")
@click.option("--folds", type=click.IntRange(1), default=5, show_default=True, help="How many.")
@click.option("--refit", is_flag=True, help="Train anew for each fold on all that comes before.")
@click.option("--split", help="Another cut by time.  [default: the run's]")
@click.option("--data-dir", metavar="DIR", help="Folder of tensorflow-datasets.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(run: str, as_json: bool, **given: Any) -> None:
    """Score fold by fold."""
    result = backtest(run, quiet=as_json, **given)
    click.echo(json.dumps(plain(result)) if as_json else show(result))
