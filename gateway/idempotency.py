"""One request, sent as often as it takes, written once: answers kept under the `Idempotency-Key` that a caller chose.

The answer is kept by the very statement that writes, so there is no write without its answer and no answer without its write. A
key that comes again is answered from what was kept; one whose request is under way is a 409. An advisory lock, held until
the COMMIT, tells the second of two apart at once, and the table's primary key stands behind it: whoever read before the first
one's COMMIT and got the lock after it fails on the key, and with it the whole write.

An answer that was lost is asked for again, by the same statement: it either finds what was kept, or writes now, or meets the
first one still at work. So it needs no second path, and nothing is written twice.

Failures are not kept: a request that was refused may be sent again with the same key, and is judged anew.
Source: draft-ietf-httpapi-idempotency-key-header-07.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from hashlib import blake2b, sha256
from typing import Any

import asyncpg
import msgspec

from gateway.catalog.model import Resource
from gateway.database.execute import Database
from gateway.database.sqlstate import Violation
from gateway.errors import (
    ConfigurationError,
    Conflict,
    DatabaseTimeout,
    GatewayError,
    IdempotencyMismatch,
    OutcomeUnknown,
    Problem,
    Unavailable,
    ValidationFailed,
)
from gateway.events import OTHER, IdempotencyReplayed, Observer, Purpose, nobody
from gateway.query.ast import Grant
from gateway.query.compile import CLEAN_KEPT, KEPT_IS_READY, KEPT_TABLE, READ_KEPT

logger = logging.getLogger("gateway.idempotency")

HEADER = "Idempotency-Key"
IDEMPOTENCY_KEY = r'"([ !#-\[\]-~]|\\["\\]){1,255}"'
"""RFC 8941, 3.3.3: a string, and no parameters."""
TABLE_SQL = f"""
CREATE SCHEMA IF NOT EXISTS gateway;
CREATE TABLE IF NOT EXISTS {KEPT_TABLE} (
    id bytea PRIMARY KEY,
    fingerprint bytea NOT NULL,
    view bytea NOT NULL,
    answer text,
    state bigint NOT NULL,
    key text,
    kept_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS idempotency_keys_kept_at ON {KEPT_TABLE} (kept_at);
COMMENT ON TABLE {KEPT_TABLE} IS 'Answers to writes by their Idempotency-Key, kept by the gateway and cleaned up by it.'
"""
"""What makes the table, where there is none. The migration of this repository makes the same."""

CLEAN_EVERY_SECONDS = 60.0
CLEAN_BATCH = 500
CLEAN_PAUSE_SECONDS = 0.2
RESOLVE_PAUSE_SECONDS = 0.1
LEAST_SECONDS = 0.2
"""With less time left than this, nothing more is asked of the database."""
CONNECT_TIMEOUT_SECONDS = 5.0

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Once(msgspec.Struct, frozen=True):
    """A request that is to be written once: `id` is whose key it is and for what, `fingerprint` what exactly was asked."""

    id: bytes
    fingerprint: bytes

    @property
    def lock(self) -> int:
        """The number of its advisory lock."""
        return int.from_bytes(self.id[:8], signed=True)


class Answer(msgspec.Struct, frozen=True):
    """What a write left behind: the row's JSON text ("" of a deletion), its state, and of a new row its key as JSON."""

    text: str
    state: int
    key: str = ""
    replayed: bool = False


def once(key: str, caller: Sequence[str], target: Sequence[Any], request: Sequence[bytes]) -> Once:
    """What `key` means to this `caller` at this `target` (operation, resource and row), for this very `request`.

    Callers share nothing: neither another subject's key nor another row's is the same key. Nothing of it is kept as it came.
    """
    return Once(sha256(_encode((key, caller, target))).digest(), sha256(_encode(request)).digest())


def view_of(resource: Resource, grant: Grant) -> bytes:
    """What an answer to a write shows to this caller: which fields, of which rows, and what they are called.

    Where it has changed since an answer was kept, that answer is not for these eyes any more.
    """
    fields = None if grant.read_fields is None else sorted(grant.read_fields)
    shown = (grant.readable, fields, grant.rows, grant.seen_rows, resource.definition.fields, sorted(resource.visible))
    return blake2b(_encode(shown), digest_size=16).digest()


def make_tables(database_url: str) -> None:
    """Makes what `KeptAnswers` needs, where it is not there. Raises ConfigurationError."""
    try:
        asyncio.run(_make_tables(database_url))
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as fault:
        raise ConfigurationError(f"DATABASE_URL: the gateway's own tables cannot be made: {fault}") from fault


async def _make_tables(database_url: str) -> None:
    connection = await asyncpg.connect(database_url, timeout=CONNECT_TIMEOUT_SECONDS)
    try:
        async with connection.transaction():
            await connection.execute(TABLE_SQL)
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT_SECONDS)


class _UnderWay(Conflict):
    """Somebody else is at the same request, be it an attempt of ours that was lost."""


