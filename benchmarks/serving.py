"""What `dlkit serve` carries and what it survives, under a bounded load from a second process.

python benchmarks/serving.py [--rows workers lenet swaps drain kill overload] [--quick] [--again]

`workers`: LeNet from 28 x 28 pixels in JSON over 16 connections, by number of workers and threads,
    with and without batching: what the defaults stand on. 4 minutes.
`lenet`: the same, TensorFlow and ONNX Runtime, beside `mlflow models serve` of the same SavedModel
    and LitServe (ONNX Runtime, an environment of its own), all started, each measured in turn, three
    rounds, two workers each. 4 minutes, and one to make LitServe's environment.
`swaps`: 50 times a new version appears while 16 connections ask; five rounds of ten. Steady is the
    second and a half before each appears, after is the second after all workers answer with it.
    5 minutes.
`drain`: SIGTERM under that load, five times. 2 minutes.
`kill`: SIGKILL of one of two workers under that load. 1 minute.
`overload`: requests of 32 rows at ten times the rate that was answered in a closed loop, for 30
    seconds, over at most 1,200 connections. 2 minutes.

`--quick` shortens all of it, to see that it runs; its figures are not kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from results_file import ROOT, row
from serving_models import lenet, request
from serving_servers import ENVIRONMENT, Running, litserve, load, mlflow, move, ours, started_load

PREDICT = "/v1/models/n:predict"
CONNECTIONS = 16
CONFIGURATIONS = [  # workers, threads, most rows of a batch
    (1, 1, 64), (1, 2, 64), (1, 1, 1), (1, 2, 1), (2, 1, 64), (2, 1, 1),
]  # fmt: skip


def workers_row(folder: Path, seconds: float) -> dict[str, Any]:
    """Measure LeNet by workers, threads and batching."""
    export, body = lenet(folder), request(folder / "body.json")
    found = []
    for workers, threads, batch in CONFIGURATIONS:
        options = ("--workers", workers, "--threads", threads, "--max-batch", batch)
        with ours(export, *options, "--no-watch") as server:
            load(server, PREDICT, body, connections=CONNECTIONS, seconds=seconds / 2)
            rounds = [
                load(server, PREDICT, body, connections=CONNECTIONS, seconds=seconds)
                for _ in range(3)
            ]
        about = {"workers": workers, "threads": threads, "max_batch": batch}
        found.append(about | middle(rounds))
        print(json.dumps(found[-1]), flush=True)
    return {"configurations": found}


def middle(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of some loads, which must all have been answered with 200."""
    for each in rounds:
        if each["lost"] or set(each["statuses"]) != {"200"}:
            raise SystemExit(f"not all was answered: {each}")
    return {
        name: statistics.median(each[name] for each in rounds)
        for name in ("per_second", "p50_ms", "p99_ms")
    }


def lenet_row(folder: Path, seconds: float) -> dict[str, Any]:
    """Measure LeNet in TensorFlow and ONNX Runtime beside its peers, in turn."""
    export, body = lenet(folder), request(folder / "body.json")
    theirs = request(folder / "inputs.json", name="inputs")
    two = ("--workers", 2, "--no-watch")
    with contextlib.ExitStack() as stack:
        sides: dict[str, tuple[Running, str, Path]] = {
            "tensorflow": (stack.enter_context(ours(export, *two)), PREDICT, body),
            "onnx": (
                stack.enter_context(ours(export, *two, "--runtime", "onnx")),
                PREDICT,
                body,
            ),
            "mlflow": (stack.enter_context(mlflow(export, 2)), "/invocations", theirs),
            "litserve": (stack.enter_context(litserve(export, 2)), "/predict", body),
        }
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        for number in range(4):
            for name, (server, path, sent) in sides.items():
                found = load(server, path, sent, connections=CONNECTIONS, seconds=seconds)
                if number:  # the first warms
                    rounds[name].append(found)
    figures: dict[str, Any] = {name: middle(each) for name, each in rounds.items()}
    for peer in ("mlflow", "litserve"):
        for engine in ("tensorflow", "onnx"):
            ratios = [
                a["per_second"] / b["per_second"]
                for a, b in zip(rounds[engine], rounds[peer], strict=True)
            ]
            figures[f"{engine}_over_{peer}"] = round(statistics.median(ratios), 2)
            figures[f"{engine}_over_{peer}_range"] = [round(min(ratios), 2), round(max(ratios), 2)]
    return {**figures, "workers": 2, "connections": CONNECTIONS, "seconds": seconds, "rounds": 3}


