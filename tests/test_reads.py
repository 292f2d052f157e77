"""Reads that share a statement answer just what they would have answered alone, and harm nobody when they end badly."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import reads
from gateway.app import assemble
from gateway.catalog.model import Resource
from gateway.database.execute import Database
from gateway.database.pool import Pool, PoolOptions
from gateway.errors import GatewayError, NotFound
from gateway.pipeline import Page, Pipeline, Row
from gateway.query.ast import Bound, Comparison, Grant
from gateway.query.syntax.brackets import parse_list
from tests.conftest import execute, throwaway_database
from tests.serving import settings_for, write_resources

ROWS = 400
SETUP = f"""
    CREATE TABLE notes (id int PRIMARY KEY, owner text NOT NULL, body text NOT NULL, tags text[] NOT NULL, size float8);
    INSERT INTO notes SELECT i, CASE WHEN i % 2 = 0 THEN 'ada' ELSE 'bob' END, 'note ' || i,
                             ARRAY['t' || i % 5, 'a"b\\c,d'], i / 8.0
    FROM generate_series(1, {ROWS}) i;
    CREATE TABLE odd (moment timestamptz, part int, word text, PRIMARY KEY (moment, part));
    INSERT INTO odd SELECT '2024-01-01T00:00:00Z'::timestamptz + make_interval(days => i), i % 3, 'w' || i
    FROM generate_series(1, 50) i;
    CREATE TABLE spans (span int4range PRIMARY KEY);
    INSERT INTO spans SELECT int4range(i, i + 5) FROM generate_series(1, 20) i;
