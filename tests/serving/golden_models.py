"""The models that the golden cases ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.runtime import load_tensorflow
from dlkit.serving.model import PREDICT, ServedModel, Signature, load_model
from dlkit.serving.servables import Servables
from dlkit.serving.service import Limits, Service
from dlkit.serving.tensors import DTYPES, TensorSpec

Arrays = Mapping[str, np.ndarray]
ROWS = (None,)


def golden_service(directory: Path) -> Service:
    """Return what the golden cases are sent to.

    Args:
        directory: an empty one; two SavedModels are written there.
    """
    models = []
    for version, constant in ((123, 2.0), (124, 3.0)):
        base = directory / str(version)
        half_plus(base / str(version), constant)
        models.append(load_model("half", base))
    two, three = models
    models += [
        dataclasses.replace(two, name="counted"),
        dataclasses.replace(three, name="team/half"),
    ]
    models += [types(), dataclasses.replace(two, name="fleet", version=9)]
    servables = Servables(models)
    servables.label("half", {"stable": 123, "canary": 124})
    servables.mark("fleet", 8, "END")
    servables.mark("fleet", 10, "END")
    servables.mark("broken", 3, "END", "Read less bytes than requested", "OUT_OF_RANGE")
    servables.mark("broken", 4, "LOADING")
    return Service(servables, Limits(body=100_000))


def half_plus(path: Path, constant: float) -> None:
    """Write `y = x / 2 + constant` as TensorFlow's testdata/saved_model_half_plus_two.py does."""
    v1 = load_tensorflow().compat.v1
    signature = v1.saved_model.signature_def_utils
    with v1.Graph().as_default(), v1.Session() as session:
        serialized = v1.placeholder(v1.string, name="tf_example")
        feature = v1.FixedLenFeature
        features = {"x": feature([1], v1.float32), "x2": feature([1], v1.float32, [0.0])}
        parsed = v1.parse_example(serialized, features)
        for column in parsed.values():
            column.set_shape([None, 1])
        x, x2 = v1.identity(parsed["x"], name="x"), v1.identity(parsed["x2"], name="x2")
        y = v1.add(x * 0.5, constant, name="y")
        y2 = v1.add(x * 0.5, constant + 1.0, name="y2")
        y3 = v1.add(x2 * 0.5, constant + 1.0, name="y3")

        def scores(inputs: Any, outputs: Any) -> Any:
            return signature.classification_signature_def(inputs, None, outputs)

        signatures = {
            "serving_default": signature.predict_signature_def({"x": x}, {"y": y}),
            "regress_x_to_y": signature.regression_signature_def(serialized, y),
            "regress_x_to_y2": signature.regression_signature_def(serialized, y2),
            "classify_x_to_y": scores(serialized, y),
        }
        # Those of dense tensors, which the functions above refuse.
        info = v1.saved_model.build_tensor_info
        for name, method, output in (
            ("regress_x2_to_y3", "regress", "outputs"),
            ("classify_x2_to_y3", "classify", "scores"),
        ):
            signatures[name] = signature.build_signature_def(
                {"inputs": info(x2)}, {output: info(y3)}, f"tensorflow/serving/{method}"
            )
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()


def types() -> ServedModel:
    """Return a model without a graph: one signature for each thing that JSON may hold."""

    def total(arrays: Arrays) -> dict[str, np.ndarray]:
        text = arrays["text"]
        return {"copy_bytes": text, "text": text, "total": arrays["ints"].sum(-1, dtype=np.int32)}

    strings = {"ints": TensorSpec("int32", None), "text": TensorSpec("string", ROWS)}
    answers = {name: TensorSpec("string", ROWS) for name in ("copy_bytes", "text")}
    signatures = {
        "serving_default": Signature(
            strings, answers | {"total": TensorSpec("int32", ROWS)}, total
        ),
        "none_int32": of("int32", "int32", lambda x: x[:0]),
        "bytes": of("string", "string", lambda x: x, "raw_bytes"),
        "number_bytes": of("int32", "int32", lambda x: x, "number_bytes"),
        "scalar": of("int32", "int32", lambda x: x.sum(dtype=np.int32)),
        "complex": of("int32", "complex64", lambda x: x.astype(np.complex64)),
        "init": Signature({}, {}, lambda arrays: {}),
        "nothing": Signature({"x": TensorSpec("int32", None)}, {}, lambda arrays: {}),
        "uneven": Signature(
            {"x": TensorSpec("int32", ROWS)},
            {"all": TensorSpec("int32", ROWS), "first": TensorSpec("int32", ROWS)},
            lambda arrays: {"all": arrays["x"], "first": arrays["x"][:1]},
        ),
    }
    for dtype in (*DTYPES, "half"):
        signatures[f"echo_{dtype}"] = of(dtype, dtype, lambda x: x)
    signatures |= classifiers() | regressors()
    described = {
        name: {"method_name": signature.method, "inputs": {}, "outputs": {}, "defaults": {}}
        for name, signature in signatures.items()
    }
    metadata = {"signature_def": described}
    return ServedModel("types", 1, Path(), signatures, metadata, None, None, None)


