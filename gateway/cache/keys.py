"""What an answer is kept as: a plan and a grant in, a `Key` out. A key has a name for people and a whole for the cache.

    v1/products:id=42
    v1/products:page=2:limit=20:sort=-price:status=active:price[gte]=10
    v1/orders:id=7:fields=id,status:as=customer
    v1/products:page=1:limit=20:sort=-price:sha256=5e0f…        (what is too long, or has an `or` in it)

The whole is the plan's shape, which has the grant's fields and row rule in it, then its values, which have what was put into
that rule for this caller, then the role, and how the resource is made of its table. Equal wholes are equal answers, but for
what was written in between; callers of different roles, or with different rows or fields, never share one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from gateway.cache.store import Key
from gateway.catalog.model import Resource
from gateway.query.ast import And, Comparison, Filter, GetPlan, GetShape, Grant, ListPlan, ListShape
from gateway.query.operators import NOT_NULL, OPERATORS

MAX_NAME = 200
"""Characters of a name that stand in it as they are."""

MAX_FORMS = 5000
DIGEST_BYTES = 12
SAFE = "-_.~,/@+*'()% "
"""What a value may hold in a name beside letters and digits. Not `:` and `=`, which part the name."""

_encode = msgspec.msgpack.Encoder().encode


class _Form(msgspec.Struct, frozen=True):
    """What all keys of one shape and role share. `labels` name the filter's values; None where they are digested."""

    start: str
    end: str
    labels: tuple[tuple[str, int], ...] | None
    whole: bytes


class Keys:
    """The keys of one catalog's plans. A reload makes a new one with the new catalog."""

    def __init__(self) -> None:
        self._forms: dict[tuple[GetShape | ListShape, str], _Form] = {}
        self._resources: dict[str, bytes] = {}

    def row(self, resource: Resource, plan: GetPlan, grant: Grant) -> Key:
        """The key of a row."""
        shape = plan.shape
        form = self._forms.get((shape, grant.name)) or self._form(shape, resource, grant, _row_form)
        key = ",".join([_text(value) for value in plan.values[: len(resource.key)]])
        name = f"{form.start}{key}{form.end}"
        return _key(name, form, _encode(plan.values), plan.values[len(resource.key) :])

    def list(self, resource: Resource, plan: ListPlan, grant: Grant) -> Key:
        """The key of a page of a list."""
        shape = plan.shape
        form = self._forms.get((shape, grant.name)) or self._form(shape, resource, grant, _list_form)
        values = plan.values
        page = f":page={plan.page}" if plan.page is not None else ""
        count = f":count={plan.count}" if plan.count != "none" else ""
        parts = [form.start, page, f":limit={plan.limit}", form.end, count]
        place = 0
        for label, length in form.labels or ():
            parts.append(f":{label}{','.join([_text(value) for value in values[place : place + length]])}")
            place += length
        unnamed = values[place : len(values) - shape.limited - shape.offset]
        return _key("".join(parts), form, _encode((values, plan.limit, plan.page, plan.count)), unnamed)

    def _form(self, shape: Any, resource: Resource, grant: Grant, make: Callable[[Any, Resource, Grant, bytes], _Form]) -> _Form:
        made = self._resources.get(resource.id)
        if made is None:
            made = self._resources[resource.id] = hashlib.blake2b(
                _encode((resource.definition, resource.table)), digest_size=DIGEST_BYTES
            ).digest()
        if len(self._forms) >= MAX_FORMS:
            del self._forms[next(iter(self._forms))]
        form = self._forms[(shape, grant.name)] = make(shape, resource, grant, made)
        return form


def _key(name: str, form: _Form, values: bytes, unnamed: tuple[Any, ...]) -> Key:
    whole = form.whole + values
    if form.labels is None or unnamed or len(name) > MAX_NAME:
        digest = hashlib.sha256(whole).hexdigest()[: 2 * DIGEST_BYTES]
        name = f"{name[:MAX_NAME]}:sha256={digest}"
    return Key(name, whole)


def _row_form(shape: GetShape, resource: Resource, grant: Grant, made: bytes) -> _Form:
    start = f"{resource.id}:{','.join(resource.key)}="
    return _Form(start, _fields(shape, resource) + _role(grant), (), _whole("row", shape, grant, made))


def _list_form(shape: ListShape, resource: Resource, grant: Grant, made: bytes) -> _Form:
    sort = ",".join(str(term) for term in shape.sort[: _terms(shape, resource)])
    return _Form(
        resource.id,
        f":sort={sort}{_fields(shape, resource)}{_role(grant)}",
        _labels(shape.where),
        _whole("page", shape, grant, made),
    )


def _whole(kind: Literal["row", "page"], shape: GetShape | ListShape, grant: Grant, made: bytes) -> bytes:
    """What all keys of a form begin with. `kind` says how the answer is kept too: another way of keeping needs another name."""
    return _encode((kind, shape, grant.name, made))


def _terms(shape: ListShape, resource: Resource) -> int:
    """How many terms of the order a caller would write: the key is always added."""
    written = len(shape.sort) - len(resource.key)
    return written if written > 0 and shape.sort[written].field == resource.key[0] else len(shape.sort)


def _fields(shape: GetShape | ListShape, resource: Resource) -> str:
    return "" if shape.fields == tuple(resource.visible) else f":fields={','.join(shape.fields)}"


def _role(grant: Grant) -> str:
    return "" if grant.name == "everything" else f":as={_text(grant.name)}"


def _labels(where: Filter | None) -> tuple[tuple[str, int], ...] | None:
    """What stands before each comparison's values, and how many they are; None for a filter that is no plain list of them."""
    comparisons: tuple[Filter, ...] = () if where is None else where.items if isinstance(where, And) else (where,)
    labels: list[tuple[str, int]] = []
    for comparison in comparisons:
        if not isinstance(comparison, Comparison) or comparison.path:
            return None
        operator = NOT_NULL if comparison.operator == NOT_NULL.name else OPERATORS[comparison.operator]
        label = comparison.field if operator.name == "eq" else f"{comparison.field}[{operator.name}]"
        labels.append((f"{label}=", {"flag": 0, "pair": 2}.get(operator.arity, 1)))
    return tuple(labels)


def _text(value: Any) -> str:
    """A value as it stands in a name."""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return value if value.isalnum() and value.isascii() else quote(value, safe=SAFE)
    return quote(str(value), safe=SAFE)
