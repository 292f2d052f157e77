"""What got slower: ratios to the bare hello, held against stored ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import compare as comparing
from bench.compare import Ratio, compare, ratios_of, read_baseline, write_baseline
from bench.model import write_results
from tests.bench.results import measure, run_of


def test_figures_are_ratios_to_the_hello_of_the_same_run() -> None:
    results = run_of(
        measure("hello", "point", 40_000, cpu=25),
        measure("gateway", "point", 10_000, cpu=100),
        measure("fastify", "point", 4_000),
        measure("gateway", "list", 2_000, errors=3),
        measure("gateway-redis", "mixed", 100, offered=100),
    )
    assert ratios_of(results) == {"gateway/point/10000/32": Ratio(0.25, 4.0)}


def test_without_a_hello_there_are_no_ratios() -> None:
    assert ratios_of(run_of(measure("gateway", "point", 10_000))) == {}


def test_fewer_requests_and_more_cpu_are_slower() -> None:
    changes = compare({"a": Ratio(0.2, 5), "b": Ratio(0.5, 2)}, {"a": Ratio(0.4, 4), "b": Ratio(0.5, 4)}, 0.1)
    said = {(change.what, change.figure): change.line.partition(":")[0] for change in changes}
    assert said == {
        ("a", "requests/s"): "slower",
        ("a", "CPU per request"): "slower",
        ("b", "requests/s"): "as before",
        ("b", "CPU per request"): "faster",
    }
    assert [change.what for change in changes[:2]] == ["a", "a"]


def test_within_the_tolerance_nothing_changed() -> None:
    (change,) = compare({"a": Ratio(0.9)}, {"a": Ratio(1.0)}, 0.15)
    assert not change.beyond


def test_only_what_both_runs_have_is_compared() -> None:
    assert compare({"a": Ratio(1.0)}, {"b": Ratio(1.0)}) == []


def test_a_baseline_keeps_what_a_shorter_run_did_not_measure(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    assert read_baseline(path) is None
    write_baseline(path, {"a": Ratio(1.0, 2.0), "b": Ratio(3.0)})
    write_baseline(path, {"a": Ratio(1.5, 2.5)})
    assert read_baseline(path) == {"a": Ratio(1.5, 2.5), "b": Ratio(3.0)}


@pytest.mark.parametrize(("rate", "code", "said"), [(10_000, 0, "0 slower"), (5_000, 1, "slower: gateway/point/10000/32")])
def test_the_command_says_what_got_slower_and_ends_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rate: float, code: int, said: str
) -> None:
    write_baseline(tmp_path / "baseline.json", {"gateway/point/10000/32": Ratio(0.25)})
    write_results(tmp_path / "results.json", run_of(measure("hello", "point", 40_000), measure("gateway", "point", rate)))
    arguments = ["compare", str(tmp_path / "results.json"), "--baseline", str(tmp_path / "baseline.json")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert comparing.main() == code
    assert said in capsys.readouterr().out
