"""`dlkit doctor`: what this machine has, and what to do where something is missing."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from dlkit.errors import counted

PACKAGES = (
    "tensorflow",
    "keras",
    "mlflow",
    "tensorflow-datasets",
    "numpy",
    "scikit-learn",
    "pillow",
)
ENOUGH_DISK = 2e9


@click.command()
@click.option("--data-dir", metavar="DIR", help="Folder of tensorflow-datasets to look into.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def doctor(data_dir: str | None, as_json: bool) -> None:
    """Look at versions, threads, accelerators, store, disk and data; say what to do."""
    checks = []
    for check in look(data_dir):
        checks.append(check)
        if not as_json:
            name, good, found, advice = check
            click.echo(
                f"{'ok ' if good else '!! '} {name:13} {found}"
                + (f"\n    -> {advice}" if advice else "")
            )
    if as_json:
        keys = ("name", "ok", "found", "advice")
        click.echo(json.dumps({"checks": [dict(zip(keys, c, strict=True)) for c in checks]}))
    if not all(good for _, good, _, _ in checks):
        click.get_current_context().exit(2)


def look(data_dir: str | None) -> Iterator[tuple[str, bool, str, str]]:
    """Yield `(name, good, what was found, what to do)` for each thing looked at."""
    python = platform.python_version()
    good = (3, 11) <= tuple(map(int, python.split(".")[:2])) < (3, 14)
    yield "python", good, python, "" if good else "use Python 3.11, 3.12 or 3.13"
    for name in PACKAGES:
        try:
            yield name, True, version(name), ""
        except PackageNotFoundError:
            yield name, False, "not installed", "pip install -c constraints.txt ."
    yield _tensorflow()
    cores = len(os.sched_getaffinity(0))
    threads = os.environ.get("TF_NUM_INTRAOP_THREADS", "one a core")
    yield "threads", True, f"{counted(cores, 'core')}, TensorFlow uses {threads}", ""
    yield _accelerators(cores)
    yield _store()
    yield _disk()
    yield _datasets(data_dir)


def _tensorflow() -> tuple[str, bool, str, str]:
    from dlkit.runtime import load_tensorflow

    try:
        tf = load_tensorflow()
        total = float(tf.reduce_sum(tf.ones((64, 64)) @ tf.ones((64, 64))))
        return "computes", total == 64.0**3, "a product of matrices came out right", ""
    except Exception as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        return "computes", False, line, "reinstall with: pip install -c constraints.txt ."


def _accelerators(cores: int) -> tuple[str, bool, str, str]:
    from dlkit.runtime import load_tensorflow

    try:
        devices = [d.name for d in load_tensorflow().config.list_physical_devices("GPU")]
    except Exception as error:
        return "accelerators", False, str(error), ""
    if devices:
        return "accelerators", True, ", ".join(devices), "add --deterministic to resume bit-exactly"
    return "accelerators", True, f"none; training runs on {counted(cores, 'core')}", ""


def _store() -> tuple[str, bool, str, str]:
    from dlkit import tracking
    from dlkit.errors import DlkitError

    try:
        tracking.client()  # made now, where there is none: training will want to write it
        runs = len(tracking.list_runs())
        waiting = len(list(tracking.spool_folder("*").parent.glob("*/events.jsonl")))
    except DlkitError as error:
        return "store", False, str(error), "make it writable, or set MLFLOW_TRACKING_URI"
    wait = "waits" if waiting == 1 else "wait"
    spooled = f"{counted(waiting, 'run')} {wait} to be delivered: dlkit runs sync"
    advice = spooled if waiting else ""
    return "store", True, f"{tracking.store_uri()}, {counted(runs, 'run')}", advice


def _disk() -> tuple[str, bool, str, str]:
    free = shutil.disk_usage(".").free
    good = free > ENOUGH_DISK
    return "disk", good, f"{free / 1e9:.1f} GB free here", "" if good else "free some: 2 GB is wise"


def _datasets(data_dir: str | None) -> tuple[str, bool, str, str]:
    from dlkit.data.images import TFDS_HOME, prepared

    home = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or TFDS_HOME).expanduser()
    found = prepared(home)
    if found:
        return "data", True, f"{home}: {', '.join(found)}", ""
    advice = "tfds:NAME downloads on first use, or give --data-dir; digits needs nothing"
    return "data", True, f"no tensorflow-datasets in {home}", advice
