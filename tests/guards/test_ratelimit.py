"""Rate limits: the arithmetic against a plain model, in memory and in a real Valkey, and what is done when that is not well."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits import parse
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis import Redis

from gateway import embedded
from gateway.errors import ConfigurationError, RateLimited
from gateway.guards.ratelimit import (
    Decision,
    RateLimiter,
    address_key,
    default_limit,
    headers,
    refusal,
    resource_limit,
    subject_key,
    tighter,
)
from gateway.guards.windows import KEY_PREFIX, MemoryStorage, RedisStorage, StorageDown
from tests.examples import examples

PATIENT_SECONDS = 20.0
"""A deadline that a busy machine keeps; the tests of deadlines set their own."""


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Model:
    """The sliding-window counter in plain words: every hit is kept, and each question counts them anew."""

    def __init__(self) -> None:
        self.hits: dict[str, list[int]] = {}

    def used(self, key: str, period: int, now: int) -> int:
        window = now // period
        numbers = [hit // period for hit in self.hits.get(key, [])]
        covered = Fraction((window + 1) * period - now, period)
        return math.floor(numbers.count(window - 1) * covered) + numbers.count(window)

    def take(self, charges: list[tuple[str, int, int]], now: int) -> bool:
        if any(self.used(key, period, now) >= amount for key, amount, period in charges):
            return False
        for key, _, _ in charges:
            self.hits.setdefault(key, []).append(now)
        return True

    def tightest(self, charges: list[tuple[str, int, int]], now: int) -> tuple[int, int]:
        """How much is left of the tightest limit, and when it has more: looked for millisecond by millisecond, as it were."""
        standings = []
        for key, amount, period in charges:
            left = max(0, amount - self.used(key, period, now))
            more = period - now % period if left else self.wait(key, amount, period, now)
            standings.append((left, -more))
        left, more = min(standings)
        return left, -more

    def wait(self, key: str, amount: int, period: int, now: int) -> int:
        """By bisection in each of the next two windows: within one, what counts only shrinks."""
        for start, end in ((now, (now // period + 1) * period), *self._windows_after(period, now)):
            if self.used(key, period, end - 1) >= amount:
                continue
            low, high = start, end - 1
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if self.used(key, period, middle) < amount else (middle + 1, high)
            return low - now
        raise AssertionError("no window admits")

    @staticmethod
    def _windows_after(period: int, now: int) -> list[tuple[int, int]]:
        number = now // period
        return [((number + step) * period, (number + step + 1) * period) for step in (1, 2)]


LIMITS = st.sampled_from([("a", 1, 60_000), ("b", 3, 60_000), ("c", 7, 60_000), ("d", 11, 3_600_000), ("e", 2, 86_400_000)])
STEPS = st.lists(
    st.tuples(
        st.one_of(
            st.integers(0, 3), st.integers(0, 100_000), st.integers(0, 4_000_000), st.integers(0, 200_000_000)
        ),  # milliseconds that pass
        st.lists(LIMITS, min_size=1, max_size=3, unique=True),
        st.integers(1, 12),  # requests at once
    ),
    max_size=15,
)


@settings(max_examples=examples(100), deadline=None, derandomize=True)
@given(STEPS)
def test_memory_counts_as_the_model_does(steps: list[tuple[int, list[tuple[str, int, int]], int]]) -> None:
    clock, model = Clock(), Model()
    storage = MemoryStorage(clock)
    now = round(clock.now * 1000)
    for passes, charges, requests in steps:
        now += passes
        clock.now = (now + 0.5) / 1000
        for _ in range(requests):
            expected = model.take(charges, now)
            _, taken, left, more = storage.take(charges)
            assert taken == expected
            assert (left, more) == model.tightest(charges, now)


@settings(max_examples=examples(25), deadline=None, derandomize=True)
@given(steps=STEPS)
def test_redis_counts_as_the_model_does(redis_url: str, steps: list[tuple[int, list[tuple[str, int, int]], int]]) -> None:
    """Requests at once go to Redis as one batch, which decides them one after the other."""

    async def run() -> None:
        clock, model, test = Clock(), Model(), uuid.uuid4().hex
        now = round(clock.now * 1000)
        async with redis_storage(redis_url, clock) as storage:
            for passes, plain, requests in steps:
                now += passes
                clock.now = (now + 0.5) / 1000
                charges = [(f"{test}:{key}", amount, period) for key, amount, period in plain]
                answers = await asyncio.gather(*(storage.take(charges) for _ in range(requests)))
                for _, taken, left, more in answers:
                    assert taken == model.take(charges, now)
                    assert (left, more) == model.tightest(charges, now)

    asyncio.run(run())


@asynccontextmanager
async def redis_storage(
    url: str,
    clock: Callable[[], float] | None = None,
    timeout_seconds: float = PATIENT_SECONDS,
    probe_seconds: float = 0.01,
) -> AsyncIterator[RedisStorage]:
    storage = RedisStorage(url, clock=clock, timeout_seconds=timeout_seconds, probe_seconds=probe_seconds)
    try:
        yield storage
    finally:
        await storage.close()


@pytest.mark.parametrize("place", ["memory", "redis"])
@pytest.mark.parametrize(
    ("hits", "passes", "more_hits", "amount", "wait"),
    [
        (7, 0, 0, 7, 60_001),  # the window is full: the next one's first moment still counts it whole
        (7, 70_000, 2, 7, 7_143),  # of the last window 5 count, which become 4 when less than 5/7 of it is covered
        (7, 60_000, 0, 7, 1),
        (7, 1_000, 0, 3, 59_000 + 34_286),  # the limit was lowered: 7 must become 2
        (7, 119_999, 7, 7, 2),
    ],
)
def test_what_is_refused_is_admitted_when_it_was_told_and_no_sooner(
    place: str, redis_url: str, hits: int, passes: int, more_hits: int, amount: int, wait: int
) -> None:
    key, start = uuid.uuid4().hex, 60_000_000

    async def take(storage: MemoryStorage | RedisStorage, limit: int) -> tuple[bool, int]:
        answer = storage.take([(key, limit, 60_000)])
        _, taken, _, more = answer if isinstance(answer, tuple) else await answer
        return taken, more

    async def decide(storage: MemoryStorage | RedisStorage, clock: Clock) -> None:
        for _ in range(hits):
            assert (await take(storage, 7))[0]
        clock.now = (start + passes + 0.5) / 1000
        for _ in range(more_hits):
            assert (await take(storage, 7))[0]
        assert await take(storage, amount) == (False, wait)
        clock.now = (start + passes + wait - 0.5) / 1000
        assert not (await take(storage, amount))[0]
        clock.now = (start + passes + wait + 0.5) / 1000
        assert (await take(storage, amount))[0]

    async def run() -> None:
        clock = Clock((start + 0.5) / 1000)
        if place == "memory":
            await decide(MemoryStorage(clock), clock)
        else:
            async with redis_storage(redis_url, clock) as storage:
                await decide(storage, clock)

    asyncio.run(run())


@pytest.mark.parametrize("place", ["memory", "redis"])
def test_the_strategy_of_limits_runs_on_our_storages_and_decides_alike(place: str, redis_url: str) -> None:
    item, who = parse("5/minute"), uuid.uuid4().hex
    clock = Clock(60 * 1_000)

    async def decide(storage: MemoryStorage | RedisStorage) -> None:
        strategy = SlidingWindowCounterRateLimiter(storage)
        assert [await strategy.hit(item, who) for _ in range(7)] == [True] * 5 + [False] * 2
        clock.now += 84
        assert await strategy.test(item, who)
        assert (await strategy.get_window_stats(item, who)).remaining == 2
        assert [await strategy.hit(item, who) for _ in range(3)] == [True, True, False]
        await strategy.clear(item, who)
        assert (await strategy.get_window_stats(item, who)).remaining == 5
        assert await storage.check()
        with pytest.raises(ValueError, match="one at a time"):
            await strategy.hit(item, who, cost=2)

    async def run() -> None:
        if place == "memory":
            await decide(MemoryStorage(clock))
        else:
            async with redis_storage(redis_url, clock) as storage:
                await decide(storage)

    asyncio.run(run())


def test_a_request_that_one_limit_refuses_is_counted_against_none() -> None:
    storage = MemoryStorage(Clock())
    wide, narrow = ("wide", 10, 60_000), ("narrow", 1, 60_000)
    assert storage.take([wide, narrow])[1]
    for _ in range(5):
        assert not storage.take([wide, narrow])[1]
    assert storage.take([wide])[2] == 8


def test_redis_that_changes_its_clock_backwards_admits_no_second_allotment(redis_url: str) -> None:
    async def run() -> None:
        clock, key = Clock(), uuid.uuid4().hex
        async with redis_storage(redis_url, clock) as storage:
            assert [(await storage.take([(key, 2, 60_000)]))[1] for _ in range(3)] == [True, True, False]
            clock.now -= 300
            assert not (await storage.take([(key, 2, 60_000)]))[1]

    asyncio.run(run())


def test_keys_in_redis_expire_and_one_that_holds_something_else_harms_nobody(redis_url: str) -> None:
    async def run() -> None:
        mine, other = uuid.uuid4().hex, uuid.uuid4().hex
        with Redis.from_url(redis_url) as redis:
            redis.lpush(KEY_PREFIX + other, "a list")
            async with redis_storage(redis_url) as storage:
                taken = await asyncio.gather(storage.take([(mine, 5, 60_000)]), storage.take([(other, 5, 60_000)]))
                assert [(allowed, left) for _, allowed, left, _ in taken] == [(True, 4), (True, 4)]
            for key in (mine, other):
                assert 60_000 <= int(redis.pttl(KEY_PREFIX + key)) <= 120_000

    asyncio.run(run())


def test_a_script_that_redis_forgot_is_given_to_it_again(redis_url: str) -> None:
    async def run() -> None:
        key = uuid.uuid4().hex
        async with redis_storage(redis_url) as storage:
            assert (await storage.take([(key, 5, 60_000)]))[2] == 4
            with Redis.from_url(redis_url) as redis:
                redis.script_flush()
            assert (await storage.take([(key, 5, 60_000)]))[2] == 3
            assert storage.failures == 0

    asyncio.run(run())


def test_memory_forgets_windows_that_have_passed() -> None:
    clock = Clock()
    storage = MemoryStorage(clock)
    for number in range(1000):
        storage.take([(f"{number}", 5, 1000)])
    assert storage.keys() == 1000
    clock.now += 2
    storage.take([("one more", 5, 1000)])
    assert storage.keys() == 1


def test_a_flood_of_addresses_pushes_the_oldest_out_and_nobody_is_refused_for_it() -> None:
    storage = MemoryStorage(Clock(), max_keys=100)
    assert all(storage.take([(f"{number}", 1, 60_000)])[1] for number in range(10_000))
    assert storage.keys() <= 100
    assert not storage.take([("9999", 1, 60_000)])[1]


# --- the limiter -------------------------------------------------------------------------------------------------------


def test_the_default_and_a_resource_count_in_buckets_of_their_own() -> None:
    async def run() -> None:
        limiter = RateLimiter("2/minute", clock=Clock())
        assert limiter.default is not None
        products = resource_limit("1/minute", "v1", "products")
        namesake = resource_limit("1/minute", "v1", "default")
        for limit, admitted in ((products, 1), (namesake, 1), (limiter.default, 2)):
            decisions = [await limiter.check(("address=192.0.2.1", limit)) for _ in range(3)]
            assert [decision.allowed for decision in decisions].count(True) == admitted
        assert (limiter.checks, limiter.refusals, limiter.fallbacks) == (9, 5, 0)

    asyncio.run(run())


def test_of_several_limits_the_tightest_is_told() -> None:
    async def run() -> None:
        limiter = RateLimiter(clock=Clock(60 * 1_000))
        wide, narrow = default_limit("100/hour"), resource_limit("2/minute", "v1", "products")
        decision = await limiter.check(("a", wide), ("a", narrow))
        assert headers(decision) == ((b"ratelimit-policy", b'"products";q=2;w=60'), (b"ratelimit", b'"products";r=1;t=60'))
        first, second = await limiter.check(("b", wide)), decision
        assert tighter(first, second) is tighter(second, first) is second
        assert tighter(None, second) is tighter(second, None) is second

    asyncio.run(run())


def test_a_refusal_tells_when_to_come_back_and_who_does_is_admitted() -> None:
    async def run() -> None:
        clock = Clock(60 * 1_000 + 20)
        limiter = RateLimiter(clock=clock)
        limit = default_limit("2/minute")
        for _ in range(2):
            await limiter.admit(("a", limit))
        with pytest.raises(RateLimited) as refused:
            await limiter.admit(("a", limit))
        told = dict(refused.value.headers)
        assert told == {"Retry-After": "41", "RateLimit-Policy": '"default";q=2;w=60', "RateLimit": '"default";r=0;t=41'}
        clock.now += 39
        assert not (await limiter.check(("a", limit))).allowed
        clock.now += 2
        assert (await limiter.check(("a", limit))).allowed

    asyncio.run(run())


def test_policy_names_are_strings_of_structured_fields() -> None:
    assert resource_limit("1/day", "v1", 'say "hé" 100%').label == '"say \\"h%C3%A9\\" 100%25"'


@pytest.mark.parametrize("rate", ["0/minute", "5", "5/week", "5 per minute", "5/minute;1/second", "-1/day", ""])
def test_what_is_no_rate_is_refused(rate: str) -> None:
    with pytest.raises(ConfigurationError, match="N/second"):
        default_limit(rate)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "address=192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "address=2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "address=2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "address=2001:db8:1:3::/64"),
        ("fe80::1%eth0", "address=fe80::/64"),
        ("::ffff:192.0.2.1", "address=192.0.2.1"),
        ("no:address", "address=no:address"),
        ("unknown", "address=unknown"),
    ],
)
def test_addresses_are_counted_by_what_one_caller_has_of_them(address: str, key: str) -> None:
    assert address_key(address) == key


def test_a_subject_of_any_kind_is_counted_as_itself(redis_url: str) -> None:
    """Long ones, ones with half a surrogate pair, ones that look like another's key."""
    subjects = ["x" * 8000, "x" * 8001, "\ud800", "\udfff", "é", "", "address=192.0.2.1", "new\nline"]

    async def run() -> None:
        limit = resource_limit("1/hour", "v1", uuid.uuid4().hex)
        async with redis_storage(redis_url) as storage:
            for limiter in (RateLimiter(), RateLimiter(redis=storage)):
                for admitted in (True, False):
                    decisions = await asyncio.gather(*(limiter.check((subject_key(who), limit)) for who in subjects))
                    assert [decision.allowed for decision in decisions] == [admitted] * len(subjects)
                assert limiter.fallbacks == 0

    asyncio.run(run())


