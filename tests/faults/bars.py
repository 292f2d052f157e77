"""What the product promises of its worst day, measured: `make test-faults` runs it after the tests and prints a row for each.

The tests beside it hold what must be true at any speed; seconds depend on the machine, so they stand here.
`python -m tests.faults.bars` runs all, `python -m tests.faults.bars restart frozen` some. Exit code 1 where a bar does not hold.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncpg
import httpx
import msgspec

from tests.conftest import throwaway_directory
from tests.faults.load import Answers, Load, loading, stale
from tests.faults.machines import gateway, postgres
from tests.faults.shop import RESOURCES, SCHEMA, Machines, all_machines, cached_reads, growing_writes, mixed, reads

PAUSE_SECONDS = 0.004
"""Between two requests of a caller: the load shares two cores with everything else, and is to leave them some."""


class Bar(msgspec.Struct, frozen=True):
    """One promise as it was measured."""

    what: str
    measured: str
    wanted: str
    holds: bool


def _failures(answers: Answers, since: float = 0.0) -> int:
    return sum(count for status, count in answers.statuses(since).items() if status not in (200, 201, 204))


def _sleep(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.02)


def restart(machines: Machines) -> list[Bar]:
    """PostgreSQL is shut down at once, and started again, under load."""
    with machines.gateway() as served, loading(served.port, mixed(), pause_seconds=PAUSE_SECONDS) as load:
        load.wait_for(300)
        machines.postgres.kill(signal.SIGQUIT)
        _sleep(2)
        machines.postgres.stop()
        machines.postgres.start()
        back = time.monotonic()
        load.wait_for_success()
        load.wait_for(500)
    first = load.answers.first_success(back)
    wrong = load.answers.wrong()
    return [
        Bar("restart: first 2xx after it accepts connections", f"{first or 99:.2f} s", "≤ 1 s", first is not None and first <= 1),
        Bar("restart: answers but 2xx and 503 with Retry-After", f"{len(wrong)} of {len(load.answers)}", "0", not wrong),
    ]


def terminated(machines: Machines) -> list[Bar]:
    """All backends are ended, ten times, under load of reads."""
    statement = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
    """
    ended = 0
    with machines.gateway() as served, loading(served.port, reads(), pause_seconds=PAUSE_SECONDS) as load:
        for _ in range(10):
            load.wait_for(200)
            ended += machines.sql(statement)[0]
        load.wait_for(200)
    failed = _failures(load.answers)
    return [Bar(f"{ended} backends terminated: failed GETs", f"{failed} of {len(load.answers)}", "0", not failed and ended >= 10)]


def frozen(machines: Machines, seconds: float = 30) -> list[Bar]:
    """PostgreSQL stands still."""
    with machines.gateway() as served, loading(served.port, reads(), callers=16, pause_seconds=PAUSE_SECONDS) as load:
        load.wait_for(300)
        with machines.postgres.frozen():
            began = time.monotonic()
            _sleep(seconds)
        thawed = time.monotonic()
        load.wait_for_success()
        load.wait_for(500)
        _sleep(2)
        busy = served.metric("db_pool_active_connections")
        refused = [answer for answer in load.answers.all if began + 10 < answer.at < thawed and answer.status == 503]
    ninety_nine = Answers()
    ninety_nine.all = refused
    p99, slowest = ninety_nine.percentile(0.99), load.answers.slowest()
    first = load.answers.first_success(thawed)
    wrong = load.answers.wrong((200, 408, 503))
    return [
        Bar(f"frozen {seconds:g} s: slowest answer", f"{slowest:.2f} s", "≤ 6 s", slowest <= 6),
        Bar("frozen: p99 of refusals with the breaker open", f"{p99 * 1000:.1f} ms of {len(refused)}", "≤ 50 ms", p99 <= 0.05),
        Bar("frozen: first 2xx after it thaws", f"{first or 99:.2f} s", "≤ 1 s", first is not None and first <= 1),
        Bar("frozen: answers but 2xx, 408 and 503", str(len(wrong)), "0", not wrong),
        Bar("frozen: pool slots in use a moment later", f"{busy:g}", "≤ 4", busy <= 4),
    ]


