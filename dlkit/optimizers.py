"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from dlkit.errors import OptionError


@keras.saving.register_keras_serializable("dlkit")
class Muon(keras.optimizers.Muon):
    """Keras's Muon, for the kernels of convolutions as well.

    A kernel `(kh, kw, in, out)` is orthogonalised as the matrix `(kh * kw * in, out)`, as Jordan
    2024 (https://kellerjordan.github.io/posts/muon/) does it; Keras leaves it to AdamW. Vectors,
    embeddings and the head stay with AdamW, at the same learning rate: updates are scaled to the
    size of AdamW's (Liu et al. 2025, arXiv:2502.16982).
    """

    def _should_use_adamw(self, variable: Any) -> bool:
        if "bias" in variable.path:  # a GRU has two in one matrix
            return True
        if len(variable.shape) == 4:
            return any(name in variable.path for name in self.exclude_layers)
        return super()._should_use_adamw(variable)

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any) -> None:
        if len(variable.shape) == 2:
            super()._muon_update_step(gradient, variable, lr, m)
            return
        self.assign_add(m, keras.ops.add(gradient, m * (self.momentum - 1)))
        moved = gradient + self.momentum * m if self.nesterov else m
        matrix = keras.ops.reshape(moved, (-1, variable.shape[-1]))
        update = self.lr_adjust(lr * self.zeropower_via_newtonschulz5(matrix, self.ns_steps))
        self.assign_sub(variable, keras.ops.reshape(update, variable.shape))


# Peak rates that suit the classic architectures; for SGD one at a batch of 64.
LEARNING_RATES = {"adamw": 2e-3, "muon": 2e-3, "rmsprop": 1e-3, "sgd": 0.05}


def make_optimizer(
    name: str,
    learning_rate: float,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    beta_2: float = 0.999,
) -> keras.optimizers.Optimizer:
    """Return a Keras optimiser.

    Args:
        name: "adamw" (Loshchilov & Hutter 2019), "sgd" (Nesterov momentum 0.9), "rmsprop", or
            "muon" (see `Muon`).
        learning_rate: peak rate; `fit` sets the rate of each step.
        weight_decay: decoupled decay of kernels; biases and norms are left alone.
        clip_norm: largest global norm of the gradient, or None.
        beta_2: decay of AdamW's second moments.
    """
    common: dict[str, Any] = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay or None,
        "global_clipnorm": clip_norm,
    }
    if name == "adamw":
        optimizer = keras.optimizers.AdamW(
            beta_2=beta_2, **{**common, "weight_decay": weight_decay}
        )
    elif name == "muon":
        decay = {"weight_decay": weight_decay, "adam_weight_decay": weight_decay}
        optimizer = Muon(
            exclude_layers=["logits", "head", "positions"],
            adam_beta_2=beta_2,
            **{**common, **decay},
        )
    elif name == "sgd":
        optimizer = keras.optimizers.SGD(momentum=0.9, nesterov=True, **common)
    elif name == "rmsprop":
        optimizer = keras.optimizers.RMSprop(**common)
    else:
        raise OptionError(f"no optimizer '{name}'; accepted: adamw, muon, rmsprop, sgd")
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def scheduled_rate(
    schedule: str, peak: float, warmup: int, step: tf.Tensor, total: tf.Tensor
) -> tf.Tensor:
    """Return the learning rate of one step, a float32 scalar.

    Args:
        schedule: "cosine" or "linear", both ending at zero after `total` steps; "one-cycle" (Smith &
            Topin 2018, arXiv:1708.07120), which rises over the first 30 % of the steps from a 25th
            of the peak and then falls like a cosine, and has no other warm-up; or "constant".
        peak: the rate after warm-up.
        warmup: steps over which the rate rises linearly from zero; at most a tenth of `total`.
        step: int64 scalar, from 0.
        total: int64 scalar.
    """
    done = tf.cast(step, tf.float32)
    if schedule == "one-cycle":
        share = tf.clip_by_value(done / tf.maximum(1.0, tf.cast(total, tf.float32)), 0.0, 1.0)
        rise = 0.04 + 0.96 * 0.5 * (1.0 - tf.cos(math.pi * tf.minimum(share / 0.3, 1.0)))
        fall = 0.5 * (1.0 + tf.cos(math.pi * tf.maximum(share - 0.3, 0.0) / 0.7))
        return peak * rise * fall
    # Where there are few steps, a tenth of them: the rate must still come down.
    whole = tf.cast(total, tf.float32)
    warm = tf.minimum(float(warmup), whole / 10.0)
    rise = tf.minimum(1.0, (done + 1.0) / tf.maximum(1.0, warm))
    span = tf.maximum(1.0, whole - warm)
    share = tf.clip_by_value((done - warm) / span, 0.0, 1.0)
    fall = {
        "cosine": 0.5 * (1.0 + tf.cos(math.pi * share)),
        "linear": 1.0 - share,
        "constant": tf.ones_like(share),
    }[schedule]
    return peak * rise * fall
