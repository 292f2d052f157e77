"""Definitions held against tables: what comes out is a catalog and every mismatch, each with its file and line.

A resource with a fault is left out and told in `Catalog.broken`; the others are served. Nothing here touches a database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from gateway.catalog.model import (
    Bounds,
    Catalog,
    Column,
    Field,
    ForeignKey,
    Relation,
    Resource,
    SortKey,
    Table,
)
from gateway.catalog.reflect import Reflection, TableName
from gateway.catalog.types import BadValue, ColumnType, Family
from gateway.definitions.model import Fault, FieldDefinition, Loaded, Path, Place, RelationDefinition, Source
from gateway.errors import did_you_mean

IDENTIFIER_BYTES = 63  # PostgreSQL's NAMEDATALEN - 1: a longer alias would be cut, and the JSON key with it
_QUOTED = re.compile(r'(?:"((?:[^"]|"")+)"\.)?"((?:[^"]|"")+)"')


class _Problem(Exception):
    """One mismatch at a path of the file; `_build_resource` collects them."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


def table_name(source: Source) -> TableName:
    """(schema or None, table) that the definition stands for. Names that have a dot themselves are quoted as in SQL:
    `table: '"my.schema"."my.table"'`."""
    written = source.definition.table or source.name
    if quoted := _QUOTED.fullmatch(written):
        return (quoted[1].replace('""', '"') if quoted[1] else None), quoted[2].replace('""', '"')
    schema, dot, table = written.rpartition(".")
    return (schema if dot else None), table


def build(loaded: Loaded, reflection: Reflection) -> tuple[Catalog, tuple[Fault, ...]]:
    """The catalog of all sound resources, and all faults: the loader's and those found here, in order of file and line."""
    resources: dict[Place, Resource] = {}
    broken = dict.fromkeys(loaded.broken, "its file has faults; see `gateway check`")
    faults = list(loaded.faults)
    tables: dict[Place, Table | None] = dict.fromkeys(loaded.broken)
    tables |= {source.place: reflection.tables.get(table_name(source)) for source in loaded.sources}
    for source in loaded.sources:
        found: list[_Problem] = []
        resource = _build_resource(source, reflection, tables, found)
        place = source.place
        if resource is not None and not found:
            resources[place] = resource
            continue
        faults += [source.fault(problem.path, problem.message) for problem in found]
        broken[place] = "its file does not fit the database; see `gateway check`"
    return Catalog(resources, broken), tuple(sorted(faults))


def _build_resource(
    source: Source,
    reflection: Reflection,
    tables: Mapping[Place, Table | None],
    found: list[_Problem],
) -> Resource | None:
    definition, table = source.definition, tables[source.place]
    if table is None:
        found.append(_missing_table(source, reflection))
        return None
    fields = _fields(source, table, found)
    key = _key(source, table, fields, found)
    filterable = _filterable(source, fields, found)
    if filterable is not None:
        fields = {
            name: msgspec.structs.replace(field, filterable=field.filterable and name in filterable)
            for name, field in fields.items()
        }
    sort = _sort(source, fields, key, found)
    relations = _relations(source, table, tables, found)
    version_field = _version_field(source, table, fields, found)
    if not key:
        return None
    return Resource(
        name=source.name,
        version=definition.version,
        table=table,
        key=key,
        fields=fields,
        relations=relations,
        sort=sort,
        limit_default=definition.list.limit.default,
        limit_max=definition.list.limit.max,
        definition=definition,
        description=definition.description or table.comment,
        writable=not table.is_view,
        timeout_seconds=definition.timeout,
        cache_ttl_seconds=definition.cache.ttl,
        visible={name: field for name, field in fields.items() if not field.hidden},
        version_field=version_field,
        require_if_match=definition.require_if_match,
    )


def _missing_table(source: Source, reflection: Reflection) -> _Problem:
    wanted = source.definition.table or source.name
    hint = did_you_mean(wanted, reflection.known)
    return _Problem(("table",), f'the database has no table or view "{wanted}".{hint}')


# --- fields ------------------------------------------------------------------------------------------------------------


