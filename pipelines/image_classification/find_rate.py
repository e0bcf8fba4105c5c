"""Find a learning rate by a range test."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from dlkit.errors import DataError, OptionError
from dlkit.options import options_of, resolve
from pipelines.image_classification.config import (
    TASK,
    Config,
    fit_to_model,
    load,
    starting_weights,
)
from pipelines.image_classification.other_run import same_data, start_from
from pipelines.image_classification.setup import (
    checked,
    compiled_model,
    linked,
    training_stream,
)

RATE = click.FloatRange(0, min_open=True)


@click.command("find-rate")
@options_of(Config)
@click.option("--config", "file", metavar="FILE", help="Options from a TOML or JSON file.")
@click.option("--steps", type=click.IntRange(30, 10_000), default=150, show_default=True)
@click.option("--from", "lowest", type=RATE, default=1e-6, show_default=True, help="First rate.")
@click.option("--to", "highest", type=RATE, default=1.0, show_default=True, help="Last rate.")
@click.option(
    "--out", metavar="DIR", default=".", help="Folder for find-rate.png.  [default: this one]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(
    file: str | None,
    steps: int,
    lowest: float,
    highest: float,
    out: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Suggest a learning rate: train for some steps while the rate grows.

    Takes the options of `train`; those of the schedule and of how long and what follows have no
    effect here. No run is logged. The suggestion is a tenth of the rate at which the loss, smoothed,
    is lowest.
    """
    config = resolve(Config, given, file)
    result = find_rate(config, steps, lowest, highest, Path(out).expanduser(), quiet=as_json)
    click.echo(json.dumps(result) if as_json else show(result))


def find_rate(
    config: Config, steps: int, lowest: float, highest: float, out: Path, quiet: bool = False
) -> dict[str, Any]:
    """Run the test on a fresh model and draw it; see `dlkit.find_rate.range_test`."""
    began = time.monotonic()
    for flag, value in (("--prune", config.prune), ("--teacher", config.teacher)):
        if value is not None:
            raise OptionError(f"{flag}: is for train; the rate is looked for without it")
    params, (weights, _) = checked(config), starting_weights(config)
    config, start, _ = linked(config)
    if lowest >= highest:
        raise OptionError(f"--from: got {lowest:g}; accepted: a rate below --to, {highest:g}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out: {out} cannot be made: {error.strerror}") from None

    from dlkit.progress import say
    from dlkit.runtime import load_tensorflow

    load_tensorflow(keras=True)
    from dlkit.evaluation import plots
    from dlkit.find_rate import RULE, range_test
    from dlkit.weights import load_weights

    data = fit_to_model(config, load(config))
    say(data.describe(), quiet)
    model, _ = compiled_model(config, data)
    if weights != "none":
        say(load_weights(model, weights, params.get("backbone")), quiet)
    if start is not None:
        same_data(start, data)
        say(start_from(start, model), quiet)
    stream, _ = training_stream(config, data)
    found = range_test(
        model,
        stream(0, 0),
        lowest=lowest,
        highest=highest,
        steps=steps,
        micro_batch=config.micro_batch,
    )
    picture = (out / "find-rate.png").absolute()
    plots.range_test(found, picture)
    return {
        "task": TASK,
        "model": config.model,
        "data": config.data,
        "optimizer": config.optimizer,
        "rule": RULE,
        **found,
        "picture": str(picture),
        "seconds": round(time.monotonic() - began, 2),
    }


def show(result: dict[str, Any]) -> str:
    """Lay the result out for a terminal."""
    end = result["diverged_at"]
    return "\n".join(
        [
            f"learning rate  {result['suggestion']:.2g}, {result['rule']}",
            f"lowest loss    at {result['lowest_at']:.2g}",
            f"steepest fall  at {result['steepest_at']:.2g}",
            "diverged       " + (f"at {end:.2g}" if end else "nowhere up to the last rate"),
            f"picture        {result['picture']}",
            f"took           {result['seconds']:.1f} s, {len(result['losses'])} steps",
            "",
            f"next           dlkit {TASK} train --model {result['model']} --data {result['data']} "
            f"--optimizer {result['optimizer']} --learning-rate {result['suggestion']:.2g}",
        ]
    )
