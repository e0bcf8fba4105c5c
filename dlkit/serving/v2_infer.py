"""Inference requests and answers of the Open Inference Protocol V2, as pure functions.

By KServe's `required_api.md` ("Inference") and Triton's `extension_binary_data.md`,
`extension_parameters.md` and `extension_schedule_policy.md`. A model has several signatures here,
which the protocol does not know: the parameter `signature_name` chooses one. Departures from
Triton: outputs come in the order in which they were asked for, an input or output given twice is
refused, and so are classification and shared memory, which are not served.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from dlkit.errors import nearest, one_of, some_of
from dlkit.serving import v2_tensors
from dlkit.serving.documents import parse_document
from dlkit.serving.rest import DEFAULT_SIGNATURE
from dlkit.serving.tensors import QUOTED, RequestError, TensorSpec, encoded, quoted

MAX_RANK = 64  # numpy's
MAX_ELEMENTS = 2**31  # of a tensor, zeros in its shape left out: far above any limit on bytes
REFUSED = ("shared_memory_region", "classification")  # extensions that are not served
JSON_TYPES = {list: "an array", dict: "an object", str: "a string", bool: "true or false"}


@dataclass(frozen=True)
class Options:
    """What a request asks for beside its tensors.

    Attributes:
        id: to be given back; "" for none.
        signature: name of the signature.
        timeout: seconds that it may wait, None for the server's limit.
        binary: outputs not asked for by name are to be binary data.
        outputs: names of outputs in the order wanted, True for binary data; None: all of them.
    """

    id: str = ""
    signature: str = DEFAULT_SIGNATURE
    timeout: float | None = None
    binary: bool = False
    outputs: dict[str, bool] | None = None


def split(body: bytes, header: str | None) -> tuple[dict[str, Any] | None, memoryview]:
    """Part a body into its JSON and the binary data behind it.

    Args:
        body: as it was before compression.
        header: of Inference-Header-Content-Length: the bytes of JSON; None: all of them.
    Returns:
        The parsed JSON, None where it has no bytes ("Raw Binary Request"), and the rest.
    Raises:
        RequestError: 400 for a length that is none, and for malformed JSON.
    """
    size = len(body)
    if header is not None:
        size = int(header) if header.isascii() and header.isdigit() and len(header) < 19 else -1
        if not 0 <= size <= len(body):
            raise RequestError(
                f"Inference-Header-Content-Length is {quoted(header)}; it must be a number of "
                f"bytes up to the body's {len(body)}"
            )
        if size == 0:
            return None, memoryview(body)
    return parse_document(body[:size]), memoryview(body)[size:]


def read_options(document: Mapping[str, Any]) -> Options:
    """Read all of a request but its inputs.

    Raises:
        RequestError: 400 for a member or parameter of the wrong type, an output named twice, or one
            of an extension that is not served.
    """
    given = _parameters(document, "the request")
    timeout = given.get("timeout", 0)
    if type(timeout) is not int or not 0 <= timeout < 2**63:
        raise RequestError(
            f"Parameter 'timeout' is {quoted(timeout)}; it must be a number of microseconds"
        )
    outputs: dict[str, bool] = {}
    binary = _flag(given, "binary_data_output", False)
    for index, output in enumerate(_typed(document, "outputs", list, [])):
        name = _name(output, f"outputs[{index}]")
        if name in outputs:
            raise RequestError(f"Output {quoted(name)} is requested twice")
        parameters = _parameters(output, f"output {quoted(name)}")
        outputs[name] = _flag(parameters, "binary_data", binary)
    name = _typed(document, "id", str, "")
    encoded(name)
    return Options(
        id=name,
        signature=_typed(given, "signature_name", str, "") or DEFAULT_SIGNATURE,
        timeout=timeout / 1e6 or None,
        binary=binary,
        outputs=outputs or None,
    )


def wanted_outputs(options: Options, specs: Mapping[str, TensorSpec]) -> dict[str, bool]:
    """Return the outputs to give in order, True for binary data.

    Raises:
        RequestError: 400 for an output that the signature lacks, or of a type that the protocol
            lacks.
    """
    wanted = options.outputs or dict.fromkeys(specs, options.binary)
    for name in wanted:
        _known("output", name, specs)
        _datatype("Output", name, specs[name])
    return wanted


def decode_inputs(
    document: Mapping[str, Any], binary: memoryview, specs: Mapping[str, TensorSpec]
) -> dict[str, np.ndarray]:
    """Convert a request's inputs to arrays.

    Args:
        document: a parsed request.
        binary: the data of the inputs with the parameter `binary_data_size`, one behind the other.
        specs: what the signature takes, by input name.
    Returns:
        Arrays by input name, of the types and shapes in `specs`.
    Raises:
        RequestError: 400 for what the signature does not take, and for binary data that are not
            exactly those of the inputs.
    """
    if not isinstance(document.get("inputs"), list):
        raise RequestError("The request needs 'inputs', an array of objects")
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for index, tensor in enumerate(document["inputs"]):
        name = _name(tensor, f"inputs[{index}]")
        _known("input", name, specs)
        if name in arrays:
            raise RequestError(f"Input '{name}' is given twice")
        shape = _check(name, tensor, specs[name])
        size = _binary_size(name, tensor)
        try:
            if size is None:
                arrays[name] = v2_tensors.from_json(tensor["data"], tensor["datatype"], shape)
            elif start + size > len(binary):
                raise RequestError(
                    f"binary_data_size is {size}, but {len(binary) - start} bytes are left"
                )
            else:
                data = binary[start : start + size]
                arrays[name] = v2_tensors.from_binary(data, tensor["datatype"], shape)
                start += size
        except RequestError as error:
            raise RequestError(f"Input '{name}': {error}", error.status) from None
    missing = [name for name in specs if name not in arrays]
    if missing:
        raise RequestError(f"Missing input '{missing[0]}'; the inputs are {_names(specs)}")
    if start < len(binary):
        raise RequestError(f"{len(binary) - start} bytes of binary data belong to no input")
    return arrays


def decode_raw(binary: memoryview, specs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    """Convert a body that is nothing but one tensor's data ("Raw Binary Request").

    The dimension that varies is as long as the data make it; where another one than the rows
    varies, there is one row. BYTES are one element, without its length.

    Raises:
        RequestError: 400 for a signature of several inputs or with more that varies, and for data
            that fill no rows.
    """
    if len(specs) != 1:
        raise RequestError(
            f"A body without JSON is for a model of one input; the inputs are {_names(specs)}"
        )
    name, spec = next(iter(specs.items()))
    datatype = _datatype("Input", name, spec)
    shape = list(spec.shape or ())
    if datatype == "BYTES":
        if spec.shape is None or any(size not in (None, 1) for size in shape):
            raise RequestError(
                f"Input '{name}' takes more than one element: name its shape in JSON"
            )
        return {name: v2_tensors.objects([bytes(binary)]).reshape([1] * len(shape))}
    varies = [index for index, size in enumerate(shape) if size is None]
    if len(varies) > 1 and varies[0] == 0:
        shape[varies.pop(0)] = 1
    if spec.shape is None or len(varies) > 1:
        raise RequestError(f"The shape of input '{name}' cannot be told: name it in JSON")
    each = math.prod(size or 1 for size in shape) * v2_tensors.TYPES[datatype][1].itemsize
    sizes = [len(binary) // each if size is None else size for size in shape]
    try:
        return {name: v2_tensors.from_binary(binary, datatype, sizes)}
    except RequestError as error:
        raise RequestError(f"Input '{name}': {error}") from None


def encode_answer(
    answer: dict[str, Any], arrays: Mapping[str, np.ndarray], wanted: Mapping[str, bool]
) -> tuple[bytes, int | None]:
    """Write the body of an answer.

    Args:
        answer: its members but `outputs`.
        arrays: by output name.
        wanted: see `wanted_outputs`.
    Returns:
        The body, and the bytes of its JSON where binary data follow.
    Raises:
        RequestError: 400 for a binary output that was wanted as text.
    """
    outputs: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for name, as_binary in wanted.items():
        array = arrays[name]
        output: dict[str, Any] = {"name": name, "datatype": v2_tensors.FROM_NUMPY[array.dtype]}
        output["shape"] = array.shape
        if as_binary:
            binary.append(v2_tensors.as_binary(array))
            output["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            output["data"] = v2_tensors.as_json(name, array)
        outputs.append(output)
    body = orjson.dumps(answer | {"outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([body, *binary]), len(body)) if binary else (body, None)


def describe(specs: Mapping[str, TensorSpec]) -> list[dict[str, Any]]:
    """Return the metadata of tensors; a type that the protocol lacks has TensorFlow's name."""
    return [
        {
            "name": name,
            "datatype": v2_tensors.FROM_SERVING.get(spec.dtype, spec.dtype.upper()),
            "shape": _shape(spec),
        }
        for name, spec in specs.items()
    ]


