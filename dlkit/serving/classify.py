"""TensorFlow Serving's `:classify` and `:regress`: examples in JSON, one answer for each.

Words and order of the checks are those of Serving's `json_tensor.cc`, `classifier.cc` and
`regressor.cc`. As in Serving by default, any signature will do that takes serialized examples as
`inputs` and gives `classes` or `scores`, or `outputs`; the name of its method is not looked at.
Departure: where Serving dumps a signature, its names stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson

from dlkit.runtime import load_tensorflow
from dlkit.serving.documents import parse_document
from dlkit.serving.model import Signature
from dlkit.serving.rest import signature_name
from dlkit.serving.tensors import (
    RequestError,
    encoded,
    from_base64,
    is_base64,
    json_type,
    quoted,
    to_json,
)

INPUT = "inputs"
CLASSES, SCORES, VALUES = "classes", "scores", "outputs"
# The lists of a tf.train.Feature by what Python's parser makes of JSON.
KINDS = {bool: "int64", int: "int64", float: "float", str: "bytes", dict: "bytes"}
# numpy's names of types -> TensorFlow's.
TYPE_NAMES = {"float32": "FLOAT", "float64": "DOUBLE", "float16": "HALF", "object": "STRING"}

Example = dict[str, tuple[str, list[Any]]]  # feature name -> kind ("" for none) and values


class Asked(NamedTuple):
    """A request: the signature it names, "" for none, its examples and what they share."""

    signature: str
    examples: list[Example]
    context: Example


def read(body: bytes) -> Asked:
    """Parse a request's body.

    Raises:
        RequestError: 400 for what is no list of examples.
    """
    document = parse_document(body)
    name = signature_name(document)
    context = _example(document["context"]) if "context" in document else {}
    if "examples" not in document:
        reason = "When method is classify, key 'examples' is expected and was not found"
        raise RequestError(f"JSON Value: {quoted(document)} {reason}")
    examples = document["examples"]
    if not isinstance(examples, list):
        reason = "Expecting 'examples' value to be an list/array"
        raise RequestError(f"JSON Value: {quoted(document)} {reason}")
    if not examples:
        raise RequestError(f"JSON Value: {quoted(document)} 'examples' value is an empty array")
    return Asked(name, [_example(example) for example in examples], context)


def _example(value: Any) -> Example:
    if not isinstance(value, dict):
        raise RequestError(f"Example must be JSON object but got JSON {json_type(value)}")
    return {
        name: _feature(name, content if isinstance(content, list) else [content])
        for name, content in value.items()
    }


def _feature(name: str, items: list[Any]) -> tuple[str, list[Any]]:
    encoded(name)
    kind = ""
    values: list[Any] = []
    for item in items:
        found = KINDS.get(type(item))
        if found is None or (isinstance(item, dict) and not is_base64(item)):
            raise RequestError(
                f"Feature: {name} has element with unexpected JSON type: {json_type(item)}"
            )
        if kind not in ("", found):
            raise RequestError(f"Unexpected element type in feature: {name} expecting type: {kind}")
        if found == "int64" and item >= 2**63:
            raise RequestError(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
        kind = found
        if isinstance(item, str | dict):
            values.append(encoded(item) if isinstance(item, str) else from_base64(item))
        else:
            values.append(int(item) if isinstance(item, bool) else item)
    return kind, values


def serialized(asked: Asked) -> np.ndarray:
    """Return a request's examples as a signature takes them: `(b,)`, of serialized protos."""
    context = _message(asked.context)
    # Messages one after the other are one message that holds the fields of both.
    return np.array([context + _message(example) for example in asked.examples], object)


def _message(example: Example) -> bytes:
    train = load_tensorflow().train
    message = train.Example()
    for name, (kind, values) in example.items():
        feature = message.features.feature[name]
        if kind:
            getattr(feature, f"{kind}_list").value.extend(values)
        else:
            feature.SetInParent()
    return message.SerializeToString()


