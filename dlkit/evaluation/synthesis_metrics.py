"""Measures of generated pictures against real ones, by a feature net, each with an interval."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlkit.evaluation import fidelity
from dlkit.evaluation.feature_net import FeatureNet
from dlkit.evaluation.fidelity import around

# Classes whose shares are told one by one.
TOLD_CLASSES = 100


def put_share(into: dict[str, Any], name: str, hits: np.ndarray) -> None:
    """Put the share of hits and its interval by Wilson 1927 into a column of the report."""
    n, share, z = len(hits), float(np.mean(hits)), 1.96
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + (z / (2 * n)) ** 2) ** 0.5
    into["metrics"][name] = share
    into["intervals"][name] = [max(0.0, centre - half), min(1.0, centre + half)]


class Judge:
    """Measures sets of pictures against one set of real ones, whose features are kept."""

    def __init__(
        self, net: FeatureNet, real: np.ndarray, shares: np.ndarray | None, seed: int
    ) -> None:
        self.net, self.shares, self.seed = net, shares, seed
        self.features = net.features(real)
        self.k = min(fidelity.NEIGHBOURS, len(real) - 1)
        self.radii = fidelity.radii(self.features, self.k)
        self.notes = []
        if not net.labels:
            self.notes.append("the feature net tells no classes: no modes and no label accuracy")

    def measured(self, pictures: np.ndarray, asked: np.ndarray | None) -> dict[str, Any]:
        """Return `metrics` and `intervals` of pictures, and `class_shares` of a few classes."""
        features, probabilities = self.net.look(pictures)
        # Of half of the rows at most, so that subsets differ; their spread shrinks as rows do.
        size = max(2, min(1000, len(pictures) // 2))
        subsets = fidelity.kid_subsets(self.features, features, subset=size, seed=self.seed)
        column: dict[str, Any] = {"metrics": {}, "intervals": {}}
        metrics, intervals = column["metrics"], column["intervals"]
        metrics["fid"] = fidelity.fid(self.features, features)
        intervals["fid"] = fidelity.fid_interval(self.features, features, seed=self.seed)
        metrics["kid"] = float(subsets.mean())
        shrunk = (size / (len(pictures) - size)) ** 0.5
        intervals["kid"] = around(metrics["kid"], float(subsets.std(ddof=1)) * shrunk)
        rows = fidelity.prdc_rows(self.features, features, self.k, self.radii)
        for name in ("precision", "recall", "coverage"):
            put_share(column, name, rows[name])
        density = rows["density"]
        metrics["density"] = float(density.mean())
        intervals["density"] = around(
            metrics["density"], float(density.std() / len(density) ** 0.5), low=0.0
        )
        if self.shares is None:
            return column
        labels, predicted = self.net.labels, probabilities.argmax(1)
        found, divergence = fidelity.modes(predicted, len(labels), self.shares)
        metrics["modes"], metrics["modes_kl"] = found, divergence
        generator = np.random.default_rng(self.seed)
        again = [
            fidelity.modes(generator.choice(predicted, len(predicted)), len(labels), self.shares)
            for _ in range(100)
        ]
        spread = np.std(again, axis=0, ddof=1)
        intervals["modes"] = around(found, spread[0], low=1, high=len(labels))
        intervals["modes_kl"] = around(divergence, spread[1], low=0.0)
        if asked is not None:
            put_share(column, "label_accuracy", predicted == asked)
        if len(labels) <= TOLD_CLASSES:
            counts = np.bincount(predicted, minlength=len(labels)) / len(predicted)
            column["class_shares"] = dict(zip(labels, counts.tolist(), strict=True))
        return column


def gaussian(pictures: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Draw from the Gaussian with mean and covariance of pictures' values, clipped to [0, 255].

    A standard normal mixture of the centred pictures has their covariance, which so is never made.

    Args:
        pictures: uint8 `(m, h, w, c)`.
        n: how many to draw.
        generator: draws.
    Returns:
        uint8 `(n, h, w, c)`.
    """
    flat = pictures.reshape(len(pictures), -1).astype(np.float32)
    mean = flat.mean(0)
    flat -= mean
    parts = []
    for start in range(0, n, 1000):
        weights = generator.standard_normal((min(1000, n - start), len(flat)), np.float32)
        parts.append(mean + weights @ flat / max(1, len(flat) - 1) ** 0.5)
    values = np.concatenate(parts).reshape(n, *pictures.shape[1:])
    return np.rint(values).clip(0, 255).astype(np.uint8)
