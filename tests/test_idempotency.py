"""Cleaning up what is kept under Idempotency-Keys: the rights that it takes, and that nothing ends it."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import asyncpg
import pytest

from gateway.database.execute import Database
from gateway.database.pool import Pool, PoolOptions
from gateway.idempotency import KeptAnswers, make_tables


def test_the_rights_that_are_asked_for_are_those_that_it_takes(database_url: str) -> None:
    make_tables(database_url)
    role = f"keeper_{uuid.uuid4().hex}"

    async def check() -> list[Any]:
        owner = await asyncpg.connect(database_url)
        await owner.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA gateway TO {role}")
        pool = Pool(PoolOptions(database_url.replace("postgres@", f"{role}@"), "tests", minimum=1, maximum=1))
        await pool.open()
        database = Database(pool)
        kept = KeptAnswers(database)
        try:
            found: list[Any] = [(await database.fetch("SELECT current_user", ()))[0][0] == role]
            for right in ("SELECT", "INSERT", "DELETE"):
                found.append(await kept.is_ready())
                await owner.execute(f"GRANT {right} ON gateway.idempotency_keys TO {role}")
            return [*found, await kept.is_ready(), await kept.clean()]
        finally:
            await database.stop()
            await pool.close()
            await owner.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
            await owner.close()

    assert asyncio.run(check()) == [True, False, False, False, True, 0]


def test_cleaning_up_goes_on_after_whatever_went_wrong(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_tables(database_url)
    monkeypatch.setattr("gateway.idempotency.CLEAN_EVERY_SECONDS", 0.01)
    old = "INSERT INTO gateway.idempotency_keys VALUES ('', '', '', '', 0, '', now() - interval '2 days')"
    refusing = """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN RAISE check_violation; END$$;
        CREATE TRIGGER refuse BEFORE DELETE ON gateway.idempotency_keys FOR EACH ROW EXECUTE FUNCTION refuse()
    """

    async def clean() -> None:
        owner = await asyncpg.connect(database_url)
        await owner.execute(f"{old}; {refusing}")
        pool = Pool(PoolOptions(database_url, "tests", minimum=1, maximum=1))
        await pool.open()
        database = Database(pool)
        kept = KeptAnswers(database)
        kept.start()
        try:
            async with asyncio.timeout(20):
                while caplog.text.count("could not be cleaned up: check") < 2:
                    await asyncio.sleep(0.01)
                with monkeypatch.context() as bug:
                    bug.setattr(kept, "_database", None)
                    while "Traceback" not in caplog.text:
                        await asyncio.sleep(0.01)
                await owner.execute("DROP TRIGGER refuse ON gateway.idempotency_keys")
                while await owner.fetchval("SELECT count(*) FROM gateway.idempotency_keys"):
                    await asyncio.sleep(0.01)
        finally:
            await kept.stop()
            await database.stop()
            await pool.close()
            await owner.close()

    asyncio.run(clean())
