"""Denoising diffusion of pictures by a small U-Net."""

from __future__ import annotations

from typing import Literal

import keras

from dlkit.data.spec import Spec
from dlkit.errors import SpecError
from dlkit.models.diffusion import Diffusion
from dlkit.models.unet import unet


def ddpm(
    spec: Spec,
    *,
    filters: int = 32,
    multipliers: list[int] = (1, 2),  # type: ignore[assignment]
    depth: int = 1,
    patch_size: int = 2,
    conditional: bool | None = None,
    label_dropout: float = 0.1,
    guidance: float = 1.0,
    target: Literal["v", "epsilon"] = "v",
    steps: int = 1000,
    sample_steps: int = 20,
) -> keras.Model:
    """Denoising diffusion: noise becomes a picture in a few steps of a net that sees the noise in it.

    Args:
        spec: `input_shape` is `(height, width, channels)`; both sides divide by
            `patch_size * 2 ** (len(multipliers) - 1)`.
        filters: of the U-Net's first level.
        multipliers: of `filters`, at each level; between two levels height and width are halved.
        depth: residual blocks at each level, on the way down and on the way up.
        patch_size: pixels that the first convolution steps over, and the last one restores: 2 costs
            a quarter of 1.
        conditional: whether the net is told labels. It then also learns pictures of any label, and
            draws either; told, it draws better. None: where there are two labels or more.
        label_dropout: share of the pictures whose label is left out in training, in [0, 1).
        guidance: weight of the difference that the label makes: 0 draws as if none were told, 1 as
            told; above 1 pictures are clearer and less varied, and cost twice.
        target: what the net predicts: "v", a mixture of noise and picture that is well posed at all
            times, or "epsilon", the noise.
        steps: of the noise schedule.
        sample_steps: of them, how many a picture is drawn in.
    Returns:
        A `Diffusion` of float32 pictures `(b, h, w, c)` in [-1, 1].
    Raises:
        SpecError: sides that do not divide, an empty list, more `sample_steps` than `steps`,
            `conditional` without classes, or `guidance` where no label is left out.
    Reference:
        Ho et al. 2020, arXiv:2006.11239, equation 14 and appendix B; Nichol & Dhariwal 2021,
        arXiv:2102.09672 (cosine schedule); Song et al. 2021, arXiv:2010.02502 (DDIM); Ho & Salimans
        2022, arXiv:2207.12598 (guidance; its w is `guidance` - 1); Salimans & Ho 2022,
        arXiv:2202.00512, appendix D (v). Departs from them: a small net on patches (Luhman & Luhman
        2022, arXiv:2207.04316), the time by scale and shift, times spread evenly over a batch
        (Kingma et al. 2021, arXiv:2107.00630, appendix I), the picture clipped at each step.
    """
    height, width, _ = spec.input_shape
    if not multipliers:
        raise SpecError("-p multipliers: got an empty list; accepted: whole numbers such as [1,2]")
    factor = patch_size * 2 ** (len(multipliers) - 1)
    if height % factor or width % factor:
        raise SpecError(
            f"ddpm: pictures of {height} x {width} do not divide by {factor}, which is -p patch_size "
            f"times 2 for each level of -p multipliers after the first; accepted: sides that do"
        )
    if sample_steps > steps:
        raise SpecError(f"-p sample_steps: got {sample_steps}; accepted: 1 to {steps}, the steps")
    conditional = spec.outputs > 1 if conditional is None else conditional
    if conditional and spec.outputs < 2:
        raise SpecError("-p conditional: the data has no classes to tell; accepted: false")
    if conditional and guidance != 1.0 and not label_dropout:
        raise SpecError(
            f"-p guidance: got {guidance:g} beside label_dropout=0; accepted: 1, or a label_dropout "
            "above 0"
        )
    classes = spec.outputs if conditional else 0
    net = unet(
        spec.input_shape,
        filters=filters,
        multipliers=list(multipliers),
        depth=depth,
        patch_size=patch_size,
        classes=classes,
    )
    return Diffusion(
        net, target=target, steps=steps, sample_steps=sample_steps, label_dropout=label_dropout,
        guidance=guidance, none=classes, name="ddpm",
    )  # fmt: skip
