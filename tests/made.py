"""Images made here, and what a command line did."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from pipelines.cli import main

LABELS = ("cross", "stripe", "dot")
REAL_DATA = Path(os.environ.get("DLKIT_TEST_DATA", "../shared/data"))


class Done(NamedTuple):
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def pictures(
    n: int, side: int = 12, channels: int = 1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw noisy crosses, stripes and dots: uint8 (n, side, side, channels) and labels (n,)."""
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 60, (n, side, side, channels))
    y = np.arange(n) % len(LABELS)
    for image, label in zip(x, y, strict=True):
        at = int(generator.integers(side // 3, 2 * side // 3))
        if label == 0:
            image[at, :] += 150
            image[:, at] += 150
        elif label == 1:
            image[::3, :] += 150
        else:
            image[at - 1 : at + 2, at - 1 : at + 2] += 180
    return x.clip(0, 255).astype(np.uint8), y


def patches(
    n: int, side: int = 28, size: int = 8, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw noise with one patch whose texture is the class, plain, striped across or striped down.

    Returns:
        uint8 (n, side, side, 1), labels (n,), and the row and column of each patch's corner (n, 2).
    """
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 100, (n, side, side, 1))
    y, corners = np.arange(n) % 3, generator.integers(0, side - size + 1, (n, 2))
    stripes = np.where(np.arange(size) % 4 < 2, 255, 145)
    for image, label, (row, column) in zip(x, y, corners, strict=True):
        texture = (200, stripes[:, None], stripes[None, :])[label]
        image[row : row + size, column : column + size, 0] = texture
    return x.astype(np.uint8), y, corners


@contextlib.contextmanager
def exports_unchecked() -> Iterator[None]:
    """Leave out the fresh process that checks each export: it takes seconds.

    It is tested on its own, and with a training of each task.
    """
    from dlkit import export

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "check", lambda exports, scales=None: [0.0 for _ in exports])
        yield


@contextlib.contextmanager
def charts_undrawn() -> Iterator[None]:
    """Leave the charts of a report empty: each takes a part of a second, and other tests look."""
    from matplotlib.figure import Figure

    def empty(_: Figure, file: Any, **__: Any) -> None:
        if isinstance(file, str | Path):
            Path(file).touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", empty)
        yield


@contextlib.contextmanager
def cores_uncompiled() -> Iterator[None]:
    """Train recurrent cores as they are: compiling them takes seconds.

    The compiled ones are held against Keras's in test_text_models.py.
    """
    from dlkit import recurrent
    from dlkit.models import rnn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rnn, "scan", lambda *given: recurrent.scan(*given[:-1], fast=False))
        yield


def admitted(exports: Iterable[tuple[Path, Any, Any]]) -> list[tuple[Path, Any, Any]]:
    """Return exports whose graphs `dlkit serve --require-manifest` lets run."""
    from dlkit.serving import graphs
    from dlkit.serving.admit import check_graph

    kept = list(exports)
    for target, _, _ in kept:
        for graph in graphs.read(target / "saved_model.pb").meta_graphs:
            check_graph(target, graph, listed=True)
    return kept


def runner(capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Give a function that runs a command line in this process."""

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return Done(code, out, err)

    return run
