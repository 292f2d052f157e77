"""Answers in Redis, for all processes that use it: every look that is in flight is one MGET, and every write one pipeline.

    cache:DATABASE:epoch                  a token that everything depends on; a new one makes everything gone
    cache:DATABASE:token:public.products  the token of a table
    cache:DATABASE:v1/products:id=42      an entry: MessagePack of its whole key, its stamp, when it was loaded, and its body

DATABASE is the database's own identity, so that two of them can share a Redis, and a fleet need not agree on an address.
A stamp is the server's run id, the epoch and the tables' tokens. Redis makes a new run id at each start, so that a server which
comes back with an old copy of itself (a snapshot, a replica that was promoted) has nothing that carries its stamp.
A token that is not there was evicted, flushed or lost. Then a new one is set, by whoever is first (SET NX).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from gateway.cache.store import Entry, Found, Key, StoreDown, new_token
from gateway.coalesce import Coalescer, Waiter
from gateway.events import BatchAnswered, Observer, nobody, timeline
from gateway.redis_wire import Command, Guard, RedisDown, RedisWire

logger = logging.getLogger("gateway.cache")

TIMEOUT_SECONDS = 0.1
"""For a whole round trip, a connection's beginning with it."""

TOKEN_TTL_SECONDS = 7 * 86_400
MAX_ENTRY_BYTES = 256 * 1024
"""A larger answer is not kept: moving it to and fro could cost more than making it, and holds up those that wait beside it."""

MAX_LOOKS = 64
MAX_KEPT_AT_ONCE = 64
MAX_WAITING = 1000
"""Entries that wait to be kept. Beyond that the oldest is let go: it is only an answer that will be made again."""

Question = tuple[Key, tuple[str, ...]]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


class Link(Protocol):
    """A way to a Redis: commands in, answers and the run id of the server that gave them out."""

    async def trip(self, commands: Sequence[Command]) -> tuple[list[Any], bytes]:
        """One round trip. An answer may be a Refused. Raises StoreDown where there is none in time."""

    async def close(self) -> None:
        """Ends the connections."""


class RedisLink:
    """A connection to one Redis. No trip lasts longer than `timeout_seconds`, and none is tried again."""

    def __init__(self, url: str, timeout_seconds: float = TIMEOUT_SECONDS, breaker: Guard | None = None) -> None:
        self._wire = RedisWire(url, timeout_seconds, identified=True, breaker=breaker)

    async def trip(self, commands: Sequence[Command]) -> tuple[list[Any], bytes]:
        """One round trip. Raises StoreDown."""
        try:
            return await self._wire.trip(commands)
        except RedisDown as fault:
            raise StoreDown(str(fault)) from fault

    async def close(self) -> None:
        """Ends the connection."""
        await self._wire.close()


