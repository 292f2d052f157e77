"""Resources for the tests of the pure rooms, made of structs and YAML as the catalog makes them, without a database.

`EVERYTHING` has a column of every family, and columns with names that SQL or the list grammar gives a meaning of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.catalog.build import build
from gateway.catalog.model import Catalog, Column, Constraint, Resource, Table
from gateway.catalog.reflect import Reflection
from gateway.catalog.types import ColumnType
from gateway.definitions.load import load_text
from gateway.definitions.model import Fault, Loaded, Source
from gateway.query.ast import GetPlan, WritePlan
from gateway.query.compile import compile_get, compile_write

BIGINT = ColumnType("int8", "bigint")
INTEGER = ColumnType("int4", "integer")
NUMERIC = ColumnType("numeric", "numeric", precision=12, scale=2)
TEXT = ColumnType("text", "text")
UUID = ColumnType("uuid", "uuid")
DATE = ColumnType("date", "date")
TIMESTAMPTZ = ColumnType("timestamptz", "timestamp with time zone")
BOOLEAN = ColumnType("bool", "boolean")
JSONB = ColumnType("jsonb", "jsonb")


def table(
    name: str,
    columns: Sequence[Column],
    primary_key: tuple[str, ...] = ("id",),
    constraints: Sequence[Constraint] = (),
    is_view: bool = False,
    schema: str = "public",
) -> Table:
    """A table as reflection would give it, with its primary key's constraint."""
    own = (Constraint(f"{name}_pkey", "primary", primary_key),) if primary_key else ()
    return Table(schema, name, tuple(columns), primary_key, (*own, *constraints), is_view=is_view)


def source(yaml: str = "", name: str = "things") -> Source:
    """One parsed resource file, which has no fault of its own."""
    parsed = load_text(name, f"resources/{name}.yaml", yaml)
    assert isinstance(parsed, Source), [str(fault) for fault in parsed]
    return parsed


def catalog_of(*pairs: tuple[Source, Table | None]) -> tuple[Catalog, tuple[Fault, ...]]:
    """The catalog of definitions and their tables (None: the database has none), and its faults."""
    tables = {
        (found.schema if "." in (read.definition.table or "") else None, found.name): found for read, found in pairs if found
    }
    known = tuple(sorted({found.name for _, found in pairs if found}))
    return build(Loaded(tuple(read for read, _ in pairs), (), ()), Reflection(tables, known))


def resource(found: Table, yaml: str = "", name: str = "") -> Resource:
    """The one resource of a definition that fits its table."""
    read = source(yaml, name or found.name)
    catalog, faults = catalog_of((read, found))
    assert not faults, [str(fault) for fault in faults]
    return catalog.resources[read.definition.version, read.name]


def row_sql(plan: GetPlan | WritePlan, found: Resource) -> str:
    """The SQL of a get, create, patch or delete."""
    return compile_get(plan.shape, found) if isinstance(plan, GetPlan) else compile_write(plan.shape, found)


EVERY_COLUMN = (
    Column("id", BIGINT, nullable=False, filled=True),
    Column("small", ColumnType("int2", "smallint"), nullable=True),
    Column("whole", INTEGER, nullable=True),
    Column("price", NUMERIC, nullable=True),
    Column("ratio", ColumnType("float8", "double precision"), nullable=True),
    Column("weight", ColumnType("float4", "real"), nullable=True),
    Column("name", TEXT, nullable=False),
    Column("code", ColumnType("varchar", "character varying", length=10), nullable=True),
    Column("fixed", ColumnType("bpchar", "bpchar", length=3), nullable=True),
    Column("token", UUID, nullable=True),
    Column("status", ColumnType("enum", "mood", labels=("sad", "ok", "happy")), nullable=False, filled=True),
    Column("active", BOOLEAN, nullable=True),
    Column("made_at", TIMESTAMPTZ, nullable=False, filled=True),
    Column("local_at", ColumnType("timestamp", "timestamp without time zone"), nullable=True),
    Column("day", DATE, nullable=True),
    Column("clock", ColumnType("time", "time without time zone"), nullable=True),
    Column("clock_tz", ColumnType("timetz", "time with time zone"), nullable=True),
    Column("span", ColumnType("interval", "interval"), nullable=True),
    Column("picture", ColumnType("bytea", "bytea"), nullable=True),
    Column("address", ColumnType("inet", "inet"), nullable=True),
    Column("net", ColumnType("cidr", "cidr"), nullable=True),
    Column("mac", ColumnType("macaddr", "macaddr"), nullable=True),
    Column("period", ColumnType("range", "daterange"), nullable=True),
    Column("bits", ColumnType("varbit", "bit varying", length=8), nullable=True),
    Column("words", ColumnType("tsvector", "tsvector"), nullable=True),
    Column("place", ColumnType("point", "point", ordered=False), nullable=True),
    Column("doc", JSONB, nullable=True),
    Column("raw", ColumnType("json", "json", ordered=False), nullable=True),
    Column("tags", ColumnType("text", "text", array=True), nullable=True),
    Column("scores", ColumnType("int4", "integer", array=True), nullable=True),
    Column("docs", ColumnType("json", "json", array=True, ordered=False), nullable=True),
    Column("limit", INTEGER, nullable=True),
    Column("page", TEXT, nullable=True),
    Column("Select", TEXT, nullable=True),
    Column("a.b", TEXT, nullable=True),
)
EVERYTHING = resource(table("everything", EVERY_COLUMN))
