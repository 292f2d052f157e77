"""A table's facts, the resource's bounds and the parents' keys in, a `Plan` out: how each column of a batch is drawn. Pure.

A column is drawn in one of four ways. *Free*: at random from its space. *Walked*: without repetition, alone or together with
the other columns of its unique key. *Referring*: from the keys of a parent. *Left*: by the database, which has an identity, a
sequence or a function of the author's for it.

Each case of the constraints (see `checks`) has its own way of drawing; a batch is shared out among the cases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import prod
from random import Random

import msgspec

from gateway.catalog.model import Bounds
from gateway.errors import ConfigurationError
from gateway.fill.checks import (
    ANYTHING,
    MAX_CASES,
    Bound,
    Case,
    Derivation,
    Ordering,
    PatternRule,
    Restriction,
    cases_of,
    combine,
    derivations_of,
    renamed,
)
from gateway.fill.expressions import names_read
from gateway.fill.facts import ColumnFacts, TableFacts, Unique
from gateway.fill.keys import KeyPool
from gateway.fill.spaces import NULL, Space, Wanted, escape, random_numbers, walk
from gateway.fill.values import UnknownType, is_known, space_of
from gateway.fill.words import null_share

_ROOMY = 20
"""With so many times more combinations than rows, drawing at random seldom repeats one."""
_OWN_FUNCTION = re.compile(r'^\(*"?[\w.]+"?\(')
_REPLACED_DEFAULT = re.compile(
    r"^\(*(now|gen_random_uuid|uuid_generate_v\w+|uuidv\w+|random|gen_random_bytes|timezone|date_trunc|clock_timestamp"
    r"|statement_timestamp|transaction_timestamp|jsonb_build_object|jsonb_build_array|json_build_object|json_build_array)\(",
)


class Draw(msgspec.Struct):
    """What one drawing starts from: `start` counts all candidates so far; `drawn` are the columns that are there already."""

    random: Random
    start: int
    count: int
    drawn: dict[str, list[str]]


class Unit(msgspec.Struct, frozen=True, eq=False):
    """Columns that are drawn together, as fields of COPY."""

    columns: tuple[str, ...]
    draw: Callable[[Draw], list[list[str]]]


class Chunked(msgspec.Struct, frozen=True, eq=False):
    """A walk over a pool: after `total` candidates it goes on in the pool's next chunk."""

    pool: KeyPool
    total: int


class CasePlan(msgspec.Struct, frozen=True, eq=False):
    """One case: `free` columns with their spaces, then `units`, then NULL for a share of the rows, column group by group."""

    case: Case
    free: tuple[tuple[str, Space], ...]
    units: tuple[Unit, ...]
    nulls: tuple[tuple[tuple[str, ...], float], ...]
    capacities: Mapping[str, int]
    chunked: tuple[Chunked, ...] = ()


class Plan(msgspec.Struct, frozen=True, eq=False):
    """`columns` are those that a candidate has, `left` those that the database fills. `capacities` are the rows that each
    unique key allows, for those that bound the table's size."""

    columns: tuple[ColumnFacts, ...]
    left: tuple[str, ...]
    cases: tuple[CasePlan, ...]
    derivations: tuple[Derivation, ...]
    capacities: Mapping[str, int]
    guarded: tuple[KeyPool, ...]


class Source(msgspec.Struct, frozen=True, eq=False):
    """All that a plan is made of. `bounds` are the YAML's, by column; `nulled` columns that shall be NULL always."""

    facts: TableFacts
    bounds: Mapping[str, Bounds]
    pools: tuple[KeyPool, ...]
    rows: int
    existing: int
    seed: int
    nulled: frozenset[str] = frozenset()


def plan_table(source: Source) -> Plan:
    """How the table's rows are drawn. Raises ConfigurationError where a column's type is unknown or a parent has no row."""
    if source.facts.is_partitioned and not source.facts.partitions:
        raise ConfigurationError(f"{source.facts.table.name}: it has no partition that could hold a row")
    left = left_columns(source.facts, source.pools)
    columns = tuple(column for column in source.facts.columns if column.name not in left)
    plans = [_CasePlanner(source, columns, case).plan() for case in _cases(source)]
    possible = tuple(plan for plan in plans if plan is not None)
    if not possible:
        bare = _CasePlanner(source, columns, Case(_required(source)), bare=True).plan()
        possible = (bare,) if bare else ()
    if not possible:
        raise ConfigurationError(f"{source.facts.table.name}: no values fit its columns")
    bounding = set.intersection(*(set(plan.capacities) for plan in possible))
    return Plan(
        columns=columns,
        left=left,
        cases=possible,
        derivations=_derivations(source, columns),
        capacities={name: sum(plan.capacities[name] for plan in possible) for name in sorted(bounding)},
        guarded=_guarded(source.pools),
    )