def _fields(source: Source, table: Table, found: list[_Problem]) -> dict[str, Field]:
    """Every column's field, in the table's order: as its author describes it, or by the column's own name."""
    columns = {column.name: column for column in table.columns}
    described: dict[str, tuple[str, FieldDefinition]] = {}
    for name, definition in source.definition.fields.items():
        path: Path = ("fields", name)
        shown = definition.column or name
        if shown not in columns:
            at = (*path, "column") if definition.column else path
            found.append(_Problem(at, f'the table has no column "{shown}".{did_you_mean(shown, columns)}'))
        elif shown in described:
            found.append(_Problem(path, f'column "{shown}" is already the field "{described[shown][0]}"'))
        else:
            described[shown] = (name, definition)
    fields: dict[str, Field] = {}
    for column in table.columns:
        name, definition = described.get(column.name, (column.name, FieldDefinition()))
        if name in fields:
            found.append(_Problem(("fields", name), f'two columns would be the field "{name}"'))
        elif len(name.encode()) > IDENTIFIER_BYTES:
            found.append(_Problem(("fields", name), f"a field's name has at most {IDENTIFIER_BYTES} bytes"))
        else:
            fields[name] = _field(name, column, definition, found)
    return fields


def _field(name: str, column: Column, definition: FieldDefinition, found: list[_Problem]) -> Field:
    path: Path = ("fields", name)
    column_type = column.type
    if definition.json is not None:
        if column_type.family is Family.NUMBER:
            column_type = msgspec.structs.replace(column_type, json=definition.json)
        else:
            found.append(_Problem((*path, "json"), "json: applies to numbers"))
    return Field(
        name=name,
        column=column.name,
        type=column_type,
        nullable=column.nullable,
        required=not (column.nullable or column.filled or definition.readonly or definition.hidden),
        readonly=definition.readonly or column.generated,
        hidden=definition.hidden,
        filterable=not definition.hidden,
        description=definition.description or column.comment,
        bounds=_bounds(path, column_type, definition, found),
    )


def _bounds(path: Path, column_type: ColumnType, definition: FieldDefinition, found: list[_Problem]) -> Bounds:
    """YAML's bounds, each of a kind that the type has. Their values must be values of the type."""
    family = column_type.family
    applies = {
        "minimum": (Family.NUMBER,),
        "maximum": (Family.NUMBER,),
        "min_length": (Family.TEXT,),
        "max_length": (Family.TEXT,),
        "pattern": (Family.TEXT,),
        "enum": (Family.TEXT, Family.NUMBER, Family.ENUM),
    }
    for bound, families in applies.items():
        if getattr(definition, bound) is not None and family not in families:
            kinds = " and ".join(str(kind) for kind in families)
            found.append(_Problem((*path, bound), f"{bound}: applies to {kinds} columns; this one is {column_type.sql}"))
    values = [("minimum", definition.minimum), ("maximum", definition.maximum)]
    values += [("enum", value) for value in definition.enum or ()]
    for bound, value in values:
        if value is not None and family in applies[bound]:
            try:
                column_type.check_fit(column_type.load(as_exact(value)))
            except BadValue as fault:
                found.append(_Problem((*path, bound), f"{bound}: {value!r} is not a value of the column, which {fault}"))
    return Bounds(
        definition.minimum,
        definition.maximum,
        definition.min_length,
        definition.max_length,
        definition.pattern,
        tuple(definition.enum or ()),
    )


def as_exact(value: Any) -> Any:
    """A YAML value with each float as the digits that its author wrote, as JSON numbers are read: `Decimal`."""
    match value:
        case dict():
            return {name: as_exact(member) for name, member in value.items()}
        case list():
            return [as_exact(member) for member in value]
    return Decimal(repr(value)) if isinstance(value, float) else value


def _filterable(source: Source, fields: Mapping[str, Field], found: list[_Problem]) -> set[str] | None:
    names = source.definition.list.filter
    if names is None:
        return None
    for position, name in enumerate(names):
        if name not in fields or fields[name].hidden:
            found.append(_Problem(("list", "filter", position), _no_field(name, fields)))
    return set(names)


def _no_field(name: str, fields: Mapping[str, Field]) -> str:
    visible = [field.name for field in fields.values() if not field.hidden]
    return f'there is no visible field "{name}".{did_you_mean(name, visible)}'


