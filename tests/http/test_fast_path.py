"""Which packets the fast path takes for a request that it knows, and that what it cannot go on with is answered all the same.

That its answers are those of the common way is for `tests/journeys/test_fast_path.py`, on real servers.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.http import fast_path
from gateway.http.fast_path import FastPath, Read, TurnedAway
from gateway.http.protocol import line_of
from gateway.http.requests import PLAN_TYPE
from gateway.http.routes import DataRoutes, Edge

LINE = b"GET /api/v1/things HTTP/1.1"
HOST = b"\r\nHost: here"
END = b"\r\n\r\n"


class Anything(FastPath):
    """Every path leads to the same resource."""

    def __init__(self, **edge: Any) -> None:
        admission = SimpleNamespace(verifier=None, limiter=None)
        routes = SimpleNamespace(edge=Edge(10, (), None, **edge), admission=admission, serving=lambda: None)
        super().__init__(cast(DataRoutes, routes), line_of)

    def _find(self, *_asked: Any) -> Any:
        return SimpleNamespace(client="somebody", tables=("kept",)), None

    def knows(self, rest: bytes, *raw: tuple[bytes, bytes]) -> Anything:
        """Learns a head, the end of its line and all."""
        self.learn(rest, list(raw))
        return self

    def takes(self, packet: bytes) -> Read | None:
        """What a packet is to it."""
        read = self.take(cast(Any, SimpleNamespace(client=("127.0.0.1", 4711), way=None)), packet)
        assert not isinstance(read, TurnedAway)
        return read


class ToThings:
    """A way, as far as it is looked at."""

    client = "me"
    tables = ("kept",)
    row_start = b"GET /things/"
    list_start = b"GET /things?"
    tail = b" HTTP/1.1" + HOST + END


def test_a_head_is_known_by_its_bytes_but_for_those_that_are_anothers_each_time() -> None:
    known = Anything().knows(HOST + b"\r\nX-Request-Id: first" + END)
    for more, request_id in [
        (b"", None),
        (b"\r\nX-Request-Id: mine", b"mine"),
        (b"\r\nx-request-id:mine", b"mine"),
        (b"\r\nX-REQUEST-ID:  \t mine \t ", b"mine"),
        (b"\r\nX-Request-Id: not sane", None),
        (b"\r\nX-Request-Id: caf\xc3\xa9", None),
        (b"\r\nX-Request-Id:", None),
        (b"\r\ntraceparent: 00-1-2-03\r\ntracestate: a=b\r\nX-Request-Id: mine", b"mine"),
    ]:
        for rest in (HOST + more + END, more + HOST + END):
            read = known.takes(LINE + rest)
            assert read is not None, rest
            assert read.request_id == request_id or (request_id is None and read.request_id not in (b"", b"first"))
    for other in (b"\r\nHOST: here", b"\r\nHost:here", HOST + b"\r\nAccept: */*", b""):
        assert known.takes(LINE + other + END) is None


@pytest.mark.parametrize(
    "packet",
    [
        LINE + HOST + b"\r\n\r\nX-Request-Id: of another request\r\n",
        LINE + HOST + b"\r\n\r\ntracestate: a\r\ntraceparent: b\r\n",
        LINE + HOST + b"\r\n\r\nX-Request-Id:\r\n",
        LINE + HOST + END + b"\r\n",
        LINE + HOST + END + LINE + HOST + END,
        LINE + HOST + END + b"G",
        LINE + HOST + b"\r\n",
        LINE + HOST + b"\r\n\r",
        LINE + HOST,
        LINE,
        b"",
        b"\r\n",
        b"\r\n" + LINE + HOST + END,
        LINE + HOST + b"\r\nX-Request-Id: a\r\nX-Request-Id: a" + END,
        LINE + HOST + b"\r\ntracestate: a\r\ntraceparent: b\r\nTracestate: c" + END,
        LINE + HOST + b"\r\nX-Request-Id: a\r\n b" + END,
        LINE + HOST + b"\r\nX-Request-Id: a\0b" + END,
        LINE + HOST + b"\r\nX-Request-Id: a\x01" + END,
        LINE + HOST + b"\r\nX-Request-Id:\x0b a" + END,
        LINE + HOST + b"\r\ntraceparent: \x7f" + END,
        LINE + HOST + b"\r\ntracestate: a\rb" + END,
        LINE + HOST + b"\r\ntracestate: a\nHost: there" + END,
        LINE + HOST + b"\r\nX-Request-Id : a" + END,
        LINE + b"\nHost: here" + END,
        LINE + b" " + HOST + END,
        b"get /api/v1/things HTTP/1.1" + HOST + END,
        b"HEAD /api/v1/things HTTP/1.1" + HOST + END,
        b"POST /api/v1/things HTTP/1.1" + HOST + END,
        b"GET  /api/v1/things HTTP/1.1" + HOST + END,
        b"GET /api/v1/things  HTTP/1.1" + HOST + END,
        b"GET\t/api/v1/things HTTP/1.1" + HOST + END,
        b"GET /api/v1/things HTTP/1.0" + HOST + END,
        b"GET /api/v1/things HTTP/1.1\nX: HTTP/1.1" + HOST + END,
        b"GET /api/v1/things" + HOST + END,
        b"GET http://here/api/v1/things HTTP/1.1" + HOST + END,
        b"GET //api/v1/things HTTP/1.1" + HOST + END,
        b"GET /apiary HTTP/1.1" + HOST + END,
        b"GET /api/v1/things#part HTTP/1.1" + HOST + END,
        b"GET /api/v1/things?a=b#part HTTP/1.1" + HOST + END,
        b"GET /api/v1/thing\xc3\xa9 HTTP/1.1" + HOST + END,
        b"GET /api/v1/things?a=\x7f HTTP/1.1" + HOST + END,
        b"GET /api/v1/things?access_token=a HTTP/1.1" + HOST + END,
    ],
)
def test_a_packet_that_the_parser_might_read_otherwise_is_left_to_it(packet: bytes) -> None:
    known = Anything().knows(HOST + END)
    assert known.takes(LINE + HOST + END) is not None
    assert known.takes(packet) is None


@pytest.mark.parametrize(
    "asked",
    [
        *(b"", b"/", b"1/2", b"1?a=b", b"1#part", b"\xc3\xa9", b"1\r\nX: y", b"1 HTTP/1.1\r\nHost: there", b"1\n", b" 1", b"1 "),
        *(b"%31", b"1,2", b"a/../1", b"1\x00", b"\x7f", b"1 HTTP/1.1\r\n\r\nGET /api/v1/things/2"),
    ],
)
def test_a_way_is_gone_again_with_a_plain_key_alone(asked: bytes) -> None:
    """What else ends as the last packet of its connection did is looked at as a whole."""
    known, way = Anything(), cast(Any, ToThings())
    connection = cast(Any, SimpleNamespace())
    for key in (b"1", b"234", b"abc-DEF_1.2~3"):
        read = known._take_again(connection, way, b"GET /things/" + key + way.tail, 0.0)
        assert isinstance(read, Read)
        assert read.asked == key
    assert known._take_again(connection, way, b"GET /things/" + asked + way.tail, 0.0) is None


@pytest.mark.parametrize(
    "asked",
    [
        b"",
        b"a=b#c",
        b"a=\xc3\xa9",
        b"a b",
        b"a=1\r\nX: y",
        b"a=\x00",
        b"a=\x7f",
        b"access_token=a",
        b"a HTTP/1.1\r\n\r\nGET /things?b",
    ],
)
def test_a_way_is_gone_again_with_a_plain_query_alone(asked: bytes) -> None:
    known, way, connection = Anything(), cast(Any, ToThings()), cast(Any, SimpleNamespace())
    for query in (b"a=b", b"a[gte]=%C3%A9&b='?/", b"?"):
        read = known._take_again(connection, way, b"GET /things?" + query + way.tail, 0.0)
        assert isinstance(read, Read)
        assert read.asked == query
    assert known._take_again(connection, way, b"GET /things?" + asked + way.tail, 0.0) is None


@pytest.mark.parametrize("value", [b" " * 60_000 + b"\r", b"a" + b" " * 60_000 + b"\0\r\n\r\n", b"\t " * 30_000 + b"\0\r\n\r\n"])
def test_no_packet_takes_long_to_be_looked_at(value: bytes) -> None:
    """With an expression that goes back over the spaces this test would not end: they cost it the cube of their number."""
    assert Anything().knows(HOST + END).takes(LINE + HOST + b"\r\nX-Request-Id:" + value) is None


def test_what_is_remembered_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_path, "MAX_HEADS", 3)
    monkeypatch.setattr(fast_path, "MAX_KEPT_BYTES", 1000)
    known, heads = Anything(), [b"\r\nHost: %d" % number + END for number in range(5)]
    for head in heads:
        known.learn(head, [])
        known.learn(head, [])
    assert [known.takes(LINE + head) is not None for head in heads] == [False, False, True, True, True]
    assert known._bytes == sum(map(len, heads[2:]))
    large = b"\r\nHost: " + b"x" * 980 + END
    known.learn(large, [])
    assert list(known._heads) == [large]
    assert known._bytes == len(large)
    known.learn(b"\r\nHost: " + b"x" * fast_path.MAX_HEAD_BYTES + END, [])
    assert list(known._heads) == [large]


@pytest.mark.parametrize(
    "header",
    [
        *((b"if-match", b"*"), (b"if-none-match", b""), (b"x-consistency-token", b""), (b"accept", PLAN_TYPE)),
        *((b"cache-control", b"no-cache"), (b"cache-control", b"max-age=0, no-store"), (b"server-timing", b"?1")),
    ],
)
def test_a_head_that_asks_for_something_of_its_own_is_not_remembered(header: tuple[bytes, bytes]) -> None:
    assert Anything().knows(HOST + END, header).takes(LINE + HOST + END) is None
    assert Anything(timing="on").knows(HOST + END).takes(LINE + HOST + END) is None
