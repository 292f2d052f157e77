"""The value table: what each type takes from JSON and from a URL, what it refuses, and that nothing is lost on the way."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.catalog.types import FLOAT_RANGE, OTHER, TYPES, UNSORTABLE, BadValue, ColumnType, Family, as_text, integer_range
from gateway.query.strict_json import decode_json
from tests.examples import examples

PROPERTY = settings(
    max_examples=examples(60),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
)

ROWS: dict[str, ColumnType] = {
    "bool": ColumnType("bool", "boolean"),
    "int2": ColumnType("int2", "smallint"),
    "int4": ColumnType("int4", "integer"),
    "int8": ColumnType("int8", "bigint"),
    "numeric": ColumnType("numeric", "numeric"),
    "float4": ColumnType("float4", "real"),
    "float8": ColumnType("float8", "double precision"),
    "text": ColumnType("text", "text"),
    "varchar": ColumnType("varchar", "character varying", length=5),
    "bpchar": ColumnType("bpchar", "bpchar", length=3),
    "citext": ColumnType("citext", "citext"),
    "name": ColumnType("name", "text"),
    "uuid": ColumnType("uuid", "uuid"),
    "enum": ColumnType("enum", "mood", labels=("sad", "o,k", "")),
    "date": ColumnType("date", "date"),
    "timestamp": ColumnType("timestamp", "timestamp without time zone"),
    "timestamptz": ColumnType("timestamptz", "timestamp with time zone"),
    "time": ColumnType("time", "time without time zone"),
    "timetz": ColumnType("timetz", "time with time zone"),
    "interval": ColumnType("interval", "interval"),
    "inet": ColumnType("inet", "inet"),
    "cidr": ColumnType("cidr", "cidr"),
    "macaddr": ColumnType("macaddr", "macaddr"),
    "macaddr8": ColumnType("macaddr8", "macaddr8"),
    "char": ColumnType("char", '"char"'),
    "bit": ColumnType("bit", "bit varying", length=4),
    "varbit": ColumnType("varbit", "bit varying", length=6),
    "bytea": ColumnType("bytea", "bytea"),
    "json": ColumnType("json", "json", ordered=False),
    "jsonb": ColumnType("jsonb", "jsonb"),
    "range": ColumnType("range", "int4range"),
    "multirange": ColumnType("multirange", "int4multirange"),
}
"""One column for each row of `TYPES`."""

MORE: dict[str, ColumnType] = {
    "numeric(12,2)": ColumnType("numeric", "numeric", precision=12, scale=2),
    "numeric(5,0)": ColumnType("numeric", "numeric", precision=5, scale=0),
    "numeric(3,3)": ColumnType("numeric", "numeric", precision=3, scale=3),
    "numeric(2,5)": ColumnType("numeric", "numeric", precision=2, scale=5),
    "numeric(5,-2)": ColumnType("numeric", "numeric", precision=5, scale=-2),
    "numeric(38,4)": ColumnType("numeric", "numeric", precision=38, scale=4),
    "timestamptz(3)": ColumnType("timestamptz", "timestamp with time zone", second_digits=3),
    "timestamptz(0)": ColumnType("timestamptz", "timestamp with time zone", second_digits=0),
    "timestamp(0)": ColumnType("timestamp", "timestamp without time zone", second_digits=0),
    "time(1)": ColumnType("time", "time without time zone", second_digits=1),
    "timetz(0)": ColumnType("timetz", "time with time zone", second_digits=0),
    "bit": ColumnType("bit", "bit varying"),
    "varbit": ColumnType("varbit", "bit varying"),
    "text[]": ColumnType("text", "text", array=True),
    "varchar(5)[]": ColumnType("varchar", "character varying", array=True, length=5),
    "int4[]": ColumnType("int4", "integer", array=True),
    "numeric(12,2)[]": ColumnType("numeric", "numeric", array=True, precision=12, scale=2),
    "bool[]": ColumnType("bool", "boolean", array=True),
    "bytea[]": ColumnType("bytea", "bytea", array=True),
    "float4[]": ColumnType("float4", "real", array=True),
    "timestamptz[]": ColumnType("timestamptz", "timestamp with time zone", array=True),
    "jsonb[]": ColumnType("jsonb", "jsonb", array=True),
    "tsvector": ColumnType("tsvector", "tsvector"),
    "point": ColumnType("point", "point", ordered=False),
    "int8 as string": ColumnType("int8", "bigint", json="string"),
}

ALL = {**ROWS, **MORE}
REFUSED = object()

TEXTS: list[tuple[str, str, Any]] = [
    ("bool", "true", True),
    ("bool", "false", False),
    ("bool", "t", REFUSED),
    ("bool", "True", REFUSED),
    ("bool", "", REFUSED),
    ("int2", "32767", 32767),
    ("int2", "-32768", -32768),
    ("int2", "32768", REFUSED),
    ("int4", "-2147483649", REFUSED),
    ("int8", "9223372036854775807", 9223372036854775807),
    ("int8", "9223372036854775808", REFUSED),
    ("int8", "1" * 500, REFUSED),
    ("int8", "-0", 0),
    ("int8", "007", 7),
    ("int8", "１", REFUSED),
    ("numeric", "12.30", "12.30"),
    ("numeric", "-0.000000000000000000000000000001", "-0.000000000000000000000000000001"),
    ("numeric", "1e5", "1e5"),
    ("numeric", "1E-5", "1E-5"),
    ("numeric", "9" * 131072, "9" * 131072),
    ("numeric", "9" * 131073, REFUSED),
    ("numeric", "1e131071", "1e131071"),
    ("numeric", "1e131072", REFUSED),
    ("numeric", "0." + "0" * 16382 + "1", "0." + "0" * 16382 + "1"),
    ("numeric", "0." + "0" * 16383 + "1", REFUSED),
    ("numeric", "1e1000000", REFUSED),
    ("numeric", "nan", REFUSED),
    ("numeric", "inf", REFUSED),
    ("numeric", ".5", REFUSED),
    ("numeric", "5.", REFUSED),
    ("numeric", "1,000", REFUSED),
    ("float4", "0.1", 0.1),
    ("float4", "3.4028235e38", 3.4028235e38),
    ("float4", "3.5e38", REFUSED),
    ("float4", "1e-46", REFUSED),
    ("float8", "1.7976931348623157e308", 1.7976931348623157e308),
    ("float8", "1e309", REFUSED),
    ("float8", "1e-400", REFUSED),
    ("float8", "0e-400", 0.0),
    ("float8", "-0", 0.0),
    ("float8", "NaN", REFUSED),
    ("float8", "Infinity", REFUSED),
    ("text", "", ""),
    ("text", "😀 é '\"\\", "😀 é '\"\\"),
    ("text", "a\0", REFUSED),
    ("varchar", "longer than five", "longer than five"),
    ("uuid", "6f9619ff-8b86-d011-b42d-00c04fc964ff", "6f9619ff-8b86-d011-b42d-00c04fc964ff"),
    ("uuid", "6f9619ff8b86d011b42d00c04fc964ff", REFUSED),
    ("uuid", "6f9619ff-8b86-d011-b42d-00c04fc964ff\n", REFUSED),
    ("enum", "o,k", "o,k"),
    ("enum", "", ""),
    ("enum", "SAD", REFUSED),
    ("date", "2024-02-29", "2024-02-29"),
    ("date", "0001-01-01", "0001-01-01"),
    ("date", "9999-12-31", "9999-12-31"),
    ("date", "2023-02-29", REFUSED),
    ("date", "10000-01-01", REFUSED),
    ("date", "20240229", REFUSED),
    ("date", "2024-W05-1", REFUSED),
    ("date", "today", REFUSED),
    ("date", "infinity", REFUSED),
    ("timestamp", "2024-05-01T12:00", "2024-05-01T12:00:00"),
    ("timestamp", "2024-05-01 12:00:00.123456", "2024-05-01T12:00:00.123456"),
    ("timestamp", "2024-05-01T12:00:00.1234567", REFUSED),
    ("timestamp", "2024-05-01T12:00:00Z", REFUSED),
    ("timestamp", "now", REFUSED),
    ("timestamptz", "2024-05-01T12:00:00Z", "2024-05-01T12:00:00+00:00"),
    ("timestamptz", "2024-05-01t12:00:00z", "2024-05-01T12:00:00+00:00"),
    ("timestamptz", "2024-05-01T12:00:00.5-05:30", "2024-05-01T17:30:00.500000+00:00"),
    ("timestamptz", "2024-05-01T12:00:00 02:00", "2024-05-01T10:00:00+00:00"),
    ("timestamptz", "2024-05-01T12:00:00", REFUSED),
    ("timestamptz", "2024-05-01T12:00Z", REFUSED),
    ("timestamptz", "2024-05-01T12:00:60Z", REFUSED),
    ("timestamptz", "2024-05-01T12:00:00+24:00", REFUSED),
    ("timestamptz", "2024-05-01T12:00:00.1234567Z", REFUSED),
    ("timestamptz", "0001-01-01T00:00:00+01:00", REFUSED),
    ("timestamptz", "9999-12-31T23:59:59-01:00", REFUSED),
    ("timestamptz", "infinity", REFUSED),
    ("time", "23:59:59.999999", "23:59:59.999999"),
    ("time", "24:00:00", REFUSED),
    ("time", "12", REFUSED),
    ("timetz", "12:00:00+02:00", "12:00:00+02:00"),
    ("timetz", "12:00:00 02:00", "12:00:00+02:00"),
    ("timetz", "12:00:00Z", "12:00:00+00:00"),
    ("timetz", "12:00:00", REFUSED),
    ("interval", "P1Y2M3W4DT5H6M7.5S", "P1Y2M3W4DT5H6M7.5S"),
    ("interval", "-P1D", "-P1D"),
    ("interval", "PT-1H", "PT-1H"),
    ("interval", "P", REFUSED),
    ("interval", "PT", REFUSED),
    ("interval", "P1DT", REFUSED),
    ("interval", "1 day", REFUSED),
    ("interval", "P1.5D", REFUSED),
    ("inet", "10.0.0.1", "10.0.0.1"),
    ("inet", "10.0.0.1/8", "10.0.0.1/8"),
    ("inet", "2001:db8::1", "2001:db8::1"),
    ("inet", "10.0.0.256", REFUSED),
    ("inet", "10.0.0.1/33", REFUSED),
    ("inet", "fe80::1%eth0", REFUSED),
    ("cidr", "10.0.0.0/8", "10.0.0.0/8"),
    ("cidr", "10.0.0.1/8", REFUSED),
    ("macaddr", "08:00:2b:01:02:03", "08:00:2b:01:02:03"),
    ("macaddr", "08-00-2B-01-02-03", "08-00-2B-01-02-03"),
    ("macaddr", "08:00:2b:01:02", REFUSED),
    ("macaddr8", "08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03:04:05"),
    ("macaddr8", "08:00:2b:01:02:03", REFUSED),
    ("char", "x", "x"),
    ("char", "", ""),
    ("char", "xy", REFUSED),
    ("char", "é", REFUSED),
    ("bit", "0101", "0101"),
    ("bit", "", ""),
    ("bit", "012", REFUSED),
    ("varbit", "01", "01"),
    ("varbit", "0b1", REFUSED),
    ("bytea", "aGk=", b"hi"),
    ("bytea", "", b""),
    ("bytea", "aGk", REFUSED),
    ("bytea", "aG k=", REFUSED),
    ("bytea", "é", REFUSED),
    ("json", "{}", REFUSED),
    ("jsonb", "1", REFUSED),
    ("range", "[1,2)", "[1,2)"),
    ("range", "a\0", REFUSED),
    ("multirange", "{[1,2)}", "{[1,2)}"),
]
"""(type, a URL's text, the wire value or REFUSED)."""

JSONS: list[tuple[str, str, Any]] = [
    ("bool", "true", True),
    ("bool", "1", REFUSED),
    ("bool", '"true"', REFUSED),
    ("int2", "-32768", -32768),
    ("int2", "32768", REFUSED),
    ("int4", "1.0", 1),
    ("int4", "1e2", 100),
    ("int4", '"12"', 12),
    ("int4", '"12.0"', REFUSED),
    ("int4", "true", REFUSED),
    ("int4", "1.5", REFUSED),
    ("int4", "1e999999999", REFUSED),
    ("int4", "1e-999999999", REFUSED),
    ("int8", "9223372036854775807", 9223372036854775807),
    ("int8", '"9223372036854775807"', 9223372036854775807),
    ("int8", "9223372036854775808", REFUSED),
    ("int8", "9223372036854775808.0", REFUSED),
    ("numeric", "0.10", "0.10"),
    ("numeric", '"0.10"', "0.10"),
    ("numeric", "123456789012345678901234567890.123456789", "123456789012345678901234567890.123456789"),
    ("numeric", "1e2", "1E+2"),
    ("numeric", "1e999999999", REFUSED),
    ("numeric", "1e-999999999", REFUSED),
    ("numeric", '"1e999999"', REFUSED),
    ("numeric", "false", REFUSED),
    ("numeric", '"NaN"', REFUSED),
    ("numeric", '""', REFUSED),
    ("float4", "0.1", 0.1),
    ("float4", "1e39", REFUSED),
    ("float8", "1", 1.0),
    ("float8", "1e309", REFUSED),
    ("float8", "1" + "0" * 400, REFUSED),
    ("float8", '"1"', REFUSED),
    ("text", '"a"', "a"),
    ("text", "1", REFUSED),
    ("text", '"\\u0000"', REFUSED),
    ("text", '"\\ud800"', REFUSED),
    ("text", '"\\ud83d\\ude00"', "😀"),
    ("uuid", "1", REFUSED),
    ("enum", '""', ""),
    ("enum", "1", REFUSED),
    ("enum", "null", REFUSED),
    ("date", '"2024-05-01"', "2024-05-01"),
    ("date", "20240501", REFUSED),
    ("timestamptz", '"2024-05-01T12:00:00+02:00"', "2024-05-01T10:00:00+00:00"),
    ("timestamptz", '"2024-05-01T12:00:00 02:00"', REFUSED),
    ("timestamptz", "1714564800", REFUSED),
    ("timetz", '"12:00:00 02:00"', REFUSED),
    ("interval", "1", REFUSED),
    ("inet", "[]", REFUSED),
    ("bit", "101", REFUSED),
    ("bytea", '"aGk="', b"hi"),
    ("bytea", "5", REFUSED),
    ("bytea", "{}", REFUSED),
    ("json", '{"b": 1, "a": [1.50, null]}', '{"b":1,"a":[1.50,null]}'),
    ("jsonb", '"x"', '"x"'),
    ("jsonb", "false", "false"),
    ("jsonb", '["\\u0000"]', REFUSED),
    ("jsonb", '{"a": "\\udfff"}', REFUSED),
    ("jsonb", "1e999999999", REFUSED),
    ("jsonb", "99999999999999999999999.000000000000000000000001", "99999999999999999999999.000000000000000000000001"),
    ("range", "5", REFUSED),
]
"""(type, JSON text, the wire value or REFUSED)."""


def taken(call: Any, value: Any) -> Any:
    try:
        return call(value)
    except BadValue as refused:
        return REFUSED if str(refused) else refused


@pytest.mark.parametrize(("name", "text", "wire"), TEXTS, ids=[f"{name} {text[:40]}" for name, text, _ in TEXTS])
def test_a_urls_text_is_taken_exactly_or_refused(name: str, text: str, wire: Any) -> None:
    found = taken(ROWS[name].parse, text)
    assert found is wire if wire is REFUSED else (found == wire and type(found) is type(wire))


@pytest.mark.parametrize(("name", "text", "wire"), JSONS, ids=[f"{name} {text[:40]}" for name, text, _ in JSONS])
def test_a_json_value_is_taken_exactly_or_refused(name: str, text: str, wire: Any) -> None:
    found = taken(ROWS[name].load, decode_json(text))
    assert found is wire if wire is REFUSED else (found == wire and type(found) is type(wire))


def test_every_row_has_a_column_and_examples_taken_and_refused() -> None:
    assert set(ROWS) == set(TYPES)
    found = {(name, wire is REFUSED) for name, _, wire in (*TEXTS, *JSONS)}
    assert found >= {(name, refused) for name in TYPES for refused in (True, False) if name not in WITH_ROW_OF_TEXT}


WITH_ROW_OF_TEXT = frozenset({"varchar", "bpchar", "citext", "name", "range", "multirange"})
"""Types that take what text takes: its examples stand for theirs."""


@pytest.mark.parametrize("name", list(ROWS))
@pytest.mark.parametrize("value", [{}, [], [1], {"a": 1}])
def test_a_container_is_no_value_of_a_scalar(name: str, value: Any) -> None:
    if ROWS[name].family is not Family.JSON:
        with pytest.raises(BadValue):
            ROWS[name].load(value)


@pytest.mark.parametrize("name", list(ROWS))
def test_no_type_takes_a_text_with_the_character_zero(name: str) -> None:
    for value in ("\0", "a\0b", "\ud800"):
        with pytest.raises(BadValue):
            ROWS[name].parse(value)
        with pytest.raises(BadValue):
            ROWS[name].load(value)


# --- fit ---------------------------------------------------------------------------------------------------------------

FITS: list[tuple[str, Any, bool]] = [
    ("numeric(12,2)", "1.23", True),
    ("numeric(12,2)", "1.2300", True),
    ("numeric(12,2)", "9999999999.99", True),
    ("numeric(12,2)", "10000000000", False),
    ("numeric(12,2)", "1.234", False),
    ("numeric(12,2)", "0.000", True),
    ("numeric(12,2)", "1e9", True),
    ("numeric(12,2)", "1e10", False),
    ("numeric(38,4)", "1234567890123456789012345678901234.1234", True),
    ("numeric(38,4)", "1234567890123456789012345678901234.12345", False),
    ("numeric(38,4)", "1234567890123456789012345678901234.12340", True),
    ("numeric(5,0)", "1.5", False),
    ("numeric(5,0)", "1.0", True),
    ("numeric(3,3)", "0.123", True),
    ("numeric(3,3)", "1", False),
    ("numeric(2,5)", "0.00012", True),
    ("numeric(2,5)", "0.00112", False),
    ("numeric(2,5)", "0.00100", False),
    ("numeric(5,-2)", "1234500", True),
    ("numeric(5,-2)", "1234550", False),
    ("numeric(5,-2)", "12345600", False),
    ("timestamptz(3)", "2024-05-01T12:00:00.123000+00:00", True),
    ("timestamptz(3)", "2024-05-01T12:00:00.123400+00:00", False),
    ("timestamp(0)", "2024-05-01T12:00:00.100000", False),
    ("time(1)", "12:00:00.100000", True),
    ("name", "😀" * 15, True),
    ("name", "😀" * 16, False),
    ("varchar(5)[]", ["12345", None], True),
    ("varchar(5)[]", ["123456"], False),
    ("numeric(12,2)[]", ["1.234"], False),
    ("bit", "1", True),
    ("bit", "01", False),
    ("varbit", "0" * 1000, True),
]


@pytest.mark.parametrize(("name", "wire", "fits"), FITS)
def test_a_value_that_the_column_would_round_or_cut_does_not_fit(name: str, wire: Any, fits: bool) -> None:
    assert (taken(ALL[name].check_fit, wire) is not REFUSED) == fits


def test_lengths_count_characters_not_bytes() -> None:
    ROWS["varchar"].check_fit("😀" * 5)
    with pytest.raises(BadValue, match="at most 5 characters"):
        ROWS["varchar"].check_fit("😀" * 6)


@PROPERTY
@given(
    st.sampled_from((None, 0, 1, 2, 6)).flatmap(
        lambda places: st.decimals(allow_nan=False, allow_infinity=False, places=places, min_value=-(10**13), max_value=10**13)
    )
)
def test_a_decimal_that_fits_is_stored_unchanged_and_one_that_does_not_would_not_be(value: Decimal) -> None:
    column = MORE["numeric(12,2)"]
    unchanged = value == value.quantize(Decimal("0.01")) and abs(value) < 10**10
    assert (taken(column.check_fit, column.load(value)) is not REFUSED) == unchanged


# --- arrays ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "wire"),
    [
        ("text[]", ["a", None, ""], ["a", None, ""]),
        ("text[]", [], []),
        ("int4[]", [1, "2", None], ["1", "2", None]),
        ("bool[]", [True, False], ["true", "false"]),
        ("bytea[]", ["aGk=", ""], ["\\x6869", "\\x"]),
        ("float4[]", [Decimal("0.5"), 1], ["0.5", "1.0"]),
        ("numeric(12,2)[]", [Decimal("0.10")], ["0.10"]),
        ("jsonb[]", [{"a": 1}, None], ['{"a":1}', None]),
    ],
)
def test_an_array_travels_as_an_array_of_text(name: str, value: Any, wire: Any) -> None:
    assert MORE[name].load(value) == wire
    assert MORE[name].wire == "text[]"