def swaps_row(folder: Path, each: int) -> dict[str, Any]:
    """Swap versions under load in five rounds; say what failed and how answers slowed down."""
    rounds, bodies, statuses, lost = 5, 0, 0, 0
    staged, served = folder / "staged", folder / "served"
    script = str(Path(__file__).with_name("serving_models.py"))
    last = rounds * each + 1
    making = [sys.executable, script, str(staged), "1", str(last)]
    subprocess.run(making, check=True, env=ENVIRONMENT)
    move(staged / "1", served)
    body = request(folder / "body.json", rows=3)
    ratios, loading, rates = [], [], []
    with ours(served, "--workers", 2, "--poll", 0.2) as server:
        load(server, PREDICT, body, connections=CONNECTIONS, seconds=5)
        for number in range(rounds):
            times = folder / f"times-{number}.npy"
            spans = []
            job = {"connections": CONNECTIONS, "seconds": 120, "stdin": True, "bodies": True}
            with started_load(server, PREDICT, body, **job, times=str(times)) as asking:
                time.sleep(1.0)
                for version in range(number * each + 2, (number + 1) * each + 2):
                    time.sleep(1.5)
                    appeared = time.monotonic()
                    move(staged / str(version), served)
                    while len(server.said(f"version {version} is ready")) < 2:
                        time.sleep(0.01)
                    spans.append((appeared, server.said(f"version {version} is ready")[-1]))
                    time.sleep(1.0)
                output, _ = asking.communicate()
            found = json.loads(output)
            statuses += sum(n for status, n in found["statuses"].items() if status != "200")
            lost += found["lost"]
            bodies += sum(n for text, n in found["bodies"] if mixed(text))
            rows = np.load(times)
            before = [(start - 1.5, start) for start, _ in spans]
            rates.append(round(float(np.sum(within(rows, before))) / (1.5 * each), 1))
            steady = p99(rows, before)
            ratios.append(p99(rows, [(end, end + 1.0) for _, end in spans]) / steady)
            loading.append(p99(rows, spans) / steady)
            print(f"round {number + 1}: {rates[-1]} a second, p99 {steady:.1f} ms,", end=" ")
            print(f"after {ratios[-1]:.2f}, while loading {loading[-1]:.2f} times", flush=True)
        ready, retired = server.said("is ready"), server.said("is retired")
        if len(retired) != 2 * (last - 1) or len(ready) != 2 * last:
            raise SystemExit(f"{len(ready)} loaded and {len(retired)} retired by two workers")
    return {
        "swaps": last - 1,
        "failed_requests": statuses + lost,
        "answers_that_mix_versions": bodies,
        "steady_per_second_by_round": rates,
        "p99_after_over_steady": round(statistics.median(ratios), 2),
        "p99_after_over_steady_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "p99_while_loading_over_steady": round(statistics.median(loading), 2),
    }


def mixed(text: str) -> bool:
    """Say whether the rows of an answer come from several versions."""
    rows = json.loads(text)["predictions"]
    return len({row[name] for row in rows for name in ("version", "again")}) != 1


def p99(rows: np.ndarray, spans: list[tuple[float, float]]) -> float:
    """Return the 99th percentile, in ms, of the requests answered in some spans of time."""
    kept = within(rows, spans)
    return float(np.percentile(1000 * (rows[kept, 1] - rows[kept, 0]), 99))


def within(rows: np.ndarray, spans: list[tuple[float, float]]) -> np.ndarray:
    """Mark the requests answered in some spans of time."""
    kept = np.zeros(len(rows), bool)
    for start, end in spans:
        kept |= (rows[:, 1] >= start) & (rows[:, 1] < end)
    return kept


def drain_row(folder: Path, times: int) -> dict[str, Any]:
    """Send SIGTERM under load; say when readiness failed, what was lost, and how it ended."""
    export, body = lenet(folder), request(folder / "body.json")
    unready, ends, lost, answered, codes = [], [], 0, 0, []
    for _ in range(times):
        with ours(export, "--workers", 2, "--no-watch") as server:
            job = {"connections": CONNECTIONS, "seconds": 120, "stdin": True}
            with started_load(server, PREDICT, body, **job) as asking:
                time.sleep(3.0)
                server.process.send_signal(signal.SIGTERM)
                began = time.monotonic()
                while server.status("/healthz") == 200:
                    pass
                unready.append(1000 * (time.monotonic() - began))
                codes.append(server.process.wait(60))
                ends.append(time.monotonic() - began)
                output, _ = asking.communicate()
            found = json.loads(output)
            others = {k: n for k, n in found["statuses"].items() if k != "200"}
            lost += found["lost"] + sum(others.values())
            answered += found["statuses"]["200"]
    return {
        "times": times,
        "answered": answered,
        "accepted_and_not_answered": lost,
        "unready_ms": round(max(unready), 1),
        "ended_s": round(max(ends), 2),
        "exit_codes": codes,
    }


