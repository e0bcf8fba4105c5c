"""How close a cloud of generated features lies to a cloud of real ones: NumPy alone, no pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

RESAMPLES = 20
BLOCK = 1000
NEIGHBOURS = 5


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean `(d,)` and covariance `(d, d)` of features `(n, d)`, float64, n at least 2."""
    x = features.astype(np.float64)
    mean = x.mean(0)
    x -= mean
    return mean, x.T @ x / (len(x) - 1)


def fid(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to two sets of features, `(n, d)` and `(m, d)`.

    `|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`. The trace of the root is that of
    `S_a^(1/2) S_b S_a^(1/2)`, which is symmetric: by its eigenvalues it is real, and defined for
    fewer rows than features too. Biased upwards, the more the fewer rows.

    Reference:
        Heusel et al. 2017, arXiv:1706.08500, equation 6.
    """
    return _frechet(moments(a), moments(b))


def _frechet(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    values, vectors = np.linalg.eigh(a[1])
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    product = root @ b[1] @ root
    crossed = np.sqrt(np.maximum(np.linalg.eigvalsh((product + product.T) / 2), 0.0)).sum()
    apart = np.sum((a[0] - b[0]) ** 2)
    return float(max(0.0, apart + np.trace(a[1]) + np.trace(b[1]) - 2.0 * crossed))


def fid_interval(
    a: np.ndarray, b: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[float]:
    """Return a 95 % interval of `fid(a, b)`: 1.96 deviations over resampled rows to either side.

    A resample has fewer distinct rows, so its FID is biased further upwards: its deviation is taken
    and not its percentiles.
    """
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        one, other = (x[generator.integers(0, len(x), len(x))] for x in (a, b))
        drawn.append(fid(one, other))
    return around(fid(a, b), float(np.std(drawn, ddof=1)), low=0.0)


def around(
    value: float, deviation: float, low: float = -np.inf, high: float = np.inf
) -> list[float]:
    """Return 1.96 standard deviations to either side of a value, kept within its range."""
    half = 1.96 * deviation
    return [float(max(low, value - half)), float(min(high, value + half))]


def kid_subsets(
    a: np.ndarray, b: np.ndarray, *, subset: int = 1000, subsets: int = 50, seed: int = 0
) -> np.ndarray:
    """Return the unbiased MMD^2 of random subsets of two sets of features, float64 `(subsets,)`.

    The kernel is `(x . y / d + 1)^3`. Values below zero are right: the mean is unbiased.

    Args:
        a, b: `(n, d)` and `(m, d)`.
        subset: rows of each, without repetition; all where there are fewer, at least 2.
        subsets: how many.
        seed: of the draws.
    Reference:
        Binkowski et al. 2018, arXiv:1801.01401, section 4 and appendix.
    """
    generator = np.random.default_rng(seed)
    size = min(subset, len(a), len(b))
    found = np.empty(subsets)
    for i in range(subsets):
        x, y = (z[generator.choice(len(z), size, replace=False)].astype(np.float64) for z in (a, b))
        xx, yy, xy = ((p @ q.T / a.shape[1] + 1.0) ** 3 for p, q in ((x, x), (y, y), (x, y)))
        own = xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)
        found[i] = own / (size * (size - 1)) - 2.0 * xy.mean()
    return found


def kid(
    a: np.ndarray, b: np.ndarray, *, subset: int = 1000, subsets: int = 50, seed: int = 0
) -> float:
    """Kernel distance of two sets of features: the mean of `kid_subsets`."""
    return float(kid_subsets(a, b, subset=subset, subsets=subsets, seed=seed).mean())


def _squares(a: np.ndarray, b: np.ndarray) -> Any:
    """Give squared distances of rows of `a` to all of `b`, `(first row, (block, m))` by block."""
    b = b.astype(np.float64)
    length = np.einsum("ij,ij->i", b, b)
    for start in range(0, len(a), BLOCK):
        x = a[start : start + BLOCK].astype(np.float64)
        near = np.einsum("ij,ij->i", x, x)[:, None] + length - 2.0 * (x @ b.T)
        yield start, np.maximum(near, 0.0)


def radii(features: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Return the squared distance of each row to its k-th nearest other row, float64 `(n,)`."""
    found = np.empty(len(features))
    for start, near in _squares(features, features):
        at = np.arange(len(near))
        near[at, start + at] = 0.0  # itself, exactly
        found[start : start + len(near)] = np.partition(near, k, axis=1)[:, k]
    return found


def prdc_rows(
    real: np.ndarray, fake: np.ndarray, k: int = NEIGHBOURS, real_radii: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return what `prdc` is the mean of, by name, float64 `(n,)` or `(m,)`.

    Args:
        real, fake: features `(n, d)` and `(m, d)`, each of more than k rows.
        k: neighbours that a row's ball reaches to.
        real_radii: `radii(real, k)`, where it is known already.
    """
    own = radii(real, k) if real_radii is None else real_radii
    theirs = radii(fake, k)
    inside, covered = np.zeros(len(fake)), np.zeros(len(real))
    recalled = np.zeros(len(real))
    for start, near in _squares(real, fake):  # (block, m)
        rows = slice(start, start + len(near))
        ball = near <= own[rows, None]
        inside += ball.sum(0)
        covered[rows] = ball.any(1)
        recalled[rows] = (near <= theirs).any(1)
    return {
        "precision": (inside > 0).astype(np.float64),
        "recall": recalled,
        "density": inside / k,
        "coverage": covered,
    }


def prdc(
    real: np.ndarray, fake: np.ndarray, k: int = NEIGHBOURS, real_radii: np.ndarray | None = None
) -> dict[str, float]:
    """Return `precision`, `recall`, `density` and `coverage` of generated features.

    A row's ball reaches to its k-th nearest row of its own set. Precision is the share of generated
    rows in some real ball, recall the share of real rows in some generated ball; density the mean
    number of real balls that a generated row lies in, over k; coverage the share of real balls that
    hold a generated row. Real against real, density is near 1 and coverage near
    `1 - 2^-k`, 0.97 for 5. At no time are more than 1,000 rows of distances held.

    Args:
        real, fake, k, real_radii: as for `prdc_rows`.
    Reference:
        Kynkaanniemi et al. 2019, arXiv:1904.06991 (precision and recall); Naeem et al. 2020,
        arXiv:2002.09797 (density and coverage).
    """
    rows = prdc_rows(real, fake, k, real_radii)
    return {name: float(values.mean()) for name, values in rows.items()}


def modes(predicted: np.ndarray, classes: int, shares: np.ndarray) -> tuple[int, float]:
    """Return how many classes occur, and how far their shares are from the real ones.

    Args:
        predicted: class of each generated picture, `(n,)`.
        classes: how many there are.
        shares: how often each is among real pictures, `(classes,)`, summing to 1. A class that is
            not counts as a millionth, so that the divergence stays finite.
    Returns:
        Classes with at least one picture, and KL(generated || real) in nats.
    Reference:
        Srivastava et al. 2017, arXiv:1705.07761, section 4.1; Metz et al. 2017, arXiv:1611.02163.
    """
    counts = np.bincount(predicted, minlength=classes)
    there = counts > 0
    share = counts[there] / counts.sum()
    real = np.maximum(np.asarray(shares, np.float64)[there], 1e-6)
    return int(there.sum()), float(max(0.0, np.sum(share * np.log(share / real))))
