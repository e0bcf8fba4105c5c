"""ProGAN: nets that grow from small pictures to large ones, with the layers of its paper."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers, ops

from dlkit.data.spec import Spec
from dlkit.models.progressive import Progressive
from dlkit.models.sides import doublings_of

LEAK = 0.2


class EqualMixin:
    """Keeps a kernel of unit deviation, and applies it as He's initialiser would have scaled it.

    All weights then learn at the same rate, whatever their layer's width (section 4.1).
    """

    gain: float

    def scaled(self) -> Any:
        """Return the kernel, scaled by `gain / sqrt(inputs of a unit)`."""
        kernel = self.kernel  # type: ignore[attr-defined]
        return kernel * (self.gain / math.sqrt(math.prod(kernel.shape[:-1])))

    def get_config(self) -> dict[str, Any]:
        """Return what it was made from."""
        return super().get_config() | {"gain": self.gain}  # type: ignore[misc]


@keras.saving.register_keras_serializable("dlkit")
class EqualConv2D(EqualMixin, layers.Conv2D):
    """A convolution with an equalised learning rate.

    Args:
        gain: deviation of the outputs, for inputs of unit deviation.
    """

    def __init__(self, *args: Any, gain: float = math.sqrt(2.0), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"kernel_initializer": unit()})
        self.gain = gain

    def call(self, inputs: Any) -> Any:
        """Convolve `(b, h, w, c)`."""
        return self.convolution_op(inputs, self.scaled()) + self.bias


@keras.saving.register_keras_serializable("dlkit")
class EqualDense(EqualMixin, layers.Dense):
    """A dense layer with an equalised learning rate.

    Args:
        gain: see `EqualConv2D`.
    """

    def __init__(self, *args: Any, gain: float = math.sqrt(2.0), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"kernel_initializer": unit()})
        self.gain = gain

    def call(self, inputs: Any) -> Any:
        """Map `(b, n)` to `(b, units)`."""
        return ops.matmul(inputs, self.scaled()) + self.bias


def unit() -> keras.initializers.Initializer:
    """Return the initialiser of every kernel."""
    return keras.initializers.RandomNormal(stddev=1.0)


@keras.saving.register_keras_serializable("dlkit")
class PixelNorm(layers.Layer):
    """Scale the features of each pixel to a mean square of 1 (section 4.2)."""

    def call(self, x: Any) -> Any:
        """Scale `(b, ..., c)` over the last axis."""
        return x * ops.rsqrt(ops.mean(ops.square(x), -1, keepdims=True) + 1e-8)


@keras.saving.register_keras_serializable("dlkit")
class MinibatchDeviation(layers.Layer):
    """Add a map that says how much the pictures of a batch differ (section 3)."""

    def call(self, x: Any) -> Any:
        """Map `(b, h, w, c)` to `(b, h, w, c + 1)`."""
        deviation = ops.mean(ops.sqrt(ops.var(x, 0) + 1e-8))
        return ops.concatenate([x, ops.ones_like(x[..., :1]) * deviation], -1)


@keras.saving.register_keras_serializable("dlkit")
class Fade(layers.Layer):
    """Blend in a new block: `(1 - alpha) * old + alpha * new` (figure 2)."""

    def call(self, inputs: Any) -> Any:
        """Blend two of `(b, h, w, c)` by alpha, `(b,)`."""
        old, new, alpha = inputs
        return old + ops.reshape(alpha, (-1, 1, 1, 1)) * (new - old)


def progan(
    spec: Spec,
    *,
    latent_dim: int = 128,
    filters: int = 16,
    most_filters: int = 64,
) -> keras.Model:
    """ProGAN: both nets grow from pictures of side 4 to 7 by doubling.

    Args:
        spec: square pictures of a side that doubling a map of 4 to 7 leads to (8, 12, 28, 32, ...).
        latent_dim: width of the noise, standard Gaussian, of which the direction counts.
        filters: of the maps of the largest side, in both nets; each smaller side has twice as many.
        most_filters: at most so many.
    Returns:
        A `Progressive` of pictures `(b, h, w, c)` in [-1, 1].
    Raises:
        SpecError: pictures of another size.
    Reference:
        Karras et al. 2018, arXiv:1710.10196, section 2 to 4, table 2. Pictures come from a linear
        layer, as there, and are clipped where they are generated. Departs from it: fewer filters;
        the deviation is taken over whole batches; the optimiser keeps its moments when the nets
        grow.
    """
    base, count = doublings_of("progan", spec.input_shape)
    widths = [min(most_filters, filters * 2 ** (count - k)) for k in range(count + 1)]
    channels = spec.input_shape[-1]
    made = make_generator(latent_dim, base, widths, channels)
    return Progressive(made, make_discriminator(base, widths, channels), name="progan")


def make_generator(latent_dim: int, base: int, widths: list[int], channels: int) -> keras.Model:
    """Build a generator from noise and alpha `(b,)` to the pictures of every stage, unclipped."""
    noise, alpha = keras.Input((latent_dim,), name="noise"), keras.Input((), name="alpha")

    def finished(x: Any, name: str) -> Any:
        x = layers.LeakyReLU(LEAK, name=f"generator_act_{name}")(x)
        return PixelNorm(name=f"generator_norm_{name}")(x)

    def convolved(x: Any, width: int, name: str) -> Any:
        x = EqualConv2D(width, 3, padding="same", name=f"generator_conv_{name}")(x)
        return finished(x, name)

    x = PixelNorm(name="generator_noise")(noise)
    x = EqualDense(base * base * widths[0], name="generator_dense")(x)
    x = layers.Reshape((base, base, widths[0]), name="generator_maps")(x)
    x = convolved(finished(x, "0a"), widths[0], "0b")
    drawn = EqualConv2D(channels, 1, gain=1.0, name="generator_rgb_0")(x)
    pictures = [drawn]
    for k, width in enumerate(widths[1:], 1):
        x = layers.UpSampling2D(name=f"generator_up_{k}")(x)
        x = convolved(convolved(x, width, f"{k}a"), width, f"{k}b")
        old = layers.UpSampling2D(name=f"generator_old_{k}")(drawn)
        drawn = EqualConv2D(channels, 1, gain=1.0, name=f"generator_rgb_{k}")(x)
        pictures.append(Fade(name=f"generator_fade_{k}")([old, drawn, alpha]))
    return keras.Model([noise, alpha], pictures, name="generator")


def make_discriminator(base: int, widths: list[int], channels: int) -> keras.Model:
    """Build a discriminator from the pictures of every stage, and alpha `(b,)`, to their logits.

    The logits of a stage depend on its own pictures alone.
    """
    count = len(widths)
    alpha = keras.Input((), name="alpha")
    pictures = [
        keras.Input((base * 2**k, base * 2**k, channels), name=f"pictures_{k}")
        for k in range(count)
    ]

    # Every layer has a name of its own: by names that Keras gives, which depend on what was built
    # before, TensorFlow would order sums, and a resumed run would differ in the last digit.
    def act(x: Any, name: str) -> Any:
        return layers.LeakyReLU(LEAK, name=f"discriminator_act_{name}")(x)

    def convolution(width: int, name: str, side: int = 3) -> EqualConv2D:
        return EqualConv2D(width, side, padding="same", name=f"discriminator_{name}")

    # Layers are made once, and stand on the path of every stage from theirs on.
    seen = [convolution(width, f"rgb_{k}", 1) for k, width in enumerate(widths)]
    first = [convolution(width, f"conv_{k}a") for k, width in enumerate(widths)]
    second = [convolution(widths[max(0, k - 1)], f"conv_{k}b") for k in range(1, count)]
    last = EqualDense(widths[0], name="discriminator_dense")
    logit = EqualDense(1, gain=1.0, name="discriminator_logit")

    def halved(x: Any, name: str) -> Any:
        return layers.AveragePooling2D(2, name=f"discriminator_halved_{name}")(x)

    def judged(x: Any, stage: int) -> Any:
        features = act(seen[stage](x), f"{stage}_rgb")
        for k in range(stage, 0, -1):
            name = f"{stage}_{k}"
            features = act(first[k](features), f"{name}a")
            features = halved(act(second[k - 1](features), f"{name}b"), name)
            if k == stage:
                old = act(seen[k - 1](halved(x, f"{name}_old")), f"{name}_old")
                features = Fade(name=f"discriminator_fade_{k}")([old, features, alpha])
        features = MinibatchDeviation(name=f"discriminator_deviation_{stage}")(features)
        features = act(first[0](features), f"{stage}_0a")
        features = layers.Flatten(name=f"discriminator_flat_{stage}")(features)
        return logit(act(last(features), f"{stage}_dense"))

    logits = [judged(x, stage) for stage, x in enumerate(pictures)]
    return keras.Model([*pictures, alpha], logits, name="discriminator")
