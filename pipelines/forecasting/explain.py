"""Show which lags and covariates made a forecast what it is."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from dlkit.errors import OptionError, counted, nearest, one_of
from pipelines.commands import write_rows
from pipelines.explained import hand_over, to_explain
from pipelines.forecasting.config import TASK, Config
from pipelines.forecasting.evaluate import series_of
from pipelines.forecasting.rebuilt import newest_of, rebuild, roles_of, without_rows
from pipelines.forecasting.scoring import scored_split

WINDOWS = 64
BASELINE = "each target held at its window's mean; covariates and static features at training means"


def explain(
    ref: str,
    source: str | None = None,
    target: str | None = None,
    step: int | None = None,
    windows: int | None = None,
    fill: str | None = None,
    strict: bool = False,
    data_dir: str | None = None,
    out: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Share RUN's forecasts out over lags and covariates, by integrated gradients.

    Args:
        ref: a run; not an exported directory, which holds no Keras model.
        source: a table, whose newest window of each series is explained; None for windows of the
            run's own test split, or of validation where there is no test.
        target: whose forecast; the first if None.
        step: of the horizon, from 1; None for the mean over the horizon.
        windows: number of the run's own windows, spread evenly; 64 if None.
        fill, strict: as for `predict`, of `source`.
        data_dir: of tensorflow-datasets.
        out: folder of the results; `./explain-RUN8` if None.
        quiet: show no notes.
    Raises:
        OptionError, DataError: an unknown target, a step beyond the horizon, a table that cannot be
            used.
        RunError, CheckpointError: no such run, its data have changed, or its checkpoint is gone or of
            other weights.
    """
    began = time.monotonic()
    from dlkit import tracking
    from dlkit.data.series_sources import kind_of
    from dlkit.progress import say

    if source is not None:
        kind_of(source)
        if windows is not None:
            raise OptionError("--windows is for the run's own data; DATA gives one a series")
    elif fill is not None or strict:
        raise OptionError("--fill and --strict are for DATA; the run's own data keep the run's")
    what = to_explain(ref, TASK, out)
    run, folder, directory, about, checkpoint = what
    roles = roles_of(about)
    horizon = int(about["horizon"])
    if target is not None and target not in roles.targets:
        raise OptionError(
            f"--target: the run has no target '{target}'{nearest(target, roles.targets)}; "
            f"accepted: {one_of(roles.targets)}"
        )
    if step is not None and not 1 <= step <= horizon:
        raise OptionError(f"--step: got {step}; accepted: 1 to {horizon}, the run's horizon")
    number = roles.targets.index(target) if target is not None else 0

    # Windows, in their own units; a table given needs the run's own no more.
    config = Config(**tracking.config_of(run.id))
    data = None if source is None else without_rows(about, config)
    if data is None:
        _, data, _ = series_of(run.id, about, None, None, None, data_dir)
    if source is None:
        tracking.same_data(run, data.fingerprint())
        split, given = scored_split(data), None
    else:
        split, given = None, newest_of(source, about, fill, strict, data_dir, quiet)

    from dlkit.runtime import load_tensorflow

    load_tensorflow(keras=True)
    import numpy as np

    from dlkit import attributions, explain_series
    from dlkit.evaluation import forecast_plots
    from dlkit.export.forecast import model_inputs, raw_inputs

    if given is None:
        starts, owners = data.starts(split)
        at = np.unique(np.linspace(0, len(starts) - 1, windows or WINDOWS).round().astype(int))
        given = raw_inputs(data, starts[at], owners[at])
    model = rebuild(run, config, checkpoint, data, directory, given)
    scaled = model_inputs(data, given["window"], given.get("future"), given.get("static"))
    inputs = [np.asarray(each, np.float32) for each in scaled]
    result = explain_series.integrated_gradients(model, data, inputs, target=number, step=step)
    summary = attributions.summarised(result, roles)
    wrong = result.completeness_error[~(result.completeness_error < explain_series.TOLERANCE)]
    told = []
    if len(wrong):
        told.append(
            f"{counted(len(wrong), 'window')} with a completeness error of up to {wrong.max():.2g} "
            f"after {result.steps.max():,} steps"
        )
    if not summary.share.any():
        told.append("no attribution: the forecasts do not depend on the shape of the windows")
    elif len(roles.targets) > 1 and not config.joint:
        told.append("targets are forecast one by one: the others have no share (see --joint)")
    for note in told:
        say(f"note: {note}", quiet)

    # All files, or none.
    name = roles.targets[number]
    answer: dict[str, Any] = {
        "run": run.id,
        "task": TASK,
        "model": config.model,
        "data": source or config.data,
        "split": split,
        "windows": len(inputs[0]),
        "target": name,
        "step": step,
        "horizon": horizon,
        "lookback": summary.lookback,
        "season": data.season,
        "baseline": BASELINE,
        "forecast": float(result.forecast.mean()),
        "forecast_at_baseline": float(result.baseline.mean()),
        "completeness_error": float(result.completeness_error.max()),
        "steps": int(result.steps.max()),
        **attributions.tables(summary),
        "notes": told,
    }
    paths = {"heat_map": "attributions.png", "table": "attributions.csv", "report": "report.json"}
    answer |= {key: str((folder / file).absolute()) for key, file in paths.items()}
    with tempfile.TemporaryDirectory(prefix="dlkit-explain-") as drawn:
        picture = Path(drawn, paths["heat_map"])
        units = f"units of {name}"
        forecast_plots.attributions(summary, _title(answer), units, data.season, step or 1, picture)
        write_rows(attributions.cells(summary), Path(drawn, paths["table"]))
        answer["seconds"] = round(time.monotonic() - began, 2)
        Path(drawn, paths["report"]).write_text(json.dumps(answer, indent=1), encoding="utf-8")
        hand_over(Path(drawn), what)
    if run.spooling:
        say(f"note: the store failed ({run.spooling}); deliver with: dlkit runs sync", quiet)
    return answer


