"""Image synthesis through its commands: train, generate, interpolate, reconstruct, export, resume."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from made import Done, exports_unchecked, pictures, runner
from PIL import Image

from dlkit import tracking
from pipelines.cli import main

TASK = "image-synthesis"
Runs = Callable[..., Done]
# A small net of each family, and what its training takes.
SMALL = {
    "dcgan": ["-p", "latent_dim=6", "-p", "filters=8", "-p", "discriminator_filters=8"],
    "cgan": ["-p", "latent_dim=6", "-p", "filters=8", "-p", "discriminator_filters=8"],
    "vae": [
        "-p",
        "layers=dense",
        "-p",
        "units=[32]",
        "-p",
        "latent_dim=4",
        "--binarise",
        "dynamic",
    ],
}
CHILD = """
import dataclasses
import sys
from dlkit import training
from dlkit.evaluation import feature_training
feature_training.CNN = dataclasses.replace(feature_training.CNN, epochs=3, steps=1)
training.SAVE_EVERY_SECONDS = 0.2
from pipelines.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> dict[str, Any]:
    """A folder with a source of 240 pictures and a finished run of a gan, a cgan and a vae."""
    import shutil

    folder = tmp_path_factory.mktemp("painted")
    shutil.copytree(empty_store, folder / "mlruns")
    x, y = pictures(240, side=8)
    np.savez(folder / "drawn.npz", x=x, y=np.array(["cross", "stripe", "dot"])[y])
    np.savez(folder / "plain.npz", x=x[:30])
    before, found = Path.cwd(), {"folder": folder}
    os.chdir(folder)
    try:
        for model, params in SMALL.items():
            out = io.StringIO()
            arguments = ["train", "--data", "./drawn.npz", "--model", model, *params, "--json"]
            with contextlib.redirect_stdout(out), exports_unchecked(), judged_quickly():
                code = main([TASK, *arguments, "--epochs", "3", "--batch-size", "16"])
            assert code == 0
            found[model] = json.loads(out.getvalue())
    finally:
        os.chdir(before)
    return found


@contextlib.contextmanager
def judged_quickly() -> Iterator[None]:
    """Train judges for three epochs."""
    from dlkit.evaluation import feature_training

    recipe = dataclasses.replace(feature_training.CNN, epochs=3, steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_training, "CNN", recipe)
        yield


@pytest.fixture
def quick_judge() -> Iterator[None]:
    """See `judged_quickly`."""
    with judged_quickly():
        yield