# --- key and order -----------------------------------------------------------------------------------------------------


def _key(source: Source, table: Table, fields: Mapping[str, Field], found: list[_Problem]) -> tuple[str, ...]:
    by_column = {field.column: field for field in fields.values()}
    wanted = source.definition.key
    found_before = len(found)
    if wanted is None:
        if not table.primary_key:
            kind = "view" if table.is_view else "table"
            found.append(_Problem(("table",), f"the {kind} has no primary key: name its key fields with `key:`"))
            return ()
        chosen = [by_column[column] for column in table.primary_key if column in by_column]
    else:
        chosen = []
        for name in [wanted] if isinstance(wanted, str) else wanted:
            field = fields.get(name) or by_column.get(name)
            if field is None:
                found.append(_Problem(("key",), _no_field(name, fields)))
            else:
                chosen.append(field)
        if not chosen and len(found) == found_before:
            found.append(_Problem(("key",), "key: takes at least one field"))
    for field in chosen:
        if field.hidden:
            found.append(_Problem(("fields", field.name, "hidden"), f'"{field.name}" is of the key, so it cannot be hidden'))
        if field.type.array:
            found.append(_Problem(("key",), f'"{field.name}" cannot be of the key: {field.type.sql}[] is an array'))
        elif not field.type.sortable:
            found.append(_Problem(("key",), f'"{field.name}" cannot be of the key: {field.type.sql} has no order'))
    if wanted is not None and not table.is_view and len(found) == found_before:
        _check_key_is_unique(table, chosen, found)
    return tuple(field.name for field in chosen)


def _check_key_is_unique(table: Table, chosen: Iterable[Field], found: list[_Problem]) -> None:
    chosen = list(chosen)
    nullable = [field.name for field in chosen if field.nullable]
    if nullable or not table.is_unique(tuple(field.column for field in chosen)):
        found.append(_Problem(("key",), "key: needs NOT NULL columns with a unique constraint, so that it names one row"))


def _sort(source: Source, fields: Mapping[str, Field], key: tuple[str, ...], found: list[_Problem]) -> tuple[SortKey, ...]:
    terms: list[SortKey] = []
    for position, written in enumerate(source.definition.list.sort):
        term = parse_sort_key(written)
        field = fields.get(term.field)
        if field is None or field.hidden:
            found.append(_Problem(("list", "sort", position), _no_field(term.field, fields)))
        elif not field.type.sortable:
            found.append(_Problem(("list", "sort", position), f'"{term.field}" cannot be sorted by: {field.type.sql}'))
        elif any(term.field == other.field for other in terms):
            found.append(_Problem(("list", "sort", position), f'"{term.field}" is there twice'))
        else:
            terms.append(term)
    return with_key(tuple(terms), key)


def parse_sort_key(written: str) -> SortKey:
    """`[-]field[:nullsfirst|:nullslast]`. What follows a colon but is neither word belongs to the field's name."""
    name, _, nulls = written.rpartition(":")
    if nulls not in ("nullsfirst", "nullslast"):
        name, nulls = written, ""
    descending = name.startswith("-")
    return SortKey(name[descending:], descending, nulls_first=nulls == "nullsfirst" if nulls else descending)


def with_key(terms: tuple[SortKey, ...], key: tuple[str, ...]) -> tuple[SortKey, ...]:
    """`terms` and the key fields that they lack, in the last term's direction, so that one index can serve the order."""
    descending = terms[-1].descending if terms else False
    present = {term.field for term in terms}
    added = (SortKey(name, descending, nulls_first=descending) for name in key if name not in present)
    return (*terms, *added)


# --- versions ----------------------------------------------------------------------------------------------------------

VERSION_TYPES = frozenset({"int2", "int4", "int8", "timestamp", "timestamptz"})
"""Types of a column that can tell one state of a row from the next: a counter, or the time of the last write."""


