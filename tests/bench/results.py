"""A run of the bench as it would have been measured, for tests of what is made of it."""

from __future__ import annotations

from bench.model import Contender, Cpu, Generator, Latency, Measure, Memory, Results, Threshold


def measure(
    contender: str,
    scenario: str,
    rate: float,
    *,
    cpu: float = 100,
    rows: int = 10_000,
    connections: int = 32,
    p99: float = 5,
    errors: int = 0,
    offered: float | None = None,
    cache_hits: float | None = None,
    generator: Generator = "raw",
) -> Measure:
    """A measure of so many requests/s."""
    return Measure(
        contender=contender,
        scenario=scenario,
        rows=rows,
        connections=connections if offered is None else 0,
        generator="k6" if offered is not None else generator,
        seconds=2,
        requests=round(rate * 2),
        errors=errors,
        rate=rate,
        offered=offered,
        latency=Latency(1, 2, p99, p99 * 2, p99 * 3),
        cpu=Cpu(cpu, 20, 10, 15),
        memory=Memory(80, 200, 12),
        cache_hits=cache_hits,
    )


def run_of(*measures: Measure, thresholds: tuple[Threshold, ...] = (), notes: tuple[str, ...] = ()) -> Results:
    """A run with these measures."""
    return Results(
        mode="quick",
        started="2026-11-22T10:00:00Z",
        seconds=120,
        commit="abc1234",
        machine={"processor": "some <processor>", "cores": "2"},
        versions={"Python": "3.11"},
        load=(0.5, 2.0),
        contenders=(
            Contender("gateway", "the gateway", ("token", "rate limit")),
            Contender("platformatic", "Platformatic DB", (), "npm: it is | not there"),
        ),
        measures=measures,
        thresholds=thresholds,
        notes=notes,
    )


def whole_run() -> Results:
    """One with something for every part of the report."""
    closed = [
        measure(contender, scenario, rate, rows=rows, connections=connections, cpu=1e6 / rate)
        for rows in (10_000, 1_000_000)
        for scenario in ("point", "list", "sorted")
        for contender, rate in (("hello", 40_000), ("gateway", 12_000), ("fastify", 4000), ("pgbench", 30_000))
        for connections in (1, 8, 32, 128)
    ]
    mixed = [
        measure(contender, "mixed", rate, offered=rate, p99=p99)
        for contender, p99 in (("gateway-redis", 3), ("fastify-redis", 40))
        for rate in (100, 500, 1000)
    ]
    return run_of(*closed, *mixed, thresholds=(Threshold("mixed", True, "p99 3 ms"),), notes=("a <note>",))
