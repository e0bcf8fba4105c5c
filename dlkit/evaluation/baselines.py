"""What a classifier has to beat: the majority class, and the nearest training image."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlkit.data.spec import Split

MOST_ROWS = 10_000
LARGEST_SIDE = 32


def majority(train: Split, classes: int, n: int) -> np.ndarray:
    """Return the training frequencies of the classes for each of `n` rows, `(n, classes)`."""
    share = np.bincount(train.y, minlength=classes) / len(train)
    return np.tile(share, (n, 1))


def nearest_neighbour(train: Split, x: Any, classes: int) -> tuple[np.ndarray, str]:
    """Classify by the nearest training image in Euclidean distance of raw pixels.

    Args:
        train: at most 10,000 of its rows are used, drawn with a fixed seed.
        x: uint8 `(n, h, w, c)`, an array or rows on disk; images larger than 32 x 32 are first shrunk to that.
        classes: number of classes.
    Returns:
        One-hot answers `(n, classes)`, and a sentence that says what was cut (or "").
    """
    from sklearn.neighbors import KNeighborsClassifier

    said = []
    rows = np.arange(len(train))
    if len(rows) > MOST_ROWS:
        rows = np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False)
        said.append(f"{MOST_ROWS:,} of {len(train):,} training rows")
    large = max(x.shape[1:3]) > LARGEST_SIDE
    if large:
        said.append(f"images shrunk to {LARGEST_SIDE} x {LARGEST_SIDE}")

    def flat(images: np.ndarray) -> np.ndarray:
        if large:
            import tensorflow as tf

            side = (LARGEST_SIDE, LARGEST_SIDE)
            images = tf.image.resize(images, side, antialias=True).numpy()
        return images.reshape(len(images), -1).astype(np.float32)

    # In parts: the images may be many, large and on disk.
    model = KNeighborsClassifier(1, algorithm="brute")
    model.fit(
        np.concatenate([flat(train.x[rows[i : i + 512]]) for i in range(0, len(rows), 512)]),
        train.y[rows],
    )
    answer = np.concatenate([model.predict(flat(x[i : i + 1024])) for i in range(0, len(x), 1024)])
    return np.eye(classes)[answer], ", ".join(said)
