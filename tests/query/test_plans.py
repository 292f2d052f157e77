"""A plan that is found again is the plan that would be made, and never another caller's."""

from __future__ import annotations

import pytest

from gateway.errors import ValidationFailed
from gateway.query.ast import Bound, Comparison, Grant
from gateway.query.plan import plan_list
from gateway.query.plans import MAX_PLANS, MAX_QUERY_BYTES, Plans
from gateway.query.syntax.brackets import parse_list
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
