"""Shapes in, SQL out: the only room that makes SQL.

Identifiers come from the catalog and are quoted by SQLAlchemy's PostgreSQL dialect; values are `$1, $2, …` in the order of
the shape, each cast to its column's type. The text is made by hand, for the statements lean on what only PostgreSQL has
(row_to_json, LATERAL, row comparison), and a template shows them as they will run.

PostgreSQL builds the JSON: each statement's first column is a row's JSON text, in the contract's forms.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from gateway.catalog.model import Field, Resource, SortKey
from gateway.catalog.types import ColumnType, Family
from gateway.query.ast import And, Comparison, Filter, GetShape, ListShape, Merge, Not, Or, WriteShape
from gateway.query.operators import NOT_NULL, OPERATORS, Operator

# SQLAlchemy has no type for a dialect's making.
_quote_identifier = PGDialect_asyncpg().identifier_preparer.quote_identifier  # type: ignore[no-untyped-call]


def quote(name: str) -> str:
    """`name` as a quoted SQL identifier."""
    return str(_quote_identifier(name))


def qualified(resource: Resource) -> str:
    """The resource's table with its schema, quoted."""
    return f"{quote(resource.table.schema)}.{quote(resource.table.name)}"


class _Parameters:
    """Hands out `$1, $2, …` in order; with another prefix, the columns of a batch."""

    def __init__(self, prefix: str = "$") -> None:
        self.prefix = prefix
        self.count = 0

    def next(self) -> str:
        self.count += 1
        return f"{self.prefix}{self.count}"


# --- statements --------------------------------------------------------------------------------------------------------


def compile_list(shape: ListShape, resource: Resource) -> str:
    """Columns: the row's JSON; then the sort keys' texts if `keys_beside`; before both the total if `counted`.

    A counted list answers one row at least, whose JSON is null where the page is empty.
    """
    return _list(shape, resource, _Parameters())


def _list(shape: ListShape, resource: Resource, parameters: _Parameters) -> str:
    matching = _where(shape.where, resource, parameters)
    order = [_flip(key) if shape.backward else key for key in shape.sort]
    conditions = [matching] if matching else []
    if shape.after is not None:
        conditions.append(_after(order, shape.after, resource, parameters))
    source = f"{qualified(resource)} AS t"
    rest = f" FROM {source}{_and(conditions)} ORDER BY {', '.join(_order(key, resource) for key in order)}"
    rest += f" LIMIT {f'{parameters.next()}::bigint' if shape.limited else resource.limit_default + 1}"
    if shape.offset:
        rest += f" OFFSET {parameters.next()}::bigint"
    keys = f"ARRAY[{', '.join(f't.{quote(resource.fields[key.field].column)}::text' for key in shape.sort)}]"
    page = _rows_as_json(shape.fields, resource, rest, keys if shape.keys_beside else "")
    if not shape.counted:
        return page
    total = f"SELECT count(*) AS total FROM {source}{_and([matching] if matching else [])}"
    return f"SELECT c.total, p.* FROM ({total}) AS c LEFT JOIN ({page}) AS p ON true"


def compile_estimate(where: Filter | None, resource: Resource) -> str:
    """EXPLAIN of all rows that match: the planner's own estimate, as JSON. Values: the filter's."""
    matching = _where(where, resource, _Parameters())
    return f"EXPLAIN (FORMAT JSON) SELECT FROM {qualified(resource)} AS t{_and([matching] if matching else [])}"


def compile_explain(sql: str) -> str:
    """EXPLAIN of a statement, which is planned and not run. Values: the statement's."""
    return f"EXPLAIN (FORMAT JSON, VERBOSE) {sql}"


def compile_get(shape: GetShape, resource: Resource) -> str:
    """Columns: the row's JSON, and the number of its state. Or no row."""
    return _get(shape, resource, _Parameters())


