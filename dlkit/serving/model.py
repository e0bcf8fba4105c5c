"""An exported SavedModel, loaded and warmed for serving."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.errors import DlkitError, ServeError
from dlkit.runtime import load_tensorflow
from dlkit.serving.admit import admit, private_copy, refuse_foreign
from dlkit.serving.grpc_tensors import from_proto
from dlkit.serving.tensors import DTYPES, RequestError, TensorSpec
from dlkit.serving.text_edges import TOKENIZER, with_strings

logger = logging.getLogger("dlkit.serving")

WARM_UP = Path("assets.extra", "tf_serving_warmup_requests")
PREDICT = "tensorflow/serving/predict"
MAX_WARM_UP = 1000  # TensorFlow Serving's limit
MAX_WARM_UP_BYTES = 2**28  # of an input: a record of few may stand for many
WARM_UP_SECONDS = 5.0  # in which batches of growing size are tried
# TensorFlow's status code -> HTTP's, as TensorFlow Serving maps them; 500 for the others.
HTTP_STATUS = {3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400}
HTTP_STATUS |= {12: 501, 14: 503, 16: 401}


@dataclass(frozen=True, eq=False)
class Signature:
    """One endpoint of a model.

    Attributes:
        inputs: the input's specs by name.
        outputs: the output's specs by name.
        run: answers one request. It takes every input by name, of the types and shapes in `inputs`,
            and returns the outputs by name; strings are arrays of bytes objects. It may be called
            by several threads at once, and raises RequestError for values that the model refuses.
        method: what it is for: `tensorflow/serving/predict`, `.../classify` or `.../regress`.
        batchable: rows may be answered together: each input and output has a row for each, and no
            other dimension of an output varies.
    """

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    run: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
    method: str = PREDICT
    batchable: bool = False


def by_row(inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> bool:
    """Say whether an endpoint of these specs can answer the rows of several requests together."""

    def open_alone(spec: TensorSpec) -> bool:
        return bool(spec.shape) and spec.shape[0] is None and None not in spec.shape[1:]

    return all(s.shape and s.shape[0] is None for s in inputs.values()) and all(
        map(open_alone, outputs.values())
    )


def tensorflow_run(function: Callable[..., Mapping[str, Any]]) -> Any:
    """Return `Signature.run` of a SavedModel's concrete function.

    Its RequestError has the status that TensorFlow Serving gives TensorFlow's.
    """
    tf = load_tensorflow()

    def run(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            tensors = {
                # The type is said for strings alone: of an empty object array none can be guessed.
                name: tf.constant(array, tf.string if array.dtype == object else None)
                for name, array in arrays.items()
            }
            outputs = function(**tensors)
            return {name: _to_numpy(outputs[name]) for name in sorted(outputs)}
        except tf.errors.OpError as error:
            status = HTTP_STATUS.get(error.error_code, 500)
            raise RequestError(_reason(error.message), status) from None

    return run


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model that answers.

    `metadata` is TensorFlow Serving's `{"signature_def": ...}`, `manifest` what dlkit wrote
    beside the model (None for a foreign one), `example` one request for `serving_default` where
    there were warm-up requests. `engine` is what runs it, see `load_version`, `tokenizer` the JSON
    of a text generator's.
    """

    name: str
    version: int
    path: Path
    signatures: dict[str, Signature]
    metadata: dict[str, Any]
    manifest: dict[str, Any] | None
    example: dict[str, np.ndarray] | None
    loaded: Any  # the variables live as long as this does
    engine: str = "tensorflow"
    tokenizer: str | None = None


def find_version(directory: Path) -> Path:
    """Return the SavedModel of the highest version in an exported directory.

    Looks at names alone, so that a mistake is told before TensorFlow is loaded.

    Raises:
        ServeError: no such directory, no version in it, or one that is no SavedModel.
    """
    if directory.is_file():
        refuse_foreign(directory)
    if not directory.is_dir():
        raise ServeError(f"no such directory: {directory}")
    versions = [path for path in directory.iterdir() if re.fullmatch("[0-9]+", path.name)]
    if not versions:
        refuse_foreign(directory)
        hint = "; give the directory above it" if (directory / "saved_model.pb").exists() else ""
        raise ServeError(f"{directory} is no export: it holds no version such as 1/{hint}")
    path = max(versions, key=lambda path: int(path.name))
    if not (path / "saved_model.pb").is_file():
        refuse_foreign(path)
        raise ServeError(f"{path} is not a SavedModel: it holds no saved_model.pb")
    return path


def load_model(name: str, directory: Path, **options: Any) -> ServedModel:
    """Load the highest version in `directory`; see `load_version`."""
    return load_version(name, find_version(directory), **options)


