"""The conformance table: every model of every task, through everything that all have in common."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple, get_args

import keras
import numpy as np
import pytest
import tensorflow as tf
import test_anomaly_models
import test_forecast_models
import test_synthesis_models
from made import LABELS, admitted, pictures
from test_anomaly_models import DETECTION
from test_anomaly_models import TABLE as DETECTION_TABLE
from test_forecast_models import FORECASTING
from test_forecast_models import TABLE as FORECAST_TABLE
from test_synthesis_models import SYNTHESIS
from test_synthesis_models import TABLE as SYNTHESIS_TABLE
from test_text_models import TABLE as TEXT_TABLE
from test_text_models import TEXT

from dlkit import checkpoint, export, layers, models, optimizers, training
from dlkit.data import Data, Spec, Split
from dlkit.data.preprocess import standardise
from dlkit.data.stream import eval_stream, train_stream
from dlkit.errors import OptionError, SpecError
from dlkit.export.images import ImageClassifier, held_out


class Row(NamedTuple):
    """A model, the shape its golden count is for, the count, and what makes it random."""

    task: str
    model: str
    shape: tuple[int, int, int]
    classes: int
    parameters: int
    params: dict[str, Any]


IMAGES = "image-classification"
TABLE = [
    # 784 x 512 + 512, 512 x 512 + 512, 512 x 10 + 10.
    Row(IMAGES, "mlp", (28, 28, 1), 10, 669_706, {}),
    # 25 x 64 + 4 x 64, 9 x 64 x 128 + 4 x 128, 7 x 7 x 128 x 256 + 4 x 256, 256 x 10 + 10.
    Row(IMAGES, "cnn", (28, 28, 1), 10, 1_856 + 74_240 + 1_606_656 + 2_570, {}),
    # LeCun et al. 1998, with full connections: 156 + 2,416 + 48,120 + 10,164 + 850.
    Row(IMAGES, "lenet", (32, 32, 1), 10, 61_706, {"dropout": 0.3}),
    # He et al. 2015, table 6: 0.27 M, 0.46 M, 0.66 M, 0.85 M; here with the moving statistics.
    Row(IMAGES, "resnet", (32, 32, 3), 10, 269_722 + 1_376, {"dropout": 0.3}),
    Row(IMAGES, "resnet-20", (32, 32, 3), 10, 269_722 + 1_376, {}),
    Row(IMAGES, "resnet-32", (32, 32, 3), 10, 464_154 + 2_272, {}),
    Row(IMAGES, "resnet-44", (32, 32, 3), 10, 658_586 + 3_168, {}),
    Row(IMAGES, "resnet-56", (32, 32, 3), 10, 853_018 + 4_064, {}),
    # He et al. 2015, table 1: trained, and moving statistics.
    Row(IMAGES, "resnet-18", (224, 224, 3), 1000, 11_689_512 + 9_600, {"filters": 8}),
    Row(IMAGES, "resnet-34", (224, 224, 3), 1000, 21_797_672 + 17_024, {"filters": 8}),
    Row(IMAGES, "resnet-50", (224, 224, 3), 1000, 25_557_032 + 53_120, {"filters": 8}),
    # Slim: 9 x (32 + 32 x 64 + 64 x 128 + 128 x 128 + 128 x 256 + 3 x 256 x 256), 4 for each of the
    # 1,376 filters, 256 x 256 + 256 twice, 256 x 10 + 10.
    Row(IMAGES, "vgg", (28, 28, 1), 10, 2_304_288 + 5_504 + 131_584 + 2_570, {}),
    # Simonyan & Zisserman 2015, table 2: 133, 133, 138, 144 M; batch norm has three more numbers a
    # filter than the biases that it replaces.
    Row(IMAGES, "vgg-11", (224, 224, 3), 1000, 132_863_336 + 3 * 2_752, {}),
    Row(IMAGES, "vgg-13", (224, 224, 3), 1000, 133_047_848 + 3 * 2_944, {}),
    Row(IMAGES, "vgg-16", (224, 224, 3), 1000, 138_357_544 + 3 * 4_224, {}),
    Row(IMAGES, "vgg-19", (224, 224, 3), 1000, 143_667_240 + 3 * 5_504, {}),
    # Szegedy et al. 2014, table 1: 6.8 M; three more for each of 7,280 filters.
    Row(IMAGES, "googlenet", (224, 224, 3), 1000, 6_998_552 + 3 * 7_280, {"auxiliary": True}),
    # 49 patches: 16 x 64 + 64, 49 x 64, six blocks of 49,984, 128, 650.
    Row(IMAGES, "vit", (28, 28, 1), 10, 304_906, {"depth": 2}),
    Row(IMAGES, "vit-micro", (28, 28, 1), 10, 304_906, {"depth": 1, "pooling": "class-token"}),
    # As published with a class token, which the mean needs no position for: 2 x dim less.
    Row(IMAGES, "vit-tiny", (224, 224, 3), 1000, 5_717_416 - 384, {"dim": 24, "depth": 2}),
    Row(IMAGES, "vit-small", (224, 224, 3), 1000, 22_050_664 - 768, {"dim": 24, "depth": 2}),
    Row(IMAGES, "vit-base", (224, 224, 3), 1000, 86_567_656 - 1_536, {"dim": 24, "depth": 2}),
    # keras.io/api/applications: MobileNetV2. The other backbones are in test_transfer.py.
    Row(IMAGES, "applications", (224, 224, 3), 1000, 3_538_984, {"backbone": "mobilenet"}),
    # Whitening 9 x 18 + 18; convolutions 9 x (18 x 32 + 32 x 32 + 32 x 64 + 64 x 64 + 64 x 128
    # + 128 x 128); 3 x 448 shifts and moving statistics; head 128 x 10.
    Row(IMAGES, "speednet", (28, 28, 1), 10, 180 + 290_880 + 1_344 + 1_280, {"dropout": 0.3}),
]
# What the default run trains, kills and goes on with; the others are slow.
QUICK = {"cnn"}  # with dropout and batch norm; an mlp is killed in test_kill.py
# The variants repeat the code of the first, and deep nets take minutes to trace.
DEEP = {"resnet-32", "resnet-44", "resnet-56", "resnet-18", "resnet-34", "resnet-50"}
DEEP |= {"applications", "vgg", "vit"} | {
    "resnet-20",
    "googlenet",
    "vgg-11",
    "vgg-13",
    "vgg-16",
    "vgg-19",
    "vit-micro",
    "vit-tiny",
    "vit-small",
    "vit-base",
}
BY_ROW = pytest.mark.parametrize("row", TABLE, ids=[f"{r.task}/{r.model}" for r in TABLE])


def names() -> set[tuple[str, str]]:
    """Every name that `--model` takes, variants included."""
    found = set()
    for task, table in models.MODELS.items():
        for name, target in table.items():
            found.add((task, name))
            variant = models.describe(name, target).signature.parameters.get("variant")
            found |= {
                (task, f"{name}-{v}") for v in (get_args(variant.annotation) if variant else ())
            }
    return found


@functools.cache
def data() -> Data:
    """Thirty-six small images of three classes, the same rows in every split."""
    x, y = pictures(36, side=12)
    split = Split(
        x, y.astype(np.int32), tuple(map(str, range(36))), lambda i: tf.io.encode_png(x[i]).numpy()
    )
    return Data("made", split, split, split, Spec((12, 12, 1), 3, LABELS), standardise(x))


def compiled(row: Row) -> keras.Model:
    training.seed_everything(0)
    model = models.build(row.task, row.model, data().spec, row.params)
    model.compile(
        optimizer=optimizers.make_optimizer("adamw", 1e-3, 0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=False,
    )
    return model


def fit(row: Row, path: Path, epochs: int) -> keras.Model:
    """Train for some of three planned epochs, from the checkpoint at `path` if there is one."""
    model, train = compiled(row), data().train

    def prepare(seed: Any, rows: Any, x: Any, y: Any) -> tuple:
        return data().preprocess(tf.cast(x, tf.float32)), y

    def on_epoch(epoch: int, logs: dict[str, float]) -> None:
        if epoch == epochs < 3:
            raise KeyboardInterrupt

    with np.errstate(all="raise"):
        training.fit(
            model,
            lambda e, s: train_stream(
                (train.x, train.y), prepare, batch_size=12, seed=1, epoch=e, step=s
            ),
            eval_stream((train.x, train.y), lambda x, y: prepare(None, None, x, y), batch_size=16),
            steps_per_epoch=3,
            batch_size=12,
            epochs=3,
            time_limit=None,
            schedule="cosine",
            learning_rate=1e-3,
            warmup=2,
            patience=None,
            monitor="accuracy",
            path=path,
            on_epoch=on_epoch,
            quiet=True,
        )
    return model


def test_every_model_has_a_row_and_every_row_a_model() -> None:
    rows = {(row.task, row.model) for row in TABLE} | {(TEXT, row.model) for row in TEXT_TABLE}
    rows |= {(FORECASTING, row.model) for row in FORECAST_TABLE}
    rows |= {(DETECTION, row.model) for row in DETECTION_TABLE}
    rows |= {(SYNTHESIS, row.model) for row in SYNTHESIS_TABLE}
    assert names() == rows


def count(model: str, shape: tuple[int, int, int], classes: int, **params: Any) -> int:
    """Count the parameters of a model without making them: VGG-19's take half a gigabyte."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            net = models.build(IMAGES, model, Spec(shape, classes), params)
            assert net.output_shape == (None, classes)
            return net.count_params()
    finally:
        # Else the next scope would make what this one left out.
        keras.utils.clear_session(free_memory=False)


