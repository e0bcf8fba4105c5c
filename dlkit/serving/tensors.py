"""JSON values to arrays and back, by the rules of TensorFlow Serving's `json_tensor.cc`.

Departures: values quoted in an error are cut to `QUOTED` characters; an integer that does not fit
uint8, int8 or int16 is refused (Serving wraps it around); floats are written in the fewest digits
that read back as the same number; the bad bytes of a string output that is not UTF-8 become
U+FFFD (Serving writes invalid JSON).
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import orjson

QUOTED = 80
MAX_RANK = 254  # TensorFlow's own limit; it also keeps the recursion here far below Python's
WORD = 2**64  # an integer token beyond 64 bits is a decimal number to Serving's parser

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64")
# Serving's names of the types that JSON can carry.
DTYPES: dict[str, np.dtype] = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "string": np.dtype(object),
    "bool": np.dtype(bool),
    **{name: np.dtype(name) for name in INTEGERS},
}
# The integers that a type holds exactly: more than the type's own range for no type.
EXACT = {
    "float": (1 - 2**24, 2**24 - 1),
    "double": (1 - 2**53, 2**53 - 1),
    **{name: (int(np.iinfo(name).min), int(np.iinfo(name).max)) for name in INTEGERS},
}
JSON_TYPES = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}


class TensorSpec(NamedTuple):
    """A signature's tensor: Serving's name of its type, and its shape, None where it varies."""

    dtype: str
    shape: tuple[int | None, ...] | None  # None: of unknown rank


class RequestError(Exception):
    """A request that is answered with the HTTP error `status` and a one-line message."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def flatten(value: Any, dtype: str, leaves: list[Any]) -> list[int]:
    """Append the leaves of nested lists to `leaves` in row-major order and return the shape.

    Args:
        value: a scalar, or lists of one size at each level.
        dtype: Serving's name of the leaves' type. An integer is never made of a decimal number
            or a boolean; a string is text or `{"b64": "..."}` and is appended as bytes.
        leaves: where the leaves go.
    Raises:
        RequestError: 400 for ragged lists or a leaf of another type, 501 for a `dtype` that JSON
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
    leaves.extend(items if _all_plain(items, dtype) else [_leaf(item, dtype) for item in items])
    return shape


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


def _all_plain(items: list[Any], dtype: str) -> bool:
    """Say whether all are numbers that `dtype` surely holds; False says "look at each"."""
    if not items:
        return True
    kinds = set(map(type, items))
    if dtype not in EXACT:
        return dtype == "bool" and kinds == {bool}
    if not kinds <= ({int, float} if DTYPES[dtype].kind == "f" else {int}):
        return False
    low, high = EXACT[dtype]
    # A NaN that comes first makes this false, one that comes later hides no other number.
    return low <= min(items) and max(items) <= high


def _leaf(value: Any, dtype: str) -> Any:
    """Return `value` as Python holds a number, boolean or bytes of `dtype`."""
    if dtype == "string":
        if isinstance(value, dict):
            return _from_base64(value)
        if isinstance(value, str):
            try:
                return value.encode()
            except UnicodeEncodeError:
                raise RequestError("JSON String holds half of a surrogate pair") from None
    elif dtype not in DTYPES:
        text = f"Conversion of JSON Value: {quoted(value)} to type: {dtype}"
        raise RequestError(text, status=501)
    elif dtype == "bool":
        if isinstance(value, bool):
            return value
    elif DTYPES[dtype].kind == "f":
        if type(value) in (int, float):
            return _decimal(value, dtype)
    elif type(value) is int and EXACT[dtype][0] <= value <= EXACT[dtype][1]:
        return value
    kind = str(value) if isinstance(value, bool) else JSON_TYPES.get(type(value), "Null")
    raise RequestError(f"JSON Value: {quoted(value)} Type: {kind} is not of expected type: {dtype}")


def _decimal(value: int | float, dtype: str) -> float:
    low, high = EXACT[dtype]
    exact = not (isinstance(value, int) and abs(value) < WORD) or low <= value <= high
    try:
        decimal = float(value)
    except OverflowError:
        decimal = math.inf
        exact = False
    if not exact or float(np.finfo(DTYPES[dtype]).max) < abs(decimal) < math.inf:
        raise RequestError(
            f"Cannot convert JSON value: {quoted(value)} to {dtype} without loss of precision."
        )
    return decimal


def _from_base64(value: dict[str, Any]) -> bytes:
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


def to_array(leaves: list[Any], dtype: str, shape: Iterable[int]) -> np.ndarray:
    """Return leaves that `flatten` has checked as an array (strings: of objects)."""
    return np.array(leaves, DTYPES.get(dtype, object)).reshape(tuple(shape))


def to_json(name: str, array: np.ndarray, *, by_row: bool) -> Any:
    """Return an output for `orjson.dumps(..., option=OPT_SERIALIZE_NUMPY)`.

    Args:
        name: the output's name; strings of one that ends in `_bytes` become `{"b64": "..."}`.
        array: of booleans, numbers, or objects that are bytes.
        by_row: return a list over the first axis.
    Raises:
        RequestError: 400 for a type that JSON cannot carry.
    """
    if array.dtype == object:
        binary = name.endswith("_bytes")
        texts = np.empty(array.shape, object)
        for index, value in np.ndenumerate(array):
            texts[index] = to_base64(value) if binary else value.decode("utf-8", "replace")
        return texts.tolist()
    if array.dtype.name in ("float16", "bfloat16"):
        array = array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise RequestError(f"Failed to write JSON value for tensor type: {array.dtype.name}")
    encode = _bare if array.dtype.kind == "f" and not np.isfinite(array).all() else _plain
    return [encode(row) for row in array] if by_row else encode(array)


def to_base64(value: bytes) -> dict[str, str]:
    """Return `{"b64": "..."}`."""
    return {"b64": base64.b64encode(value).decode()}


def _plain(array: np.ndarray | np.generic) -> Any:
    return np.ascontiguousarray(array) if array.ndim else array.reshape(1)[0]


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