@PROPERTY
@given(st.lists(st.one_of(st.none(), st.text('ab\\",{} \n', max_size=4)), max_size=4))
def test_the_text_form_of_an_array_quotes_each_element(elements: list[str | None]) -> None:
    quoted = [
        "NULL" if text is None else '"' + "".join(f"\\{each}" if each in '"\\' else each for each in text) + '"'
        for text in elements
    ]
    assert as_text(elements) == "{" + ",".join(quoted) + "}"


@pytest.mark.parametrize("value", ["a", 1, {}, True, [["a"]], [1], ["a\0"]])
def test_what_is_no_array_of_the_element_is_refused(value: Any) -> None:
    with pytest.raises(BadValue):
        MORE["text[]"].load(value)


def test_an_arrays_fault_names_its_position() -> None:
    with pytest.raises(BadValue, match="position 2 that is wrong: takes an integer"):
        MORE["int4[]"].load([1, None, "x"])


# --- families ----------------------------------------------------------------------------------------------------------


def test_every_family_is_some_types() -> None:
    assert {column.family for column in (*ROWS.values(), *MORE.values())} == set(Family)


def test_an_array_of_what_has_no_order_is_taken_and_given_and_nothing_else() -> None:
    unordered = ColumnType("json", "json", array=True, ordered=False)
    assert unordered.family is Family.OTHER
    assert not unordered.sortable
    assert unordered.load([{"a": 1}]) == ['{"a":1}']


