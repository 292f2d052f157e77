"""What a run of the bench records: measures, contenders, and the run itself, as they are stored in JSON.

Latencies are milliseconds, CPU is microseconds per request, memory is MiB. None stands for "not known".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

Mode = Literal["quick", "full"]
Generator = Literal["raw", "k6", "pgbench", "asyncpg"]


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds from a request's start to the end of its answer."""

    p50: float
    p95: float
    p99: float
    p999: float
    maximum: float


class Cpu(msgspec.Struct, frozen=True):
    """Microseconds per request: of the contender's process with its children, of all of PostgreSQL's, of Valkey, of the load."""

    contender: float
    postgres: float
    valkey: float
    generator: float


class Memory(msgspec.Struct, frozen=True):
    """MiB after the measure: of the contender resident, of PostgreSQL's processes without what they share twice, of Valkey."""

    contender: float
    postgres: float
    valkey: float


class Pool(msgspec.Struct, frozen=True):
    """A contender's connections to the database, sampled during the measure: the most that were open, the most at work."""

    open: int
    busy: int


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """One contender under one load. `offered` is requests/s of an open loop, else None; `connections` is 0 for an open loop.

    `dropped` are requests that an open loop could not even start in time.
    """

    contender: str
    scenario: str
    rows: int
    connections: int
    generator: Generator
    seconds: float
    requests: int
    errors: int
    rate: float
    offered: float | None = None
    dropped: int = 0
    latency: Latency | None = None
    cpu: Cpu | None = None
    memory: Memory | None = None
    pool: Pool | None = None
    cache_hits: float | None = None
    first_error: str = ""

    @property
    def key(self) -> tuple[str, str, int, int, float | None]:
        """What tells measures of one run apart."""
        return self.contender, self.scenario, self.rows, self.connections, self.offered


class Contender(msgspec.Struct, frozen=True):
    """Who was measured, with the features that were seen at work; `left_out` says why one was not measured."""

    name: str
    title: str
    features: tuple[str, ...] = ()
    left_out: str = ""


class Threshold(msgspec.Struct, frozen=True):
    """A bar that decides the exit code. `held` None: it could not be measured."""

    title: str
    held: bool | None
    detail: str


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run. `started` is UTC in RFC 3339, `load` the load averages of a minute before and after."""

    mode: Mode
    started: str
    seconds: float
    commit: str
    machine: dict[str, str]
    versions: dict[str, str]
    load: tuple[float, float]
    contenders: tuple[Contender, ...]
    measures: tuple[Measure, ...]
    thresholds: tuple[Threshold, ...] = ()
    notes: tuple[str, ...] = ()

    def find(self, contender: str, scenario: str, rows: int | None = None, connections: int = 32) -> Measure | None:
        """The closed-loop measure of that kind; `rows` None is the smallest table's."""
        found = [
            measure
            for measure in self.measures
            if (measure.contender, measure.scenario, measure.connections) == (contender, scenario, connections)
            and measure.offered is None
            and rows in (None, measure.rows)
        ]
        return min(found, key=lambda measure: measure.rows, default=None)

    def open_loop(self, contender: str, scenario: str) -> list[Measure]:
        """The open-loop measures of a contender, by the load that was offered."""
        found = [m for m in self.measures if (m.contender, m.scenario) == (contender, scenario) and m.offered is not None]
        return sorted(found, key=lambda measure: measure.offered or 0)

    @property
    def sizes(self) -> list[int]:
        """The tables' sizes in rows, ascending."""
        return sorted({measure.rows for measure in self.measures})


def percentile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed (nearest rank). Raises ValueError for no values."""
    if not ascending:
        raise ValueError("no values")
    rank = -(-len(ascending) * round(share * 1000) // 1000)
    return ascending[max(rank, 1) - 1]


def latency_of(seconds: Iterable[float]) -> Latency | None:
    """The percentiles of latencies given in seconds; None for none."""
    ascending = sorted(seconds)
    if not ascending:
        return None
    values = [percentile(ascending, share) * 1000 for share in (0.5, 0.95, 0.99, 0.999, 1)]
    return Latency(*values)


def median_measure(rounds: Sequence[Measure]) -> Measure:
    """The round with the median rate (the lower of two in the middle), with the errors of all. Raises ValueError for none."""
    if not rounds:
        raise ValueError("no rounds")
    chosen = sorted(rounds, key=lambda measure: measure.rate)[(len(rounds) - 1) // 2]
    first = next((measure.first_error for measure in rounds if measure.first_error), "")
    return msgspec.structs.replace(chosen, errors=sum(measure.errors for measure in rounds), first_error=first)


def read_results(path: Path) -> Results:
    """The run stored in `path`. Raises OSError, msgspec.MsgspecError."""
    return msgspec.json.decode(path.read_bytes(), type=Results)


def write_results(path: Path, results: Results) -> None:
    """Stores a run, to be read by `read_results`."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
