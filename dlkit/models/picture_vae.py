"""Variational autoencoder that draws pictures: encoder and decoder of dense layers or convolutions."""

from __future__ import annotations

from math import ceil, prod
from typing import Any, Literal

import keras
from keras import layers as klayers
from keras import ops

from dlkit.data.spec import Spec
from dlkit.errors import SpecError
from dlkit.models.autoencoder import dense_stack
from dlkit.models.codes import at_most_2
from dlkit.models.conv_autoencoder import cropped
from dlkit.models.variational import Variational

KERNEL = 4


def vae(
    spec: Spec,
    *,
    layers: Literal["conv", "dense"] = "conv",
    filters: list[int] = (32, 64),  # type: ignore[assignment]
    units: list[int] = (200, 200),  # type: ignore[assignment]
    latent_dim: int = 50,
    activation: Literal["relu", "gelu", "silu", "tanh"] = "silu",
    conditional: bool = False,
    beta: float = 1.0,
    samples: int = 1,
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
    variance: float = 0.02,
) -> keras.Model:
    """Variational autoencoder: pictures from standard Gaussian codes, trained by a likelihood bound.

    The loss is in nats, summed over the pixels and averaged over the pictures; the best-known figure
    is that of MNIST, binarised, with `layers="dense"`, which is the paper's net.

    Args:
        spec: `input_shape` is `(height, width, channels)`, of any size.
        layers: "conv", strided convolutions before the dense layers; or "dense" ones alone.
        filters: with "conv", of each convolution; each halves height and width, rounding up.
        units: widths of the dense layers from the picture to the code; the decoder mirrors them.
        latent_dim: width of the code.
        activation: nonlinearity of the hidden layers.
        conditional: whether encoder and decoder are told the label.
        beta: weight of the divergence; above 1 the code's parts come apart, below 1 pictures are
            sharper (Higgins et al. 2017). The loss is then no bound any more.
        samples: codes drawn for one picture in training; more than 1 give the tighter
            importance-weighted bound, at so many times the decoder's cost.
        likelihood: of a pixel t in [0, 1]. "bernoulli" is one for pictures of black and white alone;
            of grey levels it is a score and no likelihood, though pictures come out well, and its
            nats compare with those of binarised pictures not at all. "gaussian" is a density.
        variance: of a pixel t in [0, 1] around its mean, with "gaussian".
    Returns:
        A `Variational` of float32 pictures `(b, h, w, c)` in [-1, 1]. What it generates are means,
        in [-1, 1], of black and white pictures too.
    Raises:
        SpecError: an empty list, `beta` beside several samples, or `conditional` without classes.
    Reference:
        Kingma & Welling 2014, arXiv:1312.6114, equation 10; Higgins et al. 2017, ICLR (beta); Sohn
        et al. 2015, NeurIPS (labels); Burda et al. 2016, arXiv:1509.00519, equation 8 (samples) and
        section 5 (the dense net: 784-200-200-50). Departs from them: smooth rectified units, the
        log variance of a code bounded by 2, no bias set to the pixels' means, a label's
        code as long as what it stands beside.
    """
    if beta != 1.0 and samples > 1:
        raise SpecError(
            f"-p beta: got {beta:g} beside samples={samples}; accepted: 1, since an "
            "importance-weighted bound has no divergence to weigh"
        )
    if conditional and spec.outputs < 2:
        raise SpecError("-p conditional: the data has no classes to tell; accepted: false")
    for name, widths in (("units", units), ("filters", filters)):
        if not widths and (name == "units" or layers == "conv"):
            raise SpecError(f"-p {name}: got an empty list; accepted: widths such as [200,200]")
    count = list(filters) if layers == "conv" else []
    sizes = [spec.input_shape[:2]]
    for _ in count:
        sizes.append((ceil(sizes[-1][0] / 2), ceil(sizes[-1][1] / 2)))

    def told(given: list[Any], x: Any) -> Any:
        """Join a label's one-hot code to each pixel or to each row."""
        if not conditional:
            return x
        # Of the length of what it stands beside: a single 1 is lost beside 50 normal numbers, and
        # the code then tells the label once more.
        code = ops.one_hot(given[1], spec.outputs) * x.shape[-1] ** 0.5
        if len(x.shape) == 4:
            code = klayers.Reshape((1, 1, spec.outputs))(code)
            code = klayers.UpSampling2D(spec.input_shape[:2])(code)
        return klayers.Concatenate()([x, code])

    def inputs(shape: tuple[int, ...], name: str) -> list[Any]:
        label = [keras.Input((), dtype="int32", name="label")] if conditional else []
        return [keras.Input(shape, name=name), *label]

    def model(given: list[Any], answer: Any, name: str) -> keras.Model:
        return keras.Model(given if conditional else given[0], answer, name=name)

    given = inputs(spec.input_shape, "pictures")
    x = given[0]
    if layers == "conv":
        x = told(given, x)
    for i, wide in enumerate(count, 1):
        x = klayers.Conv2D(
            wide, KERNEL, 2, "same", activation=activation, name=f"encoder_conv_{i}"
        )(x)
    maps = x.shape[1:]
    x = klayers.Flatten(name="flat")(x)
    if layers == "dense":
        x = told(given, x)
    x = dense_stack(x, list(units), activation, "encoder")
    mean = klayers.Dense(latent_dim, name="mean")(x)  # (b, d)
    log_variance = klayers.Dense(latent_dim, at_most_2, name="log_variance")(x)
    encoder = model(given, [mean, log_variance], "encoder")

    given = inputs((latent_dim,), "code")
    x = dense_stack(told(given, given[0]), list(units)[::-1], activation, "decoder")
    if count:
        x = klayers.Dense(prod(maps), activation, name="decoder_maps")(x)
        x = klayers.Reshape(maps, name="decoder_shaped")(x)
    for i, wide in enumerate([*count[-2::-1], spec.input_shape[-1]] if count else [], 1):
        last = i == len(count)
        name = "decoder_logits" if last else f"decoder_conv_{i}"
        x = klayers.Conv2DTranspose(
            wide, KERNEL, 2, "same", activation=None if last else activation, name=name
        )(x)
        x = cropped(x, sizes[-1 - i], f"decoder_crop_{i}")
    if not count:
        x = klayers.Dense(prod(spec.input_shape), name="decoder_logits")(x)
        x = klayers.Reshape(spec.input_shape, name="decoder_shaped")(x)
    decoder = model(given, x, "decoder")
    return Variational(
        encoder, decoder, beta=beta, samples=samples, likelihood=likelihood, variance=variance,
        name="vae",
    )  # fmt: skip
