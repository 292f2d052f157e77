"""The command line: one function a command, each from parsed arguments to an exit status.

Takes arguments and the environment; gives what the command prints on stdout, progress and mistakes on stderr, and 0, 1 (a
mistake or a failed check), 2 (arguments that argparse refuses), or 128 + the signal that stopped it: 130 for Ctrl-C.
What a command needs is imported inside it, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

import msgspec

from gateway.errors import ConfigurationError
from gateway.settings import Settings, check_startable, database_url, describe_variables, load_settings

DOTENV = Path(".env")
DEFAULT_ROWS = 1000
SEED = 1
PORT_PATIENCE_SECONDS = 3.0
"""How long `dev` waits for a port: what a killed one served with needs a moment to notice that and to go."""
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 15.0
WATCH_SECONDS = 0.25
WATCHED_SUFFIXES = frozenset({".py", ".yaml", ".yml"})


def main(argv: list[str] | None = None) -> int:
    """Run one command and give its exit status. Raises SystemExit for `--help` and for arguments that cannot be parsed."""
    arguments = _parser().parse_args(argv)
    stopped_by = [signal.SIGINT]
    try:
        with _stoppable(stopped_by):
            status: int = arguments.run(arguments)
            sys.stdout.flush()
            return status
    except ConfigurationError as error:
        for line in str(error).splitlines():
            _tell(f"gateway {arguments.command}: {line}")
        return 1
    except KeyboardInterrupt:
        return 128 + stopped_by[-1]
    except BrokenPipeError:
        # Whoever read our output has gone; at its end Python would try to flush it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gateway", description="A metadata-driven REST gateway to PostgreSQL.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    dev = _command(commands, "dev", _dev, "a gateway to try out, over its own PostgreSQL and Valkey, with sample rows")
    dev.add_argument("--port", help="port to listen on (default: 8000, or PORT)")
    dev.add_argument("--data", type=Path, default=Path(".data"), metavar="DIR", help="where data is kept (default: .data)")
    dev.add_argument(
        "--rows", type=_count, default=DEFAULT_ROWS, help=f"sample rows of each empty resource (default: {DEFAULT_ROWS})"
    )
    dev.add_argument("--reload", action="store_true", help="serve anew when a resource file or the gateway's code changes")

    serve = _command(commands, "serve", _serve, "the server alone", _settings_help())
    serve.add_argument("--host", help="address to listen on (default: HOST)")
    serve.add_argument("--port", help="port to listen on (default: PORT)")
    serve.add_argument("--workers", help="processes that serve (default: WORKERS)")

    check = _command(commands, "check", _check, "every problem of the resource files, held against the database")
    check.add_argument("--json", action="store_true", help="a JSON array of {file, line, message}")

    _add_migrate(_command(commands, "migrate", None, "the database's schema, by the files under migrations/"))

    fill = _command(commands, "fill", _fill, "plausible rows for a resource, or for any other")
    fill.add_argument("resource", metavar="RESOURCE", help="the resource's name")
    fill.add_argument("--rows", type=_count, required=True, help="how many")
    fill.add_argument("--seed", type=int, default=SEED, help=f"the same seed gives the same rows (default: {SEED})")

    openapi = _command(commands, "openapi", _openapi, "the OpenAPI 3.1 document of the API")
    openapi.add_argument("--version", default="v1", help="the API's version (default: v1)")
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int] | None, summary: str, epilog: str = ""
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if run is not None:
        parser.set_defaults(run=run)
    return parser


def _add_migrate(migrate: argparse.ArgumentParser) -> None:
    actions = migrate.add_subparsers(dest="action", required=True, metavar="ACTION")
    up = _command(actions, "up", _migrate_up, "bring the database up to a revision")
    up.add_argument("revision", nargs="?", default="head", metavar="REV", help="a revision's id, +N, or head (the default)")
    down = _command(actions, "down", _migrate_down, "take the database down to a revision, which stays applied")
    # argparse would read -1 as an option, were it not the only one that looks like a number.
    down.add_argument("revision", metavar="REV", help="a revision's id, -N, or base for nothing at all")
    _command(actions, "status", _migrate_status, "what is applied and what is not; fails when the database is behind")
    new = _command(actions, "new", _migrate_new, "write an empty revision file and print its path")
    new.add_argument("name", metavar="NAME", help="a few words on what it does")


def _settings_help() -> str:
    return f"settings, from the environment or from a .env file:\n\n{describe_variables()}"


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number from 0, not {text!r}")
    return int(text)


@contextmanager
def _stoppable(stopped_by: list[signal.Signals]) -> Iterator[None]:
    """Make Ctrl-C of every signal that asks us to stop, and note which it was: one way out, that runs each `finally` on it.

    Ctrl-C itself keeps Python's own handler, for asyncio then cancels what runs and lets it end in order.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped_by.append(signal.Signals(number))
        signal.raise_signal(signal.SIGINT)

    handlers: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: stop}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
        handlers[signal.SIGHUP] = stop
    before: dict[int, Any] = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _settings(**overrides: object) -> Settings:
    """The settings of the environment and of `.env`, where an argument that was given stands for its variable."""
    given = {name.upper(): str(value) for name, value in overrides.items() if value is not None}
    return load_settings({**os.environ, **given}, DOTENV)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the terminal is this module's output


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - as above