def _get(shape: GetShape, resource: Resource, parameters: _Parameters) -> str:
    conditions = _key_conditions(resource, parameters)
    rule = _where(shape.where, resource, parameters)
    columns = ", ".join(f"{_out(field)} AS {quote(field.name)}" for field in map(resource.fields.__getitem__, shape.fields))
    source = f"{qualified(resource)} AS t CROSS JOIN LATERAL (SELECT {columns}) AS r"
    return f"SELECT row_to_json(r.*), {_state(resource)} FROM {source}{_and([*conditions, *([rule] if rule else [])])}"


def _state(resource: Resource, written: bool = False) -> str:
    """A number for the state that a row `t` is in: another one after each write, and 0 where nothing tells. `written`: of a row
    that the statement itself leaves behind.

    A heap's row is told by the transaction that wrote it (`xmin`, which freezing leaves as it is) and its place (`ctid`): what an
    AFTER trigger changes in the same transaction lies elsewhere. A partition does not tell of a row that was just written
    into it, but that transaction is this one. The numbers are hashed: how many transactions there are is nobody's business.
    """
    table = resource.table
    if resource.version_field is not None:
        told = f"t.{quote(resource.fields[resource.version_field].column)}"
    elif table.versioning == "heap" and not table.is_view:
        told = "t.xmin, t.ctid"
    elif table.versioning == "partitioned":
        told = "pg_current_xact_id()::xid" if written else "t.xmin"
    else:
        return "0::bigint"
    return f"hash_record_extended(ROW({told}), {table.seed})"


def compile_batch(shape: GetShape | ListShape, resource: Resource) -> str:
    """Many requests of one shape in one statement; "" for a shape without values, whose requests are all the same.

    Values: for each value of the shape an array of texts, one for each request, in an array's text form, which a list of values
    has within it too. The driver asks of each element of a list what it is, and a text is a text.
    The columns are the shape's and, last, the number of the request, from 1. Each request's rows come in their order.
    """
    parameters = _Parameters("q.v")
    single = _list(shape, resource, parameters) if isinstance(shape, ListShape) else _get(shape, resource, parameters)
    if not parameters.count:
        return ""
    arrays = ", ".join(f"${position}::text::text[]" for position in range(1, parameters.count + 1))
    names = ", ".join(f"v{position}" for position in range(1, parameters.count + 1))
    return f"SELECT p.*, q.n FROM unnest({arrays}) WITH ORDINALITY AS q({names}, n) CROSS JOIN LATERAL ({single}) AS p"


class _Write(NamedTuple):
    """A write, and what it answers, read from it as `w`: columns of these names."""

    statement: str
    answer: str
    columns: tuple[str, ...]


def compile_write(shape: WriteShape, resource: Resource) -> str:
    """Columns of a create and a patch: the row's JSON and the number of its state; of a create then its key as a JSON array.

    A delete answers just that there was a row. One that keeps its answer has other columns: see `_kept`.
    """
    parameters = _Parameters()
    if shape.once:
        return _kept(shape, resource, parameters)
    write = _write(shape, resource, parameters)
    return f"WITH w AS ({write.statement}) {write.answer}" if write.answer else write.statement


LOCK_MILLISECONDS = 50
"""How long creates that share a statement wait for somebody else's lock, before each goes by itself."""