def _shape(spec: TensorSpec) -> list[int]:
    # The protocol has no word for an unknown rank.
    return [
        -1 if size is None else size for size in ((None,) if spec.shape is None else spec.shape)
    ]


def _check(name: str, tensor: Mapping[str, Any], spec: TensorSpec) -> list[int]:
    """Return an input's shape, which fits the signature as its type does."""
    datatype = _typed(tensor, "datatype", str, "")
    if datatype not in v2_tensors.TYPES:
        known = one_of(v2_tensors.TYPES)
        raise RequestError(f"Input '{name}' has datatype {quoted(datatype)}; known are {known}")
    expected = _datatype("Input", name, spec)
    if datatype != expected:
        raise RequestError(f"Input '{name}' has datatype {datatype} but the model takes {expected}")
    shape = tensor.get("shape")
    if not isinstance(shape, list) or any(type(size) is not int or size < 0 for size in shape):
        raise RequestError(
            f"Input '{name}' has shape {quoted(shape)}; it must be an array of sizes"
        )
    if spec.shape is not None and (
        len(shape) != len(spec.shape)
        or any(want not in (None, size) for want, size in zip(spec.shape, shape, strict=True))
    ):
        raise RequestError(
            f"Input '{name}' has shape {quoted(shape)} but the model takes {_shape(spec)}"
        )
    if len(shape) > MAX_RANK or math.prod(size or 1 for size in shape) > MAX_ELEMENTS:
        raise RequestError(f"Input '{name}' has shape {quoted(shape)}, which is too large")
    return shape


