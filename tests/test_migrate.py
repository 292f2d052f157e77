"""`gateway.migrate` against a real PostgreSQL, mostly in a small checkout of the test's own."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.errors import ConfigurationError
from gateway.migrate import Revision, Waiting, downgrade, new_revision, status, upgrade

ROOT = Path(__file__).parents[1]
UPGRADE = "import sys; from gateway.migrate import upgrade; upgrade(sys.argv[1])"
LOCK = 0x67617465776179
"""That of all migrators of a database."""
NOWHERE = "postgresql://postgres@/postgres?host=/nowhere/at/all"

PYPROJECT = """
[tool.alembic]
script_location = "%(here)s/migrations"
file_template = "%%(rev)s_%%(slug)s"
"""

REVISION = '''"""{name}: made for a test."""

from alembic import op

revision = "{id}"
down_revision = {after!r}


def upgrade():
    {up}


def downgrade():
    {down}
'''


def fetch(database_url: str, sql: str, *values: object) -> list[tuple[Any, ...]]:
    async def run() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(database_url)
        try:
            return [tuple(row) for row in await connection.fetch(sql, *values)]
        finally:
            await connection.close()

    return asyncio.run(run())


def tables(database_url: str) -> set[str]:
    return {name for (name,) in fetch(database_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def write(checkout: Path, id_: str, name: str, after: str | None, up: str = "pass", down: str = "pass") -> Path:
    file = checkout / "migrations" / "versions" / f"{id_}_{name}.py"
    file.write_text(REVISION.format(id=id_, name=name, after=after, up=up, down=down))
    return file


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with two revisions, the working directory of the test."""
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "migrations" / "versions").mkdir(parents=True)
    for name in ("env.py", "script.py.mako"):
        shutil.copy(ROOT / "migrations" / name, tmp_path / "migrations" / name)
    write(
        tmp_path, "20260101_0900", "shelves", None, 'op.execute("CREATE TABLE shelf (id int)")', 'op.execute("DROP TABLE shelf")'
    )
    write(
        tmp_path,
        "20260102_0900",
        "books",
        "20260101_0900",
        'op.execute("CREATE TABLE book (id int)")',
        'op.execute("DROP TABLE book")',
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def message_of(mistake: pytest.ExceptionInfo[ConfigurationError]) -> str:
    message = str(mistake.value)
    assert "\n" not in message
    return message


@pytest.mark.usefixtures("checkout")
class TestStatus:
    def test_new_database_has_everything_pending_in_order(self, database_url: str) -> None:
        told = status(database_url)
        assert (told.current, told.head, told.behind) == ((), "20260102_0900", True)
        assert told.pending == (
            Revision("20260101_0900", "shelves: made for a test."),
            Revision("20260102_0900", "books: made for a test."),
        )

    def test_half_migrated_database_has_the_rest_pending(self, database_url: str) -> None:
        upgrade(database_url, "20260101_0900")
        told = status(database_url)
        assert told.current == ("20260101_0900",)
        assert [revision.id for revision in told.pending] == ["20260102_0900"]

    def test_migrated_database_is_up_to_date(self, database_url: str) -> None:
        upgrade(database_url)
        told = status(database_url)
        assert (told.current, told.pending, told.behind) == (("20260102_0900",), (), False)

    def test_status_writes_nothing(self, database_url: str) -> None:
        status(database_url)
        assert tables(database_url) == set()


@pytest.mark.usefixtures("checkout")
class TestUpAndDown:
    def test_up_runs_every_revision(self, database_url: str) -> None:
        upgrade(database_url)
        assert tables(database_url) == {"alembic_version", "shelf", "book"}

    def test_up_twice_is_up_once(self, database_url: str) -> None:
        upgrade(database_url)
        upgrade(database_url)
        assert tables(database_url) == {"alembic_version", "shelf", "book"}

    @pytest.mark.parametrize("target", ["20260101_0900", "20260101", "20260101_0900_shelves", "20260101_0900_shelves.py", "+1"])
    def test_revision_is_named_by_id_or_its_beginning_or_file_or_distance(self, database_url: str, target: str) -> None:
        upgrade(database_url, target)
        assert tables(database_url) == {"alembic_version", "shelf"}

    @pytest.mark.parametrize("target", ["20260101_0900", "20260101_0900_shelves", "-1"])
    def test_down_keeps_the_revision_it_is_given(self, database_url: str, target: str) -> None:
        upgrade(database_url)
        downgrade(database_url, target)
        assert tables(database_url) == {"alembic_version", "shelf"}

    def test_down_to_base_takes_all_back(self, database_url: str) -> None:
        upgrade(database_url)
        downgrade(database_url, "base")
        assert tables(database_url) == {"alembic_version"}

    def test_sqlalchemy_form_of_the_url_is_taken(self, database_url: str) -> None:
        upgrade(database_url.replace("postgresql://", "postgresql+asyncpg://"))
        assert not status(database_url).behind

    def test_unqualified_names_are_of_public_whatever_the_search_path(self, database_url: str) -> None:
        (database,) = fetch(database_url, "SELECT current_database()")[0]
        fetch(database_url, "CREATE SCHEMA elsewhere")
        fetch(database_url, f"ALTER DATABASE {database} SET search_path = elsewhere")
        upgrade(database_url)
        assert tables(database_url) == {"alembic_version", "shelf", "book"}

    def test_logging_is_left_as_it_is(self, database_url: str) -> None:
        bystander = logging.getLogger("bystander")
        before = (logging.root.level, list(logging.root.handlers), bystander.disabled)
        upgrade(database_url)
        assert (logging.root.level, list(logging.root.handlers), bystander.disabled) == before


class TestAFailingRun:
    def test_failing_revision_is_told_with_file_and_line_and_the_databases_words(self, checkout: Path, database_url: str) -> None:
        write(checkout, "20260103_0900", "oops", "20260102_0900", 'op.execute("ALTER TABLE nothing ADD x int")')
        with pytest.raises(ConfigurationError) as mistake:
            upgrade(database_url)
        expected = 'migrations/versions/20260103_0900_oops.py:10: relation "nothing" does not exist'
        assert message_of(mistake) == expected

    def test_failing_revision_leaves_nothing_of_the_whole_run(self, checkout: Path, database_url: str) -> None:
        half = 'op.execute("CREATE TABLE half (id int)"); op.execute("SELECT 1 / 0")'
        write(checkout, "20260103_0900", "half", "20260102_0900", half)
        with pytest.raises(ConfigurationError, match="division by zero"):
            upgrade(database_url)
        assert tables(database_url) == set()
        assert status(database_url).current == ()

    def test_failing_downgrade_leaves_the_schema_as_it_was(self, checkout: Path, database_url: str) -> None:
        half = 'op.execute("DROP TABLE book"); op.execute("SELECT 1 / 0")'
        write(checkout, "20260103_0900", "half", "20260102_0900", "pass", half)
        upgrade(database_url)
        with pytest.raises(ConfigurationError, match="division by zero"):
            downgrade(database_url, "base")
        assert tables(database_url) == {"alembic_version", "shelf", "book"}
        assert status(database_url).current == ("20260103_0900",)

    def test_python_mistake_in_a_revision_is_told_with_file_and_line(self, checkout: Path, database_url: str) -> None:
        write(checkout, "20260103_0900", "oops", "20260102_0900", "op.no_such_thing()")
        with pytest.raises(
            ConfigurationError, match=r"^migrations/versions/20260103_0900_oops\.py:10: .*no_such_thing"
        ) as mistake:
            upgrade(database_url)
        message_of(mistake)


class TestMistakes:
    @pytest.mark.usefixtures("checkout")
    @pytest.mark.parametrize("move", [upgrade, downgrade])
    def test_unknown_revision_is_told_with_a_suggestion_before_the_database_is_reached(self, move: Any) -> None:
        with pytest.raises(ConfigurationError) as mistake:
            move(NOWHERE, "20260102_0901")
        assert message_of(mistake) == 'no revision "20260102_0901". Did you mean "20260102_0900"?'

    @pytest.mark.usefixtures("checkout")
    @pytest.mark.parametrize("target", ["head+7", "+9", "-9", "2026", "a:b", "", "+", "heads", "20260101_0900+1"])
    def test_revision_that_cannot_be_reached_is_told(self, database_url: str, target: str) -> None:
        with pytest.raises(ConfigurationError) as mistake:
            upgrade(database_url, target)
        message_of(mistake)

    @pytest.mark.usefixtures("checkout")
    def test_down_to_a_revision_that_is_not_applied_is_told(self, database_url: str) -> None:
        upgrade(database_url, "20260101_0900")
        with pytest.raises(ConfigurationError, match="not a valid downgrade target"):
            downgrade(database_url, "20260102_0900")

    @pytest.mark.usefixtures("checkout")
    @pytest.mark.parametrize(
        ("database_url", "told"),
        [
            (NOWHERE, "the database cannot be reached"),
            ("postgresql://postgres@127.0.0.1:1/postgres", "the database cannot be reached"),
            ("postgresql://postgres@no.such.host.invalid/postgres", "the database cannot be reached"),
            ("mysql://root@127.0.0.1/shop", "DATABASE_URL cannot be read"),
            ("postgresql://ada:se/cret@127.0.0.1/postgres", "DATABASE_URL cannot be read"),
            ("", "DATABASE_URL is not set"),
            ("nonsense", "DATABASE_URL cannot be read"),
        ],
    )
    @pytest.mark.parametrize("command", [upgrade, status])
    def test_unreachable_database_is_told_in_one_line(self, command: Any, database_url: str, told: str) -> None:
        with pytest.raises(ConfigurationError, match=told) as mistake:
            command(database_url)
        message_of(mistake)

    @pytest.mark.usefixtures("checkout")
    def test_no_piece_of_a_password_is_told(self) -> None:
        with pytest.raises(ConfigurationError) as mistake:
            status("postgresql://ada:xyzzy/plugh@127.0.0.1/postgres")
        assert not re.search("xyzzy|plugh", message_of(mistake))

    @pytest.mark.usefixtures("checkout")
    def test_unknown_database_is_told(self, database_url: str) -> None:
        (name,) = fetch(database_url, "SELECT current_database()")[0]
        with pytest.raises(ConfigurationError, match='database "no_such_database" does not exist'):
            status(database_url.replace(name, "no_such_database"))

    def test_database_ahead_of_the_files_is_told(self, checkout: Path, database_url: str) -> None:
        upgrade(database_url)
        (checkout / "migrations" / "versions" / "20260102_0900_books.py").unlink()
        for command in (upgrade, status):
            with pytest.raises(ConfigurationError) as mistake:
                command(database_url)
            assert message_of(mistake) == "the database is at revision 20260102_0900, for which there is no file here"

    def test_two_revisions_after_the_same_one_are_told_by_file(self, checkout: Path) -> None:
        write(checkout, "20260102_1000", "films", "20260101_0900")
        with pytest.raises(ConfigurationError) as mistake:
            status(NOWHERE)
        assert message_of(mistake).startswith("20260102_0900_books.py and 20260102_1000_films.py both follow the same revision")

    @pytest.mark.parametrize(
        ("id_", "after", "told"),
        [
            ("20260102_0900", "20260101_0900", "20260102_0900 is present more than once"),
            ("20260103_0900", "20250101_0900", "20250101_0900"),
        ],
    )
    def test_revision_twice_or_after_a_missing_one_is_told(self, checkout: Path, id_: str, after: str, told: str) -> None:
        write(checkout, id_, "odd", after)
        with pytest.raises(ConfigurationError, match=told) as mistake:
            status(NOWHERE)
        message_of(mistake)

    def test_revision_file_that_is_no_python_is_told_with_its_line(self, checkout: Path) -> None:
        file = write(checkout, "20260103_0900", "odd", "20260102_0900")
        file.write_text("revision = '20260103_0900'\ndown_revision = (\n")
        with pytest.raises(ConfigurationError, match=r"^migrations/versions/20260103_0900_odd\.py:2: ") as mistake:
            status(NOWHERE)
        message_of(mistake)

    def test_outside_a_checkout_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigurationError, match=r"no pyproject\.toml with a \[tool\.alembic\] section"):
            status(NOWHERE)

    def test_pyproject_that_is_no_toml_is_told(self, checkout: Path) -> None:
        (checkout / "pyproject.toml").write_text("[tool.alembic")
        with pytest.raises(ConfigurationError, match=r"pyproject\.toml: ") as mistake:
            status(NOWHERE)
        message_of(mistake)

    def test_missing_migrations_folder_is_told(self, checkout: Path) -> None:
        shutil.rmtree(checkout / "migrations")
        with pytest.raises(ConfigurationError, match="migrations") as mistake:
            status(NOWHERE)
        message_of(mistake)