# --- one Redis, several processes --------------------------------------------------------------------------------------

PROCESS = """
import asyncio, json, sys
from gateway.guards.ratelimit import RateLimiter, default_limit
from gateway.guards.windows import RedisStorage

async def main(url, who, requests):
    limiter = RateLimiter(redis=RedisStorage(url, timeout_seconds=20))
    limit = default_limit("100/minute")
    await limiter.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    decisions = [await asyncio.gather(*(limiter.check((who, limit)) for _ in range(25))) for _ in range(requests // 25)]
    print(json.dumps([sum(d.allowed for batch in decisions for d in batch), limiter.fallbacks]), flush=True)
    await limiter.stop()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def test_three_processes_on_one_redis_admit_one_limit_together(redis_url: str) -> None:
    who = uuid.uuid4().hex
    command = [sys.executable, "-c", PROCESS, redis_url, who]
    shares = (325, 325, 350)
    processes = [
        subprocess.Popen([*command, str(share)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for share in shares
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        output, _ = process.communicate(timeout=60)
        outputs.append(json.loads(output))
    assert sum(fallbacks for _, fallbacks in outputs) == 0
    assert 98 <= sum(admitted for admitted, _ in outputs) <= 102


# --- a Redis that does not answer --------------------------------------------------------------------------------------


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def test_without_redis_memory_limits_and_it_is_counted_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with redis_storage(f"unix://{tmp_path}/nobody.sock") as storage:
            limiter = RateLimiter(redis=storage)
            await limiter.start()
            assert not storage.is_up
            limit = default_limit("10/day")
            decisions = [await limiter.check(("a", limit)) for _ in range(50)]
            assert [decision.allowed for decision in decisions].count(True) == 10
            assert (limiter.checks, limiter.refusals, limiter.fallbacks) == (50, 40, 50)
            await until(lambda: limiter.failures >= 3)

    with caplog.at_level(logging.INFO, "gateway.ratelimit"):
        asyncio.run(run())
    assert [(record.levelname, "each process limits by itself" in record.message) for record in caplog.records] == [
        ("WARNING", True)
    ]


def test_a_frozen_redis_is_left_alone_until_it_is_well_again(server_directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Stopped as a whole, so that its socket still takes connections and nothing ever answers."""

    async def run(url: str, process: int) -> None:
        async with redis_storage(url, timeout_seconds=0.3) as storage:
            limiter, limit = RateLimiter(redis=storage), default_limit("10/day")
            await limiter.start()
            await until(lambda: storage.is_up)  # a busy machine may have taken its time
            assert (await limiter.check(("before", limit))).allowed
            failures = limiter.failures
            os.kill(process, signal.SIGSTOP)
            try:
                decisions = await asyncio.gather(*(limiter.check(("a", limit)) for _ in range(300)))
                assert [decision.allowed for decision in decisions].count(True) == 10
                assert not storage.is_up
                assert limiter.failures > failures
                assert limiter.fallbacks >= 300
                assert not (await limiter.check(("a", limit))).allowed
            finally:
                os.kill(process, signal.SIGCONT)
            await until(lambda: storage.is_up)
            fallbacks = limiter.fallbacks
            assert (await limiter.check((uuid.uuid4().hex, limit))).remaining == 9
            assert limiter.fallbacks in (fallbacks, fallbacks + 1)

    with embedded.valkey(server_directory) as url:
        with Redis.from_url(url) as redis:
            process = int(redis.info("server")["process_id"])
        with caplog.at_level(logging.INFO, "gateway.ratelimit"):
            asyncio.run(run(url, process))
    levels = [record.levelname for record in caplog.records]
    assert "WARNING" in levels
    assert levels == ["WARNING", "INFO"] * (len(levels) // 2)


def test_a_restarted_redis_is_used_again(server_directory: Path) -> None:
    limit = default_limit("10/day")

    async def run() -> None:
        with embedded.valkey(server_directory) as url:
            storage = RedisStorage(url, timeout_seconds=PATIENT_SECONDS, probe_seconds=0.01)
            limiter = RateLimiter(redis=storage)
            assert (await limiter.check(("a", limit))).remaining == 9
        for _ in range(20):
            assert (await limiter.check(("b", limit))).remaining >= 0
        assert not storage.is_up
        with embedded.valkey(server_directory):
            await until(lambda: storage.is_up)
            assert (await limiter.check(("c", limit))).remaining == 9
            assert limiter.fallbacks == 20
            await limiter.stop()

    asyncio.run(run())


def test_an_error_that_redis_answers_is_no_outage(server_directory: Path) -> None:
    """Out of memory: it reads, and refuses to write."""

    async def run(url: str) -> None:
        async with redis_storage(url) as storage:
            limiter = RateLimiter(redis=storage)
            with Redis.from_url(url) as redis:
                redis.config_set("maxmemory", "1")
                assert (await limiter.check(("a", default_limit("10/day")))).allowed
                assert not storage.is_up
                with pytest.raises(StorageDown):
                    await storage.take([("a", 1, 1000)])
                redis.config_set("maxmemory", "0")
                await until(lambda: storage.is_up)

    with embedded.valkey(server_directory) as url:
        asyncio.run(run(url))


def test_a_caller_who_leaves_harms_nobody_who_shares_the_call(redis_url: str) -> None:
    async def run() -> None:
        limit, who = default_limit("100/day"), uuid.uuid4().hex
        async with redis_storage(redis_url) as storage:
            limiter = RateLimiter(redis=storage)
            tasks = [asyncio.create_task(limiter.check((who, limit))) for _ in range(60)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            stayed: list[Decision] = await asyncio.gather(*tasks[1::2])
            assert all(decision.allowed for decision in stayed)
            assert limiter.fallbacks == 0

    asyncio.run(run())


def test_a_refusal_is_told_in_whole_seconds_of_at_least_one() -> None:
    limit = default_limit("1/second")
    assert dict(refusal(Decision(False, limit, 0, 0)).headers)["Retry-After"] == "1"


# --- counting while the request is served ------------------------------------------------------------------------------


def test_only_who_had_much_left_is_served_while_being_counted(redis_url: str) -> None:
    """Whoever is new, or near the limit, or was refused, waits for the count: nothing is done for them before it."""

    async def run() -> None:
        limiter = RateLimiter("30/hour", redis=RedisStorage(redis_url, timeout_seconds=20))
        assert limiter.default is not None
        who = ("subject=at-ease", limiter.default)
        assert limiter.begin(who) is None
        left = (await limiter.check(who)).remaining
        assert left == 29
        while (checking := limiter.begin(who)) is not None:
            decision = await limiter.settle(checking)
            left -= 1
            assert (decision.allowed, decision.remaining) == (True, left)
        assert left == 2  # less than a tenth
        assert [(await limiter.check(who)).allowed for _ in range(4)] == [True, True, False, False]
        assert limiter.begin(who) is None
        await limiter.stop()

    asyncio.run(run())


def test_a_count_that_redis_does_not_take_is_made_in_memory(server_directory: Path) -> None:
    async def run() -> None:
        with embedded.valkey(server_directory) as url:
            limiter = RateLimiter("30/hour", redis=RedisStorage(url, timeout_seconds=20, probe_seconds=20))
            assert limiter.default is not None
            who = ("subject=falling", limiter.default)
            await limiter.check(who)
            checking = limiter.begin(who)
            assert checking is not None
            await limiter.settle(checking)
        checking = limiter.begin(who)  # its server is gone, which nobody has found out
        assert checking is not None
        decision = await limiter.settle(checking)
        assert (decision.allowed, limiter.fallbacks) == (True, 1)
        assert limiter.begin(who) is None
        await limiter.stop()

    asyncio.run(run())