def compile_together(shape: WriteShape, resource: Resource) -> str:
    """Many creates of one shape in one statement, all of them or none; "" where that may come to something else than one by one.

    Values: for each assignment an array of texts, as for `compile_batch`. The columns are those of the shape's own statement and,
    last, the number of the request, from 1: MERGE can answer with what it was given beside what it wrote, which INSERT cannot.
    A request whose row is not written has no row here either.

    The wait for locks is bounded by the statement itself, before it writes its first row: that takes no transaction of several
    statements, and ends with this one.
    """
    is_plain = shape.operation == "create" and not shape.once and shape.check is None and shape.seen is None
    if not (is_plain and shape.assigned and resource.table.inserts_together):
        return ""
    parameters = _Parameters("q.v")
    assigned = [resource.fields[assignment.field] for assignment in shape.assigned]
    given = ", ".join(_cast_written(parameters.next(), field.type) for field in assigned)
    arrays = ", ".join(f"${position}::text::text[]" for position in range(1, parameters.count + 1))
    names = ", ".join(f"v{position}" for position in range(1, parameters.count + 1))
    source = (
        f"SELECT q.* FROM unnest({arrays}) WITH ORDINALITY AS q({names}, n) "
        f"WHERE (SELECT set_config('lock_timeout', '{LOCK_MILLISECONDS}', true)) IS NOT NULL"
    )
    columns = ", ".join(quote(field.column) for field in assigned)
    insert = f"WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({given})"
    write = f"MERGE INTO {qualified(resource)} AS t USING ({source}) AS q ON false {insert}"
    merge = _answering(write, shape, resource, parameters, "q.n")
    return f"WITH w AS ({merge.statement}) {merge.answer}"


def _write(shape: WriteShape, resource: Resource, parameters: _Parameters, condition: str = "") -> _Write:
    """The write, of a row for which also `condition` holds."""
    table = f"{qualified(resource)} AS t"
    assigned = [(resource.fields[assignment.field], assignment.merge) for assignment in shape.assigned]
    if shape.operation == "create":
        columns = f"({', '.join(quote(field.column) for field, _ in assigned)}) " if assigned else ""
        given = ", ".join(_cast_written(parameters.next(), field.type) for field, _ in assigned)
        values = f"VALUES ({given})" if assigned else "DEFAULT VALUES"
        if condition:
            values = f"SELECT {given} WHERE {condition}"
        return _answering(f"INSERT INTO {table} {columns}{values}", shape, resource, parameters)
    changes = ", ".join(_change(field, merge, parameters) for field, merge in assigned)
    conditions = _key_conditions(resource, parameters)
    rule = _where(shape.where, resource, parameters)
    states = f"{_state(resource)} = ANY ({parameters.next()}::bigint[])" if shape.conditional else ""
    matching = _and([*conditions, *filter(None, (rule, states, condition))])
    if shape.operation == "delete":
        return _Write(f"DELETE FROM {table}{matching} RETURNING 1", "", ())
    return _answering(f"UPDATE {table} SET {changes}{matching}", shape, resource, parameters)


KEPT_TABLE = "gateway.idempotency_keys"
"""Where answers are kept; in a schema of its own, which belongs to nobody's data."""

KEPT_IS_READY = """
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname || '.' || c.relname = $1 AND has_schema_privilege(n.oid, 'USAGE')
    AND has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'DELETE'))
"""
"""Whether the table is there, and this role may do there what `READ_KEPT`, `CLEAN_KEPT` and keyed writes do. Values: its name."""

READ_KEPT = f"SELECT fingerprint, view, answer, state, key FROM {KEPT_TABLE} WHERE id = $1::bytea"
"""What is kept. Values: the id."""

CLEANING_LOCK = 7093846120573490
CLEAN_KEPT = f"""
WITH gate AS MATERIALIZED (SELECT pg_try_advisory_xact_lock({CLEANING_LOCK}) AS mine),
old AS MATERIALIZED (SELECT id FROM {KEPT_TABLE}
    WHERE kept_at < now() - make_interval(secs => $1::float8) AND (SELECT mine FROM gate) ORDER BY kept_at LIMIT $2::bigint),
gone AS (DELETE FROM {KEPT_TABLE} AS k USING old WHERE k.id = old.id RETURNING 1)
SELECT count(*) FROM gone
"""
"""How many were deleted, where no other process is at it. Values: seconds to keep an answer, rows at the most."""


