"""The MLflow face of an export: its signature and requirements."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np


def signature(manifest: Mapping[str, Any]) -> Any:
    """Return the MLflow signature of `serving_default`, tensor by tensor."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(tensors: Mapping[str, Any]) -> Any:
        return Schema(
            [
                TensorSpec(
                    np.dtype(object if t["dtype"] == "string" else t["dtype"]), t["shape"], name
                )
                for name, t in tensors.items()
            ]
        )

    endpoint = manifest["endpoints"]["serving_default"]
    return ModelSignature(inputs=schema(endpoint["inputs"]), outputs=schema(endpoint["outputs"]))


def requirements() -> list[str]:
    """Return what `mlflow models serve` has to install: no dlkit."""
    return [f"{name}=={version(name)}" for name in ("mlflow", "tensorflow")]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back MLflow's advice on type hints and input examples: tensors need neither.

    For the first MLflow sets a filter of its own, over which no filter of ours helps.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.showwarning = lambda *message, **details: None
        yield
