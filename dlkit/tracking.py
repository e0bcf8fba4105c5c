"""All of MLflow: the store, a run that is being written, and finding runs again.

Without `MLFLOW_TRACKING_URI` the store is `mlruns/mlflow.db` with files in `mlruns/artifacts`,
under the working directory. Checkpoints and the spool live under `mlruns/` wherever the store is.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
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
from dlkit.errors import Interrupted, RunError, StoreError, nearest, one_of

HOME = Path("mlruns")
FLUSH_SECONDS = 5.0
TASK_TAG, SPOOL_TAG = "dlkit.task", "dlkit.spooled"
EXPORTED_TAG, CHILD_TAG = "dlkit.exported_step", "mlflow.parentRunId"
FINGERPRINT_TAG = "dlkit.data_fingerprint"
EXPORT_NAME = "export"


def checkpoint_folder(run: str) -> Path:
    """Return where a run keeps its checkpoint and resolved config."""
    return HOME.absolute() / "checkpoints" / run


def spool_folder(run: str) -> Path:
    """Return where a run leaves what the store would not take."""
    return HOME.absolute() / "spool" / run


def store_uri() -> str:
    """Return the tracking store's address."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{HOME.absolute() / 'mlflow.db'}"


def client() -> Any:
    """Open the tracking store, making it on first use, and return MLflow's client.

    Raises:
        StoreError: it cannot be opened: not writable, not there, not a store.
    """
    # Before the import: MLflow reads them there. One short retry, since training waits meanwhile.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri = store_uri()
    try:
        with _initialising(uri):
            import logging

            import mlflow

            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.ERROR)
            store = mlflow.MlflowClient(uri, uri)
            store.search_experiments(max_results=1)
    except Exception as error:
        raise StoreError(f"the tracking store {uri} cannot be used: {_line(error)}") from None
    return store


@contextlib.contextmanager
def _initialising(uri: str) -> Iterator[None]:
    """Let one process at a time make or migrate a database file: several at once crash."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    folder = Path(uri.removeprefix("sqlite:///")).parent
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".store.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _line(error: Exception) -> str:
    """Return the first line that says something of an error, without SQLAlchemy's prefix."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.strip().splitlines()[0].removeprefix("(sqlite3.OperationalError) ")


@dataclass
class Run:
    """One run being written. What the store refuses after the start goes to a local spool."""

    id: str
    task: str
    store: Any
    spooling: str | None = None

    def __post_init__(self) -> None:
        self.pending: list[tuple[str, float, int, int]] = []
        self.flushed = time.monotonic()
        self.logged: dict[str, set[int]] | None = None

    def know_logged(self) -> None:
        """Ask which metric steps are there already: MLflow keeps a repeated step twice."""
        run = self.store.get_run(self.id)
        self.logged = {
            key: {m.step for m in self.store.get_metric_history(self.id, key)}
            for key in run.data.metrics
        }

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

    def exported(self, step: int) -> bool:
        """Whether the weights of this step have been exported already, by a process now gone."""
        if self.logged is None or self.spooling:
            return False
        run = self.store.get_run(self.id)
        return run.data.tags.get(EXPORTED_TAG) == str(step) and logged_model(run) is not None

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
                self.spooling = _line(error)
        _spool(self.id, event)


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


def _spool(run: str, event: dict[str, Any]) -> None:
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
            writing = Run(run, "", store)
            writing.know_logged()
            for event in events:
                if "metrics" in event:
                    logged = writing.logged or {}
                    event["metrics"] = [
                        m for m in event["metrics"] if m[3] not in logged.get(m[0], ())
                    ]
                deliver(store, run, event)
            deliver(store, run, {"tags": {SPOOL_TAG: "delivered"}})
        except Exception as error:
            raise StoreError(
                f"run {run} cannot be delivered: {_line(error)}; it stays spooled"
            ) from None
        shutil.rmtree(path.parent)
        done.append((run, len(events)))
    return done


