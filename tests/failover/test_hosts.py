"""A `DATABASE_URL` with several hosts: the one that takes writes is found, and left when it takes none any more."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import asyncpg
import pytest

from gateway import fill, migrate
from gateway.cache.dependencies import read_dependencies
from gateway.cache.listener import postgres_session
from gateway.connect import Connector, NoSuchServer, connect
from gateway.database.execute import Database
from gateway.database.inspect import read_tables
from gateway.database.pool import Pool, PoolOptions
from gateway.errors import Unavailable
from tests.journeys import processes
from tests.replication import Node, cluster, in_a_loop
from tests.serving import running, settings_for, write_resources

pytestmark = pytest.mark.xdist_group("hosts")  # which share the servers

SCHEMA = """
CREATE TABLE notes (id integer PRIMARY KEY, text text NOT NULL DEFAULT '');
CREATE TABLE places (id serial PRIMARY KEY, name text NOT NULL);
"""
RESOURCES = {"notes": "list: {sort: [id]}\n", "places": "{}\n"}


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Node, ...]]:
    """A primary and a replica, to be left as they are."""
    with cluster("replica", schema=SCHEMA) as found:
        yield found


def several(*nodes: Node, suffix: str = "") -> str:
    return f"postgresql://postgres@/postgres?host={','.join(str(node.directory) for node in nodes)}{suffix}"


async def where(connection: asyncpg.Connection[asyncpg.Record]) -> str:
    """The directory of the server at the other end."""
    found: str = await connection.fetchval("SHOW unix_socket_directories")
    await connection.close()
    return found


@in_a_loop
async def test_the_host_that_takes_writes_is_found_behind_one_that_does_not(nodes: tuple[Node, ...]) -> None:
    primary, replica = nodes
    assert await where(await connect(several(replica, primary), timeout_seconds=10)) == str(primary.directory)


@in_a_loop
async def test_a_replica_is_found_where_the_url_asks_for_one(nodes: tuple[Node, ...]) -> None:
    primary, replica = nodes
    url = several(primary, replica, suffix="&target_session_attrs=standby")
    assert await where(await connect(url, timeout_seconds=10)) == str(replica.directory)


@in_a_loop
async def test_where_no_host_takes_writes_that_is_what_is_told(nodes: tuple[Node, ...], tmp_path: Path) -> None:
    url = f"postgresql://postgres@/postgres?host={tmp_path},{nodes[1].directory}"
    with pytest.raises(NoSuchServer, match="no server that is read-write answers"):
        await connect(url, timeout_seconds=10)


@in_a_loop
async def test_where_no_host_answers_the_first_ones_fault_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await connect(f"postgresql://postgres@/postgres?host={tmp_path}/one,{tmp_path}/two", timeout_seconds=10)


@contextmanager
def silent() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        yield listener.getsockname()[1]


@in_a_loop
async def test_a_host_that_never_answers_does_not_keep_the_next_from_being_tried(nodes: tuple[Node, ...]) -> None:
    with silent() as port:
        url = f"postgresql://postgres@/postgres?host=127.0.0.1,{nodes[0].directory}&port={port},5432"
        connector = Connector(url, company_seconds=0.05)
        assert await where(await connector.connect(timeout_seconds=30)) == str(nodes[0].directory)
        assert await where(await Connector(url, company_seconds=1000).connect(timeout_seconds=0.2)) == str(nodes[0].directory)


@in_a_loop
async def test_the_host_that_was_right_is_tried_first_the_next_time(nodes: tuple[Node, ...]) -> None:
    with silent() as port:
        url = f"postgresql://postgres@/postgres?host=127.0.0.1,{nodes[0].directory}&port={port},5432"
        connector = Connector(url, company_seconds=0.05)
        await (await connector.connect(timeout_seconds=30)).close()
        connector._company_seconds = 1000
        assert await where(await connector.connect(timeout_seconds=1000)) == str(nodes[0].directory)


@in_a_loop
async def test_what_reads_the_database_takes_several_hosts(nodes: tuple[Node, ...]) -> None:
    url = several(nodes[1], nodes[0])
    assert (await read_tables(url, {("public", "notes")})).tables
    assert (await read_dependencies(url)).database
    session = await postgres_session(url, "test cache")(lambda _table: None)
    assert await session.look() == 0
    await session.close()


def test_the_commands_take_several_hosts(nodes: tuple[Node, ...], tmp_path: Path) -> None:
    url = several(nodes[1], nodes[0])
    resources = write_resources(tmp_path / "resources", RESOURCES)
    assert processes.run(tmp_path, url, "check", RESOURCES_DIR=str(resources)).returncode == 0
    assert fill.fill_resource(url, resources, "places", 10, 1, lambda _done, _all: None).rows == 10
    assert migrate.status(url).behind


@in_a_loop
async def test_a_role_that_may_not_write_does_not_make_the_pool_connect_on_and_on(nodes: tuple[Node, ...]) -> None:
    pool = Pool(PoolOptions(url=nodes[1].url, name="pool", minimum=1, maximum=2))
    await pool.open()
    database = Database(pool)
    try:
        for _ in range(5):
            with pytest.raises(Unavailable, match="takes no writes"):
                await database.fetch("INSERT INTO notes VALUES (1) RETURNING id", (), writing=True)
        assert pool.departures == 1
        assert [tuple(row) for row in await database.fetch("SELECT 1", ())] == [(1,)]
    finally:
        await pool.close()


def test_a_write_that_meets_a_demoted_primary_goes_to_the_next_one(tmp_path: Path) -> None:
    """The old primary goes on answering reads, as one does that was fenced by its configuration."""
    with cluster("replica", schema=SCHEMA) as (primary, replica):
        settings = settings_for(several(primary, replica), write_resources(tmp_path / "resources", RESOURCES))
        with running(settings) as client:
            assert client.post("/api/v1/notes", json={"id": 0}).status_code == 201
            primary.execute("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
            answers = (client.post("/api/v1/notes", json={"id": number}) for number in range(1, 1000))
            refused = next(answer for answer in answers if answer.is_error)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "UNAVAILABLE")
            assert refused.headers["retry-after"]
            replica.promote()
            written = next(key for key in _keys_in_time() if client.post("/api/v1/notes", json={"id": key}).status_code == 201)
            assert replica.execute("SELECT max(id) FROM notes") == written
            assert client.get(f"/api/v1/notes/{written}").status_code == 200


def _keys_in_time() -> Iterator[int]:
    """New keys to try, for as long as it may take until the next primary has been found."""
    end = time.monotonic() + 30
    for key in count(1000):
        assert time.monotonic() < end
        yield key
        time.sleep(0.05)


def test_a_write_under_way_is_sent_again_to_the_next_primary(tmp_path: Path) -> None:
    """The caller of the very write that finds out gets its 201."""
    with cluster("replica", schema=SCHEMA) as (primary, replica):
        settings = settings_for(several(primary, replica), write_resources(tmp_path / "resources", RESOURCES))
        with running(settings) as client:
            assert client.post("/api/v1/notes", json={"id": 0}).status_code == 201
            replica.promote()
            primary.execute("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
            answers = [client.post("/api/v1/notes", json={"id": n}) for n in range(1, 200)]
            assert {answer.status_code for answer in answers} == {201}
            assert replica.execute("SELECT count(*) FROM notes WHERE id > 0") > 0
            assert client.get("/api/v1/notes/199").status_code == 200
