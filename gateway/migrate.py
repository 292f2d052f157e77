"""Migrations: Alembic as `[tool.alembic]` of `pyproject.toml` configures it, with every mistake told in one line.

The checkout is found from the working directory upwards: the nearest `pyproject.toml` with a `[tool.alembic]` section. So an
author works from anywhere inside the repository, and no path is written down anywhere.
A revision's id is its time of making in UTC, `20261122_0900`, and its file `20261122_0900_users.py`: files sort as they run.

Takes a `DATABASE_URL` as asyncpg reads it; gives nothing, a `Status`, or a new file. Logging is left as it is.
All but `connect` block until done, start an event loop of their own (so they cannot be called inside one), and are for one
thread at a time, for Alembic keeps its state in a module. Two processes may migrate at once: the second waits, and says so.
"""

from __future__ import annotations

import asyncio
import re
import tomllib
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gateway.cache.listener import CHANNEL
from gateway.connect import connect as connect_to
from gateway.errors import ConfigurationError, did_you_mean

REVISION_ID_FORMAT = "%Y%m%d_%H%M"
MAX_NAME_LENGTH = 60
CONNECT_TIMEOUT_SECONDS = 10
WAIT_SECONDS = 600.0
"""How long a migrator waits for another one where nothing else is said: longer than a migration should take."""

SERVER_SETTINGS = {"application_name": "gateway migrate", "search_path": "public"}
"""Unqualified names mean `public`, whatever the role's own search path says."""


class Revision(msgspec.Struct, frozen=True):
    """One revision file: its id and the first paragraph of its docstring, on one line."""

    id: str
    description: str


class Status(msgspec.Struct, frozen=True):
    """Where a database stands. `current` is empty for a new database, `head` None where there are no revision files.

    `pending` is what `upgrade` would run, in that order.
    """

    current: tuple[str, ...]
    head: str | None
    pending: tuple[Revision, ...]

    @property
    def behind(self) -> bool:
        """Whether there is anything to run."""
        return bool(self.pending)


def untold(_line: str) -> None:
    """Tells nobody."""


class Waiting(msgspec.Struct, frozen=True):
    """What a migrator does while another one is at work: how long it waits, and whom it tells so."""

    seconds: float = WAIT_SECONDS
    tell: Callable[[str], object] = untold


PATIENTLY = Waiting()


def upgrade(database_url: str, revision: str = "head", waiting: Waiting = PATIENTLY) -> None:
    """Bring the database up to `revision`: an id, its beginning, a file's name, `+1`, or `head`.

    All of it or nothing: the run is one transaction. Raises ConfigurationError, also where another migrator does not end in time.
    """
    config, scripts = _environment(database_url, waiting)
    with _mistakes_told(scripts):
        target = _resolve(scripts, revision)
        _applied(scripts, database_url)
        command.upgrade(config, target)


def downgrade(database_url: str, revision: str, waiting: Waiting = PATIENTLY) -> None:
    """Take the database down to `revision`, which stays applied: as for `upgrade`, or `-1`, or `base` for nothing at all.

    All of it or nothing: the run is one transaction. Raises ConfigurationError as `upgrade` does.
    """
    config, scripts = _environment(database_url, waiting)
    with _mistakes_told(scripts):
        target = _resolve(scripts, revision)
        _applied(scripts, database_url)
        command.downgrade(config, target)


def status(database_url: str) -> Status:
    """Say what is applied and what is not. Reads only, and waits for no lock. Raises ConfigurationError."""
    _, scripts = _environment(database_url)
    with _mistakes_told(scripts):
        current = _applied(scripts, database_url)
        done = {script.revision for id_ in current for script in scripts.walk_revisions(head=id_)}
        pending = [script for script in scripts.walk_revisions() if script.revision not in done]
        return Status(current, scripts.get_current_head(), tuple(_described(s) for s in reversed(pending)))


