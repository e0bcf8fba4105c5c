"""What is admitted: files, links, and the operations of a graph and of all its functions."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import write_version

from dlkit.errors import DlkitError, ServeError
from dlkit.export import checksums
from dlkit.runtime import load_tensorflow
from dlkit.serving import admit as admission
from dlkit.serving import graphs, model, operations
from dlkit.serving.admit import admit
from dlkit.serving.messages import SCALARS


@pytest.fixture
def version(pictures: Path, tmp_path: Path) -> Path:
    """A copy of an exported image classifier."""
    return shutil.copytree(pictures / "1", tmp_path / "pictures" / "1")


def change_graph(version: Path, change: Callable[[Any], None]) -> None:
    """Change a model's graph, with a manifest that agrees."""
    load_tensorflow()
    from tensorflow.core.protobuf import saved_model_pb2

    path = version / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    change(saved)
    path.write_bytes(saved.SerializeToString())
    renew_manifest(version)


def renew_manifest(version: Path) -> None:
    path = version / "assets.extra/dlkit.json"
    manifest = json.loads(path.read_text()) | {"files": checksums(version)}
    path.write_text(json.dumps(manifest))


def refusal(version: Path, *, require_manifest: bool) -> str:
    with pytest.raises(DlkitError) as caught:
        admit(version, require_manifest=require_manifest)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    return str(caught.value)


def graph_of(saved: Any) -> Any:
    return saved.meta_graphs[0].graph_def


def some_function(saved: Any) -> Any:
    """Return a function that only another function calls."""
    return next(f for f in graph_of(saved).library.function if "map_while" in f.signature.name)


def saver_function(saved: Any, operation: str) -> str:
    return next(
        f.signature.name
        for f in graph_of(saved).library.function
        if any(node.op == operation for node in f.node_def)
    )


def test_what_dlkit_wrote_and_plain_foreign_models_are_admitted(version: Path, tools: Path) -> None:
    manifest = admit(version, require_manifest=True)
    assert manifest is not None and manifest["task"] == "image-classification"
    assert admit(tools / "10") is None
    assert "has no manifest assets.extra/dlkit.json, which --require-manifest asks for" in refusal(
        tools / "10", require_manifest=True
    )


def test_the_graph_is_read_as_tensorflow_reads_it(pictures: Path, tools: Path) -> None:
    load_tensorflow()
    from tensorflow.core.protobuf import saved_model_pb2

    for path in (pictures / "1/saved_model.pb", tools / "10/saved_model.pb"):
        saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
        graph = graph_of(saved)
        lists = [graph.node, *(function.node_def for function in graph.library.function)]
        expected = Counter(node.op for node in itertools.chain(*lists))
        (read,) = graphs.read(path).meta_graphs
        assert Counter(each.name for each in graphs.operations(read)) == expected
        assert graphs.functions(read) == {f.signature.name for f in graph.library.function}


def test_the_fields_that_are_read_have_tensorflows_numbers() -> None:
    load_tensorflow()
    from tensorflow.core.protobuf import saved_model_pb2

    renamed = {"coo_sparse": "coo_sparse", "composite": "composite_tensor", "values": "values_tensor_name"}  # fmt: skip
    renamed |= {"indices": "indices_tensor_name", "dense_shape": "dense_shape_tensor_name"}
    seen: set[str] = set()

    def compare(name: str, descriptor: Any) -> None:
        if name in seen:
            return
        seen.add(name)
        for field, (number, kind) in graphs.SCHEMA[name].items():
            theirs = descriptor.fields_by_name[renamed.get(field, field)]
            assert (theirs.number, theirs.is_repeated) == (number, kind.endswith("*")), field
            if theirs.message_type is None:
                assert theirs.type == SCALARS[kind.removesuffix("*")], field
            else:
                compare(kind.removesuffix("*"), theirs.message_type)

    compare("SavedModel", saved_model_pb2.SavedModel.DESCRIPTOR)
    assert seen == graphs.SCHEMA.keys()


