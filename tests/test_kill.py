"""kill -9 at a random moment, then `--resume`: the weights of the run that was never killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from made import Done

from dlkit import tracking

TRAIN = ["image-classification", "train", "--model", "lenet", "-p", "dropout=0.3", "--epochs", "40", "--patience", "25", "--batch-size", "24"]  # fmt: skip
# Quick, and yet with a state and draws beside the weights.
SOME = ["--model", "mlp", "--augment", "crop,mixup", "--ema", "0.95", "--epochs", "14"]
# All that has a state or draws numbers, at once.
EVERYTHING = [
    "--model", "speednet", "-p", "filters=[8,16]", "-p", "dropout=0.3",
    "--augment", "alternating-flip,crop,rotate=5,jitter,erase,noise,mixup", "--ema", "0.95",
    "--optimizer", "muon", "--schedule", "one-cycle", "--loss", "focal", "--tta",
    "--class-weight", "balanced", "--label-smoothing", "0.1", "--epochs", "14",
]  # fmt: skip
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
CHILD = """
import sys
from dlkit import training
training.SAVE_EVERY_SECONDS = 0.2
from pipelines.cli import main
sys.exit(main(sys.argv[1:]))
"""


def line_of(process: subprocess.Popen) -> str:
    assert process.stderr
    return process.stderr.readline()


@pytest.mark.usefixtures("unchecked", "undrawn")
@pytest.mark.parametrize(
    "more",
    [
        pytest.param(SOME, id="mlp"),
        pytest.param([], id="lenet", marks=pytest.mark.slow),
        pytest.param(EVERYTHING, id="everything", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_as_the_whole_one(
    dlkit: Callable[..., Done], here: Path, npz: Path, more: list[str]
) -> None:
    seed = int.from_bytes(os.urandom(4))
    chance = random.Random(seed)
    arguments = [*TRAIN, "--data", str(npz), *more]
    whole = dlkit(*arguments, "--json")
    assert whole.code == 0, whole.err

    command, goal = [sys.executable, "-c", CHILD, *arguments], f"epoch {chance.randint(2, 12)}/"
    with subprocess.Popen(command, cwd=here, stderr=subprocess.PIPE, text=True) as process:
        while not line_of(process).startswith(goal):
            assert process.poll() is None, seed
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        assert process.wait() == -signal.SIGKILL, seed
    rows = [json.loads(line) for line in dlkit("runs", "list", "--json").out.splitlines()]
    killed = next(r["run"] for r in rows if r["run"] != whole.json["run"])
    assert rows[0]["status"] == "RUNNING"

    resumed = dlkit("image-classification", "train", "--resume", killed, "--json")
    assert resumed.code == 0, (seed, resumed.err)
    assert resumed.json["run"] == killed
    assert resumed.json["metrics"] == whole.json["metrics"], seed
    store = tracking.client()
    one, two = (store.get_run(r).data for r in (whole.json["run"], killed))
    assert one.tags["dlkit.weights"] == two.tags["dlkit.weights"], seed
    for name in ("loss", "val_accuracy", "learning_rate"):
        first = [(m.step, m.value) for m in store.get_metric_history(whole.json["run"], name)]
        second = [(m.step, m.value) for m in store.get_metric_history(killed, name)]
        assert sorted(first) == sorted(second), (seed, name)
    assert len(dlkit("runs", "list", "--json").out.splitlines()) == 2


def interrupted(done: int, err: str, code: int, dlkit: Callable[..., Done]) -> None:
    """The run is marked, its checkpoint is there, and how to go on is said."""
    assert done == code, err
    assert "Traceback" not in err
    run = dlkit("runs", "list", "--json").json
    assert run["status"] == "KILLED"
    assert f"--resume {run['run'][:8]}" in err.splitlines()[-1]
    assert Path(f"mlruns/checkpoints/{run['run']}/checkpoint.npz").is_file()


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_while_training_marks_the_run(
    dlkit: Callable[..., Done], npz: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    log = tracking.Run.metrics

    def metrics(self: tracking.Run, step: int, values: dict[str, float]) -> None:
        log(self, step, values)
        if step == 3:
            signal.raise_signal(number)

    monkeypatch.setattr(tracking.Run, "metrics", metrics)
    done = dlkit(*TRAIN, "--model", "mlp", "--data", npz, "--epochs", "4000")
    interrupted(done.code, done.err, code, dlkit)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_an_interrupted_run_is_marked_and_can_go_on(
    dlkit: Callable[..., Done], here: Path, npz: Path, number: int, code: int
) -> None:
    command = [sys.executable, "-c", CHILD, *TRAIN, "--data", str(npz), "--epochs", "4000"]
    with subprocess.Popen(command, cwd=here, stderr=subprocess.PIPE, text=True) as process:
        while not line_of(process).startswith("epoch 3/"):
            assert process.poll() is None
        process.send_signal(number)
        err = process.communicate()[1]
    interrupted(process.returncode, err, code, dlkit)
