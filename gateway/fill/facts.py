"""What filling must know of a table beyond its reflection: a connection in, `TableFacts` out.

That is: domains with their constraints, what a range or an array is made of, defaults that draw from a sequence, the keys of
every unique index in their order with its condition, CHECKs as PostgreSQL prints them, and which values the partitions take.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.catalog.model import Table
from gateway.fill.expressions import names_read

_NUMBERS = re.compile(r"\(([\d,\s-]+)\)")
_KINDS = {"e": "enum", "d": "domain", "r": "range", "m": "multirange", "c": "composite"}

_TABLE = """
    SELECT c.oid, c.relkind::text AS kind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2
"""
_COLUMNS = """
    SELECT a.attname AS name, a.atttypid AS type, a.atttypmod AS modifier, a.attnotnull AS not_null,
           a.attidentity::text AS identity, a.attgenerated::text <> '' AS generated,
           COALESCE(pg_get_expr(d.adbin, d.adrelid), '') AS expression,
           format_type(a.atttypid, a.atttypmod) AS sql, pg_get_serial_sequence($2, a.attname) AS sequence
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_TYPE = """
    SELECT t.typname AS name, t.typtype::text AS type, t.typelem AS element, t.typcategory::text AS category,
           t.typbasetype AS base, t.typtypmod AS modifier, t.typnotnull AS not_null, t.typrelid AS relation,
           t.typdefault IS NOT NULL AS filled,
           format_type(t.oid, $2) AS sql, r.rngsubtype AS subtype,
           ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) AS labels
    FROM pg_type t LEFT JOIN pg_range r ON t.oid IN (r.rngtypid, r.rngmultitypid) WHERE t.oid = $1
"""
_MEMBERS = """
    SELECT atttypid AS type, atttypmod AS modifier FROM pg_attribute
    WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_DOMAIN_CHECKS = """
    SELECT conname AS name, pg_get_expr(conbin, 0) AS expression FROM pg_constraint
    WHERE contypid = $1 AND contype = 'c' ORDER BY conname
"""
_CHECKS = """
    SELECT conname AS name, pg_get_expr(conbin, conrelid) AS expression FROM pg_constraint
    WHERE conrelid = $1 AND contype = 'c' ORDER BY conname
"""
_UNIQUES = """
    SELECT i.relname AS name, x.indimmediate AS immediate, x.indnullsnotdistinct AS nulls_equal,
           COALESCE(pg_get_expr(x.indpred, x.indrelid), '') AS condition,
           ARRAY(SELECT pg_get_indexdef(x.indexrelid, n, false) FROM generate_series(1, x.indnkeyatts) n ORDER BY n) AS keys
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
    WHERE x.indrelid = $1 AND x.indisunique AND x.indisvalid ORDER BY x.indisprimary DESC, i.relname
"""
_EXCLUSIONS = "SELECT conname, condeferrable FROM pg_constraint WHERE conrelid = $1 AND contype = 'x' ORDER BY conname"
_PARTITIONS = """
    SELECT p.relid::regclass::text AS name, pg_get_partition_constraintdef(p.relid) AS expression,
           ARRAY(SELECT pg_get_expr(k.conbin, k.conrelid) FROM pg_constraint k WHERE k.conrelid = p.relid AND k.contype = 'c'
                 AND k.conislocal ORDER BY k.conname) AS checks
    FROM pg_partition_tree($1::oid) p WHERE p.isleaf AND p.level > 0 ORDER BY 1
"""


class Check(msgspec.Struct, frozen=True):
    """A CHECK by its name and SQL; a domain's speaks of VALUE."""

    name: str
    expression: str


class ValueType(msgspec.Struct, frozen=True):
    """A type below its domains. `name` is `pg_type`'s, or enum, range, multirange, composite or array.

    `arguments` are the type modifier's numbers: a varchar's length, a numeric's precision and scale. `element` is an array's
    element or a range's bound. `checks` and `not_null` are those of the domains above; `filled` of a domain with a default.
    """

    name: str
    sql: str
    arguments: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    element: ValueType | None = None
    members: tuple[ValueType, ...] = ()
    checks: tuple[Check, ...] = ()
    not_null: bool = False
    filled: bool = False


class ColumnFacts(msgspec.Struct, frozen=True):
    """One column. `type` is what its values are made for, `sql` its declared type; `default` and `generation` are SQL or ""."""

    name: str
    type: ValueType
    sql: str
    not_null: bool
    default: str = ""
    generation: str = ""
    identity: bool = False
    sequence: str = ""


class Unique(msgspec.Struct, frozen=True):
    """A unique index. `columns` are all that its keys read; `plain`: the keys are just columns, without a condition."""

    name: str
    columns: tuple[str, ...]
    plain: bool = True
    partial: bool = False
    immediate: bool = True
    nulls_equal: bool = False