def test_what_sorts_is_what_has_an_order() -> None:
    for column in (*ROWS.values(), *MORE.values()):
        assert column.sortable == (column.family not in UNSORTABLE)


def test_a_type_without_a_row_is_served_by_its_text() -> None:
    assert MORE["point"].scalar is OTHER
    assert MORE["point"].load("(1,2)") == "(1,2)"
    assert (MORE["point"].family, MORE["tsvector"].family) == (Family.OTHER, Family.ORDERED)


def test_yamls_wish_decides_a_numbers_json_form() -> None:
    assert ROWS["int8"].json_form == "natural"
    assert MORE["int8 as string"].json_form == "text"
    assert ColumnType("numeric", "numeric", json="number").json_form == "natural"


# --- schemas -----------------------------------------------------------------------------------------------------------


def candidates(column: ColumnType) -> st.SearchStrategy[Any]:
    """Values that may well match the type's schema: what its patterns give, and what its kind looks like."""
    schema = column.schema()
    if column.array:
        inner = candidates(ColumnType(**{name: getattr(column, name) for name in column.__struct_fields__} | {"array": False}))
        return st.lists(st.one_of(st.none(), inner), max_size=4)
    found = list(_strategies(schema))
    if column.name in LIKELY:
        found.append(LIKELY[column.name])
    return st.one_of(found)


