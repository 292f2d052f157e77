"""The `access` part of a definition, held against its resource: every name, value and claim in it must make sense.

Enforcement stands on the same checks and comes with tokens; until then a faulty rule is told, never skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gateway.catalog.build import as_exact
from gateway.catalog.model import Field, Resource
from gateway.catalog.types import BadValue
from gateway.definitions.model import OPERATIONS, Fault, Path, RuleDefinition, Source
from gateway.errors import ValidationFailed, did_you_mean
from gateway.query.plan import Deferred, resolve_filter
from gateway.query.syntax.json import parse_filter

CLAIM = re.compile(r"\$(sub|claims\.[^\s$]+)")


def is_claim(value: Any) -> bool:
    """Whether a rule's value is a claim's name, which the caller's token gives: `$sub` or `$claims.NAME`."""
    return isinstance(value, str) and CLAIM.fullmatch(value) is not None


def _means_a_claim(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("$")


def check_access(source: Source, resource: Resource) -> Iterator[Fault]:
    """Every fault of the definition's access rules, with its line."""
    for role, definition in (source.definition.access or {}).items():
        for operation in OPERATIONS:
            rule: RuleDefinition | None = getattr(definition, operation)
            path: Path = ("access", role, operation)
            if rule is None:
                continue
            if operation not in resource.operations:
                yield source.fault(path, f"{operation} is not possible: this resource can only be read")
                continue
            yield from _check_rows(source, resource, rule, path)
            yield from _check_fields(source, resource, rule, path, reading=operation == "read")
            yield from _check_set(source, resource, rule, path)


def _check_rows(source: Source, resource: Resource, rule: RuleDefinition, path: Path) -> Iterator[Fault]:
    if rule.rows is None:
        return
    at = (*path, "rows")
    for place, value in _leaves(rule.rows, at):
        if _means_a_claim(value) and not is_claim(value):
            yield source.fault(place, f'"{value}" is no claim: write $sub or $claims.NAME')
    fields = {name: msgspec.structs.replace(field, filterable=True) for name, field in resource.fields.items()}
    try:
        written = parse_filter(as_exact(rule.rows), "rows")
    except ValidationFailed as fault:
        for problem in fault.problems:
            yield source.fault(at, f"rows: {problem.message}")
        return
    _, values, problems = resolve_filter(fields, written, _means_a_claim)  # what is no claim is told already
    for problem in problems:
        yield source.fault(_nearest(source, at, problem.message), f"rows: {problem.message}")
    claims = [place for place, value in _leaves(rule.rows, at) if _means_a_claim(value)]
    if not problems and _waiting(values) < len(claims):
        yield source.fault(
            claims[0], "rows: a claim stands for a whole value, or for one of a list's (in, nin, between, any, all)"
        )


def _waiting(value: Any) -> int:
    """How many of a rule's values wait for a claim."""
    match value:
        case Deferred():
            return 1
        case list() | tuple():
            return sum(map(_waiting, value))
        case _:
            return 0


def _nearest(source: Source, at: Path, message: str) -> Path:
    """The line of the member that a message's first quoted name speaks of, where the file has one right below `rows`."""
    named = re.match(r'"([^"]+)"', message)
    below = (*at, named[1]) if named else at
    return below if below in source.lines else at


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    match value:
        case dict():
            for key, member in value.items():
                yield from _leaves(member, (*path, key))
        case list():
            for position, member in enumerate(value):
                yield from _leaves(member, (*path, position))
        case _:
            yield path, value


def _check_fields(source: Source, resource: Resource, rule: RuleDefinition, path: Path, reading: bool) -> Iterator[Fault]:
    known: Mapping[str, Field] = resource.visible
    for position, name in enumerate(rule.fields or ()):
        at = (*path, "fields", position)
        if name not in known:
            yield source.fault(at, f'there is no visible field "{name}".{did_you_mean(name, known)}')
        elif not reading and known[name].readonly:
            yield source.fault(at, f'"{name}" is read-only: no role can send it')
    if reading and rule.fields is not None:
        for name in resource.key:
            if name not in rule.fields:
                yield source.fault((*path, "fields"), f'the key "{name}" must be among them: lists, cursors and Location show it')


def _check_set(source: Source, resource: Resource, rule: RuleDefinition, path: Path) -> Iterator[Fault]:
    for name, value in (rule.set or {}).items():
        at = (*path, "set", name)
        field = resource.fields.get(name)
        if field is None:
            yield source.fault(at, f'there is no field "{name}".{did_you_mean(name, resource.fields)}')
        elif _is_generated(resource, field):
            yield source.fault(at, f'"{name}" is generated by the database: nobody can set it')
        elif _means_a_claim(value):
            if not is_claim(value):
                yield source.fault(at, f'"{value}" is no claim: write $sub or $claims.NAME')
        elif value is None:
            if not field.nullable:
                yield source.fault(at, f'"{name}" takes no null')
        elif any(_means_a_claim(leaf) for _, leaf in _leaves(value, at)):
            yield source.fault(at, f'"{name}": a claim stands for a whole value, not within one')
        else:
            try:
                field.type.check_fit(field.type.load(as_exact(value)))
            except BadValue as fault:
                yield source.fault(at, f'"{name}" {fault}')


def _is_generated(resource: Resource, field: Field) -> bool:
    column = resource.table.column(field.column)
    return column is not None and column.generated
