"""What a user can do wrong ends in one line, exit 2, and leaves nothing behind."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made import Done, pictures

Run = Callable[..., Done]
TRAIN = ("image-classification", "train")


def refused(done: Done, *words: str) -> None:
    """One line that starts as it should and says the words; nothing on standard output."""
    assert (done.code, done.out) == (2, ""), done
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("dlkit: error: "), done.err
    assert "Traceback" not in done.err
    for word in words:
        assert word in last, last


def runs_left(dlkit: Run) -> str:
    return dlkit("runs", "list", "--json").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tarin"], ["no command 'tarin'"]),
        (["image-clasification", "train"], ["did you mean 'image-classification'?"]),
        (["image-classification", "trian"], ["did you mean 'train'?"]),
        ([*TRAIN, "--modle", "mlp"], ["--modle", "--model"]),
        (
            [*TRAIN, "--model", "lenett"],
            ["did you mean 'lenet'?", "accepted: applications, cnn, googlenet"],
        ),
        ([*TRAIN, "--data", "digit"], ["did you mean 'digits'?"]),
        ([*TRAIN, "--data", "tfds:mnits", "--no-download"], ["tfds:mnits: not prepared"]),
        ([*TRAIN, "--data", "nowhere/"], ["no file or folder nowhere/"]),
        ([*TRAIN, "--data", "a.csv"], ["no file or folder a.csv"]),
        ([*TRAIN, "--optimizer", "adan"], ["did you mean 'adamw'?", "accepted: adamw, muon"]),
        ([*TRAIN, "--schedule", "cosin"], ["did you mean 'cosine'?"]),
        ([*TRAIN, "--epochs", "0"], ["--epochs", "at least 1"]),
        ([*TRAIN, "--epochs", "2.5"], ["--epochs", "a whole number"]),
        ([*TRAIN, "--learning-rate", "nan"], ["--learning-rate", "above 0"]),
        ([*TRAIN, "--learning-rate", "fast"], ["--learning-rate", "got 'fast'"]),
        ([*TRAIN, "--time-limit", "soon"], ["--time-limit", "such as 90s, 10m or 1h30m"]),
        ([*TRAIN, "--label-smoothing", "1.5"], ["at most 0.9"]),
        (
            [*TRAIN, "--augment", "flpi"],
            ["did you mean 'flip'?", "accepted: none, mirror, light, strong"],
        ),
        ([*TRAIN, "--augment", "rotate=400"], ["accepted: above 0, at most 180 (degrees"]),
        ([*TRAIN, "--loss", "mes"], ["did you mean 'mse'?"]),
        ([*TRAIN, "--ema", "1"], ["below 1"]),
        (
            [*TRAIN, "--model", "cnn", "-p", 'conv_layers=[{"filtres": 8}]'],
            ["conv_layers[0]: unknown key 'filtres' (did you mean 'filters'?)"],
        ),
        ([*TRAIN, "-p", "dropuot=0.1"], ["did you mean 'dropout'?"]),
        ([*TRAIN, "-p", "dropout"], ["-p takes NAME=VALUE"]),
        ([*TRAIN, "--model", "mlp", "-p", "units=0"], ["-p units: got 0; accepted: at least 1"]),
        ([*TRAIN, "--model", "mlp", "-p", "dropout=1.5"], ["accepted: at least 0, below 1"]),
        ([*TRAIN, "--model", "mlp", "-p", "l1=-1"], ["-p l1: got -1", "at least 0"]),
        ([*TRAIN, "--model", "googlenet", "-p", "width=0"], ["accepted: above 0"]),
        ([*TRAIN, "--model", "speednet", "-p", "filters=[8,0]"], ["-p filters: got 0"]),
        ([*TRAIN, "--data", "~nobody-here/x/"], ["~", "no user"]),
        ([*TRAIN, "--data", "a" * 300 + ".npz"], ["File name too long"]),
        (["text-generation", "train", "-p", "heads=0"], ["-p heads: got 0"]),
        (["text-generation", "train", "--split", "1e400/5"], ["per cent that sum to 100"]),
        (["text-generation", "train", "--split", "100/0"], ["nothing for train or validation"]),
        ([*TRAIN, "-p", "variant=21"], ["accepted: 18, 20, 32, 34, 44, 50, 56"]),
        ([*TRAIN, "--resume", "abc", "--model", "mlp"], ["may grow"]),
        ([*TRAIN, "--resume", "0123456789"], ["no run '0123456789'"]),
        (
            ["image-classification", "predict", "latest", "absent.png"],
            ["no file or folder absent.png"],
        ),
        (
            ["image-classification", "predict", "latest", "x.png", "--output", "a.txt"],
            [".csv or .jsonl"],
        ),
        (["image-classification", "evaluate", "latest"], ["no finished run"]),
        (["image-classification", "export", "latest"], ["--out"]),
        (["runs", "show", "nothing"], ["no run 'nothing'"]),
        (["runs", "register", "latest", "a/b"], ["NAME@ALIAS"]),
        (["serve", "models:/absent@prod"], ["no registered model"]),
        (["models", "lenett"], ["did you mean 'lenet'?"]),
    ],
    ids=lambda value: " ".join(value)[-40:],
)
def test_mistakes_in_a_command_line(dlkit: Run, arguments: list[str], words: list[str]) -> None:
    refused(dlkit(*arguments), *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('modle = "mlp"', ["unknown key 'modle'", "did you mean 'model'?"]),
        ("epochs = 0", ["'epochs'", "at least 1"]),
        ('epochs = "many"', ["'epochs'"]),
        ("epochs = [3]", ["'epochs' does not take"]),
        ('download = "yes"', ["'download' does not take"]),
        ("params = 3", ["'params' must be a table"]),
        ("epochs =", ["does not parse"]),
    ],
)
def test_mistakes_in_a_config_file(dlkit: Run, content: str, words: list[str]) -> None:
    Path("config.toml").write_text(content)
    refused(dlkit(*TRAIN, "--config", "config.toml"), *words)


def save(path: str, **arrays: object) -> str:
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    return path


def test_mistakes_in_arrays(dlkit: Run) -> None:
    x, y = pictures(30)
    nan = x / 255.0
    nan[3, 2, 2] = np.nan
    cases = {
        save("one.npz", x=x, y=np.zeros(30, int)): "1 class in train",
        save("empty.npz", x=x[:0], y=y[:0]): "empty",
        save("nan.npz", x=nan, y=y): "not finite",
        save("range.npz", x=x * 3.0, y=y): "ranges over",
        save("long.npz", x=x, y=y[:-1]): "one label a row",
        save("flat.npz", x=x.reshape(30, -1), y=y): "(n, h, w)",
        save("named.npz", images=x, y=y): "needs x and y",
        save("floats.npz", x=x, y=y + 0.5): "neither whole numbers nor text",
        save("pickle.npz", x=x, y=np.array([object()] * 30)): "'y' holds Python objects",
        save(
            "unseen.npz", x_train=x[:20], y_train=y[:20] % 2, x_test=x[20:], y_test=y[20:]
        ): "is in test and not in train",
    }
    Path("text.npz").write_text("no zip")
    cases["text.npz"] = "not a readable .npz: no zip"
    np.save("one.npy", x)
    Path("one.npy").rename("array.npz")
    cases["array.npz"] = "not a readable .npz: no zip"
    for path, words in cases.items():
        done = dlkit(*TRAIN, "--data", path, "--model", "mlp")
        refused(done, words, path)
        assert "pickle" not in done.err.replace("pickle.npz", "")
    assert runs_left(dlkit) == ""


def test_mistakes_in_folders(dlkit: Run) -> None:
    Path("empty").mkdir()
    refused(dlkit(*TRAIN, "--data", "empty/"), "no class folders with images")
    Path("one/cats").mkdir(parents=True)
    from PIL import Image

    for i in range(9):
        Image.new("RGB", (8, 8), (i, i, i)).save(f"one/cats/{i}.png")
    refused(dlkit(*TRAIN, "--data", "one/"), "1 class in train")
    for name in ("a", "b"):
        Path("texts", name).mkdir(parents=True)
        Path("texts", name, "x.png").write_text("not an image")
    refused(dlkit(*TRAIN, "--data", "texts/"), "none of 2 images can be read")
    for task in ("image-classification", "text-generation"):
        refused(dlkit(task, "train", "--data", "one"), "for the folder 'one' write one/")
    assert runs_left(dlkit) == ""


def test_a_loss_that_is_no_number_ends_the_run_as_failed(dlkit: Run, npz: Path) -> None:
    done = dlkit(
        *TRAIN, "--data", npz, "--model", "mlp", "--optimizer", "sgd", "--learning-rate", "1e30"
    )
    refused(done, "training diverged", "loss is nan", "smaller --learning-rate")
    assert '"status": "FAILED"' in runs_left(dlkit)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_cannot_be_written(dlkit: Run, here: Path, npz: Path) -> None:
    (here / "mlruns").chmod(0o500)
    try:
        refused(dlkit(*TRAIN, "--data", npz, "--model", "mlp"), "cannot be used")
    finally:
        (here / "mlruns").chmod(0o700)


def test_a_store_that_is_a_file_or_nowhere(
    dlkit: Run, npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("text.db").write_text("this is no database at all, only some text")
    for uri in (
        "sqlite:///text.db",
        "sqlite:////proc/nowhere/m.db",
        "nonsense://x",
        "http://127.0.0.1:9",
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        refused(
            dlkit(*TRAIN, "--data", npz, "--model", "mlp"), "the tracking store", "cannot be used"
        )
    assert Path("text.db").read_text().startswith("this is no database")


def test_a_port_in_use(dlkit: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for command in (("serve", "."), ("ui",)):
            refused(dlkit(*command, "--port", port), f"port {port} on 127.0.0.1 is in use")
