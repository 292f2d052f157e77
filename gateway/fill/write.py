"""A plan in, rows in the table out: COPY into a temporary table, then one INSERT that takes what every constraint allows.

PostgreSQL itself judges each candidate: every CHECK, domain and partition bound is evaluated over it, and what would repeat a
unique key is passed over. So nothing depends on how well the constraints were understood, apart from speed. Measured, the
detour costs a third over COPY into the table itself, and the server works on one batch while this process draws the next.
"""

# ruff: noqa: S608 - every name is quoted, and every expression is PostgreSQL's own

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

import asyncpg
import msgspec

from gateway.errors import ConfigurationError
from gateway.fill.clauses import Clause, clauses_of, literal, not_there
from gateway.fill.facts import Unique, quote
from gateway.fill.keys import SAMPLE_SIZE, KeyPool
from gateway.fill.plan import CasePlan, Source, draw_rows, plan_table

BATCH_ROWS = 10_000
_PROBE_ROWS = 2_000
_LEAST_PROBE_ROWS = 100
_BARREN_BATCHES = 15
_FIRST_OWN_ROWS = 16
_HOPELESS_ROWS = 20
_CANDIDATES = "gateway_candidates"
_STATUS_COUNT = re.compile(r"INSERT 0 (\d+)")


class Tally(msgspec.Struct, frozen=True):
    """How a clause fares: candidates in `total`, those `passing`, those with all its columns `present`, and both at once."""

    total: int = 0
    passing: int = 0
    present: int = 0
    passing_present: int = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether the clause takes nothing but NULL."""
        return not self.passing_present and (self.present > _HOPELESS_ROWS or not self.passing)

    def plus(self, other: Tally) -> Tally:
        """Both tallies as one."""
        return Tally(
            self.total + other.total,
            self.passing + other.passing,
            self.present + other.present,
            self.passing_present + other.passing_present,
        )


class Written(msgspec.Struct, frozen=True):
    """How many rows there are now that were not before, and what could not be satisfied, in sentences."""

    rows: int
    unsatisfied: tuple[str, ...]


async def write_rows(connection: Any, source: Source, exact: bool, progress: Callable[[int, int], None]) -> Written:
    """Fills the table within the caller's transaction. Raises ConfigurationError where not one row can be written.

    Where `exact` is false, fewer rows than asked will do if the table's unique keys allow no more.
    """
    writer = _Writer(connection, source, progress)
    return await writer.run(exact)


class _Writer:
    """The steps of one filling, and what they count."""

    def __init__(self, connection: Any, source: Source, progress: Callable[[int, int], None]) -> None:
        self._connection = connection
        self._source = source
        self._progress = progress
        self._facts = source.facts
        self._notes: list[str] = []
        self._plan = plan_table(source)
        self._clauses: tuple[Clause, ...] = ()
        self._target = source.rows
        self._candidates = source.existing
        self._written = 0
        self._batch = 0
        self._is_crowded = False  # rows were refused: look for their keys before LIMIT, for ON CONFLICT comes after it

    async def run(self, exact: bool) -> Written:
        self._bound_target(exact)
        if self._target == 0:
            return Written(0, tuple(self._notes))
        await self._create_candidates()
        await self._advance_sequences()
        self._clauses = clauses_of(self._facts, self._plan, self._source.bounds)
        await self._probe()
        await self._write_root()
        await self._write_all()
        if not self._written:
            raise ConfigurationError(self._all_repeat())
        if self._written < self._target:
            self._notes.append(await self._shortage())
        return Written(self._written, tuple(self._notes))

    def _bound_target(self, exact: bool) -> None:
        for name, capacity in self._plan.capacities.items():
            room = max(0, capacity - self._source.existing)
            if room >= self._target:
                continue
            columns = next(unique.columns for unique in self._facts.uniques if unique.name == name)
            sentence = (
                f"{name} allows at most {capacity} rows, for there are no more values of {', '.join(columns)}; "
                f"the table has {self._source.existing}"
            )
            if exact:
                raise ConfigurationError(f"{self._facts.table.name}: {sentence}, so {self._source.rows} more do not fit")
            self._notes.append(sentence)
            self._target = room

    async def _create_candidates(self) -> None:
        columns = ", ".join(f"{quote(column.name)} {column.type.sql}" for column in self._plan.columns)
        await self._connection.execute(f"CREATE TEMPORARY TABLE {_CANDIDATES} ({columns}) ON COMMIT DROP")

    async def _advance_sequences(self) -> None:
        """A sequence that is behind the keys that were written by hand would repeat them all, one by one."""
        for column in self._facts.columns:
            if column.sequence and column.name in self._plan.left:
                await self._connection.execute(
                    f"SELECT setval({literal(column.sequence)}::regclass, greatest) FROM "
                    f"(SELECT max({quote(column.name)}) AS greatest "
                    f"FROM {self._facts.sql_name}) m, {column.sequence} s WHERE greatest > s.last_value AND greatest > 0"
                )

    # --- before: which cases work at all ---

    async def _probe(self) -> None:
        """Drops the cases that PostgreSQL never takes; columns that no value fits become NULL where they may."""
        kept, tallies = await self._working_cases()
        hopeless = [clause for clause in self._clauses if tallies[clause.label].is_hopeless and self._optional(clause)]
        nulled = {name for clause in hopeless for name in self._optional(clause)} - self._source.nulled
        if nulled:
            first = self._source, self._plan
            self._source = msgspec.structs.replace(self._source, nulled=self._source.nulled | nulled)
            self._plan = plan_table(self._source)
            kept_with_nulls, tallies_with_nulls = await self._working_cases()
            if kept_with_nulls:
                kept = kept_with_nulls
                self._notes += [_left_null(clause, nulled) for clause in hopeless]
            else:
                self._source, self._plan = first
                tallies = tallies if kept else tallies_with_nulls
        if not kept:
            raise ConfigurationError(self._nothing_fits(tallies))
        self._plan = msgspec.structs.replace(self._plan, cases=tuple(kept))

    def _optional(self, clause: Clause) -> list[str]:
        return [
            column.name
            for column in self._plan.columns
            if column.name in clause.columns and not column.not_null and not column.type.not_null
        ]

    async def _working_cases(self) -> tuple[list[CasePlan], dict[str, Tally]]:
        """The cases of which PostgreSQL takes some rows, and how each clause fared over all."""
        kept: list[CasePlan] = []
        tallies = {clause.label: Tally() for clause in self._clauses}
        share = max(_LEAST_PROBE_ROWS, _PROBE_ROWS // len(self._plan.cases))
        for place, case in enumerate(self._plan.cases):
            await self._copy(draw_rows(case, self._names, self._random(f"probe {place}"), self._candidates, share))
            (taken,) = await self._count([self._condition])
            if taken:
                kept.append(case)
            for label, tally in (await self._tallied()).items():
                tallies[label] = tallies[label].plus(tally)
        return kept, tallies

    async def _tallied(self) -> dict[str, Tally]:
        """How each clause fares over the candidates at hand."""
        present = [" AND ".join(f"{quote(name)} IS NOT NULL" for name in clause.columns) or "true" for clause in self._clauses]
        conditions = [
            condition
            for clause, whole in zip(self._clauses, present, strict=True)
            for condition in (clause.sql, whole, f"({clause.sql}) AND {whole}")
        ]
        total, *counts = await self._count(["true", *conditions])
        return {clause.label: Tally(total, *counts[3 * place : 3 * place + 3]) for place, clause in enumerate(self._clauses)}

    async def _count(self, conditions: Sequence[str]) -> list[int]:
        """How many candidates satisfy each condition; none where PostgreSQL fails to evaluate it."""
        counts = ", ".join(f"count(*) FILTER (WHERE {condition})" for condition in conditions)
        try:
            async with self._connection.transaction():
                return list(await self._connection.fetchrow(f"SELECT {counts} FROM {self._rows()}"))
        except asyncpg.DataError:
            return [0] if len(conditions) == 1 else [(await self._count([condition]))[0] for condition in conditions]

    def _nothing_fits(self, tallies: Mapping[str, Tally]) -> str:
        failed = [label for label, tally in tallies.items() if not tally.passing]
        rare = [label for label, tally in tallies.items() if tally.passing * 10 < tally.total * 9]
        cause = "; ".join(failed) or f"all of {'; '.join(rare or tallies)}"
        return f"{self._facts.table.name}: no row was found that satisfies {cause}; nothing was written"

    def _all_repeat(self) -> str:
        return f"{self._facts.table.name}: every row made repeats one there is, by {self._unique_names()}; nothing was written"

    def _unique_names(self) -> str:
        return ", ".join([*(unique.name for unique in self._facts.uniques), *self._facts.exclusions])

    async def _shortage(self) -> str:
        tallies = await self._tallied()
        rare = [label for label, tally in tallies.items() if tally.passing * 50 < tally.total]
        cause = "; ".join(rare) or self._unique_names() or "the table's constraints"
        return f"{cause}: only {self._written} of {self._target} rows could be made to satisfy it"

    # --- writing ---

    async def _write_root(self) -> None:
        """The first row of a table whose rows must refer to a row of the same table: it refers to itself."""
        pools = [pool for pool in self._source.pools if pool.is_self and not pool.size and self._must_refer(pool)]
        if not pools:
            return
        made: dict[str, str] = {}
        derived: dict[str, str] = {}
        for pool in pools:
            for column, referred in zip(pool.foreign_key.columns, pool.foreign_key.referred, strict=True):
                if referred in self._plan.left:
                    sequence = next(facts.sequence for facts in self._facts.columns if facts.name == referred)
                    if not sequence:
                        raise ConfigurationError(
                            f"{pool.foreign_key.name}: the first row cannot refer to itself; nothing was written"
                        )
                    made[referred] = f"nextval({literal(sequence)}::regclass)"
                derived[column] = quote(referred)
        await self._copy(draw_rows(self._plan.cases[0], self._names, self._random("root"), self._candidates, _LEAST_PROBE_ROWS))
        inserted = _inserted(await self._connection.execute(self._insert(1, made, derived)))
        self._candidates += _LEAST_PROBE_ROWS
        self._written += inserted
        for pool in pools:
            await pool.load(self._connection)
        await self._replan()

    def _must_refer(self, pool: KeyPool) -> bool:
        return any(column.name in pool.foreign_key.columns and column.not_null for column in self._plan.columns)

    async def _write_all(self) -> None:
        barren, rate = 0, 1.0
        lines: list[str] | None = None
        while self._written < self._target and barren < _BARREN_BATCHES:
            count = self._size(self._target - self._written, rate)
            lines = await self._next_lines(count) if lines is None else lines
            candidates = len(lines)
            await self._copy(lines)
            rest = self._target - self._written - round(candidates * rate)
            draws_ahead = rest > 0 and not self._waits_for_keys()
            insertion = self._connection.execute(self._insert(self._target - self._written))
            status, lines = await _meanwhile(insertion, partial(self._draw, self._size(rest, rate)) if draws_ahead else _nothing)
            inserted = _inserted(status)
            self._is_crowded |= inserted < min(candidates, self._target - self._written)
            self._written += inserted
            rate = max(0.01, inserted / candidates)
            barren = 0 if inserted * 500 > candidates else barren + 1
            self._progress(self._written, self._target)
            await self._refresh_own_keys()

    def _size(self, rows: int, rate: float) -> int:
        """How many candidates to draw for so many rows. A table that refers to itself grows by doubling, so that it has depth."""
        most = BATCH_ROWS
        if any(pool.is_self for pool in self._source.pools):
            most = min(most, max(_FIRST_OWN_ROWS, self._source.existing + self._written))
        return min(most, int(rows / rate * 1.02) + 20 if rate < 1 else rows)

    async def _next_lines(self, count: int) -> list[str]:
        for case in self._plan.cases:
            for chunked in case.chunked:
                count = min(count, chunked.total - self._candidates % chunked.total)
                chunk = self._candidates // chunked.total % chunked.pool.chunks
                if chunk != chunked.pool.chunk:
                    await chunked.pool.load(self._connection, chunk)
        return self._draw(count)

    def _waits_for_keys(self) -> bool:
        """Whether the next batch may need keys that are read, or written, only after this one."""
        return any(case.chunked for case in self._plan.cases) or any(_is_growing(pool) for pool in self._source.pools)

    async def _refresh_own_keys(self) -> None:
        """Lets the rows to come refer to those just written, each time that these have doubled, until there are enough."""
        there = self._source.existing + self._written
        for pool in self._source.pools:
            if _is_growing(pool) and there >= 2 * pool.count and there > 0:
                had_none = not pool.size
                await pool.load(self._connection)
                if had_none and pool.size:
                    await self._replan()

    async def _replan(self) -> None:
        self._plan = plan_table(self._source)
        await self._probe()

    def _draw(self, count: int) -> list[str]:
        """The next batch, shared out among the cases and mixed."""
        self._batch += 1
        random = self._random(str(self._batch))
        cases = self._plan.cases
        lines: list[str] = []
        for place, case in enumerate(cases):
            part = count * (place + 1) // len(cases) - count * place // len(cases)
            if part:
                lines += draw_rows(case, self._names, random, self._candidates, part)
                self._candidates += part
        if len(cases) > 1:
            random.shuffle(lines)
        return lines

    def _random(self, purpose: str) -> Random:
        return Random(f"{self._source.seed}/{self._facts.sql_name}/{self._source.existing}/{purpose}")  # noqa: S311 - rows, not secrets

    @property
    def _names(self) -> list[str]:
        return [column.name for column in self._plan.columns]

    async def _copy(self, lines: Sequence[str]) -> None:
        """Replaces the candidates. asyncpg takes a buffer as it is; a file would stay in memory until the collector comes by."""
        data = memoryview(("\n".join(lines) + "\n").encode())
        await self._connection.execute(f"TRUNCATE {_CANDIDATES}")
        await self._connection.copy_to_table(_CANDIDATES, source=data, columns=self._names)

    @property
    def _condition(self) -> str:
        return " AND ".join(f"({clause.sql})" for clause in self._clauses) or "true"

    def _rows(self, made: Mapping[str, str] | None = None, derived: Mapping[str, str] | None = None) -> str:
        """The candidates as a FROM item `c`: with `made` columns added and `derived` ones computed from the others."""
        inner = f"{_CANDIDATES}"
        if made:
            added = ", ".join(f"{sql} AS {quote(name)}" for name, sql in made.items())
            inner = f"(SELECT *, {added} FROM {_CANDIDATES} OFFSET 0) AS made"
        computed = {derivation.column: derivation.sql for derivation in self._plan.derivations} | dict(derived or {})
        types = {column.name: column.type.sql for column in self._plan.columns}
        columns = [
            f"({computed[name]})::{types[name]} AS {quote(name)}" if name in computed else quote(name) for name in self._names
        ]
        columns += [quote(name) for name in made or {}]
        return f"(SELECT {', '.join(columns)} FROM {inner}) AS c"

    def _insert(self, limit: int, made: Mapping[str, str] | None = None, derived: Mapping[str, str] | None = None) -> str:
        names = ", ".join(map(quote, [*self._names, *(made or {})]))
        into = f" ({names})" if names else ""  # a table may have nothing but what the database fills
        explicit = any(column.identity for column in self._plan.columns) or made
        overriding = " OVERRIDING SYSTEM VALUE" if explicit else ""
        conflict = "" if self._skips_by_hand else " ON CONFLICT DO NOTHING"
        conditions = [self._condition]
        if self._skips_by_hand or self._is_crowded:
            conditions += [not_there(self._facts, unique) for unique in self._facts.uniques if self._is_skippable(unique)]
        return (
            f"INSERT INTO {self._facts.sql_name}{into}{overriding} SELECT {names} FROM {self._rows(made, derived)} "
            f"WHERE {' AND '.join(conditions)} LIMIT {limit}{conflict}"
        )

    @property
    def _skips_by_hand(self) -> bool:
        """ON CONFLICT knows no deferrable constraint."""
        return self._facts.deferrable_exclusion or any(not unique.immediate for unique in self._facts.uniques)

    def _is_skippable(self, unique: Unique) -> bool:
        return unique.plain and bool(unique.columns) and set(unique.columns) <= set(self._names)


async def _meanwhile(statement: Awaitable[str], work: Callable[[], list[str] | None]) -> tuple[str, list[str] | None]:
    """Sends the statement, works while the server does, and waits for it; a failure or an interruption ends both."""
    task = asyncio.ensure_future(statement)
    try:
        await asyncio.sleep(0)  # now it leaves
        done = work()
        return await task, done
    except BaseException:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


def _is_growing(pool: KeyPool) -> bool:
    return pool.is_self and pool.count < SAMPLE_SIZE


def _nothing() -> None:
    return None


def _left_null(clause: Clause, nulled: set[str]) -> str:
    columns = ", ".join(sorted(nulled & set(clause.columns)))
    return f"{clause.label}: no value was found that satisfies it, so {columns} is always null"


def _inserted(status: str) -> int:
    match = _STATUS_COUNT.match(status)
    return int(match[1]) if match else 0
