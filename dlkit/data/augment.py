"""Augmentation of whole batches, a pure function of the images and of (seed, epoch, step).

First the geometry, on uint8; then colours, noise and erasing, on floats; then the mixing of images
with their targets. Nothing here is ever part of an export.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from dlkit.data.policy import Operation

# Numbers that keep the draws of two operations apart.
GEOMETRY, CROP, COLOUR, NOISE, ERASE, MIX = range(6)


def augment(
    images: tf.Tensor, draw_seed: tf.Tensor, rows: tf.Tensor, policy: tuple[Operation, ...]
) -> tf.Tensor:
    """Change each image of a batch at random.

    Args:
        images: uint8 `(b, h, w, c)`.
        draw_seed: int64 `(2,)`, `(seed, epoch * 2**32 + step)`, as the training stream gives it.
        rows: int64 `(b,)`, the images' row numbers: an alternating flip follows an image.
        policy: operations; those that mix images with each other are left to `mix`.
    Returns:
        float32 `(b, h, w, c)` in [0, 255] (noise and jitter are clipped to it).
    """
    amount = {each.name: each.amount for each in policy}
    if {"translate", "rotate", "zoom"} & set(amount):
        images = _affine(images, draw_seed, rows, amount)
        mirror = None
    else:
        mirror = _mirrored(draw_seed, rows, amount)
    if mirror is not None or "crop" in amount:
        images = _crop(images, draw_seed, mirror, amount.get("crop", 0.0))
    x = tf.cast(images, tf.float32)
    if "jitter" in amount:
        x = _jitter(x, _draws(x, draw_seed, COLOUR, 3) * amount["jitter"])
    if "noise" in amount:
        x += tf.random.stateless_normal(
            tf.shape(x), _seed(draw_seed, NOISE), stddev=255.0 * amount["noise"]
        )
    if "jitter" in amount or "noise" in amount:
        x = tf.clip_by_value(x, 0.0, 255.0)
    if "erase" in amount:
        x = _erase(x, _draws(x, draw_seed, ERASE, 5), amount["erase"])
    return x


def mix(
    x: tf.Tensor, y: tf.Tensor, draw_seed: tf.Tensor, policy: tuple[Operation, ...], classes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix each image of a batch with its partner, the batch in reverse, and the targets alike.

    Args:
        x: float32 `(b, h, w, c)`.
        y: class numbers `(b,)`.
        draw_seed: as for `augment`.
        policy: does something only where it holds "mixup" or "cutmix".
        classes: number of classes.
    Returns:
        Images, and `y` as it was, or float32 `(b, classes)` shares that sum to 1.
    """
    amount = {each.name: each.amount for each in policy}
    alpha = amount.get("mixup") or amount.get("cutmix")
    if alpha is None:
        return x, y
    # Beta(a, a) by two gammas; one share a batch, as in the papers' code.
    gammas = tf.random.stateless_gamma((2,), _seed(draw_seed, MIX), tf.constant(alpha))
    share = gammas[0] / tf.maximum(gammas[0] + gammas[1], 1e-12)
    partner, targets = x[::-1], tf.one_hot(y, classes)
    if "mixup" in amount:
        x = share * x + (1.0 - share) * partner
    else:
        place = tf.random.stateless_uniform((1, 2), _seed(draw_seed, MIX + 1))
        side = tf.sqrt(1.0 - share)
        box = _boxes(x, side[None], side[None], place[:, 0], place[:, 1])  # (1, h, w, 1)
        x = tf.where(box, partner, x)
        share = 1.0 - tf.reduce_mean(tf.cast(box, tf.float32))
    return x, share * targets + (1.0 - share) * targets[::-1]


def _seed(draw_seed: tf.Tensor, number: int) -> tf.Tensor:
    """Return a seed of its own for one operation of one batch."""
    return draw_seed + tf.constant([number * 2**40, 0], tf.int64)


def _draws(x: tf.Tensor, draw_seed: tf.Tensor, number: int, count: int) -> tf.Tensor:
    """Return `count` uniform numbers in [-1, 1) for each image, float32 `(b, count)`."""
    return tf.random.stateless_uniform(
        tf.stack([tf.shape(x)[0], count]), _seed(draw_seed, number), -1.0, 1.0
    )