def slots(machines: Machines) -> list[Bar]:
    """Every slot of the pool is held by slow queries."""
    found: list[float] = []
    with (
        machines.gateway(DATABASE_POOL_MIN="1", DATABASE_POOL_MAX="3") as served,
        ThreadPoolExecutor(3) as threads,
    ):
        url = f"http://127.0.0.1:{served.port}/api/v1"
        held = [threads.submit(httpx.get, f"{url}/{path}", timeout=20) for path in ("slow", "slow/1", "slow?sort=-id")]
        _sleep(0.5)
        started = time.monotonic()
        refused = served.client.get("/api/v1/counters/1", headers={"Cache-Control": "no-cache"})
        took = time.monotonic() - started
        for _ in range(20):
            started = time.monotonic()
            served.client.get("/health/live")
            found.append(time.monotonic() - started)
        for each in held:
            each.result()
    well = refused.status_code == 503 and took <= 1.2
    return [
        Bar("every slot held: 503 after", f"{refused.status_code} after {took:.2f} s", "503, ≤ 1 s and what a loop takes", well),
        Bar("every slot held: slowest /health/live", f"{max(found) * 1000:.1f} ms", "≤ 100 ms", max(found) <= 0.1),
    ]


def _p99(load: Load, since: float, until: float) -> float:
    window = Answers()
    window.all = [answer for answer in load.answers.all if since <= answer.at < until]
    return window.percentile(0.99)


def _plus(seconds: float) -> str:
    return f"{seconds * 1000:+.1f} ms"


def redis(machines: Machines) -> list[Bar]:
    """Redis is killed, frozen, cut off and flushed, one after another, under load."""

    @contextmanager
    def killed() -> Iterator[None]:
        machines.valkey.kill()
        machines.valkey.stop()
        yield
        machines.valkey.start()

    @contextmanager
    def blackholed() -> Iterator[None]:
        machines.redis.turn("swallow")
        yield
        machines.redis.reset()
        machines.redis.turn("pass")

    @contextmanager
    def stopped() -> Iterator[None]:
        with machines.valkey.frozen():
            yield

    bars = []
    for fault in (killed, stopped, blackholed):
        with (
            machines.gateway(RATE_LIMIT="1000000/second") as served,
            loading(served.port, cached_reads(), callers=4, pause_seconds=PAUSE_SECONDS) as reading,
            loading(served.port, growing_writes(), callers=1, pause_seconds=0.02) as writing,
        ):
            reading.wait_for(500)
            began = time.monotonic()
            _sleep(3)
            with fault():
                broke = time.monotonic()
                _sleep(6)
            _sleep(2)
        before, first, after = (
            _p99(reading, began, broke), _p99(reading, broke, broke + 1), _p99(reading, broke + 2, broke + 6)
        )  # fmt: skip
        failed = _failures(reading.answers) + _failures(writing.answers)
        old = stale(writing.answers, reading.answers)
        name, answers = fault.__name__, len(reading.answers)
        bars += [
            Bar(f"Redis {name}: failed, stale", f"{failed}, {len(old)} of {answers}", "0, 0", not failed and not old),
            Bar(
                f"Redis {name}: p99 in the first second", f"+{(first - before) * 1000:.1f} ms", "≤ +100 ms", first - before <= 0.1
            ),
            Bar(f"Redis {name}: p99 later", _plus(after - before), "≤ +2 ms", after - before <= 0.002),
        ]
    return bars


