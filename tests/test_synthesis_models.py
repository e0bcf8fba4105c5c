"""The conformance table of image synthesis: every model through everything that all share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from made import admitted

from dlkit import checkpoint, export, models, training
from dlkit.data.spec import Spec
from dlkit.errors import OptionError, SpecError
from dlkit.export.pictures import PictureGenerator, Translator
from dlkit.models import gan_losses
from dlkit.models.diff_augment import augmented
from dlkit.models.spectral import SpectralConv2D, SpectralDense, SpectralEmbedding
from dlkit.precision import computing_in

SYNTHESIS = "image-synthesis"
SIDE = 8


class Row(NamedTuple):
    """A model, its golden count for 28 x 28 x 1 and ten labels, and a small one's parameters."""

    model: str
    parameters: int
    params: dict[str, Any]
    compiled: dict[str, Any] | None = None


# 7 x 7 x 64 maps from 100 numbers, to 32 and 1 by kernels of 4 x 4; moments of two norms.
GENERATOR = 100 * 3136 + 4 * 64 + 16 * 64 * 32 + 4 * 32 + 16 * 32 + 1
TABLE = [
    # 100 to 512 to 512 to 784; maxout of 240 x 5 twice.
    Row(
        "gan",
        101 * 512 + 513 * 512 + 513 * 784 + 785 * 1200 + 241 * 1200 + 241,
        {"latent_dim": 5, "generator": [8], "discriminator": [6], "pieces": 2},
    ),
    Row(
        "dcgan",
        GENERATOR + 17 * 32 + 16 * 32 * 64 + 4 * 64 + 3137,
        {"latent_dim": 5, "filters": 4, "discriminator_filters": 4},
    ),
    # A label's 50 numbers beside the noise; spectral vectors of 32, 64, 1 and 3,136.
    Row(
        "cgan",
        GENERATOR
        + 50 * 3136
        + 500
        + 17 * 32
        + (16 * 32 + 1) * 64
        + 3137
        + 31360
        + 32
        + 64
        + 1
        + 3136,
        {"latent_dim": 5, "label_dim": 3, "filters": 4, "discriminator_filters": 4},
        {"adversary": "hinge"},
    ),
    # 28 to 14 to 7, 200, 200, a mean and a log variance of 50, and back.
    Row(
        "vae",
        17 * 32
        + (16 * 32 + 1) * 64
        + 3137 * 200
        + 201 * 200
        + 2 * 201 * 50
        + 51 * 200
        + 201 * 200
        + 201 * 3136
        + 16 * 64 * 32
        + 32
        + 16 * 32
        + 1,
        {"layers": "dense", "units": [8], "latent_dim": 3},
    ),
    # Maps of 7, 14 and 28 with 64, 32 and 16 channels; how far it has grown.
    Row(
        "progan",
        129 * 3136
        + (9 * 64 + 1) * 64
        + (9 * 64 + 1) * 32
        + (9 * 32 + 1) * 32
        + (9 * 32 + 1) * 16
        + (9 * 16 + 1) * 16
        + 65
        + 33
        + 17
        + 2 * (64 + 32 + 16)
        + (9 * 65 + 1) * 64
        + (9 * 32 + 1) * 32
        + (9 * 16 + 1) * 16
        + (9 * 32 + 1) * 64
        + (9 * 16 + 1) * 32
        + 3137 * 64
        + 65
        + 1,
        {"latent_dim": 5, "filters": 4, "most_filters": 6},
        {"adversary": "wgan-gp"},
    ),
    Row("ddpm", 553_985, {"filters": 4, "sample_steps": 3}),
    # Two generators, two discriminators, and two pools of 50 pictures.
    Row(
        "cyclegan",
        2 * 304_226 + 2 * (50 * 784 + 1),
        {"filters": 4, "blocks": 1, "discriminator_filters": 4, "pool": 3},
    ),
]
BY_ROW = pytest.mark.parametrize("row", TABLE, ids=[row.model for row in TABLE])
# Training that takes long to trace.
LONG = {"ddpm", "progan", "cyclegan"}
BY_ROW_LONG_SLOW = pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.model, marks=[pytest.mark.slow] if row.model in LONG else [])
        for row in TABLE
    ],
)


