"""Requests held against a resource and a grant: what comes out is a plan, a shape and its values, or every problem at once.

Names are looked up in the catalog and nowhere else, so no name of a caller's ever reaches SQL. A field that the grant does
not show does not exist here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from gateway.catalog.build import IDENTIFIER_BYTES, parse_sort_key, with_key
from gateway.catalog.model import Field, Resource, SortKey
from gateway.catalog.types import BadValue, ColumnType, Family, Wire
from gateway.errors import NotFound, Problem, ValidationFailed, did_you_mean
from gateway.query.ast import (
    EVERYTHING,
    And,
    Comparison,
    Condition,
    Count,
    Filter,
    GetPlan,
    GetShape,
    Grant,
    ListPlan,
    ListRequest,
    ListShape,
    Not,
    Or,
    Values,
    Written,
)
from gateway.query.cursor import BadCursor, Fingerprints, decode_cursor
from gateway.query.operators import OPERATORS, Operator, escape_like, operators_for, path_operators
from gateway.query.strict_json import BadJson, decode_json
from gateway.query.syntax.brackets import OPTIONS, split_list
from gateway.query.syntax.json import parse_filter

MAX_COMPARISONS = 50
MAX_LIST_ITEMS = 1000
MAX_OFFSET = 100_000
MAX_SHAPES = 50
"""That an outline remembers: a cursor that somebody made up may have a null anywhere."""
COUNTS: tuple[Count, ...] = ("none", "exact", "estimated")
JSON_KEYS_EXACT = frozenset({Family.NUMBER, Family.TEXT, Family.TIME, Family.UUID, Family.ENUM, Family.NETWORK, Family.BOOLEAN})
"""Families whose JSON form is also a text form that PostgreSQL reads back as the same value."""


ESCAPED_IN_JSON = re.compile(r'["\\\x00-\x1f]')
"""A name with one of these is no name for a decoder that is made for its fields."""


def readable_fields(resource: Resource, grant: Grant = EVERYTHING) -> Mapping[str, Field]:
    """The fields that this caller may see, by name, in order."""
    if grant.read_fields is None:
        return resource.visible
    return {name: field for name, field in resource.visible.items() if name in grant.read_fields}


# --- lists -------------------------------------------------------------------------------------------------------------


class Outline:
    """A list but for its values, its limit and its place: what the names of parameters, `sort`, `fields` and `count` make."""

    def __init__(
        self, resource: Resource, fields: tuple[str, ...], where: Filter | None, sort: tuple[SortKey, ...], count: Count
    ) -> None:
        self.resource = resource
        self._fields = fields
        self._where = where
        self._sort = sort
        self._count = count
        self._keys_beside = not _keys_within(resource, fields, sort)
        self._fingerprints = Fingerprints(resource.id, sort, where)
        self._shapes: dict[Any, ListShape] = {}

    def plan(self, values: Values, limit: int, page: int | None, cursor: str | None, problems: list[Problem]) -> ListPlan:
        """The plan of a list. `values` are the filter's. Raises ValidationFailed with `problems` and those of the cursor."""
        mark = self._fingerprints.of(values)
        after: tuple[bool, ...] | None = None
        backward = False
        if cursor is not None:
            try:
                place = decode_cursor(cursor, mark, len(self._sort))
            except BadCursor as fault:
                problems.append(Problem("cursor", str(fault)))
            else:
                backward = place.backward
                after = tuple(value is None for value in place.values)
                if any(
                    null and not self.resource.fields[key.field].nullable for null, key in zip(after, self._sort, strict=True)
                ):
                    problems.append(Problem("cursor", "is damaged; start again without it"))
                values += tuple(value for value in place.values if value is not None)
        if problems:
            raise ValidationFailed("The query is not valid.", problems)
        offset = (page - 1) * limit if page is not None else 0
        shape = self._shape(after, backward, limit != self.resource.limit_default, offset > 0)
        values = values + (limit + 1,) * shape.limited + (offset,) * shape.offset
        return ListPlan(shape, values, limit, page, self._count, mark)

    def _shape(self, after: tuple[bool, ...] | None, backward: bool, limited: bool, offset: bool) -> ListShape:
        place = (after, backward, limited, offset)
        shape = self._shapes.get(place)
        if shape is None:
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()
            shape = self._shapes[place] = ListShape(
                resource=self.resource.id,
                fields=self._fields,
                where=self._where,
                sort=self._sort,
                after=after,
                backward=backward,
                limited=limited,
                offset=offset,
                keys_beside=self._keys_beside,
                counted=self._count == "exact",
            )
        return shape


