"""What a request to `/v1/completions` may ask for: OpenAI's fields, checked, in OpenAI's words.

As there, a field that is not known is refused. `best_of` (other than `n`), `suffix`, `logit_bias`,
`frequency_penalty`, `presence_penalty`, prompts of tokens, and `logprobs` beside `echo` are known
and refused unless they say what is done anyway; `user` is ignored. `top_k` and `min_p` are ours.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from dlkit.errors import nearest
from dlkit.serving.streaming import Sampled
from dlkit.serving.tensors import QUOTED, RequestError
from dlkit.serving.text_limits import MOST_TEXTS, MOST_TOKENS

MOST_STOPS = 4
MOST_LOGPROBS = 5
INT32 = 2**31 - 1
# What is done anyway, by the fields that can ask for nothing else.
ONLY: dict[str, tuple[Any, ...]] = {
    "suffix": ("",),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
}
TAKEN = (
    "model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "n", "best_of",
    "seed", "stop", "stream", "stream_options", "echo", "logprobs", "user",
)  # fmt: skip
JSON_NAMES = {
    str: "string", int: "integer", float: "decimal", bool: "boolean", list: "array",
    dict: "object", type(None): "null",
}  # fmt: skip


class FieldError(RequestError):
    """A request whose field `param` is refused; `code` names the reason for programs."""

    def __init__(self, message: str, param: str | None, code: str | None, status: int = 400):
        super().__init__(message, status)
        self.param, self.code = param, code


@dataclass(frozen=True)
class Wish:
    """What a request asks for.

    Attributes:
        model: its name.
        prompts: at least one.
        n: texts a prompt, of seeds one after another.
        max_tokens: of each text, at least 0.
        how: the draw of each prompt's first text.
        stops: see `Unfolding`.
        stream: pieces as they come.
        include_usage: a stream ends with the numbers of tokens.
        echo: texts begin with their prompt.
        logprobs: log-probabilities, and of how many of the likeliest tokens beside the one drawn;
            None for none.
    """

    model: str
    prompts: tuple[str, ...]
    n: int
    max_tokens: int
    how: Sampled
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    echo: bool
    logprobs: int | None


def parse(body: bytes) -> Wish:
    """Read a request's body.

    Raises:
        FieldError: 400 for what is not accepted.
    """
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise FieldError(f"The body is not JSON: {error}", None, None) from None
    if not isinstance(given, dict):
        raise FieldError(f"The body is not a JSON object but {_kind(given)}", None, None)
    for name in given:
        if name not in TAKEN and name not in ONLY:
            name = name[:QUOTED]
            hint = nearest(name, [*TAKEN, *ONLY])
            message = f"Unrecognized request argument supplied: {name}{hint}"
            raise FieldError(message, name, "unknown_parameter")
    given = {name: value for name, value in given.items() if value is not None}
    for name, accepted in ONLY.items():
        if name in given and given[name] not in accepted:
            raise _unsupported(name, f"accepted: {accepted[0]!r} or null")
    if "model" not in given:
        raise FieldError("you must provide a model parameter", "model", None)
    n = _integer(given, "n", 1, 1, MOST_TEXTS)
    if _integer(given, "best_of", n, 1, MOST_TEXTS) not in (1, n):
        raise _unsupported("best_of", "accepted: 1 or the value of 'n'")
    prompts = _strings(given, "prompt", ("",))
    if len(prompts) * n > MOST_TEXTS:
        raise FieldError(
            f"{len(prompts)} prompts of n {n}: at most {MOST_TEXTS} texts a request are written",
            "n",
            "integer_above_max_value",
        )
    stops = _strings(given, "stop", ())
    if len(stops) > MOST_STOPS or "" in stops:
        raise FieldError(
            f"Invalid 'stop': expected up to {MOST_STOPS} strings, none of them empty", "stop", None
        )
    stream, echo = (_typed(given, name, bool, False) for name in ("stream", "echo"))
    logprobs = _integer(given, "logprobs", -1, 0, MOST_LOGPROBS)
    if echo and logprobs >= 0:
        raise _unsupported("logprobs", "of a prompt ('echo') none are given")
    return Wish(
        model=_typed(given, "model", str, ""),
        prompts=prompts,
        n=n,
        max_tokens=_integer(given, "max_tokens", 16, 0, MOST_TOKENS),
        how=_sampled(given),
        stops=stops,
        stream=stream,
        include_usage=_include_usage(given, stream),
        echo=echo,
        logprobs=logprobs if logprobs >= 0 else None,
    )


def _sampled(given: Mapping[str, Any]) -> Sampled:
    temperature = _decimal(given, "temperature", 1.0, 2)
    # Any whole number seeds; those of `generate` seed as there.
    seed = _integer(given, "seed", secrets.randbelow(INT32), -(2**63), 2**63 - 1)
    top_k = _integer(given, "top_k", 0, 0, INT32)
    if temperature == 0.0:
        temperature, top_k = 1.0, 1
    return Sampled(
        seed=seed % (INT32 + 1),
        temperature=temperature,
        top_k=top_k,
        top_p=_decimal(given, "top_p", 1.0, 1),
        min_p=_decimal(given, "min_p", 0.0, 1),
    )


def _include_usage(given: Mapping[str, Any], stream: bool) -> bool:
    options = _typed(given, "stream_options", dict, {})
    if options and not stream:
        raise FieldError("'stream_options' is accepted with 'stream' alone", "stream_options", None)
    for name in options:
        if name != "include_usage":
            raise FieldError(
                f"Unrecognized request argument supplied: stream_options.{name[:QUOTED]}",
                "stream_options",
                "unknown_parameter",
            )
    return _typed(options, "include_usage", bool, False)


def _strings(given: Mapping[str, Any], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = given.get(name, default)
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
        got = _kind(value) if not isinstance(value, list) else "an array of something else"
        raise _wrong_type(name, "a string or an array of strings", got)
    if name == "prompt" and not values:
        raise FieldError("Invalid 'prompt': the array is empty", "prompt", "empty_array")
    return tuple(values)


def _typed(given: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = given.get(name, default)
    if type(value) is not kind:
        raise _wrong_type(name, _named(kind), _kind(value))
    return value


def _integer(given: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    if name not in given:
        return default
    value = given[name]
    if type(value) is not int:
        raise _wrong_type(name, "an integer", _kind(value))
    return _within(name, value, low, high, "integer")


def _decimal(given: Mapping[str, Any], name: str, default: float, high: float) -> float:
    value = given.get(name, default)
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _wrong_type(name, "a decimal", _kind(value))
    return float(_within(name, value, 0, high, "decimal"))


def _within(name: str, value: Any, low: Any, high: Any, kind: str) -> Any:
    if low <= value <= high:
        return value
    side, bound, sign = ("above", high, "<=") if value > high else ("below", low, ">=")
    limit = "maximum" if side == "above" else "minimum"
    raise FieldError(
        f"Invalid '{name}': {kind} {side} {limit} value. Expected a value {sign} {bound}, but got "
        f"{value} instead.",
        name,
        f"{kind}_{side}_{limit[:3]}_value",
    )


def _wrong_type(name: str, wanted: str, got: str) -> FieldError:
    message = f"Invalid type for '{name}': expected {wanted}, but got {got} instead."
    return FieldError(message, name, "invalid_type")


def _unsupported(name: str, more: str) -> FieldError:
    return FieldError(
        f"Unsupported parameter: '{name}' is not supported here; {more}",
        name,
        "unsupported_parameter",
    )


def _kind(value: Any) -> str:
    return _named(type(value))


def _named(kind: type) -> str:
    name = JSON_NAMES[kind]
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
