"""Attributions of forecasts brought together: by channel, by lag, by step of the horizon."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dlkit.data.series_sources import Roles

if TYPE_CHECKING:
    from dlkit.explain_series import Attributions

# Lags that a reader is told of.
TOP = 10


@dataclass(frozen=True)
class Summary:
    """Attributions over windows, a row a channel and a column a place.

    Attributes:
        names, roles: of each row, and what it is: "target", "past covariate", "future covariate" or
            "static".
        lookback: number of columns that are lags, the oldest first.
        ahead: number of columns after them that are steps of the horizon; 0 without future
            covariates. Static features have one more column.
        mean, absolute: mean and mean absolute attribution over the windows `(rows, columns)`, in
            units; NaN where a channel has no input.
        share, share_ahead: of each row, its share of a window's total absolute attribution, and that
            of its values within the horizon; mean over the windows that have any.
    """

    names: tuple[str, ...]
    roles: tuple[str, ...]
    lookback: int
    ahead: int
    mean: np.ndarray
    absolute: np.ndarray
    share: np.ndarray
    share_ahead: np.ndarray

    def places(self) -> list[tuple[int | None, int | None]]:
        """Return of each column its lag (1 is the newest row) and its step of the horizon, or None."""
        lags = [(lag, None) for lag in range(self.lookback, 0, -1)]
        steps = [(None, step) for step in range(1, self.ahead + 1)]
        rest = self.mean.shape[1] - len(lags) - len(steps)
        return [*lags, *steps, *[(None, None)] * rest]


def summarised(found: Attributions, roles: Roles) -> Summary:
    """Bring attributions to one row a channel and one column a place."""
    kinds = ((roles.targets, "target"), (roles.past, "past covariate"),
             (roles.future, "future covariate"), (roles.static, "static"))  # fmt: skip
    named = [(name, kind) for names, kind in kinds for name in names]
    window = found.parts[0]
    n, lookback, channels = window.shape
    ahead = found.parts[1] if roles.future else np.zeros((n, 0, 0))
    static = found.parts[-1] if roles.static else np.zeros((n, 0))
    first, rows = channels - ahead.shape[2], len(named)

    def laid(values: Any) -> np.ndarray:
        """Lay the mean of each place over the windows out on the grid."""
        grid = np.full((rows, lookback + ahead.shape[1] + bool(roles.static)), np.nan)
        grid[:channels, :lookback] = values(window).mean(0).T
        grid[first:channels, lookback : lookback + ahead.shape[1]] = values(ahead).mean(0).T
        grid[channels:, lookback + ahead.shape[1] :] = values(static).mean(0)[:, None]
        return grid

    within, known = np.zeros((n, rows)), np.zeros((n, rows))
    within[:, :channels] = np.abs(window).sum(1)
    within[:, channels:] = np.abs(static)
    known[:, first:channels] = np.abs(ahead).sum(1)
    total = (within + known).sum(1)
    there = total > found.evidence
    per = np.where(there, total, 1.0)[:, None] * max(1, there.sum())
    return Summary(
        tuple(name for name, _ in named),
        tuple(kind for _, kind in named),
        lookback,
        ahead.shape[1],
        laid(lambda x: x),
        laid(np.abs),
        ((within + known) / per)[there].sum(0),
        (known / per)[there].sum(0),
    )


def cells(summary: Summary) -> Iterator[dict[str, Any]]:
    """Give a row for each place of each channel; what does not apply is empty."""
    places = summary.places()
    for row, column in np.argwhere(~np.isnan(summary.mean)):
        lag, step = places[column]
        yield {
            "channel": summary.names[row],
            "role": summary.roles[row],
            "lag": lag,
            "step": step,
            "mean_attribution": float(summary.mean[row, column]),
            "mean_absolute_attribution": float(summary.absolute[row, column]),
        }


def tables(summary: Summary) -> dict[str, list[dict[str, Any]]]:
    """Return what a report says of each channel, lag and step of the horizon.

    Returns:
        `channels`: share, and mean absolute attribution over all of a channel's places, a row a
        channel; with future covariates also the share of their values within the horizon. `lags`:
        mean absolute attribution, summed over the channels, and its share of all, a row a lag.
        `top_lags`: the largest of these, with the channel that has most of it. `ahead`: as `lags`,
        a row a step of the horizon, where there are future covariates.
    """
    channels = []
    for i, (name, role) in enumerate(zip(summary.names, summary.roles, strict=True)):
        row = {"channel": name, "role": role, "share": float(summary.share[i])}
        if role == "future covariate":
            row["share_ahead"] = float(summary.share_ahead[i])
        row["mean_absolute"] = float(np.nansum(summary.absolute[i]))
        channels.append(row)
    sums = np.nansum(summary.absolute, 0)
    total = float(sums.sum()) or 1.0
    lags, ahead = [], []
    for column, (lag, step) in enumerate(summary.places()):
        at = {"lag": lag} if lag else {"step": step}
        row = at | {"mean_absolute": float(sums[column]), "share": float(sums[column]) / total}
        if lag:
            most = int(np.nanargmax(summary.absolute[:, column]))
            lags.append(row | {"channel": summary.names[most]})
        elif step:
            ahead.append(row)
    lags.reverse()
    top = sorted(lags, key=lambda row: -row["mean_absolute"])[:TOP]
    plain = [{k: v for k, v in row.items() if k != "channel"} for row in lags]
    return {"channels": channels, "lags": plain, "top_lags": top, "ahead": ahead}
