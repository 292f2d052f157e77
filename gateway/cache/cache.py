"""`Cache`: answers kept between requests, and what a write does so that none of them outlives it.

A read asks for a key, the tables that the answer is made from, and how to make it. A write runs inside `writing`. Where the
cache cannot be trusted now, every read makes its answer anew, and no request fails for that.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Literal, Protocol

import msgspec

from gateway.cache.dependencies import Dependencies
from gateway.cache.keeper import Alone, Keeper, Off
from gateway.cache.listener import postgres_session
from gateway.cache.memory_store import MemoryStore
from gateway.cache.redis_store import RedisLink, RedisStore
from gateway.cache.store import Entry, Found, Key, Store, StoreDown
from gateway.coalesce import Waiter
from gateway.errors import GatewayError
from gateway.events import Observer, Timeline, keep_timeline, nobody, timeline
from gateway.redis_wire import Guard

Outcome = Literal["hit", "miss", "bypass"]
Load = Callable[[], Awaitable[bytes]]
LoadSince = Callable[[float], Awaitable[bytes]]
"""Makes an answer that has everything in it that was committed before a moment of `time.monotonic()`."""

JITTER = 0.1
"""The part of a TTL by which it is shortened or lengthened, so that what was kept together does not end together."""

DOUBT_SECONDS = 15.0
"""When a write that may or may not have been made is taken for over: PostgreSQL may go on with a statement for a while after
the gateway has given up on it."""

DOUBT_PAUSE_SECONDS = 1.0
READY_SECONDS = 2.0
MAX_STAMPS = 10_000
"""Of which it is remembered when they were first seen."""


class Cached(msgspec.Struct, frozen=True):
    """An answer. `age_seconds` is how long ago it was read from the database; 0 unless it is a hit."""

    body: bytes
    outcome: Outcome
    age_seconds: int = 0


class Looked(msgspec.Struct, frozen=True):
    """A look into the store that was made already, and the licence under which it was."""

    licence: int
    found: Found


class Choice(msgspec.Struct, frozen=True):
    """Where answers are kept, and a sentence on it for the log."""

    kind: Literal["memory", "redis", "off"]
    sentence: str


def choose(workers: int, redis_url: str | None) -> Choice:
    """Where answers are kept, by the settings alone."""
    if redis_url:
        return Choice("redis", "cache: in Redis, for all processes that use it")
    if workers == 1:
        return Choice("memory", "cache: in the memory of this process, which must be the only one to serve this database")
    return Choice("off", f"cache: off, for {workers} workers without REDIS_URL would each keep their own answers")


class Keeping(Protocol):
    """What a cache asks of its keeper."""

    @property
    def is_trusted(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    def licence(self) -> int: ...
    def still(self, licence: int) -> bool: ...
    def store_failed(self) -> None: ...
    def distrust(self) -> None: ...
    async def settle(self) -> None: ...
    def start(self) -> None: ...
    async def wait_until_trusted(self, seconds: float) -> None: ...
    async def stop(self) -> None: ...


class Cache:
    """Answers over one store. Used from one event loop; `start` before and `stop` after.

    `dependencies` may be set anew at a reload. `harmless` are exceptions that say that a write changed nothing; so do our own
    of 4xx, but for a timeout. Counted for metrics: `hits`, `misses`, `bypasses`, `shared` (misses that another's load answered),
    `invalidations` (writes), `settled` (writes that Redis took no note of), `errors` (of the store).
    """

    def __init__(
        self,
        store: Store,
        keeper: Keeping,
        *,
        dependencies: Dependencies = Dependencies(),  # noqa: B008 - frozen
        harmless: tuple[type[BaseException], ...] = (),
        doubt_seconds: float = DOUBT_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.dependencies = dependencies
        self._store = store
        self._keeper = keeper
        self._harmless = harmless
        self._doubt_seconds = doubt_seconds
        self._clock = clock
        self._doubts: dict[tuple[str, ...], float] = {}
        self._loading: dict[tuple[bytes, bytes], tuple[asyncio.Task[bytes], Timeline]] = {}
        self._seen: dict[bytes, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.hits = 0
        self.misses = 0
        self.bypasses = 0
        self.shared = 0
        self.invalidations = 0
        self.settled = 0

    @property
    def errors(self) -> int:
        """How many calls to the store failed."""
        return self._store.errors

    @property
    def is_trusted(self) -> bool:
        """Whether answers may come from the store now. Where they may not, they come from the database."""
        return self._keeper.is_trusted

    @property
    def reason(self) -> str:
        """Why it is not trusted, for operators; empty where it is."""
        return self._keeper.reason

    # --- reading -------------------------------------------------------------------------------------------------------

    async def read(
        self,
        key: Key,
        tables: tuple[str, ...],
        load: Load,
        ttl_seconds: float,
        refresh: bool = False,
        load_since: LoadSince | None = None,
        looked: Looked | None = None,
    ) -> Cached:
        """The answer kept as `key`, or the one that `load` makes, which is then kept for `ttl_seconds`; 0 keeps nothing.

        `tables` are all those that the answer is made from. `refresh` makes it anew and keeps that. Callers that miss the same
        key under the same stamp share one load: it began after the stamp was read, and each of them has seen that stamp stand.
        `load_since`, where it is given, makes what is kept on a miss, from a copy of the database that may lag: whatever
        was written before the stamp was first seen it must have, and what is written later ends the stamp.
        `looked` is a look of this very request (`ask`), so that it need not make another.
        Raises what `load` raises.
        """
        noted = timeline()
        noted.cache = "bypass"
        licence = self._keeper.licence() if looked is None else looked.licence
        if ttl_seconds <= 0 or not licence:
            self.bypasses += 1
            return Cached(await load(), "bypass")
        if looked is None:
            began = time.perf_counter()
            try:
                found = await self._store.look(key, tables)
            except StoreDown:
                noted.note("cache", began)
                self._keeper.store_failed()
                self.bypasses += 1
                return Cached(await load(), "bypass")
            noted.note("cache", began)
        else:
            found = looked.found
        if not self._keeper.still(licence):
            self.bypasses += 1
            return Cached(await load(), "bypass")
        if refresh:
            self.bypasses += 1
            return Cached(await self._load(key, found.stamp, load, ttl_seconds), "bypass")
        if found.entry is not None:
            noted.cache = "hit"
            return self._hit(found.entry)
        self.misses += 1
        noted.cache = "miss"
        if load_since is not None:
            load = partial(load_since, self._first_seen(found.stamp))
        return Cached(await self._load_shared(key, found.stamp, load, ttl_seconds), "miss")

    def licence(self) -> int:
        """The licence to take answers from the store, for `ask` and `hit`; 0 where there is none now, which is a bypass."""
        return self._keeper.licence()

    def bypass(self) -> None:
        """Takes note of an answer that is made without a look, for there was no licence."""
        self.bypasses += 1

    def ask(self, key: Key, tables: tuple[str, ...], waiter: Waiter[Found]) -> Found | None:
        """A look into the store for who is no task: what is found, or None where `waiter` will be told. Raises StoreDown, or
        tells it. What comes of it is for `hit`, and where that gives None, for `read`."""
        return self._store.ask(key, tables, waiter)

    def hit(self, licence: int, found: Found) -> Cached | None:
        """The answer that was found under a licence, where it may be given out; None where `read` has to go on."""
        entry = found.entry
        return None if entry is None or not self._keeper.still(licence) else self._hit(entry)

    def _hit(self, entry: Entry) -> Cached:
        self.hits += 1
        return Cached(entry.body, "hit", max(0, int(self._clock() - entry.loaded_at)))

    def _first_seen(self, stamp: bytes) -> float:
        """When this process first missed under the stamp; now, for one that it does not remember."""
        seen = self._seen.get(stamp)
        if seen is None:
            if len(self._seen) >= MAX_STAMPS:
                del self._seen[next(iter(self._seen))]
            seen = self._seen[stamp] = time.monotonic()
        return seen

    async def _load_shared(self, key: Key, stamp: bytes, load: Load, ttl_seconds: float) -> bytes:
        place = (key.whole, stamp)
        loading = self._loading.get(place)
        if loading is None:
            loading = self._loading[place] = self._start_load(key, stamp, load, ttl_seconds)
            loading[0].add_done_callback(lambda done: self._loaded(place, done))
        else:
            self.shared += 1
        task, noted = loading
        try:
            return await asyncio.shield(task)  # who leaves leaves alone
        finally:
            timeline().adopt(noted)

    def _start_load(self, key: Key, stamp: bytes, load: Load, ttl_seconds: float) -> tuple[asyncio.Task[bytes], Timeline]:
        """A load that several may wait for, with a timeline of its own, that each of them takes over."""
        first = timeline()
        noted = Timeline(first.request_id, first.route, first.trace)
        noted.client = first.client  # whose place at the database it takes
        context = contextvars.copy_context()
        context.run(keep_timeline, noted)
        work = self._load(key, stamp, load, ttl_seconds)
        return asyncio.get_running_loop().create_task(work, context=context), noted

    def _loaded(self, place: tuple[bytes, bytes], done: asyncio.Task[bytes]) -> None:
        del self._loading[place]
        if not done.cancelled():
            done.exception()  # it may be that nobody waits for it any more

    async def _load(self, key: Key, stamp: bytes, load: Load, ttl_seconds: float) -> bytes:
        loaded_at = self._clock()
        body = await load()
        ttl_seconds *= 1 - JITTER + 2 * JITTER * random.random()  # noqa: S311 - no secret
        self._store.keep(key, Entry(key.whole, stamp, loaded_at, body), ttl_seconds)
        return body

    # --- writing -------------------------------------------------------------------------------------------------------

    def writing(self, tables: tuple[str, ...]) -> Writing:
        """`async with cache.writing(tables):` around a write, its COMMIT with it. `tables` are all that it may change.

        At its end no process gives out an answer from before the write; only then may the write be acknowledged. That takes a
        trip to Redis, or, where Redis is out of reach, up to `keeper.HOLD_SECONDS` for the first write and a trip to
        PostgreSQL for the next. Raises Unavailable where neither answers.
        """
        return Writing(self, tables)

    async def invalidate(self, tables: tuple[str, ...]) -> None:
        """What `writing` does at its end. Goes on where its caller is cancelled. Raises Unavailable."""
        self.invalidations += 1
        try:
            await self._store.renew(tables)
        except StoreDown:
            await asyncio.shield(self._spawn(self._settle()))
        except asyncio.CancelledError:  # nobody waits for it any more: a task for each that is not cancelled would cost more
            self._spawn(self._renew_or_settle(tables)).add_done_callback(_unheard)
            raise

    async def _renew_or_settle(self, tables: tuple[str, ...]) -> None:
        try:
            await self._store.renew(tables)
        except StoreDown:
            await self._settle()

    async def _settle(self) -> None:
        self.settled += 1
        await self._keeper.settle()

    async def wrote(self, tables: tuple[str, ...], fault: BaseException | None) -> None:
        """The end of a write: `fault` is what it raised. One that may have been made all the same is invalidated again and
        again until it is surely over; its caller, who was told of a failure, does not wait for that."""
        if fault is None:
            await self.invalidate(tables)
        elif not self._says_that_nothing_changed(fault):
            doubted = tables in self._doubts
            self._doubts[tables] = asyncio.get_running_loop().time() + self._doubt_seconds
            if not doubted:
                self._spawn(self._invalidate_in_doubt(tables))

    def _says_that_nothing_changed(self, fault: BaseException) -> bool:
        ours = isinstance(fault, GatewayError) and 400 <= fault.status < 500 and fault.status != 408
        return ours or isinstance(fault, self._harmless)

    async def _invalidate_in_doubt(self, tables: tuple[str, ...]) -> None:
        """Every second, until no write to these tables can be under way any more of which nobody knows."""
        while self._doubts[tables] > asyncio.get_running_loop().time():
            await self._invalidate_quietly(tables)
            await asyncio.sleep(DOUBT_PAUSE_SECONDS)
        del self._doubts[tables]
        await self._invalidate_quietly(tables)

    def changed(self, tables: tuple[str, ...]) -> None:
        """Something else changed the tables: what was made from them goes, without anybody who waits for it."""
        self._spawn(self._invalidate_quietly(tables))

    async def _invalidate_quietly(self, tables: tuple[str, ...]) -> None:
        try:
            await self._store.renew(tables)
        except StoreDown:
            self._keeper.distrust()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- life ----------------------------------------------------------------------------------------------------------

    async def start(self, ready_seconds: float = READY_SECONDS) -> None:
        """Begins, and waits a little until the cache can be trusted. It need not be: then answers come from the database."""
        self._keeper.start()
        await self._keeper.wait_until_trusted(ready_seconds)

    async def stop(self) -> None:
        """Ends what is under way."""
        for task in (*self._tasks, *(task for task, _ in self._loading.values())):
            task.cancel()
        await self._keeper.stop()
        await self._store.close()


def _unheard(done: asyncio.Task[None]) -> None:
    """Takes what a task raised, which nobody waits for."""
    if not done.cancelled():
        done.exception()


class Writing:
    """See `Cache.writing`."""

    __slots__ = ("_cache", "_tables")

    def __init__(self, cache: Cache, tables: tuple[str, ...]) -> None:
        self._cache = cache
        self._tables = tables

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(
        self, _type: type[BaseException] | None, fault: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._cache.wrote(self._tables, fault)


def make_cache(
    choice: Choice,
    *,
    database_url: str,
    redis_url: str | None,
    name: str,
    dependencies: Dependencies,
    is_pooled: bool = False,
    breaker: Guard | None = None,
    harmless: tuple[type[BaseException], ...] = (),
    observe: Observer = nobody,
) -> Cache:
    """The cache of that choice. `name` is what its connection to PostgreSQL is called there; `is_pooled` says that it leads
    through a pooler in transaction mode. `breaker` is Redis's."""
    connect = postgres_session(database_url, name, is_pooled)
    cache: Cache
    store: Store = MemoryStore()

    def heard(table: str) -> None:
        cache.changed(cache.dependencies.changed_by(table))

    keeper: Keeping = Off()
    if choice.kind == "memory":
        keeper = Alone(store, connect, heard)
    elif choice.kind == "redis" and redis_url:
        store = RedisStore(RedisLink(redis_url, breaker=breaker), dependencies.database, observe)
        keeper = Keeper(store, connect, heard)
    cache = Cache(store, keeper, dependencies=dependencies, harmless=harmless)
    return cache
