"""A real server under attack: hostile bytes, races, a database that is slow, full, changing or dead. No 500, and it heals."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import asyncpg
import httpx
import pytest

from gateway import embedded
from tests.conftest import throwaway_database
from tests.journeys.answers import JSON, gateway_over, made, problems
from tests.serving import write_resources

pytestmark = pytest.mark.xdist_group("attacks")

SQL = """
    CREATE TABLE things (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text UNIQUE,
        size integer,
        ratio double precision,
        amount numeric,
        moment timestamptz,
        doc jsonb,
        tags text[]
    );
    CREATE TABLE words (word text PRIMARY KEY, n integer NOT NULL DEFAULT 0);
    CREATE VIEW slow AS SELECT id, (SELECT 1 FROM pg_sleep(30)) AS n FROM things;
    CREATE TABLE sleepers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, seconds double precision NOT NULL);
    CREATE FUNCTION doze() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_sleep(NEW.seconds);
        RETURN NEW;
    END $$;
    CREATE TRIGGER doze AFTER INSERT OR UPDATE ON sleepers FOR EACH ROW EXECUTE FUNCTION doze();
    INSERT INTO things (name, size) VALUES ('first', 1);
"""
RESOURCES = {
    "things": "",
    "words": "",
    "slow": "key: id\n",
    "sleepers": "",
    "patient": "table: sleepers\ntimeout: 10\n",
    "hasty": "table: sleepers\ntimeout: 0.2\n",
}


def execute(url: str, *statements: str) -> Any:
    """Runs statements on a connection of their own; gives the last one's first value."""

    async def run() -> Any:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetchval(statements[-1])
        finally:
            await connection.close()

    return asyncio.run(run())