@pytest.fixture
def there(
    painted: dict[str, Any],
    quick_judge: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Runs:
    """Run a command line beside those runs."""
    monkeypatch.chdir(painted["folder"])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return runner(capfd)


def test_a_report_holds_figures_between_floor_and_ceiling(painted: dict[str, Any]) -> None:
    for model in SMALL:
        found = painted[model]
        assert found["task"] == TASK
        assert found["split"] == "test"
        names = {"fid", "kid", "precision", "recall", "density", "coverage", "modes", "memorised"}
        assert names <= set(found["metrics"])
        assert set(found["baselines"]) == {"real_against_real", "noise", "gaussian"}
        floor, ceiling = (found["baselines"][k]["fid"] for k in ("real_against_real", "noise"))
        assert floor < ceiling
        for name, (low, high) in found["intervals"].items():
            assert low <= found["metrics"][name] <= high
        report = json.loads(Path(found["report"]).read_text())
        assert "a Gaussian of the pixels" in report["verdict"]
        assert report["feature_net"]["hash"]
        for name in ("neighbours.png", "curves.png", "training.gif"):
            assert Path(found["report"]).with_name(name).stat().st_size > 500
        grids = sorted(Path(found["report"]).with_name("grids").glob("*.png"))
        assert [grid.name for grid in grids] == [f"epoch-{i:04}.png" for i in (1, 2, 3)]
    assert {"label_accuracy", "classification_accuracy_score"} <= set(painted["cgan"]["metrics"])
    assert {"elbo", "nll"} <= set(painted["vae"]["metrics"])
    assert painted["vae"]["metrics"]["nll"] <= -painted["vae"]["metrics"]["elbo"] + 0.5
    hashes = {
        json.loads(Path(painted[m]["report"]).read_text())["feature_net"]["hash"] for m in SMALL
    }
    assert len(hashes) == 1  # one judge for all
    # One that learnt black and white is held against the same pictures too.
    floors = {painted[m]["baselines"]["real_against_real"]["fid"] for m in SMALL}
    assert len(floors) == 1


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_one_seed_is_one_picture(there: Runs, painted: dict[str, Any], tmp_path: Path) -> None:
    run = painted["dcgan"]["run"]
    done = there(
        TASK, "generate", run, "--count", "5", "--seed", "3", "--out", tmp_path / "a", "--json"
    )
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["seed"] for row in rows] == [3, 4, 5, 6, 7]
    again = there(
        TASK, "generate", run[:8], "--count", "300", "--seed", "1", "--out", tmp_path / "b"
    )
    assert again.out == f"300 pictures in {tmp_path / 'b'}\n"
    for row in rows:
        one, other = (read(tmp_path / d / Path(row["file"]).name) for d in "ab")
        np.testing.assert_array_equal(one, other)
        assert one.shape == (8, 8)
    there(
        TASK,
        "generate",
        run,
        "--count",
        "5",
        "--seed",
        "3",
        "--truncation",
        "0.3",
        "--out",
        tmp_path / "c",
    )
    pulled = np.stack([read(p) for p in sorted((tmp_path / "c").iterdir())]).astype(float)
    free = np.stack([read(p) for p in sorted((tmp_path / "a").iterdir())]).astype(float)
    assert pulled.std(0).mean() < free.std(0).mean()  # nearer to one another


def test_a_grid_and_labels(there: Runs, painted: dict[str, Any], tmp_path: Path) -> None:
    run = painted["cgan"]["run"]
    done = there(TASK, "generate", run, "--count", "9", "--out", tmp_path / "g.png", "--json")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["label"] for row in rows] == ["cross", "dot", "stripe"] * 3
    height, width, _ = read(tmp_path / "g.png").shape
    assert height == width  # three rows of three
    done = there(
        TASK, "generate", run, "--count", "2", "--label", "dot", "--out", tmp_path / "d", "--json"
    )
    assert {json.loads(line)["label"] for line in done.out.splitlines()} == {"dot"}


def test_the_way_between_two(there: Runs, painted: dict[str, Any], tmp_path: Path) -> None:
    run = painted["dcgan"]["run"]
    done = there(TASK, "interpolate", run, "1", "2", "--count", "4", "--out", tmp_path / "s.png")
    assert done.code == 0, done.err
    there(TASK, "generate", run, "--count", "2", "--seed", "1", "--out", tmp_path / "ends")
    strip, ends = read(tmp_path / "s.png"), sorted((tmp_path / "ends").iterdir())
    factor = (strip.shape[0] - 4) // 8
    for at, end in ((2, ends[0]), (2 + 3 * (8 * factor + 2), ends[1])):
        shown = strip[2 : 2 + 8 * factor : factor, at : at + 8 * factor : factor, 0]
        np.testing.assert_array_equal(shown, read(end))
    done = there(TASK, "interpolate", run, "1", "2", "--count", "4", "--out", tmp_path / "s.gif")
    with Image.open(tmp_path / "s.gif") as moving:
        assert getattr(moving, "n_frames", 1) == 4
    files = [str(end) for end in ends]
    done = there(TASK, "interpolate", painted["vae"]["run"], *files, "--out", tmp_path / "v.png")
    assert done.code == 0, done.err
    done = there(TASK, "interpolate", run, *files, "--out", tmp_path / "v.png")
    assert done.code == 2
    assert (
        done.err == "dlkit: error: RUN: dcgan has no code to find for a picture; accepted: a vae\n"
    )


