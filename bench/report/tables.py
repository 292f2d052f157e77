"""The report's tables: a head and rows of cells as text, for HTML and Markdown alike. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench.bars import Bar
from bench.compare import Change
from bench.model import Measure, Results
from bench.scenarios import SCENARIOS

UNKNOWN = "–"
LATENCIES = ("p50 ms", "p95", "p99", "p99.9")
MAX_CHANGES = 12


class Table(msgspec.Struct, frozen=True):
    """`head` and `rows` have the same number of cells; those from `numbers_from` on are numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers_from: int = 1


def verdict(holds: bool | None) -> str:
    """A bar's outcome in a word."""
    return {True: "holds", False: "FAILS", None: UNKNOWN}[holds]


def bars_table(bars: Sequence[Bar]) -> Table:
    """The bars beside the peers."""
    rows = tuple((bar.title, bar.figure, bar.wanted, verdict(bar.holds)) for bar in bars)
    return Table(("what", "measured", "wanted", ""), rows)


def thresholds_table(results: Results) -> Table:
    """What decides the exit code."""
    rows = tuple((each.title, each.detail, verdict(each.held)) for each in results.thresholds)
    return Table(("threshold", "measured", ""), rows, numbers_from=3)


def throughput_table(results: Results, rows: int, connections: int = 32) -> Table:
    """The closed-loop measures on one table at one number of connections."""
    head = ("scenario", "contender", "requests/s", *LATENCIES, "errors", "CPU µs", "database", "Redis", "hits")
    found = [m for m in results.measures if m.offered is None and (m.rows, m.connections) == (rows, connections)]
    return Table(head, tuple(_throughput_row(measure) for measure in found), numbers_from=2)


def _throughput_row(measure: Measure) -> tuple[str, ...]:
    cpu = measure.cpu
    return (
        measure.scenario,
        measure.contender,
        f"{measure.rate:,.0f}",
        *_latencies(measure),
        str(measure.errors),
        _number(cpu.contender if cpu and measure.generator == "raw" else None),
        _number(cpu.postgres if cpu else None),
        _number(cpu.valkey if cpu else None),
        UNKNOWN if measure.cache_hits is None else f"{measure.cache_hits:.0%}",
    )


def open_loop_table(results: Results) -> Table:
    """k6's measures."""
    head = ("scenario", "contender", "offered/s", "answered/s", *LATENCIES, "errors", "dropped", "hits")
    found = [measure for measure in results.measures if measure.offered is not None]
    rows = tuple(
        (
            measure.scenario,
            measure.contender,
            f"{measure.offered:,.0f}",
            f"{measure.rate:,.0f}",
            *_latencies(measure),
            str(measure.errors),
            str(measure.dropped),
            UNKNOWN if measure.cache_hits is None else f"{measure.cache_hits:.0%}",
        )
        for measure in sorted(found, key=lambda measure: (measure.scenario, measure.contender, measure.offered or 0))
    )
    return Table(head, rows, numbers_from=2)


def resources_table(results: Results) -> Table:
    """Memory and connections at 32 connections of load, on the smallest table."""
    head = ("contender", "scenario", "memory MiB", "database MiB", "Redis MiB", "pool open", "pool busy", "load's CPU µs")
    smallest = min(results.sizes, default=0)
    found = [m for m in results.measures if (m.rows, m.connections) == (smallest, 32) and m.memory is not None]
    rows = tuple(
        (
            measure.contender,
            measure.scenario,
            *(_number(getattr(measure.memory, name)) for name in ("contender", "postgres", "valkey")),
            *((str(measure.pool.open), str(measure.pool.busy)) if measure.pool else (UNKNOWN, UNKNOWN)),
            _number(measure.cpu.generator if measure.cpu else None),
        )
        for measure in found
    )
    return Table(head, rows, numbers_from=2)


def contenders_table(results: Results) -> Table:
    """Who took part, and which features were seen at work."""
    rows = tuple(
        (each.name, each.title, f"left out: {each.left_out}" if each.left_out else ", ".join(each.features) or UNKNOWN)
        for each in results.contenders
    )
    return Table(("contender", "what it is", "features seen"), rows, numbers_from=3)


def surroundings_table(results: Results) -> Table:
    """Machine, versions, commit."""
    facts = {
        "started": results.started,
        "took": f"{results.seconds:.0f} s, {results.mode} run",
        "commit": results.commit,
        **results.machine,
        "load average": f"{results.load[0]:g} before, {results.load[1]:g} after",
        "versions": ", ".join(f"{name} {version}" for name, version in results.versions.items()),
    }
    return Table(("", ""), tuple(facts.items()), numbers_from=2)


def changes_lines(changes: Sequence[Change] | None) -> list[str]:
    """What got slower or faster since the baseline."""
    if changes is None:
        return ["There is no baseline to compare with."]
    beyond = [change for change in changes if change.beyond]
    slower = sum(change.worse for change in beyond)
    head = f"{len(changes)} figures compared with the baseline, as ratios to the bare hello: {slower} got slower, "
    head += f"{len(beyond) - slower} faster."
    return [head, *(change.line for change in beyond[:MAX_CHANGES])]


def scenario_title(name: str) -> str:
    """A scenario in words."""
    return SCENARIOS[name].title if name in SCENARIOS else name


def _latencies(measure: Measure) -> tuple[str, ...]:
    found = measure.latency
    if found is None:
        return (UNKNOWN,) * 4
    return tuple(f"{value:.2f}" if value < 10 else f"{value:.0f}" for value in (found.p50, found.p95, found.p99, found.p999))


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"