def start_run(task: str, params: Mapping[str, Any], tags: Mapping[str, str], name: str) -> Run:
    """Start a run of a task's experiment.

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
        run = store.create_run(experiment.experiment_id, run_name=name, tags={TASK_TAG: task})
        store.log_batch(
            run.info.run_id,
            params=[Param(k, str(v)[:6000]) for k, v in params.items()],
            tags=[RunTag(k, v) for k, v in tags.items()],
        )
    except Exception as error:
        raise StoreError(
            f"the tracking store {store_uri()} cannot be written: {_line(error)}"
        ) from None
    return Run(run.info.run_id, task, store)


@contextlib.contextmanager
def recorded(run: Run) -> Iterator[None]:
    """Hold a run for this process and end it by what became of the body.

    That is FINISHED, KILLED when interrupted, else FAILED.

    Raises:
        RunError: another process is training the run; its status is left alone.
    """
    with checkpoint.claim(checkpoint_folder(run.id), run.id):
        if run.logged is not None:
            run.store.update_run(run.id, status="RUNNING")
        with _ending(run):
            yield


@contextlib.contextmanager
def _ending(run: Run) -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise Interrupted(number)

    status, before = "FAILED", None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt as error:
        status = "KILLED"
        error.args = (f"; go on with: dlkit {run.task} train --resume {run.id[:8]}",)
        raise
    except Exception as error:
        with contextlib.suppress(StoreError):
            run.tags({"dlkit.failure": _line(error)})
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


def resume_run(task: str, ref: str) -> Run:
    """Open a run again to go on with it."""
    run = Run(find_run(ref, task, finished=False).info.run_id, task, client())
    run.know_logged()
    return run


def list_runs(task: str | None = None) -> list[Any]:
    """Return dlkit's runs, newest first."""
    store = client()
    experiments = [e.experiment_id for e in store.search_experiments()]
    runs, token = [], None
    while True:
        page = store.search_runs(
            experiments, order_by=["attributes.start_time DESC"], page_token=token, max_results=1000
        )
        runs += [
            r for r in page if r.data.tags.get(TASK_TAG) and task in (None, r.data.tags[TASK_TAG])
        ]
        token = page.token
        if not token:
            return runs


def find_run(ref: str, task: str | None = None, *, finished: bool = True) -> Any:
    """Find one run by id, by an unambiguous start of one, as `latest`, or by registry name.

    Args:
        ref: the reference.
        task: task that the run must be of, or None for any.
        finished: whether `latest` looks for FINISHED runs that are no child, or for any.
    Raises:
        RunError: none, several, or a run of another task.
    """
    if ref.startswith("models:/"):
        runs = [client().get_run(_registered(ref).run_id)]
    elif ref == "latest":
        runs = [
            r
            for r in list_runs(task)
            if not finished or (r.info.status == "FINISHED" and CHILD_TAG not in r.data.tags)
        ][:1]
        if not runs:
            raise RunError(
                f"RUN latest: no finished run{' of ' + task if task else ''} in {store_uri()}"
            )
    else:
        every = list_runs()
        runs = [r for r in every if ref and r.info.run_id.startswith(ref)]
        if not runs:
            ids = [r.info.run_id for r in every]
            raise RunError(f"RUN: no run '{ref}' in {store_uri()}{nearest(ref, ids)}")
    if len(runs) > 1:
        raise RunError(
            f"RUN: '{ref}' starts {len(runs)} runs: {one_of(r.info.run_id for r in runs)}"
        )
    other = runs[0].data.tags.get(TASK_TAG)
    if task is not None and other != task:
        raise RunError(f"RUN: {runs[0].info.run_id} is a run of {other}, not of {task}")
    return runs[0]


def _registered(ref: str) -> Any:
    name, at, alias = ref.removeprefix("models:/").partition("@")
    store = client()
    try:
        if at:
            return store.get_model_version_by_alias(name, alias)
        name, slash, version = name.partition("/")
        if slash:
            return store.get_model_version(name, version)
    except Exception:
        known = [m.name for m in store.search_registered_models()]
        raise RunError(
            f"RUN: no registered model '{ref}'{nearest(name, known)}; there: {one_of(known) or 'none'}"
        ) from None
    raise RunError(
        f"RUN: '{ref}' names no version; accepted: models:/NAME@ALIAS, models:/NAME/VERSION"
    )


def log_model(store: Any, run: str, export: Path, step: int) -> None:
    """Log an exported directory as the run's model: a pyfunc over the same SavedModel."""
    import mlflow

    from dlkit.export import pyfunc

    manifest = json.loads(
        (export / "1" / "assets.extra" / "dlkit.json").read_text(encoding="utf-8")
    )
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
    deliver(store, run, {"tags": {EXPORTED_TAG: str(step)}})


@contextlib.contextmanager
def _active(run: str, uri: str) -> Iterator[None]:
    """Make `run` MLflow's active run, leaving its status and this process's environment alone."""
    import mlflow

    given = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        status = mlflow.get_run(run).info.status
        try:
            with mlflow.start_run(run_id=run):
                yield
        finally:
            mlflow.MlflowClient().update_run(run, status=status)
    finally:
        # MLflow also writes the address into the environment, where the next command would find it.
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if given is not None:
            os.environ["MLFLOW_TRACKING_URI"] = given