def load_version(
    name: str,
    path: Path,
    version: int | None = None,
    *,
    engine: str = "tensorflow",
    threads: int = 1,
    batch: int = 1,
    require_manifest: bool = False,
) -> ServedModel:
    """Load one version of a model and warm it, with its recorded requests where there are such.

    Args:
        name: the model's.
        path: the version's folder.
        version: the number to serve it as; that of the folder unless given.
        engine: `tensorflow` runs the SavedModel; `onnx`, `onnx-int8`, `litert` and `litert-int8`
            run what the export holds for them, and load no TensorFlow.
        threads: of an engine other than TensorFlow, whose threads are the process's.
        batch: rows up to which batches are warmed.
        require_manifest: whether a model that does not come from dlkit is refused. What is
            checked is then a copy that nobody else can change, and so is what is loaded.
    Raises:
        RunError: a file is not what the manifest says.
        ServeError: not a SavedModel, a broken one, one that `admit` refuses, one without
            signatures, or a warm-up request that fails.
    """
    version = int(path.name) if version is None else version
    logger.info("%s: loading %s", name, path)
    if not require_manifest:
        return _loaded(name, path, version, admit(path), engine, threads, batch)
    with private_copy(path) as copy:
        try:
            manifest = admit(copy, require_manifest=True)
            model = _loaded(name, copy, version, manifest, engine, threads, batch)
        except DlkitError as error:
            error.args = (str(error).replace(str(copy), str(path)),)
            raise
    return replace(model, path=path)


