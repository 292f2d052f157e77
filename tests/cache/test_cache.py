"""`Cache` over the memory of a process: what is kept and for how long, who shares a load, and when a write kills what."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from gateway.cache.cache import JITTER, Cache, Cached, choose
from gateway.cache.keeper import Alone, Off
from gateway.cache.listener import Session
from gateway.cache.memory_store import MemoryStore
from gateway.cache.store import Entry, Key
from gateway.errors import Conflict, DatabaseTimeout, NotFound, Unavailable, ValidationFailed
from gateway.events import Timeline, keep_timeline, timeline

TABLES = ("public.products",)
A, B = Key("a", b"whole a"), Key("b", b"whole b")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Source:
    """A database that counts how often it is asked, and can be held back or made to fail."""

    def __init__(self) -> None:
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None

    async def load(self) -> bytes:
        self.asked += 1
        number = self.asked
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return b"answer %d" % number


class Violation(Exception):
    """What a database's room raises for a row that a constraint refused."""


async def nowhere(_heard: Callable[[str], None]) -> Session:
    raise OSError


def a_cache(store: MemoryStore | None = None, clock: Clock | None = None, doubt_seconds: float = 0.0) -> Cache:
    store = MemoryStore() if store is None else store
    keeper = Alone(store, nowhere, lambda _table: None)
    return Cache(store, keeper, harmless=(Violation,), clock=clock or Clock(), doubt_seconds=doubt_seconds)


def tried(check: Callable[[Cache, Source, Clock], Awaitable[None]]) -> None:
    async def run() -> None:
        clock = Clock()
        await check(a_cache(MemoryStore(clock=clock), clock), Source(), clock)

    asyncio.run(run())


async def _turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# --- reading -------------------------------------------------------------------------------------------------------------


def test_an_answer_is_made_once_and_then_found_with_its_age() -> None:
    async def check(cache: Cache, source: Source, clock: Clock) -> None:
        assert await cache.read(A, TABLES, source.load, 60) == Cached(b"answer 1", "miss")
        clock.now += 12.7
        assert await cache.read(A, TABLES, source.load, 60) == Cached(b"answer 1", "hit", 12)
        assert (cache.hits, cache.misses, cache.bypasses) == (1, 1, 0)

    tried(check)


def test_an_age_counts_from_when_the_database_was_asked() -> None:
    async def check(cache: Cache, source: Source, clock: Clock) -> None:
        source.gate.clear()
        reading = asyncio.create_task(cache.read(A, TABLES, source.load, 60))
        await _turns()
        clock.now += 5
        source.gate.set()
        await reading
        assert (await cache.read(A, TABLES, source.load, 60)).age_seconds == 5

    tried(check)


def test_a_clock_that_goes_back_gives_no_age_below_zero() -> None:
    async def check(cache: Cache, source: Source, clock: Clock) -> None:
        await cache.read(A, TABLES, source.load, 60)
        clock.now -= 100
        assert (await cache.read(A, TABLES, source.load, 60)).age_seconds == 0

    tried(check)


def test_an_answer_ends_about_when_its_time_is_over() -> None:
    async def check(cache: Cache, source: Source, clock: Clock) -> None:
        await cache.read(A, TABLES, source.load, 60)
        clock.now += 60 * (1 - JITTER) - 0.1
        assert (await cache.read(A, TABLES, source.load, 60)).outcome == "hit"
        clock.now += 60 * 2 * JITTER + 0.2
        assert (await cache.read(A, TABLES, source.load, 60)).outcome == "miss"

    tried(check)


def test_times_are_spread_within_a_tenth() -> None:
    kept: list[float] = []

    class Noting(MemoryStore):
        def keep(self, key: Key, entry: Entry, ttl_seconds: float) -> None:
            kept.append(ttl_seconds)

    async def run() -> None:
        cache, source = a_cache(Noting()), Source()
        for _ in range(200):
            await cache.read(A, TABLES, source.load, 100)

    asyncio.run(run())
    assert len(set(kept)) > 150
    assert 90 <= min(kept) < 93
    assert 107 < max(kept) <= 110


