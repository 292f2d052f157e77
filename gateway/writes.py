"""Creates that are in flight together, written together: one statement and one COMMIT for many requests of one shape.

They queue in lanes, as reads do. Alone, a create runs its own plain statement, at once. Several are one statement, which writes
all of their rows or none; PostgreSQL itself says which row is whose. Where it refuses, nothing was written, and each create runs
its own plain statement: so every fault is its maker's own, in the very words that it would have met alone.

Nobody waits for what another needs. A shared statement gives up after a moment of waiting for somebody's lock, and one that is
slow all the same holds up none that come after it. The more often a lane's statements have to be parted, the fewer creates share
one; where it comes to a few, or where statements are slow, the lane is left for a while.

A shared statement that may have been committed is repeated by nobody: all of its callers are told so.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from gateway.catalog.types import as_text
from gateway.coalesce import Coalescer
from gateway.database.execute import Database, Rows
from gateway.database.sqlstate import Violation
from gateway.errors import DatabaseTimeout, GatewayError, NotSent, OutcomeUnknown, Unavailable
from gateway.events import BatchAnswered, Observer, Timeline, keep_timeline, nobody, timeline
from gateway.query.ast import Values
from gateway.query.compile import LOCK_MILLISECONDS
from gateway.query.statements import MAX_STATEMENTS, WriteStatement

MAX_TOGETHER = 32
"""Creates of one statement at the most: a fault costs all of them a second statement."""
LEAST_TOGETHER = 4
"""Where statements of even so few have to be parted, the lane is left."""
LANE_STATEMENTS = 2
"""Statements of one lane that run at once: one on its way while the other is worked on."""
COMPANY = 2.25
"""Where fewer are in a lane, on average, sharing costs more than it saves: three are 2 on average, as they come, four are 2.5."""
PATIENCE_SECONDS = LOCK_MILLISECONDS / 1000
"""How long a statement keeps those that come after it waiting, for they would like to share the next one."""
SLOW_SECONDS = 0.05
"""A create of a lane takes less than this, by its running average."""
WEIGHT = 0.1
"""Of the newest in an average."""
LEFT_SECONDS = 1.0
"""How long a lane is left, before it is tried anew."""
SPARE_SECONDS = 0.1
"""A create may have waited so long before its statement, and that still ends by itself before the create's own bound does."""

Create = tuple[Values, Timeline, float]
"""A create's values, where it is noted what ran for it, and when it came, by the monotonic clock."""


class Writes:
    """The lanes of one database, found by their statements' SQL."""

    def __init__(self, database: Database, observe: Observer = nobody) -> None:
        self._database = database
        self._observe = observe
        self._lanes: dict[tuple[str, float | None], _Lane] = {}

    async def create(self, statement: WriteStatement, values: Values, timeout_seconds: float | None) -> Rows:
        """What the statement answers to one create. Raises as `Database.fetch` does.

        Who leaves while the create waits in its lane has written nothing; who leaves later may have.
        """
        lane = self._lanes.get((statement.sql, timeout_seconds))
        if lane is None:
            lane = self._open(statement, timeout_seconds)
        return await lane.create(values)

    def _open(self, statement: WriteStatement, timeout_seconds: float | None) -> _Lane:
        if len(self._lanes) >= MAX_STATEMENTS:
            del self._lanes[next(iter(self._lanes))]  # who waits in it holds it until they are answered
        lane = self._lanes[statement.sql, timeout_seconds] = _Lane(self._database, statement, timeout_seconds, self._observe)
        return lane


