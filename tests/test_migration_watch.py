"""What a served gateway says of a database that is not at its newest revision: in `/health/ready`, by an event and in its log."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from gateway import migrate
from gateway.database.execute import Database
from gateway.database.pool import Pool, PoolOptions
from gateway.errors import ConfigurationError
from gateway.events import Event, MigrationsCompared
from gateway.migration_watch import MigrationWatch
from gateway.revisions import read_revisions
from tests.conftest import throwaway_database
from tests.serving import running, settings_for, write_resources
from tests.test_migrate import ROOT, checkout, write  # noqa: F401 - a fixture

PATIENCE_SECONDS = 60.0


@asynccontextmanager
async def watching(database_url: str, look_seconds: float = 0.01) -> AsyncIterator[tuple[MigrationWatch, list[Event]]]:
    events: list[Event] = []
    pool = Pool(PoolOptions(url=database_url, name="test", minimum=1, maximum=2))
    database = Database(pool)
    watch = MigrationWatch(database, events.append, look_seconds)
    await pool.open()
    await watch.start()
    try:
        yield watch, events
    finally:
        await watch.stop()
        await database.stop()
        await pool.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.01)


def behind(events: list[Event]) -> int:
    last = events[-1]
    assert isinstance(last, MigrationsCompared)
    return last.behind


def test_database_that_is_behind_is_told_until_it_is_not(checkout: Path, database_url: str) -> None:  # noqa: F811
    async def follow() -> None:
        async with watching(database_url) as (watch, events):
            told = "2 revisions are not applied, up to 20260102_0900, and none ever was; run: gateway migrate up"
            assert (watch.notice, behind(events)) == (("behind", told), 2)
            await asyncio.to_thread(migrate.upgrade, database_url, "20260101_0900")
            await until(lambda: behind(events) == 1)
            assert watch.notice == ("behind", "1 revision is not applied, up to 20260102_0900; run: gateway migrate up")
            await asyncio.to_thread(migrate.upgrade, database_url)
            await until(lambda: behind(events) == 0)
            assert watch.notice is None

    asyncio.run(follow())


def test_database_that_is_ahead_is_told_and_is_not_behind(checkout: Path, database_url: str) -> None:  # noqa: F811
    migrate.upgrade(database_url)
    (checkout / "migrations" / "versions" / "20260102_0900_books.py").unlink()

    async def look() -> None:
        async with watching(database_url) as (watch, events):
            told = "the database is at revision 20260102_0900, which this process has no file for"
            assert (watch.notice, behind(events)) == (("ahead", told), 0)

    asyncio.run(look())


def test_without_migrations_nothing_is_looked_at(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)

    async def look() -> None:
        async with watching(database_url) as (watch, events):
            assert (watch.notice, events) == (None, [])

    asyncio.run(look())
    shutil.copy(Path(migrate.__file__).parents[1] / "pyproject.toml", tmp_path)  # as an image may have it
    asyncio.run(look())
    assert caplog.records == []


def test_files_that_cannot_be_read_are_logged_and_stop_nobody(
    checkout: Path,  # noqa: F811
    database_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write(checkout, "20260103_0900", "films", "20260102_0930")

    async def look() -> None:
        async with watching(database_url) as (watch, events):
            assert (watch.notice, events) == (None, [])

    asyncio.run(look())
    (record,) = caplog.records
    assert "a revision comes after 20260102_0930, for which there is no file" in record.getMessage()


def test_role_that_may_not_read_revisions_serves_and_says_so_once(
    checkout: Path,  # noqa: F811
    database_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    migrate.upgrade(database_url)

    async def look() -> None:
        owner = await asyncpg.connect(database_url)
        role = f"reader_{time.time_ns()}"
        await owner.execute(f"CREATE ROLE {role} LOGIN")
        try:
            async with watching(database_url.replace("postgres@", f"{role}@")) as (watch, events):
                await asyncio.sleep(0.2)  # some looks later
                assert (watch.notice, events) == (None, [])
        finally:
            await owner.execute(f"DROP ROLE {role}")
            await owner.close()

    asyncio.run(look())
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "may not read" in caplog.text


def test_database_that_is_away_leaves_what_was_known(checkout: Path, postgres_url: str) -> None:  # noqa: F811
    async def look(database_url: str) -> None:
        async with watching(database_url) as (watch, _):
            known = watch.notice
            assert known is not None
            name = database_url.partition("@/")[2].partition("?")[0]
            other = await asyncpg.connect(postgres_url)
            await other.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            await other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            await other.close()
            await asyncio.sleep(0.2)  # some looks later
            assert watch.notice == known

    with throwaway_database(postgres_url) as database_url:
        migrate.upgrade(database_url, "20260101_0900")
        asyncio.run(look(database_url))


def test_health_tells_it_and_stays_ready(checkout: Path, database_url: str) -> None:  # noqa: F811
    migrate.upgrade(database_url, "20260101_0900")
    with running(settings_for(database_url, write_resources(checkout / "resources", {"shelf": "key: id"}))) as client:
        ready: httpx.Response = client.get("/health/ready")
        assert ready.status_code == 200
        reason = "1 revision is not applied, up to 20260102_0900; run: gateway migrate up"
        assert ready.json()["checks"]["migrations"] == {"status": "behind", "reason": reason}
        assert "\ndb_migrations_behind 1.0\n" in client.get("/metrics").text
    migrate.upgrade(database_url)
    with running(settings_for(database_url, checkout / "resources")) as client:
        assert "migrations" not in client.get("/health/ready").json()["checks"]


def test_files_are_read_as_alembic_reads_them(database_url: str) -> None:
    revisions = read_revisions(ROOT)
    assert revisions is not None
    everything = tuple(revision.id for revision in migrate.status(database_url).pending)
    assert revisions.pending(()) == everything
    assert revisions.pending(everything[:3][-1:]) == everything[3:]
    assert revisions.pending(everything[-1:]) == ()
    assert revisions.pending(["20250101_0900"]) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("revision = (", "odd.py: its revision and down_revision cannot be read"),
        ("revision = '20260109_0900'", "odd.py: its revision and down_revision cannot be read"),
        ("revision = str(1)\ndown_revision = None", "odd.py: its revision and down_revision cannot be read"),
        ("revision: str = 'x'\ndown_revision: str = 'x'", "revisions come after each other in a circle"),
    ],
)
def test_file_that_says_no_revision_is_told(checkout: Path, text: str, told: str) -> None:  # noqa: F811
    (checkout / "migrations" / "versions" / "odd.py").write_text(text)
    with pytest.raises(ConfigurationError, match=told):
        read_revisions(checkout)


def test_merged_branches_are_pending_until_both_are_done(checkout: Path) -> None:  # noqa: F811
    write(checkout, "20260102_1000", "films", "20260101_0900")
    file = write(checkout, "20260103_0900", "both", None)
    file.write_text(file.read_text().replace("down_revision = None", "down_revision = ('20260102_0900', '20260102_1000')"))
    revisions = read_revisions(checkout / "migrations")
    assert revisions is not None
    assert revisions.pending(["20260102_0900"]) == ("20260102_1000", "20260103_0900")
    assert revisions.pending(["20260102_0900", "20260102_1000"]) == ("20260103_0900",)
    assert revisions.pending(["20260103_0900"]) == ()
