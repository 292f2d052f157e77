"""A connection in, tables out: SQLAlchemy's Inspector for the structure, pg_catalog for what the Inspector does not tell.

That is: the base type below a domain, whether a type has an order, which columns a CHECK or a unique expression reads, and
the names that a partition's constraints have, for the database reports faults by those. Indexes and names are read here too:
the Inspector's way to the first makes the driver ask for types, and its way to the second takes two questions for each schema.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Collection
from typing import Any

import msgspec
from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine.reflection import Inspector, ObjectKind, ObjectScope
from sqlalchemy.exc import SAWarning

from gateway.catalog.model import Column, Constraint, ConstraintKind, ForeignKey, Table
from gateway.catalog.types import ColumnType

TableName = tuple[str | None, str]
"""(schema, name); None is the connection's default schema."""

_KINDS: dict[str, ConstraintKind] = {"p": "primary", "u": "unique", "f": "foreign", "c": "check", "x": "exclusion"}
# Without a length, `character` and `bit` would mean one of them; a cast to `name` would cut, and it compares with text.
_CAST_NAMES = {"bpchar": "bpchar", "bit": "bit varying", "name": "text"}
_KIND_NAMES = {"e": "enum", "r": "range", "m": "multirange"}

# Lists are cast to text[], the one that the driver knows: of name[], which they would be, it would ask the database.
_TYPES = text("""
    SELECT t.oid, t.typname, t.typtype::text, t.typbasetype, t.typtypmod,
           COALESCE((SELECT e.oid FROM pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid), 0) AS typelem,
           t.typdefault IS NOT NULL AS filled, format_type(t.oid, NULL) AS sql,
           (SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid) AS labels,
           EXISTS (SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod
                   WHERE m.amname = 'btree' AND o.opcdefault AND o.opcintype = t.oid) AS ordered
    FROM pg_type t
""")
_COLUMNS = text("""
    SELECT n.nspname AS schema, c.relname AS table, a.attname AS name, a.atttypid, a.atttypmod
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE a.attnum > 0 AND NOT a.attisdropped
    AND n.nspname = ANY (CAST(:schemas AS text[])) AND c.relname = ANY (CAST(:names AS text[]))
""")
_CONSTRAINTS = text("""
    WITH tables AS (
        SELECT n.nspname AS schema, c.relname AS table, c.oid AS root, p.relid::oid AS oid
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL (SELECT c.oid AS relid UNION SELECT relid FROM pg_partition_tree(c.oid)) p
        WHERE n.nspname = ANY (CAST(:schemas AS text[])) AND c.relname = ANY (CAST(:names AS text[]))
        AND c.relkind IN ('r', 'p', 'f'))
    SELECT t.schema, t.table, k.conname AS name, k.contype::text AS kind, t.oid <> t.root AS partial,
           CASE WHEN k.contype = 'c' THEN pg_get_expr(k.conbin, k.conrelid) ELSE '' END AS expression,
           ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(n, i)
                 JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = u.n ORDER BY u.i) AS columns
    FROM tables t JOIN pg_constraint k ON k.conrelid = t.oid WHERE k.contype IN ('p', 'u', 'f', 'c', 'x')
    UNION ALL
    SELECT t.schema, t.table, i.relname, 'u', x.indpred IS NOT NULL OR t.oid <> t.root,
           COALESCE(pg_get_expr(x.indexprs, x.indrelid), ''),
           CASE WHEN x.indexprs IS NULL
           THEN ARRAY(SELECT a.attname::text FROM unnest(x.indkey::int2[]) WITH ORDINALITY u(n, i)
                      JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = u.n WHERE u.i <= x.indnkeyatts ORDER BY u.i)
           ELSE ARRAY(SELECT DISTINCT a.attname::text FROM pg_depend d
                      JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                      WHERE d.objid = x.indexrelid AND d.refobjid = x.indrelid AND d.refobjsubid > 0) END
    FROM tables t JOIN pg_index x ON x.indrelid = t.oid JOIN pg_class i ON i.oid = x.indexrelid
    WHERE x.indisunique AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid AND k.conrelid = t.oid)
""")

# What an index leads with; one on an expression has NULL in the expression's place. An index that is not valid finds nothing.
_INDEXES = text("""
    SELECT n.nspname AS schema, c.relname AS table,
           ARRAY(SELECT a.attname::text FROM unnest(x.indkey::int2[]) WITH ORDINALITY u(n, i)
                 LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.n
                 WHERE u.i <= x.indnkeyatts ORDER BY u.i) AS columns
    FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class i ON i.oid = x.indexrelid
    WHERE n.nspname = ANY (CAST(:schemas AS text[])) AND c.relname = ANY (CAST(:names AS text[]))
    AND x.indisvalid AND NOT x.indisprimary ORDER BY i.relname
""")

