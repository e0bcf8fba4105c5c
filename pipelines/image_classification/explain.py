"""Show where in an image the evidence for an answer lies."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from dlkit.errors import DataError, OptionError, nearest, one_of
from pipelines.explained import hand_over, to_explain
from pipelines.image_classification.config import TASK, Config
from pipelines.image_classification.rebuilt import rebuild

METHODS = {
    "grad-cam": ("grad-cam",),
    "integrated-gradients": ("integrated-gradients",),
    "both": ("grad-cam", "integrated-gradients"),
}


def explain(
    ref: str,
    inputs: tuple[str, ...],
    method: str | None = None,
    layer: str | None = None,
    target: str | None = None,
    out: str | None = None,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Explain RUN's answers to image files, by Grad-CAM and integrated gradients.

    Args:
        ref: a run; not an exported directory, which holds no Keras model.
        inputs: image files and folders of them.
        method: a key of `METHODS`; None is both, without Grad-CAM where the model has no
            convolutional feature map.
        layer: the feature map for Grad-CAM; its last if None.
        target: the label to explain; each image's own answer if None.
        out: folder of the overlays; `./explain-RUN8` if None.
        quiet: show no notes.
    Returns:
        A row an image and method: `file`, `label` and `probability` as `predict` gives them,
        `target`, `target_probability`, `method`, `layer`, `completeness_error` and `steps` (None for
        Grad-CAM), `attribution` (False for a map that is 0 all over), `peak` (row and column in
        pixels of the model's input, or None) and `overlay`.
    Raises:
        DataError: no image among the inputs, or none that can be read.
        OptionError, SpecError: an unknown label or layer; Grad-CAM for a model without a map for it.
        RunError, CheckpointError: no such run, or its checkpoint is gone or of other weights.
    """
    from dlkit import tracking
    from dlkit.data.folder import left_out, none_of
    from dlkit.data.images import images_under
    from dlkit.progress import say

    files = [file for path in inputs for file in images_under(Path(path).expanduser())]
    if not files:
        raise DataError(f"INPUT: no images in {', '.join(inputs)}")
    if layer is not None and method == "integrated-gradients":
        raise OptionError("--layer is for grad-cam; integrated gradients look at pixels")
    what = to_explain(ref, TASK, out)
    run, folder, directory, manifest, checkpoint = what
    labels, shape = list(manifest["labels"]), tuple(manifest["input_shape"])
    if target is not None and target not in labels:
        raise OptionError(
            f"--target: the model has no label '{target}'{nearest(target, labels)}; "
            f"accepted: {one_of(labels)}"
        )

    from dlkit.runtime import load_tensorflow

    tf = load_tensorflow(keras=True)
    import numpy as np

    from dlkit import explain as explaining
    from dlkit.data.pixels import decode_image
    from dlkit.evaluation import plots
    from dlkit.export.images import classify

    # Images, as the model sees them.
    readable, pixels, unreadable = [], [], []
    for file in files:
        try:
            pixels.append(decode_image(file.read_bytes(), shape).numpy())
            readable.append(file)
        except (tf.errors.OpError, OSError):
            unreadable.append(file)
    if not readable:
        raise DataError(f"INPUT: {none_of(unreadable)}")
    if unreadable:
        say(f"note: {left_out(unreadable)}", quiet)

    # Model, methods and answers.
    config = Config(**tracking.config_of(run.id))
    model, preprocess = rebuild(run, config, checkpoint, shape, tuple(labels))
    wanted = METHODS[method or "both"]
    if method is None and layer is None and not explaining.feature_maps(model):
        wanted = ("integrated-gradients",)
        say(f"note: {config.model} has no convolutional feature map, so no Grad-CAM", quiet)
    make = {
        "grad-cam": lambda: explaining.grad_cam(model, layer),
        "integrated-gradients": lambda: explaining.integrated_gradients(model),
    }
    explainers = {name: make[name]() for name in wanted}
    endpoint = tf.saved_model.load(str(directory / "1")).signatures["from_pixels"]
    probabilities = classify(endpoint, np.stack(pixels))

    # Overlays: all of them, or none.
    rows = []
    with tempfile.TemporaryDirectory(prefix="dlkit-explain-") as drawn:
        for file, image, shares in zip(readable, pixels, probabilities, strict=True):
            number = labels.index(target) if target is not None else int(shares.argmax())
            prepared = preprocess(tf.cast(image[None], tf.float32)).numpy()[0]
            for name, explainer in explainers.items():
                result = explainer(prepared, number)
                picture = _free(Path(drawn), f"{file.stem}-{name}")
                title = f"{labels[number]} {shares[number]:.1%}, {name.replace('-', ' ')}"
                plots.overlay(image, result.heat, result.peak, title, picture)
                rows.append(
                    {
                        "file": str(file),
                        "label": labels[int(shares.argmax())],
                        "probability": float(shares.max()),
                        "target": labels[number],
                        "target_probability": float(shares[number]),
                        "method": name,
                        "layer": result.layer,
                        "completeness_error": result.completeness_error,
                        "steps": result.steps,
                        "attribution": bool(result.heat.any()),
                        "peak": result.peak,
                        "overlay": str((folder / picture.name).absolute()),
                    }
                )
                error = result.completeness_error
                if error is not None and not error < 1e-2:
                    say(f"note: {file}: completeness error {error:.2g} after {result.steps} steps")
        Path(drawn, "explanations.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        hand_over(Path(drawn), what)
    if run.spooling:
        say(f"note: the store failed ({run.spooling}); deliver with: dlkit runs sync", quiet)
    return rows


def _free(folder: Path, stem: str) -> Path:
    """Return a name for a PNG that is not taken: files of different folders may be namesakes."""
    path, number = folder / f"{stem}.png", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}.png", number + 1
    return path


@click.command("explain")
@click.argument("run")
@click.argument("inputs", nargs=-1, required=True, metavar="FILE_OR_FOLDER...")
@click.option("--method", metavar="METHOD", help=f"{', '.join(METHODS)}.  [default: what fits]")
@click.option("--layer", metavar="NAME", help="Feature map for Grad-CAM.  [default: the last]")
@click.option("--target", metavar="LABEL", help="Label to explain.  [default: the answer]")
@click.option("--out", metavar="DIR", help="Folder of the overlays.  [default: explain-RUN8]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def explain_command(
    run: str, inputs: tuple[str, ...], method: str | None, as_json: bool, **given: Any
) -> None:
    """Show which parts of images RUN's answers rest on: Grad-CAM, integrated gradients."""
    if method is not None and method not in METHODS:
        raise OptionError(
            f"--method: got '{method}'{nearest(method, METHODS)}; accepted: {one_of(METHODS)}"
        )
    rows = explain(run, inputs, method, quiet=as_json, **given)
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    table = [("file", "label", "probability", "method", "completeness error", "peak")]
    for row in rows:
        error, peak = row["completeness_error"], row["peak"]
        nowhere = "none" if row["attribution"] else "no attribution"
        table.append(
            (
                row["file"],
                row["target"],
                f"{row['target_probability']:.4f}",
                row["method"],
                "-" if error is None else f"{error:.1e} in {row['steps']} steps",
                nowhere if peak is None else f"row {peak[0]}, column {peak[1]}",
            )
        )
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
    click.echo(f"\noverlays  {Path(rows[0]['overlay']).parent}")
