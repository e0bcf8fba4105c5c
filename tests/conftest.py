"""Sources that are made here, and a runner for command lines in a folder of their own."""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import (
    LABELS,
    REAL_DATA,
    Done,
    charts_undrawn,
    cores_uncompiled,
    exports_unchecked,
    pictures,
    runner,
)

from dlkit import tracking
from pipelines.cli import main

# What takes longest alone begins at once.
LONGEST = "test_every_export_answers_as_its_model_in_a_process_without_dlkit"
# Fixtures that train: each should be made by one worker alone.
TRAINED = {
    "trained_text",
    "compared",
    "patched",
    "seen",
    "weekly",
    "driven",
    "painted",
    "at",
    "net",
}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each of two workers begin with the tests that share a run.

    A worker is given one half of the list, and at its end takes over the tail of the other half:
    no test there should wait for a training that the other worker has done already.
    """

    def needs(item: pytest.Item) -> int:
        names = set(getattr(item, "fixturenames", ()))
        if item.name == LONGEST or "trained" in names:
            return 1
        return 2 if names & TRAINED else 0

    rest, first, second = ([i for i in items if needs(i) == kind] for kind in range(3))
    first.sort(key=lambda item: item.name != LONGEST)
    cut = max(0, len(items) // 2 - len(first))
    items[:] = first + rest[:cut] + second + rest[cut:]


def pytest_collection_finish() -> None:
    """Look for garbage less often: graphs are millions of objects, and what is imported stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz source of 150 grey images of three classes."""
    path = tmp_path_factory.mktemp("source") / "images.npz"
    x, y = pictures(150)
    np.savez(path, x=x, y=np.array(LABELS)[y])
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 45 colour images of three classes: five formats, two sizes."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    x, y = pictures(45, side=12, channels=3, seed=1)
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        ending = ("png", "jpg", "bmp", "gif", "webp")[i % 5]
        target = folder / LABELS[label] / f"{i:02}.{ending}"
        target.parent.mkdir(exist_ok=True)
        drawn = Image.fromarray(image)
        if i % 9 == 0:
            drawn = drawn.resize((20, 16))
        drawn.save(target)
    return folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking store that has just been made: making one takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    before = Path.cwd()
    os.chdir(folder)
    try:
        tracking.client()
    finally:
        os.chdir(before)
    return folder / "mlruns"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Path:
    """A working directory with an empty store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(empty_store, tmp_path / "mlruns")
    return tmp_path


@pytest.fixture
def dlkit(here: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command line in `here`, in this process."""

    return runner(capfd)


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, npz: Path, empty_store: Path
) -> tuple[Path, dict[str, Any]]:
    """A folder with one finished run on `npz`, and what its training printed as JSON."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(empty_store, folder / "mlruns")
    before, out = Path.cwd(), io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out):
            code = main(
                [
                    "image-classification",
                    "train",
                    "--data",
                    str(npz),
                    "--model",
                    "mlp",
                    "--epochs",
                    "30",
                    "--batch-size",
                    "24",
                    "--augment",
                    "none",
                    "--json",
                ]
            )
    finally:
        os.chdir(before)
    assert code == 0
    return folder, json.loads(out.getvalue())


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Export without the fresh process that checks it; see `exports_unchecked`."""
    with exports_unchecked():
        yield


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """Train recurrent cores as they are; see `cores_uncompiled`."""
    with cores_uncompiled():
        yield


@pytest.fixture
def undrawn() -> Iterator[None]:
    """Report without charts; see `charts_undrawn`."""
    with charts_undrawn():
        yield


@pytest.fixture
def in_trained(
    trained: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Work in the folder of the finished run; gives what its training printed."""
    monkeypatch.chdir(trained[0])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return trained[1]


@pytest.fixture
def run_there(in_trained: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command line beside the finished run."""

    return runner(capfd)


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets, or a skip."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data at {REAL_DATA}; set DLKIT_TEST_DATA")
    return REAL_DATA.resolve()
