"""Warm-up requests in the form that TensorFlow Serving replays before it is ready."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

WARMUP = "assets.extra/tf_serving_warmup_requests"


def write_warmup(target: Path, rows: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write one PredictionLog an endpoint.

    Args:
        target: the SavedModel's folder.
        rows: one row by endpoint and input name.
    """
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    path = target / WARMUP
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for endpoint, inputs in rows.items():
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = endpoint
            for name, value in inputs.items():
                tensor = value.tolist() if value.dtype == object else value
                request.inputs[name].CopyFrom(tf.make_tensor_proto(tensor))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())
