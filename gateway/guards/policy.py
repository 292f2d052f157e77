"""The `access` part of a definition, held against its resource: its faults, what it allows as a table, and what to beware of.

Every name, value and claim in it must make sense: `grants` stands on definitions that have passed `check_access`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

from gateway.catalog.build import as_exact
from gateway.catalog.model import Field, Resource
from gateway.catalog.types import BadValue
from gateway.definitions.model import OPERATIONS, Fault, Operation, Path, RoleDefinition, RuleDefinition, Source
from gateway.errors import ValidationFailed, did_you_mean
from gateway.query.ast import Condition, Written
from gateway.query.plan import Deferred, resolve_filter
from gateway.query.syntax.json import parse_filter

CLAIM = re.compile(r"\$(sub|claims\.[^\s$]+)")
ANONYMOUS = "anonymous"
"""The role that every caller holds, with a token or without one."""
ADMIN_ALONE: Mapping[str, RoleDefinition] = {"admin": RoleDefinition(*(RuleDefinition() for _ in OPERATIONS))}
"""What a definition without `access` means."""
STANDARD_CLAIMS = frozenset(
    [
        *("iss", "sub", "aud", "exp", "nbf", "iat", "jti"),
        *("client_id", "scope", "roles", "groups", "entitlements", "auth_time", "acr", "amr", "azp", "sid"),
        *("name", "given_name", "family_name", "middle_name", "nickname", "preferred_username", "profile", "picture", "website"),
        *("email", "email_verified", "gender", "birthdate", "zoneinfo", "locale", "phone_number", "phone_number_verified"),
        *("address", "updated_at"),
    ]
)
"""RFC 7519, 4.1; RFC 9068, 2.2 and OpenID Connect Core, 2; OpenID Connect Core, 5.1."""


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


# --- what it allows, for a person to read -------------------------------------------------------------------------------


class AccessRow(msgspec.Struct, frozen=True):
    """What one role may do in one operation, as written. `rows` and `fields` None: all of them; `set` None: nothing is set."""

    version: str
    resource: str
    role: str
    operation: Operation
    rows: Mapping[str, Any] | None
    fields: list[str] | None
    set: Mapping[str, Any] | None


def access_table(resource: Resource) -> Iterator[AccessRow]:
    """Every operation that any role may do here, strongest role first. What is not in it is refused."""
    for role, operation, rule in _rules(resource):
        yield AccessRow(resource.version, resource.name, role, operation, rule.rows, rule.fields, rule.set)


def access_claims(resource: Resource) -> Iterator[tuple[str, Operation, str, str]]:
    """(role, operation, claim, field) wherever a rule compares a field with a claim or sets it to one: `$sub`, `$claims.org`."""
    for role, operation, rule in _rules(resource):
        for condition in () if rule.rows is None else _conditions(parse_filter(as_exact(rule.rows), "rows")):
            if condition.name in resource.fields:
                yield from (
                    (role, operation, value, condition.name) for _, value in _leaves(condition.value, ()) if is_claim(value)
                )
        yield from ((role, operation, value, name) for name, value in (rule.set or {}).items() if is_claim(value))


def _rules(resource: Resource) -> Iterator[tuple[str, Operation, RuleDefinition]]:
    access = resource.definition.access
    for role, definition in (ADMIN_ALONE if access is None else access).items():
        for operation in OPERATIONS:
            rule: RuleDefinition | None = getattr(definition, operation)
            if rule is not None and operation in resource.operations:
                yield role, operation, rule


def _conditions(written: Written) -> Iterator[Condition]:
    if isinstance(written, Condition):
        yield written
    else:
        for item in written.items:
            yield from _conditions(item)


def _field_name(resource: Resource, condition: Condition) -> str:
    """The field that a condition is on; one whose own name has dots comes before a JSON path below another."""
    return condition.name if condition.name in resource.fields else condition.name.partition(".")[0]


# --- what to beware of ---------------------------------------------------------------------------------------------------


def access_warnings(source: Source, resource: Resource, known_claims: Collection[str] = STANDARD_CLAIMS) -> Iterator[Fault]:
    """What makes sense, and may still not be meant: everybody may write; a read rule that no index serves; an unknown claim.

    `known_claims` are the names of those that tokens are known to carry. A name with dots counts as known with its first part.
    The definition has passed `check_access`.
    """
    for role, operation, rule in _rules(resource):
        path: Path = ("access", role, operation)
        if role == ANONYMOUS and operation != "read" and rule.rows is None:
            yield source.fault(path, f"everybody may {operation} here, any row and without a token")
        if operation == "read":
            yield from _check_indexes(source, resource, rule, path)
        yield from _check_claims(source, rule, path, known_claims)


def _check_indexes(source: Source, resource: Resource, rule: RuleDefinition, path: Path) -> Iterator[Fault]:
    """Of reads alone: a write finds its one row by the key. Of a view no index is known."""
    if rule.rows is None or resource.table.is_view:
        return
    leading = {columns[0] for columns in resource.table.indexes if columns}
    names = list(dict.fromkeys(_unserved(resource, parse_filter(as_exact(rule.rows), "rows"), leading)))
    if names:
        which = " or ".join(f'"{name}"' for name in names)
        yield source.fault(
            (*path, "rows", names[0]), f"rows: no index leads with {which}; a list may pass over many rows to find those it shows"
        )


def _unserved(resource: Resource, written: Written, leading: Collection[str]) -> list[str]:
    """The fields of which an index would have to lead with one; none where an index narrows the rows down already."""
    if isinstance(written, Condition):
        name = _field_name(resource, written)
        return [] if resource.fields[name].column in leading else [name]
    parts = [_unserved(resource, item, leading) for item in written.items]
    if written.kind == "and" and not all(parts):
        return []
    return [name for part in parts for name in part]


def _check_claims(source: Source, rule: RuleDefinition, path: Path, known: Collection[str]) -> Iterator[Fault]:
    for part in ("rows", "set"):
        for place, value in _leaves(getattr(rule, part) or {}, (*path, part)):
            if not is_claim(value) or value == "$sub":
                continue
            name = value.removeprefix("$claims.")
            if name not in known and name.partition(".")[0] not in known:
                yield source.fault(
                    place,
                    f'no token is known to carry the claim "{name}", and without it this denies.{did_you_mean(name, known)}',
                )