def test_a_vae_reconstructs(there: Runs, painted: dict[str, Any], tmp_path: Path) -> None:
    x, _ = pictures(3, side=8, seed=5)
    for i, picture in enumerate(x):
        Image.fromarray(picture[..., 0]).save(tmp_path / f"{i}.png")
    done = there(
        TASK, "reconstruct", painted["vae"]["run"], tmp_path, "--out", tmp_path / "r.png", "--json"
    )
    assert done.code == 0, done.err
    assert done.json["pictures"] == 3
    assert 0 < done.json["mse"] < 0.2
    assert read(tmp_path / "r.png").shape[0] > 8


def test_it_is_judged_again_on_other_pictures(there: Runs, painted: dict[str, Any]) -> None:
    own = there(TASK, "evaluate", painted["dcgan"]["run"], "--json")
    assert own.code == 0, own.err
    assert own.json["split"] == "test"
    # The export's pictures are the model's.
    assert own.json["metrics"]["fid"] == pytest.approx(painted["dcgan"]["metrics"]["fid"], rel=1e-3)
    x = 255 - pictures(60, side=10, seed=9)[0]
    np.savez("inverted.npz", x=x)
    other = there(TASK, "evaluate", painted["dcgan"]["run"], "--data", "./inverted.npz", "--json")
    assert other.code == 0, other.err
    assert other.json["metrics"]["fid"] > own.json["metrics"]["fid"]
    # It has no test split: all are judged, and it is said.
    report = json.loads(Path(other.json["report"]).read_text())
    assert report["rows"] == 60 and other.json["split"] == "all"
    assert "./inverted.npz has no test split: these are all of its pictures" in report["data_notes"]
    np.savez("cut.npz", x_train=x[:20], x_test=x[20:50])  # without labels
    other = there(TASK, "evaluate", painted["dcgan"]["run"], "--data", "./cut.npz")
    assert "30 pictures against the test split, 95 % intervals" in other.out, other.err


def test_the_run_is_in_the_store(there: Runs, painted: dict[str, Any]) -> None:
    run = tracking.find_run(painted["dcgan"]["run"], TASK)
    assert run.info.status == "FINISHED"
    assert {"loss", "val_loss", "val_spread", "val_modes", "test_fid"} <= set(run.data.metrics)
    assert tracking.config_of(run.info.run_id)["loss"] == "ns"
    assert there(TASK, "export", run.info.run_id, "--out", "model").code == 0


