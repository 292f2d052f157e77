"""Mixed load with random faults for as long as asked, and whether anything grows or goes wrong meanwhile.

`python -m tests.faults.soak --minutes 10 --seed 1`. It samples the gateway's memory and file descriptors and PostgreSQL's
backends, and prints a line a fault, then slopes. Exit code 1 for an answer that is neither 2xx nor a 503 with Retry-After nor
a 408, for a stale answer, and for what grows.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Callable

import msgspec

from tests.faults.load import loading, stale
from tests.faults.machines import Gateway
from tests.faults.shop import SCHEMA, Machines, all_machines, cached_reads, growing_writes, mixed

SAMPLE_SECONDS = 1.0
MAX_MEMORY_SLOPE_KB = 512.0
"""A minute, over the second half: a gateway that has seen every shape grows no more, but for what malloc does."""
MAX_DESCRIPTOR_SLOPE = 2.0
"""A minute."""
MAX_SHOWN = 20
"""Of the answers that should not be."""


class Sample(msgspec.Struct, frozen=True):
    """One look. `seconds` from the beginning."""

    seconds: float
    memory_kb: float
    descriptors: int
    backends: int


def _look(served: Gateway, machines: Machines, began: float) -> Sample:
    backends = machines.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'db-service%'")[0]
    memory = served.process.memory_info().rss / 1024
    return Sample(time.monotonic() - began, memory, served.process.num_fds(), backends)


def slope(points: list[tuple[float, float]]) -> float:
    """The least-squares slope of (seconds, value), a minute."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    below = sum((x - mean_x) ** 2 for x, _ in points)
    return 60 * sum((x - mean_x) * (y - mean_y) for x, y in points) / below if below else 0.0


def _restart_postgres(machines: Machines, _seconds: float) -> None:
    machines.postgres.restart(signal.SIGQUIT)


def _freeze_postgres(machines: Machines, seconds: float) -> None:
    with machines.postgres.frozen():
        time.sleep(seconds)


def _cut_database(machines: Machines, seconds: float) -> None:
    machines.database.turn("refuse")
    time.sleep(seconds)
    machines.database.turn("pass")


def _reset_database(machines: Machines, _seconds: float) -> None:
    machines.database.reset()


def _slow_database(machines: Machines, seconds: float) -> None:
    machines.database.turn("latency", delay_seconds=0.01, jitter_seconds=0.05)
    time.sleep(seconds)
    machines.database.turn("pass")


def _kill_redis(machines: Machines, seconds: float) -> None:
    machines.valkey.kill()
    machines.valkey.stop()
    time.sleep(seconds)
    machines.valkey.start()


def _freeze_redis(machines: Machines, seconds: float) -> None:
    with machines.valkey.frozen():
        time.sleep(seconds)


def _black_hole_redis(machines: Machines, seconds: float) -> None:
    machines.redis.turn("swallow")
    time.sleep(seconds)
    machines.redis.reset()
    machines.redis.turn("pass")


FAULTS: tuple[Callable[[Machines, float], None], ...] = (
    _restart_postgres,
    _freeze_postgres,
    _cut_database,
    _reset_database,
    _slow_database,
    _kill_redis,
    _freeze_redis,
    _black_hole_redis,
)


def soak(minutes: float, seed: int) -> int:
    """Runs it. 0 where nothing went wrong and nothing grows."""
    chance = random.Random(seed)
    samples: list[Sample] = []
    # Durable: a row that lost an acknowledged COMMIT with its server would look like one from a stale cache.
    with all_machines(durable=True) as machines:
        machines.execute(SCHEMA)
        with (
            machines.gateway(RATE_LIMIT="1000000/second", DATABASE_STATEMENT_TIMEOUT_SECONDS="2") as served,
            loading(served.port, mixed(seed), callers=4, pause_seconds=0.01) as mix,
            loading(served.port, cached_reads(seed), callers=2, pause_seconds=0.01) as reading,
            loading(served.port, growing_writes(seed), callers=1, pause_seconds=0.02) as writing,
        ):
            began = time.monotonic()
            next_fault = began + 3
            while time.monotonic() < began + 60 * minutes:
                if time.monotonic() >= next_fault:
                    fault = chance.choice(FAULTS)
                    print(f"{time.monotonic() - began:7.1f} s  {fault.__name__.strip('_')}", flush=True)
                    fault(machines, chance.uniform(0.5, 4))
                    next_fault = time.monotonic() + chance.uniform(4, 10)
                samples.append(_look(served, machines, began))
                time.sleep(SAMPLE_SECONDS)
            served.wait_until_ready()
        old = stale(writing.answers, reading.answers)
        wrong = [answer for load in (mix, reading, writing) for answer in load.answers.wrong((200, 201, 204, 408, 503))]
        answered = sum(len(load.answers) for load in (mix, reading, writing))
        refused = sum(load.answers.statuses()[503] for load in (mix, reading, writing))
    for told in (*old[:MAX_SHOWN], *(f"{one.ask.method} {one.ask.path}: {one.status}" for one in wrong[:MAX_SHOWN])):
        print(told)
    return _report(samples, answered, refused, len(wrong), len(old))


def _report(samples: list[Sample], answered: int, refused: int, wrong: int, old: int) -> int:
    late = [sample for sample in samples if sample.seconds > samples[-1].seconds / 2]
    memory = slope([(sample.seconds, sample.memory_kb) for sample in late])
    descriptors = slope([(sample.seconds, sample.descriptors) for sample in late])
    backends = slope([(sample.seconds, sample.backends) for sample in late])
    first, last = samples[0], samples[-1]
    print(f"answers      {answered}, 503: {refused}, wrong: {wrong}, stale: {old}")
    print(f"memory       {first.memory_kb / 1024:.1f} -> {last.memory_kb / 1024:.1f} MiB, {memory:+.0f} KiB a minute late")
    print(f"descriptors  {first.descriptors} -> {last.descriptors}, {descriptors:+.1f} a minute late")
    print(f"backends     {first.backends} -> {last.backends}, {backends:+.1f} a minute late")
    grows = (memory > MAX_MEMORY_SLOPE_KB and last.seconds > 600) or (descriptors > MAX_DESCRIPTOR_SLOPE and last.seconds > 120)
    return 1 if wrong or old or grows else 0


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Mixed load with random faults.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    return soak(options.minutes, options.seed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