def plan_list(resource: Resource, request: ListRequest, grant: Grant = EVERYTHING) -> ListPlan:
    """The plan of a list. Raises ValidationFailed with every problem of the request."""
    problems: list[Problem] = []
    outline, values, limit = outline_list(resource, request, grant, problems)
    page = list_page(request.page, request.cursor, limit, problems)
    return outline.plan(values, limit, page, request.cursor, problems)


def outline_list(resource: Resource, request: ListRequest, grant: Grant, problems: list[Problem]) -> tuple[Outline, Values, int]:
    """The outline of a list, its filter's values, and its limit."""
    readable = readable_fields(resource, grant)
    where, values = _where(readable, request, problems)
    if grant.rows is not None:
        where, values = _both(where, values, grant.rows.filter, grant.rows.values)
    sort = _sort(resource, readable, request.sort, problems)
    fields = _chosen_fields(readable, request.fields, problems)
    limit = list_limit(resource, request.limit, problems)
    count = _count(request.count, problems)
    if count == "estimated" and grant.rows is not None:
        count = "exact"  # the planner's statistics are made of rows that this caller may not see
    return Outline(resource, fields, where, sort, count), values, limit


def filter_values(plan: ListPlan) -> Values:
    """The values of the plan's filter alone, for a statement that has nothing but the filter."""
    beyond = plan.shape.limited + plan.shape.offset + sum(not null for null in plan.shape.after or ())
    return plan.values[: len(plan.values) - beyond]


def _both(where: Filter | None, values: Values, rule: Filter, rule_values: Values) -> tuple[Filter, Values]:
    if where is None:
        return rule, rule_values
    return And((where, rule)), values + rule_values


def _keys_within(resource: Resource, fields: tuple[str, ...], sort: tuple[SortKey, ...]) -> bool:
    """Whether a row's JSON carries every sort key in a form that reads back exactly, under a name that needs no escape."""
    return all(
        key.field in fields
        and resource.fields[key.field].type.family in JSON_KEYS_EXACT
        and ESCAPED_IN_JSON.search(key.field) is None
        for key in sort
    )


def _where(readable: Mapping[str, Field], request: ListRequest, problems: list[Problem]) -> tuple[Filter | None, Values]:
    resolver = _Resolver(readable, problems)
    items: list[Filter] = []
    for condition in request.conditions:
        resolved = resolver.resolve(condition)
        if resolved is not None:
            items.append(resolved)
    if request.filter is not None:
        try:
            resolved = resolver.resolve(parse_filter(decode_json(request.filter), "filter"))
        except BadJson as fault:
            problems.append(Problem("filter", str(fault)))
        except ValidationFailed as fault:
            problems += fault.problems
        else:
            if resolved is not None:
                items.append(resolved)
    if resolver.comparisons > MAX_COMPARISONS:
        problems.append(Problem("filter", f"has {resolver.comparisons} comparisons; at most {MAX_COMPARISONS} are taken"))
    match items:
        case []:
            return None, ()
        case [only]:
            return only, tuple(resolver.values)
        case _:
            return And(tuple(items)), tuple(resolver.values)


ValueReader = Callable[[str], Sequence[Any]]
"""What reads a text of a URL as the values of one condition. Raises BadValue."""


def value_reader(readable: Mapping[str, Field], condition: Condition) -> ValueReader | None:
    """What reads the values of conditions of this field and operator, which may be used; a flag has none. None for a path, on
    whose value the shape hangs."""
    resolver = _Resolver(readable, [])
    field, path = resolver.field(condition)
    operator, column_type = resolver.operator(condition, field, path), field.type
    if path:
        return None
    if operator.arity == "one" and operator.kind == "value" and not column_type.array:
        return lambda text: (column_type.parse(text),)

    def read(text: str) -> Sequence[Any]:
        if operator.arity == "flag":
            return ()
        if operator.arity == "one":
            return (_one(operator, column_type, text, typed=False),)
        try:
            items = _items(operator, Condition("", field.name, operator.name, text))
        except _Refused as fault:
            raise BadValue(str(fault)) from None
        values = [_one(operator, column_type, item, typed=False) for item in items]
        return values if operator.arity == "pair" else (values,)

    return read