def of(taken: str, given: str, make: Callable[[np.ndarray], Any], name: str = "y") -> Signature:
    """Return a signature of one input and one output of any shape."""
    outputs = {name: TensorSpec(given, None)}
    return Signature(
        {"x": TensorSpec(taken, None)}, outputs, lambda a: {name: np.asarray(make(a["x"]))}
    )


def of_examples(method: str, make: Callable[[np.ndarray], Arrays], **outputs: str) -> Signature:
    """Return a signature of serialized examples. `outputs`: types by name."""
    specs = {name: TensorSpec(dtype, None) for name, dtype in outputs.items()}
    inputs = {"inputs": TensorSpec("string", ROWS)}
    return Signature(inputs, specs, lambda a: dict(make(a["inputs"])), method)


def classifiers() -> dict[str, Signature]:
    """Return signatures that classify, rightly and wrongly."""

    def classify(make: Callable[[np.ndarray], Arrays], **outputs: str) -> Signature:
        return of_examples("tensorflow/serving/classify", make, **outputs)

    def vehicles(examples: np.ndarray) -> Arrays:
        rows = np.array([[0.2, 0.7, 0.1], [0.7, 0.1, 0.2]], np.float32)
        classes = np.tile(np.array([b"car", b"bike", b"bus"], object), [len(examples), 1])
        picked = [int(features(e)["n"].int64_list.value[0]) for e in examples]
        return {"classes": classes, "scores": rows[picked]}

    def told(examples: np.ndarray) -> Arrays:
        rows = [["; ".join(map(tell, sorted(features(e).items()))).encode()] for e in examples]
        return {"classes": np.array(rows, object)}

    def scores(shape: list[int], dtype: Any = np.float32) -> Callable[[np.ndarray], Arrays]:
        return lambda examples: {
            "scores": np.zeros([len(examples), *shape][: len(shape) + 1], dtype)
        }

    unlike = {"classes": np.array([[b"a"]], object), "scores": np.zeros([1, 2], np.float32)}
    return {
        "vehicles": classify(vehicles, classes="string", scores="float"),
        "features": classify(told, classes="string"),
        "scores": of_examples(
            PREDICT,
            lambda e: {"scores": np.tile(np.array([0.5, 0.25], np.float32), [len(e), 1])},
            scores="float",
        ),
        "three": classify(lambda e: {}, classes="string", scores="float", more="float"),
        "flat_scores": classify(scores([]), scores="float"),
        "double_scores": classify(scores([1], np.float64), scores="double"),
        "short_scores": classify(lambda e: scores([1])(e[:1]), scores="float"),
        "int_classes": classify(lambda e: {"classes": np.zeros([1, 1], np.int64)}, classes="int64"),
        "unlike": classify(lambda e: unlike, classes="string", scores="float"),
    }


def regressors() -> dict[str, Signature]:
    """Return signatures that regress, rightly and wrongly."""

    def regress(make: Callable[[np.ndarray], Any], dtype: str = "float") -> Signature:
        method = "tensorflow/serving/regress"
        return of_examples(method, lambda e: {"outputs": make(e)}, outputs=dtype)

    def values(examples: np.ndarray) -> np.ndarray:
        taken = np.array([features(e)["v"].float_list.value[0] for e in examples], np.float32)
        if all("non_finite" in features(e) for e in examples):
            taken[[1, 3, 4]] = np.inf, -np.inf, np.nan
        return taken

    return {
        "values": regress(values),
        "column": regress(lambda e: np.arange(len(e), dtype=np.float32)[:, None]),
        "wide_values": regress(lambda e: np.zeros([len(e), 2], np.float32)),
        "short_values": regress(lambda e: np.zeros([1], np.float32)),
        "double_values": regress(lambda e: np.zeros([len(e)]), "double"),
    }


def features(serialized: bytes) -> Mapping[str, Any]:
    """Return an example's features by name."""
    return load_tensorflow().train.Example.FromString(serialized).features.feature


def tell(feature: tuple[str, Any]) -> str:
    """Write a feature as its name, the kind of its list and its values."""
    name, value = feature
    kind = value.WhichOneof("kind")
    if kind is None:
        return name
    values = getattr(value, kind).value
    texts = [v.decode() if isinstance(v, bytes) else str(v) for v in values]
    return " ".join([name, kind.removesuffix("_list"), *texts])
