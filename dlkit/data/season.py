"""How many steps a season has, and how far to forecast by it."""

from __future__ import annotations

import numpy as np

from dlkit.data.calendar import seasons


def season_of(kept: list, ends: dict, alias: str) -> int:
    """Return the season among the frequency's usual ones, or its cycle, that correlates most."""
    name, part = max(kept, key=lambda each: len(each[1]))
    values = part.iloc[: ends[name][0], 0].to_numpy()
    usual = [each for each in seasons(alias) if 2 * each <= len(values) and each > 1]
    if not usual:
        usual = list(range(4, min(len(values) // 3, 50)))
    best, lag = 0.2, 1  # a weaker correlation is no season
    for each in usual:
        found = autocorrelation(values, each)
        # What wanders correlates at every short lag: a season does more than half of it.
        if found > best and found > autocorrelation(values, each // 2):
            best, lag = found, each
    return lag


def autocorrelation(values: np.ndarray, lag: int) -> float:
    """Return the autocorrelation of a series without its straight line, in [-1, 1]."""
    line = np.polyval(np.polyfit(np.arange(len(values)), values, 1), np.arange(len(values)))
    rest = values - line
    power = float(rest @ rest)
    return float(rest[lag:] @ rest[:-lag]) / power if power > 0 and lag < len(rest) else 0.0


def usual_horizon(season: int) -> int:
    """Return how far to forecast where nothing is said: a season, but 4 to 48 steps."""
    return min(48, max(4, season)) if season > 1 else 8
