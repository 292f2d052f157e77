"""What a run does, and what it makes of what k6 and the logs say."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from bench import plan
from bench.contenders import NEEDS_PEER, STARTS
from bench.k6_runs import read_summary
from bench.measure import complaints_in
from bench.model import Latency, Mode
from bench.run import is_saturated
from bench.scenarios import SCENARIOS
from tests.bench.results import measure

MODES: tuple[Mode, ...] = ("quick", "full")


@pytest.mark.parametrize("mode", MODES)
def test_every_step_has_a_contender_and_a_scenario_that_exist(mode: Mode) -> None:
    steps = [*plan.closed_loop_steps(mode), *plan.large_table_steps(mode, 1_000_000), *plan.open_loop_steps(mode)]
    assert {step.contender for step in steps} <= {*STARTS, "pgbench", "asyncpg"}
    assert {step.scenario for step in steps} <= {*SCENARIOS, "mixed"}
    assert set(SCENARIOS) <= {step.scenario for step in steps}


@pytest.mark.parametrize(("mode", "minutes"), [("quick", 2.5), ("full", 10)])
def test_a_run_is_expected_to_end_in_time(mode: Mode, minutes: float) -> None:
    steps = [*plan.warming_steps(True), *plan.closed_loop_steps(mode), *plan.open_loop_steps(mode)]
    steps += [step for rows in plan.PACES[mode].large_tables for step in plan.large_table_steps(mode, rows)]
    assert sum(step.expected_seconds for step in steps) / 60 < minutes


def test_the_deciding_rate_is_among_the_mixed_loads() -> None:
    for mode in MODES:
        offered = {step.offered for step in plan.open_loop_steps(mode) if step.scenario == "mixed"}
        assert offered == {100, 500, 1000}


def test_a_search_offers_more_each_time() -> None:
    assert list(islice(plan.search_rates("quick"), 3)) == [2000, 4000, 8000]
    assert list(islice(plan.search_rates("full"), 3)) == [1500, 2250, 3380]


def test_a_contender_with_a_cache_takes_what_the_one_without_takes() -> None:
    assert plan.takes("fastify-redis", "point")
    assert plan.takes("gateway-memory", "cached")
    assert not plan.takes("platformatic", "patch")


def test_every_contender_from_npm_names_its_peer() -> None:
    assert set(NEEDS_PEER) == {name for name in STARTS if name.startswith(("fastify", "platformatic"))}


def test_a_load_is_too_much_when_answers_are_late_fail_or_are_dropped() -> None:
    fine = measure("gateway", "mixed", 1000, offered=1000, p99=20)
    assert not is_saturated(fine)
    assert is_saturated(measure("gateway", "mixed", 1000, offered=1000, p99=60))
    assert is_saturated(measure("gateway", "mixed", 1000, offered=1000, errors=1))
    assert is_saturated(measure("gateway", "mixed", 900, offered=1000))


def test_k6s_document_becomes_a_summary() -> None:
    document = {
        "metrics": {
            "http_reqs{scenario:measured}": {"values": {"count": 401, "rate": 100.2}},
            "http_req_failed{scenario:measured}": {"values": {"passes": 2, "fails": 399, "rate": 0.005}},
            "http_req_duration{scenario:measured}": {"values": {"med": 1, "p(95)": 2, "p(99)": 3, "p(99.9)": 4, "max": 5}},
            "cache_hits{scenario:measured}": {"values": {"count": 100}},
            "cache_answers{scenario:measured}": {"values": {"count": 380}},
        }
    }
    summary = read_summary(document, held=True)
    assert (summary.requests, summary.errors, summary.dropped) == (401, 2, 0)
    assert (summary.hits, summary.marked, summary.held) == (100, 380, True)
    assert summary.latency == Latency(1, 2, 3, 4, 5)


def test_k6_without_a_request_has_no_latency() -> None:
    assert read_summary({"metrics": {}}, held=False).latency is None


def test_complaints_are_counted_whatever_the_log_looks_like(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(
        "2026-11-22 10:00:00,123 WARNING gateway.cache: Redis is not well after 12 s\n"
        "2026-11-22 10:00:09,456 WARNING gateway.cache: Redis is not well after 34 s\n"
        "2026-11-22 10:00:09,456 INFO gateway.cache: all is well\n"
        '{"level":50,"msg":"no"}\n{"level":30,"msg":"GET"}\n{"level": "error", "message": "x"}\n'
    )
    found = complaints_in(log)
    assert found["WARNING gateway.cache: Redis is not well after … s"] == 2
    assert found.total() == 4