def resolve_filter(
    fields: Mapping[str, Field], written: Written, stands_for_a_value: Callable[[Any], bool]
) -> tuple[Filter | None, Values, tuple[Problem, ...]]:
    """A row rule with its names looked up among `fields` and its values typed, and what is wrong with it.

    A value for which `stands_for_a_value` holds (a claim's name) is kept as it is, to be typed when it is known.
    """
    problems: list[Problem] = []
    resolver = _Resolver(fields, problems, stands_for_a_value)
    return resolver.resolve(written), tuple(resolver.values), tuple(problems)


class _Resolver:
    """Walks written conditions once, in the order in which the compiler will walk the filter."""

    def __init__(
        self,
        readable: Mapping[str, Field],
        problems: list[Problem],
        stands_for_a_value: Callable[[Any], bool] = lambda _value: False,
    ) -> None:
        self.stands_for_a_value = stands_for_a_value
        self.readable = readable
        self.problems = problems
        self.values: list[Any] = []
        self.comparisons = 0

    def resolve(self, written: Written) -> Filter | None:
        if isinstance(written, Condition):
            return self._comparison(written)
        items = tuple(item for item in map(self.resolve, written.items) if item is not None)
        if not items:
            return None
        if written.kind == "not":
            return Not(items[0])
        return And(items) if written.kind == "and" else Or(items)

    def _comparison(self, condition: Condition) -> Comparison | None:
        self.comparisons += 1
        try:
            field, path = self.field(condition)
            operator = self.operator(condition, field, path)
            if path:
                return self._on_path(condition, field, path, operator)
            return self._on_field(condition, field, operator)
        except _Refused as fault:
            self.problems.append(Problem(condition.parameter, str(fault)))
            return None

    def field(self, condition: Condition) -> tuple[Field, tuple[str, ...]]:
        """The field, and the JSON path below it. A field whose own name has dots is found first."""
        name, subject = condition.name, _subject(condition)
        field = self.readable.get(name)
        path: tuple[str, ...] = ()
        if field is None:
            head, rest = self._split(name)
            field = self.readable.get(head)
            if field is None:
                raise _Refused(f"{subject}{_unknown(name, self.readable, OPTIONS if not condition.typed else ())}")
            if field.type.family is not Family.JSON:
                raise _Refused(f'{subject}has a path, but "{head}" is not JSON')
            path = tuple(rest.split("."))
            if "" in path:
                raise _Refused(f"{subject}has an empty step in its path")
            if "\0" in rest:
                raise _Refused(f"{subject}has the character U+0000 in its path, which text cannot hold")
        if not field.filterable:
            allowed = [name for name, other in self.readable.items() if other.filterable]
            raise _Refused(f"{subject}cannot be filtered by; these can: {', '.join(allowed)}")
        return field, path

    def _split(self, name: str) -> tuple[str, str]:
        """A field's name and what follows its dot: the longest such field's, for a column's own name may have dots."""
        dots = [place for place, character in enumerate(name[: IDENTIFIER_BYTES + 1]) if character == "."]
        place = next((place for place in reversed(dots) if name[:place] in self.readable), -1)
        return ("", "") if place < 0 else (name[:place], name[place + 1 :])

    def operator(self, condition: Condition, field: Field, path: tuple[str, ...]) -> Operator:
        operator = OPERATORS.get(condition.operator)
        allowed = path_operators() if path else operators_for(field.type.family)
        if operator is None or operator not in allowed:
            known = "is not an operator" if operator is None else "does not apply here"
            names = ", ".join(each.name for each in allowed)
            raise _Refused(f'{_subject(condition)}"{condition.operator}" {known}; allowed: {names}')
        return operator

    def _on_field(self, condition: Condition, field: Field, operator: Operator) -> Comparison:
        if operator.arity == "flag":
            return Comparison(field.name, "null" if self._flag(condition) else "notnull")
        try:
            if operator.arity == "list" and self.stands_for_a_value(condition.value):
                self.values.append(Deferred(condition.value, operator, field.type, is_list=True))
            elif operator.arity == "one":
                self.values.append(self._operand(operator, field.type, condition.value, condition.typed))
            else:
                items = _items(operator, condition)
                values = [self._operand(operator, field.type, item, condition.typed) for item in items]
                self.values += values if operator.arity == "pair" else [values]
        except BadValue as fault:
            raise _Refused(f"{_subject(condition)}{fault}") from None
        return Comparison(field.name, operator.name)

    def _operand(self, operator: Operator, column_type: ColumnType, value: Any, typed: bool) -> Any:
        if self.stands_for_a_value(value):
            return Deferred(value, operator, column_type)
        return _one(operator, column_type, value, typed)

    def _on_path(self, condition: Condition, field: Field, path: tuple[str, ...], operator: Operator) -> Comparison:
        self.values.append(list(path))
        if operator.arity == "flag":
            return Comparison(field.name, "null" if self._flag(condition) else "notnull", "text")
        if self.stands_for_a_value(condition.value) and operator.arity != "pair":
            self.values.append(Deferred(condition.value, operator, _TEXT, is_list=operator.arity == "list"))
            return Comparison(field.name, operator.name, "text")
        items = [condition.value] if operator.arity == "one" else _items(operator, condition)
        numeric = _is_numeric(operator, items, condition.typed)
        try:
            values = [self._path_operand(operator, item, numeric) for item in items]
        except BadValue as fault:
            raise _Refused(f"{_subject(condition)}{fault}") from None
        if operator.arity == "list":
            self.values.append(values)
        else:
            self.values += values
        return Comparison(field.name, operator.name, "number" if numeric else "text")

    def _path_operand(self, operator: Operator, item: Any, numeric: bool) -> Any:
        if self.stands_for_a_value(item):
            return Deferred(item, operator, _TEXT)
        return _path_value(operator, item, numeric)

    def _flag(self, condition: Condition) -> bool:
        flag = condition.value if condition.typed else {"true": True, "false": False}.get(condition.value)
        if not isinstance(flag, bool):
            raise _Refused(f"{_subject(condition)}null takes true or false")
        return flag


