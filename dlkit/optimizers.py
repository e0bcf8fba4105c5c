"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from dlkit.errors import OptionError


def make_optimizer(
    name: str, learning_rate: float, weight_decay: float = 0.0, clip_norm: float | None = None
) -> keras.optimizers.Optimizer:
    """Return a Keras optimiser.

    Args:
        name: "adam" (decoupled decay, that is AdamW, where `weight_decay` is above 0), "sgd"
            (Nesterov momentum 0.9) or "rmsprop".
        learning_rate: peak rate; `fit` sets the rate of each step.
        weight_decay: decoupled decay of kernels; biases and norms are left alone.
        clip_norm: largest global norm of the gradient, or None.
    """
    common: dict[str, Any] = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay or None,
        "global_clipnorm": clip_norm,
    }
    if name == "adam":
        optimizer = keras.optimizers.AdamW(**{**common, "weight_decay": weight_decay})
    elif name == "sgd":
        optimizer = keras.optimizers.SGD(momentum=0.9, nesterov=True, **common)
    elif name == "rmsprop":
        optimizer = keras.optimizers.RMSprop(**common)
    else:
        raise OptionError(f"no optimizer '{name}'; accepted: adam, rmsprop, sgd")
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def scheduled_rate(
    schedule: str, peak: float, warmup: int, step: tf.Tensor, total: tf.Tensor
) -> tf.Tensor:
    """Return the learning rate of one step, a float32 scalar.

    Args:
        schedule: "cosine" or "linear", both ending at zero after `total` steps, or "constant".
        peak: the rate after warm-up.
        warmup: steps over which the rate rises linearly from zero.
        step: int64 scalar, from 0.
        total: int64 scalar.
    """
    done = tf.cast(step, tf.float32)
    rise = tf.minimum(1.0, (done + 1.0) / max(1.0, float(warmup)))
    span = tf.maximum(1.0, tf.cast(total, tf.float32) - warmup)
    share = tf.clip_by_value((done - warmup) / span, 0.0, 1.0)
    fall = {
        "cosine": 0.5 * (1.0 + tf.cos(math.pi * share)),
        "linear": 1.0 - share,
        "constant": tf.ones_like(share),
    }[schedule]
    return peak * rise * fall