def check_signature(verb: str, name: str, signature: Signature | None) -> Signature:
    """Return the signature if it serves `verb`.

    Args:
        verb: "classify" or "regress".
        name: the signature's.
        signature: None if the model has none of that name.
    Raises:
        RequestError: 400 if it does not.
    """
    if signature is None:
        raise RequestError(f"No signature was found with the name: {name}")
    inputs, outputs = signature.inputs, signature.outputs
    method = "classification" if verb == "classify" else "regression"
    if len(inputs) != 1:
        raise RequestError("Expected one input Tensor.")
    if verb == "classify" and len(outputs) not in (1, 2):
        raise RequestError(f"Expected one or two output Tensors, found {len(outputs)}")
    if verb == "regress" and len(outputs) != 1:
        raise RequestError("Expected one output Tensor.")
    names = f"{', '.join(inputs)} -> {', '.join(sorted(outputs))}"
    if INPUT not in inputs:
        raise RequestError(f"No {method} inputs found in SignatureDef: {names}")
    if verb == "classify" and CLASSES not in outputs and SCORES not in outputs:
        raise RequestError(
            "Expected classification signature outputs to contain at least one of "
            f'"{CLASSES}" or "{SCORES}". Signature was: {names}'
        )
    if verb == "regress" and VALUES not in outputs:
        raise RequestError(f"No regression outputs found in SignatureDef: {names}")
    if inputs[INPUT].dtype != "string":
        raise RequestError(f"Expects arg[0] to be {inputs[INPUT].dtype} but string is provided")
    return signature


def classes(outputs: Mapping[str, np.ndarray], count: int) -> bytes:
    """Write the outputs of `count` examples as `{"results": [[[label, score], ...], ...]}`.

    Raises:
        RequestError: see `labels_and_scores`.
    """
    labels, scores = labels_and_scores(outputs, count)
    numbers = iter(to_json(SCORES, scores.ravel(), by_row=True))
    rows = [[[label.decode("utf-8", "replace"), next(numbers)] for label in row] for row in labels]
    return _results(rows)


def labels_and_scores(
    outputs: Mapping[str, np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what a signature says of `count` examples: bytes objects and float32, both `(b, n)`.

    Raises:
        RequestError: 400 for outputs of other types or shapes than `(count, classes)`.
    """
    labels, scores = outputs.get(CLASSES), outputs.get(SCORES)
    for name, array, dtype in ((CLASSES, labels, object), (SCORES, scores, np.float32)):
        if array is None:
            continue
        if array.ndim != 2:
            shape = "Expected Tensor shape: [batch_size num_classes] but got"
            raise RequestError(f"{shape} {_shape(array)}")
        if array.dtype != dtype:
            wanted = _type_name(np.dtype(dtype))
            got = f"Expected {name} Tensor of {wanted}. Got: {_type_name(array.dtype)}"
            raise RequestError(got)
        if len(array) != count:
            size = f"Expected {name} output batch size of {count}. Got: {len(array)}"
            raise RequestError(size)
    if labels is None:
        assert scores is not None  # check_signature has seen one of them
        labels = np.full(scores.shape, b"", object)
    if scores is None:
        scores = np.zeros(labels.shape, np.float32)
    if labels.shape != scores.shape:
        sizes = f"{len(labels[0])} vs. {len(scores[0])}"
        raise RequestError(f"Tensors class and score should match in dim_size(1). Got {sizes}")
    return labels, scores


def values(outputs: Mapping[str, np.ndarray], count: int) -> bytes:
    """Write the outputs of `count` examples as `{"results": [value, ...]}`.

    Raises:
        RequestError: see `regressions`.
    """
    return _results(to_json(VALUES, regressions(outputs, count), by_row=False))


def regressions(outputs: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """Return what a signature says of `count` examples: float32 `(b,)`.

    Raises:
        RequestError: 400 for an output of another type or shape than `(count,)` or `(count, 1)`.
    """
    array = outputs[VALUES]
    if array.ndim != 1 and (array.ndim != 2 or array.shape[1] != 1):
        wanted = "Expected output Tensor shape to be either [batch_size] or [batch_size, 1]"
        raise RequestError(f"{wanted} but got {_shape(array)}")
    if len(array) != count:
        sizes = f"{count} vs. {len(array)}"
        raise RequestError(f"Input batch size did not match output batch size: {sizes}")
    if array.dtype != np.float32:
        got = _type_name(array.dtype)
        raise RequestError(f"Expected output Tensor of DT_FLOAT.  Got: {got}")
    return array.ravel()


def _results(results: Any) -> bytes:
    return orjson.dumps({"results": results}, option=orjson.OPT_SERIALIZE_NUMPY)


def _shape(array: np.ndarray) -> str:
    return f"[{','.join(map(str, array.shape))}]"


def _type_name(dtype: np.dtype) -> str:
    return f"DT_{TYPE_NAMES.get(dtype.name, dtype.name.upper())}"