def export_directory(ref: str, task: str | None = None) -> tuple[Path, str | None]:
    """Find the exported directory of a run, of a registered model, or at a path.

    Returns:
        The directory that holds `1/`, and the name to serve it under where the user gives none.
    Raises:
        RunError: no such run or directory, another task's, or a run without an export.
    """
    path = Path(ref).expanduser()
    if not ref.startswith("models:/") and path.is_dir():
        kind = _task_of(path)
        if task is not None and kind not in (None, task):
            raise RunError(f"RUN: {ref} is an export of {kind}, not of {task}")
        return path.absolute(), (kind or path.absolute().name).replace("-", "_")
    if "/" in ref and not ref.startswith("models:/"):
        raise RunError(f"RUN: no exported directory {ref}")
    run = find_run(ref, task)
    name = ref.removeprefix("models:/").split("@")[0].split("/")[0] if "/" in ref else None
    return run_export(run), name or run.data.tags[TASK_TAG].replace("-", "_")


def _task_of(path: Path) -> str | None:
    for manifest in sorted(path.glob("*/assets.extra/dlkit.json")):
        with contextlib.suppress(OSError, ValueError):
            return json.loads(manifest.read_text(encoding="utf-8")).get("task")
    return None


def logged_model(run: Any) -> Any:
    """Return the newest complete logged model of a run, or None."""
    store = client()
    found = store.search_logged_models(
        experiment_ids=[run.info.experiment_id],
        filter_string=f"source_run_id = '{run.info.run_id}'",
    )
    ready = [m for m in found if str(getattr(m.status, "value", m.status)) == "READY"]
    return max(ready, key=lambda m: m.creation_timestamp, default=None)


def spooled_export(run: str) -> Path | None:
    """Return the exported directory that waits in a run's spool, or None."""
    return max(spool_folder(run).glob(f"model-*/{EXPORT_NAME}"), default=None)


def run_export(run: Any) -> Path:
    """Return the exported directory of a run, fetched if the store is elsewhere.

    Raises:
        RunError: the run has none.
    """
    spooled = spooled_export(run.info.run_id)
    if spooled:
        return spooled
    model = logged_model(run)
    if model is None:
        raise RunError(
            f"RUN: {run.info.run_id} ({run.info.status}) has no export; finish it with "
            f"dlkit {run.data.tags[TASK_TAG]} train --resume {run.info.run_id[:8]}"
        )
    return artifact(model.artifact_location, f"artifacts/{EXPORT_NAME}")


def artifact(root: str, path: str) -> Path:
    """Return a local path of an artifact: itself in a local store, else a fetched copy."""
    import mlflow

    try:
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"{root}/{path}", tracking_uri=store_uri()
            )
        )
    except Exception as error:
        raise RunError(f"the artifact {root}/{path} cannot be read: {_line(error)}") from None


def register(ref: str, target: str) -> str:
    """Register a run's model as `NAME` or `NAME@ALIAS`; return `models:/NAME/VERSION`."""
    import mlflow

    name, at, alias = target.partition("@")
    if not name or (at and not alias) or set(name) & set("/:@"):
        raise RunError(f"NAME: got '{target}'; accepted: NAME or NAME@ALIAS, without '/' or ':'")
    run = find_run(ref)
    model = logged_model(run)
    if model is None:
        raise RunError(f"RUN: {run.info.run_id} has no export to register")
    store = client()
    try:
        with contextlib.suppress(Exception):  # it may exist
            store.create_registered_model(name)
        version = store.create_model_version(
            name, f"models:/{model.model_id}", run_id=run.info.run_id, model_id=model.model_id
        )
        if alias:
            store.set_registered_model_alias(name, alias, version.version)
    except mlflow.exceptions.MlflowException as error:
        raise RunError(f"NAME '{target}': {_line(error)}") from None
    return f"models:/{name}/{version.version}"


def config_of(run: str) -> dict[str, Any]:
    """Return a run's resolved config, from its checkpoint folder or from the store."""
    local = checkpoint_folder(run) / "config.json"
    if not local.exists():
        store = client()
        local = artifact(store.get_run(run).info.artifact_uri, "config.json")
    try:
        return json.loads(local.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"the config of run {run} at {local} is broken: {error}") from None


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
