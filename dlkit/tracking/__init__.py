"""All of MLflow: the store, a run that is being written, and finding runs again.

Without `MLFLOW_TRACKING_URI` the store is `mlruns/mlflow.db` with files in `mlruns/artifacts`,
under the working directory. Checkpoints and the spool live under `mlruns/` wherever the store is.
"""

from dlkit.tracking.delivery import sync
from dlkit.tracking.find import (
    artifact,
    best_child,
    checkpoint_of,
    children,
    config_of,
    export_directory,
    find_run,
    list_runs,
    register,
    registered,
    run_export,
)
from dlkit.tracking.record import Run, environment, recorded, resume_run, same_data, start_run
from dlkit.tracking.store import (
    BEST_TAG,
    CHILD_TAG,
    COMPARED_TAG,
    FINGERPRINT_TAG,
    SPOOL_TAG,
    TASK_TAG,
    checkpoint_folder,
    client,
    spool_folder,
    store_uri,
)

__all__ = [
    "BEST_TAG",
    "CHILD_TAG",
    "COMPARED_TAG",
    "FINGERPRINT_TAG",
    "SPOOL_TAG",
    "TASK_TAG",
    "Run",
    "artifact",
    "best_child",
    "checkpoint_folder",
    "checkpoint_of",
    "children",
    "client",
    "config_of",
    "environment",
    "export_directory",
    "find_run",
    "list_runs",
    "recorded",
    "register",
    "registered",
    "resume_run",
    "run_export",
    "same_data",
    "spool_folder",
    "start_run",
    "store_uri",
    "sync",
]
