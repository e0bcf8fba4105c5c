"""Generators with a likelihood side: the variational autoencoder and denoising diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from made import pictures

from dlkit import training
from dlkit.data.spec import Spec
from dlkit.errors import OptionError, SpecError
from dlkit.evaluation.likelihood import bounds, log_likelihood
from dlkit.models import build
from dlkit.models.diffusion import Diffusion, cosine_schedule
from dlkit.models.variational import Variational

TASK = "image-synthesis"
SMALL = {
    "vae": {"filters": [4, 8], "units": [16], "latent_dim": 3},
    "ddpm": {"filters": 8, "multipliers": [1], "sample_steps": 4},
}
BY_MODEL = pytest.mark.parametrize("name", sorted(SMALL))


def made(name: str, shape: tuple[int, int, int] = (8, 8, 1), **params: Any) -> Any:
    """Build a small model for pictures of three classes."""
    keras.utils.set_random_seed(0)
    return build(TASK, name, Spec(shape, 3, ("a", "b", "c")), {**SMALL[name], **params})


def batch(n: int, side: int = 8, channels: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x, y = pictures(n, side, channels, seed)
    return (x / 127.5 - 1.0).astype("float32"), y.astype("int32")


def noise_for(model: Any, n: int, seed: int = 0) -> np.ndarray:
    shape = (n, *model.noise_shape)
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def stepped(model: Any, data: Any, count: int, rate: float = 3e-3) -> None:
    model.compile(optimizer=keras.optimizers.Adam(rate))
    model.optimizer.build(model.trainable_variables)
    step = tf.function(model.train_step)
    for _ in range(count):
        step(data)


def loss(model: Any, data: Any) -> float:
    model.reset_metrics()
    return float(model.test_step(data)["loss"])


def generated(model: Any, n: int, label: Any = None) -> np.ndarray:
    return tf.function(model.generate)(noise_for(model, n), label).numpy()


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (16, 16, 3)])
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("vae", {}),
        ("vae", {"layers": "dense", "conditional": True}),
        ("ddpm", {}),
        ("ddpm", {"conditional": False, "patch_size": 1}),
    ],
)
def test_every_shape_builds_and_every_weight_learns(
    name: str, params: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    model = made(name, shape, **params)
    before = [v.numpy() for v in model.trainable_variables]
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    model.optimizer.build(model.trainable_variables)
    logs = model.train_step(batch(6, shape[0], shape[-1]))
    assert all(np.isfinite(float(v)) for v in logs.values())
    for v, old in zip(model.trainable_variables, before, strict=True):
        assert not np.array_equal(v.numpy(), old), v.path
    label = np.array([0, 1], "int32") if model.conditional else None
    drawn = np.array(model.generate(noise_for(model, 2), label))
    assert drawn.shape == (2, *shape) and np.abs(drawn).max() <= 1.0


@pytest.mark.parametrize("shape", [(7, 9, 1), (5, 5, 3)])
def test_vae_gives_odd_sides_back(shape: tuple[int, int, int]) -> None:
    model = made("vae", shape, conditional=True)
    assert model.decode(np.zeros((2, 3), "float32"), np.array([0, 2])).shape == (2, *shape)


@pytest.mark.parametrize("name", ["vae", pytest.param("ddpm", marks=pytest.mark.slow)])
def test_fit_lowers_the_loss_of_other_pictures(name: str, tmp_path: Path) -> None:
    model = made(name)
    model.compile(optimizer=keras.optimizers.Adam(5e-3))
    held_out = batch(30, seed=1)
    before = loss(model, held_out)
    assert loss(model, held_out) == before  # the same noise each time
    seen: list[dict[str, float]] = []
    training.fit(
        model,
        lambda epoch, step: tf.data.Dataset.from_tensors(batch(60)).repeat(),
        tf.data.Dataset.from_tensors(held_out),
        steps_per_epoch=20, batch_size=60, epochs=2, time_limit=None, schedule="cosine",
        learning_rate=5e-3, warmup=0, patience=None, monitor="loss", ema=0.9,
        path=tmp_path / "checkpoint", on_epoch=lambda epoch, logs: seen.append(logs), quiet=True,
    )  # fmt: skip
    assert loss(model, held_out) < 0.95 * before
    parts = {"vae": {"reconstruction", "divergence"}, "ddpm": {"picture_error"}}[name]
    assert {f"val_{part}" for part in parts} | {"loss", "val_loss"} <= set(seen[-1])


@pytest.mark.slow
@BY_MODEL
def test_other_labels_draw_other_pictures(name: str) -> None:
    model = made(name, conditional=True)
    x, y = batch(120)
    stepped(model, (x, y), 400, 5e-3)
    means = np.stack([x[y == label].mean(0) for label in range(3)])
    drawn = generated(model, 60, np.repeat(np.arange(3, dtype="int32"), 20))
    found = np.stack([each.mean(0) for each in np.split(drawn, 3)])
    far = ((found[:, None] - means[None]) ** 2).mean((2, 3, 4))
    assert far.argmin(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "params", "told"),
    [
        ("vae", {"beta": 4.0, "samples": 5}, "-p beta: got 4 beside samples=5; accepted: 1"),
        ("vae", {"filters": []}, "-p filters: got an empty list"),
        ("vae", {"units": []}, "-p units: got an empty list"),
        ("ddpm", {"multipliers": [1, 2, 2]}, "do not divide by 8"),
        ("ddpm", {"multipliers": []}, "-p multipliers: got an empty list"),
        ("ddpm", {"steps": 10, "sample_steps": 11}, "accepted: 1 to 10"),
        ("ddpm", {"guidance": 2.0, "label_dropout": 0.0}, "beside label_dropout=0"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(name: str, params: dict, told: str) -> None:
    with pytest.raises(SpecError) as error:
        made(name, (12, 12, 1), **params)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_values_out_of_range_are_told() -> None:
    with pytest.raises(
        OptionError, match=r"-p label_dropout: got 1\.0; accepted: at least 0, below"
    ):
        made("ddpm", label_dropout=1.0)
    with pytest.raises(
        OptionError, match=r"-p likelihood: got 'gausian' \(did you mean 'gaussian'"
    ):
        made("vae", likelihood="gausian")
    with pytest.raises(SpecError, match="no classes"):
        build(TASK, "ddpm", Spec((8, 8, 1), 1), {"conditional": True})


def linear_gaussian() -> tuple[Variational, np.ndarray, np.ndarray]:
    """Make a model that is linear both ways, and the mean and covariance of the t that it draws."""
    generator = np.random.default_rng(3)
    kernel, bias, variance = (
        0.3 * generator.normal(size=(3, 16)),
        generator.uniform(0.3, 0.7, 16),
        0.04,
    )
    code, picture = keras.Input((3,)), keras.Input((4, 4, 1))
    answer = keras.layers.Reshape((4, 4, 1))(keras.layers.Dense(16)(code))
    flat = keras.layers.Flatten()(picture)
    mean, log_variance = keras.layers.Dense(3), keras.layers.Dense(3)
    model = Variational(
        keras.Model(picture, [mean(flat), log_variance(flat)]), keras.Model(code, answer),
        likelihood="gaussian", variance=variance,
    )  # fmt: skip
    model.decoder.set_weights([kernel, bias])
    # By Bayes the code's posterior is Gaussian, with a mean linear in t = (x + 1) / 2. The encoder
    # is given twice its variance: a proposal that is exact needs no weights.
    spread = np.linalg.inv(np.eye(3) + kernel @ kernel.T / variance)
    to_mean = (spread @ kernel / variance).T
    mean.set_weights([0.5 * to_mean, (0.5 - bias) @ to_mean])
    log_variance.set_weights([np.zeros((16, 3)), np.log(2.0 * np.diag(spread))])
    return model, bias, kernel.T @ kernel + variance * np.eye(16)


def test_likelihood_is_that_of_the_closed_form() -> None:
    model, mean, covariance = linear_gaussian()
    t = np.random.default_rng(4).multivariate_normal(mean, covariance, 23)
    x = (2.0 * t - 1.0).reshape(-1, 4, 4, 1).astype("float32")
    squares = np.einsum("bi,ij,bj->b", t - mean, np.linalg.inv(covariance), t - mean)
    exact = -0.5 * (squares + np.linalg.slogdet(2.0 * np.pi * covariance)[1])
    estimate = log_likelihood(model, x, samples=1700, seed=1)
    assert estimate.shape == (23,)
    np.testing.assert_allclose(estimate, exact, atol=0.2)
    assert abs(estimate.mean() - exact.mean()) < 0.03
    np.testing.assert_array_equal(estimate, log_likelihood(model, x, samples=1700, seed=1))
    assert bounds(model, x).mean() < exact.mean()
    # One sample is the bound itself, up to noise; more come closer to the truth from below.
    few = [log_likelihood(model, x, samples=k).mean() for k in (1, 20)]
    assert few[0] < few[1] < exact.mean() + 0.05


def test_likelihood_is_that_of_all_classes_where_a_source_comes_class_by_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlkit.data.pictures import load_pictures
    from pipelines.image_synthesis import judged
    from pipelines.image_synthesis.config import Config

    monkeypatch.setattr(judged, "DRAWS", 10)
    x = np.zeros((500, 8, 8, 1), np.uint8)
    x[250:] = 255
    y = np.arange(500) // 250
    np.savez(tmp_path / "sorted.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    data = load_pictures(str(tmp_path / "sorted.npz"))
    model = made("vae")
    bias = model.decoder.get_layer("decoder_logits").bias
    bias.assign(bias - 2.0)  # pixels are black with probability 0.88
    given = (model, Config(model="vae"), data, data, np.zeros(0), np.zeros(0), tmp_path, True)
    found, _ = judged.more_of(*given)
    black, white = (float(bounds(model, p / 127.5 - 1.0).mean()) for p in (x[:9], x[-9:]))
    middle = pytest.approx((black + white) / 2, abs=0.15 * (black - white))
    assert found["metrics"]["elbo"] == middle and -found["metrics"]["nll"] == middle


def test_bernoulli_likelihood_sums_the_cross_entropy_of_the_pixels() -> None:
    model = made("vae", conditional=True)
    x, y = batch(5)
    z = noise_for(model, 5)
    p = 0.5 * (np.array(model.decode(z, y), "float64") + 1.0)
    t = 0.5 * (x.astype("float64") + 1.0)
    wanted = (t * np.log(p) + (1.0 - t) * np.log(1.0 - p)).sum((1, 2, 3))
    found = np.array(model.log_likelihood_of(x, z[:, None], y))[:, 0]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_more_samples_give_a_higher_bound() -> None:
    data = batch(60)
    model = made("vae")
    stepped(model, data, 100)
    losses = []
    for samples in (1, 5, 50):
        model.samples = samples
        losses.append(loss(model, data))
    assert losses[0] > losses[1] > losses[2]


def test_beta_weighs_the_divergence() -> None:
    model, data = made("vae"), batch(9)
    for beta in (1.0, 3.0):
        model.beta = beta
        model.reset_metrics()
        logs = {name: float(value) for name, value in model.test_step(data).items()}
        whole = logs["reconstruction"] + beta * logs["divergence"]
        assert logs["loss"] == pytest.approx(whole, rel=1e-5)


def test_forward_process_has_the_cosine_schedules_signal_to_noise() -> None:
    left = cosine_schedule(1000)
    at = np.arange(1001) / 1000
    exact = np.cos((at + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(left[:990], exact[:990], rtol=1e-9)
    assert left[0] == 1.0 and 0.0 < left[-1] < 1e-5 and (np.diff(left) < 0.0).all()
    model = made("ddpm")
    noise = noise_for(model, 400)
    for step in (1, 500, 900):
        spoilt = np.array(model.noisy(np.full((400, 8, 8, 1), 0.7, "float32"), [step] * 400, noise))
        share = spoilt.mean() ** 2 / 0.49
        assert share == pytest.approx(left[step], abs=0.01)
        assert spoilt.var() == pytest.approx(1.0 - left[step], rel=0.03)


@pytest.mark.parametrize("target", ["v", "epsilon"])
def test_perfect_predictor_leads_back_to_the_picture(target: str) -> None:
    picture = batch(1)[0]
    model = made("ddpm", conditional=False, target=target, sample_steps=5)

    class Knowing(Diffusion):
        """One that has the picture by heart."""

        def _predicted(self, x: Any, at: Any, label: Any, training: bool) -> Any:
            signal, spoilt = self._shares(at)
            noise = (x - signal * picture) / spoilt
            return signal * noise - spoilt * picture if target == "v" else noise

    knowing = Knowing(model.net, target=target, sample_steps=5)
    drawn = generated(knowing, 4)
    np.testing.assert_allclose(drawn, np.repeat(picture, 4, 0), atol=1e-3)


def test_guidance_of_nothing_forgets_the_label() -> None:
    model = made("ddpm")
    head = model.net.get_layer("head").kernel
    head.assign(100.0 * head)  # it starts so small that labels hardly show
    other = [np.full(2, label, "int32") for label in (0, 1)]
    assert np.abs(generated(model, 2, other[0]) - generated(model, 2, other[1])).max() > 1e-3
    model.guidance = 0.0
    np.testing.assert_allclose(
        generated(model, 2, other[0]), generated(model, 2, other[1]), atol=1e-5
    )
