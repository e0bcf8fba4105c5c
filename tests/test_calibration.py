"""Temperature scaling against known temperatures, reliability, and what is said of other data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from made import LABELS, Done, pictures

from dlkit.data.spec import Split
from dlkit.evaluation.calibration import (
    HIGHEST,
    LOWEST,
    calibrate,
    fit_temperature,
    softmax,
    uncalibrated,
)
from dlkit.evaluation.classification import reliability, scores
from dlkit.evaluation.drift import drift
from dlkit.evaluation.report import classification_report

Run = Callable[..., Done]
TASK = "image-classification"


def honest(n: int, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the very distribution that the labels are drawn from."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=2.0, size=(n, classes))
    p = softmax(logits)
    return logits, (p.cumsum(1) < generator.random((n, 1))).sum(1).clip(max=classes - 1)


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_of_made_logits_is_found(true: float) -> None:
    logits, y = honest(20_000)
    found = fit_temperature(true * logits, y)
    assert found == pytest.approx(true, rel=0.03)
    least = scores(softmax(true * logits, found), y)["log_loss"]
    for beside in (found * 0.99, found * 1.01):
        assert scores(softmax(true * logits, beside), y)["log_loss"] > least


def test_an_over_confident_model_becomes_honest_on_rows_it_was_not_fitted_to() -> None:
    logits, y = honest(4_000)
    found = calibrate(4 * logits[:2_000], y[:2_000])
    assert found.temperature == found.fitted == pytest.approx(4.0, rel=0.1)
    assert found.log_loss["after"] < found.log_loss["cross_validated"] < found.log_loss["before"]
    assert found.ece["after"] < found.ece["before"] / 3
    assert found.note.startswith("calibrated: logits divided by")
    before = scores(softmax(4 * logits[2_000:]), y[2_000:])
    after = scores(softmax(4 * logits[2_000:], found.temperature), y[2_000:])
    assert after["ece"] < before["ece"] / 3
    assert after["log_loss"] < before["log_loss"]
    assert after["accuracy"] == before["accuracy"]


def test_what_fits_no_temperature_is_left_alone() -> None:
    y = np.arange(300) % 3
    right = 3 * np.eye(3)[y] + np.random.default_rng(0).normal(scale=0.3, size=(300, 3))
    found = calibrate(right, y)
    assert (found.temperature, found.fitted) == (1.0, None)
    assert "all 300 validation images are right" in found.note
    assert found.log_loss["after"] == found.log_loss["before"]
    # One mistake: the folds without it would make every answer as sure as can be.
    one = y.copy()
    one[7] = (y[7] + 1) % 3
    found = calibrate(2 * right, one)
    assert found.temperature == 1.0
    assert "does not lower the log loss" in found.note
    assert "at least 10" in calibrate(right[:9], one[:9]).note
    json.dumps(found.log_loss, allow_nan=False)


def test_temperatures_stay_within_bounds() -> None:
    y = np.zeros(50, int)
    assert fit_temperature(np.tile([1.0, 0.0], (50, 1)), y) == LOWEST
    assert fit_temperature(np.tile([0.0, 1.0], (50, 1)), y) == HIGHEST


def test_calibration_can_be_undone() -> None:
    logits, _ = honest(200)
    for temperature in (0.5, 3.0):
        p = softmax(logits, temperature).astype(np.float32)
        np.testing.assert_allclose(uncalibrated(p, temperature), softmax(logits), atol=1e-5)


def test_the_bins_give_the_calibration_error() -> None:
    logits, y = honest(500)
    p = softmax(2 * logits)
    bins = reliability(p, y)
    assert sum(b["rows"] for b in bins) == 500
    gap = sum(b["rows"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / 500
    assert gap == pytest.approx(scores(p, y)["ece"])
    assert all(b["low"] <= b["confidence"] <= b["high"] for b in bins)


def test_the_report_tells_of_both_sides_of_calibration(tmp_path: Path) -> None:
    from dataclasses import asdict

    x, _ = pictures(400, side=6)
    logits, y = honest(800, classes=3)
    found = asdict(calibrate(3 * logits[400:], y[400:]))
    rows = Split(x, y[:400].astype(np.int32), tuple(map(str, range(400))), lambda i: b"")
    p = softmax(3 * logits[:400], found["temperature"])
    report = classification_report(p, rows, rows, LABELS, tmp_path / "a", calibration=found)
    told = report["calibration"]["test"]
    assert told["ece"]["before"] == pytest.approx(scores(softmax(3 * logits[:400]), y[:400])["ece"])
    assert told["ece"]["after"] == report["metrics"]["ece"] < told["ece"]["before"]
    assert found["note"] in report["notes"]
    assert json.loads((tmp_path / "a/report.json").read_text())["calibration"]["rows"] == 400
    classification_report(p, rows, rows, LABELS, tmp_path / "b")
    sizes = []
    for folder in ("a", "b"):
        from PIL import Image

        with Image.open(tmp_path / folder / "reliability.png") as picture:
            sizes.append(picture.width)
    assert sizes[0] > 1.5 * sizes[1]


@pytest.mark.slow
def test_an_overtrained_run_is_calibrated_and_its_export_answers_so(dlkit: Run) -> None:
    x, y = pictures(900, side=8, seed=3)
    noisy = np.random.default_rng(0).random(900) < 0.3
    y = np.where(noisy, np.random.default_rng(1).integers(0, 3, 900), y)
    parts = np.split(np.arange(900), (300, 600))
    arrays = {f"x_{k}": x[at] for k, at in zip(("train", "val", "test"), parts, strict=True)}
    named = np.array(LABELS)[y]
    arrays |= {f"y_{k}": named[at] for k, at in zip(("train", "val", "test"), parts, strict=True)}
    np.savez("noisy.npz", allow_pickle=False, **arrays)
    train = (TASK, "train", "--data", "noisy.npz", "--model", "mlp", "--epochs", "20")
    train += ("--augment", "none", "-p", "dropout=0", "--learning-rate", "0.01")
    done = dlkit(*train, "--json")
    assert done.code == 0, done.err
    report = json.loads(Path(done.json["report"]).read_text())
    told = report["calibration"]
    assert told["temperature"] > 1.1
    assert told["log_loss"]["after"] < told["log_loss"]["before"]
    assert told["test"]["ece"]["after"] < told["test"]["ece"]["before"]
    assert told["test"]["ece"]["after"] == done.json["metrics"]["ece"]
    manifest = json.loads(Path(done.json["export"], "1/assets.extra/dlkit.json").read_text())
    assert manifest["temperature"] == told["temperature"]
    assert manifest["calibration"]["ece"] == told["ece"]

    from dlkit import tracking
    from pipelines.image_classification.config import Config
    from pipelines.image_classification.rebuilt import rebuild

    run = tracking.Run(done.json["run"], TASK, tracking.client())
    path = tracking.checkpoint_folder(run.id) / "checkpoint.npz"
    labels, config = tuple(manifest["labels"]), Config(**tracking.config_of(run.id))
    model, preprocess = rebuild(run, config, path, (8, 8, 1), labels)
    logits = model(preprocess(tf.cast(x[:50], tf.float32)), training=False).numpy()
    endpoint = tf.saved_model.load(f"{done.json['export']}/1").signatures["from_pixels"]
    answers = endpoint(pixels=tf.constant(x[:50]))["probabilities"].numpy()
    np.testing.assert_allclose(answers, softmax(logits, told["temperature"]), atol=1e-5)
    again = dlkit(TASK, "evaluate", "latest", "--json").json
    assert again["metrics"] == done.json["metrics"]

    plain = dlkit(*train, "--no-calibrate", "--json").json
    report = json.loads(Path(plain["report"]).read_text())
    assert "calibration" not in report
    assert plain["metrics"]["log_loss"] == pytest.approx(told["test"]["log_loss"]["before"], 1e-3)


def answers(n: int, share: tuple[float, ...], sharpness: float, seed: int) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    y = generator.choice(3, n, p=share)
    logits = generator.normal(size=(n, 3))
    logits[np.arange(n), y] += sharpness
    return softmax(logits), y


EVEN = (1 / 3, 1 / 3, 1 / 3)


def test_no_drift_is_found_where_there_is_none() -> None:
    own, trained = answers(1_000, EVEN, 3.0, 0)[0], answers(5_000, EVEN, 3.0, 1)[1]
    found = [drift(*answers(800, EVEN, 3.0, seed), own, trained, LABELS) for seed in range(2, 22)]
    assert not any(f["found"] for f in found)
    assert found[0]["notes"][0].startswith("no drift found")
    # Under no shift p is uniform: small ones come as often as they should.
    p = [f["label_shift"]["p"] for f in found]
    assert 0.2 < np.mean(p) < 0.8
    assert sum(value < 0.05 for value in p) <= 4


def test_each_drift_is_found_and_told_in_words() -> None:
    own, trained = answers(1_000, EVEN, 4.0, 0)[0], answers(5_000, EVEN, 4.0, 1)[1]
    found = drift(*answers(400, (0.6, 0.2, 0.2), 4.0, 2), own, trained, LABELS)
    assert found["label_shift"]["found"] and found["prediction_shift"]["found"]
    assert not found["confidence_shift"]["found"]
    assert found["label_shift"]["label"] == "cross"
    assert 0.2 < found["label_shift"]["distance"] < 0.35
    assert "'cross' is 0.59" in found["notes"][0] and "p < 0.001" in found["notes"][0]
    found = drift(*answers(400, EVEN, 1.0, 3), own, trained, LABELS)
    assert not found["label_shift"]["found"]
    shift = found["confidence_shift"]
    assert shift["found"] and shift["mean"] < shift["mean_before"] and shift["p"] < 1e-3
    assert "confidence is lower than on the run's own test split" in found["notes"][-1]
    few = drift(*answers(20, EVEN, 4.0, 4), own, trained, LABELS)
    assert "20 images show a large shift only" in few["notes"][-1]


@pytest.mark.usefixtures("undrawn")
def test_evaluate_on_other_data_tells_of_drift(
    run_there: Run, tmp_path: Path, trained: tuple
) -> None:
    x, y = pictures(240, seed=9)
    keep = y != 1
    np.savez(tmp_path / "other.npz", x=x[keep], y=np.array(LABELS)[y[keep]])
    done = run_there(TASK, "evaluate", "latest", "--data", tmp_path / "other.npz")
    assert done.code == 0, done.err
    assert "drift: the labels differ from those in training: 'stripe' is 0.00" in done.out
    own = run_there(TASK, "evaluate", "latest", "--json").json
    assert "drift" not in json.loads(Path(own["report"]).read_text())
    x, y = pictures(150)  # what the run was trained on
    np.savez(tmp_path / "same.npz", x=x, y=np.array(LABELS)[y])
    done = run_there(TASK, "evaluate", "latest", "--data", tmp_path / "same.npz")
    assert "no drift found" in done.out
    assert "120 of 150 of these images also stand in the run's train" in done.err
    report = next(line.split()[1] for line in done.out.splitlines() if line[:6] == "report")
    told = json.loads(Path(report).read_text())["drift"]
    assert (told["found"], told["label_shift"]["distance"] < 0.05) == (False, True)
