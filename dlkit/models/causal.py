"""Causal models, run as a whole or on from a state: one set of layers for both.

Beside `call`, a layer that looks back has `initial_state(batch)`, its tensors before the first token,
and `advance(x, state, count=, lengths=, training=)`, which returns its output and its new tensors.
`advance` here runs a functional model through those, so that training on long texts, prefilling a
prompt and generating token by token are the same graph. Keras alone.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import keras
from keras import ops

from dlkit.errors import SpecError

# What a model carries from one call to the next: `count`, int32 `(b,)`, the tokens each row has
# seen; then each layer's own tensors, in the model's order.
State = list[Any]


def looking_back(model: keras.Model) -> list[Any]:
    """Return the layers that carry a state, in the model's order."""
    return [layer for layer in model.layers if hasattr(layer, "advance")]


def initial_state(model: keras.Model, batch: Any) -> State:
    """Return the state before the first token.

    Args:
        model: a causal model.
        batch: number of rows, an int or an int32 scalar tensor.
    """
    state = [ops.zeros((batch,), "int32")]
    for layer in looking_back(model):
        state += layer.initial_state(batch)
    return state


def advance(
    model: keras.Model, tokens: Any, state: State, lengths: Any = None, training: bool = False
) -> tuple[Any, State]:
    """Run a model on from a state.

    Args:
        model: a causal model.
        tokens: int32 `(b, t)`. With attention, more than one token at once only as far as the
            context is not full.
        state: from `initial_state`, or from the last call.
        lengths: int32 `(b,)`, how many of each row's tokens count; the rest is padding, behind
            them. None: all.
        training: whether dropout drops.
    Returns:
        Logits float32 `(b, t, vocabulary)`, and the state after the last token that counts.
    """
    steps = tokens.shape[1] if tokens.shape[1] is not None else ops.shape(tokens)[1]
    layers = looking_back(model)
    sizes = [len(layer.initial_state(1)) for layer in layers]
    starts = {id(layer): 1 + sum(sizes[:i]) for i, layer in enumerate(layers)}
    after = [state[0] + (steps if lengths is None else lengths), *state[1:]]

    def bound(operation: Any) -> Any:
        if id(operation) in starts:
            at = starts[id(operation)]
            own = slice(at, at + sizes[layers.index(operation)])

            def run(x: Any, **_: Any) -> Any:
                y, after[own] = operation.advance(
                    x, state[own], count=state[0], lengths=lengths, training=training
                )
                return y

            return run
        call = getattr(operation, "call", operation)
        if "training" in inspect.signature(call).parameters:
            return functools.partial(operation, training=training)
        return operation

    logits = model._run_through_graph(tokens, operation_fn=bound)
    return logits, after


def refuse_bidirectional(bidirectional: bool) -> None:
    """Say why a model of text cannot read backwards.

    Raises:
        SpecError: if asked to.
    """
    if bidirectional:
        raise SpecError(
            "-p bidirectional: got true; a model that generates text must not see what comes "
            "after: accepted: false"
        )
