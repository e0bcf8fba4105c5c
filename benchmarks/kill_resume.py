"""Kill training with SIGKILL at random moments, resume it, and compare with a run left alone.

python benchmarks/kill_resume.py [--models mlp,lenet,resnet] [--trials 20] [--seed 0] [--again]

Every trial trains a model on digits in a folder and store of its own: classifiers with their shipped
defaults, generators as in `ARGUMENTS` (8 x 8 pictures: the progressive one switches once, halfway).
A third of the kills wait for a file that shows a certain moment: a checkpoint being written, the
database being flushed, the export being made or logged. A trial passes if the resumed run ends with
the weights, metrics and steps of the run left alone, in one MLflow run, with no step logged twice
and one logged model.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from results_file import ROOT, row

CLASSIFY, SYNTHESISE = ["image-classification", "train"], ["image-synthesis", "train"]
BRIEF = ["--epochs", "10", "--count", "200"]
ARGUMENTS = {
    "mlp": [*CLASSIFY, "--model", "mlp"],
    "lenet": [*CLASSIFY, "--model", "lenet"],
    "resnet": [*CLASSIFY, "--model", "resnet"],
    "dcgan": [*SYNTHESISE, "--model", "dcgan", "--diff-augment", "translation", *BRIEF],
    "cyclegan": [*SYNTHESISE, "--model", "cyclegan", "--domains", "0,1", "--epochs", "10"],
    "progan": [*SYNTHESISE, "--model", "progan", *BRIEF],
}
MODELS = ("mlp", "lenet", "resnet")
# Files that exist only for the moment they are named after.
MOMENTS = {
    "save": "checkpoints/*/checkpoint.npz.tmp",
    "flush": "mlflow.db-journal",
    "export": "checkpoints/*/export.partial/1/saved_model.pb",
    "log model": "artifacts/models/*/artifacts/artifacts",
}


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start a training command in a folder."""
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    log = open(folder / "log", "ab")  # noqa: SIM115 (the child's)
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def ended(folder: Path) -> dict[str, Any]:
    """Read from a folder's store what its runs ended with."""
    with sqlite3.connect(folder / "mlruns" / "mlflow.db") as store:

        def ask(query: str) -> list[tuple]:
            return store.execute(query).fetchall()

        return {
            "runs": ask("select run_uuid, status from runs"),
            "weights": ask("select value from tags where key = 'dlkit.weights'"),
            "twice": ask("select key, step from metrics group by key, step having count(*) > 1"),
            "metrics": sorted(
                ask(
                    "select key, step, value from metrics where key not like 'examples%' "
                    "order by key, step"
                )
            ),
            "models": ask(
                "select count(*) from logged_models where status = 2 or status = 'READY'"
            ),
        }


def run_is_there(process: subprocess.Popen, folder: Path) -> None:
    """Wait until a run has been started: before that there is nothing to resume."""
    while process.poll() is None and not list(folder.glob("mlruns/checkpoints/*/config.json")):
        time.sleep(0.02)


def whole(model: str, folder: Path) -> dict[str, Any]:
    """Train a model undisturbed; return what it ended with, and when it began and stopped."""
    began = time.monotonic()
    process = start(folder, *ARGUMENTS[model])
    run_is_there(process, folder)
    first = time.monotonic() - began
    if process.wait():
        raise SystemExit((folder / "log").read_text())
    return {**ended(folder), "first": first, "last": time.monotonic() - began}


def trial(number: int, seed: int, reference: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Kill and resume one run; say whether it ended as the undisturbed one."""
    chance = random.Random(f"{seed}-{number}")
    models = list(reference)
    model, turn, moment = models[number % len(models)], number // len(models), None
    if turn % 3 == 1:
        moment = list(MOMENTS)[(turn // 3 + number) % len(MOMENTS)]
    wanted = reference[model]
    process = start(folder, *ARGUMENTS[model])
    run_is_there(process, folder)
    began, lasts = time.monotonic(), wanted["last"] - wanted["first"]
    if moment in (None, "flush"):
        # Where the machine is faster than it was for the reference, a late kill would come too late.
        time.sleep(chance.uniform(0, 0.9 * lasts))
    while moment and process.poll() is None and not list((folder / "mlruns").glob(MOMENTS[moment])):
        time.sleep(0.0005)
    after = time.monotonic() - began
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    code = process.returncode
    if alive:
        task, command = ARGUMENTS[model][:2]
        code = start(folder, task, command, "--resume", ended(folder)["runs"][0][0]).wait()
    found = ended(folder)
    checks = {
        "finished": code == 0 and [status for _, status in found["runs"]] == ["FINISHED"],
        "same weights": found["weights"] == wanted["weights"],
        "same metrics": found["metrics"] == wanted["metrics"],
        "no step twice": not found["twice"],
        "one model": found["models"] == wanted["models"],
    }
    return {
        "model": model,
        "moment": moment or "any",
        "killed": alive,
        "seconds": round(after, 2),
        "failed": [name for name, good in checks.items() if not good],
    }


def campaign(models: list[str], trials: int, seed: int) -> dict[str, Any]:
    """Run the undisturbed runs, then the trials, two at a time."""
    with tempfile.TemporaryDirectory() as home:

        def folder(name: str) -> Path:
            made = Path(home, name)
            made.mkdir()
            return made

        with ThreadPoolExecutor(2) as pool:
            references: dict[str, Any] = dict(
                zip(models, pool.map(lambda m: whole(m, folder(m)), models), strict=True)
            )
            results = []
            for result in pool.map(
                lambda n: trial(n, seed, references, folder(str(n))), range(trials)
            ):
                print(json.dumps(result), flush=True)
                results.append(result)
    killed = [r for r in results if r["killed"]]
    return {
        "seed": seed,
        "trials": results,
        "killed": len(killed),
        "passed": sum(not r["failed"] for r in killed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    models = given.models.split(",")
    for model in models:
        if model not in ARGUMENTS:
            parser.error(f"--models: no '{model}'; accepted: {', '.join(ARGUMENTS)}")
    name = f"{', '.join(models)}: {given.trials} kills, seed {given.seed}"
    figures = row(
        "kill_resume", name, lambda: campaign(models, given.trials, given.seed), given.again
    )
    print(f"{figures['passed']} of {figures['killed']} killed runs ended as the one left alone")


if __name__ == "__main__":
    main()
