"""Tables that nobody thought of: whatever their columns and constraints, a filling succeeds or says which one is in the way."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import ConfigurationError
from gateway.fill import FillReport, fill_resource
from tests.conftest import throwaway_database
from tests.examples import examples

COLUMNS = {
    "smallint": ["{c} > 0", "{c} BETWEEN 5 AND 90", "{c} <> 7", "{c} % 2 = 0"],
    "bigint": ["{c} >= -5", "{c} IN (1, 2, 3)", "{c} < 1000000"],
    "numeric(8,3)": ["{c} > 0.5", "{c} <= 10", "{c} IS NULL OR {c} > 3"],
    "double precision": ["{c} >= 0 AND {c} <= 1"],
    "text": ["char_length({c}) <= 12", "{c} ~ '^[a-z]{{2,5}}-[0-9]+$'", "{c} = lower({c})", "{c} <> ''", "{c} LIKE 'a%'"],
    "varchar(7)": ["{c} IN ('a', 'b')", "length({c}) = 6", "{c} = upper({c})"],
    "char(2)": ["{c} ~ '^[A-Z]{{2}}$'"],
    "date": ["{c} > '2031-05-01'", "{c} BETWEEN '2000-01-01' AND '2000-01-31'"],
    "timestamptz": ["{c} < now()"],
    "uuid": [],
    "boolean": ["{c}"],
    "inet": [],
    "bytea": ["octet_length({c}) = 4"],
    "text[]": ["cardinality({c}) > 1", "{c} <@ ARRAY['x', 'y']"],
    "jsonb": ["jsonb_typeof({c}) = 'object'"],
    "int4range": ["NOT isempty({c})"],
    "interval": ["{c} > '1 hour'"],
}


@st.composite
def tables(draw: st.DrawFn) -> str:
    """CREATE TABLE t with one to six columns, some constrained, some unique, alone or together."""
    parts = ["id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"]
    names: list[str] = []
    for type_ in draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=6)):
        name = draw(st.sampled_from(["price", "email", "Code", "select", "name", "created_at", "n"])) + str(len(names))
        names.append(f'"{name}"')
        part = f'"{name}" {type_}' + draw(st.sampled_from([" NOT NULL", ""]))
        checked: bool = draw(st.booleans())
        if checked and COLUMNS[type_]:
            part += f" CHECK ({draw(st.sampled_from(COLUMNS[type_])).format(c=names[-1])})"
        parts.append(part)
    unique = draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
    if unique:
        parts.append(f"UNIQUE ({', '.join(unique)})")
    return f"CREATE TABLE t ({', '.join(parts)})"


async def execute(url: str, *statements: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return int(await connection.fetchval(statements[-1]) or 0)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def shared_url(postgres_url: str) -> Iterator[str]:
    with throwaway_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "t.yaml").write_text("")
        yield Path(made)


@settings(max_examples=examples(10), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(table=tables(), rows=st.integers(1, 400))
def test_a_table_is_filled_or_its_constraint_is_named(shared_url: str, directory: Path, table: str, rows: int) -> None:
    asyncio.run(execute(shared_url, "DROP TABLE IF EXISTS t", table, "SELECT 0"))
    refusal = ""
    report = FillReport("t", 0, 0.0)
    try:
        report = fill_resource(shared_url, directory, "t", rows)
    except ConfigurationError as fault:
        refusal = str(fault)
    assert asyncio.run(execute(shared_url, "SELECT count(*) FROM t")) == report.rows
    assert report.rows == rows or report.unsatisfied or "t_" in refusal
