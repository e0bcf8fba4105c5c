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
from keras import ops


class Cell(NamedTuple):
    """One kind of recurrence.

    Attributes:
        gates: how many times the units the products have.
        states: number of state tensors `(b, units)`; the first is the output.
        forward: `(x, states, r) -> (states, saved)`: one step from the input's products `x`, the
            state, and the recurrent products `r`, all `(b, gates * units)` or `(b, units)`; what
            the gradient needs is saved.
        backward: `(saved, before, d) -> (dx, dr, direct)`: from the gradient `d` of the new states
            and the states before, the gradients of both products, and of the states before by every
            way but the recurrent product.
    """

    gates: int
    states: int
    forward: Callable[..., tuple]
    backward: Callable[..., tuple]


def _simple_forward(x: Any, states: Any, r: Any) -> tuple:
    h = ops.tanh(x + r)
    return (h,), (h,)


def _simple_backward(saved: Any, before: Any, d: Any) -> tuple:
    (h,) = saved
    dx = d[0] * (1.0 - h * h)
    return dx, dx, (0.0 * dx,)


def _lstm_forward(x: Any, states: Any, r: Any) -> tuple:
    i, f, g, o = ops.split(x + r, 4, axis=-1)  # Keras's order
    i, f, g, o = ops.sigmoid(i), ops.sigmoid(f), ops.tanh(g), ops.sigmoid(o)
    c = f * states[1] + i * g
    return (o * ops.tanh(c), c), (i, f, g, o, c)


def _lstm_backward(saved: Any, before: Any, d: Any) -> tuple:
    i, f, g, o, c = saved
    squashed = ops.tanh(c)
    dc = d[1] + d[0] * o * (1.0 - squashed * squashed)
    gates = (
        dc * g * i * (1.0 - i),
        dc * before[1] * f * (1.0 - f),
        dc * i * (1.0 - g * g),
        d[0] * squashed * o * (1.0 - o),
    )
    dx = ops.concatenate(gates, axis=-1)
    return dx, dx, (0.0 * dc, dc * f)


def _gru_forward(x: Any, states: Any, r: Any) -> tuple:
    # Reset after the product, as cuDNN and Keras's default have it.
    (h,) = states
    xz, xr, xh = ops.split(x, 3, axis=-1)
    rz, rr, rh = ops.split(r, 3, axis=-1)
    z, reset = ops.sigmoid(xz + rz), ops.sigmoid(xr + rr)
    new = ops.tanh(xh + reset * rh)
    return (z * h + (1.0 - z) * new,), (z, reset, new, rh)


def _gru_backward(saved: Any, before: Any, d: Any) -> tuple:
    z, reset, new, rh = saved
    dnew = d[0] * (1.0 - z) * (1.0 - new * new)
    dz = d[0] * (before[0] - new) * z * (1.0 - z)
    dreset = dnew * rh * reset * (1.0 - reset)
    dx = ops.concatenate((dz, dreset, dnew), axis=-1)
    dr = ops.concatenate((dz, dreset, dnew * reset), axis=-1)
    return dx, dr, (d[0] * z,)


CELLS = {
    "simple-rnn": Cell(1, 1, _simple_forward, _simple_backward),
    "lstm": Cell(4, 2, _lstm_forward, _lstm_backward),
    "gru": Cell(3, 1, _gru_forward, _gru_backward),
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
    if bias is None:
        import tensorflow as tf

        bias = tf.zeros((CELLS[cell].gates * states[0].shape[-1],))
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
        """Return the states of each step, and what was saved, each `(t, b, units)`."""
        length = tf.shape(x)[0]
        first, kept = cell.forward(x[0], states, tf.matmul(states[0], recurrent) + bias)
        sizes = len(first), len(kept)

        def body(t: Any, now: Any, arrays: Any) -> tuple:
            new, saved = cell.forward(x[t], now, tf.matmul(now[0], recurrent) + bias)
            written = zip(arrays, (*new, *saved), strict=True)
            return t + 1, new, tuple(a.write(t, value) for a, value in written)

        arrays = tuple(
            tf.TensorArray(x.dtype, length, element_shape=states[0].shape)
            for _ in range(sum(sizes))
        )
        _, _, arrays = tf.while_loop(
            lambda t, *_: t < length, body, (0, tuple(states), arrays), maximum_iterations=length
        )
        stacked = tuple(a.stack() for a in arrays)
        return stacked[: sizes[0]], stacked[sizes[0] :]

    def backward(saved: Any, outputs: Any, states: Any, recurrent: Any, gradients: Any) -> tuple:
        """Return the gradients of x, of the first states, of the recurrent weights, of the bias."""
        length = tf.shape(gradients[0])[0]
        # The states before each step.
        before = tuple(
            tf.concat([s[None], o[:-1]], 0) for s, o in zip(states, outputs, strict=True)
        )
        width = (states[0].shape[0], cell.gates * states[0].shape[-1])

        def body(k: Any, d: Any, dxs: Any, drs: Any) -> tuple:
            t = length - 1 - k
            now = tuple(a + g[t] for a, g in zip(d, gradients, strict=True))
            dx, dr, direct = cell.backward(
                tuple(s[t] for s in saved), tuple(b[t] for b in before), now
            )
            back = tf.matmul(dr, recurrent, transpose_b=True)
            return k + 1, (direct[0] + back, *direct[1:]), dxs.write(t, dx), drs.write(t, dr)

        arrays = tuple(tf.TensorArray(recurrent.dtype, length, element_shape=width) for _ in "xr")
        zeros = tuple(tf.zeros_like(s) for s in states)
        _, d, dxs, drs = tf.while_loop(
            lambda k, *_: k < length, body, (0, zeros, *arrays), maximum_iterations=length
        )
        dx, dr = dxs.stack(), drs.stack()
        return dx, d, tf.einsum("tbu,tbg->ug", before[0], dr), tf.reduce_sum(dr, (0, 1))

    if fast:
        forward = tf.function(forward, jit_compile=True)
        backward = tf.function(backward, jit_compile=True)

    @tf.custom_gradient
    def run(x: Any, h: Any, c: Any, recurrent: Any, bias: Any) -> tuple:
        states = (h, c)[: cell.states]
        outputs, saved = forward(x, states, recurrent, bias)

        def gradient(*upstream: Any) -> tuple:
            dx, d, drecurrent, dbias = backward(saved, outputs, states, recurrent, upstream)
            return dx, d[0], d[1] if cell.states == 2 else tf.zeros_like(c), drecurrent, dbias

        return outputs, gradient

    def scan(x: Any, states: Any, recurrent: Any, bias: Any) -> tuple:
        return run(x, states[0], states[-1], tf.convert_to_tensor(recurrent), bias)

    return scan
