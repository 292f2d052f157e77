"""The command line: one function a command, each from parsed arguments to an exit status.

Takes arguments and the environment; gives what the command prints on stdout, progress and mistakes on stderr, and 0, 1 (a
mistake or a failed check), 2 (arguments that argparse refuses), or 128 + the signal that stopped it: 130 for Ctrl-C.
SIGTERM is how `gateway serve` is meant to end: with 0.
What a command needs is imported inside it, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import signal
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from gateway.errors import ConfigurationError
from gateway.settings import Settings, check_startable, database_url, describe_variables, load_settings
from gateway.terminal import progress, say, tell

DOTENV = Path(".env")
PROJECT = Path("pyproject.toml")
DATA = Path(".data")
DEFAULT_ROWS = 1000
SEED = 1
DEV_DEFAULTS = {"RATE_LIMIT": "6000/minute", "SHUTDOWN_DRAIN_SECONDS": "0"}
"""Where they are not set: whoever tries things out, or tests against it, should not be slowed down."""
STOP_TIMEOUT_SECONDS = 15.0
MIGRATION_WAIT_SECONDS = 600


LASTING = ("serve", "dev")
"""Commands that go on until they are stopped, and log."""


def main(argv: list[str] | None = None) -> int:
    """Run one command and give its exit status. Raises SystemExit for `--help` and for arguments that cannot be parsed."""
    arguments = _parser().parse_args(argv)
    if arguments.command not in LASTING:
        # Ctrl-C leaves futures behind that nobody waits for; what asyncio says of them on its way out helps no user.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    stopped_by = [signal.SIGINT]
    try:
        with _stoppable(stopped_by, reloads=arguments.command == "serve"):
            status: int = arguments.run(arguments)
            sys.stdout.flush()
            return status
    except ConfigurationError as error:
        for line in str(error).splitlines():
            tell(f"gateway {arguments.command}: {line}")
        return 1
    except KeyboardInterrupt:
        asked_to_stop = arguments.command == "serve" and stopped_by[-1] == signal.SIGTERM
        return 0 if asked_to_stop else 128 + stopped_by[-1]
    except BrokenPipeError:
        # Whoever read our output has gone; at its end Python would try to flush it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gateway", description="A metadata-driven REST gateway to PostgreSQL.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    dev = _command(commands, "dev", _dev, "a gateway to try out, over its own PostgreSQL and Valkey, with sample rows")
    dev.add_argument("--port", help="port to listen on (default: 8000, or PORT)")
    dev.add_argument("--data", type=Path, default=DATA, metavar="DIR", help=f"where data is kept (default: {DATA})")
    dev.add_argument(
        "--rows", type=_count, default=DEFAULT_ROWS, help=f"sample rows of each empty resource (default: {DEFAULT_ROWS})"
    )
    dev.add_argument(
        "--reload", action="store_true", help="follow changes of resource files, and start anew at those of the gateway's code"
    )

    serve = _command(commands, "serve", _serve, "the server alone", _settings_help())
    serve.add_argument("--host", help="address to listen on (default: HOST)")
    serve.add_argument("--port", help="port to listen on (default: PORT)")
    serve.add_argument("--workers", help="processes that serve (default: WORKERS)")

    check = _command(commands, "check", _check, "every problem of the resource files, held against the database")
    check.add_argument("--access", action="store_true", help="print what every role may do; problems go to stderr")
    check.add_argument(
        "--json", action="store_true", help="a JSON array: of {file, line, message}, or with --access of a row for each operation"
    )

    _add_migrate(_command(commands, "migrate", None, "the database's schema, by the files under migrations/"))

    fill = _command(commands, "fill", _fill, "plausible rows for any resource")
    fill.add_argument("resource", metavar="RESOURCE", help="the resource's name")
    fill.add_argument("--rows", type=_count, required=True, help="how many")
    fill.add_argument("--seed", type=int, default=SEED, help=f"the same seed gives the same rows (default: {SEED})")

    openapi = _command(commands, "openapi", _openapi, "the OpenAPI 3.1 document of the API")
    openapi.add_argument("--version", default="v1", help="the API's version (default: v1)")

    _command(commands, "schema", _schema, "the JSON Schema of a resource file, for editors")

    _add_token(_command(commands, "token", _token, "a token signed with the dev key, for the gateway that `gateway dev` runs"))
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
    for action in (up, down):
        told = f"how long to wait for another migrator (default: {MIGRATION_WAIT_SECONDS})"
        action.add_argument("--wait", type=_count, default=MIGRATION_WAIT_SECONDS, metavar="SECONDS", help=told)
    _command(actions, "status", _migrate_status, "what is applied and what is not; fails when the database is behind")
    _command(actions, "own", _migrate_own, "make the gateway's own tables, where they are missing, and nothing else")
    new = _command(actions, "new", _migrate_new, "write an empty revision file and print its path")
    new.add_argument("name", metavar="NAME", help="a few words on what it does")
    new.add_argument("--notify", metavar="TABLE", help="make it a trigger that tells the cache of every change to TABLE")


def _add_token(token: argparse.ArgumentParser) -> None:
    token.add_argument("--role", action="append", required=True, metavar="R", help="a role it gives; may stand several times")
    token.add_argument("--sub", required=True, metavar="S", help="whom it speaks for: what rules call $sub")
    token.add_argument(
        "--claim",
        type=_claim,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what rules call $claims.NAME: a JSON value, or else a text; may stand several times",
    )
    token.add_argument("--lifetime", type=_seconds, metavar="SECONDS", help="how long it is valid (default: 12 hours)")
    token.add_argument("--data", type=Path, default=DATA, metavar="DIR", help=f"as for gateway dev (default: {DATA})")


def _settings_help() -> str:
    return f"settings, from the environment or from a .env file:\n\n{describe_variables()}"


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number from 0, not {text!r}")
    return int(text)


def _seconds(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,9}", text):
        raise argparse.ArgumentTypeError(f"a whole number of seconds from 1, not {text!r}")
    return int(text)


def _claim(text: str) -> tuple[str, Any]:
    """NAME=VALUE, where VALUE is JSON if it can be read as that."""
    name, equals, written = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"NAME=VALUE, not {text!r}")
    try:
        value = json.loads(written)
        json.dumps(value, allow_nan=False)
    except ValueError:
        return name, written
    return name, value


@contextmanager
def _stoppable(stopped_by: list[signal.Signals], reloads: bool) -> Iterator[None]:
    """Make Ctrl-C of every signal that asks us to stop, and note which it was: one way out, that runs each `finally` on it.

    Ctrl-C itself keeps Python's own handler, for asyncio then cancels what runs and lets it end in order. SIGHUP is no such
    signal to a command that reloads at it, which ignores it until it can.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped_by.append(signal.Signals(number))
        signal.raise_signal(signal.SIGINT)

    handlers: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: stop}
    if reloads:
        handlers[signal.SIGHUP] = signal.SIG_IGN
    elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
        handlers[signal.SIGHUP] = stop
    before: dict[int, Any] = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _settings(defaults: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """The settings of the environment and of `.env`, where an argument that was given stands for its variable."""
    given = {name.upper(): str(value) for name, value in overrides.items() if value is not None}
    return load_settings({**os.environ, **given}, DOTENV, defaults)


# The commands.


def _dev(arguments: argparse.Namespace) -> int:
    settings = _settings(DEV_DEFAULTS, port=arguments.port, database_url="", redis_url="")
    from gateway import dev

    dev.run(settings, arguments.data, arguments.rows, arguments.reload)


def _serve(arguments: argparse.Namespace) -> int:
    settings = _settings(host=arguments.host, port=arguments.port, workers=arguments.workers)
    check_startable(settings)
    from gateway import app

    app.serve(settings)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    settings = _settings()
    database_url(settings)
    from gateway import app

    checked = app.check(settings, _known_claims())
    rows = checked.access if arguments.access else checked.faults
    if arguments.json:
        say(json.dumps([msgspec.to_builtins(row) for row in rows], ensure_ascii=False, indent=2))
    elif arguments.access:
        from gateway.access_report import access_lines

        for line in access_lines(checked.access):
            say(line)
    for fault in checked.faults:
        if arguments.access:
            tell(str(fault))
        elif not arguments.json:
            say(str(fault))
    for warning in checked.warnings:
        tell(f"warning: {warning}")
    counts = [_counted(checked.faults, "problem"), *([_counted(checked.warnings, "warning")] if checked.warnings else [])]
    tell(f"gateway check: {', '.join(counts)}")
    return 1 if checked.faults else 0


def _counted(things: Sized, noun: str) -> str:
    return f"{len(things) or 'no'} {noun}{'' if len(things) == 1 else 's'}"


def _known_claims() -> list[str]:
    """`claims` of `[tool.gateway]` in pyproject.toml: what tokens carry beyond the standard claims. Raises ConfigurationError."""
    try:
        project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{PROJECT}: cannot be read: {error}") from error
    claims = project.get("tool", {}).get("gateway", {}).get("claims", [])
    if not isinstance(claims, list) or not all(isinstance(name, str) for name in claims):
        raise ConfigurationError(f'{PROJECT}: claims of [tool.gateway] takes a list of names, such as ["org_id"]')
    return claims


def _token(arguments: argparse.Namespace) -> int:
    settings = _settings()
    claims = dict(arguments.claim)
    if len(claims) < len(arguments.claim):
        raise ConfigurationError("a claim is given twice")
    from gateway import dev_issuer

    issuer = dev_issuer.DevIssuer.load(arguments.data)
    lifetime = arguments.lifetime or dev_issuer.LIFETIME_SECONDS
    say(issuer.sign(arguments.sub, arguments.role, lifetime, claims, settings.auth_roles_claim))
    return 0


def _openapi(arguments: argparse.Namespace) -> int:
    settings = _settings()
    database_url(settings)
    from gateway import app

    say(json.dumps(app.openapi(settings, arguments.version), ensure_ascii=False, indent=2))
    return 0


def _schema(_arguments: argparse.Namespace) -> int:
    from gateway.definitions.schema import json_schema

    say(json.dumps(json_schema(), ensure_ascii=False, indent=2))
    return 0


def _migrate_up(arguments: argparse.Namespace) -> int:
    url = database_url(_settings())
    from gateway import migrate

    migrate.upgrade(url, arguments.revision, _waiting(arguments))
    return 0


def _migrate_down(arguments: argparse.Namespace) -> int:
    url = database_url(_settings())
    from gateway import migrate

    migrate.downgrade(url, arguments.revision, _waiting(arguments))
    return 0


def _waiting(arguments: argparse.Namespace) -> Any:
    from gateway import migrate

    return migrate.Waiting(arguments.wait, lambda line: tell(f"gateway migrate {arguments.action}: {line}"))


def _migrate_status(_arguments: argparse.Namespace) -> int:
    url = database_url(_settings())
    from gateway import migrate

    status = migrate.status(url)
    say(f"current: {', '.join(status.current) or 'none'}")
    say(f"head: {status.head or 'none'}")
    for revision in status.pending:
        say(f"pending: {revision.id} {revision.description}")
    if status.behind:
        tell(f"gateway migrate status: the database is {len(status.pending)} behind; run: gateway migrate up")
    return 1 if status.behind else 0


def _migrate_own(_arguments: argparse.Namespace) -> int:
    url = database_url(_settings())
    from gateway import idempotency

    idempotency.make_tables(url)
    return 0


def _migrate_new(arguments: argparse.Namespace) -> int:
    from gateway import migrate

    with redirect_stdout(sys.stderr):  # Alembic tells what it does; our output is the path alone
        path = migrate.new_revision(arguments.name, arguments.notify)
    say(os.path.relpath(path))
    return 0


def _fill(arguments: argparse.Namespace) -> int:
    settings = _settings()
    url = database_url(settings)
    from gateway import fill

    with progress() as advance:
        report = fill.fill_resource(
            url,
            settings.resources_dir,
            arguments.resource,
            arguments.rows,
            arguments.seed,
            lambda done, total: advance(arguments.resource, done, total),
        )
    for line in report.lines:
        say(line)
    return 0


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