def spec(side: int = SIDE, channels: int = 1) -> Spec:
    """What a source of ten labels has."""
    return Spec((side, side, channels), 10, tuple("0123456789"))


def batch(rows: int = 8, channels: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy pictures in [-1, 1] and their labels."""
    generator = np.random.default_rng(seed)
    x = generator.uniform(-1, 1, (rows, SIDE, SIDE, channels)).astype(np.float32)
    return x, (np.arange(rows) % 10).astype(np.int32)


def compiled(row: Row, **params: Any) -> Any:
    """A small model, ready to train."""
    training.seed_everything(0)
    model: Any = models.build(SYNTHESIS, row.model, spec(), {**row.params, **params})
    given: dict[str, Any] = dict(row.compiled or {})
    if rivals(row.model):
        given["discriminator_optimizer"] = keras.optimizers.Adam(1e-2)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=False, **given)
    if not rivals(row.model):  # as `fit` does
        model.optimizer.build(model.trainable_variables)
    return model


def rivals(name: str) -> bool:
    """Whether a model is trained against a discriminator."""
    from pipelines.image_synthesis.config import LIKELIHOOD

    return name not in LIKELIHOOD


def given(model: Any) -> tuple[Any, Any]:
    """What a training step of the model takes."""
    x, y = batch()
    return (
        (tf.constant(x), tf.constant(-x))
        if hasattr(model, "translate")
        else (
            tf.constant(x),
            tf.constant(y),
        )
    )


def made(model: Any, rows: int = 3) -> np.ndarray:
    """Pictures of a model."""
    if hasattr(model, "translate"):
        return np.array(model.translate(tf.constant(batch(rows)[0]), "a-to-b"))
    noise = tf.random.stateless_normal((rows, *model.noise_shape), (1, 2))
    return np.array(model.generate(noise, tf.range(rows) if model.conditional else None))


def variables(model: Any) -> list[Any]:
    """Everything that a checkpoint holds."""
    second = getattr(model, "discriminator_optimizer", None)
    return [*model.variables, *model.optimizer.variables, *(second.variables if second else [])]


def test_every_model_has_a_row_and_every_row_a_model() -> None:
    assert {row.model for row in TABLE} == set(models.MODELS[SYNTHESIS])


@BY_ROW
def test_golden_parameter_count(row: Row) -> None:
    with keras.StatelessScope(initialize_variables=False):
        model = models.build(SYNTHESIS, row.model, spec(28))
        counted = [w for w in model.weights if "seed" not in w.path]
        assert sum(int(np.prod(w.shape)) for w in counted) == row.parameters
    keras.utils.clear_session(free_memory=False)


@pytest.mark.parametrize(
    ("row", "traced"),
    [
        pytest.param(row, traced, id=f"{row.model}-{'traced' if traced else 'eager'}", marks=marks)
        for row in TABLE
        for traced, marks in (
            ((False, []), (True, [pytest.mark.slow])) if row.model in LONG else ((True, []),)
        )
    ],
)
def test_trains_and_survives_the_keras_format(row: Row, traced: bool, tmp_path: Path) -> None:
    model = compiled(row)
    before = [np.array(w) for w in model.trainable_variables]
    step = tf.function(model.train_step) if traced else model.train_step
    for _ in range(2):
        step(given(model))
    assert all(np.isfinite(float(v)) for v in model.get_metrics_result().values())
    after = [np.array(w) for w in model.trainable_variables]
    still = [
        w.path
        for w, a, b in zip(model.trainable_variables, before, after, strict=True)
        if np.array_equal(a, b)
    ]
    # Grown to the end, a progan draws and sees pictures of the largest side alone.
    assert not [path for path in still if not (row.model == "progan" and "_rgb_" in path)]
    pictures = made(model)
    assert pictures.shape == (3, SIDE, SIDE, 1)
    assert pictures.dtype == np.float32
    assert np.abs(pictures).max() <= 1.0
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(made(again), pictures)


@BY_ROW_LONG_SLOW
def test_a_checkpoint_is_read_after_other_models_were_built(row: Row, tmp_path: Path) -> None:
    written = compiled(row)
    written.train_step(given(written))
    checkpoint.save(tmp_path / "checkpoint.npz", {"live": variables(written)}, {})
    groups, _ = checkpoint.load(tmp_path / "checkpoint.npz")
    read = compiled(row)
    checkpoint.restore(variables(read), groups["live"], tmp_path / "checkpoint.npz")
    for model in (written, read):
        model.train_step(given(model))
    for a, b in zip(variables(written), variables(read), strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))


QUICK = {"dcgan", "cgan", "vae"}


# By how much pixels are multiples of a level.
SIZES = {"pixels": np.array(1e5)}


def exported(folder: Path, quick: bool) -> list[Any]:
    """Export the models that are quickly traced or the others, each with requests and answers."""
    exports = []
    for row in (r for r in TABLE if (r.model in QUICK) == quick):
        model = compiled(row)
        model.train_step(given(model))
        pixels = (batch(5)[0] * 127.5 + 127.5).astype(np.uint8)
        target = folder / row.model / "1"
        if hasattr(model, "translate"):
            endpoints: Any = Translator(model, (SIDE, SIDE, 1))
            requests, expected = endpoints.held_out(Pixels(pixels), Pixels(pixels))
        else:
            endpoints = PictureGenerator(model, 10)
            requests, expected = endpoints.held_out(pixels, np.arange(5))
        export.write(endpoints, target)
        exports.append((target, requests, expected))
    return exports


@pytest.mark.slow  # the quick ones are checked with those of every task, in test_models.py
def test_the_other_exports_answer_as_their_models_in_a_process_without_dlkit(
    tmp_path: Path,
) -> None:
    assert max(export.check(admitted(exported(tmp_path, quick=False)), SIZES)) <= 1e-5


class Pixels:
    """Rows of pictures as a split gives them."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def encoded(self, i: int) -> bytes:
        from dlkit.data.pixels import encode_png

        return encode_png(self.x[i])


@pytest.mark.parametrize(
    ("model", "params", "side", "error", "words"),
    [
        ("dcgan", {}, 30, SpecError, "these are 30 x 30; nearest: --image-size 32"),
        ("cgan", {}, 6, SpecError, "nearest: --image-size 8"),
        ("gan", {"generator": []}, 8, SpecError, "-p generator: got an empty list; accepted"),
        ("dcgan", {"filters": 0}, 8, OptionError, "-p filters: got 0; accepted: at least 1"),
        ("dcgan", {"discriminator_norm": "btch"}, 8, OptionError, "did you mean 'batch'?"),
        ("dcgn", {}, 8, OptionError, "did you mean 'dcgan'?"),
    ],
)
def test_what_does_not_fit_is_told(
    model: str, params: dict[str, Any], side: int, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)):
        models.build(SYNTHESIS, model, spec(side), params)