def draw_rows(plan: CasePlan, names: Sequence[str], random: Random, start: int, count: int) -> list[str]:
    """`count` candidates as lines of COPY's text form, without their ends; `names` is the order of the columns."""
    spaces = dict(plan.free)
    numbers = {name: random_numbers(random, space.natural, space.skew, count) for name, space in plan.free}
    for _ in range(min(len(plan.case.orderings), 3)):
        for ordering in plan.case.orderings:
            _put_in_order(ordering, spaces, numbers, random)
    drawn = {name: _fields(space, numbers[name]) for name, space in plan.free}
    draw = Draw(random, start, count, drawn)
    for unit in plan.units:
        drawn.update(zip(unit.columns, unit.draw(draw), strict=True))
    for columns, share in plan.nulls:
        _put_nulls(drawn, columns, share, random)
    return list(map("\t".join, zip(*(drawn[name] for name in names), strict=True))) if names else [""] * count


def left_columns(facts: TableFacts, pools: Sequence[KeyPool]) -> tuple[str, ...]:
    """The columns that the database fills by itself."""
    referring = {column for pool in pools for column in pool.foreign_key.columns}
    return tuple(
        column.name for column in facts.columns if column.generation or (column.name not in referring and _is_left(column))
    )


def _is_left(column: ColumnFacts) -> bool:
    default = column.default
    if column.identity or "nextval(" in default:
        return True
    if (default or column.type.filled) and not is_known(column.type):
        return True
    return bool(_OWN_FUNCTION.match(default)) and not _REPLACED_DEFAULT.match(default)


# --- cases -------------------------------------------------------------------------------------------------------------


def _cases(source: Source) -> tuple[Case, ...]:
    """The ways to satisfy all that is asked of the table. One that contradicts the others is left for the database to name."""
    found: tuple[Case, ...] = (Case(_required(source), _customary_orders(source.facts)),)
    for option in _options(source.facts):
        found = combine([found, option]) or found
    types = {column.name: column.type.name for column in source.facts.columns}
    return tuple(_with_passed_bounds(case, types) for case in found)


def _with_passed_bounds(case: Case, types: Mapping[str, str]) -> Case:
    """What bounds one of two ordered columns bounds the other, or else their values would seldom be in order."""
    restrictions = dict(case.restrictions)
    for ordering in case.orderings:
        low, high = restrictions.get(ordering.smaller, ANYTHING), restrictions.get(ordering.greater, ANYTHING)
        if types.get(ordering.smaller) == types.get(ordering.greater):
            restrictions[ordering.smaller] = msgspec.structs.replace(low, upper=low.upper + high.upper)
            restrictions[ordering.greater] = msgspec.structs.replace(high, lower=high.lower + low.lower)
    return Case(restrictions, case.orderings)


def _required(source: Source) -> dict[str, Restriction]:
    asked: dict[str, Restriction] = {}
    for column in source.facts.columns:
        restriction = _of_bounds(source.bounds.get(column.name, Bounds()))
        if column.not_null or column.type.not_null:
            restriction = msgspec.structs.replace(restriction, null="never")
        elif column.name in source.nulled:
            restriction = msgspec.structs.replace(restriction, null="always")
        asked[column.name] = restriction
    return asked


def _of_bounds(bounds: Bounds) -> Restriction:
    return Restriction(
        lower=() if bounds.minimum is None else (Bound(str(bounds.minimum)),),
        upper=() if bounds.maximum is None else (Bound(str(bounds.maximum)),),
        choices=tuple(map(str, bounds.enum)) or None,
        min_length=bounds.min_length or 0,
        max_length=bounds.max_length,
        patterns=(PatternRule(bounds.pattern),) if bounds.pattern else (),
    )


