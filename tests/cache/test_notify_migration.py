"""`gateway migrate new NAME --notify TABLE`: a revision that is whole as it is written."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import asyncpg
import pytest

from gateway import cli
from gateway.cache.listener import CHANNEL
from gateway.errors import ConfigurationError
from gateway.migrate import downgrade, new_revision, upgrade

ROOT = Path(__file__).parents[2]
PYPROJECT = '[tool.alembic]\nscript_location = "%(here)s/migrations"\nfile_template = "%%(rev)s_%%(slug)s"\n'
SCHEMA = """
CREATE TABLE products (id int PRIMARY KEY);
CREATE TABLE parts (id int PRIMARY KEY, product_id int REFERENCES products ON DELETE CASCADE);
CREATE SCHEMA shop;
CREATE TABLE shop."Odd" (id int PRIMARY KEY);
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without a revision, the working directory of the test."""
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "migrations" / "versions").mkdir(parents=True)
    for name in ("env.py", "script.py.mako"):
        shutil.copy(ROOT / "migrations" / name, tmp_path / "migrations" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def execute(database_url: str, *statements: str) -> list[str]:
    """Runs statements, one transaction each, and gives what was told on the cache's channel meanwhile."""

    async def run() -> list[str]:
        told: list[str] = []
        listener, connection = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
        try:
            await listener.add_listener(CHANNEL, lambda *heard: told.append(str(heard[3])))
            for statement in statements:
                await connection.execute(statement)
            await connection.execute(f"NOTIFY {CHANNEL}, 'end'")
            async with asyncio.timeout(20):
                while "end" not in told:
                    await asyncio.sleep(0.005)
            return told[: told.index("end")]
        finally:
            await connection.close()
            await listener.close()

    return asyncio.run(run())


CHANGES = (
    "INSERT INTO products VALUES (1), (2), (3)",
    "INSERT INTO parts VALUES (1, 1)",
    "UPDATE products SET id = 4 WHERE id = 2",
    "DELETE FROM products WHERE id = 1",
    "SELECT FROM products",
    "TRUNCATE products, parts",
)


def test_each_statement_that_changes_the_table_is_told_of_once(checkout: Path, database_url: str) -> None:
    execute(database_url, SCHEMA)
    new_revision("tell of products", "products")
    upgrade(database_url)
    assert execute(database_url, *CHANGES) == ["public.products"] * 4
    downgrade(database_url, "base")
    assert execute(database_url, *CHANGES) == []


def test_what_a_foreign_key_carries_on_is_told_of_too(checkout: Path, database_url: str) -> None:
    execute(database_url, SCHEMA)
    new_revision("tell of parts", "parts")
    upgrade(database_url)
    told = execute(database_url, "INSERT INTO products VALUES (1)", "INSERT INTO parts VALUES (1, 1)", "DELETE FROM products")
    assert told == ["public.parts", "public.parts"]


def test_several_tables_can_be_told_of_and_each_be_taken_back(checkout: Path, database_url: str) -> None:
    execute(database_url, SCHEMA)
    for table in ("products", "shop.Odd"):
        new_revision(f"tell of {table}", table)
    upgrade(database_url)
    both = ('INSERT INTO shop."Odd" VALUES (1)', "INSERT INTO products VALUES (9)")
    assert execute(database_url, *both) == ["shop.Odd", "public.products"]
    downgrade(database_url, "-1")
    assert execute(database_url, 'DELETE FROM shop."Odd"', "DELETE FROM products") == ["public.products"]


def test_a_transaction_that_is_taken_back_is_not_told_of(checkout: Path, database_url: str) -> None:
    execute(database_url, SCHEMA)
    new_revision("tell of products", "products")
    upgrade(database_url)
    assert execute(database_url, "BEGIN; INSERT INTO products VALUES (1); ROLLBACK") == []


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize("table", ["", ".", "a.b.c", "a b", 'a"b', "x'); DROP TABLE users; --", '"""', "1st", "x" * 64, "täble"])
def test_what_is_no_tables_name_is_refused(table: str) -> None:
    with pytest.raises(ConfigurationError, match="--notify takes a table's name"):
        new_revision("tell", table)


def test_the_command_writes_it(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["migrate", "new", "tell of products", "--notify", "products"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert 'CREATE TRIGGER tell_cache AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON "products"' in path.read_text()


def test_without_notify_the_revision_is_empty(checkout: Path) -> None:
    assert "is not written yet" in new_revision("plain").read_text()