def prepared(url: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(SQL)
        await connection.close()

    asyncio.run(run())


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_resources(Path(tmp_path_factory.mktemp("attacks")) / "resources", RESOURCES)


@pytest.fixture(scope="module")
def database(postgres_url: str) -> Iterator[str]:
    with throwaway_database(postgres_url) as url:
        prepared(url)
        yield url


@pytest.fixture(scope="module")
def client(database: str, resources: Path) -> Iterator[httpx.Client]:
    with gateway_over(database, resources) as found:
        yield found


def at_once(count: int, call: Callable[[int], httpx.Response]) -> Counter[int]:
    """How many answers of each status `count` calls get that begin together."""
    barrier = threading.Barrier(count)

    def one(number: int) -> int:
        barrier.wait()
        return call(number).status_code

    with ThreadPoolExecutor(count) as threads:
        return Counter(threads.map(one, range(count)))


def raw(client: httpx.Client, request: bytes, reading_seconds: float = 5) -> bytes:
    """What the server answers to bytes that no client library would send, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0)) as connection:
        connection.settimeout(reading_seconds)
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


# --- bodies and parameters ---------------------------------------------------------------------------------------------

HOSTILE: list[Any] = [
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    2**64,
    10**300,
    1.5,
    1e308,
    "",
    "x",
    "\x00",
    "\ud800",
    "a" * 100_000,
    "'; DROP TABLE things; --",
    '"',
    "\\",
    "%s $1 {0} {x}",
    "NaN",
    "Infinity",
    "now",
    "epoch",
    "{}",
    "[]",
    [],
    [[]],
    [None],
    {},
    {"a": None},
    {"a": {"$gt": 1}},
]


@pytest.mark.parametrize("field", ["id", "name", "size", "ratio", "amount", "moment", "doc", "tags", "nothing", "", "__proto__"])
def test_no_value_of_a_body_makes_a_fault(client: httpx.Client, field: str) -> None:
    row = made(client, "things")
    for value in HOSTILE:
        body = json.dumps({field: value})
        for response in (
            client.post("/api/v1/things", content=body, headers=JSON),
            client.patch(f"/api/v1/things/{row['id']}", content=body, headers=JSON),
            client.patch(f"/api/v1/things/{row['id']}", content=body, headers={"content-type": "application/merge-patch+json"}),
        ):
            assert response.status_code in (200, 201, 400, 409), (value, response.text)


INJECTIONS = [
    "'; DROP TABLE things; --",
    "1; SELECT pg_sleep(30)",
    "1 OR 1=1",
    "' OR ''='",
    '"; DROP TABLE things; --',
    'name" = name OR "name',
    "name) OR (true",
    "$1",
    "%27%3B",
    "\\'; SELECT 1; --",
    "$$; SELECT 1; $$",
    "/*",
    "--",
    "name::text",
    "t.name",
    "pg_sleep(30)",
    "(SELECT 1)",
    "*",
    "name\x00",
    "ctid",
    "xmin",
    "tableoid",
]


@pytest.mark.parametrize("attempt", INJECTIONS)
def test_sql_in_any_place_is_a_value_or_refused(client: httpx.Client, attempt: str) -> None:
    total = client.get("/api/v1/things?count=exact&limit=1").json()["meta"]["total"]
    encoded = quote(attempt, safe="")
    cursor = client.get("/api/v1/things?limit=1&sort=name").json()["meta"]["next_cursor"]
    for query, statuses in {
        f"{encoded}=1": (400,),
        f"{encoded}[gt]=1": (400,),
        f"name[{encoded}]=1": (400,),
        f"name={encoded}": (200, 400),
        f"name[in]={encoded}": (200, 400),
        f"name[like]={encoded}": (200, 400),
        f"name[contains]={encoded}": (200, 400),
        f"size={encoded}": (400,),
        f"moment={encoded}": (400,),
        f"doc.{encoded}=1": (200, 400),
        f"doc.a.{encoded}[gt]=1": (200, 400),
        f"doc.a={encoded}": (200, 400),
        f"doc[has]={encoded}": (200, 400),
        f"tags[any]={encoded}": (200, 400),
        f"tags={encoded}": (200, 400),
        f"sort={encoded}": (400,),
        f"sort=name:{encoded}": (400,),
        f"sort=-{encoded}": (400,),
        f"fields={encoded}": (400,),
        f"limit={encoded}": (400,),
        f"page={encoded}": (400,),
        f"cursor={encoded}": (400,),
        f"sort=name&limit=1&cursor={cursor}{encoded}": (400,),
        f"count={encoded}": (400,),
        f"filter={encoded}": (400,),
        f"filter={quote(json.dumps({attempt: 1}))}": (400,),
        f"filter={quote(json.dumps({'name': {attempt: 1}}))}": (400,),
        f"filter={quote(json.dumps({'name': attempt}))}": (200, 400),
        f"filter={quote(json.dumps({f'doc.{attempt}': {'gt': 1}}))}": (200, 400),
    }.items():
        response = client.get(f"/api/v1/things?{query}")
        assert response.status_code in statuses, (query, response.text)
    assert client.get(f"/api/v1/things/{encoded}").status_code == 404
    assert client.get(f"/api/v1/words/{encoded}").status_code == 404
    assert client.get(f"/api/v1/{encoded}").status_code == 404
    assert client.get("/api/v1/things?count=exact&limit=1").json()["meta"]["total"] == total


def test_any_text_can_be_a_key(client: httpx.Client) -> None:
    for word in (*INJECTIONS[:-4], "a/b", "a,b", "..", ".", "%2F", "?", "#", "ü", "🎉", " ", "a+b", "a" * 2000):
        if "\x00" in word:
            continue
        response = client.post("/api/v1/words", json={"word": word})
        assert response.status_code == 201, response.text
        place = response.headers["location"]
        assert client.get(place).json()["data"] == {"word": word, "n": 0}
        assert client.patch(place, json={"n": 1}).json()["data"] == {"word": word, "n": 1}
        assert client.delete(place).status_code == 204


def test_a_megabyte_of_text_is_taken_or_refused(client: httpx.Client) -> None:
    text = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=1_000_000))
    assert client.post("/api/v1/things", json={"doc": text}).status_code == 201
    response = client.post("/api/v1/things", json={"name": text})  # more than an index can hold
    assert response.status_code == 400
    assert client.post("/api/v1/words", json={"word": text}).status_code == 400


def test_numbers_that_expand_are_bounded(client: httpx.Client) -> None:
    many = ",".join(["1e131071"] * 100_000)
    response = client.post("/api/v1/things", content=f'{{"doc": [{many}]}}', headers=JSON)
    assert response.status_code == 400
    response = client.post("/api/v1/things", content='{"amount": "1e131072"}', headers=JSON)
    assert problems(response).keys() == {"amount"}


def test_a_url_of_8_kb_is_answered(client: httpx.Client) -> None:
    length = 8_000
    assert client.get(f"/api/v1/things?name={'a' * length}").status_code == 200
    assert client.get(f"/api/v1/words/{'a' * length}").status_code == 404
    assert client.get(f"/api/v1/{'a' * length}").status_code == 404
    assert client.get(f"/api/v1/things?{'a' * length}=1").status_code == 400
    assert client.get(f"/api/v1/things?sort={'a,' * (length // 2)}").status_code == 400
    assert client.get(f"/api/v1/things?doc.{'a.' * (length // 2)}b=1").status_code in (200, 400)
    assert client.get(f"/api/v1/things?size[in]={'1,' * (length // 2)}1").status_code == 400
    assert client.get(f"/api/v1/things?filter={'[' * length}").status_code == 400
    assert client.get(f"/api/v1/things?cursor={'A' * length}").status_code == 400


def test_a_head_of_70_kb_is_refused(client: httpx.Client) -> None:
    headers = {"x-big": "v" * 10_000}  # the client itself takes no URL that is longer than these
    for path in (f"/api/v1/things?name={'a' * 60_000}", f"/api/v1/words/{'a' * 60_000}", f"/{'a' * 60_000}"):
        assert problems(client.get(path, headers=headers)).keys() == {"headers"}


def test_hundreds_of_parameters_are_refused(client: httpx.Client) -> None:
    for count in (201, 900):
        query = urlencode([(f"doc.k{n}", n) for n in range(count)])
        assert "at most 200" in client.get(f"/api/v1/things?{query}").json()["error"]["message"]
    query = urlencode([(f"doc.k{n}", n) for n in range(51)])
    assert "at most 50" in next(iter(problems(client.get(f"/api/v1/things?{query}")).values()))
    query = urlencode([(f"doc.k{n}", n) for n in range(50)])
    assert client.get(f"/api/v1/things?{query}").status_code == 200


# --- below HTTP --------------------------------------------------------------------------------------------------------

MALFORMED = [
    b"\x00\x00\x00\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /api/v1/things HTTP/9.9\r\n\r\n",
    b"GET /api/v1/things HTTP/1.1\r\nHost: x\r\n bad\r\n\r\n",
    b"GET /api/v1/things HTTP/1.1\r\nHost: x\r\nX: \x00\r\n\r\n",
    b"GET /api/v1/caf\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"BREW /api/v1/things HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /api/v1/things HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/v1/things HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    b"POST /api/v1/things HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"POST /api/v1/things HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /api/v1/things HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\nzz\r\n",
    b"GET /api/v1/things?name=" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
]


@pytest.mark.parametrize("request_bytes", MALFORMED)
def test_what_is_no_http_is_answered_with_400_and_closed(client: httpx.Client, request_bytes: bytes) -> None:
    assert raw(client, request_bytes).startswith(b"HTTP/1.1 400 ")


def test_strange_headers_are_borne(client: httpx.Client) -> None:
    assert client.get("/api/v1/things?limit=1", headers={f"x-{n}": "v" for n in range(50)}).status_code == 200
    assert client.get("/api/v1/things?limit=1", headers={"x-big": "v" * 8_000}).status_code == 200
    for headers in ({f"x-{n}": "v" for n in range(500)}, {"x-big": "v" * 70_000}, {f"x-{n}": "v" * 1000 for n in range(90)}):
        assert problems(client.get("/api/v1/things?limit=1", headers=headers)).keys() == {"headers"}
    repeated = [("x-request-id", "one"), ("x-request-id", "two")]
    assert client.get("/api/v1/things?limit=1", headers=repeated).headers["x-request-id"] in ("one", "two")
    split = raw(client, b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: a\r\nX-Injected: b\r\n\r\n")
    assert b"x-injected" not in split.lower()


def test_a_client_that_leaves_in_the_middle_of_a_body_leaves_no_trace(client: httpx.Client) -> None:
    head = b"POST /api/v1/things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    for request in (
        head + b'Content-Length: 1000\r\n\r\n{"name": "left',
        head + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"nam\r\n',
    ):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", client.base_url.port or 0)) as connection:
                connection.sendall(request)
    assert client.get("/api/v1/things?name[starts]=left").json()["data"] == []


# --- races -------------------------------------------------------------------------------------------------------------


def test_of_fifty_equal_creates_at_once_one_succeeds(client: httpx.Client) -> None:
    statuses = at_once(50, lambda _: client.post("/api/v1/things", json={"name": "wanted by many"}))
    assert statuses == {201: 1, 409: 49}


def test_fifty_patches_at_once_all_take_place(client: httpx.Client) -> None:
    row = made(client, "things", doc={})
    path = f"/api/v1/things/{row['id']}"
    merge = {"content-type": "application/merge-patch+json"}
    statuses = at_once(50, lambda number: client.patch(path, content=json.dumps({"doc": {f"k{number}": number}}), headers=merge))
    assert statuses == {200: 50}
    assert client.get(path).json()["data"]["doc"] == {f"k{number}": number for number in range(50)}


def test_of_fifty_deletes_at_once_one_finds_the_row(client: httpx.Client) -> None:
    row = made(client, "things")
    assert at_once(50, lambda _: client.delete(f"/api/v1/things/{row['id']}")) == {204: 1, 404: 49}


# --- a slow database ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hurried(database: str, resources: Path) -> Iterator[httpx.Client]:
    """A gateway with two connections, a statement timeout of 0.5 s, and 0.3 s to get a connection."""
    variables = {
        "DATABASE_POOL_MAX": "2",
        "DATABASE_STATEMENT_TIMEOUT_SECONDS": "0.5",
        "DATABASE_ACQUIRE_TIMEOUT_SECONDS": "0.3",
    }
    with gateway_over(database, resources, **variables) as found:
        yield found


def test_a_read_that_takes_too_long_is_408(hurried: httpx.Client) -> None:
    for path in ("/api/v1/slow", "/api/v1/slow/1", "/api/v1/slow?count=exact&n=1"):
        response = hurried.get(path)
        assert response.status_code == 408
        assert response.json()["error"]["code"] == "DB_TIMEOUT"


def test_a_write_that_takes_too_long_is_408_and_writes_nothing(hurried: httpx.Client) -> None:
    row = made(hurried, "sleepers", seconds=0)
    assert hurried.post("/api/v1/sleepers", json={"seconds": 30}).status_code == 408
    assert hurried.patch(f"/api/v1/sleepers/{row['id']}", json={"seconds": 30}).status_code == 408
    assert hurried.get("/api/v1/sleepers?seconds=30").json()["data"] == []
    assert hurried.get(f"/api/v1/sleepers/{row['id']}").json()["data"] == row


def test_a_resource_may_have_more_time_or_less(hurried: httpx.Client) -> None:
    assert hurried.post("/api/v1/patient", json={"seconds": 0.8}).status_code == 201
    assert hurried.post("/api/v1/hasty", json={"seconds": 0.4}).status_code == 408
    assert hurried.post("/api/v1/sleepers", json={"seconds": 0.05}).status_code == 201


def test_a_full_pool_is_503_and_is_free_again(hurried: httpx.Client) -> None:
    # Of different shapes, for requests of one shape share a statement.
    shapes = ["gt]=0", "gte]=0", "lt]=9", "lte]=9", "ne]=99", "in]=1,2", "nin]=99", "between]=1,9", "null]=false", "eq]=1"]
    statuses = at_once(10, lambda number: hurried.get(f"/api/v1/slow?id[{shapes[number]}"))
    assert statuses == {408: 2, 503: 8}
    response = hurried.get("/api/v1/things?limit=1")
    assert response.status_code == 200


def test_a_full_pool_says_when_to_come_again(hurried: httpx.Client) -> None:
    with ThreadPoolExecutor(2) as threads:
        holding = [threads.submit(hurried.post, "/api/v1/patient", json={"seconds": 1.5}) for _ in range(2)]
        time.sleep(0.2)
        response = hurried.get("/api/v1/things?limit=1")
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert response.json()["error"]["message"] == "Every database connection is busy."
        assert hurried.get("/health/live").status_code == 200
        assert hurried.get("/health/ready").status_code == 200  # busy is not ill: a balancer would only move the load on
        assert [answer.result().status_code for answer in holding] == [201, 201]
    assert hurried.get("/health/ready").status_code == 200


def test_a_row_that_another_holds_is_waited_for_no_longer_than_the_timeout(database: str, hurried: httpx.Client) -> None:
    row = made(hurried, "things")

    async def hold() -> httpx.Response:
        connection = await asyncpg.connect(database)
        try:
            async with connection.transaction():
                await connection.execute("SELECT FROM things WHERE id = $1 FOR UPDATE", row["id"])
                return await asyncio.to_thread(hurried.patch, f"/api/v1/things/{row['id']}", json={"size": 5})
        finally:
            await connection.close()

    assert asyncio.run(hold()).status_code == 408
    assert hurried.patch(f"/api/v1/things/{row['id']}", json={"size": 5}).status_code == 200


# --- a changing database -----------------------------------------------------------------------------------------------


class _Load:
    """Clients that read and write until told to stop; gives how many answers of each status they had."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.stop = threading.Event()

    def run(self, call: Callable[[], httpx.Response]) -> None:
        while not self.stop.is_set():
            response = call()
            self.statuses[response.status_code] += 1

    def answers(self, count: int) -> None:
        """Waits for `count` more answers."""
        wanted = self.statuses.total() + count
        end = time.monotonic() + 20
        while self.statuses.total() < wanted and time.monotonic() < end:
            time.sleep(0.01)

    def sees(self, *statuses: int) -> None:
        """Waits until each of these statuses was answered."""
        end = time.monotonic() + 20
        while not self.statuses.keys() >= set(statuses) and time.monotonic() < end:
            time.sleep(0.01)


@contextmanager
def under_load(*calls: Callable[[], httpx.Response]) -> Iterator[_Load]:
    load = _Load()
    with ThreadPoolExecutor(len(calls)) as threads:
        running_calls = [threads.submit(load.run, call) for call in calls]
        try:
            yield load
        finally:
            load.stop.set()
            for each in running_calls:
                each.result()


DDL = [
    "ALTER TABLE things ADD COLUMN extra integer NOT NULL DEFAULT 1",
    "ALTER TABLE things ALTER COLUMN size TYPE bigint",
    "ALTER TABLE things ALTER COLUMN name TYPE varchar(3000)",
    "ALTER TABLE things ALTER COLUMN amount TYPE numeric(30, 4)",
    "CREATE TYPE mood AS ENUM ('ok')",
    "ALTER TABLE moods ALTER COLUMN mood TYPE mood USING mood::mood",
    "ALTER TYPE mood ADD VALUE 'sad'",
    "ALTER TABLE things DROP COLUMN extra",
    "CREATE INDEX ON things (size)",
    "ANALYZE things",
    "ALTER TABLE things RENAME CONSTRAINT things_pkey TO renamed",
]


def test_ddl_under_load_makes_no_fault(postgres_url: str, resources: Path) -> None:
    with throwaway_database(postgres_url) as url:
        prepared(url)
        execute(url, "CREATE TABLE moods (id bigint PRIMARY KEY, mood text)", "INSERT INTO moods VALUES (1, 'ok')")
        with gateway_over(url, resources) as client:
            with under_load(
                lambda: client.get("/api/v1/things/1"),
                lambda: client.get("/api/v1/things?size[gte]=0&sort=-size&limit=5&count=exact"),
                lambda: client.patch("/api/v1/things/1", json={"size": 2, "amount": "1.5"}),
                lambda: client.post("/api/v1/things", json={"doc": {"a": 1}}),
                lambda: client.post("/api/v1/patient", json={"seconds": 0}),
            ) as load:
                load.answers(50)
                for statement in DDL:
                    execute(url, statement)
                    load.answers(20)
            assert load.statuses.keys() == {200, 201}


def test_a_table_that_is_gone_is_503_and_back_when_it_is_back_and_a_column_that_is_gone_is_missed_by_nobody(
    postgres_url: str, resources: Path
) -> None:
    with throwaway_database(postgres_url) as url:
        prepared(url)
        with gateway_over(url, resources) as client:
            assert client.get("/api/v1/words").status_code == 200
            execute(url, "ALTER TABLE words RENAME TO elsewhere")
            asked = [
                lambda: client.get("/api/v1/words"),
                lambda: client.get("/api/v1/words/x"),
                lambda: client.post("/api/v1/words", json={"word": "x"}),
            ]
            assert at_once(len(asked), lambda number: asked[number]()) == {503: 3}
            assert client.get("/api/v1/things").status_code == 200
            execute(url, "ALTER TABLE elsewhere RENAME TO words")
            assert client.get("/api/v1/words").status_code == 200
            execute(url, "ALTER TABLE words DROP COLUMN n")
            words = client.get("/api/v1/words")  # by the table as it is now, which the gateway has read anew
            assert words.status_code == 200
            assert all("n" not in row for row in words.json()["data"])


# --- a database that dies ----------------------------------------------------------------------------------------------


def test_killed_connections_are_503_at_most_and_heal(postgres_url: str, resources: Path) -> None:
    with throwaway_database(postgres_url) as url:
        prepared(url)
        with gateway_over(url, resources) as client:
            with under_load(
                *[lambda: client.get("/api/v1/things?limit=5")] * 3,
                lambda: client.post("/api/v1/things", json={"size": 1}),
                lambda: client.post("/api/v1/patient", json={"seconds": 0.01}),
            ) as load:
                for _ in range(8):
                    load.answers(20)
                    execute(
                        url,
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
                    )
                load.answers(50)
            assert load.statuses.keys() <= {200, 201, 503}
            assert load.statuses[200] > 0
            assert client.get("/api/v1/things?limit=1").status_code == 200


def test_a_server_that_stops_is_503_until_it_is_back(database_directory: Path, resources: Path) -> None:
    with ExitStack() as stack:
        with embedded.postgres(database_directory, durable=False) as url:
            prepared(url)
            client = stack.enter_context(gateway_over(url, resources, DATABASE_POOL_MIN="3"))
            load = stack.enter_context(
                under_load(
                    *[lambda: client.get("/api/v1/things?limit=5")] * 2,
                    lambda: client.post("/api/v1/things", json={"size": 1}),
                )
            )
            load.answers(30)
        load.statuses.clear()
        load.answers(30)
        assert load.statuses.keys() == {503}
        with embedded.postgres(database_directory, durable=False):
            load.sees(200, 201)  # not after some answers: a 503 is quick, and the probe takes its time
            load.answers(30)
            load.statuses.clear()
            load.answers(30)
            assert load.statuses.keys() <= {200, 201}
            load.stop.set()
