"""What makes confidence honest, fitted on validation rows: a temperature, widths of intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dlkit.errors import counted
from dlkit.evaluation.classification import TINY, scores

LOWEST, HIGHEST = 0.2, 10.0
FOLDS = 5


@dataclass(frozen=True)
class Calibration:
    """What came of temperature scaling; `dataclasses.asdict` of it stands in report and manifest.

    Attributes:
        temperature: what the logits are divided by; 1.0 where the fit was not kept.
        fitted: the temperature that minimises the validation log loss; None where there is none.
        rows: validation rows it was fitted on.
        log_loss: on them, in nats: `before`, `after` division by `temperature`, and
            `cross_validated` (each fifth at the temperature of the other four).
        ece: `before` and `after`, see `scores`.
        note: one sentence that says what was done and why.
    """

    temperature: float
    fitted: float | None
    rows: int
    log_loss: dict[str, float]
    ece: dict[str, float]
    note: str


def fit_temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """Return the temperature at which the log loss of `softmax(logits / temperature)` is least.

    The loss is convex in 1 / temperature, so that its only minimum is where the derivative is zero.

    Args:
        logits: `(n, classes)`.
        y: class numbers `(n,)`.
    Returns:
        A number in [0.2, 10]; a bound where the minimum lies beyond it (0.2 where every answer is
        right: sharper would always be better).
    Reference:
        Guo, Pleiss, Sun & Weinberger 2017, "On calibration of modern neural networks",
        arXiv:1706.04599, section 4.2. Departs from it in the bounds.
    """
    from scipy.optimize import brentq

    z = logits.astype(np.float64)
    z -= z.max(1, keepdims=True)
    picked = z[np.arange(len(y)), y]

    def slope(inverse: float) -> float:
        odds = np.exp(inverse * z)
        expected = (odds * z).sum(1) / odds.sum(1)
        return float(np.mean(expected - picked))

    low, high = 1 / HIGHEST, 1 / LOWEST
    if slope(high) <= 0:
        return LOWEST
    if slope(low) >= 0:
        return HIGHEST
    root: Any = brentq(slope, low, high, xtol=1e-9)
    return 1 / float(root)


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the probabilities of `logits / temperature`, float64 `(n, classes)`."""
    z = logits.astype(np.float64) / temperature
    odds = np.exp(z - z.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def uncalibrated(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return what the probabilities of a calibrated model would be at temperature 1."""
    tiny = np.finfo(np.float32).tiny
    return softmax(temperature * np.log(np.maximum(probabilities.astype(np.float64), tiny)))


def calibrate(logits: np.ndarray, y: np.ndarray) -> Calibration:
    """Fit a temperature to held-out logits and keep it if that lowers their loss.

    On the rows that it was fitted to, the loss always falls. The temperature is therefore kept only
    if the loss also falls in five-fold cross-validation; and it is left at 1 where every held-out
    answer is right, which no finite temperature fits.

    Args:
        logits: the trained model's, on the validation split, `(n, classes)`, by the path that the
            export takes (test-time augmentation included).
        y: class numbers `(n,)`.
    """
    n, before = len(y), scores(softmax(logits), y)
    fitted, crossed, temperature = None, None, 1.0
    if n < 2 * FOLDS:
        images = counted(n, "validation image")
        note = f"not calibrated: only {images}; needed: at least {2 * FOLDS}"
    elif before["accuracy"] == 1.0:
        note = f"not calibrated: all {n:,} validation images are right, which fits no temperature"
    else:
        fitted, crossed = fit_temperature(logits, y), _cross_validated(logits, y)
        if crossed < before["log_loss"]:
            temperature = fitted
            bound = ", the bound" if fitted in (LOWEST, HIGHEST) else ""
            note = f"calibrated: logits divided by {fitted:.3g}{bound}; on {n:,} validation images"
        else:
            note = (
                f"not calibrated: temperature {fitted:.3g} does not lower the log loss of validation "
                f"images that it was not fitted to ({before['log_loss']:.4f} to {crossed:.4f})"
            )
    after = scores(softmax(logits, temperature), y)
    found = {name: {"before": before[name], "after": after[name]} for name in ("log_loss", "ece")}
    if crossed is not None:
        found["log_loss"]["cross_validated"] = crossed
    if temperature != 1.0:
        (loss, loss_after), (ece, ece_after) = (
            (found[name]["before"], found[name]["after"]) for name in ("log_loss", "ece")
        )
        note += f" log loss {loss:.4f} to {loss_after:.4f}, ECE {ece:.4f} to {ece_after:.4f}"
    return Calibration(temperature, fitted, n, found["log_loss"], found["ece"], note)


def _cross_validated(logits: np.ndarray, y: np.ndarray) -> float:
    """Return the mean log loss of rows, each at the temperature fitted to the other folds."""
    n = len(y)
    fold = np.random.default_rng(0).permutation(n) % FOLDS
    total = 0.0
    for i in range(FOLDS):
        out = fold == i
        p = softmax(logits[out], fit_temperature(logits[~out], y[~out]))
        total -= float(np.log(np.maximum(p[np.arange(out.sum()), y[out]], TINY)).sum())
    return total / n


def conformal(
    truth: np.ndarray, lower: np.ndarray, upper: np.ndarray, coverage: float
) -> np.ndarray:
    """Return by how much to widen intervals, so that they cover as asked, `(horizon, targets)`.

    Split conformal prediction on held-out windows, each step and target by itself; for quantile
    forecasts it widens, or narrows, what they span.

    Args:
        truth, lower, upper: `(n, horizon, targets)`.
        coverage: share of truths that the intervals are to hold.
    Reference:
        Vovk et al. 2005; Romano et al. 2019, arXiv:1905.03222. Departs from them: neighbouring
        windows are not exchangeable, so that coverage is not guaranteed; reports measure it.
    """
    off = np.sort(np.maximum(lower - truth, truth - upper), axis=0)
    rank = min(len(off), int(np.ceil((len(off) + 1) * coverage)))
    return off[rank - 1]
