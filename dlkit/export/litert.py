"""LiteRT, which was TensorFlow Lite: an endpoint converted, and quantised, by TensorFlow itself."""

from __future__ import annotations

import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

from dlkit.errors import OptionError, one_of
from dlkit.export.onnx import Rows, batches
from dlkit.runtime import silent_stderr


def convert(function: Any, module: Any, path: Path, rows: Rows | None = None) -> None:
    """Write a traced function as a LiteRT file whose batch may be of any size.

    Args:
        function: a `tf.function` with an input signature; its outputs have names, none is a string.
        module: the `tf.Module` that holds the function and its variables.
        path: the file.
        rows: raw rows, by input name, to calibrate on where weights and activations are to be of 8
            bits; inputs and outputs stay what they are.
    Raises:
        OptionError: the graph has an operation that LiteRT lacks.
    Reference:
        Jacob et al. 2018, arXiv:1712.05877: the scheme of TensorFlow's converter.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory(prefix="dlkit-litert-") as folder, warnings.catch_warnings():
        # Calibration runs in an interpreter of TensorFlow's own, which warns that it will go away.
        warnings.simplefilter("ignore")
        with silent_stderr():
            # From a SavedModel, for the names of inputs and outputs to be kept.
            signature = {"serving_default": function.get_concrete_function()}
            tf.saved_model.save(module, folder, signatures=signature)
            converter = tf.lite.TFLiteConverter.from_saved_model(
                folder, signature_keys=["serving_default"]
            )
            if rows is not None:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.representative_dataset = lambda: batches(rows, 1)
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            content, told = None, ""
            try:
                content = converter.convert()
            except Exception as error:  # ConverterError, and what its calibration runs into
                told = str(error).strip()
    if content is None:
        raise OptionError(f"--format litert: {reason(told)}; accepted: saved-model, perhaps onnx")
    path.write_bytes(content)


def reason(told: str) -> str:
    """Return the one thing that matters in pages of the converter's complaints."""
    missing = set(re.findall(r"'tf\.(\w+)' op (?:is neither|requires)", told))
    if any(name.startswith("TensorList") for name in missing):
        return (
            "LiteRT has no lists of tensors as large as the batch, of which this model's loop over "
            "steps is made"
        )
    if missing:
        return f"LiteRT has nothing for this model's {one_of(missing)}"
    return f"TensorFlow cannot convert this model: {(told.splitlines() or ['no reason given'])[-1]}"
