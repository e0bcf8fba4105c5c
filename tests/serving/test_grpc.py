"""The gRPC interface, asked with the official stubs of `tensorflow-serving-api`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
from grpc_client import PREDICT, STATUS, Client, Code, request, tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    model_management_pb2,
    regression_pb2,
)

from dlkit.serving import grpc_api
from dlkit.serving.model import load_model
from dlkit.serving.servables import Servables
from dlkit.serving.service import Limits, Service

METADATA: Any = get_model_metadata_pb2  # generated code; pyright sees none of its classes
CLASSIFICATION: Any = classification_pb2
REGRESSION: Any = regression_pb2


@pytest.fixture(scope="module")
def service(every_type: Path, tools: Path, pictures: Path) -> Service:
    paths = {"every": every_type, "t": tools, "pic": pictures}
    servables = Servables(load_model(name, path) for name, path in paths.items())
    servables.label("t", {"stable": 10})
    servables.mark("t", 11, "END", "cut short", "OUT_OF_RANGE")
    return Service(servables, Limits(body=200_000, decompressed=100_000))


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    server = grpc_api.start(service, "127.0.0.1", 0)
    with Client(server.port) as client:
        yield client
    server.stop(0)


BOTH = {"left": np.array([[1, 2.5], [3, 4]], np.float32), "right": np.array([10, 20], np.int32)}
VALUES: dict[str, np.ndarray] = {
    "bool": np.array([True, False, True]),
    **{
        name: np.array([np.iinfo(name).min, 7, np.iinfo(name).max], name)
        for name in ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
    },
    "float16": np.array([0.1, -65504, np.inf], np.float16),
    "bfloat16": np.array([0.1, -3e38, np.inf], ml_dtypes.bfloat16),
    "float32": np.array([0.1, -3e38, np.inf], np.float32),
    "float64": np.array([0.1, -1e308, np.nan]),
    "string": np.array([b"", "zwölf".encode(), b"\xff\0"], object),
}


def test_predict(client: Client, png: Callable[[int], bytes]) -> None:
    found = client.predict("t", BOTH)
    assert found["total"].tolist() == [13.5, 27.0]
    assert found["raw_bytes"].tolist() == [b"10", b"20"]
    answer = client.predictions.Predict(request("t", BOTH, version=10), timeout=10)
    spec = answer.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("t", 10, "serving_default")
    assert answer.outputs["total"].float_val == [13.5, 27.0]  # the field, not `tensor_content`
    found = client.predict("t", BOTH, version_label="stable", outputs=["raw_bytes"])
    assert list(found) == ["raw_bytes"]
    labels = client.predict("pic", {"image": np.array([png(255), png(0)])}, outputs=["label"])
    assert labels["label"].tolist() == [b"light", b"dark"]
    pixels = {"pixels": np.full([1, 2, 2, 1], 255, np.uint8)}
    found = client.predict("pic", pixels, signature_name="from_pixels")
    assert found["probabilities"].tolist() == [[0.0, 1.0]]


def in_fields(array: np.ndarray) -> Any:
    """Return a TensorProto with a field for each value, as clients in other languages write it."""
    proto = tf.make_tensor_proto(array)
    empty = type(proto)(dtype=proto.dtype, tensor_shape=proto.tensor_shape)
    fields = {"bool": "bool_val", "string": "string_val", "float32": "float_val"}
    fields |= {"float64": "double_val", "float16": "half_val", "bfloat16": "half_val"}
    fields |= {name: f"{name}_val" for name in ("int64", "uint32", "uint64")}
    name = "string" if array.dtype == object else array.dtype.name
    bits = array.view(np.uint16) if fields.get(name) == "half_val" else array
    getattr(empty, fields.get(name, "int_val")).extend(bits.tolist())
    return empty


@pytest.mark.parametrize("write", [tf.make_tensor_proto, in_fields])
def test_every_type(client: Client, write: Callable[[np.ndarray], Any]) -> None:
    found = client.predict("every", {name: write(array) for name, array in VALUES.items()})
    for name, array in VALUES.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_the_last_value_stands_for_those_that_follow(client: Client) -> None:
    inputs = {name: in_fields(array[:1]) for name, array in VALUES.items()}
    inputs["string"].string_val.append(b"b")
    del inputs["int64"].int64_val[:]
    for proto in inputs.values():
        proto.tensor_shape.dim[0].size = 3
    found = client.predict("every", inputs)
    assert found["string"].tolist() == [b"", b"b", b"b"]
    assert found["int64"].tolist() == [0, 0, 0]
    assert found["bfloat16"].tolist() == VALUES["bfloat16"][:1].repeat(3).tolist()


def proto(dtype: Any = None, shape: Any = (2,), **fields: Any) -> Any:
    """Return a TensorProto of two int32, or something near it."""
    made = tf.make_tensor_proto(np.zeros(0, np.int32))
    made.dtype = tf.int32.as_datatype_enum if dtype is None else dtype
    made.tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
    for name, value in fields.items():
        if isinstance(value, bytes):
            setattr(made, name, value)
        else:
            getattr(made, name).extend(value)
    return made


LEFT = {"left": BOTH["left"]}
SIZE = "input size does not match signature: "
REFUSED: list[tuple[Any, Any, str]] = [
    (PREDICT.PredictRequest(), Code.INVALID_ARGUMENT, "Missing ModelSpec"),
    (request("no", BOTH), Code.NOT_FOUND, "Servable not found for request: Latest(no)"),
    (request("t", BOTH, version=2), Code.NOT_FOUND, "not found for request: Specific(t, 2)"),
    (request("t", BOTH, version_label="x"), Code.INVALID_ARGUMENT, "version label: x"),
    (request("t", BOTH, signature_name="x"), Code.FAILED_PRECONDITION, 'key "x" not found.'),
    (request("t", LEFT), Code.INVALID_ARGUMENT, SIZE + "1!=2 len({left}) != len({left,right}). Sent extra: {}. Missing but required: {right}."),
    (request("t", BOTH | {"x": 1}), Code.INVALID_ARGUMENT, "Sent extra: {x}. Missing but required: {}."),
    (request("t", BOTH, outputs=["x"]), Code.INVALID_ARGUMENT, "alias not found in signature: x Outputs expected to be in the set {raw_bytes,total}."),
    (request("t", BOTH, outputs=["total"] * 2), Code.INVALID_ARGUMENT, "duplicate output tensor alias: total"),
    (request("t", LEFT | {"right": np.zeros(2)}), Code.INVALID_ARGUMENT, "Expects input 'right' to be int32 but double is provided"),
    (request("t", LEFT | {"right": np.zeros((2, 1), np.int32)}), Code.INVALID_ARGUMENT, "has shape [2, 1] but expecting shape [-1]"),
    (request("t", LEFT | {"right": proto(99)}), Code.INVALID_ARGUMENT, "but unknown is provided"),
    (request("t", LEFT | {"right": proto(shape=None)}), Code.INVALID_ARGUMENT, "has no shape that is known"),
    (request("t", LEFT | {"right": proto(tensor_content=b"123")}), Code.INVALID_ARGUMENT, "does not hold the values of a int32 tensor of shape [2]"),
    (request("t", LEFT | {"right": proto(tensor_content=b"1234")}), Code.INVALID_ARGUMENT, "does not hold the values"),
    (request("t", LEFT | {"right": proto(int_val=[1, 2, 3])}), Code.INVALID_ARGUMENT, "does not hold the values"),
    (request("t", LEFT | {"right": proto(shape=(10**12,), int_val=[1])}), Code.RESOURCE_EXHAUSTED, "more than 100000 bytes"),
    (request("t", {"text": proto(tf.string.as_datatype_enum, tensor_content=b"ab")}, signature_name="echo"), Code.INVALID_ARGUMENT, "does not hold the values"),
    (request("pic", {"pixels": proto(tf.uint8.as_datatype_enum, (1, 2, 2, 1), int_val=[256])}, signature_name="from_pixels"), Code.INVALID_ARGUMENT, "does not hold the values of a uint8"),
    (request("pic", {"image": np.array([b"no picture"])}), Code.INVALID_ARGUMENT, "Unknown image file format"),
    (request("t", {"text": np.array([b"a" * 200_000])}, signature_name="echo"), Code.RESOURCE_EXHAUSTED, "larger than max"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "code", "words"), REFUSED)
def test_what_is_refused(client: Client, asked: Any, code: Any, words: str) -> None:
    with pytest.raises(grpc.RpcError) as told:
        client.predictions.Predict(asked, timeout=10)
    error: Any = told.value
    assert error.code() is code, error.details()
    assert words in error.details() and "\n" not in error.details()


def test_metadata_and_status(client: Client) -> None:
    asked = METADATA.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = "t"
    answer = client.predictions.GetModelMetadata(asked, timeout=10)
    signatures = METADATA.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("t", 10)
    left = signatures.signature_def["serving_default"].inputs["left"]
    assert (left.name, left.dtype) == ("serving_default_left:0", tf.float32.as_datatype_enum)
    assert [dim.size for dim in left.tensor_shape.dim] == [-1, 2]

    asked = STATUS.GetModelStatusRequest()
    asked.model_spec.name = "t"
    found = client.models.GetModelStatus(asked, timeout=10).model_version_status
    state = STATUS.ModelVersionStatus.State
    assert [(s.version, state.Name(s.state), s.status.error_message) for s in found] == [
        (11, "END", "cut short"),
        (10, "AVAILABLE", ""),
    ]
    assert [s.status.error_code for s in found] == [11, 0]  # OUT_OF_RANGE, OK
    asked.model_spec.version_label = "stable"
    assert len(client.models.GetModelStatus(asked, timeout=10).model_version_status) == 1
    for answer, words in (
        (lambda: client.models.GetModelStatus(STATUS.GetModelStatusRequest()), "Missing ModelSpec"),
        (
            lambda: client.predictions.GetModelMetadata(METADATA.GetModelMetadataRequest()),
            "must specify at least one metadata_field",
        ),
        (
            lambda: client.predictions.GetModelMetadata(
                METADATA.GetModelMetadataRequest(metadata_field=["x"])
            ),
            "Metadata field x is not supported",
        ),
    ):
        with pytest.raises(grpc.RpcError, match=words):
            answer()


def test_what_is_not_served(client: Client) -> None:
    management: Any = model_management_pb2
    inference: Any = inference_pb2
    for answer in (
        lambda: client.predictions.MultiInference(inference.MultiInferenceRequest(), timeout=10),
        lambda: client.models.HandleReloadConfigRequest(
            management.ReloadConfigRequest(), timeout=10
        ),
        lambda: client.channel.unary_unary("/tensorflow.serving.SessionService/SessionRun")(b""),
    ):
        with pytest.raises(grpc.RpcError) as told:
            answer()
        assert told.value.code() is Code.UNIMPLEMENTED
    path = "/tensorflow.serving.PredictionService/Predict"
    with pytest.raises(grpc.RpcError, match="Request is no PredictRequest"):
        client.channel.unary_unary(path)(b"\xff", timeout=10)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A foreign SavedModel that takes examples: an `x` each, doubled, or with two labels."""

    def double(inputs: Any) -> Any:
        feature = {"x": tf.io.FixedLenFeature([1], tf.float32)}
        return 2 * tf.io.parse_example(inputs, feature)["x"]  # (b, 1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def regress(inputs: Any) -> Any:
        return {"outputs": double(inputs)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(inputs: Any) -> Any:
        scores = tf.concat([double(inputs), -double(inputs)], -1)
        return {"classes": tf.tile([["up", "down"]], [tf.shape(scores)[0], 1]), "scores": scores}

    directory = tmp_path_factory.mktemp("examples")
    signatures = {"serving_default": regress, "classify": classify}
    tf.saved_model.save(tf.Module(), str(directory / "1"), signatures=signatures)
    return directory


def example(**features: float) -> Any:
    made = tf.train.Example()
    for name, value in features.items():
        made.features.feature[name].float_list.value.append(value)
    return made


def test_classify_and_regress(examples: Path) -> None:
    service = Service(Servables([load_model("e", examples)]))
    server = grpc_api.start(service, "127.0.0.1", 0)
    with Client(server.port) as client:
        asked = REGRESSION.RegressionRequest()
        asked.model_spec.name = "e"
        asked.input.example_list.examples.extend([example(x=1.5), example(x=-2)])
        answer = client.predictions.Regress(asked, timeout=10)
        assert [regression.value for regression in answer.result.regressions] == [3.0, -4.0]
        spec = answer.model_spec
        assert (spec.name, spec.version.value, spec.signature_name) == ("e", 1, "serving_default")

        asked = CLASSIFICATION.ClassificationRequest()
        asked.model_spec.name, asked.model_spec.signature_name = "e", "classify"
        shared = asked.input.example_list_with_context
        shared.context.CopyFrom(example(x=7))
        shared.examples.extend([example(x=1), example(y=0)])
        answer = client.predictions.Classify(asked, timeout=10)
        rows = [[(c.label, c.score) for c in r.classes] for r in answer.result.classifications]
        assert rows == [[("up", 2.0), ("down", -2.0)], [("up", 14.0), ("down", -14.0)]]

        for signature, given, words in (
            ("serving_default", [example(x=1)], "outputs to contain at least one of"),
            ("no", [example(x=1)], "No signature was found with the name: no"),
            ("classify", [example(y=1)], "Feature: x"),
            ("classify", [], "Input is empty."),
        ):
            asked = CLASSIFICATION.ClassificationRequest()
            asked.model_spec.name, asked.model_spec.signature_name = "e", signature
            asked.input.example_list.examples.extend(given)
            with pytest.raises(grpc.RpcError, match=words) as told:
                client.predictions.Classify(asked, timeout=10)
            assert told.value.code() is Code.INVALID_ARGUMENT
    server.stop(0)
    text = service.metrics.text().decode()
    assert 'latency_count{API="regress",entrypoint="GRPC",model_name="e"} 1.0' in text
