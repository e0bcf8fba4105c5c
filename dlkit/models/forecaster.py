"""What all forecasting models share: normalising a window, one series at a time, covariates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import keras
from keras import layers, ops

from dlkit.data.spec import SeriesSpec

InstanceNorm = Literal["none", "last", "standard"]


def forecaster(
    spec: SeriesSpec,
    body: Callable[[Any, int], Any],
    *,
    instance_norm: InstanceNorm,
    name: str,
    noise: float = 0.0,
) -> keras.Model:
    """Make a forecasting model around a body.

    The targets of a window are normalised by their own last value, or mean and deviation, which the
    forecast is given back ("reversible"). Unless `spec.joint`, each target is forecast by itself,
    with the same weights, from its own past and the covariates. What is known of the horizon, and of
    the series as a whole, corrects the body's forecast step by step through a small net that starts
    at zero.

    Args:
        spec: see `SeriesSpec`.
        body: `(x, values)` from `(n, lookback, features)` to `(n, horizon, values)`; n is a batch
            times the targets where they are forecast one by one. The first feature (if joint, the
            first `outputs` of them) is the target, normalised.
        instance_norm: "none", "last" (the last value is subtracted) or "standard" (mean subtracted,
            divided by the deviation).
        name: of the model.
        noise: deviation of what is added in training to each step of a target's window, normalised;
            0 to 1. For a linear map it is ridge regression with `noise**2` as the penalty per
            window; a net on top of it is held smooth in the same way.
    Returns:
        A `keras.Model` from scaled float32 `window` `(b, lookback, channels)`, and where the spec
        has them `future` `(b, horizon, future)` and `static` `(b, static)`, to the forecast, of
        shape `(b, *spec.output_shape)`, scaled as the window is.
    Reference:
        Kim et al. 2022, "Reversible instance normalization", without the affine part; channel
        independence after Nie et al. 2023, arXiv:2211.14730; noise as a penalty after Bishop 1995,
        Neural Computation 7.
    """
    lookback, channels = spec.input_shape
    targets, levels = spec.outputs, max(1, len(spec.quantiles))
    apart = targets > 1 and not spec.joint
    window = layers.Input(spec.input_shape, name="window")
    inputs = [window]
    x = window[:, :, :targets]
    level = scale = None
    if instance_norm != "none":
        x, level, scale = InstanceNormalization(instance_norm, name="instance_norm")(x)
    rest = window[:, :, targets:] if channels > targets else None

    def each(extra: Any) -> Any:
        """Repeat `(b, t, d)` for each target: `(b * targets, t, d)`."""
        if not apart:
            return extra
        length, width = extra.shape[1:]
        wide = ops.repeat(ops.expand_dims(extra, 1), targets, axis=1)
        return ops.reshape(wide, (-1, length, width))

    if apart:
        x = ops.reshape(
            ops.transpose(x, (0, 2, 1)), (-1, lookback, 1)
        )  # (b * targets, lookback, 1)
    if noise:
        x = layers.GaussianNoise(noise, name="noise")(x)
    if rest is not None:
        x = ops.concatenate([x, each(rest)], axis=-1)
    values = levels * (1 if apart else targets)
    y = body(x, values)  # (n, horizon, values)
    known = []
    if spec.future:
        inputs.append(layers.Input((spec.horizon, spec.future), name="future"))
        known.append(each(inputs[-1]))
    if spec.static:
        inputs.append(layers.Input((spec.static,), name="static"))
        repeated = ops.repeat(ops.expand_dims(inputs[-1], 1), spec.horizon, axis=1)
        known.append(each(repeated))
    if known:
        seen = layers.Concatenate(name="known")([y, *known])
        hidden = layers.Dense(64, activation="relu", name="known_hidden")(seen)
        change = layers.Dense(values, kernel_initializer="zeros", name="known_change")(hidden)
        y = layers.Add(name="corrected")([y, change])
    y = ops.reshape(
        y, (-1, targets, spec.horizon, levels) if apart else (-1, spec.horizon, targets, levels)
    )
    if apart:
        y = ops.transpose(y, (0, 2, 1, 3))  # (b, horizon, targets, levels)
    if level is not None:
        y = y * ops.expand_dims(scale, -1) + ops.expand_dims(level, -1)
    y = ops.reshape(y, (-1, *spec.output_shape))
    return keras.Model(inputs if len(inputs) > 1 else window, y, name=name)


@keras.saving.register_keras_serializable("dlkit")
class InstanceNormalization(layers.Layer):
    """Normalises each channel of `(b, t, d)` over its own window.

    Args:
        how: "last" subtracts the last value; "standard" subtracts the mean and divides by the
            deviation.
    """

    def __init__(self, how: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.how = how

    def call(self, inputs: Any) -> tuple[Any, Any, Any]:
        """Return the normalised window, and level and scale `(b, 1, d)`."""
        if self.how == "last":
            level = inputs[:, -1:]
            return inputs - level, level, ops.ones_like(level)
        level = ops.mean(inputs, 1, keepdims=True)
        scale = ops.sqrt(ops.var(inputs, 1, keepdims=True) + 1e-5)
        return (inputs - level) / scale, level, scale

    def get_config(self) -> dict[str, Any]:
        """Return what makes an equal layer."""
        return {**super().get_config(), "how": self.how}
