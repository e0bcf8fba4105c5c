"""A store that fails costs nothing; references to runs say what they mean."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import Done, runner

from dlkit import tracking

Run = Callable[..., Done]
TASK = "image-classification"


def start(task: str = TASK, status: str | None = "FINISHED", **tags: str) -> str:
    run = tracking.start_run(task, {"a": 1}, {tracking.FINGERPRINT_TAG: "0", **tags}, "made")
    if status:
        run.finish(status)
    return run.id


def test_latest_is_the_newest_finished_run_of_the_task_that_is_no_child(here: Path) -> None:
    finished = start()
    start(status="FAILED")
    start(status="RUNNING")
    start(**{tracking.CHILD_TAG: finished})
    other = start(task="forecasting")
    assert tracking.find_run("latest", TASK).info.run_id == finished
    assert tracking.find_run("latest").info.run_id == other
    begun = start(status="KILLED")
    start(status="KILLED", **{tracking.CHILD_TAG: begun})
    assert tracking.find_run("latest", TASK, finished=False).info.run_id == begun


def test_references_by_the_start_of_an_id(dlkit: Run) -> None:
    ids = [start() for _ in range(20)]
    one = ids[0]
    assert tracking.find_run(one).info.run_id == one
    shared = next(a[:1] for i, a in enumerate(ids) for b in ids[:i] if a[0] == b[0])
    done = dlkit("runs", "show", shared)
    assert done.code == 2
    assert f"'{shared}' starts" in done.err
    elsewhere = start(task="forecasting")
    done = dlkit(TASK, "evaluate", elsewhere)
    assert done.code == 2
    assert "is a run of forecasting" in done.err


def test_a_run_without_an_export_says_how_to_finish_it(dlkit: Run) -> None:
    run = start(status="RUNNING")
    done = dlkit(TASK, "export", run, "--out", "x")
    assert done.code == 2
    assert f"train --resume {run[:8]}" in done.err


def test_no_step_is_logged_twice(here: Path) -> None:
    run = tracking.start_run(TASK, {}, {}, "made")
    for step in (1, 2):
        run.metrics(step, {"loss": 1.0 / step})
    run.flush()
    again = tracking.resume_run(TASK, run.id)
    for step in (1, 2, 3):
        again.metrics(step, {"loss": 1.0 / step, "late": 0.5})
    again.finish("FINISHED")
    history = tracking.client().get_metric_history(run.id, "loss")
    assert [m.step for m in history] == [1, 2, 3]
    assert len(tracking.client().get_metric_history(run.id, "late")) == 3


class Failing:
    """A store that refuses everything once it is told to."""

    def __init__(self, store: Any) -> None:
        self.store, self.broken = store, False

    def __getattr__(self, name: str) -> Any:
        if self.broken:
            raise ConnectionError("the store went away")
        return getattr(self.store, name)


@pytest.mark.usefixtures("unchecked", "undrawn")
def test_a_store_that_fails_later_never_stops_training_and_sync_delivers(
    dlkit: Run, npz: Path
) -> None:
    failing: list[Failing] = []
    made = tracking.start_run

    def start_run(*args: Any, **options: Any) -> tracking.Run:
        run = made(*args, **options)
        run.store = Failing(run.store)
        failing.append(run.store)
        return run

    def metrics(self: tracking.Run, step: int, values: dict[str, float]) -> None:
        failing[0].broken = step >= 3
        original(self, step, values)
        self.flush()

    original = tracking.Run.metrics
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "start_run", start_run)
        patch.setattr(tracking.Run, "metrics", metrics)
        done = dlkit(TASK, "train", "--data", npz, "--model", "mlp", "--epochs", "5")
    assert done.code == 0, done.err
    assert "the store went away" in done.err
    assert "dlkit runs sync" in done.err
    run = next(line.split()[1] for line in done.out.splitlines() if line.startswith("run "))
    assert Path(f"mlruns/spool/{run}/events.jsonl").is_file()
    assert dlkit("runs", "show", run, "--json").json["status"] == "RUNNING"
    assert "events delivered" in dlkit("runs", "sync").out
    shown = dlkit("runs", "show", run, "--json").json
    assert shown["status"] == "FINISHED"
    assert shown["tags"][tracking.SPOOL_TAG] == "delivered"
    assert {"report.json", "confusion.png"} <= set(shown["files"])
    history = tracking.client().get_metric_history(run, "loss")
    assert sorted(m.step for m in history) == [1, 2, 3, 4, 5]
    assert dlkit(TASK, "export", run, "--out", "copied").code == 0
    assert not Path(f"mlruns/spool/{run}").exists()
    assert dlkit("runs", "sync").out == "nothing to deliver\n"


def test_a_store_with_an_address_of_its_own_is_looked_into(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{tracking.store_uri()}?timeout=5")
    assert start() == tracking.find_run("latest").info.run_id


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("runs list", 0),
        ("runs show latest", 2),
        ("image-synthesis generate none --out grid.png", 2),
        ("serve models:/none@prod", 2),
        ("image-classification train --resume latest", 2),
    ],
)
def test_looking_for_runs_makes_no_store(
    command: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = runner(capfd)(*command.split())
    assert done.code == code
    assert (done.out + done.err).count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_resolved_config_is_a_config(in_trained: dict[str, Any]) -> None:
    values = json.loads(Path(in_trained["report"]).with_name("config.json").read_text())
    assert values["model"] == "mlp"
    assert values["epochs"] == 30


@pytest.mark.slow
def test_four_processes_make_one_store(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from dlkit.tracking import client; client()"]
    running = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) for _ in range(4)]
    assert [(p.communicate()[1], p.returncode) for p in running] == [(b"", 0)] * 4


def test_doctor_finds_this_machine_fit(dlkit: Run) -> None:
    done = dlkit("doctor", "--json")
    checks = {c["name"]: c for c in done.json["checks"]}
    for name in ("python", "tensorflow", "computes", "store", "accelerators", "threads", "data"):
        assert checks[name]["ok"], checks[name]
    assert done.code == (0 if checks["disk"]["ok"] else 2)
