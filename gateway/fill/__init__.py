"""`gateway fill`: plausible rows for any resource, made from what the database says of its table.

The public functions take a database and a directory of resource files, and write; everything below them is pure but `facts`,
`keys` and `write`. The road: `catalog` (resource, table, bounds) → `facts` → `plan` (by `checks`, `values`, `spaces`) → `write`.

The same seed over the same state of the database gives the same rows, in every process and on every day: numbers come from
generators that are seeded by the seed, the table's name and its number of rows, and times are relative to `words.EPOCH`. What
the database fills by itself (identities, sequences, functions and triggers of the author's) is the database's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from gateway.catalog.build import build, table_name
from gateway.catalog.model import Bounds, Catalog, Resource, Table
from gateway.catalog.reflect import reflect
from gateway.connect import Connection, connect
from gateway.definitions.load import load_directory
from gateway.definitions.model import Fault
from gateway.errors import ConfigurationError, did_you_mean
from gateway.fill.facts import quote, read_facts
from gateway.fill.keys import KeyPool
from gateway.fill.order import Ranked, filling_order
from gateway.fill.plan import ParentEmpty, Source
from gateway.fill.write import write_rows

CONNECT_TIMEOUT_SECONDS = 60.0

_SESSION = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "synchronize_seqscans": "off",
    "application_name": "gateway fill",
}
"""Constraints are read in a form that does not depend on the server's settings, and read in the same order each time."""
MAX_ROWS = 1_000_000_000


class FillReport(msgspec.Struct, frozen=True):
    """What became of one resource: `rows` written in `seconds`; `unsatisfied` has a sentence for each constraint in the way."""

    resource: str
    rows: int
    seconds: float
    unsatisfied: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """The report for a person, a line each."""
        rate = f", {self.rows / self.seconds:,.0f} a second" if self.seconds > 0 and self.rows else ""
        return (f"{self.resource}: {self.rows:,} rows in {self.seconds:.1f} s{rate}", *self.unsatisfied)


