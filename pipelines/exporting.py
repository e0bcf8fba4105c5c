"""The command `export` of every task: a run's SavedModel, and other formats beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dlkit.errors import RunError

# A run and its export's manifest to `dlkit.export.formats.Samples`.
Sampler = Callable[[str, Mapping[str, Any]], Any]


def add_export(group: click.Group, task: str, samples: Sampler | None = None) -> None:
    """Add `export`: copies a run's export to a folder, checked against its manifest.

    Args:
        group: the task's commands.
        task: its name.
        samples: gives what formats are checked by and measured on; None where there are no others.
    """

    @group.command("export")
    @click.argument("run")
    @click.option(
        "--out", required=True, metavar="DIR", help="Folder that gets the version folder."
    )
    @click.option("--version", "number", type=click.IntRange(1), default=1, show_default=True)
    @click.option(
        "--format",
        "formats",
        multiple=True,
        metavar="FORMAT",
        help="saved-model, onnx or litert, beside the SavedModel; may be repeated. "
        "Compared with it, and measured.",
    )
    @click.option(
        "--quantize",
        type=click.Choice(["int8"]),
        help="Add each format in 8 bits too, calibrated on training rows.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
    def command(
        run: str,
        out: str,
        number: int,
        formats: Sequence[str],
        quantize: str | None,
        as_json: bool,
    ) -> None:
        """Copy RUN's SavedModel to DIR/VERSION, laid out as TensorFlow Serving expects.

        With --format also as DIR/VERSION/model.onnx or model.tflite (model.int8... in 8 bits).
        """
        from dlkit.export import formats as others

        others.check(task, formats, quantize is not None)
        from dlkit import export, tracking
        from dlkit.runtime import load_tensorflow

        source, name = tracking.export_directory(run, task)
        rows: list[dict[str, Any]] = []
        notes: list[str] = []

        def complete(folder: Path) -> None:
            if not formats:
                return
            assert samples is not None  # others.check has refused the task else
            load_tensorflow(keras=True)
            found, said = others.add(
                folder, formats, samples(owner, about), quantise=quantize is not None
            )
            rows.extend(found)
            notes.extend(said)

        owner, about = "", {}
        if formats:
            owner = run_of(run, task)
            about = export.read_manifest(source / "1")
            others.endpoint_of(about)
        target = export.copy(source, Path(out).expanduser(), number, complete)
        if as_json:
            result = {"task": task, "export": str(target.absolute())}
            click.echo(json.dumps(result | ({"formats": rows, "notes": notes} if rows else {})))
            return
        if rows:
            click.echo(table(rows) + "\n")
        for note in notes:
            click.echo(f"note: {note}")
        click.echo(f"export  {target}\nnext    dlkit serve {name}={out}")


def run_of(ref: str, task: str) -> str:
    """Return the id of a run, whose data tell what a format is worth.

    Raises:
        RunError: the reference is an exported folder.
    """
    from dlkit import tracking

    if not ref.startswith("models:/") and Path(ref).expanduser().is_dir():
        raise RunError(
            f"RUN: {ref} is an exported folder; --format needs the run, on whose data it is checked"
        )
    return tracking.find_run(ref, task).info.run_id


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out format, size on disk, median latency by batch, and the task's main metric."""
    batches, metrics = list(rows[0]["latency_ms"]), list(rows[0]["metrics"])
    lines = [["format", "size", *(f"ms at batch {b}" for b in batches), *metrics]]
    for row in rows:
        latency = [f"{row['latency_ms'][b]:.3f}" for b in batches]
        scores = [f"{row['metrics'][m]:.4f}" for m in metrics]
        lines.append([row["format"], size(row["bytes"]), *latency, *scores])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        )
        for line in lines
    )


def size(count: int) -> str:
    """Return a number of bytes as a person reads it."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
