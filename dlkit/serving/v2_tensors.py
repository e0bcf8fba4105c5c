"""Tensors of the Open Inference Protocol V2: their types, in JSON and as binary data.

By KServe's `required_api.md` ("Tensor Data", "Tensor Data Types") and Triton's
`extension_binary_data.md`. Departures from Triton's `http_server.cc`: an integer that its type does
not hold is refused (Triton wraps it around); data are flat or nested as their shape says (Triton
takes any nesting of the right count); FP16 and BF16 are taken and given as JSON numbers too (Triton
wants binary data); a BOOL byte is 0 or 1. In JSON, BYTES are text, as the protocol has no other way.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import ml_dtypes
import numpy as np

from dlkit.serving.tensors import RequestError, encoded, quoted, to_json

# The protocol's name -> TensorFlow Serving's, which signatures use, and numpy's.
TYPES: dict[str, tuple[str, np.dtype]] = {
    "BOOL": ("bool", np.dtype(bool)),
    "UINT8": ("uint8", np.dtype(np.uint8)),
    "UINT16": ("uint16", np.dtype(np.uint16)),
    "UINT32": ("uint32", np.dtype(np.uint32)),
    "UINT64": ("uint64", np.dtype(np.uint64)),
    "INT8": ("int8", np.dtype(np.int8)),
    "INT16": ("int16", np.dtype(np.int16)),
    "INT32": ("int32", np.dtype(np.int32)),
    "INT64": ("int64", np.dtype(np.int64)),
    "FP16": ("half", np.dtype(np.float16)),
    "BF16": ("bfloat16", np.dtype(ml_dtypes.bfloat16)),
    "FP32": ("float", np.dtype(np.float32)),
    "FP64": ("double", np.dtype(np.float64)),
    "BYTES": ("string", np.dtype(object)),
}
FROM_SERVING = {serving: datatype for datatype, (serving, _) in TYPES.items()}
FROM_NUMPY = {dtype: datatype for datatype, (_, dtype) in TYPES.items()}
FLOATS = ("FP16", "BF16", "FP32", "FP64")
LENGTH = struct.Struct("<I")  # before each element of BYTES


def from_json(data: Any, datatype: str, shape: Sequence[int]) -> np.ndarray:
    """Convert an input's `data` to an array.

    Args:
        data: a list of all elements in row-major order, or lists nested as `shape` says.
        datatype: one of `TYPES`. Floats take any number in their range, rounded; integers no
            decimal number and no boolean; BYTES text, which becomes UTF-8.
        shape: sizes, none negative.
    Returns:
        An array of that type and shape (BYTES: of bytes objects).
    Raises:
        RequestError: 400 for data of another shape or type, or out of the type's range.
    """
    leaves = _leaves(data, shape)
    kinds = set(map(type, leaves))
    accepted = _accepted(datatype)
    if not kinds <= accepted:
        odd = next(leaf for leaf in leaves if type(leaf) not in accepted)
        raise RequestError(f"{quoted(odd)} is no {datatype}")
    dtype = TYPES[datatype][1]
    if datatype == "BYTES":
        return objects([encoded(leaf) for leaf in leaves]).reshape(tuple(shape))
    try:
        if datatype not in FLOATS:
            return np.array(leaves, dtype).reshape(tuple(shape))
        doubles = np.array(leaves, np.float64)
        with np.errstate(over="ignore"):
            array = doubles.astype(dtype)
    except OverflowError:
        raise RequestError(f"a number is out of the range of {datatype}") from None
    if (np.isinf(array) & np.isfinite(doubles)).any():
        raise RequestError(f"a number is out of the range of {datatype}")
    return array.reshape(tuple(shape))


def _accepted(datatype: str) -> set[type]:
    if datatype == "BOOL":
        return {bool}
    if datatype == "BYTES":
        return {str}
    return {int, float} if datatype in FLOATS else {int}


def _leaves(data: Any, shape: Sequence[int]) -> list[Any]:
    """Return the elements in row-major order, as many as `shape` says."""
    if not isinstance(data, list):
        raise RequestError(f"'data' is no array but {quoted(data)}")
    count = math.prod(shape)
    if list not in set(map(type, data)):
        if len(data) != count:
            raise RequestError(
                f"'data' holds {len(data)} elements; shape {_text(shape)} has {count}"
            )
        return data
    items: list[Any] = [data]
    for size in shape:  # a level at a time: no Python runs for each of a picture's pixels
        if set(map(type, items)) != {list} or set(map(len, items)) != {size}:
            break
        items = list(chain.from_iterable(items))
    if len(items) != count or list in set(map(type, items)):
        raise RequestError(f"'data' is neither flat nor nested as shape {_text(shape)} says")
    return items


def from_binary(data: memoryview, datatype: str, shape: Sequence[int]) -> np.ndarray:
    """Convert an input's binary data to an array.

    Args:
        data: exactly the tensor's: little-endian elements in row-major order; for BYTES each of
            four bytes that hold its length, and the bytes.
        datatype: one of `TYPES`.
        shape: sizes, none negative.
    Raises:
        RequestError: 400 for too few or too many bytes, and for a BOOL that is neither 0 nor 1.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return objects(_elements(data, count)).reshape(tuple(shape))
    dtype = TYPES[datatype][1].newbyteorder("<")
    if len(data) != count * dtype.itemsize:
        raise RequestError(
            f"{len(data)} bytes of binary data; {datatype} of shape {_text(shape)} has "
            f"{count * dtype.itemsize}"
        )
    if datatype == "BOOL":
        numbers = np.frombuffer(data, np.uint8)
        if count and numbers.max() > 1:
            raise RequestError(f"a byte of BOOL is {numbers.max()}; it must be 0 or 1")
        return numbers.view(bool).reshape(tuple(shape))
    array = np.frombuffer(data, dtype).reshape(tuple(shape))
    # The JSON before it may be of any length; runtimes want what they read in place to be aligned.
    return array if array.flags.aligned else array.copy()


