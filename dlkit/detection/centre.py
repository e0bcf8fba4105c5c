"""The centre of a Deep SVDD: fixed from the first pass over the data, and whether all fell into it.

Needs TensorFlow.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from dlkit.data.anomalies import AnomalyData
from dlkit.detection.detector import prepared

# Codes that spread less than this share of what they did before training tell nothing apart.
COLLAPSED = 1e-3


def fix_centre(model: keras.Model, data: AnomalyData) -> None:
    """Fix the centre of a model at the mean code of the training examples."""
    model.get_layer("centre").fix(codes(model, data, data.train.at))


def codes(model: keras.Model, data: AnomalyData, at: np.ndarray) -> np.ndarray:
    """Return the code of each of some examples, float32 `(n, d)`."""
    encoder = keras.Model(model.input, model.get_layer("latent").output)
    return np.concatenate([encoder(x, training=False).numpy() for x in prepared(data, at)])


def told(model: keras.Model, data: AnomalyData) -> list[str]:
    """Return a sentence where the held-out examples' codes have collapsed into one point."""
    layer: Any = model.get_layer("centre")
    before = float(layer.spread)
    after = float(np.sqrt(codes(model, data, data.holdout.at).var(0).mean()))
    if after > COLLAPSED * before:
        return []
    return [
        f"the codes have collapsed: held-out examples spread {after:.2g} around their mean, "
        f"{before:.2g} before training, so distances tell little; train for fewer epochs, or with "
        "a smaller --learning-rate"
    ]