REFUSED = [
    (["train", "--model", "dcgan", "--image-size", "30"], "cannot make 30 x 30; the nearest side that it can: 32"),
    (["train", "--model", "dcgn"], "did you mean 'dcgan'?"),
    (["train", "--loss", "hing"], "did you mean 'hinge'?"),
    (["train", "--data", "stacked-mnst"], "did you mean 'stacked-mnist'?"),
    (["train", "--diff-augment", "colour"], "no 'colour' (did you mean 'color'?); accepted: none, or of"),
    (["train", "--loss", "wgan-gp", "-p", "discriminator_norm=batch"], "which batch norm mixes"),
    (["train", "--model", "dcgan", "--r1", "1"], "the penalty of --r1 is of single pictures, which batch norm mixes"),
    (["train", "--model", "dcgan", "--r2", "1"], "the penalty of --r2 is of single pictures"),
    (["train", "--model", "ddpm", "--r2", "1"], "--r2: not for ddpm: it has no discriminator"),
    (["train", "--model", "dcgan", "--binarise", "fixed"], "--binarise is for vae; dcgan takes grey levels"),
    (["train", "--model", "cyclegan"], "accepted: --data-b SOURCE, or --domains A,B"),
    (["train", "--model", "cyclegan", "--domains", "3"], "--domains: got '3'; accepted: two classes, A,B"),
    (["train", "--model", "cyclegan", "--domains", "3,x"], "--domains: --data digits has no class 'x'; accepted: 0, 1"),
    (["train", "--model", "cyclegan", "--domains", "3,8", "--loss", "hinge"], "--loss: not for cyclegan: its losses are those"),
    (["train", "--model", "vae", "--r1", "1"], "--r1: not for vae: it has no discriminator"),
    (["train", "--model", "vae", "--on-collapse", "stop"], "--on-collapse: not for vae: generators against a discriminator"),
    (["train", "--model", "ddpm", "--on-collapse", "stop"], "--on-collapse: not for ddpm"),
    (["train", "--model", "cyclegan", "--domains", "3,8", "--on-collapse", "stop"], "--on-collapse: not for cyclegan"),
    (["train", "--model", "cyclegan", "--domains", "3,8", "--count", "99"], "--count: not for cyclegan: all test pictures"),
    (["train", "--loss", "hinge", "--gradient-penalty", "1"], "--gradient-penalty: not for --loss hinge: it is of wgan-gp"),
    (["train", "--data", "./plain.npz", "--model", "cgan"], "cgan is told labels, and the data has no classes to tell"),
    (["train", "--data", "./plain.npz", "--model", "ddpm", "-p", "guidance=2"], "-p guidance: got 2, and no label is told"),
    (["train", "--model", "ddpm", "-p", "guidance=2", "-p", "conditional=false"], "-p guidance: got 2, and no label"),
    (["train", "--model", "gan", "--data-b", "digits"], "are for cyclegan, not for gan"),
    (["train", "--batch-size", "6", "-p", "pac=4"], "6 pictures cannot be judged 4 at a time"),
    (["train", "--feature-weights", "none.h5"], "--feature-weights: no file none.h5"),
    (["train", "--data", "./missing/"], "no file or folder ./missing/"),
    (["generate", "latest", "--count", "0", "--out", "x"], "0 is not in the range x>=1"),
    (["generate", "latest", "--out", "x.jpg"], "accepted: a folder, or a name in .png"),
    (["generate", "latest", "--count", "9999", "--out", "x.png"], "accepted: at most 2,500, or a folder"),
    (["generate", "latest", "--truncation", "0", "--out", "x"], "--truncation: got 0; accepted: at least 0.01"),
    (["interpolate", "latest", "1", "a.png", "--out", "x.png"], "accepted: two seeds, or two files"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[" ".join(a) for a, _ in REFUSED])
def test_what_is_not_accepted_is_told(there: Runs, arguments: list[str], words: str) -> None:
    done = there(TASK, *arguments)
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1
    assert not Path("x").exists()


def test_a_run_goes_on_with_what_was_accepted_when_it_began() -> None:
    from dlkit.errors import OptionError
    from pipelines.image_synthesis.config import Config
    from pipelines.image_synthesis.setup import checked

    for config in (
        Config(r1=1.0),
        Config(gradient_penalty=1.0),
        Config(model="vae", on_collapse="stop"),
    ):
        with pytest.raises(OptionError):
            checked(config)
        assert checked(config, resumed=True)


@pytest.mark.parametrize(
    "command", [["generate"], ["interpolate", "1", "2"], ["reconstruct", "a.png"], ["translate", "a.png"]]
)  # fmt: skip
def test_where_nothing_can_be_written_is_told_before_a_model_is_loaded(
    there: Runs, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "file").write_text("stays")
    (tmp_path / "folder.png" / "full").mkdir(parents=True)
    for out, words in (("file/grid.png", "is no folder"), ("folder.png", "is a folder")):
        done = there(TASK, command[0], "none", *command[1:], "--out", tmp_path / out)
        assert done.code == 2
        assert words in done.err and done.err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "stays"


def test_a_folder_whose_pictures_cannot_all_be_made_is_not_left(tmp_path: Path) -> None:
    from dlkit.errors import DataError
    from pipelines.image_synthesis.drawn import into_folder

    def batches() -> Iterator[list[tuple[str, Any]]]:
        yield [("a.png", pictures(1, side=8)[0][0])]
        raise DataError("b.png is no picture that can be read")

    with pytest.raises(DataError):
        into_folder(tmp_path / "new", batches())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        FileExistsError(17, "File exists", "x"),
        NotADirectoryError(20, "Not a directory", "x"),
        IsADirectoryError(21, "Is a directory", "x"),
    ],
)
def test_a_file_in_a_folders_place_is_for_the_user_to_mend(
    there: Runs, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def failing(*given: Any) -> None:
        raise error

    monkeypatch.setattr("dlkit.tracking.export_directory", failing)
    done = there(TASK, "generate", "latest", "--out", "new")
    assert (done.code, done.err) == (2, f"dlkit: error: x: {error.strerror}\n")


def test_a_label_that_is_none(there: Runs, painted: dict[str, Any]) -> None:
    done = there(TASK, "generate", painted["cgan"]["run"], "--label", "dots", "--out", "x")
    assert done.code == 2
    assert "no label 'dots' (did you mean 'dot'?); accepted: cross, dot, stripe" in done.err
    done = there(TASK, "generate", painted["dcgan"]["run"], "--label", "dot", "--out", "x")
    assert "--label: dcgan knows no labels; leave it out" in done.err
    done = there(TASK, "translate", painted["dcgan"]["run"], "drawn.npz", "--out", "x")
    assert "RUN: dcgan makes pictures from noise; take generate" in done.err


def test_splits_of_a_folder_without_classes_are_kept(tmp_path: Path) -> None:
    from dlkit.data.pictures import load_pictures

    for name, count in (("train", 30), ("test", 7)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i, picture in enumerate(pictures(count, side=8, seed=count)[0]):
            Image.fromarray(picture[..., 0]).save(tmp_path / "photos" / name / f"{i:02}.png")
    data = load_pictures(str(tmp_path / "photos"))
    assert data.sizes() == {"train": 27, "validation": 3, "test": 7}
    assert data.spec.labels == ("photos",)


def test_folders_without_classes_and_empty_ones(dlkit: Runs, here: Path) -> None:
    (here / "empty").mkdir()
    done = dlkit(TASK, "train", "--data", "./empty/")
    assert done.code == 2
    assert "no images (.png" in done.err
    (here / "a").mkdir()
    for i, picture in enumerate(pictures(4, side=8)[0]):
        Image.fromarray(picture[..., 0]).save(here / "a" / f"{i}.png")
    done = dlkit(TASK, "train", "--model", "cyclegan", "--data", "./a/", "--data-b", "./empty/")
    assert done.code == 2
    assert done.err.startswith("dlkit: error: --data-b empty: no images")
    done = dlkit(TASK, "train", "--data", "./a/")
    assert done.code == 2
    assert "accepted: at least 20" in done.err


def test_sources_that_cannot_be_made_pictures_of_are_told(tmp_path: Path) -> None:
    from dlkit.data.pictures import load_pictures, of_class
    from dlkit.errors import DataError
    from dlkit.models.sides import doubled

    x, y = pictures(30, side=8)
    for i, picture in enumerate(x):
        Image.fromarray(picture[..., 0]).save(tmp_path / f"{i:02}.png")
    listing = "".join(f"{i:02}.png,a,test\n" for i in range(30))
    (tmp_path / "tests.csv").write_text(f"path,label,split\n{listing}")
    with pytest.raises(DataError, match="has no train split; there are test"):
        load_pictures(str(tmp_path / "tests.csv"), side=doubled)
    for size in (28, 30):  # the second is brought to 32
        np.savez(tmp_path / "none.npz", x=np.zeros((0, size, size), np.uint8))
        with pytest.raises(DataError, match="0 pictures in train; accepted: at least 20"):
            load_pictures(str(tmp_path / "none.npz"), side=doubled)
    np.savez(
        tmp_path / "few.npz",
        x_train=x,
        y_train=y * 0,
        x_val=x[:3],
        y_val=[0, 1, 1],
        x_test=x[:3],
        y_test=[0, 0, 1],
    )
    few = load_pictures(str(tmp_path / "few.npz"))
    with pytest.raises(DataError, match="1 picture of '0' in validation; at least 2 needed"):
        of_class(few, "0", "--domains")


@pytest.mark.parametrize("files", [False, True])
def test_colours_that_are_dropped_are_told(tmp_path: Path, files: bool) -> None:
    from pipelines.image_synthesis.config import Config, load

    for name, channels in (("grey", 1), ("coloured", 3)):
        x = pictures(30, side=8, channels=channels)[0]
        np.savez(tmp_path / f"{name}.npz", x=x)
        (tmp_path / name).mkdir()
        for i, picture in enumerate(x):
            Image.fromarray(picture.squeeze()).save(tmp_path / name / f"{i:02}.png")
    a, b = (str(tmp_path / (name if files else f"{name}.npz")) for name in ("grey", "coloured"))
    for config, dropped in ((Config(data=a, data_b=b), True), (Config(data=b, data_b=a), False)):
        _, other = load(dataclasses.replace(config, model="cyclegan"))
        assert ("images in colour are made grey" in other.notes) == dropped


def test_large_pictures_need_a_size_where_a_run_begins(tmp_path: Path) -> None:
    from dlkit.errors import DataError
    from pipelines.image_synthesis.config import Config, load

    np.savez(tmp_path / "large.npz", x=np.zeros((30, 250, 300), np.uint8))
    config = Config(data=str(tmp_path / "large.npz"))
    with pytest.raises(DataError, match="pictures of 250 x 300; give --image-size, such as 64"):
        load(config, fresh=True)
    small = dataclasses.replace(config, image_size=16)
    assert load(small, fresh=True).spec.input_shape == (16, 16, 1)
    assert load(config).spec.input_shape == (256, 256, 1)  # one that began before goes on


def test_large_files_are_refused_before_any_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlkit.data import folder
    from dlkit.errors import DataError
    from pipelines.image_synthesis.config import Config, load

    def decoded(*_: Any) -> None:
        pytest.fail("files were decoded")

    monkeypatch.setattr(folder, "decode", decoded)
    for i in range(20):
        Image.new("L", (300, 250)).save(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match="pictures of 250 x 300; give --image-size, such as 64"):
        load(Config(data=str(tmp_path)), fresh=True)


@pytest.mark.usefixtures("unchecked", "undrawn", "quick_judge")
@pytest.mark.slow
def test_a_folder_of_grey_and_colour_is_made_square(dlkit: Runs, here: Path) -> None:
    generator = np.random.default_rng(0)
    (here / "mixed").mkdir()
    for i in range(60):
        shape = (10, 12, 3) if i % 3 else (10, 12)
        x = generator.integers(0, 255, shape).astype(np.uint8)
        Image.fromarray(x).save(here / "mixed" / f"{i:02}.png")
    done = dlkit(
        TASK, "train", "--data", "./mixed/", "--model", "dcgan", *SMALL["dcgan"], "--epochs", "1"
    )
    assert done.code == 0, done.err
    assert (
        "pictures of 10 x 12 are brought to 12 x 12, the nearest that the model makes" in done.err
    )
    assert "data ./mixed/: 12 x 12 x 3, 1 class," in done.err
    assert "telling rotations" in done.err


GAN = ["--model", "gan", "-p", "generator=[16]", "-p", "discriminator=[8]"]
# Each kills a process; what the default run interrupts is a gan, and kills, an mlp (test_kill.py).
WAYS = [
    pytest.param(["--model", "dcgan", *SMALL["dcgan"], "--diff-augment", "translation"], id="dcgan", marks=pytest.mark.slow),
    pytest.param(["--model", "cgan", *SMALL["cgan"]], id="cgan", marks=pytest.mark.slow),
    pytest.param(GAN, id="gan", marks=pytest.mark.slow),
    pytest.param(["--model", "vae", *SMALL["vae"]], id="vae", marks=pytest.mark.slow),
    pytest.param(["--model", "ddpm", "-p", "filters=8"], id="ddpm", marks=pytest.mark.slow),
    pytest.param(["--model", "progan", "-p", "latent_dim=6", "-p", "filters=8"], id="progan", marks=pytest.mark.slow),
    pytest.param(["--model", "cyclegan", "--domains", "cross,dot", "-p", "filters=4", "-p", "blocks=1"], id="cyclegan", marks=pytest.mark.slow),
]  # fmt: skip


def source(folder: Path, rows: int) -> list[str]:
    """Write pictures of three classes; return the option that reads them."""
    x, y = pictures(rows, side=8)
    np.savez(folder / "drawn.npz", x=x, y=np.array(["cross", "stripe", "dot"])[y])
    return ["--data", "./drawn.npz"]


@pytest.mark.usefixtures("unchecked", "undrawn", "quick_judge")
def test_an_interrupted_run_ends_as_the_whole_one(
    dlkit: Runs, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train", *source(here, 120), *GAN, "--batch-size", "16", "--epochs", "3"]
    whole = dlkit(TASK, *arguments, "--json")
    assert whole.code == 0, whole.err
    log = tracking.Run.metrics

    def interrupted(self: tracking.Run, step: int, values: dict[str, float]) -> None:
        log(self, step, values)
        if step == 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(tracking.Run, "metrics", interrupted)
        assert dlkit(TASK, *arguments).code == 130
    run = tracking.find_run("latest", TASK, finished=False).info.run_id
    rest = dlkit(TASK, "train", "--resume", run, "--json")
    assert rest.code == 0, rest.err
    runs = [tracking.find_run(each, TASK).data.tags for each in (whole.json["run"], run)]
    assert runs[0]["dlkit.weights"] == runs[1]["dlkit.weights"]
    assert rest.json["metrics"] == whole.json["metrics"]


@pytest.mark.usefixtures("unchecked", "undrawn", "quick_judge")
@pytest.mark.parametrize("more", WAYS)
def test_a_killed_run_ends_as_the_whole_one(dlkit: Runs, here: Path, more: list[str]) -> None:
    seed = int.from_bytes(os.urandom(4))
    chance = random.Random(seed)
    arguments = [TASK, "train", *source(here, 240), *more, "--batch-size", "16", "--epochs", "8"]
    whole = dlkit(*arguments, "--json")
    assert whole.code == 0, whole.err
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], stderr=subprocess.PIPE, text=True, cwd=here
    )
    assert process.stderr
    lines, after = [], chance.randint(1, 5)
    for line in process.stderr:
        lines.append(line)
        if line.startswith(f"epoch {after}/"):
            break
    time.sleep(chance.random() * 0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    (run,) = [line.split()[1] for line in lines if line.startswith("run ")]
    rest = dlkit(TASK, "train", "--resume", run, "--json")
    assert rest.code == 0, rest.err
    assert rest.json["run"] == run
    hashes = [
        tracking.find_run(each, TASK).data.tags["dlkit.weights"]
        for each in (whole.json["run"], run)
    ]
    assert hashes[0] == hashes[1], f"seed {seed}"
    assert rest.json["metrics"] == whole.json["metrics"]
    if "progan" in more:  # what is kept is of the full size
        found = tracking.client().get_metric_history(run, "val_loss")
        best = json.loads(Path(rest.json["report"]).read_text())["best_epoch"]
        assert best == min(found, key=lambda m: m.value).step > 2


@pytest.mark.usefixtures("unchecked", "undrawn", "quick_judge")
@pytest.mark.parametrize(
    "on_collapse",
    ["stop", *(pytest.param(how, marks=pytest.mark.slow) for how in ("warn", "restore"))],
)
def test_collapse_is_told(
    dlkit: Runs, here: Path, monkeypatch: pytest.MonkeyPatch, on_collapse: str
) -> None:
    from dlkit import collapse

    monkeypatch.setattr(collapse, "FIRST_STEPS", 1)
    x, y = pictures(120, side=8)
    np.savez(here / "drawn.npz", x=x, y=y)
    # A generator of one number, hardly trained, draws one picture.
    done = dlkit(
        TASK, "train", "--data", "./drawn.npz", "-p", "latent_dim=1", "-p", "filters=2",
        "-p", "discriminator_filters=2", "--learning-rate", "1e-6", "--epochs", "3", "--on-collapse", on_collapse, "--json",
    )  # fmt: skip
    if on_collapse == "restore":  # twice with half the rate, and then it is given up
        assert done.code == 2
        assert "diverged at learning rates 1e-06, 5e-07 and 2.5e-07: the pictures have" in done.err
        assert "try a smaller --learning-rate, or another --loss" in done.err
        return
    assert done.code == 0, done.err
    run = tracking.find_run(done.json["run"], TASK)
    assert "collapsed after" in run.data.tags["dlkit.collapsed"]
    report = json.loads(Path(done.json["report"]).read_text())
    assert any("had collapsed after" in note for note in report["notes"])
    epochs = len(tracking.client().get_metric_history(run.info.run_id, "val_collapsed"))
    assert epochs == (3 if on_collapse == "warn" else 1)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"spread": 0.9, "modes": 1.0}, None),
        ({"spread": 0.9}, None),
        ({"spread": 0.3, "modes": 1.0}, "they differ 0.30 as much as real ones"),
        ({"spread": 0.9, "modes": 0.2}, "20% of the classes that as many real ones show"),
    ],
)
def test_what_is_a_collapse(found: dict[str, float], words: str | None) -> None:
    from dlkit.collapse import collapse

    said = collapse(found)
    assert said is None if words is None else words in str(said)


