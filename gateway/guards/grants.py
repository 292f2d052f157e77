"""Resource, operation and caller in, one `Grant` out, or a refusal: the one place where access is decided.

The first role of the definition that the caller holds and that names the operation decides, whole; rules of several roles are
never added up. Every caller holds `anonymous`, for whoever drops the token would have what it gives. A claim that a rule needs
and the token lacks, or that the column does not take, denies.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from gateway.catalog.build import as_exact
from gateway.catalog.model import Catalog, Field, Resource
from gateway.catalog.types import BadValue
from gateway.definitions.model import OPERATIONS, Operation, RuleDefinition
from gateway.errors import Forbidden, Unauthorized
from gateway.guards.policy import ADMIN_ALONE, ANONYMOUS, is_claim
from gateway.guards.tokens import Caller, token_needed
from gateway.query.ast import EVERYTHING, Bound, Filter, Grant, Values
from gateway.query.operators import OPERATORS
from gateway.query.plan import Deferred, resolve_filter
from gateway.query.syntax.json import parse_filter


class Rule(msgspec.Struct, frozen=True):
    """One role's rule for one operation, names looked up. `values` and `set` may hold Deferred, for the claims."""

    role: str
    rows: Filter | None
    values: Values
    fields: frozenset[str] | None
    set: tuple[tuple[str, Any], ...]


class Policy:
    """The rules of one catalog. A reload makes a new one with the new catalog. Every definition has passed `check_access`."""

    def __init__(self, catalog: Catalog, explain_roles: Collection[str] = ()) -> None:
        self._explain_roles = frozenset(explain_roles)
        self._rules = {resource.id: rules_of(resource) for resource in catalog.resources.values()}

    def grant(self, resource: Resource, operation: Operation, caller: Caller | None) -> Grant:
        """What the caller may do. Raises Unauthorized where a token might help, Forbidden where this one does not."""
        rules = self._rules[resource.id]
        rule = _deciding(rules[operation], caller)
        if rule is None:
            raise _refusal(caller)
        try:
            rows = _bound(rule, caller)
            if operation == "read":
                return Grant(name=rule.role, read_fields=rule.fields, rows=rows)
            written = tuple((name, _fitting(resource.fields[name], _known(value, caller))) for name, value in rule.set)
        except _Missing:
            raise _refusal(caller) from None
        readable, read_fields, seen = self._reading(rules["read"], caller)
        return Grant(
            name=rule.role,
            readable=readable,
            read_fields=read_fields,
            write_fields=rule.fields,
            rows=rows,
            seen_rows=seen,
            set=written,
        )

    def may_explain(self, caller: Caller | None) -> bool:
        """Whether the caller may see how PostgreSQL runs what they may read: tables, indexes and the values of row rules."""
        return caller is not None and not self._explain_roles.isdisjoint(caller.roles)

    def allowed(self, resource: Resource, caller: Caller | None) -> dict[Operation, Grant]:
        """The grants of every operation that the caller may do here at all."""
        grants: dict[Operation, Grant] = {}
        for operation in OPERATIONS:
            try:
                grants[operation] = self.grant(resource, operation, caller)
            except (Unauthorized, Forbidden):
                continue
        return grants

    def _reading(self, rules: tuple[Rule, ...], caller: Caller | None) -> tuple[bool, frozenset[str] | None, Bound | None]:
        """What a write may show of its row: whether any of it, which fields, and of which rows."""
        rule = _deciding(rules, caller)
        if rule is None:
            return False, frozenset(), None
        try:
            return True, rule.fields, _bound(rule, caller)
        except _Missing:
            return False, frozenset(), None


class Unrestricted:
    """`AUTH=off`: every caller may do everything."""

    def grant(self, _resource: Resource, _operation: Operation, _caller: Caller | None) -> Grant:
        """No limit."""
        return EVERYTHING

    def may_explain(self, _caller: Caller | None) -> bool:
        """Yes."""
        return True

    def allowed(self, resource: Resource, _caller: Caller | None) -> dict[Operation, Grant]:
        """No limit, on all that the resource can do."""
        return {operation: EVERYTHING for operation in OPERATIONS if operation in resource.operations}


def rules_of(resource: Resource) -> dict[Operation, tuple[Rule, ...]]:
    """The resource's rules by operation, strongest role first."""
    access = resource.definition.access
    roles = ADMIN_ALONE if access is None else access
    return {
        operation: tuple(
            _rule(resource, role, operation, rule)
            for role, definition in roles.items()
            if operation in resource.operations and (rule := getattr(definition, operation)) is not None
        )
        for operation in OPERATIONS
    }


def rule_fields(resource: Resource) -> dict[str, Field]:
    """What a row rule may name: every field, hidden ones too, whether callers may filter by it or not."""
    return {name: msgspec.structs.replace(field, filterable=True) for name, field in resource.fields.items()}


def _rule(resource: Resource, role: str, operation: Operation, rule: RuleDefinition) -> Rule:
    rows: Filter | None = None
    values: Values = ()
    if rule.rows is not None:
        rows, values, problems = resolve_filter(rule_fields(resource), parse_filter(as_exact(rule.rows), "rows"), is_claim)
        if rows is None or problems:
            raise ValueError(f"{resource.id}: the rows of {role} were not checked: {problems}")  # never a wider rule instead
    written = tuple((name, _prepared(resource.fields[name], value)) for name, value in (rule.set or {}).items())
    fields = None if rule.fields is None else frozenset(rule.fields)
    if written and operation != "read":
        sendable = (name for name, field in resource.visible.items() if not field.readonly)
        fields = (frozenset(sendable) if fields is None else fields) - {name for name, _ in written}
    return Rule(role, rows, values, fields, written)


def _prepared(field: Field, value: Any) -> Any:
    if is_claim(value):
        return Deferred(value, OPERATORS["eq"], field.type)
    return None if value is None else field.type.load(as_exact(value))


def _deciding(rules: tuple[Rule, ...], caller: Caller | None) -> Rule | None:
    for rule in rules:
        if rule.role == ANONYMOUS or (caller is not None and rule.role in caller.roles):
            return rule
    return None


def _refusal(caller: Caller | None) -> Unauthorized | Forbidden:
    if caller is None:
        return token_needed()
    return Forbidden("Your roles do not allow this here.")


class _Missing(Exception):
    """A claim that the rule needs is not there, or is nothing that its column takes."""


def _bound(rule: Rule, caller: Caller | None) -> Bound | None:
    if rule.rows is None:
        return None
    return Bound(rule.rows, tuple(_known(value, caller) for value in rule.values))


def _fitting(field: Field, value: Any) -> Any:
    """A value to be written, which the column must take as it is: the database would round some."""
    try:
        if value is not None:
            field.type.check_fit(value)
    except BadValue:
        raise _Missing from None
    return value


def _known(value: Any, caller: Caller | None) -> Any:
    """A rule's value with the caller's claims put in."""
    match value:
        case Deferred():
            claim = _claim(value.stands_for, caller)
            try:
                return value.bind(claim)
            except BadValue:
                raise _Missing from None
        case list():
            return [_known(item, caller) for item in value]
        case _:
            return value


def _claim(name: str, caller: Caller | None) -> Any:
    if caller is None:
        raise _Missing
    if name == "$sub":
        return caller.subject
    found = _walk(caller.claims, name.removeprefix("$claims."))
    if found is None:
        raise _Missing
    return found


def _walk(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of that very name, or else what the dots lead to."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for step in name.split("."):
        if not isinstance(found, dict) or step not in found:
            return None
        found = found[step]
    return found