class Deferred(msgspec.Struct, frozen=True):
    """A value of a row rule that is not known yet: what stands for it, and how its operator and column will take it."""

    stands_for: str
    operator: Operator
    type: ColumnType
    is_list: bool = False

    def bind(self, value: Any) -> Any:
        """The wire form of the value, now that it is known. Raises BadValue."""
        if not self.is_list:
            return _bind_one(self.operator, self.type, value)
        if not isinstance(value, list):
            raise BadValue(f"{self.operator.name} takes a list")
        return [_bind_one(self.operator, self.type, item) for item in value]


def _bind_one(operator: Operator, column_type: ColumnType, value: Any) -> Wire:
    """A claim's string is read as a URL's text is, for `sub` is always a string, whatever the column's type.

    It is a value and never a pattern: a `%` in somebody's name must not open everybody's rows.
    """
    if operator.kind == "pattern" and operator.prepare is None and isinstance(value, str):
        value = escape_like(value)
    if isinstance(value, float):
        value = Decimal(repr(value))
    return _one(operator, column_type, value, typed=not isinstance(value, str) or column_type.array)


class _Refused(Exception):
    """One condition that cannot be; the message is the problem's."""


def _subject(condition: Condition) -> str:
    """The field's name, where the parameter does not already tell it: `filter=` holds many."""
    return f'"{condition.name}" ' if condition.typed else ""


def _unknown(name: str, readable: Mapping[str, Field], options: Iterable[str]) -> str:
    listed = ", ".join(readable)
    also = f"; parameters: {', '.join(options)}" if options else ""
    return f"is not a field or parameter here.{did_you_mean(name, (*readable, *options))} Fields: {listed}{also}"


