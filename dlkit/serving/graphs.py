"""What a SavedModel's graph holds, read without TensorFlow.

TensorFlow's own classes of these messages come with all of TensorFlow, seconds of import, and code
that should not see a file before it was looked at. Declared here are the fields alone that
admission asks for, by the numbers they have in TensorFlow's `saved_model.proto`,
`meta_graph.proto`, `saved_object_graph.proto`, `graph.proto`, `function.proto` and
`attr_value.proto`; protobuf skips the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlkit.errors import ServeError
from dlkit.serving.messages import Messages, Schema

SCHEMA: Schema = {
    "SavedModel": {"meta_graphs": (2, "MetaGraph*")},
    "MetaGraph": {
        "graph_def": (2, "Graph"),
        "saver_def": (3, "Saver"),
        "collection_def": (4, "CollectionEntry*"),
        "signature_def": (5, "SignatureEntry*"),
        "asset_file_def": (6, "Asset*"),
        "object_graph_def": (7, "ObjectGraph"),
    },
    "Graph": {"node": (1, "Node*"), "library": (2, "Library")},
    "Library": {"function": (1, "Function*"), "gradient": (2, "Gradient*")},
    "Function": {
        "signature": (1, "FunctionSignature"),
        "node_def": (3, "Node*"),
        "attr": (5, "AttrEntry*"),
    },
    "FunctionSignature": {"name": (1, "string")},
    "Gradient": {"function_name": (1, "string"), "gradient_func": (2, "string")},
    "Node": {
        "name": (1, "string"),
        "op": (2, "string"),
        "input": (3, "string*"),
        "attr": (5, "AttrEntry*"),
    },
    "AttrEntry": {"key": (1, "string"), "value": (2, "Attr")},
    "Attr": {"list": (1, "AttrList"), "tensor": (8, "Tensor"), "func": (10, "FunctionRef")},
    "AttrList": {"tensor": (8, "Tensor*"), "func": (9, "FunctionRef*")},
    "FunctionRef": {"name": (1, "string"), "attr": (2, "AttrEntry*")},
    "Tensor": {"tensor_shape": (2, "Shape")},
    "Shape": {"dim": (2, "Dim*")},
    "Dim": {"size": (1, "int64")},
    "Saver": {"save_tensor_name": (2, "string"), "restore_op_name": (3, "string")},
    "CollectionEntry": {"key": (1, "string"), "value": (2, "Collection")},
    "Collection": {"node_list": (1, "Strings")},
    "Strings": {"value": (1, "string*")},
    "SignatureEntry": {"key": (1, "string"), "value": (2, "Signature")},
    "Signature": {"inputs": (1, "TensorEntry*"), "outputs": (2, "TensorEntry*")},
    "TensorEntry": {"key": (1, "string"), "value": (2, "TensorInfo")},
    "TensorInfo": {"name": (1, "string"), "coo_sparse": (4, "Sparse"), "composite": (5, "Parts")},
    "Sparse": {"values": (1, "string"), "indices": (2, "string"), "dense_shape": (3, "string")},
    "Parts": {"components": (2, "TensorInfo*")},
    "Asset": {"filename": (2, "string")},
    "ObjectGraph": {"nodes": (1, "Object*"), "concrete_functions": (2, "NamedEntry*")},
    "NamedEntry": {"key": (1, "string")},
    "Object": {
        "function": (6, "ObjectFunction"),
        "bare_concrete_function": (8, "BareFunction"),
        "registered_name": (13, "string"),
        "registered_saver": (16, "string"),
    },
    "ObjectFunction": {"concrete_functions": (1, "string*")},
    "BareFunction": {"concrete_function_name": (1, "string")},
}

MESSAGES = Messages(SCHEMA)


@dataclass(frozen=True)
class Operation:
    """An operation that a graph uses.

    Attributes:
        name: the operation's, or the name of the function that the node calls.
        within: the function that holds it; empty for the graph itself.
        saver: nothing but the saver, by which the variables are written and read, can run it.
        elements: numbers or strings of the constants that it holds, as they unfold.
    """

    name: str
    within: str
    saver: bool
    elements: int


def read(path: Path) -> Any:
    """Parse a `saved_model.pb` into a message of `SCHEMA`.

    Raises:
        ServeError: it is none.
    """
    try:
        saved = MESSAGES.read("SavedModel", path)
    except ValueError as error:
        raise ServeError(
            f"{path.parent} cannot be loaded as a SavedModel: {error}", "OUT_OF_RANGE"
        ) from None
    if not saved.meta_graphs:
        raise ServeError(
            f"{path.parent} cannot be loaded as a SavedModel: it holds no graph", "NOT_FOUND"
        )
    return saved


def functions(meta_graph: Any) -> set[str]:
    """Return the names of a graph's functions."""
    return {function.signature.name for function in meta_graph.graph_def.library.function}