# ---- Spectral normalisation.

CLASSES: tuple[Any, ...] = (SpectralConv2D, SpectralDense, SpectralEmbedding)


def singular(layer: Any) -> float:
    kernel = np.array(layer.embeddings if hasattr(layer, "embeddings") else layer.kernel)
    return float(np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0])


def spectral_layers() -> list[tuple[Any, Any]]:
    convolution, dense, embedding = CLASSES
    training.seed_everything(1)
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype(np.float32)
    return [
        (convolution(5, 3, use_bias=False), tf.constant(x)),
        (dense(7, use_bias=False), tf.constant(x.reshape(4, -1))),
        (embedding(9, 4), tf.constant([0, 3, 8, 3])),
    ]


def test_spectral_norm_divides_by_the_largest_singular_value() -> None:
    for layer, x in spectral_layers():
        layer(x)
        kernel = np.array(layer.weights[0])
        for _ in range(100):
            layer(x, training=True)
        np.testing.assert_array_equal(np.array(layer.weights[0]), kernel)  # never altered
        matrix = kernel.reshape(-1, kernel.shape[-1])
        normalised = np.array(layer.normalised(tf.constant(kernel), False)).reshape(matrix.shape)
        np.testing.assert_allclose(normalised, matrix / singular(layer), rtol=0.01, atol=1e-6)
        before = np.array(layer.vector)
        np.testing.assert_array_equal(np.array(layer(x)), np.array(layer(x)))
        np.testing.assert_array_equal(np.array(layer.vector), before)  # not in inference


