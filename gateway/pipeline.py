"""The five operations, from a parsed request to an answer's parts. The page to read first.

    list_rows    plan → compile (by shape) → database → page, with cursors
    get_row      plan → compile → database → the row's JSON and its state
    create_row   body → plan → compile → database → the row's JSON, its state and its key
    patch_row    body → plan → compile → database → the row's JSON and its state
    delete_row   plan → compile → database

Everything is handed in; nothing here knows HTTP. Rows stay the JSON text that PostgreSQL made.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.cache.cache import Cache, Cached, Looked, Outcome
from gateway.cache.keys import Keys
from gateway.catalog.model import Catalog, Field, Resource
from gateway.database.execute import Database, Rows
from gateway.database.replicas import Need, Position, Replicas
from gateway.database.sqlstate import OUTSIDE, Refusal, Violation
from gateway.errors import (
    Conflict,
    Forbidden,
    GatewayError,
    NotFound,
    PreconditionFailed,
    Problem,
    Refused,
    ValidationFailed,
)
from gateway.events import Observer, Purpose, nobody, timeline
from gateway.guards.gate import Gate
from gateway.idempotency import Answer, KeptAnswers, Once, view_of
from gateway.query.ast import EVERYTHING, Count, GetPlan, Grant, ListPlan, ListRequest, States, WritePlan, WriteShape
from gateway.query.compile import compile_explain
from gateway.query.cursor import MAX_CURSOR_CHARACTERS, Cursor, encode_cursor
from gateway.query.payload import plan_delete
from gateway.query.plan import filter_values, plan_get, plan_list, readable_fields
from gateway.query.plans import Plans
from gateway.query.statements import ReadStatement, Statements, table_of
from gateway.reads import Fleet, Reads
from gateway.writes import Writes

GRACE_SECONDS = 0.7
"""For what an operation waits for beside its statement. A little more than `Database.fetch` takes, whose word is better."""

MAX_AT_ONCE = 10_000
"""Requests at the database, where nobody says otherwise."""
MAX_POINT_BATCH, MAX_LIST_BATCH = 128, 16
"""Requests that one statement answers at the most: points cost microseconds each, lists a good part of a millisecond."""
MAX_BODY_TOGETHER = 8192
"""Bytes of a create that shares a statement with others: so all of them together are a quarter of a megabyte at the most."""


class Page(msgspec.Struct, frozen=True):
    """A list's answer. `data` is its rows, `length` of them, as JSON texts with commas between; `page` is None when a cursor led;
    `total` is None where none was asked for."""

    data: bytes
    length: int
    limit: int
    page: int | None
    has_more: bool
    next_cursor: str | None
    prev_cursor: str | None
    count: Count
    total: int | None


class Freshness(msgspec.Struct, frozen=True):
    """Where a read's answer came from. `age_seconds` is how long ago the database gave it, 0 unless it is a hit."""

    outcome: Outcome
    age_seconds: int = 0


class Row(msgspec.Struct, frozen=True):
    """One row: its JSON text, and the number of the state that it is in, 0 where nothing tells that.

    `replayed` tells that a write was made earlier, and this is what it answered then.
    """

    text: str
    state: int
    replayed: bool = False


class Created(msgspec.Struct, frozen=True):
    """`key` are the new row's key values in their JSON forms, in the key's order."""

    row: Row
    key: list[Any]


class Explained(msgspec.Struct, frozen=True):
    """How PostgreSQL would run a read: its SQL, whose values stand apart, and the plan, as the JSON text of EXPLAIN."""

    sql: str
    plan: str


BYPASS = Freshness("bypass")
ANYTHING = Need()
_encode_page = msgspec.msgpack.Encoder().encode
_decode_page = msgspec.msgpack.Decoder(Page).decode
STATE_BYTES = 8
"""Before a row's text, where it is kept."""


