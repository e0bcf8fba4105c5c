"""The end of an epoch of a generator: how its pictures are, and whether they have become alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from dlkit.evaluation.feature_net import FeatureNet
from dlkit.evaluation.fidelity import fid
from dlkit.plan import Validated
from dlkit.sampling import Sampler, labels_like

# Pictures that are looked at after each epoch.
LOOKED_AT = 1000
# Real ones that they are held against.
MOST_REAL = 5000
# What each stage that a model has yet to grow counts in the figure that picks an epoch.
GROWING = 1e4
# Shown in the grid.
SHOWN = 64
# Before so many steps of the generator nothing is said: noise is alike as well.
FIRST_STEPS = 1000
# Spread of the pictures' features, and number of their classes, against those of real ones, below
# which they have collapsed; and the discriminator's share of right answers at which it has won.
SPREAD, CLASSES, WON = 0.5, 0.6, 0.999


class Watch:
    """Look at a generator after each epoch; called by `dlkit.training.fit` as its validation.

    Its answer's metrics: `loss`, which picks the epoch whose weights are kept (the Fréchet distance
    to the validation pictures; or where the model has a `test_step` of its own, the likelihood's
    loss there, and its other metrics), and for adversarial models `spread` (mean distance between
    the features of two pictures, over that of real ones), `modes` (classes that occur among 1,000,
    over those among as many real ones; none where the net tells no classes) and `collapsed` (1 or
    0). A discriminator that is always right is told, but is no collapse; of a critic
    (`wgan-gp`), which is there to tell the two apart, it is not even told.

    Args:
        model: the generator, in training.
        data: pictures.
        net: judges them.
        validation: batches `(x, y)` for a likelihood's `test_step`, or None for adversarial models.
        on_collapse: "warn", "stop" or "restore".
    Attributes:
        words: what is wrong with the latest pictures, or None.
        shown: the latest pictures of fixed seeds, uint8 `(64, h, w, c)`.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        net: FeatureNet,
        *,
        validation: tf.data.Dataset | None = None,
        on_collapse: str = "warn",
    ) -> None:
        self.model, self.net, self.on_collapse = model, net, on_collapse
        self.words: str | None = None
        self.sampler = Sampler(model)
        self.shown: Any = None
        self.test: Any = None
        self.adversarial = validation is None
        self.labels = labels_like(data.train.y, LOOKED_AT, 0)
        if model.conditional:  # the grid goes through the classes
            self.labels[:SHOWN] = np.arange(SHOWN) % data.spec.outputs
        if validation is not None:

            @tf.function
            def test() -> None:
                for batch in validation:
                    model.test_step(batch)

            self.test = test
        else:
            # Drawn, since a source may come class by class.
            order = np.random.default_rng(0).permutation(len(data.validation))[:MOST_REAL]
            self.features, probabilities = net.look(np.asarray(data.validation.x[order]))
            self.looked_at = min(LOOKED_AT, len(order))
            self.real_modes = classes(probabilities[: self.looked_at])
            self.real_spread = spread(self.features[:LOOKED_AT])

    def __call__(self, logs: Mapping[str, float]) -> Validated:
        """Measure; see the class. `logs` are the epoch's metrics."""
        if not self.adversarial:
            self.model.reset_metrics()
            self.test()
            found = {k: float(v) for k, v in self.model.get_metrics_result().items()}
            self.shown = self.sampler(0, self.labels[:SHOWN])
            return Validated(found)
        pixels = self.sampler(0, self.labels)
        self.shown = pixels[:SHOWN]
        features, probabilities = self.net.look(pixels)
        found = {
            "loss": fid(self.features, features),
            "spread": spread(features) / max(self.real_spread, 1e-9),
        }
        if hasattr(self.model, "grown"):
            # Small pictures, enlarged, may score well: what is kept is of the last stage.
            found["fid"] = found["loss"]
            found["loss"] += GROWING * (self.model.count - float(self.model.grown.numpy()))
        if self.net.labels:
            found["modes"] = classes(probabilities[: self.looked_at]) / self.real_modes
        grown_up = int(self.model.optimizer.iterations.numpy()) >= FIRST_STEPS
        alike = collapse(found) if grown_up else None
        found["collapsed"] = float(alike is not None)
        judged = grown_up and not self.model.adversary.penalised
        self.words = alike or (won(logs) if judged else None)
        if self.on_collapse == "warn":
            return Validated(found)
        return Validated(found, alike, ends=self.on_collapse == "stop")


def collapse(found: Mapping[str, float]) -> str | None:
    """Return how alike pictures have become, by what `Watch` found, or None."""
    if found["spread"] < SPREAD:
        return (
            f"the pictures have collapsed: they differ {found['spread']:.2f} as much as real ones"
        )
    if found.get("modes", 1.0) < CLASSES:
        return (
            f"the pictures have collapsed: {found['modes']:.0%} of the classes that as many real "
            "ones show"
        )
    return None


def won(logs: Mapping[str, float]) -> str | None:
    """Return what is to be said of the discriminator, by the epoch's metrics, or None."""
    known = logs.get("real_accuracy"), logs.get("fake_accuracy")
    if all(share is not None and share >= WON for share in known):
        return "the discriminator is always right: the generator learns little from it"
    return None


def spread(features: np.ndarray) -> float:
    """Return the root mean square distance between two rows of `(n, d)`."""
    return float(np.sqrt(2.0 * features.astype(np.float64).var(0).sum()))


def classes(probabilities: np.ndarray) -> int:
    """Return how many classes are the most probable one of some row of `(n, classes)`."""
    return len(np.unique(probabilities.argmax(1))) if probabilities.shape[1] else 1
