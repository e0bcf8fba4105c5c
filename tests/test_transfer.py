"""Transfer learning: backbones, starting weights, and training in two phases."""

from __future__ import annotations

import importlib
import inspect
import re
import urllib.error
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from made import Done, pictures

from dlkit import checkpoint, models, optimizers, training
from dlkit.data import Spec
from dlkit.data.stream import eval_stream, train_stream
from dlkit.errors import CheckpointError
from dlkit.models.applications import prepared
from dlkit.models.backbones import BACKBONES
from dlkit.steps import Freeze
from dlkit.weights import head_layers, load_weights

TASK = "image-classification"
# keras.io/api/applications: with the classifier of 1000 classes where that is one dense layer;
# of VGG (14,714,688 and 20,024,384) and MobileNetV3 (2,996,352 and 939,120) without it, and ours.
PARAMETERS = {
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
    "convnext_small": 50_223_688,
    "convnext_tiny": 28_589_128,
    "convnext_xlarge": 350_196_968,
    "densenet121": 8_062_504,
    "densenet169": 14_307_880,
    "densenet201": 20_242_984,
    "efficientnet_b0": 5_330_571,
    "efficientnet_b1": 7_856_239,
    "efficientnet_b2": 9_177_569,
    "efficientnet_b3": 12_320_535,
    "efficientnet_b4": 19_466_823,
    "efficientnet_b5": 30_562_527,
    "efficientnet_b6": 43_265_143,
    "efficientnet_b7": 66_658_687,
    "efficientnet_v2_b0": 7_200_312,
    "efficientnet_v2_b1": 8_212_124,
    "efficientnet_v2_b2": 10_178_374,
    "efficientnet_v2_b3": 14_467_622,
    "efficientnet_v2_l": 119_027_848,
    "efficientnet_v2_m": 54_431_388,
    "efficientnet_v2_s": 21_612_360,
    "inception_resnet_v2": 55_873_736,
    "inception_v3": 23_851_784,
    "mobilenet": 4_253_864,
    "mobilenet_v2": 3_538_984,
    "mobilenet_v3_large": 2_996_352 + 961_000,
    "mobilenet_v3_small": 939_120 + 577_000,
    "nasnet_large": 88_949_818,
    "nasnet_mobile": 5_326_716,
    "resnet101": 44_707_176,
    "resnet101_v2": 44_675_560,
    "resnet152": 60_419_944,
    "resnet152_v2": 60_380_648,
    "resnet50": 25_636_712,
    "resnet50_v2": 25_613_800,
    "vgg16": 14_714_688 + 513_000,
    "vgg19": 20_024_384 + 513_000,
    "xception": 22_910_480,
}
QUICK = {"mobilenet", "mobilenet_v3_small", "resnet50", "vgg16", "xception"}


def module_of(name: str) -> Any:
    function = getattr(keras.applications, BACKBONES[name].function)
    return importlib.import_module(function.__module__)


def small(classes: int = 3, filters: int = 6) -> keras.Model:
    """A convolution with batch norm, a hidden layer with dropout, a head."""
    params = {
        "conv_layers": [{"filters": filters, "pool_size": 2, "batch_norm": True}],
        "fc_layers": [{"units": 8, "dropout": 0.3}],
    }
    return models.build(TASK, "cnn", Spec((12, 12, 1), classes), params)


def test_the_table_holds_every_network_of_keras() -> None:
    there = {n for n, f in vars(keras.applications).items() if inspect.isfunction(f)}
    assert {b.function for b in BACKBONES.values()} == there
    assert set(BACKBONES) == set(PARAMETERS)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in BACKBONES]
)
def test_every_backbone_has_the_published_parameters_and_its_own_preparation(name: str) -> None:
    try:
        with keras.StatelessScope(initialize_variables=False):
            net = models.build(TASK, f"applications/{name}", Spec((40, 40, 1), 1000))
            assert net.output_shape == (None, 1000)
            assert net.count_params() == PARAMETERS[name]
            again = keras.Model.from_config(net.get_config())
            assert [w.shape for w in again.weights] == [w.shape for w in net.weights]
    finally:
        keras.utils.clear_session(free_memory=False)
    x = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype(np.float32)
    inputs = keras.Input((5, 5, 3))
    outputs = prepared(inputs, BACKBONES[name].pixels)
    ours = np.array(keras.Model(inputs, outputs)(x)) if outputs is not inputs else x
    if BACKBONES[name].pixels == "torch-255":
        mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        np.testing.assert_allclose(ours / 255, (x / 255 - mean) / deviation, atol=1e-5)
    else:
        theirs = module_of(name).preprocess_input(x.copy())
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(("side", "channels", "map_side"), [(8, 1, 1), (64, 3, 2)])
def test_small_and_grey_images_are_brought_to_what_the_backbone_takes(
    side: int, channels: int, map_side: int
) -> None:
    net = models.build(TASK, "applications/mobilenet", Spec((side, side, channels), 4))
    assert net.get_layer("conv_pw_13_relu").output.shape[1:3] == (map_side, map_side)
    assert ("enlarge" in [layer.name for layer in net.layers]) == (side < 32)
    wide = models.build(
        TASK, "applications/mobilenet", Spec((side, 2 * side, channels), 4), {"enlarge": 96}
    )
    assert wide.get_layer("conv_pw_13_relu").output.shape[1:3] == (3, 6)


