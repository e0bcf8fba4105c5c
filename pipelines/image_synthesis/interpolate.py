"""The way from one picture to another."""

from __future__ import annotations

import json
from typing import Any

import click

from dlkit.errors import OptionError, counted
from pipelines.image_synthesis.drawn import SEEDS, Drawn, one_picture


@click.command("interpolate")
@click.argument("run")
@click.argument("first")
@click.argument("second")
@click.option("--count", type=click.IntRange(2, 1000), default=9, show_default=True)
@click.option("--label", help="What to draw, of a conditional model; else its first label.")
@click.option("--out", required=True, metavar="NAME", help="A strip (.png) or an animation (.gif).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(
    run: str, first: str, second: str, count: int, label: str | None, out: str, as_json: bool
) -> None:
    """Draw the way from FIRST to SECOND: two seeds, or of a vae two files of pictures.

    Noise is turned from the one to the other along the sphere (White 2016, arXiv:1609.04468), where
    a Gaussian's mass lies; codes of pictures go straight.
    """
    path = one_picture(out, (".png", ".gif"))
    seeds = [int(given) for given in (first, second) if given.isdecimal()]
    if len(seeds) == 1:
        raise OptionError(
            f"FIRST and SECOND: got '{first}' and '{second}'; accepted: two seeds, or two files"
        )
    for seed in seeds:
        if seed >= SEEDS:
            raise OptionError(f"a seed: got {seed}; accepted: 0 to {SEEDS - 1}")
    drawn = Drawn(run, label, "from_noise" if seeds else "encode")
    drawn.load()
    if drawn.labels and drawn.label is None:
        drawn.label = 0

    import numpy as np

    from dlkit.evaluation import synthesis_plots

    if seeds:
        a, b = drawn.noise(seeds)
    else:
        a, b = drawn.code([first, second])[0]
    shares = np.linspace(0.0, 1.0, count, dtype=np.float32)
    noise = np.stack([along(a, b, share, bool(seeds)) for share in shares])
    pixels = drawn.of_noise(noise, drawn.labels_for(0, count))
    if path.suffix.lower() == ".gif":
        synthesis_plots.animation([pixels[i : i + 1] for i in range(count)], path, columns=1)
    else:
        synthesis_plots.strip(pixels, path)
    if as_json:
        click.echo(json.dumps({"from": first, "to": second, "count": count, "file": str(path)}))
    else:
        click.echo(f"{counted(count, 'picture')} in {out}")


def along(a: Any, b: Any, share: float, sphere: bool) -> Any:
    """Return the point at a share of the way from `a` to `b`."""
    import numpy as np

    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    size = np.linalg.norm(x) * np.linalg.norm(y)
    angle = np.arccos(np.clip(x @ y / size, -1.0, 1.0)) if size > 0 else 0.0
    if not sphere or np.sin(angle) < 1e-6:
        found = (1.0 - share) * x + share * y
    else:
        found = (np.sin((1.0 - share) * angle) * x + np.sin(share * angle) * y) / np.sin(angle)
    return found.reshape(a.shape).astype(np.float32)
