"""Frequent reads go by a way of their own, and nobody can tell: a connection whose head is known is told what one is told whose
head was never seen.

Real servers, raw sockets: what counts is which bytes come in which packet.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway import embedded
from gateway.database.execute import Rows
from gateway.errors import Unavailable
from gateway.events import Event, RequestEnded
from gateway.http import fast_path
from gateway.http.edge import MAX_HEAD_BYTES, MAX_HEADERS
from gateway.http.fast_path import FastPath, Read, TurnedAway
from gateway.http.requests import PLAN_TYPE
from gateway.pipeline import Pipeline
from gateway.reads import Reads
from tests.conftest import execute, throwaway_database, throwaway_directory
from tests.issuing import ALGORITHMS, AUDIENCE, EC, ED, ISSUER, IssuerServer, issuer, key_set, public, token
from tests.journeys.answers import log_without_faults
from tests.journeys.gated import SCHEMA, Gate
from tests.journeys.test_stopping import eventually
from tests.serving import Served, serving, settings_for, write_resources

pytestmark = pytest.mark.xdist_group("fast path")

PATIENCE_SECONDS = 20
OTHERWISE = frozenset({"date", "x-request-id", "ratelimit", "age", "x-cache"})
"""Headers in which two answers to the same request may differ."""

TABLES = f"""
{SCHEMA}
CREATE TABLE things (
  id integer PRIMARY KEY, name text NOT NULL, price numeric(8, 2), owner text NOT NULL, secret text NOT NULL, made date
);
INSERT INTO things SELECT n, 'thing ' || n % 7, nullif(n % 5, 0) * 1.5, (ARRAY['ann', 'bob'])[1 + n % 2], 'secret ' || n,
  date '2026-01-01' + n FROM generate_series(1, 40) n;