def test_the_gradient_goes_through_sigma() -> None:
    for layer, x in spectral_layers():
        layer(x)
        iterate = tf.function(lambda layer=layer, x=x: layer(x, training=True))
        for _ in range(300):
            iterate()
        weights = layer.weights[0]
        kernel = np.array(weights, np.float64)
        direction = np.random.default_rng(3).normal(size=kernel.shape)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(x, training=False) ** 2)
        gradient = np.array(tf.convert_to_tensor(tape.gradient(total, weights)))
        up, down = (exact(layer, kernel + 1e-4 * sign * direction, x) for sign in (1, -1))
        slope = (up - down) / 2e-4
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=0.02, abs=1e-3)


def exact(layer: Any, kernel: np.ndarray, x: Any) -> float:
    """The sum of squares of what a layer gives, with the singular value itself, in float64."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    kernel = kernel / np.linalg.svd(matrix, compute_uv=False)[0]
    return float((reference(layer, kernel, np.array(x)) ** 2).sum())


def reference(layer: Any, kernel: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What a layer of that kernel gives."""
    if isinstance(layer, SpectralEmbedding):
        return kernel[x]
    if isinstance(layer, SpectralDense):
        return x @ kernel
    return np.array(tf.nn.conv2d(x.astype(np.float64), kernel, 1, "VALID"))


def test_sigma_stays_true_while_training() -> None:
    row = Row("dcgan", 0, {**TABLE[1].params, "discriminator_norm": "spectral"})
    model = compiled(row)
    step = tf.function(model.train_step)
    for _ in range(60):
        step(given(model))
    checked = 0
    for layer in model.discriminator.layers:
        if hasattr(layer, "vector"):
            kernel = tf.constant(np.array(layer.kernel))
            ratio = np.array(kernel / layer.normalised(kernel, False))
            assert np.median(ratio) == pytest.approx(singular(layer), rel=0.01)
            checked += 1
    assert checked == 2


def test_sigma_is_found_in_float32_where_layers_compute_in_less() -> None:
    for layer, x in spectral_layers():
        layer(x)
        layer.dtype_policy = "mixed_bfloat16"
        for _ in range(100):
            answer = layer(x, training=True)
        assert answer.dtype == tf.bfloat16
        kernel = np.array(layer.weights[0], np.float64).reshape(-1, layer.vector.shape[1])
        length = np.linalg.norm(np.array(layer.vector))
        assert length == pytest.approx(1.0, abs=1e-5)
        sigma = np.linalg.norm(kernel @ np.array(layer.vector)[0])
        assert sigma == pytest.approx(singular(layer), rel=1e-3)


@pytest.mark.parametrize(
    ("model", "heads"),
    [
        ("dcgan", {"generator_1", "discriminator_logit"}),
        ("vae", {"log_variance", "decoder_logits"}),
        ("ddpm", {"head"}),
        ("cyclegan", {"a_to_b_conv_out", "b_to_a_conv_out", "judge_a_logits", "judge_b_logits"}),
    ],
)
def test_the_head_of_each_net_stays_float32(model: str, heads: set[str]) -> None:
    row = next(row for row in TABLE if row.model == model)
    whole: Any = models.build(SYNTHESIS, model, spec(), row.params)
    with computing_in(whole, "bfloat16"):
        layers = [each for each in whole._flatten_layers() if each.weights]
        full = {each.name for each in layers if each.compute_dtype == "float32"}
        half = {each.name for each in layers if each.compute_dtype == "bfloat16"}
    assert heads <= full and half


# ---- Losses, and what the discriminator sees.


