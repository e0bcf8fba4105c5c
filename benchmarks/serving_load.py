"""A bounded load on an HTTP server of this machine, from a process of its own.

python benchmarks/serving_load.py JOB   with JOB a JSON object:

    port, path       of 127.0.0.1
    body             of each POST, or `file`, which holds it; none sends GETs
    headers          more of them, by name
    connections      most that are open at once
    seconds          how long requests are sent, at most 120; those under way are waited for
    stdin            whether the end of standard input ends it earlier
    rate             requests a second; without it each connection sends when it was answered
    bodies           whether to count answers by their body
    times            file that gets one row a request, float64: when it was sent and answered
                     (`time.monotonic`), and its status, 0 where the connection was lost

Prints one JSON object: requests by status, those lost (sent, and never answered in full), connections
refused, and percentiles of the latency of status 200. Sends one fixed request and reads no more of
an answer than its status and length, so that a server and it can share two cores.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

HOST = "127.0.0.1"
LONGEST = 120.0
PATIENCE = 30.0  # seconds that the last answers are waited for


class Load:
    """What is sent, and what came of it."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        body = Path(job["file"]).read_bytes() if "file" in job else job.get("body", "").encode()
        method = "POST" if body else "GET"
        lines = [f"{method} {job['path']} HTTP/1.1", f"Host: {HOST}"]
        lines += [f"{name}: {value}" for name, value in job.get("headers", {}).items()]
        lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"] if body else []
        self.request = "\r\n".join([*lines, "", ""]).encode() + body
        self.rows: list[tuple[float, float, int]] = []
        self.bodies: collections.Counter[str] = collections.Counter()
        self.examples: dict[str, str] = {}
        self.refused = 0
        self.unsent = 0
        self.until = 0.0
        self.idle: list[Client] = []
        self.open = 0
        self.running = 0

    async def run(self) -> dict[str, Any]:
        """Send for as long as the job says; return what came of it."""
        seconds = min(self.job["seconds"], LONGEST)
        began = time.monotonic()
        self.until = began + seconds
        if self.job.get("stdin"):
            asyncio.get_running_loop().add_reader(sys.stdin, self.stop)
        if "rate" in self.job:
            await self.paced(began)
        else:
            await asyncio.gather(*(self.keep_asking() for _ in range(self.job["connections"])))
        end = time.monotonic() + PATIENCE
        while self.running and time.monotonic() < end:
            await asyncio.sleep(0.01)
        return self.summary(self.until - began)

    def stop(self) -> None:
        """Send no more."""
        asyncio.get_running_loop().remove_reader(sys.stdin)
        self.until = min(self.until, time.monotonic())

    async def keep_asking(self) -> None:
        """Ask again after each answer, on a new connection where the server closes one."""
        while time.monotonic() < self.until:
            client = await self.connect()
            if client is None:
                await asyncio.sleep(0.05)
                continue
            client.again = True
            client.send()
            await client.closed

    async def paced(self, began: float) -> None:
        """Send at a fixed rate, on whatever connection is free."""
        due, opening = 0, set()
        while (now := time.monotonic()) < self.until:
            wanted = int((now - began) * self.job["rate"])
            while due < wanted:
                due += 1
                if self.idle:
                    self.idle.pop().send()
                elif self.open + len(opening) < self.job["connections"]:
                    task = asyncio.create_task(self.connect(send=True))
                    opening.add(task)
                    task.add_done_callback(opening.discard)
                else:
                    self.unsent += 1
            await asyncio.sleep(0.001)
        await asyncio.gather(*opening)

    async def connect(self, send: bool = False) -> Client | None:
        """Open a connection."""
        loop = asyncio.get_running_loop()
        try:
            _, client = await loop.create_connection(lambda: Client(self), HOST, self.job["port"])
        except OSError:
            self.refused += 1
            return None
        if send:
            client.send()
        return client

    def summary(self, seconds: float) -> dict[str, Any]:
        """Return the figures, and write the rows where they are asked for."""
        rows = np.array(self.rows, np.float64).reshape(-1, 3)
        if "times" in self.job:
            np.save(self.job["times"], rows)
        good = rows[rows[:, 2] == 200]
        waits = 1000 * (good[:, 1] - good[:, 0])
        found: dict[str, Any] = {
            "statuses": {
                str(int(s)): int(n)
                for s, n in zip(*np.unique(rows[:, 2], return_counts=True), strict=True)
                if s
            },
            "lost": int(np.sum(rows[:, 2] == 0)) + self.running,
            "refused_connections": self.refused,
            "unsent": self.unsent,
            "per_second": round(len(good) / seconds, 1),
        }
        if len(good):
            found |= {f"p{q}_ms": round(float(np.percentile(waits, q)), 2) for q in (50, 95, 99)}
            found["longest_ms"] = round(float(waits.max()), 2)
        if self.job.get("bodies"):
            found["bodies"] = [[self.examples[key], n] for key, n in self.bodies.items()]
        return found


class Client(asyncio.Protocol):
    """A connection, with at most one request under way."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.sent = 0.0  # when; 0 while there is none under way
        self.again = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.load.open += 1

    def send(self) -> None:
        """Send the request."""
        self.buffer = b""
        self.length = -1  # of the answer, once its headers are read
        self.sent = time.monotonic()
        self.load.running += 1
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        if self.length < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            self.body_at = end + 4
            self.length = self.body_at + int(head[at + 15 :].split(b"\r", 1)[0])
            self.closing = b"connection: close" in head
        if len(self.buffer) >= self.length:
            self.answered()

    def answered(self) -> None:
        """Note the answer, and send again."""
        load, now = self.load, time.monotonic()
        load.rows.append((self.sent, now, int(self.buffer[9:12])))
        load.running -= 1
        self.sent = 0.0
        if load.job.get("bodies"):
            text = self.buffer[self.body_at : self.length]
            key = hashlib.sha256(text).hexdigest()
            load.bodies[key] += 1
            load.examples.setdefault(key, text.decode())
        if self.closing or now >= load.until:
            self.transport.close()
        elif self.again:
            self.send()
        else:
            load.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        load = self.load
        load.open -= 1
        if self.sent:
            load.rows.append((self.sent, time.monotonic(), 0))
            load.running -= 1
        if self in load.idle:
            load.idle.remove(self)
        self.closed.set_result(None)


if __name__ == "__main__":
    print(json.dumps(uvloop.run(Load(json.loads(sys.argv[1])).run())))
