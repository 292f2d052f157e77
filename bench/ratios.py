"""Point read and list of 20 against a bare ASGI hello, and what each feature adds, in one run: requests/s and the server's CPU.

    .venv/bin/python bench/ratios.py [--seconds 5] [--rounds 3] [--connections 32] [--rows 10000]

Each round measures all in turn, so that a machine whose speed drifts shifts all of them; medians are quoted. Everything
runs on this machine: an embedded PostgreSQL, one process of each server, and a load generator that keeps every connection
busy with one request at a time. The first server has AUTH=off, RATE_LIMIT=off and no log line; each of the others has one feature
more: tokens by JWKS with a grant, limits by address and subject in an embedded Valkey, the log line. Metrics are always on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import IO, cast

import psutil
import uvloop

from gateway import embedded
from gateway.dev_issuer import DevIssuer, serving
from gateway.fill import fill_resource
from gateway.migrate import upgrade

HELLO = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})
"""
START_TIMEOUT_SECONDS = 20
END_OF_HEAD = b"\r\n\r\n"


class Connection(asyncio.Protocol):
    """One keep-alive connection that sends the next request when the last answer is whole."""

    def __init__(self, path: Callable[[], str], headers: str, deadline: float, done: asyncio.Future[None]) -> None:
        self.path, self.headers, self.deadline, self.done = path, headers, deadline, done
        self.buffer = b""
        self.expected = 0
        self.answers = 0
        self.failures = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.request()

    def request(self) -> None:
        self.transport.write(f"GET {self.path()} HTTP/1.1\r\nHost: bench\r\n{self.headers}\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.expected:
            head = self.buffer.find(END_OF_HEAD)
            if head < 0:
                return
            start = self.buffer.index(b"content-length: ") + 16
            length = int(self.buffer[start : self.buffer.index(b"\r", start)])
            self.expected = head + len(END_OF_HEAD) + length
        if len(self.buffer) < self.expected:
            return
        self.answers += 1
        self.failures += not self.buffer.startswith(b"HTTP/1.1 200")
        self.buffer, self.expected = self.buffer[self.expected :], 0
        if time.perf_counter() < self.deadline:
            self.request()
        else:
            self.transport.close()
            self.done.set_result(None)


async def drive(port: int, path: Callable[[], str], headers: str, seconds: float, connections: int) -> tuple[int, int, float]:
    """Answers, failures among them, and seconds."""
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    protocols = [Connection(path, headers, started + seconds, loop.create_future()) for _ in range(connections)]
    await asyncio.gather(*(loop.create_connection(repeat(protocol).__next__, "127.0.0.1", port) for protocol in protocols))
    await asyncio.gather(*(protocol.done for protocol in protocols))
    elapsed = time.perf_counter() - started
    return sum(p.answers for p in protocols), sum(p.failures for p in protocols), elapsed


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def server(
    command: list[str], port: int, environ: Mapping[str, str] = MappingProxyType({}), log: IO[bytes] | None = None
) -> Iterator[psutil.Process]:
    process = subprocess.Popen(command, env={**os.environ, **environ}, stderr=log)
    try:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} did not start")
            time.sleep(0.05)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(10)


def measure(
    process: psutil.Process, port: int, path: Callable[[], str], headers: str, seconds: float, connections: int
) -> tuple[float, float]:
    """Requests/s, and the server's CPU in microseconds per request."""
    before = sum(process.cpu_times()[:2])
    answers, failures, elapsed = uvloop.run(drive(port, path, headers, seconds, connections))
    if failures:
        raise SystemExit(f"{failures} of {answers} answers were no 200")
    return answers / elapsed, (sum(process.cpu_times()[:2]) - before) / answers * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rows", type=int, default=10_000)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    directory.chmod(0o755)
    issuer = DevIssuer.open(directory)
    with embedded.servers(directory, durable=False) as servers, serving(issuer) as jwks_url:
        url = servers.database_url
        upgrade(url)
        for resource, rows in (("categories", 50), ("products", options.rows)):
            fill_resource(url, Path("resources"), resource, rows)
        (directory / "hello.py").write_text(HELLO)
        hello_port = free_port()
        hello = [sys.executable, "-m", "uvicorn", "hello:app", "--app-dir", str(directory), "--port", str(hello_port)]
        hello += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--no-server-header", "--log-level", "error"]
        off = {
            "DATABASE_URL": url,
            "CACHE_TTL_SECONDS": "0",
            "LOG_LEVEL": "error",
            "RESOURCES_DIR": str(unlimited_resources(directory)),
            "AUTH": "off",
            "RATE_LIMIT": "off",
        }
        tokens = {"AUTH": "on", "AUTH_JWKS_URL": jwks_url, "AUTH_ISSUER": issuer.issuer, "AUTH_AUDIENCE": issuer.audience}
        limits = {"REDIS_URL": servers.redis_url, "RATE_LIMIT": "900000000/minute"}
        bearer = f"Authorization: Bearer {issuer.sign('bench', ['admin'])}\r\n"
        features = {
            "": off,
            ", + tokens": off | tokens,
            ", + limits": off | tokens | limits,
            ", + log line": off | tokens | limits | {"LOG_LEVEL": "info"},
        }

        def point() -> str:
            return f"/api/v1/products/{random.randint(1, options.rows)}"

        cases: dict[str, tuple[psutil.Process, int, Callable[[], str], str]] = {}
        with ExitStack() as stack:
            log = stack.enter_context((directory / "log").open("wb"))
            cases["bare ASGI hello"] = (stack.enter_context(server(hello, hello_port)), hello_port, lambda: "/", "")
            for name, variables in features.items():
                port = free_port()
                command = [sys.executable, "-m", "gateway", "serve", "--port", str(port)]
                process = stack.enter_context(server(command, port, variables, log))
                cases[f"point read{name}"] = (process, port, point, bearer)
                if not name or name == list(features)[-1]:
                    cases[f"list of 20{name and ', all of it'}"] = (process, port, lambda: "/api/v1/products", bearer)
            figures: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
            for _ in range(options.rounds):
                for name, (process, at, path, headers) in cases.items():
                    figures[name].append(measure(process, at, path, headers, options.seconds, options.connections))
    report(figures)


def unlimited_resources(directory: Path) -> Path:
    """The resource files without limits and TTLs of their own, so that the settings are what counts."""
    resources = directory / "resources"
    resources.mkdir()
    for file in Path("resources").glob("*.yaml"):
        lines = file.read_text().splitlines(keepends=True)
        (resources / file.name).write_text("".join(line for line in lines if not line.startswith(("rate_limit:", "cache:"))))
    return resources


def report(figures: dict[str, list[tuple[float, float]]]) -> None:
    print("| what | requests/s | of the hello's | CPU of the process per request |\n| --- | --- | --- | --- |")
    hello = [rate for rate, _ in figures["bare ASGI hello"]]
    for name, rounds in figures.items():
        ratio = statistics.median(rate / bare for (rate, _), bare in zip(rounds, hello, strict=True))
        rate, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"| {name} | {rate:,.0f} | {ratio:.2f} | {cpu:.0f} µs |")


if __name__ == "__main__":
    main()