def _strategies(schema: dict[str, Any]) -> Iterator[st.SearchStrategy[Any]]:
    for alternative in schema.get("anyOf", ()) if "type" not in schema else ():
        yield from _strategies(alternative)
    if "pattern" in schema and "format" not in schema:
        yield st.from_regex(schema["pattern"])
    if "enum" in schema:
        yield st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "boolean":
            yield st.booleans()
        case "integer":
            yield st.integers(schema.get("minimum"), schema.get("maximum"))
            yield st.integers(-1000, 1000).map(float)
        case "number":
            yield st.floats(allow_nan=False, allow_infinity=False)
            yield st.decimals(-(10**9), 10**9, places=2).map(float)
            yield st.integers(-(10**12), 10**12)
        case "string" if "pattern" not in schema and "enum" not in schema and "format" not in schema:
            yield st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


OFFSETS = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=st.one_of(st.just(UTC), OFFSETS))
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text("aé😀", max_size=3)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text("ab", max_size=2), inner, max_size=3)),
    max_leaves=6,
)
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "uuid": st.uuids().map(str),
    "date": st.dates().map(str),
    "timestamptz": st.one_of(
        MOMENTS.map(lambda moment: moment.isoformat()),
        MOMENTS.map(lambda moment: f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"),
        MOMENTS.map(lambda moment: f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}9Z"),
        MOMENTS.map(lambda moment: f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}z".lower()),
    ),
    "inet": st.ip_addresses(v=4).map(str),
    "cidr": st.ip_addresses(v=4).map(str),
    "bytea": st.binary(max_size=9).map(lambda content: base64.b64encode(content).decode()),
    "json": JSON_VALUES,
    "jsonb": JSON_VALUES,
}


