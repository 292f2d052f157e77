"""What a request asks, as values: conditions as written, filters as resolved, and the shapes that SQL is compiled for.

A *shape* is everything that the SQL text depends on; the values stand apart, in the order in which the shape names them.
Two requests of one shape share one statement.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from gateway.catalog.model import SortKey

# --- as written --------------------------------------------------------------------------------------------------------


class Condition(msgspec.Struct, frozen=True):
    """One comparison as a dialect read it. `value` is text where `typed` is False, else a JSON value.

    `parameter` is what the caller wrote, to name it in an error: `price[gte]`, `filter`.
    """

    parameter: str
    name: str
    operator: str
    value: Any
    typed: bool = False


class Group(msgspec.Struct, frozen=True):
    """`and`, `or`, `not` as written; `not` has one item."""

    kind: Literal["and", "or", "not"]
    items: tuple[Written, ...]


Written = Condition | Group


class ListRequest(msgspec.Struct, frozen=True):
    """A list request as written. Each option is the parameter's text, or None where it was not sent."""

    conditions: tuple[Condition, ...] = ()
    filter: str | None = None
    sort: str | None = None
    fields: str | None = None
    page: str | None = None
    limit: str | None = None
    cursor: str | None = None
    count: str | None = None


# --- as resolved -------------------------------------------------------------------------------------------------------


class Comparison(msgspec.Struct, frozen=True, cache_hash=True, tag=True):
    """`field operator`, without its values. `path` says how a JSON path below the field is read; the path is a value too,
    the first one."""

    field: str
    operator: str
    path: Literal["", "text", "number"] = ""


class And(msgspec.Struct, frozen=True, cache_hash=True, tag=True):
    items: tuple[Filter, ...]


class Or(msgspec.Struct, frozen=True, cache_hash=True, tag=True):
    items: tuple[Filter, ...]


class Not(msgspec.Struct, frozen=True, cache_hash=True, tag=True):
    item: Filter


Filter = Comparison | And | Or | Not

Values = tuple[Any, ...]
"""Wire values, in the order of the shape. An element is a scalar or, for a list of values, a list."""


class Bound(msgspec.Struct, frozen=True):
    """A filter with its values, such as a row rule after the caller's claims were put in."""

    filter: Filter
    values: Values


States = tuple[int, ...]
"""Numbers of the states of a row in one of which a write wants to find it. None, where it stands for them: in any."""


class Grant(msgspec.Struct, frozen=True):
    """What this caller may do in one operation on one resource. None means no limit.

    `rows` are those that the operation reaches; what a create or patch leaves behind must be among them too. An answer shows
    `read_fields` of a row that is among `seen_rows`, and nothing of one unless `readable`. `set` are the fields that the
    gateway writes itself, with their wire values; they are not among `write_fields`.
    """

    name: str = "everything"
    readable: bool = True
    read_fields: frozenset[str] | None = None
    write_fields: frozenset[str] | None = None
    rows: Bound | None = None
    seen_rows: Bound | None = None
    set: tuple[tuple[str, Any], ...] = ()


EVERYTHING = Grant()

Count = Literal["none", "exact", "estimated"]


class ListShape(msgspec.Struct, frozen=True, cache_hash=True):
    """A list's SQL. `after` is None without a cursor, else tells for each sort key whether the cursor's value is null.

    `keys_beside` asks for the sort keys in a second column, for when the row's JSON does not carry them exactly.
    `limited` says that the caller chose the limit; the resource's own stands in the SQL, where the planner can see it and
    need not plan anew each time. Values: the filter's, the cursor's (those that are not null), the limit if `limited`, the
    offset if there is one.
    """

    resource: str
    fields: tuple[str, ...]
    where: Filter | None
    sort: tuple[SortKey, ...]
    after: tuple[bool, ...] | None = None
    backward: bool = False
    limited: bool = False
    offset: bool = False
    keys_beside: bool = False
    counted: bool = False


class ListPlan(msgspec.Struct, frozen=True):
    """One list request, ready to compile and run. `limit` is in rows; the statement asks for one more, to know if there is.

    `page` is None when a cursor leads. `fingerprint` binds cursors to this resource, sort and filter.
    """

    shape: ListShape
    values: Values
    limit: int
    page: int | None
    count: Count
    fingerprint: bytes


class GetShape(msgspec.Struct, frozen=True, cache_hash=True):
    """One row by its key. Values: the key's parts, then the row rule's."""

    resource: str
    fields: tuple[str, ...]
    where: Filter | None = None


class Merge(msgspec.Struct, frozen=True):
    """How a JSON column is merged (RFC 7396): at each object, keys to drop, then members to set, then objects to merge into.

    Values: the keys to drop (a list), the members to set (JSON text), then for each nested object its key and its own values.
    """

    nested: tuple[Merge, ...]


class Assignment(msgspec.Struct, frozen=True):
    """One field that a write sets; `merge` where the value is merged into what is stored."""

    field: str
    merge: Merge | None = None


class WriteShape(msgspec.Struct, frozen=True, cache_hash=True):
    """A create, patch or delete. `fields` are those of the answer; without any the answer shows nothing of the row.

    `where` holds of the row before the write, `check` of the row after it, or nothing is written; the answer shows the row
    where `seen` holds of it. With `conditional` the row must be in one of the given states (`If-Match`). Values: one for each
    assignment (a merge's own), the key's parts, those of `where`, the list of states if `conditional`, those of the others.
    `once` has it keep its answer under an Idempotency-Key; then the lock, the id, the fingerprint and the view come first.
    """

    operation: Literal["create", "patch", "delete"]
    resource: str
    assigned: tuple[Assignment, ...]
    fields: tuple[str, ...]
    where: Filter | None = None
    check: Filter | None = None
    seen: Filter | None = None
    conditional: bool = False
    once: bool = False


class GetPlan(msgspec.Struct, frozen=True):
    """One get."""

    shape: GetShape
    values: Values


class WritePlan(msgspec.Struct, frozen=True):
    """One create, patch or delete."""

    shape: WriteShape
    values: Values
