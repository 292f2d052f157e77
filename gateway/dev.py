"""`gateway dev`: the embedded servers and this process's loop stay, the serving process comes and goes.

Takes settings and the data directory; gives a running gateway over its own PostgreSQL and Valkey, migrated and filled, and
prints where things are and requests that work as they stand.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

import msgspec

from gateway import embedded, fill, migrate
from gateway.errors import ConfigurationError
from gateway.settings import Settings
from gateway.terminal import progress, say, tell

SEED = 1
PORT_PATIENCE_SECONDS = 3.0
"""How long `dev` waits for a port: what a killed one served with needs a moment to notice that and to go."""
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 15.0
WATCH_SECONDS = 0.25
WATCHED_SUFFIXES = frozenset({".py", ".yaml", ".yml"})


def run(settings: Settings, data: Path, rows: int, reload: bool) -> NoReturn:
    """`gateway dev`: serves over servers of its own, which keep their data in `data`, until a signal or a ConfigurationError."""
    tell(f"Starting PostgreSQL and Valkey over {data} …")
    with embedded.servers(data) as servers:
        port = _free_port(settings.host, settings.port)
        settings = msgspec.structs.replace(settings, database_url=servers.database_url, redis_url=servers.redis_url, port=port)
        migrate.upgrade(servers.database_url)
        if rows:
            tell(f"Filling what is empty with {rows} rows each …")
            with progress() as advance:
                reports = fill.fill_all(servers.database_url, settings.resources_dir, rows, SEED, advance)
            for line in (line for report in reports if report.unsatisfied for line in report.lines):
                tell(line)
        watched = (settings.resources_dir, Path(__file__).parent) if reload else ()
        _serve_until_stopped(settings, watched)


def _serve_until_stopped(settings: Settings, watched: Sequence[Path]) -> NoReturn:
    """Serve in a process of its own; anew when something watched changes. Goes on until a signal or a ConfigurationError."""
    announced = False
    while True:
        seen = _fingerprint(watched)
        with _serving(settings) as process:
            if _await_answer(settings, process) and not announced:
                announced = True
                for line in _welcome(settings):
                    say(line)
            _await_change(process, watched, seen)
            tell("Something changed; serving anew …")


def _await_change(process: subprocess.Popen[bytes], watched: Sequence[Path], seen: Mapping[str, int]) -> None:
    """Wait until something watched is not as `seen`. Where nothing is watched, the end of the process is a ConfigurationError."""
    ended = False
    while _fingerprint(watched) == seen:
        if process.poll() is not None and not ended:
            ended = True
            if not watched:
                raise ConfigurationError(f"the serving process ended by itself, with {process.returncode}")
            tell("The serving process ended by itself; waiting for a change …")
        time.sleep(WATCH_SECONDS)


@contextmanager
def _serving(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves, for as long as the block runs.

    It has a session of its own, so that Ctrl-C reaches only us, and a pipe from us as its input: when we are killed, that ends,
    and so does the process.
    """
    overrides = {
        "AUTH": "off",
        "DATABASE_URL": settings.database_url or "",
        "REDIS_URL": settings.redis_url or "",
        "PORT": str(settings.port),
    }
    command = [sys.executable, "-c", "import sys, gateway.cli; sys.exit(gateway.cli.serve_attached())"]
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
        command, stdin=subprocess.PIPE, start_new_session=True, env={**os.environ, **overrides}
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


