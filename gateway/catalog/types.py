"""PostgreSQL types: how a value comes in, how it goes out, and what may be asked of it. One row of `TYPES` a type.

A value takes four forms: JSON (a body, an answer), text (a URL), *wire* (what the driver sends) and SQL. `load` makes the
wire form from JSON, `parse` from text; both raise `BadValue`, whose message completes "FIELD …" for a person.

Most types travel as text and are cast by PostgreSQL to the column's type, so that no value is reshaped by the driver:
no rounded timestamps, no re-read numerics, no look-up of a user-defined type in each connection. Only booleans, integers,
floats and bytes have a binary wire form. Arrays travel as arrays of text.

The value table of the contract is the source of the JSON forms; OpenAPI schemas are made from the same rows.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from enum import StrEnum
from typing import Any, Literal

import msgspec

Wire = bool | int | float | str | bytes | list[str | None]
"""What the driver is given for one parameter."""

WireKind = Literal["bool", "int2", "int4", "int8", "float8", "text", "bytea"]
JsonForm = Literal["natural", "text", "base64"]
"""How the JSON form is made: by PostgreSQL's own rule, from the text form, or as base64."""


class Family(StrEnum):
    """What may be asked of a value: the operators' table names families, the types' table gives each type one."""

    BOOLEAN = "boolean"
    NUMBER = "number"
    TEXT = "text"
    TIME = "time"
    UUID = "uuid"
    ENUM = "enum"
    BINARY = "binary"
    NETWORK = "network"
    RANGE = "range"
    JSON = "json"
    ARRAY = "array"
    ORDERED = "ordered"
    OTHER = "other"


class BadValue(ValueError):
    """A value that its type does not take. The message completes "FIELD …": "takes an integer"."""


class ColumnType(msgspec.Struct, frozen=True):
    """A column's type with its domains unwound.

    `name` is the row of `TYPES` ("" for a type without one), `sql` the name to cast to, as PostgreSQL itself quotes it and
    without a length (a cast to `varchar(3)` would silently cut). `length` counts characters (or bits), `precision` and
    `scale` are numeric's, `second_digits` the fractional digits that a time keeps. `labels` are an enum's. `domain` is the
    outermost domain's name.
    `ordered` says that the values (or an array's elements) have an order. `json` is YAML's wish for a number's JSON form.
    """

    name: str
    sql: str
    array: bool = False
    length: int | None = None
    precision: int | None = None
    scale: int | None = None
    second_digits: int | None = None
    labels: tuple[str, ...] = ()
    domain: str = ""
    ordered: bool = True
    json: Literal["number", "string"] | None = None

    @property
    def scalar(self) -> Scalar:
        """The row of the type, or of an array's element."""
        return TYPES.get(self.name, OTHER)

    @property
    def family(self) -> Family:
        """What may be asked of the column's values."""
        if self.array:
            return Family.ARRAY if self.ordered else Family.OTHER  # such as json[], whose elements cannot even be compared
        if self.scalar is OTHER and self.ordered:
            return Family.ORDERED
        return self.scalar.family

    @property
    def sortable(self) -> bool:
        """Whether a list can be sorted by the column."""
        return self.family not in UNSORTABLE

    @property
    def wire(self) -> WireKind | Literal["text[]"]:
        """The type that one value has as a parameter, before the cast to the column's."""
        return "text[]" if self.array else self.scalar.wire

    @property
    def json_form(self) -> JsonForm:
        """How an answer's JSON form is made: YAML's wish first, else the type's own."""
        if self.json is None:
            return self.scalar.json
        return "text" if self.json == "string" else "natural"

    def parse(self, text: str) -> Wire:
        """The wire form of a URL's text. Raises BadValue. An array's text is its elements, split by the syntax before."""
        _refuse_nul(text)
        return self.scalar.parse(text, self)

    def load(self, value: Any) -> Wire:
        """The wire form of a JSON value that is not null. Raises BadValue."""
        if self.array:
            return self._load_array(value)
        return self.scalar.load(value, self)

    def taker(self) -> Callable[[Any], Wire]:
        """`load` and then `check_fit` in one, for many values: what the type says of both is asked here, once.

        An array comes out in its text form: of a list the driver asks each element what it is.
        """
        if self.array:
            return self._take_array
        load, check_fit = self.scalar.load, self.scalar.check_fit
        if check_fit is _keep:
            return lambda value: load(value, self)

        def take(value: Any) -> Wire:
            wire = load(value, self)
            check_fit(wire, self)
            return wire

        return take

    def _take_array(self, value: Any) -> str:
        wire = self._load_array(value)
        self.check_fit(wire)
        return as_text(wire)

    def check_fit(self, wire: Wire) -> None:
        """Raises BadValue where the column would cut or round `wire`. Filters need no such check, writes do."""
        check_fit = self.scalar.check_fit
        if not self.array:
            check_fit(wire, self)
        elif check_fit is not _keep and isinstance(wire, list):
            for element in wire:
                if element is not None:
                    check_fit(element, self)

    def schema(self) -> dict[str, Any]:
        """The JSON Schema (2020-12) of a value in a request body."""
        if self.array:
            return {"type": "array", "items": {"anyOf": [self.scalar.schema(self), {"type": "null"}]}}
        return self.scalar.schema(self)

    def answer_schema(self) -> dict[str, Any]:
        """The JSON Schema of a value in an answer: what PostgreSQL may hold, which can be more than a request may send."""
        if self.array:
            return {"type": "array", "items": {}}
        if self.json is not None:
            return {"type": self.json}
        return self.scalar.answer_schema(self)

    def parse_array(self, elements: list[str]) -> Wire:
        """The wire form of an array whose elements are a URL's texts. Raises BadValue."""
        for element in elements:
            _refuse_nul(element)
        return [as_text(self.scalar.parse(element, self)) for element in elements]

    def _load_array(self, value: Any) -> Wire:
        if not isinstance(value, list):
            raise BadValue("takes an array")
        load = self.scalar.load
        wire: list[str | None] = []
        for position, element in enumerate(value):
            try:
                wire.append(None if element is None else as_text(load(element, self)))
            except BadValue as fault:
                raise BadValue(f"has an element at position {position} that is wrong: {fault}") from None
        if self.name == "numeric":
            _check_written_digits([Decimal(element) for element in wire if element is not None])
        return wire


