"""Grids, strips and animations of pictures, pixel for pixel: nothing is interpolated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dlkit.checkpoint import write_atomically

# Small pictures are enlarged by a whole factor, to about this side; a grid stays below this width.
SHOWN_SIDE, WIDEST = 56, 1600
GAP, PAPER, INK = 2, 255, 40
TITLE = 12
MOST_FRAMES = 100


def laid_out(
    pictures: np.ndarray, columns: int, titles: Sequence[str] | None = None, factor: int = 0
) -> np.ndarray:
    """Lay pictures out in rows, white lines between them.

    Args:
        pictures: uint8 `(n, h, w, c)`, c 1 or 3, n at least 1.
        columns: pictures a row.
        titles: a word over each, cut where it is too wide, or None.
        factor: by how much each pixel is enlarged; 0 chooses.
    Returns:
        uint8 `(height, width, 3)`.
    """
    n, h, w, _ = pictures.shape
    columns = max(1, min(columns, n))
    factor = factor or max(1, min(round(SHOWN_SIDE / max(h, w)), WIDEST // (columns * w)))
    rows, head = -(-n // columns), (TITLE if titles else 0)
    high, wide = h * factor + GAP + head, w * factor + GAP
    sheet = np.full((rows * high + GAP, columns * wide + GAP, 3), PAPER, np.uint8)
    large = pictures.repeat(factor, 1).repeat(factor, 2)
    for i, picture in enumerate(large):
        top, left = i // columns * high + GAP + head, i % columns * wide + GAP
        sheet[top : top + h * factor, left : left + w * factor] = picture
    if not titles:
        return sheet
    image = Image.fromarray(sheet)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(10)
    for i, title in enumerate(titles):
        while title and draw.textlength(title, font=font) > w * factor:
            title = title[:-1]
        place = (i % columns * wide + GAP, i // columns * high + GAP - 1)
        draw.text(place, title, fill=(INK, INK, INK), font=font)
    return np.asarray(image)


def _save(sheet: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: Image.fromarray(sheet).save(file, format="PNG"))


def grid(
    pictures: np.ndarray, path: Path, columns: int, titles: Sequence[str] | None = None
) -> None:
    """Write pictures as a PNG of rows; see `laid_out`."""
    _save(laid_out(pictures, columns, titles), path)


def strip(pictures: np.ndarray, path: Path, titles: Sequence[str] | None = None) -> None:
    """Write pictures side by side, such as the steps from one to another."""
    _save(laid_out(pictures, len(pictures), titles), path)


def neighbours(
    samples: np.ndarray,
    nearest: np.ndarray,
    path: Path,
    columns: int = 16,
    marked: np.ndarray | None = None,
) -> None:
    """Write each sample above its nearest training picture.

    Args:
        samples, nearest: uint8 `(n, h, w, c)`, row by row.
        path: the PNG.
        columns: pairs a row.
        marked: bool `(n,)`, samples that are copies: "copy" stands over them.
    """
    columns = max(1, min(columns, len(samples)))
    shown, words = [], []
    for start in range(0, len(samples), columns):
        upper, lower = (a[start : start + columns] for a in (samples, nearest))
        empty = np.full((columns - len(upper), *upper.shape[1:]), PAPER, np.uint8)
        shown += [upper, empty, lower, empty]
        copies = np.zeros(len(samples), bool) if marked is None else marked
        words += ["copy" if c else "sample" for c in copies[start : start + columns]]
        words += [""] * len(empty) + ["nearest"] * len(lower) + [""] * len(empty)
    _save(laid_out(np.concatenate(shown), columns, words), path)


def rows_of(above: np.ndarray, below: np.ndarray, path: Path, columns: int = 16) -> None:
    """Write pictures with what was made of each below it, uint8 `(n, h, w, c)` both."""
    columns = max(1, min(columns, len(above)))
    shown = []
    for start in range(0, len(above), columns):
        for part in (above[start : start + columns], below[start : start + columns]):
            empty = np.full((columns - len(part), *part.shape[1:]), PAPER, np.uint8)
            shown += [part, empty]
    _save(laid_out(np.concatenate(shown), columns), path)


def animation(
    frames: Sequence[np.ndarray], path: Path, columns: int = 8, seconds: float = 0.2
) -> None:
    """Write grids of the same pictures at different times as an animated GIF, the last shown long.

    Args:
        frames: uint8 `(n, h, w, c)` each, at least one.
        path: the GIF.
        columns: pictures a row.
        seconds: how long a frame is shown; the last for two seconds.
    """
    _animate([Image.fromarray(laid_out(frame, columns)) for frame in frames], path, seconds)


def animated(grids: Sequence[Path], path: Path, seconds: float = 0.2) -> None:
    """Write grids that stand in files as an animated GIF, at most 100 of them, the last among them."""
    step = -(-len(grids) // MOST_FRAMES)
    _animate([Image.open(grid).convert("RGB") for grid in grids[::-step][::-1]], path, seconds)


def _animate(sheets: list[Any], path: Path, seconds: float) -> None:
    grey = all(np.ptp(np.asarray(sheet), axis=-1).max() == 0 for sheet in sheets)
    # 256 greys are exact; colours are reduced to 256 of each frame's own.
    pages = [s.convert("L") if grey else s.quantize(256, dither=Image.Dither.NONE) for s in sheets]
    times = [round(1000 * seconds)] * (len(pages) - 1) + [2000]
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(file: Any) -> None:
        pages[0].save(
            file,
            "GIF",
            save_all=True,
            append_images=pages[1:],
            duration=times,
            loop=0,
            optimize=False,
        )

    write_atomically(path, write)
