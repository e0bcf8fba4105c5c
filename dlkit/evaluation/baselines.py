"""What a classifier has to beat: the majority class, and the nearest training image."""

from __future__ import annotations

import numpy as np

from dlkit.data.spec import Split

MOST_ROWS = 10_000
LARGEST_SIDE = 32


def majority(train: Split, classes: int, n: int) -> np.ndarray:
    """Return the training frequencies of the classes for each of `n` rows, `(n, classes)`."""
    share = np.bincount(train.y, minlength=classes) / len(train)
    return np.tile(share, (n, 1))


def nearest_neighbour(train: Split, x: np.ndarray, classes: int) -> tuple[np.ndarray, str]:
    """Classify by the nearest training image in Euclidean distance of raw pixels.

    Args:
        train: at most 10,000 of its rows are used, drawn with a fixed seed.
        x: uint8 `(n, h, w, c)`; images larger than 32 x 32 are first shrunk to that.
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
    known, asked = train.x[rows], x
    if max(x.shape[1:3]) > LARGEST_SIDE:
        import tensorflow as tf

        def shrink(images: np.ndarray) -> np.ndarray:
            side = (LARGEST_SIDE, LARGEST_SIDE)
            return np.concatenate(
                [
                    tf.image.resize(images[i : i + 512], side, antialias=True).numpy()
                    for i in range(0, len(images), 512)
                ]
            )

        known, asked = shrink(known), shrink(asked)
        said.append(f"images shrunk to {LARGEST_SIDE} x {LARGEST_SIDE}")
    model = KNeighborsClassifier(1, algorithm="brute")
    model.fit(known.reshape(len(known), -1).astype(np.float32), train.y[rows])
    answer = model.predict(asked.reshape(len(asked), -1).astype(np.float32))
    return np.eye(classes)[answer], ", ".join(said)
