"""The recurrent cores: simple, LSTM and GRU scans over time, with gradients written by hand.

Keras runs a recurrent layer as a loop of small operations and lets TensorFlow differentiate that
loop, which accumulates the gradient of the recurrent weights step by step. Here the input's
products of all steps are one product before the loop; the gradient's loop carries only the state
backwards, and the recurrent weights' gradient is one product over all steps after it. In training
both loops are compiled by XLA. The numbers are those of Keras's layers up to rounding.

TensorFlow is used here and nowhere else among the models; on another backend `keras.ops.scan` does
the same, differentiated by the backend.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops


class Cell(NamedTuple):
    """One kind of recurrence.

    Sums are squashed whole and split afterwards, and whatever the gradient needs but the gradient
    itself is worked out for all steps at once: inside a loop, XLA vectorises neither slices nor
    concatenations.

    Attributes:
        gates: how many times the units the products have.
        states: number of state tensors `(b, units)`; the first is the output.
        forward: `(x, states, r) -> (states, saved)`: one step from the input's products `x`, the
            state, and the recurrent products `r`, all `(b, gates * units)` or `(b, units)`; what
            the gradient needs besides the states is saved.
        factors: `(saved, before, after) -> factors`: for all steps at once, from what was saved and
            the states before and after each, all `(t, b, ...)`, what `backward` multiplies by.
        backward: `(factors, d) -> (products, direct)`: from one step's factors and the gradient `d`
            of the new states, the gradients of both products (one where they are equal), and of the
            states before by every way but the recurrent product.
    """

    gates: int
    states: int
    forward: Callable[..., tuple]
    factors: Callable[..., tuple]
    backward: Callable[..., tuple]


def _simple_forward(x: Any, states: Any, r: Any) -> tuple:
    return (ops.tanh(x + r),), ()


def _simple_factors(saved: Any, before: Any, after: Any) -> tuple:
    (h,) = after
    return (1.0 - h * h,)


def _simple_backward(factors: Any, d: Any) -> tuple:
    dx = d[0] * factors[0]
    return (dx,), (0.0,)


def _lstm_forward(x: Any, states: Any, r: Any) -> tuple:
    # sigmoid(x) is tanh(x / 2) / 2 + 1 / 2: one function squashes all four gates.
    scale = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], "float32"), states[0].shape[-1])
    squashed = ops.tanh((x + r) * scale) * scale + (1.0 - scale)
    i, f, g, o = ops.split(squashed, 4, axis=-1)  # Keras's order
    c = f * states[1] + i * g
    return (o * ops.tanh(c), c), (squashed,)


def _lstm_factors(saved: Any, before: Any, after: Any) -> tuple:
    i, f, g, o = ops.split(saved[0], 4, axis=-1)
    squashed = ops.tanh(after[1])
    slopes = (
        g * i * (1.0 - i),
        before[1] * f * (1.0 - f),
        i * (1.0 - g * g),
        squashed * o * (1.0 - o),
    )
    return ops.concatenate(slopes, axis=-1), o * (1.0 - squashed * squashed), f


def _lstm_backward(factors: Any, d: Any) -> tuple:
    slopes, through, f = factors
    dh, dc = d[0], d[1] + d[0] * through
    dx = ops.concatenate((dc, dc, dc, dh), axis=-1) * slopes
    return (dx,), (0.0, dc * f)


def _gru_forward(x: Any, states: Any, r: Any) -> tuple:
    # Reset after the product, as cuDNN and Keras's default have it.
    (h,) = states
    z, reset, _ = ops.split(ops.sigmoid(x + r), 3, axis=-1)
    xh, rh = x[:, 2 * h.shape[-1] :], r[:, 2 * h.shape[-1] :]
    new = ops.tanh(xh + reset * rh)
    return (z * h + (1.0 - z) * new,), (z, reset, new, rh)


def _gru_factors(saved: Any, before: Any, after: Any) -> tuple:
    z, reset, new, rh = saved
    dnew = (1.0 - z) * (1.0 - new * new)
    dz = (before[0] - new) * z * (1.0 - z)
    dreset = dnew * rh * reset * (1.0 - reset)
    input_side = ops.concatenate((dz, dreset, dnew), axis=-1)
    return input_side, ops.concatenate((dz, dreset, dnew * reset), axis=-1), z


def _gru_backward(factors: Any, d: Any) -> tuple:
    input_side, recurrent_side, z = factors
    thrice = ops.concatenate((d[0], d[0], d[0]), axis=-1)
    return (thrice * input_side, thrice * recurrent_side), (d[0] * z,)


CELLS = {
    "simple-rnn": Cell(1, 1, _simple_forward, _simple_factors, _simple_backward),
    "lstm": Cell(4, 2, _lstm_forward, _lstm_factors, _lstm_backward),
    "gru": Cell(3, 1, _gru_forward, _gru_factors, _gru_backward),
}


def scan(
    cell: str, x: Any, states: tuple[Any, ...], recurrent: Any, bias: Any = None, fast: bool = False
) -> tuple[Any, ...]:
    """Run a recurrence over time.

    Args:
        cell: a key of `CELLS`.
        x: the input's products, bias added, time first: float32 `(t, b, gates * units)`.
        states: float32 `(b, units)` each: h; for an LSTM h and c.
        recurrent: the recurrent weights, `(units, gates * units)`.
        bias: `(gates * units,)` added to the recurrent product, or None (GRU alone has one).
        fast: compile by XLA. It pays in training, where the shape stays the same.
    Returns:
        The states at every step, float32 `(t, b, units)` each.
    """
    if keras.config.backend() != "tensorflow":
        return _scan_anywhere(CELLS[cell], x, states, recurrent, bias)
    return _tensorflow_scan(cell, fast)(x, tuple(states), recurrent, bias)


def _scan_anywhere(cell: Cell, x: Any, states: Any, recurrent: Any, bias: Any) -> tuple:
    def step(carried: Any, now: Any) -> tuple:
        r = ops.matmul(carried[0], recurrent)
        new, _ = cell.forward(now, carried, r if bias is None else r + bias)
        return new, new

    return ops.scan(step, tuple(states), x)[1]


@functools.cache
def _tensorflow_scan(name: str, fast: bool) -> Callable[..., tuple]:
    import tensorflow as tf

    cell = CELLS[name]

    def forward(x: Any, states: Any, recurrent: Any, bias: Any) -> tuple:
        """Return the states of each step, and what was saved, each `(t, b, ...)`."""
        length = tf.shape(x)[0]

        def step(t: Any, now: Any) -> tuple:
            r = tf.matmul(now[0], recurrent)
            return cell.forward(x[t], now, r if bias is None else r + bias)

        def body(t: Any, now: Any, arrays: Any) -> tuple:
            new, saved = step(t, now)
            written = zip(arrays, (*new, *saved), strict=True)
            return t + 1, new, tuple(a.write(t, value) for a, value in written)

        new, saved = step(0, states)
        arrays = tuple(
            tf.TensorArray(x.dtype, length, element_shape=each.shape) for each in (*new, *saved)
        )
        _, _, arrays = tf.while_loop(
            lambda t, *_: t < length, body, (0, tuple(states), arrays), maximum_iterations=length
        )
        stacked = tuple(a.stack() for a in arrays)
        return stacked[: cell.states], stacked[cell.states :]

    def backward(saved: Any, outputs: Any, states: Any, recurrent: Any, gradients: Any) -> tuple:
        """Return the gradients of both products and of the first states, and h before each step."""
        length = tf.shape(gradients[0])[0]
        before = tuple(
            tf.concat([s[None], o[:-1]], 0) for s, o in zip(states, outputs, strict=True)
        )
        factors = cell.factors(saved, before, outputs)
        # (gates * units, units), turned once and not at every step.
        back = tf.transpose(recurrent)

        def step(t: Any, d: Any) -> tuple:
            now = tuple(a + g[t] for a, g in zip(d, gradients, strict=True))
            return cell.backward(tuple(f[t] for f in factors), now)

        def body(k: Any, d: Any, arrays: Any) -> tuple:
            t = length - 1 - k
            products, direct = step(t, d)
            d = (direct[0] + tf.matmul(products[-1], back), *direct[1:])
            return k + 1, d, tuple(a.write(t, p) for a, p in zip(arrays, products, strict=True))

        zeros = tuple(tf.zeros_like(s) for s in states)
        arrays = tuple(
            tf.TensorArray(p.dtype, length, element_shape=p.shape) for p in step(0, zeros)[0]
        )
        _, d, arrays = tf.while_loop(
            lambda k, *_: k < length, body, (0, zeros, arrays), maximum_iterations=length
        )
        products = tuple(a.stack() for a in arrays)
        return products, d, before[0]

    if fast:
        forward = tf.function(forward, jit_compile=True)
        backward = tf.function(backward, jit_compile=True)

    def scan(x: Any, states: Any, recurrent: Any, bias: Any) -> tuple:
        @tf.custom_gradient
        def run(x: Any, recurrent: Any, *rest: Any) -> tuple:
            states, bias = rest[: cell.states], (*rest, None)[cell.states]
            outputs, saved = forward(x, states, recurrent, bias)

            def gradient(*upstream: Any) -> tuple:
                products, d, before = backward(saved, outputs, states, recurrent, upstream)
                units, wide = recurrent.shape
                dr = tf.reshape(products[-1], (-1, wide))  # (t b, gates * units)
                drecurrent = tf.matmul(tf.reshape(before, (-1, units)), dr, transpose_a=True)
                dbias = () if bias is None else (tf.reduce_sum(dr, 0),)
                return products[0], drecurrent, *d, *dbias

            return outputs, gradient

        rest = (*states, *(() if bias is None else (tf.convert_to_tensor(bias),)))
        return run(x, tf.convert_to_tensor(recurrent), *rest)

    return scan
