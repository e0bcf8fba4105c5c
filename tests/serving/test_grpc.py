"""The gRPC interface, asked with the official stubs of `tensorflow-serving-api`."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dlkit.errors import ServeError
from dlkit.runtime import load_tensorflow
from dlkit.serving import grpc_api
from dlkit.serving.batching import Batching
from dlkit.serving.model import ServedModel, Signature, load_model
from dlkit.serving.servables import Servables
from dlkit.serving.service import Limits, Service
from dlkit.serving.tensors import TensorSpec

tf = load_tensorflow()

from tensorflow_serving.apis import (  # noqa: E402
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

Code = grpc.StatusCode
PREDICT: Any = predict_pb2  # generated code; pyright sees none of its classes
STATUS: Any = get_model_status_pb2
METADATA: Any = get_model_metadata_pb2
HEALTH: Any = health_pb2
CLASSIFICATION: Any = classification_pb2
REGRESSION: Any = regression_pb2


class Client:
    """The stubs of one channel."""

    def __init__(self, port: int, **options: Any) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", **options)
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.health: Any = health_pb2_grpc.HealthStub(self.channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: Any) -> None:
        self.channel.close()

    def predict(self, model: str, inputs: Mapping[str, Any], **more: Any) -> dict[str, np.ndarray]:
        answer = self.predictions.Predict(request(model, inputs, **more), timeout=10)
        return {name: tf.make_ndarray(proto) for name, proto in answer.outputs.items()}


def request(model: str, inputs: Mapping[str, Any], **more: Any) -> Any:
    """Return a PredictRequest; an input is a TensorProto, or an array to be made one."""
    made = PREDICT.PredictRequest(output_filter=more.pop("outputs", []))
    made.model_spec.name = model
    for key, value in more.items():
        if key == "version":
            made.model_spec.version.value = value
        else:
            setattr(made.model_spec, key, value)
    for name, value in inputs.items():
        is_proto = isinstance(value, tf.make_tensor_proto(1).__class__)
        made.inputs[name].CopyFrom(value if is_proto else tf.make_tensor_proto(value))
    return made


@pytest.fixture(scope="module")
def service(every_type: Path, tools: Path, pictures: Path) -> Service:
    paths = {"every": every_type, "t": tools, "pic": pictures}
    servables = Servables(load_model(name, path) for name, path in paths.items())
    servables.label("t", {"stable": 10})
    servables.mark("t", 11, "END", "cut short")
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
    assert [s.status.error_code for s in found] == [2, 0]  # UNKNOWN, OK
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


def slow_service(went: threading.Event, **more: Any) -> Service:
    def wait(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        went.wait(5)
        if arrays["x"][0] < 0:
            raise ValueError("SECRET")
        return {"y": arrays["x"]}

    tensor = TensorSpec("float", (None,))
    signature = Signature({"x": tensor}, {"y": tensor}, wait, batchable=True)
    model = ServedModel(
        "slow", 1, Path(), {"serving_default": signature}, {"signature_def": {}}, None, None, None
    )
    return Service(Servables([model]), **more)


def test_deadlines_limits_and_counters(caplog: pytest.LogCaptureFixture) -> None:
    went = threading.Event()
    service = slow_service(
        went, limits=Limits(concurrency=3, rows=2), batching=Batching(max_queue=1, max_batch=1)
    )
    server = grpc_api.start(service, "127.0.0.1", 0)
    with Client(server.port) as client:

        def ask(*values: float, timeout: float = 10.0) -> Any:
            asked = request("slow", {"x": np.array(values, np.float32)})
            future = client.predictions.Predict.future(asked, timeout=timeout)
            time.sleep(0.1)
            return future

        running = ask(1)
        late = ask(2, timeout=0.15)
        full = ask(3)
        assert full.exception().code() is Code.UNAVAILABLE
        assert late.exception().code() is Code.DEADLINE_EXCEEDED
        time.sleep(0.1)
        assert service.metrics.registry.get_sample_value("dlkit_serving_requests_in_flight") == 1
        went.set()
        assert running.result().outputs["y"].float_val == [1.0]
        assert ask(4).result().outputs["y"].float_val == [4.0]
        assert ask(1, 2, 3).exception().code() is Code.INVALID_ARGUMENT
        went.clear()
        crowd = [ask(n) for n in range(4)]
        assert client.health.Check(HEALTH.HealthCheckRequest(), timeout=5).status == 1
        went.set()
        codes = [future.exception() and future.exception().code() for future in crowd]
        assert codes == [None, None, Code.UNAVAILABLE, Code.UNAVAILABLE]
        error = ask(-1).exception()
        assert (error.code(), error.details()) == (Code.INTERNAL, "Internal error: ValueError")
    server.stop(1)
    assert "SECRET" not in caplog.text
    text = service.metrics.text().decode()
    assert ':request_count{model_name="slow",status="UNAVAILABLE"} ' in text
    assert 'count{API="predict",entrypoint="GRPC",model_name="slow"}' in text


def test_keys() -> None:
    service = slow_service(threading.Event())
    server = grpc_api.start(service, "127.0.0.1", 0, ["first", "second"])
    with Client(server.port) as client:
        asked = STATUS.GetModelStatusRequest()
        asked.model_spec.name = "slow"
        for metadata in ((("authorization", "Bearer second"),), (("x-api-key", "first"),)):
            client.models.GetModelStatus(asked, timeout=10, metadata=metadata)
        for metadata in ((), (("x-api-key", "third"),), (("authorization", "first"),)):
            with pytest.raises(grpc.RpcError) as told:
                client.models.GetModelStatus(asked, timeout=10, metadata=metadata)
            assert told.value.code() is Code.UNAUTHENTICATED
        assert client.health.Check(HEALTH.HealthCheckRequest(), timeout=5).status == 1
    server.stop(0)


def test_crowd_and_drain() -> None:
    went = threading.Event()
    service = slow_service(went, limits=Limits(concurrency=1))
    server = grpc_api.start(service, "127.0.0.1", 0)
    with Client(server.port) as client:
        health = HEALTH.HealthCheckRequest(service="tensorflow.serving.PredictionService")
        assert client.health.Check(health, timeout=5).status == HEALTH.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as told:
            client.health.Check(HEALTH.HealthCheckRequest(service="no"), timeout=5)
        assert told.value.code() is Code.NOT_FOUND
        asked = request("slow", {"x": np.array([1], np.float32)})
        accepted = client.predictions.Predict.future(asked, timeout=10)
        time.sleep(0.1)
        with pytest.raises(grpc.RpcError, match="Too many requests at once") as told:
            client.predictions.Predict(asked, timeout=5)
        assert told.value.code() is Code.RESOURCE_EXHAUSTED
        service.draining = True
        state = client.health.Check(health, timeout=5).status
        assert state == HEALTH.HealthCheckResponse.NOT_SERVING
        stopping = threading.Thread(target=server.stop, args=(5,))
        stopping.start()
        time.sleep(0.1)
        went.set()
        assert accepted.result().outputs["y"].float_val == [1.0]
        stopping.join(5)
        assert not stopping.is_alive()
        with pytest.raises(grpc.RpcError) as told:
            client.predictions.Predict(asked, timeout=5)
        assert told.value.code() is Code.UNAVAILABLE


def test_ports() -> None:
    service = slow_service(threading.Event())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"port {port} on .* in use; .* with --grpc-port"):
            grpc_api.start(service, "127.0.0.1", port)
    with pytest.raises(ServeError, match=r"host no.such.host is not known"):
        grpc_api.start(service, "no.such.host", 0)
    one = grpc_api.start(service, "127.0.0.1", port, shared=True)
    two = grpc_api.start(service, "127.0.0.1", port, shared=True)
    assert one.port == two.port == port
    with pytest.raises(ServeError, match="in use"):
        grpc_api.start(service, "127.0.0.1", port)
    one.stop(0)
    two.stop(0)