CREATE TABLE pairs (word text, number bigint, note text, PRIMARY KEY (word, number));
INSERT INTO pairs VALUES ('plain', 1, 'a'), ('with,comma', 2, 'b'), ('with/slash', 3, 'c'), ('100%', 4, 'd'), ('ünï', -5, 'e');
CREATE TABLE words (word text PRIMARY KEY, meaning jsonb);
INSERT INTO words SELECT word, '{{"n": 1}}' FROM pairs;
CREATE TABLE marked (id uuid PRIMARY KEY, at timestamptz);
INSERT INTO marked VALUES ('a11a0000-7e57-4aaa-8aaa-aaaaaaaaaaaa', '2026-01-01');
CREATE VIEW owners AS SELECT owner, count(*) AS things FROM things GROUP BY owner;
ANALYZE;
"""
READ_BY_ALL = "access: {anonymous: {read: {}}, customer: {read: {}}}\n"
RESOURCES = {
    "notes": f"list: {{sort: [id]}}\n{READ_BY_ALL}",
    "gated": f"key: id\nlist: {{sort: [id]}}\n{READ_BY_ALL}",
    "things": "fields: {secret: {hidden: true}}\naccess: {customer: {read: {rows: {owner: $sub}}}, admin: {read: {}}}\n",
    "shown": "table: things\naccess: {customer: {read: {fields: [id, name]}}, anonymous: {read: {fields: [id]}}}\n",
    "pairs": f"rate_limit: 1000000/day\n{READ_BY_ALL}",
    "words": f"cache: {{ttl: 0}}\n{READ_BY_ALL}",
    "marked": READ_BY_ALL,
    "owners": f"key: owner\n{READ_BY_ALL}",
    "old": f"table: notes\ndeprecated: {{since: 2026-01-01}}\n{READ_BY_ALL}",
    "brief": f"table: gated\nkey: id\ntimeout: 0.2\n{READ_BY_ALL}",
    "few": f"table: notes\nlist: {{sort: [id]}}\nrate_limit: 5/day\n{READ_BY_ALL}",
}
CUSTOM = "/api/v1/notes?limit=1"
"""What everybody may read."""


# --- by hand -------------------------------------------------------------------------------------------------------------


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def __getitem__(self, name: str) -> str:
        return dict(self.headers).get(name, "")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def told(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """What must be the same by both ways."""
        return self.status, sorted(header for header in self.headers if header[0] not in OTHERWISE), self.body


class Wire:
    """One connection."""

    def __init__(self, served: Served) -> None:
        self.socket = socket.create_connection(served.address, PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = self.socket.makefile("rb")

    def close(self) -> None:
        self._read.close()
        self.socket.close()

    def send(self, *packets: bytes) -> None:
        self.socket.sendall(packets[0])
        for packet in packets[1:]:
            time.sleep(0.002)  # so that they are packets of their own, mostly
            self.socket.sendall(packet)

    def answer(self) -> Answer | None:
        """The next one; None where the connection ended."""
        first = self._read.readline()
        if not first:
            return None
        headers = []
        while (line := self._read.readline().decode("latin-1").rstrip("\r\n")) != "":
            name, _, value = line.partition(": ")
            headers.append((name.lower(), value))
        length = next((int(value) for name, value in headers if name == "content-length"), 0)
        return Answer(int(first.split()[1]), tuple(headers), self._read.read(length))

    def ask(self, *packets: bytes) -> Answer:
        self.send(*packets)
        answer = self.answer()
        assert answer is not None
        return answer

    def has_ended(self) -> bool:
        try:
            return self._read.read(1) == b""
        except ConnectionError:
            return True


def packet(target: str, head: Mapping[str, str] | str = "", method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    """A request; `head` are its headers, or their lines as they are sent."""
    lines = head if isinstance(head, str) else "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"{method} {target} {version}\r\nHost: here\r\n{lines}\r\n".encode("latin-1")


class Ways:
    """A gateway, which packets it took by the fast path, and what it observed."""

    def __init__(self, served: Served, taken: list[bytes]) -> None:
        self.served = served
        self.taken = taken
        self.ended: list[RequestEnded] = []
        self.wires: list[Wire] = []
        self._unseen = count()
        data = served.gateway._data
        observe = data.edge.observe

        def note(event: Event) -> None:
            if isinstance(event, RequestEnded):
                self.ended.append(event)
            observe(event)

        data.edge = msgspec.structs.replace(data.edge, observe=note)

    def wire(self) -> Wire:
        self.wires.append(Wire(self.served))
        return self.wires[-1]

    def warm(self, head: Mapping[str, str] | str = "", target: str = CUSTOM) -> Wire:
        """A connection whose head is known."""
        wire = self.wire()
        assert wire.ask(packet(target, head)).status == 200
        return wire

    def fast(self, wire: Wire, sent: bytes) -> Answer:
        """The answer to a packet that is taken by the fast path."""
        before = len(self.taken)
        answer = wire.ask(sent)
        assert self.taken[before:] == [sent]
        return answer

    def common(self, sent: bytes) -> Answer:
        """The answer on a connection, and to a head, that was never seen."""
        first, _, rest = sent.partition(b"\r\n")
        before = len(self.taken)
        answer = self.wire().ask(b"%b\r\nX-Unseen: %d\r\n%b" % (first, next(self._unseen), rest))
        assert len(self.taken) == before
        return answer

    def settle(self) -> list[RequestEnded]:
        """The requests that have ended since this was last asked, in their order."""
        self.served.run(asyncio.sleep(0))  # who has its answer may be a step ahead of the gateway
        ended = self.ended[:]
        self.ended.clear()
        return ended

    def check_rest(self) -> None:
        """Nothing is left of what is over."""
        gateway = self.served.gateway
        assert eventually(lambda: gateway._data.in_flight == 0 and gateway.gate.in_use == 0 and gateway.gate.waiting == 0)
        assert gateway.gate._by_client == {}

    def close(self) -> None:
        for wire in self.wires:
            wire.close()
        self.wires.clear()


@pytest.fixture(scope="module", autouse=True)
def faults() -> Iterator[list[str]]:
    """What is logged of faults, which a test that means them clears."""
    with log_without_faults() as found:
        yield found


@pytest.fixture(scope="module")
def taken() -> Iterator[list[bytes]]:
    """The packets that the fast path takes, whoever serves."""
    packets: list[bytes] = []
    take = FastPath.take

    def noting(self: FastPath, connection: Any, sent: bytes) -> Read | TurnedAway | None:
        read = take(self, connection, sent)
        if read is not None:
            packets.append(sent)
        return read

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FastPath, "take", noting)
        yield packets


@pytest.fixture(scope="module")
def site_url(postgres_url: str) -> Iterator[str]:
    """Tables that no test changes."""
    with throwaway_database(postgres_url) as url:
        execute(url, TABLES)
        yield url


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_resources(tmp_path_factory.mktemp("fast path") / "resources", RESOURCES)


@pytest.fixture(scope="module")
def keys() -> Iterator[IssuerServer]:
    with issuer(public(EC)) as server:
        yield server


def auth(keys: IssuerServer) -> dict[str, str]:
    return {
        "AUTH": "on",
        "AUTH_JWKS_URL": keys.url,
        "AUTH_ISSUER": ISSUER,
        "AUTH_AUDIENCE": AUDIENCE,
        "AUTH_ALGORITHMS": ",".join(ALGORITHMS),
    }


@contextmanager
def ways_over(url: str, resources: Path, taken: list[bytes], **variables: str) -> Iterator[Ways]:
    with serving(settings_for(url, resources, **variables)) as served:
        ways = Ways(served, taken)
        try:
            yield ways
        finally:
            ways.close()


@pytest.fixture(scope="module")
def open_ways(site_url: str, resources: Path, taken: list[bytes]) -> Iterator[Ways]:
    """Without tokens, limits and a cache."""
    with ways_over(site_url, resources, taken, DATABASE_STATEMENT_TIMEOUT_SECONDS="30") as ways:
        yield ways


@pytest.fixture
def ways(open_ways: Ways) -> Iterator[Ways]:
    open_ways.settle()
    yield open_ways
    open_ways.check_rest()
    open_ways.close()


# --- the law -------------------------------------------------------------------------------------------------------------

BEARERS = {
    "nobody": {},
    "ann": {"Authorization": f"Bearer {token(sub='ann').decode()}"},
    "bob": {"Authorization": f"bearer  {token(sub='bob').decode()}"},
    "admin": {"Authorization": f"Bearer {token(sub='root', roles=['admin', 'customer']).decode()}"},
    "forger": {"Authorization": f"Bearer {token(sub='ann').decode()[:-9]}forged000"},
    "muddle": {"Authorization": "Basic YW5uOmFubg=="},
}
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Accept": st.sampled_from(["*/*", "application/json", PLAN_TYPE.decode()]),
        "Origin": st.sampled_from(["https://one.example", "https://two.example", "https://other.example", "null"]),
        "User-Agent": st.sampled_from(["one", "two"]),
        "X-Forwarded-For": st.sampled_from(["192.0.2.1", "192.0.2.2, 127.0.0.1", "nonsense"]),
        "Connection": st.sampled_from(["keep-alive", "Keep-Alive", "close", "keep-alive, close", "x"]),
        "Proxy-Connection": st.sampled_from(["keep-alive", "close"]),
        "Cache-Control": st.sampled_from(["max-age=0", "no-cache", "no-store", "No-Cache"]),
        "If-None-Match": st.sampled_from(["*", '"none"', "malformed", ""]),
        "If-Match": st.sampled_from(["*", '"none"', ""]),
        "Content-Type": st.just("application/json"),
        "Content-Length": st.just("0"),
        "Upgrade": st.just("h2c"),
        "Expect": st.just("something"),
        "Server-Timing": st.just("?0"),
        "X-Consistency-Token": st.sampled_from(["", "nonsense"]),
        "Idempotency-Key": st.just('"one"'),
    },
)
USUAL = frozenset(
    {"Accept", "Origin", "User-Agent", "X-Forwarded-For", "Content-Type", "Server-Timing", "Idempotency-Key", "Authorization"}
)
"""Headers with which a request is taken by the fast path, where nothing else is against it."""
VARYING = st.fixed_dictionaries(
    {},
    optional={
        "X-Request-Id": st.sampled_from(["mine", "not sane", "", "a" * 200]),
        "traceparent": st.sampled_from(["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "nonsense"]),
        "Tracestate": st.just("a=b"),
    },
)
NUMBERS = st.sampled_from(
    ["1", "2", "7", "39", "40", "41", "0", "-5", "007", "+1", "1.0", "%31", "9" * 12, "9" * 30, "x", "1;2", "%D9%A1"]
)
TEXTS = [
    "plain",
    "with,comma",
    "with%2Ccomma",
    "with%2ccomma",
    "with/slash",
    "with%2Fslash",
    "100%25",
    "100%",
    "%C3%BCn%C3%AF",
    "%FF",
    "%00",
    ".",
    "",
]
WORDS = st.sampled_from(TEXTS)
KEYS = {
    "things": NUMBERS,
    "shown": NUMBERS,
    "notes": NUMBERS,
    "old": NUMBERS,
    "pairs": st.one_of(st.tuples(WORDS, NUMBERS).map(",".join), WORDS, st.just("plain,1,1")),
    "words": WORDS,
    "marked": st.sampled_from(
        ["a11a0000-7e57-4aaa-8aaa-aaaaaaaaaaaa", "A11A0000-7E57-4AAA-8AAA-AAAAAAAAAAAA", "a11a00007e574aaa8aaaaaaaaaaaaaaa", "a"]
    ),
    "owners": st.sampled_from(["ann", "1"]),
    "openapi.json": st.just("1"),
    "nothing": NUMBERS,
    "%74hings": NUMBERS,
}
PARAMETERS = st.sampled_from(
    [
        *(
            "limit=3",
            "limit=0",
            "limit=1000",
            "limit=x",
            "page=2",
            "page=999",
            "page=0",
            "page=",
            "count=exact",
            "count=estimated",
        ),
        *(
            "count=none",
            "count=x",
            "fields=id",
            "fields=secret",
            "fields=id,name",
            "fields=",
            "sort=id",
            "sort=-id",
            "sort=name,-id",
        ),
        *(
            "sort=secret",
            "id=7",
            "id[gte]=30",
            "id[in]=1,2,40",
            "id=9999999999999",
            "name=thing%201",
            "name=thing+1",
            "name[like]=*1",
        ),
        *(
            "owner=bob",
            "secret=secret%207",
            "price[is_null]=true",
            "price=1.5",
            "price=x",
            "made[lt]=2026-01-09",
            "made=2026-13-01",
        ),
        *(
            "or=(id.eq.1,id.eq.2)",
            "cursor=nonsense",
            "cursor=",
            "nosuch=1",
            "access_token=x",
            "a=%FF",
            "&",
            "=",
            "limit=3&limit=4",
        ),
        *("word=plain", "number[gt]=1", "meaning.n=1", "at[gt]=2025-01-01", 'name="', "name=<b>", "name={}", "name=a^b|c`d"),
    ]
)


class Asked(msgspec.Struct, frozen=True):
    """A request, who sends it, and how it comes."""

    target: str
    who: str
    headers: dict[str, str]
    varying: dict[str, str]
    varying_first: bool
    comes: str
    follow: bool
    is_near: bool = False

    @property
    def head(self) -> dict[str, str]:
        return {**BEARERS[self.who], **self.headers}

    def is_unusual(self, target: str) -> bool:
        """Whether it is one for the common way."""
        path, _, query = target.partition("?")
        _, _, _, name, *key = path.split("/")
        odd = name in ("openapi.json", "old") or bool(key and query)
        return odd or bool(set(self.head) - USUAL) or self.head.get("Accept") == PLAN_TYPE.decode()

    def packet(self, target: str) -> bytes:
        parts = (self.varying, self.head) if self.varying_first else (self.head, self.varying)
        return packet(target, {**parts[0], **parts[1]})


@st.composite
def requests(draw: st.DrawFn) -> Asked:
    name = draw(st.sampled_from([*KEYS, *["things"] * 6, *["pairs"] * 3]))
    path, query = f"/api/v1/{name}", ""
    if draw(st.booleans()):
        path += "/" + draw(KEYS[name])
    if draw(st.integers(0, 9)) == 0:
        path += draw(st.sampled_from(["/", "/1", "//", ";a", "%2F1"]))
    if draw(st.booleans()):
        query = "?" + "&".join(draw(st.lists(PARAMETERS, max_size=3)))
    plain = draw(st.booleans())
    headers = draw(HEADERS)
    if plain:
        headers = {name: value for name, value in headers.items() if name in USUAL and value != PLAN_TYPE.decode()}
    return Asked(
        target=(path + query).encode("utf-8").decode("latin-1"),
        who=draw(st.sampled_from([*BEARERS, "ann", "ann", "bob"])),
        headers=headers,
        varying=draw(VARYING),
        varying_first=draw(st.booleans()),
        comes=draw(st.sampled_from(["whole", "whole", "whole", "split", "behind", "at once"])),
        follow=draw(st.booleans()),
        is_near=draw(st.booleans()),
    )


def observed(ended: RequestEnded) -> tuple[object, ...]:
    noted = ended.timeline
    trace = None if noted.trace is None else noted.trace.trace_id
    return ended.method, ended.status, ended.subject, ended.error_code, noted.route, noted.rows, trace


def check_law(ways: Ways, asked: Asked) -> None:
    """The request, and where it is followed the next page's, on a connection whose head is known and on one whose head is not.

    What is near comes after another request for the same resource, by whose way it may go.
    """
    wire = ways.wire()
    first = "/".join(asked.target.partition("?")[0].split("/")[:4]) if asked.is_near else CUSTOM
    is_known = wire.ask(packet(first, asked.head)).status == 200
    if set(asked.head) - USUAL:
        wire = ways.wire()  # for that may have been the connection's last answer
    elif asked.is_near:
        wire.ask(packet(first, asked.head))
    answer = check_equal(ways, asked, wire, asked.target, is_known)
    meta = answer.json.get("meta", {}) if answer.status == 200 else {}
    if asked.follow and meta.get("next_cursor") and "cursor=" not in asked.target:
        target = f"{asked.target}{'&' if '?' in asked.target else '?'}cursor={meta['next_cursor']}"
        check_equal(ways, asked, ways.wire(), target, is_known)


def check_equal(ways: Ways, asked: Asked, wire: Wire, target: str, is_known: bool) -> Answer:
    sent = asked.packet(target)
    ways.settle()
    before = len(ways.taken)
    second = sent_as(asked.comes, wire, sent)
    mine = [each for each in ways.settle() if each.timeline.request_id == second["x-request-id"]]
    is_fast = sent in ways.taken[before:]
    first_time = ways.common(sent)
    assert second.told == first_time.told
    assert [observed(each) for each in mine] == [observed(each) for each in ways.settle()]
    given_id = asked.varying.get("X-Request-Id", "")
    assert (second["x-request-id"] == given_id) == (first_time["x-request-id"] == given_id)
    assert ("ratelimit" in dict(second.headers)) == ("ratelimit" in dict(first_time.headers))
    if asked.comes == "whole" and is_known and second.status == 200:
        assert is_fast or asked.is_unusual(target)
    if second["connection"] == "close":
        assert wire.has_ended()
    return second


def sent_as(comes: str, wire: Wire, sent: bytes) -> Answer:
    """The answer to a request that comes in one packet, in two, or behind another, which may be under way."""
    if comes == "whole":
        return wire.ask(sent)
    if comes == "split":
        return wire.ask(sent[: len(sent) // 2], sent[len(sent) // 2 :])
    first = packet(CUSTOM, {"X-Other": "head"})
    assert wire.ask(*([first + sent] if comes == "at once" else [first, sent])).status == 200
    second = wire.answer()
    assert second is not None
    return second


VARIANTS: dict[str, dict[str, str]] = {
    "no cache": {},
    "kept in memory": {"WORKERS": "1"},
    "kept in Redis and counted": {"WORKERS": "1", "REDIS_URL": "", "RATE_LIMIT": "1000000/day"},
}


@pytest.fixture(scope="module", params=VARIANTS)
def lawful(
    request: pytest.FixtureRequest, site_url: str, resources: Path, keys: IssuerServer, taken: list[bytes]
) -> Iterator[Ways]:
    variables = {**auth(keys), **VARIANTS[request.param], "CORS_ORIGINS": "https://one.example,https://two.example"}
    if "REDIS_URL" in variables:
        variables["REDIS_URL"] = request.getfixturevalue("redis_url")
    with ways_over(site_url, resources, taken, TRUSTED_PROXIES="127.0.0.1", **variables) as ways:
        yield ways


FOUND = [
    Asked("/api/v1/pairs/%FF,1", "nobody", {}, {}, varying_first=False, comes="whole", follow=False),
    Asked("/api/v1/words/%FF", "ann", {}, {}, varying_first=False, comes="whole", follow=False),
    Asked(
        "/api/v1/notes/1",
        "bob",
        {"Connection": "keep-alive, close"},
        {},
        varying_first=False,
        comes="whole",
        follow=False,
        is_near=False,
    ),
]
"""What was told otherwise once."""


def hold_law(ways: Ways, examples: int) -> None:
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(requests())
    @example(FOUND[0])
    @example(FOUND[1])
    @example(FOUND[2])
    def held(asked: Asked) -> None:
        check_law(ways, asked)
        ways.close()

    before = len(ways.taken)
    held()
    ways.check_rest()
    assert len(ways.taken) - before > examples / 4


def test_what_is_told_by_the_fast_path_is_what_is_told_by_the_common_way(lawful: Ways) -> None:
    hold_law(lawful, 110)


@pytest.mark.long
def test_what_is_told_by_the_fast_path_is_what_is_told_by_the_common_way_for_many_requests(lawful: Ways) -> None:
    hold_law(lawful, 4000)


# --- heads ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closing", ["Connection: close", "Connection: keep-alive, close", "Proxy-Connection: close"])
def test_a_connection_that_its_caller_ends_is_ended_each_time(ways: Ways, closing: str) -> None:
    for _ in range(2):
        wire = ways.wire()
        assert wire.ask(packet(CUSTOM, f"{closing}\r\nX-Test: {closing}\r\n"))["connection"] == "close"
        assert wire.has_ended()


def test_a_head_beyond_its_bounds_is_refused_where_the_rest_of_it_is_known_too(ways: Ways) -> None:
    many = "".join(f"X-{number}: y\r\n" for number in range(MAX_HEADERS - 1))
    for known, sent in [
        ("", packet(CUSTOM + "&" * MAX_HEAD_BYTES)),
        ("", packet(CUSTOM, {"X-Request-Id": "a" * MAX_HEAD_BYTES})),
        (many, packet(CUSTOM, f"{many}X-Request-Id: mine\r\n")),
    ]:
        wire = ways.warm(known)
        answer = wire.ask(sent)
        assert (answer.status, answer.json["error"]["message"]) == (400, "The request's headers are too large.")
        assert wire.has_ended()
    most = "".join(f"X-{number}: y\r\n" for number in range(MAX_HEADERS - 4))
    assert (
        ways.fast(ways.warm(most), packet(CUSTOM, f"{most}X-Request-Id: mine\r\ntraceparent: a\r\ntracestate: b\r\n")).status
        == 200
    )


def test_what_follows_a_head_is_another_request(ways: Ways) -> None:
    wire = ways.warm()
    wire.send(packet(CUSTOM) + b"X-Request-Id: smuggled\r\n")
    first = wire.answer()
    assert first is None or first["x-request-id"] != "smuggled"
    assert first is None or wire.answer() is None or wire.has_ended()


def test_a_get_with_a_body_is_never_known(ways: Ways) -> None:
    for body in ("Content-Length: 4\r\n\r\nGET ", "Transfer-Encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\n"):
        head, _, content = body.partition("\r\n\r\n")
        for _ in range(2):
            wire = ways.wire()
            sent = packet(CUSTOM, f"{head}\r\n") + content.encode() + (b"\r\n" if "chunked" in head else b"")
            for _ in range(2):
                assert wire.ask(sent).status == 200
    assert ways.taken.count(packet(CUSTOM, "Content-Length: 4\r\n") + b"GET ") == 0


# --- who asks ------------------------------------------------------------------------------------------------------------


def bearer(who: bytes) -> dict[str, str]:
    return {"Authorization": f"Bearer {who.decode()}"}


@pytest.fixture
def guarded(site_url: str, resources: Path, keys: IssuerServer, taken: list[bytes]) -> Iterator[Ways]:
    with ways_over(site_url, resources, taken, **auth(keys), WORKERS="1") as ways:
        yield ways
        ways.check_rest()


def test_a_connection_is_nobodys_own_and_an_url_is_everybodys(guarded: Ways) -> None:
    wire = guarded.wire()
    ann, bob = (bearer(token(sub=sub)) for sub in ("ann", "bob"))
    heads = {"ann": ann, "bob": bob, "r": bearer(token(sub="r", roles=["admin"])), "": {}}
    for head in heads.values():
        assert wire.ask(packet(CUSTOM, head)).status == 200
    for _ in range(3):
        for sub, head in heads.items():
            rows = wire.ask(packet("/api/v1/things?limit=100", head))
            one = wire.ask(packet("/api/v1/things/2", head))  # ann's
            shown = wire.ask(packet("/api/v1/shown/2", head))
            if not sub:
                assert (rows.status, one.status) == (401, 401)
                assert shown.json["data"].keys() == {"id"}
                continue
            owners = {row["owner"] for row in rows.json["data"]}
            assert owners == ({"ann", "bob"} if sub == "r" else {sub})
            assert one.status == (404 if sub == "bob" else 200)
            assert shown.json["data"].keys() == ({"id"} if sub == "r" else {"id", "name"})
    sent = [packet("/api/v1/things?limit=100", head) for head in heads.values()]
    assert [guarded.taken.count(each) for each in sent] == [3, 3, 3, 0]


def test_a_token_ends_when_it_ends(guarded: Ways) -> None:
    head = bearer(token(sub="ann"))
    wire = guarded.warm(head)
    assert guarded.fast(wire, packet("/api/v1/things/2", head)).status == 200
    verifier = guarded.served.gateway._verifier
    assert verifier is not None
    later = int(time.time()) + 2 * 86_400
    verifier._now = verifier._claims._now = lambda: later
    assert wire.ask(packet("/api/v1/things/2", head)).status == 401


def test_a_token_ends_with_its_key(guarded: Ways, keys: IssuerServer) -> None:
    head = bearer(token(sub="ann", key=EC))
    wire = guarded.warm(head)
    assert guarded.fast(wire, packet("/api/v1/things/2", head)).status == 200
    before, jwks = keys.answer, guarded.served.gateway.jwks
    assert jwks is not None
    keys.answer = msgspec.structs.replace(before, body=key_set(public(ED)))
    try:
        guarded.served.run(jwks.refresh())
        assert wire.ask(packet("/api/v1/things/2", head)).status == 401
    finally:
        keys.answer = before


def test_who_loses_a_right_with_a_reload_has_lost_it_at_once(
    site_url: str, tmp_path: Path, keys: IssuerServer, taken: list[bytes]
) -> None:
    write_resources(tmp_path / "resources", RESOURCES)
    with ways_over(site_url, tmp_path / "resources", taken, **auth(keys), WORKERS="1") as ways:
        head = bearer(token(sub="ann"))
        wire = ways.warm(head)
        for _ in range(2):  # the second one from the cache
            assert "owner" in ways.fast(wire, packet("/api/v1/things/2", head)).json["data"]
            assert "owner" in ways.fast(wire, packet("/api/v1/things?limit=2", head)).json["data"][0]
        hidden = "fields: {owner: {hidden: true}, secret: {hidden: true}}\naccess: {customer: {read: {}}}\n"
        write_resources(tmp_path / "resources", {"things": hidden})
        ways.served.run(ways.served.gateway.rebuild())
        for _ in range(2):
            assert ways.fast(wire, packet("/api/v1/things/2", head)).json["data"].keys() == {"id", "name", "price", "made"}
            assert "owner" not in ways.fast(wire, packet("/api/v1/things?limit=2", head)).json["data"][0]
        write_resources(tmp_path / "resources", {"things": "access: {admin: {read: {}}}\n"})
        ways.served.run(ways.served.gateway.rebuild())
        assert wire.ask(packet("/api/v1/things/2", head)).status == 403
        ways.check_rest()


# --- limits --------------------------------------------------------------------------------------------------------------


def left(answer: Answer) -> tuple[int, str, str, bool]:
    parts = dict(part.partition("=")[::2] for part in answer["ratelimit"].split(";")[1:])
    return answer.status, parts["r"], answer["ratelimit-policy"], "retry-after" in dict(answer.headers)


@pytest.mark.parametrize("where", ["memory", "redis", "redis goes away"])
def test_each_request_counts_once_and_the_last_is_refused_as_by_the_common_way(
    site_url: str, resources: Path, taken: list[bytes], where: str
) -> None:
    with ExitStack() as stack:
        redis = {} if where == "memory" else {"REDIS_URL": stack.enter_context(valkey())}
        with ways_over(site_url, resources, taken, RATE_LIMIT="1000000/day", TRUSTED_PROXIES="127.0.0.1", **redis) as ways:
            told: dict[str, list[object]] = {}
            heads = {"fast": {"X-Forwarded-For": "192.0.2.1"}, "common": {"X-Forwarded-For": "192.0.2.2"}}
            wires = {way: ways.warm(head) for way, head in heads.items()}
            if where == "redis goes away":
                stack.close()
            for way, head in heads.items():
                ways.settle()
                told[way] = [
                    left(ways.fast(wires[way], sent) if way == "fast" else ways.common(sent))
                    for sent in [packet(f"/api/v1/few/{number}", head) for number in range(1, 8)]
                ]
                told[way] += [(each.status, each.error_code, each.timeline.route) for each in ways.settle()]
            assert told["fast"] == told["common"]
            assert [each[0] for each in told["fast"]] == [200] * 5 + [429] * 2 + [200] * 5 + [429] * 2  # type: ignore[index]
            ways.check_rest()


@pytest.mark.parametrize(("meanwhile", "early"), [(fast_path.SERVED_MEANWHILE, 2), (1, 1)])
def test_an_answer_that_is_ready_waits_for_the_count_which_may_refuse_it(
    site_url: str, resources: Path, taken: list[bytes], monkeypatch: pytest.MonkeyPatch, meanwhile: int, early: int
) -> None:
    with valkey() as url, ways_over(site_url, resources, taken, RATE_LIMIT="1000000/day", REDIS_URL=url) as ways:
        wires = [ways.warm(), ways.warm()]
        assert [ways.fast(wires[0], packet("/api/v1/few/1")).status for _ in range(4)] == [200] * 4
        redis, counted, ready = ways.served.gateway.limiter.redis, asyncio.Event(), list[int]()
        assert redis is not None
        evaluate, answer = redis._evaluate, Read._answer

        async def evaluating(*asked: Any) -> list[int]:
            await counted.wait()
            return await evaluate(*asked)

        def answering(self: Read, *parts: Any) -> None:
            if not self.is_counted:
                ready.append(parts[0])
            answer(self, *parts)

        monkeypatch.setattr(fast_path, "SERVED_MEANWHILE", meanwhile)
        monkeypatch.setattr(redis, "_evaluate", evaluating)
        monkeypatch.setattr(Read, "_answer", answering)
        ways.settle()
        for wire in wires:
            wire.send(packet("/api/v1/few/1"))
        assert eventually(lambda: in_flight(ways) == 2 and ready == [200] * early)
        assert ready == [200] * early
        ways.served.loop.call_soon_threadsafe(counted.set)
        answers = [wire.answer() or pytest.fail("ended") for wire in wires]
        assert sorted(each.status for each in answers) == [200, 429]
        assert sorted(each["ratelimit"].partition(";t=")[0] for each in answers) == ['"few";r=0', '"few";r=0']
        assert sorted(each.status for each in ways.settle()) == [200, 429]
        ways.check_rest()


@contextmanager
def valkey() -> Iterator[str]:
    """A Redis that may be stopped."""
    with throwaway_directory(for_data=True) as directory, embedded.valkey(directory) as url:
        yield url


# --- faults --------------------------------------------------------------------------------------------------------------


@contextmanager
def closed_gate(url: str) -> Iterator[Gate]:
    """The reads of `gated` wait until it is opened."""
    with Gate(url).running() as gate:
        gate.close()
        yield gate


def in_flight(ways: Ways) -> int:
    return ways.served.gateway._data.in_flight


def test_a_fault_of_one_request_is_that_ones_alone(
    ways: Ways, site_url: str, faults: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of one statement are told one after the other."""
    show, prepare = fast_path._RowRead.show, fast_path._RowRead.prepare

    def showing(self: fast_path._RowRead, rows: Rows) -> None:
        if self.asked == b"3":
            raise RuntimeError("a fault of this one")
        show(self, rows)

    def preparing(self: fast_path._RowRead) -> bool:
        if self.asked == b"4":
            raise RuntimeError("a fault of that one")
        return prepare(self)

    monkeypatch.setattr(fast_path._RowRead, "show", showing)
    monkeypatch.setattr(fast_path._RowRead, "prepare", preparing)
    wires = [ways.warm() for _ in range(9)]
    ways.settle()
    with closed_gate(site_url) as gate:
        for number, wire in enumerate(wires, 1):
            wire.send(packet(f"/api/v1/gated/{number}"))
        assert eventually(lambda: in_flight(ways) == 8)
        gate.open()
        answers = [wire.answer() for wire in wires]
        assert [answer and answer.status for answer in answers] == [200, 200, 500, 500, 200, 200, 200, 200, 200]
        assert len(faults) == 2
        faults.clear()
    assert answers[2] is not None
    assert answers[2].json["error"]["code"] == "INTERNAL_ERROR"
    assert sorted(each.status for each in ways.settle()) == [200] * 7 + [500] * 2
    assert all(ways.fast(wire, packet(CUSTOM)).status == 200 for wire in wires)