@pytest.mark.slow
def test_imagenet_weights_answer_as_the_backbone_of_keras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EfficientNet, whose normalisation is made of weights that its file brings."""
    theirs = keras.applications.EfficientNetB0(include_top=False, weights=None)
    norm = next(x for x in theirs.layers if isinstance(x, keras.layers.Normalization))
    norm.adapt_mean.assign([0.485, 0.456, 0.406])
    norm.adapt_variance.assign([0.229, 0.224, 0.225])
    file = tmp_path / "efficientnet.weights.h5"
    theirs.save_weights(file)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *a, **k: str(file))
    whole = keras.applications.EfficientNetB0(
        include_top=False, weights="imagenet", input_shape=(64, 64, 3), pooling="avg"
    )
    net = models.build(TASK, "applications/efficientnet_b0", Spec((64, 64, 3), 3))
    told = load_weights(net, "imagenet", "efficientnet_b0")
    assert told == "weights ImageNet's for efficientnet_b0; the head is new"
    x = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    features = keras.Model(net.input, net.get_layer("dropout").output)(x)
    np.testing.assert_allclose(features, whole(x), atol=1e-4)


def test_imagenet_weights_that_cannot_be_had_are_told_before_the_run(
    here: Path, dlkit: Callable[..., Done], npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", offline)
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(here / "k"))
    monkeypatch.setenv("KERAS_HOME", str(here / "k"))
    arguments = (TASK, "train", "--data", npz, "--model", "applications/mobilenet")
    done = dlkit(*arguments, "--json")
    assert (done.code, done.out) == (2, "")
    assert "Downloading data from" in done.err
    last = done.err.splitlines()[-1]
    assert f"--weights imagenet: {here}/k/models/mobilenet_1_0_224_tf_no_top.h5 is not" in last
    assert "--weights FILE or --weights none" in last
    assert "Traceback" not in done.err
    assert dlkit("runs", "list", "--json").out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "applications/mobilnet_v2"), "did you mean 'mobilenet_v2'?"),
        (("--model", "aplications/vgg16"), "did you mean 'applications/vgg16'?"),
        (("--model", "applications", "-p", "backbone=xcepton"), "did you mean 'xception'?"),
        (
            ("--model", "cnn", "--weights", "imagenet"),
            "only applications/NAME has ImageNet weights",
        ),
        (("--weights", "imagnet"), "no file 'imagnet' (did you mean 'imagenet'?)"),
        (("--weights", "nowhere.keras"), "no file 'nowhere.keras'"),
        (("--weights", "w.txt"), "a file of no known kind; accepted: .keras, .weights.h5"),
        (("--weights", "w.keras"), "--weights: w.keras is no .keras file"),
        (("--weights", "w.weights.h5"), "--weights: w.weights.h5 is no HDF5 file"),
        (("--weights", "w.npz"), "--weights: w.npz is no dlkit checkpoint"),
    ],
)
def test_wrong_names_are_told_before_keras_is_asked(
    here: Path, dlkit: Callable[..., Done], arguments: tuple[str, ...], words: str
) -> None:
    for ending in (".txt", ".keras", ".weights.h5"):
        (here / f"w{ending}").write_text("no weights")
    np.savez(here / "w.npz", x=np.zeros(3))
    done = dlkit(TASK, "train", *arguments)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert words in done.err
    assert "remove" not in done.err


def written(model: keras.Model, folder: Path, ending: str) -> Path:
    """Save a model's weights in one of the forms that `--weights` takes."""
    path = folder / f"w{ending}"
    if ending == ".keras":
        model.save(path)
    elif ending == ".weights.h5":
        model.save_weights(path)
    elif ending == ".h5":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save(path)
    else:
        best = [np.array(v) for v in model.variables]
        for v in model.trainable_variables:
            v.assign(v * 0.0)  # the last weights, not the best
        checkpoint.save(path, {"live": model.variables, "best": best}, {"step": 1})
        for v, value in zip(model.variables, best, strict=True):
            v.assign(value)
    return path


