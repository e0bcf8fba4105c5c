"""Explanations: where the evidence was put, what completeness says, and what is refused."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from made import LABELS, Done, charts_undrawn, exports_unchecked, patches
from PIL import Image
from scipy.stats import spearmanr

from dlkit import explain, models, training
from dlkit.data.preprocess import standardise
from dlkit.data.spec import Spec
from dlkit.errors import OptionError, SpecError

Run = Callable[..., Done]
TASK = "image-classification"
SIZE = 8
CNN = {
    "conv_layers": [
        {"filters": 16, "kernel_size": 5, "pool_size": 2},
        {"filters": 32, "kernel_size": 3},
    ],
    "fc_layers": [],
    "global_pooling": True,
}


def small_cnn(seed: int) -> keras.Model:
    training.seed_everything(seed)
    return models.build(TASK, "cnn", Spec((28, 28, 1), 3, LABELS), CNN)


class Seen:
    """A small convolutional net trained on patches, fifty unseen ones, and its explanations."""

    def __init__(self) -> None:
        x, y, _ = patches(600)
        prepare = standardise(x)
        self.model = small_cnn(0)
        self.model.compile(
            keras.optimizers.Adam(3e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        self.model.fit(prepare(x.astype(np.float32)), y, epochs=10, batch_size=32, verbose=0)
        x, self.y, self.corners = patches(50, seed=5)
        self.x = np.array(prepare(x.astype(np.float32)))
        self.found = self.explained(self.model)

    @functools.cached_property
    def by_chance(self) -> dict[str, list[explain.Explanation]]:
        """Explanations of the same net with random weights."""
        return self.explained(small_cnn(7))

    def explained(self, model: keras.Model) -> dict[str, list[explain.Explanation]]:
        made = {"grad_cam": explain.grad_cam(model)}
        made["integrated_gradients"] = explain.integrated_gradients(model)
        return {
            name: [each(image, int(label)) for image, label in zip(self.x, self.y, strict=True)]
            for name, each in made.items()
        }


@pytest.fixture(scope="module")
def seen() -> Seen:
    return Seen()


@pytest.mark.parametrize("method", ["grad_cam", "integrated_gradients"])
def test_the_peak_lies_in_the_patch_that_is_the_class(seen: Seen, method: str) -> None:
    assert np.mean(np.array(seen.model(seen.x)).argmax(1) == seen.y) > 0.95
    inside = 0
    for result, (row, column) in zip(seen.found[method], seen.corners, strict=True):
        at = result.peak
        inside += at is not None and 0 <= at[0] - row < SIZE and 0 <= at[1] - column < SIZE
    assert inside >= 45


@pytest.mark.parametrize("method", ["grad_cam", "integrated_gradients"])
def test_random_weights_give_another_map(seen: Seen, method: str) -> None:
    """The sanity check of Adebayo et al. 2018, arXiv:1810.03292."""
    agreement = [
        spearmanr(a.heat.ravel(), b.heat.ravel()).statistic
        for a, b in zip(seen.found[method], seen.by_chance[method], strict=True)
        if np.ptp(a.heat) and np.ptp(b.heat)
    ]
    assert len(agreement) > 25
    assert np.mean(agreement) < 0.5


def test_attributions_add_up_to_the_change_of_the_logit(seen: Seen) -> None:
    logits = np.array(seen.model(seen.x))[range(50), seen.y]
    baseline = np.array(seen.model(np.zeros_like(seen.x[:1])))[0, seen.y]
    for result, change in zip(seen.found["integrated_gradients"], logits - baseline, strict=True):
        error = abs(result.heat.sum() - change) / max(abs(change), 0.1)
        assert result.completeness_error == pytest.approx(error, abs=1e-4)
        assert result.completeness_error is not None and result.completeness_error < 1e-2
        assert result.steps is not None and 32 <= result.steps <= 4096


def test_a_cap_that_is_too_low_is_told(seen: Seen) -> None:
    hard = max(range(50), key=lambda i: seen.found["integrated_gradients"][i].steps or 0)
    explainer = explain.integrated_gradients(seen.model, tolerance=1e-9, most_steps=100)
    result = explainer(seen.x[hard], int(seen.y[hard]))
    assert result.steps == 64
    assert result.completeness_error is not None and result.completeness_error > 1e-9


def test_a_linear_model_is_attributed_exactly() -> None:
    inputs = keras.Input((3, 3, 2))
    model = keras.Model(inputs, layers.Dense(4)(layers.Flatten()(inputs)))
    x = np.random.default_rng(0).normal(size=(3, 3, 2)).astype(np.float32)
    kernel = np.array(model.weights[0])[:, 2].reshape(3, 3, 2)
    result = explain.integrated_gradients(model)(x, 2)
    np.testing.assert_allclose(result.heat, (x * kernel).sum(-1), atol=1e-5)
    assert result.steps == 32


def test_an_answer_that_does_not_depend_on_the_image_has_no_attribution(seen: Seen) -> None:
    model = small_cnn(0)
    for weight in model.layers[-1].weights:
        weight.assign(weight * 1e-9)
    for made in (explain.grad_cam, explain.integrated_gradients):
        result = made(model)(seen.x[0], 0)
        assert not result.heat.any()
        assert result.peak is None


def pooled(x: Any) -> Any:
    return layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(x))


def tokens(inputs: Any) -> Any:
    """A small vision transformer."""
    x = layers.Conv2D(8, 4, 4, name="patches")(inputs)
    x = layers.Reshape((-1, 8))(x)
    x = x + layers.MultiHeadAttention(2, 4)(x, x)
    return layers.Dense(3)(layers.GlobalAveragePooling1D()(x))


def grid(inputs: Any) -> Any:
    """Attention whose tokens become a map again."""
    x = layers.Conv2D(8, 4, 4, name="patches")(inputs)
    y = layers.Reshape((-1, 8))(x)
    y = layers.Reshape((4, 4, 8))(layers.MultiHeadAttention(2, 4)(y, y))
    return pooled(y)


def gated(inputs: Any) -> Any:
    """Squeeze and excitation: a gate from vectors on the last map."""
    x = layers.Conv2D(8, 3, padding="same", name="conv")(inputs)
    gate = layers.Dense(8, "sigmoid")(layers.GlobalAveragePooling2D()(x))
    return pooled(layers.Multiply(name="gated")([x, layers.Reshape((1, 1, 8))(gate)]))


def nested(inputs: Any) -> Any:
    """A backbone that is one layer of the model."""
    inside = keras.Input((16, 16, 1))
    backbone = keras.Model(inside, layers.Conv2D(4, 3, 2)(inside), name="backbone")
    return pooled(backbone(inputs))


def single(inputs: Any) -> Any:
    """A last convolution that leaves one position."""
    x = layers.Conv2D(4, 3, activation="relu", name="first")(inputs)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Dropout(0.5)(x)
    return layers.Dense(3)(layers.Flatten()(layers.Conv2D(6, 7, name="second")(x)))


def frozen(inputs: Any) -> Any:
    layer = layers.Conv2D(4, 3, name="fixed")
    layer.trainable = False
    return pooled(layer(inputs))


def perceptron(inputs: Any) -> Any:
    return layers.Dense(3)(layers.Dense(8)(layers.Flatten()(inputs)))


@pytest.mark.parametrize(
    ("net", "last"),
    [
        (tokens, None),
        (grid, None),
        (perceptron, None),
        (gated, "gated"),
        (nested, "backbone"),
        (single, "first"),
        (frozen, "fixed"),
    ],
)
def test_the_last_convolutional_map_is_found(net: Callable[..., Any], last: str | None) -> None:
    inputs = keras.Input((16, 16, 1))
    model = keras.Model(inputs, net(inputs), name=net.__name__)
    image = np.random.default_rng(0).normal(size=(16, 16, 1)).astype(np.float32)
    assert next(iter(explain.feature_maps(model)), None) == last
    if last is None:
        with pytest.raises(SpecError, match="has no convolutional feature map"):
            explain.grad_cam(model)
    else:
        result = explain.grad_cam(model)(image, 1)
        assert (result.layer, result.heat.shape) == (last, (16, 16))
        assert result.heat.min() >= 0
    error = explain.integrated_gradients(model)(image, 1).completeness_error
    assert error is not None and error < 1e-2


@pytest.mark.parametrize(
    "model",
    [
        # These are deep; a backbone within a model and auxiliary heads are looked at on their own.
        pytest.param(
            name,
            marks=[pytest.mark.slow] * (name in ("applications", "googlenet", "resnet", "vgg")),
        )
        for name in sorted(models.MODELS[TASK])
    ],
)
def test_every_model_can_be_explained(model: str) -> None:
    # One block says what six do.
    net = models.build(TASK, model, Spec((32, 32, 3), 4), {"depth": 1} if model == "vit" else {})
    image = np.random.default_rng(0).normal(size=(32, 32, 3)).astype(np.float32)
    error = explain.integrated_gradients(net)(image, 1).completeness_error
    assert error is not None and error < 1e-2
    maps = explain.feature_maps(net)
    assert bool(maps) == (model not in ("mlp", "vit"))
    if maps:
        assert explain.grad_cam(net)(image, 1).heat.shape == (32, 32)


def test_auxiliary_heads_do_not_hide_the_last_map() -> None:
    net = models.build(TASK, "googlenet", Spec((32, 32, 3), 4), {"auxiliary": True})
    plain = models.build(TASK, "googlenet", Spec((32, 32, 3), 4))
    assert next(iter(explain.feature_maps(net))) == next(iter(explain.feature_maps(plain)))


def test_a_layer_by_name_and_the_nearest_name(seen: Seen) -> None:
    assert explain.grad_cam(seen.model, "conv_1_act")(seen.x[0], 0).layer == "conv_1_act"
    with pytest.raises(OptionError, match=r"did you mean 'conv_1_act'\?"):
        explain.grad_cam(seen.model, "conv_1_atc")


@pytest.fixture(scope="module")
def patched(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> tuple[Path, dict[str, Any]]:
    """A folder with a finished run of a convolutional net on patches, and some image files."""
    import contextlib
    import io

    from pipelines.cli import main

    folder = tmp_path_factory.mktemp("patched")
    shutil.copytree(empty_store, folder / "mlruns")
    x, y, _ = patches(300)
    np.savez(folder / "patches.npz", x=x, y=np.array(LABELS)[y])
    (folder / "files").mkdir()
    for i, image in enumerate(patches(2, seed=3)[0]):
        Image.fromarray(image.squeeze()).save(folder / f"files/{i}.png")
    before, out = Path.cwd(), io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), exports_unchecked(), charts_undrawn():
            code = main(
                [TASK, "train", "--data", "patches.npz", "--model", "cnn", "--epochs", "4"]
                + ["--augment", "none", "--batch-size", "32", "--json"]
                + [f"-p{k}={json.dumps(v)}" for k, v in CNN.items()]
            )
    finally:
        os.chdir(before)
    assert code == 0
    return folder, json.loads(out.getvalue())


@pytest.fixture
def there(
    patched: tuple[Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Run:
    """Run a command line beside the convolutional run."""
    from made import runner

    monkeypatch.chdir(patched[0])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return runner(capfd)


def test_overlays_in_a_folder_and_on_the_run(
    there: Run, patched: tuple[Path, dict[str, Any]]
) -> None:
    run = patched[1]["run"]
    done = there(TASK, "explain", run[:8], "files", "--json")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [(Path(r["file"]).name, r["method"]) for r in rows] == [
        (f"{i}.png", method) for i in range(2) for method in ("grad-cam", "integrated-gradients")
    ]
    told = [json.loads(x) for x in there(TASK, "predict", run, "files", "--json").out.splitlines()]
    for i, row in enumerate(rows):
        assert row["label"] == row["target"] == told[i // 2]["label"]
        assert row["probability"] == pytest.approx(told[i // 2]["probability"], abs=1e-5)
        assert Path(row["overlay"]).parent == Path(f"explain-{run[:8]}").absolute()
        with Image.open(row["overlay"]) as picture:
            assert picture.width > 300
        assert all(0 <= n < 28 for n in row["peak"] or ())
    assert all(r["completeness_error"] < 1e-2 for r in rows[1::2])
    assert [r["layer"] for r in rows[::2]] == ["conv_2_act", "conv_2_act"]
    files = there("runs", "show", run, "--json").json["files"]
    assert "explanations/0-grad-cam.png" in files
    assert "explanations/explanations.jsonl" in files


def test_a_target_a_layer_and_a_table(there: Run, tmp_path: Path) -> None:
    shutil.copytree("files", tmp_path / "more")
    (tmp_path / "more" / "broken.png").write_text("no image")
    shutil.copy("files/0.png", tmp_path / "0.png")
    out = tmp_path / "out"
    done = there(
        TASK, "explain", "latest", tmp_path / "more", tmp_path / "0.png", "--out", out,
        "--target", "dot", "--method", "grad-cam", "--layer", "conv_1_act",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "1 unreadable image left out" in done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["file", "label", "probability", "method", "completeness", "error", "peak"]  # fmt: skip
    assert len(lines) == 6 and all("dot" in line and "grad-cam" in line for line in lines[1:4])
    assert {p.name for p in out.iterdir()} == {
        "0-grad-cam.png", "0-grad-cam-2.png", "1-grad-cam.png", "explanations.jsonl",
    }  # fmt: skip


def refused(done: Done, *words: str) -> None:
    assert (done.code, done.out) == (2, ""), done
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("dlkit: error: ")
    assert "Traceback" not in done.err
    for word in words:
        assert word in last, last


def test_mistakes_end_in_one_line(
    there: Run, patched: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    image, run = "files/0.png", patched[1]["run"]
    (tmp_path / "text.png").write_text("no image")
    cases: dict[tuple[object, ...], tuple[str, ...]] = {
        ("latest", "absent.png"): ("no file or folder absent.png",),
        ("latest", tmp_path / "text.png"): ("the image cannot be read: ", "accepted: .png"),
        ("0123456789", image): ("no run '0123456789'",),
        (patched[1]["export"], image): ("an export holds no Keras model", "give the run"),
        ("latest", image, "--target", "dott"): ("did you mean 'dot'?", "accepted: cross, dot"),
        ("latest", image, "--method", "gradcam"): ("did you mean 'grad-cam'?",),
        ("latest", image, "--layer", "conv_9"): ("no feature map 'conv_9'", "did you mean 'conv_"),
        ("latest", image, "--method", "integrated-gradients", "--layer", "conv_1"): ("--layer",),
        ("latest", image, "--out", image): ("--out: files/0.png is a file",),
    }
    for arguments, words in cases.items():
        refused(there(TASK, "explain", *arguments), *words)
    checkpoint = Path(f"mlruns/checkpoints/{run}/checkpoint.npz")
    checkpoint.rename("kept.npz")
    try:
        refused(there(TASK, "explain", "latest", image), "the checkpoint of", "is gone", "--resume")
    finally:
        Path("kept.npz").rename(checkpoint)
    from dlkit import tracking

    tag = tracking.find_run(run).data.tags["dlkit.weights"]
    tracking.client().set_tag(run, "dlkit.weights", "0" * 64)
    try:
        refused(there(TASK, "explain", "latest", image), "other weights than the run's export")
    finally:
        tracking.client().set_tag(run, "dlkit.weights", tag)
    assert not list(tmp_path.glob("explain-*"))


def test_without_convolutions_attributions_still_work(run_there: Run, tmp_path: Path) -> None:
    Image.fromarray(patches(1, side=12)[0][0].squeeze()).save(tmp_path / "x.png")
    command = (TASK, "explain", "latest", tmp_path / "x.png", "--out", tmp_path / "out")
    refused(
        run_there(*command, "--method", "grad-cam"),
        "mlp has no convolutional feature map",
        "accepted: integrated-gradients",
    )
    assert not (tmp_path / "out").exists()
    done = run_there(*command)
    assert done.code == 0, done.err
    assert "so no Grad-CAM" in done.err
    assert "integrated-gradients" in done.out and "grad-cam" not in done.out
    assert (tmp_path / "out" / "x-integrated-gradients.png").is_file()
