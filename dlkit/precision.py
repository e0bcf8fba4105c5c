"""Training in bfloat16: the layers' products in half the width, everything that stays in float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from dlkit.weights import head_layers

PRECISIONS = ("float32", "bfloat16")


@contextlib.contextmanager
def computing_in(model: keras.Model, precision: str) -> Iterator[None]:
    """Let a model's layers compute in `precision` while this is open; to be traced inside.

    Variables, their gradients, losses and the head stay float32, as does what is called outside:
    validation, evaluation and export answer in float32 with the weights so trained. (Micikevicius
    et al. 2018, arXiv:1710.03740; bfloat16 has float32's range, so no loss is scaled.) Layers that
    say `full_precision = True` stay float32 as well. A model made of nets, such as a generator and
    a discriminator, has a head in each.

    Args:
        model: built in float32.
        precision: one of `PRECISIONS`.
    """
    if precision == "float32":
        yield
        return
    policy = keras.DTypePolicy("mixed_bfloat16")
    head = {id(layer) for layer in _heads(model)}
    layers = [
        layer
        for layer in model._flatten_layers(include_self=False)
        if id(layer) not in head and not getattr(layer, "full_precision", False)
    ]
    held = [layer.dtype_policy for layer in layers]
    for layer in layers:
        layer.dtype_policy = policy
    try:
        yield
    finally:
        for layer, before in zip(layers, held, strict=True):
            layer.dtype_policy = before


def _heads(model: Any) -> list[Any]:
    """Return the heads of a model: of a functional one its own, of one made of nets each net's."""
    nets = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    if not nets or getattr(model, "inputs", None):
        return head_layers(model)
    return [head for net in nets for head in _heads(net)]
