"""Rows, series or images as a trained autoencoder restores them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from dlkit.errors import OptionError, counted
from pipelines.anomaly_detection.answers import (
    Opened,
    check_name,
    opened_model,
    rows_written,
    written,
)


@click.command("reconstruct")
@click.argument("run")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--output", required=True, metavar="NAME", help="A .csv or .jsonl; of images, a folder."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(run: str, files: tuple[str, ...], output: str, as_json: bool) -> None:
    """Write the rows of FILEs as RUN's exported model restores them, in their own units.

    The columns that the model knows are replaced, others stay. A row of a series is the last of the
    window that ends in it; the first rows, which have no window, are those of the first one. Images
    become PNGs of the model's size.
    """
    from dlkit.progress import say

    if Path(output).suffix:
        check_name(output, "--output", (".csv", ".jsonl"))
    opened = Opened(run, files, "reconstruct")
    if opened.kind == "images" and Path(output).suffix:
        raise OptionError(f"--output: got '{output}'; accepted for images: the name of a folder")
    if opened.kind != "images":
        check_name(output, "--output", (".csv", ".jsonl"))
    restore = opened_model(opened.path)("reconstruct")
    if opened.kind == "images":
        rows = _images(opened, restore, Path(output).expanduser())
    else:
        rows = rows_written(output, _frames(opened, restore))
    for note in opened.notes:
        say(f"note: {note}")
    what = "image" if opened.kind == "images" else "row"
    if as_json:
        click.echo(json.dumps({"rows": rows, "output": output}))
    else:
        click.echo(f"{counted(rows, what)} in {output}")


def _frames(opened: Opened, restore: Any) -> Iterator[Any]:
    """Give each piece's rows with the model's columns restored."""
    import numpy as np
    import pandas as pd

    from dlkit.data.pieces import columns_of

    columns = columns_of(opened.about)
    waiting: list[Any] = []  # rows of a series before its first window
    for piece in opened.pieces:
        answers = restore(piece.inputs)
        frame, found = piece.frame, {}
        if opened.kind == "series":
            values = answers["reconstruction"]
            if not len(values):
                waiting.append(frame)
                continue
            last = values[:, -1]
            if piece.scored or waiting:
                before = piece.scored + sum(map(len, waiting))
                last = np.concatenate([values[0, :before], last])
                frame, waiting = pd.concat([*waiting, frame], ignore_index=True), []
            found = {name: last[:, i] for i, name in enumerate(columns.numeric)}
        else:
            for i, name in enumerate(columns.numeric):
                found[name] = answers["reconstruction"][:, i]
            for name, endpoint in columns.endpoint.items():
                found[name] = [value.decode() for value in answers[endpoint].tolist()]
        yield frame.assign(**found)


def _images(opened: Opened, restore: Any, folder: Path) -> int:
    """Write a PNG an image, each whole or not at all; two of one name are numbered."""
    from dlkit.runtime import load_tensorflow

    load_tensorflow()
    from dlkit.data.pixels import encode_png

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--output: {folder} cannot be made: {error.strerror}") from None
    taken: dict[str, int] = {}
    for piece in opened.pieces:
        restored = restore(piece.inputs)["reconstruction"]
        for file, pixels in zip(piece.frame["file"], restored, strict=True):
            stem = Path(file).stem
            taken[stem] = taken.get(stem, 0) + 1
            name = stem if taken[stem] == 1 else f"{stem}-{taken[stem]}"
            contents = encode_png(pixels)

            def write(target: Any, contents: bytes = contents) -> int:
                return target.write(contents)

            written(str(folder / f"{name}.png"), "--output", write)
    return sum(taken.values())