def kill_row(folder: Path, seconds: float) -> dict[str, Any]:
    """Kill one of two workers under load; say what was lost and when it was back."""
    export, body = lenet(folder), request(folder / "body.json")
    with ours(export, "--workers", 2, "--no-watch") as server:
        job = {"connections": CONNECTIONS, "seconds": 120, "stdin": True}
        with started_load(server, PREDICT, body, **job) as asking:
            time.sleep(seconds)
            victim = server.workers()[0]
            held = [c for c in victim.net_connections() if c.status == psutil.CONN_ESTABLISHED]
            victim.kill()
            began = time.monotonic()
            while len(server.said("is ready")) < 3:
                time.sleep(0.02)
            back = time.monotonic() - began
            time.sleep(seconds)
            output, _ = asking.communicate()
    found = json.loads(output)
    return {
        "connections_of_the_killed": len(held),
        "lost": found["lost"],
        "other_statuses": {k: n for k, n in found["statuses"].items() if k != "200"},
        "answered": found["statuses"]["200"],
        "back_after_s": round(back, 2),
    }


def overload_row(folder: Path, seconds: float) -> dict[str, Any]:
    """Ask ten times what it carries; say what came back, what it held, and when it was as before."""
    export, body = lenet(folder), request(folder / "body.json", rows=32)
    limits = ("--max-concurrency", 32, "--max-queue", 16)  # a third of a second's work
    with ours(export, "--workers", 2, "--no-watch", *limits) as server:

        def closed(length: float) -> dict[str, Any]:
            return load(server, PREDICT, body, connections=CONNECTIONS, seconds=length)

        closed(5.0)
        before, memory = closed(seconds / 3), server.megabytes()
        rate = 10 * before["per_second"]
        in_flight, held, done = [0.0], [memory], threading.Event()
        watching = threading.Thread(target=watch, args=(server, in_flight, held, done))
        watching.start()
        found = load(server, PREDICT, body, connections=1200, seconds=seconds, rate=rate)
        done.set()
        watching.join()
        time.sleep(1.0)
        after = closed(4.0)  # of the five seconds in which it is to be as before
        left = server.megabytes()
    sent = (sum(found["statuses"].values()) + found["lost"]) / seconds
    return {
        "carried_per_second": before["per_second"],
        "asked_per_second": round(rate, 1),
        "sent_per_second": round(sent, 1),
        "sent_over_carried": round(sent / before["per_second"], 2),
        "statuses": found["statuses"],
        "lost": found["lost"],
        "most_in_flight": max(in_flight),
        "most_allowed_in_flight": 64,
        "p99_of_answered_ms": found.get("p99_ms"),
        "carried_after": after["per_second"],
        "p99_before_ms": before["p99_ms"],
        "p99_after_ms": after["p99_ms"],
        "memory_mb": [round(m, 1) for m in (memory, max(held), left)],
        "memory_growth": round(left / memory - 1, 4),
    }


def watch(
    server: Running, in_flight: list[float], held: list[float], done: threading.Event
) -> None:
    """Note a server's requests in flight and its memory until `done`."""
    import urllib.request

    while not done.wait(1.0):
        held.append(server.megabytes())
        with contextlib.suppress(OSError):
            address = f"http://127.0.0.1:{server.port}/metrics"
            with urllib.request.urlopen(address, timeout=10) as answer:
                text = answer.read().decode()
            in_flight.append(float(text.split("\ndlkit_serving_requests_in_flight ")[1].split()[0]))


ROWS: dict[
    str, tuple[Callable[..., dict[str, Any]], float, float]
] = {  # and its size, whole, quick
    "workers": (workers_row, 8.0, 2.0),
    "lenet": (lenet_row, 10.0, 2.0),
    "swaps": (swaps_row, 10, 2),
    "drain": (drain_row, 5, 1),
    "kill": (kill_row, 5.0, 2.0),
    "overload": (overload_row, 30.0, 6.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        for name in given.rows:
            function, whole, quick = ROWS[name]
            size = quick if given.quick else whole

            def measure(function: Callable = function, size: float = size) -> dict[str, Any]:
                return function(Path(folder), size)

            found = measure() if given.quick else row("serving", name, measure, given.again)
            print(name, json.dumps(found, indent=1), flush=True)


if __name__ == "__main__":
    main()