class Scalar(msgspec.Struct, frozen=True):
    """One row: a type that is not an array."""

    family: Family
    wire: WireKind
    parse: Callable[[str, ColumnType], Wire]
    load: Callable[[Any, ColumnType], Wire]
    json: JsonForm
    schema: Callable[[ColumnType], dict[str, Any]]
    check_fit: Callable[[Wire, ColumnType], None]
    answer_schema: Callable[[ColumnType], dict[str, Any]]


UNSORTABLE = frozenset({Family.JSON, Family.OTHER})

_INTEGER = re.compile(r"-?[0-9]{1,40}")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,6})?")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_CLOCK = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
_TIME = re.compile(_CLOCK)
_OFFSET = r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
_TIME_TZ = re.compile(_CLOCK + r"([Zz]|[+-][0-9]{2}(:[0-9]{2}){0,2})")
_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]" + _CLOCK)
_TIMESTAMP_TZ = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?" + _OFFSET)
_AMOUNT = r"[+-]?[0-9]{1,10}"
_INTERVAL = re.compile(
    rf"-?P(?=[-+0-9T])({_AMOUNT}Y)?({_AMOUNT}M)?({_AMOUNT}W)?({_AMOUNT}D)?"
    rf"(T(?=[-+0-9])({_AMOUNT}H)?({_AMOUNT}M)?({_AMOUNT}(\.[0-9]{{1,6}})?S)?)?"
)
_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}")
_MAC8 = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){7}")
_ADDRESS = re.compile(r"[0-9a-fA-F:.]+(/[0-9]{1,3})?")
_BITS = re.compile(r"[01]*")
_BYTE = re.compile(r"[\x01-\x7f]?|\\[0-3][0-7]{2}")
_FRACTION = re.compile(r"\.([0-9]+)")

INTEGER_BITS = {"int2": 16, "int4": 32, "int8": 64}
FLOAT_RANGE = {"float4": (1e-45, 3.4028235e38), "float8": (5e-324, 1.7976931348623157e308)}
NAME_BYTES = 63  # a longer value of type `name` would silently be cut
MAX_WRITTEN_DIGITS = 1_000_000  # of one value's numbers: seven bytes of JSON, 1e9999, are ten thousand in the answer
NUMERIC_DIGITS_BEFORE, NUMERIC_DIGITS_AFTER = 131072, 16383  # PostgreSQL's limits of numeric, table 8.2 of its manual


