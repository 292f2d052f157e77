"""Answers' parts in, `Response` out: status, header pairs and body as bytes, ready for ASGI. Envelopes of the contract."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import msgspec

from gateway.errors import GatewayError
from gateway.http.etags import check_match, entity_tag, is_held
from gateway.http.requests import PLAN_TYPE, Headers
from gateway.pipeline import Created, Explained, Freshness, Page, Row

Header = tuple[bytes, bytes]
JSON = (b"content-type", b"application/json")
REPLAYED: Header = (b"idempotency-replayed", b"true")
"""On what was written earlier, under the same Idempotency-Key."""


class Response(msgspec.Struct, frozen=True):
    """`headers` lack content-length and X-Request-Id, which `routes` adds to every answer."""

    status: int
    headers: tuple[Header, ...]
    body: bytes


_encode = msgspec.json.Encoder().encode


def json_response(status: int, content: Any, headers: tuple[Header, ...] = ()) -> Response:
    """Any content as JSON."""
    return Response(status, (JSON, *headers), _encode(content))


def problem_response(error: GatewayError) -> Response:
    """The error envelope: `{"error": {"code", "message", "details"}}`; `details.field` is the first problem's."""
    details: dict[str, Any] = {}
    if error.problems:
        details = {"field": error.problems[0].field, "problems": error.problems}
    content = {"error": {"code": error.code, "message": error.message, "details": details}}
    headers = tuple((name.lower().encode(), value.encode()) for name, value in error.headers)
    return json_response(error.status, content, headers)


_X_CACHE: dict[str, Header] = {outcome: (b"x-cache", outcome.encode()) for outcome in ("hit", "miss", "bypass")}


def _read_headers(freshness: Freshness | None) -> tuple[Header, ...]:
    """`X-Cache`, and for what was kept its `Age` (RFC 9111, section 5.1); neither where nothing was read."""
    if freshness is None:
        return (JSON,)
    told = _X_CACHE[freshness.outcome]
    return (JSON, told, (b"age", str(freshness.age_seconds).encode())) if freshness.outcome == "hit" else (JSON, told)


def row_body(text: str, state: int) -> tuple[bytes, bytes]:
    """The answer of a row, by its JSON text and the number of its state, and its tag."""
    body = b'{"data":%b}' % text.encode()
    return body, entity_tag(state, body)


def row_response(row: Row, freshness: Freshness | None = None, asked: Headers | None = None) -> Response:
    """One row, from its JSON text, with its ETag; 304 where `asked`, the headers of a read, say that the caller has it.

    Raises PreconditionFailed where they ask for another state of it.
    """
    body, tag = row_body(row.text, row.state)
    headers = (*_read_headers(freshness), (b"etag", tag))
    if row.replayed:
        headers = (*headers, REPLAYED)
    if asked is not None:
        if asked.if_match:
            check_match(asked, row.state, tag)
        if asked.if_none_match and is_held(asked.if_none_match, tag):
            return Response(304, headers[1:], b"")
    return Response(200, headers, body)


def plan_response(explained: Explained) -> Response:
    """How a read would be run. No cache keeps it, for the same URL has other answers."""
    headers = ((b"content-type", PLAN_TYPE), (b"cache-control", b"no-store"), (b"vary", b"accept"))
    body = b'{"data":{"sql":%b,"plan":%b}}' % (_encode(explained.sql), explained.plan.encode())
    return Response(200, headers, body)


def created_response(created: Created, path: str) -> Response:
    """A new row, with its place. `path` is the resource's."""
    location = f"{path}/{','.join(key_text(part) for part in created.key)}"
    shown = row_response(created.row)
    return Response(201, (*shown.headers, (b"location", location.encode())), shown.body)


def key_text(part: Any) -> str:
    """One part of a key as it stands in a URL's path: percent-encoded, so that commas and slashes part nothing, and no part
    reads as a step to the directory above."""
    if type(part) is int:
        return str(part)
    text = part if isinstance(part, str) else _encode(part).decode()
    return text.replace(".", "%2E") if text in (".", "..") else quote(text, safe="")


