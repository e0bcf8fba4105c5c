"""TensorFlow Serving's REST V1: requests to arrays and outputs to answers, as pure functions.

Wording follows `json_tensor.cc` and `http_rest_api_handler.cc` of TensorFlow Serving, so that a
client of the one can talk to the other. Departures, beside those in `tensors`: a name in `inputs`
that the signature lacks is refused (Serving ignores it), and shapes are compared with the
signature's before the graph runs.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import orjson

from dlkit.serving.tensors import (
    QUOTED,
    RequestError,
    TensorSpec,
    flatten,
    is_base64,
    quoted,
    to_array,
    to_json,
)

DEFAULT_SIGNATURE = "serving_default"

PARSE_ERRORS = {  # what Python's parser says -> what Serving's says
    "Expecting value": "Invalid value.",
    "Extra data": "The document root must not be followed by other values.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
}


def parse_document(body: bytes) -> dict[str, Any]:
    """Parse a request's body; NaN, Infinity and -Infinity are numbers.

    Raises:
        RequestError: 400 if the body is empty, malformed, nested too deep or not an object.
    """
    if not body:
        raise RequestError("JSON Parse error: The document is empty")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        # orjson is strict; the slower parser takes NaN and knows the offset of an error.
        document = _parse_leniently(body)
    if not isinstance(document, dict):
        raise RequestError(f"JSON Value: {quoted(document)} Is not object")
    return document


def _parse_leniently(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        reason = f"{PARSE_ERRORS.get(error.msg, error.msg + '.')} at offset: {error.pos}"
    except UnicodeDecodeError as error:
        reason = f"Invalid encoding in string. at offset: {error.start}"
    except (RecursionError, ValueError):
        reason = "Nested too deep, or a number of too many digits."
    raise RequestError(f"JSON Parse error: {reason}")


def signature_name(document: Mapping[str, Any]) -> str:
    """Return the signature that a request names: `serving_default` where it names none.

    Raises:
        RequestError: 400 if the name is no string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise RequestError(
            f"JSON Value: {quoted(document)} not formatted correctly. 'signature_name' key must "
            "be a string value."
        )
    return name or DEFAULT_SIGNATURE


