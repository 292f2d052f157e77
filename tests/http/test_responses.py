"""Answers as bytes: envelopes, links that can be followed as they stand, places of new rows."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlencode, urlsplit

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import ERRORS, GatewayError, MethodNotAllowed, Problem, Unavailable, ValidationFailed
from gateway.http.responses import Response, created_response, key_text, page_response, problem_response, row_response
from gateway.pipeline import Created, Page, Row
from tests.examples import examples

PAGE = Page(data=b"", length=0, limit=20, page=1, has_more=False, next_cursor=None, prev_cursor=None, count="none", total=None)


def page(query: bytes = b"", path: str = "/api/v1/things", **changes: object) -> Response:
    return page_response(msgspec.structs.replace(PAGE, **changes), path, query)


def header(response: Response, name: bytes) -> str:
    return dict(response.headers).get(name, b"").decode()


# --- envelopes ---------------------------------------------------------------------------------------------------------


def test_a_page_is_data_and_meta() -> None:
    assert json.loads(page(data=b'{"id":1},{"id": 2}', length=2).body) == {
        "data": [{"id": 1}, {"id": 2}],
        "meta": {"limit": 20, "page": 1, "has_more": False, "next_cursor": None, "prev_cursor": None},
    }


def test_a_page_by_cursor_has_no_number_and_a_counted_one_its_total() -> None:
    meta = json.loads(page(page=None, has_more=True, next_cursor="n", prev_cursor="p", count="exact", total=7).body)["meta"]
    assert meta == {"limit": 20, "has_more": True, "next_cursor": "n", "prev_cursor": "p", "total": 7, "count": "exact"}


def test_a_row_is_passed_on_as_postgresql_made_it() -> None:
    assert row_response(Row('{"price": "1.10", "ü":1.0}', 1)).body == '{"data":{"price": "1.10", "ü":1.0}}'.encode()


@pytest.mark.parametrize("error", [error for error in ERRORS if error is not MethodNotAllowed])
def test_every_error_has_the_envelope(error: type[GatewayError]) -> None:
    response = problem_response(error())
    told = {"code": error.code, "message": error.default_message, "details": {}}
    assert (response.status, json.loads(response.body)) == (error.status, {"error": told})


def test_details_name_the_first_field_and_every_problem() -> None:
    problems = [Problem("price", "is low"), Problem("name", "is long")]
    details = json.loads(problem_response(ValidationFailed("No.", problems)).body)["error"]["details"]
    assert details == {
        "field": "price",
        "problems": [{"field": "price", "message": "is low"}, {"field": "name", "message": "is long"}],
    }


def test_an_errors_headers_are_the_answers() -> None:
    assert header(problem_response(MethodNotAllowed(("GET", "HEAD"))), b"allow") == "GET, HEAD"
    assert header(problem_response(Unavailable(retry_after_seconds=7)), b"retry-after") == "7"


# --- links -------------------------------------------------------------------------------------------------------------


def test_a_page_without_others_has_no_links() -> None:
    assert header(page(b"limit=3"), b"link") == ""


def test_links_stand_as_the_rfc_says() -> None:
    link = header(page(b"a=1&page=2&limit=3", page=2, has_more=True, next_cursor="n-_", prev_cursor="p"), b"link")
    assert link == (
        '</api/v1/things?a=1&limit=3&cursor=n-_>; rel="next", '
        '</api/v1/things?a=1&limit=3&page=1>; rel="prev", '
        '</api/v1/things?a=1&limit=3&page=1>; rel="first"'
    )


def test_links_of_a_page_by_cursor_lead_by_cursor() -> None:
    link = header(page(b"cursor=x&a=1", page=None, has_more=True, next_cursor="n", prev_cursor="p"), b"link")
    assert link == '</api/v1/things?a=1&cursor=n>; rel="next", </api/v1/things?a=1&cursor=p>; rel="prev"'


@pytest.mark.parametrize("query", [b"page=2", b"%70age=2", b"cursor=x", b"&&page=2&", b"curso%72=x"])
def test_links_have_one_page_however_the_last_one_was_spelt(query: bytes) -> None:
    link = header(page(query, has_more=True, next_cursor="n"), b"link")
    assert link == '</api/v1/things?cursor=n>; rel="next"'


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), max_size=5), st.binary(max_size=20))
@settings(deadline=None, derandomize=True, max_examples=examples(200))
def test_links_keep_every_other_parameter_and_stay_between_their_brackets(pairs: list[tuple[str, str]], noise: bytes) -> None:
    query = urlencode([(name, value.encode("utf-8", "replace")) for name, value in pairs]).encode()
    link = header(page(query + b"&x=" + noise.replace(b"&", b"").replace(b"#", b""), has_more=True, next_cursor="n"), b"link")
    assert link.isascii()
    target, _, rest = link[1:].partition(">")
    assert rest == '; rel="next"'
    assert not set(target) & set('<>" \r\n')
    kept = [pair for pair in parse_qsl(query.decode(), keep_blank_values=True) if pair[0] not in ("page", "cursor")]
    found = parse_qsl(urlsplit(target).query, keep_blank_values=True, errors="replace")
    assert found[: len(kept)] == kept
    assert found[-1] == ("cursor", "n")


@given(st.text("pagecursor=&[]%+1ü<", max_size=24).map(str.encode))
@settings(deadline=None, derandomize=True, max_examples=examples(300))
@example(b"&page=1&price[gte]=1&&a=page&cursor=x&page&")
def test_links_say_the_same_whether_or_not_a_query_needs_an_escape(query: bytes) -> None:
    pieces = [piece for piece in query.split(b"&") if piece]
    others = [piece for piece in pieces if unquote_to_bytes(piece.partition(b"=")[0]) not in (b"page", b"cursor")]
    kept = "".join(quote(piece, safe="=%+[]*-_.~:/?@!$'(),;") + "&" for piece in others)
    assert header(page(query, has_more=True, next_cursor="n"), b"link") == f'</api/v1/things?{kept}cursor=n>; rel="next"'


# --- places ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "text"),
    [(1, "1"), (-5, "-5"), ("a", "a"), ("a/b", "a%2Fb"), ("a,b", "a%2Cb"), ("%", "%25"), ("🎉", "%F0%9F%8E%89"), (True, "true")],
)
def test_a_part_of_a_key_is_percent_encoded(part: object, text: str) -> None:
    assert key_text(part) == text


def test_the_place_of_a_new_row_has_every_part_of_its_key() -> None:
    response = created_response(Created(Row('{"id":1}', 1), [1, "a,b"]), "/api/v1/things")
    assert header(response, b"location") == "/api/v1/things/1,a%2Cb"
    assert (response.status, response.body) == (201, b'{"data":{"id":1}}')
