"""Body bytes in, typed values out, with every fault of the body named at once.

A body is one JSON object whose members are fields. Each value is held against its column's type, length and scale, and
against YAML's bounds, before anything is sent to the database.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Literal

from gateway.catalog.model import Bounds, Field, Resource
from gateway.catalog.types import BadValue, ColumnType, Family, Wire, as_text
from gateway.errors import Forbidden, Problem, ValidationFailed, did_you_mean
from gateway.query.ast import EVERYTHING, Assignment, Bound, Filter, Grant, Merge, States, Values, WritePlan, WriteShape
from gateway.query.plan import ESCAPED_IN_JSON, parse_key, readable_fields
from gateway.query.strict_json import BadJson, decode_json
from gateway.query.typed_json import BodyReader, Read, whole_pattern

MAX_MERGE_OBJECTS = 100
MAX_SHAPES = 500
"""That a form remembers: callers choose freely which fields they send. The oldest goes first."""
Check = Callable[[Wire], None]


def writable_fields(resource: Resource, grant: Grant = EVERYTHING) -> dict[str, Field]:
    """The fields that this caller may send, by name, in order."""
    allowed = grant.write_fields
    return {
        name: field for name, field in resource.visible.items() if not field.readonly and (allowed is None or name in allowed)
    }


class Form:
    """What callers with one grant may send to a resource, and what reads it: all that can be made before a body comes.

    `takers` are by field; they take what is not null. `readable` are the fields that the caller may see.
    """

    def __init__(self, resource: Resource, grant: Grant) -> None:
        self.resource = resource
        self.writable = writable_fields(resource, grant)
        self.takers = {name: (field, _taker(field)) for name, field in self.writable.items()}
        self.required = tuple(name for name, field in self.writable.items() if field.required)
        self.readable = readable_fields(resource, grant)
        self._shown = tuple(self.readable) if grant.readable else ()
        self._set = tuple(Assignment(name) for name, _ in grant.set)
        self._rule, _ = _bound(grant.rows)
        self._seen, _ = _bound(_seen(grant))
        self._shapes: dict[Any, WriteShape] = {}
        self._reader: BodyReader | None = None
        self._can_be_read = all(ESCAPED_IN_JSON.search(name) is None for name in self.writable)

    def read(self, body: bytes) -> Read | None:
        """The fields that a body sends, and their values; None where it has to be looked at more closely."""
        if not self._can_be_read:
            return None
        if self._reader is None:
            self._reader = BodyReader(self.takers.values())
        return self._reader.read(body)

    def shape(
        self, operation: Literal["create", "patch"], sent: tuple[str, ...], merged: Mapping[str, Merge], conditional: bool
    ) -> WriteShape:
        """The shape of a write that sends these fields; one and the same each time, as far as it remembers."""
        place = (operation, sent, conditional)
        shape = None if merged else self._shapes.get(place)
        if shape is None:
            assigned = (*(Assignment(name, merged.get(name)) for name in sent), *self._set)
            before = self._rule if operation == "patch" else None
            shape = WriteShape(
                operation, self.resource.id, assigned, self._shown, before, self._rule, self._seen, conditional=conditional
            )
            if not merged:
                self._keep(place, shape)
        return shape

    def _keep(self, place: Any, shape: WriteShape) -> None:
        if len(self._shapes) >= MAX_SHAPES:
            del self._shapes[next(iter(self._shapes))]
        self._shapes[place] = shape


class Forms:
    """The forms of one catalog, as many as its access rules make."""

    def __init__(self) -> None:
        self._known: dict[Any, Form] = {}

    def of(self, resource: Resource, grant: Grant) -> Form:
        """The form for all grants that differ from this one in values alone."""
        rule, _ = _bound(grant.rows)
        seen, _ = _bound(_seen(grant))
        names = tuple([name for name, _ in grant.set])
        place = (resource, grant.readable, grant.read_fields, grant.write_fields, rule, seen, names)
        form = self._known.get(place)
        if form is None:
            form = self._known[place] = Form(resource, grant)
        return form


def plan_create(resource: Resource, body: bytes, grant: Grant = EVERYTHING, form: Form | None = None) -> WritePlan:
    """The plan of a create. Raises ValidationFailed with every problem, Forbidden for fields the grant keeps.

    `form` is the grant's, where it is at hand.
    """
    read = None if form is None else form.read(body)
    form = form or Form(resource, grant)
    if read is not None and all(name in read[0] for name in form.required):
        shape, values = form.shape("create", read[0], {}, False), read[1]
    else:
        members = _members(body)
        problems: list[Problem] = []
        sent, merged, values = _taken(form, members, problems)
        problems += [Problem(name, "is required") for name in form.required if name not in members]
        if problems:
            raise ValidationFailed("The body is not valid.", problems)
        shape = form.shape("create", sent, merged, False)
    _, rule_values = _bound(grant.rows)
    _, seen_values = _bound(_seen(grant))
    return WritePlan(shape, (*values, *_set(grant), *rule_values, *seen_values))


def plan_patch(
    resource: Resource,
    key: tuple[str, ...],
    body: bytes,
    merge: bool,
    grant: Grant = EVERYTHING,
    states: States | None = None,
    form: Form | None = None,
) -> WritePlan:
    """The plan of a patch; with `merge` (RFC 7396) objects sent for JSON fields are merged into what is stored.

    Raises NotFound for a key that cannot be, ValidationFailed with every problem, Forbidden for fields the grant keeps.
    `form` is the grant's, where it is at hand.
    """
    read = None if form is None or merge else form.read(body)
    form = form or Form(resource, grant)
    key_values = parse_key(resource, key)
    conditional, given = _given(states)
    if read is not None and read[0]:
        shape, values = form.shape("patch", read[0], {}, conditional), read[1]
    else:
        members = _members(body)
        problems: list[Problem] = []
        if not members:
            raise ValidationFailed("The body is not valid.", [Problem("", "is empty; a patch changes at least one field")])
        sent, merged, values = _taken(form, members, problems, merge)
        if problems:
            raise ValidationFailed("The body is not valid.", problems)
        shape = form.shape("patch", sent, merged, conditional)
    _, rule_values = _bound(grant.rows)
    _, seen_values = _bound(_seen(grant))
    return WritePlan(shape, (*values, *_set(grant), *key_values, *rule_values, *given, *rule_values, *seen_values))


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


def _members(body: bytes) -> dict[str, Any]:
    try:
        members = decode_json(body)
    except BadJson as fault:
        raise ValidationFailed("The body is not valid.", [Problem("", f"the body {fault}")]) from None
    if not isinstance(members, dict):
        raise ValidationFailed("The body is not valid.", [Problem("", "the body is no JSON object")])
    return members


def _set(grant: Grant) -> list[Any]:
    """The values that the gateway writes itself."""
    return [as_text(wire) if isinstance(wire, list) else wire for _, wire in grant.set]


def _taken(
    form: Form, members: Mapping[str, Any], problems: list[Problem], merge: bool = False
) -> tuple[tuple[str, ...], Mapping[str, Merge], list[Any]]:
    """The fields that were sent, in the resource's order, how some of them are merged, and their values."""
    if not members.keys() <= form.writable.keys():
        _refuse_names(form, members, problems)
    sent: list[str] = []
    merged: dict[str, Merge] = {}
    values: list[Any] = []
    for name, (field, take) in form.takers.items():
        if name not in members:
            continue
        value = members[name]
        if value is None:
            if not field.nullable:
                problems.append(Problem(name, "takes no null"))
            sent.append(name)
            values.append(None)
            continue
        try:
            if merge and isinstance(value, dict) and field.type.family is Family.JSON and not field.type.array:
                field.type.load(value)
                of_merge: list[Any] = []
                merged[name] = _merge(value, field.type, of_merge)
                values += of_merge
            else:
                values.append(take(value))
        except BadValue as fault:
            problems.append(Problem(name, str(fault)))
        else:
            sent.append(name)
    return tuple(sent), merged, values