@BY_ROW
def test_golden_parameter_count(row: Row) -> None:
    assert count(row.model, row.shape, row.classes) == row.parameters


@pytest.mark.parametrize(
    ("model", "params", "parameters"),
    [
        ("vgg-11", {"batch_norm": False}, 132_863_336),
        ("vgg-13", {"batch_norm": False}, 133_047_848),
        ("vgg-16", {"batch_norm": False}, 138_357_544),
        ("vgg-19", {"batch_norm": False}, 143_667_240),
        ("googlenet", {"batch_norm": False}, 6_998_552),
        ("googlenet", {"batch_norm": False, "auxiliary": True}, 13_378_280),
        ("vit-tiny", {"pooling": "class-token"}, 5_717_416),
        ("vit-small", {"pooling": "class-token"}, 22_050_664),
        ("vit-base", {"pooling": "class-token"}, 86_567_656),
    ],
)
def test_the_papers_own_settings_have_the_papers_parameters(
    model: str, params: dict[str, Any], parameters: int
) -> None:
    assert count(model, (224, 224, 3), 1000, **params) == parameters


# More of the blocks of another row.
DEEPER = {
    "resnet-32",
    "resnet-34",
    "resnet-44",
    "resnet-50",
    "resnet-56",
    "vgg-13",
    "vgg-16",
    "vgg-19",
}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(r, marks=[pytest.mark.slow] * (r.model in DEEPER), id=f"{r.task}/{r.model}")
        for r in TABLE
    ],
)
def test_survives_the_keras_format(row: Row, tmp_path: Path) -> None:
    model = models.build(row.task, row.model, data().spec, row.params)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = data().preprocess(data().train.x.astype(np.float32))
    np.testing.assert_array_equal(model(x), again(x))


