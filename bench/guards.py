"""What the guards cost: CPU time of this process for each check, and the time that one takes.

    .venv/bin/python -m bench.guards [--checks 20000] [--rounds 3]

Starts a Valkey of its own. Each row is measured in every round, medians are quoted. Each caller asks again as soon as it is
answered, as connections under load do; all ask for their own key.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import uvloop
from limits import parse
from limits.aio.storage import RedisStorage as TheirStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from gateway import embedded
from gateway.guards.ratelimit import RateLimiter, address_key, default_limit, headers, subject_key, tighter
from gateway.guards.windows import RedisStorage

RATE = "1000000/minute"

Check = Callable[[int], Awaitable[object]]
"""One check, for the caller of a number."""


class Row(msgspec.Struct, frozen=True):
    title: str
    callers: int
    check: Check


class Cost(msgspec.Struct, frozen=True):
    """Microseconds of CPU, and of time, for one check."""

    cpu: float
    elapsed: float


async def measure(row: Row, checks: int) -> Cost:
    async def caller(number: int) -> None:
        for _ in range(checks // row.callers):
            await row.check(number)

    await row.check(0)
    cpu, elapsed = time.process_time(), time.perf_counter()
    await asyncio.gather(*map(caller, range(row.callers)))
    cpu, elapsed = time.process_time() - cpu, time.perf_counter() - elapsed
    return Cost(cpu / checks * 1e6, elapsed * row.callers / checks * 1e6)


def rate_limit_rows(redis_url: str) -> tuple[list[Row], Callable[[], Awaitable[None]]]:
    """The rows of rate limits, and what closes their connections."""
    limit = default_limit(RATE)
    memory = RateLimiter(RATE)
    redis = RateLimiter(redis=RedisStorage(redis_url, timeout_seconds=10))
    dead = RateLimiter(redis=RedisStorage(f"{redis_url}.nobody", probe_seconds=3600))
    theirs = SlidingWindowCounterRateLimiter(TheirStorage(f"async+redis+{redis_url}", implementation="redispy"))
    item = parse(RATE)

    def checked(limiter: RateLimiter) -> Check:
        async def check(number: int) -> object:
            return headers(await limiter.check((address_key(f"192.0.2.{number}"), limit)))

        return check

    def checked_twice(limiter: RateLimiter) -> Check:
        async def check(number: int) -> object:
            first = await limiter.check((address_key(f"192.0.2.{number}"), limit))
            second = await limiter.check((subject_key(f"user-{number}"), limit))
            decision = tighter(first, second)
            return decision and headers(decision)

        return check

    def checked_together(limiter: RateLimiter) -> Check:
        async def check(number: int) -> object:
            who = (address_key(f"192.0.2.{number}"), limit), (subject_key(f"user-{number}"), limit)
            return headers(await limiter.check(*who))

        return check

    async def their_hit(number: int) -> object:
        return await theirs.hit(item, f"192.0.2.{number}")

    rows = [
        Row("in memory", 1, checked(memory)),
        Row("in memory: address, then subject", 1, checked_twice(memory)),
        Row("on Redis", 1, checked(redis)),
        Row("on Redis", 32, checked(redis)),
        Row("on Redis: address, then subject", 32, checked_twice(redis)),
        Row("on Redis: address and subject in one", 32, checked_together(redis)),
        Row("on a Redis that is down", 32, checked(dead)),
        Row("`limits`' own storage, `hit` alone", 1, their_hit),
        Row("`limits`' own storage, `hit` alone", 32, their_hit),
    ]

    async def close() -> None:
        await redis.stop()
        await dead.stop()
        await theirs.storage.bridge.storage.aclose()  # type: ignore[attr-defined]  # `limits` has no type for it

    return rows, close


async def run(redis_url: str, checks: int, rounds: int) -> None:
    rows, close = rate_limit_rows(redis_url)
    costs: list[list[Cost]] = [[] for _ in rows]
    for _ in range(rounds):
        for row, seen in zip(rows, costs, strict=True):
            seen.append(await measure(row, checks))
    await close()
    width = max(len(row.title) for row in rows)
    print(f"{'rate limit':<{width}}  in flight  CPU µs  time µs")
    for row, seen in zip(rows, costs, strict=True):
        cpu, elapsed = statistics.median(cost.cpu for cost in seen), statistics.median(cost.elapsed for cost in seen)
        print(f"{row.title:<{width}}  {row.callers:>9}  {cpu:>6.1f}  {elapsed:>7.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checks", type=int, default=20_000, help="of each row in each round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as directory, embedded.valkey(Path(directory)) as url:
        uvloop.run(run(url, options.checks, options.rounds))


if __name__ == "__main__":
    main()
