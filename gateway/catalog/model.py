"""What is true: tables as the database has them, and resources as the gateway serves them. Frozen, and free of I/O.

*Column* and *table* are the database's words, *field* and *resource* the public ones: a resource is a definition held
against its table. A `Catalog` is one consistent picture of all of them; a reload builds another and swaps it in whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from gateway.catalog.types import ColumnType
from gateway.definitions.model import ResourceDefinition


class Column(msgspec.Struct, frozen=True):
    """A column as reflected. `filled`: the database gives a value where none is sent; `generated`: it takes none."""

    name: str
    type: ColumnType
    nullable: bool
    filled: bool = False
    generated: bool = False
    comment: str = ""


ConstraintKind = Literal["primary", "unique", "foreign", "check", "exclusion"]


class Constraint(msgspec.Struct, frozen=True):
    """A constraint or unique index. `columns` may be empty (an expression that names none). A partition's are its parent's.

    `expression` is a CHECK's SQL, or "" elsewhere; `partial` marks one that covers some rows only: a unique index's
    with a condition, or a partition's own.
    """

    name: str
    kind: ConstraintKind
    columns: tuple[str, ...]
    expression: str = ""
    partial: bool = False


class ForeignKey(msgspec.Struct, frozen=True):
    """Columns of a table that refer to columns of another, pairwise."""

    name: str
    columns: tuple[str, ...]
    schema: str
    table: str
    referred: tuple[str, ...]


Versioning = Literal["heap", "partitioned", "none"]
"""How the database itself tells one state of a row from another: a heap by who wrote the row and where it lies, partitions by
who wrote it alone (what was just written does not tell where it went), views and foreign tables not at all."""


class Table(msgspec.Struct, frozen=True):
    """A table, partitioned table, view or foreign table as reflected. `indexes` are the columns that each index leads with.

    `seed` is a number of this table's own, so that states of rows of different tables are told by different numbers.
    `inserts_together` says that rows which one statement inserts come out as they would one by one.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    indexes: tuple[tuple[str, ...], ...] = ()
    is_view: bool = False
    comment: str = ""
    versioning: Versioning = "heap"
    seed: int = 0
    inserts_together: bool = False

    def column(self, name: str) -> Column | None:
        """The column of that name, or None."""
        return next((column for column in self.columns if column.name == name), None)

    def is_unique(self, columns: tuple[str, ...]) -> bool:
        """Whether at most one row can have given values of `columns`."""
        wanted = set(columns)
        return any(
            set(constraint.columns) <= wanted
            for constraint in self.constraints
            if constraint.kind in ("primary", "unique")
            and constraint.columns
            and not constraint.expression
            and not constraint.partial
        )


class Bounds(msgspec.Struct, frozen=True):
    """What YAML asks beyond the database; both ends are inclusive, None leaves an end open. `enum` () means any value."""

    minimum: int | float | str | None = None
    maximum: int | float | str | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    enum: tuple[str | int, ...] = ()


class Field(msgspec.Struct, frozen=True):
    """One public field. `required`: a create must send it; `readonly`: no write may; `hidden`: it does not exist for callers."""

    name: str
    column: str
    type: ColumnType
    nullable: bool = True
    required: bool = False
    readonly: bool = False
    hidden: bool = False
    filterable: bool = True
    description: str = ""
    bounds: Bounds = Bounds()


class SortKey(msgspec.Struct, frozen=True):
    """One term of an order. PostgreSQL's default is nulls last when ascending, first when descending."""

    field: str
    descending: bool = False
    nulls_first: bool = False

    def __str__(self) -> str:
        nulls = "" if self.nulls_first == self.descending else (":nullsfirst" if self.nulls_first else ":nullslast")
        return f"{'-' if self.descending else ''}{self.field}{nulls}"


class Relation(msgspec.Struct, frozen=True):
    """`version` and `to` say which resource is related; `pairs` are (this resource's column, the other's column)."""

    name: str
    version: str
    to: str
    many: bool
    pairs: tuple[tuple[str, str], ...]


class Resource(msgspec.Struct, frozen=True, eq=False):
    """A resource that can be served. `fields` holds every field by its name, in the table's order; `visible` those that
    are not hidden.

    `sort` is the default order, ending with the key; `limit_default` and `limit_max` are rows. `timeout_seconds` and
    `cache_ttl_seconds` are None where the setting decides. `version_field` changes at each write, where the author named one.
    """

    name: str
    version: str
    table: Table
    key: tuple[str, ...]
    fields: Mapping[str, Field]
    relations: Mapping[str, Relation]
    sort: tuple[SortKey, ...]
    limit_default: int
    limit_max: int
    definition: ResourceDefinition
    description: str = ""
    writable: bool = True
    timeout_seconds: float | None = None
    cache_ttl_seconds: float | None = None
    visible: Mapping[str, Field] = {}
    version_field: str | None = None
    require_if_match: bool = False
    id: str = ""
    """`v1/products`: names the resource within a catalog. It follows from the name and the version."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "id", f"{self.version}/{self.name}")

    @property
    def is_versioned(self) -> bool:
        """Whether a row's states can be told apart, so that `If-Match` can be held against one."""
        return self.version_field is not None or self.table.versioning != "none"

    def field_of(self, column: str) -> Field | None:
        """The field that shows `column`, or None."""
        return next((field for field in self.fields.values() if field.column == column), None)

    @property
    def operations(self) -> tuple[str, ...]:
        """What a caller may ever ask for here, in the words of `definitions.model.OPERATIONS`."""
        return ("read", "create", "patch", "delete") if self.writable else ("read",)


class Catalog(msgspec.Struct, frozen=True, eq=False):
    """All resources by (version, name), and why each of the others is not served (a sentence for operators)."""

    resources: Mapping[tuple[str, str], Resource]
    broken: Mapping[tuple[str, str], str]
    is_built: bool = True
    """False while the database has not been seen yet: then nobody can say which resources there are."""

    @property
    def versions(self) -> tuple[str, ...]:
        """The API versions that have a resource, in order; `v1` always."""
        return tuple(sorted({"v1", *(version for version, _ in (*self.resources, *self.broken))}))