@pytest.mark.parametrize(
    "row",
    [pytest.param(r, marks=[pytest.mark.slow] * (r.model not in QUICK), id=r.model) for r in TABLE],
)
def test_resumes_to_the_same_weights(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", 0.0)
    whole = fit(row, tmp_path / "whole.npz", 3)
    with pytest.raises(KeyboardInterrupt):
        fit(row, tmp_path / "parts.npz", 2)
    _, state = checkpoint.load(tmp_path / "parts.npz")
    assert 0 < state["step"] < 9
    parts = fit(row, tmp_path / "parts.npz", 3)
    assert training.weights_hash(parts) == training.weights_hash(whole)
    start = training.weights_hash(compiled(row))
    assert training.weights_hash(whole) != start


def exported(folder: Path, deep: bool) -> list[Any]:
    """Export the deep models or the others, each with requests and answers."""
    exports = []
    for row in (row for row in TABLE if (row.model in DEEP) == deep):
        model = models.build(row.task, row.model, data().spec, row.params)
        target = folder / row.model / "1"
        export.write(ImageClassifier(model, data()), target)
        exports.append((target, *held_out(model, data(), 8)))
    return exports


def test_every_export_answers_as_its_model_in_a_process_without_dlkit(tmp_path: Path) -> None:
    """Those quickly traced in one process, which takes seconds to start; slow tests do the rest.

    The recipe of text generation checks its transformer in the same way.
    """
    places = {task: tmp_path / task for task in models.MODELS}
    for place in places.values():
        place.mkdir()
    exports = exported(places[IMAGES], deep=False)
    exports += test_synthesis_models.exported(places[SYNTHESIS], quick=True)
    forecasters, forecasts = test_forecast_models.exported(places[FORECASTING], deep=False)
    detectors, scores = test_anomaly_models.exported(places[DETECTION], "table", quick=True)
    sizes = test_synthesis_models.SIZES | forecasts | scores
    assert max(export.check(admitted([*exports, *forecasters, *detectors]), sizes)) <= 1e-5


@pytest.mark.slow
def test_deep_exports_answer_as_their_models_in_a_process_without_dlkit(tmp_path: Path) -> None:
    assert max(export.check(admitted(exported(tmp_path, deep=True)))) <= 1e-5


@pytest.mark.parametrize(
    "side", [4, 33, *(pytest.param(side, marks=pytest.mark.slow) for side in (8, 20, 28, 48))]
)
@pytest.mark.parametrize("model", sorted(models.MODELS[IMAGES]))
def test_takes_images_of_any_size(model: str, side: int) -> None:
    net = models.build(IMAGES, model, Spec((side, side + 1, 3), 4))
    assert net(np.zeros((2, side, side + 1, 3), np.float32)).shape == (2, 4)


@pytest.mark.parametrize(
    ("model", "params", "words"),
    [
        ("renset", {}, "did you mean 'resnet"),
        ("resnet-21", {}, "did you mean 'resnet-"),
        ("lenet", {"dropuot": 0.1}, "did you mean 'dropout'?"),
        ("lenet", {"activation": "rleu"}, "did you mean 'relu'?"),
        ("lenet", {"dropout": "much"}, "accepted: float"),
        ("mlp", {"depth": 2.5}, "accepted: int"),
        ("mlp", {"depth": True}, "accepted: int"),
        ("resnet", {"variant": 21}, "accepted: 18, 20, 32, 34, 44, 50, 56"),
        ("vit-bass", {}, "did you mean 'vit-base'?"),
        ("vgg", {"variant": 12}, "accepted: 11, 13, 16, 19"),
        ("nowhere.at_all:net", {}, "was not found"),
        ("dlkit.models.lenet:lenett", {}, "did you mean 'lenet'?"),
    ],
)
def test_wrong_names_and_values_are_told(model: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words.replace("?", r"\?")):
        models.build(IMAGES, model, data().spec, params)


def test_a_builder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ownnets.py").write_text(
        "import keras\n"
        "def net(spec, *, units: int = 3):\n"
        "    x = keras.Input(spec.input_shape)\n"
        "    y = keras.layers.Dense(units)(keras.layers.Flatten()(x))\n"
        "    return keras.Model(x, keras.layers.Dense(spec.outputs)(y))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    net = models.build(IMAGES, "ownnets:net", data().spec, {"units": 5})
    assert net.count_params() == 144 * 5 + 5 + 5 * 3 + 3


@pytest.mark.parametrize(
    ("model", "params", "error", "words"),
    [
        ("cnn", {"conv_layers": [{"filtres": 8}]}, OptionError, "did you mean 'filters'?"),
        (
            "cnn",
            {"conv_layers": [{"kernel_size": 3}]},
            OptionError,
            r"conv_layers[0]: needs 'filters'",
        ),
        (
            "cnn",
            {"conv_layers": [{"filters": 0}]},
            OptionError,
            "filters: got 0; accepted: a whole",
        ),
        ("cnn", {"conv_layers": 3}, OptionError, "accepted: a list of layers such as"),
        ("cnn", {"fc_layers": [{"units": 8, "activation": "rleu"}]}, OptionError, "mean 'relu'?"),
        ("mlp", {"fc_layers": [{"units": 8, "dropout": 1}]}, OptionError, "dropout: got 1"),
        (
            "cnn",
            {"conv_layers": [{"filters": 4, "pool_size": 4}, {"filters": 4, "pool_size": 4}]},
            SpecError,
            "conv_layers[1].pool_size: 4 does not fit the map it meets, 3 x 3 x 4",
        ),
        (
            "cnn",
            {"conv_layers": [{"filters": 4, "kernel_size": 13, "padding": "valid"}]},
            SpecError,
            "conv_layers[0].kernel_size: 13 does not fit the map it meets, 12 x 12 x 1",
        ),
        ("speednet", {"filters": []}, SpecError, "empty list"),
        (
            "vit",
            {"patch_size": 5},
            SpecError,
            "height of 12 pixels does not divide by 5; patches that fit 12 x 12: 1, 2, 3, 4, 6, 12",
        ),
        ("vit", {"dim": 50, "heads": 4}, SpecError, "50 does not divide by the 4 heads"),
        ("speednet", {"whitening": 13}, SpecError, "do not fit into 12 x 12"),
    ],
)
def test_layers_that_do_not_fit_are_told(
    model: str, params: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)):
        models.build(IMAGES, model, data().spec, params)