class _Lane:
    """One shape's queue.

    `_seconds` is what a create takes here, on average. `_inside` are the creates in the lane, `_company` how many each found
    there, itself among them, on average. `_most` is how many share a statement at the most: one that has to be parted halves it,
    and each that is not raises it, by one where it took so many, as TCP sizes its window. With a share p of bad rows it comes to
    about √(2/p), which is near the best: of n together each costs an nth of a statement and, with a chance of np, one of its own.
    """

    def __init__(self, database: Database, statement: WriteStatement, timeout_seconds: float | None, observe: Observer) -> None:
        self._database = database
        self._observe = observe
        self._statement = statement
        self._timeout_seconds = timeout_seconds
        self._inside = 0
        self._company = 1.0
        self._seconds = 0.0
        self._most = float(MAX_TOGETHER)
        self._left_until = 0.0
        self._coalescer: Coalescer[Create, Rows | None] = Coalescer(
            self._write_all,
            max_batch=MAX_TOGETHER,
            max_batches=LANE_STATEMENTS,
            common=(NotSent,),
            sized=self._note_size,
            patience_seconds=PATIENCE_SECONDS,
        )

    async def create(self, values: Values) -> Rows:
        asked = time.monotonic()
        if self._left_until > asked:
            return await self._write_alone(values, asked)
        self._inside += 1
        self._company += WEIGHT * (self._inside - self._company)
        try:
            rows = None
            if self._inside <= LANE_STATEMENTS and self._company < COMPANY:
                self._note_size(1)
            else:
                rows = await self._coalescer.ask((values, timeline(), asked))
            return await self._write_alone(values, asked) if rows is None else rows
        finally:
            self._inside -= 1

    def _note_size(self, size: int) -> None:
        self._observe(BatchAnswered("write", size))

    async def _write_alone(self, values: Values, asked: float) -> Rows:
        started = time.perf_counter()
        statement = self._statement
        try:
            return await self._database.fetch(
                statement.sql, values, self._timeout(asked), writing=True, purpose=statement.purpose
            )
        finally:
            self._note_seconds(time.perf_counter() - started)

    async def _write_all(self, creates: Sequence[Create]) -> Sequence[Rows | None]:
        """The rows of each; None for those that go by themselves, for nothing was written. Runs in a context of its own."""
        if len(creates) == 1:
            values, asker, asked = creates[0]
            keep_timeline(asker)
            return [await self._write_alone(values, asked)]
        shared = Timeline()
        keep_timeline(shared)
        try:
            return await self._write_together([values for values, _, _ in creates], creates[0][2])
        except (Violation, GatewayError) as fault:
            if not _may_be_of_one(fault):
                raise
            self._note_parted()
            return [None] * len(creates)
        finally:
            for _, asker, _ in creates:
                asker.adopt(shared)

    async def _write_together(self, creates: Sequence[Values], asked: float) -> Sequence[Rows]:
        answers: list[Rows] = [[] for _ in creates]
        started = time.perf_counter()
        try:
            rows = await self._database.fetch(
                self._statement.together_sql,
                [as_text(list(column)) for column in zip(*creates, strict=True)],
                self._timeout(asked),
                writing=True,
                purpose=self._statement.purpose,
                batch=len(creates),
            )
        finally:
            self._note_seconds((time.perf_counter() - started) / len(creates))
        for row in rows:
            answers[row[-1] - 1].append(row)
        self._share(min(self._most + len(creates) / self._most, MAX_TOGETHER))
        return answers

    def _note_parted(self) -> None:
        if self._most == LEAST_TOGETHER:
            self._leave()
        self._share(max(self._most / 2, LEAST_TOGETHER))

    def _share(self, most: float) -> None:
        self._most = most
        self._coalescer.max_batch = int(most)

    def _note_seconds(self, seconds: float) -> None:
        """While the lane is left this counts for nothing: many at once take long just because each goes by itself."""
        if self._left_until > time.monotonic():
            return
        self._seconds += WEIGHT * (seconds - self._seconds)
        if self._seconds > SLOW_SECONDS:
            self._leave()

    def _leave(self) -> None:
        self._left_until = time.monotonic() + LEFT_SECONDS
        self._seconds = 0.0

    def _timeout(self, asked: float) -> float | None:
        """What is left of a create's time: after a wait that could be felt, its statement has less of it."""
        waited = time.monotonic() - asked
        if waited < SPARE_SECONDS:
            return self._timeout_seconds
        left = self._database.statement_seconds(self._timeout_seconds) - waited
        if left <= 0:
            raise DatabaseTimeout
        return left


def _may_be_of_one(fault: Violation | GatewayError) -> bool:
    """Whether the server refused a statement, for what may be the fault of one of its rows, or of a lock that one of them needs,
    and so wrote none of them. Where the server itself is in trouble, it would not help to ask it more often."""
    if isinstance(fault, Violation | DatabaseTimeout):
        return True
    state = getattr(fault.__cause__, "sqlstate", None)
    if isinstance(fault, OutcomeUnknown) or not isinstance(state, str):
        return False
    return not isinstance(fault, Unavailable) or state.startswith(("40", "55"))