def _refuse_nul(text: str) -> None:
    if "\0" in text:
        raise BadValue("has the character U+0000, which text cannot hold")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadValue("has a lone surrogate, which is no character") from None


def as_text(wire: Wire) -> str:
    """A wire value in PostgreSQL's text form; a list as an array's."""
    if type(wire) is int:  # which nearly all keys are
        return str(wire)
    match wire:
        case str():
            return wire
        case bool():
            return "true" if wire else "false"
        case bytes():
            return "\\x" + wire.hex()
        case float():
            return repr(wire)
        case list():
            return _array_text([None if element is None else as_text(element) for element in wire])
        case _:
            return str(wire)


def _array_text(elements: list[str | None]) -> str:
    if elements and None not in elements:
        text = '","'.join(elements)  # type: ignore[arg-type]  # `in` narrows nothing
        if "\\" not in text and text.count('"') == 2 * len(elements) - 2:  # then nothing within needs an escape
            return f'{{"{text}"}}'
    return "{" + ",".join("NULL" if element is None else _quoted(element) for element in elements) + "}"


def _quoted(element: str) -> str:
    escaped = element.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _keep(_wire: Wire, _type: ColumnType) -> None:
    """The fit of a type that has no length, precision or scale."""


# --- booleans ----------------------------------------------------------------------------------------------------------


def _parse_boolean(text: str, _type: ColumnType) -> bool:
    if text == "true":
        return True
    if text == "false":
        return False
    raise BadValue("takes true or false")


def _load_boolean(value: Any, _type: ColumnType) -> bool:
    if isinstance(value, bool):
        return value
    raise BadValue("takes true or false")


# --- integers ----------------------------------------------------------------------------------------------------------


def integer_range(type_name: str) -> tuple[int, int]:
    """The least and the greatest value of `int2`, `int4` or `int8`."""
    half = 1 << (INTEGER_BITS[type_name] - 1)
    return -half, half - 1


_RANGES = {name: integer_range(name) for name in INTEGER_BITS}


def certain_digits(column: ColumnType) -> int:
    """How many digits a text may have to be surely a value of the column, whichever they are: `int` reads it as `parse` does. 0
    for a column of no whole numbers."""
    return 0 if column.array or column.name not in _RANGES else len(str(_RANGES[column.name][1])) - 1


def _check_integer(value: int, column: ColumnType) -> int:
    least, greatest = _RANGES[column.name]
    if least <= value <= greatest:
        return value
    raise BadValue(f"takes an integer from {least} to {greatest}")


def _parse_integer(text: str, column: ColumnType) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise BadValue("takes an integer")
    return _check_integer(int(text), column)


def _load_integer(value: Any, column: ColumnType) -> int:
    match value:
        case bool():
            raise BadValue("takes an integer")
        case int():
            return _check_integer(value, column)
        case Decimal() if value.adjusted() < 20 and value == value.to_integral_value():
            return _check_integer(int(value), column)
        case str():
            return _parse_integer(value, column)
        case _:
            raise BadValue("takes an integer")


def _integer_schema(column: ColumnType) -> dict[str, Any]:
    least, greatest = _RANGES[column.name]
    digits = len(str(greatest)) - 1
    return {
        "anyOf": [
            {"type": "integer", "minimum": least, "maximum": greatest},
            {"type": "string", "pattern": f"^-?[0-9]{{1,{digits}}}$"},
        ]
    }


# --- exact numbers -----------------------------------------------------------------------------------------------------


def _parse_numeric(text: str, _type: ColumnType) -> str:
    written = _NUMBER.fullmatch(text)
    if written is None:
        raise BadValue('takes a decimal number, such as "12.30"')
    if written[2] is None and len(text) <= NUMERIC_DIGITS_AFTER:
        return text  # too short to have too many digits
    return _check_numeric(Decimal(text), text)


def _load_numeric(value: Any, column: ColumnType) -> str:
    match value:
        case bool():
            raise BadValue("takes a decimal number")
        case int():
            return _check_numeric(Decimal(value), str(value))
        case Decimal():
            return _check_numeric(value, str(value))
        case str():
            return _parse_numeric(value, column)
        case _:
            raise BadValue("takes a decimal number")


def _check_numeric(value: Decimal, text: str) -> str:
    exponent = value.as_tuple().exponent
    if value.adjusted() >= NUMERIC_DIGITS_BEFORE or (isinstance(exponent, int) and -exponent > NUMERIC_DIGITS_AFTER):
        raise BadValue("has more digits than a decimal number can hold")
    return text


