"""Adversarial losses: pure functions of a discriminator's logits, each with its paper's equation.

Every discriminator loss takes the logits of real and of generated pictures, `(b, 1)`; every
generator loss takes the same two, of which most need the second alone. Each returns a scalar to be
lowered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops


class Adversary(NamedTuple):
    """A pair of losses.

    Attributes:
        discriminator, generator: functions of `(real, fake)`.
        penalised: whether the paper's critic has the gradient penalty.
        relative: whether the generator's loss needs the logits of real pictures.
        middle: logit between what is wanted of real and of generated pictures; None where the loss
            has none of its own.
    """

    discriminator: Callable[[Any, Any], Any]
    generator: Callable[[Any, Any], Any]
    penalised: bool = False
    relative: bool = False
    middle: float | None = 0.0


def ns_discriminator(real: Any, fake: Any) -> Any:
    """Cross-entropy: `-log D(x) - log(1 - D(G(z)))` (Goodfellow et al. 2014, equation 1)."""
    return ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(fake))


def ns_generator(real: Any, fake: Any) -> Any:
    """Non-saturating: `-log D(G(z))` (Goodfellow et al. 2014, section 3)."""
    return ops.mean(ops.softplus(-fake))


def wasserstein_discriminator(real: Any, fake: Any) -> Any:
    """Critic: `D(G(z)) - D(x)` (Arjovsky et al. 2017, arXiv:1701.07875, equation 2)."""
    return ops.mean(fake) - ops.mean(real)


def wasserstein_generator(real: Any, fake: Any) -> Any:
    """Generator: `-D(G(z))` (Arjovsky et al. 2017, algorithm 1)."""
    return -ops.mean(fake)


def hinge_discriminator(real: Any, fake: Any) -> Any:
    """Hinge: `max(0, 1 - D(x)) + max(0, 1 + D(G(z)))` (Miyato et al. 2018, equation 16)."""
    return ops.mean(ops.relu(1.0 - real)) + ops.mean(ops.relu(1.0 + fake))


def lsgan_discriminator(real: Any, fake: Any) -> Any:
    """Least squares, b = 1 and a = 0 (Mao et al. 2017, arXiv:1611.04076, equation 9)."""
    return 0.5 * ops.mean((real - 1.0) ** 2) + 0.5 * ops.mean(fake**2)


def lsgan_generator(real: Any, fake: Any) -> Any:
    """Least squares, c = 1 (Mao et al. 2017, equation 9)."""
    return 0.5 * ops.mean((fake - 1.0) ** 2)


def relativistic_discriminator(real: Any, fake: Any) -> Any:
    """`-log sigmoid(D(x) - D(G(z)))` (Jolicoeur-Martineau 2018, arXiv:1807.00734, equation 5)."""
    return ops.mean(ops.softplus(fake - real))


def relativistic_generator(real: Any, fake: Any) -> Any:
    """`-log sigmoid(D(G(z)) - D(x))` (Jolicoeur-Martineau 2018, equation 6)."""
    return ops.mean(ops.softplus(real - fake))


ADVERSARIES = {
    "ns": Adversary(ns_discriminator, ns_generator),
    "wgan-gp": Adversary(
        wasserstein_discriminator, wasserstein_generator, penalised=True, middle=None
    ),
    "hinge": Adversary(hinge_discriminator, wasserstein_generator),
    "lsgan": Adversary(lsgan_discriminator, lsgan_generator, middle=0.5),
    "relativistic": Adversary(
        relativistic_discriminator, relativistic_generator, relative=True, middle=None
    ),
}