@pytest.mark.hypothesis
@pytest.mark.parametrize("name", list(ALL))
def test_every_value_that_a_schema_accepts_is_taken(name: str) -> None:
    column = ALL[name]
    validator = jsonschema_rs.Draft202012Validator(column.schema(), validate_formats=True)
    reached = 0

    @PROPERTY
    @given(candidates(column))
    def check(value: Any) -> None:
        nonlocal reached
        if value is None or not validator.is_valid(value):
            return
        reached += 1
        column.check_fit(column.load(decode_json(json.dumps(value))))

    check()
    assert reached >= (20 if column.name not in ("bool", "enum", "bit") else 2)


@pytest.mark.hypothesis
@pytest.mark.parametrize("name", list(ALL))
def test_a_taker_gives_what_is_loaded_where_that_fits_and_refuses_in_the_same_words(name: str) -> None:
    column = ALL[name]
    take = column.taker()

    @PROPERTY
    @given(candidates(column).filter(lambda value: value is not None))
    def check(value: Any) -> None:
        found = decode_json(json.dumps(value))
        try:
            wire = column.load(found)
            column.check_fit(wire)
        except BadValue as fault:
            with pytest.raises(BadValue, match=re.escape(str(fault))):
                take(found)
        else:
            assert take(found) == (as_text(wire) if column.array else wire)

    check()


