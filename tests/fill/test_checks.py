"""What constraints, as PostgreSQL prints them, ask of each column."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fill.checks import (
    MAX_CASES,
    Bound,
    Case,
    Derivation,
    Ordering,
    PatternRule,
    Restriction,
    both,
    cases_of,
    combine,
    derivations_of,
)
from gateway.fill.expressions import Opaque, names_read, parse_expression, replace_names

ONE_CASE = [
    ("(price >= (0)::numeric)", {"price": Restriction(lower=(Bound("0"),))}),
    ("((0)::numeric < price)", {"price": Restriction(lower=(Bound("0", strict=True),))}),
    ("((price >= (0)::numeric) AND (price <= 9.5))", {"price": Restriction(lower=(Bound("0"),), upper=(Bound("9.5"),))}),
    (
        "((status)::text = ANY ((ARRAY['a'::character varying, 'b''c'::character varying])::text[]))",
        {"status": Restriction(choices=("a", "b'c"))},
    ),
    ("(level = ANY ('{1,2,3}'::integer[]))", {"level": Restriction(choices=("1", "2", "3"))}),
    ("(status <> ALL (ARRAY['a'::text, 'b'::text]))", {"status": Restriction(excluded=("a", "b"))}),
    ("(NOT (status = ANY (ARRAY['a'::text])))", {"status": Restriction(excluded=("a",))}),
    ("(char_length((name)::text) <= 80)", {"name": Restriction(max_length=80)}),
    ("(length(TRIM(BOTH FROM name)) > 0)", {"name": Restriction(min_length=1)}),
    ("(name <> ''::text)", {"name": Restriction(excluded=("",), min_length=1)}),
    ("((currency)::text ~ '^[A-Z]{3}$'::text)", {"currency": Restriction(patterns=(PatternRule("^[A-Z]{3}$"),))}),
    ("(email = lower(email))", {"email": Restriction(fold="lower")}),
    ("(upper((code)::text) = (code)::text)", {"code": Restriction(fold="upper")}),
    ('("Mixed Case" IS NOT NULL)', {"Mixed Case": Restriction(null="never")}),
    ("(NOT archived)", {"archived": Restriction(choices=("false",))}),
    ("(archived IS NOT TRUE)", {"archived": Restriction(choices=("false",))}),
    ("(seen_at <= now())", {"seen_at": Restriction(upper=(Bound("now"),))}),
    ("(tags <@ ARRAY['a'::text, 'b'::text])", {"tags": Restriction(elements=("a", "b"))}),
    ("(jsonb_typeof(document) = 'object'::text)", {"document": Restriction(json_type="object")}),
    ("(quantity > '-3'::integer)", {"quantity": Restriction(lower=(Bound("-3", strict=True),))}),
    ("((price)::numeric(10,2) > 1.5)", {"price": Restriction(lower=(Bound("1.5", strict=True),))}),
    ("(at >= '2020-01-01 00:00:00+00'::timestamp with time zone)", {"at": Restriction(lower=(Bound("2020-01-01 00:00:00+00"),))}),
    ("((name COLLATE \"C\") >= 'a'::text)", {"name": Restriction(lower=(Bound("a"),))}),
]


@pytest.mark.parametrize(("sql", "restrictions"), ONE_CASE)
def test_a_check_restricts_its_columns(sql: str, restrictions: dict[str, Restriction]) -> None:
    assert cases_of(sql) == (Case(restrictions),)


def test_an_or_is_a_case_for_each_branch() -> None:
    sql = "((kind = 'a'::text) OR ((kind = 'b'::text) AND (size IS NULL)))"
    assert cases_of(sql) == (
        Case({"kind": Restriction(choices=("a",))}),
        Case({"kind": Restriction(choices=("b",)), "size": Restriction(null="always")}),
    )


def test_two_facts_that_must_agree_are_both_or_neither() -> None:
    cases = cases_of("((status = 'paid'::text) = (paid_at IS NOT NULL))")
    assert [(case.restrictions["status"], case.restrictions["paid_at"].null) for case in cases] == [
        (Restriction(choices=("paid",)), "never"),
        (Restriction(excluded=("paid",)), "always"),
    ]


def test_a_number_of_nulls_is_every_choice_of_columns() -> None:
    cases = cases_of("(num_nonnulls(a, b, c) = 1)")
    assert [[column for column in "abc" if case.restrictions[column].null == "never"] for case in cases] == [["a"], ["b"], ["c"]]


def test_columns_are_put_in_order() -> None:
    assert cases_of("(ends_on > starts_on)")[0].orderings == (Ordering("starts_on", "ends_on", strict=True),)


def test_a_column_that_equals_an_expression_is_derived() -> None:
    assert derivations_of("(total = ((quantity)::numeric * price))") == (Derivation("total", "((quantity)::numeric * price)"),)
    assert derivations_of("(total = 5)") == ()


def test_contradictions_leave_no_case() -> None:
    assert combine([cases_of("(a IS NULL)"), cases_of("(a IS NOT NULL)")]) == ()
    assert cases_of("false") == ()
    assert both(Restriction(choices=("a",)), Restriction(excluded=("a",))) is None


def test_cases_are_bounded() -> None:
    either = " OR ".join(f"(a = {number})" for number in range(20))
    assert len(combine([cases_of(either), cases_of(either.replace("a", "b"))])) == MAX_CASES


@pytest.mark.parametrize(
    "sql",
    [
        "is_valid(code)",
        "(CASE WHEN (a > 1) THEN b ELSE c END = 3)",
        "(EXTRACT(year FROM day) > (2000)::numeric)",
        "((items)[1] = 3)",
        "((payload ->> 'kind'::text) = 'x'::text)",
        "((a + b) < 10)",
        "(ROW(a, b) < ROW(1, 2))",
        "satisfies_hash_partition('16384'::oid, 3, 0, id)",
        "))((",
        "",
    ],
)
def test_what_is_not_understood_asks_nothing(sql: str) -> None:
    assert all(not case.restrictions for case in cases_of(sql))


def test_what_stands_beside_something_unknown_is_understood() -> None:
    sql = "((EXTRACT(year FROM day) > (2000)::numeric) AND (a > 1) AND (CASE WHEN b THEN 1 ELSE 2 END = 1))"
    assert cases_of(sql) == (Case({"a": Restriction(lower=(Bound("1", strict=True),))}),)


@given(st.text(alphabet="ab()'\"::,= <>[]~ANDORNOTISLARY123\n", max_size=60))
def test_any_text_is_parsed(sql: str) -> None:
    assert parse_expression(sql) is not None
    cases_of(sql)
    derivations_of(sql)


def test_names_are_replaced_and_nothing_else() -> None:
    sql = "(((VALUE)::text ~ '^VALUE'::text) AND (value(VALUE) > 0) AND (x.value = 1))"
    replaced = replace_names(sql, lambda name: '"c"' if name == "value" else None)
    assert replaced == '((("c")::text ~ \'^VALUE\'::text) AND (value("c") > 0) AND (x.value = 1))'


def test_an_opaque_part_tells_the_names_that_it_reads() -> None:
    node = parse_expression('CASE WHEN a THEN "B" ELSE 1 END')
    assert isinstance(node, Opaque)
    assert node.names == ("a", "B")
    assert names_read("(a > lower(b))") == ("a", "lower", "b")
