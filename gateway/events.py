"""What happened, as frozen structs: metrics, logs and whoever else wants to know are made of these and nothing else.

An observer is anything that takes an event. It must not raise and must not wait: it is called where the event happens.

A request has a `Timeline`, which every stage of it notes its time on. It travels by the context, so that no signature between
the route and the database knows of it; what is shared by several requests (a batch) hands its notes on to each of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Literal, TypeAlias

import msgspec

Event: TypeAlias = msgspec.Struct
"""One of the structs of this module."""

BreakerState = Literal["closed", "half_open", "open"]


class BreakerMoved(msgspec.Struct, frozen=True):
    """A circuit breaker has another state. `reason` is the last fault, for operators; empty for "closed"."""

    name: str
    state: BreakerState
    reason: str


class Retried(msgspec.Struct, frozen=True):
    """A statement is run once more. `reason` is a row of `database.retry.KINDS`."""

    reason: str


class PoolLeft(msgspec.Struct, frozen=True):
    """All connections of a pool are given up, for its server takes no writes any more."""

    pool: str


class MigrationsCompared(msgspec.Struct, frozen=True):
    """The database was held against the revision files: how many of them are not applied."""

    behind: int


class Shed(msgspec.Struct, frozen=True):
    """A request was refused, for there is more to do than can be done. `reason`: busy (the database), late (this process)."""

    reason: Literal["busy", "late"]


class Reloaded(msgspec.Struct, frozen=True):
    """A reload is over. What is served is by the files and tables of now, or, where it was refused for `reason`, as before."""

    outcome: Literal["swapped", "unchanged", "refused"]
    reason: str = ""


class IdempotencyReplayed(msgspec.Struct, frozen=True):
    """A write was answered with what was kept of it under its Idempotency-Key."""


Observer = Callable[[Event], None]


def nobody(_event: Event) -> None:
    """An observer that takes no note."""


Handlers = Mapping[type[Event], Callable[..., None]]
"""What one observer does with each type of event that it knows."""


def together(*observers: Handlers) -> Observer:
    """One observer of several tables: an event goes to each that has a row for its type, and costs one look-up."""
    known = {kind for table in observers for kind in table}
    rows = {kind: tuple(table[kind] for table in observers if kind in table) for kind in known}

    def observe(event: Event) -> None:
        for handle in rows.get(type(event), ()):
            handle(event)

    return observe


# --- one request ---------------------------------------------------------------------------------------------------------


class Purpose(msgspec.Struct, frozen=True):
    """What a statement is for: list, get, create, patch, delete, count or other, and the table that it is about."""

    operation: str
    table: str = ""


OTHER = Purpose("other")

CANCELLED = "cancelled"


class StatementRan(msgspec.Struct, frozen=True, gc=False):
    """One statement that came to its end. Times are `perf_counter`'s; `acquired` is None where no connection was had.

    `sql` holds no value of anybody's. `batch` is how many requests it answered. `fault` is empty where it succeeded, else two
    digits of the SQLSTATE, `connection`, `timeout` or `cancelled`.
    """

    purpose: Purpose
    sql: str
    asked: float
    acquired: float | None
    ended: float
    rows: int
    batch: int
    fault: str = ""


Stage = tuple[str, float, float]
"""A stage's name, when it began and when it ended."""


class Trace(msgspec.Struct, frozen=True):
    """Where a request stands in a distributed trace (W3C Trace Context): its own span, and its parent's, 0 where it has none."""

    trace_id: int
    span_id: int
    parent_id: int = 0
    sampled: bool = False
    state: str = ""


class Timeline(msgspec.Struct, eq=False):
    """The stages and statements of one request. A stage may come several times; stages may lie within each other.

    `route` is a template, never a path, and `client` is who asks, for fairness among clients: it is never told. `cache` is hit,
    miss, bypass or empty, `rows` how many the answer shows, None where it is not about rows. `refused` says that
    nothing was tried, for why it would have failed was known.
    """

    request_id: str = ""
    route: str = ""
    trace: Trace | None = None
    client: str = ""
    stages: list[Stage] = []
    statements: list[StatementRan] = []
    cache: str = ""
    refused: bool = False
    rows: int | None = None

    def note(self, stage: str, began: float) -> float:
        """A stage that ends now; gives now, where the next may begin."""
        now = time.perf_counter()
        self.stages.append((stage, began, now))
        return now

    def ran(self, statement: StatementRan) -> None:
        """A statement that ended."""
        self.statements.append(statement)

    def adopt(self, other: Timeline) -> None:
        """Takes over what another noted: a batch's, which belongs to each of its requests."""
        if other.stages:
            self.stages += other.stages
        if other.statements:
            self.statements += other.statements


class _Nobodys(Timeline):
    """The timeline of what no request asked for: keeps nothing, for it never ends."""

    def note(self, _stage: str, _began: float) -> float:
        return time.perf_counter()

    def ran(self, _statement: StatementRan) -> None:
        return

    def adopt(self, _other: Timeline) -> None:
        return


NOBODYS = _Nobodys()

_current: ContextVar[Timeline] = ContextVar("timeline", default=NOBODYS)

timeline = _current.get
"""The timeline of the request that is served here."""
keep_timeline = _current.set
"""Makes a timeline the current one, for this task and those that it starts."""


class RequestEnded(msgspec.Struct, frozen=True, gc=False):
    """A request was answered. `began` and `ended` are `perf_counter`'s, `method` is as it was sent.

    `error_code` is empty where it succeeded.
    """

    method: str
    status: int
    began: float
    ended: float
    subject: str
    error_code: str
    timeline: Timeline


# --- what is shared ------------------------------------------------------------------------------------------------------


class BatchAnswered(msgspec.Struct, frozen=True, gc=False):
    """One call answered `size` questions. `kind` is read, write, cache or limit."""

    kind: str
    size: int


class ReplicaRead(msgspec.Struct, frozen=True, gc=False):
    """A read that a replica might have answered. `outcome` is `replica`, `primary_behind` where none was known to have what the
    read needed, or `primary_down` where none could be asked, or one was and failed."""

    outcome: str
