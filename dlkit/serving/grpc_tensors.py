"""Arrays in the messages of TensorFlow Serving's gRPC interface (`tensor.proto`).

A request's values stand in `tensor_content` or in the field of their type, where the last stands
for all that follow (`tensor.cc`). An answer's stand in the field, as Serving's do
(`predict_util.cc`, `kAsProtoField`), for clients that read `float_val`. Departures: the type and
the shape are compared with the signature's before the graph runs; more values than the shape has
are refused, and so is an integer that its type does not hold.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dlkit.runtime import load_tensorflow
from dlkit.serving.tensors import RequestError, TensorSpec
from dlkit.serving.v2_tensors import TYPES, objects

MAX_RANK = 64  # numpy's
NUMPY = dict(TYPES.values())  # Serving's name of a type -> numpy's
SERVING = {dtype: name for name, dtype in NUMPY.items()}
HALVES = ("half", "bfloat16")  # whose field holds their bits
INTEGERS = ("int8", "int16", "int32", "uint8", "uint16")
FIELDS = {
    **dict.fromkeys(HALVES, "half_val"),
    **dict.fromkeys(INTEGERS, "int_val"),
    **{n: f"{n}_val" for n in ("float", "double", "string", "bool", "int64", "uint32", "uint64")},
}


def from_proto(name: str, proto: Any, spec: TensorSpec, most: int) -> np.ndarray:
    """Convert an input to an array.

    Args:
        name: the input's.
        proto: a TensorProto.
        spec: what the signature takes.
        most: bytes of the array: a message of few may stand for many.
    Returns:
        An array of the type and shape in `spec` (strings: of bytes objects).
    Raises:
        RequestError: 400 for another type or shape, and for values that do not fill it; 413 for an
            array of more than `most` bytes.
    """
    known = proto.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number
    given = (
        known[proto.dtype].name.removeprefix("DT_").lower() if proto.dtype in known else "unknown"
    )
    if given != spec.dtype:
        raise RequestError(f"Expects input '{name}' to be {spec.dtype} but {given} is provided")
    shape = [dim.size for dim in proto.tensor_shape.dim]
    _check_shape(name, shape, proto.tensor_shape.unknown_rank, spec)
    count = math.prod(shape)
    dtype = NUMPY.get(given, np.dtype(np.complex128))  # the largest of those not in the table
    if count * dtype.itemsize > most or math.prod(size or 1 for size in shape) > 2**31:
        raise RequestError(f"Input '{name}' has shape {shape}: more than {most} bytes", 413)
    try:
        if given not in FIELDS:
            return load_tensorflow().make_ndarray(proto)
        if proto.tensor_content:
            array = _from_content(proto.tensor_content, given)
            if len(array) != count:
                raise ValueError
        else:
            array = _from_field(getattr(proto, FIELDS[given]), given, count)
    except (ValueError, TypeError, OverflowError):
        text = f"Input '{name}' does not hold the values of a {given} tensor of shape {shape}"
        raise RequestError(text) from None
    return array.reshape(shape)


def _check_shape(name: str, shape: list[int], unknown: bool, spec: TensorSpec) -> None:
    wanted = spec.shape
    if unknown or len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise RequestError(f"Input '{name}' has no shape that is known: {shape[:MAX_RANK]}")
    if wanted is not None and (
        len(shape) != len(wanted)
        or any(want not in (None, size) for want, size in zip(wanted, shape, strict=True))
    ):
        expected = [-1 if size is None else size for size in wanted]
        raise RequestError(f"Input '{name}' has shape {shape} but expecting shape {expected}")


def _from_content(content: bytes, given: str) -> np.ndarray:
    """Raise ValueError for strings, of which `tensor_content` has no documented form."""
    if given == "bool":
        numbers = np.frombuffer(content, np.uint8)
        if numbers.max() > 1:
            raise ValueError
        return numbers.view(bool)
    return np.frombuffer(content, NUMPY[given].newbyteorder("<"))


def _from_field(field: Any, given: str, count: int) -> np.ndarray:
    """Raise ValueError for too many values, and for one that its type does not hold."""
    if len(field) > count:
        raise ValueError
    if given == "string":
        last = field[-1] if field else b""
        return objects([*field, *[last] * (count - len(field))])
    values = np.array(field, bool if given == "bool" else None)
    dtype = np.dtype(np.uint16) if given in HALVES else NUMPY[given]
    if len(values) == 0:
        return np.zeros(count, NUMPY[given])
    if values.dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            raise ValueError
    values = values.astype(dtype).view(NUMPY[given])
    return np.concatenate([values, np.full(count - len(values), values[-1])])


def to_proto(array: np.ndarray, proto: Any) -> None:
    """Fill an empty TensorProto with an output."""
    if array.dtype not in SERVING:
        proto.CopyFrom(load_tensorflow().make_tensor_proto(array))
        return
    name = SERVING[array.dtype]
    types = proto.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_name
    proto.dtype = types[f"DT_{name.upper()}"].number
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    values = array.ravel()
    if name in HALVES:
        values = values.view(np.uint16)
    getattr(proto, FIELDS[name]).extend(values.tolist())