def _kept(shape: WriteShape, resource: Resource, parameters: _Parameters) -> str:
    """A write that takes place once, and keeps its answer in the same statement.

    One row: `free`, whether nobody is at the same request; what is kept of it (`fingerprint` is null where nothing is, or was
    when the statement began); `done`, whether it was written now. `answer`, `state` and `key` are of whichever there is.
    """
    lock, place, fingerprint, view = (parameters.next() for _ in range(4))
    write = _write(shape, resource, parameters, "(SELECT free FROM gate) AND NOT EXISTS (SELECT FROM kept)")
    if write.answer:
        key = "k::text" if "k" in write.columns else "NULL::text"
        checked = "g" if "g" in write.columns else "0"
        made = f"SELECT j::text AS j, v, {key} AS k, {checked} AS g FROM ({write.answer}) AS a ({', '.join(write.columns)})"
    else:
        made = "SELECT NULL::text AS j, 0::bigint AS v, NULL::text AS k, 0 AS g FROM w"
    keep = f"INSERT INTO {KEPT_TABLE} (id, fingerprint, view, answer, state, key)"
    return (
        f"WITH gate AS MATERIALIZED (SELECT pg_try_advisory_xact_lock({lock}::bigint) AS free), "
        f"kept AS MATERIALIZED (SELECT fingerprint, view, answer, state, key FROM {KEPT_TABLE} WHERE id = {place}::bytea), "
        f"w AS ({write.statement}), made AS MATERIALIZED ({made}), "
        f"keep AS ({keep} SELECT {place}::bytea, {fingerprint}::bytea, {view}::bytea, j, v, k FROM made) "
        "SELECT gate.free, kept.fingerprint, kept.view, COALESCE(made.g = 0, false) AS done, "
        "COALESCE(made.j, kept.answer) AS answer, COALESCE(made.v, kept.state) AS state, COALESCE(made.k, kept.key) AS key "
        "FROM gate LEFT JOIN kept ON true LEFT JOIN made ON true"
    )


REFUSED = "gateway: the row is outside the grant"
"""What PostgreSQL's error says when a written row fails its check: the statement undoes itself, in one round trip."""


def _answering(write: str, shape: WriteShape, resource: Resource, parameters: _Parameters, number: str = "") -> _Write:
    """A write, then what it answers: the row, shown where it may be, its state, for a create its key, and `number`, if any.

    The state comes out of the write as `xmin` and the number as `cmin`, which no column of a table can be called.

    A row that fails its check makes the statement fail, and with it the write. The text that is no integer begins with a
    random number, so that the planner cannot read it beforehand.
    """
    check, seen = _where(shape.check, resource, parameters), _where(shape.seen, resource, parameters)
    write += f" RETURNING t.*, {_state(resource, written=True)} AS xmin" + (f", {number} AS cmin" if number else "")
    beside = ["t.xmin AS v"]
    beside += [f"{_key_as_json(resource)} AS k"] if shape.operation == "create" else []
    beside += [f"{seen} AS s"] if seen else []
    beside += [f"CASE WHEN {check} THEN 0 ELSE (random()::text || ' {REFUSED}')::integer END AS g"] if check else []
    beside += ["t.cmin AS n"] if number else []
    shown = [resource.fields[name] for name in shape.fields]
    selected = ", ".join([*(f"{_out(field)} AS c{position}" for position, field in enumerate(shown)), *beside])
    named = ", ".join(f"i.c{position} AS {quote(field.name)}" for position, field in enumerate(shown))
    row = "row_to_json(r.*)" if shown else "'{}'::json"
    answer = [f"CASE WHEN i.s THEN {row} ELSE '{{}}'::json END" if seen else row]
    names = [column.rsplit(" ", 1)[1] for column in beside if not column.endswith(" s")]
    answer += [f"i.{name}" for name in names]
    source = f" FROM (SELECT {selected} FROM w AS t) AS i CROSS JOIN LATERAL (SELECT {named}) AS r"
    return _Write(write, f"SELECT {', '.join(answer)}{source}", ("j", *names))


