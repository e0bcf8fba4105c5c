"""TensorFlow Serving's PredictionService and ModelService over gRPC; see `grpc_health` for Health.

By `prediction_service.proto` and `model_service.proto`; words and codes of the errors are those of
Serving's `predict_util.cc`, `classifier.cc`, `regressor.cc`, `get_model_metadata_impl.cc` and
`get_model_status_impl.cc`. Not served: MultiInference, and HandleReloadConfigRequest, since the
server is told what to serve when it starts.

Importing this loads TensorFlow, whose protos the messages hold.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

import grpc
import numpy as np
from google.protobuf import empty_pb2, json_format
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
    regression_pb2,
)

from dlkit.serving import classify as examples
from dlkit.serving.grpc_api import CODES, Code, Method
from dlkit.serving.grpc_health import HEALTH, check
from dlkit.serving.grpc_tensors import from_proto, to_proto
from dlkit.serving.model import ServedModel
from dlkit.serving.rest import DEFAULT_SIGNATURE
from dlkit.serving.service import Service
from dlkit.serving.tensors import QUOTED, RequestError
from dlkit.serving.v2_tensors import objects

# Generated code; pyright sees none of its classes.
PREDICT: Any = predict_pb2
CLASSIFICATION: Any = classification_pb2
REGRESSION: Any = regression_pb2
METADATA: Any = get_model_metadata_pb2
STATUS: Any = get_model_status_pb2
EMPTY: Any = empty_pb2
ERRORS: Any = error_codes_pb2

PREDICTION = "/tensorflow.serving.PredictionService/"
MODEL = "/tensorflow.serving.ModelService/"


def methods(service: Service) -> dict[str, Method]:
    """Return what is answered, by path."""
    served = {
        PREDICTION + "Predict": Method(PREDICT.PredictRequest, partial(predict, service)),
        PREDICTION + "GetModelMetadata": Method(
            METADATA.GetModelMetadataRequest, partial(metadata, service)
        ),
        MODEL + "GetModelStatus": Method(STATUS.GetModelStatusRequest, partial(status, service)),
        PREDICTION + "Classify": Method(
            CLASSIFICATION.ClassificationRequest, partial(classify, service)
        ),
        PREDICTION + "Regress": Method(REGRESSION.RegressionRequest, partial(regress, service)),
        "/grpc.health.v1.Health/Check": Method(HEALTH.HealthCheckRequest, partial(check, service)),
    }
    for path in (PREDICTION + "MultiInference", MODEL + "HandleReloadConfigRequest"):
        served[path] = Method(EMPTY.Empty, partial(refuse, path))
    return served


def refuse(path: str, request: Any, context: grpc.ServicerContext) -> Any:
    """Raise RequestError: the method is not served."""
    raise RequestError(f"{path.rpartition('/')[2]} is not served over gRPC", 501)


def predict(service: Service, request: Any, context: grpc.ServicerContext) -> Any:
    """Answer PredictionService.Predict.

    Raises:
        RequestError: what is asked for does not fit the model.
        CancelledError: the client left before its request was run.
    """
    with counted(service, request, "predict") as model:
        wanted = request.model_spec.signature_name or DEFAULT_SIGNATURE
        signature = model.signatures.get(wanted)
        if signature is None:
            raise RequestError(f'Serving signature key "{wanted[:QUOTED]}" not found.', 412)
        given, taken = set(request.inputs), set(signature.inputs)
        if given != taken:
            raise RequestError(
                f"input size does not match signature: {len(given)}!={len(taken)} "
                f"len({_braced(given)}) != len({_braced(taken)}). Sent extra: "
                f"{_braced(given - taken)}. Missing but required: {_braced(taken - given)}."
            )
        outputs = _wanted_outputs(request.output_filter, signature.outputs)
        most = service.limits.decompressed
        arrays = {
            key: from_proto(key, request.inputs[key], spec, most)
            for key, spec in signature.inputs.items()
        }
        found = run(service, context, model, wanted, arrays)
        answer = PREDICT.PredictResponse()
        for key in outputs:
            to_proto(found[key], answer.outputs[key])
        _fill(answer.model_spec, model, wanted)
        return answer


def classify(service: Service, request: Any, context: grpc.ServicerContext) -> Any:
    """Answer PredictionService.Classify; see `predict`."""
    answer = CLASSIFICATION.ClassificationResponse()
    with counted(service, request, "classify") as model:
        found, count = _of_examples(service, request, context, model, "classify", answer)
        for labels, scores in zip(*examples.labels_and_scores(found, count), strict=True):
            row = answer.result.classifications.add()
            for label, score in zip(labels, scores.tolist(), strict=True):
                row.classes.add(label=label.decode("utf-8", "replace"), score=score)
    return answer


def regress(service: Service, request: Any, context: grpc.ServicerContext) -> Any:
    """Answer PredictionService.Regress; see `predict`."""
    answer = REGRESSION.RegressionResponse()
    with counted(service, request, "regress") as model:
        found, count = _of_examples(service, request, context, model, "regress", answer)
        for value in examples.regressions(found, count).tolist():
            answer.result.regressions.add(value=value)
    return answer


def _of_examples(
    service: Service,
    request: Any,
    context: grpc.ServicerContext,
    model: ServedModel,
    verb: str,
    answer: Any,
) -> tuple[dict[str, np.ndarray], int]:
    """Return the outputs for a request's examples, and how many there are."""
    wanted = request.model_spec.signature_name or DEFAULT_SIGNATURE
    examples.check_signature(verb, wanted, model.signatures.get(wanted))
    given = request.input
    shared = b""
    if given.HasField("example_list_with_context"):
        given = given.example_list_with_context
        # Messages one after the other are one message that holds the fields of both.
        shared = given.context.SerializeToString()
    else:
        given = given.example_list
    rows = [shared + example.SerializeToString() for example in given.examples]
    if not rows:
        raise RequestError("Input is empty.")
    _fill(answer.model_spec, model, wanted)
    arrays = {examples.INPUT: objects(rows)}
    return run(service, context, model, wanted, arrays), len(rows)


