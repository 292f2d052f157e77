"""Requests held against a resource: each thing that may be wrong with a query, named with its parameter and what is allowed."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from gateway.catalog.model import Column, Resource, SortKey
from gateway.errors import NotFound, Problem, ValidationFailed
from gateway.query.ast import Bound, Comparison, Grant, ListRequest
from gateway.query.operators import OPERATORS
from gateway.query.plan import (
    COUNTS,
    MAX_COMPARISONS,
    MAX_LIST_ITEMS,
    MAX_OFFSET,
    parse_key,
    plan_get,
    plan_list,
    readable_fields,
    refuse_parameters,
)
from gateway.query.syntax.brackets import OPTIONS, parse_list
from tests.query.sample import BIGINT, DATE, EVERYTHING, INTEGER, TEXT, UUID, resource, table

SMALL = resource(
    table(
        "small",
        [
            Column("id", BIGINT, nullable=False, filled=True),
            Column("name", TEXT, nullable=False),
            Column("secret", TEXT, nullable=True),
            Column("note", TEXT, nullable=True),
            Column("rank", INTEGER, nullable=True),
        ],
    ),
    "fields: {secret: {hidden: true}}\nlist: {sort: [-rank], limit: {default: 10, max: 50}, filter: [id, name]}",
)


def problems_of(query: str, found: Resource = EVERYTHING) -> list[tuple[str, str]]:
    with pytest.raises(ValidationFailed) as refused:
        plan_list(found, parse_list(query.encode()))
    return [(problem.field, problem.message) for problem in refused.value.problems]


def filtered(tree: object) -> str:
    return f"filter={quote(json.dumps(tree))}"


# --- values of the wrong type ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        ("id=x", "id", "takes an integer"),
        ("id=", "id", "takes an integer"),
        ("id=1.0", "id", "takes an integer"),
        ("id=1e3", "id", "takes an integer"),
        ("id=true", "id", "takes an integer"),
        ("id=+1", "id", "takes an integer"),
        ("id=٣", "id", "takes an integer"),
        ("id=1_000", "id", "takes an integer"),
        ("id=9223372036854775808", "id", "takes an integer from -9223372036854775808 to 9223372036854775807"),
        ("id[gt]=-9223372036854775809", "id[gt]", "takes an integer from -9223372036854775808 to 9223372036854775807"),
        ("small=32768", "small", "takes an integer from -32768 to 32767"),
        ("whole[in]=1,2147483648", "whole[in]", "takes an integer from -2147483648 to 2147483647"),
        ("price=NaN", "price", 'takes a decimal number, such as "12.30"'),
        ("price=Infinity", "price", 'takes a decimal number, such as "12.30"'),
        ("price=1,5", "price", 'takes a decimal number, such as "12.30"'),
        ("price=1e999999", "price", "has more digits than a decimal number can hold"),
        ("price=1e999999999", "price", 'takes a decimal number, such as "12.30"'),
        ("price=1e-99999", "price", "has more digits than a decimal number can hold"),
        ("ratio=NaN", "ratio", "takes a number"),
        ("ratio=1e999", "ratio", "takes a number within the range of floating point"),
        ("ratio=1e-999", "ratio", "takes a number within the range of floating point"),
        ("weight=1e39", "weight", "takes a number within the range of floating point"),
        ("active=1", "active", "takes true or false"),
        ("active=TRUE", "active", "takes true or false"),
        ("token=42", "token", "takes a UUID"),
        ("status=nope", "status", "takes one of sad, ok, happy"),
        ("day=2024-02-30", "day", 'takes a date (ISO 8601), such as "2024-05-01"'),
        ("day=2024-5-1", "day", 'takes a date (ISO 8601), such as "2024-05-01"'),
        ("day=0000-01-01", "day", 'takes a date (ISO 8601), such as "2024-05-01"'),
        ("made_at=2024-05-01T12:00:00", "made_at", 'takes a time with an offset (RFC 3339), such as "2024-05-01T12:00:00Z"'),
        ("made_at=2024-05-01", "made_at", 'takes a time with an offset (RFC 3339), such as "2024-05-01T12:00:00Z"'),
        (
            "local_at=2024-05-01T12:00:00Z",
            "local_at",
            'takes a date and time without an offset (ISO 8601), such as "2024-05-01T12:00:00"',
        ),
        ("clock=25:00", "clock", 'takes a time of day (ISO 8601), such as "12:00:00"'),
        ("clock_tz=12:00:00", "clock_tz", 'takes a time of day with an offset, such as "12:00:00+02:00"'),
        ("span=P", "span", 'takes a duration (ISO 8601), such as "P1DT2H"'),
        ("span=1 day", "span", 'takes a duration (ISO 8601), such as "P1DT2H"'),
        ("picture=a", "picture", "takes base64"),
        ("address=1.2.3", "address", "takes an IP address"),
        ("net=10.0.0.1/8", "net", "takes a network, such as 10.0.0.0/8"),
        ("mac=00:00", "mac", "takes a MAC address"),
        ("bits=012", "bits", "takes bits, such as 0101"),
        ("scores=1,x", "scores", "takes an integer"),
        ("name=a%00b", "name", "has the character U+0000, which text cannot hold"),
        ("name[contains]=%00", "name[contains]", "has the character U+0000, which text cannot hold"),
        ("tags[has]=%00", "tags[has]", "has the character U+0000, which text cannot hold"),
        ("tags=a,%00", "tags", "has the character U+0000, which text cannot hold"),
        ("doc[has]=%00", "doc[has]", "has the character U+0000, which text cannot hold"),
        ("doc.a=%00", "doc.a", "has the character U+0000, which text cannot hold"),
        ("doc.%00=1", "doc.\0", "has the character U+0000 in its path, which text cannot hold"),
        ("doc.=1", "doc.", "has an empty step in its path"),
        ("doc..a=1", "doc..a", "has an empty step in its path"),
        ("name[like]=a\\", "name[like]", "has a pattern that ends in a lone backslash, which escapes nothing"),
        ("name[null]=yes", "name[null]", "null takes true or false"),
        ("price[between]=1", "price[between]", "between takes two values, not 1"),
        ("price[between]=1,2,3", "price[between]", "between takes two values, not 3"),
        ("whole[in]=", "whole[in]", "takes an integer"),
        (filtered({"whole": True}), "filter", '"whole" takes an integer'),
        (filtered({"whole": 1.5}), "filter", '"whole" takes an integer'),
        (filtered({"whole": [1]}), "filter", '"whole" takes an integer'),
        (filtered({"price": True}), "filter", '"price" takes a decimal number'),
        (filtered({"active": "true"}), "filter", '"active" takes true or false'),
        (filtered({"active": 1}), "filter", '"active" takes true or false'),
        (filtered({"name": 1}), "filter", '"name" takes a string'),
        (filtered({"name": "\ud800"}), "filter", '"name" has a lone surrogate, which is no character'),
        (filtered({"tags": "a"}), "filter", '"tags" takes an array'),
        (filtered({"tags": ["a", 1]}), "filter", '"tags" has an element at position 1 that is wrong: takes a string'),
        (filtered({"whole": {"in": 1}}), "filter", '"whole" in takes a list'),
        (filtered({"whole": {"in": []}}), "filter", '"whole" in takes at least one value'),
        (filtered({"whole": {"in": [None]}}), "filter", '"whole" takes no null; use the null operator'),
        (filtered({"whole": {"eq": None}}), "filter", '"whole" takes no null; use the null operator'),
        (filtered({"whole": {"null": "true"}}), "filter", '"whole" null takes true or false'),
        (filtered({"name": {"null": 1}}), "filter", '"name" null takes true or false'),
        (filtered({"doc.a": None}), "filter", '"doc.a" is null; write {"doc.a": {"null": true}}'),
        (filtered({"doc.a": {"eq": {}}}), "filter", '"doc.a" takes a string, a number, true or false'),
        ("filter=", "filter", "is not JSON: Expecting value at line 1, column 1"),
        ("filter={", "filter", None),
        ('filter={"whole":NaN}', "filter", "has NaN, which is not JSON"),
        ('filter={"whole":1,"whole":2}', "filter", 'has the key "whole" twice'),
        ('filter={"\\ud800":2}', "filter", "has a key with a lone surrogate, which is no character"),
        (f"filter={'[' * 10_000}", "filter", "is nested too deeply"),
        (f"filter={'{%22not%22:' * 10_000}", "filter", "is nested too deeply"),
    ],
)
def test_a_bad_value_is_refused_with_what_its_field_takes(query: str, field: str, message: str | None) -> None:
    ((named, said),) = problems_of(query)
    assert named == field
    assert message is None or said == message


@pytest.mark.parametrize(
    "query", ["made_at=2024-05-01T12:00:00+02:00", "made_at=2024-05-01T12:00:00%2B02:00", "made_at=2024-05-01T10:00:00Z"]
)
def test_an_offset_survives_the_plus_that_a_query_string_makes_a_blank(query: str) -> None:
    assert plan_list(EVERYTHING, parse_list(query.encode())).values == ("2024-05-01T10:00:00+00:00",)


def test_a_time_of_day_keeps_its_offset_too() -> None:
    assert plan_list(EVERYTHING, parse_list(b"clock_tz=12:00:00+02:00")).values == ("12:00:00+02:00",)


# --- names -------------------------------------------------------------------------------------------------------------


def test_an_unknown_field_is_named_with_its_likely_meaning_and_all_there_are() -> None:
    ((field, message),) = problems_of("nmae=x", SMALL)
    assert field == "nmae"
    assert message == (
        'is not a field or parameter here. Did you mean "name"? Fields: id, name, note, rank; parameters: '
        "page, limit, sort, cursor, fields, filter, count"
    )


def test_a_misspelt_parameter_gets_a_suggestion_too() -> None:
    ((_, message),) = problems_of("limt=3", SMALL)
    assert 'Did you mean "limit"?' in message


def test_a_hidden_field_does_not_exist() -> None:
    for query in ("secret=x", filtered({"secret": "x"}), "sort=secret", "fields=secret"):
        ((_, message),) = problems_of(query, SMALL)
        assert "is not a field" in message
        assert "secret" not in message.partition("Fields:")[2]


def test_a_field_that_a_grant_keeps_does_not_exist() -> None:
    grant = Grant("few", read_fields=frozenset({"id", "note"}))
    assert list(readable_fields(SMALL, grant)) == ["id", "note"]
    plan = plan_list(SMALL, ListRequest(), grant)
    assert plan.shape.fields == ("id", "note")
    assert plan.shape.sort == (SortKey("id", True, True),)
    for query in (b"name=x", b"sort=name", b"fields=name"):
        with pytest.raises(ValidationFailed) as refused:
            plan_list(SMALL, parse_list(query), grant)
        assert "Fields: id, note" in refused.value.problems[0].message


def test_a_field_outside_the_filter_list_is_refused_with_those_inside() -> None:
    assert problems_of("note=x", SMALL) == [("note", "cannot be filtered by; these can: id, name")]


def test_an_unknown_operator_is_rejected_with_those_that_apply() -> None:
    ((field, message),) = problems_of("active[nope]=1")
    assert (field, message) == ("active[nope]", '"nope" is not an operator; allowed: eq, ne, in, nin, null')


def test_an_operator_of_another_family_is_rejected_with_those_that_apply() -> None:
    ((_, message),) = problems_of("id[contains]=1")
    assert message == '"contains" does not apply here; allowed: eq, ne, gt, gte, lt, lte, in, nin, null, between'


@pytest.mark.parametrize("field", [name for name in EVERYTHING.fields if "." not in name])
@pytest.mark.parametrize("operator", list(OPERATORS))
def test_an_operator_applies_exactly_where_the_table_says(field: str, operator: str) -> None:
    family = EVERYTHING.fields[field].type.family
    try:
        plan_list(EVERYTHING, parse_list(f"{quote(field)}[{operator}]=%7Fx".encode()))
    except ValidationFailed as refused:
        said = "does not apply here" in refused.problems[0].message
    else:
        said = False
    assert said == (family not in OPERATORS[operator].families)


def test_the_form_of_what_null_false_becomes_is_no_operator_of_a_callers() -> None:
    ((_, message),) = problems_of("name[notnull]=true")
    assert '"notnull" is not an operator' in message


def test_a_path_below_what_is_no_json_is_refused() -> None:
    assert problems_of("name.x=1") == [("name.x", 'has a path, but "name" is not JSON')]


def test_a_field_whose_name_has_a_dot_is_found_before_a_path() -> None:
    assert plan_list(EVERYTHING, parse_list(b"a.b=1")).shape.where == Comparison("a.b", "eq")


def test_operators_that_a_path_does_not_take_are_refused() -> None:
    for operator in ("has", "any", "all"):
        ((_, message),) = problems_of(f"doc.a[{operator}]=1")
        assert "does not apply here" in message


def test_all_problems_of_a_query_come_at_once() -> None:
    query = "id=x&nope=1&name[gtx]=1&sort=nope,-nope2&fields=id,nope&limit=0&page=x&count=all&cursor=x"
    assert [field for field, _ in problems_of(f"{query}&{filtered({'whole': 'x', 'day': 1})}")] == [
        *("id", "nope", "name[gtx]", "filter", "filter", "sort", "sort", "fields", "limit", "count", "page", "cursor")
    ]


# --- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0", "-1", "51", "x", "", "1.5", "1e1", "٣", " 1", "9" * 30, "+5", "0x1"])
def test_a_limit_is_a_whole_number_within_what_the_resource_allows(text: str) -> None:
    assert problems_of(f"limit={quote(text)}", SMALL) == [("limit", "takes a whole number from 1 to 50")]


@pytest.mark.parametrize(("text", "limit"), [("1", 1), ("50", 50), ("007", 7)])
def test_a_limit_within_its_ends_is_taken(text: str, limit: int) -> None:
    plan = plan_list(SMALL, ListRequest(limit=text))
    assert (plan.limit, plan.values) == (limit, (limit + 1,))


def test_the_default_limit_is_the_resources() -> None:
    plan = plan_list(SMALL, ListRequest())
    assert (plan.limit, plan.page, plan.count, plan.values) == (10, 1, "none", ())


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "1.5"])
def test_a_page_is_a_whole_number(text: str) -> None:
    ((field, message),) = problems_of(f"page={text}", SMALL)
    assert (field, message) == ("page", "takes a whole number from 1 to 10001")


@pytest.mark.parametrize(("limit", "greatest"), [("10", 10_001), ("1", 100_001), ("50", 2001), ("30", 3334)])
def test_the_offset_has_an_end_that_is_named_and_points_to_cursors(limit: str, greatest: int) -> None:
    plan = plan_list(SMALL, ListRequest(limit=limit, page=str(greatest)))
    assert plan.values[-1] <= MAX_OFFSET
    for page in (str(greatest + 1), "9" * 12, "9" * 40):
        ((field, message),) = problems_of(f"limit={limit}&page={page}", SMALL)
        assert field == "page"
        assert message == (
            f"goes to {greatest} at a limit of {limit}: at most 100000 rows are passed over; follow next_cursor to read further, "
            "it costs less too"
        )


@pytest.mark.parametrize("count", COUNTS)
def test_every_count_is_taken(count: str) -> None:
    plan = plan_list(SMALL, ListRequest(count=count))
    assert plan.count == count
    assert plan.shape.counted == (count == "exact")


def test_an_unknown_count_is_refused_with_those_there_are() -> None:
    assert problems_of("count=yes", SMALL) == [("count", "takes one of none, exact, estimated")]


def test_an_estimate_is_not_made_of_rows_that_the_caller_may_not_see() -> None:
    grant = Grant("own", rows=Bound(Comparison("rank", "eq"), (1,)))
    assert plan_list(SMALL, ListRequest(count="estimated"), grant).count == "exact"


def test_the_default_sort_is_the_resources_with_the_key_last() -> None:
    assert plan_list(SMALL, ListRequest()).shape.sort == (SortKey("rank", True, True), SortKey("id", True, True))


@pytest.mark.parametrize(
    ("sort", "message"),
    [
        ("nope", '"nope" is not a field.'),
        ("", '"" is not a field.'),
        ("name,,id", '"" is not a field.'),
        ("name,-name", '"name" is there twice'),
        ("name,name:nullslast", '"name" is there twice'),
        ("name:nulls", '"name:nulls" is not a field.'),
        ("name desc", '"name desc" is not a field.'),
        ("+name", '" name" is not a field.'),
        ("doc", '"doc" has no order to sort by'),
        ("place", '"place" has no order to sort by'),
        ("docs", '"docs" has no order to sort by'),
        ("doc.a", '"doc.a" is not a field.'),
    ],
)
def test_a_sort_that_cannot_be_is_refused(sort: str, message: str) -> None:
    ((field, said),) = problems_of(f"sort={sort}")
    assert field == "sort"
    assert said.startswith(message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("nope", '"nope" is not a field.'),
        ("", '"" is not a field.'),
        ("id,id", '"id" is there twice'),
        ("id,", '"" is not a field.'),
    ],
)
def test_a_choice_of_fields_that_cannot_be_is_refused(fields: str, message: str) -> None:
    ((field, said),) = problems_of(f"fields={fields}")
    assert field == "fields"
    assert said.startswith(message)


def test_fields_come_in_the_order_that_was_asked_for() -> None:
    assert plan_list(EVERYTHING, parse_list(b"fields=price,id")).shape.fields == ("price", "id")


# --- limits ------------------------------------------------------------------------------------------------------------


def test_the_number_of_comparisons_has_an_end_that_is_named() -> None:
    def many(number: int) -> str:
        return filtered({"or": [{"whole": value} for value in range(number)]})

    assert len(plan_list(EVERYTHING, parse_list(many(MAX_COMPARISONS).encode())).values) == 50
    assert problems_of(many(MAX_COMPARISONS + 1)) == [("filter", "has 51 comparisons; at most 50 are taken")]
    assert problems_of(f"id=1&name=x&{many(49)}") == [("filter", "has 51 comparisons; at most 50 are taken")]


def test_the_length_of_a_list_has_an_end_that_is_named() -> None:
    at_most = ",".join(["1"] * MAX_LIST_ITEMS)
    assert len(plan_list(EVERYTHING, parse_list(f"whole[in]={at_most}".encode())).values[0]) == 1000
    for query in (
        f"whole[in]={at_most},1",
        f"scores={at_most},1",
        f"scores[any]={at_most},1",
        f"doc.a[in]={at_most},1",
        f"doc[any]={at_most},1",
        filtered({"whole": {"in": [1] * 1001}}),
        filtered({"scores": [1] * 1001}),
        filtered({"doc.a": {"nin": [1] * 1001}}),
    ):
        ((_, message),) = problems_of(query)
        assert "at most 1000 values, not 1001" in message


def test_the_depth_of_a_filter_has_an_end_that_is_named() -> None:
    tree: object = {"whole": 1}
    for _ in range(5):
        tree = {"not": tree}
    assert problems_of(filtered(tree)) == [("filter", "is nested more than 5 deep")]


# --- one row -----------------------------------------------------------------------------------------------------------

PAIRS = resource(
    table(
        "pairs",
        [Column("a", INTEGER, nullable=False), Column("b", TEXT, nullable=False), Column("on", DATE, nullable=False)],
        ("a", "b", "on"),
    )
)
TOKENS = resource(table("tokens", [Column("id", UUID, nullable=False)]))


@pytest.mark.parametrize(
    "key",
    [
        ("x",),
        ("",),
        ("1.0",),
        ("1 ",),
        ("9223372036854775808",),
        ("1", "2"),
        (),
        ("%31",),
        ("\0",),
        ("true",),
        ("null",),
    ],
)
def test_a_key_that_does_not_parse_is_not_found(key: tuple[str, ...]) -> None:
    with pytest.raises(NotFound):
        parse_key(EVERYTHING, key)
    with pytest.raises(NotFound):
        plan_get(EVERYTHING, key, {})


@pytest.mark.parametrize(
    ("key", "values"),
    [(("1", "x,y", "2024-05-01"), (1, "x,y", "2024-05-01")), (("-1", "", "2024-05-01"), (-1, "", "2024-05-01"))],
)
def test_a_composite_key_is_read_part_by_part(key: tuple[str, ...], values: tuple[object, ...]) -> None:
    assert parse_key(PAIRS, key) == values


@pytest.mark.parametrize("key", [("1", "x"), ("1", "x", "2024-05-01", "y"), ("x", "x", "2024-05-01"), ("1", "x", "May")])
def test_a_composite_key_with_a_part_missing_or_wrong_is_not_found(key: tuple[str, ...]) -> None:
    with pytest.raises(NotFound):
        parse_key(PAIRS, key)


def test_a_uuid_is_found_in_either_letter_case_and_nothing_else_is() -> None:
    assert parse_key(TOKENS, ("6F9619FF-8B86-D011-B42D-00C04FC964FF",)) == ("6F9619FF-8B86-D011-B42D-00C04FC964FF",)
    for key in ("6f9619ff8b86d011b42d00c04fc964ff", "{6f9619ff-8b86-d011-b42d-00c04fc964ff}", "42"):
        with pytest.raises(NotFound):
            parse_key(TOKENS, (key,))


def test_one_row_takes_fields_and_nothing_else() -> None:
    assert plan_get(EVERYTHING, ("1",), {"fields": "id,name"}).shape.fields == ("id", "name")
    for parameter in (*OPTIONS, "expand", "q", "name", "name[eq]"):
        if parameter != "fields":
            with pytest.raises(ValidationFailed) as refused:
                plan_get(EVERYTHING, ("1",), {parameter: "x"})
            (problem,) = refused.value.problems
            assert problem.field == parameter
            assert problem.message.endswith("Parameters: fields")


def test_a_grants_rule_is_part_of_reading_one_row() -> None:
    grant = Grant("own", rows=Bound(Comparison("whole", "eq"), (3,)))
    plan = plan_get(EVERYTHING, ("1",), {}, grant)
    assert (plan.shape.where, plan.values) == (Comparison("whole", "eq"), (1, 3))


def test_a_write_takes_no_parameters() -> None:
    refuse_parameters({})
    with pytest.raises(ValidationFailed) as refused:
        refuse_parameters({"fields": "id", "x": "1"})
    assert refused.value.problems == (
        Problem("fields", "is not a parameter here; a write takes none"),
        Problem("x", "is not a parameter here; a write takes none"),
    )
