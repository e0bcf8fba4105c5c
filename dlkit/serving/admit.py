"""What a directory must be before anything of it runs or TensorFlow sees it.

TensorFlow's SECURITY.md: "TensorFlow models are programs" and "TensorFlow itself is not a sandbox".
A model of strangers belongs in a container that may do nothing else. What is done here is less: a
file that is no SavedModel is named for what it is, nothing is read from outside the directory, and
a graph that would read or write files, run Python or talk to other processes is refused. With
`require_manifest` everything must be as dlkit wrote it, and the graph may hold only operations
that are known to be harmless; see `operations`. The manifest is no signature: who can write the
directory can write a manifest.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from dlkit.errors import ServeError
from dlkit.export import MANIFEST, read_manifest
from dlkit.serving import graphs, operations
from dlkit.serving.tensors import QUOTED, quoted

GRAPH = "saved_model.pb"
# Other forms of a graph, which another server may take instead of the one that was looked at.
OTHER_GRAPHS = ("saved_model.pbtxt", "saved_model.cpb")
DENIED = "PERMISSION_DENIED"  # a version's status, see `codes`
MAX_FILES = 10_000
MAX_GRAPH = 2**31 - 1  # bytes; protobuf's own limit
MAX_MANIFEST = 2**24  # bytes
# Elements that constants may have beside the bytes they are written in: one value can stand for all.
MAX_UNFOLDED = 2**28

FOREIGN = {  # ending: what it is
    ".h5": "a Keras file (HDF5)",
    ".hdf5": "a Keras file (HDF5)",
    ".joblib": "a pickle, which runs code when it is read",
    ".keras": "a Keras file, which may hold code",
    ".npz": "a file of NumPy arrays",
    ".npy": "a NumPy array",
    ".pickle": "a pickle, which runs code when it is read",
    ".pkl": "a pickle, which runs code when it is read",
    ".pt": "a PyTorch file: a pickle, which runs code when it is read",
    ".pth": "a PyTorch file: a pickle, which runs code when it is read",
    ".onnx": "an ONNX file, which is served as a part of an export, with --runtime onnx",
    ".tflite": "a LiteRT file, which is served as a part of an export, with --runtime litert",
    ".ckpt": "a checkpoint, which holds no graph",
    ".safetensors": "a file of weights, which holds no graph",
    ".zip": "a zip file; unpack it",
}
BEGINNINGS = {b"\x89HDF\r\n\x1a\n": ".h5", b"PK\x03\x04": ".zip", b"\x80": ".pickle"}
INSTEAD = (
    "what is served is a folder that holds 1/saved_model.pb: write one with dlkit TASK export RUN "
    "or, elsewhere, with Keras's model.export"
)


def admit(path: Path, *, require_manifest: bool = False) -> dict[str, Any] | None:
    """Refuse a version's folder that is no SavedModel, or not one that may run.

    Args:
        path: the folder that holds `saved_model.pb`.
        require_manifest: every file must be listed in dlkit's manifest and be as it says, no link
            may be among them, and the graph may hold only the operations of `operations.ALLOWED`.
    Returns:
        The manifest; None where there is none.
    Raises:
        ServeError: it is refused.
        RunError: a file is not what the manifest says.
    """
    graph = path / GRAPH
    if path.is_dir() and not graph.exists():
        refuse_foreign(path)
    check_files(path, links=not require_manifest)
    if not stat.S_ISREG(_mode(graph)):
        raise ServeError(f"{path} is not a SavedModel: it holds no {GRAPH}", "NOT_FOUND")
    if graph.stat().st_size > MAX_GRAPH:
        raise ServeError(f"{graph} is larger than the {MAX_GRAPH:,} bytes a graph can have")
    manifest = None
    if (path / MANIFEST).exists():
        if (path / MANIFEST).stat().st_size > MAX_MANIFEST:
            raise ServeError(f"{path / MANIFEST} is larger than {MAX_MANIFEST:,} bytes")
        manifest = read_manifest(path)
    elif require_manifest:
        raise ServeError(
            f"{path} has no manifest {MANIFEST}, which --require-manifest asks for; write the "
            "export with dlkit TASK export RUN",
            "FAILED_PRECONDITION",
        )
    saved = graphs.read(graph)
    for meta_graph in saved.meta_graphs:
        check_graph(path, meta_graph, listed=require_manifest)
    # TensorFlow would otherwise take it for one of version 1, and run the graph's own saver.
    if require_manifest and not (
        len(saved.meta_graphs) == 1 and saved.meta_graphs[0].HasField("object_graph_def")
    ):
        raise ServeError(f"{path} is not of the kind that dlkit exports: TensorFlow 2, one graph")
    return manifest


@contextlib.contextmanager
def private_copy(path: Path) -> Iterator[Path]:
    """Copy a version's folder to where only this user can change it, for as long as the block runs.

    A file that is checked and then read could have been changed between the two.

    Raises:
        ServeError: it holds a link or what is neither file nor folder, or cannot be copied.
    """
    with tempfile.TemporaryDirectory(prefix="dlkit-serve-") as folder:
        copy = Path(folder, path.name)
        try:
            check_files(path, links=False)
            shutil.copytree(path, copy, symlinks=True)
        except OSError as error:  # copytree's own has a list of all that went wrong
            reason = error.strerror or str(error).partition("\n")[0][:QUOTED]
            raise ServeError(f"{path} cannot be copied to be checked: {reason}") from error
        yield copy


def refuse_foreign(path: Path) -> None:
    """Raise ServeError for a file, and for a folder that holds one of a kind that is no export."""
    inside = path.is_dir()
    for each in sorted(path.iterdir()) if inside else [path]:
        kind = FOREIGN.get(_ending(each))
        if kind is not None or not inside:
            held = (
                f"{path} is no export: it holds {quoted(each.name)}, " if inside else f"{path} is "
            )
            raise ServeError(f"{held}{kind or 'a file'}; {INSTEAD}", "NOT_FOUND")


def _ending(path: Path) -> str:
    """Return what a file's name ends in, or what its first bytes say where its name says nothing."""
    if path.suffix.lower() in FOREIGN or not stat.S_ISREG(_mode(path)):
        return path.suffix.lower()
    with path.open("rb") as file:
        first = file.read(8)
    return next((kind for begin, kind in BEGINNINGS.items() if first.startswith(begin)), "")


