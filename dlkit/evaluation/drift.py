"""Whether new data look like the data a classifier was made with: labels, answers, confidence."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlkit.errors import counted

# Called a shift only if chance is unlikely and the difference is worth a word.
LEVEL = 0.001
LEAST_DISTANCE = 0.05
DRAWS = 9999
FEW_ROWS = 100


def drift(
    probabilities: np.ndarray,
    y: np.ndarray,
    own: np.ndarray,
    trained: np.ndarray,
    labels: tuple[str, ...],
) -> dict[str, Any]:
    """Compare scored rows with a run's own.

    Three comparisons: the labels with those of the training split; the predicted labels with those
    predicted on the run's own test split; and the confidences (largest probability) with those
    there. Shares of labels are compared by total variation distance and a permutation test of
    chi-square, which holds for small counts too; confidences by the two-sample Kolmogorov-Smirnov
    test. A shift is said to be found where p < 0.001 and the distance is at least 0.05.

    Args:
        probabilities: the model's on the new rows, `(n, classes)`.
        y: class numbers of the new rows, `(n,)`.
        own: the model's probabilities on the run's own test split, `(m, classes)`.
        trained: class numbers of the training split.
        labels: name of each class.
    Returns:
        `found` (any of the three), `label_shift` and `prediction_shift` (each `found`, `distance` in
        [0, 1], `p`, and of the class that changed most its `label`, `share` and `share_before`),
        `confidence_shift` (`found`, `mean`, `mean_before`, `distance`, `p`), and `notes`, sentences.
    """
    from scipy.stats import ks_2samp

    label_shift = _shares(y, trained, labels)
    prediction_shift = _shares(probabilities.argmax(1), own.argmax(1), labels)
    confidence, before = probabilities.max(1), own.max(1)
    tested: Any = ks_2samp(confidence, before, method="asymp")
    confidence_shift = {
        "found": _found(tested.statistic, tested.pvalue),
        "mean": float(confidence.mean()),
        "mean_before": float(before.mean()),
        "distance": float(tested.statistic),
        "p": float(tested.pvalue),
    }
    notes = []
    for name, shift, where in (
        ("labels", label_shift, "in training"),
        ("predicted labels", prediction_shift, "on the run's own test split"),
    ):
        if shift["found"]:
            notes.append(
                f"drift: the {name} differ from those {where}: '{shift['label']}' is "
                f"{shift['share']:.2f} of them against {shift['share_before']:.2f} "
                f"(distance {shift['distance']:.2f}, {_p(shift['p'])})"
            )
    if confidence_shift["found"]:
        lower = confidence_shift["mean"] < confidence_shift["mean_before"]
        notes.append(
            f"drift: confidence is {'lower' if lower else 'higher'} than on the run's own test split: "
            f"{confidence_shift['mean']:.2f} against {confidence_shift['mean_before']:.2f} "
            f"(KS {confidence_shift['distance']:.2f}, {_p(confidence_shift['p'])})"
        )
    found = bool(notes)
    if not found:
        notes.append(
            "no drift found in labels, predicted labels or confidence "
            f"({_p(label_shift['p'])}, {_p(prediction_shift['p'])}, {_p(confidence_shift['p'])})"
        )
    if len(y) < FEW_ROWS:
        images = counted(len(y), "image")
        notes.append(f"drift: {images} {'shows' if len(y) == 1 else 'show'} a large shift only")
    return {
        "found": found,
        "label_shift": label_shift,
        "prediction_shift": prediction_shift,
        "confidence_shift": confidence_shift,
        "notes": notes,
    }


def _found(distance: float, p: float) -> bool:
    return bool(p < LEVEL and distance >= LEAST_DISTANCE)


def _shares(new: np.ndarray, before: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
    """Compare how often each class occurs among new rows and among earlier ones."""
    counts = np.bincount(new, minlength=len(labels))
    pooled = counts + np.bincount(before, minlength=len(labels))
    there = pooled > 0
    n, rest = len(new), len(before)
    expected = pooled[there] * n / (n + rest)

    def statistic(drawn: np.ndarray) -> np.ndarray:
        # Chi-square of the two-row table, whose second row follows from the first.
        return ((drawn - expected) ** 2 / expected).sum(-1) * (n + rest) / rest

    draws = np.random.default_rng(0).multivariate_hypergeometric(
        pooled[there], n, DRAWS, method="marginals"
    )
    seen = statistic(counts[there]) * (1 - 1e-12)
    p = (1 + int(np.sum(statistic(draws) >= seen))) / (1 + DRAWS)
    share, share_before = counts / n, (pooled - counts) / rest
    distance = float(np.abs(share - share_before).sum() / 2)
    most = int(np.abs(share - share_before).argmax())
    return {
        "found": _found(distance, p),
        "distance": distance,
        "p": p,
        "label": labels[most],
        "share": float(share[most]),
        "share_before": float(share_before[most]),
    }


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