def test_auxiliary_heads_count_in_training_alone() -> None:
    row = Row(IMAGES, "googlenet", (12, 12, 1), 3, 0, {"auxiliary": True, "width": 0.1})
    model, y = compiled(row), data().train.y
    x = data().preprocess(data().train.x.astype(np.float32))
    given = np.random.default_rng(0).normal(size=(3, 36, 3)).astype(np.float32)
    each = [float(model.compute_loss(y=y, y_pred=p, training=False)) for p in given]
    auxiliary = model.get_layer("auxiliary")
    for training_, expected in ((True, each[0] + 0.3 * (each[1] + each[2])), (False, each[0])):
        np.testing.assert_array_equal(auxiliary(list(given), training=training_), given[0])
        loss = model.compute_loss(y=y, y_pred=given[0], training=training_)
        assert float(loss) == pytest.approx(expected)
    before = [np.array(model.get_layer(f"auxiliary_{at}_logits").kernel) for at in ("4a", "4d")]
    model.train_step((x, y))  # a graph is traced for longer than one step takes
    after = [np.array(model.get_layer(f"auxiliary_{at}_logits").kernel) for at in ("4a", "4d")]
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert model(x).shape == (36, 3)


def test_a_textbook_network_is_one_line() -> None:
    net = models.build(
        IMAGES,
        "cnn",
        Spec((28, 28, 1), 10),
        {
            "conv_layers": [
                {"filters": 32, "kernel_size": 3, "pool_size": 2, "activation": "relu"},
                {"filters": 64, "padding": "valid", "strides": 2, "pooling": "average"},
            ],
            "fc_layers": [{"units": 128, "l2": 1e-4, "initializer": "orthogonal"}],
        },
    )
    # 320, 18,496, 6 x 6 x 64 x 128 + 128, 1,290.
    assert net.count_params() == 320 + 18_496 + 295_040 + 1_290


