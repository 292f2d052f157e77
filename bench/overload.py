"""Three times what a gateway can carry: how much it still answers, how soon it refuses, and when it is itself again.

    .venv/bin/python -m bench.overload [--path "/api/v1/notes?limit=20&id[gt]={n}"] [--seconds 60] [--times 3] [--workers 1]

Starts a PostgreSQL and a `gateway serve` of its own. The most that it can carry is measured by a closed loop, then an open one
sends `--times` as much: a request goes out when its time has come, whatever became of those before, on a connection that is
free or a new one. `{n}` in the path is another number each time. The load comes from another process, on the same cores: at a
multiple of the rate it takes a multiple of them too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from random import Random
from typing import cast

import asyncpg
import msgspec
import uvloop

from bench.generator import answer_length
from gateway import embedded

CONNECTIONS = 64
MAX_CONNECTIONS = 3000
BURST_SECONDS = 0.005
WAIT_SECONDS = 60.0


class Answer(msgspec.Struct, frozen=True, gc=False):
    """When it was asked, what came of it, and after how many seconds."""

    asked: float
    status: int
    seconds: float


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.buffer = b""
        self.asked = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def ask(self) -> None:
        """Sends the request."""
        self.asked = time.perf_counter()
        self.transport.write(next(self.load.requests))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        length = answer_length(self.buffer)
        if not length or len(self.buffer) < length:
            return
        self.note(int(self.buffer[9:12]))
        self.buffer = b""
        self.load.free(self)

    def note(self, status: int) -> None:
        """What came of it."""
        self.load.answers.append(Answer(self.asked, status, time.perf_counter() - self.asked))
        self.asked = 0.0

    def connection_lost(self, _fault: Exception | None) -> None:
        if self.asked:
            self.note(0)
        self.load.lost(self)


class Load:
    """A path of a gateway, and what came back. `rate` None keeps `connections` busy."""

    def __init__(self, port: int, path: str, rate: float | None, connections: int) -> None:
        self.port = port
        numbers = Random(1)
        paths = (path.replace("{n}", str(numbers.randrange(9000))) for _ in range(5000 if "{n}" in path else 1))
        self.requests = cycle([f"GET {each} HTTP/1.1\r\nHost: bench\r\nAccept: */*\r\n\r\n".encode() for each in paths])
        self.rate = rate
        self.connections = connections
        self.answers: list[Answer] = []
        self.idle: deque[Connection] = deque()
        self.open = 0
        self.over = False
        self.unsent = 0

    def free(self, connection: Connection) -> None:
        """A connection has its answer."""
        if self.rate is None and not self.over:
            connection.ask()
        else:
            self.idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """A connection is closed."""
        self.open -= 1
        if connection in self.idle:
            self.idle.remove(connection)

    async def connect(self) -> Connection | None:
        """One more."""
        self.open += 1
        try:
            _, made = await asyncio.get_running_loop().create_connection(lambda: Connection(self), "127.0.0.1", self.port)
        except OSError:
            self.open -= 1
            return None
        return made

    async def send(self) -> None:
        """One request, on a connection that is free or a new one."""
        made = await self.connect()
        if made is not None:
            made.ask()

    async def drive(self, seconds: float) -> list[Answer]:
        """All that was asked in this time and answered within ten seconds after."""
        ready = [await self.connect() for _ in range(self.connections)]
        self.idle += [made for made in ready if made is not None]
        began = time.perf_counter()
        tasks: set[asyncio.Task[None]] = set()
        if self.rate is None:
            while self.idle:
                self.idle.popleft().ask()
            await asyncio.sleep(seconds)
        sent = 0
        while self.rate is not None and time.perf_counter() - began < seconds:
            due = int((time.perf_counter() - began) * self.rate)
            for _ in range(due - sent):
                if self.idle:
                    self.idle.popleft().ask()
                elif self.open < MAX_CONNECTIONS:
                    task = asyncio.create_task(self.send())
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                else:
                    self.unsent += 1
            sent = due
            await asyncio.sleep(BURST_SECONDS)
        self.over = True
        deadline = time.perf_counter() + 10
        while len(self.idle) < self.open and time.perf_counter() < deadline:
            await asyncio.sleep(0.05)
        for connection in list(self.idle):
            connection.transport.abort()
        return self.answers


def client(argv: Sequence[str]) -> None:
    """The process that sends the load: port, path, rate (0: a closed loop), seconds, and the file for what comes back."""
    port, path, rate, seconds = int(argv[0]), argv[1], float(argv[2]), float(argv[3])
    load = Load(port, path, rate or None, CONNECTIONS)
    answers = uvloop.run(load.drive(seconds))
    Path(argv[4]).write_bytes(msgspec.msgpack.encode((answers, load.unsent)))


def measured(port: int, path: str, rate: float, seconds: float) -> tuple[list[Answer], int]:
    """What came back of a load."""
    with tempfile.NamedTemporaryFile() as found:
        command = [sys.executable, "-m", "bench.overload", "client", str(port), path, str(rate), str(seconds), found.name]
        subprocess.run(command, check=True, timeout=seconds + WAIT_SECONDS)
        return msgspec.msgpack.decode(Path(found.name).read_bytes(), type=tuple[list[Answer], int])


def quantile(seconds: list[float], part: float) -> float:
    """In milliseconds; nan where there is none."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000 if ordered else float("nan")