# A partitioned table tells versions where each of its partitions does; `xmin` is a heap's, whatever else keeps rows here.
_RELATIONS = text("""
    SELECT n.nspname AS schema, c.relname AS table, c.relkind IN ('v', 'm') AS is_view,
           COALESCE(obj_description(c.oid, 'pg_class'), '') AS comment,
           hashint8extended(c.oid::bigint, (SELECT oid::bigint FROM pg_database WHERE datname = current_database())) AS seed,
           CASE WHEN c.relkind NOT IN ('r', 'p') OR EXISTS (
                SELECT FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid LEFT JOIN pg_am m ON m.oid = l.relam
                WHERE p.isleaf AND (l.relkind NOT IN ('r', 'p') OR (l.relkind = 'r' AND m.amname <> 'heap')))
                OR (c.relkind = 'r' AND (SELECT m.amname FROM pg_am m WHERE m.oid = c.relam) <> 'heap') THEN 'none'
           WHEN c.relkind = 'p' THEN 'partitioned' ELSE 'heap' END AS versioning
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY (CAST(:schemas AS text[])) AND c.relname = ANY (CAST(:names AS text[]))
""")

# Where rows of one statement are not the same as rows one by one, or MERGE is not the same as INSERT, or is not there:
# - MERGE answers rows since PostgreSQL 17, takes no table with rules, checks other policies than INSERT does, and locks all
#   partitions or children, where INSERT locks the one that the row goes to;
# - a trigger may fire once for all rows, or find rows of the statement that come after its own; nothing tells what it does then;
# - rows may refer to each other in a circle, of which none could be inserted before the others.
_INSERTS_TOGETHER = text("""
    SELECT n.nspname AS schema, c.relname AS table
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am m ON m.oid = c.relam
    WHERE n.nspname = ANY (CAST(:schemas AS text[])) AND c.relname = ANY (CAST(:names AS text[]))
    AND c.relkind = 'r' AND m.amname = 'heap'
    AND current_setting('server_version_num')::int >= 170000 AND NOT c.relrowsecurity
    AND NOT EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid)
    AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid)
    AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgtype & 4 > 0)
    AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f'
        AND k.confrelid IN (SELECT c.oid UNION SELECT relid FROM pg_partition_ancestors(c.oid)))
""")

_NAMES = text("""
    SELECT n.nspname AS schema, c.relname AS table FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND c.relpersistence <> 't'
    AND (n.nspname = :default OR (n.nspname <> 'information_schema' AND NOT starts_with(n.nspname::text, 'pg_')))
""")


class Reflection(msgspec.Struct, frozen=True):
    """The tables that were asked for, by (schema, name) as asked, and all names there are, to suggest from."""

    tables: dict[TableName, Table]
    known: tuple[str, ...]


class _PgType(msgspec.Struct, frozen=True):
    oid: int
    typname: str
    typtype: str
    typelem: int
    typbasetype: int
    typtypmod: int
    filled: bool
    sql: str
    labels: list[str] | None
    ordered: bool


def reflect(connection: Connection, names: Collection[TableName]) -> Reflection:
    """Reads the named tables and views. One that is not there is absent from the answer."""
    inspector = inspect(connection)
    default = inspector.default_schema_name or "public"
    wanted = {(schema or default, table): (schema, table) for schema, table in names}
    parameters = {"schemas": sorted({schema for schema, _ in wanted}), "names": sorted({table for _, table in wanted})}
    types = {row.oid: _PgType(**row._mapping) for row in connection.execute(_TYPES)}
    column_types: dict[tuple[str, str], dict[str, tuple[int, int]]] = defaultdict(dict)
    for row in connection.execute(_COLUMNS, parameters):
        column_types[row.schema, row.table][row.name] = (row.atttypid, row.atttypmod)
    constraints: dict[tuple[str, str], list[Constraint]] = defaultdict(list)
    for row in connection.execute(_CONSTRAINTS, parameters):
        constraint = Constraint(row.name, _KINDS[row.kind], tuple(row.columns), row.expression, row.partial)
        constraints[row.schema, row.table].append(constraint)
    indexes: dict[tuple[str, str], list[list[str | None]]] = defaultdict(list)
    for row in connection.execute(_INDEXES, parameters):
        indexes[row.schema, row.table].append(row.columns)
    relations = {(row.schema, row.table): row for row in connection.execute(_RELATIONS, parameters)}
    together = {(row.schema, row.table) for row in connection.execute(_INSERTS_TOGETHER, parameters)}
    tables: dict[TableName, Table] = {}
    for schema in parameters["schemas"]:
        in_schema = sorted(table for owner, table in wanted if owner == schema)
        for name, parts in _inspect(inspector, schema, in_schema).items():
            key = (schema, name)
            facts, relation = column_types[key], relations[key]
            table = Table(
                schema=schema,
                name=name,
                columns=tuple(_column(column, *facts[column["name"]], types) for column in parts["columns"]),
                primary_key=tuple((parts["primary_key"] or {}).get("constrained_columns") or ()),
                constraints=tuple(constraints[key]),
                foreign_keys=tuple(_foreign_key(each, schema) for each in parts["foreign_keys"]),
                indexes=_leading(indexes[key], constraints[key]),
                is_view=relation.is_view,
                comment=relation.comment,
                versioning=relation.versioning,
                seed=relation.seed,
                inserts_together=key in together,
            )
            tables[wanted[key]] = table
    found = connection.execute(_NAMES, {"default": default})
    known = {row.table if row.schema == default else f"{row.schema}.{row.table}" for row in found}
    return Reflection(tables, tuple(sorted(known)))


