"""A detector: trained models, what they found normal, and where that ends; raw examples in.

Needs TensorFlow: this is what gets exported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlkit.data.anomalies import AnomalyData
from dlkit.detection.components import BATCH, FUSED, Member
from dlkit.detection.thresholds import threshold

# Share of the held-out scores, and least number, whose tail is continued by an exponential one.
TAIL, FEWEST_TAIL = 0.1, 20
# Knots of a curve that are kept of its largest, and of those below: all are looked at for each score.
KNOTS = 2000
# What counts how much in the fusion, by kind; else 1. On tables of few columns it is the difference
# from neighbours that most often tells, and it takes the place of Mahalanobis of the code (chosen on
# split 0 of seven tables and splits 1 to 4 of breast cancer; `benchmarks/anomaly_detection.py`
# measures on others).
WEIGHTS = {"table": {"local": 8.0, "mahalanobis": 0.0}}


class Rank(tf.Module):
    """From a score to how rare it is among held-out normal examples: `-ln P(score or more)`.

    Within the held-out scores this is their rank, linear between them (of more than 4,000, between so
    many); beyond the largest tenth the exponential tail with the mean of their excess goes on, so
    that no two scores are equal there.

    Args:
        held_out: scores `(n,)`, n at least 2.
    """

    def __init__(self, held_out: np.ndarray) -> None:
        super().__init__()
        ordered = np.sort(np.asarray(held_out, np.float64))
        n = len(ordered)
        tail = min(max(round(TAIL * n), FEWEST_TAIL), max(1, n // 2))
        start = ordered[n - tail - 1]
        spread = float(np.mean(ordered[n - tail :] - start))
        # Held-out scores that are all the same still leave a slope that is finite.
        self.slope = 1.0 / max(spread, 1e-6 * max(1.0, abs(float(start))))
        knots, first = np.unique(ordered[: n - tail], return_index=True)
        chance = 1.0 - (first + 0.5) / n
        self.start = float(knots[-1])
        self.knots, self.values = thinned(knots, -np.log(chance))

    def __call__(self, score: Any) -> Any:
        """Return nats `(b,)`, at least 0."""
        inside = interpolated(score, self.knots, self.values)
        return inside + self.slope * tf.maximum(score - self.start, 0.0)


def thinned(knots: np.ndarray, values: np.ndarray) -> tuple[Any, Any]:
    """Return knots (rising) and their values, float32: the largest 2,000, and 2,000 below at most."""
    top = max(len(knots) - KNOTS, 0)
    below = np.linspace(0, top - 1, min(KNOTS, top)).round().astype(int)
    at = np.concatenate([below, np.arange(top, len(knots))])
    return tf.constant(knots[at], tf.float32), tf.constant(values[at], tf.float32)


def interpolated(x: Any, knots: Any, values: Any) -> Any:
    """Interpolate linearly between knots (rising); constant beyond them."""
    last = int(knots.shape[0]) - 1
    if last == 0:
        return tf.zeros_like(x) + values[0]
    # Counted, where a search would do: no runtime but TensorFlow has one.
    below = tf.reduce_sum(tf.cast(knots < x[:, None], tf.int32), -1)
    right = tf.clip_by_value(below, 1, last)
    low, high = tf.gather(knots, right - 1), tf.gather(knots, right)
    share = tf.clip_by_value((x - low) / (high - low), 0.0, 1.0)
    return tf.gather(values, right - 1) * (1.0 - share) + tf.gather(values, right) * share


class Detector(tf.Module):
    """Raw examples in; score, chance, verdict and reasons out.

    `serving_default` takes `rows` float32 `(b, columns)` and each column of categories as string
    `(b,)`; or `window` float32 `(b, window, channels)`; or `pixels` uint8 `(b, h, w, c)`. It gives
    `score` float32 `(b,)`; `p_value` float32 `(b,)`, the share of held-out normal examples with that
    score or more; `is_anomaly` bool `(b,)`; and `feature_scores` float32, `(b, columns)`,
    `(b, window, channels)` or `(b, h, w)`, non-negative.

    `encode` takes the same and gives `code` float32 `(b, d)` of the first model. `reconstruct`, where
    models reconstruct, gives `reconstruction`, averaged over the models, in raw units: float32
    `(b, numeric)` or `(b, window, channels)`, or uint8 `(b, h, w, c)`; and of each column of
    categories the likeliest name, string `(b,)`.

    Args:
        models: trained, one or an ensemble.
        data: gives the training and held-out examples.
        score: "fusion", or the name of one component.
        rate: false-positive rate asked for.
        method: see `threshold`.
    """

    def __init__(
        self,
        models: Sequence[keras.Model],
        data: AnomalyData,
        *,
        score: str = "fusion",
        rate: float = 0.01,
        method: str = "quantile",
    ) -> None:
        super().__init__()
        self.data, self.score, self.notes = data, score, []
        self.members = [Member(model, data.spec.kind) for model in models]
        for member in self.members:
            member.fit(prepared(data, data.train.at), prepared(data, data.holdout.at))
        self.ranks = [
            {name: Rank(seen) for name, seen in self._held_out(member.look).items()}
            for member in self.members
        ]
        scores = self._held_out(self._scored)["score"]
        self.held_out = np.sort(scores)
        knots, first = np.unique(self.held_out, return_index=True)
        n = len(scores)
        # At or below the smallest every held-out example has that score or more.
        self.knots, self.chances = thinned(knots, (n - first + 1.0) / (n + 1.0))
        self.threshold = threshold(scores, rate, method, self.notes, ranked=True)

    def _held_out(self, function: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        """Return what a function gives for the held-out examples, none its own neighbour."""
        return self._over(lambda x: function(x, known=True), self.data.holdout.at)

    def _scored(self, x: Any, known: bool = False) -> dict[str, Any]:
        """Return the score and each component, ranked, averaged over the members; and features."""
        sums: dict[str, Any] = {}
        for member, ranks in zip(self.members, self.ranks, strict=True):
            seen = member.look(x, known)
            sums["features"] = sums.get("features", 0.0) + seen.pop("features")
            for name, value in seen.items():
                sums[name] = sums.get(name, 0.0) + ranks[name](value)
        found = {name: value / len(self.members) for name, value in sums.items()}
        fused = [name for name in FUSED if name in found]
        weights = WEIGHTS.get(self.data.spec.kind, {})
        total = sum(weights.get(name, 1.0) for name in fused)
        found["fusion"] = sum(weights.get(name, 1.0) * found[name] for name in fused) / total
        return found | {"score": found[self.score]}

    def answer(self, x: Any) -> dict[str, Any]:
        """Return the four answers for prepared examples."""
        found = self._scored(x)
        score = found["score"]
        # Chances fall from knot to knot; beyond the largest only the next one is left.
        beyond = tf.fill([1], 1.0 / (len(self.held_out) + 1.0))
        last = self.knots[-1:] + tf.maximum(1e-3, 1e-3 * tf.abs(self.knots[-1:]))
        chance = interpolated(
            score, tf.concat([self.knots, last], 0), tf.concat([self.chances, beyond], 0)
        )
        return {
            "score": score,
            "p_value": chance,
            "is_anomaly": tf.logical_not(score <= self.threshold),  # what is no number too
            "feature_scores": by_column(found["features"], self.data),
        }

    def _over(self, function: Callable[[Any], dict[str, Any]], at: np.ndarray) -> dict[str, Any]:
        """Return what a function gives for all of some examples, without their features."""
        traced = tf.function(
            lambda x: {k: v for k, v in function(x).items() if k != "features"},
            reduce_retracing=True,
        )
        parts: dict[str, list[np.ndarray]] = {}
        for x in prepared(self.data, at):
            for name, value in traced(x).items():
                parts.setdefault(name, []).append(value.numpy())
        return {name: np.concatenate(each) for name, each in parts.items()}

    def scores(self, at: np.ndarray) -> dict[str, np.ndarray]:
        """Return `score` and each component, float32 `(n,)`, of some of the data's examples."""
        return self._over(self._scored, at)

    def signatures(self) -> dict[str, Any]:
        """Return the concrete function of each endpoint."""
        example = self.data.inputs(self.data.train.at[:1])
        signature = [
            tf.TensorSpec(
                (None, *value.shape[1:]),
                tf.string if value.dtype == object else tf.as_dtype(value.dtype),
                name,
            )
            for name, value in example.items()
        ]

        def traced(function: Callable[[Any], dict[str, Any]]) -> Any:
            def endpoint(*raw: Any) -> dict[str, Any]:
                return function(self.data.preprocess(dict(zip(example, raw, strict=True))))

            return tf.function(endpoint, input_signature=signature)

        self.endpoints = {name: traced(function) for name, function in self.functions().items()}
        return {name: each.get_concrete_function() for name, each in self.endpoints.items()}

    def functions(self) -> dict[str, Callable[[Any], dict[str, Any]]]:
        """Return what each endpoint does to prepared examples."""
        found = {"serving_default": self.answer, "encode": self.encode}
        if self.data.restore is not None and all(m.reconstructs for m in self.members):
            found["reconstruct"] = self.reconstruct
        return found

    def encode(self, x: Any) -> dict[str, Any]:
        """Return the codes of prepared examples."""
        return {"code": self.members[0].code(x)}

    def reconstruct(self, x: Any) -> dict[str, Any]:
        """Return prepared examples as the models restore them, in raw units."""
        assert self.data.restore is not None
        total = sum(member.parts(x, training=False)["answer"] for member in self.members)
        return self.data.restore(total / len(self.members))


def by_column(features: Any, data: AnomalyData) -> Any:
    """Add up features by the column they come from; of images, by pixel."""
    if data.spec.kind == "images":
        return tf.reduce_sum(features, -1)
    if data.owners is None:
        return features
    columns = len(data.columns)
    return tf.linalg.matmul(features, tf.one_hot(data.owners, columns))


def prepared(data: AnomalyData, at: np.ndarray) -> Any:
    """Give prepared examples in batches, in order."""
    for i in range(0, len(at), BATCH):
        yield data.prepare(*(tf.constant(a) for a in data.arrays(at[i : i + BATCH])))
