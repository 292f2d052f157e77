"""Both stores by the same laws, and each by its own: bounds in memory, commands and failures in a real Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from gateway import embedded
from gateway.cache.memory_store import OVERHEAD_BYTES, MemoryStore
from gateway.cache.redis_store import MAX_ENTRY_BYTES, MAX_WAITING, RedisLink, RedisStore
from gateway.cache.store import Entry, Key, Store, StoreDown
from tests.examples import examples

A, B = Key("a", b"whole a"), Key("b", b"whole b")
PRODUCTS, BOTH = ("public.products",), ("public.products", "public.users")
PATIENT_SECONDS = 20.0


def entry(key: Key, stamp: bytes, body: bytes = b"body", loaded_at: float = 1.5) -> Entry:
    return Entry(key.whole, stamp, loaded_at, body)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENT_SECONDS):
        while not await true():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def valkey_store(url: str, timeout_seconds: float = PATIENT_SECONDS) -> AsyncIterator[RedisStore]:
    store = RedisStore(RedisLink(url, timeout_seconds), "test")
    try:
        yield store
    finally:
        await store.close()


async def kept(store: Store, key: Key, body: bytes = b"body", tables: tuple[str, ...] = PRODUCTS) -> bytes:
    """Keeps an entry, waits until it is there, and gives its stamp."""
    stamp = (await store.look(key, tables)).stamp
    store.keep(key, entry(key, stamp, body), 60)

    async def is_there() -> bool:
        found = (await store.look(key, tables)).entry
        return found is not None and found.body == body

    await until(is_there)
    return stamp


LAWS: list[Callable[[Store], Awaitable[None]]] = []


def law(check: Callable[[Store], Awaitable[None]]) -> Callable[[Store], Awaitable[None]]:
    LAWS.append(check)
    return check


@law
async def what_was_kept_is_found_as_it_was(store: Store) -> None:
    stamp = await kept(store, A, b"\x00\xff binary")
    assert (await store.look(A, PRODUCTS)).entry == entry(A, stamp, b"\x00\xff binary")


@law
async def a_stamp_stands_until_its_table_is_written(store: Store) -> None:
    stamp = (await store.look(A, PRODUCTS)).stamp
    assert (await store.look(B, PRODUCTS)).stamp == stamp
    await store.renew(("public.users",))
    assert (await store.look(A, PRODUCTS)).stamp == stamp
    await store.renew(PRODUCTS)
    assert (await store.look(A, PRODUCTS)).stamp != stamp


@law
async def a_write_to_any_table_of_an_entry_kills_it(store: Store) -> None:
    for written in BOTH:
        await kept(store, A, b"before " + written.encode(), BOTH)
        await store.renew((written,))
        assert (await store.look(A, BOTH)).entry is None


@law
async def a_write_kills_nothing_else(store: Store) -> None:
    await kept(store, A)
    await store.renew(("public.users",))
    assert (await store.look(A, PRODUCTS)).entry is not None


@law
async def what_is_kept_late_is_never_found(store: Store) -> None:
    stamp = (await store.look(A, PRODUCTS)).stamp
    await store.renew(PRODUCTS)
    store.keep(A, entry(A, stamp), 60)
    await kept(store, B)  # so that what was kept before it is there too
    assert (await store.look(A, PRODUCTS)).entry is None


@law
async def an_entry_of_another_key_is_never_found(store: Store) -> None:
    stamp = await kept(store, A)
    mixed_up = Key(A.name, b"another whole")
    assert (await store.look(mixed_up, PRODUCTS)).entry is None
    assert (await store.look(A, PRODUCTS)).stamp == stamp


@law
async def an_entry_made_from_other_tables_is_never_found(store: Store) -> None:
    await kept(store, A)
    assert (await store.look(A, BOTH)).entry is None


@law
async def clearing_kills_everything(store: Store) -> None:
    stamp = await kept(store, A)
    await store.clear()
    found = await store.look(A, PRODUCTS)
    assert found.entry is None
    assert found.stamp != stamp


@law
async def many_looks_at_once_each_get_their_own(store: Store) -> None:
    keys = [Key(f"k{number}", b"whole %d" % number) for number in range(200)]
    for number, key in enumerate(keys):
        store.keep(key, entry(key, (await store.look(key, PRODUCTS)).stamp, b"%d" % number), 60)
    await kept(store, A)
    found = await asyncio.gather(*(store.look(key, PRODUCTS) for key in keys))
    assert [one.entry.body if one.entry else None for one in found] == [b"%d" % number for number in range(200)]


@law
async def an_entry_ends(store: Store) -> None:
    stamp = await kept(store, A)
    store.keep(A, entry(A, stamp, b"short"), 0.01)

    async def is_gone() -> bool:
        return (await store.look(A, PRODUCTS)).entry is None

    await until(is_gone)


@pytest.mark.parametrize("check", LAWS, ids=lambda check: check.__name__)
def test_in_memory(check: Callable[[Store], Awaitable[None]]) -> None:
    async def run() -> None:
        await check(MemoryStore())

    asyncio.run(run())


@pytest.mark.parametrize("check", LAWS, ids=lambda check: check.__name__)
def test_in_valkey(check: Callable[[Store], Awaitable[None]], redis_url: str) -> None:
    async def run() -> None:
        async with Redis.from_url(redis_url) as redis:
            await redis.flushall()
        async with valkey_store(redis_url) as store:
            await check(store)

    asyncio.run(run())


# --- memory --------------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 3000), st.sampled_from(["keep", "look", "renew"])), max_size=60
)


@settings(max_examples=examples(60))
@given(STEPS)
def test_memory_is_bounded_and_forgets_the_longest_unused(steps: list[tuple[str, int, str]]) -> None:
    async def run() -> None:
        store = MemoryStore(max_entries=4, max_bytes=4 * OVERHEAD_BYTES + 5000)
        order: list[str] = []  # by use, the longest unused first
        sizes: dict[str, int] = {}
        for name, size, step in steps:
            key = Key(name, name.encode())
            if step == "renew":
                await store.renew(PRODUCTS)
                continue
            found = await store.look(key, PRODUCTS)
            if name in order:
                order.remove(name)
                if found.entry is not None:
                    order.append(name)
                else:
                    del sizes[name]
            if step == "keep":
                store.keep(key, entry(key, found.stamp, bytes(size)), 60)
                order = [*(other for other in order if other != name), name]
                sizes[name] = OVERHEAD_BYTES + 3 + size
                while sum(sizes.values()) > 4 * OVERHEAD_BYTES + 5000 or len(order) > 4:
                    del sizes[order.pop(0)]
            assert len(store) == len(order)
            assert store.bytes == sum(sizes.values())

    asyncio.run(run())


def test_memory_keeps_nothing_that_is_larger_than_all_of_it() -> None:
    async def run() -> None:
        store = MemoryStore(max_bytes=2000)
        stamp = await kept(store, A)
        store.keep(B, entry(B, stamp, bytes(3000)), 60)
        assert (await store.look(B, PRODUCTS)).entry is None
        assert (await store.look(A, PRODUCTS)).entry is not None

    asyncio.run(run())


# --- Redis ---------------------------------------------------------------------------------------------------------------


def test_names_in_redis_are_for_people(redis_url: str) -> None:
    async def run() -> None:
        async with Redis.from_url(redis_url) as redis, valkey_store(redis_url) as store:
            await redis.flushall()
            await kept(store, Key("v1/products:id=42", b"w"))
            names = sorted([name.decode() for name in await redis.keys("*") if isinstance(name, bytes)])
            assert names == ["cache:test:epoch", "cache:test:token:public.products", "cache:test:v1/products:id=42"]
            assert 0 < await redis.pttl("cache:test:v1/products:id=42") <= 60_000

    asyncio.run(run())


def test_looks_in_flight_are_one_command_and_so_are_renewals(redis_url: str) -> None:
    async def commands(redis: Any, name: str) -> int:
        told = await redis.info("commandstats")
        return int(told.get(f"cmdstat_{name}", {"calls": 0})["calls"])

    async def run() -> None:
        async with Redis.from_url(redis_url) as redis, valkey_store(redis_url) as store:
            await kept(store, A)
            looks, sets = await commands(redis, "mget"), await commands(redis, "set")
            await asyncio.gather(*(store.look(Key(f"{number}", b"w"), PRODUCTS) for number in range(64)))
            assert await commands(redis, "mget") == looks + 1
            await asyncio.gather(*(store.renew(PRODUCTS) for _ in range(64)))
            assert await commands(redis, "set") == sets + 1

    asyncio.run(run())


def test_two_processes_agree_on_tokens_that_neither_has_seen(redis_url: str) -> None:
    async def run() -> None:
        async with valkey_store(redis_url) as one, valkey_store(redis_url) as other, Redis.from_url(redis_url) as redis:
            for _ in range(20):
                await redis.flushall()
                stamps = await asyncio.gather(*(store.look(A, BOTH) for store in (one, other, one, other)))
                assert len({found.stamp for found in stamps}) == 1

    asyncio.run(run())


def test_a_flushed_or_evicted_token_comes_back_as_another(redis_url: str) -> None:
    async def run() -> None:
        async with valkey_store(redis_url) as store, Redis.from_url(redis_url) as redis:
            for gone in ("cache:test:epoch", "cache:test:token:public.products"):
                stamp = await kept(store, A)
                await redis.delete(gone)
                found = await store.look(A, PRODUCTS)
                assert found.entry is None
                assert found.stamp != stamp

    asyncio.run(run())


@pytest.mark.parametrize(
    "odd", [b"", b"\xc1", b"not ours", b"\x93\xc4\x01a\xc4\x01b", msgspec.msgpack.encode([b"w", 1, "x", None])]
)
def test_what_is_not_ours_is_no_entry(redis_url: str, odd: bytes) -> None:
    async def run() -> None:
        async with valkey_store(redis_url) as store, Redis.from_url(redis_url) as redis:
            await kept(store, A)
            await redis.set("cache:test:a", odd)
            assert (await store.look(A, PRODUCTS)).entry is None
            await redis.delete("cache:test:a")
            await redis.lpush("cache:test:a", "a list")
            assert (await store.look(A, PRODUCTS)).entry is None
            assert store.is_up

    asyncio.run(run())


def test_a_large_answer_is_not_kept(redis_url: str) -> None:
    async def run() -> None:
        async with valkey_store(redis_url) as store:
            stamp = (await store.look(A, PRODUCTS)).stamp
            store.keep(A, entry(A, stamp, bytes(MAX_ENTRY_BYTES + 1)), 60)
            await kept(store, B)
            assert (await store.look(A, PRODUCTS)).entry is None

    asyncio.run(run())


def test_more_than_can_wait_lets_the_oldest_go(redis_url: str) -> None:
    async def run() -> None:
        async with valkey_store(redis_url) as store:
            stamp = (await store.look(A, PRODUCTS)).stamp
            for number in range(MAX_WAITING + 10):
                key = Key(f"many{number}", b"w")
                store.keep(key, entry(key, stamp), 60)
            assert store.errors == 10
            await kept(store, A)
            assert (await store.look(Key("many0", b"w"), PRODUCTS)).entry is None
            assert (await store.look(Key(f"many{MAX_WAITING + 9}", b"w"), PRODUCTS)).entry is not None

    asyncio.run(run())


def test_a_server_that_comes_back_as_it_once_was_has_nothing_that_is_found(server_directory: Path) -> None:
    """It has a snapshot from before the write: the old token, and the old entry under it."""

    async def save(url: str) -> bytes:
        async with valkey_store(url) as store, Redis.from_url(url) as redis:
            stamp = await kept(store, A, b"old")
            await redis.save()
            await store.renew(PRODUCTS)
            return stamp

    async def look(url: str, old: bytes) -> None:
        async with valkey_store(url) as store, Redis.from_url(url) as redis:
            assert await redis.exists("cache:test:a")
            found = await store.look(A, PRODUCTS)
            assert found.entry is None
            assert found.stamp != old

    with embedded.valkey(server_directory) as url:
        old = asyncio.run(save(url))
    with embedded.valkey(server_directory) as url:
        asyncio.run(look(url, old))


def test_a_connection_that_is_made_anew_asks_anew_which_server_it_has(server_directory: Path) -> None:
    async def run() -> None:
        server = embedded.valkey(server_directory)
        url = await asyncio.to_thread(server.__enter__)
        async with valkey_store(url) as store:
            stamp = await kept(store, A, b"old")
            async with Redis.from_url(url) as redis:
                await redis.save()
            await asyncio.to_thread(server.__exit__, None, None, None)
            server = embedded.valkey(server_directory)
            await asyncio.to_thread(server.__enter__)
            try:
                with contextlib.suppress(StoreDown):  # its connections are those of the server that is no more
                    await store.look(A, PRODUCTS)
                await store.probe()
                found = await store.look(A, PRODUCTS)
                assert found.entry is None
                assert found.stamp != stamp
            finally:
                await asyncio.to_thread(server.__exit__, None, None, None)

    asyncio.run(run())


def test_a_store_that_failed_is_left_alone_until_it_is_probed(server_directory: Path) -> None:
    async def run(url: str, process: int) -> None:
        async with valkey_store(url, timeout_seconds=0.3) as store:
            await until(lambda: _works(store))
            os.kill(process, signal.SIGSTOP)
            try:
                with pytest.raises(StoreDown):
                    await store.look(A, PRODUCTS)
                errors, started = store.errors, time.process_time()
                for _ in range(1000):
                    with pytest.raises(StoreDown):
                        await store.look(A, PRODUCTS)
                    with pytest.raises(StoreDown):
                        await store.renew(PRODUCTS)
                    store.keep(A, entry(A, b""), 60)
                assert store.errors == errors
                assert time.process_time() - started < PATIENT_SECONDS
                for again in (store.probe, store.clear):
                    with pytest.raises(StoreDown):
                        await again()
            finally:
                os.kill(process, signal.SIGCONT)
            assert not store.is_up
            await until(lambda: _works(store))
            await kept(store, A)

    async def _works(store: RedisStore) -> bool:
        try:
            await store.probe()
            await store.look(A, PRODUCTS)
        except StoreDown:
            return False
        return True

    with embedded.valkey(server_directory) as url:
        with SyncRedis.from_url(url) as client:
            process = int(client.info("server")["process_id"])
        asyncio.run(run(url, process))


def test_a_server_that_may_not_be_written_to_is_down_for_renewals_and_says_so(redis_url: str) -> None:
    async def run() -> None:
        async with valkey_store(redis_url) as store, Redis.from_url(redis_url) as redis:
            await kept(store, A)
            await redis.config_set("maxmemory", "1")
            try:
                with pytest.raises(StoreDown, match="OOM"):
                    await store.renew(PRODUCTS)
                with pytest.raises(StoreDown):
                    await store.clear()
                assert not store.is_up
            finally:
                await redis.config_set("maxmemory", "0")
            await store.clear()
            assert store.is_up

    asyncio.run(run())


def test_a_caller_that_leaves_harms_nobody(redis_url: str) -> None:
    async def run() -> None:
        async with valkey_store(redis_url) as store:
            await kept(store, A)
            looks = [asyncio.create_task(store.look(A, PRODUCTS)) for _ in range(20)]
            await asyncio.sleep(0)
            for look in looks[::2]:
                look.cancel()
            found = await asyncio.gather(*looks, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in found[::2])
            assert all(not isinstance(one, BaseException) and one.entry is not None for one in found[1::2])
            assert store.is_up

    asyncio.run(run())
