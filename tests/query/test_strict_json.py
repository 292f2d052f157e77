"""The one JSON decoder: nothing lost, nothing let through."""

from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.query.strict_json import MAX_NUMBER_CHARACTERS, BadJson, decode_json
from tests.examples import examples


def refusal(text: bytes | str) -> str:
    with pytest.raises(BadJson) as refused:
        decode_json(text)
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"{}", {}),
        (b' {"a": [1, -0, 2.50, "x", true, false, null]} ', {"a": [1, 0, Decimal("2.50"), "x", True, False, None]}),
        (b"12345678901234567890123", 12345678901234567890123),
        (b"0.1", Decimal("0.1")),
        (b"1.10", Decimal("1.10")),
        (b"1e5", Decimal("1e5")),
        (b"1e999999999", Decimal("1e999999999")),
        (b'"\\u00e9\\ud83d\\ude00"', "é😀"),
        ('"é"'.encode(), "é"),
        ('"é"', "é"),
        (b'{"": 1}', {"": 1}),
        (b'{"a": {"a": 1}}', {"a": {"a": 1}}),
        (b"9" * MAX_NUMBER_CHARACTERS, int("9" * MAX_NUMBER_CHARACTERS)),
    ],
)
def test_json_is_read_exactly(text: bytes | str, value: Any) -> None:
    read = decode_json(text)
    assert read == value
    assert str(read) == str(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"{} {}", "is not JSON: Extra data at line 1, column 4"),
        (b"{'a': 1}", "is not JSON"),
        (b'{"a": 1,}', "is not JSON"),
        (b"[1,]", "is not JSON"),
        (b"01", "is not JSON"),
        (b"+1", "is not JSON"),
        (b"1.", "is not JSON"),
        (b".5", "is not JSON"),
        (b"0x10", "is not JSON"),
        (b"tru", "is not JSON"),
        (b'"a\nb"', "is not JSON"),
        (b'"\\x41"', "is not JSON"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        (b"{} // no", "is not JSON"),
        (b'{\n  "a": ?}', "is not JSON: Expecting value at line 2, column 8"),
        (b"\xff", "is not UTF-8"),
        (b'"\xc3"', "is not UTF-8"),
        (b'"\xed\xa0\x80"', "is not UTF-8"),
        ("{}".encode("utf-16"), "is not UTF-8"),
        (b'{"a": 1, "a": 1}', 'has the key "a" twice'),
        (b'{"x": [{"b": 1, "c": 2, "b": 3}]}', 'has the key "b" twice'),
        (b'{"a": 1, "\\u0061": 2}', 'has the key "a" twice'),
        (b"NaN", "has NaN, which is not JSON"),
        (b'{"a": Infinity}', "has Infinity, which is not JSON"),
        (b"[-Infinity]", "has -Infinity, which is not JSON"),
        (b"9" * (MAX_NUMBER_CHARACTERS + 1), "has a number of more than 1000 characters"),
        (b"0." + b"9" * MAX_NUMBER_CHARACTERS, "has a number of more than 1000 characters"),
        (b"1e99999999999999999999", "has a number whose exponent is out of range"),
        (b'{"\\ud800": 1}', "has a key with a lone surrogate, which is no character"),
        (b'[{"a\\udfffb": 1}]', "has a key with a lone surrogate, which is no character"),
        (b"[" * 10_000, "is nested too deeply"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "is nested too deeply"),
        (b"[" * 10_000 + b"]" * 10_000, "is nested too deeply"),
    ],
)
def test_what_is_no_json_or_loses_something_is_refused(text: bytes, message: str) -> None:
    assert refusal(text).startswith(message)


def test_a_long_key_is_not_told_whole() -> None:
    key = b"k" * 5000
    assert len(refusal(b'{"%s": 1, "%s": 2}' % (key, key))) < 200


@settings(max_examples=examples(300), deadline=None, derandomize=True)
@given(st.binary(max_size=40))
def test_any_bytes_are_a_value_or_a_refusal(text: bytes) -> None:
    with suppress(BadJson):
        decode_json(text)


ATOMS = st.sampled_from((
    "{", "}", "[", "]", ":", ",", '"', '"a":', '"a:"', '"b":1', '{"a":1}', '{"":{"a":[2,{"a":3}]}}', "\\", '"\\u0041"',
    '"\\ud800":', "-0", "1", "01", "1.", "0.10", "-1.5e-7", "1E+400", "1e99999999999", "9" * 30, "NaN", "-Infinity", "null",
    "true", "tru",
    '"é"', '"\x01"', '"\x7f"', '"\\/"', '"\\x"', " ", "\t", "\n", "\x0b", "\0", "\ufeff",
))  # fmt: skip
TREES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text('a:é"\\', max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text("ab:", max_size=2), inner, max_size=3)),
)


def outcome(text: bytes | str) -> str:
    try:
        return repr(decode_json(text))
    except BadJson as fault:
        return f"refused: {fault}"


@settings(deadline=None, derandomize=True, max_examples=examples(1000))
@given(st.one_of(st.lists(ATOMS, max_size=7).map("".join), TREES.map(lambda tree: json.dumps(tree, ensure_ascii=False))))
def test_bytes_are_what_their_text_is(text: str) -> None:
    """Text is read by the thorough decoder alone."""
    assert outcome(text.encode()) == outcome(text)


@pytest.mark.parametrize("depth", [10, 300, 499])
def test_what_is_nested_is_the_same_in_bytes(depth: int) -> None:
    for text in ("[" * depth + "]" * depth, '{"a":' * (depth // 4) + "1" + "}" * (depth // 4)):
        assert outcome(text.encode()) == outcome(text)
