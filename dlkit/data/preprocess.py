"""Preprocessing layers: fitted on the training split, used by the stream and by the export."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def standardise(images: Any) -> keras.Layer:
    """Return the layer that gives each channel mean 0 and deviation 1 over `images`.

    Args:
        images: uint8 `(n, h, w, c)`, the training split, an array or rows on disk.
    Returns:
        A layer from uint8 or float `(b, h, w, c)` in [0, 255] to float32 of the same shape.
    """
    pixels = int(np.prod(images.shape[:3]))
    if isinstance(images, np.ndarray):
        rows = images.reshape(-1, images.shape[-1])
        # Histograms: exact, and no float copy of the training set.
        counts = np.stack([np.bincount(rows[:, c], minlength=256) for c in range(rows.shape[1])])
        total, squares = counts @ np.arange(256), counts @ np.arange(256) ** 2
    else:
        total = images.store.sums[images.rows].sum(0)
        squares = images.store.squares[images.rows].sum(0)
    mean = total / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 0.0))
    deviation = np.where(deviation > 0, deviation, 1.0)
    return keras.layers.Rescaling(
        scale=(1 / deviation).tolist(), offset=(-mean / deviation).tolist(), name="standardise"
    )


def raw() -> keras.Layer:
    """Return the layer that leaves pixels as they are, for models that prepare them themselves.

    Returns:
        A layer from uint8 or float `(b, h, w, c)` in [0, 255] to float32 of the same values.
    """
    return keras.layers.Rescaling(1.0, name="raw")
