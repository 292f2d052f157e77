"""The operators: one row each. Parser, planner, compiler, OpenAPI, documents and tests read this table.

`sql` is a template over `{x}` (the column), `{a}` and `{b}` (the values, cast to the column's type). A null in the column
satisfies no operator but `null`, as in SQL.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal

import msgspec

from gateway.catalog.types import Family

Arity = Literal["one", "list", "pair", "flag"]
ValueKind = Literal["value", "pattern", "element"]
"""What a value is: of the column's type, a LIKE pattern, or an element of its array (a key of its JSON object)."""


class Operator(msgspec.Struct, frozen=True):
    """`families` are the column types it applies to; `on_path` whether it applies to a JSON path; `prepare` reshapes text."""

    name: str
    arity: Arity
    families: frozenset[Family]
    sql: str
    help: str
    kind: ValueKind = "value"
    on_path: bool = False
    prepare: Callable[[str], str] | None = None
    json_sql: str = ""


SCALARS = frozenset(Family) - {Family.JSON, Family.ARRAY, Family.OTHER}
COMPARABLE = SCALARS - {Family.BOOLEAN}
EQUATABLE = SCALARS | {Family.ARRAY}
TEXT = frozenset({Family.TEXT})
CONTAINERS = frozenset({Family.ARRAY, Family.JSON})
EVERY = frozenset(Family)


def escape_like(text: str) -> str:
    """`text` as a LIKE pattern that matches just itself."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        Operator("eq", "one", EQUATABLE, "{x} = {a}", "equal", on_path=True),
        Operator("ne", "one", EQUATABLE, "{x} <> {a}", "not equal", on_path=True),
        Operator("gt", "one", COMPARABLE, "{x} > {a}", "greater than", on_path=True),
        Operator("gte", "one", COMPARABLE, "{x} >= {a}", "greater than or equal", on_path=True),
        Operator("lt", "one", COMPARABLE, "{x} < {a}", "less than", on_path=True),
        Operator("lte", "one", COMPARABLE, "{x} <= {a}", "less than or equal", on_path=True),
        Operator("in", "list", SCALARS, "{x} = ANY ({a})", "equal to one of a list", on_path=True),
        Operator("nin", "list", SCALARS, "{x} <> ALL ({a})", "equal to none of a list", on_path=True),
        Operator("like", "one", TEXT, "{x} LIKE {a}", "matches a pattern: % any text, _ any character", "pattern", on_path=True),
        Operator("ilike", "one", TEXT, "{x} ILIKE {a}", "like, in any letter case", "pattern", on_path=True),
        Operator(
            "contains",
            "one",
            TEXT,
            "{x} LIKE {a}",
            "contains a text",
            "pattern",
            on_path=True,
            prepare=lambda text: f"%{escape_like(text)}%",
        ),
        Operator(
            "starts",
            "one",
            TEXT,
            "{x} LIKE {a}",
            "starts with a text",
            "pattern",
            on_path=True,
            prepare=lambda text: f"{escape_like(text)}%",
        ),
        Operator(
            "ends",
            "one",
            TEXT,
            "{x} LIKE {a}",
            "ends with a text",
            "pattern",
            on_path=True,
            prepare=lambda text: f"%{escape_like(text)}",
        ),
        Operator("null", "flag", EVERY, "{x} IS NULL", "is null (true) or is not (false)", on_path=True),
        Operator("between", "pair", COMPARABLE, "{x} BETWEEN {a} AND {b}", "between two values, both included", on_path=True),
        Operator(
            "has",
            "one",
            CONTAINERS,
            "{x} @> ARRAY[{a}]",
            "an array has the element; a JSON object the key",
            "element",
            json_sql="{x} ? {a}",
        ),
        Operator("any", "list", CONTAINERS, "{x} && {a}", "has at least one of a list", "element", json_sql="{x} ?| {a}"),
        Operator("all", "list", CONTAINERS, "{x} @> {a}", "has all of a list", "element", json_sql="{x} ?& {a}"),
    )
}
"""By name, in the order of the contract."""

NOT_NULL = Operator("notnull", "flag", EVERY, "{x} IS NOT NULL", "what null=false becomes", on_path=True)
"""Not for callers: the shape that `null=false` has."""


@cache
def operators_for(family: Family) -> tuple[Operator, ...]:
    """The operators that a field of this family takes, in the table's order."""
    return tuple(operator for operator in OPERATORS.values() if family in operator.families)


@cache
def path_operators() -> tuple[Operator, ...]:
    """The operators that a JSON path takes."""
    return tuple(operator for operator in OPERATORS.values() if operator.on_path)
