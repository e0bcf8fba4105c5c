"""Latent vectors of rows, windows or images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from dlkit.errors import counted
from pipelines.anomaly_detection.answers import (
    Opened,
    check_name,
    drawn,
    opened_model,
    rows_written,
    written,
)

# Codes drawn at most.
DRAWN = 5000


class Sample:
    """A uniform sample of what streams by: codes with their scores."""

    def __init__(self) -> None:
        import numpy as np

        self.generator = np.random.default_rng(0)
        self.kept: Any = None

    def add(self, codes: Any, scores: Any) -> None:
        """Look at a piece; each example has a random number, and the smallest ones stay."""
        import numpy as np

        fresh = (self.generator.random(len(codes)), codes, scores)
        joined = fresh if self.kept is None else list(map(np.concatenate, zip(self.kept, fresh)))  # noqa: B905
        at = np.sort(np.argsort(joined[0], kind="stable")[:DRAWN])
        self.kept = [each[at] for each in joined]


@click.command("encode")
@click.argument("run")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--output", required=True, metavar="NAME", help="A .csv or .npy for the codes.")
@click.option("--plot", metavar="NAME", help="Draw two principal components into a .png.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(run: str, files: tuple[str, ...], output: str, plot: str | None, as_json: bool) -> None:
    """Write the latent vector of each row of FILEs, in order, by RUN's exported encoder.

    Columns are code_1, code_2, ...; of images, after `file`. A row of a series has the code of the
    window that ends in it; the first rows, which have none, are left out.
    """
    check_name(output, "--output", (".csv", ".npy"))
    check_name(plot, "--plot", (".png",))
    from dlkit.progress import say

    opened = Opened(run, files, "encode")
    endpoint = opened_model(opened.path)
    encode = endpoint("encode")
    score = endpoint("serving_default") if plot is not None else None
    sample = Sample()

    def codes() -> Iterator[tuple[Any, Any]]:
        for piece in opened.pieces:
            found = encode(piece.inputs)["code"]
            if score is not None and len(found):
                sample.add(found, score(piece.inputs)["score"])
            yield piece, found

    rows = _array(output, codes()) if output.endswith(".npy") else _table(output, opened, codes())
    for note in opened.notes:
        say(f"note: {note}")
    if plot is not None:
        from dlkit.evaluation import reason_plots

        _, points, scores = sample.kept
        limit = opened.about["threshold"]
        drawn(plot, lambda path: reason_plots.codes(points, scores, limit, path))
    if as_json:
        click.echo(json.dumps({"rows": rows, "output": output}))
    else:
        click.echo(f"{counted(rows, 'code')} in {output}")
        if plot is not None:
            click.echo(f"drawn in {plot}")


def _table(output: str, opened: Opened, codes: Iterator[tuple[Any, Any]]) -> int:
    import pandas as pd

    def frames() -> Iterator[Any]:
        for piece, found in codes:
            frame = pd.DataFrame(found, columns=[f"code_{i + 1}" for i in range(found.shape[1])])
            if opened.kind == "images":
                frame.insert(0, "file", piece.frame["file"])
            if len(frame):
                yield frame

    return rows_written(output, frames())


def _array(output: str, codes: Iterator[tuple[Any, Any]]) -> int:
    import numpy as np

    def header(file: Any, shape: tuple[int, ...]) -> None:
        # numpy pads the header, so that the number of rows may be put in afterwards.
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )

    def write(file: Any) -> int:
        rows, width = 0, None
        for _, found in codes:
            if width is None:
                width = found.shape[1]
                header(file, (0, width))
            file.write(np.ascontiguousarray(found, "<f4").data)
            rows += len(found)
        file.seek(0)
        header(file, (rows, width or 0))
        return rows

    return written(output, "--output", write)
