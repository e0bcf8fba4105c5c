"""Image classification end to end: train, look, evaluate, predict, export, register, go on."""

from __future__ import annotations

import base64
import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tensorflow as tf
from made import LABELS, Done, pictures
from PIL import Image

from dlkit.data.pixels import encode_png

Run = Callable[..., Done]
TASK = "image-classification"


def test_train_prints_one_object_with_all_that_was_promised(in_trained: dict[str, Any]) -> None:
    assert set(in_trained) == {
        "run", "task", "model", "data", "split", "metrics", "intervals", "baselines", "report",
        "export", "seconds",
    }  # fmt: skip
    assert in_trained["split"] == "test"
    assert set(in_trained["metrics"]) == {"accuracy", "macro_f1", "log_loss", "ece"}
    assert in_trained["metrics"]["accuracy"] > 0.9
    assert set(in_trained["baselines"]) == {"majority_class", "nearest_neighbour"}
    assert Path(in_trained["report"]).is_absolute()
    assert Path(in_trained["export"], "1", "saved_model.pb").is_file()


def test_the_run_holds_all_that_made_it(in_trained: dict[str, Any], run_there: Run) -> None:
    shown = run_there("runs", "show", in_trained["run"][:6], "--json").json
    assert shown["status"] == "FINISHED"
    for name in (
        "config.json",
        "environment.json",
        "model.json",
        "report.json",
        "confusion.png",
        "mistakes.png",
        "reliability.png",
        "preprocess.json",
        "curves.png",
    ):
        assert name in shown["files"], name
    assert shown["parameters"]["model"] == "mlp"
    assert shown["parameters"]["units"] == "512"
    assert len(shown["tags"]["dlkit.data_fingerprint"]) == 64
    assert {"loss", "val_accuracy", "learning_rate", "test_accuracy"} <= set(shown["metrics"])
    listed = run_there("runs", "list", "--json").json
    assert listed["run"] == in_trained["run"]
    human = run_there("runs", "list").out
    assert human.startswith(in_trained["run"][:8])
    assert "accuracy" in human


def test_evaluate_repeats_what_training_said(in_trained: dict[str, Any], run_there: Run) -> None:
    again = run_there(TASK, "evaluate", "latest", "--json").json
    for name in ("metrics", "intervals", "baselines"):
        assert again[name] == in_trained[name]
    assert Path(again["report"]).is_file()
    assert Path(again["report"]) != Path(in_trained["report"])


def test_evaluate_on_other_data(run_there: Run, tmp_path: Path) -> None:
    x, y = pictures(60, side=15, seed=9)
    keep = y != 1
    np.savez(tmp_path / "other.npz", x=x[keep], y=np.array(LABELS)[y[keep]])
    done = run_there(TASK, "evaluate", "latest", "--data", tmp_path / "other.npz", "--json")
    assert done.json["split"] == "all"
    assert json.loads(Path(done.json["report"]).read_text())["rows"] == 40
    np.savez(tmp_path / "wrong.npz", x=x, y=np.array(["dott", "cross", "stripe"])[y])
    done = run_there(TASK, "evaluate", "latest", "--data", tmp_path / "wrong.npz")
    assert done.code == 2
    assert "no class 'dott' (did you mean 'dot'?)" in done.err


def test_predict_labels_files_as_the_exported_graph_does(
    in_trained: dict[str, Any], run_there: Run, tmp_path: Path
) -> None:
    x, y = pictures(12, side=12, seed=5)
    for i, image in enumerate(x):
        Image.fromarray(image.squeeze()).resize((24, 24) if i % 2 else (12, 12)).save(
            tmp_path / f"{i:02}.png"
        )
    (tmp_path / "broken.png").write_text("no image")
    rows = [
        json.loads(line)
        for line in run_there(TASK, "predict", "latest", tmp_path, "--json").out.splitlines()
    ]
    assert [Path(r["file"]).name for r in rows] == [f"{i:02}.png" for i in range(12)]
    loaded = tf.saved_model.load(f"{in_trained['export']}/1")
    direct = loaded.signatures["serving_default"](
        image=tf.constant([Path(r["file"]).read_bytes() for r in rows])
    )
    assert [r["label"] for r in rows] == [v.decode() for v in direct["label"].numpy()]
    np.testing.assert_allclose(
        [r["probability"] for r in rows], direct["probability"].numpy(), rtol=1e-5
    )
    right = [r["label"] == LABELS[label] for r, label in zip(rows, y, strict=True)]
    assert np.mean(right) > 0.6

    done = run_there(TASK, "predict", "latest", tmp_path, "--output", tmp_path / "out.csv")
    assert "1 unreadable image left out" in done.err
    table = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [r["label"] for r in table] == [r["label"] for r in rows]
    assert float(table[0]["dot"]) == pytest.approx(rows[0]["probabilities"]["dot"])
    human = run_there(TASK, "predict", in_trained["export"], tmp_path / "00.png").out
    assert rows[0]["label"] in human
    strict = run_there(TASK, "predict", "latest", tmp_path, "--strict")
    assert (strict.code, strict.out) == (2, "")
    none = run_there(TASK, "predict", "latest", tmp_path / "broken.png")
    assert none.code == 2
    assert f"INPUT: the image cannot be read: {tmp_path}/broken.png; accepted: .png" in none.err


