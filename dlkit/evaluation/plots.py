"""Pictures for a report. Drawn without a display and without touching pyplot's global state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure


def confusion(answer: np.ndarray, y: np.ndarray, labels: tuple[str, ...], path: Path) -> None:
    """Draw a confusion matrix, rows true and columns predicted, coloured by share of the row."""
    classes = len(labels)
    counts = np.bincount(y * classes + answer, minlength=classes**2).reshape(classes, classes)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(4.0, min(16.0, 1.5 + 0.55 * classes))
    figure = _figure(side + 1, side)
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    if classes <= 30:
        axes.set_xticks(range(classes), labels, rotation=45, ha="right")
        axes.set_yticks(range(classes), labels)
        for i in range(classes):
            for j in range(classes):
                if counts[i, j]:
                    colour = "white" if share[i, j] > 0.5 else "black"
                    axes.text(
                        j, i, str(counts[i, j]), ha="center", va="center", color=colour, fontsize=8
                    )
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{len(y):,} images, {int(np.sum(answer == y)):,} right")
    figure.savefig(path)


def mistakes(
    x: np.ndarray, probabilities: np.ndarray, y: np.ndarray, labels: tuple[str, ...], path: Path
) -> int:
    """Draw the wrong answers of which the model was surest, at most 25; return how many."""
    answer, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(answer != y)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:25]
    columns = min(5, max(1, len(wrong)))
    rows = max(1, -(-len(wrong) // columns))
    figure = _figure(2.1 * columns + 0.3, 2.5 * rows + 0.6)
    figure.suptitle("Most confident mistakes" if len(wrong) else "No mistakes")
    for place, i in enumerate(wrong):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(x[i].squeeze(), cmap="gray" if x.shape[-1] == 1 else None, vmin=0, vmax=255)
        axes.set_title(f"{labels[answer[i]]} {confidence[i]:.0%}\ntrue: {labels[y[i]]}", fontsize=8)
        axes.set_axis_off()
    figure.savefig(path)
    return len(wrong)


def curves(history: Mapping[str, list[tuple[int, float]]], path: Path) -> None:
    """Draw loss and accuracy, training against validation, from `(epoch, value)` pairs by name."""
    figure = _figure(9, 3.6)
    for place, name in enumerate(("loss", "accuracy")):
        axes = figure.add_subplot(1, 2, place + 1)
        for key, label in ((name, "train"), (f"val_{name}", "validation")):
            epochs, values = zip(*history[key], strict=True) if history[key] else ((), ())
            axes.plot(epochs, values, label=label, marker="." if len(epochs) < 9 else "")
        axes.set_xlabel("epoch")
        axes.set_title(name)
        axes.legend()
    figure.savefig(path)