class Pipeline:
    """The operations over one catalog and one database. Without a `cache` every read goes to the database."""

    def __init__(
        self,
        catalog: Catalog,
        database: Database,
        cache: Cache | None = None,
        cache_ttl_seconds: float = 0,
        observe: Observer = nobody,
        gate: Gate | None = None,
        replicas: Replicas | None = None,
        kept: KeptAnswers | None = None,
    ) -> None:
        self.catalog = catalog
        self.kept = kept or KeptAnswers(database)
        self.database = database
        self.cache = cache
        self.cache_ttl_seconds = cache_ttl_seconds
        self.keys = Keys()
        self._sources: dict[str, tuple[str, ...]] = {}
        self._changed: dict[str, tuple[str, ...]] = {}
        self.plans = Plans()
        self.statements = Statements()
        self.gate = gate or Gate(MAX_AT_ONCE, MAX_AT_ONCE)
        self.replicas = replicas
        self.reads: Reads | Fleet = Reads(database, observe) if replicas is None else Fleet(database, replicas, observe)
        self.writes = Writes(database, observe)

    def resource(self, version: str, name: str) -> Resource:
        """The resource of that name. Raises NotFound, or Refused for one whose file has faults."""
        place = (version, name)
        resource = self.catalog.resources.get(place)
        if resource is not None:
            return resource
        if place in self.catalog.broken:
            raise Refused(f'The resource "{name}" is not served: its definition has faults.', retry_after_seconds=60)
        if not self.catalog.is_built:
            raise Refused("The database has not been reached yet.")
        raise NotFound("There is no such resource.")

    async def list_rows(self, resource: Resource, request: ListRequest, grant: Grant = EVERYTHING) -> Page:
        """One page. Raises ValidationFailed and the database's errors."""
        return await self._list(resource, plan_list(resource, request, grant))

    async def position(self) -> Position | None:
        """Where the database's log stands, for a caller to bring back: replicas that have it have all that was written until
        now. None where there are no replicas."""
        return None if self.replicas is None else await self.replicas.position()

    async def list_query(
        self,
        resource: Resource,
        query: bytes,
        grant: Grant = EVERYTHING,
        refresh: bool = False,
        after: Position | None = None,
        looked: Looked | None = None,
    ) -> tuple[Page, Freshness]:
        """One page, by a raw query string, whose plan is found again; from the cache, unless `refresh`, or from a replica that
        has all that was written before `after`. Where the cache keeps the answer, a place `after` is as good as `refresh`.
        `looked` is what this request found in the cache.

        Raises as `list_rows` does.
        """
        began = time.perf_counter()
        plan = self.plans.list(resource, query, grant)
        timeline().note("plan", began)
        ttl_seconds = self.ttl_seconds(resource)
        if self.cache is None or not ttl_seconds:
            return await self._list(resource, plan, self._need(after, refresh)), BYPASS
        made: Page | None = None

        async def load(since: float | None = None) -> bytes:
            nonlocal made
            made = await self._list(resource, plan, None if since is None else Need(since=since))
            return _encode_page(made)

        key = self.keys.list(resource, plan, grant)
        load_since = None if self.replicas is None else load
        anew = refresh or after is not None  # nothing tells of a kept answer which place in the log it has reached
        cached = await self.cache.read(key, self.made_from(resource), load, ttl_seconds, anew, load_since, looked)
        return (made, Freshness(cached.outcome, cached.age_seconds)) if made is not None else page_of(cached)

    def _need(self, after: Position | None, refresh: bool) -> Need | None:
        """What a read that is not kept must find; None for one that is the primary's."""
        if refresh or self.replicas is None:
            return None
        return ANYTHING if after is None else Need(after)

    async def _list(self, resource: Resource, plan: ListPlan, need: Need | None = None) -> Page:
        statement = self.statements.list(plan.shape, resource)
        rows = await self._read(resource, statement, plan.values, need)
        return page_made(plan, statement, rows, await self._estimate(resource, plan) if plan.count == "estimated" else None)

    async def get_row(
        self, resource: Resource, key: tuple[str, ...], parameters: Mapping[str, str], grant: Grant = EVERYTHING
    ) -> Row:
        """The row. Raises NotFound, ValidationFailed and the database's errors."""
        return await self._get(resource, plan_get(resource, key, parameters, grant))

    async def read_row(
        self,
        resource: Resource,
        key: tuple[str, ...],
        parameters: Mapping[str, str],
        grant: Grant = EVERYTHING,
        refresh: bool = False,
        after: Position | None = None,
        looked: Looked | None = None,
    ) -> tuple[Row, Freshness]:
        """The row, from the cache, unless `refresh`, or from a replica that has all that was written before `after`. Where the
        cache keeps the answer, a place `after` is as good as `refresh`. `looked` is what this request found in the cache.

        Raises as `get_row` does.
        """
        began = time.perf_counter()
        plan = plan_get(resource, key, parameters, grant)
        timeline().note("plan", began)
        ttl_seconds = self.ttl_seconds(resource)
        if self.cache is None or not ttl_seconds:
            return await self._get(resource, plan, self._need(after, refresh)), BYPASS

        async def load(since: float | None = None) -> bytes:
            row = await self._get(resource, plan, None if since is None else Need(since=since))
            return row.state.to_bytes(STATE_BYTES, signed=True) + row.text.encode()

        place = self.keys.row(resource, plan, grant)
        load_since = None if self.replicas is None else load
        anew = refresh or after is not None  # as above
        return row_of(await self.cache.read(place, self.made_from(resource), load, ttl_seconds, anew, load_since, looked))

    async def _get(self, resource: Resource, plan: GetPlan, need: Need | None = None) -> Row:
        statement = self.statements.get(plan.shape, resource)
        try:
            async with self.gate.slot(timeline().client):
                rows = await self.reads.fetch(statement, plan.values, resource.timeout_seconds, MAX_POINT_BATCH, need)
        except Violation:
            raise NotFound from None  # the key is text that PostgreSQL does not read as the column's type
        if not rows:
            raise NotFound
        text, state, *_ = rows[0]
        return Row(text, state)

    async def explain(
        self, resource: Resource, key: tuple[str, ...] | None, query: bytes, parameters: Mapping[str, str], grant: Grant
    ) -> Explained:
        """The plan of a list, or of the row of `key`; nothing is run. It tells tables, and the values of filters and row rules.

        Raises ValidationFailed and the database's errors.
        """
        if key is None:
            listed = self.plans.list(resource, query, grant)
            sql, values = self.statements.list(listed.shape, resource).sql, listed.values
        else:
            got = plan_get(resource, key, parameters, grant)
            sql, values = self.statements.get(got.shape, resource).sql, got.values
        rows = await self._run(resource, compile_explain(sql), values, "other")
        return Explained(sql, rows[0][0])

    async def create_row(self, resource: Resource, body: bytes, grant: Grant = EVERYTHING, once: Once | None = None) -> Created:
        """The stored row; stored once, where `once` names the request. Raises ValidationFailed, Conflict and the database's
        errors; with `once` also IdempotencyMismatch."""
        began = time.perf_counter()
        plan = self.plans.create(resource, body, grant)
        timeline().note("plan", began)
        answer = await self._write(resource, plan, grant, once=once, together=len(body) <= MAX_BODY_TOGETHER)
        if answer is None:
            raise Conflict("A rule of the database kept the row from being stored.")
        return Created(Row(answer.text, answer.state, answer.replayed), msgspec.json.decode(answer.key))

    async def patch_row(
        self,
        resource: Resource,
        key: tuple[str, ...],
        body: bytes,
        merge: bool,
        grant: Grant = EVERYTHING,
        states: States | None = None,
        once: Once | None = None,
    ) -> Row:
        """The changed row; changed only if it was in one of `states`, where they are given, and once, where `once` is.

        Raises NotFound, PreconditionFailed, ValidationFailed, Conflict and the database's errors; with `once` also
        IdempotencyMismatch.
        """
        began = time.perf_counter()
        plan = self.plans.patch(resource, key, body, merge, grant, states)
        timeline().note("plan", began)
        answer = await self._write(resource, plan, grant, key, once)
        if answer is None:
            await self._find(resource, key, grant, states)
            raise Conflict("A rule of the database kept the row from being changed.")
        return Row(answer.text, answer.state, answer.replayed)

    async def delete_row(
        self,
        resource: Resource,
        key: tuple[str, ...],
        grant: Grant = EVERYTHING,
        states: States | None = None,
        once: Once | None = None,
    ) -> bool:
        """Deletes the row, if it is in one of `states`, where they are given. Whether that was done earlier, under `once`.

        Raises NotFound, PreconditionFailed, Conflict where other rows refer to this one, and the database's errors; with `once`
        also IdempotencyMismatch.
        """
        answer = await self._write(resource, plan_delete(resource, key, grant, states), grant, key, once)
        if answer is None:
            await self._find(resource, key, grant, states)
            raise Conflict("A rule of the database kept the row from being deleted.")
        return answer.replayed

    def bound_seconds(self, resource: Resource) -> float:
        """How long an operation on the resource may take, with everything that it waits for."""
        return self.database.statement_seconds(resource.timeout_seconds) + GRACE_SECONDS

    def ttl_seconds(self, resource: Resource) -> float:
        """How long the resource's answers may be kept; 0 for not at all."""
        own = resource.cache_ttl_seconds
        return self.cache_ttl_seconds if own is None else own

    def made_from(self, resource: Resource) -> tuple[str, ...]:
        """The tables that an answer of the resource is made from."""
        tables = self._sources.get(resource.id)
        if tables is None and self.cache is not None:
            tables = self._sources[resource.id] = self.cache.dependencies.made_from(table_of(resource))
        return tables or ()

    def _changed_by(self, resource: Resource) -> tuple[str, ...]:
        """The tables that a write to the resource may change."""
        tables = self._changed.get(resource.id)
        if tables is None and self.cache is not None:
            tables = self._changed[resource.id] = self.cache.dependencies.changed_by(table_of(resource))
        return tables or ()

    async def _read(
        self, resource: Resource, statement: ReadStatement, values: tuple[Any, ...], need: Need | None = None
    ) -> Rows:
        try:
            async with self.gate.slot(timeline().client):
                return await self.reads.fetch(statement, values, resource.timeout_seconds, MAX_LIST_BATCH, need)
        except Violation as violation:
            raise refused_value(violation) from None

    async def _run(self, resource: Resource, sql: str, values: tuple[Any, ...], operation: str) -> Rows:
        try:
            purpose = Purpose(operation, table_of(resource))
            async with self.gate.slot(timeline().client):
                return await self.database.fetch(sql, values, resource.timeout_seconds, purpose=purpose)
        except Violation as violation:
            raise refused_value(violation) from None

    async def _write(
        self,
        resource: Resource,
        plan: WritePlan,
        grant: Grant,
        key: tuple[str, ...] | None = None,
        once: Once | None = None,
        together: bool = False,
    ) -> Answer | None:
        """What the write left behind; None where it had no row to write. One that is not made anew, for it was made before, takes
        away what the cache has all the same: who made it may have died before. It may share a statement if `together`."""
        try:
            if self.cache is None:
                return await self._send(resource, plan, grant, once, together)
            async with self.cache.writing(self._changed_by(resource)):
                return await self._send(resource, plan, grant, once, together)
        except Violation as violation:
            if key is not None and violation.refusal.kind == "value":
                await self._find(resource, key, grant)  # NotFound where it is the key that cannot be read
            if violation.refusal.kind in ("unique", "exclusion"):
                await self._refuse_outside(resource, plan)
            raise explain(violation.refusal, resource, plan, grant) from None

    async def _send(self, resource: Resource, plan: WritePlan, grant: Grant, once: Once | None, together: bool) -> Answer | None:
        if once is not None:
            statement = self.statements.write(msgspec.structs.replace(plan.shape, once=True), resource)
            view = view_of(resource, grant)
            async with self.gate.slot(timeline().client):
                return await self.kept.write(once, view, statement.sql, plan.values, resource.timeout_seconds, statement.purpose)
        statement = self.statements.write(plan.shape, resource)
        async with self.gate.slot(timeline().client):
            if together and statement.together_sql:
                rows = await self.writes.create(statement, plan.values, resource.timeout_seconds)
            else:
                rows = await self.database.fetch(
                    statement.sql, plan.values, resource.timeout_seconds, writing=True, purpose=statement.purpose
                )
        match plan.shape.operation if rows else None:
            case "create":
                return Answer(rows[0][0], rows[0][1], rows[0][2])
            case "patch":
                return Answer(rows[0][0], rows[0][1])
            case "delete":
                return Answer("", 0)
        return None

    async def _refuse_outside(self, resource: Resource, plan: WritePlan) -> None:
        """Raises Forbidden for a write that runs into another row, where it would fail its check anyway.

        The database finds the other row first; a 409 there and a 403 elsewhere would tell what others' rows hold.
        """
        if isinstance(plan.shape, WriteShape) and plan.shape.check is not None:
            rows = await self._run(resource, self.statements.outside(plan.shape, resource), plan.values, "other")
            if rows and rows[0][0]:
                raise Forbidden(OUTSIDE)

    async def _find(self, resource: Resource, key: tuple[str, ...], grant: Grant, states: States | None = None) -> None:
        """Raises NotFound where a write that did nothing had no row that it could reach, PreconditionFailed where it had one,
        in none of `states`. It never says that of a row that this caller cannot reach."""
        row = await self.get_row(resource, key, {}, Grant(name=grant.name, rows=grant.rows))
        if states is not None and row.state not in states:
            raise PreconditionFailed

    async def _estimate(self, resource: Resource, plan: ListPlan) -> int:
        sql = self.statements.estimate(plan.shape.where, resource)
        rows = await self._run(resource, sql, filter_values(plan), "count")
        estimate: float = msgspec.json.decode(rows[0][0])[0]["Plan"]["Plan Rows"]
        return round(estimate)