def _elements(data: memoryview, count: int) -> list[bytes]:
    elements: list[bytes] = []
    offset = 0
    while offset < len(data):
        start = offset + LENGTH.size
        if start > len(data) or len(elements) == count:
            break
        offset = start + LENGTH.unpack_from(data, start - LENGTH.size)[0]
        if offset > len(data):
            break
        elements.append(bytes(data[start:offset]))
    if offset != len(data) or len(elements) != count:
        raise RequestError(
            f"{len(data)} bytes of binary data are not {count} elements of BYTES, each behind its "
            "length in 4 bytes"
        )
    return elements


def objects(elements: list[bytes]) -> np.ndarray:
    """Return a one-dimensional array of bytes objects."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def as_json(name: str, array: np.ndarray) -> Any:
    """Return an output's flat `data` for `orjson.dumps(..., option=OPT_SERIALIZE_NUMPY)`.

    NaN and Infinity are bare tokens, as Triton writes them. Bytes that are not UTF-8 become U+FFFD,
    but for an output that is binary by its name: TensorFlow Serving's `_bytes`.

    Raises:
        RequestError: 400 for such an output with bytes that are not UTF-8.
    """
    if array.dtype != object:
        return to_json(name, array.ravel(), by_row=False)
    errors = "strict" if name.endswith("_bytes") else "replace"
    try:
        return [value.decode(errors=errors) for value in array.ravel()]
    except UnicodeDecodeError:
        raise RequestError(
            f"Output '{name}' is not text; ask for it with the parameter binary_data"
        ) from None


def as_binary(array: np.ndarray) -> bytes:
    """Return an output's binary data."""
    if array.dtype == object:
        return b"".join(LENGTH.pack(len(value)) + value for value in array.ravel())
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
