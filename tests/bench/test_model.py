"""Percentiles, medians, and what a run finds again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.model import latency_of, median_measure, percentile, read_results, write_results
from tests.bench.results import measure, run_of, whole_run


def test_a_percentile_is_a_value_that_so_many_do_not_exceed() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 0.999, 1)] == [50, 95, 99, 100, 100]


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.5, 0.95, 0.99, 0.999, 1]))
def test_at_least_the_share_does_not_exceed_a_percentile(values: list[float], share: float) -> None:
    ascending = sorted(values)
    found = percentile(ascending, share)
    assert found in ascending
    assert sum(value <= found for value in ascending) >= share * len(ascending) - 1e-9


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_latencies_are_told_in_milliseconds() -> None:
    latency = latency_of([0.001, 0.002, 0.003])
    assert latency is not None
    assert (latency.p50, latency.maximum) == (2, 3)
    assert latency_of([]) is None


def test_of_the_rounds_the_median_one_is_kept_with_the_errors_of_all() -> None:
    rounds = [measure("gateway", "point", rate, errors=errors) for rate, errors in ((900, 1), (1200, 0), (1000, 2))]
    found = median_measure(rounds)
    assert (found.rate, found.errors) == (1000, 3)


def test_of_two_rounds_the_slower_one_is_kept() -> None:
    assert median_measure([measure("gateway", "point", rate) for rate in (900, 1200)]).rate == 900


def test_a_measure_is_found_on_the_smallest_table_and_never_among_open_loops() -> None:
    results = run_of(
        measure("gateway", "point", 500, rows=1_000_000),
        measure("gateway", "point", 700),
        measure("gateway", "point", 100, offered=100),
    )
    found = results.find("gateway", "point")
    assert found is not None
    assert found.rate == 700
    assert results.find("gateway", "point", connections=1) is None
    assert [each.rate for each in results.open_loop("gateway", "point")] == [100]


def test_a_run_is_read_as_it_was_stored(tmp_path: Path) -> None:
    results = whole_run()
    write_results(tmp_path / "results.json", results)
    assert read_results(tmp_path / "results.json") == results
