"""Augmentation, losses and optimisers: what each does, and that it is a function of its seed."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from made import pictures

from dlkit import losses, optimizers
from dlkit.data.augment import augment, mix
from dlkit.data.policy import OPERATIONS, PRESETS, policy, written
from dlkit.errors import OptionError

SEED = tf.constant([1, 2], tf.int64)
MIXING = {"mixup", "cutmix"}


def changed(text: str, x: np.ndarray, step: int = 0, epoch: int = 0, kind: str = "photo") -> Any:
    seed = tf.constant([1, epoch * 2**32 + step], tf.int64)
    rows = tf.range(len(x), dtype=tf.int64)
    return augment(tf.constant(x), seed, rows, policy(text, kind)).numpy()


def ramp(n: int) -> np.ndarray:
    """Images whose brightness grows from left to right."""
    line = np.linspace(40, 250, 32).astype(np.uint8)
    return np.tile(line[None, None, :, None], (n, 32, 1, 1))


def mirrored(images: np.ndarray) -> np.ndarray:
    return images[:, 16, 10:14].mean((1, 2)) > images[:, 16, 18:22].mean((1, 2))


@pytest.mark.parametrize("text", [n for n in OPERATIONS if n not in MIXING])
def test_every_operation_changes_images_as_its_seed_says(text: str) -> None:
    x, _ = pictures(64)
    first, again = changed(text, x, 1), changed(text, x, 1)
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 255
    other = changed(text, x, 2, epoch=text == "alternating-flip")
    assert (first != other).any(axis=(1, 2, 3)).mean() > 0.4


def test_none_changes_nothing() -> None:
    x, _ = pictures(8)
    np.testing.assert_array_equal(changed("none", x), x.astype(np.float32))


def test_flip_mirrors_half_and_characters_never() -> None:
    images = ramp(400)
    assert 0.4 < mirrored(changed("flip", images)).mean() < 0.6
    assert 0.4 < mirrored(changed("light", images)).mean() < 0.6
    assert mirrored(changed("light", images, kind="characters")).mean() == 0.0
    for text in PRESETS["characters"].values():
        assert "flip" not in text


def test_alternating_flip_shows_each_image_both_ways_in_two_epochs() -> None:
    images = ramp(200)
    first, second = (mirrored(changed("alternating-flip", images, epoch=e)) for e in (0, 1))
    np.testing.assert_array_equal(first, ~second)
    assert 0.3 < first.mean() < 0.7
    later = mirrored(changed("alternating-flip", images, step=9, epoch=2))
    np.testing.assert_array_equal(first, later)


def test_crop_moves_by_whole_pixels_over_reflected_borders() -> None:
    x, _ = pictures(32, side=12)
    wide = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect").astype(np.float32)
    for before, after in zip(wide, changed("crop=2", x), strict=True):
        crops = [before[i : i + 12, j : j + 12] for i in range(5) for j in range(5)]
        assert any((crop == after).all() for crop in crops)


def test_erase_leaves_at_least_the_stated_share() -> None:
    x = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 1)).astype(np.uint8)
    share = (changed("erase=0.25", x) != x).mean((1, 2, 3))
    assert 0.35 < (share > 0).mean() < 0.65
    assert share.max() < 0.3


@pytest.mark.parametrize("text", sorted(MIXING))
def test_mixing_mixes_the_targets_as_it_mixes_the_images(text: str) -> None:
    x = np.zeros((4, 16, 16, 1), np.float32)
    x[:2] = 1.0  # so that an image's mean is its share of classes 0 and 1
    y = np.array([0, 1, 2, 3], np.int32)
    shares = []
    for step in range(30):
        seed = tf.constant([1, step], tf.int64)
        images, targets = mix(tf.constant(x), tf.constant(y), seed, policy(text), 4)
        targets = targets.numpy()
        np.testing.assert_allclose(targets.sum(1), 1.0, rtol=1e-6)
        np.testing.assert_allclose(images.numpy().mean((1, 2, 3)), targets[:, :2].sum(1), atol=1e-6)
        shares.append(targets[0, 0])
    assert np.ptp(shares) > 0.2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flpi", "did you mean 'flip'?"),
        ("crop=much", "crop got 'much'; accepted: above 0"),
        ("rotate=-3", "accepted: above 0, at most 180"),
        ("flip,flip", "stands twice"),
        ("mixup,cutmix", "exclude each other"),
        ("", "no operation ''"),
    ],
)
def test_a_wrong_policy_is_told(text: str, words: str) -> None:
    with pytest.raises(OptionError, match=words.replace("?", r"\?")):
        policy(text)


def test_a_policy_is_written_as_it_is_read() -> None:
    for kind, presets in PRESETS.items():
        for name in presets:
            found = policy(name, kind)
            assert policy(written(found)) == found


def test_losses_agree_with_kerass() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(6, 4)).astype(np.float32)
    y = np.array([0, 1, 2, 3, 0, 1], np.int32)
    shares = np.eye(4, dtype=np.float32)[y]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    want = {
        "cross-entropy": -np.log(p[range(6), y]),
        "mse": ((p - shares) ** 2).sum(1),
        "focal": -((1 - p[range(6), y]) ** 2) * np.log(p[range(6), y]),
    }
    for name, values in want.items():
        loss = losses.classification_loss(name, 4)
        for targets in (y, shares):
            np.testing.assert_allclose(loss(tf.constant(targets), logits), values, rtol=1e-4)
    smooth = losses.classification_loss("cross-entropy", 4, label_smoothing=0.2)
    np.testing.assert_allclose(
        smooth(tf.constant(y), logits),
        keras.losses.categorical_crossentropy(shares, logits, True, 0.2),
        rtol=1e-5,
    )


def test_balanced_weights_make_classes_count_the_same() -> None:
    weights = losses.balanced_weights([90, 9, 0, 1])
    np.testing.assert_allclose(np.array(weights) * [90, 9, 0, 1], [100 / 3, 100 / 3, 0, 100 / 3])
    loss = losses.classification_loss("cross-entropy", 2, class_weights=[1.0, 3.0])
    logits = np.zeros((2, 2), np.float32)
    each = loss(tf.constant([0, 1]), logits).numpy()
    np.testing.assert_allclose(each[1], 3 * each[0], rtol=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "one-cycle"])
def test_schedules_end_at_zero_and_never_pass_their_peak(schedule: str) -> None:
    total = tf.constant(1000, tf.int64)
    rates = [
        float(optimizers.scheduled_rate(schedule, 0.1, 50, tf.constant(s, tf.int64), total))
        for s in range(0, 1001, 50)
    ]
    assert rates[-1] < 1e-4
    assert 0.099 < max(rates) < 0.1001
    assert rates[0] < 0.02


def test_muon_orthogonalises_the_update_of_a_convolution() -> None:
    """From zero momentum, the first step is the orthogonal factor of the gradient, scaled."""
    kernel = keras.Variable(np.zeros((3, 3, 4, 8), np.float32), name="kernel")
    muon = optimizers.make_optimizer("muon", 0.1, weight_decay=0.0)
    gradient = np.random.default_rng(0).normal(size=(3, 3, 4, 8)).astype(np.float32)
    muon.apply([tf.constant(gradient)], [kernel])
    moved = np.linalg.svd(np.array(kernel).reshape(36, 8), compute_uv=False)
    # Five Newton-Schulz steps bring singular values near 1, within about 0.3.
    np.testing.assert_allclose(moved / (0.1 * 0.2 * 36**0.5), 1.0, atol=0.35)


def test_fused_batch_norm_is_kerass() -> None:
    from dlkit.layers import BatchNormalization

    x = np.random.default_rng(0).normal(2, 3, (8, 5, 6, 4)).astype(np.float32)
    ours, theirs = BatchNormalization(momentum=0.9), keras.layers.BatchNormalization(momentum=0.9)
    for layer in (ours, theirs):
        layer.build(x.shape)
    with tf.GradientTape(persistent=True) as tape:
        tensor = tf.constant(x)
        tape.watch(tensor)
        answers = [layer(tensor, training=True) for layer in (ours, theirs)]
        sums = [tf.reduce_sum(a**3) for a in answers]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)
    gradients: list[Any] = [tape.gradient(s, tensor) for s in sums]
    np.testing.assert_allclose(gradients[0], gradients[1], atol=1e-4)
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)
