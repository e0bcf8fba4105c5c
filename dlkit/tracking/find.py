"""Finding runs, their files and their exports again."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from dlkit.errors import RunError, nearest, one_of
from dlkit.tracking.store import (
    BEST_TAG,
    CHILD_TAG,
    COMPARED_TAG,
    EXPORT_NAME,
    TASK_TAG,
    begun,
    checkpoint_folder,
    client,
    fluent,
    line,
    spool_folder,
    store_uri,
)


def list_runs(task: str | None = None) -> list[Any]:
    """Return dlkit's runs, newest first. Looking makes no store."""
    if not begun():
        return []
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
        finished: whether a trained model is wanted: `latest` then looks for FINISHED runs, and a
            comparison means its best child. Else any run, as it is. `latest` is never a child.
    Raises:
        RunError: none, several, a run of another task, or a comparison without a best child.
    """
    if ref.startswith("models:/"):
        found = _registered(ref).run_id
        runs = [client().get_run(found)]
    elif ref == "latest":
        runs = [
            r
            for r in list_runs(task)
            if CHILD_TAG not in r.data.tags and (not finished or r.info.status == "FINISHED")
        ][:1]
        if not runs:
            raise RunError(
                f"RUN latest: no {'finished ' if finished else ''}run"
                f"{' of ' + task if task else ''} in {store_uri()}"
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
    return best_child(runs[0]) if finished else runs[0]


def best_child(run: Any) -> Any:
    """Return the best run of a comparison; any other run is its own best.

    Raises:
        RunError: the comparison has not come to an end.
    """
    tags = run.data.tags
    if COMPARED_TAG not in tags:
        return run
    if BEST_TAG not in tags:
        raise RunError(
            f"RUN: {run.info.run_id} is a comparison that has not finished; go on with "
            f"dlkit {tags[TASK_TAG]} compare --resume {run.info.run_id[:8]}"
        )
    return client().get_run(tags[BEST_TAG])


def children(parent: str) -> list[Any]:
    """Return the child runs of a run, in the order they were started."""
    return [r for r in reversed(list_runs()) if r.data.tags.get(CHILD_TAG) == parent]


def _registered(ref: str) -> Any:
    from mlflow.exceptions import MlflowException

    name, at, alias = ref.removeprefix("models:/").partition("@")
    if not begun():
        raise RunError(f"RUN: no registered model '{ref}'; there: none in {store_uri()}")
    store = client()
    try:
        if at:
            return store.get_model_version_by_alias(name, alias)
        name, slash, version = name.partition("/")
        if slash:
            return store.get_model_version(name, version)
    except MlflowException:
        known = [m.name for m in store.search_registered_models()]
        raise RunError(
            f"RUN: no registered model '{ref}'{nearest(name, known)}; there: {one_of(known) or 'none'}"
        ) from None
    raise RunError(
        f"RUN: '{ref}' names no version; accepted: models:/NAME@ALIAS, models:/NAME/VERSION"
    )


def registered(ref: str) -> tuple[int, dict[str, int]]:
    """Return the version that `models:/NAME@ALIAS` means now, and the versions of all aliases.

    Raises:
        RunError: no such model, version or alias.
    """
    version = _registered(ref)
    aliases = client().get_registered_model(version.name).aliases
    return int(version.version), {alias: int(number) for alias, number in aliases.items()}


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
    for manifest in sorted(p for p in path.glob("*/assets.extra/dlkit.json") if p.is_file()):
        with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
            task = json.loads(manifest.read_text(encoding="utf-8")).get("task")
            return task if isinstance(task, str) else None
    return None


def logged_models(run: Any, status: str) -> list[Any]:
    """Return a run's logged models in a status, READY or PENDING, oldest first."""
    found = client().search_logged_models(
        experiment_ids=[run.info.experiment_id],
        filter_string=f"source_run_id = '{run.info.run_id}'",
    )
    kept = [m for m in found if str(getattr(m.status, "value", m.status)) == status]
    return sorted(kept, key=lambda m: m.creation_timestamp)


def logged_model(run: Any) -> Any:
    """Return the newest complete logged model of a run, or None."""
    return next(reversed(logged_models(run, "READY")), None)


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
        raise RunError(f"the artifact {root}/{path} cannot be read: {line(error)}") from None


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
        with fluent(store.tracking_uri):
            version = store.create_model_version(
                name, f"models:/{model.model_id}", run_id=run.info.run_id, model_id=model.model_id
            )
        if alias:
            store.set_registered_model_alias(name, alias, version.version)
    except mlflow.exceptions.MlflowException as error:
        raise RunError(f"NAME '{target}': {line(error)}") from None
    return f"models:/{name}/{version.version}"


def checkpoint_of(task: str, ref: str) -> Path | None:
    """Return the checkpoint of a run, or None where it was ended before its first."""
    path = checkpoint_folder(find_run(ref, task, finished=False).info.run_id) / "checkpoint.npz"
    return path if path.is_file() else None


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