class RedisStore:
    """A store behind a link. After a failure it is down, and every call but `probe` and `clear` fails at once, until one of
    those two has succeeded. Which of the two it takes, and when, is the keeper's business.

    `errors` counts failed trips and refused commands.
    """

    def __init__(self, link: Link, database: str, observe: Observer = nobody) -> None:
        self._link = link
        self._prefix = f"cache:{database}:"
        self._epoch = f"{self._prefix}epoch"
        self._token = f"{self._prefix}token:"
        self._looks: Coalescer[Question, Found] = Coalescer(
            self._look_all, max_batch=MAX_LOOKS, sized=lambda size: observe(BatchAnswered("cache", size))
        )
        self._renewals: Coalescer[tuple[str, ...], None] = Coalescer(self._renew_all)
        self._waiting: dict[str, tuple[Entry, float]] = {}
        self._keeping: asyncio.Task[None] | None = None
        self.is_up = True
        self.errors = 0

    async def look(self, key: Key, tables: tuple[str, ...]) -> Found:
        """The stamp of now, and the entry under it. Raises StoreDown."""
        if not self.is_up:
            raise StoreDown
        began = time.perf_counter()
        try:
            return await self._looks.ask((key, tables))
        finally:
            timeline().note("redis", began)

    def ask(self, key: Key, tables: tuple[str, ...], waiter: Waiter[Found]) -> None:
        """As `look`: `waiter` will be told. Raises StoreDown, or tells it."""
        if not self.is_up:
            raise StoreDown
        self._looks.enqueue((key, tables), waiter)

    def keep(self, key: Key, entry: Entry, ttl_seconds: float) -> None:
        """Keeps an entry with the next pipeline. What cannot be kept is let go."""
        if not self.is_up or len(entry.body) > MAX_ENTRY_BYTES:
            return
        if len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
            self.errors += 1
        self._waiting[key.name] = (entry, ttl_seconds)
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.get_running_loop().create_task(self._keep_all())

    async def renew(self, tables: tuple[str, ...]) -> None:
        """New tokens for the tables. Raises StoreDown, and then nobody knows whether they have them."""
        if not self.is_up:
            raise StoreDown
        await self._renewals.ask(tables)

    async def clear(self) -> None:
        """A new epoch. Raises StoreDown."""
        await self._must([("SET", self._epoch, new_token(), "EX", TOKEN_TTL_SECONDS)])
        self.is_up = True

    async def probe(self) -> None:
        """Raises StoreDown where Redis is not well, or does not take what a look asks: several keys at once."""
        await self._must([("MGET", self._epoch, f"{self._token}probe")])
        self.is_up = True

    async def close(self) -> None:
        """Ends what is under way, and the connections."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        await self._looks.close()
        await self._renewals.close()
        await self._link.close()

    async def _trip(self, commands: Sequence[Command]) -> tuple[list[Any], bytes]:
        try:
            return await self._link.trip(commands)
        except StoreDown as down:
            self.errors += 1
            self._went_down(down)
            raise

    async def _must(self, commands: Sequence[Command]) -> tuple[list[Any], bytes]:
        """A trip on which nothing may be refused."""
        answers, run_id = await self._trip(commands)
        refusal = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if refusal is None:
            return answers, run_id
        self.errors += 1
        down = StoreDown(f"{type(refusal).__name__}: {refusal}")
        self._went_down(down)
        raise down from refusal

    def _went_down(self, reason: StoreDown) -> None:
        if self.is_up:
            self.is_up = False
            self._waiting.clear()
            logger.warning("cache: Redis is not well; answers come from the database until it is: %s", reason)

    async def _look_all(self, batch: Sequence[Question]) -> list[Found | Exception]:
        if not self.is_up:
            raise StoreDown
        tokens = {tables: (self._epoch, *(self._token + table for table in tables)) for _, tables in batch}
        names = dict.fromkeys(name for named in tokens.values() for name in named)
        known = len(names)
        for key, _ in batch:
            names[self._prefix + key.name] = None
        (told,), run_id = await self._must([("MGET", *names)])
        values: dict[str, bytes | None] = dict(zip(names, told, strict=True))
        lost = [name for name, value in zip(names, told[:known], strict=False) if value is None]
        if lost:
            await self._replace(lost, values, run_id)
        stamps = {tables: b" ".join([run_id, *(values[name] or b"" for name in named)]) for tables, named in tokens.items()}
        return [_found(key, stamps[tables], values[self._prefix + key.name]) for key, tables in batch]

    async def _replace(self, lost: list[str], values: dict[str, bytes | None], run_id: bytes) -> None:
        """Sets what tokens are not there, and reads what is there then, which another process may have set."""
        sets: list[Command] = [("SET", name, new_token(), "NX", "EX", TOKEN_TTL_SECONDS) for name in lost]
        answers, run_id_now = await self._must([*sets, ("MGET", *lost)])
        if run_id_now != run_id:
            raise StoreDown("the server changed between two trips")
        for name, value in zip(lost, answers[-1], strict=True):
            if value is None:
                raise StoreDown("a token did not last")
            values[name] = value

    async def _renew_all(self, batch: Sequence[tuple[str, ...]]) -> list[None]:
        if not self.is_up:
            raise StoreDown
        tables = {table: None for tables in batch for table in tables}
        await self._must([("SET", self._token + table, new_token(), "EX", TOKEN_TTL_SECONDS) for table in tables])
        return [None] * len(batch)

    async def _keep_all(self) -> None:
        while self._waiting:
            commands: list[Command] = []
            while self._waiting and len(commands) < MAX_KEPT_AT_ONCE:
                name = next(iter(self._waiting))
                entry, ttl_seconds = self._waiting.pop(name)
                commands.append(("SET", self._prefix + name, _encode(entry), "PX", max(1, round(ttl_seconds * 1000))))
            try:
                answers, _ = await self._trip(commands)
            except StoreDown:
                return
            self.errors += sum(isinstance(answer, Exception) for answer in answers)


def _found(key: Key, stamp: bytes, packed: bytes | None) -> Found:
    """The entry, where it is one, and this key's, and under this stamp."""
    if packed is None:
        return Found(stamp, None)
    try:
        entry = _decode(packed)
    except msgspec.DecodeError:
        return Found(stamp, None)
    return Found(stamp, entry if entry.stamp == stamp and entry.whole == key.whole else None)