"""


class Bench:
    """A pipeline over a pool of a few connections, with a loop of its own."""

    def __init__(self, runner: asyncio.Runner, pipeline: Pipeline, pool: Pool) -> None:
        self.runner, self.pipeline, self.pool = runner, pipeline, pool

    def resource(self, name: str) -> Resource:
        return self.pipeline.resource("v1", name)

    def together(self, *asked: Coroutine[Any, Any, Any]) -> list[Any]:
        async def run() -> list[Any]:
            return await asyncio.gather(*asked, return_exceptions=True)

        return self.runner.run(run())

    def alone(self, *asked: Coroutine[Any, Any, Any]) -> list[Any]:
        return [self.together(one)[0] for one in asked]


@pytest.fixture(scope="module")
def bench(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    resources = write_resources(tmp_path_factory.mktemp("resources"), {"notes": "", "odd": "", "spans": ""})
    with throwaway_database(postgres_url) as url, asyncio.Runner() as runner:
        execute(url, SETUP)
        catalog, faults = runner.run(assemble(settings_for(url, Path(resources))))
        assert not faults
        pool = Pool(PoolOptions(url=url, name="tests", minimum=1, maximum=4))
        runner.run(pool.open())
        yield Bench(runner, Pipeline(catalog, Database(pool)), pool)
        runner.run(pool.close())


def told(outcome: Any) -> Any:
    """An outcome in a form that compares: a row's text, a page, or the error's class and message."""
    if isinstance(outcome, GatewayError):
        return type(outcome).__name__, outcome.message
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def test_point_reads_together_answer_what_they_answer_alone(bench: Bench) -> None:
    keys = [str(number) for number in random.Random(1).choices(range(-5, ROWS + 20), k=150)]
    notes = bench.resource("notes")
    together = bench.together(*(bench.pipeline.get_row(notes, (key,), {}) for key in keys))
    assert [told(one) for one in together] == [
        told(one) for one in bench.alone(*(bench.pipeline.get_row(notes, (key,), {}) for key in keys))
    ]
    assert any(isinstance(one, NotFound) for one in together)


def test_composite_keys_together_answer_what_they_answer_alone(bench: Bench) -> None:
    odd = bench.resource("odd")
    keys = [(f"2024-01-{day:02}T00:00:00Z", str(part)) for day in range(1, 28) for part in range(3)]
    together = bench.together(*(bench.pipeline.get_row(odd, key, {}) for key in keys))
    alone = bench.alone(*(bench.pipeline.get_row(odd, key, {}) for key in keys))
    assert [told(one) for one in together] == [told(one) for one in alone]
    assert sum(isinstance(one, Row) for one in together) == 26


QUERIES = [
    b"owner=ada&limit=3",
    b"owner=bob&limit=3",
    b"owner=nobody&limit=3",
    b"id[in]=1,2,3,399",
    b"id[in]=5,6",
    b"tags[all]=t1,a%22b%5C%5Cc%5C,d",
    b"tags[any]=t2",
    b"body[contains]=7&limit=5",
    b"size[gt]=12.125&limit=2&page=3",
    b"size[gt]=1.5&limit=4&page=2",
    b"id[between]=10,14",
    b"count=exact&owner=ada&limit=1",
    b"count=exact&owner=bob&limit=1&page=300",
    b"count=exact&owner=nobody&limit=1",
    b"filter=%7B%22or%22%3A%5B%7B%22id%22%3A3%7D%2C%7B%22body%22%3A%22note%209%22%7D%5D%7D",
    b"filter=%7B%22or%22%3A%5B%7B%22id%22%3A4%7D%2C%7B%22body%22%3A%22note%208%22%7D%5D%7D",
    b"sort=-body&fields=id&owner=ada&limit=2",
    b"sort=-body&fields=id&owner=bob&limit=2",
    b"",
]


def test_lists_together_answer_what_they_answer_alone(bench: Bench) -> None:
    notes = bench.resource("notes")
    order = random.Random(2).choices(QUERIES, k=200)
    together = bench.together(*(bench.pipeline.list_rows(notes, parse_list(query)) for query in order))
    alone = {query: bench.alone(bench.pipeline.list_rows(notes, parse_list(query)))[0] for query in QUERIES}
    assert [told(one) for one in together] == [told(alone[query]) for query in order]
    assert all(isinstance(one, Page) for one in together)


def test_cursors_together_go_on_where_they_would_alone(bench: Bench) -> None:
    notes = bench.resource("notes")
    firsts = bench.alone(*(bench.pipeline.list_rows(notes, parse_list(b"sort=body&limit=%d" % size)) for size in range(1, 30)))
    queries = [b"sort=body&limit=%d&cursor=%s" % (page.limit, page.next_cursor.encode()) for page in firsts]
    together = bench.together(*(bench.pipeline.list_rows(notes, parse_list(query)) for query in queries))
    assert [told(one) for one in together] == [
        told(bench.alone(bench.pipeline.list_rows(notes, parse_list(query)))[0]) for query in queries
    ]


def test_many_requests_in_flight_share_few_statements(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    statements: list[str] = []
    fetch = bench.pipeline.database.fetch

    async def counted(sql: str, *rest: Any, **named: Any) -> Any:
        statements.append(sql)
        return await fetch(sql, *rest, **named)

    monkeypatch.setattr(bench.pipeline.database, "fetch", counted)
    notes = bench.resource("notes")
    answers = bench.together(*(bench.pipeline.get_row(notes, (str(number),), {}) for number in range(1, 101)))
    assert [json.loads(row.text)["id"] for row in answers] == list(range(1, 101))
    assert len(statements) <= 5


def test_one_bad_key_fails_itself_alone(bench: Bench) -> None:
    """`[a,b)` passes our reading of a range's text, PostgreSQL refuses it, and with it the statement that others share."""
    spans = bench.resource("spans")
    keys = [f"[{number},{number + 5})" for number in range(1, 21)]
    keys[7] = "[a,b)"
    answers = bench.together(*(bench.pipeline.get_row(spans, (key,), {}) for key in keys))
    assert isinstance(answers.pop(7), NotFound)
    assert [json.loads(row.text)["span"] for row in answers] == [key for key in keys if "a" not in key]


def _grant(owner: str) -> Grant:
    return Grant(name="own", rows=Bound(Comparison("owner", "eq"), (owner,)))


