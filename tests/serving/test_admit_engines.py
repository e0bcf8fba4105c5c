"""Files for other runtimes are refused where they lead out of themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlkit.errors import ServeError
from dlkit.export import checksums
from dlkit.serving import engines

pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")


def onnx_file(path: Path, change: Callable[[Any], None] | None = None) -> Path:
    """Write y = x + 1, perhaps changed."""
    from onnx import TensorProto, helper

    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    node = helper.make_node("Add", ["x", "one"], ["y"])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [None]) for n in "xy")
    graph = helper.make_graph([node], "g", [x], [y], [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    if change:
        change(model)
    path.write_bytes(model.SerializeToString())
    return path


def elsewhere(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = 1
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def elsewhere_deep(model: Any) -> None:
    """Put data of another file into a constant of a branch of a branch."""
    inner = model.graph.node.add(op_type="If").attribute.add(name="then_branch", type=5).g
    inner = inner.node.add(op_type="If").attribute.add(name="else_branch", type=5).g
    tensor = inner.node.add(op_type="Constant").attribute.add(name="value", type=4).t
    tensor.external_data.add(key="location", value="weights")


def foreign(model: Any) -> None:
    model.graph.node[0].domain = "com.vendor"


def foreign_in_a_function(model: Any) -> None:
    function = model.functions.add(name="f", domain="mine")
    function.node.add(op_type="Run", domain="com.vendor")


def litert_file(path: Path, *codes: tuple[int, str | None], group: str | None = None) -> Path:
    """Write a file of operations and no more."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version, model.operatorCodes = 3, []
    for builtin, custom in codes:
        code = schema.OperatorCodeT()
        code.builtinCode, code.customCode = builtin, custom
        model.operatorCodes.append(code)
    if group is not None:
        model.externalBufferGroups = [schema.ExternalBufferGroupT()]
        model.externalBufferGroups[0].name = group
    builder: Any = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def refusal(path: Path, open_file: Callable[..., Any]) -> str:
    with pytest.raises(ServeError) as caught:
        open_file(path, {"inputs": {}, "outputs": {}}, 1)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_plain_file_is_opened(tmp_path: Path) -> None:
    tensor = {"x": {"dtype": "float32", "shape": [-1]}}
    entry = {"inputs": tensor, "outputs": {"y": tensor["x"]}}
    runner = engines.open_onnx(onnx_file(tmp_path / "m.onnx"), entry, 1)
    assert runner.run({"x": np.array([1, 2], np.float32)})["y"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (elsewhere, "some of its data are in another file"),
        (elsewhere_deep, "some of its data are in another file"),
        (foreign, 'its operation "com.vendor.Add" is of another library'),
        (foreign_in_a_function, 'its operation "com.vendor.Run" is of another library'),
    ],
)
def test_onnx(tmp_path: Path, change: Callable[[Any], None], words: str) -> None:
    assert words in refusal(onnx_file(tmp_path / "m.onnx", change), engines.open_onnx)


def test_litert(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    for codes, group, words in (
        ([(0, None), (32, "FlexWriteFile")], None, '"FlexWriteFile" is of another library'),
        ([(32, None)], None, 'its operation "" is of another library'),
        ([(0, None)], "weights", "some of its data are in another file"),
    ):
        contents = litert_file(path, *codes, group=group).read_bytes()
        assert words in refusal(path, engines.open_litert)
        for end in range(8, len(contents), 7):
            path.write_bytes(contents[:end])
            refusal(path, engines.open_litert)


@pytest.mark.parametrize("contents", [b"", b"junk", b"\x08\x01", b"\0" * 99])
def test_what_is_no_such_file(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(contents)
    assert "is no ONNX file" in refusal(path, engines.open_onnx)
    assert "is no LiteRT file" in refusal(path, engines.open_litert)


def test_the_manifest_lists_the_file_and_describes_it(tmp_path: Path) -> None:
    version = tmp_path / "out/1"
    (version / "assets.extra").mkdir(parents=True)
    onnx_file(tmp_path / "m.onnx")
    onnx_file(version / "m.onnx")
    tensor = {"x": {"dtype": "float32", "shape": [-1]}}
    good = {"file": "m.onnx", "endpoint": "e", "inputs": tensor, "outputs": {"y": tensor["x"]}}

    def signatures(entry: Any) -> Any:
        manifest = {"files": checksums(version), "formats": {"onnx": entry}}
        (version / "assets.extra/dlkit.json").write_text(json.dumps(manifest))
        return engines.onnx_signatures(version, 1)

    assert list(signatures(good)) == ["e"]
    for entry, words in (
        (good | {"file": "../../m.onnx"}, 'its manifest lists no file "../../m.onnx"'),
        (good | {"file": str(tmp_path / "m.onnx")}, "its manifest lists no file"),
        (good | {"file": ["m.onnx"]}, "does not say what onnx takes and gives"),
        (good | {"inputs": 3}, "does not say what onnx takes and gives"),
        ({"file": "m.onnx"}, "does not say what onnx takes and gives"),
        (["m.onnx"], "does not say what onnx takes and gives"),
    ):
        with pytest.raises(ServeError) as caught:
            signatures(entry)
        assert words in str(caught.value)
