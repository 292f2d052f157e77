"""`deploy/pgbouncer/` as it is: a real PgBouncer, started by its script, between a real gateway and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import msgspec
import pytest

from gateway import embedded, migrate
from tests.conftest import throwaway_database, throwaway_directory
from tests.deploy.dockerfile import ROOT
from tests.journeys.processes import PATIENCE_SECONDS, free_port
from tests.serving import running, settings_for
from tests.tools import tool

pytestmark = pytest.mark.xdist_group("pgbouncer-files")

FILES = ROOT / "deploy" / "pgbouncer"
PASSWORD = 'p"ss word'


class Pooler(msgspec.Struct, frozen=True):
    """Where it listens, and the database behind it."""

    port: int
    database: str

    def url(self, password: str = "p%22ss%20word") -> str:
        return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/{self.database}?sslmode=disable"


@pytest.fixture(scope="module")
def pooler(postgres_url: str) -> Iterator[Pooler]:
    with ExitStack() as stack:
        database_url = stack.enter_context(throwaway_database(postgres_url))
        migrate.upgrade(database_url)
        found = re.fullmatch(r"postgresql://postgres@/([^?]+)\?host=(.+)", database_url)
        assert found is not None
        directory = stack.enter_context(throwaway_directory())
        pooler = Pooler(free_port(), found[1])
        process = start(directory, pooler.port, found[2])
        stack.callback(process.wait, PATIENCE_SECONDS)
        stack.callback(process.send_signal, signal.SIGINT)
        await_answer(pooler, process, directory / "log")
        yield pooler


def start(directory: Path, port: int, postgres_socket: str) -> subprocess.Popen[bytes]:
    """The script on our configuration, but for where PostgreSQL is and where PgBouncer listens."""
    text = (FILES / "pgbouncer.ini").read_text()
    for ours, here in (
        ("host=postgres ", f"host={postgres_socket} "),
        ("listen_addr = 0.0.0.0", "listen_addr = 127.0.0.1"),
        ("listen_port = 5432", f"listen_port = {port}"),
        ("/tmp/users.txt", f"{directory}/users.txt"),
    ):
        assert text.count(ours) == 1, ours
        text = text.replace(ours, here)
    (directory / "pgbouncer.ini").write_text(text)
    account = pwd.getpwnam(embedded.POSTGRES_USER) if os.geteuid() == 0 else None  # it does not run as root
    if account is not None:
        os.chown(directory, account.pw_uid, account.pw_gid)
    variables = {
        "PATH": f"{Path(tool('pgbouncer')).parent}{os.pathsep}{os.environ['PATH']}",
        "PGBOUNCER_USER": "postgres",
        "PGBOUNCER_PASSWORD": PASSWORD,
        "PGBOUNCER_USERS": f"{directory}/users.txt",
        "PGBOUNCER_CONFIGURATION": f"{directory}/pgbouncer.ini",
    }
    with (directory / "log").open("wb") as log:
        return subprocess.Popen(
            ["/bin/sh", "-c", (FILES / "start.sh").read_text()],
            cwd="/",
            env=variables,
            stdout=log,
            stderr=log,
            user=account and account.pw_uid,
            group=account and account.pw_gid,
            extra_groups=None if account is None else [],
        )


def await_answer(pooler: Pooler, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            assert asyncio.run(fetch(pooler.url(), "SELECT 7")) == 7
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise AssertionError(f"PgBouncer does not answer:\n{log.read_text()}")


async def fetch(url: str, query: str) -> object:
    connection = await asyncpg.connect(url, statement_cache_size=0, timeout=20)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def test_a_gateway_reads_and_writes_through_it(pooler: Pooler) -> None:
    """It would refuse to start where a setting of its sessions were missing."""
    settings = settings_for(pooler.url(), ROOT / "resources", DATABASE_POOLER="transaction")
    with running(settings) as client:
        assert client.get("/health/ready").status_code == 200
        created = client.post("/api/v1/categories", json={"slug": "pooled", "name": "Pooled"})
        assert created.status_code == 201, created.text
        assert client.get(created.headers["location"]).json()["data"]["name"] == "Pooled"


def test_a_wrong_password_is_refused(pooler: Pooler) -> None:
    with pytest.raises(asyncpg.PostgresError, match=r"password authentication failed|SASL"):
        asyncio.run(fetch(pooler.url("wrong"), "SELECT 7"))


def test_a_password_that_is_not_given_stops_the_start() -> None:
    command = ["/bin/sh", str(FILES / "start.sh")]
    told = subprocess.run(command, env={"PGBOUNCER_USER": "x"}, capture_output=True, text=True, timeout=20, check=False)
    assert told.returncode != 0
    assert "PGBOUNCER_PASSWORD" in told.stderr
