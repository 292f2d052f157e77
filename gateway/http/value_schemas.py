"""Fields as JSON Schemas (2020-12): a value as sent in a body, as answered, as a query parameter and in `filter=`. Pure.

The types' own rows give the base (`ColumnType.schema`); here come YAML's bounds, nulls, and the forms that only a URL has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

import msgspec

from gateway.catalog.model import Bounds, Field
from gateway.catalog.types import ColumnType, Family, integer_range
from gateway.http.digit_patterns import UNSCALED_PLACES, decimal_pattern, integer_pattern
from gateway.query.operators import Operator
from gateway.query.plan import MAX_LIST_ITEMS

Schema = dict[str, Any]

NULL: Schema = {"type": "null"}
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
ANY_BUT_NULL: Schema = {"type": ["boolean", "number", "string", "array", "object"]}
PATH_VALUE: Schema = {"type": ["string", "number", "boolean"]}
"""What a JSON path is compared with, in `filter=`."""

_ITEM = r"(?:[^,\\]|\\[\s\S])*"
"""One element of a comma list: a backslash takes the next character with it, so `\\,` does not end the element."""
_PAIR_OF_TEXTS: Schema = {"type": "string", "pattern": rf"^{_ITEM},{_ITEM}\\?$"}
_LIKE: Schema = {"type": "string", "pattern": r"^(?:[^\\]|\\[\s\S])*$"}
_COMMA_FREE = frozenset({Family.BOOLEAN, Family.NUMBER, Family.TIME, Family.UUID, Family.BINARY, Family.NETWORK})
_COMMA_FREE_TYPES = frozenset({"bit", "varbit"})
"""What has a text form without a comma or a backslash, so that a list of it is a plain comma-separated array."""
_EXPONENT_FREE_DIGITS = 40
_INTEGER_FORMATS: Mapping[str, Schema] = {"int4": {"format": "int32"}, "int8": {"format": "int64"}}
_ANSWER_FORMATS: Mapping[str, Schema] = {
    **_INTEGER_FORMATS,
    "uuid": {"format": "uuid"},
    "date": {"format": "date"},
    "timestamptz": {"format": "date-time"},
}
"""For generated clients. A format is a note: what PostgreSQL holds beyond it, such as "infinity", is answered all the same."""


# --- bodies ------------------------------------------------------------------------------------------------------------


def sent_schema(field: Field) -> Schema:
    """What a create or a patch may send for `field`, bounds and null included."""
    schema = _sent_value(field)
    if field.nullable:
        return _or_null(schema)
    return ANY_BUT_NULL if schema == {} else schema


def answered_schema(field: Field) -> Schema:
    """What an answer holds for `field`: anything that the column can hold, whatever YAML asks of writes."""
    schema = field.type.answer_schema()
    if not field.type.array and field.type.json is None:
        schema = {**schema, **_ANSWER_FORMATS.get(field.type.name, {})}
    return _or_null(schema) if field.nullable else schema


def _or_null(schema: Schema) -> Schema:
    if schema == {}:
        return {}
    alternatives = schema["anyOf"] if schema.keys() == {"anyOf"} else [schema]
    return {"anyOf": [*alternatives, NULL]}


def _sent_value(field: Field) -> Schema:
    column, bounds = field.type, field.bounds
    if column.array:
        return column.schema()
    if bounds.enum:
        return _enumerated(column, bounds.enum)
    narrow = _NARROWED.get(column.name)
    return narrow(column, bounds) if narrow else {**column.schema(), **_text_bounds(column, bounds)}


def _enumerated(column: ColumnType, choices: Iterable[str | int]) -> Schema:
    if column.family is not Family.NUMBER:
        return {"type": "string", "enum": list(choices)}
    return {"enum": [form for choice in choices for form in (_number(Decimal(str(choice))), str(choice))]}


def _integer(column: ColumnType, bounds: Bounds) -> Schema:
    natural = integer_range(column.name)
    least = natural[0] if bounds.minimum is None else max(natural[0], _ceiling(bounds.minimum))
    greatest = natural[1] if bounds.maximum is None else min(natural[1], _floor(bounds.maximum))
    number = {"type": "integer", "minimum": least, "maximum": greatest, **_INTEGER_FORMATS.get(column.name, {})}
    # The type's own ends as strings would be a pattern of hundreds of characters: one digit fewer says nearly the same.
    digits = 10 ** (len(str(natural[1])) - 1) - 1
    shown = max(least, -digits), min(greatest, digits)
    return {"anyOf": [number, {"type": "string", "pattern": integer_pattern(*shown)}]}


def _numeric(column: ColumnType, bounds: Bounds) -> Schema:
    whole, places = _EXPONENT_FREE_DIGITS, UNSCALED_PLACES
    number: Schema = {"type": "number"}
    if column.precision is not None and column.scale is not None:
        if not 0 <= column.scale <= column.precision:
            return column.schema()
        whole, places = column.precision - column.scale, column.scale
        number = {"type": "number", "multipleOf": float(f"1e-{places}")} if places else {"type": "integer"}
    end = Decimal(10**whole) - Decimal(1).scaleb(-places)
    least = -end if bounds.minimum is None else max(-end, Decimal(str(bounds.minimum)))
    greatest = end if bounds.maximum is None else min(end, Decimal(str(bounds.maximum)))
    number |= {"minimum": _number(least), "maximum": _number(greatest)}
    return {"anyOf": [{"type": "string", "pattern": decimal_pattern(least, greatest, places)}, number]}


def _float(column: ColumnType, bounds: Bounds) -> Schema:
    schema = column.schema()
    if bounds.minimum is not None:
        schema["minimum"] = bounds.minimum
    if bounds.maximum is not None:
        schema["maximum"] = bounds.maximum
    return schema


_NARROWED: Mapping[str, Callable[[ColumnType, Bounds], Schema]] = {
    "int2": _integer,
    "int4": _integer,
    "int8": _integer,
    "numeric": _numeric,
    "float4": _float,
    "float8": _float,
}


def _text_bounds(column: ColumnType, bounds: Bounds) -> Schema:
    schema: Schema = {}
    if bounds.min_length is not None:
        schema["minLength"] = bounds.min_length
    if bounds.max_length is not None:
        schema["maxLength"] = bounds.max_length if column.length is None else min(bounds.max_length, column.length)
    if bounds.pattern is not None:
        schema["pattern"] = bounds.pattern
    return schema


def _number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


def _ceiling(value: float | str) -> int:
    return int(Decimal(str(value)).to_integral_value(ROUND_CEILING))


def _floor(value: float | str) -> int:
    return int(Decimal(str(value)).to_integral_value(ROUND_FLOOR))


# --- URLs --------------------------------------------------------------------------------------------------------------


def url_value(column: ColumnType) -> Schema:
    """One value of a type (an array's element) as a query parameter has it, before it is percent-encoded."""
    if column.name in ("int2", "int4", "int8"):
        least, greatest = integer_range(column.name)
        return {"type": "integer", "minimum": least, "maximum": greatest, **_INTEGER_FORMATS.get(column.name, {})}
    if column.name == "numeric":
        return {"type": "string", "pattern": r"^-?[0-9]{1,40}(\.[0-9]{1,40})?$"}
    return _compared(column)


def url_operand(operator: Operator, column: ColumnType) -> Schema:
    """What a query parameter `field[operator]` of a field of this type takes.

    An array here is sent comma-separated (`style: form`, `explode: false`).
    """
    if operator.arity == "flag":
        return FLAG
    if operator.name in ("like", "ilike"):
        return _LIKE
    listed = operator.arity in ("list", "pair") or (column.array and operator.kind == "value")
    if column.family is Family.JSON:
        return TEXT
    value = url_value(column)
    if not listed:
        return value
    if operator.arity == "pair":
        return {**_array(value), "minItems": 2, "maxItems": 2} if _plain(column, value) else _PAIR_OF_TEXTS
    return {**_array(value), "minItems": 1, "maxItems": MAX_LIST_ITEMS} if _plain(column, value) else TEXT


def is_comma_list(schema: Schema) -> bool:
    """Whether a parameter of this schema is a comma-separated array."""
    return schema.get("type") == "array"


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _plain(column: ColumnType, value: Schema) -> bool:
    """Whether a value's text can stand between commas as it is."""
    if "enum" in value:
        return not any(character in str(choice) for choice in value["enum"] for character in ",\\")
    return column.scalar.family in _COMMA_FREE or column.name in _COMMA_FREE_TYPES


def _compared(column: ColumnType) -> Schema:
    """A value that a filter compares with: of the type, but of any length and precision."""
    free = {} if column.name in ("bit", "varbit") else {"length": None}
    schema = msgspec.structs.replace(column, array=False, precision=None, scale=None, second_digits=None, **free).schema()
    schema.pop("maxLength", None)
    return schema


# --- filter= -----------------------------------------------------------------------------------------------------------


def filter_value(column: ColumnType) -> Schema:
    """A value of the type in `filter=`, where it is JSON."""
    value = _compared(column)
    return {"type": "array", "items": {"anyOf": [value, NULL]}} if column.array else value


def filter_operand(operator: Operator, column: ColumnType) -> Schema:
    """What `{"field": {"operator": …}}` takes."""
    if operator.arity == "flag":
        return FLAG
    if operator.name in ("like", "ilike"):
        return _LIKE
    return _operand(operator, _element(column) if operator.kind == "element" else filter_value(column))


def _element(column: ColumnType) -> Schema:
    """An element of an array, or a key of a JSON object."""
    return TEXT if column.family is Family.JSON else _compared(column)


def path_operand(operator: Operator) -> Schema:
    """What `{"field.path": {"operator": …}}` takes."""
    if operator.arity == "flag":
        return FLAG
    return _operand(operator, _LIKE if operator.name in ("like", "ilike") else PATH_VALUE)


def _operand(operator: Operator, value: Schema) -> Schema:
    match operator.arity:
        case "pair":
            return {**_array(value), "minItems": 2, "maxItems": 2}
        case "list":
            return {**_array(value), "minItems": 1, "maxItems": MAX_LIST_ITEMS}
        case _:
            return value