def _options(facts: TableFacts) -> list[tuple[Case, ...]]:
    options = [
        tuple(renamed(case, "value", column.name) for case in cases_of(check.expression))
        for column in facts.columns
        for check in column.type.checks
    ]
    options += [cases_of(check.expression) for check in facts.checks]
    if facts.partitions:
        chosen = facts.partitions[:: -(-len(facts.partitions) // MAX_CASES)]
        options.append(tuple(case for condition in chosen for case in cases_of(condition)))
    return options


def _customary_orders(facts: TableFacts) -> tuple[Ordering, ...]:
    names = {column.name: column.type.name for column in facts.columns}
    created, updated = names.get("created_at"), names.get("updated_at")
    return (Ordering("created_at", "updated_at", False),) if created and created == updated else ()


def _derivations(source: Source, columns: Sequence[ColumnFacts]) -> tuple[Derivation, ...]:
    names = {column.name for column in columns}
    fixed = {column for pool in source.pools for column in pool.foreign_key.columns}
    found: dict[str, Derivation] = {}
    for check in source.facts.checks:
        for derivation in derivations_of(check.expression):
            read = {name for name in names_read(derivation.sql) if name in {column.name for column in source.facts.columns}}
            if (
                derivation.column in names - fixed
                and read <= names
                and not read & found.keys()
                and derivation.column not in found
            ):
                found[derivation.column] = derivation
    return tuple(found.values())


def _guarded(pools: Sequence[KeyPool]) -> tuple[KeyPool, ...]:
    """The foreign keys that share a column with another: what they point to is checked row by row."""
    return tuple(
        pool
        for pool in pools
        if any(other is not pool and set(other.foreign_key.columns) & set(pool.foreign_key.columns) for other in pools)
    )


# --- one case ----------------------------------------------------------------------------------------------------------


class _Member(msgspec.Struct, frozen=True, eq=False):
    """What takes part in a walk: a parent's keys or one column's space."""

    columns: tuple[str, ...]
    size: int
    at: Callable[[Sequence[int]], list[list[str]]]
    pool: KeyPool | None = None
    block: int = 0


class _CasePlanner:
    """Shares the columns out among the ways to draw them; each step takes the columns it settles."""

    def __init__(self, source: Source, columns: Sequence[ColumnFacts], case: Case, bare: bool = False) -> None:
        self._source = source
        self._columns = {column.name: column for column in columns}
        self._case = case
        self._bare = bare
        self._needed = source.existing + source.rows
        self._settled: set[str] = set()
        self._units: list[Unit] = []
        self._nulls: list[tuple[tuple[str, ...], float]] = []
        self._capacities: dict[str, int] = {}
        self._chunked: list[Chunked] = []
        self._referring: dict[str, KeyPool] = {}
        self._possible = True

    def plan(self) -> CasePlan | None:
        """The case's plan, or None where its restrictions leave a column no value."""
        linked = self._take_foreign_keys()
        if not self._possible:
            return None
        for unique in self._source.facts.uniques:
            self._take_unique(unique)
        for pool in dict.fromkeys(self._referring.values()):
            if not set(pool.foreign_key.columns) & self._settled:
                self._units.append(_random_keys(pool))
                self._settled.update(pool.foreign_key.columns)
        self._units += linked
        free: list[tuple[str, Space]] = []
        for name in self._columns:
            if name in self._settled:
                continue
            space = self._space(name)
            if space is not None:
                free.append((name, space))
            elif self._nullable(name):
                self._units.append(_only_null((name,)))
            else:
                return None
        self._take_nulls()
        return CasePlan(self._case, tuple(free), tuple(self._units), tuple(self._nulls), self._capacities, tuple(self._chunked))

    def _restriction(self, name: str) -> Restriction:
        return self._case.restrictions.get(name, ANYTHING)

    def _nullable(self, name: str) -> bool:
        column = self._columns[name]
        return not (column.not_null or column.type.not_null) and self._restriction(name).null != "never"

    def _space(self, name: str, distinct: int = 0) -> Space | None:
        column = self._columns[name]
        restriction = self._restriction(name)
        if restriction.null == "always":
            return None
        try:
            space = space_of(column.type, restriction, Wanted(name, self._source.facts.table.name, distinct))
            return space_of(column.type, ANYTHING, Wanted(name, "", distinct)) if space is None and self._bare else space
        except UnknownType as unknown:
            if self._nullable(name):
                return None
            raise ConfigurationError(
                f'{self._source.facts.table.name}: no values are known for column "{name}" of type {unknown}'
            ) from None

    def _take_foreign_keys(self) -> list[Unit]:
        """Remembers each foreign key for its columns; gives the units of those that share some with one before."""
        linked: list[Unit] = []
        for pool in sorted(self._source.pools, key=lambda pool: (-len(pool.foreign_key.columns), pool.foreign_key.name)):
            columns = pool.foreign_key.columns
            shared = [column for column in columns if column in self._referring or column in self._settled]
            if len(shared) == len(columns):
                continue
            if not pool.size or any(self._restriction(column).null == "always" for column in columns):
                self._leave_null(pool, shared)
            elif shared:
                linked.append(_linked_keys(pool, shared))
                self._settled.update(column for column in columns if column not in shared)
                self._referring.update({column: pool for column in columns if column not in shared})
            else:
                self._referring.update(dict.fromkeys(columns, pool))
        return linked

    def _leave_null(self, pool: KeyPool, shared: Sequence[str]) -> None:
        key = pool.foreign_key
        nullable = tuple(column for column in key.columns if column not in shared and self._nullable(column))
        if all(self._columns[column].not_null for column in key.columns) and not pool.is_self:
            raise ParentEmpty(key.schema, key.table, key.name)
        if nullable:
            self._units.append(_only_null(nullable))
            self._settled.update(nullable)
        elif pool.is_self:
            self._units.append(_only_null(key.columns))
            self._settled.update(key.columns)
        else:
            self._possible = False

    def _take_unique(self, unique: Unique) -> None:
        members = self._members(unique)
        if not members:
            return
        nullable = not unique.nulls_equal and any(self._nullable(column) for column in unique.columns)
        sizes = [member.size for member in members]
        total = prod(sizes)
        if total < self._needed and (unique.partial or not unique.plain):
            return
        if not unique.partial and not nullable and unique.plain:
            self._capacities[unique.name] = prod(member.pool.count if member.pool else member.size for member in members)
        if len(members) > 1 and unique.immediate and total >= _ROOMY * self._needed:
            return
        self._walk(unique, members, total, nullable)

    def _members(self, unique: Unique) -> list[_Member]:
        """The parts of a unique key, wide enough in all; [] where some part is settled already, or the database's."""
        if not unique.columns or any(column not in self._columns or column in self._settled for column in unique.columns):
            return []
        pools = [pool for pool in dict.fromkeys(self._referring.get(column) for column in unique.columns) if pool is not None]
        found = [_Member(pool.foreign_key.columns, pool.size, pool.at, pool) for pool in pools]
        own = {column: self._space(column, self._needed) for column in unique.columns if column not in self._referring}
        by_size = sorted(own, key=lambda column: (space.size if (space := own[column]) else 0, column))
        for column in by_size:
            missing = -(-self._needed // max(1, prod(member.size for member in found)))
            space = self._space(column, missing if column == by_size[-1] else 0)
            if space is None:
                return []
            size = space.size if column == by_size[-1] else min(space.size, space.natural)
            found.append(_Member((column,), size, _fields_of(space), block=space.block))
        return found

    def _walk(self, unique: Unique, members: list[_Member], total: int, nullable: bool) -> None:
        random = Random(f"{self._source.seed}/{self._source.facts.sql_name}/{'/'.join(unique.columns)}")  # noqa: S311 - rows, not secrets
        steps = walk(random, total, members[0].block if len(members) == 1 and members[0].block else total)
        self._units.append(Unit(tuple(name for member in members for name in member.columns), _walker(steps, members)))
        self._settled.update(name for member in members for name in member.columns)
        large = max((member.pool for member in members if member.pool), key=lambda pool: pool.count, default=None)
        if large is not None and large.chunks > 1:
            self._chunked.append(Chunked(large, total))
        if nullable and total < self._needed:
            optional = tuple(column for column in unique.columns if self._nullable(column))[:1]
            self._nulls.append((optional, 1 - 0.8 * total / self._needed))

    def _take_nulls(self) -> None:
        decided = {name for columns, _ in self._nulls for name in columns}
        for pool in self._source.pools:
            columns = pool.foreign_key.columns
            if all(self._may_be_null(column) and column not in decided for column in columns):
                self._nulls.append((columns, 0.2 if pool.is_self else 0.1))
            decided.update(columns)
        for name in self._columns:
            if name not in decided and self._may_be_null(name):
                self._nulls.append(((name,), null_share(name)))

    def _may_be_null(self, name: str) -> bool:
        return name in self._columns and self._nullable(name) and self._restriction(name).null == ""


class ParentEmpty(ConfigurationError):
    """A NOT NULL foreign key points to a table without rows."""

    def __init__(self, schema: str, table: str, constraint: str) -> None:
        self.schema, self.table, self.constraint = schema, table, constraint
        super().__init__(f'{constraint}: the table "{table}" has no rows to refer to; fill {table} first')


# --- drawing -----------------------------------------------------------------------------------------------------------


def _fields(space: Space, numbers: Sequence[int]) -> list[str]:
    values = space.at(numbers)
    return values if space.plain else list(map(escape, values))


def _fields_of(space: Space) -> Callable[[Sequence[int]], list[list[str]]]:
    return lambda numbers: [_fields(space, numbers)]


def _only_null(columns: tuple[str, ...]) -> Unit:
    return Unit(columns, lambda draw: [[NULL] * draw.count for _ in columns])


def _random_keys(pool: KeyPool) -> Unit:
    return Unit(pool.foreign_key.columns, lambda draw: pool.at(random_numbers(draw.random, pool.size, 1.0, draw.count)))


def _walker(steps: Callable[[int, int], list[int]], members: Sequence[_Member]) -> Callable[[Draw], list[list[str]]]:
    def draw(draw: Draw) -> list[list[str]]:
        rest = steps(draw.start, draw.count)
        columns: list[list[str]] = []
        for member in members:
            columns += member.at([number % member.size for number in rest])
            rest = [number // member.size for number in rest]
        return columns

    return draw


def _linked_keys(pool: KeyPool, shared: Sequence[str]) -> Unit:
    """Keys that agree with what the row has in the shared columns already; NULL where no key does."""
    columns = pool.foreign_key.columns
    shared_places = [columns.index(name) for name in shared]
    own_places = [place for place, name in enumerate(columns) if name not in shared]

    def draw(draw: Draw) -> list[list[str]]:
        by_shared: dict[tuple[str, ...], list[int]] = {}
        for number, key in enumerate(zip(*(pool.columns[place] for place in shared_places), strict=True)):
            by_shared.setdefault(key, []).append(number)
        rows: list[list[str]] = []
        for key in zip(*(draw.drawn[name] for name in shared), strict=True):
            fitting = by_shared.get(key)
            number = fitting[int(draw.random.random() * len(fitting))] if fitting else -1
            rows.append([pool.columns[place][number] if fitting else NULL for place in own_places])
        return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in own_places]

    return Unit(tuple(columns[place] for place in own_places), draw)


def _put_nulls(drawn: dict[str, list[str]], columns: Sequence[str], share: float, random: Random) -> None:
    chance = random.random
    chosen = [chance() < share for _ in drawn[columns[0]]]
    for name in columns:
        drawn[name] = [NULL if is_null else value for is_null, value in zip(chosen, drawn[name], strict=True)]


def _put_in_order(ordering: Ordering, spaces: Mapping[str, Space], numbers: dict[str, list[int]], random: Random) -> None:
    """Exchanges or moves the values of two free columns on one axis so that they are in order, where there is room."""
    low, high = spaces.get(ordering.smaller), spaces.get(ordering.greater)
    if low is None or high is None or not low.kind or low.kind != high.kind:
        return
    shift = low.start - high.start
    gap = 1 if ordering.strict else 0
    smaller, greater = numbers[ordering.smaller], numbers[ordering.greater]
    for place, (first, second) in enumerate(zip(smaller, greater, strict=True)):
        if first + shift + gap <= second:
            continue
        if first + shift >= gap + second and 0 <= first + shift < high.size and 0 <= second - shift < low.size:
            smaller[place], greater[place] = second - shift, first + shift
            continue
        least = first + shift + gap
        if least < high.size:
            greater[place] = least + int(random.random() ** 3 * (high.size - least))
