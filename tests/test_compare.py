"""Several models in one command, and runs side by side: rows, children, interruptions, words."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import LABELS, Done, exports_unchecked, pictures, runner
from PIL import Image

from dlkit import tracking
from dlkit.evaluation import paired, plots
from dlkit.options import resolve
from pipelines.cli import main
from pipelines.image_classification.comparison import Comparison, complete, configs
from pipelines.image_classification.config import Config

Run = Callable[..., Done]
TASK = "image-classification"
COMPARE = (TASK, "compare")
# Four halvings of 12 pixels: it fits no row of `small`.
DEEP = json.dumps([{"filters": 4, "kernel_size": 3, "pool_size": 2}] * 4)
SHORT = ("--epochs", 1, "--batch-size", 8, "--augment", "none", "--no-strict")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz source of 36 grey images of three classes."""
    path = tmp_path_factory.mktemp("small") / "small.npz"
    x, y = pictures(36)
    np.savez(path, x=x, y=np.array(LABELS)[y])
    return path


@pytest.fixture(scope="module", autouse=True)
def children_are_not_drawn() -> Iterator[None]:
    """What takes seconds for each model, and has tests of its own."""
    with exports_unchecked(), pytest.MonkeyPatch.context() as patch:
        for picture in ("confusion", "reliability", "curves"):
            patch.setattr(plots, picture, lambda *_: None)
        yield


@pytest.fixture(scope="module")
def compared(
    tmp_path_factory: pytest.TempPathFactory, small: Path, empty_store: Path
) -> tuple[Path, dict[str, Any]]:
    """A folder with a comparison of two models that train and one that cannot, and its JSON."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("compared")
    shutil.copytree(empty_store, folder / "mlruns")
    before, out = Path.cwd(), io.StringIO()
    os.chdir(folder)
    words = [
        *COMPARE, "--models", "mlp,cnn,lenet", "--data", small, *SHORT, "--json",
        "-p", "dropout=0.25", "-p", "mlp.units=16", "-p", f"cnn.conv_layers={DEEP}",
    ]  # fmt: skip
    try:
        with contextlib.redirect_stdout(out):
            code = main([str(word) for word in words])
    finally:
        os.chdir(before)
    assert code == 0
    return folder, json.loads(out.getvalue())


@pytest.fixture
def result(
    compared: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Work in the folder of the comparison; gives what it printed."""
    monkeypatch.chdir(compared[0])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return compared[1]


