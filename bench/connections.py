"""What a connection costs to make, to keep and to ping, and what pools of several sizes give: the figures of docs/performance.md.

    .venv/bin/python -m bench.connections [--seconds 2] [--rounds 3]

Starts servers of its own. CPU is the kernel's count of this process and of all of PostgreSQL's. Each pool size is measured once
in each round, in turn, against one gateway process without guards; medians are quoted.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import msgspec
import psutil
import uvloop

from bench.generator import Load, Outcome
from bench.processes import Watched
from bench.ratios import free_port, server, unlimited_resources
from bench.scenarios import Rows
from gateway import embedded
from gateway.fill import fill_resource
from gateway.migrate import upgrade

ROWS = Rows(products=10_000, categories=50)
POOLS = (1, 2, 4, 8, 20, 40)
SCENARIOS = ("point", "list", "create")
REPEATS, KEPT_REPEATS = 200, 10_000
POINT = "SELECT row_to_json(p)::text FROM products p WHERE id = $1"
REAPING_SECONDS = 0.5
"""Until PostgreSQL has taken note of the end of its backends, and of what they used."""


class Cost(msgspec.Struct, frozen=True):
    """Milliseconds that one took, and microseconds of CPU of the client and of PostgreSQL."""

    milliseconds: float
    client: float
    postgres: float


async def cost_of(work: Callable[[], Awaitable[object]], repeats: int) -> Cost:
    """The cost of `work`, which is done again and again, one after the other."""
    watched, taken = Watched(None), []
    before, own = watched.used().postgres, time.process_time()
    for _ in range(repeats):
        started = time.perf_counter()
        await work()
        taken.append(time.perf_counter() - started)
    own = time.process_time() - own
    await asyncio.sleep(REAPING_SECONDS)
    spent = watched.used().postgres - before
    return Cost(statistics.median(taken) * 1000, own / repeats * 1e6, spent / repeats * 1e6)


async def costs(url: str) -> dict[str, Cost]:
    """Of connecting, of a first and of a later statement, and of a ping."""

    async def reconnect() -> None:
        await (await asyncpg.connect(url)).close()

    async def reconnect_and_ask() -> None:
        connection = await asyncpg.connect(url)
        await connection.fetch(POINT, 1)
        await connection.close()

    kept = await asyncpg.connect(url)
    found = {
        "connect and close": await cost_of(reconnect, REPEATS),
        "connect, one point read, close": await cost_of(reconnect_and_ask, REPEATS),
        "a point read on a kept connection": await cost_of(lambda: kept.fetch(POINT, 1), KEPT_REPEATS),
        "a ping (`SELECT 1`) on a kept connection": await cost_of(lambda: kept.fetch("SELECT 1"), KEPT_REPEATS),
    }
    await kept.close()
    return found


async def idle_mebibytes(url: str, count: int = 20) -> float:
    """The memory that each idle connection holds in PostgreSQL, its share of what is shared apart."""
    connections = [await asyncpg.connect(url) for _ in range(count)]
    for connection in connections:
        await connection.fetch(POINT, 1)
    backends = [await connection.fetchval("SELECT pg_backend_pid()") for connection in connections]
    private = [psutil.Process(pid).memory_full_info().uss / 2**20 for pid in backends]
    for connection in connections:
        await connection.close()
    return statistics.median(private)


def ask(scenario: str, port: int, seconds: float, seed: int) -> Outcome:
    """The outcome of 32 connections."""
    load = Load(
        port=port, scenario=scenario, dialect="gateway", rows=ROWS, connections=32, seconds=seconds, warmup_seconds=0.3, seed=seed
    )
    command = [sys.executable, "-m", "bench.generator"]
    done = subprocess.run(command, input=msgspec.json.encode(load), capture_output=True, check=True, timeout=60)
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Outcome)


def sweep(url: str, directory: Path, seconds: float, rounds: int) -> None:
    """Prints a row for each pool size: requests/s and p99 of each scenario, as medians."""
    common = {"DATABASE_URL": url, "CACHE_TTL_SECONDS": "0", "LOG_LEVEL": "error", "AUTH": "off", "RATE_LIMIT": "off"}
    common["RESOURCES_DIR"] = str(unlimited_resources(directory))
    figures: dict[tuple[int, str], list[Outcome]] = {}
    with ExitStack() as stack:
        ports = {size: free_port() for size in POOLS}
        for size, port in ports.items():
            sizes = {"DATABASE_POOL_MIN": str(size), "DATABASE_POOL_MAX": str(size), "DATABASE_ACQUIRE_TIMEOUT_SECONDS": "5"}
            command = [sys.executable, "-m", "gateway", "serve", "--port", str(port)]
            stack.enter_context(server(command, port, common | sizes))
        for number in range(rounds):
            for scenario in SCENARIOS:
                for size, port in ports.items():
                    seed = time.time_ns() % 2**32 + number
                    figures.setdefault((size, scenario), []).append(ask(scenario, port, seconds, seed))
    print(f"| pool | {' | '.join(f'{scenario}: requests/s, p99 ms' for scenario in SCENARIOS)} |")
    print(f"| --- |{' --- |' * len(SCENARIOS)}")
    for size in POOLS:
        cells = []
        for scenario in SCENARIOS:
            outcomes = figures[size, scenario]
            rate = statistics.median(outcome.requests / outcome.seconds for outcome in outcomes)
            p99 = statistics.median(outcome.latency.p99 for outcome in outcomes if outcome.latency)
            errors = sum(outcome.errors for outcome in outcomes)
            cells.append(f"{rate:,.0f}, {p99:.0f}{f' ({errors} errors)' if errors else ''}")
        print(f"| {size} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    directory.chmod(0o755)
    with embedded.postgres(directory, durable=False) as url:
        upgrade(url)
        for resource, rows in (("categories", ROWS.categories), ("products", ROWS.products)):
            fill_resource(url, Path("resources"), resource, rows)
        print("| what | ms | CPU of the client, µs | of PostgreSQL, µs |\n| --- | --- | --- | --- |")
        for title, cost in uvloop.run(costs(url)).items():
            print(f"| {title} | {cost.milliseconds:.2f} | {cost.client:.0f} | {cost.postgres:.0f} |")
        print(f"\nAn idle connection holds {uvloop.run(idle_mebibytes(url)):.1f} MiB in PostgreSQL.\n")
        sweep(url, directory, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
