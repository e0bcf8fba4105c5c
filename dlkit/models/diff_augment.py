"""Differentiable augmentation of what a discriminator sees, real and generated alike.

Reference:
    Zhao et al. 2020, "Differentiable augmentation for data-efficient GAN training",
    arXiv:2006.10738, section 4. Departs from it: shifts and holes are drawn per picture by products
    with 0-1 matrices, which have the same gradient as the paper's gathers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, random

KINDS = ("color", "translation", "cutout")


def augmented(x: Any, kinds: Sequence[str], seed: keras.random.SeedGenerator) -> Any:
    """Return pictures `(b, h, w, c)` in [-1, 1], changed at random; the gradient passes.

    Args:
        x: pictures.
        kinds: of `KINDS`: `color` changes brightness by up to 0.5 and contrast by up to half (and
            saturation by up to all of it, of colour pictures); `translation` moves by up to an
            eighth of a side, zeros coming in; `cutout` blanks a square of half a side.
        seed: draws.
    """
    for kind in KINDS:
        if kind in kinds:
            x = {"color": _color, "translation": _translation, "cutout": _cutout}[kind](x, seed)
    return x


def _color(x: Any, seed: keras.random.SeedGenerator) -> Any:
    shape = (ops.shape(x)[0], 1, 1, 1)
    x = x + random.uniform(shape, -0.5, 0.5, seed=seed)
    if x.shape[-1] > 1:
        grey = ops.mean(x, -1, keepdims=True)
        x = grey + (x - grey) * random.uniform(shape, 0.0, 2.0, seed=seed)
    mean = ops.mean(x, (1, 2, 3), keepdims=True)
    return mean + (x - mean) * random.uniform(shape, 0.5, 1.5, seed=seed)


def _translation(x: Any, seed: keras.random.SeedGenerator) -> Any:
    rows = ops.shape(x)[0]
    for axis, side in ((1, x.shape[1]), (2, x.shape[2])):
        most = max(1, round(side / 8))
        by = ops.floor(random.uniform((rows, 1, 1), -most, most + 1, seed=seed))
        to, source = ops.arange(side, dtype=x.dtype)[None, :, None], ops.arange(side, dtype=x.dtype)
        moves = ops.cast(ops.equal(to - by, source[None, None, :]), x.dtype)  # (b, side, side)
        x = ops.einsum("bts,bswc->btwc" if axis == 1 else "bts,bhsc->bhtc", moves, x)
    return x


def _cutout(x: Any, seed: keras.random.SeedGenerator) -> Any:
    rows, inside = ops.shape(x)[0], []
    for side in x.shape[1:3]:
        centre = ops.floor(random.uniform((rows, 1), 0, side + 1, seed=seed))
        inside.append(ops.abs(ops.arange(side, dtype=x.dtype)[None] - centre) < side / 4)
    hole = inside[0][:, :, None, None] & inside[1][:, None, :, None]  # (b, h, w, 1)
    return x * (1.0 - ops.cast(hole, x.dtype))