@pytest.fixture
def there(result: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line beside the comparison."""
    return runner(capfd)


def row(result: dict[str, Any], model: str) -> dict[str, Any]:
    return next(r for r in result["models"] if r["model"] == model)


def test_rows_rank_by_validation_and_a_failure_is_a_row_with_its_reason(
    result: dict[str, Any],
) -> None:
    assert result["status"] == "FINISHED"
    assert [r["status"] for r in result["models"]] == ["FINISHED", "FINISHED", "FAILED"]
    scores = [r["validation"]["accuracy"] for r in result["models"][:2]]
    assert scores == sorted(scores, reverse=True)
    assert result["best"] == result["models"][0]["model"]
    assert row(result, "cnn")["reason"].startswith("-p conv_layers")
    for each in result["models"][:2]:
        low, high = each["intervals"]["accuracy"]
        assert low <= each["metrics"]["accuracy"] <= high
        assert each["images_per_second"] > 0
        assert 0 < each["latency_ms"] < 1000
        assert each["training_seconds"] > 0
        beaten = each["metrics"]["accuracy"] > max(
            b["metrics"]["accuracy"] for b in result["baselines"].values()
        )
        assert each["beats_baselines"] == beaten
        assert beaten or any(each["model"] in note for note in result["notes"])
    # 144 pixels to 16 to 16 to 3, by the parameter given to mlp alone.
    assert row(result, "mlp")["parameters"] == 145 * 16 + 17 * 16 + 17 * 3


def test_the_parent_holds_the_table_the_picture_and_the_best(
    result: dict[str, Any], there: Run
) -> None:
    with open(result["table"], encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["model"] for line in lines] == [r["model"] for r in result["models"]]
    assert float(lines[0]["latency_ms"]) == result["models"][0]["latency_ms"]
    kept = json.loads(Path(result["report"]).read_text())
    assert kept["models"] == result["models"]
    with Image.open(result["picture"]) as picture:
        drawn = np.asarray(picture.convert("RGB"))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 50
    shown = there("runs", "show", result["run"], "--json").json
    assert {"compare.json", "compare.csv", "compare.png", "config.json"} <= set(shown["files"])
    assert shown["children"] == {r["run"]: r["model"] for r in result["models"] if "run" in r}
    best = result["models"][0]
    assert shown["metrics"]["test_accuracy"] == best["metrics"]["accuracy"]
    assert shown["metrics"]["val_accuracy"] == best["validation"]["accuracy"]


def test_children_stand_beneath_their_parent_and_latest_is_the_best_of_them(
    result: dict[str, Any], there: Run
) -> None:
    child = row(result, "lenet")["run"]
    stored = tracking.client().get_run(child)
    assert stored.data.tags["mlflow.parentRunId"] == result["run"]
    listed = [json.loads(line) for line in there("runs", "list", "--json").out.splitlines()]
    at = next(i for i, each in enumerate(listed) if each["run"] == result["run"])
    assert [each["parent"] for each in listed[at + 1 : at + 3]] == [result["run"]] * 2
    human = there("runs", "list").out.splitlines()
    assert f"  {child[:8]}  " in human[at + 1] + human[at + 2]
    assert human[at].startswith(result["run"][:8])
    assert there("runs", "show", child, "--json").json["parent"] == result["run"]
    best = result["models"][0]["run"]
    assert tracking.find_run(result["run"], TASK).info.run_id == best
    assert there(TASK, "export", result["run"], "--out", "best").code == 0
    manifest = json.loads(Path("best/1/assets.extra/dlkit.json").read_text())
    assert manifest["run"] == best
    # The config is one of `compare`, and not of `train`.
    done = there(TASK, "train", "--resume", result["run"])
    assert done.code == 2
    assert f"compare --resume {result['run'][:8]}" in done.err
    done = there(*COMPARE, "--resume", result["run"], "--seed", "1")
    assert done.code == 2
    assert "--seed" in done.err


@pytest.mark.slow
def test_a_model_ends_in_the_weights_that_training_it_alone_gives(
    result: dict[str, Any], there: Run, small: Path
) -> None:
    words = (TASK, "train", "--model", "lenet", "--data", small, *SHORT, "-p", "dropout=0.25")
    alone = there(*words, "--json").json["run"]
    child = row(result, "lenet")["run"]
    store = tracking.client()
    tags = [store.get_run(run).data.tags["dlkit.weights"] for run in (alone, child)]
    assert tags[0] == tags[1]
    # And side by side nothing differs.
    beside = there("runs", "compare", alone, child, "--json").json
    assert beside["differs"] == {}
    assert beside["against"][0]["paired"]["accuracy"] == {"difference": 0.0, "interval": [0.0, 0.0]}
    tracking.client().delete_run(alone)


def test_runs_side_by_side(result: dict[str, Any], there: Run) -> None:
    runs = [row(result, name)["run"] for name in ("mlp", "lenet")]
    beside = there("runs", "compare", *runs, "--json").json
    assert [each["run"] for each in beside["runs"]] == runs
    assert beside["differs"]["model"] == ["mlp", "lenet"]
    assert beside["differs"]["units"] == ["16", None]
    assert "data" not in beside["differs"]
    (against,) = beside["against"]
    assert against["same_rows"]
    for name in ("accuracy", "log_loss"):
        first, second = beside["metrics"][name]
        found = against["paired"][name]
        assert found["difference"] == pytest.approx(second - first, abs=1e-6)
        low, high = found["interval"]
        assert low <= found["difference"] <= high
        a, b = beside["intervals"][name]
        assert against["overlaps"][name] == (a[0] <= b[1] and b[0] <= a[1])
    words = there("runs", "compare", *runs).out
    assert f"{runs[1][:8]} against {runs[0][:8]}: accuracy" in words
    assert "paired" in words


def test_runs_scored_on_other_rows_are_held_apart_by_intervals_alone(
    result: dict[str, Any], there: Run, tmp_path: Path
) -> None:
    own = json.loads(
        tracking.artifact(
            tracking.client().get_run(row(result, "mlp")["run"]).info.artifact_uri, "report.json"
        ).read_text()
    )
    other = tracking.start_run(TASK, {}, {}, "made")
    report = {**own, "run": other.id, "rows_fingerprint": "0" * 64}
    report["intervals"] = {**own["intervals"], "accuracy": [1.5, 1.6]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "environment.json").write_text("{}")
    other.artifacts(tmp_path)
    other.finish("FINISHED")
    done = there("runs", "compare", row(result, "mlp")["run"], other.id)
    assert done.code == 0, done.err
    assert "intervals alone: apart in accuracy" in done.out
    tracking.client().delete_run(other.id)


def test_runs_that_cannot_be_laid_side_by_side(
    result: dict[str, Any], there: Run, tmp_path: Path
) -> None:
    child = row(result, "mlp")["run"]
    unfinished = tracking.start_run(TASK, {}, {}, "made")
    elsewhere = tracking.start_run("forecasting", {}, {}, "made")
    for words, said in (
        ([child], "accepted: two or more"),
        ([child, child[:9]], "is there twice"),
        ([child, "nothing"], "no run 'nothing'"),
        ([child, unfinished.id], "has no readable report.json"),
        ([child, elsewhere.id], "forecasting and image-classification"),
    ):
        done = there("runs", "compare", *words)
        assert (done.code, done.out) == (2, ""), done
        assert said in done.err
        assert done.err.count("\n") == 1
    for each in (unfinished, elsewhere):
        tracking.client().delete_run(each.id)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "mlp,lenet,renset"], ["--models", "did you mean 'resnet'?"]),
        (["--models", "mlp, mlp"], ["'mlp' is there twice"]),
        (["--models", "resnet,resnet-20"], ["'resnet' and 'resnet-20' are one model"]),
        (["--models", " ,"], ["--models: got ' ,', an empty list"]),
        (["--models", ""], ["--models: got '', an empty list"]),
        (["--models", "mlp,absent.nets:net"], ["module 'absent.nets'"]),
        (["-p", "dropuot=0.1"], ["none of the models", "did you mean 'dropout'?"]),
        (["-p", "renset.dropout=0.1"], ["not in --models", "did you mean 'resnet'?"]),
        (["-p", "mlp.dropuot=0.1"], ["mlp has no parameter", "did you mean 'dropout'?"]),
        (["-p", "dropout=much"], ["-p dropout: got 'much'"]),
        (["--models", "resnet-20", "-p", "variant=32"], ["the names in --models say it already"]),
        (["--data", "digist"], ["did you mean 'digits'?"]),
        (["--batch-size", "8", "--micro-batch", "9"], ["--micro-batch", "1 to the batch size"]),
        (["--augment", "flop"], ["did you mean 'flip'?"]),
        (["--time-limit", "soon"], ["such as 90s, 10m or 1h30m"]),
        (["--model", "mlp"], ["--model"]),
        (["--resume", "0123456789"], ["no run '0123456789'"]),
    ],
    ids=lambda value: " ".join(value)[-40:],
)
def test_mistakes_are_told_before_the_first_model_trains(
    dlkit: Run, arguments: list[str], words: list[str]
) -> None:
    done = dlkit(*COMPARE, *arguments)
    assert (done.code, done.out) == (2, ""), done
    for word in words:
        assert word in done.err, done.err
    assert done.err.count("\n") == 1
    assert dlkit("runs", "list", "--json").out == ""


def test_parameters_go_to_the_models_that_have_them() -> None:
    given = {"mlp.depth": 1, "filters": 8}
    plans, notes = configs(complete(Comparison(models="mlp,lenet,resnet-32", params=given)))
    assert {name: plan.params for name, plan in plans.items()} == {
        "mlp": {"depth": 1},
        "lenet": {},
        "resnet-32": {"filters": 8},
    }
    assert notes == ["-p filters applies to resnet-32; not to mlp, lenet"]
    assert {plan.time_limit for plan in plans.values()} == {120.0}
    # What is said of one wins over what is said of all.
    plans, _ = configs(Comparison(models="mlp,lenet", params={"mlp.dropout": 0.5, "dropout": 0.1}))
    assert [plan.params["dropout"] for plan in plans.values()] == [0.5, 0.1]
    # A family trains by its own presets where nothing else is said.
    plans, _ = configs(complete(Comparison(models="mlp,lenet")))
    for name, plan in plans.items():
        assert plan == resolve(Config, {"model": name, "time_limit": 120.0})
    plans, _ = configs(complete(Comparison(models="mlp,lenet", batch_size=32)))
    assert {plan.batch_size for plan in plans.values()} == {32}
    assert complete(Comparison(epochs=3)).time_limit is None
    families = complete(Comparison()).models.split(",")
    assert {"mlp", "lenet", "resnet"} <= set(families)
    assert not any(name.startswith("applications") for name in families)


@pytest.mark.slow
def test_ctrl_c_prints_what_finished_and_resume_goes_on(dlkit: Run, small: Path) -> None:
    log = tracking.Run.metrics

    def metrics(self: tracking.Run, step: int, values: dict[str, float]) -> None:
        log(self, step, values)
        model = tracking.client().get_run(self.id).data.tags["dlkit.model"]
        if model == "lenet" and step == 1:
            signal.raise_signal(signal.SIGINT)

    words = ("--models", "mlp,lenet,mlp-again:net", "--data", small)
    Path("mlp-again.py").write_text(
        "import keras\n\n\ndef net(spec, *, units: int = 4):\n"
        "    return keras.Sequential([keras.Input(spec.input_shape), keras.layers.Flatten(),"
        " keras.layers.Dense(units), keras.layers.Dense(spec.outputs)])\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking.Run, "metrics", metrics)
        done = dlkit(*COMPARE, *words, *SHORT, "--epochs", 2, "--json")
    assert done.code == 130
    stopped = done.json
    states = {r["model"]: r["status"] for r in stopped["models"]}
    assert states == {"mlp": "FINISHED", "lenet": "KILLED", "mlp-again:net": "NOT RUN"}
    assert f"compare --resume {stopped['run'][:8]}" in done.err
    store = tracking.client()
    assert store.get_run(stopped["run"]).info.status == "KILLED"
    killed = row(stopped, "lenet")["run"]
    assert store.get_run(killed).info.status == "KILLED"
    done = dlkit(TASK, "export", stopped["run"], "--out", "x")
    assert done.code == 2
    assert f"compare --resume {stopped['run'][:8]}" in done.err
    assert dlkit(TASK, "export", "latest", "--out", "x").code == 2

    # By a child's id: it means the comparison.
    done = dlkit(*COMPARE, "--resume", killed, "--json")
    assert done.code == 0, done.err
    ended = done.json
    assert ended["run"] == stopped["run"]
    assert [r["status"] for r in ended["models"]] == ["FINISHED"] * 3
    assert row(ended, "mlp")["run"] == row(stopped, "mlp")["run"]
    assert row(ended, "lenet")["run"] == killed
    assert len(tracking.children(ended["run"])) == 3
    assert store.get_run(ended["run"]).info.status == "FINISHED"
    steps = [m.step for m in store.get_metric_history(killed, "loss")]
    assert steps == [1, 2]
    assert tracking.find_run("latest", TASK).info.run_id == ended["models"][0]["run"]


@pytest.mark.slow
def test_nothing_that_trains_is_an_error_with_every_reason(dlkit: Run, small: Path) -> None:
    Path("broken.py").write_text(
        "import keras\n\n\ndef raises(spec):\n    raise KeyError('filters')\n\n\n"
        "def nan(spec):\n"
        "    return keras.Sequential([keras.Input(spec.input_shape),"
        " keras.layers.Rescaling(float('nan')), keras.layers.Flatten(),"
        " keras.layers.Dense(spec.outputs)])\n"
    )
    done = dlkit(*COMPARE, "--models", "broken:raises,broken:nan", "--data", small, *SHORT)
    assert (done.code, done.out) == (2, "")
    last = done.err.strip().splitlines()[-1]
    assert "no model could be trained" in last
    assert "broken:raises: KeyError: 'filters'" in last
    assert "the loss is nan" in last.partition("broken:nan: ")[2]
    # A fault of somebody's code shows where it is.
    assert "Traceback" in done.err
    assert "broken.py" in done.err
    listed = [json.loads(line) for line in dlkit("runs", "list", "--json").out.splitlines()]
    assert {each["status"] for each in listed} == {"FAILED"}


def test_paired_differences_of_known_cases(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 400)
    odds = generator.dirichlet((1, 1, 1), 400)
    right = np.eye(3)[y] * 0.8 + 0.1 * (1 - np.eye(3)[y])
    read = {}
    for name, probabilities in (("guess", odds), ("right", right)):
        paired.write(probabilities, y, tmp_path / f"{name}.npz")
        with np.load(tmp_path / f"{name}.npz") as arrays:
            read[name] = dict(arrays)
    found = paired.differences(read["guess"], read["right"])
    share = np.mean(odds.argmax(1) == y)
    assert found["accuracy"]["difference"] == pytest.approx(1 - share)
    assert found["accuracy"]["interval"][0] > 0
    assert found["only_first_right"] == 0
    assert found["only_second_right"] == round(400 * (1 - share))
    # By the normal approximation of a mean of 400 differences.
    loss = np.log(odds[np.arange(400), y]) - np.log(0.8)
    half = 1.96 * loss.std() / 20
    assert found["log_loss"]["difference"] == pytest.approx(loss.mean(), abs=1e-5)
    low, high = found["log_loss"]["interval"]
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)
    back = paired.differences(read["right"], read["guess"])
    assert back["accuracy"]["difference"] == -found["accuracy"]["difference"]