def compile_outside(shape: WriteShape, resource: Resource) -> str:
    """Whether the row that a create or patch would leave behind fails its check, without writing it. Values: the write's.

    A create does not know what the database gives where nothing is sent; it counts as unknown, and what hangs on it as not
    failed.
    """
    parameters = _Parameters()
    assigned = {
        assignment.field: _changed(resource.fields[assignment.field], assignment.merge, parameters)
        for assignment in shape.assigned
    }
    if shape.operation == "create":
        kept = {name: f"NULL::{_sql_of(field.type)}" for name, field in resource.fields.items()}
        source = ""
        failed = "IS FALSE"
    else:
        kept = {name: f"t.{quote(field.column)}" for name, field in resource.fields.items()}
        conditions = _key_conditions(resource, parameters)
        rule = _where(shape.where, resource, parameters)
        states = f"{_state(resource)} = ANY ({parameters.next()}::bigint[])" if shape.conditional else ""
        source = f" FROM {qualified(resource)} AS t{_and([*conditions, *filter(None, (rule, states))])}"
        failed = "IS NOT TRUE"
    columns = ", ".join(f"{value} AS {quote(resource.fields[name].column)}" for name, value in {**kept, **assigned}.items())
    check, seen = _where(shape.check, resource, parameters), _where(shape.seen, resource, parameters)
    beside = f", {seen}" if seen else ""  # it takes its values along
    return f"SELECT {check} {failed}{beside} FROM (SELECT {columns}{source}) AS t"


def _rows_as_json(fields: Iterable[str], resource: Resource, rest: str, beside: str = "") -> str:
    """`rest` begins with FROM and names the table `t`; `beside` is one more column.

    The rows are made before they become JSON, so that a sort carries columns, not texts; a subquery keeps its order.
    `r.*` is the row even where a field is called `r`, which a bare `r` would mean instead.
    """
    shown = [resource.fields[name] for name in fields]
    if not beside:
        columns = ", ".join(f"{_out(field)} AS {quote(field.name)}" for field in shown)
        return f"SELECT row_to_json(r.*) FROM (SELECT {columns}{rest}) AS r"
    columns = "".join(f"{_out(field)} AS c{position}, " for position, field in enumerate(shown))
    named = ", ".join(f"i.c{position} AS {quote(field.name)}" for position, field in enumerate(shown))
    return (
        f"SELECT row_to_json(r.*), i.k FROM (SELECT {columns}{beside} AS k{rest}) AS i CROSS JOIN LATERAL (SELECT {named}) AS r"
    )


