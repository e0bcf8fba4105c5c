"""A detector that forecasts each step of a window from the steps before it."""

from __future__ import annotations

from typing import Literal

import keras
from keras import layers

from dlkit.data.spec import DetectorSpec
from dlkit.models.rnn import Recurrent
from dlkit.models.window_autoencoders import shape_of


def forecaster(
    spec: DetectorSpec,
    *,
    core: Literal["cnn", "lstm"] = "cnn",
    units: int = 64,
    latent_dim: int | None = None,
    kernel_size: int = 3,
    dropout: float = 0.0,
) -> keras.Model:
    """One-step forecaster: what no forecast from the past foresees is strange.

    The answer at a step depends on the steps before it alone; at the first one it is a constant.

    Args:
        spec: `input_shape` is `(window, channels)`.
        core: "cnn", dilated causal convolutions that see the whole window, or "lstm".
        units: width of the hidden layers.
        latent_dim: width of the code at each step, which the forecast is a linear map of. None: 4,
            and at least as many as there are channels.
        kernel_size: steps of a kernel, of the cnn.
        dropout: share of the hidden features dropped in training, in [0, 1).
    Returns:
        A `keras.Model` from prepared float32 `(b, window, channels)` to the forecasts, of that
        shape.
    Raises:
        SpecError: examples that are no windows.
    Reference:
        Munir et al. 2019, IEEE Access 7 (DeepAnT; cnn); Malhotra et al. 2015, ESANN (lstm). Departs
        from them: every step of the window is forecast at once; residual blocks as in Bai et al.
        2018, arXiv:1803.01271.
    """
    window, channels = shape_of(spec, "forecaster")
    inputs = keras.Input(spec.input_shape, name="example")
    # One step later: position t holds what was seen before t.
    x = layers.ZeroPadding1D((1, 0), name="later")(inputs)[:, :-1]
    if core == "lstm":
        x = Recurrent("lstm", units, name="core")(x)  # (b, window, units)
    else:
        x = layers.Dense(units, name="stem")(x)
        reach, i = 1, 0
        while reach < window and (kernel_size > 1 or not i):
            block = layers.Conv1D(
                units, kernel_size, padding="causal", dilation_rate=2**i, activation="silu",
                name=f"core_{i + 1}",
            )(x)  # fmt: skip
            x = layers.Add(name=f"sum_{i + 1}")([x, block])
            reach += (kernel_size - 1) * 2**i
            i += 1
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Dense(latent_dim or max(4, channels), name="latent")(x)  # (b, window, latent_dim)
    forecast = layers.Dense(channels, name="forecast")(x)
    return keras.Model(inputs, forecast, name="forecaster")
