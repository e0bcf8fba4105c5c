"""A run being written, and what becomes of it in the end."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dlkit
from dlkit import checkpoint
from dlkit.errors import CheckpointError, Interrupted, RunError, StoreError
from dlkit.tracking.delivery import deliver, logged_steps, spool
from dlkit.tracking.find import artifact, find_run, logged_model, run_export, spooled_export
from dlkit.tracking.store import (
    CHILD_TAG,
    FINGERPRINT_TAG,
    TASK_TAG,
    checkpoint_folder,
    client,
    line,
    spool_folder,
    store_uri,
)

FLUSH_SECONDS = 5.0


@dataclass
class Run:
    """One run being written. What the store refuses after the start goes to a local spool."""

    id: str
    task: str
    store: Any
    spooling: str | None = None
    was: str | None = None

    def __post_init__(self) -> None:
        self.pending: list[tuple[str, float, int, int]] = []
        self.flushed = time.monotonic()
        self.logged: dict[str, set[int]] | None = None

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log values at a step, buffered; a step that a resumed run repeats is left out."""
        now = int(time.time() * 1000)
        for key, value in values.items():
            if self.logged is None or step not in self.logged.get(key, ()):
                self.pending.append((key, float(value), now, step))
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Deliver the buffered metrics."""
        self.flushed = time.monotonic()
        while self.pending:
            batch, self.pending = self.pending[:1000], self.pending[1000:]
            self._deliver({"metrics": batch})

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags."""
        self._deliver({"tags": {k: str(v) for k, v in values.items()}})

    def artifacts(self, folder: Path, under: str | None = None) -> None:
        """Log every file of a folder at the root of the run's artifacts, or under a path there."""
        self._deliver({"artifacts": str(folder), "under": under})

    def model(self, export: Path, step: int) -> None:
        """Log an exported directory as the run's model."""
        self._deliver({"model": str(export), "step": step})

    def history(self, keys: tuple[str, ...]) -> dict[str, list[tuple[int, float]]]:
        """Return `(step, value)` pairs of metrics over all processes; none where the store failed."""
        if self.spooling:
            return {key: [] for key in keys}
        found = {key: self.store.get_metric_history(self.id, key) for key in keys}
        return {key: sorted((m.step, m.value) for m in each) for key, each in found.items()}

    def exported(self, step: int) -> bool:
        """Whether the weights of this step have been exported already, by a process now gone."""
        if self.logged is None or self.spooling:
            return False
        run = self.store.get_run(self.id)
        model = logged_model(run)
        outputs = run.outputs.model_outputs if run.outputs else []
        return model is not None and (model.model_id, step) in [
            (o.model_id, o.step) for o in outputs
        ]

    def artifact(self, path: str) -> Path:
        """Return a local path of one of the run's artifacts, from the store or from the spool."""
        spooled = sorted(spool_folder(self.id).glob(f"artifacts-*/{path}"))
        return (
            spooled[-1]
            if spooled
            else artifact(self.store.get_run(self.id).info.artifact_uri, path)
        )

    def export(self) -> Path:
        """Return the run's exported directory, from the store or from the spool."""
        spooled = spooled_export(self.id)
        return spooled or run_export(self.store.get_run(self.id))

    def finish(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED, with all that is buffered."""
        self.flush()
        self._deliver({"status": status})

    def _deliver(self, event: dict[str, Any]) -> None:
        if self.spooling is None:
            try:
                deliver(self.store, self.id, event)
                return
            except Exception as error:
                self.spooling = line(error)
        spool(self.id, event)


def start_run(
    task: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    name: str,
    parent: str | None = None,
) -> Run:
    """Start a run of a task's experiment, perhaps as the child of another.

    Raises:
        StoreError: the store cannot be used or written.
    """
    from mlflow.entities import Param, RunTag

    store = client()
    try:
        experiment = store.get_experiment_by_name(task)
        if experiment is None:
            # A server chooses for itself; beside a database file MLflow would take ./mlruns/NUMBER.
            uri, location = store_uri(), None
            if uri.startswith("sqlite:///"):
                location = str(Path(uri.removeprefix("sqlite:///")).absolute().parent / "artifacts")
            with contextlib.suppress(Exception):  # another process may have been first
                store.create_experiment(task, artifact_location=location)
            experiment = store.get_experiment_by_name(task)
        first = {TASK_TAG: task} | ({CHILD_TAG: parent} if parent else {})
        run = store.create_run(experiment.experiment_id, run_name=name, tags=first)
        store.log_batch(
            run.info.run_id,
            params=[Param(k, str(v)[:6000]) for k, v in params.items()],
            tags=[RunTag(k, v) for k, v in tags.items()],
        )
    except Exception as error:
        raise StoreError(
            f"the tracking store {store_uri()} cannot be written: {line(error)}"
        ) from None
    return Run(run.info.run_id, task, store)


def resume_run(task: str, ref: str) -> Run:
    """Open a run again to go on with it."""
    found = find_run(ref, task, finished=False).info
    run = Run(found.run_id, task, client(), was=found.status)
    run.logged = logged_steps(run.store, run.id)
    return run


def same_data(run: Run, fingerprint: str) -> None:
    """Refuse to go on with a run whose data have changed since.

    Raises:
        RunError: the fingerprint of the data is not the one the run was started with.
    """
    was = run.store.get_run(run.id).data.tags.get(FINGERPRINT_TAG)
    if was != fingerprint:
        raise RunError(
            f"the data of run {run.id} have changed since it started (sha256 {str(was)[:12]}... "
            f"then, {fingerprint[:12]}... now); train a new run"
        )


@contextlib.contextmanager
def recorded(run: Run, command: str = "train") -> Iterator[None]:
    """Hold a run for this process and end it by what became of the body.

    That is FINISHED, KILLED when interrupted (then `command` is said to go on with it), else FAILED.

    Raises:
        RunError: another process is training the run; its status is left alone.
    """
    with checkpoint.claim(checkpoint_folder(run.id), run.id):
        if run.logged is not None:
            run.store.update_run(run.id, status="RUNNING")
        with _ending(run, command):
            yield


@contextlib.contextmanager
def _ending(run: Run, command: str) -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise Interrupted(number)

    status, before = "FAILED", None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
        status = "FINISHED"
    except CheckpointError:
        # Nothing was trained: a run that had finished has its report and export still.
        status = "FINISHED" if run.was == "FINISHED" else "FAILED"
        raise
    except KeyboardInterrupt as error:
        status = "KILLED"
        error.args = (f"; go on with: dlkit {run.task} {command} --resume {run.id[:8]}",)
        raise
    except Exception as error:
        with contextlib.suppress(StoreError):
            run.tags({"dlkit.failure": line(error)})
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
        try:
            run.finish(status)
        except StoreError:
            # Where even the spool is full, the error under way says more.
            if status == "FINISHED":
                raise


def environment() -> dict[str, str]:
    """Return what a run ran on: versions, machine, threads."""
    names = ("tensorflow", "keras", "numpy", "mlflow", "tensorflow-datasets")
    return {
        "dlkit": dlkit.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "platform": platform.platform(),
        "cpus": str(len(os.sched_getaffinity(0))),
    }