def _inspect(inspector: Inspector, schema: str, names: list[str]) -> dict[str, dict[str, Any]]:
    options: dict[str, Any] = {"schema": schema, "filter_names": names, "kind": ObjectKind.ANY, "scope": ObjectScope.ANY}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)  # an unknown type has no row here: it is served by its text form
        columns = inspector.get_multi_columns(**options)
    keys = inspector.get_multi_pk_constraint(**options)
    foreign_keys = inspector.get_multi_foreign_keys(**options)
    return {
        table[1]: {"columns": found, "primary_key": keys.get(table), "foreign_keys": foreign_keys.get(table, [])}
        for table, found in columns.items()
    }


def _leading(indexes: list[list[str | None]], constraints: list[Constraint]) -> tuple[tuple[str, ...], ...]:
    """The columns of each index that begins with one, the primary key's last."""
    found = [tuple(column for column in columns if column is not None) for columns in indexes if columns[0] is not None]
    return (*found, *(constraint.columns for constraint in constraints if constraint.kind == "primary"))


def _foreign_key(facts: dict[str, Any], schema: str) -> ForeignKey:
    return ForeignKey(
        facts["name"] or "",
        tuple(facts["constrained_columns"]),
        facts["referred_schema"] or schema,
        facts["referred_table"],
        tuple(facts["referred_columns"]),
    )


def _column(facts: dict[str, Any], type_oid: int, type_modifier: int, types: dict[int, _PgType]) -> Column:
    identity, computed = facts.get("identity"), facts.get("computed")
    return Column(
        name=facts["name"],
        type=column_type(type_oid, type_modifier, types),
        nullable=facts["nullable"],
        filled=bool(facts.get("default") is not None or identity or computed or types[type_oid].filled),
        generated=bool(computed or (identity and identity.get("always"))),
        comment=facts.get("comment") or "",
    )


def column_type(oid: int, modifier: int, types: dict[int, _PgType]) -> ColumnType:
    """The type below all domains, and for an array its element's, with the outermost length that applies."""
    found = types[oid]
    domain = found.typname if found.typtype == "d" else ""
    while found.typtype == "d":
        modifier = found.typtypmod if modifier < 0 else modifier
        found = types[found.typbasetype]
    if found.typelem:
        element = column_type(found.typelem, modifier, types)
        return msgspec.structs.replace(element, array=True, domain=domain or element.domain)
    name = _KIND_NAMES.get(found.typtype, found.typname)
    return ColumnType(
        name=name,
        sql=_CAST_NAMES.get(name, found.sql),
        labels=tuple(found.labels or ()),
        domain=domain,
        ordered=found.ordered or name in _KIND_NAMES.values() or name in ("varchar", "cidr"),
        **_modifiers(name, modifier),
    )


def _modifiers(name: str, modifier: int) -> dict[str, Any]:
    """What a type modifier means; -1 is none. See `numeric_typmod_*` and `anytime_typmod_*` in PostgreSQL's sources."""
    if modifier < 0:
        return {}
    match name:
        case "varchar" | "bpchar":
            return {"length": modifier - 4}
        case "bit" | "varbit":
            return {"length": modifier}
        case "numeric":
            scale = (modifier - 4) & 0x7FF
            return {"precision": ((modifier - 4) >> 16) & 0xFFFF, "scale": scale - 0x800 if scale & 0x400 else scale}
        case "timestamp" | "timestamptz" | "time" | "timetz":
            return {"second_digits": modifier}
        case "interval" if modifier & 0xFFFF != 0xFFFF:
            return {"second_digits": modifier & 0xFFFF}
        case _:
            return {}