def test_losses_are_those_of_their_papers() -> None:
    real, fake = np.array([[2.0], [-1.0]]), np.array([[0.5], [-3.0]])

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(-x))

    wanted = {
        "ns": (
            -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean(),
            -np.log(sigmoid(fake)).mean(),
        ),
        "wgan-gp": (fake.mean() - real.mean(), -fake.mean()),
        "hinge": (np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean(), -fake.mean()),
        "lsgan": (0.5 * ((real - 1) ** 2).mean() + 0.5 * (fake**2).mean(), 0.5 * ((fake - 1) ** 2).mean()),
        "relativistic": (
            -np.log(sigmoid(real - fake)).mean(),
            -np.log(sigmoid(fake - real)).mean(),
        ),
    }  # fmt: skip
    assert set(wanted) == set(gan_losses.ADVERSARIES)
    for name, (of_discriminator, of_generator) in wanted.items():
        pair = gan_losses.ADVERSARIES[name]
        assert float(pair.discriminator(real, fake)) == pytest.approx(of_discriminator, rel=1e-5)
        assert float(pair.generator(real, fake)) == pytest.approx(of_generator, rel=1e-5)


@pytest.mark.parametrize(
    ("adversary", "more"),
    [
        ("wgan-gp", {"critic_steps": 2}),
        ("lsgan", {"r1": 2.0}),
        ("relativistic", {"r1": 1.0, "r2": 1.0}),
        ("relativistic", {"augment": ("color", "translation", "cutout")}),
    ],
)
def test_every_way_to_train_takes_a_finite_step(adversary: str, more: dict[str, Any]) -> None:
    row = Row(
        "dcgan", 0, {**TABLE[1].params, "discriminator_norm": "none"},
        {"adversary": adversary, **more},
    )  # fmt: skip
    model = compiled(row)
    before = [np.array(w) for w in model.generator.trainable_weights]
    step = tf.function(model.train_step)
    found = [step(given(model)) for _ in range(3)][-1]
    assert all(np.isfinite(float(value)) for value in found.values())
    assert np.isfinite(made(model)).all()
    after = [np.array(w) for w in model.generator.trainable_weights]
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_gradient_penalty_wants_slopes_of_one() -> None:
    inputs = keras.Input((SIDE, SIDE, 1))
    slope = keras.layers.Dense(1, use_bias=False, name="slope")
    judge = keras.Model(inputs, slope(keras.layers.Flatten()(inputs)))
    model = compiled(Row("dcgan", 0, TABLE[1].params, {"adversary": "wgan-gp"}))
    model.discriminator = judge
    x = tf.constant(batch()[0])
    for norm in (0.5, 1.0, 3.0):
        kernel = np.random.default_rng(0).normal(size=(SIDE * SIDE, 1))
        slope.set_weights([norm * kernel / np.linalg.norm(kernel)])
        assert float(model._steepness(x, -x, None)) == pytest.approx((norm - 1) ** 2, abs=1e-4)
        assert float(model._squared_gradient(x, None)) == pytest.approx(norm**2, rel=1e-4)


@pytest.mark.parametrize(("penalty", "of"), [("r1", "real"), ("r2", "fake")])
def test_r1_is_of_real_pictures_and_r2_of_generated_ones(penalty: str, of: str) -> None:
    """A logit of `w |x|^2` has no slope where all pixels are 0: there a penalty leaves w alone."""
    inputs = keras.Input((SIDE, SIDE, 1))
    slope = keras.layers.Dense(1, use_bias=False, name="slope")
    judge = keras.Model(inputs, slope(keras.layers.GlobalAveragePooling2D()(inputs**2)))
    some, none = tf.constant(batch()[0]), tf.zeros((8, SIDE, SIDE, 1))

    def stepped(weight: float, **pictures: Any) -> float:
        row = Row("dcgan", 0, TABLE[1].params, {"adversary": "relativistic", penalty: weight})
        model = compiled(row)
        model.discriminator, model._picture = judge, lambda *_, **__: pictures["fake"]
        model.discriminator_optimizer = keras.optimizers.SGD(1.0)
        slope.set_weights([np.ones((1, 1))])
        model._train_discriminator(pictures["real"], None)
        return float(slope.get_weights()[0][0, 0])

    assert stepped(5.0, real=some, fake=some) < stepped(0.0, real=some, fake=some) == 1.0
    flat = {"real": some, "fake": some, of: none}
    assert stepped(5.0, **flat) == stepped(0.0, **flat) != 1.0


