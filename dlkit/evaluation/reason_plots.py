"""Pictures of why examples are strange, and of where their codes lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.evaluation.plots import new_figure, save_figure
from dlkit.evaluation.reasons import Kept, named

# Examples drawn, and features of each.
DRAWN, BARS = 6, 5


def worst(kept: Sequence[Kept], about: Mapping[str, Any], path: Path) -> None:
    """Draw why the worst examples are strange: bars, or of images what is strange in them."""
    shown = kept[:DRAWN]
    titles = [f"{each.name or f'row {each.row:,}'}\nscore {each.score:.4g}" for each in shown]
    features = np.stack([each.features for each in shown])
    images = [each.pixels for each in shown if each.pixels is not None]
    if images:
        heat(np.stack(images), features, titles, path)
    else:
        bars(*named(features, about), titles, path)


def bars(features: np.ndarray, names: Sequence[str], titles: Sequence[str], path: Path) -> None:
    """Draw the strongest features of each example as bars, by their share of all.

    Args:
        features: non-negative, `(n, names)`, one row a panel.
        names: of the features.
        titles: of the panels.
        path: a .png.
    """
    columns = min(2, len(features))
    rows = -(-len(features) // columns)
    figure = new_figure(5.2 * columns, 0.6 + 2.0 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, values, title in zip(panels, features, titles, strict=False):
        at = np.argsort(-values, kind="stable")[:BARS]
        axes.barh([names[i] for i in at], values[at] / max(float(values.sum()), 1e-30))
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_title(title.replace("\n", ", "), fontsize=9)
        axes.tick_params(labelsize=8)
    for axes in panels[len(features) :]:
        axes.set_axis_off()
    figure.supxlabel("share of the feature scores", fontsize=9)
    save_figure(figure, path)


def heat(pixels: np.ndarray, features: np.ndarray, titles: Sequence[str], path: Path) -> None:
    """Draw images above what is strange in them, the brighter the stranger.

    Args:
        pixels: uint8 `(n, h, w, c)`.
        features: `(n, h, w)`.
        titles: of the images.
        path: a .png.
    """
    figure = new_figure(2.0 * len(pixels) + 0.4, 4.4)
    panels = figure.subplots(2, len(pixels), squeeze=False)
    for i, title in enumerate(titles):
        image = pixels[i] if pixels.shape[-1] == 3 else pixels[i][..., 0]
        panels[0, i].imshow(image, cmap="gray", vmin=0, vmax=255)
        panels[1, i].imshow(features[i], cmap="magma")
        name, _, rest = title.partition("\n")
        panels[0, i].set_title(f"{name[-22:]}\n{rest}", fontsize=8)
        for axes in panels[:, i]:
            axes.set_axis_off()
    save_figure(figure, path)


def codes(points: np.ndarray, score: np.ndarray, limit: float, path: Path) -> None:
    """Draw the first two principal components of codes, coloured by the examples' scores.

    Args:
        points: codes `(n, d)`.
        score: `(n,)`; drawn last where highest.
        limit: the threshold: examples above it are circled.
        path: a .png.
    """
    off = points - points.mean(0)
    _, sizes, axes_of = np.linalg.svd(off, full_matrices=False)
    plane = off @ axes_of[:2].T
    held = sizes**2 / max(float((sizes**2).sum()), 1e-30)
    if plane.shape[1] < 2:
        plane = np.column_stack([plane, np.zeros(len(plane))])
    figure = new_figure(6.4, 5.0)
    axes = figure.add_subplot()
    order = np.argsort(score, kind="stable")
    # Rows far off would leave one colour for all others.
    top = min(float(score.max()), 3 * limit) if limit > 0 else float(score.max())
    raised = order[score[order] > limit]
    drawn = axes.scatter(*plane[order].T, c=score[order], s=8, cmap="viridis", vmax=top)
    axes.scatter(
        *plane[raised].T, s=30, facecolors="none", edgecolors="tab:red", linewidths=0.8,
        label=f"above the threshold ({len(raised):,} of {len(order):,})",
    )  # fmt: skip
    figure.colorbar(drawn, ax=axes, label="score", extend="max")
    for i, name in enumerate(("x", "y")):
        share = f" ({held[i]:.2f} of the variance)" if i < len(held) else ""
        getattr(axes, f"set_{name}label")(f"principal component {i + 1}{share}")
    axes.legend(loc="best", fontsize=8)
    save_figure(figure, path)
