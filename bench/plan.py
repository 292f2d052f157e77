"""What a run does, in order: a list of steps for each mode. Pure.

A step is one contender under one load. Rounds of the same step come apart, with the other contenders between them, so that a
machine whose speed drifts shifts all of them alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

import msgspec

from bench.model import Generator, Mode

BASE_ROWS = 10_000
MAIN_CONNECTIONS = 32
OTHER_CONNECTIONS = (1, 8, 128)
LARGE_TABLES = (1_000_000, 5_000_000)
MIXED_RATES = (100, 500, 1000)
SCENARIO_RATE = 200
"""Requests/s of the open-loop runs of a single scenario: far from any limit, so that latency is what shows."""

WARMUP_SECONDS = 0.5
"""Before each measure."""
WARMING_SECONDS = 0.5
"""Of each scenario, with the warm-up once more, before the first measure of a contender that compiles as it runs."""
STEP_OVERHEAD_SECONDS = 0.35
K6_OVERHEAD_SECONDS = 2.0
"""Its start, and the second for which it warms up."""

CONTENDERS_OF: dict[str, tuple[str, ...]] = {
    "point": ("hello", "gateway", "fastify", "platformatic", "pgbench"),
    "list": ("gateway", "fastify", "platformatic", "pgbench"),
    "sorted": ("gateway", "fastify", "platformatic"),
    "create": ("gateway", "fastify", "platformatic"),
    "patch": ("gateway", "fastify"),
    "cached": ("gateway-redis", "gateway-memory", "fastify-redis"),
}
COMPILES_AS_IT_RUNS = ("fastify", "fastify-redis", "platformatic")
"""JavaScript is slow until it was compiled, so these run before they are measured."""
OURS = ("gateway", "gateway-redis", "gateway-memory")


class Step(msgspec.Struct, frozen=True):
    """`offered` is for open loops (k6), where `connections` is 0."""

    scenario: str
    contender: str
    rows: int
    connections: int
    seconds: float
    generator: Generator = "raw"
    offered: float | None = None

    @property
    def expected_seconds(self) -> float:
        """With what surrounds the measured time."""
        if self.generator == "k6":
            return self.seconds + K6_OVERHEAD_SECONDS
        return self.seconds + WARMUP_SECONDS + STEP_OVERHEAD_SECONDS


class Pace(msgspec.Struct, frozen=True):
    """How long and how often a mode measures; `connections_of` are the scenarios at other numbers of connections."""

    seconds: float
    rounds: int
    k6_seconds: float
    search_seconds: float
    search_factor: float
    large_tables: tuple[int, ...]
    connections_of: tuple[str, ...]
    single_scenarios: bool


PACES: dict[Mode, Pace] = {
    "quick": Pace(1.2, 1, 3, 2, 2.0, (), ("point",), False),
    "full": Pace(3, 2, 10, 4, 1.5, LARGE_TABLES, ("point", "list"), True),
}


def closed_loop_steps(mode: Mode) -> list[Step]:
    """On the small table: every scenario at 32 connections in rounds, then reads at other numbers of connections.

    The hello, to which the baseline's ratios are, stands at both ends.
    """
    pace = PACES[mode]
    steps = [
        Step(scenario, contender, BASE_ROWS, MAIN_CONNECTIONS, pace.seconds, _generator(contender))
        for scenario, contenders in CONTENDERS_OF.items()
        for _ in range(pace.rounds)
        for contender in contenders
    ]
    steps += [
        Step(scenario, contender, BASE_ROWS, connections, pace.seconds)
        for scenario in pace.connections_of
        for connections in OTHER_CONNECTIONS
        for contender in ("gateway", "fastify")
    ]
    return [*steps, Step("point", "hello", BASE_ROWS, MAIN_CONNECTIONS, pace.seconds), *_lone_steps(pace)]


def _lone_steps(pace: Pace) -> Iterator[Step]:
    """A lone client's point reads, and the same statement without a gateway, one after the other."""
    yield Step("point", "asyncpg", BASE_ROWS, 1, max(pace.seconds, 2), "asyncpg")
    yield Step("point", "gateway", BASE_ROWS, 1, max(pace.seconds, 2))


def takes(contender: str, scenario: str) -> bool:
    """Whether a contender is measured in a scenario, with its cache on or off."""
    return not {contender, contender.partition("-")[0]}.isdisjoint(CONTENDERS_OF[scenario])


def large_table_steps(mode: Mode, rows: int) -> list[Step]:
    """The reads on a larger table."""
    contenders = ("gateway", "fastify", "pgbench")
    return [
        Step(scenario, contender, rows, MAIN_CONNECTIONS, PACES[mode].seconds, _generator(contender))
        for scenario in ("point", "list", "sorted")
        for contender in contenders
        if contender in CONTENDERS_OF[scenario]
    ]


def warming_steps(writable: bool) -> list[Step]:
    """What is run and forgotten before the rest."""
    scenarios = ("point", "list", "sorted", *(("create", "patch") if writable else ()))
    return [
        Step(scenario, contender, BASE_ROWS, MAIN_CONNECTIONS, WARMING_SECONDS)
        for contender in COMPILES_AS_IT_RUNS
        for scenario in scenarios
        if takes(contender, scenario)
    ]


def open_loop_steps(mode: Mode) -> list[Step]:
    """k6: single scenarios at a low rate (in a full run), then the mixed load at each rate."""
    pace = PACES[mode]
    steps = []
    if pace.single_scenarios:
        steps = [
            Step(scenario, contender, BASE_ROWS, 0, pace.search_seconds, "k6", SCENARIO_RATE)
            for scenario in ("point", "list", "sorted", "create", "patch")
            for contender in ("gateway", "fastify")
        ]
    return steps + [
        Step("mixed", contender, BASE_ROWS, 0, pace.k6_seconds, "k6", rate)
        for rate in MIXED_RATES
        for contender in ("gateway-redis", "fastify-redis")
    ]


def search_rates(mode: Mode) -> Iterator[float]:
    """The rates of a saturation search, ever greater; who takes them decides when it is enough."""
    rate = MIXED_RATES[-1] * PACES[mode].search_factor
    while True:
        yield round(rate, -1)
        rate *= PACES[mode].search_factor


def without(steps: Sequence[Step], names: Set[str]) -> list[Step]:
    """The steps of other contenders than these."""
    return [step for step in steps if step.contender not in names]


def _generator(contender: str) -> Generator:
    return "pgbench" if contender == "pgbench" else "raw"
