"""TensorFlow functions on images, shared by the loader and the export."""

from __future__ import annotations

import tensorflow as tf


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