class KeptAnswers:
    """The answers of one database. `start` and `stop` are for cleaning up, which one process does at a time."""

    def __init__(self, database: Database, keep_seconds: float = 86400, observe: Observer = nobody) -> None:
        self._database = database
        self._keep_seconds = keep_seconds
        self._observe = observe
        self._is_ready = False
        self._cleaning: asyncio.Task[None] | None = None

    @property
    def notice(self) -> str:
        """Why no key is taken, for operators; empty where all is well."""
        if self._is_ready:
            return ""
        lacking = f"{KEPT_TABLE} is missing, or this role may not SELECT, INSERT and DELETE there"
        return f"{lacking}: {HEADER} is refused; see `gateway migrate own`"

    async def is_ready(self) -> bool:
        """Whether the table is there for us. Once it was seen it is not looked for again. Raises the database's errors."""
        if not self._is_ready:
            rows = await self._database.fetch(KEPT_IS_READY, (KEPT_TABLE,))
            self._is_ready = bool(rows[0][0])
        return self._is_ready

    async def write(
        self,
        this: Once,
        view: bytes,
        sql: str,
        values: Sequence[Any],
        timeout_seconds: float | None = None,
        purpose: Purpose = OTHER,
    ) -> Answer | None:
        """What the write answered, now or when it was made; None where it found no row to write. `sql` is of a shape with `once`.

        Raises Conflict while the same request is under way, IdempotencyMismatch for another one under the same key, Violation
        and the database's errors; OutcomeUnknown only where the time did not suffice to learn what became of the write.
        """
        if not await self.is_ready():
            raise ValidationFailed(
                "A header does not apply here.", [Problem(HEADER, "is not taken: this service has no place to keep answers")]
            )
        seconds = self._database.statement_seconds(timeout_seconds)
        deadline = time.monotonic() + seconds
        given = (this.lock, this.id, this.fingerprint, view, *values)
        is_lost = False
        while True:
            try:
                return await self._try(this, view, sql, given, seconds, purpose)
            except OutcomeUnknown:
                is_lost = True
            except (Unavailable, DatabaseTimeout, _UnderWay):
                if not is_lost:  # else the one that was lost may have written what this one did not
                    raise
            await asyncio.sleep(RESOLVE_PAUSE_SECONDS)
            seconds = min(seconds, deadline - time.monotonic())
            if seconds < LEAST_SECONDS:
                raise OutcomeUnknown(f"{OutcomeUnknown.default_message} Send it again with the same {HEADER}.")

    async def _try(
        self, this: Once, view: bytes, sql: str, given: Sequence[Any], seconds: float, purpose: Purpose
    ) -> Answer | None:
        try:
            rows = await self._database.fetch(sql, given, seconds, writing=True, purpose=purpose)
        except Violation:
            kept = await self._read(this, view)  # it may be this very request's own row that is in the way
            if kept is None:
                raise
            return kept
        found = rows[0]
        if found["fingerprint"] is not None:
            return self._replayed(this, view, found)
        if found["done"]:
            return Answer(found["answer"] or "", found["state"], found["key"] or "")
        if found["free"]:
            return await self._read(this, view)  # or it was this very request that changed the row meanwhile
        raise _UnderWay("The same request is under way; try again.", headers=[("Retry-After", "1")])

    async def _read(self, this: Once, view: bytes) -> Answer | None:
        rows = await self._database.fetch(READ_KEPT, (this.id,))
        return self._replayed(this, view, rows[0]) if rows else None

    def _replayed(self, this: Once, view: bytes, found: asyncpg.Record) -> Answer:
        if found["fingerprint"] != this.fingerprint:
            raise IdempotencyMismatch
        self._observe(IdempotencyReplayed())
        text = found["answer"] or ""
        return Answer("{}" if text and found["view"] != view else text, found["state"], found["key"] or "", replayed=True)

    # --- cleaning up ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to clean up in the background."""
        if self._cleaning is None:
            self._cleaning = asyncio.get_running_loop().create_task(self._clean_for_ever())

    async def stop(self) -> None:
        """Ends that."""
        if self._cleaning is not None:
            self._cleaning.cancel()
            await asyncio.wait([self._cleaning])
            self._cleaning = None

    async def clean(self) -> int:
        """Deletes some of what was kept long enough, and says how many; 0 where another process is at it."""
        rows = await self._database.fetch(CLEAN_KEPT, (self._keep_seconds, CLEAN_BATCH), writing=True)
        return int(rows[0][0])

    async def _clean_all(self) -> None:
        deleted = CLEAN_BATCH
        while deleted == CLEAN_BATCH:
            deleted = await self.clean()
            await asyncio.sleep(CLEAN_PAUSE_SECONDS)

    async def _clean_for_ever(self) -> None:
        """Batch after batch while they are full, then a pause: nobody waits for it, and it holds nobody up."""
        while True:
            await asyncio.sleep(CLEAN_EVERY_SECONDS * (0.5 + random.random()))  # noqa: S311 - no secret
            try:
                if await self.is_ready():
                    await self._clean_all()
            except (GatewayError, Violation) as fault:
                logger.warning("what is kept under Idempotency-Keys could not be cleaned up: %s", fault)
            except Exception:
                logger.exception("what is kept under Idempotency-Keys could not be cleaned up")
