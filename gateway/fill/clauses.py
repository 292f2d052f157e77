"""What PostgreSQL is asked about each candidate row, as SQL conditions over the candidates `c`. Pure.

CHECKs and the constraints of domains as they are, the bounds of the partitions, keys that share columns, and the YAML's bounds.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.catalog.model import Bounds
from gateway.fill.expressions import names_read, replace_names
from gateway.fill.facts import ColumnFacts, TableFacts, Unique, quote
from gateway.fill.keys import KeyPool
from gateway.fill.patterns import is_readable
from gateway.fill.plan import Plan


class Clause(msgspec.Struct, frozen=True):
    """One thing that PostgreSQL checks of a candidate: who asks it, in words, the SQL, and the columns that it reads."""

    label: str
    sql: str
    columns: tuple[str, ...]


def clauses_of(facts: TableFacts, plan: Plan, bounds: Mapping[str, Bounds]) -> tuple[Clause, ...]:
    """Everything that a candidate row must satisfy, apart from its keys being new."""
    supplied = {column.name: column for column in plan.columns}
    found = [_check_clause(facts, plan, check.name, check.expression) for check in facts.checks]
    found += [clause for column in plan.columns for clause in _domain_clauses(column)]
    if facts.partitions:
        whole = " OR ".join(f"({condition})" for condition in facts.partitions)
        found.append(_check_clause(facts, plan, f"the partitions of {facts.table.name}", whole))
    found += [_key_clause(pool) for pool in plan.guarded]
    found += [clause for name, bound in bounds.items() if name in supplied for clause in _bound_clauses(supplied[name], bound)]
    derived = {derivation.column for derivation in plan.derivations}
    found += [
        Clause(f"NOT NULL of {name}", f"{quote(name)} IS NOT NULL", (name,))
        for name, column in supplied.items()
        if column.not_null and (name in derived or any(name in pool.foreign_key.columns for pool in plan.guarded))
    ]
    return tuple(clause for clause in found if clause is not None)


def _check_clause(facts: TableFacts, plan: Plan, name: str, expression: str) -> Clause | None:
    """The CHECK over a candidate, with generated columns replaced by what they are generated from; None where it cannot be."""
    generations = {column.name: column.generation for column in facts.columns if column.generation}
    sql = replace_names(expression, lambda word: f"({generations[word]})" if word in generations else None)
    read = tuple(word for word in names_read(sql) if facts.table.column(word) is not None)
    if set(read) & (set(plan.left) - generations.keys()):
        return None
    return Clause(name, f"({sql}) IS NOT FALSE", read)


def _domain_clauses(column: ColumnFacts) -> list[Clause]:
    name = quote(column.name)
    found = [
        Clause(f"{check.name} of {column.name}", f"({_about(check.expression, name)}) IS NOT FALSE", (column.name,))
        for check in column.type.checks
    ]
    element = column.type.element
    if column.type.name == "array" and element is not None:
        found += [
            Clause(
                f"{check.name} of {column.name}",
                f"NOT EXISTS (SELECT FROM unnest({name}) AS e(element) WHERE NOT ({_about(check.expression, 'e.element')}))",
                (column.name,),
            )
            for check in element.checks
        ]
    return found


def _about(expression: str, name: str) -> str:
    return replace_names(expression, lambda word: name if word == "value" else None)


def _key_clause(pool: KeyPool) -> Clause:
    key = pool.foreign_key
    pairs = zip(key.columns, key.referred, strict=True)
    same = " AND ".join(f"p.{quote(referred)} = c.{quote(column)}" for column, referred in pairs)
    absent = " OR ".join(f"c.{quote(column)} IS NULL" for column in key.columns)
    parent = f"{quote(key.schema)}.{quote(key.table)}"
    return Clause(key.name, f"({absent}) OR EXISTS (SELECT FROM {parent} AS p WHERE {same})", key.columns)


def _bound_clauses(column: ColumnFacts, bounds: Bounds) -> list[Clause]:
    """The YAML's bounds: the database would take the row, but no client could have sent it."""
    name = quote(column.name)
    labels = ", ".join(map(literal, bounds.enum))
    tests = {
        "minimum": "" if bounds.minimum is None else f"{name} >= {literal(bounds.minimum)}",
        "maximum": "" if bounds.maximum is None else f"{name} <= {literal(bounds.maximum)}",
        "min_length": "" if bounds.min_length is None else f"char_length({name}) >= {bounds.min_length}",
        "max_length": "" if bounds.max_length is None else f"char_length({name}) <= {bounds.max_length}",
        "enum": f"{name} = ANY (ARRAY[{labels}]::{column.type.sql}[])" if bounds.enum else "",
        "pattern": f"{name} ~ {literal(bounds.pattern)}" if bounds.pattern and is_readable(bounds.pattern) else "",
    }
    return [
        Clause(f"the {key} of {column.name} in its resource file", f"({sql}) IS NOT FALSE", (column.name,))
        for key, sql in tests.items()
        if sql
    ]


def literal(value: object) -> str:
    """The value's text as an SQL literal."""
    return "'" + str(value).replace("'", "''") + "'"


def not_there(facts: TableFacts, unique: Unique) -> str:
    """That no row of the table has the same key."""
    equals = "IS NOT DISTINCT FROM" if unique.nulls_equal else "="
    same = " AND ".join(f"t.{quote(column)} {equals} c.{quote(column)}" for column in unique.columns)
    return f"NOT EXISTS (SELECT FROM {facts.sql_name} AS t WHERE {same})"
