"""What callers see while the database fails: a gateway and a PostgreSQL of its own, steady load, and one fault after another.

    .venv/bin/python bench/outages.py [--freeze-seconds 30] [--callers 24] [--only restart,terminate,freeze,slots]

    restart     PostgreSQL stops at once (SIGQUIT, as `pg_ctl -m immediate`) and comes back three seconds later
    terminate   all of the gateway's backends are ended, ten times, half a second apart
    freeze      every process of PostgreSQL is stopped (SIGSTOP) for a while and goes on
    slots       slow queries hold every connection of the pool

A quarter of the callers write. Each row tells of the fault's own time: the answers by status, the longest, and what the issue's
bars ask. Nothing here is a pass or a failure by itself; `tests/faults` has those.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncpg
import msgspec
import psutil

from gateway import embedded
from gateway.fill import fill_resource
from gateway.migrate import upgrade

ROWS = 1000
ANSWER_SECONDS = 20.0
PAUSE_SECONDS = 0.005


class Answer(msgspec.Struct, frozen=True):
    """`status` 0 is no answer. Times are of the monotonic clock."""

    method: str
    sent: float
    received: float
    status: int
    retry_after: bool
    body: bytes

    @property
    def seconds(self) -> float:
        return self.received - self.sent


class Load:
    """Callers on connections of their own, each with one request at a time, until `stop`."""

    def __init__(self, port: int, callers: int) -> None:
        self.port = port
        self._callers = callers
        self.go_on()

    def go_on(self) -> None:
        """Begins anew, with no answers."""
        self.answers: list[Answer] = []
        self._stopping = False
        self._tasks = [asyncio.create_task(self._call(number)) for number in range(self._callers)]

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _call(self, number: int) -> None:
        reader = writer = None
        while not self._stopping:
            method, path, body = _request(number)
            sent = time.monotonic()
            status, retry_after, content = 0, False, b""
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    if writer is None or reader is None:
                        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    status, retry_after, content = await ask(reader, writer, method, path, body)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as fault:
                content = repr(fault).encode()
                if writer is not None:
                    writer.close()
                reader = writer = None
            self.answers.append(Answer(method, sent, time.monotonic(), status, retry_after, content))
            await asyncio.sleep(PAUSE_SECONDS)
        if writer is not None:
            writer.close()


def _request(number: int) -> tuple[str, str, bytes]:
    if number % 4 == 0:
        return "POST", "/api/v1/notes", json.dumps({"body": f"{number}"}).encode()
    if number % 4 == 1:
        return "GET", "/api/v1/products?limit=5&sort=-id", b""
    return "GET", f"/api/v1/products/{1 + (time.monotonic_ns() // 1000) % ROWS}", b""


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str, body: bytes = b""
) -> tuple[int, bool, bytes]:
    head = f"{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    told = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(told.partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
    content = await reader.readexactly(length) if length else b""
    return int(told.split(b" ", 2)[1]), b"\r\nretry-after: " in told, content


# --- the servers -------------------------------------------------------------------------------------------------------


class Postgres:
    """An embedded PostgreSQL that can be made to fail."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stack = ExitStack()
        self.url = self._stack.enter_context(embedded.postgres(directory, durable=False))

    @property
    def postmaster(self) -> psutil.Process:
        data = (self.directory / "postgres").resolve()
        return next(
            process
            for process in psutil.process_iter(["name", "cwd", "ppid"])
            if process.info["name"] == "postgres" and process.info["cwd"] == str(data) and str(data) in process.cmdline()
        )

    def stop_at_once(self) -> None:
        postmaster = self.postmaster
        postmaster.send_signal(signal.SIGQUIT)
        psutil.wait_procs([postmaster], timeout=10)
        self._stack.close()

    def start(self) -> None:
        self._stack.enter_context(embedded.postgres(self.directory, durable=False))

    def signal_all(self, number: signal.Signals) -> None:
        postmaster = self.postmaster
        for process in (postmaster, *postmaster.children()):
            process.send_signal(number)

    def close(self) -> None:
        self._stack.close()


