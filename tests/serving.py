"""A gateway for tests to talk to: the real application on a real socket, over a database that the test made."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn

from gateway.app import Gateway
from gateway.http.protocol import HttpProtocol
from gateway.settings import Settings, load_settings

START_TIMEOUT_SECONDS = 20


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


class _Server(uvicorn.Server):
    """A uvicorn server in a thread, which leaves the process's signals alone."""

    def __init__(self, application: Gateway) -> None:
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


@contextmanager
def running(settings: Settings) -> Iterator[httpx.Client]:
    """A client of a gateway that runs for as long as the block does, in a thread of this process, on a free port."""
    server = _Server(Gateway(settings))
    loop_factory = server.config.get_loop_factory()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(server._serve())
        finally:
            server.ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    server.ready.wait(START_TIMEOUT_SECONDS)
    if not server.started:
        thread.join(5)
        raise RuntimeError("the gateway did not start; see the log")
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(10)