def new_revision(name: str, notify: str | None = None) -> Path:
    """Write an empty revision after the last one and give its path; `name` becomes the file's name and first line.

    With `notify`, a table's name, the revision is whole: it makes a trigger that tells the gateway's cache of every statement
    that changes that table, whoever sends it. Needs no database. Raises ConfigurationError for a name without a letter or
    digit, or one past 60 characters, and for what is no table's name.
    """
    _, scripts = _environment("")
    words = _words(name)
    bodies: dict[str, Any] = {"upgrades": "", "downgrades": ""} if notify is None else _notify_bodies(notify)
    with _mistakes_told(scripts):
        script = scripts.generate_revision(_next_id(scripts, datetime.now(UTC)), words.capitalize() + ".", **bodies)
    if script is None:
        raise ConfigurationError(f"the revision for {name!r} was written, but cannot be read back")
    return Path(script.path)


async def connect(database_url: str) -> asyncpg.Connection[asyncpg.Record]:
    """Connect as a migrator does: names are of `public`. For `migrations/env.py` and for this module.

    Raises ConfigurationError for a URL that cannot be read and for a database that cannot be reached.
    """
    if not database_url:
        raise ConfigurationError("DATABASE_URL is not set; it takes postgresql://user@host/database")
    dsn = re.sub(r"^(postgres(?:ql)?)\+asyncpg:", r"\1:", database_url)
    try:
        return await connect_to(dsn, timeout_seconds=CONNECT_TIMEOUT_SECONDS, server_settings=SERVER_SETTINGS)
    except asyncpg.ClientConfigurationError as error:
        raise ConfigurationError(f"DATABASE_URL cannot be read: {_one_line(error)}") from error
    except ValueError as error:  # its text may hold a piece of the password
        raise ConfigurationError("DATABASE_URL cannot be read; percent-encode special characters of its password") from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise ConfigurationError(f"the database cannot be reached: {_one_line(error)}") from error


def _environment(database_url: str, waiting: Waiting = PATIENTLY) -> tuple[Config, ScriptDirectory]:
    """Alembic's configuration and the revision files, read and found sound: one line of revisions with one end."""
    root = _root(Path.cwd())
    attributes = {"database_url": database_url, "wait_seconds": waiting.seconds, "tell": waiting.tell}
    config = Config(toml_file=root / "pyproject.toml", attributes=attributes)
    with _mistakes_told(None):
        scripts = ScriptDirectory.from_config(config)
    with _mistakes_told(scripts), warnings.catch_warnings():
        # Alembic merely warns of two files with one id, or of a missing predecessor, and then runs half of them.
        warnings.simplefilter("error", UserWarning)
        heads = [Path(scripts.get_revision(head).path).name for head in scripts.get_heads()]
    if len(heads) > 1:
        raise ConfigurationError(
            f"{' and '.join(sorted(heads))} both follow the same revision; set down_revision of one to the other's revision"
        )
    return config, scripts


def _root(start: Path) -> Path:
    for directory in (start, *start.parents):
        if _configures_alembic(directory / "pyproject.toml"):
            return directory
    raise ConfigurationError(f"no pyproject.toml with a [tool.alembic] section in {start} or above; run this in the checkout")


def _configures_alembic(file: Path) -> bool:
    try:
        return "alembic" in tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {})
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{file}: {_one_line(error)}") from error


def _resolve(scripts: ScriptDirectory, revision: str) -> str:
    """`revision` as an id, or as it is where it is `head`, `base` or a distance: all that Alembic takes without asserting."""
    if re.fullmatch(r"head|base|[+-][0-9]+", revision):
        return revision
    by_file = {Path(script.path).stem: script.revision for script in scripts.walk_revisions()}
    meant = by_file.get(revision.removesuffix(".py"), revision)
    fitting = sorted(id_ for id_ in by_file.values() if meant and id_.startswith(meant))
    if len(fitting) > 1 and meant not in fitting:
        raise ConfigurationError(f'revision "{revision}" may be any of {", ".join(fitting)}')
    if not fitting:
        raise ConfigurationError(f'no revision "{revision}".{did_you_mean(revision, [*by_file.values(), *by_file])}')
    return meant if meant in fitting else fitting[0]


