"""A real PgBouncer in transaction mode before a real PostgreSQL: what the gateway asks of it, and will not do without."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from gateway import embedded, migrate
from gateway.database.execute import Database
from gateway.database.pool import SESSION, Pool, PoolOptions, WrongSession
from gateway.errors import ConfigurationError
from tests.conftest import throwaway_database, throwaway_directory
from tests.journeys.processes import free_port
from tests.serving import running, settings_for, write_resources
from tests.tools import tool

pytestmark = pytest.mark.xdist_group("pgbouncer")

SET = [f"SET {name} = ''{value}''" for name, value in SESSION.items() if name not in ("TimeZone", "DateStyle")]
CONNECT_QUERY = "; ".join([*SET, "SET statement_timeout = 5000"])
"""In place of ALTER ROLE, which would change the server that other tests share."""


@contextmanager
def pgbouncer(database_url: str, connect_query: str = CONNECT_QUERY, connections: int = 2) -> Iterator[str]:
    """A PgBouncer before one database, with so many connections to it; gives the database's URL through it."""
    found = re.fullmatch(r"postgresql://postgres@/([^?]+)\?host=(.+)", database_url)
    assert found is not None
    port = free_port()
    with throwaway_directory() as directory:
        users, configuration, log = directory / "users.txt", directory / "pgbouncer.ini", directory / "log"
        users.write_text('"postgres" ""\n')
        configuration.write_text(
            f"""[databases]
* = host={found[2]} port=5432 connect_query='{connect_query}'
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = {connections}
"""
        )
        account = pwd.getpwnam(embedded.POSTGRES_USER) if os.geteuid() == 0 else None  # it does not run as root
        with log.open("wb") as output:
            process = subprocess.Popen(
                [tool("pgbouncer"), str(configuration)],
                stdout=output,
                stderr=output,
                user=account and account.pw_uid,
                group=account and account.pw_gid,
                extra_groups=None if account is None else [],
            )
        try:
            _await_port(port, process, log)
            yield f"postgresql://postgres@127.0.0.1:{port}/{found[1]}?sslmode=disable"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise AssertionError(f"PgBouncer does not listen:\n{log.read_text()}")


@pytest.fixture(scope="module")
def direct(postgres_url: str) -> Iterator[str]:
    with throwaway_database(postgres_url) as url:
        migrate.upgrade(url)
        yield url


@pytest.fixture(scope="module")
def pooled(direct: str) -> Iterator[str]:
    with pgbouncer(direct) as url:
        yield url


def options(url: str) -> PoolOptions:
    return PoolOptions(url=url, name="pooled", minimum=4, maximum=8, is_pooled=True, acquire_timeout_seconds=10)


def test_statements_of_many_callers_run_over_few_connections(pooled: str) -> None:
    async def run() -> None:
        pool = Pool(options(pooled))
        await pool.open()
        database = Database(pool)
        pids = set()
        for _ in range(5):
            asked = [database.fetch("SELECT $1::int, pg_backend_pid() FROM pg_sleep(0.002)", (number,)) for number in range(40)]
            answers = [rows[0] for rows in await asyncio.gather(*asked)]
            assert [answer[0] for answer in answers] == list(range(40))
            pids |= {answer[1] for answer in answers}
        assert len(pids) == 2
        assert (await database.fetch("SELECT 7", (), timeout_seconds=2.0))[0][0] == 7
        await database.stop()
        await pool.close()

    asyncio.run(run())


def test_values_have_their_forms_on_every_connection(pooled: str) -> None:
    async def run() -> None:
        pool = Pool(options(pooled))
        await pool.open()
        database = Database(pool)
        values = "interval '1 day 2 hours' AS i, '\\x00ff'::bytea AS b, 1.5::float8 AS f"
        query = f"SELECT row_to_json(v)::text FROM (SELECT {values}) v"
        asked = [database.fetch(query, ()) for _ in range(20)]
        assert {rows[0][0] for rows in await asyncio.gather(*asked)} == {'{"i":"P1DT2H","b":"\\\\x00ff","f":1.5}'}
        await database.stop()
        await pool.close()

    asyncio.run(run())


def test_connections_that_lack_a_setting_are_refused_with_what_to_do(direct: str) -> None:
    async def run(url: str) -> None:
        with pytest.raises(WrongSession) as raised:
            await Pool(options(url)).open()
        assert isinstance(raised.value, ConfigurationError)
        assert "ALTER ROLE … SET IntervalStyle = 'iso_8601';" in str(raised.value)
        assert "ALTER ROLE … SET statement_timeout = '5000';" in str(raised.value)
        assert "bytea_output" not in str(raised.value), "which is right by PostgreSQL's own default"

    with pgbouncer(direct, connect_query="SELECT 1") as url:
        asyncio.run(run(url))


def test_a_gateway_serves_through_it_and_starts_again(pooled: str, tmp_path: Path) -> None:
    resources = write_resources(tmp_path / "resources", {"categories": "list: {sort: [name]}\n"})
    settings = settings_for(pooled, resources, DATABASE_POOLER="transaction", WORKERS="1")
    for turn in range(2):  # the second finds the statements of the first on the server's connections
        with running(settings) as client:
            assert client.get("/health/ready").status_code == 200
            created = client.post("/api/v1/categories", json={"name": f"pooled {turn}", "slug": f"pooled-{turn}"})
            assert created.status_code == 201, created.text
            for _ in range(20):
                assert client.get(created.headers["location"]).status_code == 200
            assert client.get("/api/v1/categories").status_code == 200


def test_without_the_setting_the_start_says_which_one_is_needed(pooled: str, tmp_path: Path) -> None:
    from gateway.app import Gateway

    resources = write_resources(tmp_path / "resources", {"categories": "list: {sort: [name]}\n"})

    async def run() -> None:
        gateway = Gateway(settings_for(pooled, resources))
        with pytest.raises(ConfigurationError, match="set DATABASE_POOLER=transaction"):
            await gateway.start()
        await gateway.stop()

    asyncio.run(run())


def test_a_pooler_that_restarts_is_found_again(direct: str) -> None:
    async def run() -> None:
        with pgbouncer(direct) as url:
            pool = Pool(options(url))
            await pool.open()
            database = Database(pool)
            assert (await database.fetch("SELECT 7", ()))[0][0] == 7
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await asyncpg.connect(url)
        assert not await database.is_well()
        await database.stop()
        await pool.close()

    asyncio.run(run())
