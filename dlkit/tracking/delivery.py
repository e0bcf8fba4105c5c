"""Writing to the store, and the spool for what it would not take."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dlkit.errors import StoreError
from dlkit.tracking.find import logged_models
from dlkit.tracking.store import (
    EXPORT_NAME,
    HOME,
    SPOOL_TAG,
    client,
    fluent,
    line,
    spool_folder,
)


def logged_steps(store: Any, run: str) -> dict[str, set[int]]:
    """Return the steps that a run's metrics have already: MLflow keeps a repeated step twice."""
    keys = store.get_run(run).data.metrics
    return {key: {m.step for m in store.get_metric_history(run, key)} for key in keys}


def deliver(store: Any, run: str, event: Mapping[str, Any]) -> None:
    """Write one event to the store."""
    from mlflow.entities import Metric, RunTag

    if "metrics" in event:
        store.log_batch(run, metrics=[Metric(*m) for m in event["metrics"]])
    if "tags" in event:
        store.log_batch(run, tags=[RunTag(k, v) for k, v in event["tags"].items()])
    if "artifacts" in event:
        store.log_artifacts(run, event["artifacts"], event.get("under"))
    if "model" in event:
        log_model(store, run, Path(event["model"]), event["step"])
    if "status" in event:
        store.set_terminated(run, event["status"])


def log_model(store: Any, run: str, export: Path, step: int) -> None:
    """Log an exported directory as the run's model: a pyfunc over the same SavedModel."""
    import mlflow

    from dlkit.export import pyfunc

    manifest = json.loads(
        (export / "1" / "assets.extra" / "dlkit.json").read_text(encoding="utf-8")
    )
    for model in logged_models(store.get_run(run), "PENDING"):
        # Left by a process that was killed while it logged.
        store.delete_logged_model(model.model_id)
    with pyfunc.quiet(), _active(run, store.tracking_uri):
        mlflow.pyfunc.log_model(
            name=manifest["task"],
            python_model=str(Path(pyfunc.__file__).with_name("served.py")),
            artifacts={EXPORT_NAME: str(export)},
            signature=pyfunc.signature(manifest),
            pip_requirements=pyfunc.requirements(),
            step=step,
            metadata={"dlkit": manifest["versions"]["dlkit"]},
        )


@contextlib.contextmanager
def _active(run: str, uri: str) -> Iterator[None]:
    """Make `run` MLflow's active run without changing its status."""
    import mlflow

    with fluent(uri):
        status = mlflow.get_run(run).info.status
        try:
            with mlflow.start_run(run_id=run):
                yield
        finally:
            mlflow.MlflowClient().update_run(run, status=status)


def spool(run: str, event: dict[str, Any]) -> None:
    """Append an event to the run's spool, its files copied beside it."""
    folder = spool_folder(run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for key in ("artifacts", "model"):
            if key in event:
                kept = folder / f"{key}-{time.time_ns()}"
                # An export is told by its folder's name, which MLflow keeps.
                copy = kept / Path(event[key]).name if key == "model" else kept
                shutil.copytree(event[key], copy)
                event = {**event, key: str(copy)}
        with open(folder / "events.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(
            f"neither the tracking store nor the spool {folder} takes what run {run} logs: "
            f"{error.strerror}; checkpoints written before are intact"
        ) from None


def sync() -> list[tuple[str, int]]:
    """Deliver every spool to the store and remove it.

    Returns:
        `(run, events delivered)` for each spool.
    Raises:
        StoreError: the store cannot be used, or refuses again; what is left stays spooled.
    """
    spools = sorted(p for p in (HOME.absolute() / "spool").glob("*/events.jsonl"))
    if not spools:
        return []
    store, done = client(), []
    for path in spools:
        run = path.parent.name
        events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        try:
            logged = logged_steps(store, run)
            for event in events:
                if "metrics" in event:
                    event["metrics"] = [
                        m for m in event["metrics"] if m[3] not in logged.get(m[0], ())
                    ]
                deliver(store, run, event)
            deliver(store, run, {"tags": {SPOOL_TAG: "delivered"}})
        except Exception as error:
            raise StoreError(
                f"run {run} cannot be delivered: {line(error)}; it stays spooled"
            ) from None
        shutil.rmtree(path.parent)
        done.append((run, len(events)))
    return done
