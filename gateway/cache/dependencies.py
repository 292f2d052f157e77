"""Which tables an answer is made from, and which ones a write changes: what the database knows of that, in its catalog.

A view's answer is made from the view's tables, through as many views as there are between. A write to a table changes what a
foreign key carries on (ON DELETE CASCADE, SET NULL; ON UPDATE …), the tables that it inherits from and that inherit from it
(partitions), and what its rules name. A write to a view changes what the view is made from.
What a trigger writes the catalog does not say, nor what a function in a view reads.

Tables are named `schema.table`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import asyncpg
import msgspec

from gateway.connect import Connection, connect

CONNECT_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 30.0

Edges = Mapping[str, frozenset[str]]

CARRIED = """
SELECT DISTINCT confrelid AS source, conrelid AS target FROM pg_constraint
WHERE contype = 'f' AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'))
UNION SELECT inhparent, inhrelid FROM pg_inherits
UNION SELECT inhrelid, inhparent FROM pg_inherits
"""
MADE_FROM = """
SELECT DISTINCT rule.ev_class AS source, dependency.refobjid AS target
FROM pg_depend dependency JOIN pg_rewrite rule ON rule.oid = dependency.objid
WHERE dependency.classid = 'pg_rewrite'::regclass AND dependency.refclassid = 'pg_class'::regclass
AND rule.ev_class <> dependency.refobjid
"""
NAMED = """
SELECT source.relkind = 'v', source_schema.nspname || '.' || source.relname, target_schema.nspname || '.' || target.relname
FROM ({edges}) edge
JOIN pg_class source ON source.oid = edge.source JOIN pg_namespace source_schema ON source_schema.oid = source.relnamespace
JOIN pg_class target ON target.oid = edge.target JOIN pg_namespace target_schema ON target_schema.oid = target.relnamespace
WHERE target.relkind IN ('r', 'p', 'v', 'm', 'f')
"""


class Dependencies(msgspec.Struct, frozen=True):
    """`database` tells this database from every other. `views` lead from a view to what it selects from, `carried` from a
    table to what changes along with it."""

    database: str = ""
    views: Edges = {}
    carried: Edges = {}

    def made_from(self, *tables: str) -> tuple[str, ...]:
        """The tables whose tokens an answer depends on that is made from these, themselves among them; in order of name."""
        return _reached(self.views, tables)

    def changed_by(self, *tables: str) -> tuple[str, ...]:
        """The tables that a write to these may change, themselves among them; in order of name."""
        return _reached(self.carried, _reached(self.views, tables))


def _reached(edges: Edges, start: Iterable[str]) -> tuple[str, ...]:
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += edges.get(name, ())
    return tuple(sorted(found))


async def read_dependencies(database_url: str) -> Dependencies:
    """What the database's catalog says. Raises OSError, TimeoutError or asyncpg's errors."""
    connection = await connect(
        database_url, timeout_seconds=CONNECT_TIMEOUT_SECONDS, command_timeout=READ_TIMEOUT_SECONDS, statement_cache_size=0
    )
    try:
        carried = await connection.fetch(NAMED.format(edges=CARRIED))
        made = await connection.fetch(NAMED.format(edges=MADE_FROM))
        return Dependencies(
            database=await _identity(connection),
            views=_edges((source, target) for is_view, source, target in made if is_view),
            # What a rule of a table names, it may write.
            carried=_edges((source, target) for is_view, source, target in (*carried, *made) if not is_view),
        )
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT_SECONDS)


async def _identity(connection: Connection) -> str:
    """The cluster's own number and the database's: the same by whatever address, and after a fail-over."""
    oid = await connection.fetchval("SELECT oid::text FROM pg_database WHERE datname = current_database()")
    try:
        cluster = await connection.fetchval("SELECT to_hex(system_identifier) FROM pg_control_system()")
    except asyncpg.PostgresError:  # where a provider has taken it away
        cluster = await connection.fetchval("SELECT current_database()::text")
    return f"{cluster}-{oid}"


def _edges(pairs: Iterable[tuple[str, str]]) -> Edges:
    edges: dict[str, set[str]] = {}
    for source, target in pairs:
        edges.setdefault(source, set()).add(target)
    return {source: frozenset(targets) for source, targets in edges.items()}