@pytest.mark.parametrize("name", list(ALL))
def test_no_schema_accepts_a_value_of_another_kind(name: str) -> None:
    column = ALL[name]
    validator = jsonschema_rs.Draft202012Validator(column.schema(), validate_formats=True)
    kinds: tuple[Any, ...] = (True, 1, 1.5, 10**30, "", "x", "NaN", [], [1], {}, {"a": 1}, [{}], [[]])
    for value in kinds:
        if validator.is_valid(value):
            column.check_fit(column.load(decode_json(json.dumps(value))))


@pytest.mark.parametrize("name", ["int2", "int4", "int8"])
def test_an_integers_schema_ends_where_the_type_does(name: str) -> None:
    least, greatest = integer_range(name)
    validator = jsonschema_rs.Draft202012Validator(ROWS[name].schema())
    for value, inside in ((least, True), (greatest, True), (least - 1, False), (greatest + 1, False)):
        assert validator.is_valid(value) == inside
        assert (taken(ROWS[name].load, value) is not REFUSED) == inside


def test_a_reals_schema_leaves_out_what_is_too_small_for_it() -> None:
    validator = jsonschema_rs.Draft202012Validator(ROWS["float4"].schema())
    smallest = FLOAT_RANGE["float4"][0]
    assert validator.is_valid(0)
    assert validator.is_valid(smallest)
    assert not validator.is_valid(smallest / 10)
    assert not validator.is_valid(-smallest / 10)


@pytest.mark.parametrize("name", list(ALL))
def test_every_schema_is_one(name: str) -> None:
    jsonschema_rs.Draft202012Validator(ALL[name].schema())
    jsonschema_rs.Draft202012Validator(ALL[name].answer_schema())