def test_a_time_of_nothing_keeps_nothing() -> None:
    async def check(cache: Cache, source: Source, _clock: Clock) -> None:
        for number in (1, 2):
            assert await cache.read(A, TABLES, source.load, 0) == Cached(b"answer %d" % number, "bypass")
        assert cache.bypasses == 2

    tried(check)


def test_a_refresh_makes_the_answer_anew_and_keeps_that() -> None:
    async def check(cache: Cache, source: Source, _clock: Clock) -> None:
        await cache.read(A, TABLES, source.load, 60)
        assert await cache.read(A, TABLES, source.load, 60, refresh=True) == Cached(b"answer 2", "bypass")
        assert (await cache.read(A, TABLES, source.load, 60)).body == b"answer 2"

    tried(check)


def test_a_fault_is_the_callers_and_is_not_kept() -> None:
    async def check(cache: Cache, source: Source, _clock: Clock) -> None:
        source.fault = NotFound()
        for _ in range(2):
            with pytest.raises(NotFound):
                await cache.read(A, TABLES, source.load, 60)
        source.fault = None
        assert (await cache.read(A, TABLES, source.load, 60)).body == b"answer 3"

    tried(check)


def test_an_off_cache_keeps_nothing_and_lets_writes_through() -> None:
    async def run() -> None:
        cache, source = Cache(MemoryStore(), Off()), Source()
        await cache.start()
        for number in (1, 2):
            assert await cache.read(A, TABLES, source.load, 60) == Cached(b"answer %d" % number, "bypass")
        async with cache.writing(TABLES):
            pass
        assert not cache.is_trusted
        assert cache.reason == "it is off"
        await cache.stop()

    asyncio.run(run())


# --- sharing -------------------------------------------------------------------------------------------------------------


def test_a_load_is_its_first_callers_to_the_gate_at_the_database() -> None:
    async def check(cache: Cache, source: Source, _clock: Clock) -> None:
        loaded_for: list[str] = []

        async def load() -> bytes:
            loaded_for.append(timeline().client)
            return await source.load()

        async def ask(client: str) -> None:
            noted = Timeline()
            noted.client = client
            keep_timeline(noted)
            await cache.read(A, TABLES, load, 60)

        await asyncio.gather(*(asyncio.create_task(ask(client)) for client in ("one", "another")))
        assert loaded_for == ["one"]

    tried(check)


def test_callers_that_miss_together_share_one_load() -> None:
    async def check(cache: Cache, source: Source, _clock: Clock) -> None:
        source.gate.clear()
        reads = [asyncio.create_task(cache.read(A, TABLES, source.load, 60)) for _ in range(50)]
        await _turns()
        source.gate.set()
        assert await asyncio.gather(*reads) == [Cached(b"answer 1", "miss")] * 50
        assert (source.asked, cache.shared) == (1, 49)

    tried(check)


def test_a_caller_after_a_write_does_not_share_a_load_from_before_it() -> None:
    async def check(cache: Cache, source: Source, _clock: Clock) -> None:
        source.gate.clear()
        before = asyncio.create_task(cache.read(A, TABLES, source.load, 60))
        await _turns()
        await cache.invalidate(TABLES)
        after = asyncio.create_task(cache.read(A, TABLES, source.load, 60))
        await _turns()
        source.gate.set()
        assert (await before).body == b"answer 1"
        assert (await after).body == b"answer 2"
        assert (await cache.read(A, TABLES, source.load, 60)).body == b"answer 2"

    tried(check)


def test_a_caller_that_leaves_leaves_alone() -> None:
    async def check(cache: Cache, source: Source, _clock: Clock) -> None:
        source.gate.clear()
        reads = [asyncio.create_task(cache.read(A, TABLES, source.load, 60)) for _ in range(3)]
        await _turns()
        reads[0].cancel()
        await _turns()
        source.gate.set()
        assert [cached.body for cached in await asyncio.gather(*reads[1:])] == [b"answer 1"] * 2
        assert reads[0].cancelled()

    tried(check)