def in_a_function(saved: Any, operation: str) -> None:
    some_function(saved).node_def.add(name="more", op=operation)


def called_by_an_attribute_of_an_attribute(saved: Any) -> None:
    library = graph_of(saved).library
    library.function.add().signature.name = "deep"
    library.function[-1].node_def.add(name="n", op="ReadFile")
    library.function.add().signature.name = "branch"
    node = some_function(saved).node_def.add(name="more", op="Case")
    node.attr["branches"].list.func.add(name="branch")
    node.attr["branches"].list.func[0].attr["f"].func.name = "deep"


def in_the_graph_itself(saved: Any) -> None:
    graph_of(saved).node.add(name="more", op="PyFuncStateless")


def in_a_second_graph(saved: Any) -> None:
    saved.meta_graphs.add().graph_def.node.add(name="more", op="EagerPyFunc")


def by_the_name_of_a_function(saved: Any) -> None:
    graph_of(saved).library.function.add().signature.name = "WriteFile"
    in_a_function(saved, "WriteFile")


def in_the_saver(saved: Any) -> None:
    name = saver_function(saved, "SaveV2")
    (function,) = [f for f in graph_of(saved).library.function if f.signature.name == name]
    function.node_def.add(name="more", op="WriteFile")


def a_signature_that_is_the_saver(saved: Any) -> None:
    graph = saved.meta_graphs[0]
    tensor = graph.signature_def["serving_default"].outputs["label"]
    tensor.name = graph.saver_def.save_tensor_name


def a_signature_that_calls_the_saver(saved: Any) -> None:
    node = some_function(saved).node_def.add(name="more", op="StatefulPartitionedCall")
    node.attr["f"].func.name = saver_function(saved, "RestoreV2")


def an_object_that_is_the_saver(saved: Any) -> None:
    objects = saved.meta_graphs[0].object_graph_def
    objects.nodes.add().function.concrete_functions.append(saver_function(saved, "SaveV2"))


def a_main_operation_that_is_the_saver(saved: Any) -> None:
    graph = saved.meta_graphs[0]
    name = graph.saver_def.save_tensor_name.removesuffix(":0")
    graph.collection_def["saved_model_main_op"].node_list.value.append(name)


def a_constant_of_many(saved: Any) -> None:
    node = graph_of(saved).node.add(name="more", op="Const")
    node.attr["value"].tensor.float_val.append(1.0)
    for _ in range(2):
        node.attr["value"].tensor.tensor_shape.dim.add(size=10**6)


def an_asset_outside(saved: Any) -> None:
    saved.meta_graphs[0].asset_file_def.add(filename="../../../etc/passwd")


FOR_ALL = [  # what is changed, words of the refusal
    (lambda saved: in_a_function(saved, "WriteFile"), 'holds WriteFile (in function "map_while'),
    (lambda saved: in_a_function(saved, "PyFunc"), "PyFunc (in function"),
    (lambda saved: in_a_function(saved, "ExperimentalLMDBDataset"), "which reads or writes files"),
    (lambda saved: in_a_function(saved, "TFRecordDatasetV2"), "which reads or writes files"),
    (lambda saved: in_a_function(saved, "PrintV2"), "which reads or writes files"),
    (lambda saved: in_a_function(saved, "_Send"), "which talks to other processes"),
    (lambda saved: in_a_function(saved, "RpcCall"), "which talks to other processes"),
    (lambda saved: in_a_function(saved, "XlaCustomCallV2"), "code that is not TensorFlow's"),
    (called_by_an_attribute_of_an_attribute, 'holds ReadFile (in function "deep"), which reads'),
    (in_the_graph_itself, "its graph holds PyFuncStateless, which runs Python"),
    (in_a_second_graph, "its graph holds EagerPyFunc, which runs Python"),
    (by_the_name_of_a_function, "WriteFile"),
    (in_the_saver, "WriteFile"),
    (a_signature_that_is_the_saver, "SaveV2"),
    (a_signature_that_calls_the_saver, "RestoreV2"),
    (an_object_that_is_the_saver, "SaveV2"),
    (a_main_operation_that_is_the_saver, "SaveV2"),
    (a_constant_of_many, "its constants would unfold to 1,000,000,"),
    (an_asset_outside, 'its asset "../../../etc/passwd" leads out of it'),
]


