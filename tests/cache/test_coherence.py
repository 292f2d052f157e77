"""No answer from before an acknowledged write, whatever happens: the cache's own code in a simulated world.

The laws are tried with many seeds and, for a few requests, with every order in which their steps can happen. Last come the
safeguards one by one: without any of them the simulation finds a stale answer, so it would find one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.cache import keeper as keeper_room
from gateway.cache import redis_store
from gateway.cache.cache import Cache
from gateway.cache.keeper import Keeper
from gateway.cache.store import StoreDown
from tests.cache.simulation import TABLE, Process, World, mutated, run
from tests.examples import examples

ROWS = ("a", "b")


async def _cut_from_redis(world: World) -> None:
    """One process, which goes on writing, cannot reach Redis; the others can."""
    process = world.chance.choice(world.processes)
    world.network.cut_from_redis.add(process.name)
    await asyncio.sleep(world.chance.choice((0.05, 0.3, 1.5, 3.0)))
    world.network.cut_from_redis.discard(process.name)


async def _cut_from_postgres(world: World) -> None:
    """One process's look at PostgreSQL is held up, though its statements are not."""
    process = world.chance.choice(world.processes)
    world.network.cut_from_postgres.add(process.name)
    await asyncio.sleep(world.chance.choice((0.3, 1.5, 3.0)))
    world.network.cut_from_postgres.discard(process.name)


async def _freeze(world: World) -> None:
    world.redis.state = "frozen"
    await asyncio.sleep(world.chance.choice((0.05, 0.5, 2.0)))
    if world.redis.state == "frozen":
        world.redis.state = "up"


async def _restart(world: World) -> None:
    world.redis.state = "down"
    await asyncio.sleep(world.chance.choice((0.0, 0.2, 1.5)))
    world.redis.restart(from_save=world.chance.random() < 0.5)


async def _flush(world: World) -> None:
    world.redis.flush()


async def _evict(world: World) -> None:
    world.redis.forget(world.chance.choice(("*token*", "*epoch*", "*row=*")))


async def _save(world: World) -> None:
    world.redis.save()


async def _lose_sessions(world: World) -> None:
    """PostgreSQL restarts, or something between ends idle connections."""
    for process in world.processes:
        for session in process.sessions:
            session.lose()


async def _crash(world: World) -> None:
    """A process dies, and another takes its place."""
    place = world.chance.randrange(len(world.processes))
    await world.processes[place].crash()
    await asyncio.sleep(world.chance.choice((0.0, 0.1, 1.0)))
    world.processes[place] = Process(world.processes[place].name, world)
    await world.processes[place].cache.start(0)


FAULTS: tuple[Callable[[World], Awaitable[None]], ...] = (
    _cut_from_redis,
    _cut_from_postgres,
    _freeze,
    _restart,
    _flush,
    _evict,
    _save,
    _lose_sessions,
    _crash,
)


async def _live(world: World, faults: tuple[Callable[[World], Awaitable[None]], ...], seconds: float, **options: Any) -> None:
    """Reads and writes at all processes for so long, a write to a dozen reads, and now and then one of `faults`."""
    await world.begin(**options)
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    next_fault = loop.time() + 0.3
    trouble: set[asyncio.Future[None]] = set()
    while loop.time() < end:
        process = world.chance.choice(world.processes)
        row = world.chance.choice(ROWS)
        process.request(process.write(row) if world.chance.random() < 0.08 else process.read(row))
        if faults and loop.time() > next_fault:
            next_fault = loop.time() + world.chance.uniform(0.05, 1.5)
            trouble.add(asyncio.ensure_future(world.chance.choice(faults)(world)))
        await asyncio.sleep(world.chance.choice((0.0, 0.001, 0.01, 0.02)))
    await asyncio.gather(*trouble)
    await world.end()


@settings(max_examples=examples(10))
@given(st.integers(0, 1_000_000))
def test_without_faults_most_reads_are_hits_and_none_is_stale(seed: int) -> None:
    world = World(seed)
    run(_live(world, (), 4))
    assert world.stale == []
    assert world.unsettled == 0
    assert world.outcomes["hit"] > world.outcomes["miss"]
    assert "bypass" not in world.outcomes


@settings(max_examples=examples(15))
@given(st.integers(0, 1_000_000))
@example(17)
def test_no_read_is_stale_and_no_request_fails_whatever_happens(seed: int) -> None:
    world = World(seed)
    run(_live(world, FAULTS, 15))
    assert world.stale == []
    assert world.unsettled == 0
    assert world.outcomes["hit"] > 0
    assert world.writes > 0


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.strip("_"))
def test_no_read_is_stale_under_one_kind_of_fault(fault: Callable[[World], Awaitable[None]]) -> None:
    for seed in range(3):
        world = World(seed)
        run(_live(world, (fault, _save), 10))
        assert world.stale == []
        assert world.unsettled == 0
        assert world.outcomes["hit"] > 0


