"""The conformance table of anomaly detection: every model through everything that all share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from made import admitted

from dlkit import checkpoint, export, losses, models, training
from dlkit.data.anomalies import AnomalyData, Examples
from dlkit.data.spec import DetectorSpec
from dlkit.detection.detector import Detector
from dlkit.detection.parity import held_out, scales
from dlkit.errors import OptionError, SpecError

DETECTION = "anomaly-detection"
SHAPES = {"table": (7,), "series": (12, 2), "images": (11, 10, 1)}


class Row(NamedTuple):
    """A model, its kinds, its golden count for a table of 30 columns, and a small one's parameters.

    Where tables are not accepted the count is for windows of 64 steps of 3 channels, or else images
    of 28 x 28 x 1.
    """

    model: str
    kinds: tuple[str, ...]
    parameters: int
    params: dict[str, Any]


ALL = ("table", "series", "images")
SMALL = {"encoder": [8, 3]}
WINDOWS = ("series",)
# 30 to 128 to 64 and back.
DENSE = 31 * 128 + 129 * 64 + 65 * 128 + 129 * 30
TABLE = [
    Row("autoencoder", ALL, DENSE, SMALL),
    Row("denoising-autoencoder", ALL, DENSE, SMALL),
    Row("sparse-autoencoder", ALL, DENSE, SMALL),
    # 30 to 128 to 64 to a mean and a log variance of 16, and back.
    Row("vae", ALL, 31 * 128 + 129 * 64 + 2 * 65 * 16 + 17 * 64 + 65 * 128 + 129 * 30, SMALL),
    # 28 to 14 to 7 to 4, kernels of 4 x 4, a code of 32, and back.
    Row(
        "conv-autoencoder",
        ("images", "series"),
        17 * 32
        + (16 * 32 + 1) * 64
        + (16 * 64 + 1) * 64
        + 1025 * 32
        + 33 * 1024
        + (16 * 64 + 1) * 64
        + 16 * 64 * 32
        + 32
        + 16 * 32
        + 1,
        {"filters": [4, 3], "latent_dim": 3},
    ),
    # No biases; the centre, and how far codes lay from it.
    Row("deep-svdd", ALL, 30 * 128 + 128 * 32 + 33, {"units": [8], "latent_dim": 3}),
    # Kernels (3 + 64) and (64 + 64) x 4 gates of 64, and biases; head.
    Row("lstm-autoencoder", WINDOWS, 68 * 256 + 129 * 256 + 65 * 3, {"units": 6}),
    # Six dilated convolutions see 127 steps.
    Row("forecaster", WINDOWS, 4 * 64 + 6 * 193 * 64 + 65 * 4 + 5 * 3, {"units": 6}),
    # One encoder, two decoders.
    Row("usad", ALL, 31 * 128 + 129 * 64 + 2 * (65 * 128 + 129 * 30), SMALL),
]
GOLDEN = {"table": (30,), "series": (64, 3), "images": (28, 28, 1)}
# One of each kind of code; the others take their turn with the slow tests.
QUICK = {"autoencoder", "vae", "deep-svdd"}
BY_ROW = pytest.mark.parametrize("row", TABLE, ids=[row.model for row in TABLE])
PAIRS = [(row, kind) for row in TABLE for kind in row.kinds]
BY_PAIR = pytest.mark.parametrize(
    ("row", "kind"), PAIRS, ids=[f"{row.model}-{kind}" for row, kind in PAIRS]
)


def spec(kind: str, shape: tuple[int, ...] | None = None) -> DetectorSpec:
    """What a source of this kind has."""
    shape = shape or SHAPES[kind]
    return DetectorSpec(shape, int(np.prod(shape)), kind=kind)


def examples(kind: str, n: int = 64, seed: int = 0) -> np.ndarray:
    """Correlated Gaussian examples."""
    generator = np.random.default_rng(seed)
    size = int(np.prod(SHAPES[kind]))
    mixed = generator.normal(size=(n, 3)) @ np.random.default_rng(9).normal(size=(3, size))
    return (mixed + 0.1 * generator.normal(size=mixed.shape)).reshape(n, *SHAPES[kind]).astype("f")


def data_of(kind: str) -> AnomalyData:
    """Examples that are model inputs as they are."""
    x, name = examples(kind, 120), {"table": "rows", "series": "window", "images": "pixels"}[kind]
    at = np.arange(120)
    return AnomalyData(
        source="made",
        train=Examples(at[:60], np.zeros(60, np.int32)),
        holdout=Examples(at[60:90], np.zeros(30, np.int32)),
        test=Examples(at[90:], np.zeros(30, np.int32)),
        spec=spec(kind),
        inputs=lambda at: {name: x[at]},
        arrays=lambda at: (x[at],),
        prepare=lambda x: x,
        preprocess=lambda raw: raw[name],
    )


pytestmark = pytest.mark.usefixtures("uncompiled")


def compiled(row: Row, kind: str) -> keras.Model:
    training.seed_everything(0)
    model = models.build(DETECTION, row.model, spec(kind), row.params)
    centred = any(layer.name == "centre" for layer in model.layers)
    loss = losses.distance if centred else losses.reconstruction
    model.compile(optimizer="adamw", loss=loss, jit_compile=False, run_eagerly=True)
    return model


def test_every_model_has_a_row_and_every_row_a_model() -> None:
    assert {row.model for row in TABLE} == set(models.MODELS[DETECTION])


@BY_ROW
def test_golden_parameter_count(row: Row) -> None:
    kind = row.kinds[0]
    with keras.StatelessScope(initialize_variables=False):
        model = models.build(DETECTION, row.model, spec(kind, GOLDEN[kind]))
        assert sum(int(np.prod(w.shape)) for w in model.weights if "seed" not in w.path) == (
            row.parameters
        )
    keras.utils.clear_session(free_memory=False)


@BY_PAIR
def test_trains_and_survives_the_keras_format(row: Row, kind: str, tmp_path: Path) -> None:
    model, x = compiled(row, kind), examples(kind)
    before = [np.array(w) for w in model.trainable_variables]
    lost = [model.train_on_batch(x, x) for _ in range(2)]
    assert np.isfinite(lost).all()
    after = [np.array(w) for w in model.trainable_variables]
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        np.array(model(x, training=False)), np.array(again(x, training=False))
    )


@BY_ROW
def test_a_checkpoint_is_read_after_other_models_were_built(row: Row, tmp_path: Path) -> None:
    def state() -> list[Any]:
        model = compiled(row, row.kinds[0])
        model.optimizer.build(model.trainable_variables)
        return [*model.variables, *model.optimizer.variables]

    written = state()
    written[-1].assign_add(keras.ops.ones_like(written[-1]))
    checkpoint.save(tmp_path / "checkpoint.npz", {"live": written}, {})
    groups, _ = checkpoint.load(tmp_path / "checkpoint.npz")
    read = state()
    checkpoint.restore(read, groups["live"], tmp_path / "checkpoint.npz")
    np.testing.assert_array_equal(np.array(read[-1]), np.array(written[-1]))


@pytest.mark.parametrize(
    "row",
    [pytest.param(r, marks=[pytest.mark.slow] * (r.model not in QUICK), id=r.model) for r in TABLE],
)
def test_learns_what_the_examples_have_in_common(row: Row) -> None:
    kind = row.kinds[0]
    model, x, new = compiled(row, kind), examples(kind, 256), examples(kind, 64, seed=1)
    model.run_eagerly = False
    model.optimizer.learning_rate = 1e-2

    def error() -> float:
        return float(np.asarray(model.test_on_batch(new, new)).ravel()[0])

    before = error()
    model.fit(x, x, batch_size=64, epochs=12, verbose=0, shuffle=False)
    assert error() < 0.85 * before


def exported(
    folder: Path, kind: str, quick: bool | None
) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Export detectors of a kind, each with requests and answers; and the largest scales."""
    data, sizes, exports = data_of(kind), [], []
    for row in (r for r in TABLE if kind in r.kinds and quick in (None, r.model in QUICK)):
        model = compiled(row, kind)
        model.fit(*data.arrays(data.train.at) * 2, epochs=3, verbose=0, shuffle=False)
        detector = Detector([model], data)
        target = folder / row.model / "1"
        export.write(detector, target)
        exports.append((target, *held_out(detector)))
        sizes.append(scales(detector))
    names = {name for size in sizes for name in size}
    return exports, {name: np.max([s[name] for s in sizes if name in s], 0) for name in names}