# The commands.


def _serve(arguments: argparse.Namespace) -> int:
    settings = _settings(host=arguments.host, port=arguments.port, workers=arguments.workers)
    check_startable(settings)
    from gateway import app

    app.serve(settings)
    raise KeyboardInterrupt  # which uvicorn keeps to itself, once it has stopped in order


def _check(arguments: argparse.Namespace) -> int:
    settings = _settings()
    database_url(settings)
    from gateway import app

    faults = app.check(settings)
    if arguments.json:
        _print(json.dumps([msgspec.to_builtins(fault) for fault in faults], ensure_ascii=False, indent=2))
    else:
        for fault in faults:
            _print(str(fault))
    problems = "problem" if len(faults) == 1 else "problems"
    _tell(f"gateway check: {len(faults) or 'no'} {problems}")
    return 1 if faults else 0


def _openapi(arguments: argparse.Namespace) -> int:
    settings = _settings()
    database_url(settings)
    from gateway import app

    _print(json.dumps(app.openapi(settings, arguments.version), ensure_ascii=False, indent=2))
    return 0


def _migrate_up(arguments: argparse.Namespace) -> int:
    url = database_url(_settings())
    from gateway import migrate

    migrate.upgrade(url, arguments.revision)
    return 0


def _migrate_down(arguments: argparse.Namespace) -> int:
    url = database_url(_settings())
    from gateway import migrate

    migrate.downgrade(url, arguments.revision)
    return 0


def _migrate_status(_arguments: argparse.Namespace) -> int:
    url = database_url(_settings())
    from gateway import migrate

    status = migrate.status(url)
    _print(f"current: {', '.join(status.current) or 'none'}")
    _print(f"head: {status.head or 'none'}")
    for revision in status.pending:
        _print(f"pending: {revision.id} {revision.description}")
    if status.behind:
        _tell(f"gateway migrate status: the database is {len(status.pending)} behind; run: gateway migrate up")
    return 1 if status.behind else 0


def _migrate_new(arguments: argparse.Namespace) -> int:
    from gateway import migrate

    with redirect_stdout(sys.stderr):  # Alembic tells what it does; our output is the path alone
        path = migrate.new_revision(arguments.name)
    _print(os.path.relpath(path))
    return 0


def _fill(arguments: argparse.Namespace) -> int:
    settings = _settings()
    url = database_url(settings)
    from gateway import fill

    with _progress() as tell:
        report = fill.fill_resource(
            url,
            settings.resources_dir,
            arguments.resource,
            arguments.rows,
            arguments.seed,
            lambda done, total: tell(arguments.resource, done, total),
        )
    for line in report.lines:
        _print(line)
    return 0


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on stderr, if that is a terminal; gives what takes a resource's name, its rows done, and its rows in all."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        def tell(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total)

        yield tell


# gateway dev: the embedded servers and this process's loop stay, the serving process comes and goes.


def _dev(arguments: argparse.Namespace) -> int:
    settings = _settings(port=arguments.port, database_url="", redis_url="", auth="off")
    from gateway import embedded, fill, migrate

    _tell(f"Starting PostgreSQL and Valkey over {arguments.data} …")
    with embedded.servers(arguments.data) as servers:
        port = _free_port(settings.host, settings.port)
        settings = msgspec.structs.replace(settings, database_url=servers.database_url, redis_url=servers.redis_url, port=port)
        migrate.upgrade(servers.database_url)
        if arguments.rows:
            _tell(f"Filling what is empty with {arguments.rows} rows each …")
            with _progress() as tell:
                reports = fill.fill_all(servers.database_url, settings.resources_dir, arguments.rows, SEED, tell)
            for line in (line for report in reports if report.unsatisfied for line in report.lines):
                _tell(line)
        watched = (settings.resources_dir, Path(__file__).parent) if arguments.reload else ()
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
                    _print(line)
            _await_change(process, watched, seen)
            _tell("Something changed; serving anew …")


def _await_change(process: subprocess.Popen[bytes], watched: Sequence[Path], seen: Mapping[str, int]) -> None:
    """Wait until something watched is not as `seen`. Where nothing is watched, the end of the process is a ConfigurationError."""
    ended = False
    while _fingerprint(watched) == seen:
        if process.poll() is not None and not ended:
            ended = True
            if not watched:
                raise ConfigurationError(f"the serving process ended by itself, with {process.returncode}")
            _tell("The serving process ended by itself; waiting for a change …")
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


def serve_attached() -> int:
    """`gateway serve` for as long as its standard input stays open: what `gateway dev` runs as its serving process."""

    def follow() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_TIMEOUT_SECONDS)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    return main(["serve"])


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
