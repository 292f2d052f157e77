"""Bodies held against a resource: every fault of a body at once, and nothing let through that a column would change."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.catalog.model import Bounds, Column
from gateway.catalog.types import BadValue, ColumnType
from gateway.errors import Forbidden, NotFound, Problem, ValidationFailed
from gateway.query.ast import Assignment, Grant, Merge
from gateway.query.payload import (
    MAX_MERGE_OBJECTS,
    bound_checks,
    plan_create,
    plan_delete,
    plan_patch,
    writable_fields,
)
from tests.query.sample import BIGINT, BOOLEAN, EVERYTHING, INTEGER, JSONB, NUMERIC, TEXT, TIMESTAMPTZ, resource, table

BOOKS = resource(
    table(
        "books",
        [
            Column("id", BIGINT, nullable=False, filled=True, generated=True),
            Column("title", TEXT, nullable=False),
            Column("price", NUMERIC, nullable=False),
            Column("pages", INTEGER, nullable=True),
            Column("genre", TEXT, nullable=True),
            Column("code", ColumnType("varchar", "character varying", length=3), nullable=True),
            Column("sold", BOOLEAN, nullable=False, filled=True),
            Column("secret", TEXT, nullable=True),
            Column("made_at", TIMESTAMPTZ, nullable=False, filled=True),
            Column("facts", JSONB, nullable=True),
        ],
    ),
    """
fields:
  title:   {min_length: 2, max_length: 5, pattern: "^[a-z]+$"}
  price:   {minimum: 0, maximum: 99.5}
  pages:   {enum: [100, 200]}
  genre:   {enum: [crime, verse]}
  secret:  {hidden: true}
  made_at: {readonly: true}