@pytest.mark.parametrize("ending", [".keras", ".weights.h5", ".h5", ".npz"])
def test_a_file_gives_all_but_a_head_of_other_classes(tmp_path: Path, ending: str) -> None:
    theirs, same, other = small(), small(), small(classes=5)
    for v in theirs.weights:
        v.assign(v + 0.5)
    path = written(theirs, tmp_path, ending)
    assert load_weights(same, str(path)) == f"weights {path}"
    for ours, value in zip(same.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(ours, value)
    head = [np.array(w) for w in head_layers(other)[0].weights]
    assert load_weights(other, str(path)) == f"weights {path}; the head is new"
    for ours, value in zip(other.weights[:-2], theirs.weights[:-2], strict=True):
        np.testing.assert_array_equal(ours, value)
    for ours, value in zip(other.weights[-2:], head, strict=True):
        np.testing.assert_array_equal(ours, value)
    wider = small(filters=7)
    before = [np.array(w) for w in wider.weights]
    with pytest.raises(CheckpointError, match=r"first difference: .*7 in the model, .*6 in the"):
        load_weights(wider, str(path))
    for ours, value in zip(wider.weights, before, strict=True):
        np.testing.assert_array_equal(ours, value)
    deeper = models.build(TASK, "lenet", Spec((12, 12, 1), 3))
    with pytest.raises(CheckpointError, match="holds another architecture"):
        load_weights(deeper, str(path))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=re.escape(str(path))) as caught:
        load_weights(same, str(path))
    assert "\n" not in str(caught.value)


def test_a_backbone_saved_without_a_head_fits(tmp_path: Path) -> None:
    theirs = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(32, 32, 3))
    theirs.save(tmp_path / "m.keras")
    net = models.build(TASK, "applications/mobilenet", Spec((12, 12, 1), 3))
    assert load_weights(net, str(tmp_path / "m.keras")).endswith("the head is new")
    for ours, value in zip(net.weights[:-2], theirs.weights, strict=True):
        np.testing.assert_array_equal(ours, value)


