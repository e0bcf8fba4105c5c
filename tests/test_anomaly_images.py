"""Detectors of images: their data, convolutions, Deep SVDD, and encoders that start elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from made import LABELS, REAL_DATA, Done, pictures

from dlkit import checkpoint, models, training
from dlkit.data.anomalies import AnomalyData
from dlkit.data.anomaly_images import load_images_for_detection
from dlkit.data.spec import DetectorSpec
from dlkit.detection import centre
from dlkit.errors import DataError, SpecError
from dlkit.models.deep_svdd import Centre
from pipelines.anomaly_detection import setup
from pipelines.anomaly_detection.config import Config, load
from pipelines.anomaly_detection.setup import compiled_model, fitted

TASK = "anomaly-detection"
Runs = Callable[..., Done]
TRAIN = (TASK, "train", "--normal-class", "cross", "--epochs", "2", "--batch-size", "10")
SMALL = {"filters": [4, 4], "latent_dim": 6}


@pytest.fixture(scope="module")
def crosses(npz: Path) -> AnomalyData:
    """Crosses are normal: 25 of 50 train, 5 of them held out."""
    return load_images_for_detection(str(npz), normal_class=["cross"])


def given(path: Path, **splits: int) -> dict[str, np.ndarray]:
    """Write an .npz of so many images a split; return its arrays."""
    arrays = {}
    for seed, (name, count) in enumerate(splits.items()):
        x, y = pictures(count, seed=seed)
        arrays |= {f"x_{name}": x, f"y_{name}": np.array(LABELS)[y]}
    np.savez(path, **arrays)
    return arrays


def test_a_given_test_split_is_the_test(tmp_path: Path) -> None:
    made = given(tmp_path / "two.npz", train=90, test=30)
    data = load_images_for_detection(str(tmp_path / "two.npz"), normal_class=["cross", "dot"])
    assert (len(data.train), len(data.holdout), len(data.test)) == (48, 12, 30)
    assert np.array_equal(data.inputs(data.test.at)["pixels"], made["x_test"])
    assert np.array_equal(data.test.y, made["y_test"] == "stripe")
    both = np.concatenate([data.train.at, data.holdout.at])
    assert sorted(both) == np.flatnonzero(made["y_train"] != "stripe").tolist()
    assert not data.train.y.any()
    assert data.spec == DetectorSpec((12, 12, 1), 144, tuple(sorted(LABELS)), kind="images")
    seen = np.asarray(data.prepare(*data.arrays(data.train.at)))
    assert (seen.mean(), seen.std()) == (pytest.approx(0, abs=1e-4), pytest.approx(1, abs=1e-4))
    again = np.asarray(data.preprocess(data.inputs(data.train.at)))
    assert np.array_equal(seen, again)


def test_a_given_validation_split_is_held_out(tmp_path: Path) -> None:
    made = given(tmp_path / "three.npz", train=60, val=30, test=30)
    data = load_images_for_detection(str(tmp_path / "three.npz"), normal_class=["dot"])
    assert (len(data.train), len(data.holdout), len(data.test)) == (20, 10, 30)
    own = made["x_val"][made["y_val"] == "dot"]
    assert np.array_equal(data.inputs(data.holdout.at)["pixels"], own)
    mixed = load_images_for_detection(
        str(tmp_path / "three.npz"), normal_class=["dot"], contaminated=True
    )
    assert (len(mixed.train), len(mixed.holdout), mixed.train.y.sum()) == (60, 30, 40)
    assert mixed.contaminated


def test_without_a_test_split_half_of_the_normal_train(crosses: AnomalyData) -> None:
    assert (len(crosses.train), len(crosses.holdout), len(crosses.test)) == (20, 5, 125)
    assert crosses.test.y.sum() == 100
    assert "20 images to train on, 5 held out, 125 to test, 100 anomalies" in crosses.describe()


def test_on_disk_as_in_memory(photos: Path) -> None:
    held, left = (
        load_images_for_detection(
            f"{photos}/", normal_class=["cross", "dot"], stream=stream, split_seed=3
        )
        for stream in (False, True)
    )
    assert held.fingerprint() == left.fingerprint()
    one, two = (
        np.asarray(d.prepare(*map(tf.constant, d.arrays(d.train.at)))) for d in (held, left)
    )
    assert np.array_equal(one, two)


def test_other_images_are_brought_to_the_size_of_the_run(tmp_path: Path) -> None:
    x, y = pictures(90, side=16)
    np.savez(tmp_path / "large.npz", x=x, y=np.array(LABELS)[y])
    config = Config(data=str(tmp_path / "large.npz"), normal_class="cross")
    assert load(config).spec.input_shape == (16, 16, 1)
    data = load(config, {"input_shape": [12, 12, 1]})
    assert data.inputs(data.test.at)["pixels"].shape[1:] == data.spec.input_shape == (12, 12, 1)


def test_too_few_normal_images(tmp_path: Path) -> None:
    given(tmp_path / "few.npz", train=30, test=9)
    with pytest.raises(DataError, match="8 normal images to train on and 2 held out"):
        load_images_for_detection(str(tmp_path / "few.npz"), normal_class=["dot"])
    with pytest.raises(DataError, match=r"no class 'dots' \(did you mean 'dot'\?\)"):
        load_images_for_detection(str(tmp_path / "few.npz"), normal_class=["dots"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--data", "digits"], "--data digits: of images, say which are normal: --normal-class"),
        (["--data", "tfds:mnist"], "say which are normal"),
        (["--data", "digits", "--normal-class", "33"], "no class '33' (did you mean '3'?)"),
        (["--data", "digits", "--normal-class", ","], "names no class; accepted: 0, 1, 2"),
        (["--data", "digit", "--normal-class", "3"], "did you mean 'digits'?"),
        (["--data", "{photos}/", "--normal-class", "crss"], "did you mean 'cross'?"),
        (["--data", "digits", "--normal-class", "3", "--label", "y"], "--label is for tables"),
        (["--init-from", "0000"], "no run '0000'"),
        (["--model", "conv-autoencoder"], "these are rows of a table; take autoencoder"),
        (["--model", "deep-svdd", "-p", "filters=[0]"], "-p filters: got 0; accepted: at least 1"),
    ],
)
def test_mistakes(dlkit: Runs, photos: Path, more: list[str], words: str) -> None:
    done = dlkit(TASK, "train", *(text.format(photos=photos) for text in more))
    assert done.code == 2, done.err
    assert words in done.err
    assert not list(Path("mlruns").glob("artifacts/*/artifacts/report.json"))


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((4, 5, 3), "images"),
        ((33, 17, 1), "images"),
        ((1, 9, 1), "images"),
        ((28, 28, 1), "images"),
        ((13, 2), "series"),
        ((6,), "table"),
    ],
)
def test_takes_examples_of_any_size(shape: tuple[int, ...], kind: str) -> None:
    spec = DetectorSpec(shape, int(np.prod(shape)), kind=kind)
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    svdd = models.build(TASK, "deep-svdd", spec)
    assert svdd(x).shape == (3, 32)
    weights = [v.path for v in svdd.trainable_variables]
    assert all(path.endswith("kernel") for path in weights), weights
    if kind == "table":
        with pytest.raises(SpecError, match="rows of a table"):
            models.build(TASK, "conv-autoencoder", spec)
        return
    net = models.build(TASK, "conv-autoencoder", spec)
    assert net(x).shape == x.shape
    assert net.get_layer("latent").output.shape == (None, 32)


def test_the_parameters_are_the_papers() -> None:
    spec = DetectorSpec((28, 28, 1), 784, kind="images")
    svdd = models.build(TASK, "deep-svdd", spec)
    # 5 x 5 x 1 x 8, 5 x 5 x 8 x 4, 7 x 7 x 4 x 32, and nothing else.
    assert sum(int(np.prod(v.shape)) for v in svdd.trainable_variables) == 200 + 800 + 6272


def test_light_and_contrast_of_an_image_do_not_count() -> None:
    shape = DetectorSpec((12, 12, 1), 144, kind="images")
    image = np.random.default_rng(0).normal(size=(3, 12, 12, 1)).astype("f")
    for contrast, same in ((True, True), (False, False)):
        training.seed_everything(0)
        model = models.build(TASK, "deep-svdd", shape, {**SMALL, "contrast": contrast})
        plain, other = (np.asarray(model(x)) for x in (image, 0.3 * image + 2.0))
        assert np.allclose(plain, other, atol=1e-5) == same


def test_the_centre_keeps_off_zero() -> None:
    layer = Centre()
    layer.build((None, 4))
    codes = np.array([[0.0, -0.02, 0.05, 3.0], [0.0, -0.04, 0.05, 5.0]], np.float32)
    layer.fix(codes)
    assert np.asarray(layer.point) == pytest.approx([0.1, -0.1, 0.1, 4.0])
    assert np.asarray(layer(codes))[1] == pytest.approx([-0.1, 0.06, -0.05, 1.0], abs=1e-6)
    assert not layer.trainable_weights


def svdd(data: AnomalyData, folder: Path, **options: Any) -> keras.Model:
    """Fit a small Deep SVDD for six epochs, two of which pretrain it."""
    config = Config(model="deep-svdd", params=SMALL, epochs=6, batch_size=10)
    model = compiled_model(config, data.spec, 0)
    fitted(model, config, data, folder / "checkpoint.npz", seed=0, quiet=True, **options)
    return model


def test_the_centre_is_fixed_before_training_and_saved(
    crosses: AnomalyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = []

    def noted(model: keras.Model, data: AnomalyData) -> None:
        original(model, data)
        fixed.append(np.asarray(model.get_layer("centre").point).copy())

    original = centre.fix_centre
    monkeypatch.setattr(centre, "fix_centre", noted)
    model = svdd(crosses, tmp_path)
    (point,) = fixed
    assert (np.abs(point) >= 0.1).all()
    assert np.array_equal(model.get_layer("centre").point, point)
    saved, _ = checkpoint.load(tmp_path / "checkpoint.npz")
    assert np.array_equal(dict(saved["live"])["centre/point"], point)
    assert (tmp_path / "pretrain.npz").is_file()
    assert centre.told(model, crosses) == []
    # Without weights every image has the same code.
    kernel = model.get_layer("latent").kernel
    kernel.assign(np.zeros(kernel.shape))
    (words,) = centre.told(model, crosses)
    assert words.startswith("the codes have collapsed: held-out examples spread 0 ")


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["pretrain_loss", "loss"])
def test_stopped_at_either_stage_ends_as_the_whole(
    crosses: AnomalyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(setup, "EPOCH_STEPS", 4)

    def stopped(epoch: int, logs: dict[str, float]) -> None:
        if stop in logs and epoch == 2:
            raise KeyboardInterrupt

    whole = svdd(crosses, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        svdd(crosses, tmp_path / "stopped", on_epoch=stopped)
    resumed = svdd(crosses, tmp_path / "stopped")
    assert training.weights_hash(resumed) == training.weights_hash(whole)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_an_encoder_starts_from_another_run(dlkit: Runs, npz: Path) -> None:
    data = ["--data", npz]
    deep = ["--model", "deep-svdd", "-p", "filters=[4]", "-p", "latent_dim=6"]
    first = dlkit(*TRAIN, *data, *deep, "-p", "pretrain=false", "--json")
    assert first.code == 0, first.err
    run = first.json["run"]
    folder = Path("mlruns/checkpoints") / run
    assert not (folder / "pretrain.npz").exists()
    again = dlkit(*TRAIN, *data, *deep, "--init-from", run[:8])
    assert again.code == 0, again.err
    assert f"3 of 3 layers of the encoder are from --init-from {run[:8]}" in again.err
    (second,) = (p for p in Path("mlruns/checkpoints").iterdir() if p.name != run)
    assert json.loads((second / "config.json").read_text())["init_from"] == run
    assert not (second / "pretrain.npz").exists()

    # The codes of a net of other widths are other codes.
    before = set(Path("mlruns/checkpoints").iterdir())
    done = dlkit(*TRAIN, *data, "--model", "conv-autoencoder", "--init-from", run)
    assert done.code == 2
    assert "has no layer of this encoder, by name and shape; here: encoder_1/kernel" in done.err
    assert set(Path("mlruns/checkpoints").iterdir()) == before


@pytest.mark.parametrize(
    "model", ["deep-svdd", pytest.param("conv-autoencoder", marks=pytest.mark.slow)]
)
def test_images_from_pixels_to_an_export(dlkit: Runs, npz: Path, model: str) -> None:
    done = dlkit(*TRAIN, "--data", npz, "--model", model, "-p", "filters=[4]", "-p",
                 "latent_dim=6", "--epochs", "6", "--json")  # fmt: skip
    assert done.code == 0, done.err
    found = done.json
    assert {"auroc", "average_precision", "false_positive_rate"} <= set(found["metrics"])
    report = json.loads(Path(found["report"]).read_text())
    assert report["kind"] == "images"
    assert {"distance", "reconstruction"} & set(report["components"])
    manifest = json.loads((Path(found["export"]) / "1/assets.extra/dlkit.json").read_text())
    inputs = manifest["endpoints"]["serving_default"]["inputs"]
    assert inputs == {"pixels": {"dtype": "uint8", "shape": [-1, 12, 12, 1]}}
    assert manifest["normal_class"] == ["cross"]

    loaded: Any = tf.saved_model.load(str(Path(found["export"]) / "1"))
    x, _ = pictures(4)
    answer = loaded.signatures["serving_default"](pixels=tf.constant(x))
    assert answer["feature_scores"].shape == (4, 12, 12)
    assert (answer["feature_scores"].numpy() >= 0).all()
    if model == "deep-svdd":
        path = Path("mlruns/checkpoints") / found["run"] / "checkpoint.npz"
        point = dict(checkpoint.load(path)[0]["live"])["centre/point"]
        kept = [v.numpy() for v in loaded.model_variables]
        assert any(v.shape == point.shape and np.array_equal(v, point) for v in kept)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["conv-autoencoder", "deep-svdd"])
def test_one_digit_against_the_others(dlkit: Runs, model: str) -> None:
    if not (REAL_DATA / "tfds" / "mnist").is_dir():
        pytest.skip(f"no tfds:mnist under {REAL_DATA}; set DLKIT_TEST_DATA")
    done = dlkit(TASK, "train", "--data", "tfds:mnist", "--data-dir", REAL_DATA.resolve() / "tfds",
                 "--no-download", "--normal-class", "1", "--epochs", "6", "--model", model,
                 "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["metrics"]["auroc"] > 0.98