def _applied(scripts: ScriptDirectory, database_url: str) -> tuple[str, ...]:
    current = asyncio.run(_read_current(database_url))
    known = {script.revision for script in scripts.walk_revisions()}
    strange = [id_ for id_ in current if id_ not in known]
    if strange:
        raise ConfigurationError(f"the database is at revision {', '.join(strange)}, for which there is no file here")
    return current


async def _read_current(database_url: str) -> tuple[str, ...]:
    connection = await connect(database_url)
    try:
        if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
            return ()
        rows = await connection.fetch("SELECT version_num FROM alembic_version ORDER BY version_num")
        return tuple(row[0] for row in rows)
    except asyncpg.PostgresError as error:
        raise ConfigurationError(f"the database's revision cannot be read: {_one_line(error)}") from error
    finally:
        await connection.close()


def _described(script: Script) -> Revision:
    return Revision(script.revision, " ".join(script.doc.split()))


def _words(name: str) -> str:
    """`name` in plain lower-case words, fit for a file's name and for a docstring."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = " ".join(re.findall(r"[a-z0-9]+", plain))
    if not words or len(words) > MAX_NAME_LENGTH:
        raise ConfigurationError(f"a revision's name takes 1 to {MAX_NAME_LENGTH} letters and digits, got {name!r}")
    return words


NOTIFY_UPGRADE = '''op.execute(
        """
        CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_notify('{channel}', TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME);
            RETURN NULL;
        END
        $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER tell_cache AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}
        FOR EACH STATEMENT EXECUTE FUNCTION {function}()
        """
    )'''
NOTIFY_DOWNGRADE = """op.execute('DROP TRIGGER tell_cache ON {table}')
    op.execute('DROP FUNCTION {function}()')"""


def _notify_bodies(table: str) -> dict[str, str]:
    """What a revision does that makes the trigger on `table`, and that takes it away."""
    parts = table.split(".")
    if len(parts) > 2 or not all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", part) for part in parts):
        raise ConfigurationError(f"--notify takes a table's name, such as products or shop.products, got {table!r}")
    named = {
        "channel": CHANNEL,
        "table": ".".join(f'"{part}"' for part in parts),
        "function": ".".join(f'"{part}"' for part in (*parts[:-1], f"{parts[-1][:52]}_tell_cache")),
    }
    return {"upgrades": NOTIFY_UPGRADE.format(**named), "downgrades": NOTIFY_DOWNGRADE.format(**named)}


def _next_id(scripts: ScriptDirectory, now: datetime) -> str:
    """This minute's id, or the minute after the last one's, so that files sort as they run even where a clock lags."""
    moments = [now, *(made + timedelta(minutes=1) for s in scripts.walk_revisions() if (made := _made_at(s)))]
    return max(moments).strftime(REVISION_ID_FORMAT)


def _made_at(script: Script) -> datetime | None:
    try:
        return datetime.strptime(script.revision, REVISION_ID_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None


@contextmanager
def _mistakes_told(scripts: ScriptDirectory | None) -> Iterator[None]:
    """Make ConfigurationErrors of what Alembic, the database and the revision files raise; our own bugs stay what they are."""
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:
        place = _place(error, Path(scripts.dir)) if scripts else None
        if place:
            raise ConfigurationError(f"{place}: {_reason(error)}") from error
        if isinstance(error, CommandError | RevisionError | SQLAlchemyError | UserWarning | OSError):
            raise ConfigurationError(f"migrations: {_reason(error)}") from error
        raise


def _place(error: Exception, migrations: Path) -> str | None:
    """`file:line` of the innermost line of a revision file that `error` went through, or None."""
    if isinstance(error, SyntaxError) and error.filename:
        frames = [(error.filename, error.lineno or 1)]
    else:
        frames = [(frame.filename, frame.lineno or 1) for frame in traceback.extract_tb(error.__traceback__)]
    inside = [(Path(file), line) for file, line in frames if Path(file).parent == migrations.resolve() / "versions"]
    return f"{inside[-1][0].relative_to(migrations.resolve().parent)}:{inside[-1][1]}" if inside else None


def _reason(error: Exception) -> str:
    """The database's own words where it was the database, without the SQL and SQLAlchemy's wrapping."""
    cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else error
    return _one_line(cause or error)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