def _and(conditions: list[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _key_conditions(resource: Resource, parameters: _Parameters) -> list[str]:
    fields = [resource.fields[name] for name in resource.key]
    return [f"t.{quote(field.column)} = {_cast(parameters.next(), field.type)}" for field in fields]


def _key_as_json(resource: Resource) -> str:
    return f"json_build_array({', '.join(_out(resource.fields[name]) for name in resource.key)})"


# --- values ------------------------------------------------------------------------------------------------------------


def _cast(parameter: str, column_type: ColumnType) -> str:
    """One value as its column's type. Text travels as text and PostgreSQL reads it."""
    if column_type.array:
        return f"{parameter}::text[]::{column_type.sql}[]"
    match column_type.wire:
        case "text":
            return f"{parameter}::text" if column_type.sql == "text" else f"{parameter}::text::{column_type.sql}"
        case "float8" if column_type.name == "float4":
            return f"{parameter}::float8::{column_type.sql}"
        case _:
            return f"{parameter}::{column_type.sql}"


def _cast_written(parameter: str, column_type: ColumnType) -> str:
    """A value to be stored as its column's type: as `_cast`, but for an array, which travels as one text."""
    return f"{parameter}::text::text[]::{column_type.sql}[]" if column_type.array else _cast(parameter, column_type)


def _cast_list(parameter: str, column_type: ColumnType) -> str:
    """A list of values as an array of their column's type."""
    match column_type.wire:
        case "text":
            return f"{parameter}::text[]::{column_type.sql}[]"
        case "float8":
            return f"{parameter}::float8[]::{column_type.sql}[]"
        case _:
            return f"{parameter}::{column_type.sql}[]"


def _out(field: Field) -> str:
    """A column in the form that row_to_json shall see."""
    column = f"t.{quote(field.column)}"
    match field.type.json_form:
        case "text":
            return f"{column}::text[]" if field.type.array else f"{column}::text"
        case "base64" if field.type.array:
            encoded = _BASE64.format(x="e")
            return f"CASE WHEN {column} IS NOT NULL THEN ARRAY(SELECT {encoded} FROM unnest({column}) AS e) END"
        case "base64":
            return _BASE64.format(x=column)
        case _:
            return column


_BASE64 = r"translate(encode({x}, 'base64'), E'\n', '')"  # PostgreSQL's base64 has a line break every 76 characters


def _change(field: Field, merge: Merge | None, parameters: _Parameters) -> str:
    return f"{quote(field.column)} = {_changed(field, merge, parameters)}"


def _changed(field: Field, merge: Merge | None, parameters: _Parameters) -> str:
    if merge is None:
        return _cast_written(parameters.next(), field.type)
    return f"({_merged(f't.{quote(field.column)}::jsonb', merge, parameters)})::{field.type.sql}"


def _sql_of(column_type: ColumnType) -> str:
    return f"{column_type.sql}[]" if column_type.array else column_type.sql


def _merged(target: str, merge: Merge, parameters: _Parameters) -> str:
    """RFC 7396: what is no object becomes one; dropped keys go, members are set, nested objects are merged in turn."""
    whole = f"CASE WHEN jsonb_typeof({target}) = 'object' THEN {target} ELSE '{{}}'::jsonb END"
    merged = f"(({whole}) - {parameters.next()}::text[]) || {parameters.next()}::text::jsonb"
    for nested in merge.nested:
        key = parameters.next()
        inner = _merged(f"({target} -> {key}::text)", nested, parameters)
        merged += f" || jsonb_build_object({key}::text, {inner})"
    return merged


# --- filters -----------------------------------------------------------------------------------------------------------


def _where(node: Filter | None, resource: Resource, parameters: _Parameters) -> str:
    match node:
        case None:
            return ""
        case And(items):
            return _joined(" AND ", items, resource, parameters)
        case Or(items):
            return _joined(" OR ", items, resource, parameters)
        case Not(item):
            return f"(NOT {_where(item, resource, parameters)})"
        case Comparison():
            return _comparison(node, resource.fields[node.field], parameters)


def _joined(word: str, items: tuple[Filter, ...], resource: Resource, parameters: _Parameters) -> str:
    return f"({word.join(_where(item, resource, parameters) for item in items)})"


def _comparison(node: Comparison, field: Field, parameters: _Parameters) -> str:
    operator = NOT_NULL if node.operator == "notnull" else OPERATORS[node.operator]
    column = f"t.{quote(field.column)}"
    if node.path:
        return f"({_on_path(node, operator, column, field, parameters)})"
    if field.type.family is Family.JSON and operator.json_sql:
        key = parameters.next() + ("::text[]" if operator.arity == "list" else "::text")
        return f"({operator.json_sql.format(x=f'{column}::jsonb', a=key)})"
    operands = [_operand(operator, field.type, parameters) for _ in range(_OPERANDS[operator.arity])]
    if field.type.family is Family.JSON:
        column = f"({column} #>> '{{}}')"  # JSON's own null is shown as null, so it counts as one
    if field.type.family is Family.OTHER:
        column = f"{column}::text"  # SQL calls a composite value null when all its parts are
    if field.type.array and operands:
        column = f"{column}::{field.type.sql}[]"  # an array of a domain has no operators with one of the domain's base type
    return f"({operator.sql.format(x=column, **dict(zip('ab', operands, strict=False)))})"


_OPERANDS = {"one": 1, "list": 1, "pair": 2, "flag": 0}


def _operand(operator: Operator, column_type: ColumnType, parameters: _Parameters) -> str:
    parameter = parameters.next()
    if operator.kind == "pattern":
        return f"{parameter}::text"
    if operator.kind == "element":
        scalar = ColumnType(column_type.name, column_type.sql)
        return _cast_list(parameter, scalar) if operator.arity == "list" else _cast(parameter, scalar)
    return _cast_list(parameter, column_type) if operator.arity == "list" else _cast(parameter, column_type)


def _on_path(node: Comparison, operator: Operator, column: str, field: Field, parameters: _Parameters) -> str:
    """A JSON path read as text, or as a number where the JSON has one. The path itself is a parameter."""
    path = f"{parameters.next()}::text[]"
    read = f"({column} #>> {path})"
    kind = "text"
    if node.path == "number":
        typeof = "jsonb_typeof" if field.type.name == "jsonb" else "json_typeof"
        read = f"CASE WHEN {typeof}({column} #> {path}) = 'number' THEN {read}::numeric END"
        kind = "numeric"
    column_type = ColumnType(kind, kind)
    operands = [_operand(operator, column_type, parameters) for _ in range(_OPERANDS[operator.arity])]
    return operator.sql.format(x=read, **dict(zip("ab", operands, strict=False)))


# --- order and keyset --------------------------------------------------------------------------------------------------


def _flip(key: SortKey) -> SortKey:
    return SortKey(key.field, not key.descending, not key.nulls_first)


def _order(key: SortKey, resource: Resource) -> str:
    """One ORDER BY term. NULLS is left out where it is PostgreSQL's default or cannot matter, for an index to serve it."""
    field = resource.fields[key.field]
    direction = " DESC" if key.descending else ""
    nulls = ""
    if field.nullable and key.nulls_first != key.descending:
        nulls = " NULLS FIRST" if key.nulls_first else " NULLS LAST"
    return f"t.{quote(field.column)}{direction}{nulls}"


def _after(order: list[SortKey], nulls: tuple[bool, ...], resource: Resource, parameters: _Parameters) -> str:
    """The rows behind the cursor's, null-safe in every direction.

    Where no key can be null and all run one way, a row comparison, which one index range serves. Else, for each key: equal
    before it and behind at it; with the first key's bound set apart, so that an index on it still narrows the scan.
    """
    keys = [_Key(key, resource.fields[key.field], null, parameters) for key, null in zip(order, nulls, strict=True)]
    if not any(key.nullable for key in keys) and len({key.descending for key in keys}) == 1:
        columns, values = ", ".join(key.column for key in keys), ", ".join(key.value for key in keys)
        return f"(({columns}) {keys[0].beyond} ({values}))"
    steps: list[str] = []
    for position, key in enumerate(keys):
        behind = key.behind()
        if behind:
            steps.append(" AND ".join([*(before.equal() for before in keys[:position]), behind]))
    if not steps:
        return "(false)"
    bound = keys[0].bound()
    return f"({bound}({' OR '.join(f'({step})' for step in steps)}))"


class _Key:
    """One sort key against its cursor's value."""

    def __init__(self, key: SortKey, field: Field, null: bool, parameters: _Parameters) -> None:
        cast = f"{field.type.sql}[]" if field.type.array else field.type.sql
        self.column = f"t.{quote(field.column)}" + (f"::{cast}" if field.type.array else "")
        self.nullable = field.nullable
        self.descending = key.descending
        self.nulls_first = key.nulls_first
        self.null = null
        self.value = "" if null else f"{parameters.next()}::text::{cast}"
        self.beyond = "<" if key.descending else ">"

    def equal(self) -> str:
        return f"{self.column} IS NULL" if self.null else f"{self.column} = {self.value}"

    def behind(self) -> str:
        """ "" where nothing can be."""
        if self.null:
            return f"{self.column} IS NOT NULL" if self.nulls_first else ""
        behind = f"{self.column} {self.beyond} {self.value}"
        return f"({behind} OR {self.column} IS NULL)" if self.nullable and not self.nulls_first else behind

    def bound(self) -> str:
        if self.null or (self.nullable and not self.nulls_first):
            return ""
        return f"{self.column} {self.beyond}= {self.value} AND "
