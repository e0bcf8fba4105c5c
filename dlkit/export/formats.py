"""Other formats of an export: converted, opened again in their own runtime, compared, measured."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dlkit.errors import ExportError, OptionError, nearest
from dlkit.export import MANIFEST, TOLERANCE, checksums, read_manifest

SAVED, ONNX, LITERT, INT8 = "saved-model", "onnx", "litert", "int8"
FORMATS = (SAVED, ONNX, LITERT)
ENDING = {ONNX: ".onnx", LITERT: ".tflite"}
# Modules that a format needs, and what installs them.
MODULES = {ONNX: ("tf2onnx", "onnx", "onnxruntime"), LITERT: ("ai_edge_litert",)}
# The endpoints that take and give numbers alone, the first that there is: neither runtime decodes
# images or has our tables of strings.
ENDPOINTS = {
    "image-classification": ("from_pixels",),
    "forecasting": ("serving_default",),
    "anomaly-detection": ("serving_default",),
    "image-synthesis": ("from_noise", "from_pixels"),
}
TEXT = (
    "a text model's tokens are drawn one by one between prefill and step, and its tokenizer works on "
    "strings, which neither runtime has"
)
# Why the answers of other tasks are not to be had in 8 bits.
NO_INT8 = {
    "forecasting": "its intervals are calibrated on forecasts in float32",
    "anomaly-detection": "its threshold is calibrated on scores in float32",
    "image-synthesis": "nothing on a test split tells what its pictures lose",
}
# A score is a rank among held-out scores, which lie as close together as training leaves them: there
# the rounding of a layer is shown many times larger.
TOLERANCES = {"anomaly-detection": 1e-4}
BATCHES, TIMED = (1, 3, 17), (1, 32)
# How long, and how often at most, an answer is timed.
SECONDS, TIMES = 0.5, 300
# A loss of accuracy that is told.
TOLD = 0.01
Arrays = Mapping[str, np.ndarray]
Answer = Callable[[Arrays], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Samples:
    """What a run's own data tell of the formats of its export.

    Attributes:
        held_out: raw rows that the model was not trained on, by input name.
        training: raw training rows to calibrate on, by input name; None where it is not to be.
        metric: the name of the task's main metric; None where it has none that an endpoint's
            answers to the test split tell.
        score: that metric on the test split of what answers.
        scales: see `dlkit.export.save`.
    """

    held_out: Arrays
    training: Arrays | None = None
    metric: str | None = None
    score: Callable[[Answer], float] = lambda answer: float("nan")
    scales: Mapping[str, np.ndarray] = field(default_factory=dict)


def check(task: str, formats: Sequence[str], quantise: bool) -> None:
    """Check what `--format` and `--quantize` ask for, before anything heavy is loaded.

    Raises:
        OptionError: an unknown format, one that the task does not have, or a package that is missing.
    """
    for name in formats:
        if name not in FORMATS:
            raise OptionError(
                f"--format: no format '{name}'{nearest(name, FORMATS)}; accepted: "
                f"{', '.join(FORMATS)}"
            )
        if name != SAVED and task not in ENDPOINTS:
            raise OptionError(f"--format {name}: not for {task}: {TEXT}; accepted: {SAVED}")
        missing = [m for m in MODULES.get(name, ()) if importlib.util.find_spec(m) is None]
        if missing:
            raise OptionError(
                f"--format {name}: {', '.join(missing).replace('_', '-')} is not installed; "
                f"pip install 'dlkit[{name}]'"
            )
    if quantise and task in NO_INT8:
        raise OptionError(f"--quantize int8: not for {task}: {NO_INT8[task]}")
    if quantise and not set(formats) & set(ENDING):
        raise OptionError(f"--quantize int8: is for --format {ONNX} and --format {LITERT}")


def endpoint_of(manifest: Mapping[str, Any]) -> str:
    """Return the endpoint of an export that other formats have.

    Raises:
        OptionError: it takes strings.
    """
    there = manifest["endpoints"]
    name = next(name for name in ENDPOINTS[manifest["task"]] if name in there)
    strings = [k for k, t in there[name]["inputs"].items() if t["dtype"] == "string"]
    if strings:
        raise OptionError(
            f"--format: {', '.join(strings)}: categories come as strings, which neither runtime has; "
            f"accepted: {SAVED}"
        )
    return name


def add(
    folder: Path, formats: Sequence[str], samples: Samples, *, quantise: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """Add formats to an export, each compared with its SavedModel, and enter them in its manifest.

    Args:
        folder: the version's folder.
        formats: names in `FORMATS`.
        samples: see `Samples`.
        quantise: add each in 8 bits too.
    Returns:
        A row for the SavedModel and for each file: `format`, `file`, `bytes`, `latency_ms` (median,
        by batch) and `metrics`; and sentences that a user should read.
    Raises:
        OptionError: a model that a format cannot hold.
        ExportError: a file answers otherwise than the SavedModel.
    """
    from dlkit.export import litert, onnx
    from dlkit.runtime import load_tensorflow, silent_stderr
    from dlkit.serving.engines import open_litert, open_onnx

    manifest, tf = read_manifest(folder), load_tensorflow()
    name = endpoint_of(manifest)
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures[name]

    def saved(arrays: Arrays) -> dict[str, np.ndarray]:
        answers = signature(**{k: tf.constant(v) for k, v in arrays.items()})
        return {k: v.numpy() for k, v in answers.items()}

    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    rows, notes = [measured(SAVED, None, size, saved, samples)], []
    module = numeric(signature, loaded)
    labels = manifest.get("labels", ()) if "label" in manifest["endpoints"][name]["outputs"] else ()
    opened: dict[str, Callable[..., Any]] = {ONNX: open_onnx, LITERT: open_litert}
    entries: dict[str, Any] = {}
    for kind in (kind for kind in ENDING if kind in formats):
        for bits in ("", *((INT8,) if quantise else ())):
            key = f"{kind}-{bits}" if bits else kind
            path = folder / f"model{'.' + bits if bits else ''}{ENDING[kind]}"
            training = dict(samples.training or {}) if bits else None
            if kind == LITERT:
                litert.convert(module.function, module, path, training)
            elif training is None:
                onnx.convert(module.function, path, labels)
            else:
                onnx.quantise(folder / f"model{ENDING[ONNX]}", path, training)
            entry = {
                "file": path.name,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "endpoint": name,
                **manifest["endpoints"][name],
                **({"labels": list(labels)} if labels else {}),
                "versions": {m: version(m.replace("_", "-")) for m in MODULES[kind]},
            }
            run = opened[kind](path, entry, threads()).run
            with silent_stderr():  # LiteRT says at its first answer that it uses XNNPACK
                run(batch_of(samples.held_out, 1))
            if bits:
                entry["calibration_rows"] = len(next(iter((training or {}).values())))
            else:
                entry["tolerance"] = TOLERANCES.get(manifest["task"], TOLERANCE)
                entry["parity"] = compared(kind, run, saved, samples, entry["tolerance"])
            row = measured(key, path.name, path.stat().st_size, run, samples)
            entry["metrics"] = row["metrics"]
            entries[key] = entry
            rows.append(row)
            notes += lost(row, rows[0], samples.metric) if bits else []
    manifest["metrics"] = rows[0]["metrics"]
    manifest["formats"] = entries
    manifest["files"] = checksums(folder)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return rows, notes


def numeric(signature: Any, loaded: Any) -> Any:
    """Return a `tf.Module` whose `function` is a loaded signature without its outputs of strings."""
    import tensorflow as tf

    specs = signature.structured_input_signature[1]
    kept = [k for k, v in signature.structured_outputs.items() if v.dtype != tf.string]

    def function(*given: Any) -> dict[str, Any]:
        answers = signature(**dict(zip(specs, given, strict=True)))
        return {name: answers[name] for name in kept}

    module: Any = tf.Module()
    module.loaded = loaded
    module.function = tf.function(
        function,
        input_signature=[tf.TensorSpec(s.shape, s.dtype, name) for name, s in specs.items()],
    )
    return module


def threads() -> int:
    """Return how many threads a request may be computed with."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batch_of(rows: Arrays, size: int, first: int = 0) -> dict[str, np.ndarray]:
    """Return a batch of rows from `first` on, from the start again where they end."""
    count = len(next(iter(rows.values())))
    at = np.arange(first, first + size) % count
    return {name: array[at] for name, array in rows.items()}


