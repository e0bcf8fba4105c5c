"""Where a series is cut by time."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dlkit.errors import OptionError


def cuts(split: str, index: pd.DatetimeIndex) -> tuple[int, int, int]:
    """Return the rows after the last of train, validation and test.

    Args:
        split: "70/10/20" per cent, "8640/2880/2880" rows, or "2001-01-01/2005-01-01", the first
            stamps of validation and of test.
        index: the stamps of one series.
    Raises:
        OptionError: neither of these, nothing for train or validation, or more rows than there are.
    """
    accepted = (
        "accepted: per cent such as 70/10/20, rows such as 8640/2880/2880, or the first dates of "
        "validation and test such as 2001-01-01/2005-01-01"
    )
    parts, n = [part.strip() for part in split.split("/")], len(index)
    if len(parts) == 2:
        try:
            first = [pd.Timestamp(part) for part in parts]
        except ValueError:
            raise OptionError(f"--split: got '{split}'; {accepted}") from None
        first = [t if t.tz is None else t.tz_convert("UTC").tz_localize(None) for t in first]
        ends = (*(int(index.searchsorted(stamp)) for stamp in first), n)
    else:
        try:
            numbers = [float(part) for part in parts]
        except ValueError:
            raise OptionError(f"--split: got '{split}'; {accepted}") from None
        if len(numbers) != 3 or min(numbers) < 0 or not all(map(np.isfinite, numbers)):
            raise OptionError(f"--split: got '{split}'; {accepted}")
        if abs(sum(numbers) - 100) > 1e-9:
            if any(number != int(number) for number in numbers):
                raise OptionError(f"--split: got '{split}'; {accepted}")
            if sum(numbers) > n:
                raise OptionError(f"--split: got '{split}', {sum(numbers):g} rows; there are {n:,}")
            ends = tuple(int(e) for e in np.cumsum(numbers))
        else:
            ends = (int(n * numbers[0] / 100), int(n * (numbers[0] + numbers[1]) / 100), n)
    if not 0 < ends[0] < ends[1] <= ends[2]:
        raise OptionError(
            f"--split: got '{split}', which leaves {ends[0]} rows for train and "
            f"{ends[1] - ends[0]} for validation"
        )
    return ends[0], ends[1], ends[2]
