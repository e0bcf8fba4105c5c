"""The learning-rate range test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made import Done

from dlkit.errors import TrainingError
from dlkit.find_rate import BLOWN_UP, read

COMMAND = ("image-classification", "find-rate")


def test_it_suggests_a_rate_draws_and_logs_no_run(dlkit: Callable[..., Done], npz: Path) -> None:
    options = ("--data", npz, "--model", "mlp", "--batch-size", "24", "--augment", "none")
    done = dlkit(*COMMAND, *options, "--steps", "90", "--to", "10", "--out", "rates", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert "12 x 12" not in done.err
    assert 1e-5 < found["suggestion"] < 0.1
    assert found["suggestion"] == pytest.approx(found["lowest_at"] / 10)
    assert found["diverged_at"] > found["lowest_at"] > found["steepest_at"]
    assert found["rates"][0] == pytest.approx(1e-6)
    assert len(found["rates"]) == len(found["losses"]) < 90
    assert Path("rates/find-rate.png").read_bytes()[:4] == b"\x89PNG"
    assert dlkit("runs", "list", "--json").out == ""
    # The same options give the same answer, and micro-batches nearly so.
    again = dlkit(*COMMAND, *options, "--steps", "90", "--to", "10", "--json").json
    assert again["losses"] == found["losses"]
    parts = dlkit(*COMMAND, *options, "--micro-batch", "12", "-p", "dropout=0", "--steps", "40")
    assert parts.code == 0, parts.err
    assert "learning rate  " in parts.out and f"--data {npz}" in parts.out


def test_the_rate_is_read_where_the_curve_says() -> None:
    rates = np.geomspace(1e-6, 1.0, 121)
    decades = np.log10(rates)
    # Flat, then down from 1e-4 to 1e-2, then up by far.
    losses = np.interp(decades, [-6, -4, -2, -1, 0], [2.0, 2.0, 0.5, 1.0, 50.0])
    found = read(rates, losses)
    assert found["lowest_at"] == pytest.approx(1e-2, rel=0.3)
    assert found["suggestion"] == pytest.approx(1e-3, rel=0.3)
    assert 1e-4 < found["steepest_at"] < 1e-2
    smoothed = np.array(found["smoothed"])
    assert 0.05 < found["diverged_at"] < 0.2
    assert smoothed[-1] < (BLOWN_UP + 4) * smoothed.min()
    losses[100:] = np.nan
    assert read(rates, losses)["diverged_at"] == pytest.approx(rates[100])
    with pytest.raises(TrainingError, match="the loss never fell between the rates 1e-06 and 1"):
        read(rates, np.linspace(1.0, 2.0, 121))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--from", "1", "--to", "0.1"), "--from: got 1; accepted: a rate below --to, 0.1"),
        (("--model", "lenett"), "did you mean 'lenet'?"),
        (("--steps", "3"), "'--steps'"),
        (("--out", "a-file/below"), "--out: a-file/below cannot be made"),
    ],
)
def test_what_does_not_fit_is_told(
    dlkit: Callable[..., Done], options: tuple[str, ...], words: str
) -> None:
    Path("a-file").write_text("")
    done = dlkit(*COMMAND, *options)
    assert done.code == 2
    assert words in done.err
