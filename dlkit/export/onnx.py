"""ONNX: an endpoint converted by tf2onnx, and quantised by ONNX Runtime."""

from __future__ import annotations

import functools
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.errors import OptionError, one_of
from dlkit.runtime import silent_stderr
from dlkit.serving.engines import CLASHING

# The newest that tf2onnx 1.17 writes.
OPSET = 18
Rows = dict[str, np.ndarray]


def convert(function: Any, path: Path, labels: Sequence[str]) -> None:
    """Write a traced function as an ONNX file whose batch may be of any size.

    Args:
        function: a `tf.function` with an input signature; its outputs have names, none is a string.
        path: the file. An output that an input shares its name with has `CLASHING` behind it there.
        labels: kept in the file's metadata under `labels`, as JSON, where there are any.
    Raises:
        OptionError: the graph has an operation that ONNX lacks.
    """
    import onnx
    import tf2onnx

    add_operations()
    logger = logging.getLogger("tf2onnx")
    before, told, model = logger.level, "", None
    logger.setLevel(logging.CRITICAL)  # what is missing is told below, once
    with silent_stderr():  # TensorFlow's optimiser of graphs names the devices
        try:
            model, _ = tf2onnx.convert.from_function(
                apart(function), input_signature=function.input_signature, opset=OPSET
            )
        except Exception as error:  # its rewriters raise nearly anything
            told = (str(error).strip() or type(error).__name__).splitlines()[0]
    logger.setLevel(before)
    if model is None:
        raise OptionError(f"--format onnx: tf2onnx cannot convert this model: {told}")
    missing = {
        node.op_type
        for node in nodes(model.graph)
        if not onnx.defs.has(node.op_type, OPSET, node.domain)
    }
    if missing:
        raise OptionError(
            f"--format onnx: ONNX has nothing for this model's {one_of(missing)}; "
            "accepted: saved-model"
        )
    # A table of strings that the endpoint also holds becomes an input that nothing uses.
    wanted = {spec.name for spec in function.input_signature}
    kept = [given for given in model.graph.input if given.name in wanted]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    if labels:
        entry = model.metadata_props.add()
        entry.key, entry.value = "labels", json.dumps(list(labels))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def apart(function: Any) -> Any:
    """Return a function whose outputs have other names than its inputs, which ONNX asks for."""
    import tensorflow as tf

    inputs = {spec.name for spec in function.input_signature}

    def renamed(*given: Any) -> dict[str, Any]:
        answers = function(*given)
        return {f"{k}{CLASHING}" if k in inputs else k: v for k, v in answers.items()}

    return tf.function(renamed, input_signature=function.input_signature)


def quantise(source: Path, path: Path, rows: Rows) -> None:
    """Write an ONNX file with weights and activations of 8 bits.

    Weights are symmetric, of each channel alone, and of 7 bits: where a CPU multiplies bytes without
    VNNI, products of 8 bits would overflow the 16 that their pairs are added in. Activations are
    scaled by the extremes that the given rows cause.

    Args:
        source: the float file.
        path: the new file.
        rows: raw rows to calibrate on, by input name.
    Reference:
        Jacob et al. 2018, arXiv:1712.05877; per-channel as in Krishnamoorthi 2018,
        arXiv:1806.08342, section 3.1.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = batches(rows)

        def get_next(self) -> Any:
            return next(self.left, None)

    with tempfile.TemporaryDirectory(prefix="dlkit-onnx-") as folder:
        prepared = Path(folder, "prepared.onnx")
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def batches(rows: Rows, size: int = 32) -> Iterator[Rows]:
    """Yield rows in batches."""
    count = len(next(iter(rows.values())))
    for at in range(0, count, size):
        yield {name: array[at : at + size] for name, array in rows.items()}


def nodes(graph: Any) -> Iterator[Any]:
    """Yield every node of a graph, those within its loops and branches too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes(inner)


@functools.cache
def add_operations() -> None:
    """Teach tf2onnx what it lacks of our models' operations: `Erfc`, which Keras's GELU is made of."""
    from tf2onnx.handler import tf_op
    from tf2onnx.utils import make_name, map_onnx_to_numpy_type

    @tf_op("Erfc")
    class Erfc:
        @classmethod
        def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
            """Write `1 - erf(x)`."""
            shape, kind = ctx.get_shape(node.output[0]), ctx.get_dtype(node.output[0])
            inputs, outputs = list(node.input), list(node.output)
            ctx.remove_node(node.name)
            erf = ctx.make_node("Erf", inputs, shapes=[shape], dtypes=[kind])
            one = ctx.make_const(make_name("one"), np.array(1, map_onnx_to_numpy_type(kind)))
            ctx.make_node(
                "Sub",
                [one.output[0], erf.output[0]],
                outputs=outputs,
                shapes=[shape],
                dtypes=[kind],
            )