class TableFacts(msgspec.Struct, frozen=True):
    """A table that can be filled. `partitions` are SQL conditions: a row must satisfy one, or there are none."""

    table: Table
    columns: tuple[ColumnFacts, ...]
    checks: tuple[Check, ...]
    uniques: tuple[Unique, ...]
    exclusions: tuple[str, ...] = ()
    deferrable_exclusion: bool = False
    partitions: tuple[str, ...] = ()
    is_partitioned: bool = False

    @property
    def sql_name(self) -> str:
        """The table's name in SQL, with its schema."""
        return f"{quote(self.table.schema)}.{quote(self.table.name)}"


def quote(name: str) -> str:
    """The name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


async def read_facts(connection: Any, table: Table) -> TableFacts:
    """Reads all that `TableFacts` holds about a reflected table."""
    row = await connection.fetchrow(_TABLE, table.schema, table.name)
    oid = row["oid"]
    is_partitioned = row["kind"] == "p"
    partitions = await connection.fetch(_PARTITIONS, oid) if is_partitioned else []
    exclusions = await connection.fetch(_EXCLUSIONS, oid)
    sql_name = f"{quote(table.schema)}.{quote(table.name)}"
    columns = [await _column(connection, found) for found in await connection.fetch(_COLUMNS, oid, sql_name)]
    names = [column.name for column in columns]
    return TableFacts(
        table=table,
        columns=tuple(columns),
        checks=tuple(Check(found["name"], found["expression"]) for found in await connection.fetch(_CHECKS, oid)),
        uniques=tuple(_unique(found, names) for found in await connection.fetch(_UNIQUES, oid)),
        exclusions=tuple(found["conname"] for found in exclusions),
        deferrable_exclusion=any(found["condeferrable"] for found in exclusions),
        partitions=tuple(_partition(found) for found in partitions),
        is_partitioned=is_partitioned,
    )


def _partition(found: Any) -> str:
    return " AND ".join(f"({condition})" for condition in (found["expression"] or "true", *found["checks"]))


async def _column(connection: Any, found: Any) -> ColumnFacts:
    return ColumnFacts(
        name=found["name"],
        type=await _value_type(connection, found["type"], found["modifier"]),
        sql=found["sql"],
        not_null=found["not_null"],
        default="" if found["generated"] else found["expression"],
        generation=found["expression"] if found["generated"] else "",
        identity=bool(found["identity"]),
        sequence=found["sequence"] or "",
    )


def _unique(found: Any, names: list[str]) -> Unique:
    by_sql = {quote(name): name for name in names} | {name: name for name in names}
    plain = all(key in by_sql for key in found["keys"])
    columns = tuple(dict.fromkeys(column for key in found["keys"] for column in _read_by(key, by_sql, names)))
    return Unique(
        found["name"],
        columns,
        plain and not found["condition"],
        bool(found["condition"]),
        found["immediate"],
        found["nulls_equal"],
    )


def _read_by(key: str, by_sql: dict[str, str], names: list[str]) -> tuple[str, ...]:
    return (by_sql[key],) if key in by_sql else tuple(name for name in names_read(key) if name in names)


async def _value_type(connection: Any, oid: int, modifier: int) -> ValueType:
    found = await connection.fetchrow(_TYPE, oid, modifier)
    kind = _KINDS.get(found["type"], found["name"])
    if kind == "domain":
        return await _domain(connection, oid, modifier, found)
    if found["category"] == "A" and found["element"]:
        element = await _value_type(connection, found["element"], modifier)
        return ValueType("array", found["sql"], element=element)
    subtype, members = found["subtype"], []
    if kind == "composite":
        members = [await _value_type(connection, *member) for member in await connection.fetch(_MEMBERS, found["relation"])]
    return ValueType(
        name=kind,
        sql=found["sql"],
        arguments=_arguments(found["sql"]),
        labels=tuple(found["labels"]),
        element=await _value_type(connection, subtype, -1) if subtype else None,
        members=tuple(members),
    )


async def _domain(connection: Any, oid: int, modifier: int, found: Any) -> ValueType:
    below = await _value_type(connection, found["base"], found["modifier"] if modifier < 0 else modifier)
    checks = [Check(row["name"], row["expression"]) for row in await connection.fetch(_DOMAIN_CHECKS, oid)]
    return msgspec.structs.replace(
        below,
        checks=(*below.checks, *checks),
        not_null=below.not_null or found["not_null"],
        filled=below.filled or found["filled"],
    )


def _arguments(sql: str) -> tuple[int, ...]:
    match = _NUMBERS.search(sql.rsplit('"', 1)[-1])
    return tuple(int(number) for number in match[1].split(",")) if match else ()
