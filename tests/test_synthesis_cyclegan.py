"""CycleGAN: shapes, the pool's rule, the step, and resuming between two steps."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dlkit import checkpoint, training
from dlkit.data.pictures import load_pictures
from dlkit.data.spec import Spec
from dlkit.data.stream import train_stream
from dlkit.errors import SpecError
from dlkit.evaluation import feature_net
from dlkit.evaluation.translation_report import translation_report
from dlkit.models.cycle import DIRECTIONS, CycleGan
from dlkit.models.cyclegan import cyclegan
from dlkit.models.image_pool import ImagePool
from dlkit.plan import Validated
from dlkit.precision import computing_in
from pipelines.image_synthesis.config import Config
from pipelines.image_synthesis.setup import domain_judges

SMALL: dict[str, Any] = {
    "filters": 2, "blocks": 1, "kernel_size": 3, "discriminator_filters": 2, "pool": 6,
}  # fmt: skip


def spec(height: int = 8, width: int = 8, channels: int = 1) -> Spec:
    return Spec((height, width, channels), 2, ("a", "b"))


def made(seed: int = 0, **given: Any) -> CycleGan:
    """A small compiled model."""
    training.seed_everything(seed)
    model = cyclegan(spec(), **SMALL | given)
    model.compile(
        keras.optimizers.Adam(2e-3, 0.5), keras.optimizers.Adam(2e-3, 0.5), discriminator_rate=0.5
    )
    return model  # type: ignore[return-value]


def domains(rows: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Pictures with a bright stripe down, and dark ones with one across."""
    generator = np.random.default_rng(0)
    a, b = (generator.uniform(-1, -0.5, (rows, 8, 8, 1)).astype(np.float32) for _ in range(2))
    at = generator.integers(1, 7, rows)
    a[np.arange(rows), :, at] = 1.0
    b[np.arange(rows), at] = 1.0
    return a, -b


def test_a_step_changes_every_weight_of_all_four_nets() -> None:
    model = made()
    a, b = (each[:8] for each in domains())
    before = [np.array(w) for w in model.trainable_weights]
    names = [w.path for w in model.trainable_weights]
    assert len(set(names)) == len(names)
    first = dict(model.train_step((tf.constant(a), tf.constant(b))))
    assert set(first) == {"loss", "cycle", "identity", "discriminator_loss"}
    assert all(np.isfinite(float(value)) for value in first.values())
    assert float(model.discriminator_optimizer.learning_rate) == pytest.approx(1e-3)
    still = [
        name
        for name, old, new in zip(names, before, model.trainable_weights, strict=True)
        if np.array_equal(old, np.array(new))
    ]
    # What a normalisation takes away again: the bias before it has no gradient but rounding.
    assert not [name for name in still if not (name.endswith("bias") and "_conv_" in name)]


def test_pictures_of_a_colour_domain_keep_their_shape_and_range() -> None:
    model: Any = cyclegan(spec(12, 8, 3), **SMALL)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 12, 8, 3)).astype(np.float32)
    there, back = (np.array(model.translate(x, each)) for each in DIRECTIONS)
    assert there.shape == back.shape == x.shape
    assert np.abs(there).max() <= 1 and not np.allclose(there, back)
    with pytest.raises(KeyError):
        model.translate(x, "a-to-c")
    alone = np.array(model.translate(x[:1], "a-to-b"))
    np.testing.assert_allclose(alone, there[:1], atol=1e-5)


@pytest.mark.parametrize(("shape", "nearest"), [((30, 28, 1), 32), ((4, 4, 1), 8), ((9, 9, 3), 8)])
def test_sides_that_do_not_divide_by_4_are_told(shape: tuple, nearest: int) -> None:
    with pytest.raises(
        SpecError, match=f"{shape[0]} x {shape[1]}; nearest: --image-size {nearest}"
    ):
        cyclegan(Spec(shape, 2))
    with pytest.raises(SpecError, match="kernel_size: got 4"):
        cyclegan(spec(), kernel_size=4)


