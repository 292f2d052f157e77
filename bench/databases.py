"""Tables of each size: made once by `gateway fill` and kept as template databases, copied afresh for every run that writes.

A template is marked as one when it is whole, so a fill that was cut off is made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import asyncpg

from bench.scenarios import Rows
from gateway.fill import fill_resource
from gateway.migrate import upgrade

WORK_DATABASE = "bench_work"
SECONDS_PER_MILLION = 40.0
"""What making rows takes, roughly: for the progress that is shown."""


def rows_of(products: int) -> Rows:
    """How many categories a shop of so many products has: 200 products in each, or 1,000 in a large shop."""
    return Rows(products, max(50, products // 1000))


def url_of(database_url: str, name: str) -> str:
    """The URL of another database on the same server."""
    return database_url.replace("/postgres?", f"/{name}?", 1)


def template_name(products: int) -> str:
    """The template database with so many products."""
    return f"rows_{products}"


async def has_template(database_url: str, products: int) -> bool:
    """Whether the rows are there already."""
    connection = await asyncpg.connect(database_url)
    try:
        sql = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)"
        return bool(await connection.fetchval(sql, template_name(products)))
    finally:
        await connection.close()


async def make_template(database_url: str, resources: Path, products: int, progress: Callable[[int, int], None]) -> None:
    """Makes the rows of one size; `progress` is told (rows done, rows in all). Raises ConfigurationError."""
    name, rows = template_name(products), rows_of(products)
    await _run(database_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)', f'CREATE DATABASE "{name}"')
    url = url_of(database_url, name)
    await asyncio.to_thread(upgrade, url)
    await asyncio.to_thread(fill_resource, url, resources, "categories", rows.categories)
    await asyncio.to_thread(fill_resource, url, resources, "products", rows.products, 1, progress)
    await _run(url, "VACUUM ANALYZE")
    await _run(database_url, "CHECKPOINT", f'ALTER DATABASE "{name}" IS_TEMPLATE true')


async def migrate_template(database_url: str, products: int) -> None:
    """Applies the revisions that are newer than the rows."""
    await asyncio.to_thread(upgrade, url_of(database_url, template_name(products)))


async def fresh_copy(database_url: str, products: int) -> str:
    """The URL of a database with rows of one size that nobody has written to."""
    await _run(
        database_url,
        f'DROP DATABASE IF EXISTS "{WORK_DATABASE}" WITH (FORCE)',
        f'CREATE DATABASE "{WORK_DATABASE}" TEMPLATE "{template_name(products)}" STRATEGY file_copy',
        "CHECKPOINT",
    )
    return url_of(database_url, WORK_DATABASE)


async def drop_copy(database_url: str) -> None:
    """Removes what `fresh_copy` made."""
    await _run(database_url, f'DROP DATABASE IF EXISTS "{WORK_DATABASE}" WITH (FORCE)')


async def _run(database_url: str, *statements: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