class Trained:
    """Training of `small` for three epochs of four steps, the first two of them frozen."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path, self.options = path, options
        self.seen: list[tuple[dict[str, np.ndarray], float]] = []

    def fit(self, until: int | None = None, frozen_epochs: int = 2) -> keras.Model:
        training.seed_everything(0)
        model = small()
        model.compile(
            optimizer=optimizers.make_optimizer("adamw", 1e-2, 0.01),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
            jit_compile=False,
        )
        body = [layer for layer in model.layers if layer not in head_layers(model)]
        x, y = pictures(48)
        x, y = x.astype(np.float32) / 255, y.astype(np.int32)
        self.seen.append(({v.path: np.array(v) for v in model.weights}, 0.0))

        def on_epoch(epoch: int, logs: dict[str, float]) -> None:
            weights = {v.path: np.array(v) for v in model.weights}
            self.seen.append((weights, logs["learning_rate"]))
            if epoch == until:
                raise KeyboardInterrupt

        options = {"epochs": 3, "time_limit": None, "patience": None, **self.options}
        self.position = training.fit(
            model,
            lambda e, s: train_stream(
                (x, y), lambda d, r, x, y: (x, y), batch_size=12, seed=1, epoch=e, step=s
            ),
            eval_stream((x, y), lambda x, y: (x, y), batch_size=16),
            steps_per_epoch=4,
            batch_size=12,
            schedule="constant",
            learning_rate=1e-2,
            warmup=0,
            monitor="accuracy",
            path=self.path,
            on_epoch=on_epoch,
            quiet=True,
            freeze=Freeze(body, frozen_epochs * 4, 0.1),
            **options,
        )
        assert all(layer.trainable for layer in model.layers)
        return model


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {
        path.rpartition("/")[0].rpartition("/")[2]
        for path, value in before.items()
        if not np.array_equal(value, after[path])
    }


@pytest.mark.parametrize("micro_batch", [None, pytest.param(5, marks=pytest.mark.slow)])
def test_a_frozen_body_stays_and_then_learns_at_the_lower_rate(
    tmp_path: Path, micro_batch: int | None
) -> None:
    run = Trained(tmp_path / "c.npz", micro_batch=micro_batch)
    run.fit()
    (start, _), (first, rate1), (second, rate2), (third, rate3) = run.seen
    assert changed(start, first) == {"logits"}
    assert changed(first, second) == {"logits"}
    # Batch norm's statistics included.
    assert changed(second, third) == {"logits", "fc_1", "conv_1", "conv_1_norm"}
    assert all(not np.array_equal(v, third[k]) for k, v in second.items())
    assert (rate1, rate2, rate3) == pytest.approx((1e-2, 1e-2, 1e-3))


@pytest.mark.slow
def test_resumes_across_the_switch_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", 0.0)
    whole = training.weights_hash(Trained(tmp_path / "whole.npz").fit())
    for until in (1, 2):
        parts = Trained(tmp_path / f"parts-{until}.npz")
        with pytest.raises(KeyboardInterrupt):
            parts.fit(until=until)
        assert 0 < checkpoint.load(parts.path)[1]["step"] <= 4 * until
        assert training.weights_hash(parts.fit()) == whole


@pytest.mark.slow
def test_patience_waits_for_the_whole_net(tmp_path: Path) -> None:
    run = Trained(tmp_path / "c.npz", epochs=9, patience=1)
    run.fit(frozen_epochs=6)
    assert len(run.seen) - 1 > 6


@pytest.mark.slow
def test_a_time_limit_is_planned_once_all_is_trained(tmp_path: Path) -> None:
    run = Trained(tmp_path / "c.npz", epochs=None, time_limit=6.0)
    run.fit(frozen_epochs=3)
    assert run.position.finished == "planned steps done"
    assert run.position.total is not None
    assert run.position.total > 12
    alone = Trained(tmp_path / "d.npz", epochs=None, time_limit=2.0)
    alone.fit(frozen_epochs=10**6)
    assert alone.position.finished == "planned steps done"
    assert changed(alone.seen[0][0], alone.seen[-1][0]) == {"logits"}


@pytest.mark.slow
def test_fine_tuning_end_to_end(dlkit: Callable[..., Done], here: Path, npz: Path) -> None:
    """From a saved backbone, in two phases, to an export that takes raw pixels."""
    spec = Spec((12, 12, 1), 7)
    training.seed_everything(3)
    models.build(TASK, "applications/mobilenet", spec).save(here / "start.keras")
    done = dlkit(
        TASK, "train", "--data", npz, "--model", "applications/mobilenet", "--weights",
        "start.keras", "--freeze-epochs", "1", "--epochs", "2", "--augment", "none", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    shown = dlkit("runs", "show", done.json["run"], "--json").json
    assert shown["metrics"]["learning_rate"] < 2e-4
    endpoint = tf.saved_model.load(f"{done.json['export']}/1").signatures["from_pixels"]
    x, _ = pictures(4, seed=7)
    assert endpoint(pixels=tf.constant(x))["probabilities"].shape == (4, 3)
    # Another run starts from its checkpoint.
    file = here / f"mlruns/checkpoints/{done.json['run']}/checkpoint.npz"
    net = models.build(TASK, "applications/mobilenet", Spec((12, 12, 1), 3))
    assert load_weights(net, str(file)) == f"weights {file}"


@pytest.mark.slow
def test_a_resumed_run_has_its_weights_already(
    dlkit: Callable[..., Done], here: Path, npz: Path
) -> None:
    layer = '[{"filters": 6, "pool_size": 2, "batch_norm": true}]'
    arguments = (
        TASK, "train", "--data", npz, "--model", "cnn", "-p", f"conv_layers={layer}", "-p",
        'fc_layers=[{"units": 8}]', "--weights", "start.weights.h5", "--epochs", "1",
        "--freeze-epochs", "1", "--json",
    )  # fmt: skip
    small().save_weights(here / "start.weights.h5")
    first = dlkit(*arguments)
    assert first.code == 0, first.err
    (here / "start.weights.h5").unlink()
    again = dlkit(TASK, "train", "--resume", first.json["run"], "--epochs", "2", "--json")
    assert again.code == 0, again.err
    gone = dlkit(*arguments)
    assert (gone.code, gone.err.splitlines()[-1][:52]) == (
        2, "dlkit: error: --weights: no file 'start.weights.h5';"
    )  # fmt: skip