def test_export_copies_a_whole_artefact(
    in_trained: dict[str, Any], run_there: Run, tmp_path: Path
) -> None:
    assert run_there(TASK, "export", "latest", "--out", tmp_path / "m").code == 0
    manifest = json.loads((tmp_path / "m/1/assets.extra/dlkit.json").read_text())
    assert manifest["labels"] == sorted(LABELS)
    assert manifest["parity"]["largest_difference"] <= 1e-5
    assert set(manifest["endpoints"]) == {"serving_default", "from_pixels"}
    again = run_there(TASK, "export", "latest", "--out", tmp_path / "m")
    assert again.code == 2
    assert "exists" in again.err
    assert run_there(TASK, "export", "latest", "--out", tmp_path / "m", "--version", "2").code == 0
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["1", "2"]
    (tmp_path / "m/1/saved_model.pb").write_bytes(b"changed")
    altered = run_there(TASK, "predict", tmp_path / "m", tmp_path)
    assert altered.code == 2


def test_an_altered_export_is_refused(run_there: Run, tmp_path: Path) -> None:
    assert run_there(TASK, "export", "latest", "--out", tmp_path / "m").code == 0
    (tmp_path / "m/1/variables/more").write_text("")
    Image.new("L", (12, 12)).save(tmp_path / "x.png")
    for command in (
        (TASK, "predict", tmp_path / "m", tmp_path / "x.png"),
        ("serve", tmp_path / "m", "--port", "0"),
    ):
        done = run_there(*command)
        assert done.code == 2
        assert "was altered: variables/more" in done.err


def test_registered_models_resolve_everywhere(
    in_trained: dict[str, Any], run_there: Run, tmp_path: Path
) -> None:
    done = run_there("runs", "register", "latest", "shapes@prod")
    assert "models:/shapes/1" in done.out
    Image.new("L", (12, 12)).save(tmp_path / "x.png")
    for ref in ("models:/shapes@prod", "models:/shapes/1"):
        assert run_there(TASK, "predict", ref, tmp_path / "x.png").code == 0
    wrong = run_there(TASK, "predict", "models:/shape@prod", tmp_path / "x.png")
    assert "did you mean 'shapes'?" in wrong.err