def _refuse_names(form: Form, members: Mapping[str, Any], problems: list[Problem]) -> None:
    kept: list[Problem] = []
    writable = form.writable
    for name in members:
        if name in writable:
            continue
        field = form.resource.visible.get(name)
        if field is None or name not in form.readable:  # what they cannot see does not exist for them, here as in a list
            known = f"Fields: {', '.join(writable)}"
            problems.append(Problem(name[:200], f"is not a field.{did_you_mean(name[:200], writable)} {known}"))
        elif field.readonly:
            problems.append(Problem(name, "is read-only; leave it out"))
        else:
            kept.append(Problem(name, "may not be sent"))
    if kept and not problems:
        raise Forbidden("Not with these fields.", kept)
    problems += kept


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


def _taker(field: Field) -> Callable[[Any], Wire]:
    """What makes the wire form of a JSON value for a field, and raises BadValue for one that it does not take."""
    take = field.type.taker()
    checks = bound_checks(field.bounds, field.type)
    if not checks:
        return take

    def take_within(value: Any) -> Wire:
        wire = take(value)
        for check in checks:
            check(wire)
        return wire

    return take_within


def bound_checks(bounds: Bounds, column_type: ColumnType) -> tuple[Check, ...]:
    """Where YAML asks for more than the column does: what raises BadValue for a wire value that is not so."""
    checks: list[Check] = []
    if bounds.minimum is not None or bounds.maximum is not None:
        checks.append(_range_check(bounds))
    if bounds.min_length is not None or bounds.max_length is not None:
        checks.append(_length_check(bounds))
    if bounds.pattern is not None:
        checks.append(_pattern_check(bounds.pattern))
    if bounds.enum:
        checks.append(_enum_check(bounds.enum, column_type))
    return tuple(checks)


def _range_check(bounds: Bounds) -> Check:
    least, greatest = (None if end is None else Decimal(str(end)) for end in (bounds.minimum, bounds.maximum))

    def check(wire: Wire) -> None:
        value = wire if type(wire) is int else Decimal(str(wire))
        if least is not None and value < least:
            raise BadValue(f"takes {bounds.minimum} or more")
        if greatest is not None and value > greatest:
            raise BadValue(f"takes {bounds.maximum} or less")

    return check


def _length_check(bounds: Bounds) -> Check:
    least, greatest = bounds.min_length, bounds.max_length

    def check(wire: Wire) -> None:
        length = len(str(wire))
        if least is not None and length < least:
            raise BadValue(f"takes at least {least} characters")
        if greatest is not None and length > greatest:
            raise BadValue(f"takes at most {greatest} characters")

    return check


def _pattern_check(pattern: str) -> Check:
    search = re.compile(whole_pattern(pattern)).search

    def check(wire: Wire) -> None:
        if search(str(wire)) is None:
            raise BadValue(f"takes text that matches {pattern}")

    return check


def _enum_check(choices: tuple[str | int, ...], column_type: ColumnType) -> Check:
    is_number = column_type.family is Family.NUMBER
    known = tuple(Decimal(str(choice)) if is_number else choice for choice in choices)

    def check(wire: Wire) -> None:
        if (Decimal(str(wire)) if is_number else wire) not in known:
            raise BadValue(f"takes one of {', '.join(str(choice) for choice in choices)}")

    return check