# --- what the cache keeps ------------------------------------------------------------------------------------------------


def row_of(cached: Cached) -> tuple[Row, Freshness]:
    """A row as it was kept."""
    row = Row(cached.body[STATE_BYTES:].decode(), int.from_bytes(cached.body[:STATE_BYTES], signed=True))
    return row, Freshness(cached.outcome, cached.age_seconds)


def page_of(cached: Cached) -> tuple[Page, Freshness]:
    """A page as it was kept."""
    return _decode_page(cached.body), Freshness(cached.outcome, cached.age_seconds)


# --- pages -------------------------------------------------------------------------------------------------------------


def page_made(plan: ListPlan, statement: ReadStatement, rows: Rows, estimate: int | None = None) -> Page:
    """The page that the rows make, one of which may be beyond it: it tells that there are more, in the reading direction."""
    total = estimate
    if plan.count == "exact":
        total = rows[0][0]
        rows = [row for row in rows if row[1] is not None]
    beyond = len(rows) > plan.limit
    rows = rows[: plan.limit]
    backward = plan.shape.backward
    if backward:
        rows.reverse()
    column = 1 if plan.shape.counted else 0
    by_cursor = plan.shape.after is not None
    more_after = bool(rows) if backward else beyond
    more_before = beyond if backward else bool(rows) and (by_cursor or (plan.page or 1) > 1)
    return Page(
        data=",".join([row[column] for row in rows]).encode(),
        length=len(rows),
        limit=plan.limit,
        page=plan.page,
        has_more=more_after,
        next_cursor=_cursor(plan, statement, rows[-1], column, backward=False) if more_after else None,
        prev_cursor=_cursor(plan, statement, rows[0], column, backward=True) if more_before else None,
        count=plan.count,
        total=total,
    )


