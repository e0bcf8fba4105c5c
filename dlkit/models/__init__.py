"""The registry of builders, and the way from a model's name to a Keras model.

A builder's signature is the only home of its parameters. It is read from the builder's source, not
by importing it, so that a wrong name or value is told before Keras is loaded.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from dlkit.errors import OptionError, SpecError, nearest, one_of
from dlkit.models.backbones import BACKBONES
from dlkit.models.layer_lists import CONV, DENSE, RNN, TRANSFORMER, LayerList

if TYPE_CHECKING:
    import keras

    from dlkit.data import Spec

MODELS: dict[str, dict[str, str]] = {
    "image-classification": {
        "applications": "dlkit.models.applications:applications",
        "cnn": "dlkit.models.cnn:cnn",
        "googlenet": "dlkit.models.googlenet:googlenet",
        "lenet": "dlkit.models.lenet:lenet",
        "mlp": "dlkit.models.mlp:mlp",
        "resnet": "dlkit.models.resnet:resnet",
        "speednet": "dlkit.models.speednet:speednet",
        "vgg": "dlkit.models.vgg:vgg",
        "vit": "dlkit.models.vit:vit",
    },
    "forecasting": {
        "dlinear": "dlkit.models.linear_forecasters:dlinear",
        "gru": "dlkit.models.forecast_rnn:gru",
        "linear": "dlkit.models.linear_forecasters:linear",
        "lstm": "dlkit.models.forecast_rnn:lstm",
        "mlp": "dlkit.models.forecast_mlp:mlp",
        "nhits": "dlkit.models.nhits:nhits",
        "nlinear": "dlkit.models.linear_forecasters:nlinear",
        "patchtst": "dlkit.models.patchtst:patchtst",
        "simple-rnn": "dlkit.models.forecast_rnn:simple_rnn",
        "sparsetsf": "dlkit.models.sparsetsf:sparsetsf",
        "tcn": "dlkit.models.tcn:tcn",
        "transformer": "dlkit.models.forecast_transformer:transformer",
    },
    "anomaly-detection": {
        "autoencoder": "dlkit.models.autoencoder:autoencoder",
        "conv-autoencoder": "dlkit.models.conv_autoencoder:conv_autoencoder",
        "deep-svdd": "dlkit.models.deep_svdd:deep_svdd",
        "denoising-autoencoder": "dlkit.models.autoencoder:denoising_autoencoder",
        "forecaster": "dlkit.models.window_forecaster:forecaster",
        "lstm-autoencoder": "dlkit.models.window_autoencoders:lstm_autoencoder",
        "sparse-autoencoder": "dlkit.models.autoencoder:sparse_autoencoder",
        "usad": "dlkit.models.usad:usad",
        "vae": "dlkit.models.autoencoder:vae",
    },
    "image-synthesis": {
        "cgan": "dlkit.models.dcgan:cgan",
        "cyclegan": "dlkit.models.cyclegan:cyclegan",
        "dcgan": "dlkit.models.dcgan:dcgan",
        "gan": "dlkit.models.gan:gan",
        "ddpm": "dlkit.models.ddpm:ddpm",
        "progan": "dlkit.models.progan:progan",
        "vae": "dlkit.models.picture_vae:vae",
    },
    "text-generation": {
        "gru": "dlkit.models.rnn:gru",
        "lstm": "dlkit.models.rnn:lstm",
        "simple-rnn": "dlkit.models.rnn:simple_rnn",
        "transformer": "dlkit.models.transformer:transformer",
    },
}
# Builders of models that take raw pixels in [0, 255] and prepare them themselves.
RAW_PIXELS = {"applications"}
# Ranges of parameters, by name; other whole numbers are at least 1, other numbers above 0.
SHARES = {"dropout", "head_dropout", "label_dropout", "masked", "stochastic_depth"}
FROM_ZERO = {
    "beta", "guidance", "identity", "input_noise", "l1", "l2", "whitening", ("mlp", "depth"),
}  # fmt: skip
# What Keras adds as noise has at most this deviation.
MOST_NOISE = 1.0
# What an annotation may name; evaluated without any builtins.
ANNOTATIONS = {
    "int": int, "float": float, "bool": bool, "str": str, "list": list, "tuple": tuple,
    "dict": dict, "Literal": Literal, "Any": Any, "ConvLayers": CONV, "DenseLayers": DENSE,
    "RnnLayers": RNN, "TransformerLayers": TRANSFORMER,
    "Backbone": Literal[*BACKBONES],
}  # fmt: skip


@dataclass(frozen=True)
class Builder:
    """A builder as its source describes it: import string, signature and docstring."""

    name: str
    target: str
    signature: inspect.Signature
    doc: str

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self.doc.strip().splitlines()[0] if self.doc.strip() else ""

    def load(self) -> Any:
        """Import the builder function."""
        module, _, function = self.target.partition(":")
        return getattr(importlib.import_module(module), function)


def find(task: str, model: str) -> tuple[Builder, dict[str, Any]]:
    """Find a builder by name, `name-variant`, `applications/NAME`, or `package.module:function`.

    Returns:
        The builder and the parameters that the name itself sets (`{"variant": 20}`, or none).
    Raises:
        OptionError: no such model (with the nearest name), or an import string that leads nowhere.
    """
    names = MODELS[task]
    if model in names:
        return describe(model, names[model]), {}
    if ":" in model:
        return describe(model, model), {}
    family, slash, name = model.partition("/")
    if slash and family == "applications" and family in names:
        if name not in BACKBONES:
            raise OptionError(
                f"--model: no backbone '{name}'{nearest(name, BACKBONES)}; "
                f"accepted after applications/: {one_of(BACKBONES)}"
            )
        return describe(family, names[family]), {"backbone": name}
    known = set(names)
    for name, target in names.items():
        builder = describe(name, target)
        parameter = builder.signature.parameters.get("variant")
        for value in get_args(parameter.annotation) if parameter else ():
            known.add(f"{name}-{value}")
            if model == f"{name}-{value}":
                return builder, {"variant": value}
    full = [f"applications/{each}" for each in BACKBONES] if "applications" in names else []
    raise OptionError(
        f"--model: no model '{model}' for {task}{nearest(model, [*known, *full])}; "
        f"accepted: {one_of(known)}, {'applications/NAME, ' if full else ''}"
        "or package.module:function"
    )


def describe(name: str, target: str) -> Builder:
    """Read a builder's signature and docstring from its source, without importing it."""
    module, _, function = target.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise OptionError(f"--model: module '{module}' of '{target}' was not found")
    try:
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise OptionError(f"--model: {spec.origin} line {error.lineno} is not Python") from None
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    if function not in functions:
        raise OptionError(
            f"--model: no function '{function}' in {module}{nearest(function, functions)}"
        )
    node = functions[function]
    # The first positional argument is the spec; a builder of the user's own may use plain arguments.
    plain, plain_defaults = node.args.args[1:], node.args.defaults
    missing: list[ast.expr | None] = [None] * max(0, len(plain) - len(plain_defaults))
    pairs = list(zip(plain, missing + plain_defaults[-len(plain) :] if plain else [], strict=True))
    pairs += list(zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True))
    parameters = [
        inspect.Parameter(
            arg.arg,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(target, arg.arg, default),
            annotation=_annotation(arg.annotation),
        )
        for arg, default in pairs
    ]
    return Builder(name, target, inspect.Signature(parameters), ast.get_docstring(node) or "")