def sockets(machines: Machines, count: int = 2000) -> list[Bar]:
    """Connections that send a head slowly, or nothing: closed by the deadline, and nobody else's trouble."""
    with machines.gateway() as served, loading(served.port, reads(), pause_seconds=PAUSE_SECONDS) as load:
        began = time.monotonic()
        _sleep(4)
        opened: list[socket.socket] = []
        try:
            for number in range(count):
                opened.append(socket.create_connection(("127.0.0.1", served.port)))
                if number % 2:
                    opened[-1].send(b"GET /api/v1/counters HTTP/1.1\r\nX-Slow: ")
            held = time.monotonic()
            _sleep(8)
            still = time.monotonic()
            _sleep(6)
            left = sum(_is_open(each) for each in opened)
        finally:
            for each in opened:
                each.close()
    before, during = _p99(load, began, began + 4), _p99(load, held, still)
    return [
        Bar(f"{count} slow or idle sockets: open after the deadline", str(left), "0", left == 0),
        Bar("sockets: p99 of others", f"{before * 1000:.1f} -> {during * 1000:.1f} ms", "≤ +20 %", during <= before * 1.2),
        Bar("sockets: failed", str(_failures(load.answers)), "0", not _failures(load.answers)),
    ]


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while data := connection.recv(4096):
            del data
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def disk(_machines: Machines) -> list[Bar]:
    """PostgreSQL's disk is full. It has a small file system of its own, which only root can make."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return [Bar("disk full", "not run: only root can mount a small file system", "", True)]
    with ExitStack() as stack:
        directory = stack.enter_context(throwaway_directory())
        mount = ["mount", "-t", "tmpfs", "-o", "size=160m,mode=755", "tmpfs", str(directory)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            return [Bar("disk full", "not run: no file system can be mounted here", "", True)]
        stack.callback(subprocess.run, ["umount", "-l", str(directory)], check=True)
        server = postgres(directory)
        stack.callback(server.stop)
        server.start()
        return _fill_disk(directory, server.url)


def _fill_disk(directory: Path, url: str) -> list[Bar]:
    async def prepare() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(SCHEMA)
        await connection.close()

    asyncio.run(prepare())
    resources = directory / "resources"
    resources.mkdir()
    (resources / "counters.yaml").write_text(RESOURCES["counters"])
    with gateway(Path("/var/tmp"), resources, url, {}) as served:
        ballast = directory / "ballast"
        statuses: set[int] = set()
        read: set[int] = set()
        with ballast.open("wb") as file:
            try:
                while True:
                    file.write(bytes(1 << 20))
                    file.flush()
            except OSError:
                pass
        end = time.monotonic() + 40
        number = 1000
        while time.monotonic() < end and 503 not in statuses:
            number += 1
            body = b'{"id": %d, "note": "%b"}' % (number, os.urandom(40_000).hex().encode())
            answer = served.client.post("/api/v1/counters", content=body, headers={"Content-Type": "application/json"})
            statuses.add(answer.status_code)
            read.add(served.client.get("/api/v1/counters/1", headers={"Cache-Control": "no-cache"}).status_code)
        ballast.unlink()
        back = time.monotonic()
        last = 0
        while last != 201 and time.monotonic() < back + 30:
            number += 1
            body = b'{"id": %d}' % number
            last = served.client.post("/api/v1/counters", content=body, headers={"Content-Type": "application/json"}).status_code
        seconds = time.monotonic() - back
    return [
        Bar("disk full: writes", " ".join(map(str, sorted(statuses))), "503, no 500", 503 in statuses and 500 not in statuses),
        Bar("disk full: reads meanwhile", " ".join(map(str, sorted(read))), "200", read == {200}),
        Bar("disk full: a write is made again after room is made", f"{last} after {seconds:.2f} s", "201", last == 201),
    ]


BARS: dict[str, Callable[[Machines], list[Bar]]] = {
    "restart": restart,
    "terminated": terminated,
    "frozen": frozen,
    "slots": slots,
    "redis": redis,
    "sockets": sockets,
    "disk": disk,
}


def main(names: list[str]) -> int:
    """Runs the named bars, or all, and prints a table. 1 where one does not hold."""
    unknown = [name for name in names if name not in BARS]
    if unknown:
        print(f"there is no bar {', '.join(unknown)}; bars: {', '.join(BARS)}", file=sys.stderr)
        return 2
    found: list[Bar] = []
    with all_machines() as machines:
        for name in names or BARS:
            machines.execute(SCHEMA)
            for bar in BARS[name](machines):
                found.append(bar)
                print(f"{'holds' if bar.holds else 'FAILS'}  {bar.what}: {bar.measured} (wanted {bar.wanted})", flush=True)
    return 0 if all(bar.holds for bar in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
