"""The tracking store, and where a run's own files are."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlkit.errors import StoreError

HOME = Path("mlruns")
TASK_TAG, SPOOL_TAG = "dlkit.task", "dlkit.spooled"
CHILD_TAG = "mlflow.parentRunId"
# On the parent of a comparison: the models it compares, and the id of its best child.
COMPARED_TAG, BEST_TAG = "dlkit.compared", "dlkit.best"
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


def begun() -> bool:
    """Return whether there may be something in the store: dlkit's own is made on first use."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (HOME / "mlflow.db").exists()


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
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri = store_uri()
    try:
        with _initialising(uri):
            import logging

            import mlflow

            # What fails is raised, and told in one line.
            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
            store = mlflow.MlflowClient(uri, uri)
            store.search_experiments(max_results=1)
    except Exception as error:
        raise StoreError(
            f"the tracking store {uri} cannot be used: {line(error)}; what is in it was left as it is"
        ) from None
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


@contextlib.contextmanager
def fluent(uri: str) -> Iterator[None]:
    """Set the store for those of MLflow's functions that take none, and take it back after."""
    import mlflow

    given = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri("")
        # MLflow also writes the address into the environment, where the next command would find it.
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if given is not None:
            os.environ["MLFLOW_TRACKING_URI"] = given


def line(error: Exception) -> str:
    """Return the line that says what went wrong: a database's own words before SQLAlchemy's."""
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
    database = re.search(r"^\(\w+\.\w*Error\) (.+)$", text, re.MULTILINE)
    return database[1] if database else text.splitlines()[0]