def _version_field(source: Source, table: Table, fields: Mapping[str, Field], found: list[_Problem]) -> str | None:
    """The field that changes at each write, by its name or its column's; a hidden one serves too, for nobody is shown it."""
    wanted = source.definition.version_column
    if wanted is None:
        if source.definition.require_if_match and (table.is_view or table.versioning == "none"):
            found.append(_Problem(("require_if_match",), _unversioned(table)))
        return None
    field = fields.get(wanted) or next((field for field in fields.values() if field.column == wanted), None)
    if field is None:
        names = [field.column for field in fields.values()]
        found.append(_Problem(("version_column",), f'there is no field or column "{wanted}".{did_you_mean(wanted, names)}'))
        return None
    if field.type.array or field.type.name not in VERSION_TYPES:
        kind = f"{field.type.sql}[]" if field.type.array else field.type.sql
        takes = "an integer or a timestamp that changes at each write"
        found.append(_Problem(("version_column",), f'"{wanted}" cannot tell versions: it is {kind}; takes {takes}'))
    elif field.nullable and not table.is_view:
        found.append(_Problem(("version_column",), f'"{wanted}" cannot tell versions: it may be null'))
    return field.name


def _unversioned(table: Table) -> str:
    if table.is_view:
        return "require_if_match: a view takes no writes"
    return "require_if_match: the database does not tell whether a row of this table has changed; name a version_column"


# --- relations ---------------------------------------------------------------------------------------------------------


def _relations(
    source: Source,
    table: Table,
    tables: Mapping[Place, Table | None],
    found: list[_Problem],
) -> dict[str, Relation]:
    relations: dict[str, Relation] = {}
    for name, definition in source.definition.relations.items():
        path: Path = ("relations", name)
        place = _nearest(source.definition.version, definition.to, tables)
        if place is None:
            hint = did_you_mean(definition.to, {other for _, other in tables})
            found.append(_Problem((*path, "to"), f'there is no resource "{definition.to}".{hint}'))
            continue
        other = tables[place]
        if other is None:
            continue  # the other file is at fault, and says so itself
        try:
            relations[name] = Relation(name, *place, definition.many, _pairs(path, definition, table, other))
        except _Problem as problem:
            found.append(problem)
    return relations


def _nearest(version: str, name: str, places: Iterable[Place]) -> Place | None:
    """The resource that a relation of `version` means by `name`: that version's own, or else the last before it, for a resource
    that does not change has no file of each version; or else the first after it."""
    own = int(version[1:])
    distances = {place: int(place[0][1:]) - own for place in places if place[1] == name}
    return min(distances, key=lambda place: (distances[place] > 0, abs(distances[place])), default=None)


def _pairs(path: Path, definition: RelationDefinition, table: Table, other: Table) -> tuple[tuple[str, str], ...]:
    if definition.on is not None:
        return _written_pairs((*path, "on"), definition.on, table, other)
    candidates = (
        [_flip(key) for key in _between(other, table)]
        if definition.many
        else [tuple(zip(key.columns, key.referred, strict=True)) for key in _between(table, other)]
    )
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        direction = f"from {other.name} to {table.name}" if definition.many else f"from {table.name} to {other.name}"
        hint = " (is `many` right?)" if _between(*((table, other) if definition.many else (other, table))) else ""
        raise _Problem(path, f"there is no foreign key {direction}{hint}; name the columns with `on:`")
    choices = "; ".join("{" + ", ".join(f"{mine}: {theirs}" for mine, theirs in pairs) + "}" for pairs in candidates)
    raise _Problem(path, f"several foreign keys fit; say which with `on:`, one of {choices}")


def _between(table: Table, other: Table) -> list[ForeignKey]:
    return [key for key in table.foreign_keys if (key.schema, key.table) == (other.schema, other.name)]


def _flip(key: ForeignKey) -> tuple[tuple[str, str], ...]:
    return tuple(zip(key.referred, key.columns, strict=True))


def _written_pairs(path: Path, on: Mapping[str, str], table: Table, other: Table) -> tuple[tuple[str, str], ...]:
    for mine, theirs in on.items():
        for owner, column in ((table, mine), (other, theirs)):
            if owner.column(column) is None:
                hint = did_you_mean(column, [known.name for known in owner.columns])
                raise _Problem((*path, mine), f'"{owner.name}" has no column "{column}".{hint}')
    if not on:
        raise _Problem(path, "on: takes at least one pair of columns")
    return tuple(on.items())
