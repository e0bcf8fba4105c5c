"""Windows in waves instead of steps: what a linear map of them learns quickly by gradient descent."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import layers, ops

Basis = Literal["steps", "cosines"]


def in_basis(x: Any, basis: Basis) -> Any:
    """Return windows `(n, lookback, features)` as they are, or each feature as a sum of cosines.

    Neighbouring steps of a series are nearly equal, so that least squares over them is badly
    conditioned. Cosines of a series are nearly uncorrelated, and an optimiser that scales each
    coordinate by itself, such as Adam, comes to the same solution in a fraction of the steps.
    """
    return Cosines(name="cosines")(x) if basis == "cosines" else x


@keras.saving.register_keras_serializable("dlkit")
class Cosines(layers.Layer):
    """Discrete cosine transform (II, orthonormal) of `(n, lookback, features)` along the steps.

    Reference:
        Ahmed, Natarajan & Rao 1974, IEEE Transactions on Computers C-23; that it decorrelates, and
        so conditions what is learned from it by a rate a coordinate: Beaufays 1995, IEEE
        Transactions on Neural Networks 6.
    """

    def build(self, input_shape: Any) -> None:
        """Compute the matrix, `(lookback, lookback)`; it is no weight."""
        lookback = input_shape[1]
        wave = np.arange(lookback)[None, :]
        angle = np.pi * (2 * np.arange(lookback)[:, None] + 1) * wave / (2 * lookback)
        matrix = np.cos(angle) * np.sqrt(np.where(wave == 0, 1, 2) / lookback)
        self.matrix = matrix.astype(np.float32)

    def call(self, inputs: Any) -> Any:
        """Return the coefficients, from the slowest wave to the fastest, of the input's shape."""
        matrix = ops.cast(self.matrix, inputs.dtype)
        found = ops.tensordot(ops.transpose(inputs, (0, 2, 1)), matrix, 1)
        return ops.transpose(found, (0, 2, 1))
