"""`gateway dev`: the embedded servers and this process's loop stay, the serving process comes and goes.

Takes settings and the data directory; gives a running gateway over its own PostgreSQL and Valkey, migrated and filled, that
believes the tokens of its own issuer, and prints where things are, tokens, and requests that work as they stand.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import msgspec

from gateway import embedded, fill, migrate
from gateway.dev_issuer import ALGORITHM, DevIssuer, serving
from gateway.dev_welcome import fetch, welcome
from gateway.errors import ConfigurationError
from gateway.settings import Settings
from gateway.terminal import progress, say, tell

SEED = 1
PORT_PATIENCE_SECONDS = 3.0
"""How long `dev` waits for a port: what a killed one served with needs a moment to notice that and to go."""
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 15.0
WATCH_SECONDS = 0.25


def run(settings: Settings, data: Path, rows: int, reload: bool) -> NoReturn:
    """`gateway dev`: serves over servers of its own, which keep their data in `data`, until a signal or a ConfigurationError."""
    tell(f"Starting PostgreSQL and Valkey over {data} …")
    with embedded.servers(data) as servers, issuing(settings, data) as (settings, issuer):
        port = _free_port(settings.host, settings.port)
        settings = msgspec.structs.replace(settings, database_url=servers.database_url, redis_url=servers.redis_url, port=port)
        migrate.upgrade(servers.database_url, waiting=migrate.Waiting(tell=tell))
        if rows:
            tell(f"Filling what is empty with {rows} rows each …")
            with progress() as advance:
                reports = fill.fill_all(servers.database_url, settings.resources_dir, rows, SEED, advance)
            for line in (line for report in reports if report.unsatisfied for line in report.lines):
                tell(line)
        watch = _Watch(settings.resources_dir, Path(__file__).parent) if reload else None
        _serve_until_stopped(settings, issuer, watch)


@contextmanager
def issuing(settings: Settings, data: Path) -> Iterator[tuple[Settings, DevIssuer | None]]:
    """The settings that make tokens of the issuer in `data` hold, and the issuer, which serves its keys as long as the block
    runs; with AUTH=off the settings as they are, and none."""
    if settings.auth == "off":
        yield settings, None
        return
    issuer = DevIssuer.open(data)
    with serving(issuer) as url:
        yield (
            msgspec.structs.replace(
                settings,
                auth_jwks_url=url,
                auth_issuer=issuer.issuer,
                auth_audience=issuer.audience,
                auth_algorithms=(ALGORITHM,),
            ),
            issuer,
        )


class _Watch:
    """Resource files, whose changes the serving process follows, and code, whose changes take another process."""

    def __init__(self, resources: Path, code: Path) -> None:
        self._resources = resources
        self._code = code
        self._seen = self._now()

    def look(self) -> tuple[bool, bool]:
        """Whether a resource file, and whether code, is another than at the last look."""
        before, self._seen = self._seen, self._now()
        return self._seen[0] != before[0], self._seen[1] != before[1]

    def _now(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        return _fingerprint(self._resources, (".yaml", ".yml")), _fingerprint(self._code, (".py",))


def _serve_until_stopped(settings: Settings, issuer: DevIssuer | None, watch: _Watch | None) -> NoReturn:
    """Serve in a process of its own; in another when code changes. Goes on until a signal or a ConfigurationError."""
    announced = False
    while True:
        with _serving(settings) as process:
            if _await_answer(settings, process) and not announced:
                announced = True
                for line in welcome(settings, issuer):
                    say(line)
            _await_end(process, watch)
            tell("Something changed; starting anew …")


def _await_end(process: subprocess.Popen[bytes], watch: _Watch | None) -> None:
    """Have the process follow the resource files until code changes. One that ended waits for any change; where nothing is
    watched, that is a ConfigurationError."""
    ended = False
    while True:
        resources, code = (False, False) if watch is None else watch.look()
        if process.poll() is not None and not ended:
            ended = True
            if watch is None:
                raise ConfigurationError(f"the serving process ended by itself, with {process.returncode}")
            tell("The serving process ended by itself; waiting for a change …")
        if code or (resources and ended):
            return
        if resources:
            process.send_signal(signal.SIGHUP)
        time.sleep(WATCH_SECONDS)


@contextmanager
def _serving(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves, for as long as the block runs.

    It has a session of its own, so that Ctrl-C reaches only us, and a pipe from us as its input: when we are killed, that ends,
    and so does the process.
    """
    command = [sys.executable, "-c", "import sys, gateway.cli; sys.exit(gateway.cli.serve_attached())"]
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
        command, stdin=subprocess.PIPE, start_new_session=True, env={**os.environ, **child_variables(settings)}
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin:
            process.stdin.close()


def child_variables(settings: Settings) -> Mapping[str, str]:
    """What the serving process is to hear of these settings by its environment; the rest it reads itself, as we did."""
    variables = {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "PORT": str(settings.port),
        "RATE_LIMIT": settings.rate_limit or "off",
        "SHUTDOWN_DRAIN_SECONDS": f"{settings.shutdown_drain_seconds:g}",
        "AUTH": settings.auth,
        "AUTH_JWKS_URL": settings.auth_jwks_url,
        "AUTH_ISSUER": settings.auth_issuer,
        "AUTH_AUDIENCE": settings.auth_audience,
        "AUTH_ALGORITHMS": ",".join(settings.auth_algorithms),
    }
    return {name: value for name, value in variables.items() if value is not None}


def _fingerprint(directory: Path, suffixes: tuple[str, ...]) -> Mapping[str, int]:
    """Every file of these kinds under `directory` and when it changed last, in nanoseconds."""
    found: dict[str, int] = {}
    for path in directory.rglob("*"):
        if path.suffix in suffixes:
            try:
                found[str(path)] = path.stat().st_mtime_ns
            except FileNotFoundError:  # an editor is just replacing it
                continue
    return found


def _free_port(host: str, port: int) -> int:
    """`port`, once nobody listens there, or any free one for 0. Raises ConfigurationError where it stays taken."""
    deadline = time.monotonic() + PORT_PATIENCE_SECONDS
    while True:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            with socket.socket(family, socket.SOCK_STREAM) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
                return int(listener.getsockname()[1])
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigurationError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
            if time.monotonic() > deadline:
                raise ConfigurationError(f"port {port} is taken; choose another one with --port") from error
            time.sleep(WATCH_SECONDS)


def _await_answer(settings: Settings, process: subprocess.Popen[bytes]) -> bool:
    """Whether the serving process is ready; False when it ended, or is not in time."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if fetch(settings, "/health/ready") is not None:
            return True
        time.sleep(WATCH_SECONDS / 5)
    return False