def test_a_task_that_goes_on_and_fails_is_answered_too(ways: Ways, faults: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def resuming(*_arguments: object) -> None:
        raise RuntimeError("a fault beyond the common way's own")

    wire = ways.warm()
    monkeypatch.setattr(ways.served.gateway._data, "resume", resuming)
    assert ways.fast(wire, packet("/api/v1/notes?count=estimated")).status == 500
    assert len(faults) == 1
    faults.clear()
    assert ways.fast(wire, packet(CUSTOM)).status == 200


def test_who_leaves_at_any_stage_leaves_nothing(ways: Ways, site_url: str) -> None:
    wires = [ways.warm() for _ in range(4)]
    ways.settle()
    with closed_gate(site_url) as gate:
        for wire in wires:
            wire.send(packet("/api/v1/gated/1"))
        assert eventually(lambda: in_flight(ways) == 4)
        wires[0].close()
        wires[1].socket.shutdown(socket.SHUT_WR)
        wires[2].send(packet(CUSTOM))
        wires[2].close()
        assert wires[1].has_ended()
        gate.open()
        answer = wires[3].answer()
        assert answer is not None
        assert answer.status == 200
    assert eventually(lambda: in_flight(ways) == 0)
    assert [each.status for each in ways.settle()] == [200] * 5  # the third had asked twice


def test_what_comes_while_an_answer_is_awaited_is_answered_in_its_turn(ways: Ways, site_url: str) -> None:
    wire = ways.warm()
    ways.settle()
    with closed_gate(site_url) as gate:
        wire.send(packet("/api/v1/gated/1"))
        assert eventually(lambda: in_flight(ways) == 1)
        later = (
            packet("/api/v1/notes/2")
            + packet("/api/v1/notes/3")
            + packet("/api/v1/notes/4", method="HEAD")
            + packet("/api/v1/notes/5")
        )
        wire.send(later[:30], later[30:200], later[200:])
        gate.open()
        assert [(wire.answer() or pytest.fail("ended")).json["data"]["id"] for _ in range(3)] == [1, 2, 3]
        head = wire._read.readline()
        assert head.startswith(b"HTTP/1.1 200")
        while wire._read.readline() != b"\r\n":
            pass
        fifth = wire.answer()
        assert fifth is not None
        assert fifth.json["data"]["id"] == 5
    assert ways.fast(wire, packet("/api/v1/notes/6")).json["data"]["id"] == 6
    assert [each.status for each in ways.settle()] == [200] * 6


def test_a_read_that_takes_too_long_ends_and_so_does_the_next_one(
    ways: Ways, site_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the database hangs: the bound is the gateway's own, for the database does not hold its own."""
    with closed_gate(site_url) as gate:
        served = ways.served.gateway._serving
        bound = Pipeline.bound_seconds
        monkeypatch.setattr(
            Pipeline, "bound_seconds", lambda self, resource: 0.1 if "gated" in resource.id else bound(self, resource)
        )
        ways.served.run(ways.served.gateway.rebuild())
        assert ways.served.gateway._serving is not served
        wires = [ways.warm(), ways.warm()]
        ways.settle()
        common = ways.common(packet("/api/v1/gated/1"))
        for _ in range(2):
            for wire in wires:
                wire.send(packet("/api/v1/gated/1"))
            for wire in wires:
                answer = wire.answer()
                assert answer is not None
                assert answer.told == common.told
                assert answer.status == 503
        gate.open()
    assert eventually(lambda: ways.served.gateway.pool.active == 0)
    assert [(each.status, each.error_code) for each in ways.settle()] == [(503, "UNAVAILABLE")] * 5
    monkeypatch.undo()
    ways.served.run(ways.served.gateway.rebuild())


@contextmanager
def no_room(ways: Ways, site_url: str, monkeypatch: pytest.MonkeyPatch, holder: Wire) -> Iterator[Gate]:
    """The one place at the database is taken by a read of `holder`'s, until the gate is opened."""
    with closed_gate(site_url) as gate:
        monkeypatch.setattr(ways.served.gateway.gate, "limit", 1)
        holder.send(packet("/api/v1/gated/1"))
        assert eventually(lambda: gate.waiting() == 1)
        yield gate


def test_where_there_is_no_room_a_request_waits_for_it_or_is_refused(
    ways: Ways, site_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate_at, wires = ways.served.gateway.gate, [ways.warm() for _ in range(3)]
    ways.settle()
    with no_room(ways, site_url, monkeypatch, wires[0]) as gate:
        fast, common = ways.fast(wires[1], packet("/api/v1/notes/2")), ways.common(packet("/api/v1/notes/2"))
        assert fast.status == 503
        assert fast.told == common.told
        monkeypatch.setattr(gate_at, "_line_seconds", 60)
        for wire in wires[1:]:
            wire.send(packet("/api/v1/notes/2"))
        assert eventually(lambda: gate_at.waiting == 2)
        gate.open()
        assert [(wire.answer() or pytest.fail("ended")).status for wire in wires] == [200, 200, 200]
    assert [each.status for each in ways.settle()] == [503, 503, 200, 200, 200]


def test_a_client_that_floods_the_database_alone_is_turned_away_unread(
    ways: Ways, site_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate_at, wires = ways.served.gateway.gate, [ways.warm() for _ in range(3)]
    ways.settle()
    monkeypatch.setattr(gate_at, "_others_until", 0.0)
    with no_room(ways, site_url, monkeypatch, wires[0]) as gate:
        monkeypatch.setattr(gate_at, "_is_crowded", True)
        shed = ways.served.gateway.metrics.snapshot()["requests_shed_total"].get(("busy",), [0.0])[0]
        asked = len(ways.taken)
        wires[1].send(packet("/api/v1/notes/2", {"X-Request-Id": "mine"}))
        answer = wires[1].answer()
        assert answer is not None
        assert (answer.status, answer["x-request-id"], answer.json["error"]["code"]) == (503, "mine", "UNAVAILABLE")
        assert int(answer["retry-after"]) >= 1
        assert len(ways.taken) == asked + 1
        assert ways.served.gateway.metrics.snapshot()["requests_shed_total"]["busy",][0] == shed + 1
        monkeypatch.setattr(gate_at, "_last_client", "somebody else")  # whose place in the line is kept
        monkeypatch.setattr(gate_at, "_line_seconds", 60)
        wires[2].send(packet("/api/v1/notes/2"))
        assert eventually(lambda: gate_at.waiting == 1)
        gate.open()
        assert [(wire.answer() or pytest.fail("ended")).status for wire in (wires[0], wires[2])] == [200, 200]
        assert ways.fast(wires[1], packet("/api/v1/notes/2")).status == 200
    assert [each.status for each in ways.settle()] == [200, 200, 200]  # who is turned away is counted, and not told of


def test_a_statement_that_takes_too_long_is_told_alike(ways: Ways, site_url: str) -> None:
    wires = [ways.warm() for _ in range(3)]
    with closed_gate(site_url) as gate:
        common = ways.common(packet("/api/v1/brief/1"))
        for number, wire in enumerate(wires):
            wire.send(packet(f"/api/v1/brief/{1 + number}"))
        for wire in wires:
            answer = wire.answer()
            assert answer is not None
            assert answer.told == common.told
            assert answer.json["error"]["code"] == "DB_TIMEOUT"
        gate.open()


def test_a_shape_that_is_slow_is_read_alone(ways: Ways) -> None:
    wire = ways.warm()
    assert ways.fast(wire, packet("/api/v1/notes/7")).status == 200
    reads = ways.served.gateway._serving.pipeline.reads
    assert isinstance(reads, Reads)
    for lane in reads._lanes.values():
        lane.seconds = 60
    assert ways.fast(wire, packet("/api/v1/notes/8")).json["data"]["id"] == 8
    reads._lanes.clear()


@pytest.mark.parametrize("path", ["/api/v1/notes/1", "/api/v1/notes?limit=2", "/api/v1/gated/1"])
def test_a_database_that_is_away_is_told_alike(ways: Ways, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = ways.warm()

    async def fetch(*_arguments: object, **_named: object) -> Rows:
        raise Unavailable("The database cannot be reached.")

    ways.settle()
    monkeypatch.setattr(ways.served.gateway._database, "fetch", fetch)
    fast, common = ways.fast(wire, packet(path)), ways.common(packet(path))
    assert fast.told == common.told
    assert fast.status == 503
    mine, others = ways.settle()
    assert observed(mine) == observed(others)


def test_tables_that_change_under_a_request_are_caught_up_with(database_url: str, tmp_path: Path, taken: list[bytes]) -> None:
    execute(database_url, TABLES)
    write_resources(tmp_path / "resources", RESOURCES)
    with ways_over(database_url, tmp_path / "resources", taken) as ways:
        wire = ways.warm()
        for path in ("/api/v1/pairs/plain,1", "/api/v1/pairs"):
            assert ways.fast(wire, packet(path)).status == 200
        execute(database_url, "ALTER TABLE pairs DROP COLUMN note")
        ways.settle()
        assert ways.fast(wire, packet("/api/v1/pairs/plain,1")).json["data"] == {"word": "plain", "number": 1}
        assert ways.fast(wire, packet("/api/v1/pairs")).json["data"][0].keys() == {"word", "number"}
        assert [each.status for each in ways.settle()] == [200, 200]
        ways.check_rest()


# --- the connection ------------------------------------------------------------------------------------------------------


def test_what_waits_for_its_turn_for_too_long_is_refused_as_by_the_common_way(
    ways: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = ways.warm()
    ways.settle()
    monkeypatch.setattr(ways.served.gateway.arrivals, "come", lambda begin: begin(False))
    fast, common = ways.fast(wire, packet(CUSTOM)), ways.common(packet(CUSTOM))
    assert fast.told == common.told
    assert fast.status == 503
    assert ways.settle() == []


def test_a_line_that_is_full_refuses_what_is_known_by_its_bytes_too(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = ways.warm()
    before = len(ways.taken)
    monkeypatch.setattr(ways.served.gateway.arrivals, "full", True)
    assert wire.ask(packet(CUSTOM)).status == 503
    assert len(ways.taken) == before


def test_a_connection_that_is_idle_after_answers_of_the_fast_path_is_closed(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways.served.server.config, "timeout_keep_alive", 0.2)
    wire = ways.warm()
    assert ways.fast(wire, packet(CUSTOM)).status == 200
    assert wire.has_ended()
    wire = ways.wire()
    assert ways.fast(wire, packet(CUSTOM)).status == 200  # whose first request is one that is known
    assert wire.has_ended()


@pytest.mark.parametrize("stops", ["drains", "stops"])
def test_what_is_under_way_when_the_server_stops_is_answered_and_ends_its_connection(
    site_url: str, resources: Path, taken: list[bytes], stops: str
) -> None:
    with closed_gate(site_url) as gate, ways_over(site_url, resources, taken) as ways:
        wires = [ways.warm(), ways.warm()]
        ways.settle()
        for wire in wires:
            wire.send(packet("/api/v1/gated/1"))
        assert eventually(lambda: in_flight(ways) == 2)
        wires[1].send(packet(CUSTOM))
        if stops == "drains":
            ways.served.loop.call_soon_threadsafe(ways.served.server._begin_to_drain)
        else:
            ways.served.loop.call_soon_threadsafe(setattr, ways.served.server, "should_exit", True)
            assert eventually(lambda: not ways.served.server.servers[0].is_serving())
        ways.served.run(asyncio.sleep(0.2 if stops == "stops" else 0))
        gate.open()
        for wire in wires:
            answer = wire.answer()
            assert answer is not None
            assert (answer.status, answer["connection"]) == (200, "close")
            assert wire.has_ended()
        assert [each.status for each in ways.settle()] == [200, 200]


def test_a_read_that_does_not_end_is_answered_when_the_server_waits_no_longer(
    site_url: str, resources: Path, taken: list[bytes], faults: list[str]
) -> None:
    with closed_gate(site_url) as gate, ways_over(site_url, resources, taken) as ways:
        ways.served.server.config.timeout_graceful_shutdown = 1
        wire = ways.warm()
        ways.settle()
        wire.send(packet("/api/v1/gated/1"))
        assert eventually(lambda: in_flight(ways) == 1)
        ways.served.loop.call_soon_threadsafe(setattr, ways.served.server, "should_exit", True)
        answer = wire.answer()
        assert answer is not None
        assert (answer.status, answer["connection"]) == (503, "close")
        assert b"stopping" in answer.body
        assert wire.has_ended()
        assert gate.waiting() == 1  # it was not the read that ended
        gate.open()
    assert faults == ["Cancel 1 running task(s), timeout graceful shutdown exceeded"]
    faults.clear()


# --- what is kept --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_what_is_kept_is_told_and_goes_with_a_write_on_the_same_connection(
    database_url: str, resources: Path, taken: list[bytes], store: str
) -> None:
    execute(database_url, TABLES)
    with ExitStack() as stack:
        redis = {"REDIS_URL": stack.enter_context(valkey())} if store == "redis" else {}
        with ways_over(database_url, resources, taken, WORKERS="1", **redis) as ways:
            cache = ways.served.gateway.cache
            assert cache is not None
            assert eventually(lambda: cache.is_trusted)
            wire = ways.warm()
            for target in ("/api/v1/notes/7", "/api/v1/notes?id=7"):
                before = cache.hits, cache.misses, cache.bypasses
                first, second = ways.fast(wire, packet(target)), ways.fast(wire, packet(target))
                assert (first["x-cache"], second["x-cache"]) == ("miss", "hit")
                assert ["age" in dict(each.headers) for each in (first, second)] == [False, True]
                assert first.body == second.body
                assert (cache.hits, cache.misses, cache.bypasses) == (before[0] + 1, before[1] + 1, before[2])
                body = json.dumps({"body": f"written for {target}"})
                change = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                assert wire.ask(packet("/api/v1/notes/7", change, "PATCH") + body.encode()).status == 200
                third = ways.fast(wire, packet(target))
                assert third["x-cache"] == "miss"
                assert f"written for {target}" in third.body.decode()
            assert ways.fast(wire, packet("/api/v1/words/plain"))["x-cache"] == "bypass"  # whose ttl is 0
            stack.close()
            if store == "redis":
                misses, bypasses = cache.misses, cache.bypasses
                for target in ("/api/v1/notes/7", "/api/v1/notes?id=7", "/api/v1/notes/7"):
                    assert ways.fast(wire, packet(target))["x-cache"] == "bypass"
                assert (cache.misses, cache.bypasses) == (misses, bypasses + 3)
            ways.check_rest()


def test_many_at_once_are_counted_and_read_together_and_who_is_over_the_limit_is_refused(
    site_url: str, resources: Path, taken: list[bytes]
) -> None:
    with valkey() as url, ways_over(site_url, resources, taken, RATE_LIMIT="1000000/day", REDIS_URL=url) as ways:
        wires = [ways.warm() for _ in range(20)]
        ways.settle()
        for wire in wires:
            wire.send(packet("/api/v1/few/1"))
        answers = [wire.answer() for wire in wires]
        assert sorted(answer.status for answer in answers if answer is not None) == [200] * 5 + [429] * 15
        assert sorted(each.status for each in ways.settle()) == [200] * 5 + [429] * 15
        ways.check_rest()


def test_heads_know_few_ways_and_queries_and_forget_the_oldest(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_path, "MAX_WAYS", 2)
    monkeypatch.setattr(fast_path, "MAX_PAGES", 3)
    wire, known = ways.warm("X-Test: few ways\r\n"), ways.served.gateway.fast_path
    known.pages.clear()
    for name in ("notes", "words", "pairs", "owners", "notes"):
        for limit in (1, 2, 1):
            answer = ways.fast(wire, packet(f"/api/v1/{name}?limit={limit}", "X-Test: few ways\r\n"))
            assert len(answer.json["data"]) == limit
    heads = [head for head in known._heads.values() if (b"x-test", b"few ways") in head.raw]
    assert [list(head.ways) for head in heads] == [[b"/api/v1/owners", b"/api/v1/notes"]]
    assert len(known.pages) == 3


# --- many ----------------------------------------------------------------------------------------------------------------


def ask_much(ways: Ways, number: int, requests: int) -> int:
    """One caller, who now and then sends two at a time, or leaves without an answer. Tells how many were answered."""
    chance, wire, answered = random.Random(number), ways.wire(), 0
    head = {"X-Caller": str(number % 3)}
    for turn in range(requests):
        wanted = [(f"{number}-{turn}-{place}", chance.randint(1, 100)) for place in range(chance.choice([1, 1, 1, 2]))]
        for request_id, key in wanted:
            target = chance.choice([f"/api/v1/notes/{key}", f"/api/v1/notes?id={key}", f"/api/v1/notes?id={key}&count=estimated"])
            wire.send(packet(target, {**head, "X-Request-Id": request_id}))
        if chance.random() < 0.05:
            wire.close()
            wire = ways.wire()
            continue
        for request_id, key in wanted:
            answer = wire.answer()
            assert answer is not None
            assert (answer.status, answer["x-request-id"]) == (200, request_id)
            data = answer.json["data"]
            assert (data[0] if isinstance(data, list) else data)["id"] == key
            answered += 1
    return answered


@pytest.mark.parametrize("requests", [20, pytest.param(1500, marks=pytest.mark.long)])
@pytest.mark.parametrize("store", ["no store", "redis"])
def test_each_of_many_callers_gets_their_own_answers_whatever_is_reloaded_meanwhile(
    site_url: str, resources: Path, taken: list[bytes], store: str, requests: int
) -> None:
    with ExitStack() as stack:
        redis = {"WORKERS": "1", "REDIS_URL": stack.enter_context(valkey())} if store == "redis" else {}
        ways = stack.enter_context(ways_over(site_url, resources, taken, RATE_LIMIT="1000000/day", **redis))
        callers = stack.enter_context(ThreadPoolExecutor(8))
        before = len(taken)
        asked = [callers.submit(ask_much, ways, number, requests) for number in range(8)]
        while not all(each.done() for each in asked):
            ways.served.run(ways.served.gateway.rebuild())
        answered = sum(each.result() for each in asked)
        ways.check_rest()
        assert len(taken) - before > answered / 2
        ended = Counter(each.timeline.request_id for each in ways.settle())
        assert ended.most_common(1)[0][1] == 1
        assert len(ended) >= answered
