"""What the tests stand on: one real PostgreSQL for the whole run, a new database for each test that asks, a real Valkey.

With xdist the controller starts PostgreSQL before its workers and tells them where by an environment variable, which they
inherit; without xdist it starts when the first test asks. Its data is thrown away at the end.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import re
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import hypothesis
import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]  # xdist tells no types
from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-untyped]

from gateway import embedded, migrate
from tests.examples import examples

# Two cores are shared with servers, so how long an example takes says nothing; and every run tries the same examples.
hypothesis.settings.register_profile("gateway", max_examples=examples(100), deadline=None, derandomize=True)
hypothesis.settings.load_profile("gateway")

ROOT = Path(__file__).parents[1]
POSTGRES_URL_VARIABLE = "GATEWAY_TESTS_POSTGRES_URL"
READY_DATA_VARIABLE = "GATEWAY_TESTS_READY_DATA"
MEMORY_NEEDED_BYTES = 4 << 30
"""Several times what a run of the suite keeps at once."""

_servers = pytest.StashKey[ExitStack]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_servers] = ExitStack()
    if hasattr(config, "workerinput"):
        return
    # So that a run that is cut off, by a time limit for one, still stops its servers on its way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if config.getoption("numprocesses", 0) and not config.getoption("collectonly"):
        ready = config.stash[_servers].enter_context(throwaway_directory(for_data=True))
        with embedded.postgres(ready, durable=False):
            pass
        os.environ[READY_DATA_VARIABLE] = str(ready / "postgres")
        os.environ[POSTGRES_URL_VARIABLE] = config.stash[_servers].enter_context(throwaway_postgres())


class _ByGroup(LoadGroupScheduling):  # type: ignore[misc]  # as above
    """Tests of one group go to one worker, so that what a module starts is started once.

    xdist 3.8 writes a test's group into an attribute that pytest 9.2 does not read, so here it is read from the module itself.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid.partition("::")[0]) or nodeid


@functools.cache
def _group(module: str) -> str:
    """The group that all tests of a module are in, or ""."""
    found = re.search(r'^pytestmark = pytest\.mark\.xdist_group\("([^"]+)"\)', (ROOT / module).read_text(), re.MULTILINE)
    return found[1] if found else ""


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _ByGroup:
    return _ByGroup(config, log)


def pytest_collection_finish() -> None:
    """What there is now stays, and the garbage collector, which took a tenth of a worker's time, may look more rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_unconfigure(config: pytest.Config) -> None:
    # Failures that nobody fetched are told of by now; pytest looks for them another five times, half a second each.
    gc.collect()
    gc.freeze()
    config.stash[_servers].close()


class _BriskAsyncio:
    """asyncio, whose sleeps are short: to a server that looks ten times a second whether it may stop."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.01))


@pytest.fixture(scope="session", autouse=True)
def _servers_of_this_process_stop_at_once() -> Iterator[None]:
    """There are hundreds of them, and each took a third of a second in which nothing was done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uvicorn.server.asyncio", _BriskAsyncio())
        yield


@pytest.fixture(scope="session", autouse=True)
def _clients_share_what_they_trust() -> Iterator[None]:
    """Each client of httpx reads all certificates that there are in the world, which takes 50 ms of a processor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", functools.cache(httpx.create_ssl_context))
        yield


@pytest.fixture(scope="session", autouse=True)
def _clients_look_for_cookies_where_there_are_some() -> Iterator[None]:
    """httpx makes a request and an answer of the standard library's for each of its own, to look for what we never send."""
    extract = httpx.Cookies.extract_cookies

    def extract_if_any(cookies: httpx.Cookies, response: httpx.Response) -> None:
        if "set-cookie" in response.headers:
            extract(cookies, response)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx.Cookies.extract_cookies", extract_if_any)
        yield


@functools.cache
def _in_memory() -> Path | None:
    """Where files are kept in memory, if this machine has such a place and room in it.

    A database is hundreds of files. On ext4 to make as many as were just deleted takes a processor three times as long.
    """
    place = Path("/dev/shm")
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK) and shutil.disk_usage(place).free >= MEMORY_NEEDED_BYTES:
        return place
    return None


@contextmanager
def throwaway_directory(*, for_data: bool = False) -> Iterator[Path]:
    """An empty directory that every user may enter, which pytest's own are not: PostgreSQL does not run as root.

    One for data is in memory where it can be, from where a system may let no program run.
    """
    directory = Path(tempfile.mkdtemp(prefix="gateway-tests-", dir=_in_memory() if for_data else None))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def put_new_data(data: Path) -> None:
    """Makes `data` what the first start of a PostgreSQL leaves behind, as a copy of what the run has, if it has one.

    To make it anew takes a processor half a second.
    """
    ready = os.environ.get(READY_DATA_VARIABLE)
    if ready:
        data.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-pPR", ready, data], check=True)


@contextmanager
def throwaway_postgres() -> Iterator[str]:
    """A PostgreSQL of our own, gone at the end; gives the URL of its superuser's database."""
    with throwaway_directory(for_data=True) as directory:
        put_new_data(directory / "postgres")
        with embedded.postgres(directory, durable=False) as url:
            yield url


@contextmanager
def throwaway_database(server_url: str, template: str = "template1") -> Iterator[str]:
    """A new database on a server, a copy of `template`, dropped at the end whoever is still connected; gives its URL."""
    name = f"test_{uuid.uuid4().hex}"
    # By the log, as is the default, costs the server eight times the work: 100 ms. It is quick only where files are synced.
    execute(server_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
    try:
        yield server_url.replace("@/postgres?", f"@/{name}?")
    finally:
        execute(server_url, f'DROP DATABASE "{name}" WITH (FORCE)')


def database_name(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


def execute(url: str, *statements: str) -> None:
    """Runs statements on a connection of their own, each in its own transaction."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The run's PostgreSQL, as superuser, at the database `postgres`: shared, so change nothing in it."""
    if POSTGRES_URL_VARIABLE in os.environ:
        yield os.environ[POSTGRES_URL_VARIABLE]
        return
    with throwaway_postgres() as url:
        yield url


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """A new, empty database for one test."""
    with throwaway_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_template(postgres_url: str) -> Iterator[str]:
    """The name of a database with the domain's tables and no rows, to be copied: to migrate takes several times as long."""
    with throwaway_database(postgres_url) as url:
        migrate.upgrade(url)
        yield database_name(url)


@pytest.fixture
def migrated_url(postgres_url: str, migrated_template: str) -> Iterator[str]:
    """A new database for one test, migrated."""
    with throwaway_database(postgres_url, migrated_template) as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Valkey of this worker's own: what one test stores, later ones of the same worker see."""
    with throwaway_directory(for_data=True) as directory, embedded.valkey(directory) as url:
        yield url


@pytest.fixture
def server_directory() -> Iterator[Path]:
    """An empty directory for the data of embedded servers."""
    with throwaway_directory(for_data=True) as directory:
        yield directory


@pytest.fixture
def database_directory(server_directory: Path) -> Path:
    """The same, with the data of a PostgreSQL that was started once, for tests that are not about its first start."""
    put_new_data(server_directory / "postgres")
    return server_directory