def _items(operator: Operator, condition: Condition) -> list[Any]:
    value = condition.value
    items = value if condition.typed else split_list(value)
    if not isinstance(items, list):
        raise _Refused(f"{_subject(condition)}{operator.name} takes a list")
    if operator.arity == "pair" and len(items) != 2:
        raise _Refused(f"{_subject(condition)}{operator.name} takes two values, not {len(items)}")
    if not items:
        raise _Refused(f"{_subject(condition)}{operator.name} takes at least one value")
    if len(items) > MAX_LIST_ITEMS:
        raise _Refused(f"{_subject(condition)}{operator.name} takes at most {MAX_LIST_ITEMS} values, not {len(items)}")
    return items


def _one(operator: Operator, column_type: ColumnType, value: Any, typed: bool) -> Wire:
    """The wire form of one operand. Raises BadValue."""
    if value is None:
        raise BadValue("takes no null; use the null operator")
    if operator.kind == "element":
        element = _JSON_KEY if column_type.family is Family.JSON else msgspec.structs.replace(column_type, array=False)
        return element.load(value) if typed else element.parse(value)
    if operator.kind == "pattern":
        return _pattern(operator, column_type.load(value) if typed else column_type.parse(value))
    if column_type.array and typed:
        return column_type.load(_few(value) if isinstance(value, list) else value)
    if column_type.array:
        return column_type.parse_array(_few(split_list(value)))
    return column_type.load(value) if typed else column_type.parse(value)


_JSON_KEY = ColumnType("text", "text")


def _few(elements: list[Any]) -> list[Any]:
    if len(elements) > MAX_LIST_ITEMS:
        raise BadValue(f"takes at most {MAX_LIST_ITEMS} values, not {len(elements)}")
    return elements


def _pattern(operator: Operator, text: Wire) -> str:
    pattern = str(text)
    if operator.prepare is not None:
        return operator.prepare(pattern)
    trailing = len(pattern) - len(pattern.rstrip("\\"))
    if trailing % 2:
        raise BadValue("has a pattern that ends in a lone backslash, which escapes nothing")
    return pattern


_NUMERIC = ColumnType("numeric", "numeric")
_TEXT = ColumnType("text", "text")
_ORDERING = frozenset({"gt", "gte", "lt", "lte", "between"})


def _is_numeric(operator: Operator, items: list[Any], typed: bool) -> bool:
    """Whether values on a JSON path are compared as numbers: JSON numbers are; in a URL, digits are, when it is about order."""
    if operator.kind == "pattern":
        return False
    if typed:
        return bool(items) and all(isinstance(item, int | Decimal) and not isinstance(item, bool) for item in items)
    return operator.name in _ORDERING and all(_reads_as_number(item) for item in items)


def _reads_as_number(text: str) -> bool:
    try:
        _NUMERIC.parse(text)
    except BadValue:
        return False
    return True


def _path_value(operator: Operator, item: Any, numeric: bool) -> Wire:
    if numeric:
        return _NUMERIC.load(item)
    match item:
        case bool():
            text = "true" if item else "false"
        case int() | Decimal():
            text = str(item)
        case str():
            text = item
        case _:
            raise BadValue("takes a string, a number, true or false")
    loaded = _TEXT.load(text)
    return _pattern(operator, loaded) if operator.kind == "pattern" else loaded


# --- options -----------------------------------------------------------------------------------------------------------


def _sort(resource: Resource, readable: Mapping[str, Field], written: str | None, problems: list[Problem]) -> tuple[SortKey, ...]:
    if written is None:
        if all(term.field in readable for term in resource.sort):
            return resource.sort
        return with_key(tuple(term for term in resource.sort if term.field in readable), resource.key)
    terms: list[SortKey] = []
    for text in split_list(written):
        term = parse_sort_key(text)
        field = readable.get(term.field)
        if field is None:
            names = [name for name, other in readable.items() if other.type.sortable]
            problems.append(
                Problem("sort", f'"{term.field}" is not a field.{did_you_mean(term.field, names)} Fields: {", ".join(names)}')
            )
        elif not field.type.sortable:
            problems.append(Problem("sort", f'"{term.field}" has no order to sort by'))
        elif any(term.field == other.field for other in terms):
            problems.append(Problem("sort", f'"{term.field}" is there twice'))
        else:
            terms.append(term)
    return with_key(tuple(terms), resource.key)