@pytest.mark.slow  # quick ones are checked with those of every task, in test_models.py
@pytest.mark.parametrize(("kind", "quick"), [("table", False), ("series", None), ("images", None)])
def test_the_other_exports_answer_as_their_detectors_in_a_process_without_dlkit(
    kind: str, quick: bool | None, tmp_path: Path
) -> None:
    exports, largest = exported(tmp_path, kind, quick)
    assert max(export.check(admitted(exports), largest)) <= 1e-5


@BY_ROW
def test_answers_what_it_promises(row: Row) -> None:
    kind = row.kinds[0]
    data = data_of(kind)
    model = compiled(row, kind)
    detector = Detector([model], data)
    x = data.arrays(data.test.at)[0]
    strange = x + 20.0
    for given, raised in ((x, False), (strange, True)):
        found = {k: v.numpy() for k, v in detector.answer(tf.constant(given)).items()}
        assert found["score"].shape == found["p_value"].shape == (30,)
        assert ((found["p_value"] > 0) & (found["p_value"] <= 1)).all()
        assert found["feature_scores"].shape == given.shape[: 3 if kind == "images" else 4]
        assert (found["feature_scores"] >= 0).all()
        assert found["is_anomaly"].mean() == 1 if raised else found["is_anomaly"].mean() < 0.5


