"""Layers and initialisers that models share. Keras alone, but for one fast path on TensorFlow."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("dlkit")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalisation, computed by TensorFlow's fused kernel where that applies.

    Keras writes it out as moments, products and sums, each a pass over the feature map; the fused
    kernel takes two passes, and one gradient kernel. A training step of ResNet-20 takes 0.72 of
    the time. The numbers are the same but for the order of the sums. Inference, other backends, masks
    and ranks take Keras's own way: fused, an exported graph would differ more from the model.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise `(b, h, w, c)` over all axes but the last."""
        plain = mask is None and not self.renorm and not self.synchronized
        fits = len(inputs.shape) == 4 and self.axis in (3, -1) and plain
        learns = training and self.trainable
        if not (learns and fits) or keras.config.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        channels = inputs.shape[-1]
        gamma, beta = (
            tf.cast(v, tf.float32) if given else None
            for v, given in ((self.gamma, self.scale), (self.beta, self.center))
        )
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=gamma if self.scale else tf.ones((channels,)),
            offset=beta if self.center else tf.zeros((channels,)),
            mean=tf.zeros((0,)),
            variance=tf.zeros((0,)),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel gives the variance with Bessel's correction; Keras keeps the plain one.
        count = tf.cast(tf.size(inputs) // channels, tf.float32)
        variance *= (count - 1.0) / count
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + now * (1.0 - self.momentum))
        return y


@keras.saving.register_keras_serializable("dlkit")
class PartialIdentity(keras.initializers.Initializer):
    """Convolution kernels whose first filters pass their input channel on.

    Of a kernel `(kh, kw, in, out)`, output `i < in` starts as input `i`; the rest is drawn as Keras's
    initialiser `fallback` says. (Jordan 2024, arXiv:2404.00498, section 3.3.)
    """

    def __init__(self, fallback: Any = "he_uniform") -> None:
        self.fallback = keras.initializers.get(fallback)

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """Return a kernel of `shape`."""
        drawn = self.fallback(shape, dtype)
        kernel = np.array(drawn)
        passed = min(shape[2], shape[3])
        kernel[..., :passed] = 0.0
        kernel[shape[0] // 2, shape[1] // 2, range(passed), range(passed)] = 1.0
        return ops.convert_to_tensor(kernel, dtype)

    def get_config(self) -> dict[str, Any]:
        """Return what makes an equal initialiser."""
        return {"fallback": keras.initializers.serialize(self.fallback)}


@keras.saving.register_keras_serializable("dlkit")
class PatchWhitening(keras.layers.Layer):
    """A convolution whose fixed kernels whiten the patches of the training images.

    Kernels are the eigenvectors of the patches' covariance, over the roots of their eigenvalues, and
    their negatives: `2 * size**2 * c` filters. Only the bias is trained. Before `adapt` the kernels
    are orthogonal at random.

    Args:
        size: side of a patch, in pixels.
        epsilon: added to the eigenvalues.
    Reference:
        Jordan 2024, arXiv:2404.00498, section 3.2, after Page 2019.
    """

    def __init__(self, size: int = 2, epsilon: float = 5e-4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size, self.epsilon = size, epsilon

    def build(self, input_shape: Any) -> None:
        """Make the kernel `(size, size, c, 2 size**2 c)` and the bias."""
        channels = input_shape[-1]
        width = self.size**2 * channels
        shape = (self.size, self.size, channels, width)
        drawn = keras.initializers.Orthogonal()
        self.kernel = self.add_weight(
            shape=(*shape[:3], 2 * width),
            initializer=lambda _, dtype=None: ops.concatenate(
                [k := drawn(shape, dtype=dtype), -k], -1
            ),
            trainable=False,
            name="whitening",
        )
        self.bias = self.add_weight(shape=(2 * width,), initializer="zeros", name="bias")

    def call(self, inputs: Any) -> Any:
        """Whiten `(b, h, w, c)` to `(b, h - size + 1, w - size + 1, 2 size**2 c)`."""
        return ops.conv(inputs, self.kernel, padding="valid") + self.bias

    def adapt(self, images: np.ndarray) -> None:
        """Fit the kernels to preprocessed images, float32 `(n, h, w, c)`."""
        windows = np.lib.stride_tricks.sliding_window_view(images, (self.size, self.size), (1, 2))
        # (n, y, x, c, kh, kw) to patches (m, kh * kw * c)
        patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, self.size**2 * images.shape[-1])
        values, vectors = np.linalg.eigh(patches.T.astype(np.float64) @ patches / len(patches))
        kernels = (vectors / np.sqrt(np.maximum(values, 0.0) + self.epsilon))[:, ::-1]
        kernels = kernels.reshape(self.size, self.size, images.shape[-1], -1)
        self.kernel.assign(np.concatenate([kernels, -kernels], -1))

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """Return the shape of the whitened map."""
        height, width = (None if s is None else s - self.size + 1 for s in input_shape[1:3])
        return (input_shape[0], height, width, 2 * self.size**2 * input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Return what makes an equal layer."""
        return {**super().get_config(), "size": self.size, "epsilon": self.epsilon}


def adapt(model: keras.Model, images: Any) -> list[str]:
    """Fit every layer of a model that fits itself to data (has `adapt`); return their names.

    Args:
        model: freshly built.
        images: float32 `(n, h, w, c)`, preprocessed training images, a few thousand are enough; or
            a function that gives them, called only if there is such a layer.
    """
    fitted = [layer for layer in model.layers if isinstance(layer, PatchWhitening)]
    if fitted and callable(images):
        images = images()
    for layer in fitted:
        layer.adapt(np.asarray(images))
    return [layer.name for layer in fitted]
