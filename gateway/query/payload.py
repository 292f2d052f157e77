"""Body bytes in, typed values out, with every fault of the body named at once.

A body is one JSON object whose members are fields. Each value is held against its column's type, length and scale, and
against YAML's bounds, before anything is sent to the database.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import cache
from typing import Any

from gateway.catalog.model import Bounds, Field, Resource
from gateway.catalog.types import BadValue, ColumnType, Family, Wire
from gateway.errors import Forbidden, Problem, ValidationFailed, did_you_mean
from gateway.query.ast import EVERYTHING, Assignment, Bound, Filter, Grant, Merge, States, Values, WritePlan, WriteShape
from gateway.query.plan import parse_key, readable_fields
from gateway.query.strict_json import BadJson, decode_json

MAX_MERGE_OBJECTS = 100
Check = Callable[[Wire], None]


def writable_fields(resource: Resource, grant: Grant = EVERYTHING) -> dict[str, Field]:
    """The fields that this caller may send, by name, in order."""
    allowed = grant.write_fields
    return {
        name: field for name, field in resource.visible.items() if not field.readonly and (allowed is None or name in allowed)
    }


def plan_create(resource: Resource, body: bytes, grant: Grant = EVERYTHING) -> WritePlan:
    """The plan of a create. Raises ValidationFailed with every problem, Forbidden for fields the grant keeps."""
    members = _members(body)
    problems: list[Problem] = []
    assigned, values = _assignments(resource, members, grant, problems)
    problems += [
        Problem(name, "is required")
        for name, field in writable_fields(resource, grant).items()
        if field.required and name not in members
    ]
    if problems:
        raise ValidationFailed("The body is not valid.", problems)
    check, check_values = _bound(grant.rows)
    seen, seen_values = _bound(_seen(grant))
    shape = WriteShape("create", resource.id, assigned, _answered(resource, grant), check=check, seen=seen)
    return WritePlan(shape, (*values, *check_values, *seen_values))


def plan_patch(
    resource: Resource,
    key: tuple[str, ...],
    body: bytes,
    merge: bool,
    grant: Grant = EVERYTHING,
    states: States | None = None,
) -> WritePlan:
    """The plan of a patch; with `merge` (RFC 7396) objects sent for JSON fields are merged into what is stored.

    Raises NotFound for a key that cannot be, ValidationFailed with every problem, Forbidden for fields the grant keeps.
    """
    key_values = parse_key(resource, key)
    members = _members(body)
    problems: list[Problem] = []
    if not members:
        raise ValidationFailed("The body is not valid.", [Problem("", "is empty; a patch changes at least one field")])
    assigned, values = _assignments(resource, members, grant, problems, merge)
    if problems:
        raise ValidationFailed("The body is not valid.", problems)
    rule, rule_values = _bound(grant.rows)
    seen, seen_values = _bound(_seen(grant))
    conditional, given = _given(states)
    shape = WriteShape(
        "patch", resource.id, assigned, _answered(resource, grant), where=rule, check=rule, seen=seen, conditional=conditional
    )
    return WritePlan(shape, (*values, *key_values, *rule_values, *given, *rule_values, *seen_values))


def plan_delete(resource: Resource, key: tuple[str, ...], grant: Grant = EVERYTHING, states: States | None = None) -> WritePlan:
    """The plan of a delete. Raises NotFound for a key that cannot be."""
    where, rule = _bound(grant.rows)
    conditional, given = _given(states)
    shape = WriteShape("delete", resource.id, (), (), where, conditional=conditional)
    return WritePlan(shape, (*parse_key(resource, key), *rule, *given))


def _given(states: States | None) -> tuple[bool, Values]:
    """Whether a write is conditional, and the value for that."""
    return (False, ()) if states is None else (True, (list(states),))


def _bound(rule: Bound | None) -> tuple[Filter | None, Values]:
    return (None, ()) if rule is None else (rule.filter, rule.values)


def _seen(grant: Grant) -> Bound | None:
    """The rule that is left to hold before a written row is shown: none where the write's own rule is the same."""
    return None if grant.seen_rows == grant.rows else grant.seen_rows


def _answered(resource: Resource, grant: Grant) -> tuple[str, ...]:
    return tuple(readable_fields(resource, grant)) if grant.readable else ()


def _members(body: bytes) -> dict[str, Any]:
    try:
        members = decode_json(body)
    except BadJson as fault:
        raise ValidationFailed("The body is not valid.", [Problem("", f"the body {fault}")]) from None
    if not isinstance(members, dict):
        raise ValidationFailed("The body is not valid.", [Problem("", "the body is no JSON object")])
    return members


