"""JSON values to arrays and back, by the rules of TensorFlow Serving's `json_tensor.cc`.

Departures: values quoted in an error stand on one line, cut to `QUOTED` characters; an integer that
does not fit uint8, int8 or int16 is refused (Serving wraps it around); half, bfloat16 and uint16
are written (Serving refuses them); floats are written in the fewest digits that read back as the
same number; the bad bytes of a string output that is not UTF-8 become U+FFFD (Serving writes
invalid JSON).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import orjson

QUOTED = 80
MAX_RANK = 64  # numpy's own limit; it also keeps the recursion here far below Python's

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64")
# Serving's names of the types that JSON can carry.
DTYPES: dict[str, np.dtype] = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "string": np.dtype(object),
    "bool": np.dtype(bool),
    **{name: np.dtype(name) for name in INTEGERS},
}
# What Python's parser makes of the JSON that each kind of type takes. No boolean is a number, no
# decimal number an integer.
TAKEN: dict[str, set[type]] = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool}}
JSON_TYPES = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}


class TensorSpec(NamedTuple):
    """A signature's tensor: Serving's name of its type, and its shape, None where it varies."""

    dtype: str
    shape: tuple[int | None, ...] | None  # None: of unknown rank


class RequestError(Exception):
    """A request that is answered with the HTTP error `status` and a one-line message.

    A message may quote what the client sent: line breaks in it become spaces.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(" ".join(message.splitlines()))
        self.status = status


def to_array(value: Any, dtype: str) -> np.ndarray:
    """Convert a JSON value.

    Args:
        value: a scalar, or lists of one size at each level.
        dtype: Serving's name of the scalars' type; see `scalars`.
    Raises:
        RequestError: 400 for ragged lists or a scalar of another type, 501 for a `dtype` that JSON
            cannot carry.
    """
    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
        if len(shape) > MAX_RANK:
            raise RequestError(f"Lists are nested deeper than {MAX_RANK} levels")
    items = [value]
    for size in shape:  # a level at a time: no Python runs for each of a picture's pixels
        if set(map(type, items)) != {list} or set(map(len, items)) != {size}:
            _refuse_ragged(value, 0, shape)
        items = list(chain.from_iterable(items))
    if list in set(map(type, items)):
        _refuse_ragged(value, 0, shape)
    return scalars(items, dtype).reshape(shape)


def _refuse_ragged(value: Any, level: int, shape: list[int]) -> None:
    """Raise RequestError for the first place at which `value` is not of `shape`."""
    rank = len(shape)
    if not isinstance(value, list):
        if level != rank:
            raise RequestError(
                f"JSON Value: {quoted(value)} found at incorrect level: {level + 1} in the JSON "
                f"DOM. Expected at level: {rank}"
            )
        return
    if level >= rank:
        raise RequestError(f"Encountered list at unexpected level: {level} expected < {rank}")
    if len(value) != shape[level]:
        raise RequestError(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: "
            f"{shape[level]}"
        )
    for item in value:
        _refuse_ragged(item, level + 1, shape)


def scalars(items: Sequence[Any], dtype: str) -> np.ndarray:
    """Convert JSON scalars to an array of one axis; strings to one of bytes objects.

    Args:
        items: Python's values of them. A string is text or `{"b64": "..."}`. A float takes any
            number: what it does not hold exactly is rounded, what lies beyond it is infinite.
        dtype: Serving's name of their type.
    Raises:
        RequestError: 400 for one of another type, 501 for a `dtype` that JSON cannot carry.
    """
    target = DTYPES.get(dtype)
    if target is None:
        first = quoted(items[0] if items else [])
        raise RequestError(f"Conversion of JSON Value: {first} to type: {dtype}", status=501)
    if dtype == "string":
        return np.array([_string(item) for item in items], object)
    taken = TAKEN[target.kind]
    if set(map(type, items)) <= taken:
        try:
            if dtype == "uint8":  # pixels: several times as fast as numpy's own way
                return np.frombuffer(bytearray(items), np.uint8)
            with np.errstate(over="ignore"):
                return np.array(items, target)
        except (ValueError, OverflowError):
            pass  # an integer out of range
    odd = next(item for item in items if type(item) not in taken or not _fits(item, target))
    raise _of_other_type(odd, dtype)


