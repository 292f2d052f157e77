"""Who is measured and how each is run: one process each, with the same features on, over the same database.

Takes where the servers are (`Place`), gives running processes. Each is named to PostgreSQL by its own name, so that its
connections can be told apart.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import psutil

from bench.npm import PEERS, unix_socket_url
from bench.ratios import HELLO, free_port

START_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 10
POOL_SIZE = 20
NO_LIMIT = 900_000_000
"""Requests a minute: the limit is checked, and nobody meets it."""


class Place(msgspec.Struct, frozen=True):
    """Where everything is. `peers` are the folders of the installed ones; `token` is one of the role admin."""

    database_url: str
    redis_url: str
    jwks_url: str
    issuer: str
    audience: str
    token: str
    resources: Path
    work: Path
    peers: Mapping[str, Path]


class Running(msgspec.Struct, frozen=True):
    """A contender that takes requests. `token` is empty for one that has no notion of tokens."""

    name: str
    title: str
    dialect: str
    port: int
    process: psutil.Process
    log: Path
    token: str


class Start(msgspec.Struct, frozen=True):
    """How a contender is started: its command, folder and environment for a place and a port."""

    name: str
    title: str
    dialect: str
    command: Callable[[Place, int], Sequence[str]]
    environment: Callable[[Place, int], Mapping[str, str]]
    folder: Callable[[Place], Path]
    sends_token: bool = True


def _gateway(name: str, title: str, **variables: str) -> Start:
    def environment(place: Place, port: int) -> dict[str, str]:
        return {
            "DATABASE_URL": place.database_url,
            "DATABASE_POOL_MAX": str(POOL_SIZE),
            "REDIS_URL": place.redis_url,
            "RATE_LIMIT": f"{NO_LIMIT}/minute",
            "AUTH_JWKS_URL": place.jwks_url,
            "AUTH_ISSUER": place.issuer,
            "AUTH_AUDIENCE": place.audience,
            "RESOURCES_DIR": str(place.resources),
            "SERVICE_NAME": name,
            "PORT": str(port),
            **variables,
        }

    command = (sys.executable, "-m", "gateway", "serve")
    return Start(name, title, "gateway", lambda _place, _port: command, environment, lambda place: place.work)


def _fastify(name: str, title: str, cache_ttl_seconds: int) -> Start:
    def environment(place: Place, port: int) -> dict[str, str]:
        return {
            "NODE_ENV": "production",
            "DATABASE_URL": place.database_url,
            "DATABASE_POOL_MAX": str(POOL_SIZE),
            "REDIS_URL": place.redis_url,
            "RATE_LIMIT_PER_MINUTE": str(NO_LIMIT),
            "AUTH_JWKS_URL": place.jwks_url,
            "AUTH_ISSUER": place.issuer,
            "AUTH_AUDIENCE": place.audience,
            "CACHE_TTL_SECONDS": str(cache_ttl_seconds),
            "SERVICE_NAME": name,
            "PORT": str(port),
        }

    command = PEERS["fastify"].command
    return Start(name, title, "gateway", lambda _place, _port: command, environment, lambda place: place.peers["fastify"])


def _platformatic() -> Start:
    def environment(place: Place, port: int) -> dict[str, str]:
        url = f"{unix_socket_url(place.database_url)}&application_name=platformatic"
        return {"NODE_ENV": "production", "DATABASE_URL": url, "PORT": str(port), "PLT_LOG_LEVEL": "info"}

    peer = PEERS["platformatic"]
    folder: Callable[[Place], Path] = lambda place: place.peers["platformatic"]  # noqa: E731 - typed
    return Start(
        peer.name, peer.title, "platformatic", lambda _place, _port: peer.command, environment, folder, sends_token=False
    )


def _hello_command(_place: Place, port: int) -> Sequence[str]:
    command = [sys.executable, "-m", "uvicorn", "hello:app", "--port", str(port), "--loop", "uvloop", "--http", "httptools"]
    return [*command, "--no-access-log", "--no-server-header", "--log-level", "error"]


def _hello_folder(place: Place) -> Path:
    (place.work / "hello.py").write_text(HELLO)
    return place.work


STARTS: Mapping[str, Start] = {
    start.name: start
    for start in (
        Start("hello", "bare ASGI hello", "hello", _hello_command, lambda _place, _port: {}, _hello_folder, sends_token=False),
        _gateway("gateway", "the gateway", CACHE_TTL_SECONDS="0"),
        _gateway("gateway-redis", "the gateway, cache in Redis", CACHE_TTL_SECONDS="60"),
        _gateway("gateway-memory", "the gateway, cache in memory", CACHE_TTL_SECONDS="60", REDIS_URL=""),
        _fastify("fastify", PEERS["fastify"].title, 0),
        _fastify("fastify-redis", f"{PEERS['fastify'].title}, cache in Redis", 60),
        _platformatic(),
    )
}

NEEDS_PEER = {"fastify": "fastify", "fastify-redis": "fastify", "platformatic": "platformatic"}


class DidNotStart(Exception):
    """Why a contender cannot take part, in one line."""


@contextmanager
def running(names: Sequence[str], place: Place) -> Iterator[tuple[dict[str, Running], dict[str, str]]]:
    """Those of `names` that start, by name, for as long as the block runs; and for the others why they do not."""
    with ExitStack() as stack:
        started, failed = {}, {}
        for name in names:
            started[name] = stack.enter_context(_process(STARTS[name], place))
        ready = {}
        for name, found in started.items():
            try:
                _await_port(found)
                ready[name] = found
            except DidNotStart as reason:
                failed[name] = str(reason)
        yield ready, failed


@contextmanager
def _process(start: Start, place: Place) -> Iterator[Running]:
    port = free_port()
    log = place.work / f"{start.name}.log"
    environment = {**os.environ, **start.environment(place, port), "PYTHONPATH": str(Path(__file__).parent.parent)}
    # Appending, so that the file can be cut to nothing between measures while the process goes on writing.
    log.unlink(missing_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            start.command(place, port), cwd=start.folder(place), env=environment, stdout=output, stderr=output
        )
    token = place.token if start.sends_token else ""
    try:
        yield Running(start.name, start.title, start.dialect, port, psutil.Process(process.pid), log, token)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_port(found: Running) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", found.port)) == 0:
                return
        if found.process.status() == psutil.STATUS_ZOMBIE or time.monotonic() > deadline:
            lines = [line for line in found.log.read_text(errors="replace").splitlines() if line.strip()]
            raise DidNotStart(f"it did not start: {lines[-1][:300] if lines else 'it said nothing'}")
        time.sleep(0.05)
