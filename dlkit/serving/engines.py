"""Endpoints answered by ONNX Runtime or by LiteRT, from the files of an export alone.

Nothing here needs TensorFlow. What neither runtime has is done here: the label of a class.
"""

from __future__ import annotations

import importlib
import queue
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.errors import ServeError
from dlkit.serving.admit_engines import check_litert, check_onnx
from dlkit.serving.tensors import RequestError, TensorSpec, quoted

Arrays = Mapping[str, np.ndarray]
# Stands behind the name of an ONNX output that an input has as well.
CLASHING = "_out"
# TensorFlow Serving's name of a type, where it is not NumPy's.
SERVING_NAMES = {"float32": "float", "float64": "double", "float16": "half"}
# Entry of the manifest's `formats` by runtime: the float file, and the quantised one.
ENTRIES = {"onnx": ("onnx", "onnx-int8"), "litert": ("litert", "litert-int8")}


@dataclass(frozen=True, eq=False)
class Runner:
    """One endpoint in one runtime.

    Attributes:
        inputs: the inputs' specs by name.
        outputs: the outputs' specs by name.
        run: answers one request, see `dlkit.serving.model.Signature.run`; may be called by several
            threads at once.
    """

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    run: Callable[[Arrays], dict[str, np.ndarray]]


def onnx_signatures(directory: Path, threads: int, *, int8: bool = False) -> dict[str, Runner]:
    """Open what an export holds for ONNX Runtime.

    Args:
        directory: the version's folder, such as DIR/1.
        threads: threads that one request is computed with.
        int8: the quantised file rather than the float one.
    Returns:
        A runner by endpoint. The batch may be of any size.
    Raises:
        RunError: a file is not what the manifest says.
        ServeError: the export has no such file, or ONNX Runtime is not installed.
    """
    return _opened(directory, "onnx", int8, lambda path, entry: open_onnx(path, entry, threads))


def litert_signatures(directory: Path, threads: int, *, int8: bool = False) -> dict[str, Runner]:
    """Open what an export holds for LiteRT; see `onnx_signatures`.

    Args:
        threads: requests that are computed at once, each by an interpreter of its own.
    """
    return _opened(directory, "litert", int8, lambda path, entry: open_litert(path, entry, threads))


def _opened(
    directory: Path,
    runtime: str,
    int8: bool,
    opened: Callable[[Path, Mapping[str, Any]], Runner],
) -> dict[str, Runner]:
    from dlkit.export import read_manifest

    name = ENTRIES[runtime][int8]
    manifest = read_manifest(directory)
    entry = manifest.get("formats", {}).get(name)
    if entry is None:
        more = " --quantize int8" if int8 else ""
        raise ServeError(
            f"{directory} holds no model for {runtime}{' in int8' if int8 else ''}; make one with: "
            f"dlkit TASK export RUN --out DIR --format {runtime}{more}",
            "NOT_FOUND",
        )
    try:
        if entry["file"] not in manifest["files"]:
            listed = quoted(entry["file"])
            raise ServeError(f"{directory} is refused: its manifest lists no file {listed}")
        return {entry["endpoint"]: opened(directory / entry["file"], entry)}
    except (KeyError, TypeError, AttributeError):
        raise ServeError(
            f"{directory} is refused: its manifest does not say what {name} takes and gives"
        ) from None


def open_onnx(path: Path, entry: Mapping[str, Any], threads: int) -> Runner:
    """Open one ONNX file.

    Args:
        path: the file.
        entry: its `inputs`, `outputs` and perhaps `labels`, as the manifest has them.
        threads: see `onnx_signatures`.
    """
    runtime: Any = _module("onnxruntime", "onnx")
    check_onnx(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that spin between requests take the time of those that read and write them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a class of its own for each kind of fault
        raise ServeError(f"{path} cannot be opened by ONNX Runtime: {_first_line(error)}") from None
    outputs = [output.name for output in session.get_outputs()]
    names = [n if n in entry["outputs"] else n.removesuffix(CLASHING) for n in outputs]

    def ask(arrays: Arrays) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(outputs, dict(arrays)), strict=True))

    return _runner(entry, ask)


def open_litert(path: Path, entry: Mapping[str, Any], threads: int) -> Runner:
    """Open one LiteRT file; see `open_onnx`.

    An interpreter answers one request at a time: there are `threads` of them.
    """
    interpreter: Any = _module("ai_edge_litert.interpreter", "litert")
    check_litert(path)
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    try:
        for _ in range(threads):
            opened = interpreter.Interpreter(model_path=str(path), num_threads=1)
            free.put(opened.get_signature_runner())
    except (ValueError, RuntimeError) as error:
        raise ServeError(f"{path} cannot be opened by LiteRT: {_first_line(error)}") from None

    def ask(arrays: Arrays) -> dict[str, np.ndarray]:
        answer = free.get()
        try:
            return answer(**{name: np.ascontiguousarray(a) for name, a in arrays.items()})
        finally:
            free.put(answer)

    return _runner(entry, ask)


def _runner(entry: Mapping[str, Any], ask: Callable[[Arrays], dict[str, np.ndarray]]) -> Runner:
    """Return a runner whose `run` adds labels, answers no rows with none, and sorts by name."""
    inputs, outputs = _specs(entry["inputs"]), _specs(entry["outputs"])
    labels = np.array([label.encode() for label in entry.get("labels", ())] + [None], object)[:-1]

    def run(arrays: Arrays) -> dict[str, np.ndarray]:
        if any(len(array) == 0 for array in arrays.values()):
            kinds = {name: np.dtype(t["dtype"]) for name, t in _numeric(entry["outputs"]).items()}
            found = {
                name: np.zeros((0, *(size or 0 for size in (outputs[name].shape or ())[1:])), kind)
                for name, kind in kinds.items()
            }
        else:
            try:
                found = ask(arrays)
            except Exception as error:  # values of a shape that the graph does not take
                raise RequestError(_first_line(error)) from None
        if "label" in outputs and len(labels):
            found["label"] = labels[found["probabilities"].argmax(-1)]
        return {name: found[name] for name in sorted(outputs)}

    return Runner(inputs, outputs, run)


def _numeric(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name: t for name, t in tensors.items() if t["dtype"] != "string"}


def _specs(tensors: Mapping[str, Any]) -> dict[str, TensorSpec]:
    """Return specs of what a manifest says of tensors."""
    return {
        name: TensorSpec(
            SERVING_NAMES.get(str(t["dtype"]), str(t["dtype"])),
            tuple(None if size < 0 else size for size in t["shape"]),
        )
        for name, t in sorted(tensors.items())
    }


def _module(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = {"onnx": "onnxruntime", "litert": "ai-edge-litert"}[extra]
        raise ServeError(
            f"--runtime {extra}: {package} is not installed; pip install 'dlkit[{extra}]'"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
