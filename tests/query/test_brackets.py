"""The query-string dialect: what a URL says, before anybody knows whether it makes sense."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import ValidationFailed
from gateway.query.ast import Condition, ListRequest
from gateway.query.syntax.brackets import MAX_PARAMETERS, OPTIONS, RESERVED, join_list, parse_list, parse_parameters, split_list


def problems_of(query: bytes) -> list[tuple[str, str]]:
    with pytest.raises(ValidationFailed) as refused:
        parse_list(query)
    return [(problem.field, problem.message) for problem in refused.value.problems]


def test_nothing_asks_for_everything() -> None:
    assert parse_list(b"") == ListRequest()
    assert parse_list(b"&&") == ListRequest()


def test_every_option_has_its_place() -> None:
    query = "&".join(f"{option}=x{position}" for position, option in enumerate(OPTIONS)).encode()
    places: dict[str, Any] = {option: f"x{position}" for position, option in enumerate(OPTIONS)}
    assert parse_list(query) == ListRequest(**places)


@pytest.mark.parametrize(
    ("query", "condition"),
    [
        (b"a=1", Condition("a", "a", "eq", "1")),
        (b"a[gte]=1", Condition("a[gte]", "a", "gte", "1")),
        (b"a%5Bgte%5D=1", Condition("a[gte]", "a", "gte", "1")),
        (b"a[]=1", Condition("a[]", "a", "", "1")),
        (b"a[b][eq]=1", Condition("a[b][eq]", "a[b]", "eq", "1")),
        (b"a[GTE]=1", Condition("a[GTE]", "a[GTE]", "eq", "1")),
        (b"[eq]=1", Condition("[eq]", "[eq]", "eq", "1")),
        (b"a", Condition("a", "a", "eq", "")),
        (b"a=b=c", Condition("a", "a", "eq", "b=c")),
        (b"a=1+2%2B3%20", Condition("a", "a", "eq", "1 2+3 ")),
        (b"a+b=1", Condition("a b", "a b", "eq", "1")),
        (b"a=%26%3D%25", Condition("a", "a", "eq", "&=%")),
        (b"a=%zz%", Condition("a", "a", "eq", "%zz%")),
        ("naïve=ü".encode(), Condition("naïve", "naïve", "eq", "ü")),
        (b"doc.a.b[in]=1,2", Condition("doc.a.b[in]", "doc.a.b", "in", "1,2")),
        (b"page[eq]=3", Condition("page[eq]", "page", "eq", "3")),
        (b"limit[gt]=3", Condition("limit[gt]", "limit", "gt", "3")),
        (b"a[x\n][eq]=1", Condition("a[x\n][eq]", "a[x\n]", "eq", "1")),
    ],
)
def test_a_parameter_is_a_name_an_operator_and_a_value(query: bytes, condition: Condition) -> None:
    assert parse_list(query).conditions == (condition,)


def test_conditions_keep_their_order() -> None:
    assert [condition.name for condition in parse_list(b"c=1&a=2&b[gt]=3&limit=1").conditions] == ["c", "a", "b"]


@pytest.mark.parametrize("word", sorted(set(RESERVED) - set(OPTIONS)))
def test_a_reserved_word_is_no_field_when_it_stands_bare(word: str) -> None:
    assert problems_of(f"{word}=1".encode()) == [(word, f"is not a parameter here. Parameters: {', '.join(OPTIONS)}")]
    assert parse_list(f"{word}[eq]=1".encode()).conditions[0].name == word


def test_a_repeated_parameter_is_refused_by_name() -> None:
    assert problems_of(b"a=1&b=2&a=1&limit=1&limit=2") == [
        ("a", "is there twice; a parameter can be sent once"),
        ("limit", "is there twice; a parameter can be sent once"),
    ]


def test_a_repeated_parameter_is_found_however_it_is_encoded() -> None:
    assert problems_of(b"ab=1&a%62=1") == [("ab", "is there twice; a parameter can be sent once")]


def test_the_same_condition_in_two_spellings_is_refused() -> None:
    assert problems_of(b"a=1&a[eq]=2") == [("a[eq]", "says the same as a; send one of the two")]


def test_a_parameter_without_a_name_is_refused() -> None:
    assert problems_of(b"=1") == [("", "a parameter has no name")]


@pytest.mark.parametrize("query", [b"a=%FF", b"a=\xff", b"a=%C3", b"a=%ED%A0%80", b"a=%C0%80"])
def test_bad_utf_8_in_a_value_is_refused(query: bytes) -> None:
    assert problems_of(query) == [("a", "is not UTF-8")]


def test_bad_utf_8_in_a_name_is_refused_and_shown() -> None:
    assert problems_of(b"\xff=1&%FF=1") == [("\\xff", "is not UTF-8"), ("%FF", "is not UTF-8")]


def test_all_faults_come_at_once() -> None:
    assert [field for field, _ in problems_of(b"a=%FF&=1&b=1&b=2")] == ["a", "", "b"]


def test_the_number_of_parameters_has_an_end_that_is_named() -> None:
    at_most = b"&".join(b"a%d=1" % number for number in range(MAX_PARAMETERS))
    assert len(parse_parameters(at_most)) == MAX_PARAMETERS
    with pytest.raises(ValidationFailed, match=str(MAX_PARAMETERS)):
        parse_parameters(at_most + b"&b=1")


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("", [""]),
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        (",", ["", ""]),
        ("a,", ["a", ""]),
        ("a\\,b", ["a,b"]),
        ("a\\,b,c", ["a,b", "c"]),
        ("a\\\\,b", ["a\\", "b"]),
        ("a\\\\\\,b", ["a\\,b"]),
        ("\\n", ["\\n"]),
        ("a\\", ["a\\"]),
        (" a , b ", [" a ", " b "]),
    ],
)
def test_a_list_is_split_at_its_commas(text: str, elements: list[str]) -> None:
    assert split_list(text) == elements
    assert split_list(join_list(elements)) == elements