def test_whitening_makes_the_patches_of_its_images_white() -> None:
    generator = np.random.default_rng(0)
    images = np.cumsum(generator.normal(size=(200, 12, 12, 2)), 1).astype(np.float32)
    net = models.build(IMAGES, "speednet", Spec((12, 12, 2), 3), {"whitening": 3})
    before = [np.array(w) for w in net.weights]
    assert layers.adapt(net, images) == ["whiten"]
    white = np.array(net.get_layer("whiten")(images)).reshape(-1, 36)
    np.testing.assert_allclose(white[:, :18].T @ white[:, :18] / len(white), np.eye(18), atol=0.02)
    np.testing.assert_allclose(white[:, :18], -white[:, 18:], atol=1e-4)
    changed = [not np.array_equal(a, b) for a, b in zip(before, net.weights, strict=True)]
    assert sum(changed) == 1


def test_small_images_get_slim_nets() -> None:
    assert count("vgg", (95, 95, 3), 10) < 4_000_000 < 30_000_000 < count("vgg", (96, 96, 3), 10)
    assert count("googlenet", (95, 95, 3), 10) < 500_000 < count("googlenet", (96, 96, 3), 10)
    stems = [
        models.build(IMAGES, "resnet-18", Spec((s, s, 3), 2), {"filters": 4}) for s in (64, 96)
    ]
    sides = [net.get_layer("stage1_block1_a_conv").output.shape[1] for net in stems]
    assert sides == [64, 24]


def test_convolutions_of_speednet_start_as_the_identity() -> None:
    net = models.build(IMAGES, "speednet", Spec((12, 12, 1), 3))
    kernel = np.array(net.get_layer("block1_2_conv").kernel)
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 32)).astype(np.float32)
    np.testing.assert_allclose(net.get_layer("block1_2_conv")(x), x, atol=1e-6)
    assert kernel.shape == (3, 3, 32, 32)
