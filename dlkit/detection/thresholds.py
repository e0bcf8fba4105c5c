"""Where a score begins to be an alarm, from scores of held-out normal examples alone."""

from __future__ import annotations

import numpy as np

from dlkit.errors import DataError

METHODS = ("quantile", "mad", "pot")
# Share of the held-out scores whose excess is fitted by "pot".
PEAKS, FEWEST_PEAKS = 0.1, 10


def threshold(
    scores: np.ndarray,
    rate: float,
    method: str,
    notes: list[str] | None = None,
    *,
    ranked: bool = False,
) -> float:
    """Return the score above which an example is called an anomaly.

    Args:
        scores: of held-out normal examples, `(n,)`.
        rate: share of normal examples that may be called anomalies, in (0, 1).
        method: "quantile", the smallest held-out score that keeps to `rate` (conformal: exact on
            average for exchangeable examples; with too few examples for it, "pot"); "mad", the
            median and so many median absolute deviations as a Gaussian would need; "pot", peaks over
            threshold: a generalised Pareto tail fitted to the largest tenth.
        notes: gets a sentence where the method had to be changed.
        ranked: the scores are `-ln P(score or more)`, of an exponential distribution by making: for
            "mad" they are looked at as the Gaussian deviates of the same chances.
    Raises:
        DataError: fewer than two scores.
    Reference:
        Angelopoulos & Bates 2021, arXiv:2107.07511 (quantile); Siffer et al. 2017, KDD (peaks over
        threshold); Leys et al. 2013, J. Exp. Soc. Psychol. 49 (median absolute deviation).
    """
    n, ordered = len(scores), np.sort(scores)
    if n < 2:
        raise DataError(f"a threshold needs at least 2 held-out examples, got {n}")
    if method == "mad":
        from scipy.stats import norm

        deviates = norm.isf(np.exp(-scores.astype(np.float64))) if ranked else scores
        middle = np.median(deviates)
        spread = 1.4826 * np.median(np.abs(deviates - middle))
        limit = middle + norm.isf(rate) * spread
        return float(-norm.logsf(limit) if ranked else limit)
    rank = int(np.ceil((n + 1) * (1 - rate)))  # of the score that `rate` of new ones exceed
    if method == "quantile" and rank <= n:
        return float(ordered[rank - 1])
    if method == "quantile" and notes is not None:
        notes.append(
            f"{n} held-out examples cannot show a false-positive rate of {rate:g}: the threshold is "
            "from a Pareto tail fitted to the largest of them"
        )
    return _peaks_over_threshold(ordered, rate)


def _peaks_over_threshold(ordered: np.ndarray, rate: float) -> float:
    """Return the quantile of a generalised Pareto tail, Siffer et al. 2017, equation 1."""
    from scipy.stats import genpareto

    n = len(ordered)
    count = min(max(round(PEAKS * n), FEWEST_PEAKS), n // 2)
    if rate * n >= count:  # no tail: the data themselves tell
        return float(np.quantile(ordered, 1 - rate))
    start = float(ordered[n - count - 1])
    excess = ordered[n - count :] - start
    if excess.max() <= 0:
        return start
    shape, _, scale = genpareto.fit(excess, floc=0)
    # A tail fitted to a few points may be heavier than any; none here needs a mean without end.
    if not -0.5 <= shape <= 0.5:
        shape, scale = 0.0, float(excess.mean())
    return start + float(genpareto.isf(rate * n / count, shape, 0, scale))
