"""Pictures of a source of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlkit.evaluation.plots import new_figure, save_figure

if TYPE_CHECKING:
    from dlkit.data.arrays import Rows
    from dlkit.data.inspect import Twin

# Pairs in a picture of twins, and classes in one of means.
MOST, MOST_CLASSES = 12, 100


def _draw(axes: Any, image: np.ndarray, title: str) -> None:
    axes.set_axis_off()
    axes.set_title(title, fontsize=8)
    if np.isfinite(image).all():
        grey = image.shape[-1] == 1
        shown = np.clip(np.round(image), 0, 255).astype(np.uint8)
        axes.imshow(shown.squeeze(-1) if grey else shown, cmap="gray", vmin=0, vmax=255)


def mean_images(means: np.ndarray, labels: Sequence[str], y: np.ndarray, path: Path) -> None:
    """Draw the mean image of each class of train, at most 100.

    Args:
        means: float32 `(classes, h, w, c)` in [0, 255]; NaN for a class without images.
        labels: name of each class.
        y: class numbers of train, `(n,)`.
        path: the picture's file.
    """
    counts = np.bincount(y, minlength=len(labels))
    shown = min(len(labels), MOST_CLASSES)
    columns = min(10, shown)
    rows = -(-shown // columns)
    figure = new_figure(1.4 * columns + 0.4, 1.7 * rows + 0.6)
    more = f", {shown} of {len(labels)} classes" if shown < len(labels) else ""
    figure.suptitle(f"Mean image of each class in train{more}")
    for i in range(shown):
        axes = figure.add_subplot(rows, columns, i + 1)
        _draw(axes, means[i], f"{labels[i][:18]}\n{counts[i]:,}")
    save_figure(figure, path)


def twins(found: Sequence[Twin], rows: Mapping[str, Rows], path: Path) -> None:
    """Draw pairs of images side by side, each with its split and label."""
    columns = min(3, max(1, len(found)))
    lines = -(-len(found) // columns)
    figure = new_figure(3.4 * columns + 0.3, 2.1 * lines + 0.6)
    figure.suptitle("Images that stand in two splits come first")
    for place, twin in enumerate(found):
        for side in (0, 1):
            axes = figure.add_subplot(lines, 2 * columns, 2 * place + side + 1)
            split, row = twin.splits[side], twin.rows[side]
            word = f"{twin.distance:.3f}" if twin.distance else "equal"
            _draw(axes, rows[split].x[row], f"{split}: {twin.labels[side][:18]}\n{word}")
    save_figure(figure, path)