def _fits(value: int, target: np.dtype) -> bool:
    return target.kind not in "iu" or np.iinfo(target).min <= value <= np.iinfo(target).max


def _string(value: Any) -> bytes:
    if isinstance(value, str):
        return encoded(value)
    if isinstance(value, dict):
        return from_base64(value)
    raise _of_other_type(value, "string")


def _of_other_type(value: Any, dtype: str) -> RequestError:
    text = f"JSON Value: {quoted(value)} Type: {json_type(value)}"
    return RequestError(f"{text} is not of expected type: {dtype}")


def json_type(value: Any) -> str:
    """Return RapidJSON's name of a value's type."""
    return str(value) if isinstance(value, bool) else JSON_TYPES.get(type(value), "Null")


def encoded(text: str) -> bytes:
    """Return a JSON string as UTF-8.

    Raises:
        RequestError: 400, it holds half of a surrogate pair.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise RequestError("JSON String holds half of a surrogate pair") from None


def from_base64(value: Any) -> bytes:
    """Return what `{"b64": "..."}` holds.

    Raises:
        RequestError: 400 for another object, or text that is not base64.
    """
    if not is_base64(value):
        raise RequestError(f"JSON Value: {quoted(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split())  # as line-wrapping encoders write it; padding may lack
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise RequestError("Unable to base64 decode") from None


def is_base64(value: Any) -> bool:
    """Say whether `value` is `{"b64": "..."}`: a string, where other objects hold names."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def to_json(name: str, array: np.ndarray, *, by_row: bool, finite: bool = False) -> Any:
    """Return an output for `orjson.dumps(..., option=OPT_SERIALIZE_NUMPY)`.

    Args:
        name: the output's name; strings of one that ends in `_bytes` become `{"b64": "..."}`.
        array: of booleans, numbers, or objects that are bytes.
        by_row: return a list over the first axis.
        finite: NaN and infinities are not looked for; orjson makes null of them.
    Raises:
        RequestError: 400 for a type that JSON cannot carry.
    """
    if array.dtype == object:
        if name.endswith("_bytes"):
            texts: list[Any] = [to_base64(value) for value in array.flat]
        else:
            texts = [value.decode("utf-8", "replace") for value in array.flat]
        return texts if array.ndim == 1 else np.array(texts, object).reshape(array.shape).tolist()
    if array.dtype.name in ("float16", "bfloat16"):
        array = array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise RequestError(f"Failed to write JSON value for tensor type: {array.dtype.name}")
    if not finite and array.dtype.kind == "f" and not np.isfinite(array).all():
        return [_bare(row) for row in array] if by_row else _bare(array)
    if not array.ndim:
        return array[()]
    array = np.ascontiguousarray(array)
    return list(array) if by_row else array


def to_base64(value: bytes) -> dict[str, str]:
    """Return `{"b64": "..."}`."""
    return {"b64": base64.b64encode(value).decode()}


def _bare(array: np.ndarray | np.generic) -> orjson.Fragment:
    """Write NaN, Infinity and -Infinity as bare tokens, which orjson would make null."""
    # float32 goes through its text: 0.1 as itself and not as the nearest double of its value.
    floats = np.array([float(str(value)) for value in np.ravel(array)])
    return orjson.Fragment(json.dumps(floats.reshape(array.shape).tolist()))


def quoted(value: Any) -> str:
    """Return `value` as JSON on one line, cut to `QUOTED` characters."""
    text = ""
    try:
        # Cut long strings before they are encoded; the pieces of a container come one by one.
        for piece in json.JSONEncoder().iterencode(value[: QUOTED + 1] if _long(value) else value):
            text += piece[: QUOTED + 1]
            if len(text) > QUOTED:
                return text[:QUOTED] + "..."
    except RecursionError:
        return text[:QUOTED] + "..."
    return text


def _long(value: Any) -> bool:
    return isinstance(value, str) and len(value) > QUOTED