_EXACT = Context(prec=NUMERIC_DIGITS_BEFORE + NUMERIC_DIGITS_AFTER, Emax=MAX_EMAX, Emin=MIN_EMIN)
"""Decimal's own context would round to 28 digits."""


def _fit_numeric(wire: Wire, column: ColumnType) -> None:
    if column.precision is None or column.scale is None:
        return
    text = str(wire)
    before, _, after = text.partition(".")
    if len(before) <= column.precision - column.scale and len(after) <= column.scale and (after or before).isdigit():
        return  # as it is written it fits, and nothing has to be worked out
    value = Decimal(text)
    if not value:
        return
    exponent = value.normalize(_EXACT).as_tuple().exponent
    if isinstance(exponent, int) and -exponent > column.scale:
        raise BadValue(
            f"takes at most {column.scale} digits after the point"
            if column.scale >= 0
            else f"takes multiples of {10**-column.scale}"
        )
    whole = column.precision - column.scale
    if value.adjusted() >= whole:
        raise BadValue(
            f"takes at most {whole} digits before the point" if whole >= 0 else f"takes numbers nearer to zero than 1e{whole}"
        )


def _numeric_schema(column: ColumnType) -> dict[str, Any]:
    if column.precision is None or column.scale is None:
        return {"anyOf": [{"type": "string", "pattern": "^-?[0-9]{1,40}(\\.[0-9]{1,40})?$"}, {"type": "number"}]}
    whole, places = column.precision - column.scale, column.scale
    if places <= 0:
        step = 10**-places
        number: dict[str, Any] = {"type": "integer", "minimum": step - 10**whole, "maximum": 10**whole - step, "multipleOf": step}
    else:
        end = 10**whole if whole >= 0 else float(f"1e{whole}")
        number = {"type": "number", "exclusiveMinimum": -end, "exclusiveMaximum": end, "multipleOf": float(f"1e-{places}")}
    return {"anyOf": [{"type": "string", "pattern": f"^-?{_digits_pattern(column.precision, places)}$"}, number]}


def _digits_pattern(precision: int, scale: int) -> str:
    """The digits that numeric(precision, scale) holds: a negative scale rounds before the point."""
    whole = precision - scale
    if scale < 0:
        return f"(0|[1-9][0-9]{{0,{precision - 1}}}0{{{-scale}}})"
    if whole < 0:
        return f"0(\\.0{{{-whole}}}[0-9]{{1,{precision}}})?"
    return (f"[0-9]{{1,{whole}}}" if whole else "0") + (f"(\\.[0-9]{{1,{scale}}})?" if scale else "")


# --- floating point ----------------------------------------------------------------------------------------------------


def _check_float(value: float, is_zero: bool, column: ColumnType) -> float:
    smallest, greatest = FLOAT_RANGE[column.name]
    magnitude = abs(value)
    if magnitude > greatest or (magnitude < smallest and not is_zero) or value != value:
        raise BadValue("takes a number within the range of floating point")
    return value


def _parse_float(text: str, column: ColumnType) -> float:
    if _NUMBER.fullmatch(text) is None:
        raise BadValue("takes a number")
    return _check_float(float(text), not Decimal(text), column)


def _load_float(value: Any, column: ColumnType) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise BadValue("takes a number")
    try:
        return _check_float(float(value), not value, column)
    except OverflowError:
        raise BadValue("takes a number within the range of floating point") from None


def _float_schema(column: ColumnType) -> dict[str, Any]:
    smallest, greatest = FLOAT_RANGE[column.name]
    schema: dict[str, Any] = {"type": "number", "minimum": -greatest, "maximum": greatest}
    if column.name == "float4":  # a double can be too small for it
        schema["anyOf"] = [{"minimum": smallest}, {"maximum": -smallest}, {"const": 0}]
    return schema


# --- text --------------------------------------------------------------------------------------------------------------


def _load_text(value: Any, column: ColumnType) -> str:
    if not isinstance(value, str):
        raise BadValue("takes a string")
    return _parse_text(value, column)


def _parse_text(text: str, _type: ColumnType) -> str:
    _refuse_nul(text)
    return text


def _fit_text(wire: Wire, column: ColumnType) -> None:
    if column.length is not None and len(str(wire)) > column.length:
        raise BadValue(f"takes at most {column.length} characters")


