"""TensorFlow functions on images, shared by the loader, the training stream and the export."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

# How far augmentation goes: a share of each side, degrees, a share of the size. Chosen on validation
# splits: characters (digits) gain from more, photos (Fashion-MNIST under LeNet-5) from less.
REACH = {"shift": (1 / 8, 10.0, 0.1), "flip": (1 / 14, 5.0, 0.05)}


def decode_image(contents: tf.Tensor | bytes, shape: tuple[int, ...]) -> tf.Tensor:
    """Decode an encoded image to uint8 pixels of a fixed shape.

    Args:
        contents: scalar string: png, jpeg, gif (its first frame), bmp or webp. An alpha channel is
            dropped, 16-bit samples keep their high byte, EXIF rotation is not applied.
        shape: `(height, width, channels)` of the result, channels 1 or 3.
    Returns:
        uint8 `(height, width, channels)`.
    Raises:
        tf.errors.InvalidArgumentError: `contents` is no such image, or is cut short.
    """
    image = tf.io.decode_image(contents, channels=3, expand_animations=False)
    image.set_shape((None, None, 3))
    return fit_image(image, shape)


def fit_image(image: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """Bring uint8 pixels `(any, any, 1 or 3)` to uint8 of `shape`.

    Colour becomes grey by ITU-R BT.601 luma (0.299 R + 0.587 G + 0.114 B, rounded), which leaves
    an image whose three channels are equal exactly as it was. The size is changed by bilinear
    interpolation with antialiasing, without regard to the aspect ratio; an image that has the
    right size already is not touched.
    """
    height, width, channels = shape
    pixels = tf.cast(image, tf.float32)
    if channels == 1 and image.shape[-1] == 3:
        pixels = tf.reduce_sum(pixels * [0.299, 0.587, 0.114], -1, keepdims=True)
    elif channels == 3 and image.shape[-1] == 1:
        pixels = tf.repeat(pixels, 3, axis=-1)
    pixels = tf.image.resize(pixels, (height, width), antialias=True)
    pixels = tf.clip_by_value(tf.round(pixels), 0.0, 255.0)
    return tf.ensure_shape(tf.cast(pixels, tf.uint8), shape)


def encode_png(pixels: tf.Tensor) -> bytes:
    """Encode uint8 `(h, w, 1 or 3)` as PNG, from which `decode_image` gives the same pixels."""
    return tf.io.encode_png(pixels).numpy()


def augment(images: tf.Tensor, seed: tf.Tensor, policy: str) -> tf.Tensor:
    """Shift, turn and perhaps mirror each image of a batch at random.

    One affine resampling an image, as far as `REACH` says: "shift" moves by up to an eighth of each
    side, turns by up to 10 degrees and zooms by up to 10 %; "flip" does about half of that, and
    mirrors half of the images.

    Args:
        images: uint8 `(b, h, w, c)`.
        seed: int64 `(2,)`; the result is a function of it and of `images` alone.
        policy: "none", "shift" or "flip".
    Returns:
        uint8 `(b, h, w, c)`; what comes in from outside is 0.
    """
    if policy == "none":
        return images
    shape: Any = images.shape
    height, width = shape[1], shape[2]
    draws = tf.stack([tf.shape(images)[0], 5])
    draw = tf.random.stateless_uniform(draws, seed, -1.0, 1.0)
    reach, turn, magnify = REACH[policy]
    shift_y, shift_x = draw[:, 0] * (height * reach), draw[:, 1] * (width * reach)
    angle, zoom = draw[:, 2] * math.radians(turn), 1.0 + magnify * draw[:, 3]
    mirror = tf.where(draw[:, 4] < 0, -1.0, 1.0) if policy == "flip" else tf.ones_like(zoom)
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
