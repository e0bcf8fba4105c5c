"""What a series is like over time: trend, autocorrelation, seasons, tests for stationarity."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlkit.data.calendar import seasons

# Peaks of the autocorrelation that are told.
PEAKS = 5
# Newest points that the tests for stationarity look at, and fewest.
TESTED, FEWEST = 20_000, 20
# Level of both tests, and what each pair of their answers (is a unit root, is stationarity refused)
# is read as.
LEVEL = 0.05
VERDICTS = {
    (True, False): ("stationary", "both tests say so"),
    (False, True): ("unit root", "difference, or normalise windows (-p instance_norm=last)"),
    (False, False): ("trend-stationary", "neither test refuses: take the trend off"),
    (True, True): ("difference-stationary", "both tests refuse: difference"),
}


def filled(values: np.ndarray) -> np.ndarray:
    """Return one column with a straight line over its NaN, at the ends the nearest value."""
    there = np.flatnonzero(np.isfinite(values))
    if not len(there) or len(there) == len(values):
        return values
    return np.interp(np.arange(len(values)), there, values[there])


def trend(values: np.ndarray, season: int) -> dict[str, float]:
    """Return the least-squares line's rise a season (a step where that is 1) over the deviation.

    Returns:
        `slope`, and `share`, the part of the variance that the line explains.
    """
    t = np.arange(len(values)) - (len(values) - 1) / 2
    spread, power = float(values.std()), float(t @ t)
    if not spread or not power:
        return {"slope": 0.0, "share": 0.0}
    slope = float(t @ (values - values.mean())) / power
    share = slope**2 * power / (len(values) * spread**2)
    return {"slope": slope * season / spread, "share": min(1.0, share)}


def correlogram(values: np.ndarray, lags: int) -> np.ndarray:
    """Return the autocorrelation of a series without its straight line, at lags 0 to `lags`."""
    n, t = len(values), np.arange(len(values))
    rest = values - np.polyval(np.polyfit(t - n / 2, values, 1), t - n / 2)
    # Padded to twice the length, the product of transforms does not wrap around.
    size = 1 << (2 * n - 1).bit_length()
    power = np.abs(np.fft.rfft(rest, size)) ** 2
    found = np.fft.irfft(power, size)[: lags + 1]
    return found / found[0] if found[0] > 0 else np.zeros(lags + 1)


def seasonality(values: np.ndarray, alias: str | None) -> dict[str, Any]:
    """Return the autocorrelation at the usual lags of a frequency, and its strongest peaks.

    Returns:
        `usual` by lag, `peaks` (`lag`, `autocorrelation`; up to a third of the series, the highest
        first), and `band`, what 95 % of the lags of white noise stay within.
    """
    from scipy.signal import find_peaks

    n = len(values)
    usual = sorted({1, *(seasons(alias) if alias else ())})
    most = max(n // 3, *usual)
    found = correlogram(values, min(most, n - 1))
    band = 1.96 / np.sqrt(n)
    at, _ = find_peaks(found[: n // 3 + 2], height=band, prominence=0.05)
    at = at[np.argsort(-found[at], kind="stable")][:PEAKS]
    return {
        "usual": {str(lag): float(found[lag]) for lag in usual if lag < len(found)},
        "peaks": [{"lag": int(lag), "autocorrelation": float(found[lag])} for lag in at],
        "band": float(band),
    }


def stationarity(values: np.ndarray) -> dict[str, Any]:
    """Test the newest points for a unit root (ADF) and for stationarity (KPSS), each with a constant.

    Args:
        values: without NaN.
    Returns:
        `points`, `adf` and `kpss` (`statistic`, `p` as text, `lags`), `verdict` and `advice`; the
        reason under `untested` where a test cannot be made.
    Reference:
        Said and Dickey 1984, doi:10.1093/biomet/71.3.599, lags by AIC up to 12 (n / 100)^(1/4);
        Kwiatkowski et al. 1992, doi:10.1016/0304-4076(92)90104-Y, lags as Hobijn et al. 2004.
    """
    import warnings

    from statsmodels.tsa.stattools import adfuller, kpss

    values = values[-TESTED:]
    if len(values) < FEWEST or values.std() <= 1e-12 * np.abs(values).max():
        few = len(values) < FEWEST
        return {"untested": f"fewer than {FEWEST} points" if few else "is constant"}
    # The tests do not depend on the unit; the sums do.
    values = (values - values.mean()) / values.std()
    with warnings.catch_warnings():
        # statsmodels warns where p lies outside KPSS's table, which is said below.
        warnings.simplefilter("ignore")
        try:
            lags = _adf_lags(values)
            adf: Any = adfuller(values, maxlag=lags, regression="c", autolag=None)
            levels: Any = kpss(values, regression="c", nlags="auto")
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            return {"untested": str(error).splitlines()[0]}
    p, q = float(adf[1]), float(levels[1])
    if not np.isfinite([adf[0], p, levels[0], q]).all():
        return {"untested": "the series follows its own past exactly"}
    verdict, advice = VERDICTS[p < LEVEL, q < LEVEL]
    shown = "<0.001" if p < 0.001 else ">0.999" if p > 0.999 else f"{p:.3f}"
    bound = "<0.01" if q <= 0.01 else ">0.1" if q >= 0.1 else f"{q:.3f}"
    return {
        "points": len(values),
        "adf": {"statistic": float(adf[0]), "p": shown, "lags": lags},
        "kpss": {"statistic": float(levels[0]), "p": bound, "lags": int(levels[2])},
        "verdict": verdict,
        "advice": advice,
    }


def _adf_lags(values: np.ndarray) -> int:
    """Return the number of lagged differences with the lowest AIC.

    statsmodels fits a regression for each number of lags; here one QR decomposition gives the
    residual of each, some hundred times as fast on 20,000 points.
    """
    n = len(values)
    most = min(int(np.ceil(12 * (n / 100) ** 0.25)), n // 2 - 3)
    steps = np.diff(values)
    y = steps[most:]
    past = [steps[most - lag : len(steps) - lag] for lag in range(1, most + 1)]
    # A column for each term, so that a prefix of them is a smaller regression.
    basis, _ = np.linalg.qr(np.column_stack([np.ones(len(y)), values[most:-1], *past]))
    left = float(y @ y) - np.cumsum((basis.T @ y) ** 2)[1:]
    aic = len(y) * np.log(np.maximum(left, 1e-12) / len(y)) + 2 * np.arange(2, most + 3)
    return int(np.argmin(aic))
