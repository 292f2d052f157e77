"""Reads that are in flight together, answered together: one statement for many requests of one shape.

Requests of a shape queue in a lane. While two statements of the lane run, those that come gather, and the next statement takes
them all: equal ones once, different ones as rows of `unnest … LATERAL`. Alone, a request runs its own plain statement, at once.
Every answer is read after its request came, for a statement that runs takes nobody in.

Lanes are for shapes whose runs are short. A shape that turns out slow leaves its lane until it is quick again, so that a slow
request holds up nobody: its statements then run side by side, as far as the pool goes.

And they are for shapes that cost no more together. A plain statement is planned for its values where that pays; a statement of
many has them in a table, and is planned for any. Where values are uneven (most orders are "done", few are "failed") that may be
a much worse plan. So a lane remembers what a request takes by itself and what it takes in a batch, and where batches are dearer
its requests run by themselves for a while.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Hashable, Sequence

import msgspec

from gateway.catalog.types import as_text
from gateway.coalesce import Coalescer, Waiter
from gateway.database.execute import Database, Rows
from gateway.database.replicas import Need, Replicas
from gateway.database.sqlstate import Violation
from gateway.errors import InternalError, NotSent, Unavailable
from gateway.events import BatchAnswered, Observer, Timeline, keep_timeline, nobody, timeline
from gateway.query.ast import Values
from gateway.query.statements import MAX_STATEMENTS, ReadStatement

SLOW_SECONDS = 0.02
"""A request of a lane takes less than this, by its running average; PostgreSQL runs a batch's requests one after another."""
WEIGHT = 0.1
"""Of the newest run in the average."""
LANE_STATEMENTS = 2
"""Statements of one lane that run at once: one on its way while the other is worked on."""
DEARER = 1.5
"""By this much a request takes longer in a batch than by itself where batches are given up for a while."""
WORTH_SECONDS = 0.001
"""What a request takes less than is better shared in any case: the trip costs more than the plan."""
APART_SECONDS = 5.0
"""How long requests then run by themselves, before batches are tried again."""


Question = tuple[Values, Timeline]
"""A request's values, and where it is noted what ran for it."""


class Reads:
    """The lanes of one database, found by their statements' SQL."""

    def __init__(self, database: Database, observe: Observer = nobody) -> None:
        self._database = database
        self._observe = observe
        self._lanes: dict[tuple[str, float | None], _Lane] = {}

    async def fetch(
        self,
        statement: ReadStatement,
        values: Values,
        timeout_seconds: float | None,
        max_batch: int,
        _need: Need | None = None,
    ) -> Rows:
        """The rows of one request; not to be changed, for others may have got the same. Raises as `Database.fetch` does.

        What a read may need is for a `Fleet`: one database has it all.
        """
        lane = self._lanes.get((statement.sql, timeout_seconds))
        if lane is None:
            lane = self._open(statement, timeout_seconds, max_batch)
        if lane.is_apart():
            return await lane.fetch_apart(values)
        return await lane.coalescer.ask((values, timeline()))

    def enqueue(
        self,
        statement: ReadStatement,
        values: Values,
        timeout_seconds: float | None,
        max_batch: int,
        waiter: Waiter[Rows],
        noted: Timeline,
    ) -> bool:
        """As `fetch`, for who is no task: `waiter` is told the rows. False, and nothing is done, for a shape that runs apart."""
        lane = self._lanes.get((statement.sql, timeout_seconds))
        if lane is None:
            lane = self._open(statement, timeout_seconds, max_batch)
        if lane.is_apart():
            return False
        lane.coalescer.enqueue((values, noted), waiter)
        return True

    def _open(self, statement: ReadStatement, timeout_seconds: float | None, max_batch: int) -> _Lane:
        if len(self._lanes) >= MAX_STATEMENTS:
            del self._lanes[next(iter(self._lanes))]  # who waits in it holds it until they are answered
        lane = _Lane(self._database, statement, timeout_seconds, max_batch, self._observe)
        self._lanes[statement.sql, timeout_seconds] = lane
        return lane


class Fleet:
    """Reads of a primary and its replicas. What shares a statement is bound for the same server."""

    def __init__(self, database: Database, replicas: Replicas, observe: Observer = nobody) -> None:
        self._replicas = replicas
        self._primary = Reads(database, observe)
        self._reads = {replica.name: Reads(replica.database, observe) for replica in replicas.all}

    def fetch(
        self,
        statement: ReadStatement,
        values: Values,
        timeout_seconds: float | None,
        max_batch: int,
        need: Need | None = None,
    ) -> Awaitable[Rows]:
        """As `Reads.fetch`, from a replica that has what `need` names, or the primary; from the primary where it is None."""
        if need is None:
            return self._primary.fetch(statement, values, timeout_seconds, max_batch)
        return self._fetch(statement, values, timeout_seconds, max_batch, need)

    async def _fetch(
        self, statement: ReadStatement, values: Values, timeout_seconds: float | None, max_batch: int, need: Need
    ) -> Rows:
        replica = self._replicas.choose(need)
        if replica is not None:
            run = replica.run
            try:
                rows = await self._reads[replica.name].fetch(statement, values, timeout_seconds, max_batch)
            except (Unavailable, InternalError):
                self._replicas.failed(replica)
            else:
                if replica.run == run:  # another server may have come to stand there while this waited
                    self._replicas.answered(replica)
                    return rows
        return await self._primary.fetch(statement, values, timeout_seconds, max_batch)


