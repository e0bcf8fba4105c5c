"""Pictures of one domain as pictures of the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from dlkit.errors import OptionError, counted
from pipelines.image_synthesis.drawn import BATCH, Drawn, folder_or_picture, into_folder


@click.command("translate")
@click.argument("run")
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...")
@click.option(
    "--direction", type=click.Choice(["a-to-b", "b-to-a"]), default="a-to-b", show_default=True
)
@click.option("--out", required=True, metavar="FOLDER|NAME.png", help="A folder, or one grid.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(run: str, pictures: tuple[str, ...], direction: str, out: str, as_json: bool) -> None:
    """Translate PICTUREs (files, or folders of them) by RUN's exported model.

    In a folder each keeps its name; a grid shows the originals above. They come in the model's size.
    """
    path = folder_or_picture(out)
    from dlkit.data.images import images_under

    files = [file for given in pictures for file in images_under(Path(given).expanduser())]
    if not files:
        raise OptionError("PICTURE: no pictures there")
    drawn = Drawn(run, None, "from_pixels")
    drawn.load()

    import numpy as np

    from dlkit.evaluation.synthesis_plots import rows_of

    tf, ending = drawn.tf, "" if direction == "a-to-b" else "_b_to_a"
    translate = drawn.loaded.signatures[f"from_pixels{ending}"]

    def batches() -> Iterator[tuple[list[Path], Any, Any]]:
        for first in range(0, len(files), BATCH):
            part = files[first : first + BATCH]
            pixels = np.stack([drawn.read(file) for file in part])
            yield part, pixels, translate(pixels=tf.constant(pixels))["pixels"].numpy()

    if path.suffix:
        found = list(batches())
        above, below = (np.concatenate([np.asarray(each[i]) for each in found]) for i in (1, 2))
        rows_of(above, below, path)
    else:
        names = unlike([file.stem for file in files])
        numbered = iter(names)
        into_folder(
            path,
            ([(f"{next(numbered)}.png", p) for p in pixels] for _, _, pixels in batches()),
        )
    if as_json:
        click.echo(json.dumps({"pictures": len(files), "direction": direction, "out": str(path)}))
    else:
        click.echo(f"{counted(len(files), 'picture')} in {out}")


def unlike(names: list[str]) -> list[str]:
    """Return names with a number added to those that occur before."""
    seen: set[str] = set()
    found = []
    for name in names:
        new, k = name, 2
        while new in seen:
            new, k = f"{name}-{k}", k + 1
        seen.add(new)
        found.append(new)
    return found
