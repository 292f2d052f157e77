"""Spaces number values, and a walk meets each number once."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fill.checks import Bound, Restriction
from gateway.fill.facts import ValueType
from gateway.fill.spaces import Wanted, escape, listed, random_numbers, walk
from gateway.fill.values import SPACES, space_of
from gateway.fill.words import TEXTS, strings, words_for

TYPES = {
    "array": ValueType("array", "text[]", element=ValueType("text", "text")),
    "composite": ValueType("composite", "pair", members=(ValueType("int4", "integer"), ValueType("text", "text"))),
    "enum": ValueType("enum", "mood", labels=("sad", "ok")),
    "range": ValueType("range", "int4range", element=ValueType("int4", "integer")),
    "multirange": ValueType("multirange", "int4multirange", element=ValueType("int4", "integer")),
}


@given(seed=st.integers(0, 9), size=st.integers(1, 500), block=st.integers(1, 600), start=st.integers(0, 1000))
def test_a_walk_meets_every_number_once(seed: int, size: int, block: int, start: int) -> None:
    numbers = walk(Random(seed), size, block)(start, size)
    assert sorted(numbers) == list(range(size))


@given(seed=st.integers(0, 9), natural=st.integers(1, 2**70), skew=st.sampled_from([1.0, 2.5]))
def test_random_numbers_are_within_the_space(seed: int, natural: int, skew: float) -> None:
    assert all(0 <= number < natural for number in random_numbers(Random(seed), natural, skew, 20))


def test_a_value_listed_twice_is_drawn_more_often_and_walked_once() -> None:
    space = listed(["a", "b", "a", "a"])
    assert space.size == 2
    assert space.at(range(space.size)) == ["a", "b"]
    assert sorted(space.at(range(space.natural))) == ["a", "a", "a", "b"]


@pytest.mark.parametrize("name", SPACES)
def test_every_type_has_different_values_for_different_numbers(name: str) -> None:
    space = space_of(TYPES.get(name, ValueType(name, name)), Restriction(), Wanted("some", "things", distinct=50))
    assert space is not None
    drawn = space.at(range(min(space.size, 50)))
    assert len(set(drawn)) == len(drawn)
    last = space.at([space.size - 1, space.natural - 1])
    assert all(isinstance(text, str) for text in last)


@given(
    low=st.integers(-(2**15), 2**15 - 1),
    width=st.integers(0, 3000),
    strict=st.booleans(),
    column=st.sampled_from(["price", "n", "year"]),
)
def test_numbers_are_within_their_bounds(low: int, width: int, strict: bool, column: str) -> None:
    restriction = Restriction(lower=(Bound(str(low), strict),), upper=(Bound(str(low + width)),))
    space = space_of(ValueType("int2", "smallint"), restriction, Wanted(column, "t"))
    if space is None:
        assert low + strict > min(low + width, 2**15 - 1)
        return
    ends = [int(text) for text in space.at([0, space.size - 1])]
    assert low + strict <= ends[0] <= ends[1] <= min(low + width, 2**15 - 1)


@given(least=st.integers(0, 60), more=st.integers(0, 40), unique=st.booleans())
def test_texts_are_as_long_as_they_may_be(least: int, more: int, unique: bool) -> None:
    restriction = Restriction(min_length=least, max_length=least + more)
    space = space_of(ValueType("text", "text"), restriction, Wanted("name", "users", distinct=5 if unique else 0))
    assert space is not None
    drawn = space.at(range(min(space.size, 20)))
    assert all(least <= len(text) <= least + more for text in drawn)


@pytest.mark.parametrize(("pattern", "parts"), TEXTS)
def test_every_word_table_gives_different_plausible_strings(pattern: str, parts: tuple[tuple[str, ...], ...]) -> None:
    made = strings(parts)
    assert 0 < len(made) <= 4096
    assert all(text.strip() == text for text in made)


def test_a_column_is_known_by_its_name() -> None:
    found = words_for("name", "users")
    assert found is not None
    assert "Ada Abe" in found
    assert words_for("xyzzy", "users") is None


def test_fields_are_escaped_for_copy() -> None:
    assert escape("a\tb\\N\nc\r") == r"a\tb\\N\nc\r"