def run(
    service: Service,
    context: grpc.ServicerContext,
    model: ServedModel,
    signature: str,
    arrays: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Return a request's outputs; the call's deadline is the request's.

    Raises:
        RequestError: see `Service.submit` and `Batcher.submit`.
        CancelledError: the client left before its request was run.
    """
    future = service.submit(model, signature, arrays, context.time_remaining())

    def leave() -> None:
        future.cancel()

    if not context.add_callback(leave):
        leave()  # the client is gone already
    return future.result()


@contextlib.contextmanager
def counted(service: Service, request: Any, api: str) -> Iterator[ServedModel]:
    """Find the model that a request is for, and count the request with the code of its answer.

    Raises:
        RequestError: there is none; nothing is counted.
    """
    began = time.perf_counter()
    model = find(service, request)
    code = Code.INTERNAL
    try:
        yield model
        code = Code.OK
    except RequestError as error:
        code = CODES.get(error.status, Code.UNKNOWN)
        raise
    except CancelledError:
        code = Code.CANCELLED
        raise
    finally:
        seconds = time.perf_counter() - began
        service.metrics.request(model.name, api, "GRPC", code.name, seconds)


def _wanted_outputs(asked: Any, known: Any) -> list[str]:
    outputs = list(asked) or list(known)
    for name in outputs:
        if name not in known:
            raise RequestError(
                f"output tensor alias not found in signature: {name[:QUOTED]} Outputs expected to "
                f"be in the set {_braced(known)}."
            )
    if len(set(outputs)) < len(outputs):
        twice = next(name for name in outputs if outputs.count(name) > 1)
        raise RequestError(f"duplicate output tensor alias: {twice}")
    return outputs


def metadata(service: Service, request: Any, context: grpc.ServicerContext) -> Any:
    """Answer PredictionService.GetModelMetadata.

    Raises:
        RequestError: no such model, or another field than `signature_def`.
    """
    if not request.metadata_field:
        raise RequestError("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != "signature_def":
            raise RequestError(f"Metadata field {field[:QUOTED]} is not supported")
    model = find(service, request)
    described = json_format.ParseDict(model.metadata, METADATA.SignatureDefMap())
    answer = METADATA.GetModelMetadataResponse()
    answer.metadata["signature_def"].Pack(described)
    _fill(answer.model_spec, model)
    return answer


def status(service: Service, request: Any, context: grpc.ServicerContext) -> Any:
    """Answer ModelService.GetModelStatus.

    Raises:
        RequestError: no such model or version.
    """
    if not request.HasField("model_spec"):
        raise RequestError("Missing ModelSpec")
    spec = request.model_spec
    version = spec.version.value if spec.HasField("version") else None
    if spec.HasField("version_label"):
        version = find(service, request).version
    answer = STATUS.GetModelStatusResponse()
    for state in service.servables.states(spec.name, version):
        entry = answer.model_version_status.add(version=state.version)
        entry.state = STATUS.ModelVersionStatus.State.Value(state.state)
        entry.status.error_code = ERRORS.Code.Value(state.code)
        entry.status.error_message = state.error
    return answer


def find(service: Service, request: Any) -> ServedModel:
    """Return the version that a request's `model_spec` means.

    Raises:
        RequestError: there is none.
    """
    if not request.HasField("model_spec"):
        raise RequestError("Missing ModelSpec")
    spec = request.model_spec
    version = spec.version.value if spec.HasField("version") else None
    label = spec.version_label if spec.HasField("version_label") else None
    return service.servables.find(spec.name, version, label)


def _fill(spec: Any, model: ServedModel, signature: str = "") -> None:
    spec.name = model.name
    spec.version.value = model.version
    spec.signature_name = signature


def _braced(names: Any) -> str:
    text = ",".join(sorted(names))
    return "{" + (text if len(text) <= 4 * QUOTED else text[: 4 * QUOTED] + "...") + "}"