@pytest.mark.parametrize("adversary", ["ns", "relativistic", "wgan-gp"])
def test_a_discriminator_that_is_always_right_is_no_collapse(
    monkeypatch: pytest.MonkeyPatch, adversary: str
) -> None:
    from dlkit import collapse
    from dlkit.data.pictures import load_pictures
    from dlkit.evaluation.feature_net import FeatureNet
    from dlkit.models import build
    from dlkit.models.gan_losses import ADVERSARIES

    def answer(x: np.ndarray) -> Any:
        return tf.reshape(tf.cast(x, tf.float32), (len(x), -1))[:, :16], tf.zeros((len(x), 0))

    monkeypatch.setattr(collapse, "FIRST_STEPS", 0)
    monkeypatch.setattr(collapse, "SPREAD", 0.0)  # however alike they are
    data = load_pictures("digits")
    params = {"generator": [8], "discriminator": [4], "latent_dim": 3}
    model = build(TASK, "gan", data.spec, params)
    model.compile(adversary=adversary)
    watch = collapse.Watch(model, data, FeatureNet(answer, {"labels": []}), on_collapse="stop")
    assert watch({"real_accuracy": 0.8, "fake_accuracy": 1.0}).metrics["collapsed"] == 0.0
    assert watch.words is None
    found = watch({"real_accuracy": 1.0, "fake_accuracy": 1.0})
    assert found.metrics["collapsed"] == 0.0 and found.trouble is None
    # A critic is there to tell the two apart.
    assert (watch.words is None) == ADVERSARIES[adversary].penalised
    assert watch.words is None or "is always right" in watch.words


def test_pictures_are_served(there: Runs, painted: dict[str, Any], tmp_path: Path) -> None:
    import asyncio
    import base64

    import httpx

    from dlkit.serving.app import create_app
    from dlkit.serving.model import load_model
    from dlkit.serving.servables import Servables
    from dlkit.serving.service import Service

    app = create_app(Service(Servables([load_model("drawn", Path(painted["cgan"]["export"]))])))

    async def asked(body: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/v1/models/drawn:predict", json=body)

    rows = [{"seed": 4, "label": 1}, {"seed": 5, "label": 0}]
    answer = asyncio.run(asked({"signature_name": "png", "instances": rows}))
    assert answer.status_code == 200, answer.text
    there(
        TASK, "generate", painted["cgan"]["run"], "--count", "1", "--seed", "4", "--label", "dot",
        "--out", tmp_path / "one",
    )  # fmt: skip
    sent = io.BytesIO(base64.b64decode(answer.json()["predictions"][0]["b64"]))
    with Image.open(sent) as image:
        np.testing.assert_array_equal(np.array(image), read(tmp_path / "one" / "0000000004.png"))
    plain = asyncio.run(asked({"instances": rows})).json()["predictions"]
    assert np.array(plain[0]).shape == (8, 8, 1)
