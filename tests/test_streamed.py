"""Images that stay on disk: the same rows, batches and weights as in memory."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from made import LABELS, Done, pictures

from dlkit import tracking, training
from dlkit.data import streamed
from dlkit.data.images import load_images, load_rows
from dlkit.data.spec import Data
from dlkit.data.stream import eval_stream, train_stream
from dlkit.errors import DataError
from dlkit.evaluation.baselines import nearest_neighbour

Run = Callable[..., Done]
TRAIN = (
    "image-classification",
    "train",
    "--model",
    "mlp",
    "-p",
    "dropout=0.2",
    "--batch-size",
    "8",
)
CHILD = """
import sys
from dlkit import training
from dlkit.data import streamed
training.SAVE_EVERY_SECONDS = 0.1
streamed.CACHE = 4000
from pipelines.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep ten of the photos decoded, and pass over three at a time."""
    monkeypatch.setattr(streamed, "CACHE", 10 * 12 * 12 * 3)
    monkeypatch.setattr(streamed, "STEP", 3 * 12 * 12 * 3)


@pytest.fixture
def album(photos: Path, tmp_path: Path) -> Path:
    """A copy of the photos with files that do not decode among the first and the last."""
    folder = Path(shutil.copytree(photos, tmp_path / "album"))
    whole = sorted((folder / "cross").glob("*.jpg"))[0].read_bytes()
    for label in ("cross", "stripe"):
        (folder / label / "05-short.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


def batches(data: Data, epoch: int, step: int, count: int) -> list[Any]:
    def prepare(draw: Any, rows: Any, x: Any, y: Any) -> tuple:
        return draw, rows, data.preprocess(tf.cast(x, tf.float32)), y

    arrays = (data.train.x, data.train.y)
    dataset = train_stream(arrays, prepare, batch_size=5, seed=3, epoch=epoch, step=step)
    return list(dataset.take(count).as_numpy_iterator())


def same(held: Data, on_disk: Data) -> None:
    """Everything that a recipe reads of the two is the same."""
    assert isinstance(held.train.x, np.ndarray)
    for one, two in (
        (getattr(d, n) for d in (held, on_disk)) for n in ("train", "validation", "test")
    ):
        assert not isinstance(two.x, np.ndarray)
        assert (two.x.shape, two.x.dtype, len(two.x)) == (one.x.shape, one.x.dtype, len(one))
        np.testing.assert_array_equal(two.x[:], one.x)
        np.testing.assert_array_equal(two.x[len(one) - 1], one.x[-1])
        np.testing.assert_array_equal(two.x[[2, 0, 2]], one.x[[2, 0, 2]])
        assert two.x[4:4].shape == (0, *one.x.shape[1:])
        np.testing.assert_array_equal(two.y, one.y)
        assert two.names == one.names
        assert two.encoded(1) == one.encoded(1)
    assert on_disk.fingerprint() == held.fingerprint()
    assert on_disk.spec == held.spec
    assert on_disk.preprocess.get_config() == held.preprocess.get_config()
    assert [n for n in on_disk.notes if n != streamed.STREAMED] == held.notes
    assert streamed.STREAMED in on_disk.notes
    whole = batches(held, 0, 0, 12)
    for at in (0, 7):
        for one, two in zip(
            whole[at:], batches(on_disk, *divmod(at, len(held.train) // 5), 12 - at), strict=True
        ):
            for a, b in zip(one, two, strict=True):
                np.testing.assert_array_equal(a, b)

    def scored(data: Data) -> list[Any]:
        rows = eval_stream((data.test.x, data.test.y), lambda x, y: (x, y), batch_size=4)
        return list(rows.as_numpy_iterator())

    for one, two in zip(scored(held), scored(on_disk), strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
    one, two = (nearest_neighbour(d.train, d.test.x, 3)[0] for d in (held, on_disk))
    np.testing.assert_array_equal(one, two)


@pytest.mark.usefixtures("small_cache")
@pytest.mark.parametrize("shape", [None, (9, 7, 1)])
def test_a_folder_on_disk_is_the_folder_in_memory(album: Path, shape: Any) -> None:
    same(*(load_images(str(album), shape=shape, stream=on) for on in (False, True)))


@pytest.mark.usefixtures("small_cache")
def test_shards_on_disk_are_the_set_in_memory(tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    x, y = pictures(90, side=12, channels=3)
    parts = {"train": range(70), "test": range(70, 90), "extra": range(3)}

    class Shapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            features = {
                "image": tfds.features.Image(shape=(12, 12, 3)),
                "label": tfds.features.ClassLabel(names=LABELS),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager: Any) -> Any:
            return {name: self._generate_examples(rows) for name, rows in parts.items()}

        def _generate_examples(self, rows: range) -> Any:
            return ((i, {"image": x[i], "label": int(y[i])}) for i in rows)

    Shapes(data_dir=tmp_path).download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=3)
    )
    assert len(list(tmp_path.rglob("*train.tfrecord*"))) == 3
    where = {"data_dir": str(tmp_path), "download": False}
    held, on_disk = (load_images("tfds:shapes", stream=on, **where) for on in (False, True))
    assert len(on_disk.test) == 20
    same(held, on_disk)
    same(*(load_images("tfds:shapes", shape=(8, 6, 1), stream=on, **where) for on in (False, True)))
    shard = next(iter(tmp_path.rglob("*train.tfrecord*")))
    shard.write_bytes(shard.read_bytes()[:-30])
    with pytest.raises(DataError, match="cut short"):
        load_images("tfds:shapes", stream=True, **where)


def test_what_decides(monkeypatch: pytest.MonkeyPatch, photos: Path) -> None:
    assert not streamed.streams(1000, (32, 32, 3), None)
    assert streamed.streams(10**9, (500, 500, 3), None)
    with pytest.raises(DataError, match=r"--no-stream: 750000.0 GB of pixels"):
        streamed.streams(10**9, (500, 500, 3), False)
    monkeypatch.setattr(streamed, "SHARE", 0.0)
    rows, split, notes = load_rows(str(photos), tuple(sorted(LABELS)), (12, 12, 3))
    assert (len(rows), split) == (45, "all")
    assert streamed.STREAMED in notes
    assert any("held" in note for note in load_images("digits", stream=True).notes)


def test_a_file_that_goes_away_is_told(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "CACHE", 0)
    data = load_images(str(album), stream=True)
    Path(data.train.names[3]).unlink()
    with pytest.raises(DataError) as told:
        data.train.x[:5]
    assert str(told.value) == f"{data.train.names[3]} can no longer be read"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.slow
def test_training_on_disk_killed_and_resumed_ends_in_the_weights_of_memory(
    dlkit: Run, here: Path, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*TRAIN, "--data", str(album), "--epochs", "25"]
    held = dlkit(*arguments, "--no-stream", "--json")
    assert held.code == 0, held.err
    command = [sys.executable, "-c", CHILD, *arguments, "--stream"]
    with subprocess.Popen(command, cwd=here, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        while not process.stderr.readline().startswith("epoch 6/"):
            assert process.poll() is None
        process.kill()
        assert process.wait() == -signal.SIGKILL
    monkeypatch.setattr(streamed, "CACHE", 9000)
    resumed = dlkit("image-classification", "train", "--resume", killed(dlkit), "--json")
    assert resumed.code == 0, resumed.err
    for name in ("metrics", "baselines", "intervals"):
        assert resumed.json[name] == held.json[name]
    runs = [tracking.client().get_run(done.json["run"]).data for done in (held, resumed)]
    assert len({run.tags["dlkit.weights"] for run in runs}) == 1
    assert len({run.tags[tracking.FINGERPRINT_TAG] for run in runs}) == 1
    again = dlkit("image-classification", "evaluate", resumed.json["run"], "--json")
    assert again.json["metrics"] == held.json["metrics"]


def killed(dlkit: Run) -> str:
    """The run that is still marked as running."""
    import json

    rows = map(json.loads, dlkit("runs", "list", "--json").out.splitlines())
    return next(row["run"] for row in rows if row["status"] == "RUNNING")


def test_a_file_lost_while_training_ends_in_one_line(
    here: Path, dlkit: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(photos, here / "album"))
    monkeypatch.setattr(streamed, "CACHE", 0)
    saved = training.checkpoint.save

    def save(*arguments: Any) -> None:
        saved(*arguments)
        for file in (folder / "dot").iterdir():
            file.unlink()

    monkeypatch.setattr(training.checkpoint, "save", save)
    done = dlkit(*TRAIN, "--data", "album/", "--stream", "--epochs", "3", "--augment", "none")
    assert done.code == 2
    last = done.err.strip().splitlines()[-1]
    assert "a file could not be read while training" in last
    assert "album/dot/" in last
