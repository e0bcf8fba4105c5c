"""Autoencoders of dense layers: plain, sparse, denoising, variational.

A detector's builder returns a model from `(b, *input_shape)` to a reconstruction of the same shape;
its layer named `latent` gives the code `(b, d)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import keras
from keras import layers

from dlkit.data.spec import DetectorSpec
from dlkit.errors import SpecError
from dlkit.models.codes import GaussianCode, Masking, Sparsity, at_most_2

ACTIVATION = "silu"


def dense_stack(x: Any, units: list[int], activation: str, name: str) -> Any:
    """Apply dense layers in turn, each followed by the activation."""
    for i, width in enumerate(units, 1):
        x = layers.Dense(width, activation, name=f"{name}_{i}")(x)
    return x


def mirrored(
    spec: DetectorSpec,
    encoder: list[int],
    activation: str,
    *,
    before: Callable[[Any], Any] = lambda x: x,
    code: Callable[[Any, int], Any] = lambda x, d: layers.Dense(d, name="latent")(x),
    name: str,
) -> keras.Model:
    """Build an autoencoder whose decoder mirrors its encoder.

    Args:
        spec: any kind; windows and images are read as one long row.
        encoder: widths, the last of which is the code's.
        activation: of the hidden layers.
        before: what is done to the input, in training.
        code: makes the code of width `d`, from a layer named `latent`.
        name: of the model.
    """
    if not encoder:
        raise SpecError("-p encoder: got an empty list; accepted: widths such as [64,32,8]")
    inputs = keras.Input(spec.input_shape, name="example")
    x = before(inputs)
    if len(spec.input_shape) > 1:
        x = layers.Flatten(name="flat")(x)
    x = dense_stack(x, encoder[:-1], activation, "encoder")
    x = code(x, encoder[-1])  # (b, d)
    x = dense_stack(x, encoder[-2::-1], activation, "decoder")
    x = layers.Dense(spec.outputs, name="reconstruction")(x)
    if len(spec.input_shape) > 1:
        x = layers.Reshape(spec.input_shape, name="shaped")(x)
    return keras.Model(inputs, x, name=name)


def autoencoder(
    spec: DetectorSpec,
    *,
    encoder: list[int] = (128, 64),  # type: ignore[assignment]
    activation: Literal["relu", "gelu", "silu", "tanh"] = "silu",
) -> keras.Model:
    """Autoencoder: a code narrower or wider than the input, and the input from the code.

    Args:
        spec: see `DetectorSpec`; any kind.
        encoder: widths of the layers down to the code, which is the last; the decoder mirrors them.
        activation: nonlinearity of the hidden layers; code and reconstruction have none.
    Returns:
        A `keras.Model` from prepared float32 `(b, *input_shape)` to a reconstruction of that shape.
    Raises:
        SpecError: an empty list.
    Reference:
        Hinton & Salakhutdinov 2006, Science 313. Departs from it: trained from random weights.
    """
    return mirrored(spec, list(encoder), activation, name="autoencoder")


def denoising_autoencoder(
    spec: DetectorSpec,
    *,
    encoder: list[int] = (128, 64),  # type: ignore[assignment]
    activation: Literal["relu", "gelu", "silu", "tanh"] = "silu",
    noise: float = 0.2,
    masked: float = 0.2,
) -> keras.Model:
    """Denoising autoencoder: the input is spoilt in training, and restored.

    Args:
        spec: see `DetectorSpec`; any kind.
        encoder: widths of the layers down to the code, which is the last; the decoder mirrors them.
        activation: nonlinearity of the hidden layers.
        noise: deviation of the Gaussian noise added, in deviations of a prepared feature, 0 to 1.
        masked: share of the features set to 0, in [0, 1).
    Returns:
        A `keras.Model` from prepared float32 `(b, *input_shape)` to a reconstruction of that shape.
        Outside training nothing is spoilt.
    Raises:
        SpecError: an empty list.
    Reference:
        Vincent et al. 2008, ICML, section 2.3 (masking noise); Vincent et al. 2010, JMLR 11
        (Gaussian noise).
    """

    def spoilt(x: Any) -> Any:
        x = layers.GaussianNoise(noise, name="noise")(x)
        return Masking(masked, name="masking")(x)

    return mirrored(spec, list(encoder), activation, before=spoilt, name="denoising_autoencoder")


def sparse_autoencoder(
    spec: DetectorSpec,
    *,
    encoder: list[int] = (128, 64),  # type: ignore[assignment]
    activation: Literal["relu", "gelu", "silu", "tanh"] = "silu",
    penalty: Literal["l1", "kl"] = "l1",
    weight: float = 1e-3,
    target: float = 0.05,
) -> keras.Model:
    """Sparse autoencoder: only a few units of the code are active for any one input.

    Args:
        spec: see `DetectorSpec`; any kind.
        encoder: widths of the layers down to the code, which is the last; the decoder mirrors them.
        activation: nonlinearity of the hidden layers.
        penalty: "l1", the sum of the code's sizes, after a rectifier; or "kl", the divergence of
            each unit's mean activity over the batch from `target`, after a sigmoid.
        weight: of the penalty in the loss.
        target: mean activity asked of each unit, in (0, 1); only with "kl".
    Returns:
        A `keras.Model` from prepared float32 `(b, *input_shape)` to a reconstruction of that shape.
    Raises:
        SpecError: an empty list, or a target of 1 or more.
    Reference:
        Ng 2011, CS294A lecture notes, section 3 (KL); Olshausen & Field 1996, Nature 381 (L1).
    """
    if not target < 1:
        raise SpecError(f"-p target: got {target:g}; accepted: above 0, below 1")

    def code(x: Any, d: int) -> Any:
        active = "relu" if penalty == "l1" else "sigmoid"
        x = layers.Dense(d, active, name="latent")(x)
        return Sparsity(penalty, weight, target, name="sparsity")(x)

    return mirrored(spec, list(encoder), activation, code=code, name="sparse_autoencoder")


def vae(
    spec: DetectorSpec,
    *,
    encoder: list[int] = (128, 64, 16),  # type: ignore[assignment]
    activation: Literal["relu", "gelu", "silu", "tanh"] = "silu",
    variance: float = 0.1,
    beta: float = 1.0,
) -> keras.Model:
    """Variational autoencoder: a Gaussian code, close to the standard one.

    The loss is that of the paper up to a factor: squared errors summed over the features by
    `2 variance`, plus `beta` times the divergence of the code from the standard Gaussian; all of it
    times `2 variance / features`.

    Args:
        spec: see `DetectorSpec`; any kind.
        encoder: widths of the layers down to the code, which is the last; the decoder mirrors them.
        activation: nonlinearity of the hidden layers.
        variance: of a prepared feature around its reconstruction.
        beta: weight of the divergence (Higgins et al. 2017).
    Returns:
        A `keras.Model` from prepared float32 `(b, *input_shape)` to a reconstruction of that shape;
        outside training it is that of the code's mean.
    Raises:
        SpecError: an empty list.
    Reference:
        Kingma & Welling 2014, arXiv:1312.6114, equation 10; An & Cho 2015, SNU Data Mining Center
        (as a detector). Departs from them: the decoder's variance is fixed, the log variance of a code
        bounded by 2.
    """

    def code(x: Any, d: int) -> Any:
        mean = layers.Dense(d, name="latent")(x)
        log_variance = layers.Dense(d, at_most_2, name="log_variance")(x)
        share = 2.0 * variance / spec.outputs
        return GaussianCode(variance, beta * share, name="code")([mean, log_variance])

    return mirrored(spec, list(encoder), activation, code=code, name="vae")