@pytest.mark.parametrize(("change", "words"), FOR_ALL)
def test_graphs_that_are_refused_with_a_manifest_and_without(
    version: Path, change: Callable[[Any], None], words: str
) -> None:
    change_graph(version, change)
    assert words in refusal(version, require_manifest=True)
    (version / "assets.extra/dlkit.json").unlink()
    assert words in refusal(version, require_manifest=False)


def a_call_of_nothing(saved: Any) -> None:
    node = some_function(saved).node_def.add(name="more", op="PartitionedCall")
    node.attr["f"].func.name = "elsewhere"


def without_objects(saved: Any) -> None:
    saved.meta_graphs[0].ClearField("object_graph_def")


def a_class_of_python(saved: Any) -> None:
    saved.meta_graphs[0].object_graph_def.nodes[0].registered_name = "my.Class"


LISTED = [
    (lambda saved: in_a_function(saved, "Vendor>Op"), '"Vendor>Op" (in function'),
    (lambda saved: in_a_function(saved, "two\nlines"), r'"two\nlines" (in function'),
    (lambda saved: in_a_function(saved, "InitializeTableFromTextFileV2"), "not on the list"),
    (lambda saved: in_a_function(saved, "ShardedFilename"), "not on the list"),
    (a_call_of_nothing, 'a call of "elsewhere", which is no function of it'),
    (without_objects, "not of the kind that dlkit exports"),
    (a_class_of_python, 'asks for Python\'s "my.Class"'),
]


@pytest.mark.parametrize(("change", "words"), LISTED)
def test_graphs_that_are_refused_where_a_manifest_is_required(
    version: Path, change: Callable[[Any], None], words: str
) -> None:
    change_graph(version, change)
    assert words in refusal(version, require_manifest=True)
    (version / "assets.extra/dlkit.json").unlink()
    assert admit(version) is None


def test_no_operation_is_both_allowed_and_forbidden() -> None:
    tf = load_tensorflow()
    known = {name for name in dir(tf.raw_ops) if not name.startswith("_")}
    assert known >= operations.ALLOWED  # no misspelt one
    assert not [name for name in operations.ALLOWED if operations.does(name)]
    assert operations.does("SaveV2") and operations.does("RestoreV2")


def a_changed_byte(version: Path) -> None:
    path = version / "variables/variables.data-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def a_link_out(version: Path) -> None:
    (version / "assets/words.txt").symlink_to("/etc/passwd")


def a_link_beside(version: Path) -> None:
    shutil.copytree(version, version.parent.parent / "pictures-of-others")
    (version / "assets/words.txt").symlink_to("../../../pictures-of-others/saved_model.pb")


def a_link_to_nothing(version: Path) -> None:
    (version / "assets/words.txt").symlink_to("words.txt")


def a_pipe(version: Path) -> None:
    os.mkfifo(version / "assets/words.txt")


def a_manifest_that_is_a_pipe(version: Path) -> None:
    (version / "assets.extra/dlkit.json").unlink()
    os.mkfifo(version / "assets.extra/dlkit.json")


def a_version_that_is_elsewhere(version: Path) -> None:
    shutil.move(version, version.parent.parent / "elsewhere")
    version.symlink_to("../elsewhere")


def a_second_graph(version: Path) -> None:
    (version / "saved_model.pbtxt").write_text("")


def a_graph_cut_short(version: Path) -> None:
    path = version / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:-9])
    renew_manifest(version)


