"""What a file for ONNX Runtime or LiteRT must be before that runtime sees it.

The operations of both compute and nothing else; what leads out of a file are data kept in others,
and operations that come with a library of their own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlkit.errors import ServeError
from dlkit.serving.admit import DENIED
from dlkit.serving.messages import Messages, Schema
from dlkit.serving.tensors import quoted

# The fields of onnx.proto3 by which nodes and data are found, those of inner graphs too.
ONNX: Schema = {
    "Model": {
        "graph": (7, "Graph"),
        "training_info": (20, "Training*"),
        "functions": (25, "Function*"),
    },
    "Training": {"initialization": (1, "Graph"), "algorithm": (2, "Graph")},
    "Function": {"node": (7, "Node*"), "domain": (10, "string")},
    "Graph": {
        "node": (1, "Node*"),
        "initializer": (5, "Tensor*"),
        "sparse_initializer": (15, "Sparse*"),
    },
    "Node": {"op_type": (4, "string"), "attribute": (5, "Attribute*"), "domain": (7, "string")},
    "Attribute": {
        "t": (5, "Tensor"),
        "g": (6, "Graph"),
        "tensors": (10, "Tensor*"),
        "graphs": (11, "Graph*"),
        "sparse_tensor": (22, "Sparse"),
        "sparse_tensors": (23, "Sparse*"),
    },
    "Tensor": {"external_data": (13, "Entry*"), "data_location": (14, "int32")},
    "Sparse": {"values": (1, "Tensor"), "indices": (2, "Tensor")},
    "Entry": {"key": (1, "string"), "value": (2, "string")},
}
MESSAGES = Messages(ONNX)
# ONNX's own operations, and those that ONNX Runtime holds, by which it computes in 8 bits.
DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"}


def check_onnx(path: Path) -> None:
    """Refuse an ONNX file with data in other files or with operations of other libraries.

    Raises:
        ServeError: it is refused, or no ONNX file.
    """
    try:
        model = MESSAGES.read("Model", path)
    except ValueError as error:
        raise ServeError(f"{path} is no ONNX file: {error}", "DATA_LOSS") from None
    if not model.graph.node:
        raise ServeError(f"{path} is no ONNX file: it holds no operation", "DATA_LOSS")
    local = {function.domain for function in model.functions}
    for each in _walk(model):
        if each.DESCRIPTOR.name == "Node" and each.domain not in DOMAINS | local:
            name = quoted(f"{each.domain}.{each.op_type}")
            raise ServeError(
                f"{path} is refused: its operation {name} is of another library", DENIED
            )
        if each.DESCRIPTOR.name == "Tensor" and (each.external_data or each.data_location):
            raise ServeError(f"{path} is refused: some of its data are in another file", DENIED)


def _walk(message: Any) -> Iterator[Any]:
    """Yield a message and all that are inside it."""
    left = [message]
    while left:
        each = left.pop()
        yield each
        for field, value in each.ListFields():
            if field.message_type is not None:
                left += value if field.is_repeated else [value]


def check_litert(path: Path) -> None:
    """Refuse a LiteRT file with data in other files or with operations of other libraries.

    Such are custom ones, among them TensorFlow's own as Flex runs them.

    Raises:
        ServeError: it is refused, or no LiteRT file.
    """
    from ai_edge_litert import schema_py_generated as schema

    contents = path.read_bytes()
    try:
        if not schema.Model.ModelBufferHasIdentifier(contents, 0):
            raise ServeError(f"{path} is no LiteRT file", "DATA_LOSS")
        model = schema.Model.GetRootAs(contents, 0)
        custom = [
            code.CustomCode() or b""
            for code in map(model.OperatorCodes, range(model.OperatorCodesLength()))
            if code.CustomCode() is not None
            or schema.BuiltinOperator.CUSTOM in (code.BuiltinCode(), code.DeprecatedBuiltinCode())
        ]
        outside = model.ExternalBuffersLength() or model.ExternalBufferGroupsLength()
    except (struct.error, IndexError, TypeError, ValueError):
        raise ServeError(f"{path} is no LiteRT file, or is cut short", "DATA_LOSS") from None
    if custom:
        name = quoted(custom[0].decode("utf-8", "replace"))
        raise ServeError(f"{path} is refused: its operation {name} is of another library", DENIED)
    if outside:
        raise ServeError(f"{path} is refused: some of its data are in another file", DENIED)
