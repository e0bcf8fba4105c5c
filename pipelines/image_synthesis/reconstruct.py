"""Pictures through the code of a variational autoencoder and back."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dlkit.errors import OptionError, counted
from pipelines.image_synthesis.drawn import BATCH, Drawn, one_picture


@click.command("reconstruct")
@click.argument("run")
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...")
@click.option("--label", help="What they show, of a conditional model.")
@click.option("--out", required=True, metavar="NAME.png", help="Originals above reconstructions.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(
    run: str, pictures: tuple[str, ...], label: str | None, out: str, as_json: bool
) -> None:
    """Draw PICTUREs (files, or folders of them) above what RUN's vae makes of their codes."""
    path = one_picture(out)
    from dlkit.data.images import images_under

    files = [str(file) for given in pictures for file in images_under(Path(given).expanduser())]
    if not files:
        raise OptionError("PICTURE: no pictures there")
    drawn = Drawn(run, label, "encode")
    if drawn.labels and drawn.label is None:
        raise OptionError(f"--label: {drawn.about['model']} is conditional; say what they show")
    drawn.load()

    import numpy as np

    from dlkit.evaluation.synthesis_plots import rows_of

    above, below = [], []
    for first in range(0, len(files), BATCH):
        code, labels, pixels = drawn.code(files[first : first + BATCH])
        above.append(pixels)
        below.append(drawn.of_noise(code, labels))
    originals, restored = np.concatenate(above), np.concatenate(below)
    rows_of(originals, restored, path)
    error = float(((originals.astype(float) - restored) ** 2).mean() / 255**2)
    if as_json:
        click.echo(json.dumps({"pictures": len(files), "mse": error, "file": str(path)}))
    else:
        click.echo(f"{counted(len(files), 'picture')} in {out}, mean squared error {error:.4f}")
