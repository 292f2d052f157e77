"""Keys: what people read in them, and that no two different answers are ever kept as one."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cache.keys import MAX_NAME, Keys
from gateway.cache.store import Key
from gateway.catalog.model import Column, Resource
from gateway.query.ast import EVERYTHING, Bound, Comparison, Grant
from gateway.query.plan import plan_get, plan_list
from gateway.query.syntax.brackets import parse_list, parse_parameters
from tests.examples import examples
from tests.query.sample import BIGINT, NUMERIC, TEXT, resource, table

COLUMNS = (
    Column("id", BIGINT, nullable=False, filled=True),
    Column("status", TEXT, nullable=True),
    Column("price", NUMERIC, nullable=True),
    Column("name", TEXT, nullable=True),
)
PRODUCTS = resource(table("products", COLUMNS), "list: {sort: [-price]}")
PAIRS = resource(table("pairs", COLUMNS, primary_key=("id", "name")), "")


def row_key(key: tuple[str, ...], query: bytes = b"", grant: Grant = EVERYTHING, of: Resource = PRODUCTS) -> Key:
    return Keys().row(of, plan_get(of, key, parse_parameters(query) if query else {}, grant), grant)


def list_key(query: bytes, grant: Grant = EVERYTHING, of: Resource = PRODUCTS) -> Key:
    return Keys().list(of, plan_list(of, parse_list(query), grant), grant)


def grant(name: str, user: Any = None, fields: frozenset[str] | None = None) -> Grant:
    rows = None if user is None else Bound(Comparison("status", "eq"), (user,))
    return Grant(name=name, rows=rows, read_fields=fields)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (row_key(("42",)), "v1/products:id=42"),
        (row_key(("42",), b"fields=id,name"), "v1/products:id=42:fields=id,name"),
        (row_key(("1", "a:b"), of=PAIRS), "v1/pairs:id,name=1,a%3Ab"),
        (row_key(("42",), grant=grant("customer")), "v1/products:id=42:as=customer"),
        (list_key(b"page=2&limit=20"), "v1/products:page=2:limit=20:sort=-price"),
        (list_key(b"sort=name,-price:nullslast"), "v1/products:page=1:limit=20:sort=name,-price:nullslast"),
        (list_key(b"sort=-id"), "v1/products:page=1:limit=20:sort=-id"),
        (list_key(b"count=exact"), "v1/products:page=1:limit=20:sort=-price:count=exact"),
        (
            list_key(b"status=active&price[gte]=10&price[lt]=20.50"),
            "v1/products:page=1:limit=20:sort=-price:status=active:price[gte]=10:price[lt]=20.50",
        ),
        (list_key(b"price[between]=1,2"), "v1/products:page=1:limit=20:sort=-price:price[between]=1,2"),
        (list_key(b"status[null]=true"), "v1/products:page=1:limit=20:sort=-price:status[null]="),
        (list_key(b"name[contains]=50%25 off=yes"), "v1/products:page=1:limit=20:sort=-price:name[contains]=%50%5C% off%3Dyes%"),
    ],
)
def test_a_key_reads_as_the_request_does(key: Key, name: str) -> None:
    assert key.name == name


@pytest.mark.parametrize(
    "query", [b'filter={"or":[{"status":"a"},{"name":"b"}]}', b"name=" + b"x" * 500, b"status[in]=" + b"value," * 100 + b"z"]
)
def test_what_is_long_or_nested_is_digested(query: bytes) -> None:
    key = list_key(query)
    assert key.name.startswith("v1/products:page=1:limit=20:sort=-price")
    assert ":sha256=" in key.name
    assert len(key.name) < MAX_NAME + 50


def test_a_key_of_a_cursor_has_no_page() -> None:
    plan = plan_list(PRODUCTS, parse_list(b""))
    moved = msgspec.structs.replace(
        plan, page=None, shape=msgspec.structs.replace(plan.shape, after=(False, False)), values=("9", "4")
    )
    name = Keys().list(PRODUCTS, moved, EVERYTHING).name
    assert "page=" not in name
    assert ":sha256=" in name


DIFFERENT: tuple[Key, ...] = (
    row_key(("42",)),
    row_key(("43",)),
    row_key(("42",), b"fields=id"),
    row_key(("42",), grant=grant("customer")),
    row_key(("42",), grant=grant("customer", "a")),
    row_key(("42",), grant=grant("customer", "b")),
    row_key(("42",), grant=grant("clerk", "b")),
    row_key(("42",), grant=grant("clerk", None, frozenset({"id", "name"}))),
    list_key(b""),
    list_key(b"page=2"),
    list_key(b"limit=21"),
    list_key(b"count=exact"),
    list_key(b"count=estimated"),
    list_key(b"status=a"),
    list_key(b"name=a"),
    list_key(b"status[ne]=a"),
    list_key(b"status=a&name=b"),
    list_key(b"status=b&name=a"),
    list_key(b"", grant("customer", "a")),
    list_key(b"status=a", grant("customer", "a")),
    list_key(b"status=a:page%3D2"),
    list_key(b"status[in]=a,b"),
    list_key(rb"status[in]=a\,b"),
)


def test_different_answers_have_different_keys() -> None:
    assert len({key.whole for key in DIFFERENT}) == len(DIFFERENT)
    assert len({key.name for key in DIFFERENT}) == len(DIFFERENT)


def test_callers_whose_rows_and_fields_are_equal_share_a_key_within_a_role() -> None:
    assert row_key(("42",), grant=grant("customer", "a")) == row_key(("42",), grant=grant("customer", "a"))


def test_two_spellings_of_one_list_are_one_key() -> None:
    assert list_key(b"limit=20&page=1&sort=-price") == list_key(b"")


def test_a_resource_that_is_made_differently_has_other_keys() -> None:
    hidden = resource(table("products", COLUMNS), "fields: {name: {column: status}, status: {hidden: true, column: name}}")
    plain = resource(table("products", COLUMNS), "")
    assert row_key(("42",), b"fields=name", of=hidden).whole != row_key(("42",), b"fields=name", of=plain).whole


QUERIES = st.fixed_dictionaries(
    {},
    optional={
        "status": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
        "name": st.text("ab:=,%\\ ", max_size=5),
        "limit": st.integers(1, 50).map(str),
        "page": st.integers(1, 50).map(str),
        "sort": st.sampled_from(["name", "-name", "status,-price"]),
    },
)


@settings(max_examples=examples(50))
@given(st.lists(QUERIES, min_size=2, max_size=6), st.sampled_from([EVERYTHING, grant("a"), grant("a", "x"), grant("b", "x")]))
def test_keys_differ_just_where_plans_do(queries: list[dict[str, str]], granted: Grant) -> None:
    keys = Keys()
    plans = [plan_list(PRODUCTS, parse_list(urlencode(query).encode()), granted) for query in queries]
    wholes = [keys.list(PRODUCTS, plan, granted).whole for plan in plans]
    for plan, whole in zip(plans, wholes, strict=True):
        for other, other_whole in zip(plans, wholes, strict=True):
            assert (plan == other) == (whole == other_whole)
