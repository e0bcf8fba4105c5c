"""How well scores tell anomalies from normal examples, beside detectors that need no training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

BOOTSTRAPS = 200
# Baselines look at so many training examples and features at most.
MOST_ROWS, MOST_FEATURES = 10_000, 512


def ranking(y: np.ndarray, score: np.ndarray) -> dict[str, float]:
    """Return AUROC, average precision, and precision among the k highest, k being the anomalies.

    Args:
        y: 1 for an anomaly, 0 for a normal example, `(n,)`, both kinds there.
        score: larger being stranger, `(n,)`.
    Returns:
        What scikit-learn's `roc_auc_score` and `average_precision_score` do, whose checks alone take
        milliseconds where a bootstrap asks a thousand times.
    """
    highest = np.argsort(-score, kind="stable")
    hits = np.cumsum(y[highest] == 1)
    # Examples of the same score are told apart by no threshold: they count at the last of them.
    ends = np.flatnonzero(np.diff(score[highest], append=-np.inf))
    true, raised, k = hits[ends], ends + 1, int(hits[-1])
    rises = np.diff(true, prepend=0)
    false = np.concatenate([[0], raised - true])
    area = np.sum(np.diff(false) * (true - rises / 2.0))
    return {
        "auroc": float(area / (k * (len(y) - k))),
        "average_precision": float(np.sum(rises * true / raised) / k),
        "precision_at_k": float(hits[k - 1] / k),
    }


def alarms(y: np.ndarray, raised: np.ndarray) -> dict[str, float]:
    """Return how often normal examples raise an alarm, and where there are anomalies F1 and recall.

    Args:
        y: 1 for an anomaly, 0 for a normal example, -1 where nobody knows (taken as normal).
        raised: bool `(n,)`.
    """
    normal, wrong = y < 1, y == 1
    found: dict[str, float] = {}
    if normal.any():
        found["false_positive_rate"] = float(raised[normal].mean())
    if wrong.any():
        hit, missed = int(raised[wrong].sum()), int((~raised[wrong]).sum())
        false = int(raised[normal].sum())
        found["recall"] = hit / (hit + missed)
        found["f1"] = 2 * hit / (2 * hit + missed + false)
    return found


def intervals(
    y: np.ndarray, score: np.ndarray, raised: np.ndarray, seed: int = 0
) -> dict[str, list[float]]:
    """Return 95 % intervals of all metrics: percentiles of a bootstrap within each kind."""
    generator = np.random.default_rng(seed)
    kinds = [np.flatnonzero(y < 1), np.flatnonzero(y == 1)]
    draws: dict[str, list[float]] = {}
    for _ in range(BOOTSTRAPS):
        at = np.concatenate([generator.choice(k, len(k)) for k in kinds if len(k)])
        for name, value in metrics(y[at], score[at], raised[at]).items():
            draws.setdefault(name, []).append(value)
    return {k: [float(v) for v in np.percentile(each, [2.5, 97.5])] for k, each in draws.items()}


def metrics(y: np.ndarray, score: np.ndarray, raised: np.ndarray) -> dict[str, float]:
    """Return what `ranking` (where both kinds are there) and `alarms` say."""
    both = bool((y == 1).any() and (y == 0).any())
    return (ranking(y, score) if both else {}) | alarms(y, raised)


def sampled(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the 10,000 rows, in order, that stand for more."""
    if len(rows) <= MOST_ROWS:
        return rows
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), MOST_ROWS, replace=False))]


def baselines(
    train: np.ndarray, holdout: np.ndarray, test: np.ndarray, seed: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the scores of held-out and test examples by detectors that need no training.

    Args:
        train, holdout, test: prepared examples, each flattened, `(n, features)`. Of more than 512
            features (images), the principal components that many are looked at.
        seed: of the isolation forest, and of which 10,000 rows stand for more.
    Returns:
        `(scores of holdout, scores of test)` by name: "nearest_neighbours" (mean distance to 5),
        "mahalanobis", "isolation_forest" (Liu et al. 2008) and "pca_reconstruction" (components
        that hold 90 % of the variance).
    """
    from sklearn.covariance import EmpiricalCovariance
    from sklearn.decomposition import PCA
    from sklearn.ensemble import IsolationForest
    from sklearn.neighbors import NearestNeighbors

    train, rest = sampled(train, seed), [holdout, test]
    if train.shape[1] > MOST_FEATURES:
        axes = PCA(min(MOST_FEATURES, len(train) - 1), svd_solver="randomized", random_state=seed)
        train, *rest = [axes.fit(train).transform(x) for x in (train, *rest)]

    near = NearestNeighbors(n_neighbors=min(5, len(train))).fit(train)
    ridge = 1e-6 * max(float(train.var(0).mean()), 1e-12)
    spread = EmpiricalCovariance().fit(train)
    precision = np.linalg.pinv(spread.covariance_ + ridge * np.eye(train.shape[1]))
    forest = IsolationForest(random_state=seed).fit(train)
    axes = PCA(0.9 if train.var(0).sum() > 0 else 1, svd_solver="full").fit(train)

    def residual(x: np.ndarray) -> np.ndarray:
        return ((x - axes.inverse_transform(axes.transform(x))) ** 2).mean(1)

    def far(x: np.ndarray) -> np.ndarray:
        off = x - spread.location_
        return np.einsum("ij,jk,ik->i", off, precision, off)

    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "nearest_neighbours": lambda x: near.kneighbors(x)[0].mean(1),
        "mahalanobis": far,
        "isolation_forest": lambda x: -forest.score_samples(x),
        "pca_reconstruction": residual,
    }
    return {name: (way(rest[0]), way(rest[1])) for name, way in ways.items()}


def verdict(report: Mapping[str, Any]) -> str:
    """Say whether the model beats the best baseline, in words."""
    if "auroc" not in report["metrics"]:
        return "cannot be held against its baselines: the test has no labels, or one kind alone"
    if not report["baselines"]:
        return "is held against no baseline: there is nothing to fit one to"
    own = report["metrics"]["auroc"]
    name, best = max(
        ((k, v["metrics"]["auroc"]) for k, v in report["baselines"].items()), key=lambda x: x[1]
    )
    name = name.replace("_", " ")
    if own > best:
        return f"beats its best baseline, {name}: AUROC {own:.4f} against {best:.4f}"
    return f"does NOT beat its best baseline, {name}: AUROC {own:.4f} against {best:.4f}"