def _loaded(
    name: str,
    path: Path,
    version: int,
    manifest: dict[str, Any] | None,
    engine: str,
    threads: int,
    batch: int,
) -> ServedModel:
    """Load what was admitted; nothing of it is read later."""
    if engine != "tensorflow":
        signatures = _of_engine(path, engine, threads)
        _warm_zeros(signatures, batch)
        metadata = {"signature_def": {k: _described(s) for k, s in sorted(signatures.items())}}
        return ServedModel(
            name, version, path, signatures, metadata, manifest, None, None, engine=engine
        )
    tf = load_tensorflow()
    from google.protobuf.json_format import MessageToDict
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        graph = next((g for g in saved.meta_graphs if "serve" in g.meta_info_def.tags), None)
        if graph is None:
            raise ServeError(f"{path} holds no graph with the tag serve", "NOT_FOUND")
        loaded = tf.saved_model.load(str(path), tags=list(graph.meta_info_def.tags))
        functions = dict(loaded.signatures)
    except ServeError:
        raise
    except Exception as error:  # TensorFlow raises nearly anything for a file that is cut short
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ServeError(f"{path} cannot be loaded as a SavedModel: {reason}") from error
    if not functions:
        raise ServeError(f"{path} has no signatures to serve")

    described = {
        key: MessageToDict(
            definition,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        for key, definition in sorted(graph.signature_def.items())
    }
    signatures = {
        key: _signature(described[key], function, manifest is not None)
        for key, function in sorted(functions.items())
    }
    example = _warm_up(name, path, signatures, batch)
    tokenizer = None
    if manifest is not None and "tokenizer" in manifest and (path / TOKENIZER).is_file():
        tokenizer = (path / TOKENIZER).read_text(encoding="utf-8")
    if manifest is not None and manifest.get("tokenizer") == "bpe":
        with_strings(path, signatures, described)
        example = None  # it holds tokens
    metadata = {"signature_def": described}
    return ServedModel(
        name, version, path, signatures, metadata, manifest, example, loaded, tokenizer=tokenizer
    )


def _of_engine(path: Path, engine: str, threads: int) -> dict[str, Signature]:
    """Open what an export holds for another runtime."""
    from dlkit.serving import engines

    runtime, _, int8 = engine.partition("-")
    opened = engines.onnx_signatures if runtime == "onnx" else engines.litert_signatures
    return {
        name: Signature(r.inputs, r.outputs, r.run, batchable=by_row(r.inputs, r.outputs))
        for name, r in opened(path, threads, int8=bool(int8)).items()
    }


def _warm_zeros(signatures: Mapping[str, Signature], batch: int) -> None:
    """Run each endpoint on zeros, in batches of growing size where it answers such."""
    until = time.monotonic() + WARM_UP_SECONDS
    for signature in signatures.values():
        rows = 1
        while rows <= (batch if signature.batchable else 1) and time.monotonic() < until:
            arrays = {
                name: np.zeros(
                    [size or 1 for size in (None, *(spec.shape or ())[1:])], DTYPES[spec.dtype]
                )
                for name, spec in signature.inputs.items()
            }
            signature.run({name: _rows(array, rows) for name, array in arrays.items()})
            rows *= 2


def _described(signature: Signature) -> dict[str, Any]:
    """Return what TensorFlow's `SignatureDef` of these specs says, as JSON has it."""

    def tensors(specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
        return {
            name: {
                "dtype": f"DT_{spec.dtype.upper()}",
                "tensor_shape": {
                    "dim": [
                        {"size": str(-1 if size is None else size), "name": ""}
                        for size in spec.shape or ()
                    ],
                    "unknown_rank": spec.shape is None,
                },
                "name": name,
            }
            for name, spec in specs.items()
        }

    found = {"inputs": tensors(signature.inputs), "outputs": tensors(signature.outputs)}
    return {**found, "method_name": signature.method, "defaults": {}}


def _signature(
    described: Mapping[str, Any], function: Callable[..., Mapping[str, Any]], ours: bool
) -> Signature:
    inputs, outputs = _specs(described["inputs"]), _specs(described["outputs"])
    # What a foreign model makes of a row may hang on the rows beside it.
    batchable = ours and by_row(inputs, outputs)
    method = described["method_name"] or PREDICT
    return Signature(inputs, outputs, tensorflow_run(function), method, batchable)


def _specs(tensors: Mapping[str, Any]) -> dict[str, TensorSpec]:
    """Read the specs of a signature's inputs or outputs from its metadata."""
    specs = {}
    for name, tensor in sorted(tensors.items()):
        shape = tensor["tensor_shape"]
        sizes = [int(dim["size"]) for dim in shape["dim"]]
        specs[name] = TensorSpec(
            tensor["dtype"].removeprefix("DT_").lower(),
            None if shape["unknown_rank"] else tuple(None if s < 0 else s for s in sizes),
        )
    return specs


def _warm_up(
    name: str, path: Path, signatures: Mapping[str, Signature], batch: int
) -> dict[str, np.ndarray] | None:
    """Replay the recorded requests; return the first for `serving_default`.

    Each endpoint that answers in batches also runs those of 2, 4, 8 ... rows, as `Batcher` joins
    them, for some seconds.
    """
    if not (path / WARM_UP).is_file():
        logger.info("%s: no warm-up requests; its first answer will be slow", name)
        return None
    tf = load_tensorflow()
    from tensorflow_serving.apis import prediction_log_pb2

    protobuf: Any = prediction_log_pb2  # generated code; pyright sees none of its classes

    example = None
    count = 0
    batched: set[str] = set()
    until = time.monotonic() + WARM_UP_SECONDS
    try:
        for record in tf.data.TFRecordDataset(str(path / WARM_UP)).take(MAX_WARM_UP):
            log = protobuf.PredictionLog.FromString(record.numpy())
            if not log.HasField("predict_log"):
                continue  # classify, regress and the rest are not served here
            request = log.predict_log.request
            signature = request.model_spec.signature_name or "serving_default"
            specs = signatures[signature].inputs
            arrays = {
                key: from_proto(key, value, specs[key], MAX_WARM_UP_BYTES)
                for key, value in request.inputs.items()
            }
            signatures[signature].run(arrays)
            count += 1
            if signatures[signature].batchable and signature not in batched:
                batched.add(signature)
                rows = 2
                while rows <= batch and time.monotonic() < until:
                    signatures[signature].run({k: _rows(a, rows) for k, a in arrays.items()})
                    rows *= 2
            if signature == "serving_default" and example is None:
                example = arrays
    except Exception as error:  # a foreign file may hold anything; none of it is fit to serve
        reason = str(error).strip().partition("\n")[0]
        kind = type(error).__name__
        raise ServeError(
            f"warm-up request {count + 1} of {name} fails: {kind}: {reason}"
        ) from error
    logger.info("%s: replayed %d warm-up requests", name, count)
    return example


def _rows(array: np.ndarray, rows: int) -> np.ndarray:
    """Repeat the first row of an array."""
    return np.repeat(array[:1], rows, axis=0)


def _to_numpy(tensor: Any) -> np.ndarray:
    array = tensor.numpy()  # a scalar string comes as bytes
    return np.array(array, object) if isinstance(array, bytes) else np.asarray(array)


def _reason(message: str) -> str:
    """Return the one line of TensorFlow's error message that says what is wrong."""
    # "Graph execution error: ... stack ...\nREASON\n\t [[{{node NAME}}]] [Op:NAME]"
    before = message.partition("\n\t [[")[0].rstrip()
    line = before.rpartition("\n")[2]
    return re.sub(r"^\s*\(\d+\) [A-Z_]+:\s*|\s*\[Op:[^\]]*\]$", "", line)
