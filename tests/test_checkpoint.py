"""Checkpoints: whole or not at all, and refused where they do not fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import ml_dtypes
import numpy as np
import pytest

from dlkit import checkpoint
from dlkit.errors import CheckpointError, RunError, StoreError

FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from dlkit import checkpoint
from dlkit.errors import StoreError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(Path(sys.argv[1]), {"live": [np.ones(1_000_000)]}, {"step": 2})
except StoreError as error:
    print(error)
"""


def test_round_trip_of_every_dtype(tmp_path: Path) -> None:
    arrays = [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array(3, np.int64),
        np.array([1.5, -2.25], ml_dtypes.bfloat16),
        np.array([True, False]),
        np.zeros((0, 4), np.uint8),
    ]
    checkpoint.save(tmp_path / "c.npz", {"live": arrays, "best": []}, {"best": [0.1, -0.3]})
    groups, state = checkpoint.load(tmp_path / "c.npz")
    assert state == {"best": [0.1, -0.3]}
    assert groups["best"] == []
    for array, (_, again) in zip(arrays, groups["live"], strict=True):
        assert again.dtype == array.dtype
        np.testing.assert_array_equal(again, array)


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    checkpoint.save(path, {"live": [np.zeros(3)]}, {"step": 1})
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"cannot write the checkpoint {path}: ")
    assert "the checkpoint before it is intact" in done.stdout
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.npz"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="none was there"):
        checkpoint.save(tmp_path / "file" / "c.npz", {}, {})


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "bit"])
def test_a_broken_checkpoint_is_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.npz"
    checkpoint.save(path, {"live": [np.arange(1000.0)]}, {"step": 1})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(
        {"cut": path.read_bytes()[:-100], "text": b"hello", "empty": b"", "bit": bytes(content)}[
            damage
        ]
    )
    with pytest.raises(CheckpointError, match="is broken"):
        checkpoint.load(path)


def test_variables_of_another_model_are_refused_and_nothing_is_assigned(tmp_path: Path) -> None:
    small, large = (
        keras.Sequential([keras.layers.Dense(2)]),
        keras.Sequential([keras.layers.Dense(3)]),
    )
    small.build((None, 4))
    large.build((None, 4))
    checkpoint.save(tmp_path / "c.npz", {"live": small.variables}, {})
    groups, _ = checkpoint.load(tmp_path / "c.npz")
    before = [np.array(w) for w in large.get_weights()]
    with pytest.raises(CheckpointError, match="is of another model"):
        checkpoint.restore(large.variables, groups["live"], tmp_path / "c.npz")
    for weight, kept in zip(large.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, kept)


def test_a_run_is_held_by_one_process(tmp_path: Path) -> None:
    with (
        checkpoint.claim(tmp_path, "abc"),
        pytest.raises(RunError, match="another process"),
        checkpoint.claim(tmp_path, "abc"),
    ):
        pass
    with checkpoint.claim(tmp_path, "abc"):
        pass
