"""Layers written as lists: `-p conv_layers='[{"filters": 32, "pool_size": 2}]'`.

A list is checked without Keras, so that a typo in it is told at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from dlkit.errors import OptionError, nearest, one_of

# What the builders' annotations mean to a type checker.
ConvLayers = list[dict[str, Any]]
DenseLayers = list[dict[str, Any]]
RnnLayers = list[dict[str, Any]]
TransformerLayers = list[dict[str, Any]]

ACTIVATIONS = ("relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu", "elu", "selu", "linear")
INITIALIZERS = (
    "he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "lecun_normal",
    "truncated_normal", "orthogonal",
)  # fmt: skip


class Key(NamedTuple):
    """One key of a layer: what it accepts, said and tested."""

    accepted: str
    test: Callable[[Any], bool]


def _whole(low: int) -> Key:
    return Key(
        f"a whole number, at least {low}",
        lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= low,
    )


def _number(low: float, below: float) -> Key:
    bound = f", below {below:g}" if below < float("inf") else ""
    return Key(
        f"a number, at least {low:g}{bound}",
        lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and low <= v < below,
    )


def _name(names: tuple[str, ...]) -> Key:
    return Key(one_of(names), lambda v: v in names)


FLAG = Key("true or false", lambda v: isinstance(v, bool))
COMMON = {
    "activation": _name(ACTIVATIONS),
    "batch_norm": FLAG,
    "dropout": _number(0, 1),
    "initializer": _name(INITIALIZERS),
    "l1": _number(0, float("inf")),
    "l2": _number(0, float("inf")),
}


class LayerList(NamedTuple):
    """A kind of list: its name, its layers' keys, and the ones that each layer must have."""

    name: str
    keys: dict[str, Key]
    needed: tuple[str, ...]

    def __repr__(self) -> str:
        return self.name

    def check(self, where: str, value: Any) -> list[dict[str, Any]]:
        """Return the list, or raise.

        Raises:
            OptionError: not a list of tables; a missing or unknown key; a value not accepted.
        """
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, dict) for v in value):
            example = '[{"' + self.needed[0] + '": 32}]'
            raise OptionError(
                f"{where}: got {value!r}; accepted: a list of layers such as {example}"
            )
        for i, layer in enumerate(value):
            at = f"{where}[{i}]"
            for key, given in layer.items():
                if key not in self.keys:
                    raise OptionError(
                        f"{at}: unknown key '{key}'{nearest(key, self.keys)}; "
                        f"accepted: {one_of(self.keys)}"
                    )
                if not self.keys[key].test(given):
                    hint = (
                        nearest(given, ACTIVATIONS + INITIALIZERS) if isinstance(given, str) else ""
                    )
                    raise OptionError(
                        f"{at}.{key}: got {given!r}{hint}; accepted: {self.keys[key].accepted}"
                    )
            for key in self.needed:
                if key not in layer:
                    raise OptionError(f"{at}: needs '{key}', got only {one_of(layer) or 'nothing'}")
        return [dict(layer) for layer in value]


CONV = LayerList(
    "list of convolutions",
    {
        "filters": _whole(1),
        "kernel_size": _whole(1),
        "strides": _whole(1),
        "padding": _name(("same", "valid")),
        "pool_size": _whole(1),
        "pooling": _name(("max", "average")),
        **COMMON,
    },
    ("filters",),
)
DENSE = LayerList("list of dense layers", {"units": _whole(1), **COMMON}, ("units",))
RNN = LayerList(
    "list of recurrent layers",
    {"cell": _name(("simple-rnn", "lstm", "gru")), "units": _whole(1), "dropout": _number(0, 1)},
    ("units",),
)
TRANSFORMER = LayerList(
    "list of transformer blocks",
    {"heads": _whole(1), "mlp_ratio": _number(0.25, float("inf")), "dropout": _number(0, 1)},
    ("heads",),
)
