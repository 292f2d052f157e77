"""Strings made from a pattern match it, and each number gives a string of its own."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fill.patterns import UnreadablePattern, count, nth, parse_pattern, pattern_of_like

PATTERNS = [
    "^[A-Z]{3}$",
    "^[a-z0-9]+(-[a-z0-9]+)*$",
    r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$",
    r"^(foo|ba[rz])?\d{2,3}$",
    r"^\+[1-9]\d{6,14}$",
    r"^(?:a|b)c?d+\.e{2}$",
    "^[][x]$",
    r"^[\w.-]+$",
    r"^#[0-9a-fA-F]{6}$",
    "",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@given(fraction=st.fractions(min_value=0, max_value=1), spare=st.sampled_from([0, 1, 3, 6]))
def test_every_number_gives_a_string_that_matches(pattern: str, fraction: float, spare: int) -> None:
    part = parse_pattern(pattern)
    number = min(count(part, spare) - 1, int(count(part, spare) * fraction))
    assert re.search(pattern, nth(part, number, spare))


@pytest.mark.parametrize(("pattern", "strings"), [("^[ab]{1,2}$", 6), ("^(a|b)?$", 3), ("^x(y|zz)w$", 2), (r"^\d$", 10)])
def test_numbers_count_all_strings_once(pattern: str, strings: int) -> None:
    part = parse_pattern(pattern)
    assert count(part, 3) == strings
    assert len({nth(part, number, 3) for number in range(strings)}) == strings


@pytest.mark.parametrize("pattern", ["(?=a)b", "(?<!a)b", r"(a)\1", "[[:nothing:]]", "(a", "a)", "*a", "[b-a]", "[", "\\"])
def test_what_is_not_known_is_refused(pattern: str) -> None:
    with pytest.raises(UnreadablePattern):
        parse_pattern(pattern)


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(pattern: str) -> None:
    try:
        part = parse_pattern(pattern)
    except UnreadablePattern:
        return
    assert isinstance(nth(part, 0, 1), str)


@pytest.mark.parametrize(("like", "text"), [("a%", "abc"), ("_b_", "abc"), (r"100\%", "100%"), ("a.c", "a.c")])
def test_like_becomes_a_pattern(like: str, text: str) -> None:
    assert re.search(pattern_of_like(like), text)
    assert not re.search(pattern_of_like(like), "xx")