@pytest.mark.parametrize(("side", "patch"), [(28, 16), (64, 34), (256, 70)])
def test_a_discriminator_judges_patches_that_fit(side: int, patch: int) -> None:
    model: Any = cyclegan(spec(side, side), **SMALL)
    judge = model.judge_a
    x = tf.Variable(
        tf.constant(np.random.default_rng(0).normal(size=(1, side, side, 1)), "float32")
    )
    bare = unnormalised(judge)
    with tf.GradientTape() as tape:
        logits = bare(x)
        middle = logits[0, logits.shape[1] // 2, logits.shape[2] // 2, 0]
    seen = np.argwhere(np.array(tape.gradient(middle, x))[0, ..., 0])
    assert tuple(seen.max(0) - seen.min(0) + 1) == (patch, patch)


def unnormalised(model: keras.Model) -> keras.Model:
    """The same layers without instance norm, which sees the whole map."""
    x = inputs = keras.Input(model.input_shape[1:])
    for layer in model.layers[1:]:
        if not isinstance(layer, keras.layers.GroupNormalization):
            x = layer(x)
    return keras.Model(inputs, x)


def test_a_pool_fills_and_then_gives_half_of_the_new_ones_back_as_old_ones() -> None:
    keras.utils.set_random_seed(0)
    pool = ImagePool(50)
    pool.build((None, 1, 1, 1))

    def exchanged(first: int, rows: int) -> np.ndarray:
        batch = np.arange(first, first + rows, dtype=np.float32).reshape(-1, 1, 1, 1)
        return np.array(pool(batch)).ravel()

    for first in (0, 16, 32):
        np.testing.assert_array_equal(exchanged(first, 16), np.arange(first, first + 16))
    # Two places are left.
    np.testing.assert_array_equal(exchanged(48, 16), np.arange(48, 64))
    np.testing.assert_array_equal(np.array(pool.kept).ravel(), np.arange(50))
    old = 0
    for first in range(64, 64 + 16 * 200, 16):
        before = set(np.array(pool.kept).ravel())
        given, now = exchanged(first, 16), set(np.array(pool.kept).ravel())
        assert len(now) == 50
        came, new = set(given), set(range(first, first + 16))
        # Nothing is lost or doubled: who went in came out as new, or is kept now.
        assert came | now == before | new and len(came) == 16 and not came & now
        old += len(came - new)
    assert old / (16 * 200) == pytest.approx(0.5, abs=0.03)


def test_a_batch_larger_than_the_pool_goes_through() -> None:
    pool = ImagePool(3)
    pool.build((None, 1, 1, 1))
    batch = np.arange(8, dtype=np.float32).reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(np.array(pool(batch)), batch)
    np.testing.assert_array_equal(np.array(pool.kept).ravel(), [0, 1, 2])
    again = np.array(pool(batch + 8)).ravel()
    assert set(again[3:]) == set(range(11, 16)) and set(again[:3]) <= set(range(11))


def test_a_step_in_bfloat16_keeps_its_pool_in_float32() -> None:
    model = made()
    a, b = (tf.constant(each[:4]) for each in domains())
    first = np.array(model.a_to_b(a, training=True))
    with computing_in(model, "bfloat16"):
        logs = model.train_step((a, b))
    assert all(np.isfinite(float(value)) for value in logs.values())
    assert model.pool_a.kept.dtype == "float32" and int(model.pool_a.filled) == 4
    np.testing.assert_allclose(np.array(model.pool_b.kept)[:4], first, atol=0.1)


def test_a_saved_model_translates_the_same_and_keeps_its_pool(tmp_path: Path) -> None:
    model = made()
    a, b = domains()
    model.train_step((tf.constant(a[:4]), tf.constant(b[:4])))
    model.save(tmp_path / "m.keras")
    again: Any = keras.models.load_model(tmp_path / "m.keras")
    assert (again.cycle, again.identity, again.pool) == (10.0, 5.0, 6)
    for direction in DIRECTIONS:
        np.testing.assert_array_equal(
            np.array(again.translate(a, direction)), np.array(model.translate(a, direction))
        )
    np.testing.assert_array_equal(np.array(again.pool_a.kept), np.array(model.pool_a.kept))
    assert int(again.pool_a.filled) == 4 and again.count_params() == model.count_params()


def folder(path: Path, x: np.ndarray) -> str:
    """Write pictures `(n, h, w, 1)` as files; return the folder's name."""
    path.mkdir()
    for i, picture in enumerate(x):
        Image.fromarray(picture[..., 0]).save(path / f"{i:02}.png")
    return str(path)


@pytest.mark.parametrize("streamed", [(True, True), (True, False), (False, True), (False, False)])
def test_a_judge_sees_the_pictures_of_both_domains_on_disk_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamed: tuple[bool, bool]
) -> None:
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    dark = generator.integers(0, 99, (30, 8, 8, 1)).astype(np.uint8)
    bright = generator.integers(150, 255, (40, 8, 8, 1)).astype(np.uint8)
    a, b = (
        load_pictures(folder(tmp_path / name, x), stream=on_disk)
        for name, x, on_disk in (("a", dark, streamed[0]), ("b", bright, streamed[1]))
    )
    seen: list[Any] = []
    monkeypatch.setattr(feature_net, "trained", lambda data, folder, quiet: seen.append(data))
    domain_judges(Config(), (a, b), quiet=True)
    (both,) = seen
    for split in ("train", "validation", "test"):
        part = getattr(both, split)
        assert len(part) == len(getattr(a, split)) + len(getattr(b, split))
        bright_ones = np.asarray(part.x).mean((1, 2, 3)) > 125
        np.testing.assert_array_equal(bright_ones, part.y)
    assert both.fingerprint()