class _Lane:
    """One shape's queue. `seconds` is what a request of it takes, on average."""

    def __init__(
        self,
        database: Database,
        statement: ReadStatement,
        timeout_seconds: float | None,
        max_batch: int,
        observe: Observer,
    ) -> None:
        self._database = database
        self._statement = statement
        self._timeout_seconds = timeout_seconds
        self.seconds = 0.0
        self._alone = self._together = 0.0
        self._apart_until = 0.0
        self._apart = 0
        self.coalescer: Coalescer[Question, Rows] = Coalescer(
            self._fetch_all,
            max_batch=max_batch,
            max_batches=LANE_STATEMENTS,
            isolate=(Violation,),
            common=(NotSent,),
            sized=lambda size: observe(BatchAnswered("read", size)),
        )

    def is_apart(self) -> bool:
        """Whether requests run by themselves now, side by side."""
        return self.seconds > SLOW_SECONDS or (self._apart_until > 0 and time.monotonic() < self._apart_until)

    async def fetch_apart(self, values: Values) -> Rows:
        """The rows of one request, beside others."""
        self._apart += 1
        try:
            return await self.fetch_alone(values)
        finally:
            self._apart -= 1

    async def fetch_alone(self, values: Values, batch: int = 1) -> Rows:
        """The rows of one request, or of `batch` equal ones, by its plain statement."""
        started = time.perf_counter()
        statement = self._statement
        try:
            return await self._database.fetch(
                statement.sql, values, self._timeout_seconds, purpose=statement.purpose, batch=batch
            )
        finally:
            seconds = time.perf_counter() - started
            self._note(seconds)
            if self._apart <= 1:  # of many side by side each takes as long as it waits for the others
                self._alone = _average(self._alone or seconds, seconds)

    async def _fetch_all(self, questions: Sequence[Question]) -> Sequence[Rows]:
        """Runs in a context of its own. Whoever asked, alone or with others, has the statement on their timeline."""
        if len(questions) == 1:
            values, asker = questions[0]
            keep_timeline(asker)
            return [await self.fetch_alone(values)]
        shared = Timeline()
        keep_timeline(shared)
        try:
            return await self._fetch_together([values for values, _ in questions])
        finally:
            for _, asker in questions:
                asker.adopt(shared)

    async def _fetch_together(self, questions: Sequence[Values]) -> Sequence[Rows]:
        identities = _identities(questions)
        distinct = dict(zip(identities, questions, strict=True))
        if len(distinct) == 1:
            return [await self.fetch_alone(questions[0], len(questions))] * len(questions)
        answers: list[Rows] = [[] for _ in distinct]
        started = time.perf_counter()
        try:
            columns = [as_text(list(column)) for column in zip(*distinct.values(), strict=True)]
            for row in await self._database.fetch(
                self._statement.batch_sql,
                columns,
                self._timeout_seconds,
                purpose=self._statement.purpose,
                batch=len(questions),
            ):
                answers[row[-1] - 1].append(row)
        finally:
            seconds = (time.perf_counter() - started) / len(distinct)
            self._note(seconds)
            self._compare(seconds)
        if len(distinct) == len(questions):
            return answers
        numbers = {identity: number for number, identity in enumerate(distinct)}
        return [answers[numbers[identity]] for identity in identities]

    def _note(self, seconds: float) -> None:
        self.seconds = _average(self.seconds, seconds)

    def _compare(self, seconds: float) -> None:
        """Gives up batches for a while where a request takes clearly longer in them. It takes several to say so."""
        self._together = _average(self._together, seconds)
        if self._alone and self._together > max(DEARER * self._alone, WORTH_SECONDS):
            self._apart_until = time.monotonic() + APART_SECONDS
            self._together = 0.0


def _average(before: float, seconds: float) -> float:
    return before + WEIGHT * (seconds - before)


_encode = msgspec.msgpack.Encoder().encode


def _identities(questions: Sequence[Values]) -> Sequence[Hashable]:
    """Equal for equal values of one shape, and for those alone: 1 and True are equal to Python, but no shape mixes them."""
    try:
        hash((*questions,))
    except TypeError:
        return [_encode(values) for values in questions]
    return questions