def compared(
    kind: str, answer: Answer, expected: Answer, samples: Samples, tolerance: float
) -> dict[str, float]:
    """Return the largest relative difference by batch size.

    Raises:
        ExportError: it is past the tolerance, or a label or a verdict is another.
    """
    found, first = {}, 0
    for size in BATCHES:
        given = batch_of(samples.held_out, size, first)
        got, want = answer(given), expected(given)
        found[str(size)] = max(
            difference(
                f"{kind}'s {name}", got[name], value, tolerance, samples.scales.get(name, 1.0)
            )
            for name, value in want.items()
        )
        first += size
    return found


def difference(name: str, got: np.ndarray, want: np.ndarray, tolerance: float, least: Any) -> float:
    """Return the largest difference of numbers, relative above 1 and above `least`."""
    if got.shape != want.shape or got.dtype != want.dtype:
        raise ExportError(
            f"{name} is {got.dtype} {got.shape}, the SavedModel's {want.dtype} {want.shape}; "
            "nothing was exported"
        )
    if want.dtype.kind not in "fu":
        wrong = int(np.sum(got != want))
        if wrong:
            raise ExportError(
                f"{name} differs from the SavedModel's in {wrong} of {want.size}; nothing was exported"
            )
        return 0.0
    off = np.abs(got.astype(np.float64) - want)
    if want.dtype.kind == "u":  # pixels: rounding may go the other way, by one level
        off, allowed = off / 255.0, 1.0 / 255.0
    else:
        scale = np.maximum(np.maximum(1.0, least), np.abs(want.astype(np.float64)))
        off, allowed = off / scale, tolerance
    largest = float(np.max(off, initial=0.0))
    if not largest <= allowed:
        raise ExportError(
            f"{name} differs from the SavedModel's by {largest:.2g}, more than {allowed:.2g}; "
            "nothing was exported"
        )
    return largest


def measured(
    name: str, file: str | None, size: int, answer: Answer, samples: Samples
) -> dict[str, Any]:
    """Return one row of the table."""
    latency = {}
    for batch in TIMED:
        given, took = batch_of(samples.held_out, batch), []
        began = time.perf_counter()
        while len(took) < 5 or (len(took) < TIMES and time.perf_counter() - began < SECONDS):
            start = time.perf_counter()
            answer(given)
            took.append(time.perf_counter() - start)
        latency[str(batch)] = round(float(np.median(took)) * 1000, 4)
    metrics = {samples.metric: samples.score(answer)} if samples.metric else {}
    return {"format": name, "file": file, "bytes": size, "latency_ms": latency, "metrics": metrics}


def lost(row: Mapping[str, Any], whole: Mapping[str, Any], metric: str | None) -> list[str]:
    """Say what a file in 8 bits lost, where it is much."""
    if metric is None:
        return []
    gone = whole["metrics"][metric] - row["metrics"][metric]
    said = f"{row['format']} loses {gone:.4f} of {metric}"
    return [said] if gone > TOLD else []
