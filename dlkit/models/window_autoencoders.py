"""Autoencoders that read a window step by step."""

from __future__ import annotations

import keras
from keras import layers

from dlkit.data.spec import DetectorSpec
from dlkit.errors import SpecError
from dlkit.models.rnn import Recurrent


def lstm_autoencoder(
    spec: DetectorSpec,
    *,
    units: int = 64,
    depth: int = 1,
    dropout: float = 0.0,
) -> keras.Model:
    """LSTM autoencoder: a window is read step by step, and told again from the last state.

    Args:
        spec: `input_shape` is `(window, channels)`.
        units: width of every recurrent layer, and of the code.
        depth: recurrent layers of the encoder, and of the decoder.
        dropout: share of the code's features dropped in training, in [0, 1).
    Returns:
        A `keras.Model` from prepared float32 `(b, window, channels)` to a reconstruction of that
        shape.
    Raises:
        SpecError: examples that are no windows.
    Reference:
        Malhotra et al. 2016, arXiv:1607.00148, section 2. Departs from it: the decoder reads the
        code at every step, not its own last output, and tells the window forwards.
    """
    window, channels = shape_of(spec, "lstm-autoencoder")
    inputs = keras.Input(spec.input_shape, name="example")
    x = inputs
    for i in range(1, depth + 1):
        x = Recurrent("lstm", units, name=f"encoder_{i}")(x)  # (b, window, units)
    x = layers.Flatten(name="latent")(x[:, -1:])  # (b, units)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.RepeatVector(window, name="repeated")(x)
    for i in range(1, depth + 1):
        x = Recurrent("lstm", units, name=f"decoder_{i}")(x)
    x = layers.Dense(channels, name="reconstruction")(x)
    return keras.Model(inputs, x, name="lstm_autoencoder")


def shape_of(spec: DetectorSpec, model: str) -> tuple[int, int]:
    """Return steps and channels of a window.

    Raises:
        SpecError: examples that are no windows.
    """
    if len(spec.input_shape) != 2:
        raise SpecError(
            f"{model} reads windows of series, got examples of shape {tuple(spec.input_shape)}; "
            "for a table with stamps name the column with --time, or give --window"
        )
    window, channels = spec.input_shape
    return window, channels