@pytest.mark.parametrize("classes", [1, 2])
def test_label_accuracy_is_of_classes_that_both_domains_have(tmp_path: Path, classes: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)
    # Without labels, all are of the class "picture".
    labels: dict[str, Any] = {"y": np.arange(40) % 2} if classes == 2 else {}
    np.savez(tmp_path / "x.npz", x=x, **labels)
    data = load_pictures(str(tmp_path / "x.npz"))

    def answer(x: np.ndarray) -> Any:
        flat = tf.reshape(tf.cast(x, tf.float32), (len(x), -1))
        return flat[:, :4], tf.nn.softmax(flat[:, :2])

    net = feature_net.FeatureNet(answer, {"labels": ["a", "b"]})
    report = translation_report(lambda x, way: 255 - x, (data, data), (net, net), tmp_path)
    told = {"label_accuracy", "label_accuracy_b_to_a"}
    assert told & set(report["metrics"]) == (told if classes == 2 else set())
    assert "label_accuracy" not in report["baselines"]["untranslated"]["metrics"] or classes == 2


def trained(path: Path, epochs: int = 3) -> str:
    """Train, from a checkpoint if there is one; return a hash of all that is in the last one."""
    model, arrays = made(), domains()

    def stream(epoch: int, step: int) -> tf.data.Dataset:
        def prepare(seed: Any, rows: Any, x: Any, y: Any) -> tuple:
            return x, y

        return train_stream(arrays, prepare, batch_size=4, seed=1, epoch=epoch, step=step)

    training.fit(
        model, stream, lambda logs: Validated({"loss": 1.0}),
        steps_per_epoch=6, batch_size=4, epochs=epochs, time_limit=None, schedule="constant",
        learning_rate=2e-3, warmup=0, patience=None, monitor="loss", path=path,
        on_epoch=lambda epoch, logs: None, descends=False, ema=0.9,
        carried=[*model.discriminator_optimizer.variables], quiet=True,
    )  # fmt: skip
    live, _ = checkpoint.load(path)
    whole = [np.ascontiguousarray(v).tobytes() for name in ("live", "ema") for _, v in live[name]]
    return hashlib.sha256(b"".join(whole)).hexdigest()


@pytest.mark.slow  # traces its training three times
def test_a_run_killed_between_two_steps_ends_in_the_same_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = trained(tmp_path / "a.npz")
    monkeypatch.setattr(training, "CHUNK_SECONDS", 0.0)
    monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", 0.0)
    save, saves = checkpoint.save, []

    def killed(*arguments: Any) -> None:
        save(*arguments)
        saves.append(1)
        if len(saves) == 1 + 9:  # the first is that of the start
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "b.npz")
    assert checkpoint.load(tmp_path / "b.npz")[1]["step"] == 9
    assert trained(tmp_path / "b.npz") == once


@pytest.mark.slow
def test_translations_learn_the_other_domain() -> None:
    model = made(filters=8, discriminator_filters=8, pool=20)
    a, b = domains(64)
    step = tf.function(model.train_step)
    generator = np.random.default_rng(0)
    for _ in range(150):
        step((tf.constant(a[generator.permutation(64)[:8]]),
              tf.constant(b[generator.permutation(64)[:8]])))  # fmt: skip
    there = np.array(model.translate(a, "a-to-b"))
    # Dark pictures become bright ones, as those of b are.
    assert a.mean() < -0.4 < 0.4 < b.mean()
    assert there.mean() == pytest.approx(b.mean(), abs=0.2)
    back = np.array(model.translate(there, "b-to-a"))
    assert np.abs(back - a).mean() < 0.5 * np.abs(a - a.mean(0)).mean() + 0.1
