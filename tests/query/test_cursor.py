"""Keyset cursors: opaque, bound to what they were made for, and refused when a single character of them is changed."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ValidationFailed
from gateway.query.ast import ListRequest
from gateway.query.cursor import MAX_CURSOR_CHARACTERS, BadCursor, Cursor, Fingerprints, decode_cursor, encode_cursor
from gateway.query.plan import plan_list
from gateway.query.syntax.brackets import parse_list
from tests.examples import examples
from tests.query.sample import EVERYTHING, resource, table


def mark_of(*parts: Any) -> bytes:
    *first, last = parts
    return Fingerprints(*first).of(last)


MARK = mark_of("v1/products", (), None, ())
CURSOR = Cursor(MARK, False, ("2024-05-01T12:00:00+00:00", "42", None))
DAMAGED = "is damaged; start again without it"


def refusal(text: str, mark: bytes = MARK, keys: int = 3) -> str:
    with pytest.raises(BadCursor) as refused:
        decode_cursor(text, mark, keys)
    return str(refused.value)


def with_checksum(body: bytes) -> str:
    """A cursor that somebody made who knows how."""
    return base64.urlsafe_b64encode(body + zlib.crc32(body).to_bytes(4)).rstrip(b"=").decode()


def test_a_cursor_needs_no_encoding_in_a_url() -> None:
    assert set(encode_cursor(CURSOR)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=. é"


def test_every_change_of_one_character_is_refused() -> None:
    for cursor in (CURSOR, Cursor(MARK, True, ("a",)), Cursor(MARK, True, ("ab",)), Cursor(MARK, True, ("abc",))):
        text = encode_cursor(cursor)
        for position in range(len(text)):
            for character in ALPHABET:
                changed = text[:position] + character + text[position + 1 :]
                if changed != text:
                    assert refusal(changed, keys=len(cursor.values)) == DAMAGED


def test_a_cut_or_lengthened_cursor_is_refused() -> None:
    text = encode_cursor(CURSOR)
    for length in range(len(text)):
        assert refusal(text[:length]) == DAMAGED
    for more in ("A", "AA", "AAAA", "=", "==", " ", "\n"):
        assert refusal(text + more) == DAMAGED
        assert refusal(more + text) == DAMAGED


@settings(max_examples=examples(150), deadline=None, derandomize=True)
@given(st.text(max_size=80))
def test_any_text_is_refused(text: str) -> None:
    refusal(text)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        msgspec.msgpack.encode([MARK, False]),
        msgspec.msgpack.encode([MARK, False, ["1", "2", "3"], "more"]) + b"\x00",
        msgspec.msgpack.encode([MARK, "no", ["1", "2", "3"]]),
        msgspec.msgpack.encode([MARK, False, [1, 2, 3]]),
        msgspec.msgpack.encode({"fingerprint": MARK}),
        b"\x93\xc4\x06" + MARK + b"\xc2\x91\xa1\xff",
        msgspec.msgpack.encode(Cursor(MARK, False, ("a\0b", "1", "2"))),
        msgspec.msgpack.encode(Cursor(MARK, False, ("1",))),
        msgspec.msgpack.encode(Cursor(MARK, False, ("1", "2", "3", "4"))),
        b"\x91" * 5000,
    ],
)
def test_a_body_that_is_none_of_ours_is_refused_whatever_its_checksum(body: bytes) -> None:
    assert refusal(with_checksum(body)) == DAMAGED


def test_a_cursor_for_something_else_is_refused_as_such() -> None:
    assert refusal(encode_cursor(CURSOR), mark_of("v1/orders")) == (
        "was made for another resource, sort or filter; start again without it"
    )


def test_a_cursor_of_endless_length_is_not_even_read() -> None:
    assert refusal("A" * (MAX_CURSOR_CHARACTERS + 1)) == "is too long to be one of ours"


OTHER = resource(table("others", EVERYTHING.table.columns))
CURSOR_OF = "status=ok&sort=-price"


def cursor_for(query: str, values: tuple[str | None, ...] = ("1.00", "7")) -> str:
    plan = plan_list(EVERYTHING, parse_list(query.encode()))
    return encode_cursor(Cursor(plan.fingerprint, False, values))


@pytest.mark.parametrize(
    "query",
    [
        "status=happy&sort=-price",
        "status[ne]=ok&sort=-price",
        "sort=-price",
        "status=ok&sort=price",
        "status=ok&sort=-price:nullslast",
        "status=ok&sort=-whole",
        "status=ok",
        "status=ok&active=true&sort=-price",
        'filter={"not":{"status":"ok"}}&sort=-price',
    ],
)
def test_a_cursor_serves_no_other_sort_or_filter(query: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        plan_list(EVERYTHING, parse_list(f"{query}&cursor={cursor_for(CURSOR_OF)}".encode()))
    (problem,) = refused.value.problems
    assert problem.field == "cursor"
    assert problem.message.startswith("was made for another resource, sort or filter")


def test_a_cursor_serves_no_other_resource() -> None:
    with pytest.raises(ValidationFailed):
        plan_list(OTHER, parse_list(f"{CURSOR_OF}&cursor={cursor_for(CURSOR_OF)}".encode()))


@pytest.mark.parametrize("more", ["", "&limit=7", "&fields=id", "&count=exact"])
def test_a_cursor_serves_any_limit_fields_and_count(more: str) -> None:
    plan = plan_list(EVERYTHING, parse_list(f"{CURSOR_OF}{more}&cursor={cursor_for(CURSOR_OF)}".encode()))
    assert plan.shape.after == (False, False)
    assert plan.values[:3] == ("ok", "1.00", "7")


def test_a_null_where_the_column_has_none_is_refused() -> None:
    text = cursor_for(CURSOR_OF, ("1.00", None))
    with pytest.raises(ValidationFailed) as refused:
        plan_list(EVERYTHING, parse_list(f"{CURSOR_OF}&cursor={text}".encode()))
    assert [(problem.field, problem.message) for problem in refused.value.problems] == [("cursor", DAMAGED)]


def test_a_cursor_and_a_page_do_not_go_together() -> None:
    first = plan_list(EVERYTHING, ListRequest())
    text = encode_cursor(Cursor(first.fingerprint, False, ("7",)))
    with pytest.raises(ValidationFailed) as refused:
        plan_list(EVERYTHING, ListRequest(cursor=text, page="2"))
    assert [problem.field for problem in refused.value.problems] == ["page"]


def test_equal_parts_have_one_fingerprint_and_others_another() -> None:
    assert mark_of("a", ("b", 1)) == mark_of("a", ("b", 1))
    assert len({mark_of(*parts) for parts in (("a", "b"), ("ab",), ("a", ("b",)), ("b", "a"), ("a", b"b"), ("",))}) == 6


def test_a_fingerprint_is_what_it_was_in_cursors_that_are_under_way() -> None:
    assert mark_of("v1/products", (), None, ()) == b"\x1f\xbdt\x03\xe9U"
    assert mark_of("a", ("b", 1)) == b"S\xa0\x90\xe4\x92\xae"
    assert mark_of(*range(20)) == b"\xdc\xf9\xd7\xb8\x0e "
