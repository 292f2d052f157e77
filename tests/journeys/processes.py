"""The `gateway` command as a user runs it: the console script, in a directory of the user's, on a free port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec

from tests.client import client_of

COMMAND = shutil.which("gateway", path=str(Path(sys.executable).parent)) or "gateway"
PATIENCE_SECONDS = 60.0


def environment(database_url: str, **variables: str) -> dict[str, str]:
    """This process's environment without the gateway's own variables, and with those given."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")}
    quick = {"AUTH": "off", "RATE_LIMIT": "off", "SHUTDOWN_DRAIN_SECONDS": "0"}
    return {**kept, "DATABASE_URL": database_url, **quick, **variables}


def run(directory: Path, database_url: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """One command, run to its end."""
    return subprocess.run(
        [COMMAND, *arguments],
        cwd=directory,
        env=environment(database_url, **variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Server(msgspec.Struct):
    """`gateway serve` as it runs, a client of it, and where it writes its log."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    log: Path


@contextmanager
def serving(directory: Path, database_url: str, log: Path, **variables: str) -> Iterator[httpx.Client]:
    """A client of `gateway serve`, once it answers; `log` has what it wrote."""
    with server(directory, database_url, log, **variables) as found:
        yield found.client


@contextmanager
def server(directory: Path, database_url: str, log: Path, *arguments: str, **variables: str) -> Iterator[Server]:
    """`gateway serve` with these arguments, once it answers. It is ended if the block has not done so."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [COMMAND, "serve", "--port", str(port), *arguments],
            cwd=directory,
            env=environment(database_url, **variables),
            stdout=output,
            stderr=output,
        )
        try:
            with client_of(f"http://127.0.0.1:{port}") as client:
                _await_answer(client, process, log)
                yield Server(process, client, log)
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def _await_answer(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            client.get("/health/live")
        except httpx.TransportError:
            time.sleep(0.01)
        else:
            return
    raise AssertionError(f"gateway serve did not answer:\n{log.read_text()}")