""",
)


def faults(body: object, found: Any = BOOKS) -> list[tuple[str, str]]:
    with pytest.raises(ValidationFailed) as refused:
        plan_create(found, body if isinstance(body, bytes) else json.dumps(body).encode())
    return [(problem.field, problem.message) for problem in refused.value.problems]


SOUND = {"title": "abc", "price": "1.50"}


def test_the_fields_that_were_sent_are_set_in_the_resources_order() -> None:
    plan = plan_create(BOOKS, b'{"pages": 100, "price": 1.50, "title": "abc"}')
    assert plan.shape.assigned == (Assignment("title"), Assignment("price"), Assignment("pages"))
    assert plan.values == ("abc", "1.50", 100)


def test_a_create_may_leave_out_what_the_database_fills_or_takes_as_null() -> None:
    assert plan_create(BOOKS, json.dumps(SOUND).encode()).values == ("abc", "1.50")


def test_a_missing_field_is_named() -> None:
    assert faults({}) == [("title", "is required"), ("price", "is required")]


@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null", b"true", b"[{}]"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    assert faults(body) == [("", "the body is no JSON object")]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b'{"title": "\xff"}', "the body is not UTF-8"),
        (b'{"title": "abc", "title": "abc"}', 'the body has the key "title" twice'),
        (b'{"facts": {"a": 1, "a": 2}}', 'the body has the key "a" twice'),
        (b'{"price": NaN}', "the body has NaN, which is not JSON"),
        (b'{"price": -Infinity}', "the body has -Infinity, which is not JSON"),
        (b'{"facts": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "the body is nested too deeply"),
        (b'{"\\ud800": 1}', "the body has a key with a lone surrogate, which is no character"),
        (b'{"facts": {"\\ud800": 1}}', "the body has a key with a lone surrogate, which is no character"),
    ],
)
def test_a_body_that_is_no_json_is_refused_as_a_whole(body: bytes, message: str) -> None:
    ((field, said),) = faults(body)
    assert field == ""
    assert said.startswith(message)


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("small", "32768", "takes an integer from -32768 to 32767"),
        ("whole", "2147483648", "takes an integer from -2147483648 to 2147483647"),
        ("id", "9223372036854775808", "takes an integer from -9223372036854775808 to 9223372036854775807"),
        ("id", '"9223372036854775808"', "takes an integer from -9223372036854775808 to 9223372036854775807"),
        ("id", "1" + "0" * 400, "takes an integer from -9223372036854775808 to 9223372036854775807"),
        ("whole", "true", "takes an integer"),
        ("whole", "1.5", "takes an integer"),
        ("whole", "1e999999999", "takes an integer"),
        ("whole", "1e-999999999", "takes an integer"),
        ("whole", '"x"', "takes an integer"),
        ("whole", '"1.0"', "takes an integer"),
        ("whole", '""', "takes an integer"),
        ("whole", "[1]", "takes an integer"),
        ("whole", "{}", "takes an integer"),
        ("price", "true", "takes a decimal number"),
        ("price", '"NaN"', 'takes a decimal number, such as "12.30"'),
        ("price", '"Infinity"', 'takes a decimal number, such as "12.30"'),
        ("price", "1e999999999", "has more digits than a decimal number can hold"),
        ("price", "1e-999999999", "has more digits than a decimal number can hold"),
        ("price", "1.234", "takes at most 2 digits after the point"),
        ("price", '"1.234"', "takes at most 2 digits after the point"),
        ("price", "0.001", "takes at most 2 digits after the point"),
        ("price", "10000000000", "takes at most 10 digits before the point"),
        ("price", "1e10", "takes at most 10 digits before the point"),
        ("ratio", "1e999999999", "takes a number within the range of floating point"),
        ("ratio", "1e-999", "takes a number within the range of floating point"),
        ("ratio", "true", "takes a number"),
        ("ratio", '"1"', "takes a number"),
        ("weight", "1e39", "takes a number within the range of floating point"),
        ("name", "1", "takes a string"),
        ("name", "true", "takes a string"),
        ("name", "null", "takes no null"),
        ("name", '"a\\u0000b"', "has the character U+0000, which text cannot hold"),
        ("name", '"\\ud800"', "has a lone surrogate, which is no character"),
        ("code", '"12345678901"', "takes at most 10 characters"),
        ("fixed", '"abcd"', "takes at most 3 characters"),
        ("token", '"42"', "takes a UUID"),
        ("token", "42", "takes a UUID"),
        ("status", '"nope"', "takes one of sad, ok, happy"),
        ("status", "1", "takes one of sad, ok, happy"),
        ("active", "1", "takes true or false"),
        ("active", '"true"', "takes true or false"),
        ("made_at", '"2024-05-01T12:00:00"', 'takes a time with an offset (RFC 3339), such as "2024-05-01T12:00:00Z"'),
        ("made_at", '"2024-05-01T12:00:00 02:00"', 'takes a time with an offset (RFC 3339), such as "2024-05-01T12:00:00Z"'),
        ("made_at", "1714564800", 'takes a time with an offset (RFC 3339), such as "2024-05-01T12:00:00Z"'),
        (
            "made_at",
            '"0001-01-01T00:00:00+14:00"',
            'takes a time with an offset (RFC 3339), such as "2024-05-01T12:00:00Z"',
        ),
        (
            "local_at",
            '"2024-05-01T12:00:00Z"',
            'takes a date and time without an offset (ISO 8601), such as "2024-05-01T12:00:00"',
        ),
        ("day", '"2023-02-29"', 'takes a date (ISO 8601), such as "2024-05-01"'),
        ("day", "20240501", 'takes a date (ISO 8601), such as "2024-05-01"'),
        ("clock_tz", '"12:00:00 02:00"', 'takes a time of day with an offset, such as "12:00:00+02:00"'),
        ("span", "86400", 'takes a duration (ISO 8601), such as "P1DT2H"'),
        ("picture", '"a"', "takes base64"),
        ("picture", '"aGk"', "takes base64"),
        ("picture", "5", "takes base64"),
        ("picture", "[]", "takes base64"),
        ("address", '"10.0.0.256"', "takes an IP address"),
        ("address", "1", "takes an IP address"),
        ("net", '"10.0.0.1/8"', "takes a network, such as 10.0.0.0/8"),
        ("bits", '"2"', "takes bits, such as 0101"),
        ("bits", '"010101010"', "takes at most 8 bits"),
        ("tags", '"a"', "takes an array"),
        ("tags", '["a", 1]', "has an element at position 1 that is wrong: takes a string"),
        ("tags", '["\\u0000"]', "has an element at position 0 that is wrong: has the character U+0000, which text cannot hold"),
        ("scores", "[1, true]", "has an element at position 1 that is wrong: takes an integer"),
        ("scores", "[2147483648]", "has an element at position 0 that is wrong: takes an integer from -2147483648 to 2147483647"),
        ("scores", "[[1]]", "has an element at position 0 that is wrong: takes an integer"),
        ("doc", '"a\\u0000"', "has the character U+0000, which text cannot hold"),
        ("doc", '{"a": ["\\u0000"]}', "has the character U+0000, which text cannot hold"),
        ("doc", '{"\\u0000": 1}', "has the character U+0000, which text cannot hold"),
        ("doc", '["\\udfff"]', "has a lone surrogate, which is no character"),
        ("doc", "1e999999999", "has more digits than a decimal number can hold"),
        ("words", "1", "takes a string"),
        ("place", "[1, 2]", "takes a string"),
        ("period", "1", "takes a string"),
    ],
)
def test_a_bad_value_is_refused_with_its_field(field: str, text: str, message: str) -> None:
    body = f'{{"{field}": {text}}}'.encode()
    with pytest.raises(ValidationFailed) as refused:
        plan_patch(EVERYTHING, ("1",), body, merge=False)
    assert [(problem.field, problem.message) for problem in refused.value.problems] == [(field, message)]


@pytest.mark.parametrize(
    ("field", "text", "wire"),
    [
        ("small", "-32768", -32768),
        ("whole", "1.0", 1),
        ("whole", "1e3", 1000),
        ("whole", '"0042"', 42),
        ("id", "9007199254740993", 9007199254740993),
        ("id", '"9007199254740993"', 9007199254740993),
        ("price", "0.1", "0.1"),
        ("price", "12.30", "12.30"),
        ("price", '"12.30"', "12.30"),
        ("price", "1.500000", "1.500000"),
        ("price", "9999999999.99", "9999999999.99"),
        ("ratio", "0.1", 0.1),
        ("ratio", "1", 1.0),
        ("name", '""', ""),
        ("name", '"😀"', "😀"),
        ("code", "null", None),
        ("made_at", '"2024-05-01T12:00:00.123456+02:00"', "2024-05-01T10:00:00.123456+00:00"),
        ("picture", '"aGk="', b"hi"),
        ("picture", '""', b""),
        ("tags", '["a", null]', '{"a",NULL}'),
        ("tags", "[]", "{}"),
        ("scores", '[1, "2"]', '{"1","2"}'),
        ("doc", '{"a": [1, 0.10, true, null, "é"]}', '{"a":[1,0.10,true,null,"é"]}'),
        ("doc", "12345678901234567890.12345", "12345678901234567890.12345"),
        ("doc", "null", None),
        ("raw", '{"b": 1, "a": 2}', '{"b":1,"a":2}'),
    ],
)
def test_a_good_value_leaves_unchanged(field: str, text: str, wire: object) -> None:
    plan = plan_patch(EVERYTHING, ("1",), f'{{"{field}": {text}}}'.encode(), merge=False)
    assert plan.values == (wire, 1)
    assert type(plan.values[0]) is type(wire)


def test_integers_of_any_size_in_json_documents_are_kept() -> None:
    digits = "9" * 300
    assert plan_patch(EVERYTHING, ("1",), f'{{"doc": {digits}}}'.encode(), merge=False).values == (digits, 1)


def test_an_unknown_field_is_named_with_a_suggestion() -> None:
    assert faults({**SOUND, "titel": 1}) == [
        ("titel", 'is not a field. Did you mean "title"? Fields: title, price, pages, genre, code, sold, facts')
    ]


def test_a_hidden_field_does_not_exist() -> None:
    ((field, message),) = faults({**SOUND, "secret": "x"})
    assert field == "secret"
    assert message.startswith("is not a field.")


def test_a_read_only_or_generated_field_cannot_be_sent() -> None:
    assert faults({**SOUND, "made_at": "2024-05-01T12:00:00Z", "id": 1}) == [
        ("made_at", "is read-only; leave it out"),
        ("id", "is read-only; leave it out"),
    ]


def test_all_faults_of_a_body_come_at_once() -> None:
    body = {"nope": 1, "id": 1, "price": "x", "pages": True, "code": "abcd", "sold": None}
    assert faults(body) == [
        ("nope", "is not a field. Fields: title, price, pages, genre, code, sold, facts"),
        ("id", "is read-only; leave it out"),
        ("price", 'takes a decimal number, such as "12.30"'),
        ("pages", "takes an integer"),
        ("code", "takes at most 3 characters"),
        ("sold", "takes no null"),
        ("title", "is required"),
    ]


def test_a_name_of_any_length_is_not_told_whole() -> None:
    ((field, message), *_) = faults({"x" * 5000: 1, **SOUND})
    assert len(field) == 200
    assert len(message) < 500


# --- YAML's bounds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("title", "a", "takes at least 2 characters"),
        ("title", "abcdef", "takes at most 5 characters"),
        ("title", "ab1", "takes text that matches ^[a-z]+$"),
        ("title", "ab\n", "takes text that matches ^[a-z]+$"),
        ("price", "-0.01", "takes 0 or more"),
        ("price", "99.51", "takes 99.5 or less"),
        ("pages", 150, "takes one of 100, 200"),
        ("genre", "prose", "takes one of crime, verse"),
    ],
)
def test_a_value_outside_yamls_bounds_is_refused(field: str, value: object, message: str) -> None:
    assert faults({**SOUND, field: value}) == [(field, message)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", "ab"),
        ("title", "abcde"),
        ("price", 0),
        ("price", "99.50"),
        ("pages", "100"),
        ("pages", None),
        ("genre", "verse"),
    ],
)
def test_a_value_at_yamls_bounds_is_taken(field: str, value: object) -> None:
    plan_create(BOOKS, json.dumps({**SOUND, field: value}).encode())


def test_bounds_are_exact_where_floats_are_not() -> None:
    (check,) = bound_checks(Bounds(maximum="0.3"), NUMERIC)
    with pytest.raises(BadValue):
        check("0.30000000000000001")
    for bounds, text in ((Bounds(maximum=0.1), "0.1"), (Bounds(enum=(1,)), "1.00")):
        (check,) = bound_checks(bounds, NUMERIC)
        check(text)


# --- patches -----------------------------------------------------------------------------------------------------------


def test_an_empty_patch_is_refused() -> None:
    for merge in (False, True):
        with pytest.raises(ValidationFailed) as refused:
            plan_patch(BOOKS, ("1",), b"{}", merge)
        assert refused.value.problems == (Problem("", "is empty; a patch changes at least one field"),)


def test_a_patch_needs_no_required_field() -> None:
    assert plan_patch(BOOKS, ("7",), b'{"pages": 100}', merge=False).values == (100, 7)


def test_a_patch_sets_null_where_the_column_takes_it() -> None:
    assert plan_patch(BOOKS, ("7",), b'{"pages": null, "facts": null}', merge=True).values == (None, None, 7)
    with pytest.raises(ValidationFailed):
        plan_patch(BOOKS, ("7",), b'{"title": null}', merge=False)


@pytest.mark.parametrize("key", [("x",), (), ("1", "2"), ("1.0",), ("9" * 30,)])
def test_a_key_that_does_not_parse_is_not_found_whatever_the_body(key: tuple[str, ...]) -> None:
    with pytest.raises(NotFound):
        plan_patch(BOOKS, key, b"not JSON", merge=False)
    with pytest.raises(NotFound):
        plan_delete(BOOKS, key)


def test_objects_are_replaced_by_a_patch_and_merged_by_a_merge_patch() -> None:
    body = b'{"facts": {"a": null, "b": {"c": 1}}}'
    replaced, merged = (plan_patch(BOOKS, ("7",), body, merge) for merge in (False, True))
    assert replaced.values == ('{"a":null,"b":{"c":1}}', 7)
    assert replaced.shape.assigned == (Assignment("facts"),)
    assert merged.values == (["a"], "{}", "b", [], '{"c":1}', 7)
    assert merged.shape.assigned == (Assignment("facts", Merge((Merge(()),))),)


def test_what_is_no_object_is_replaced_by_a_merge_patch_too() -> None:
    assert plan_patch(BOOKS, ("7",), b'{"facts": [1, {"a": null}]}', merge=True).values == ('[1,{"a":null}]', 7)


def merge_of_objects(number: int, deep: bool) -> bytes:
    value: Any = {"x": 1}
    if deep:
        for _ in range(number):
            value = {"a": value}
    else:
        value = {f"k{position}": {} for position in range(number)}
    return json.dumps({"facts": value}).encode()


@pytest.mark.parametrize("deep", [False, True])
def test_the_objects_that_one_merge_goes_into_have_an_end_that_is_named(deep: bool) -> None:
    plan_patch(BOOKS, ("7",), merge_of_objects(MAX_MERGE_OBJECTS - 1, deep), merge=True)
    with pytest.raises(ValidationFailed, match="not valid") as refused:
        plan_patch(BOOKS, ("7",), merge_of_objects(MAX_MERGE_OBJECTS + 2, deep), merge=True)
    (problem,) = refused.value.problems
    assert problem == Problem("facts", "merges into more than 100 objects; send the whole value as application/json")


@pytest.mark.parametrize("merge", [False, True])
def test_every_depth_of_nesting_is_taken_or_refused(merge: bool) -> None:
    for depth in (*range(50, 900, 50), *range(900, 1010)):
        body = b'{"facts":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
        try:
            plan_patch(BOOKS, ("7",), body, merge)
        except ValidationFailed as refused:
            assert len(refused.problems) == 1  # noqa: PT017 - a depth may be taken or refused, and each is right


# --- grants ------------------------------------------------------------------------------------------------------------


def test_a_field_that_the_grant_keeps_is_forbidden() -> None:
    grant = Grant("few", write_fields=frozenset({"title", "price"}))
    assert list(writable_fields(BOOKS, grant)) == ["title", "price"]
    with pytest.raises(Forbidden) as refused:
        plan_create(BOOKS, json.dumps({**SOUND, "pages": 100}).encode(), grant)
    assert refused.value.problems == (Problem("pages", "may not be sent"),)


def test_faults_of_the_body_come_before_what_is_forbidden() -> None:
    grant = Grant("few", write_fields=frozenset({"title", "price"}))
    with pytest.raises(ValidationFailed) as refused:
        plan_create(BOOKS, json.dumps({**SOUND, "pages": 100, "nope": 1}).encode(), grant)
    assert [problem.field for problem in refused.value.problems] == ["nope", "pages"]


def test_what_a_caller_may_not_send_is_not_required_either() -> None:
    assert plan_create(BOOKS, b'{"title": "abc"}', Grant("t", write_fields=frozenset({"title"}))).values == ("abc",)
