"""A plan that is found again is the plan that would be made, and never another caller's."""

from __future__ import annotations

import itertools

import pytest

from gateway.errors import ValidationFailed
from gateway.query.ast import Bound, Comparison, Grant
from gateway.query.plan import plan_list
from gateway.query.plans import MAX_PLANS, MAX_QUERY_BYTES, Plans
from gateway.query.syntax.brackets import parse_list
from gateway.query.templates import MAX_TEMPLATES, Templates
from tests.query.sample import EVERYTHING

FOUND = EVERYTHING
QUERIES = [b"", b"limit=3", b"name=a", b"name=b", b"whole[in]=1,2&sort=-name", b"page=2", b"count=exact"]


def own(name: str) -> Grant:
    return Grant("own", rows=Bound(Comparison("name", "eq"), (name,)))


def test_a_plan_is_the_one_that_would_be_made_and_is_found_again() -> None:
    plans = Plans()
    for query in QUERIES:
        made = plans.list(FOUND, query)
        assert made == plan_list(FOUND, parse_list(query))
        assert plans.list(FOUND, query) is made


def test_plans_of_different_grants_are_kept_apart() -> None:
    plans = Plans()
    for query in QUERIES:
        for grant in (own("ada"), own("bob"), Grant("some", read_fields=frozenset({"id", "name", "whole"}))):
            assert plans.list(FOUND, query, grant) == plan_list(FOUND, parse_list(query), grant)


def test_a_rule_with_a_list_is_planned_anew() -> None:
    plans = Plans()
    grant = Grant("team", rows=Bound(Comparison("name", "in"), (["ada", "bob"],)))
    assert plans.list(FOUND, b"", grant) == plan_list(FOUND, parse_list(b""), grant)


def test_queries_that_differ_in_values_share_what_does_not_depend_on_them() -> None:
    plans = Plans()
    for queries in (
        (b"whole=1&name[in]=a,b", b"whole=2&name[in]=c", b"whole=3&name[in]=d"),
        (
            b"whole[gt]=1&code[null]=true&sort=-name",
            b"whole[gt]=2&code[null]=true&sort=-name",
            b"whole[gt]=3&code[null]=true&sort=-name",
        ),
        (b"price=1.50&page=2&limit=7", b"price=2.50&page=3&limit=8", b"price=3.50&page=4&limit=9"),
    ):
        first, second, third = (plans.list(FOUND, query).shape for query in queries)
        assert first == second
        assert third is second


def test_templates_have_an_end() -> None:
    templates = Templates()
    for names in itertools.permutations(("id", "small", "whole", "price", "ratio", "weight"), 4):
        for sort in ("id", "name"):
            query = "&".join((*(f"{name}=1" for name in names), f"sort={sort}")).encode()
            assert templates.plan(FOUND, query, own("x")) == plan_list(FOUND, parse_list(query), own("x"))
    sizes = [len(names.outlines) for names in templates._known.values()]
    assert MAX_TEMPLATES - 3 <= sum(sizes) + len(sizes) == templates._size <= MAX_TEMPLATES


def test_a_refused_query_is_refused_each_time() -> None:
    plans = Plans()
    for _ in range(2):
        with pytest.raises(ValidationFailed):
            plans.list(FOUND, b"nope=1")


def test_what_is_kept_has_an_end() -> None:
    plans = Plans()
    for number in range(MAX_PLANS + 50):
        plans.list(FOUND, b"whole=%d" % number)
    long = b"name=" + b"a" * MAX_QUERY_BYTES
    assert plans.list(FOUND, long) is not plans.list(FOUND, long)
    assert len(plans._known) == MAX_PLANS