def _binary_size(name: str, tensor: Mapping[str, Any]) -> int | None:
    """Return the bytes of an input's binary data, None where it has `data`."""
    size = _parameters(tensor, f"input '{name}'").get("binary_data_size")
    if (size is None) == ("data" not in tensor):
        raise RequestError(
            f"Input '{name}' must have either 'data' or the parameter 'binary_data_size'"
        )
    if size is not None and (type(size) is not int or size < 0):
        raise RequestError(f"Input '{name}' has binary_data_size {quoted(size)}; it counts bytes")
    return size


def _datatype(kind: str, name: str, spec: TensorSpec) -> str:
    if spec.dtype not in v2_tensors.FROM_SERVING:
        raise RequestError(f"{kind} '{name}' is of type {spec.dtype}, which the protocol lacks")
    return v2_tensors.FROM_SERVING[spec.dtype]


def _known(kind: str, name: str, specs: Mapping[str, TensorSpec]) -> None:
    if name not in specs:
        hint = nearest(name[:QUOTED], specs)
        known = _names(specs)
        raise RequestError(f"There is no {kind} {quoted(name)}{hint}; the {kind}s are {known}")


def _names(specs: Mapping[str, TensorSpec]) -> str:
    return some_of(sorted(specs), 10)


def _name(tensor: Any, where: str) -> str:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise RequestError(f"{where} must be an object with a 'name'")
    return tensor["name"]


def _parameters(holder: Mapping[str, Any], where: str) -> dict[str, Any]:
    parameters = _typed(holder, "parameters", dict, {})
    for key, value in parameters.items():
        if key in REFUSED:
            raise RequestError(f"Parameter '{key}' of {where} is not served here")
        if not isinstance(value, str | int | float):  # a bool is an int
            raise RequestError(
                f"Parameter {quoted(key)} of {where} must be a string, a number or a boolean"
            )
    return parameters


def _typed(holder: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = holder.get(key, default)
    if not isinstance(value, kind):
        raise RequestError(f"'{key}' is {quoted(value)}; it must be {JSON_TYPES[kind]}")
    return value


def _flag(parameters: Mapping[str, Any], key: str, default: bool) -> bool:
    return _typed(parameters, key, bool, default)
