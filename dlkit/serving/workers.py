"""Several serving processes behind one port, and the process that minds them.

The supervisor loads no TensorFlow. It takes the port, starts the workers, starts another where one
dies, tells them what to serve, and hands on the signal that ends them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

from dlkit.errors import DlkitError, ServeError
from dlkit.serving.logs import log_to_stderr
from dlkit.serving.metrics import SHARED
from dlkit.serving.settings import Settings
from dlkit.serving.watch import Finder, Plan, Watcher

logger = logging.getLogger("dlkit.serving")

TICK = 0.2  # seconds between looks at the clock
QUICK = 10.0  # a worker that lives shorter is started again later and later
LONGEST_PAUSE = 30.0  # seconds before another try
END_SECONDS = 28.0  # after which a worker that still drains is ended


@dataclasses.dataclass
class Worker:
    """A serving process, and what it was told last."""

    process: Any
    pipe: Connection
    plan: Plan
    began: float
    ready: bool = False


class Supervisor:
    """Minds the workers of one server.

    Args:
        settings: of a worker.
        finder: of the plans to come.
        plan: its first.
        listener: bound; see `server.bind`.
        poll: seconds between looks for other versions; 0 never looks.
    """

    def __init__(
        self, settings: Settings, finder: Finder, plan: Plan, listener: socket.socket, poll: float
    ) -> None:
        self.settings, self.finder, self.plan = settings, finder, plan
        self.listener, self.poll = listener, poll
        self.workers: list[Worker] = []
        self.pauses: list[float] = []  # when each worker that is missing is started
        self.pause = 0.0
        self.signals: list[int] = []
        self.stopping: float | None = None
        self.serving = False

    def run(self) -> None:
        """Start the workers and mind them until SIGTERM or Ctrl-C.

        Raises:
            DlkitError: a worker could not load the models at the start.
            KeyboardInterrupt: after a drain that Ctrl-C began.
        """
        with shared_counters(), self.handled_signals():
            try:
                self.pauses = [0.0] * self.settings.workers
                while self.stopping is None or self.workers:
                    self.step()
            finally:
                for worker in self.workers:
                    worker.process.kill()
                    worker.process.join()
        if signal.SIGINT in self.signals:
            raise KeyboardInterrupt

    def step(self) -> None:
        """Start who is due, hear what the workers say, and see who is gone."""
        now = time.monotonic()
        if self.stopping is not None:
            # What waits to be accepted is the workers' until they close the port.
            self.listener.close()
        if self.stopping is None:
            for due in [at for at in self.pauses if at <= now]:
                self.pauses.remove(due)
                self.start()
        elif now > self.stopping + END_SECONDS or len(self.signals) > 1:  # a second Ctrl-C
            for worker in self.workers:
                logger.error("worker %d is ended before it had answered all", worker.process.pid)
                worker.process.kill()
        by_handle = {w.process.sentinel: w for w in self.workers}
        by_pipe: dict[Any, Worker] = {w.pipe: w for w in self.workers}
        for found in wait([*by_handle, *by_pipe], TICK):
            if found in by_pipe:
                self.hear(by_pipe[found])
        for worker in [w for w in self.workers if not w.process.is_alive()]:
            self.bury(worker)
        for worker in self.workers:
            if worker.ready and worker.plan is not self.plan:
                self.tell(worker)

    def start(self) -> None:
        """Start a worker."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (self.settings, self.plan, self.listener, theirs)
        process = context.Process(target=work, args=arguments, name="dlkit-worker", daemon=True)
        # Ctrl-C reaches every process of a terminal, also one that cannot ignore it yet.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()
        self.workers.append(Worker(process, ours, self.plan, time.monotonic()))
        if self.stopping is not None:  # the signal came meanwhile
            process.terminate()

    def hear(self, worker: Worker) -> None:
        """Take in what a worker says."""
        try:
            said, content = worker.pipe.recv()
        except (EOFError, OSError):
            return  # it is gone
        if said == "cannot start":
            if not self.serving:
                raise content
            logger.error("worker %d cannot start: %s", worker.process.pid, content)
        elif said == "refused":
            for refusal in content:
                self.finder.refuse(refusal)
        elif said == "ready":
            worker.ready = True
            if self.serving:
                self.send(worker, "go")
            elif self.stopping is None and all(w.ready for w in self.workers) and not self.pauses:
                self.serve(content)

    def serve(self, announcement: str) -> None:
        """Let all workers accept, now that they are ready."""
        from dlkit.serving.server import listen

        listen(self.listener, self.settings.host)
        self.serving = True
        for worker in self.workers:
            self.send(worker, "go")
        print(announcement, flush=True)
        if self.poll:
            Watcher(self.finder, self.plan, self.poll, self.changed).start()

    def changed(self, plan: Plan) -> list[Any]:
        """Take a new plan from the watcher's thread; what is refused is heard of later."""
        self.plan = plan
        return []

    def tell(self, worker: Worker) -> None:
        """Send a worker the plan."""
        worker.plan = self.plan
        self.send(worker, self.plan)

    def send(self, worker: Worker, message: Any) -> None:
        """Send a worker a message; one that is gone is seen to later."""
        with contextlib.suppress(OSError):
            worker.pipe.send(message)

    def bury(self, worker: Worker) -> None:
        """Forget a worker that ended, and plan for another."""
        from prometheus_client.multiprocess import mark_process_dead

        while worker.pipe.poll():
            try:
                said, content = worker.pipe.recv()
            except (EOFError, OSError):
                break
            if said == "cannot start" and not self.serving:
                raise content
        worker.process.join()
        worker.pipe.close()
        self.workers.remove(worker)
        mark_process_dead(worker.process.pid)
        if self.stopping is not None:
            return
        code = worker.process.exitcode
        how = f"by signal {-code}" if code and code < 0 else f"with status {code}"
        if not self.serving:
            raise ServeError(f"a worker ended {how} while it loaded the models")
        quick = time.monotonic() - worker.began < QUICK
        self.pause = min(2 * self.pause or 1.0, LONGEST_PAUSE) if quick else 0.0
        again = f"in {self.pause:g} s" if self.pause else "at once"
        logger.error("worker %d ended %s; another is started %s", worker.process.pid, how, again)
        self.pauses.append(time.monotonic() + self.pause)

    @contextlib.contextmanager
    def handled_signals(self) -> Iterator[None]:
        """Hand SIGTERM and Ctrl-C on as SIGTERM."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.signals.append(number)
            if self.stopping is None:
                self.stopping = time.monotonic()
                for worker in self.workers:
                    worker.process.terminate()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        try:
            yield
        finally:  # one that comes now has nothing left to end
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def shared_counters() -> Iterator[None]:
    """Give the workers a folder in which they count together."""
    folder = tempfile.mkdtemp(prefix="dlkit-serve-")
    os.environ[SHARED] = folder
    try:
        yield
    finally:
        del os.environ[SHARED]
        shutil.rmtree(folder, ignore_errors=True)


def work(settings: Settings, plan: Plan, listener: socket.socket, pipe: Connection) -> None:
    """Be a worker: load, wait for the word, answer, and end without a look back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    log_to_stderr(settings.log_format)
    settings.limit_threads()
    from dlkit.serving.server import announced, drain_on_sigterm, leave, load, run

    try:
        service, loader = load(settings, plan)
    except DlkitError as error:
        pipe.send(("cannot start", error))
        leave(2)
        return
    drain_on_sigterm(service)
    try:
        pipe.send(("ready", announced(service, settings, listener)))
        while not pipe.poll(TICK):
            if service.draining:
                leave(0)
        pipe.recv()
    except (EOFError, OSError):  # the supervisor is gone
        leave(0)

    def follow() -> None:
        try:
            while True:
                refused = loader.apply(pipe.recv())
                if refused:
                    pipe.send(("refused", refused))
        except (EOFError, OSError):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="follow", daemon=True).start()
    run(service, settings, listener, worker=True)
    leave(0)
