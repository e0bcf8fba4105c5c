"""TensorFlow Serving's REST V1: requests to arrays and outputs to answers, as pure functions.

Wording follows `json_tensor.cc` of TensorFlow Serving, so that a client of the one can talk to the
other. Departures, beside those in `tensors`: answers hold no white space, and shapes are compared
with the signature's before the graph runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import orjson

from dlkit.serving.documents import parse_document
from dlkit.serving.numbers import Numbers, parse_numbers
from dlkit.serving.tensors import (
    QUOTED,
    RequestError,
    TensorSpec,
    is_base64,
    quoted,
    to_array,
    to_json,
)

DEFAULT_SIGNATURE = "serving_default"
STATUS_NAMES = {400: "INVALID_ARGUMENT", 501: "UNIMPLEMENTED"}


def parse_predict(body: bytes) -> dict[str, Any]:
    """Parse the body of a request to predict for `signature_name` and `decode_inputs`.

    Raises:
        RequestError: 400 if it is no JSON object.
    """
    return parse_numbers(body) or parse_document(body)


def signature_name(document: Mapping[str, Any]) -> str:
    """Return the signature that a request names, "" where it names none.

    Raises:
        RequestError: 400 if the name is no string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise RequestError(
            f"JSON Value: {quoted(document)} not formatted correctly. 'signature_name' key must "
            "be a string value."
        )
    return name


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
        elif not isinstance(instances, list | Numbers):
            reason = "Expecting 'instances' to be an list/array"
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


def _from_instances(instances: Any, specs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    # Rows of one shape are columns by another form; one by one, an error finds its row.
    if isinstance(instances, Numbers):
        with contextlib.suppress(RequestError):
            return _from_columns(instances, specs)
        instances = instances.nested()
    named = _is_named(instances[0])
    if not named and len(specs) > 1:
        raise RequestError(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    with contextlib.suppress(RequestError):
        if not named:
            return _from_columns(instances, specs)
        if all(_is_named(row) and row.keys() == specs.keys() for row in instances):
            return {
                name: to_array([row[name] for row in instances], spec.dtype)
                for name, spec in specs.items()
            }
    return _row_by_row(instances, specs, named)


def _row_by_row(
    instances: list[Any], specs: Mapping[str, TensorSpec], named: bool
) -> dict[str, np.ndarray]:
    only = next(iter(specs))
    rows: dict[str, list[np.ndarray]] = {name: [] for name in specs}
    for index, instance in enumerate(instances):
        if _is_named(instance) != named:
            expected, got = ("object", "list") if named else ("value/list", "object")
            raise RequestError(f"Expecting {expected} but got {got} at item {index} of input list")
        for name, value in (instance if named else {only: instance}).items():
            try:
                if name not in specs:
                    raise RequestError(f"JSON object: does not have named input: {name[:QUOTED]}")
                array = to_array(value, specs[name].dtype)
                first = rows[name][0] if rows[name] else array
                if array.size != first.size:
                    size = f"Expecting tensor size: {first.size} but got: {array.size}"
                    raise RequestError(size)
                if array.shape != first.shape:
                    shapes = f"{_text(first.shape)} but got: {_text(array.shape)}"
                    raise RequestError(f"Expecting shape {shapes}")
                rows[name].append(array)
            except RequestError as error:
                key = f" key: {name[:QUOTED]}" if named else ""
                raise RequestError(
                    f"Failed to process element: {index}{key} of 'instances' list. Error: "
                    f"{STATUS_NAMES[error.status]}: {error}"
                ) from None
        if named and instance.keys() != specs.keys():
            raise RequestError(
                f"Failed to process element: {index} of 'instances' list. JSON object: "
                f"{quoted(instance)} keys must be equal to: {','.join(sorted(specs))}"
            )
    return {name: np.stack(arrays) for name, arrays in rows.items()}


def _from_columns(columns: Any, specs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    if isinstance(columns, Numbers):
        if len(specs) == 1:
            [(name, spec)] = specs.items()
            return {name: columns.array(spec.dtype)}
        columns = columns.nested()
    if not _is_named(columns):
        if len(specs) > 1:
            raise RequestError(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        columns = {next(iter(specs)): columns}
    for name in specs:
        if name not in columns:
            raise RequestError(f"Missing named input: {name} in 'inputs' object.")
    return {name: to_array(columns[name], spec.dtype) for name, spec in specs.items()}


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
        RequestError: 400 if there are none, if they differ in their number of rows, or for a type
            that JSON cannot carry.
    """
    if not outputs:
        raise RequestError("Cannot convert empty tensor map to JSON")
    rows = None
    for name, array in outputs.items() if row_format else ():
        if array.ndim == 0:
            raise RequestError(f"Tensor name: {name} has no shape information")
        rows = len(array) if rows is None else rows
        if len(array) != rows:
            raise RequestError(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {rows}"
            )
    body = _dump(outputs, row_format, finite=True)
    # No output is null but a number that is not finite; the word may also stand in a string.
    return _dump(outputs, row_format, finite=False) if b"null" in body else body


def _dump(outputs: Mapping[str, np.ndarray], row_format: bool, *, finite: bool) -> bytes:
    encoded = {
        name: to_json(name, array, by_row=row_format, finite=finite)
        for name, array in outputs.items()
    }
    if len(encoded) == 1:
        answer = next(iter(encoded.values()))
    elif row_format:
        columns = zip(*encoded.values(), strict=True)
        answer = [dict(zip(encoded, row, strict=True)) for row in columns]
    else:
        answer = encoded
    key = "predictions" if row_format else "outputs"
    return orjson.dumps({key: answer}, option=orjson.OPT_SERIALIZE_NUMPY)