@pytest.mark.parametrize(
    ("model", "params", "error", "words"),
    [
        ("autoencoder", {"encoder": []}, SpecError, "got an empty list; accepted: widths such as"),
        ("usad", {"encoder": []}, SpecError, "got an empty list; accepted: widths such as"),
        ("autoencoder", {"encoder": [8, 0]}, OptionError, "-p encoder: got 0; accepted: at least"),
        ("autoencoder", {"encoder": 8}, OptionError, "-p encoder: got 8"),
        ("denoising-autoencoder", {"noise": 1.5}, OptionError, "accepted: 0 to 1"),
        ("denoising-autoencoder", {"masked": 1.0}, OptionError, "accepted: at least 0, below 1"),
        ("sparse-autoencoder", {"target": 1.5}, SpecError, "got 1.5; accepted: above 0, below 1"),
        ("autoencodr", {}, OptionError, "did you mean 'autoencoder'?"),
    ],
)
def test_what_does_not_fit_is_told(
    model: str, params: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)):
        models.build(DETECTION, model, spec("table"), params)


def test_outside_training_nothing_is_spoilt_or_drawn() -> None:
    for name in ("denoising-autoencoder", "vae"):
        row = next(row for row in TABLE if row.model == name)
        model, x = compiled(row, "table"), examples("table")
        first, second = (np.array(model(x, training=False)) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert np.abs(np.array(model(x, training=True)) - first).max() > 1e-3


def test_the_divergence_of_a_code_is_that_of_two_gaussians() -> None:
    from dlkit.models.codes import GaussianCode

    generator = np.random.default_rng(0)
    mean, deviation = generator.normal(size=3), np.exp(generator.normal(size=3))
    draws = mean + deviation * generator.normal(size=(400_000, 3))
    log_q = -0.5 * ((draws - mean) / deviation) ** 2 - np.log(deviation)
    expected = float((log_q + 0.5 * draws**2).sum(1).mean())
    found = GaussianCode.divergence(mean[None], 2 * np.log(deviation)[None])
    assert float(np.array(found)[0]) == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_sparse_codes_are_sparser_than_plain_ones() -> None:
    x = examples("table", 256)
    active = {}
    for weight in (1e-6, 3e-1):
        row = Row("sparse-autoencoder", ALL, 0, {"encoder": [16, 12], "weight": weight})
        model = compiled(row, "table")
        model.run_eagerly = False
        model.optimizer.learning_rate = 5e-3
        model.fit(x, x, epochs=12, verbose=0, shuffle=False)
        code = keras.Model(model.input, model.get_layer("latent").output)(x)
        active[weight] = float((np.array(code) > 1e-2).mean())
    assert active[3e-1] < 0.7 * active[1e-6]
