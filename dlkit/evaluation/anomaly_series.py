"""How well scores of windows find the anomalous spans of a series: row by row, event by event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dlkit.data.anomalies import AnomalyData
from dlkit.data.anomaly_series import per_row
from dlkit.evaluation import anomaly
from dlkit.evaluation.blocks import block_length, middle

BOOTSTRAPS = 100
# Buffer lengths that stand for all from 0 to twice the window.
LENGTHS = 17
# A moving deviation is no smaller than that, in prepared units.
LEAST_DEVIATION = 0.05


def runs(flags: np.ndarray) -> np.ndarray:
    """Return the first row of each run of true flags and the row after its last, `(runs, 2)`."""
    edges = np.diff(np.concatenate([[0], np.asarray(flags, np.int8), [0]]))
    return np.flatnonzero(edges).reshape(-1, 2)


class Volume:
    """The volume under the precision-recall surface, for any weights of the rows.

    See `vus_pr`; what depends on labels and scores alone is worked out once.
    """

    def __init__(self, y: np.ndarray, score: np.ndarray, window: int) -> None:
        n = len(y)
        order = np.argsort(-score, kind="stable")
        ranked = score[order]
        # Rows of equal scores are told apart by no threshold.
        self.ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        place = np.empty(n, int)  # of each row among the different scores
        place[order] = np.searchsorted(self.ends, np.arange(n))
        self.order, self.y = order, (y == 1).astype(float)
        rows, wrong = np.arange(n), np.flatnonzero(y == 1)
        right = np.searchsorted(wrong, rows)
        ahead = np.where(right < len(wrong), wrong[np.minimum(right, len(wrong) - 1)] - rows, n)
        behind = np.where(right > 0, rows - wrong[np.maximum(right - 1, 0)], n)
        away = np.minimum(ahead, behind)  # rows to the nearest anomaly
        self.buffered = []
        for length in np.unique(np.linspace(0, 2 * window, LENGTHS).round().astype(int)):
            near = 1.0 - away / max(length, 1)
            label = np.where(away == 0, 1.0, np.where(2 * away <= length, near, 0.0) ** 0.5)
            events = runs(label > 0)
            first = np.array([place[begin:end].min() for begin, end in events])
            self.buffered.append((label, label[order], events, first))

    def value(self, weights: np.ndarray) -> float:
        """Return the volume where each row counts as often as its weight; NaN without anomalies."""
        ranked = weights[self.order]
        raised = np.cumsum(ranked)[self.ends]
        positive = float(weights @ self.y)
        if not positive:
            return float("nan")
        before = np.concatenate([[0.0], np.cumsum(weights)])
        areas = []
        for label, ordered, events, first in self.buffered:
            hit = np.cumsum(ranked * ordered)[self.ends]
            recall = np.minimum(hit / ((positive + weights @ label) / 2), 1.0)
            each = (before[events[:, 1]] - before[events[:, 0]]) / (events[:, 1] - events[:, 0])
            found = np.bincount(first, each, len(self.ends)).cumsum() / each.sum()
            precision = hit / np.maximum(raised, 1e-12)
            areas.append(np.diff(recall * found, prepend=0.0) @ precision)
        return float(np.mean(areas))


def vus_pr(y: np.ndarray, score: np.ndarray, window: int) -> float:
    """Return the volume under the precision-recall surface over buffer lengths.

    Around each anomalous span a buffer of l / 2 rows on either side counts as anomalous in part,
    `sqrt(1 - d / l)` at a distance of d rows. Recall is multiplied by the share of spans that any
    alarm hits. The area under precision over recall is averaged over 17 lengths l from 0 to twice
    the window, equally far apart.

    Args:
        y: 1 for an anomalous row, `(n,)`, in order of time.
        score: larger being stranger, `(n,)`.
        window: steps of a window, at least 1.
    Returns:
        A number in [0, 1]; NaN without anomalous rows.
    Reference:
        Paparrizos et al. 2022, PVLDB 15(11), section 4. Departs from it: every score is a threshold
        (not 250 of them), and of two spans near each other the nearer one's buffer counts.
    """
    if not (y == 1).any():
        return float("nan")
    return Volume(y, score, window).value(np.ones(len(y)))


def events(
    y: np.ndarray, raised: np.ndarray, window: int, weights: np.ndarray | None = None
) -> dict[str, float]:
    """Return precision, recall and F1 of events; nothing without anomalous rows.

    An event is a span of anomalous rows; it is hit if any of its rows raises an alarm. A false
    alarm is a run of alarms further than a window from every event: a window knows no better where
    in it the anomaly was. Nothing is adjusted after the fact: each event counts once.

    Args:
        y: 1 for an anomalous row, `(n,)`, in order of time.
        raised: bool `(n,)`.
        window: steps of a window.
        weights: how often each row counts: an event or run counts as the mean of its rows.
    """
    spans = runs(y == 1)
    weights = np.ones(len(y)) if weights is None else weights
    size = np.array([weights[begin:end].mean() for begin, end in spans])
    if not size.sum():
        return {}
    near = np.zeros(len(y), bool)
    for begin, end in spans:
        near[max(0, begin - window) : end + window] = True
    false = sum(weights[begin:end].mean() for begin, end in runs(raised & ~near))
    hit = float(size @ [raised[begin:end].any() for begin, end in spans])
    total = float(size.sum())
    return {
        "event_precision": hit / (hit + false) if hit + false else 0.0,
        "event_recall": hit / total,
        "event_f1": 2 * hit / (hit + false + total),
    }


class Judge:
    """Metrics, intervals, baselines and verdict for windows of a series, as `anomaly` has them.

    AUROC, average precision and the false-positive rate are those of windows. VUS-PR and events are
    those of rows: a row's score is the mean of the scores of the windows that cover it, and it
    raises an alarm where most of them do.
    """

    def __init__(self, data: AnomalyData) -> None:
        assert data.series is not None
        self.data, self.rows = data, data.series
        self.first = data.series.ends[1]
        self.y = data.series.y[self.first :]

    def per_row(self, scores: np.ndarray) -> np.ndarray:
        """Return the scores of the test rows."""
        at = self.data.test.at - self.first
        return per_row(at, np.asarray(scores, float), self.rows.window, len(self.y))

    def ranking(self, y: np.ndarray, score: np.ndarray) -> dict[str, float]:
        """Return what tells how well windows, and rows, are ranked."""
        rows = vus_pr(self.y, self.per_row(score), self.rows.window)
        return anomaly.ranking(y, score) | {"vus_pr": rows}

    def metrics(self, y: np.ndarray, score: np.ndarray, raised: np.ndarray) -> dict[str, float]:
        """Return all metrics."""
        found = anomaly.metrics(y, score, raised)
        if (self.y == 1).any():
            found["vus_pr"] = vus_pr(self.y, self.per_row(score), self.rows.window)
            found |= events(self.y, self.per_row(raised) > 0.5, self.rows.window)
        return found

    def intervals(
        self, y: np.ndarray, score: np.ndarray, raised: np.ndarray
    ) -> dict[str, list[float]]:
        """Return 95 % intervals: percentiles of a bootstrap by blocks of neighbours.

        A block has as many rows as a window has steps, or the square root of all, if that is more.
        With few events they say little.
        """
        generator = np.random.default_rng(0)
        window, n = self.rows.window, len(self.y)
        block = min(len(y), max(window, block_length(n)))
        volume = None
        rows = self.per_row(score), self.per_row(raised) > 0.5
        if (self.y == 1).any():
            volume = Volume(self.y, rows[0], window)
        draws: dict[str, list[float]] = {}
        for _ in range(BOOTSTRAPS):
            starts = generator.integers(0, n, -(-n // block))
            drawn = (starts[:, None] + np.arange(block)).ravel()
            at = drawn[drawn < len(y)]
            found = anomaly.metrics(y[at], score[at], raised[at])
            weights = np.bincount(drawn % n, minlength=n).astype(float)
            if volume is not None and weights @ volume.y:
                found["vus_pr"] = volume.value(weights)
                found |= events(self.y, rows[1], window, weights)
            for name, value in found.items():
                draws.setdefault(name, []).append(value)
        whole = self.metrics(y, score, raised)
        return {name: middle(np.array(draws.get(name, [value]))) for name, value in whole.items()}

    def baselines(
        self, train: np.ndarray, holdout: np.ndarray, test: np.ndarray
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return the scores of held-out and test windows by detectors that need no training.

        Those of `anomaly.baselines`, its PCA being that of sub-sequences, and "windowed_z_score":
        the distance of a row from the mean of the last `window` rows, in their deviations, averaged
        over the window.
        """
        found = anomaly.baselines(train, holdout, test)
        found["subsequence_pca"] = found.pop("pca_reconstruction")
        scaled = np.asarray(self.data.preprocess({"window": self.rows.values}))
        z = moving_z(scaled, self.rows.window)
        before = np.concatenate([[0.0], np.cumsum(z)])
        window = self.rows.window
        held, tested = (
            (before[at + window] - before[at]) / window
            for at in (self.data.holdout.at, self.data.test.at)
        )
        found["windowed_z_score"] = held, tested
        return found

    def verdict(self, report: Mapping[str, Any]) -> str:
        """Say whether the model beats the best baseline in VUS-PR, in words."""
        if "vus_pr" not in report["metrics"]:
            return anomaly.verdict(report)
        own = report["metrics"]["vus_pr"]
        name, best = max(
            ((k, v["metrics"]["vus_pr"]) for k, v in report["baselines"].items()),
            key=lambda each: each[1],
        )
        how = "beats" if own > best else "does NOT beat"
        words = name.replace("_", " ")
        return f"{how} its best baseline, {words}: VUS-PR {own:.4f} against {best:.4f}"


def moving_z(values: np.ndarray, window: int) -> np.ndarray:
    """Return how far each row is from the rows before it, in their deviations, `(n,)`.

    Args:
        values: prepared, `(n, channels)`; averaged over the channels.
        window: rows that mean and deviation are of; the first rows have fewer, the very first 0.
    """
    n = len(values)
    rows = np.arange(n)
    begin = np.maximum(rows - window, 0)
    count = np.maximum(rows - begin, 1)[:, None]
    zero = np.zeros((1, values.shape[1]))
    x = values.astype(np.float64)
    sums = np.concatenate([zero, np.cumsum(x, 0)])
    squares = np.concatenate([zero, np.cumsum(x**2, 0)])
    mean = (sums[rows] - sums[begin]) / count
    spread = np.sqrt(np.maximum((squares[rows] - squares[begin]) / count - mean**2, 0.0))
    z = np.abs(x - mean) / np.maximum(spread, LEAST_DEVIATION)
    z[0] = 0.0
    return z.mean(1)
