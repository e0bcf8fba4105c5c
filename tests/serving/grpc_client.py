"""A client of the gRPC interface, made of the official stubs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dlkit.runtime import load_tensorflow

tf = load_tensorflow()

from tensorflow_serving.apis import (  # noqa: E402
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

Code = grpc.StatusCode
PREDICT: Any = predict_pb2  # generated code; pyright sees none of its classes
STATUS: Any = get_model_status_pb2
HEALTH: Any = health_pb2


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