def test_a_load_that_nobody_waits_for_any_more_may_fail_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    async def check(cache: Cache, source: Source, _clock: Clock) -> None:
        source.gate.clear()
        source.fault = ValueError("a bug")
        read = asyncio.create_task(cache.read(A, TABLES, source.load, 60))
        await _turns()
        read.cancel()
        source.gate.set()
        await _turns()

    with caplog.at_level(logging.DEBUG):
        tried(check)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_keys_that_share_a_name_share_nothing_else() -> None:
    async def check(cache: Cache, source: Source, _clock: Clock) -> None:
        other = Key(A.name, b"another whole")
        assert (await cache.read(A, TABLES, source.load, 60)).body == b"answer 1"
        assert (await cache.read(other, TABLES, source.load, 60)).body == b"answer 2"
        assert (await cache.read(A, TABLES, source.load, 60)).outcome == "miss"

    tried(check)


# --- writing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "is_kept"),
    [
        (None, False),
        (Conflict(), True),
        (ValidationFailed(), True),
        (NotFound(), True),
        (Violation(), True),
        (DatabaseTimeout(), False),
        (Unavailable(), False),
        (ConnectionResetError(), False),
        (asyncio.CancelledError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_write_kills_what_it_may_have_changed(fault: BaseException | None, is_kept: bool) -> None:
    async def check(cache: Cache, source: Source, _clock: Clock) -> None:
        await cache.read(A, TABLES, source.load, 60)
        await cache.read(B, ("public.users",), source.load, 60)
        if fault is None:
            async with cache.writing(TABLES):
                pass
        else:
            with pytest.raises(type(fault)):
                async with cache.writing(TABLES):
                    raise fault
        await _turns()
        assert (await cache.read(A, TABLES, source.load, 60)).outcome == ("hit" if is_kept else "miss")
        assert (await cache.read(B, ("public.users",), source.load, 60)).outcome == "hit"

    tried(check)


def test_a_write_that_may_yet_be_made_is_invalidated_until_it_cannot_be() -> None:
    async def run() -> None:
        cache, source = a_cache(doubt_seconds=1.2), Source()
        with pytest.raises(Unavailable):
            async with cache.writing(TABLES):
                raise Unavailable
        await _turns()
        await cache.read(A, TABLES, source.load, 60)
        async with asyncio.timeout(20):
            while (await cache.read(A, TABLES, source.load, 60)).outcome == "hit":
                await asyncio.sleep(0.02)
        await cache.stop()

    asyncio.run(run())


def test_a_write_is_invalidated_though_its_caller_left_meanwhile() -> None:
    held = asyncio.Event()

    class Slow(MemoryStore):
        async def renew(self, tables: tuple[str, ...]) -> None:
            await held.wait()
            await super().renew(tables)

    async def run() -> None:
        cache, source = a_cache(Slow()), Source()
        await cache.read(A, TABLES, source.load, 60)

        async def write() -> None:
            async with cache.writing(TABLES):
                pass

        writing = asyncio.create_task(write())
        await _turns()
        writing.cancel()
        await _turns()
        held.set()
        await _turns()
        assert writing.cancelled()
        assert (await cache.read(A, TABLES, source.load, 60)).outcome == "miss"

    asyncio.run(run())


# --- where answers are kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "redis_url", "kind", "says"),
    [
        (1, None, "memory", "the only one"),
        (1, "redis://h", "redis", "in Redis"),
        (4, "redis://h", "redis", "in Redis"),
        (4, None, "off", "4 workers without REDIS_URL"),
    ],
)
def test_the_settings_say_where_answers_are_kept(workers: int, redis_url: str | None, kind: str, says: str) -> None:
    choice = choose(workers, redis_url)
    assert choice.kind == kind
    assert says in choice.sentence