def _title(answer: dict[str, Any]) -> str:
    of = counted(answer["windows"], f"{answer['split'] or 'newest'} window")
    step, horizon = answer["step"], answer["horizon"]
    where = f"step {step} of {horizon}" if step else f"mean of {counted(horizon, 'step')}"
    source = Path(answer["data"]).name
    return f"{answer['model']} on {source}: forecast of {answer['target']}, {where}, {of}"


def show(answer: dict[str, Any]) -> str:
    """Lay an explanation out for a terminal."""
    lines = [
        _title(answer),
        f"forecast {answer['forecast']:.5g} on average, {answer['forecast_at_baseline']:.5g} at the "
        f"baseline ({answer['baseline']})",
        f"completeness error {answer['completeness_error']:.1e} at most, {answer['steps']} steps",
        "",
        f"{'channel':24} {'role':17} {'share':>8} {'|attribution|':>14}",
    ]
    for row in answer["channels"]:
        ahead = f"  ({row['share_ahead']:.3f} ahead)" if "share_ahead" in row else ""
        lines.append(
            f"{row['channel']:24} {row['role']:17} {row['share']:8.3f} "
            f"{row['mean_absolute']:14.5g}{ahead}"
        )
    lines += ["", f"{'lag':>5} {'share':>8} {'|attribution|':>14}  most of it"]
    for row in answer["top_lags"]:
        numbers = f"{row['lag']:5} {row['share']:8.3f} {row['mean_absolute']:14.5g}"
        lines.append(f"{numbers}  {row['channel']}")
    paths = [f"{name}  {answer[name]}" for name in ("heat_map", "table", "report")]
    return "\n".join([*lines, "", *answer["notes"], *paths])


@click.command("explain", help=(explain.__doc__ or "").split("\n\n")[0])
@click.argument("run")
@click.argument("source", metavar="[DATA]", required=False)
@click.option("--target", metavar="NAME", help="Whose forecast.  [default: the first]")
@click.option("--step", type=int, help="Of the horizon, from 1.  [default: the mean of all]")
@click.option("--windows", type=click.IntRange(1), help="Of the run's own data.  [default: 64]")
@click.option("--fill", type=click.Choice(["none", "forward", "interpolate"]), help="Gaps.")
@click.option("--strict", is_flag=True, help="Refuse a panel with a series that cannot be used.")
@click.option("--data-dir", metavar="DIR", help="Folder of tensorflow-datasets.")
@click.option("--out", metavar="DIR", help="Folder of the results.  [default: explain-RUN8]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(run: str, source: str | None, as_json: bool, **given: Any) -> None:
    """Explain forecasts."""
    answer = explain(run, source, quiet=as_json, **given)
    click.echo(json.dumps(answer) if as_json else show(answer))
