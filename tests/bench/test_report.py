"""The report: whole, self-contained, and without what would break it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bench.bars import bars
from bench.compare import Ratio, compare
from bench.model import Threshold
from bench.report import write_report
from bench.report.html import html
from bench.report.markdown import markdown, render
from bench.report.svg import linear_ticks, log_ticks, number
from bench.report.tables import Table
from tests.bench.results import run_of, whole_run


def test_the_page_needs_nothing_from_elsewhere() -> None:
    page = html(whole_run(), bars(whole_run()), None)
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)


def test_every_plot_is_drawn_and_well_formed() -> None:
    results = whole_run()
    plots = re.findall(r"<svg.*?</svg>", html(results, bars(results), None), re.DOTALL)
    assert len(plots) == 8  # throughput, CPU, latency against load, connections of two scenarios, sizes of three
    for plot in plots:
        ElementTree.fromstring(plot)
        assert "nan" not in plot


def test_text_from_outside_is_escaped() -> None:
    page = html(whole_run(), bars(whole_run()), None)
    assert "some &lt;processor&gt;" in page
    assert "a &lt;note&gt;" in page


def test_the_summary_names_bars_thresholds_and_who_was_left_out() -> None:
    results = whole_run()
    text = markdown(results, bars(results), None)
    assert "| point read: requests/s against Fastify + Knex | 3.00 × | ≥ 3 × | holds |" in text
    assert "| mixed | p99 3 ms | holds |" in text
    assert "left out: npm: it is \\| not there" in text
    assert "There is no baseline" in text


def test_the_summary_says_what_got_slower() -> None:
    changes = compare({"gateway/point/10000/32": Ratio(0.2)}, {"gateway/point/10000/32": Ratio(0.3)})
    assert "1 got slower" in markdown(run_of(), [], changes)


def test_a_run_without_measures_has_a_report_too(tmp_path: Path) -> None:
    results = run_of(thresholds=(Threshold("mixed", None, "k6 is not installed"),))
    summary = write_report(tmp_path, results, bars(results), None)
    assert (tmp_path / "report.md").read_text() == summary
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_a_table_without_rows_is_nothing() -> None:
    assert render(Table(("a",), ())) == ""


@pytest.mark.parametrize("high", [0.3, 1, 7, 999, 12_345])
def test_linear_ticks_reach_from_zero_over_the_highest_value(high: float) -> None:
    ticks = linear_ticks(high)
    assert ticks[0] == 0
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 7


@pytest.mark.parametrize(("low", "high"), [(0.4, 2000), (1, 1), (3, 4), (0.0005, 90)])
def test_logarithmic_ticks_enclose_the_values(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert ticks[0] <= max(low, 1e-3) * 1.001
    assert ticks[-1] >= high
    assert len(ticks) >= 2


def test_figures_are_short() -> None:
    assert [number(value) for value in (0.25, 12, 12_345, 5_000_000)] == ["0.25", "12", "12.3k", "5M"]