def _assignments(
    resource: Resource, members: Mapping[str, Any], grant: Grant, problems: list[Problem], merge: bool = False
) -> tuple[tuple[Assignment, ...], Values]:
    """The fields to set, in the resource's order, and their values."""
    writable = writable_fields(resource, grant)
    _refuse_names(resource, members, writable, grant, problems)
    assigned: list[Assignment] = []
    values: list[Any] = []
    for name, field in writable.items():
        if name not in members:
            continue
        try:
            merged, given = _value(field, members[name], merge)
        except BadValue as fault:
            problems.append(Problem(name, str(fault)))
        else:
            assigned.append(Assignment(name, merged))
            values += given
    for name, wire in grant.set:
        assigned.append(Assignment(name))
        values.append(wire)
    return tuple(assigned), tuple(values)


def _refuse_names(
    resource: Resource,
    members: Mapping[str, Any],
    writable: Mapping[str, Field],
    grant: Grant,
    problems: list[Problem],
) -> None:
    kept: list[Problem] = []
    shown = readable_fields(resource, grant)  # what the caller cannot see does not exist for them, here as in a list
    for name in members:
        if name in writable:
            continue
        field = resource.visible.get(name)
        if field is None or name not in shown:
            known = f"Fields: {', '.join(writable)}"
            problems.append(Problem(name[:200], f"is not a field.{did_you_mean(name[:200], writable)} {known}"))
        elif field.readonly:
            problems.append(Problem(name, "is read-only; leave it out"))
        else:
            kept.append(Problem(name, "may not be sent"))
    if kept and not problems:
        raise Forbidden("Not with these fields.", kept)
    problems += kept


def _value(field: Field, value: Any, merge: bool) -> tuple[Merge | None, list[Any]]:
    """How the field is set, and the values for it. Raises BadValue."""
    if value is None:
        if not field.nullable:
            raise BadValue("takes no null")
        return None, [None]
    if merge and isinstance(value, dict) and field.type.family is Family.JSON and not field.type.array:
        field.type.load(value)
        values: list[Any] = []
        return _merge(value, field.type, values), values
    wire = field.type.load(value)
    field.type.check_fit(wire)
    check_bounds(field.bounds, field.type, wire)
    return None, [wire]


def _merge(patch: Mapping[str, Any], column_type: ColumnType, values: list[Any]) -> Merge:
    if len(values) > 3 * MAX_MERGE_OBJECTS:
        raise BadValue(f"merges into more than {MAX_MERGE_OBJECTS} objects; send the whole value as application/json")
    dropped = [key for key, member in patch.items() if member is None]
    objects = {key: member for key, member in patch.items() if isinstance(member, dict)}
    members = {key: member for key, member in patch.items() if member is not None and key not in objects}
    values += [dropped, column_type.load(members)]
    nested: list[Merge] = []
    for key, member in objects.items():
        values.append(key)
        nested.append(_merge(member, column_type, values))
    return Merge(tuple(nested))


def check_bounds(bounds: Bounds, column_type: ColumnType, wire: Wire) -> None:
    """Raises BadValue where YAML asks for more than the column does."""
    if bounds.minimum is not None or bounds.maximum is not None:
        _check_range(bounds, Decimal(str(wire)))
    if bounds.min_length is not None or bounds.max_length is not None:
        _check_length(bounds, len(str(wire)))
    if bounds.pattern is not None and _compiled(bounds.pattern).search(str(wire)) is None:
        raise BadValue(f"takes text that matches {bounds.pattern}")
    if bounds.enum and not _is_among(wire, column_type, bounds.enum):
        raise BadValue(f"takes one of {', '.join(str(choice) for choice in bounds.enum)}")


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """`$` ends the text, as in JSON Schema and PostgreSQL; Python's own would let a line break follow."""
    return re.compile(pattern.removesuffix("$") + r"\Z" if re.search(r"(?<!\\)(\\\\)*\$$", pattern) else pattern)


def _check_range(bounds: Bounds, value: Decimal) -> None:
    if bounds.minimum is not None and value < Decimal(str(bounds.minimum)):
        raise BadValue(f"takes {bounds.minimum} or more")
    if bounds.maximum is not None and value > Decimal(str(bounds.maximum)):
        raise BadValue(f"takes {bounds.maximum} or less")


def _check_length(bounds: Bounds, length: int) -> None:
    if bounds.min_length is not None and length < bounds.min_length:
        raise BadValue(f"takes at least {bounds.min_length} characters")
    if bounds.max_length is not None and length > bounds.max_length:
        raise BadValue(f"takes at most {bounds.max_length} characters")


def _is_among(wire: Wire, column_type: ColumnType, choices: tuple[str | int, ...]) -> bool:
    if column_type.family is Family.NUMBER:
        return any(Decimal(str(wire)) == Decimal(str(choice)) for choice in choices)
    return wire in choices
