"""Several workers behind one port: one that is killed, one that cannot start, how they end."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import httpx
import psutil
from processes import Asking, started, write_version


def test_a_killed_worker_comes_back_while_no_other_fails(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    options = ("--workers", "2", "--runtime", "onnx", "--port", "0")
    with started(f"n={tmp_path}", *options) as server:
        url = server.url()
        killed, other = server.workers()
        with Asking(url) as asking:
            time.sleep(0.3)
            held = [c for c in killed.net_connections() if c.status == psutil.CONN_ESTABLISHED]
            killed.send_signal(signal.SIGKILL)
            at = time.monotonic()
            server.until(lambda: server.log.count("version 1 is ready") == 3)
            time.sleep(0.3)
        # What the killed one was answering is lost, and nothing else.
        assert len(asking.lost) <= len(held), asking.lost
        assert set(asking.versions()) == {1.0} and sum(a[0] > at for a in asking.answers) > 20
        assert server.process.stdout and server.process.stdout.readline().startswith("  curl")
        counted = httpx.get(url.replace("/v1/models/n", "/metrics")).text
        ok = ':tensorflow:serving:request_count{model_name="n",status="OK"} '
        count = float(counted.split(ok)[1].split()[0])  # the killed one's too
        assert len(asking.answers) <= count <= len(asking.answers) + len(held)

        server.process.send_signal(signal.SIGHUP)
        assert httpx.get(url).status_code == 200
        with Asking(url) as asking:
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            server.until(
                lambda: httpx.get(url.replace("/v1/models/n", "/healthz")).status_code == 503, 0.5
            )
            assert server.ended() == (0, "")
        assert asking.lost == [] and set(asking.versions()) == {1.0}
        assert not other.is_running() and "Traceback" not in server.log
        assert '"message": "worker' in server.log and f'"process": {other.pid}' in server.log


def test_workers_that_cannot_start_end_it_in_one_line(tmp_path: Path) -> None:
    folder = write_version(tmp_path, 1)
    (folder / "assets.extra" / "model.onnx").write_bytes(b"changed")
    options = ("--workers", "2", "--runtime", "onnx", "--port", "0")
    with started(f"n={tmp_path}", *options) as server:
        assert server.ended() == (2, "")
        (line,) = [line for line in server.lines if not line.startswith("{")]
        assert line.startswith("dlkit: error: the export") and "was altered" in line


def test_the_second_interrupt_drops_what_is_left(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    options = ("--workers", "2", "--runtime", "onnx", "--port", "0")
    with started(f"n={tmp_path}", *options) as server:
        server.url()
        workers = server.workers()
        for process in (server.process, *workers):  # as a terminal does
            process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert server.process.poll() is None  # it drains
        server.process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert server.ended()[0] == 130
        assert time.monotonic() - began < 1.0
        assert server.lines[-1] == "dlkit: interrupted\n"
        assert not any(worker.is_running() for worker in workers)


def test_sigterm_while_workers_load(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    options = ("--workers", "2", "--runtime", "onnx", "--port", "0")
    with started(f"n={tmp_path}", *options) as server:
        server.until(lambda: len(server.workers()) == 2)
        server.process.send_signal(signal.SIGTERM)
        assert server.ended(10) == (0, "") and "Traceback" not in server.log