def fill_resource(
    database_url: str,
    resources_dir: Path,
    resource: str,
    rows: int,
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> FillReport:
    """Adds `rows` rows to the resource's table, in one transaction; an interruption leaves none of them.

    `progress` is told (rows done, rows in all). Raises ConfigurationError: rows below 1, no such resource, a view, an empty
    parent, a unique key without room, constraints that no row satisfies, a database that cannot be reached or refuses.
    """
    _check_rows(rows)

    async def run() -> FillReport:
        async with _Filling.opened(database_url, resources_dir) as filling:
            found = filling.resource(resource)
            return await filling.fill(found, rows, seed, True, progress or (lambda _done, _total: None))

    return asyncio.run(run())


def fill_all(
    database_url: str,
    resources_dir: Path,
    rows: int,
    seed: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[FillReport]:
    """Fills every resource whose table is empty, parents before children; views are passed over.

    A table that others refer to gets fewer rows: a quarter for each step down to what refers to it. One resource that cannot
    be filled does not stop the others: its report has no rows and says why. Each resource is a transaction of its own.
    """
    _check_rows(rows)

    async def run() -> list[FillReport]:
        async with _Filling.opened(database_url, resources_dir) as filling:
            return await filling.fill_empty(rows, seed, progress or (lambda _name, _done, _total: None))

    return asyncio.run(run())


def _check_rows(rows: int) -> None:
    if not 1 <= rows <= MAX_ROWS:
        raise ConfigurationError(f"rows must be from 1 to {MAX_ROWS}, not {rows}")


class _Filling:
    """An open connection and the catalog that belongs to it."""

    def __init__(self, connection: Any, catalog: Catalog, faults: Sequence[Fault]) -> None:
        self._connection = connection
        self._faults = faults
        self._catalog = catalog
        newest_last = sorted(catalog.resources.values(), key=lambda resource: int(resource.version[1:]))
        self._resources = {resource.name: resource for resource in newest_last}
        self._broken = {name: reason for (_, name), reason in catalog.broken.items()}

    @classmethod
    @asynccontextmanager
    async def opened(cls, database_url: str, resources_dir: Path) -> AsyncIterator[_Filling]:
        """Connects, reads the catalog, and makes every refusal of the database a ConfigurationError."""
        try:
            connection = await connect(database_url, timeout_seconds=CONNECT_TIMEOUT_SECONDS, server_settings=_SESSION)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as fault:
            raise ConfigurationError(f"cannot connect to the database: {fault}") from fault
        try:
            yield cls(connection, *await _read_catalog(database_url, resources_dir))
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError) as fault:
            raise ConfigurationError(f"the database refused: {_reason(fault)}; nothing was written") from fault
        finally:
            await connection.close(timeout=5)

    def resource(self, name: str) -> Resource:
        """The resource of that name, if it can be filled. Raises ConfigurationError."""
        found = self._resources.get(name)
        if found is None and name in self._broken:
            faults = [str(fault) for fault in self._faults if Path(fault.file).stem.partition(".")[0] == name]
            raise ConfigurationError("\n".join([f'the resource "{name}" cannot be filled: {self._broken[name]}', *faults]))
        if found is None:
            raise ConfigurationError(f'there is no resource "{name}".{did_you_mean(name, self._resources)}')
        if found.table.is_view:
            raise ConfigurationError(f'the resource "{name}" is a view: fill the tables that it shows')
        return found

    async def fill(
        self, resource: Resource, rows: int, seed: int, exact: bool, progress: Callable[[int, int], None]
    ) -> FillReport:
        """Fills one resource in a transaction, and lets the planner know."""
        began = time.monotonic()
        table = resource.table
        sql_name = f"{quote(table.schema)}.{quote(table.name)}"
        async with self._connection.transaction():
            source = await self._source(resource, rows, seed)
            try:
                written = await write_rows(self._connection, source, exact, progress)
            except ParentEmpty as empty:
                raise ConfigurationError(f"{resource.name}: {self._advice(empty)}") from None
        await self._connection.execute(f"ANALYZE {sql_name}")
        return FillReport(resource.name, written.rows, time.monotonic() - began, written.unsatisfied)

    async def fill_empty(self, rows: int, seed: int, progress: Callable[[str, int, int], None]) -> list[FillReport]:
        """Fills each resource that has no row yet."""
        tables = [resource for resource in self._resources.values() if not resource.table.is_view]
        empty = [resource for resource in tables if await self._is_empty(resource.table)]
        reports = []
        for ranked in filling_order([Ranked(resource.name, resource.table) for resource in empty]):
            resource = self._resources[ranked.name]
            if not await self._is_empty(resource.table):
                continue  # another resource shows the same table
            reports.append(await self._fill_or_say(resource, max(min(rows, 10), rows // 4**ranked.height), seed, progress))
        return reports

    async def _fill_or_say(
        self, resource: Resource, rows: int, seed: int, progress: Callable[[str, int, int], None]
    ) -> FillReport:
        try:
            return await self.fill(resource, rows, seed, False, lambda done, total: progress(resource.name, done, total))
        except ConfigurationError as fault:
            return FillReport(resource.name, 0, 0.0, (str(fault),))
        except asyncpg.PostgresError as fault:
            return FillReport(resource.name, 0, 0.0, (f"{resource.name}: the database refused: {_reason(fault)}",))

    async def _is_empty(self, table: Table) -> bool:
        sql_name = f"{quote(table.schema)}.{quote(table.name)}"
        return not await self._connection.fetchval(f"SELECT EXISTS (SELECT FROM {sql_name})")  # noqa: S608 - names are quoted

    async def _source(self, resource: Resource, rows: int, seed: int) -> Source:
        table = resource.table
        facts = await read_facts(self._connection, table)
        existing = await self._connection.fetchval(f"SELECT count(*) FROM {facts.sql_name}")  # noqa: S608 - names are quoted
        pools = [
            KeyPool(key, is_self=(key.schema, key.table) == (table.schema, table.name))
            for key in sorted(table.foreign_keys, key=lambda key: key.name)
        ]
        for pool in pools:
            await pool.load(self._connection)
        return Source(facts, _bounds(resource), tuple(pools), rows, existing, seed)

    def _advice(self, empty: ParentEmpty) -> str:
        named = [
            resource.name
            for resource in self._resources.values()
            if (resource.table.schema, resource.table.name) == (empty.schema, empty.table)
        ]
        return f"{empty.constraint} refers to {empty.table}, which has no rows: fill {(named or [empty.table])[0]} first"


def _bounds(resource: Resource) -> Mapping[str, Bounds]:
    return {field.column: field.bounds for field in resource.fields.values() if field.bounds != Bounds()}


async def _read_catalog(database_url: str, resources_dir: Path) -> tuple[Catalog, tuple[Fault, ...]]:
    loaded = load_directory(resources_dir)

    async def open_one() -> Connection:
        return await connect(database_url, timeout_seconds=CONNECT_TIMEOUT_SECONDS)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=open_one, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            names = {table_name(source) for source in loaded.sources}
            reflection = await connection.run_sync(lambda sync: reflect(sync, names))
    finally:
        await engine.dispose()
    return build(loaded, reflection)


def _reason(fault: BaseException) -> str:
    """The fault in one line; an asyncpg error has its detail apart."""
    detail = getattr(fault, "detail", None)
    text = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
    return f"{text} ({detail})" if detail else text