def told(title: str, answers: list[Answer], seconds: float, peak: float = 0) -> float:
    """Prints what a load came to, and gives its goodput."""
    good = [answer.seconds for answer in answers if answer.status == 200]
    refused = [answer.seconds for answer in answers if answer.status == 503]
    goodput = len(good) / seconds
    ratio = f" ({goodput / peak:.2f} of the peak)" if peak else ""
    print(
        f"{title}: {len(answers) / seconds:.0f}/s asked, {goodput:.0f}/s answered{ratio},",
        dict(Counter(answer.status for answer in answers)),
    )
    print(f"  answers   p50 {quantile(good, 0.5):.1f} ms, p99 {quantile(good, 0.99):.1f} ms")
    print(f"  refusals  p50 {quantile(refused, 0.5):.1f} ms, p99 {quantile(refused, 0.99):.1f} ms", flush=True)
    return goodput


async def prepare(url: str) -> None:
    """A table of 10,000 notes."""
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE notes (id integer PRIMARY KEY, title text NOT NULL, body text NOT NULL)")
    await connection.execute("INSERT INTO notes SELECT n, 'note ' || n, repeat('text ', 20) FROM generate_series(1, 10000) n")
    await connection.execute("VACUUM ANALYZE notes")
    await connection.close()


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main() -> None:
    """Measures and prints."""
    if sys.argv[1:2] == ["client"]:
        client(sys.argv[2:])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--path", default="/api/v1/notes?limit=20&id[gt]={n}")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--peak-seconds", type=float, default=8)
    parser.add_argument("--times", type=float, default=3)
    parser.add_argument("--workers", default="1")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        with embedded.postgres(directory, durable=False) as url:
            asyncio.run(prepare(url))
            (directory / "resources").mkdir()
            (directory / "resources" / "notes.yaml").write_text("cache: {ttl: 0}\n")
            port = free_port()
            environ = {
                "DATABASE_URL": url,
                "AUTH": "off",
                "RATE_LIMIT": "off",
                "LOG_LEVEL": "warning",
                "WORKERS": arguments.workers,
            }
            kept = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
            command = [str(Path(sys.executable).parent / "gateway"), "serve", "--port", str(port)]
            process = subprocess.Popen(command, cwd=directory, env={**kept, **environ, "SHUTDOWN_DRAIN_SECONDS": "0"})
            try:
                run(port, arguments)
            finally:
                process.terminate()
                process.wait(WAIT_SECONDS)


def run(port: int, arguments: argparse.Namespace) -> None:
    """The peak, the overload, and the time after."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                break
        time.sleep(0.1)
    measured(port, arguments.path, 0, 2)
    peaks = []
    for _ in range(3):
        answers, _unsent = measured(port, arguments.path, 0, arguments.peak_seconds / 3)
        peaks.append(told("closed loop", answers, arguments.peak_seconds / 3))
    peak = statistics.median(peaks)
    answers, unsent = measured(port, arguments.path, peak * arguments.times, arguments.seconds)
    told(f"{arguments.times:g} times the peak, {unsent} not sent for want of connections", answers, arguments.seconds, peak)
    began = min(answer.asked for answer in answers)
    settled = [answer for answer in answers if answer.asked - began > 2]
    told("  of that, after the first two seconds", settled, arguments.seconds - 2, peak)
    answers, _unsent = measured(port, arguments.path, peak / 3, 6)
    began = min(answer.asked for answer in answers)
    for second in range(6):
        told(f"a third of the peak, second {second}", [a for a in answers if second <= a.asked - began < second + 1], 1)


if __name__ == "__main__":
    main()
