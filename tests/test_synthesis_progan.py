"""ProGAN: its layers, growing without a jump, the plan of its stages, and resuming over a switch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlkit import checkpoint, growth, training
from dlkit.data.spec import Spec
from dlkit.data.stream import train_stream
from dlkit.errors import SpecError
from dlkit.models.progan import EqualConv2D, EqualDense, MinibatchDeviation, PixelNorm, progan
from dlkit.models.progressive import Growth, Progressive, enlarged, faded, shrunk
from dlkit.plan import Validated

STAGES = ((0, 0), (3, 7), (10, 14))
ROWS, SIDE = 24, 16


def made(side: int = SIDE, **given: Any) -> Progressive:
    """A small compiled model of pictures of side 4, 8 and so on."""
    training.seed_everything(0)
    spec = Spec((side, side, 1), 2, ("a", "b"))
    model: Any = progan(spec, latent_dim=6, filters=2, most_filters=4)
    model.compile(
        keras.optimizers.Adam(1e-3, 0.0, 0.99),
        keras.optimizers.Adam(1e-3, 0.0, 0.99),
        **{"stages": STAGES, **given},
    )
    return model


@pytest.fixture(scope="module")
def grown() -> Progressive:
    """A model whose biases are not 0 and whose small stages differ from the large."""
    model = made()
    generator = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(generator.normal(size=weight.shape))
    return model


def noise(rows: int = 4) -> tf.Tensor:
    return tf.constant(np.random.default_rng(1).normal(size=(rows, 6)).astype(np.float32))


def pictures() -> np.ndarray:
    return np.random.default_rng(2).uniform(-1, 1, (ROWS, SIDE, SIDE, 1)).astype(np.float32)


def snapshot(variables: Any) -> dict[str, np.ndarray]:
    return {f"{i} {v.path}": np.array(v) for i, v in enumerate(variables)}


def changed(before: dict[str, np.ndarray], variables: Any) -> set[str]:
    """Names of the variables that are not what they were."""
    after = snapshot(variables)
    return {name.split()[1] for name in after if not np.array_equal(before[name], after[name])}


def test_nets_have_a_stage_a_doubling() -> None:
    for side, sides in ((28, [7, 14, 28]), (8, [4, 8]), (32, [4, 8, 16, 32])):
        model: Any = progan(Spec((side, side, 3), 10), filters=4)
        assert [output.shape[1] for output in model.generator.outputs] == sides
        assert model.generate(tf.zeros((2, 128))).shape == (2, side, side, 3)
        assert model.noise_shape == (128,) and not model.conditional
    with pytest.raises(SpecError, match="30 x 30; nearest: --image-size 32"):
        progan(Spec((30, 30, 1), 10))


def test_equal_layers_keep_the_variance_whatever_their_width() -> None:
    generator = np.random.default_rng(0)
    for layer, shape in (
        (EqualDense(400, gain=1.0), (300, 50)),
        (EqualConv2D(64, 3, gain=1.0), (4, 12, 12, 96)),
    ):
        x = generator.normal(size=shape).astype(np.float32)
        assert np.std(layer(x)) == pytest.approx(1.0, rel=0.1)
        assert np.std(layer.kernel) == pytest.approx(1.0, rel=0.05)
        again: Any = type(layer).from_config(layer.get_config())
        assert again.gain == 1.0
    doubled = EqualDense(400)(generator.normal(size=(300, 50)).astype(np.float32))
    assert np.std(doubled) == pytest.approx(np.sqrt(2.0), rel=0.1)


def test_pixel_norm_and_the_deviation_of_a_batch() -> None:
    x = np.random.default_rng(0).normal(2.0, 3.0, (5, 4, 4, 6)).astype(np.float32)
    y = np.array(PixelNorm()(x))
    np.testing.assert_allclose((y**2).mean(-1), 1.0, rtol=1e-4)
    np.testing.assert_allclose(y * np.sqrt((x**2).mean(-1, keepdims=True)), x, rtol=1e-3)
    more = np.array(MinibatchDeviation()(x))
    np.testing.assert_array_equal(more[..., :6], x)
    np.testing.assert_allclose(more[..., 6], x.std(0).mean(), rtol=1e-5)
    same = np.array(MinibatchDeviation()(np.repeat(x[:1], 5, 0)))
    assert np.abs(same[..., 6]).max() < 1e-3


def test_what_is_generated_does_not_jump_at_a_switch(grown: Progressive) -> None:
    z, ones, zeros = noise(), tf.ones(4), tf.zeros(4)
    ends, starts = grown.generator([z, ones]), grown.generator([z, zeros])
    for k in (1, 2):
        np.testing.assert_allclose(starts[k], enlarged(ends[k - 1], 2), atol=1e-5)
        assert np.abs(np.array(ends[k] - starts[k])).mean() > 0.1
        before = np.array(grown.generate(z, grown=float(k)))
        np.testing.assert_allclose(grown.generate(z, grown=k + 1e-6), before, atol=1e-5)
        assert before.shape == (4, SIDE, SIDE, 1)
        small = before[:, :: SIDE // (2 * 2**k), :: SIDE // (2 * 2**k)]
        np.testing.assert_array_equal(enlarged(small, SIDE // (2 * 2**k)), before)
    half = np.array(grown.generator([z, 0.5 * ones])[2])
    np.testing.assert_allclose(half, 0.5 * np.array(ends[2] + starts[2]), atol=1e-5)
    np.testing.assert_allclose(grown.generate(z, grown=2.5), half.clip(-1, 1), atol=1e-5)
    np.testing.assert_array_equal(grown.generate(z, grown=99.0), grown.generate(z, grown=3.0))


def test_what_is_judged_does_not_jump_at_a_switch(grown: Progressive) -> None:
    x = tf.constant(pictures())
    sizes = [shrunk(x, 4), shrunk(x, 2), x]
    ends = grown.discriminator([*sizes, tf.ones(ROWS)])
    # At a switch real pictures are as coarse as they were.
    starts = grown.discriminator([faded(each, 0.0) for each in sizes] + [tf.zeros(ROWS)])
    for k in (1, 2):
        scale = np.abs(np.array(ends[k - 1])).max()
        np.testing.assert_allclose(starts[k] / scale, ends[k - 1] / scale, atol=1e-5)
        assert np.abs(np.array(ends[k] - ends[k - 1])).max() > 0.1
    np.testing.assert_allclose(faded(x, 1.0), x, atol=1e-6)


@pytest.mark.slow
def test_a_step_trains_the_weights_of_its_stage_alone_and_no_step_is_traced_anew() -> None:
    model = made()
    step = tf.function(model.train_step)
    data = tf.constant(pictures()[:8]), tf.zeros((8,), tf.int32)
    states = [*model.optimizer.variables, *model.discriminator_optimizer.variables]
    seen = []
    own: dict[int, set[str]] = {
        k: {w.path for net in model._nets(Growth(k, 1.0)) for w in net.trainable_weights}
        for k in range(3)
    }
    for at in range(16):
        stage = sum(first <= at for first, _ in STAGES) - 1
        before, slots = snapshot(model.trainable_weights), snapshot(states)
        step(data)
        seen.append(float(model.grown))
        moved = changed(before, model.trainable_weights)
        assert moved <= own[stage]
        if at not in (3, 10):  # alpha is 0: the new block has no gradient yet
            fading = {w for w in own[stage] if f"rgb_{stage - 1}" in w}
            assert moved >= own[stage] - fading
        others = {w.replace("/", "_") for w in own[2] - own[stage]}
        touched = " ".join(changed(slots, states))
        assert not [name for name in others if name in touched]
    np.testing.assert_allclose(
        seen, [1, 1, 1, 1, 1.25, 1.5, 1.75, 2, 2, 2, 2, 2.25, 2.5, 2.75, 3, 3]
    )
    assert step.experimental_get_tracing_count() == 1
    assert int(model.optimizer.iterations) == 16
    assert own[0] < own[1]
    assert {w.split("/")[0] for w in own[1] - own[2]} == {"generator_rgb_0", "discriminator_rgb_0"}


def test_without_a_plan_the_whole_nets_are_trained() -> None:
    model = made(stages=(), adversary="relativistic", r1=1.0, critic_steps=2)
    before = snapshot(model.trainable_weights)
    logs = model.train_step((tf.constant(pictures()[:8]), tf.zeros((8,), tf.int32)))
    assert float(model.grown) == 3.0
    assert all(np.isfinite(float(value)) for value in logs.values())
    assert int(model.discriminator_optimizer.iterations) == 2
    used = {w.path for net in model._nets(Growth(2, 1.0)) for w in net.trainable_weights}
    # Blended out; and a constant that cancels where real and generated are compared.
    old = {w for w in used if "rgb_1" in w or w == "discriminator_logit/bias"}
    assert changed(before, model.trainable_weights) == used - old


def test_a_saved_model_generates_the_same_while_it_grows(tmp_path: Path) -> None:
    model = made()
    for now in (1.0, 2.25, 3.0):
        model.grown.assign(now)
        model.save(tmp_path / "m.keras")
        again: Any = keras.models.load_model(tmp_path / "m.keras")
        assert float(again.grown) == now
        np.testing.assert_array_equal(again.generate(noise()), model.generate(noise()))
    traced = tf.function(again.generate)(noise())
    np.testing.assert_allclose(traced, model.generate(noise()), atol=1e-6)


@pytest.mark.slow
def test_measuring_leaves_no_trace() -> None:
    model = made(8, stages=STAGES[:2])
    data = tf.constant(pictures()[:8, :8, :8]), tf.zeros((8,), tf.int32)
    variables = [
        *model.variables, *model.optimizer.variables, *model.discriminator_optimizer.variables,
        *model.metrics_variables,
    ]  # fmt: skip
    model.train_step(data)
    before = snapshot(variables)
    seconds = growth.measure(model, data, repeats=1)
    assert len(seconds) == 2 and min(seconds) > 0
    assert not changed(before, variables)


def test_stages_are_planned_in_steps_and_in_time() -> None:
    assert growth.stages(1000, 3) == ((0, 0), (250, 375), (500, 750))
    assert growth.stages(1000, 3, share=0.1, fade=1.0) == ((0, 0), (100, 200), (200, 1000))
    assert growth.stages(900, 2) == ((0, 0), (300, 600))
    assert growth.stages(3, 4) == ((0, 0), (1, 1), (2, 2), (3, 3))
    # A quarter of 100 seconds each, and a half: 250 steps, 125 and 50.
    assert growth.stages_in_time(100.0, [0.1, 0.2, 1.0]) == ((0, 0), (250, 312), (375, 400))
    assert growth.stages_in_time(100.0, [0.1, 0.2, 1.0], share=0.4) == (
        (0, 0), (400, 500), (600, 610),
    )  # fmt: skip


def trained(path: Path) -> str:
    """Train, from a checkpoint if there is one; return a hash of all that is in the last one."""
    model = made(stages=((0, 0), (3, 5), (7, 10)))
    arrays = pictures(), np.zeros(ROWS, np.int32)

    def stream(epoch: int, step: int) -> tf.data.Dataset:
        def prepare(seed: Any, rows: Any, x: Any, y: Any) -> tuple:
            return x, y

        return train_stream(arrays, prepare, batch_size=4, seed=1, epoch=epoch, step=step)

    training.fit(
        model, stream, lambda logs: Validated({"loss": 1.0}),
        steps_per_epoch=6, batch_size=4, epochs=2, time_limit=None, schedule="constant",
        learning_rate=1e-3, warmup=0, patience=None, monitor="loss", path=path,
        on_epoch=lambda epoch, logs: None, descends=False, ema=0.9,
        carried=[*model.discriminator_optimizer.variables], quiet=True,
    )  # fmt: skip
    live, _ = checkpoint.load(path)
    whole = [np.ascontiguousarray(v).tobytes() for name in ("live", "ema") for _, v in live[name]]
    return hashlib.sha256(b"".join(whole)).hexdigest()


@pytest.mark.slow  # traces all stages three times
def test_a_run_killed_before_and_within_a_switch_ends_in_the_same_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = trained(tmp_path / "a.npz")
    monkeypatch.setattr(training, "CHUNK_SECONDS", 0.0)
    monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", 0.0)
    save, saves = checkpoint.save, []

    def killed(*arguments: Any) -> None:
        save(*arguments)
        saves.append(1)
        if len(saves) == 1 + 8:  # the first is that of the start; step 8 is within a fade
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "b.npz")
    assert checkpoint.load(tmp_path / "b.npz")[1]["step"] == 8
    assert trained(tmp_path / "b.npz") == once
