"""Pictures for a report. Drawn without a display and without touching pyplot's global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    FormatStrFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
)

from dlkit.checkpoint import write_atomically
from dlkit.errors import counted


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, its sides in inches."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all: a picture that was there before stays whole."""
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def confusion(answer: np.ndarray, y: np.ndarray, labels: tuple[str, ...], path: Path) -> None:
    """Draw a confusion matrix, rows true and columns predicted, coloured by share of the row."""
    classes = len(labels)
    counts = np.bincount(y * classes + answer, minlength=classes**2).reshape(classes, classes)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(4.0, min(16.0, 1.5 + 0.55 * classes))
    figure = new_figure(side + 1, side)
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
    axes.set_title(f"{counted(len(y), 'image')}, {int(np.sum(answer == y)):,} right")
    save_figure(figure, path)


def mistakes(
    x: Any, probabilities: np.ndarray, y: np.ndarray, labels: tuple[str, ...], path: Path
) -> int:
    """Draw the wrong answers of which the model was surest, at most 25; return how many."""
    answer, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(answer != y)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:25]
    columns = min(5, max(1, len(wrong)))
    rows = max(1, -(-len(wrong) // columns))
    figure = new_figure(2.1 * columns + 0.3, 2.5 * rows + 0.6)
    figure.suptitle("Most confident mistakes" if len(wrong) else "No mistakes")
    for place, i in enumerate(wrong):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(x[i].squeeze(), cmap="gray" if x.shape[-1] == 1 else None, vmin=0, vmax=255)
        axes.set_title(f"{labels[answer[i]]} {confidence[i]:.0%}\ntrue: {labels[y[i]]}", fontsize=8)
        axes.set_axis_off()
    save_figure(figure, path)
    return len(wrong)


def reliability(panels: Mapping[str, list[dict[str, float]]], path: Path) -> None:
    """Draw accuracy against confidence, and below it how many images have which confidence.

    Args:
        panels: bins as `classification.reliability` gives them, by title, side by side.
        path: where the picture goes.
    """
    figure = new_figure(4.4 * len(panels) + 0.4, 5.6)
    grid = figure.add_gridspec(2, len(panels), height_ratios=(3, 1))
    for place, (title, bins) in enumerate(panels.items()):
        low, high, rows, confidence, accuracy = (
            np.array([b[k] for b in bins])
            for k in ("low", "high", "rows", "confidence", "accuracy")
        )
        ece = float(np.abs(accuracy - confidence) @ rows / rows.sum())
        # Wilson 1927: the score interval, which holds for few rows and for shares near 0 and 1.
        z, n = 1.96, rows
        centre = (accuracy + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(accuracy * (1 - accuracy) / n + (z / (2 * n)) ** 2)
        axes = figure.add_subplot(grid[0, place])
        axes.plot((0, 1), (0, 1), color="black", linewidth=0.8, linestyle="--")
        axes.bar(low, accuracy, high - low, align="edge", color="tab:blue", alpha=0.5)
        axes.vlines(confidence, np.maximum(centre - half, 0), np.minimum(centre + half, 1))
        axes.plot(confidence, accuracy, ".", label="accuracy, 95 % interval")
        axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=f"{title}: ECE {ece:.4f}")
        axes.legend(loc="upper left", fontsize=8)
        below = figure.add_subplot(grid[1, place], sharex=axes)
        below.bar(low, rows / rows.sum(), high - low, align="edge", color="tab:gray")
        below.axvline(confidence @ rows / rows.sum(), color="black", linewidth=0.8)
        below.set(ylim=(0, 1), ylabel="share of images", xlabel="confidence (line: mean)")
    save_figure(figure, path)


def overlay(
    image: np.ndarray, heat: np.ndarray, peak: tuple[int, int] | None, title: str, path: Path
) -> None:
    """Draw an image beside itself under its evidence, red for and blue against; a ring is the peak.

    Args:
        image: uint8 `(h, w, 1 or 3)`.
        heat: `(h, w)`, 0 where there is no evidence; 0 all over draws nothing, and the title says so.
        peak: row and column, or None.
        title, path: as they say.
    """
    figure = new_figure(7.0, 3.6)
    figure.suptitle(title if heat.any() else f"{title}: no attribution", fontsize=10)
    shown = image.squeeze(-1) if image.shape[-1] == 1 else image
    # A few pixels of integrated gradients are far above the rest.
    reach = float(np.percentile(np.abs(heat), 99.5)) or float(np.abs(heat).max())
    for place in range(2):
        axes = figure.add_subplot(1, 2, place + 1)
        axes.imshow(shown if not place else image.mean(-1), cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        if place and heat.any():
            # Where there is little evidence, the image shows through.
            strength = 0.15 + 0.65 * np.clip(np.abs(heat) / reach, 0, 1)
            drawn = axes.imshow(heat, cmap="RdBu_r", vmin=-reach, vmax=reach, alpha=strength)
            figure.colorbar(drawn, ax=axes, shrink=0.8)
            if peak is not None:
                axes.plot(peak[1], peak[0], "o", mfc="none", mec="black", ms=12)
    save_figure(figure, path)


def curves(history: Mapping[str, list[tuple[int, float]]], path: Path) -> None:
    """Draw loss and perhaps accuracy, training against validation, `(epoch, value)` pairs by name."""
    shown = [name for name in ("loss", "accuracy") if name in history]
    figure = new_figure(4.5 * len(shown), 3.6)
    for place, name in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), place + 1)
        for key, label in ((name, "train"), (f"val_{name}", "validation")):
            epochs, values = zip(*history[key], strict=True) if history[key] else ((), ())
            axes.plot(epochs, values, label=label, marker="." if len(epochs) < 9 else "")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch")
        axes.set_title(name)
        axes.legend()
    save_figure(figure, path)


def comparison(rows: Sequence[Mapping[str, Any]], baselines: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy against parameters, images per second and latency, one point a model.

    Args:
        rows: ranked, as a comparison's result holds them; a measure that is None leaves its point
            out of that panel.
        baselines: as in a report; the best is a dashed line, or words where it lies far below.
        path: where the picture goes.
    """
    figure = new_figure(13, 4.6)
    figure.suptitle("Filled: validation, which ranks. Hollow: test, with its 95 % interval.")
    bar = max((each["metrics"]["accuracy"], name) for name, each in baselines.items())
    values = [row["validation"]["accuracy"] for row in rows]
    values += [edge for row in rows for edge in row["intervals"]["accuracy"]]
    height = max(max(values) - min(values), 0.02)
    below = min(values) - bar[0] > height
    values += [] if below else [bar[0]]
    margin = 0.05 * max(max(values) - min(values), 0.02)
    for place, (key, label) in enumerate(
        (
            ("parameters", "parameters"),
            ("images_per_second", "training speed (images per second)"),
            ("latency_ms", "latency of one image (ms, median)"),
        )
    ):
        axes = figure.add_subplot(1, 3, place + 1)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
        axes.xaxis.set_major_formatter(
            FormatStrFormatter("%g") if key == "latency_ms" else EngFormatter(sep="")
        )
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(min(values) - margin, min(max(values) + margin, 1.0 + margin))
        if not below:
            axes.axhline(bar[0], linestyle="--", linewidth=1, color="grey")
        axes.annotate(
            bar[1].replace("_", " ") + (f" {bar[0]:.4f}, below" if below else ""),
            (1, 0 if below else bar[0]),
            xycoords=("axes fraction", "axes fraction" if below else "data"),
            xytext=(-3, 3),
            textcoords="offset points",
            ha="right",
            fontsize=7,
            color="grey",
        )
        shown = [(i, row) for i, row in enumerate(rows) if row[key]]
        names = []
        for i, row in shown:
            colour, low_high = f"C{i % 10}", row["intervals"]["accuracy"]
            test, validation = row["metrics"]["accuracy"], row["validation"]["accuracy"]
            axes.plot([row[key]] * 2, low_high, color=colour, linewidth=1, alpha=0.6)
            axes.plot(row[key], test, "o", color=colour, markerfacecolor="white", markersize=6)
            axes.plot(row[key], validation, "o", color=colour, markersize=6)
            names.append((row[key], validation, row["model"], colour))
        axes.set_xlabel(label)
        axes.set_ylabel("accuracy" if place == 0 else "")
        axes.grid(alpha=0.25)
        axes.margins(x=0.15)
        _label(axes, names)
    save_figure(figure, path)


def _label(axes: Any, points: list[tuple[float, float, str, str]]) -> None:
    """Write a name beside each point, moved up where it would lie on one written before."""
    written: list[tuple[float, float]] = []
    axes.figure.canvas.draw()
    for x, y, name, colour in sorted(points, key=lambda p: p[1]):
        across, up = axes.transData.transform((x, y))
        # To the left of points at the right edge.
        left = axes.transAxes.inverted().transform((across, up))[0] > 0.75
        middle, height = across + (-40 if left else 40), up + 6.0
        # One line of text is about 12 pixels high, a name about 80 wide.
        while any(abs(middle - a) < 80 and abs(height - h) < 12 for a, h in written):
            height += 4.0
        written.append((middle, height))
        scale = 72 / axes.figure.dpi
        axes.annotate(
            name,
            (x, y),
            xytext=(-6 if left else 6, (height - up) * scale),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8,
            color=colour,
        )


def range_test(found: Mapping[str, Any], path: Path) -> None:
    """Draw the loss against the learning rate of a range test, with the rate it suggests."""
    figure = new_figure(7, 4)
    axes = figure.add_subplot()
    losses = np.array([np.nan if v is None else v for v in found["losses"]])
    smoothed = np.array(found["smoothed"])
    axes.plot(found["rates"], losses, ".", markersize=3, color="silver", label="a batch")
    axes.plot(found["rates"][: len(smoothed)], smoothed, label="smoothed")
    axes.axvline(
        found["suggestion"], color="tab:green", label=f"suggested {found['suggestion']:.2g}"
    )
    axes.axvline(found["lowest_at"], color="tab:gray", linestyle=":", label="lowest loss")
    room = 0.1 * (smoothed.max() - smoothed.min())
    axes.set_ylim(smoothed.min() - room, min(smoothed.max(), 3 * smoothed[0]) + room)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.legend()
    save_figure(figure, path)