def check_files(path: Path, *, links: bool) -> None:
    """Refuse links that lead out of a folder, and what is neither file nor folder.

    Args:
        path: the folder; as a link it must lead to a folder beside it.
        links: whether links that stay inside are accepted.
    Raises:
        ServeError: it is refused.
    """
    if path.is_symlink():
        _check_link(path, path.parent, links)
    for count, each in enumerate(_walk(path)):
        mode = _mode(each)
        if count >= MAX_FILES:
            raise ServeError(f"{path} holds more than {MAX_FILES:,} files")
        if stat.S_ISLNK(mode):
            _check_link(each, path, links)
        elif not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            name = quoted(str(each.relative_to(path)))
            raise ServeError(f"{path} is refused: {name} is neither a file nor a folder", DENIED)
    for name in OTHER_GRAPHS:
        if (path / name).exists():
            raise ServeError(f"{path} holds {name} beside {GRAPH}: which is the model is unclear")


def _walk(path: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            yield Path(folder, name)


def _check_link(link: Path, within: Path, accepted: bool) -> None:
    refused = f"{within} is refused: {quoted(str(link.relative_to(within)))} is a link"
    if not accepted:
        raise ServeError(f"{refused}, which --require-manifest does not accept", DENIED)
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        raise ServeError(f"{refused} that leads nowhere", DENIED) from None
    if not target.is_relative_to(within.resolve()):
        raise ServeError(f"{refused} that leads out of it", DENIED)


def _mode(path: Path) -> int:
    """Return what a path is, no link followed; 0 for what is not there."""
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def check_graph(path: Path, meta_graph: Any, *, listed: bool) -> None:
    """Refuse a graph that would do more than compute.

    Args:
        path: its folder, for the message.
        meta_graph: see `graphs.read`.
        listed: whether only the operations on the list may be there.
    Raises:
        ServeError: it is refused.
    """

    def refuse(operation: str, within: str, reason: str) -> NoReturn:
        where = f" (in function {quoted(within)})" if within else ""
        raise ServeError(f"{path} is refused: its graph holds {operation}{where}, {reason}", DENIED)

    known = graphs.functions(meta_graph)
    accepted = operations.ALLOWED | known
    unlisted, elements = None, 0
    for used in graphs.operations(meta_graph):
        elements += used.elements
        if used.saver and used.name in operations.SAVER:
            continue
        does = operations.does(used.name)
        if does:
            refuse(used.name, used.within, f"which {does}")
        if used.name not in accepted:
            unlisted = unlisted or used
    missing = sorted(graphs.references(meta_graph) - known)
    if listed and unlisted:  # told last: what is forbidden says more
        reason = "which is not on the list of operations that --require-manifest accepts"
        refuse(quoted(unlisted.name), unlisted.within, reason)
    if listed and missing:
        refuse(f"a call of {quoted(missing[0])}", "", "which is no function of it")
    if elements > (path / GRAPH).stat().st_size + MAX_UNFOLDED:
        raise ServeError(f"{path} is refused: its constants would unfold to {elements:,} numbers")
    for asset in meta_graph.asset_file_def:
        name = asset.filename
        if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
            raise ServeError(f"{path} is refused: its asset {quoted(name)} leads out of it", DENIED)
    classes = {each.registered_name for each in meta_graph.object_graph_def.nodes} - {""}
    if listed and classes - operations.CLASSES:
        name = quoted(min(classes - operations.CLASSES))
        raise ServeError(f"{path} is refused: it asks for Python's {name}", DENIED)