def a_graph_without_a_graph(version: Path) -> None:
    (version / "saved_model.pb").write_bytes(b"")
    renew_manifest(version)


def a_manifest_nested_deep(version: Path) -> None:
    (version / "assets.extra/dlkit.json").write_text("[" * 100_000)


def a_manifest_of_another_shape(version: Path) -> None:
    (version / "assets.extra/dlkit.json").write_text('{"files": [[1, 2], ["a", "b"]]}')


def a_large_manifest(version: Path) -> None:
    (version / "assets.extra/dlkit.json").write_bytes(b" " * 2**25)


FILES = [
    (a_changed_byte, "variables/variables.data-00000-of-00001 is not what its manifest says"),
    (a_link_out, "that leads out of it"),
    (a_link_beside, "that leads out of it"),
    (a_link_to_nothing, "is a link that leads nowhere"),
    (a_pipe, '"assets/words.txt" is neither a file nor a folder'),
    (a_manifest_that_is_a_pipe, "neither a file nor a folder"),
    (a_version_that_is_elsewhere, "that leads out of it"),
    (a_second_graph, "holds saved_model.pbtxt beside saved_model.pb"),
    (a_graph_cut_short, "cannot be loaded as a SavedModel: "),
    (a_graph_without_a_graph, "it holds no graph"),
    (a_manifest_nested_deep, "is no dlkit export"),
    (a_manifest_of_another_shape, "is no dlkit export"),
    (a_large_manifest, "is larger than 16,777,216 bytes"),
]


@pytest.mark.parametrize(("change", "words"), FILES)
def test_files_that_are_refused(version: Path, change: Callable[[Path], None], words: str) -> None:
    (version / "variables/variables.data-00000-of-00001").touch()
    (version / "assets").mkdir(exist_ok=True)
    change(version)
    assert words in refusal(version, require_manifest=False)
    refusal(version, require_manifest=True)


def test_the_number_of_files_is_bounded(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_FILES", 3)
    assert "holds more than 3 files" in refusal(version, require_manifest=False)


def test_links_that_stay_inside_are_for_models_without_a_manifest(version: Path) -> None:
    renew_manifest(version)
    os.link(version / "saved_model.pb", version / "other.pb")
    (version / "other.pb").unlink()
    (version / "saved_model.pb").rename(version / "graph")
    (version / "saved_model.pb").symlink_to("graph")
    renew_manifest(version)
    assert '"saved_model.pb" is a link, which --require-manifest does not accept' in refusal(
        version, require_manifest=True
    )
    with pytest.raises(ServeError, match="not a SavedModel"):
        admit(version)


def test_what_was_checked_is_what_is_loaded(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    admitted: list[Path] = []

    def admit_and_change(path: Path, **how: Any) -> Any:
        manifest = admit(path, **how)
        admitted.append(path)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        (version / "saved_model.pb").write_bytes(b"another")
        return manifest

    monkeypatch.setattr(model, "admit", admit_and_change)
    loaded = model.load_version("pic", version, require_manifest=True)
    pixels = {"pixels": np.full((1, 2, 2, 1), 255, np.uint8)}
    assert loaded.signatures["from_pixels"].run(pixels)["label"].tolist() == [b"light"]
    assert loaded.path == version and version not in admitted
    with pytest.raises(DlkitError, match=r"saved_model.pb is not what its manifest says") as told:
        model.load_version("pic", version, require_manifest=True)
    assert f"the export {version} was altered" in str(told.value)
    assert list(temporary.iterdir()) == []


def test_a_copy_that_cannot_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = write_version(tmp_path, 1)

    def full(*paths: Any, **how: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    words = "cannot be copied to be checked: No space left on device"
    with pytest.raises(ServeError, match=words):
        model.load_version("n", version, engine="onnx", require_manifest=True)
    (version / "away").symlink_to("/etc/passwd")
    with pytest.raises(ServeError, match="is a link"):
        model.load_version("n", version, engine="onnx", require_manifest=True)