def _fit_name(wire: Wire, _type: ColumnType) -> None:
    if len(str(wire).encode()) > NAME_BYTES:
        raise BadValue(f"takes at most {NAME_BYTES} bytes")


def _name_schema(_type: ColumnType) -> dict[str, Any]:
    return {"type": "string", "maxLength": NAME_BYTES // 4}  # a schema counts characters, of which each may take four bytes


def _text_schema(column: ColumnType) -> dict[str, Any]:
    return {"type": "string"} if column.length is None else {"type": "string", "maxLength": column.length}


# --- types that are text with a grammar --------------------------------------------------------------------------------


def _grammar(pattern: re.Pattern[str], takes: str, check: Callable[[str], str] = str) -> Callable[[str, ColumnType], str]:
    """A parser of text that matches `pattern` whole; `check` may reject or normalise it further with a ValueError."""

    def parse(text: str, _type: ColumnType) -> str:
        if pattern.fullmatch(text) is None:
            raise BadValue(f"takes {takes}")
        try:
            return check(text)
        except (ValueError, OverflowError):
            raise BadValue(f"takes {takes}") from None

    return parse


_NO_TEXT = "\0"
"""What no type takes: parsed in place of a value that is no string, for the message that says what the type does take."""


def _load_by(parse: Callable[[str, ColumnType], Wire]) -> Callable[[Any, ColumnType], Wire]:
    """The JSON loader of a type whose JSON form is the string that `parse` takes."""

    if parse is _parse_text:
        return _load_text

    def load(value: Any, column: ColumnType) -> Wire:
        if not isinstance(value, str):
            return parse(_NO_TEXT, column)
        _refuse_nul(value)
        return parse(value, column)

    return load


def _check_date(text: str) -> str:
    return date.fromisoformat(text).isoformat()


def _check_timestamp(text: str) -> str:
    return datetime.fromisoformat(text.upper()).isoformat()


def _check_timestamp_tz(text: str) -> str:
    return datetime.fromisoformat(text.upper()).astimezone(UTC).isoformat()


def _check_time(text: str) -> str:
    return time.fromisoformat(text.upper()).isoformat()


def _check_interface(text: str) -> str:
    ipaddress.ip_interface(text)
    return text


def _check_network(text: str) -> str:
    ipaddress.ip_network(text)
    return text


def _with_offset(parse: Callable[[str, ColumnType], str], schema: Callable[[ColumnType], dict[str, Any]]) -> Scalar:
    """A row whose text ends in an offset from UTC.

    In a query string a "+" that was not percent-encoded arrives as a blank: "…T12:00:00 02:00" can only mean an offset.
    """

    def parse_in_url(text: str, column: ColumnType) -> str:
        return parse(f"{text[:-6]}+{text[-5:]}" if text[-6:-5] == " " else text, column)

    return Scalar(Family.TIME, "text", parse_in_url, _load_by(parse), "natural", schema, _fit_time, _string_schema())


def _fit_time(wire: Wire, column: ColumnType) -> None:
    fraction = _FRACTION.search(str(wire))
    if column.second_digits is not None and fraction and len(fraction[1].rstrip("0")) > column.second_digits:
        raise BadValue(f"takes at most {column.second_digits} digits after the seconds' point")


def _parse_enum(text: str, column: ColumnType) -> str:
    if text in column.labels:
        return text
    raise BadValue(f"takes one of {', '.join(column.labels)}")


def _fit_bits(wire: Wire, column: ColumnType) -> None:
    if column.length is not None and len(str(wire)) > column.length:
        raise BadValue(f"takes at most {column.length} bits")


def _fit_fixed_bits(wire: Wire, column: ColumnType) -> None:
    if len(str(wire)) != (column.length or 1):
        raise BadValue(f"takes exactly {column.length or 1} bits")


def _string_schema(**keywords: Any) -> Callable[[ColumnType], dict[str, Any]]:
    return lambda _type: {"type": "string", **keywords}


_DAY = (
    "(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})-"
    "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
)
"""A day of the years 1 to 9999, but for 29 February, of which a pattern cannot tell in which years it is."""
_OF_DAY = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"


def _fraction_pattern(column: ColumnType) -> str:
    digits = 6 if column.second_digits is None else column.second_digits
    return f"(\\.[0-9]{{1,{digits}}})?" if digits else ""


def _timestamp_schema(column: ColumnType) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{_DAY}T{_OF_DAY}{_fraction_pattern(column)}$"}


def _timestamp_tz_schema(column: ColumnType) -> dict[str, Any]:
    return {"type": "string", "format": "date-time", "pattern": f":[0-5][0-9]{_fraction_pattern(column)}([Zz]|[+-][0-9:]{{5}})$"}


def _time_schema(column: ColumnType) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{_OF_DAY}{_fraction_pattern(column)}$"}


def _time_tz_schema(column: ColumnType) -> dict[str, Any]:
    offset = "(Z|[+-](0[0-9]|1[0-3]):[0-5][0-9])"
    return {"type": "string", "pattern": f"^{_OF_DAY}{_fraction_pattern(column)}{offset}$"}


def _bits_schema(column: ColumnType) -> dict[str, Any]:
    least, greatest = (column.length or 1, column.length or 1) if column.name == "bit" else (1, column.length or "")
    return {"type": "string", "pattern": f"^[01]{{{least},{greatest}}}$"}


# --- bytes and JSON ----------------------------------------------------------------------------------------------------


def _parse_bytes(text: str, _type: ColumnType) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadValue("takes base64") from None


_encode_json = msgspec.json.Encoder(decimal_format="number").encode


def _load_json(value: Any, _type: ColumnType) -> str:
    try:
        _refuse_nul_within(value)
        encoded = _encode_json(value).decode()
        if "E" in encoded:  # which a Decimal of many zeros has
            _check_written_digits(value)
    except RecursionError:
        raise BadValue("is nested too deeply") from None
    except UnicodeEncodeError:
        raise BadValue("has a lone surrogate, which is no character") from None
    return encoded


def _check_written_digits(value: Any) -> None:
    if _written_digits(value) > MAX_WRITTEN_DIGITS:
        raise BadValue(f"has numbers that together have more than {MAX_WRITTEN_DIGITS} digits when they are written out")


def _written_digits(value: Any) -> int:
    """The digits of all numbers within, in the plain notation that PostgreSQL answers with."""
    match value:
        case Decimal():
            return abs(value.adjusted()) + len(value.as_tuple().digits)
        case list():
            return sum(map(_written_digits, value))
        case dict():
            return sum(map(_written_digits, value.values()))
        case _:
            return 0


def _refuse_nul_within(value: Any) -> None:
    match value:
        case str():
            _refuse_nul(value)
        case Decimal():
            _check_numeric(value, "")
        case list():
            for element in value:
                _refuse_nul_within(element)
        case dict():
            for key, element in value.items():
                _refuse_nul(key)
                _refuse_nul_within(element)


def _parse_json(text: str, _type: ColumnType) -> str:
    raise BadValue("takes null, has, any and all, or a path such as field.key")


# --- the table ---------------------------------------------------------------------------------------------------------


def _textual(
    family: Family,
    parse: Callable[[str, ColumnType], Wire],
    schema: Callable[[ColumnType], dict[str, Any]],
    check_fit: Callable[[Wire, ColumnType], None] = _keep,
    json: JsonForm = "text",
    answer_schema: Callable[[ColumnType], dict[str, Any]] = _string_schema(),  # noqa: B008 - a constant function
) -> Scalar:
    return Scalar(family, "text", parse, _load_by(parse), json, schema, check_fit, answer_schema)


def _integer(wire: WireKind) -> Scalar:
    def answer_schema(column: ColumnType) -> dict[str, Any]:
        least, greatest = _RANGES[column.name]
        return {"type": "integer", "minimum": least, "maximum": greatest}

    return Scalar(Family.NUMBER, wire, _parse_integer, _load_integer, "natural", _integer_schema, _keep, answer_schema)


def _float() -> Scalar:
    def answer_schema(_type: ColumnType) -> dict[str, Any]:
        return {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}

    return Scalar(Family.NUMBER, "float8", _parse_float, _load_float, "natural", _float_schema, _keep, answer_schema)


def _enum_schema(column: ColumnType) -> dict[str, Any]:
    return {"type": "string", "enum": list(column.labels)}


_TEXT = _textual(Family.TEXT, _parse_text, _text_schema, _fit_text, "natural")
_RANGE = _textual(Family.RANGE, _parse_text, _string_schema())
_TIMESTAMP_ROW = _textual(
    Family.TIME,
    _grammar(_TIMESTAMP, 'a date and time without an offset (ISO 8601), such as "2024-05-01T12:00:00"', _check_timestamp),
    _timestamp_schema,
    _fit_time,
    "natural",
)
_JSON = Scalar(Family.JSON, "text", _parse_json, _load_json, "natural", lambda _: {}, _keep, lambda _: {})

TYPES: dict[str, Scalar] = {
    "bool": Scalar(
        Family.BOOLEAN,
        "bool",
        _parse_boolean,
        _load_boolean,
        "natural",
        lambda _: {"type": "boolean"},
        _keep,
        lambda _: {"type": "boolean"},
    ),
    "int2": _integer("int2"),
    "int4": _integer("int4"),
    "int8": _integer("int8"),
    "numeric": Scalar(
        Family.NUMBER, "text", _parse_numeric, _load_numeric, "text", _numeric_schema, _fit_numeric, _string_schema()
    ),
    "float4": _float(),
    "float8": _float(),
    "text": _TEXT,
    "varchar": _TEXT,
    "bpchar": _TEXT,
    "citext": _TEXT,
    "name": _textual(Family.TEXT, _parse_text, _name_schema, _fit_name, "natural"),
    "char": _textual(Family.ORDERED, _grammar(_BYTE, "one character of ASCII"), _string_schema(pattern="^[ -~]?$")),
    "uuid": _textual(Family.UUID, _grammar(_UUID, "a UUID"), _string_schema(format="uuid"), json="natural"),
    "enum": _textual(Family.ENUM, _parse_enum, _enum_schema, json="natural", answer_schema=_enum_schema),
    "date": _textual(
        Family.TIME,
        _grammar(_DATE, 'a date (ISO 8601), such as "2024-05-01"', _check_date),
        _string_schema(format="date"),
        json="natural",
    ),
    "timestamp": _TIMESTAMP_ROW,
    "timestamptz": _with_offset(
        _grammar(_TIMESTAMP_TZ, 'a time with an offset (RFC 3339), such as "2024-05-01T12:00:00Z"', _check_timestamp_tz),
        _timestamp_tz_schema,
    ),
    "time": _textual(
        Family.TIME,
        _grammar(_TIME, 'a time of day (ISO 8601), such as "12:00:00"', _check_time),
        _time_schema,
        _fit_time,
        "natural",
    ),
    "timetz": _with_offset(
        _grammar(_TIME_TZ, 'a time of day with an offset, such as "12:00:00+02:00"', _check_time), _time_tz_schema
    ),
    "interval": _textual(
        Family.TIME,
        _grammar(_INTERVAL, 'a duration (ISO 8601), such as "P1DT2H"'),
        _string_schema(pattern="^P[0-9]{1,6}DT[0-9]{1,6}H[0-9]{1,6}M[0-9]{1,6}S$"),
    ),
    "inet": _textual(
        Family.NETWORK,
        _grammar(_ADDRESS, "an IP address", _check_interface),
        _string_schema(format="ipv4"),
        json="natural",  # a cast to text would add a /32 that was not sent
    ),
    "cidr": _textual(
        Family.NETWORK, _grammar(_ADDRESS, "a network, such as 10.0.0.0/8", _check_network), _string_schema(format="ipv4")
    ),
    "macaddr": _textual(
        Family.NETWORK, _grammar(_MAC, "a MAC address"), _string_schema(pattern="^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")
    ),
    "macaddr8": _textual(
        Family.NETWORK, _grammar(_MAC8, "an EUI-64 address"), _string_schema(pattern="^[0-9a-f]{2}(:[0-9a-f]{2}){7}$")
    ),
    "bit": _textual(Family.ORDERED, _grammar(_BITS, "bits, such as 0101"), _bits_schema, _fit_fixed_bits),
    "varbit": _textual(Family.ORDERED, _grammar(_BITS, "bits, such as 0101"), _bits_schema, _fit_bits),
    "bytea": Scalar(
        Family.BINARY,
        "bytea",
        _parse_bytes,
        _load_by(_parse_bytes),
        "base64",
        _string_schema(contentEncoding="base64", pattern="^([A-Za-z0-9+/]{4})*$"),
        _keep,
        _string_schema(contentEncoding="base64"),
    ),
    "json": _JSON,
    "jsonb": _JSON,
    "range": _RANGE,
    "multirange": _RANGE,
}
"""A row for each type by its name in `pg_type`; `enum`, `range` and `multirange` stand for all types of their kind."""

OTHER = _textual(Family.OTHER, _parse_text, _string_schema())
"""The row of every type that has none: its text form, in and out."""
