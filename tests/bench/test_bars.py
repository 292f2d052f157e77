"""The bars that a run is held against."""

from __future__ import annotations

from bench.bars import Bar, bars
from bench.model import Results
from tests.bench.results import measure, run_of

POINT = "point read: requests/s against Fastify + Knex"
POINT_CPU = "point read: CPU per request against Fastify + Knex"
REDIS = "list, cache hit in Redis: requests/s"
LONE = "a lone client's point read: p99 over bare asyncpg"


def bar(results: Results, title: str) -> Bar:
    return next(each for each in bars(results) if each.title == title)


def test_a_bar_holds_at_its_bound_and_fails_below() -> None:
    at = run_of(measure("gateway", "point", 3000, cpu=30), measure("fastify", "point", 1000, cpu=100))
    below = run_of(measure("gateway", "point", 2999, cpu=31), measure("fastify", "point", 1000, cpu=100))
    assert (bar(at, POINT).holds, bar(at, POINT_CPU).holds) == (True, True)
    assert (bar(below, POINT).holds, bar(below, POINT_CPU).holds) == (False, False)


def test_what_was_not_measured_is_neither_held_nor_failed() -> None:
    assert all(each.holds is None for each in bars(run_of()))


def test_a_rate_with_errors_counts_for_nothing() -> None:
    results = run_of(measure("gateway", "point", 9000, errors=1), measure("fastify", "point", 1000))
    assert (bar(results, POINT).holds, bar(results, POINT).figure) == (None, "1 errors of gateway")


def test_without_an_x_cache_header_the_cache_is_said_to_be_missing() -> None:
    without = run_of(measure("gateway-redis", "cached", 9000), measure("fastify-redis", "cached", 1000, cache_hits=1))
    assert (bar(without, REDIS).holds, bar(without, REDIS).figure) == (None, "the cache is not there")


def test_a_lone_client_is_compared_in_milliseconds() -> None:
    results = run_of(
        measure("gateway", "point", 2000, connections=1, p99=0.5),
        measure("asyncpg", "point", 4000, connections=1, p99=0.25, generator="asyncpg"),
    )
    assert (bar(results, LONE).holds, bar(results, LONE).figure) == (True, "+0.25 ms (0.50 against 0.25)")