@contextmanager
def gateway(directory: Path, url: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    variables = {"DATABASE_URL": url, "AUTH": "off", "RATE_LIMIT": "off", "CACHE_TTL_SECONDS": "0", "LOG_LEVEL": "warning"}
    command = [str(Path(sys.executable).parent / "gateway"), "serve", "--port", str(port)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, env={"PATH": os.environ["PATH"], **variables}, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


async def until_ready(port: int) -> None:
    for _ in range(600):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            status, _, _ = await ask(reader, writer, "GET", "/health/ready")
            writer.close()
            if status == 200:
                return
        except (OSError, asyncio.IncompleteReadError):
            pass
        await asyncio.sleep(0.05)
    raise RuntimeError("the gateway is not ready; see its log")


# --- the faults --------------------------------------------------------------------------------------------------------


def told(title: str, answers: list[Answer], **figures: object) -> None:
    reads = Counter(answer.status for answer in answers if answer.method == "GET")
    writes = Counter(answer.status for answer in answers if answer.method == "POST")
    bare = sum(answer.status == 503 and not answer.retry_after for answer in answers)
    longest = max((answer.seconds for answer in answers), default=0)
    print(f"{title}: reads {dict(reads)}, writes {dict(writes)}, 503 without Retry-After {bare}, longest {longest:.2f} s", end="")
    print("".join(f", {name.replace('_', ' ')} {value}" for name, value in figures.items()), flush=True)
    odd = [answer for answer in answers if answer.status not in (200, 201, 503)]
    for answer in odd[:5]:
        print(f"    {answer.method} {answer.status}: {answer.body[:200]!r}")


def first_good(answers: list[Answer], since: float) -> str:
    good = [answer.received for answer in answers if answer.status in (200, 201) and answer.received > since]
    return f"{min(good) - since:.3f} s" if good else "never"


def p99(answers: list[Answer]) -> str:
    if len(answers) < 2:
        return "-"
    found = statistics.quantiles([answer.seconds for answer in answers], n=100)
    return f"{found[98] * 1000:.1f} ms (p50 {found[49] * 1000:.1f})"


async def restart(database: Postgres, load: Load) -> None:
    began = time.monotonic()
    await asyncio.to_thread(database.stop_at_once)
    await asyncio.sleep(3)
    await asyncio.to_thread(database.start)  # which comes back when it accepts connections
    up = time.monotonic()
    await asyncio.sleep(3)
    answers = [answer for answer in load.answers if answer.received > began]
    down = [answer for answer in answers if began + 1 < answer.sent < up - 1]
    told("restart", answers, first_2xx_after_it_accepts=first_good(answers, up), p99_while_down=p99(down))


async def terminate(database: Postgres, load: Load) -> None:
    began = time.monotonic()
    connection = await asyncpg.connect(database.url)
    await load.stop()
    await connection.execute("TRUNCATE notes")
    load.go_on()
    ended = 0
    for _ in range(10):
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'db-service'"
        ended += await connection.fetchval(query)
        await asyncio.sleep(0.5)
    answers = [answer for answer in load.answers if answer.received > began]
    await load.stop()
    stored = await connection.fetchval("SELECT count(*) FROM notes")
    created = sum(answer.status == 201 for answer in load.answers if answer.method == "POST")
    unknown = sum(answer.status != 201 for answer in load.answers if answer.method == "POST")
    await connection.close()
    told("terminate", answers, backends_ended=ended, acknowledged=created, unknown=unknown, stored=stored)


async def freeze(database: Postgres, load: Load, seconds: float) -> None:
    began = time.monotonic()
    database.signal_all(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    database.signal_all(signal.SIGCONT)
    thawed = time.monotonic()
    await asyncio.sleep(4)
    answers = [answer for answer in load.answers if answer.received > began]
    late = [answer for answer in answers if began + 8 < answer.sent < thawed - 1]
    after = [answer for answer in answers if answer.sent > thawed + 2]
    told("freeze", answers, first_2xx_after_it_thaws=first_good(answers, thawed), p99_from_8_s_on=p99(late))
    connection = await asyncpg.connect(database.url)
    backends = await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'db-service'")
    await connection.close()
    told("    2 s after it", after, backends=backends)


async def slots(database: Postgres, load: Load, port: int) -> None:
    await load.stop()
    began = time.monotonic()
    slow = Load(port, 0)

    async def hold() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        status, _, _ = await ask(reader, writer, "POST", "/api/v1/slow", b"{}")
        writer.close()
        held.append(status)

    held: list[int] = []
    holding = [asyncio.create_task(hold()) for _ in range(20)]
    await asyncio.sleep(0.7)
    quick = Load(port, 12)
    lives: list[float] = []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < began + 3.5:
        sent = time.monotonic()
        await ask(reader, writer, "GET", "/health/live")
        lives.append(time.monotonic() - sent)
        await asyncio.sleep(0.02)
    status, _, ready = await ask(reader, writer, "GET", "/health/ready")
    writer.close()
    await quick.stop()
    await slow.stop()
    await asyncio.gather(*holding)
    during = [answer for answer in quick.answers if answer.sent < began + 3]
    told(
        "slots", during, live_longest=f"{max(lives) * 1000:.1f} ms", held=dict(Counter(held)), ready=f"{status} {ready.decode()}"
    )


async def run(arguments: argparse.Namespace, directory: Path) -> None:
    resources = directory / "resources"
    resources.mkdir()
    (resources / "products.yaml").write_text("{}\n")
    (resources / "notes.yaml").write_text("{}\n")
    (resources / "slow.yaml").write_text("{}\n")
    database = Postgres(directory)
    try:
        await asyncio.to_thread(upgrade, database.url)
        for name in ("categories", "products"):
            await asyncio.to_thread(fill_resource, database.url, Path("resources"), name, ROWS, 1, lambda *_: None)
        connection = await asyncpg.connect(database.url)
        await connection.execute("CREATE TABLE notes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)")
        identity = "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
        await connection.execute(f"CREATE TABLE slow ({identity}, slept text DEFAULT pg_sleep(4)::text)")
        await connection.close()
        for name in arguments.only.split(","):
            port = 20000 + os.getpid() % 10000
            with gateway(directory, database.url, port):
                await until_ready(port)
                load = Load(port, arguments.callers)
                await asyncio.sleep(1.5)
                if name == "restart":
                    await restart(database, load)
                elif name == "terminate":
                    await terminate(database, load)
                elif name == "freeze":
                    await freeze(database, load, arguments.freeze_seconds)
                else:
                    await slots(database, load, port)
                await load.stop()
    finally:
        database.close()
        if arguments.log and (directory / "log").exists():
            print((directory / "log").read_text()[-4000:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--freeze-seconds", type=float, default=30)
    parser.add_argument("--callers", type=int, default=24)
    parser.add_argument("--only", default="restart,terminate,freeze,slots")
    parser.add_argument("--log", action="store_true", help="show the end of the last gateway's log")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gateway-outages-") as found:
        directory = Path(found)
        directory.chmod(0o755)
        asyncio.run(run(arguments, directory))


if __name__ == "__main__":
    main()
