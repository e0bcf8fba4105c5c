"""CycleGAN: pictures of one domain to another and back, learned without pairs."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers, ops

from dlkit.data.spec import Spec
from dlkit.errors import SpecError
from dlkit.models.cycle import NETS, CycleGan
from dlkit.models.sides import fours

# Zhu et al. 2017, section 4 and appendix: weights start as a Gaussian of this deviation.
DEVIATION, LEAK = 0.02, 0.2
# Sides of the patch that 1, 2 and 3 strided layers of a discriminator look at.
PATCHES = {1: 16, 2: 34, 3: 70}


@keras.saving.register_keras_serializable("dlkit")
class ReflectionPadding(layers.Layer):
    """Pad a map's sides by reflection.

    Args:
        by: rows and columns on each side.
    """

    def __init__(self, by: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.by = by

    def call(self, x: Any) -> Any:
        """Pad `(b, h, w, c)`."""
        sides = (self.by, self.by)
        return ops.pad(x, ((0, 0), sides, sides, (0, 0)), mode="reflect")

    def get_config(self) -> dict[str, Any]:
        """Return what it was made from."""
        return super().get_config() | {"by": self.by}


def cyclegan(
    spec: Spec,
    *,
    filters: int = 16,
    blocks: int = 3,
    kernel_size: int = 5,
    discriminator_filters: int = 32,
    discriminator_depth: Literal[1, 2, 3] | None = None,
    pool: int = 50,
    cycle: float = 10.0,
    identity: float = 5.0,
) -> keras.Model:
    """CycleGAN: pictures of one domain to another and back, from pictures without pairs.

    Args:
        spec: pictures of either domain; both sides divide by 4.
        filters: of the generators' first and last maps; four times as many in the blocks.
        blocks: residual blocks, at a quarter of the sides.
        kernel_size: odd side of the generators' first and last kernels.
        discriminator_filters: of the discriminators' first map; each after it has twice as many.
        discriminator_depth: strided layers of a discriminator: it judges patches of side 16, 34 or
            70 with 1, 2 or 3. None for the most whose patch fits into the picture.
        pool: generated pictures kept of each domain.
        cycle: weight of the loss after there and back.
        identity: weight of the loss of what already is of the target domain; 0 for none.
    Returns:
        A `CycleGan` of pictures `(b, h, w, c)` in [-1, 1].
    Raises:
        SpecError: sides that do not divide by 4, or an even kernel.
    Reference:
        Zhu et al. 2017, arXiv:1703.10593, section 4 and appendix: instance norm, reflection padding,
        least squares. Departs from it: fewer filters (64) and blocks (6, and 9 at 256 x 256), a
        smaller first kernel (7), and smaller patches (70) for small pictures.
    """
    height, width, _ = spec.input_shape
    if height % 4 or width % 4 or min(height, width) < 8:
        raise SpecError(
            f"cyclegan halves its pictures twice: both sides must divide by 4 and be at least 8, "
            f"and these are {height} x {width}; nearest: --image-size {fours(max(height, width))}"
        )
    if kernel_size % 2 == 0 or kernel_size // 2 >= min(height, width):
        raise SpecError(f"-p kernel_size: got {kernel_size}; accepted: odd, such as 3, 5, 7")
    small = min(height, width)
    depth = discriminator_depth or max(n for n, side in PATCHES.items() if n == 1 or side <= small)
    nets = [
        make_translator(spec, name, filters=filters, blocks=blocks, kernel_size=kernel_size)
        for name in NETS[:2]
    ]
    nets += [
        make_judge(spec, name, filters=discriminator_filters, depth=depth) for name in NETS[2:]
    ]
    return CycleGan(*nets, pool=pool, cycle=cycle, identity=identity, name="cyclegan")


def make_translator(
    spec: Spec, name: str, *, filters: int, blocks: int, kernel_size: int
) -> keras.Model:
    """Build a generator: two strided convolutions, residual blocks, two transposed ones."""

    def normed(x: Any, part: str, rectified: bool = True) -> Any:
        x = layers.GroupNormalization(-1, epsilon=1e-5, name=f"{name}_norm_{part}")(x)
        return layers.ReLU(name=f"{name}_act_{part}")(x) if rectified else x

    def reflected(x: Any, width: int, side: int, part: str, **options: Any) -> Any:
        x = ReflectionPadding(side // 2, name=f"{name}_pad_{part}")(x)
        return layers.Conv2D(
            width, side, kernel_initializer=normal(), name=f"{name}_conv_{part}", **options
        )(x)

    inputs = keras.Input(spec.input_shape, name="pictures")
    x = normed(reflected(inputs, filters, kernel_size, "in"), "in")
    wide = filters
    for i in (1, 2):
        wide *= 2
        x = layers.Conv2D(
            wide, 3, 2, "same", kernel_initializer=normal(), name=f"{name}_conv_down_{i}"
        )(x)
        x = normed(x, f"down_{i}")
    for i in range(1, blocks + 1):
        y = normed(reflected(x, wide, 3, f"{i}a"), f"{i}a")
        y = normed(reflected(y, wide, 3, f"{i}b"), f"{i}b", rectified=False)
        x = layers.Add(name=f"{name}_add_{i}")([x, y])
    for i in (1, 2):
        wide //= 2
        x = layers.Conv2DTranspose(
            wide, 3, 2, "same", kernel_initializer=normal(), name=f"{name}_conv_up_{i}"
        )(x)
        x = normed(x, f"up_{i}")
    x = reflected(x, spec.input_shape[-1], kernel_size, "out", activation="tanh")
    return keras.Model(inputs, x, name=name)


def make_judge(spec: Spec, name: str, *, filters: int, depth: int) -> keras.Model:
    """Build a discriminator of patches: `depth` strided convolutions and two of stride 1."""
    inputs = keras.Input(spec.input_shape, name="pictures")
    x: Any = inputs
    for i in range(depth + 1):
        x = layers.Conv2D(
            filters * 2**i, 4, 2 if i < depth else 1, "same", kernel_initializer=normal(),
            name=f"{name}_conv_{i}",
        )(x)  # fmt: skip
        if i:
            x = layers.GroupNormalization(-1, epsilon=1e-5, name=f"{name}_norm_{i}")(x)
        x = layers.LeakyReLU(LEAK, name=f"{name}_act_{i}")(x)
    x = layers.Conv2D(1, 4, 1, "same", kernel_initializer=normal(), name=f"{name}_logits")(x)
    return keras.Model(inputs, x, name=name)


def normal() -> keras.initializers.Initializer:
    """Return the initialiser of every kernel."""
    return keras.initializers.RandomNormal(stddev=DEVIATION)
