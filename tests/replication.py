"""A primary and its streaming replicas, real ones: copies by `pg_basebackup`, which lag, stop and are promoted as a test says."""

from __future__ import annotations

import asyncio
import functools
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from gateway import embedded
from tests.conftest import put_new_data, throwaway_directory

SETTINGS = {
    **embedded.SETTINGS,
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "replica",
    "max_wal_senders": "10",
    "wal_keep_size": "256MB",
    "hot_standby": "on",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "100ms",
    "shared_buffers": "16MB",
    "max_connections": "100",
}


class Node:
    """One PostgreSQL over `directory`/data, with its socket in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self._account = embedded._account(self.data)
        self._binaries = embedded._postgres_binaries(self._account)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.directory}"

    def initialise(self) -> None:
        """An empty database."""
        self._own_directory()
        put_new_data(self.data)
        if not self.data.exists():
            embedded._initialise(self.data, self._binaries, self._account)

    def copy(self, primary: Node) -> None:
        """Becomes a replica of `primary`, as it is now."""
        self._own_directory()
        source = ("-h", str(primary.directory), "-U", "postgres")
        self._run("pg_basebackup", *source, "-D", str(self.data), "--write-recovery-conf", "--checkpoint=fast", "--no-sync")

    def start(self) -> None:
        settings = {**SETTINGS, "unix_socket_directories": str(self.directory)}
        options = " ".join(f"-c {name}={value or chr(39) * 2}" for name, value in settings.items())
        log = str(self.directory / "log")
        self._run("pg_ctl", "start", "-D", str(self.data), "--wait", "--log", log, "--options", options)

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "stop", "-D", str(self.data), "--wait", "--mode", mode)

    def promote(self) -> None:
        """Makes a replica a primary, on a new timeline; waits until it is one."""
        self._run("pg_ctl", "promote", "-D", str(self.data), "--wait")

    def demote(self, primary: Node) -> None:
        """Starts as a replica of `primary` the next time. Only for a server that is stopped, and was so in order."""
        (self.data / "standby.signal").touch()
        with (self.data / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"primary_conninfo = 'host={primary.directory} user=postgres'\n")

    def execute(self, *statements: str) -> Any:
        """Runs statements one by one; gives the last one's first value."""

        async def run() -> Any:
            connection = await asyncpg.connect(self.url, statement_cache_size=0)
            try:
                for statement in statements[:-1]:
                    await connection.execute(statement)
                return await connection.fetchval(statements[-1])
            finally:
                await connection.close()

        return asyncio.run(run())

    @property
    def is_running(self) -> bool:
        return (self.data / "postmaster.pid").exists()

    def _own_directory(self) -> None:
        self.directory.mkdir(mode=0o755)
        embedded._give(self.directory, self._account)

    def _run(self, program: str, *arguments: str) -> None:
        options = embedded._options(self._account)
        command = [str(self._binaries / program), *arguments]
        # Not a pipe: the server that pg_ctl starts would hold it open.
        with (self.directory / f"{program}.out").open("wb") as output:
            subprocess.run(command, check=True, timeout=60, stdout=output, stderr=output, **options)


@contextmanager
def cluster(*replicas: str, schema: str = "") -> Iterator[tuple[Node, ...]]:
    """A running primary with `schema` in it, then a running replica for each name; gone at the end, whatever became of them."""
    with throwaway_directory(for_data=True) as directory:
        primary = Node(directory / "primary")
        nodes = (primary, *(Node(directory / name) for name in replicas))
        try:
            primary.initialise()
            primary.start()
            if schema:
                primary.execute(schema, "SELECT 1")
            for node in nodes[1:]:
                node.copy(primary)
                node.start()
            yield nodes
        finally:
            for node in nodes:
                if node.is_running:
                    node.stop("immediate")


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A coroutine as a test."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run