class TestNewRevision:
    def test_file_is_named_by_time_and_words_and_follows_the_last(self, checkout: Path) -> None:
        before = datetime.now(UTC)
        file = new_revision("Add a Wish-list, für alle!")
        after = datetime.now(UTC)
        assert file.parent == checkout / "migrations" / "versions"
        assert file.name in {f"{moment:%Y%m%d_%H%M}_add_a_wish_list_fur_alle.py" for moment in (before, after)}
        assert 'down_revision = "20260102_0900"' in file.read_text()
        assert file.read_text().startswith('"""Add a wish list fur alle.\n')

    def test_second_of_one_minute_comes_after_the_first(self, checkout: Path) -> None:
        first, second = new_revision("first"), new_revision("second")
        assert first.name < second.name
        assert f'down_revision = "{first.name[:13]}"' in second.read_text()

    def test_new_revision_sorts_after_one_of_a_clock_that_runs_ahead(self, checkout: Path) -> None:
        write(checkout, "29991231_2359", "future", "20260102_0900")
        assert new_revision("next").name == "30000101_0000_next.py"

    def test_first_revision_of_a_checkout_follows_nothing(self, checkout: Path) -> None:
        for file in (checkout / "migrations" / "versions").glob("*.py"):
            file.unlink()
        assert "down_revision = None" in new_revision("first").read_text()

    def test_checkout_is_found_from_a_folder_inside_it(self, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (checkout / "resources" / "deep").mkdir(parents=True)
        monkeypatch.chdir(checkout / "resources" / "deep")
        assert new_revision("anywhere").parent == checkout / "migrations" / "versions"

    @pytest.mark.usefixtures("checkout")
    @pytest.mark.parametrize("name", ["", "  ", "///", "日本", "x" * 61, "word " * 13])
    def test_bad_name_is_told(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match="a revision's name takes") as mistake:
            new_revision(name)
        message_of(mistake)

    @pytest.mark.parametrize("name", ['"""; import os', "\\", "${1/0}\n", "../../etc/passwd"])
    def test_hostile_name_makes_a_harmless_file_or_none(self, checkout: Path, name: str) -> None:
        if re.search("[a-z0-9]", name):
            assert new_revision(name).parent == checkout / "migrations" / "versions"
        else:
            with pytest.raises(ConfigurationError):
                new_revision(name)
        with pytest.raises(ConfigurationError, match="cannot be reached"):
            status(NOWHERE)

    def test_revision_that_is_not_written_yet_does_not_run(self, checkout: Path, database_url: str) -> None:
        file = new_revision("later")
        with pytest.raises(ConfigurationError, match=rf"^migrations/versions/{file.name}:\d+: upgrade\(\) is not written yet$"):
            upgrade(database_url)
        assert tables(database_url) == set()

    def test_revision_runs_once_it_is_written(self, checkout: Path, database_url: str) -> None:
        file = new_revision("films")
        text = file.read_text()
        for way, sql in (("upgrade", "CREATE TABLE film (id int)"), ("downgrade", "DROP TABLE film")):
            text = text.replace(f'raise NotImplementedError("{way}() is not written yet")', f'op.execute("{sql}")')
        file.write_text(text)
        upgrade(database_url)
        assert "film" in tables(database_url)
        downgrade(database_url, "-1")
        assert "film" not in tables(database_url)


def waiting(database_url: str) -> int:
    """How many migrators are asking for the lock; between two tries a session's last statement is the rollback."""
    sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'gateway migrate' AND datname = current_database()"
    return int(fetch(database_url, f"{sql} AND query ~ 'advisory|ROLLBACK'")[0][0])


def test_two_migrators_at_once_both_succeed_and_run_each_revision_once(checkout: Path, database_url: str) -> None:
    slow = 'op.execute("INSERT INTO book VALUES (1)"); op.execute("SELECT pg_sleep(0.5)")'
    write(checkout, "20260103_0900", "slow", "20260102_0900", slow)
    # An index made outside the transaction waits for every snapshot: it must not wait for the other migrator's.
    concurrently = 'with op.get_context().autocommit_block(): op.execute("CREATE INDEX CONCURRENTLY ON book (id)")'
    write(checkout, "20260104_0900", "index", "20260103_0900", concurrently)

    async def hold_both_back_then_let_go() -> list[int]:
        connection = await asyncpg.connect(database_url)
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        both = [subprocess.Popen([sys.executable, "-c", UPGRADE, database_url], cwd=checkout) for _ in range(2)]
        async with asyncio.timeout(60):
            while await asyncio.to_thread(waiting, database_url) < 2:
                await asyncio.sleep(0.05)
        await connection.close()
        return [await asyncio.to_thread(process.wait, 60) for process in both]

    assert asyncio.run(hold_both_back_then_let_go()) == [0, 0]
    assert fetch(database_url, "SELECT id FROM book") == [(1,)]
    assert not status(database_url).behind


def test_a_migrator_says_for_whom_it_waits_and_gives_up_in_time(checkout: Path, database_url: str) -> None:
    said: list[str] = []

    async def while_another_is_at_work() -> int:
        connection = await asyncpg.connect(database_url)
        try:
            await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
            with pytest.raises(ConfigurationError, match=r"is still at work after 0\.5 s; nothing was changed") as mistake:
                await asyncio.to_thread(upgrade, database_url, "head", Waiting(0.5, said.append))
            message_of(mistake)
            return connection.get_server_pid()
        finally:
            await connection.close()

    process = asyncio.run(while_another_is_at_work())
    (line,) = said
    assert line.startswith(f"another migrator is at work (process {process}, since ")
    assert line.endswith("; waiting for up to 0.5 s")
    assert tables(database_url) == set()
    upgrade(database_url, waiting=Waiting(0))
    assert not status(database_url).behind


def test_a_killed_migrator_leaves_nothing_and_keeps_nobody_waiting(checkout: Path, database_url: str) -> None:
    slow = 'op.execute("CREATE TABLE half (id int)"); op.execute("SELECT pg_sleep(60)")'
    file = write(checkout, "20260103_0900", "slow", "20260102_0900", slow)
    process = subprocess.Popen([sys.executable, "-c", UPGRADE, database_url], cwd=checkout)
    its_own = "FROM pg_stat_activity WHERE query ~ 'pg_sleep' AND datname = current_database() AND pid <> pg_backend_pid()"
    deadline = time.monotonic() + 60
    while fetch(database_url, f"SELECT count(*) {its_own}") == [(0,)] and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait(60)
    file.unlink()
    # The server notices that its client is gone when the statement ends, which an operator need not wait for.
    fetch(database_url, f"SELECT pg_terminate_backend(pid, 30000) {its_own}")
    assert tables(database_url) == set()
    upgrade(database_url, waiting=Waiting(30))
    assert tables(database_url) == {"alembic_version", "shelf", "book"}


class TestAutocommitBlocks:
    """`CREATE INDEX CONCURRENTLY` and the like, which no transaction takes back."""

    INDEX = 'with op.get_context().autocommit_block(): op.execute("{}")'

    def test_revisions_before_the_block_are_whole_where_it_fails(self, checkout: Path, database_url: str) -> None:
        write(checkout, "20260103_0900", "odd", "20260102_0900", self.INDEX.format("CREATE INDEX CONCURRENTLY ON nothing (id)"))
        with pytest.raises(ConfigurationError, match=r"20260103_0900_odd\.py:10: .*nothing"):
            upgrade(database_url)
        assert tables(database_url) == {"alembic_version", "shelf", "book"}
        assert status(database_url).current == ("20260102_0900",)

    def test_block_after_a_statement_of_its_revision_is_refused_before_it_runs(self, checkout: Path, database_url: str) -> None:
        first = 'op.execute("CREATE TABLE half (id int)")\n    '
        index = self.INDEX.format("CREATE INDEX CONCURRENTLY ON half (id)")
        write(checkout, "20260103_0900", "odd", "20260102_0900", first + index)
        with pytest.raises(
            ConfigurationError, match=r"20260103_0900_odd\.py:11: an autocommit_block commits what came before it"
        ):
            upgrade(database_url)
        assert tables(database_url) == set()

    def test_block_may_stand_first_in_the_first_revision_and_in_the_next(self, checkout: Path, database_url: str) -> None:
        for id_, after in (("20260103_0900", "20260102_0900"), ("20260104_0900", "20260103_0900")):
            index = self.INDEX.format(f"CREATE INDEX CONCURRENTLY of_{id_} ON book (id)")
            write(checkout, id_, "index", after, f'{index}\n    op.execute("CREATE TABLE t{id_} (id int)")')
        upgrade(database_url, "20260102_0900")
        upgrade(database_url)
        assert not status(database_url).behind