def _mirrored(draw_seed: tf.Tensor, rows: tf.Tensor, amount: dict[str, float]) -> Any:
    """Say which images are mirrored, bool `(b,)`, or None where none ever is."""
    if "flip" in amount:
        return _draws(rows, draw_seed, GEOMETRY, 1)[:, 0] < 2.0 * amount["flip"] - 1.0
    if "alternating-flip" in amount:
        # A hash of the row says how an image starts; after that it turns over every epoch, so that
        # two epochs show every image both ways (Jordan 2024, arXiv:2404.00498, section 3.6).
        mixed = (rows + draw_seed[0] * 7919) * 2654435761
        return (tf.bitwise.right_shift(mixed, 16) + draw_seed[1] // 2**32) % 2 == 1
    return None


def _affine(
    images: tf.Tensor, draw_seed: tf.Tensor, rows: tf.Tensor, amount: dict[str, float]
) -> tf.Tensor:
    """Move, turn, zoom and mirror by one bilinear resampling; 0 comes in from outside."""
    shape: Any = images.shape
    height, width = shape[1], shape[2]
    draw = _draws(images, draw_seed, GEOMETRY, 5)[:, 1:]
    move = amount.get("translate", 0.0)
    shift_y, shift_x = draw[:, 0] * (height * move), draw[:, 1] * (width * move)
    angle = draw[:, 2] * math.radians(amount.get("rotate", 0.0))
    zoom = 1.0 + amount.get("zoom", 0.0) * draw[:, 3]
    flipped = _mirrored(draw_seed, rows, amount)
    mirror = tf.ones_like(zoom) if flipped is None else tf.where(flipped, -1.0, 1.0)
    # Output pixel (x, y) is read from input (a x + b y + c, d x + e y + f), about the centre.
    cos, sin = tf.cos(angle) * zoom, tf.sin(angle) * zoom
    a, b, d, e = cos * mirror, -sin, sin * mirror, cos
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    c = centre_x - a * centre_x - b * centre_y + shift_x
    f = centre_y - d * centre_x - e * centre_y + shift_y
    none = tf.zeros_like(a)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, b, c, d, e, f, none, none], axis=1),
        output_shape=(height, width),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def _crop(images: tf.Tensor, draw_seed: tf.Tensor, mirror: Any, reach: float) -> tf.Tensor:
    """Mirror, and move by whole pixels over reflected borders: two gathers, and no arithmetic."""
    shape: Any = images.shape
    draws = _draws(images, draw_seed, CROP, 2)

    def source(length: int, draw: tf.Tensor, flipped: Any) -> tf.Tensor:
        """Return for each output line the line to read, int32 `(b, length)`."""
        last = length - 1
        pixels = round(reach * length) if reach < 1 else min(round(reach), last)
        shift = tf.cast(tf.floor((draw + 1.0) * (pixels + 0.5)), tf.int32) - pixels
        line = tf.range(length)[None] + tf.zeros_like(shift)[:, None]
        if flipped is not None:
            line = tf.where(flipped[:, None], last - line, line)
        # Reflected at both borders, without repeating the border itself.
        line = tf.abs(line + shift[:, None])
        return tf.clip_by_value(last - tf.abs(last - line), 0, last)

    lines = tf.gather(images, source(shape[1], draws[:, 0], None), axis=1, batch_dims=1)
    return tf.gather(lines, source(shape[2], draws[:, 1], mirror), axis=2, batch_dims=1)


def _jitter(x: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """Change brightness, contrast and saturation by the factors `1 + draw`, `(b, 3)`."""
    bright, contrast, saturation = (1.0 + draw[:, i, None, None, None] for i in range(3))
    x = x * bright
    mean = tf.reduce_mean(x, (1, 2, 3), keepdims=True)
    x = mean + (x - mean) * contrast
    if x.shape[-1] == 3:
        grey = tf.reduce_sum(x * [0.299, 0.587, 0.114], -1, keepdims=True)
        x = grey + (x - grey) * saturation
    return x


def _erase(x: tf.Tensor, draw: tf.Tensor, largest: float) -> tf.Tensor:
    """Fill a box in half of the images with their own mean."""
    unit = (draw + 1.0) / 2.0
    area = largest * unit[:, 1]
    stretch = tf.exp(draw[:, 2] * math.log(10 / 3) / 2)  # aspect ratio between 0.3 and 1 / 0.3
    side = tf.sqrt(area)
    box = _boxes(x, side * stretch, side / stretch, unit[:, 3], unit[:, 4])
    box = tf.logical_and(box, (draw[:, 0] < 0)[:, None, None, None])
    return tf.where(box, tf.reduce_mean(x, (1, 2), keepdims=True), x)


def _boxes(
    x: tf.Tensor, high: tf.Tensor, wide: tf.Tensor, top: tf.Tensor, left: tf.Tensor
) -> tf.Tensor:
    """Return bool `(n, h, w, 1)`, true in a box of `high` by `wide` (shares of the sides) in each."""
    shape: Any = x.shape

    def inside(length: int, size: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        pixels = tf.round(tf.minimum(size, 1.0) * length)
        first = tf.floor(start * (length - pixels + 1.0))[:, None]
        at = tf.range(length, dtype=tf.float32)[None]
        return tf.logical_and(at >= first, at < first + pixels[:, None])

    rows, columns = inside(shape[1], high, top), inside(shape[2], wide, left)
    return tf.logical_and(rows[:, :, None], columns[:, None, :])[:, :, :, None]