def _chosen_fields(readable: Mapping[str, Field], written: str | None, problems: list[Problem]) -> tuple[str, ...]:
    if written is None:
        return tuple(readable)
    chosen: list[str] = []
    for name in split_list(written):
        if name not in readable:
            hint = did_you_mean(name, readable)
            problems.append(Problem("fields", f'"{name}" is not a field.{hint} Fields: {", ".join(readable)}'))
        elif name in chosen:
            problems.append(Problem("fields", f'"{name}" is there twice'))
        else:
            chosen.append(name)
    return tuple(chosen)


def _whole_number(name: str, written: str | None, default: int, greatest: int, problems: list[Problem]) -> int:
    if written is None:
        return default
    if not (written.isascii() and written.isdigit() and len(written) <= 12 and 1 <= int(written) <= greatest):
        problems.append(Problem(name, f"takes a whole number from 1 to {greatest}"))
        return default
    return int(written)


def list_limit(resource: Resource, written: str | None, problems: list[Problem]) -> int:
    """The most rows of a page, as asked for."""
    return _whole_number("limit", written, resource.limit_default, resource.limit_max, problems)


def list_page(written: str | None, cursor: str | None, limit: int, problems: list[Problem]) -> int | None:
    """The page's number, as asked for; None where a cursor leads."""
    if cursor is not None:
        if written is not None:
            problems.append(Problem("page", "goes with limit, not with cursor; send one of the two"))
        return None
    if written is None:
        return 1
    greatest = MAX_OFFSET // limit + 1
    if written.isascii() and written.isdigit() and int(written[:12]) > greatest:
        at_most = f"goes to {greatest} at a limit of {limit}: at most {MAX_OFFSET} rows are passed over"
        problems.append(Problem("page", f"{at_most}; follow next_cursor to read further, it costs less too"))
        return 1
    return _whole_number("page", written, 1, greatest, problems)


def _count(written: str | None, problems: list[Problem]) -> Count:
    if written is None:
        return "none"
    if written not in COUNTS:
        problems.append(Problem("count", f"takes one of {', '.join(COUNTS)}"))
        return "none"
    return written


# --- one row -----------------------------------------------------------------------------------------------------------


def plan_get(resource: Resource, key: tuple[str, ...], parameters: Mapping[str, str], grant: Grant = EVERYTHING) -> GetPlan:
    """The plan of a get. Raises NotFound for a key that cannot be, ValidationFailed for a bad parameter."""
    return GetPlan(get_shape(resource, parameters, grant), key_values(resource, key, grant))


def get_shape(resource: Resource, parameters: Mapping[str, str], grant: Grant = EVERYTHING) -> GetShape:
    """The shape of a get. Raises ValidationFailed for a bad parameter."""
    problems: list[Problem] = []
    readable = readable_fields(resource, grant)
    for name in parameters:
        if name != "fields":
            problems.append(Problem(name, f"is not a parameter here.{did_you_mean(name, ['fields'])} Parameters: fields"))
    fields = _chosen_fields(readable, parameters.get("fields"), problems)
    if problems:
        raise ValidationFailed("The query is not valid.", problems)
    return GetShape(resource.id, fields, None if grant.rows is None else grant.rows.filter)


def key_values(resource: Resource, key: tuple[str, ...], grant: Grant = EVERYTHING) -> Values:
    """The values of a get. Raises NotFound for a key that cannot be."""
    values = parse_key(resource, key)
    return values if grant.rows is None else values + grant.rows.values


def refuse_parameters(parameters: Mapping[str, str]) -> None:
    """Raises ValidationFailed where a write was sent any parameter, for it takes none."""
    if parameters:
        raise ValidationFailed(
            "The query is not valid.", [Problem(name, "is not a parameter here; a write takes none") for name in parameters]
        )


def parse_key(resource: Resource, parts: tuple[str, ...]) -> Values:
    """The key's wire values. Raises NotFound where the parts cannot be a key of this resource: then there is no such row."""
    if len(parts) != len(resource.key):
        raise NotFound
    try:
        return tuple([resource.fields[name].type.parse(part) for name, part in zip(resource.key, parts, strict=True)])
    except BadValue:
        raise NotFound from None