def page_response(page: Page, path: str, query_string: bytes, freshness: Freshness | None = None) -> Response:
    """A list, with its `meta` and its `Link`s (RFC 8288), which keep what else the caller asked for."""
    headers, links = _read_headers(freshness), page_links(page, path, query_string)
    return Response(200, (*headers, (b"link", links)) if links else headers, page_body(page))


def page_body(page: Page) -> bytes:
    """A list's answer."""
    parts = [f'"limit":{page.limit}']
    if page.page is not None:
        parts.append(f'"page":{page.page}')
    parts.append(f'"has_more":{"true" if page.has_more else "false"}')
    parts.append(f'"next_cursor":{_text_or_null(page.next_cursor)}')
    parts.append(f'"prev_cursor":{_text_or_null(page.prev_cursor)}')
    if page.total is not None:
        parts.append(f'"total":{page.total},"count":"{page.count}"')
    return b'{"data":[%b],"meta":{%b}}' % (page.data, ",".join(parts).encode())


def _text_or_null(cursor: str | None) -> str:
    """A cursor's characters need no escape in JSON."""
    return "null" if cursor is None else f'"{cursor}"'


MAX_KNOWN_TARGET = 600
"""A longer path and query are worked out anew: what strangers send must not fill the memory."""

MAX_LINKED_CURSOR = 2000
"""A longer cursor stands in `meta` alone: many clients take no more than 8 kB of headers."""


def page_links(page: Page, path: str, query_string: bytes) -> bytes:
    """A list's `Link` header; empty where there is nothing to link to."""
    known = len(path) + len(query_string) <= MAX_KNOWN_TARGET
    base = _base(path, query_string) if known else _base.__wrapped__(path, query_string)
    links: list[str] = []
    if page.next_cursor and len(page.next_cursor) <= MAX_LINKED_CURSOR:
        links.append(f'{base}cursor={page.next_cursor}>; rel="next"')
    elif page.has_more and page.page is not None:
        links.append(f'{base}page={page.page + 1}>; rel="next"')
    if page.page is not None and page.page > 1:
        links.append(f'{base}page={page.page - 1}>; rel="prev"')
        links.append(f'{base}page=1>; rel="first"')
    elif page.prev_cursor and len(page.prev_cursor) <= MAX_LINKED_CURSOR:
        links.append(f'{base}cursor={page.prev_cursor}>; rel="prev"')
    return ", ".join(links).encode("latin-1")


@lru_cache(maxsize=2000)
def _base(path: str, query_string: bytes) -> str:
    """What the links of a list have in common: all that the caller asked for, but which page."""
    start = path if _PLAIN_PATH.fullmatch(path) is not None else quote(path, safe="/%,")
    pieces = [piece for piece in query_string.split(b"&") if piece]
    if _PLAIN.fullmatch(query_string) is not None:
        pieces = [piece for piece in pieces if piece.partition(b"=")[0] not in LEADING]
        return f"<{start}?{b'&'.join((*pieces, b'')).decode()}"
    return f"<{start}?{''.join(f'{_safe(piece)}&' for piece in pieces if not _leads(piece))}"


_PLAIN_PATH = re.compile("[A-Za-z0-9/%,_.~-]*")
_PLAIN = re.compile(rb"[A-Za-z0-9=+\[\]*\-_.~:/?@!$'(),;&]*")
"""What may stand between angle brackets as it is, and whose names are spelled as they are."""
LEADING = (b"page", b"cursor")


def _leads(parameter: bytes) -> bool:
    """Whether a parameter, which may be percent-encoded, says which page it is: the one thing that a link changes."""
    return unquote_to_bytes(parameter.partition(b"=")[0]) in LEADING


def _safe(parameter: bytes) -> str:
    """A parameter as sent, made fit to stand between angle brackets."""
    return quote(parameter, safe="=%+[]*-_.~:/?@!$'(),;")


def allow_response(allowed: tuple[str, ...]) -> Response:
    """What OPTIONS answers."""
    return Response(204, ((b"allow", ", ".join(allowed).encode()),), b"")