def decode_inputs(
    document: Mapping[str, Any], specs: Mapping[str, TensorSpec]
) -> tuple[dict[str, np.ndarray], bool]:
    """Convert `instances` (row format) or `inputs` (column format) to arrays.

    Args:
        document: a parsed request.
        specs: what the signature takes, by input name; not empty.
    Returns:
        Arrays by input name, of the types and shapes in `specs` (strings: arrays of bytes
        objects), and whether the request is in row format.
    Raises:
        RequestError: 400 for what the signature does not take; 501 for an input of a type that
            JSON cannot carry.
    """
    if "instances" in document:
        instances = document["instances"]
        reason = None
        if "inputs" in document:
            keys = "'inputs' or 'instances' keys"
            reason = f"Not formatted correctly expecting only one of {keys} to exist"
        elif not isinstance(instances, list):
            reason = "Excepting 'instances' to be an list/array"  # the spelling is Serving's
        elif not instances:
            reason = "No values in 'instances' array"
        if reason is not None:
            raise RequestError(f"JSON Value: {quoted(document)} {reason}")
        arrays = _from_instances(instances, specs)
    elif "inputs" in document:
        arrays = _from_columns(document["inputs"], specs)
    else:
        raise RequestError("Missing 'inputs' or 'instances' key")
    for name, array in arrays.items():
        _check_shape(name, array.shape, specs[name].shape)
    return arrays, "instances" in document


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _from_instances(instances: list[Any], specs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    named = _is_named(instances[0])
    if not named and len(specs) > 1:
        raise RequestError(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    only = next(iter(specs))
    if not named:
        # Values of one shape are a column by another name; one by one, an error finds its element.
        with contextlib.suppress(RequestError):
            return _from_columns(instances, specs)
    leaves: dict[str, list[Any]] = {name: [] for name in specs}  # of all instances, in turn
    shapes: dict[str, list[int]] = {}
    for index, instance in enumerate(instances):
        if _is_named(instance) != named:
            expected, got = ("object", "list") if named else ("value/list", "object")
            raise RequestError(f"Expecting {expected} but got {got} at item {index} of input list")
        for name, value in (instance if named else {only: instance}).items():
            try:
                if name not in specs:
                    raise RequestError(f"JSON object: does not have named input: {name[:QUOTED]}")
                before = len(leaves[name])
                shape = flatten(value, specs[name].dtype, leaves[name])
                first = shapes.setdefault(name, shape)
                size, got = int(np.prod(first)), len(leaves[name]) - before
                if got != size:
                    raise RequestError(f"Expecting tensor size: {size} but got: {got}")
                if shape != first:
                    raise RequestError(f"Expecting shape {_text(first)} but got: {_text(shape)}")
            except RequestError as error:
                key = f" key: {name[:QUOTED]}" if named else ""
                raise RequestError(
                    f"Failed to process element: {index}{key} of 'instances' list. Error: "
                    f"INVALID_ARGUMENT: {error}",
                    error.status,
                ) from None
        if named and instance.keys() != specs.keys():
            raise RequestError(
                f"Failed to process element: {index} of 'instances' list. JSON object: "
                f"{quoted(instance)} keys must be equal to: {','.join(sorted(specs))}"
            )
    return {
        name: to_array(leaves[name], specs[name].dtype, [len(instances), *shape])
        for name, shape in shapes.items()
    }


def _from_columns(columns: Any, specs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    if not _is_named(columns):
        if len(specs) > 1:
            raise RequestError(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        columns = {next(iter(specs)): columns}
    arrays = {}
    for name, spec in specs.items():
        if name not in columns:
            raise RequestError(f"Missing named input: {name} in 'inputs' object.")
        leaves: list[Any] = []
        shape = flatten(columns[name], spec.dtype, leaves)
        arrays[name] = to_array(leaves, spec.dtype, shape)
    for name in columns:
        if name not in specs:
            raise RequestError(f"JSON object: does not have named input: {name[:QUOTED]}")
    return arrays


def _check_shape(name: str, shape: tuple[int, ...], wanted: tuple[int | None, ...] | None) -> None:
    # Left to the graph, a wrong shape surfaces as a reshape somewhere inside, or not at all.
    if wanted is None or (
        len(shape) == len(wanted)
        and all(want in (None, got) for want, got in zip(wanted, shape, strict=True))
    ):
        return
    expected = _text(-1 if want is None else want for want in wanted)
    raise RequestError(f"Input {name} has shape {_text(shape)} but expecting shape {expected}")


def _text(shape: Iterable[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def encode_outputs(outputs: Mapping[str, np.ndarray], *, row_format: bool) -> bytes:
    """Write a signature's outputs as the body of an answer.

    Args:
        outputs: arrays by output name; strings are arrays of bytes objects.
        row_format: `{"predictions": [...]}` with an entry for each row, else `{"outputs": ...}`.
            A single output stands without its name.
    Raises:
        RequestError: 400 if outputs differ in their number of rows, or for a type that JSON
            cannot carry.
    """
    rows = None
    for name, array in outputs.items() if row_format else ():
        if array.ndim == 0:
            raise RequestError(f"Tensor name: {name} has no shape information")
        rows = len(array) if rows is None else rows
        if len(array) != rows:
            raise RequestError(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {rows}"
            )
    encoded = {name: to_json(name, array, by_row=row_format) for name, array in outputs.items()}
    if len(encoded) == 1:
        answer = next(iter(encoded.values()))
    elif row_format:
        columns = zip(*encoded.values(), strict=True)
        answer = [dict(zip(encoded, row, strict=True)) for row in columns]
    else:
        answer = encoded
    key = "predictions" if row_format else "outputs"
    return orjson.dumps({key: answer}, option=orjson.OPT_SERIALIZE_NUMPY)