def _fingerprint(directories: Sequence[Path]) -> Mapping[str, int]:
    """Every watched file under `directories` and when it changed last, in nanoseconds."""
    found: dict[str, int] = {}
    for directory in directories:
        for path in directory.rglob("*"):
            if path.suffix in WATCHED_SUFFIXES:
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
    """Whether the serving process answers; False when it ended, or does not answer in time."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if _get(settings, "/health/live") is not None:
            return True
        time.sleep(WATCH_SECONDS / 5)
    return False


def _get(settings: Settings, path: str) -> bytes | None:
    """The body of a 200 from the serving process, or None for any other answer."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - we connect, not listen
    connection = HTTPConnection(host, settings.port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
    return body if response.status == 200 else None


# What `gateway dev` prints: where things are, and requests that work as they stand.


def _welcome(settings: Settings) -> Iterator[str]:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    base = f"http://{host}:{settings.port}"
    yield from (
        "",
        f"  API           {base}/api/v1",
        f"  Docs          {base}/docs",
        f"  Health        {base}/health/ready",
        f"  DATABASE_URL  {settings.database_url}",
        f"  REDIS_URL     {settings.redis_url}",
        "",
    )
    yield from (f"  {line}" for line in _examples(settings, f"{base}/api/v1"))
    yield "\n  Ctrl-C stops it all; the data stays."


def _examples(settings: Settings, base: str) -> Iterator[str]:
    """Lines of curl to paste, made of a real row: a list, a filtered list, that row, a POST of one like it, and a PATCH."""
    name, row = _example_row(settings)
    if not row:
        return
    yield f"curl '{base}/{name}?limit=2'"
    for field, value in sorted(row.items(), key=lambda item: item[0] != "status"):
        query = urlencode({field: value, "limit": 2}) if isinstance(value, str) and value.isalpha() else ""
        if query and _get(settings, f"/api/v1/{name}?{query}"):
            yield f"curl '{base}/{name}?{query}'"
            break
    if "id" not in row:
        return
    location = f"{name}/{quote(str(row['id']), safe='')}"
    yield f"curl '{base}/{location}'"
    moment = int(time.time())
    body = _example_body(settings, name, row, f"-{moment}")
    changes = {
        field: value for field, value in _example_body(settings, name, row, f"-{moment + 1}").items() if value != row[field]
    }
    for method, where, sent in (("POST", name, body), ("PATCH", location, changes)):
        if sent:
            yield f"curl -X {method} '{base}/{where}' -H 'Content-Type: application/json' -d {_quoted(sent)}"


def _example_row(settings: Settings) -> tuple[str, dict[str, Any]]:
    """A resource that has rows, `products` before others, and one row of it; ("", {}) where there is none."""
    names = sorted((path.stem for path in settings.resources_dir.glob("*.yaml")), key=lambda name: (name != "products", name))
    for name in names:
        body = _get(settings, f"/api/v1/{name}?limit=1")
        rows = json.loads(body)["data"] if body else []
        if rows:
            return name, rows[0]
    return "", {}


def _example_body(settings: Settings, name: str, row: Mapping[str, Any], mark: str) -> dict[str, Any]:
    """What a POST needs, by the OpenAPI document: the row's own values, with `mark` on free text, so that it is unique."""
    document = json.loads(_get(settings, "/api/v1/openapi.json") or b"{}")
    paths: dict[str, Any] = document.get("paths", {})
    operation: dict[str, Any] = next(
        (item["post"] for path, item in paths.items() if path.endswith(f"/{name}") and "post" in item), {}
    )
    content = _resolved(document, operation.get("requestBody", {})).get("content", {})
    schema = _resolved(document, content.get("application/json", {}).get("schema", {}))
    properties = {field: _resolved(document, part) for field, part in schema.get("properties", {}).items()}
    return {field: _made_new(row[field], properties[field], mark) for field in schema.get("required", ()) if row.get(field)}


def _resolved(document: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a `$ref` within the document stands for, or `part` itself."""
    while "$ref" in part:
        found: Any = document
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step.replace("~1", "/").replace("~0", "~")]
        part = found
    return part


def _made_new(value: Any, schema: Mapping[str, Any], mark: str) -> Any:
    """`value` with `mark` at its end where it is free text, in words, that may end so; else as it is."""
    room = schema.get("maxLength", 1000) - len(mark)
    if not isinstance(value, str) or schema.get("type") != "string" or {"enum", "format"} & schema.keys() or room <= 0:
        return value
    marked = value[:room] + mark
    return marked if re.search(r"[^\W\d]", value) and re.search(schema.get("pattern", ""), marked) else value


def _quoted(body: Mapping[str, Any]) -> str:
    """JSON as one word for a shell."""
    return shlex.quote(json.dumps(body, ensure_ascii=False))
