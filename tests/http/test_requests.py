"""The parts of a request: paths before decoding, media types, bodies within their limit, request ids."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import NotFound, PayloadTooLarge, UnsupportedMediaType
from gateway.http.requests import JSON_TYPES, PATCH_TYPES, ClientLeft, Headers, media_type, read_body, read_headers, split_path
from gateway.http.responses import key_text
from tests.examples import examples


def headers(content_type: bytes = b"", content_length: int | None = None) -> Headers:
    return Headers(b"id", b"", b"", content_type, content_length)


PATHS: list[tuple[bytes, tuple[str, str, tuple[str, ...] | None]]] = [
    (b"/api/v1/products", ("v1", "products", None)),
    (b"/api/v1/products/42", ("v1", "products", ("42",))),
    (b"/api/v1/film_actor/1,23", ("v1", "film_actor", ("1", "23"))),
    (b"/api/v1/words/a%2Cb%2Fc,%25", ("v1", "words", ("a,b/c", "%"))),
    (b"/api/v2/%70roducts", ("v2", "products", None)),
    (b"/api/v1/words/", ("v1", "words", ("",))),
    (b"/api/v1/words/,", ("v1", "words", ("", ""))),
    (b"/api/v1/words/a+b", ("v1", "words", ("a+b",))),
    (b"/api/v1/words/%F0%9F%8E%89", ("v1", "words", ("🎉",))),
    (b"/api/v1/words/%zz", ("v1", "words", ("%zz",))),
]


@pytest.mark.parametrize(("path", "parts"), PATHS)
def test_a_path_is_split_before_it_is_decoded(path: bytes, parts: object) -> None:
    assert split_path(path) == parts


@pytest.mark.parametrize("path", [b"/api/", b"/api/v1", b"/api/v1/a/b/c", b"/api/v1/%ff", b"/api/v1/a/%ff", b"/api/\xc3\xa9/a"])
def test_a_path_of_another_form_leads_nowhere(path: bytes) -> None:
    with pytest.raises(NotFound):
        split_path(path)


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=4))
@settings(deadline=None, derandomize=True, max_examples=examples(200))
def test_every_key_comes_back_from_its_path(parts: list[str]) -> None:
    path = f"/api/v1/things/{','.join(map(key_text, parts))}"
    assert split_path(path.encode()) == ("v1", "things", tuple(parts))


@given(st.binary(max_size=60))
@settings(deadline=None, derandomize=True, max_examples=examples(200))
def test_any_path_is_split_or_leads_nowhere(path: bytes) -> None:
    with contextlib.suppress(NotFound):
        split_path(b"/api/" + path)


# --- headers -----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
@settings(deadline=None, derandomize=True, max_examples=examples(200))
def test_a_request_id_is_always_sane(value: bytes) -> None:
    found = read_headers({"headers": [(b"x-request-id", value)]}).request_id
    assert re.fullmatch(rb"[A-Za-z0-9._:-]{1,128}", found)


def test_new_request_ids_differ() -> None:
    assert len({read_headers({"headers": []}).request_id for _ in range(100)}) == 100


@pytest.mark.parametrize(("value", "length"), [(b"12", 12), (b"", None), (b"-1", None), (b"x", None), (b"\xb2", None)])
def test_a_length_is_a_whole_number_or_unknown(value: bytes, length: int | None) -> None:
    assert read_headers({"headers": [(b"content-length", value)]}).content_length == length


@pytest.mark.parametrize(
    "value", [b"application/json", b"Application/JSON ", b"application/json; charset=utf-8", b'application/json;charset="UTF-8"']
)
def test_json_is_known_by_its_media_type(value: bytes) -> None:
    assert media_type(headers(value), JSON_TYPES) == b"application/json"


@pytest.mark.parametrize(
    "value", [b"", b"text/json", b"application/json; charset=utf-16", b"application/merge-patch+json", b"application/jsonx", b";"]
)
def test_another_media_type_is_refused_with_those_that_are_taken(value: bytes) -> None:
    with pytest.raises(UnsupportedMediaType, match="application/json"):
        media_type(headers(value), JSON_TYPES)


def test_a_merge_patch_is_a_media_type_of_its_own() -> None:
    assert media_type(headers(b"application/merge-patch+json"), PATCH_TYPES) == b"application/merge-patch+json"


# --- bodies ------------------------------------------------------------------------------------------------------------


def read(messages: list[dict[str, Any]], max_bytes: int = 10, length: int | None = None) -> bytes:
    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    return asyncio.run(read_body(headers(content_length=length), receive, max_bytes))


def part(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_is_its_parts_together() -> None:
    assert read([part(b"ab", True), part(b"", True), part(b"cd")]) == b"abcd"
    assert read([{"type": "http.request"}]) == b""
    assert read([part(b"0123456789")]) == b"0123456789"


def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    with pytest.raises(PayloadTooLarge, match="at most 10 bytes"):
        read([], length=11)


def test_a_body_that_turns_out_to_be_too_large_is_read_no_further() -> None:
    with pytest.raises(PayloadTooLarge):
        read([part(b"012345", True), part(b"678910", True)])


def test_a_client_that_leaves_is_not_answered() -> None:
    with pytest.raises(ClientLeft):
        read([part(b"01", True), {"type": "http.disconnect"}])