def operations(meta_graph: Any) -> Iterator[Operation]:
    """Yield the operations of the graph and of all its functions, called or not.

    A graph's saver is two of its nodes, one that writes the variables and one that reads them,
    with what they need and call. What a signature, an object of the model, or any other node needs
    or calls as well is not the saver's own.
    """
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    saver = meta_graph.saver_def
    ends = {_node(saver.save_tensor_name), _node(saver.restore_op_name)} - {""}
    saving = _needed(nodes, ends)
    used = _needed(nodes, {*(nodes.keys() - saving), *_signature_nodes(meta_graph)})

    library = {f.signature.name: f for f in meta_graph.graph_def.library.function}
    calls = {name: _function_calls(function) for name, function in library.items()}
    for gradient in meta_graph.graph_def.library.gradient:
        calls.setdefault(gradient.function_name, set()).add(gradient.gradient_func)

    def called(names: Iterable[str]) -> set[str]:
        return _closure(set().union(*(_calls(nodes[name]) for name in names)), calls)

    of_saver = called(saving)
    objects = _object_functions(meta_graph.object_graph_def)
    of_others = called(used) | _closure(objects | (library.keys() - of_saver), calls)
    for node in meta_graph.graph_def.node:
        own = node.name in saving and node.name not in used
        yield Operation(node.op, "", own, _elements(node.attr))
    for name, function in library.items():
        own = name in of_saver and name not in of_others
        for node in function.node_def:
            yield Operation(node.op, name, own, _elements(node.attr))


def references(meta_graph: Any) -> set[str]:
    """Return the names of all functions that attributes speak of, whether they exist or not."""
    graph = meta_graph.graph_def
    found: set[str] = set()
    for node in graph.node:
        found |= _named(node.attr)
    for function in graph.library.function:
        found |= _named(function.attr)
        for node in function.node_def:
            found |= _named(node.attr)
    return found | {gradient.gradient_func for gradient in graph.library.gradient}


def _needed(nodes: Mapping[str, Any], names: Iterable[str]) -> set[str]:
    """Return nodes and all that their inputs come from."""
    inputs = {name: {_node(given) for given in node.input} for name, node in nodes.items()}
    return _closure(set(names) & nodes.keys(), inputs) & nodes.keys()


def _closure(names: Iterable[str], leads: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += leads.get(name, ())
    return found


def _node(tensor: str) -> str:
    """Return the node of an input such as `name:1` or `^name`."""
    return tensor.removeprefix("^").partition(":")[0]


def _function_calls(function: Any) -> set[str]:
    return _named(function.attr).union(*map(_calls, function.node_def))


def _calls(node: Any) -> set[str]:
    return {node.op} | _named(node.attr)


def _named(attributes: Any) -> set[str]:
    """Return the functions that attributes name, those inside other functions' as well."""
    found = set()
    for entry in attributes:
        value = entry.value
        # A field is asked for before it is read: reading makes an empty message of one not there.
        references = [value.func] if value.HasField("func") else []
        for reference in (*references, *(value.list.func if value.HasField("list") else ())):
            found |= {reference.name} | _named(reference.attr)
    return found


def _elements(attributes: Any) -> int:
    total = 0
    for entry in attributes:
        value = entry.value
        tensors = [value.tensor] if value.HasField("tensor") else []
        for tensor in (*tensors, *(value.list.tensor if value.HasField("list") else ())):
            total += max(0, math.prod(dim.size for dim in tensor.tensor_shape.dim))
    return total


def _signature_nodes(meta_graph: Any) -> set[str]:
    found: set[str] = set()
    for signature in meta_graph.signature_def:
        for tensor in (*signature.value.inputs, *signature.value.outputs):
            left = [tensor.value]
            while left:
                info = left.pop()
                sparse = info.coo_sparse
                names = (info.name, sparse.values, sparse.indices, sparse.dense_shape)
                found |= {_node(name) for name in names}
                left += info.composite.components
    for collection in meta_graph.collection_def:  # such as a main operation, run once at load
        found |= {_node(name) for name in collection.value.node_list.value}
    return found


def _object_functions(objects: Any) -> set[str]:
    found = {entry.key for entry in objects.concrete_functions}
    for each in objects.nodes:
        found |= set(each.function.concrete_functions)
        found.add(each.bare_concrete_function.concrete_function_name)
    return found
