"""A gateway for tests to talk to: the real application on a real socket, over a database that the test made."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
import uvicorn

from gateway.app import Gateway
from gateway.http.protocol import HttpProtocol
from gateway.http.server import Server
from gateway.settings import Settings, load_settings
from tests.client import client_of

START_TIMEOUT_SECONDS = 20

T = TypeVar("T")


def settings_for(database_url: str, resources_dir: Path | str = "resources", **variables: str) -> Settings:
    """Settings as the environment would give them, with AUTH=off, no rate limit, no cache and a small pool."""
    environ = {
        "AUTH": "off",
        "LOG_LEVEL": "warning",
        "RATE_LIMIT": "off",
        "WORKERS": "2",  # which without Redis means no cache: tests change rows behind the gateway's back
        "DATABASE_URL": database_url,
        "RESOURCES_DIR": str(resources_dir),
        "DATABASE_POOL_MIN": "1",
        "DATABASE_POOL_MAX": "10",
        **variables,
    }
    return load_settings(environ, None)


def write_resources(directory: Path, files: Mapping[str, str]) -> Path:
    """Resource files by their stems, written to `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    return directory


class _Server(Server):
    """The product's server in a thread, which leaves the process's signals alone."""

    def __init__(self, application: Gateway) -> None:
        self.application = application
        super().__init__(
            uvicorn.Config(
                application,
                port=0,
                loop="uvloop",
                http=HttpProtocol,
                log_config=None,
                access_log=False,
                lifespan="on",
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=5,
            )
        )
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class Served(msgspec.Struct, frozen=True):
    """A gateway that runs in a thread of this process: the application, its server, a client of it and where it listens."""

    gateway: Gateway
    server: Server
    loop: asyncio.AbstractEventLoop
    client: httpx.Client
    address: tuple[str, int]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work comes to in the gateway's own loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(START_TIMEOUT_SECONDS)


@contextmanager
def running(settings: Settings) -> Iterator[httpx.Client]:
    """A client of a gateway that runs for as long as the block does, in a thread of this process, on a free port."""
    with serving(settings) as served:
        yield served.client


@contextmanager
def serving(settings: Settings) -> Iterator[Served]:
    """The same, for who looks into it."""
    server = _Server(Gateway(settings))
    loop_factory = server.config.get_loop_factory()
    loops: list[asyncio.AbstractEventLoop] = []

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                loops.append(runner.get_loop())
                runner.run(server._serve())
        finally:
            server.ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    server.ready.wait(START_TIMEOUT_SECONDS)
    if not server.started:
        thread.join(5)
        raise RuntimeError("the gateway did not start; see the log")
    address = ("127.0.0.1", server.servers[0].sockets[0].getsockname()[1])
    try:
        with client_of(f"http://127.0.0.1:{address[1]}") as client:
            yield Served(server.application, server, loops[0], client, address)
    finally:
        server.should_exit = True
        thread.join(10)
