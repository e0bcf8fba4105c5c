"""Pictures of what a language model says of a text."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.colors import PowerNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import FormatStrFormatter, NullFormatter

from dlkit.evaluation.plots import new_figure, save_figure
from dlkit.evaluation.text import LN2, PASSAGE, passages

FONT = "DejaVu Sans Mono"  # comes with matplotlib
AROUND = 20  # characters drawn before and after a passage
MOST_BITS = 12.0
MOST_MAPS = 8  # layers, and heads
LEGIBLE = 48  # labels along a side
VISIBLE = {"\n": "↵", "\t": "→", " ": "·"}


@functools.cache
def _glyphs() -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont(FONT)).get_charmap())


def _drawable(text: str) -> str:
    """Return a character or token as the font can draw it: what it lacks becomes U+FFFD."""
    shown = (VISIBLE.get(c, c) for c in text)
    return "".join(
        c if ord(c) in _glyphs() and unicodedata.category(c)[0] not in "CM" else "\ufffd"
        for c in shown
    )


def surprise(text: str, log_probabilities: Any, path: Path) -> None:
    """Draw the 10 most surprising passages, each character coloured by its bits.

    Args:
        text: the scored characters, at least one.
        log_probabilities: of each of them, in nats, `(n,)`.
        path: the picture's file.
    """
    bits = -np.asarray(log_probabilities, np.float64) / LN2
    found, columns = passages(bits * -LN2), PASSAGE + 2 * AROUND
    figure = new_figure(12.5, 0.34 * len(found) + 1.3)
    axes = figure.add_subplot()
    colours, size = np.full((len(found), columns), np.nan), min(PASSAGE, len(text))
    for row, at in enumerate(found):
        for column in range(columns):
            place = at - AROUND + column
            if not 0 <= place < len(text):
                continue
            colours[row, column] = bits[place]
            axes.text(
                column,
                row,
                _drawable(text[place]),
                family=FONT,
                fontsize=10,
                ha="center",
                va="center_baseline",
                color="white" if bits[place] > 0.55 * MOST_BITS else "black",
            )
        edge = (AROUND - 0.5, row - 0.46)
        axes.add_patch(Rectangle(edge, size, 0.92, fill=False, edgecolor="black", linewidth=0.9))
    drawn = axes.imshow(colours, cmap="Reds", vmin=0, vmax=MOST_BITS, aspect="auto")
    figure.colorbar(drawn, ax=axes, label="bits", pad=0.01, aspect=20, extend="max")
    axes.set_title(
        f"Most surprising passages (boxed) of {len(text):,} characters, {bits.mean():.3f} bits on "
        "average"
    )
    axes.set_yticks(range(len(found)), [f"{at:,}" for at in found])
    axes.set_ylabel("place in the text")
    axes.set_xticks([])
    right = axes.secondary_yaxis("right")
    means = [bits[at : at + PASSAGE].mean() for at in found]
    right.set_yticks(range(len(found)), [f"{mean:.1f} bits" for mean in means])
    for side in (axes, right):
        side.tick_params(length=0)
        for spine in side.spines.values():
            spine.set_visible(False)
    save_figure(figure, path)


def attention(maps: Any, labels: Sequence[str], path: Path) -> None:
    """Draw what each head looks at: a row a layer, a column a head, at most 8 of either.

    Args:
        maps: share of attention in [0, 1] that place i pays to place j, `(depth, heads, t, t)`; j
            above i is what a causal model cannot see, and stays white.
        labels: the t tokens as text; written along the sides where t is at most 48.
        path: the picture's file.
    """
    maps = np.asarray(maps, np.float64)
    depth, heads, t = maps.shape[:3]
    rows, columns = min(depth, MOST_MAPS), min(heads, MOST_MAPS)
    written = t <= LEGIBLE
    # Many maps are drawn smaller, but labels need 6.5 points each.
    side = max(2.0, min(5.0, 14 / columns), 6.5 * t / 72 if written else 0.0)
    figure = new_figure(side * columns + 1.4, side * rows + 1.0)
    more = f", {rows} of {depth} layers" if rows < depth else ""
    more += f", {columns} of {heads} heads" if columns < heads else ""
    figure.suptitle(f"Attention: each row is a token, and shows which tokens it looks at{more}")
    names = [_drawable(label) for label in labels]
    hidden = np.triu(np.ones((t, t), bool), 1)
    size, panels = min(9.0, 60 * side / t), []
    drawn: Any = None
    for layer in range(rows):
        for head in range(columns):
            axes = figure.add_subplot(rows, columns, layer * columns + head + 1)
            panels.append(axes)
            # Shares are 1 / t on average: their square roots can be told apart.
            drawn = axes.imshow(
                np.where(hidden, np.nan, maps[layer, head]), cmap="Blues", norm=PowerNorm(0.5, 0, 1)
            )
            axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=9)
            axes.set_xticks([])
            axes.set_yticks([])
            style = {"fontsize": size, "family": FONT, "parse_math": False}
            if written and head == 0:
                axes.set_yticks(range(t), names, **style)
            if written and layer == rows - 1:
                axes.set_xticks(range(t), names, **style)
                axes.tick_params(axis="x", rotation=0 if max(map(len, names)) == 1 else 90)
            axes.tick_params(length=0, pad=1)
    figure.colorbar(drawn, ax=panels, label="share of attention", shrink=0.6, aspect=30)
    save_figure(figure, path)


def loss_by_position(losses: Any, path: Path) -> None:
    """Draw the mean loss at each place of a window: how much the model gains from context.

    Args:
        losses: nats per token, `(t,)`; the first is of the token with one token before it.
        path: the picture's file.
    """
    losses = np.asarray(losses, np.float64)
    t = len(losses)
    places = np.arange(1, t + 1)
    figure = new_figure(7, 4)
    axes = figure.add_subplot()
    axes.plot(places, losses, ".", markersize=3, color="silver", label="a place")
    # Bins of equal width on the axis, which is logarithmic.
    edges = np.unique(np.round(np.geomspace(1, t + 1, 25)).astype(int))
    sums = np.add.reduceat(losses, edges[:-1] - 1) / np.diff(edges)
    middles = np.sqrt(edges[:-1] * (edges[1:] - 1.0))
    axes.plot(middles, sums, marker=".", color="tab:blue", label="mean")
    half = losses[t // 2 :].mean()
    axes.axhline(half, linestyle="--", linewidth=1, color="tab:gray", label=f"last half {half:.3f}")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("tokens seen before")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(f"Loss by place in windows of {t:,}")
    axes.grid(alpha=0.25)
    axes.legend()
    save_figure(figure, path)