# --- every order -------------------------------------------------------------------------------------------------------


def _every_order(steps: int, world_of: Callable[[Callable[[], float]], World], story: Callable[[World], Awaitable[None]]) -> int:
    """Runs the story once for each way in which its first `steps` delays can be 0, 1 or 2 ms; later ones are 0. How many."""
    count = 0
    for delays in itertools.product((0.0, 0.001, 0.002), repeat=steps):
        count += 1
        left: list[float] = []

        def delay(left: list[float] = left) -> float:
            return left.pop() if left else 0.0

        world = world_of(delay)

        async def tell(world: World = world, left: list[float] = left, delays: tuple[float, ...] = delays) -> None:
            await world.begin()
            left.extend(reversed(delays))
            await story(world)
            left.clear()
            await asyncio.sleep(0.01)
            for process in world.processes:
                await process.read("a")
            await world.end()

        run(tell())
        assert world.stale == [], delays
    return count


def test_every_order_of_a_reader_and_a_writer_leaves_nothing_stale() -> None:
    async def story(world: World) -> None:
        reader, writer = world.processes
        both = [reader.request(reader.read("a")), writer.request(writer.write("a"))]
        await asyncio.sleep(0.001)
        both.append(reader.request(reader.read("a")))
        await asyncio.gather(*both)

    assert _every_order(6, lambda delay: World(delay=delay, processes=2), story) == 729


def test_every_order_of_a_reader_a_writer_and_a_flush_leaves_nothing_stale() -> None:
    async def story(world: World) -> None:
        reader, writer = world.processes
        both = [reader.request(reader.read("a")), writer.request(writer.write("a"))]
        await asyncio.sleep(world.network.delay())
        world.redis.flush()
        await asyncio.sleep(world.network.delay())
        both.append(reader.request(reader.read("a")))
        await asyncio.gather(*both)

    assert _every_order(6, lambda delay: World(delay=delay, processes=2), story) == 729


# --- without each safeguard ----------------------------------------------------------------------------------------------


def _finds_something(faults: tuple[Callable[[World], Awaitable[None]], ...], seeds: int = 40, **options: Any) -> bool:
    for seed in range(seeds):
        world = World(seed)
        run(_live(world, faults, 15, **options))
        if world.stale:
            return True
    return False


async def _quiet(*_: Any) -> None:
    return None


def test_without_invalidation_the_simulation_finds_a_stale_answer() -> None:
    with mutated(Cache, "invalidate", _quiet):
        assert _finds_something((), 5)


def test_without_waiting_for_the_licences_of_others_it_finds_one() -> None:
    with mutated(Keeper, "settle", _quiet):
        assert _finds_something((_cut_from_redis,))


def test_without_the_time_that_the_lock_is_held_it_finds_one() -> None:
    assert _finds_something((_cut_from_redis,), hold_seconds=0.0)


def test_without_throwing_everything_away_it_finds_one() -> None:
    """A writer that is cut off says so, and dies; those that take up the cache again must not trust what is in it."""

    async def keep(self: redis_store.RedisStore) -> None:
        await self.probe()

    with mutated(redis_store.RedisStore, "clear", keep):
        assert _finds_something((_cut_from_redis, _crash))


def test_without_reading_the_token_before_the_database_it_finds_one() -> None:
    """The stamp that an answer is kept under is that of the moment when it is kept."""
    original = Cache._load

    async def late(self: Any, key: Any, _stamp: bytes, load: Any, ttl_seconds: float) -> bytes:
        body: bytes = await load()

        async def loaded() -> bytes:
            return body

        with contextlib.suppress(StoreDown):
            found = await self._store.look(key, TABLE)
            await original(self, key, found.stamp, loaded, ttl_seconds)
        return body

    with mutated(Cache, "_load", late):
        assert _finds_something(())


def test_without_the_run_id_it_finds_one() -> None:
    async def nameless(self: Any, commands: Any) -> Any:
        answers, _ = await self._link.trip(commands)
        return answers, b""

    with mutated(redis_store.RedisStore, "_trip", nameless):
        assert _finds_something((_save, _restart))


def test_without_looking_at_the_licence_it_finds_one() -> None:
    with mutated(Keeper, "licence", lambda _self: 1), mutated(Keeper, "still", lambda _self, _licence: True):
        assert _finds_something((_cut_from_redis,))


def test_a_licence_is_shorter_than_a_hold() -> None:
    assert keeper_room.LICENCE_SECONDS < keeper_room.HOLD_SECONDS
