"""What is done to codes and inputs of autoencoders: sampled, kept sparse, masked."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops, random


@keras.saving.register_keras_serializable("dlkit")
class Masking(keras.layers.Layer):
    """Set a share of the features to 0 in training; the others are left as they are.

    Args:
        share: in [0, 1).
    """

    def __init__(self, share: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.share = share
        self.seed_generator = random.SeedGenerator()

    def call(self, x: Any, training: bool = False) -> Any:
        """Mask `(b, ...)`."""
        if not training or not self.share:
            return x
        kept = random.uniform(ops.shape(x), seed=self.seed_generator) >= self.share
        return x * ops.cast(kept, x.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return what it was made from."""
        return super().get_config() | {"share": self.share}


@keras.saving.register_keras_serializable("dlkit")
class Sparsity(keras.layers.Layer):
    """Add a penalty on a code `(b, d)` to the loss; the code goes through unchanged.

    Args:
        penalty: "l1" or "kl", see `dlkit.models.autoencoder.sparse_autoencoder`.
        weight: of the penalty.
        target: mean activity asked of each unit, with "kl".
    """

    def __init__(self, penalty: str, weight: float, target: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.penalty, self.weight, self.target = penalty, weight, target

    def call(self, code: Any) -> Any:
        """Add the penalty."""
        if self.penalty == "l1":
            cost = ops.mean(ops.sum(ops.abs(code), -1))
        else:
            active = ops.clip(ops.mean(code, 0), 1e-6, 1 - 1e-6)
            t = self.target
            cost = ops.sum(t * ops.log(t / active) + (1 - t) * ops.log((1 - t) / (1 - active)))
        self.add_loss(self.weight * cost)
        return code

    def get_config(self) -> dict[str, Any]:
        """Return what it was made from."""
        return super().get_config() | {
            "penalty": self.penalty, "weight": self.weight, "target": self.target,
        }  # fmt: skip


@keras.saving.register_keras_serializable("dlkit")
def at_most_2(x: Any) -> Any:
    """Return what is smoothly bounded by 2 from above; far below 2 it stays as it is.

    An untrained net may give a far-off row a log variance whose exponential is the whole loss.
    """
    return 2.0 - ops.softplus(2.0 - x)


@keras.saving.register_keras_serializable("dlkit")
class GaussianCode(keras.layers.Layer):
    """Draw a code from its mean and log variance, `(b, d)` each, and add its divergence to the loss.

    Outside training the code is its mean.

    Args:
        variance: of the reconstruction, which whoever scores by the bound reads here.
        weight: of the divergence from the standard Gaussian, averaged over the batch.
    """

    def __init__(self, variance: float, weight: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.variance, self.weight = variance, weight
        self.seed_generator = random.SeedGenerator()

    @staticmethod
    def divergence(mean: Any, log_variance: Any) -> Any:
        """Return the divergence from the standard Gaussian of each row, in nats, `(b,)`."""
        return 0.5 * ops.sum(ops.square(mean) + ops.exp(log_variance) - 1.0 - log_variance, -1)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the code."""
        mean, log_variance = inputs
        self.add_loss(self.weight * ops.mean(self.divergence(mean, log_variance)))
        if not training:
            return mean
        noise = random.normal(ops.shape(mean), dtype=mean.dtype, seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_variance) * noise

    def get_config(self) -> dict[str, Any]:
        """Return what it was made from."""
        return super().get_config() | {"variance": self.variance, "weight": self.weight}