def _cursor(plan: ListPlan, statement: ReadStatement, row: Any, column: int, backward: bool) -> str | None:
    """None for a row whose sort keys are too long for a URL to carry."""
    values = tuple(row[column + 1]) if statement.reader is None else statement.reader.read(row[column])
    cursor = encode_cursor(Cursor(plan.fingerprint, backward, values))
    return cursor if len(cursor) <= MAX_CURSOR_CHARACTERS else None


# --- refusals ----------------------------------------------------------------------------------------------------------


def refused_value(violation: Violation) -> ValidationFailed:
    """What the database refused of a query's values."""
    return ValidationFailed(f"A value of the query {violation.refusal.message}.")


def explain(refusal: Refusal, resource: Resource, plan: WritePlan, grant: Grant = EVERYTHING) -> GatewayError:
    """What the database refused, in the caller's words: fields in place of columns, and no name of the database's.

    Only fields that the caller sent or may see are named.
    """
    if refusal.kind == "foreign" and _is_referred_to(refusal, resource, plan):
        return Conflict("Other rows refer to this one.", [Problem(name, "is referred to") for name in _referred(resource, plan)])
    sent = {assignment.field for assignment in plan.shape.assigned}
    known = sent - {name for name, _ in grant.set}
    known |= readable_fields(resource, grant).keys() if grant.readable else set()
    fields = [field for field in _fields_of(refusal, resource) if field.name in known]
    if refusal.domain:  # several fields may have the type that refused; the caller means the one that was sent
        fields = [field for field in fields if field.name in sent] or fields
    problems = [Problem(field.name, refusal.message) for field in fields]
    if refusal.kind in ("unique", "foreign", "exclusion"):
        message = "A row like this exists already." if refusal.kind == "unique" else "The row does not fit the others."
        if refusal.kind == "foreign":
            message = "The row refers to one that does not exist."
        return Conflict(message, problems)
    if not problems:
        return ValidationFailed(f"The body is not valid: a value {refusal.message}.")
    return ValidationFailed("The body is not valid.", problems)


