"""The JSON dialect of `filter=` and of `rows`."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import ValidationFailed
from gateway.query.ast import Condition, Group, Written
from gateway.query.syntax.json import MAX_DEPTH, parse_filter


def leaf(name: str, operator: str, value: Any) -> Condition:
    return Condition("filter", name, operator, value, typed=True)


def problems_of(value: Any) -> list[str]:
    with pytest.raises(ValidationFailed) as refused:
        parse_filter(value, "filter")
    assert {problem.field for problem in refused.value.problems} == {"filter"}
    return [problem.message for problem in refused.value.problems]


A, B = leaf("a", "eq", 1), leaf("b", "eq", 2)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": 1}, A),
        ({"a": "x"}, leaf("a", "eq", "x")),
        ({"a": False}, leaf("a", "eq", False)),
        ({"a": [1, 2]}, leaf("a", "eq", [1, 2])),
        ({"a": {"gte": 1}}, leaf("a", "gte", 1)),
        ({"a": {"null": True}}, leaf("a", "null", True)),
        ({"a": {"eq": None}}, leaf("a", "eq", None)),
        ({"a": {"gte": 1, "lt": 2}}, Group("and", (leaf("a", "gte", 1), leaf("a", "lt", 2)))),
        ({"a": 1, "b": 2}, Group("and", (A, B))),
        ({"and": [{"a": 1}, {"b": 2}]}, Group("and", (A, B))),
        ({"or": [{"a": 1}, {"b": 2}]}, Group("or", (A, B))),
        ({"or": [{"a": 1}]}, Group("or", (A,))),
        ({"not": {"a": 1}}, Group("not", (A,))),
        ({"not": {"a": 1, "b": 2}}, Group("not", (Group("and", (A, B)),))),
        ({"or": [{"a": 1, "b": 2}, {"a": 1}]}, Group("or", (Group("and", (A, B)), A))),
        ({"a": 1, "or": [{"a": 1}, {"b": 2}]}, Group("and", (A, Group("or", (A, B))))),
        ({"doc.x.y": 1}, leaf("doc.x.y", "eq", 1)),
        ({"and": {"eq": 1}}, leaf("and", "eq", 1)),
        ({"or": {"in": [1]}}, leaf("or", "in", [1])),
        ({"page": 1}, leaf("page", "eq", 1)),
    ],
)
def test_json_becomes_conditions(value: Any, written: Written) -> None:
    assert parse_filter(value, "filter") == written


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], 'takes an object, such as {"status": "active"}'),
        (None, 'takes an object, such as {"status": "active"}'),
        ("a", 'takes an object, such as {"status": "active"}'),
        (1, 'takes an object, such as {"status": "active"}'),
        ({}, "is empty; leave it out to mean every row"),
        ({"or": []}, '"or" takes at least one condition'),
        ({"and": []}, '"and" takes at least one condition'),
        ({"or": 1}, '"or" takes a list of objects'),
        ({"and": "x"}, '"and" takes a list of objects'),
        ({"not": [{"a": 1}]}, '"not" takes an object'),
        ({"not": None}, '"not" takes an object'),
        ({"not": {}}, "is empty; leave it out to mean every row"),
        ({"or": [{}]}, "is empty; leave it out to mean every row"),
        ({"or": [1]}, 'takes an object, such as {"status": "active"}'),
        ({"a": {}}, '"a" has no operator; write {"a": {"eq": …}}'),
        ({"a": None}, '"a" is null; write {"a": {"null": true}}'),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(value: Any, message: str) -> None:
    assert problems_of(value) == [message]


def test_all_faults_come_at_once() -> None:
    assert len(problems_of({"a": None, "or": [], "not": 1, "b": {}})) == 4


def nested(depth: int) -> Any:
    value: Any = {"a": 1}
    for _ in range(depth - 1):
        value = {"not": value}
    return value


def test_the_depth_has_an_end_that_is_named() -> None:
    parse_filter(nested(MAX_DEPTH), "filter")
    assert problems_of(nested(MAX_DEPTH + 1)) == ["is nested more than 5 deep"]


def test_a_filter_nested_hundreds_deep_is_refused_like_any_other() -> None:
    assert problems_of(nested(900)) == ["is nested more than 5 deep"]
