"""What a detector sees in an example: how far it is from normal, by each way of looking.

Needs TensorFlow: this is what gets exported.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlkit.models.codes import GaussianCode

# A feature that training reconstructs without error still has this error, in prepared units.
LEAST_RESIDUAL = 0.05
# Neighbours that never differ in some direction may still differ by this deviation, in such units.
LEAST_LOCAL = 0.02
# Rows kept to find neighbours among, and neighbours whose mean distance counts.
KEPT, NEIGHBOURS = 10_000, 3
# Neighbours that say what a row of a table should have been like, and those from whose weighted mean
# it is held to differ.
ADVISERS, LOCAL = 30, 16
# Weight of the farthest of them, of 1.
LEAST_WEIGHT = 1e-6
# Draws of the code for the reconstruction probability.
DRAWS = 8
# Ways of looking that are fused; the others are told beside them.
FUSED = ("reconstruction", "distance", "mahalanobis", "neighbours", "local", "adversarial")
BATCH = 512


class Member(tf.Module):
    """One trained model and what it found normal in its training.

    Args:
        model: see `dlkit.models.detected`.
        kind: of its examples, see `DetectorSpec`.
    """

    def __init__(self, model: keras.Model, kind: str) -> None:
        super().__init__()
        self.model, self.kind = model, kind
        self.model_variables = [v.value for v in model.variables]
        names = {layer.name for layer in model.layers}
        outputs = {"answer": model.output, "latent": model.get_layer("latent").output}
        if "log_variance" in names:
            outputs["log_variance"] = model.get_layer("log_variance").output
        if "again" in names:
            outputs["again"] = model.get_layer("again").output
        self.reconstructs = "centre" not in names
        self.width = int(np.prod(outputs["latent"].shape[1:]))
        self.parts = keras.Model(model.input, outputs)
        self.scale: Any = None
        self.gaussian = next((x for x in model.layers if isinstance(x, GaussianCode)), None)
        self.decoder: Any = None
        if self.reconstructs and (self.gaussian is not None or kind == "table"):
            self.decoder = keras.Model(
                (self.gaussian or model.get_layer("latent")).output, model.output
            )

    def fit(self, batches: Any, held_out: Any) -> None:
        """Measure training examples: residuals, and where their codes lie.

        Args:
            batches: gives prepared training examples `(b, *input_shape)`, in order.
            held_out: gives the held-out ones: neighbours are looked for among both, unless they are
                more than are kept.
        """
        codes, squares, table = [], 0.0, self.kind == "table"
        rows: list[np.ndarray] = []
        for x in batches:
            found = self.parts(x, training=False)
            codes.append(self._flat(found["latent"]).numpy())
            rows += [x.numpy()] if table else []
            if self.reconstructs:
                squares = squares + tf.reduce_sum((x - found["answer"]) ** 2, 0).numpy()
        latent = np.concatenate(codes).astype(np.float64)
        if self.reconstructs:
            size = np.sqrt(np.asarray(squares) / len(latent))
            self.scale = tf.constant(np.sqrt(size**2 + LEAST_RESIDUAL**2), tf.float32)
        self.mean, self.whitening = whitened(latent)
        known, others = [], []
        for x in held_out:
            known.append(self.code(x).numpy())
            others += [x.numpy()] if table else []
        self.holds = len(latent) + sum(map(len, known)) <= KEPT  # the held-out ones too
        near = np.concatenate([*codes, *known] if self.holds else codes)
        keep = np.linspace(0, len(near) - 1, min(KEPT, len(near))).round().astype(int)
        self.reference, self.kept = tf.constant(near[keep], tf.float32), len(keep)
        if table:
            self._fit_local(np.concatenate([*rows, *others] if self.holds else rows)[keep])

    def _fit_local(self, rows: np.ndarray) -> None:
        """Measure how the rows whose codes are kept, `(n, features)`, differ from those near them."""
        self.rows, off = tf.constant(rows), []
        for i in range(0, self.kept, BATCH):
            code = self.reference[i : i + BATCH]
            near = self._nearest(code, known=True)[:, : LOCAL + 1]
            off.append(
                self._off(self.rows[i : i + BATCH], near, self._distances(code, near)).numpy()
            )
        usual = whitened(np.concatenate(off).astype(np.float64), LEAST_LOCAL**2)
        self.local_mean, self.local_whitening = usual

    def code(self, x: Any) -> Any:
        """Return the code `(b, d)`."""
        return self._flat(self.parts(x, training=False)["latent"])

    def _flat(self, code: Any) -> Any:
        return tf.reshape(code, (-1, self.width))

    def look(self, x: Any, known: bool = False) -> dict[str, Any]:
        """Return each component `(b,)`, larger being stranger, and `features` like `x`.

        Of a table, `local` is the Mahalanobis distance of a row's difference from the rows whose
        codes are near its own, among such differences of training rows: what tells is a difference
        that neighbours do not have from each other, however normal lies. (A covariance of all rows
        knows one shape of normal; distances to neighbours take all directions alike.)

        `features` says how strange each feature is. Of a table: the square of how far it is, in
        deviations, from what the decoder makes of the mean code of the nearest normal rows. (A
        row's own reconstruction follows the row: it spreads one strange column over many.) Of
        windows and images: the squared residual, in variances of training residuals. Where nothing
        is reconstructed: what the distance's gradient gives it.
        """
        if not self.reconstructs:
            with tf.GradientTape() as tape:
                tape.watch(x)
                found = self.parts(x, training=False)
                distance = tf.reduce_sum(found["answer"] ** 2, -1)
            features = tf.abs(x * tape.gradient(distance, x))
            seen = {"distance": distance, "features": features}
        else:
            found = self.parts(x, training=False)
            features = ((x - found["answer"]) / self.scale) ** 2
            seen = {"reconstruction": _mean(features), "features": features}
        code = self._flat(found["latent"])
        nearest = self._nearest(code, known and self.holds)
        if self.reconstructs and self.kind == "table":
            advised = tf.reduce_mean(tf.gather(self.reference, nearest[:, :ADVISERS]), 1)
            seen["features"] = (x - self.decoder(advised, training=False)) ** 2
        far = tf.linalg.matmul(code - self.mean, self.whitening)
        seen["mahalanobis"] = tf.reduce_sum(far**2, 1)
        near = nearest[:, : LOCAL + 1]
        distances = self._distances(code, near)
        seen["neighbours"] = tf.reduce_mean(distances[:, :NEIGHBOURS], 1)
        if self.kind == "table":
            off = self._off(x, near, distances) - self.local_mean
            far = tf.linalg.matmul(off, self.local_whitening)
            seen["local"] = tf.reduce_sum(far**2, 1)
            if known and self.holds:
                seen["local"] = without_itself(seen["local"], self.kept)
        if "again" in found:
            seen["adversarial"] = _mean((x - found["again"]) ** 2)
        if self.gaussian is not None:
            seen |= self._bounds(x, found)
        return seen

    def _nearest(self, code: Any, known: bool) -> Any:
        """Return the numbers of the nearest codes, nearest first; of a known one, of others."""
        near = self.reference
        squared = (
            tf.reduce_sum(code**2, 1)[:, None]
            + tf.reduce_sum(near**2, 1)
            - 2.0 * tf.linalg.matmul(code, near, transpose_b=True)
        )
        wanted = ADVISERS if self.kind == "table" else NEIGHBOURS
        _, nearest = tf.math.top_k(-squared, min(wanted + known, self.kept))
        return nearest[:, int(known) :]

    def _distances(self, code: Any, near: Any) -> Any:
        """Return how far codes `(b, d)` are from those of some numbers `(b, k)`, `(b, k)`."""
        # Once more, without the cancellation by which they were found.
        off = code[:, None] - tf.gather(self.reference, near)  # (b, k, d)
        return tf.sqrt(tf.reduce_sum(off**2, 2))

    def _off(self, x: Any, near: Any, distances: Any) -> Any:
        """Return how far rows are from the mean of the rows whose codes are near, `(b, features)`.

        A neighbour's weight falls with its distance, linearly, to 0 at that of the farthest, so that
        nothing leaps where another row becomes that one.
        """
        farthest = tf.reduce_max(distances, 1, keepdims=True)
        # Where all are equally far they count alike.
        weight = 1.0 + LEAST_WEIGHT - distances / tf.maximum(farthest, 1e-12)
        weight /= tf.reduce_sum(weight, 1, keepdims=True)
        return x - tf.einsum("bk,bkf->bf", weight, tf.gather(self.rows, near))

    def _bounds(self, x: Any, found: Any) -> dict[str, Any]:
        """Return the negative bound, and the negative log of the reconstruction probability, nats.

        An & Cho 2015, algorithm 4: the mean log density of the input over draws of its code. The
        draws are the same for every input, so that an input always gets the same answer.
        """
        assert self.gaussian is not None and self.decoder is not None
        variance = self.gaussian.variance
        axes = list(range(1, len(x.shape)))
        off = tf.reduce_sum((x - found["answer"]) ** 2, axes)
        divergence = self.gaussian.divergence(found["latent"], found["log_variance"])
        width = int(found["latent"].shape[-1])
        draws = np.random.default_rng(0).standard_normal((DRAWS, width)).astype(np.float32)
        deviation = tf.exp(0.5 * found["log_variance"])
        total = tf.zeros_like(off)
        for draw in draws:
            again = self.decoder(found["latent"] + deviation * draw, training=False)
            total += tf.reduce_sum((x - again) ** 2, axes)
        return {
            "bound": off / (2.0 * variance) + divergence,
            "reconstruction_probability": total / (2.0 * variance * DRAWS),
        }


def ways(model: keras.Model, kind: str) -> tuple[str, ...]:
    """Return the names of a model's ways of looking at examples of a kind, see `Member.look`."""
    names = {layer.name for layer in model.layers}
    found = ["distance" if "centre" in names else "reconstruction", "mahalanobis", "neighbours"]
    found += ["local"] if kind == "table" else []
    found += ["adversarial"] if "again" in names else []
    gaussian = any(isinstance(layer, GaussianCode) for layer in model.layers)
    return (*found, *(["bound", "reconstruction_probability"] if gaussian else []))


def whitened(latent: np.ndarray, ridge: float = 0.0) -> tuple[Any, Any]:
    """Return mean and whitening matrix of codes, float32; directions without spread count little.

    Args:
        latent: float64 `(n, d)`.
        ridge: variance that every direction has besides its own: added, so that one row may be
            taken out of the covariance again, see `without_itself`, which a floor would not allow.
    """
    mean = latent.mean(0)
    covariance = np.atleast_2d(np.cov(latent, rowvar=False))
    values, vectors = np.linalg.eigh(covariance)
    values = values.clip(0.0) + max(ridge, 1e-6 * max(values.max(), 1e-12))
    return tf.constant(mean, tf.float32), tf.constant(vectors / np.sqrt(values), tf.float32)


def without_itself(squared: Any, n: int) -> Any:
    """Return the squared Mahalanobis distance of a row of a sample from the other rows of it.

    Args:
        squared: by the mean and covariance of all rows, `(b,)`, at most `(n - 1)**2 / n`; a ridge in
            the covariance, however small, keeps it below where the features are more than the rows.
        n: rows, at least 4.
    Reference:
        Sherman & Morrison 1950, Ann. Math. Stat. 21: the inverse without one row.
    """
    left = tf.maximum(1.0 - squared * (n / (n - 1) ** 2), 1e-6)
    return squared * ((n / (n - 1)) ** 2 * (n - 2) / (n - 1)) / left


def _mean(x: Any) -> Any:
    return tf.reduce_mean(x, list(range(1, len(x.shape))))