def _is_referred_to(refusal: Refusal, resource: Resource, plan: WritePlan) -> bool:
    """Whether the broken foreign key is another row's that refers to this one, not this row's own."""
    own = next((key for key in resource.table.constraints if key.name == refusal.constraint and key.kind == "foreign"), None)
    if own is None or plan.shape.operation == "delete":
        return True
    sent = {resource.fields[assignment.field].column for assignment in plan.shape.assigned}
    return sent.isdisjoint(own.columns)


def _referred(resource: Resource, plan: WritePlan) -> tuple[str, ...]:
    """The fields by which other rows refer to this one: those that a patch would have changed, or the key."""
    unique = {
        column
        for constraint in resource.table.constraints
        if constraint.kind in ("primary", "unique")
        for column in constraint.columns
    }
    sent = [assignment.field for assignment in plan.shape.assigned]
    return tuple(name for name in sent if resource.fields[name].column in unique) or resource.key


def _fields_of(refusal: Refusal, resource: Resource) -> list[Field]:
    """The fields that a refusal is about, in the resource's order."""
    columns = {refusal.column} if refusal.column else set()
    for constraint in resource.table.constraints:
        if refusal.constraint and constraint.name == refusal.constraint:
            columns |= set(constraint.columns)
    found = [field for field in resource.fields.values() if field.column in columns]
    if not found and refusal.domain:
        found = [field for field in resource.fields.values() if field.type.domain == refusal.domain]
    return found