def test_the_server_answers_as_predict_does(
    in_trained: dict[str, Any], run_there: Run, tmp_path: Path
) -> None:
    x, _ = pictures(3, side=12, seed=6)
    for i, image in enumerate(x):
        (tmp_path / f"{i}.png").write_bytes(encode_png(image))
    told = run_there(TASK, "predict", "latest", tmp_path, "--json").out.splitlines()
    command = [sys.executable, "-m", "pipelines.cli", "serve", "shapes=latest", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        url = server.stdout.readline().split(": ")[1].strip()
        files = sorted(tmp_path.glob("*.png"))
        rows = [{"b64": base64.b64encode(f.read_bytes()).decode()} for f in files]
        by_bytes = httpx.post(url, json={"instances": rows}).json()["predictions"]
        body = {"signature_name": "from_pixels", "instances": x.tolist()}
        by_pixels = httpx.post(url, json=body).json()["predictions"]
        server.terminate()
        log = server.communicate(timeout=20)[1]
    assert server.returncode == 0, log
    assert by_bytes == by_pixels
    for answer, row in zip(by_bytes, map(json.loads, told), strict=True):
        assert answer["label"] == row["label"]
        assert answer["probability"] == pytest.approx(row["probability"], abs=1e-5)


def test_the_logged_model_is_a_pyfunc_without_dlkit(in_trained: dict[str, Any]) -> None:
    import mlflow

    loaded: Any = mlflow.pyfunc.load_model(str(Path(in_trained["export"]).parents[1]))
    x, _ = pictures(3, side=12, seed=5)
    encoded = [encode_png(image) for image in x]
    text = [base64.b64encode(image).decode() for image in encoded]
    for image in (encoded, text):
        answers = loaded.predict({"image": np.array(image, dtype=object)})
        assert set(answers) == {"label", "probability", "probabilities"}
        assert set(answers["label"]) <= set(LABELS)
    requirements = (Path(in_trained["export"]).parents[1] / "requirements.txt").read_text()
    assert "dlkit" not in requirements


@pytest.mark.usefixtures("unchecked", "undrawn")
def test_a_folder_of_photos_a_config_and_growing(dlkit: Run, photos: Path) -> None:
    Path("run.toml").write_text(
        f'data = "{photos}/"\nmodel = "lenet"\nepochs = 9\nbatch_size = 8\n[params]\ndropout = 0.2\n'
    )
    first = dlkit(
        TASK, "train", "--config", "run.toml", "--epochs", "2", "-p", "activation=tanh", "--json"
    )
    assert first.code == 0, first.err
    assert first.err == ""
    config = Path(first.json["report"]).with_name("config.json")
    values = json.loads(config.read_text())
    assert values["params"] == {"dropout": 0.2, "activation": "tanh"}
    assert (values["epochs"], values["batch_size"], values["model"]) == (2, 8, "lenet")

    smaller = dlkit(TASK, "train", "--resume", "latest", "--epochs", "1")
    assert "may only grow" in smaller.err
    timed = dlkit(TASK, "train", "--resume", "latest", "--time-limit", "1m")
    assert "planned by --epochs" in timed.err
    grown = dlkit(TASK, "train", "--resume", first.json["run"][:8], "--epochs", "4")
    assert grown.code == 0
    assert "epoch 4/4" in grown.err
    assert "epoch 2/" not in grown.err
    assert f"run     {first.json['run']}" in grown.out
    shutil.copy(config, "again.json")
    again = dlkit(TASK, "train", "--config", "again.json", "--epochs", "1", "--json")
    assert again.code == 0
    listed = [json.loads(line) for line in dlkit("runs", "list", "--json").out.splitlines()]
    assert [row["status"] for row in listed] == ["FINISHED", "FINISHED"]


@pytest.mark.usefixtures("unchecked", "undrawn")
def test_changed_data_are_not_gone_on_with(dlkit: Run) -> None:
    x, y = pictures(60)
    np.savez("a.npz", x=x, y=y)
    assert dlkit(TASK, "train", "--data", "a.npz", "--model", "mlp", "--epochs", "1").code == 0
    np.savez("a.npz", x=x[::-1], y=y)
    done = dlkit(TASK, "train", "--resume", "latest", "--epochs", "2")
    assert done.code == 2
    assert "have changed since it started" in done.err
    assert dlkit("runs", "list", "--json").json["status"] == "FINISHED"


@pytest.mark.usefixtures("unchecked", "undrawn")
def test_a_broken_checkpoint_is_told_and_nothing_else_is_lost(dlkit: Run, npz: Path) -> None:
    done = dlkit(TASK, "train", "--data", npz, "--model", "mlp", "--epochs", "1", "--json")
    path = Path(f"mlruns/checkpoints/{done.json['run']}/checkpoint.npz")
    path.write_bytes(path.read_bytes()[:-200])
    again = dlkit(TASK, "train", "--resume", "latest", "--epochs", "2")
    assert again.code == 2
    assert "is broken" in again.err.splitlines()[-1]
    assert dlkit("runs", "list", "--json").json["status"] == "FINISHED"
    assert Path(done.json["export"], "1", "saved_model.pb").is_file()
    path.unlink()
    anew = dlkit(TASK, "train", "--resume", done.json["run"], "--epochs", "2", "--json")
    assert anew.code == 0, anew.err
    assert anew.json["run"] == done.json["run"]


@pytest.mark.usefixtures("unchecked", "undrawn")
def test_a_time_limit_fixes_the_steps_and_ends_the_schedule_at_zero(dlkit: Run, npz: Path) -> None:
    from dlkit import checkpoint

    done = dlkit(TASK, "train", "--data", npz, "--model", "mlp", "--time-limit", "6s", "--json")
    assert done.code == 0
    _, state = checkpoint.load(Path(f"mlruns/checkpoints/{done.json['run']}/checkpoint.npz"))
    assert state["step"] == state["total"]
    assert state["finished"] == "planned steps done"
    shown = dlkit("runs", "show", "latest", "--json").json
    # The last of few steps, on a busy machine, is a small share of the way from the end.
    assert shown["metrics"]["learning_rate"] < 1e-4
    assert state["seconds"] == pytest.approx(6, rel=0.2)
