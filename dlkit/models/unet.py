"""U-Net that a diffusion model asks for the noise in a picture. Keras alone."""

from __future__ import annotations

from math import gcd, log
from typing import Any

import keras
from keras import layers, ops

from dlkit.models.vit import SelfAttention

GROUPS = 8
# Longest wave of the times' code, in steps of a schedule of 1,000 (Vaswani et al. 2017).
LONGEST = 10000.0
# What comes last in a block, and in the net, starts small, so that each begins near the identity.
SMALL = keras.initializers.VarianceScaling(1e-2, "fan_avg", "uniform")


@keras.saving.register_keras_serializable("dlkit")
class Waves(layers.Layer):
    """Code times `(b,)` in [0, 1] as sines and cosines of falling frequency, `(b, width)`.

    Ho et al. 2020, arXiv:2006.11239, appendix B.
    """

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width

    def call(self, time: Any) -> Any:
        """Code the times."""
        half = self.width // 2
        rates = ops.exp(-log(LONGEST) / max(1, half - 1) * ops.arange(half, dtype="float32"))
        angles = 1000.0 * ops.cast(ops.expand_dims(time, -1), "float32") * rates
        return ops.cast(ops.concatenate([ops.sin(angles), ops.cos(angles)], -1), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """Return the code's shape."""
        return (*input_shape, self.width // 2 * 2)

    def get_config(self) -> dict[str, Any]:
        """Return what makes an equal layer."""
        return super().get_config() | {"width": self.width}


@keras.saving.register_keras_serializable("dlkit")
class Modulation(layers.Layer):
    """Scale and shift maps `(b, h, w, c)` by what was made of the time, `(b, 2 c)`.

    Dhariwal & Nichol 2021, arXiv:2105.05233, equation 7: adaptive group normalisation.
    """

    def call(self, inputs: Any) -> Any:
        """Scale and shift."""
        x, given = inputs
        scale, shift = ops.split(given[:, None, None, :], 2, -1)
        return x * (1.0 + scale) + shift

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the maps' shape."""
        return input_shape[0]


def norm(x: Any, name: str) -> Any:
    """Normalise maps by groups of at least two channels, where there are two."""
    channels = x.shape[-1]
    groups = gcd(GROUPS, channels)
    groups = groups // 2 if groups == channels > 1 else groups
    return layers.GroupNormalization(groups, epsilon=1e-5, name=name)(x)


def residual(x: Any, emb: Any, filters: int, name: str) -> Any:
    """Apply a residual block of two convolutions; the second is told the time."""
    y = layers.Activation("silu", name=f"{name}_act_1")(norm(x, f"{name}_norm_1"))
    y = layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv_1")(y)
    given = layers.Dense(2 * filters, name=f"{name}_time")(emb)
    y = Modulation(name=f"{name}_modulation")([norm(y, f"{name}_norm_2"), given])
    y = layers.Activation("silu", name=f"{name}_act_2")(y)
    y = layers.Conv2D(
        filters, 3, padding="same", kernel_initializer=SMALL, name=f"{name}_conv_2"
    )(y)  # fmt: skip
    if x.shape[-1] != filters:
        x = layers.Conv2D(filters, 1, name=f"{name}_match")(x)
    return layers.Add(name=name)([x, y])


def attention(x: Any, name: str) -> Any:
    """Let each place of the maps take from all, beside what it has."""
    height, width, channels = x.shape[1:]
    y = layers.Reshape((height * width, channels), name=f"{name}_rows")(norm(x, f"{name}_norm"))
    y = SelfAttention(max(1, channels // 64), name=f"{name}_attention")(y)
    y = layers.Reshape((height, width, channels), name=f"{name}_maps")(y)
    return layers.Add(name=name)([x, y])


def unet(
    shape: tuple[int, ...],
    *,
    filters: int,
    multipliers: list[int],
    depth: int,
    patch_size: int,
    classes: int,
) -> keras.Model:
    """Build a U-Net from pictures, times `(b,)` in [0, 1] and perhaps labels `(b,)` to maps.

    Args:
        shape: of a picture, `(height, width, channels)`; both sides divide by
            `patch_size * 2 ** (len(multipliers) - 1)`.
        filters: of the first level.
        multipliers: of `filters`, at each level; between two levels height and width are halved.
        depth: residual blocks at each level, on the way down and on the way up.
        patch_size: pixels that the first convolution steps over, and the last one restores.
        classes: number of labels, or 0; label `classes` stands for none told.
    """
    picture = keras.Input(shape, name="picture")
    time = keras.Input((), name="time")
    label = keras.Input((), dtype="int32", name="label")
    emb = layers.Dense(4 * filters, "silu", name="time_1")(Waves(4 * filters, name="waves")(time))
    emb = layers.Dense(4 * filters, name="time_2")(emb)
    if classes:
        # Of the deviation of the time's code, so that neither is lost beside the other.
        told = layers.Embedding(classes + 1, 4 * filters, "glorot_uniform", name="classes")(label)
        emb = layers.Add(name="time_and_class")([emb, told])
    emb = layers.Activation("silu", name="time_act")(emb)  # (b, 4 filters)

    x = layers.Conv2D(filters, patch_size + 2, patch_size, "same", name="stem")(picture)
    skips = []
    for level, times in enumerate(multipliers, 1):
        if level > 1:
            x = layers.Conv2D(filters * times, 3, 2, "same", name=f"down_{level}")(x)
        for i in range(1, depth + 1):
            x = residual(x, emb, filters * times, f"down_{level}_{i}")
            skips.append(x)
    x = residual(x, emb, filters * multipliers[-1], "middle_1")
    x = attention(x, "middle_attention")
    x = residual(x, emb, filters * multipliers[-1], "middle_2")
    for level, times in reversed(list(enumerate(multipliers, 1))):
        for i in range(1, depth + 1):
            x = layers.Concatenate(name=f"up_{level}_{i}_joined")([x, skips.pop()])
            x = residual(x, emb, filters * times, f"up_{level}_{i}")
        if level > 1:
            x = layers.UpSampling2D(2, name=f"up_{level}")(x)
    x = layers.Activation("silu", name="head_act")(norm(x, "head_norm"))
    x = layers.Conv2DTranspose(
        shape[-1], patch_size + 2, patch_size, "same", kernel_initializer=SMALL, name="head"
    )(x)
    return keras.Model([picture, time, *([label] if classes else [])], x, name="unet")
