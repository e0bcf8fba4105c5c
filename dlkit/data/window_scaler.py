"""The layer that turns raw windows of series into what a detector reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlkit.data.table_scaler import scaled


@keras.saving.register_keras_serializable("dlkit")
class WindowScaler(keras.layers.Layer):
    """`{"window": float32 (b, window, channels)}` in raw units to the same shape, scaled.

    Beyond 10 deviations the logarithm goes on, see `dlkit.data.table_scaler.scaled`; a missing value
    is taken as the mean.

    Args:
        mean, deviation: of each channel, as `dlkit.data.table_scaler.fit_scaler` finds them.
    """

    def __init__(self, mean: Any, deviation: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean = np.asarray(mean, np.float32)
        self.deviation = np.asarray(deviation, np.float32)

    def call(self, inputs: Mapping[str, Any]) -> Any:
        """Scale."""
        window = tf.cast(inputs["window"], tf.float32)
        return tf.where(tf.math.is_nan(window), 0.0, scaled(window, self.mean, self.deviation))

    def restore(self, x: Any) -> dict[str, Any]:
        """Return `reconstruction` `(b, window, channels)` in raw units of what a model gives."""
        return {"reconstruction": x * self.deviation + self.mean}

    def get_config(self) -> dict[str, Any]:
        """Return what it was made from."""
        return super().get_config() | {
            "mean": self.mean.tolist(), "deviation": self.deviation.tolist(),
        }  # fmt: skip