def test_penalties_are_of_the_pictures_judged_together() -> None:
    inputs = keras.Input((SIDE, SIDE, 2))
    slope = keras.layers.Dense(1, use_bias=False, name="slope")
    judge = keras.Model(inputs, slope(keras.layers.Flatten()(inputs)))
    model = compiled(Row("dcgan", 0, TABLE[1].params, {"adversary": "wgan-gp"}))
    model.discriminator, model.pac = judge, 2
    x = tf.constant(batch()[0])
    kernel = np.random.default_rng(0).normal(size=(SIDE * SIDE * 2, 1))
    slope.set_weights([3.0 * kernel / np.linalg.norm(kernel)])
    assert float(model._steepness(x, -x, None)) == pytest.approx(4.0, rel=1e-4)
    assert float(model._squared_gradient(x, None)) == pytest.approx(9.0, rel=1e-4)
    # All pictures of a pack are mixed by one share: with as much of each, the logit is 0 throughout.
    seen = []
    model.discriminator = lambda x, training: seen.append(x) or tf.reduce_sum(x, (1, 2, 3))[:, None]
    ones = tf.ones((8, SIDE, SIDE, 1))
    model._steepness(ones, 0.0 * ones, None)
    np.testing.assert_array_equal(seen[0][..., 0], seen[0][..., 1])
    assert len(np.unique(seen[0])) == 4


@pytest.mark.parametrize("adversary", sorted(gan_losses.ADVERSARIES))
def test_accuracy_is_told_of_what_each_loss_wants(adversary: str) -> None:
    model = compiled(Row("dcgan", 0, TABLE[1].params, {"adversary": adversary}))
    wanted = {"lsgan": (1.0, 0.0)}.get(adversary, (1.0, -1.0))
    right, wrong = (tf.fill((4, 1), each) for each in wanted)
    for real, fake, share in ((right, wrong, 1.0), (wrong, right, 0.0)):
        model.reset_metrics()
        model._note(tf.constant(0.0), real, fake)
        assert float(model.means["real_accuracy"].result()) == share
        assert float(model.means["fake_accuracy"].result()) == share


def test_a_loss_of_differences_knows_no_middle_of_its_own() -> None:
    model = compiled(Row("dcgan", 0, TABLE[1].params, {"adversary": "relativistic"}))
    for shift in (-7.0, 0.0, 7.0):
        model.reset_metrics()
        model._note(tf.constant(0.0), tf.fill((4, 1), shift + 1.0), tf.fill((4, 1), shift - 1.0))
        assert float(model.means["real_accuracy"].result()) == 1.0
        assert float(model.means["fake_accuracy"].result()) == 1.0


def test_pictures_judged_together_are_stacked_as_channels() -> None:
    from dlkit.models.adversarial import packed

    x = np.arange(4 * 2 * 2 * 3).reshape(4, 2, 2, 3).astype(np.float32)
    y = np.array(packed(tf.constant(x), 2))
    assert y.shape == (2, 2, 2, 6)
    np.testing.assert_array_equal(y[1], np.concatenate([x[2], x[3]], -1))
    model = compiled(Row("dcgan", 0, {**TABLE[1].params, "pac": 4}))
    found = tf.function(model.train_step)(given(model))
    assert np.isfinite(float(found["loss"]))


def test_augmentation_moves_and_blanks_and_lets_the_gradient_through() -> None:
    seed = keras.random.SeedGenerator(0)
    x = tf.ones((64, 8, 8, 1)) * 0.5
    moved = np.array(augmented(x, ("translation",), seed))
    empty = (moved == 0).mean((1, 2, 3))
    assert set(np.round(np.unique(moved), 6)) == {0.0, 0.5}
    assert empty.max() == pytest.approx(1 - (7 / 8) ** 2)  # by one pixel both ways
    assert empty.min() == 0.0
    cut = (np.array(augmented(x, ("cutout",), seed)) == 0).mean((1, 2, 3))
    assert 0 < cut.min() < cut.max() <= 0.25
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = augmented(x, ("color", "translation", "cutout"), seed)
    gradient = np.array(tape.gradient(y, x))
    assert (np.abs(gradient).sum((1, 2, 3)) > 0).all()
    np.testing.assert_array_equal(np.array(augmented(x, (), seed)), np.array(x))