def test_ten_thousand_disconnects_cross_no_answers_and_leak_no_connection(bench: Bench) -> None:
    notes = bench.resource("notes")
    chance = random.Random(3)

    async def one(owner: str) -> None:
        number = chance.randint(1, ROWS)
        try:
            if chance.random() < 0.5:
                row = json.loads((await bench.pipeline.get_row(notes, (str(number),), {}, _grant(owner))).text)
                assert row["owner"] == owner
                assert row["id"] == number
            else:
                page = await bench.pipeline.list_rows(notes, parse_list(b"id[gte]=%d&limit=5" % number), _grant(owner))
                assert {row["owner"] for row in json.loads(b"[%b]" % page.data)} <= {owner}
        except NotFound:
            assert (number % 2 == 0) != (owner == "ada")

    async def run() -> tuple[int, int]:
        cancelled = 0
        for _ in range(100):
            tasks = [asyncio.create_task(one(chance.choice(("ada", "bob")))) for _ in range(100)]
            for task in tasks:
                if chance.random() < 0.5:
                    asyncio.get_running_loop().call_later(chance.random() * 0.01, task.cancel)
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, asyncio.CancelledError):
                    cancelled += 1
                elif outcome is not None:
                    raise outcome
        await asyncio.sleep(0.1)
        return cancelled, bench.pool.size - bench.pool.idle

    cancelled, in_use = bench.runner.run(run())
    assert cancelled > 1000
    assert in_use == 0


def test_a_shape_that_turns_slow_leaves_its_lane(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    running = 0
    most = 0
    fetch = bench.pipeline.database.fetch

    async def slow(sql: str, *rest: Any, **named: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(0.05)
            return await fetch(sql, *rest, **named)
        finally:
            running -= 1

    monkeypatch.setattr(bench.pipeline.database, "fetch", slow)
    notes = bench.resource("notes")
    for size in range(12):
        bench.together(bench.pipeline.list_rows(notes, parse_list(b"size[lt]=%d" % size)))
    answers = bench.together(*(bench.pipeline.list_rows(notes, parse_list(b"size[lt]=%d" % size)) for size in range(1, 5)))
    assert all(isinstance(page, Page) for page in answers)
    assert most == 4


class Ticking:
    """Stands for the module `time`: it goes on as statements run."""

    def __init__(self) -> None:
        self.seconds = 1.0

    def perf_counter(self) -> float:
        return self.seconds

    monotonic = perf_counter


@pytest.mark.parametrize(("seconds_in_batch", "stays"), [(0.004, False), (0.0012, True)])
def test_a_shape_that_is_dearer_in_batches_runs_apart_for_a_while(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, seconds_in_batch: float, stays: bool
) -> None:
    clock, ran = Ticking(), list[bool]()
    fetch = bench.pipeline.database.fetch

    async def timed(sql: str, *rest: Any, **named: Any) -> Any:
        is_shared = "WITH ORDINALITY" in sql
        ran.append(is_shared)
        clock.seconds += seconds_in_batch * named["batch"] if is_shared else 0.001
        return await fetch(sql, *rest, **named)

    monkeypatch.setattr(reads, "time", clock)
    monkeypatch.setattr(bench.pipeline.database, "fetch", timed)
    notes, shape = bench.resource("notes"), b"size[gte]=%d" if stays else b"size[lte]=%d"

    def several() -> list[bool]:
        ran.clear()
        pages = bench.together(*(bench.pipeline.list_rows(notes, parse_list(shape % size)) for size in range(5)))
        assert all(isinstance(page, Page) for page in pages)
        return list(ran)

    bench.alone(*(bench.pipeline.list_rows(notes, parse_list(shape % size)) for size in range(3)))
    shared = [several() == [True] for _ in range(40)]
    assert shared[0]
    assert all(shared) == stays
    if not stays:
        assert several() == [False] * 5
        clock.seconds += reads.APART_SECONDS
        assert several() == [True]
