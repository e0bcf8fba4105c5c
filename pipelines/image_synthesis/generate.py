"""New pictures, into a folder or a grid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from dlkit.errors import OptionError, counted
from pipelines.image_synthesis.drawn import (
    MOST_IN_GRID,
    SEEDS,
    Drawn,
    folder_or_picture,
    into_folder,
)


@click.command("generate")
@click.argument("run")
@click.option("--count", type=click.IntRange(1), default=64, show_default=True)
@click.option(
    "--seed", type=click.IntRange(0, SEEDS - 1), default=0, show_default=True, help="Of the first."
)
@click.option("--label", help="What to draw, of a conditional model; else each label in turn.")
@click.option(
    "--truncation",
    type=float,
    help="Draw noise in beyond so many deviations: fewer kinds of picture, each likelier.",
)
@click.option("--out", required=True, metavar="FOLDER|NAME.png", help="A folder, or one grid.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a picture.")
def command(
    run: str,
    count: int,
    seed: int,
    label: str | None,
    truncation: float | None,
    out: str,
    as_json: bool,
) -> None:
    """Write COUNT new pictures of RUN's exported generator, of seeds one after another.

    The same seed gives the same picture, however many are made. A folder gets a PNG for each, one
    after the other, so that their number is bounded by the disk alone.
    """
    if truncation is not None and not 0.01 <= truncation < float("inf"):
        raise OptionError(f"--truncation: got {truncation:g}; accepted: at least 0.01")
    path = folder_or_picture(out)
    one = path.suffix != ""
    if one and count > MOST_IN_GRID:
        raise OptionError(
            f"--out: a grid of {count:,} pictures; accepted: at most {MOST_IN_GRID:,}, or a folder"
        )
    drawn = Drawn(run, label)
    drawn.load()
    told: list[dict[str, Any]] = []

    def batches() -> Iterator[list[tuple[str, Any]]]:
        for seeds, labels, pixels in drawn.pictures(count, seed, truncation):
            names = [f"{s:010}.png" for s in seeds]
            if as_json and not one:
                for name, s, y in zip(names, seeds, labels, strict=True):
                    click.echo(json.dumps(line(drawn, s, y) | {"file": str(path / name)}))
            yield list(zip(names, pixels, strict=True))

    if not one:
        made = into_folder(path, batches())
        if not as_json:
            click.echo(f"{counted(made, 'picture')} in {out}")
        return

    import numpy as np

    from dlkit.evaluation.synthesis_plots import grid

    whole = []
    for seeds, labels, pixels in drawn.pictures(count, seed, truncation):
        whole.append(pixels)
        told += [
            line(drawn, s, y) | {"file": str(path)} for s, y in zip(seeds, labels, strict=True)
        ]
    columns = max(1, round(count**0.5))
    if drawn.labels and drawn.label is None and len(drawn.labels) <= 16:
        columns = min(count, len(drawn.labels))  # one label a column
    grid(np.concatenate(whole), path, columns)
    if as_json:
        for each in told:
            click.echo(json.dumps(each))
    else:
        click.echo(f"{counted(count, 'picture')} in {out}")


def line(drawn: Drawn, seed: int, label: Any) -> dict[str, Any]:
    """Return what is told of a picture."""
    return {"seed": seed} | ({"label": drawn.labels[int(label)]} if drawn.labels else {})