def _default(target: str, name: str, node: ast.expr | None) -> Any:
    if node is None:
        return inspect.Parameter.empty
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise OptionError(
            f"--model: the default of '{name}' in '{target}' must be a plain number, string, list, "
            f"got {ast.unparse(node)}"
        ) from None


def _annotation(node: ast.expr | None) -> Any:
    if node is None:
        return Any
    try:
        return eval(
            compile(ast.Expression(node), "<annotation>", "eval"), {"__builtins__": {}}, ANNOTATIONS
        )
    except Exception:  # an annotation of the user's own module: not checkable without importing it
        return Any


def check_params(builder: Builder, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return every parameter of the builder with its value, the given ones checked.

    Raises:
        OptionError: an unknown name (with the nearest), or a value of another type.
    """
    known = builder.signature.parameters
    for name in params:
        if name not in known:
            raise OptionError(
                f"-p {name}: {builder.name} has no parameter '{name}'{nearest(name, known)}; "
                f"accepted: {one_of(known) or 'none'}"
            )
    full: dict[str, Any] = {}
    for name, parameter in known.items():
        if name in params:
            full[name] = _fit(f"-p {name}", params[name], parameter.annotation)
            if builder.target.startswith("dlkit."):
                _within(builder.name, name, full[name])
        elif parameter.default is inspect.Parameter.empty:
            raise OptionError(f"-p {name}: {builder.name} needs a value for '{name}'")
        else:
            default = parameter.default
            full[name] = list(default) if isinstance(default, tuple) else default
    return full


def _within(builder: str, name: str, value: Any) -> None:
    """Check the range of a number, or of each in a list; names mean the same in every builder."""
    for each in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(each, bool) or not isinstance(each, (int, float)):
            continue
        if name in SHARES:
            accepted, holds = "at least 0, below 1", 0 <= each < 1
        elif name == "noise":
            accepted, holds = f"0 to {MOST_NOISE:g}", 0 <= each <= MOST_NOISE
        elif name in FROM_ZERO or (builder, name) in FROM_ZERO:
            accepted, holds = "at least 0", 0 <= each < float("inf")
        elif isinstance(each, int):
            accepted, holds = "at least 1", each >= 1
        else:
            accepted, holds = "above 0", 0 < each < float("inf")
        if not holds:
            raise OptionError(f"-p {name}: got {each}; accepted: {accepted}")


def _fit(where: str, value: Any, kind: Any) -> Any:
    """Convert a JSON value to an annotated type, or say what is accepted."""
    if kind is Any:
        return value
    if isinstance(kind, LayerList):
        return kind.check(where, value)
    if get_origin(kind) is Literal:
        accepted = get_args(kind)
        if value in accepted and not isinstance(value, bool):
            return value
        hint = nearest(str(value), [str(a) for a in accepted])
        raise OptionError(f"{where}: got {value!r}{hint}; accepted: {one_of(map(str, accepted))}")
    if get_origin(kind) in (Union, types.UnionType):
        for each in get_args(kind):
            try:
                return value if value is None and each is type(None) else _fit(where, value, each)
            except OptionError:
                continue
    elif get_origin(kind) in (list, tuple) and isinstance(value, (list, tuple)):
        return get_origin(kind)(_fit(where, v, get_args(kind)[0]) for v in value)
    elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(kind, type) and isinstance(value, kind):
        if kind is bool or not isinstance(value, bool):
            return value
    raise OptionError(f"{where}: got {value!r}; accepted: {type_name(kind)}")


def type_name(kind: Any) -> str:
    """Name an annotation the way a person would write it."""
    if kind is Any:
        return "any"
    if isinstance(kind, LayerList):
        return kind.name
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(type_name(k) for k in get_args(kind))
    if kind is type(None):
        return "null"
    return getattr(kind, "__name__", str(kind)) if get_origin(kind) is None else str(kind)


def build(
    task: str, model: str, spec: Spec, params: Mapping[str, Any] | None = None
) -> keras.Model:
    """Build a registered model, or one named by import string, for the given data.

    Args:
        task: a key of `MODELS`.
        model: a name of the task, `name-variant`, or `package.module:function`.
        spec: shape, dtype and outputs of the data.
        params: builder parameters; the rest take their defaults.
    Raises:
        OptionError: unknown model, parameter or value.
        SpecError: the parameters do not fit the data.
    """
    builder, implied = find(task, model)
    net = builder.load()(spec, **check_params(builder, {**implied, **(params or {})}))
    if task == "image-synthesis":
        return draws(net, model)
    wanted = (None, spec.outputs) if task == "text-generation" else (spec.outputs,)
    if task == "anomaly-detection":
        wanted = detected(net, spec)
    if task == "forecasting":
        wanted = getattr(spec, "output_shape", wanted)
    if tuple(net.output_shape[1:]) != wanted:
        raise SpecError(
            f"{model} gives outputs of shape {tuple(net.output_shape[1:])}; the data needs {wanted}"
        )
    return net


def detected(net: keras.Model, spec: Spec) -> tuple[int, ...]:
    """Return the shape that a detector's answer has to have.

    It reconstructs its input, or, with a layer named `centre`, it says how far its code is from it.

    Raises:
        SpecError: there is no layer named `latent`.
    """
    names = {layer.name for layer in net.layers}
    if "latent" not in names:
        raise SpecError(
            f"{net.name} has no layer named 'latent', which a detector reads its code of"
        )
    return tuple(net.output_shape[1:]) if "centre" in names else tuple(spec.input_shape)


def draws(net: keras.Model, model: str) -> keras.Model:
    """Return a model if it makes pictures, from noise or from others.

    Raises:
        SpecError: it does neither.
    """
    if not hasattr(net, "translate") and not (
        hasattr(net, "generate") and hasattr(net, "noise_shape") and hasattr(net, "conditional")
    ):
        raise SpecError(
            f"{model} gives a {type(net).__name__} that makes no pictures; accepted: one with "
            "noise_shape, conditional and generate(noise, label), or with translate"
        )
    return net
