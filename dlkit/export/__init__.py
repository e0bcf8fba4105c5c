"""SavedModels from raw inputs: written, checked in a fresh process, described by a manifest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import dlkit
from dlkit.errors import ExportError, RunError, StoreError

TOLERANCE = 1e-5
MANIFEST = "assets.extra/dlkit.json"
# Arrays by endpoint and tensor name.
Requests = Mapping[str, Mapping[str, np.ndarray]]


def save(
    endpoints: Any,
    directory: Path,
    *,
    task: str,
    requests: Requests,
    expected: Requests,
    about: Mapping[str, Any],
    assets: Mapping[str, str] | None = None,
    scales: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Write `directory/1`, check it in a fresh process without dlkit, and describe it.

    Args:
        endpoints: a `tf.Module` whose `signatures()` gives a concrete function by endpoint name.
        directory: must not exist; appears only if the check passes.
        task: the task's name.
        requests: held-out raw rows by endpoint and input name.
        expected: the trained model's answers to them, by endpoint and output name.
        about: more entries of the manifest (model, run, labels, ...).
        assets: text of more files in `assets.extra/`, by name.
        scales: by output name, the size of the numbers that an output is a sum of, where it may be
            small beside them: rounding is relative to that.
    Returns:
        The manifest.
    Raises:
        ExportError: the reloaded export answers otherwise; nothing is left behind.
    """
    import tensorflow as tf

    from dlkit.export.warmup import write_warmup

    working = directory.with_name(directory.name + ".partial")
    shutil.rmtree(working, ignore_errors=True)
    target = working / "1"
    try:
        signatures = write(endpoints, target)
        (worst,) = check([(target, requests, expected)], scales)
        write_warmup(target, {name: _first(rows) for name, rows in requests.items()})
        manifest = {
            "format": 1,
            "task": task,
            **about,
            "endpoints": {name: _describe(s) for name, s in signatures.items()},
            "parity": {
                "rows": _count(requests),
                "largest_difference": worst,
                "tolerance": TOLERANCE,
            },
            "versions": {
                "dlkit": dlkit.__version__,
                **{name: version(name) for name in ("tensorflow", "keras", "numpy")},
                "python": ".".join(map(str, sys.version_info[:3])),
            },
        }
        for name, text in (assets or {}).items():
            (target / MANIFEST).with_name(name).write_text(text, encoding="utf-8")
        manifest["files"] = checksums(target)
        path = target / MANIFEST
        path.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        os.replace(working, directory)
    except (OSError, tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", error)
        raise StoreError(
            f"cannot write the export {directory}: {reason}; the run's checkpoint is intact"
        ) from None
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return manifest


def write(endpoints: Any, target: Path) -> dict[str, Any]:
    """Write a SavedModel of endpoints alone, and return the concrete function of each by name.

    What is written holds the variables of the module and not the module: of each `tf.function` on
    it, TensorFlow would trace and keep another graph beside the endpoint's own.

    Args:
        endpoints: see `save`.
        target: the folder.
    """
    import tensorflow as tf

    from dlkit.runtime import silent_stderr

    signatures, kept = endpoints.signatures(), tf.Module()
    setattr(kept, "model_variables", list(endpoints.variables))  # noqa: B010  no attribute it declares
    with silent_stderr():
        tf.saved_model.save(kept, str(target), signatures=signatures)
    return signatures


def check(
    exports: Sequence[tuple[Path, Requests, Requests]],
    scales: Mapping[str, np.ndarray] | None = None,
) -> list[float]:
    """Compare the answers of exports, reloaded in one fresh process, with the expected ones.

    Args:
        exports: SavedModel folder, requests and expected answers of each.
        scales: see `save`.
    Returns:
        The largest relative difference of each.
    Raises:
        ExportError: an export does not load, or answers otherwise.
    """
    with tempfile.TemporaryDirectory(prefix="dlkit-export-") as folder:
        arguments = []
        for i, (target, requests, _) in enumerate(exports):
            sent, answered = f"{folder}/{i}-requests.npz", f"{folder}/{i}-answers.npz"
            arrays = {f"{e}/{k}": v for e, rows in requests.items() for k, v in rows.items()}
            np.savez(sent, allow_pickle=True, **arrays)
            arguments += [str(target), sent, answered]
        script = str(Path(__file__).with_name("reload.py"))
        done = subprocess.run(
            [sys.executable, "-I", script, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            raise ExportError(
                f"the export does not load in a fresh process: {last}; nothing was exported"
            )
        differences = []
        for (_, _, expected), answered in zip(exports, arguments[2::3], strict=True):
            worst = 0.0
            with np.load(answered, allow_pickle=False) as answers:
                for endpoint, outputs in expected.items():
                    for name, value in outputs.items():
                        key = f"{endpoint}/{name}"
                        worst = max(
                            worst,
                            _difference(key, answers[key], value, (scales or {}).get(name, 1.0)),
                        )
            differences.append(worst)
    return differences


def _difference(name: str, got: np.ndarray, want: np.ndarray, least: Any) -> float:
    """Return the largest relative difference, or raise past the tolerance."""
    if got.shape != want.shape:
        raise ExportError(f"the export's {name} has shape {got.shape}, the model's {want.shape}")
    if want.dtype.kind not in "fiu":
        wrong = int(np.sum(got.astype(str) != want.astype(str)))
        if wrong:
            raise ExportError(
                f"the export's {name} differs in {wrong} of {want.size} rows; nothing was exported"
            )
        return 0.0
    scale = np.maximum(np.maximum(1.0, least), np.abs(want.astype(np.float64)))
    largest = float(np.max(np.abs(got.astype(np.float64) - want) / scale, initial=0.0))
    if not largest <= TOLERANCE:
        raise ExportError(
            f"the export's {name} differs from the trained model's by {largest:.2g}, more than "
            f"{TOLERANCE:g}; nothing was exported"
        )
    return largest


def _first(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value[:1] for name, value in rows.items()}


def _count(requests: Requests) -> int:
    return min(len(v) for rows in requests.values() for v in rows.values())


def _describe(signature: Any) -> dict[str, Any]:
    def tensors(specs: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: {"dtype": spec.dtype.name, "shape": [-1 if d is None else d for d in spec.shape]}
            for name, spec in specs.items()
        }

    positional, named = signature.structured_input_signature
    inputs = {spec.name: spec for spec in positional} | named
    return {"inputs": tensors(inputs), "outputs": tensors(signature.structured_outputs)}


def checksums(target: Path) -> dict[str, str]:
    """Return the sha256 of every file under an export but its manifest, by relative path."""
    files = sorted(p for p in target.rglob("*") if p.is_file() and p != target / MANIFEST)
    return {
        p.relative_to(target).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def read_manifest(target: Path) -> dict[str, Any]:
    """Read the manifest of a SavedModel's folder and check every file against it.

    Raises:
        RunError: there is none, or a file is missing, changed or new.
    """
    try:
        if not (target / MANIFEST).is_file():  # a pipe would be waited for
            raise OSError(f"there is no file {MANIFEST}")
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        listed = {str(name): digest for name, digest in manifest["files"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(
            f"{target} is no dlkit export: its manifest cannot be read: {error}"
        ) from None
    found = checksums(target)
    for name in sorted(set(listed) | set(found)):
        if listed.get(name) != found.get(name):
            raise RunError(f"the export {target} was altered: {name} is not what its manifest says")
    return manifest


def copy(
    directory: Path,
    out: Path,
    number: int = 1,
    complete: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Copy an export to `out/NUMBER`, whole or not at all; return that folder.

    Args:
        directory: holds the version's folder `1`.
        out: gets the new one.
        number: its version.
        complete: called with the copy before it is in place; what it raises undoes all.
    Raises:
        RunError: it is there already, or cannot be written.
    """
    read_manifest(directory / "1")
    target = out / str(number)
    if target.exists():
        raise RunError(f"--out: {target} exists; choose another folder or --version {number + 1}")
    partial = out / f".{number}.partial"
    made = not out.exists()
    try:
        shutil.copytree(directory / "1", partial)
        complete(partial)
        os.replace(partial, target)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):
                out.rmdir()
        if not isinstance(error, OSError):
            raise
        raise RunError(f"--out: {out} cannot be written: {error.strerror or error}") from None
    return target
