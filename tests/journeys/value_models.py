"""A table with a column of every type, small pools of values for it, and a model in plain Python of how they compare.

A value is written in its JSON form, as a request sends it and an answer shows it. A model's `key` makes something of it that
Python compares as PostgreSQL compares the value.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import random
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from functools import cmp_to_key
from typing import Any, NamedTuple

import asyncpg

from gateway.app import assemble
from gateway.catalog.model import Resource
from gateway.database.execute import Database
from gateway.database.pool import SESSION, Pool, PoolOptions
from gateway.pipeline import Page, Pipeline
from gateway.query.ast import ListRequest
from gateway.query.syntax.brackets import join_list
from gateway.settings import Settings

Key = Callable[[Any], Any]


class Model(NamedTuple):
    """One column: its type in SQL, the values that rows have, further ones that only conditions have, and the key.

    `unsent` are values of rows that no request may send. `element` marks an array, whose key is its elements'.
    """

    sql: str
    values: list[Any]
    others: list[Any]
    key: Key
    unsent: list[Any] = []  # noqa: RUF012 - never changed
    element: Key | None = None


# --- keys --------------------------------------------------------------------------------------------------------------


def same(value: Any) -> Any:
    return value


def number(value: Any) -> Any:
    """NaN is equal to itself and greater than all others, in PostgreSQL's numeric and floating point."""
    exact = Decimal(str(value))
    return (1, Decimal(0)) if exact.is_nan() else (0, exact)


def single(value: Any) -> Any:
    """A real: a value is first rounded to what the column can hold."""
    exact = float(value)
    return number(struct.unpack("f", struct.pack("f", exact))[0])


def double(value: Any) -> Any:
    return number(float(value))


def without_blanks(value: str) -> str:
    return value.rstrip(" ")


def rank_in(labels: list[str]) -> Key:
    return labels.index


def moment(read: Callable[[str], Any]) -> Key:
    """Dates and times with their infinities, and years before Christ, which Python does not have."""

    def key(value: str) -> Any:
        ends = {"-infinity": -2, "infinity": 1}
        if value in ends:
            return (ends[value], 0)
        return (-1, 0) if value.endswith(" BC") else (0, read(value))

    return key


def time_of_day_with_offset(value: str) -> Any:
    """The moment in UTC decides, then the offset: the one further east comes first."""
    read = time.fromisoformat(value)
    offset = read.utcoffset()
    assert offset is not None
    seconds = (read.hour * 60 + read.minute) * 60 + read.second
    return (seconds * 1_000_000 + read.microsecond - offset.total_seconds() * 1_000_000, -offset.total_seconds())


def duration(value: str) -> float:
    """A month counts as 30 days and a day as 24 hours."""
    match = re.fullmatch(r"P(?:(.+?)Y)?(?:(.+?)M)?(?:(.+?)D)?(?:T(?:(.+?)H)?(?:(.+?)M)?(?:(.+?)S)?)?", value)
    assert match is not None
    years, months, days, hours, minutes, seconds = (Decimal(part or 0) for part in match.groups())
    return float((((years * 12 + months) * 30 + days) * 24 + hours) * 3600 + minutes * 60 + seconds)


def _compare_addresses(one: str, two: str) -> int:
    """By family, then by the bits that both networks have, then by the networks' length, then by the whole address."""
    first, second = ipaddress.ip_interface(one), ipaddress.ip_interface(two)
    if first.version != second.version:
        return first.version - second.version
    lengths = first.network.prefixlen, second.network.prefixlen
    beyond = first.max_prefixlen - min(lengths)
    for left, right in ((int(first.ip) >> beyond, int(second.ip) >> beyond), lengths, (int(first.ip), int(second.ip))):
        if left != right:
            return -1 if left < right else 1
    return 0


address = cmp_to_key(_compare_addresses)


def span(read: Callable[[str], Any], discrete: bool = False) -> Key:
    """A range: empty first, then by the lower bound, then by the upper; an open end is beyond all values."""

    def key(value: str) -> Any:
        if value == "empty":
            return (0,)
        lower, upper = value[1:-1].split(",")
        low = (0, 0, 0) if not lower else (1, read(lower), value[0] == "(")
        high = (2, 0, 0) if not upper else (1, read(upper), value[-1] == "]")
        assert not discrete or value in ("(,)",) or value[-1] == ")"
        return (1, low, high)

    return key


def spans(read: Callable[[str], Any]) -> Key:
    one = span(read)
    return lambda value: tuple(one(part) for part in re.findall(r"[\[(][^\])]*[\])]", value))


def cents(value: str) -> int:
    return int(re.sub(r"[$,.]", "", value))


def log_position(value: str) -> Any:
    return tuple(int(part, 16) for part in value.split("/"))


def uncomparable(value: Any) -> Any:
    raise AssertionError(f"{value!r} has no order")


# --- the columns -------------------------------------------------------------------------------------------------------

LABELS = ["low", "High, really", "a\\b", "😀"]
TEXTS = ["", "a", "b", "A", "ab", "aB", "a,b", "100%", "a_b", "a\\b", "\\", "é", "É", "😀", " a", "line\nbreak"]
JSON_VALUES = [
    {}, [], None, 1, "a", True, {"a": 1}, {"a": "1"}, {"a": Decimal("1.0")}, {"a": Decimal("1.50"), "b": "x"}, {"a": None},
    {"a": {"b": "deep"}}, {"a": {"b": 2}}, {"a": ["x", "y", 3]}, ["a", "b", {"a": "in"}], {"": "empty", "bb": False}, {"a": True},
    {"a": "10"}, {"a": 10}, {"a": -2}, {"b": "x", "a": {"bb": 1, "c": [1, {"d": None}]}}, {"a": "a_b%"},
]  # fmt: skip

MODELS: dict[str, Model] = {
    "flag": Model("boolean", [True, False], [], same),
    "tiny": Model("smallint", [-1, 0, 1, 7], [-32768, 32767], same),
    "whole": Model("integer", [-1, 0, 1, 2147483647], [5, -2147483648], same),
    "large": Model("bigint", [2**53, 2**53 + 1, -1], [0, 2**63 - 1, -(2**63)], same),
    "exact": Model(
        "numeric",
        ["0", "1.5", "-0.001", "123456789012345678901.5"],
        ["1.50", "1e2", "-7"],
        number,
        ["NaN", "Infinity", "-Infinity"],
    ),
    "price": Model("numeric(6,2)", ["0.00", "1.50", "-1.50"], ["1.5", "1.501", "99999999"], number),
    "coarse": Model(
        "real", [0.5, 0.1, -1, 16777216, 0], [16777217, 0.10000001, 3e38, -0.0], single, ["NaN", "Infinity", "-Infinity"]
    ),
    "fine": Model(
        "double precision",
        [0.5, 0.1, -1, 1e300, 0],
        [0.30000000000000004, 5e-324, -0.0],
        double,
        ["NaN", "Infinity", "-Infinity"],
    ),
    "words": Model("text", TEXTS, ["zz", "%", "_"], same),
    "short": Model("varchar(12)", TEXTS, ["a value that is longer than the column"], same),
    "padded": Model("char(3)", ["   ", "a  ", "ab ", "abc", " a ", "%  "], ["a", "", "ab", "abcd"], without_blanks),
    "label": Model("name", ["", "a", "B", "b_c"], ["x" * 70], same),
    "ident": Model(
        "uuid",
        ["00000000-0000-0000-0000-000000000000", "6f1b0c1e-3a1c-4b1e-9a5e-0f6d7c8b9a01", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
        ["6F1B0C1E-3A1C-4B1E-9A5E-0F6D7C8B9A01", "10000000-0000-0000-0000-000000000000"],
        str.lower,
    ),
    "mood": Model("mood", LABELS, [], rank_in(LABELS)),
    "day": Model(
        "date",
        ["2024-02-29", "2024-03-01", "0001-01-01"],
        ["9999-12-31"],
        moment(date.fromisoformat),
        ["infinity", "-infinity", "0044-03-15 BC"],
    ),
    "local": Model(
        "timestamp",
        ["2024-05-01T12:00:00", "2024-05-01T12:00:00.000001"],
        ["2024-05-01T12:00:00.00", "2024-05-01T11:59:59.999999"],
        moment(datetime.fromisoformat),
        ["infinity", "-infinity", "0044-03-15T00:00:00 BC"],
    ),
    "instant": Model(
        "timestamptz",
        ["2024-05-01T12:00:00+00:00", "2024-05-01T12:00:00.5+00:00"],
        ["2024-05-01T14:00:00+02:00", "2024-05-01T12:00:00Z", "2023-12-31T23:30:00-05:00"],
        moment(datetime.fromisoformat),
        ["infinity", "-infinity", "0044-03-15T00:00:00+00:00 BC"],
    ),
    "clock": Model("time", ["00:00:00", "12:00:00", "12:00:00.5"], ["23:59:59.999999"], time.fromisoformat),
    "clock_there": Model(
        "timetz", ["12:00:00+00", "14:00:00+02", "12:00:00+02", "12:00:00-03:30"], ["12:00:00Z"], time_of_day_with_offset
    ),
    "length": Model(
        "interval",
        ["PT0S", "P1M", "P30D", "PT720H", "P-1D", "P1Y2M3DT4H5M6.5S", "P1DT-24H"],
        ["P1W", "PT1S", "P0D"],
        lambda value: duration("P7D" if value == "P1W" else value),
    ),
    "bytes": Model("bytea", ["", "AA==", "/w==", "AAEC", "+/+/"], ["AAE="], base64.b64decode),
    "host": Model(
        "inet",
        ["10.0.0.1", "10.0.0.0/8", "10.0.0.1/8", "2001:db8::1", "192.168.0.1"],
        ["10.0.0.1/32", "::/0", "10.0.0.0/16"],
        address,
    ),
    "net": Model("cidr", ["10.0.0.0/8", "10.0.0.0/16", "::/0", "10.0.0.1/32"], ["0.0.0.0/0"], address),
    "card": Model(
        "macaddr",
        ["00:00:00:00:00:00", "08:00:2b:01:02:03"],
        ["08-00-2B-01-02-03", "ff:ff:ff:ff:ff:ff"],
        lambda v: v.lower().replace("-", ":"),
    ),
    "card8": Model("macaddr8", ["08:00:2b:01:02:03:04:05"], ["00:00:00:00:00:00:00:00"], same),
    "seats": Model("int4range", ["empty", "[1,5)", "[1,6)", "(,5)", "[2,)", "(,)"], ["[1,2)"], span(int)),
    "prices": Model("numrange", ["empty", "[1,5)", "(1,5)", "[1,5]", "(,5)", "[1.5,)", "(,)"], ["[1.0,5.0]"], span(Decimal)),
    "sets": Model("int4multirange", ["{}", "{[1,3)}", "{[1,3),[5,7)}", "{(,0),[1,3)}"], ["{[1,4)}"], spans(int)),
    "cash": Model("money", ["$0.00", "$1,234.50", "-$0.01"], ["$2.00"], cents),
    "fixed_bits": Model("bit(3)", ["000", "010", "111"], ["110"], same),
    "bits": Model("varbit", ["", "0", "01", "010", "1"], ["00000000", "101"], same),
    "letter": Model('"char"', ["a", "Z", "~"], ["b"], same),
    "lsn": Model("pg_lsn", ["0/0", "16/B374D848"], ["1/0"], log_position),
    "positive": Model("positive", [1, 2, 3], [-1, 0], same),
    "code": Model("code", ["a", "bb"], ["c"], same),
    "place": Model("point", ["(1,2)"], [], uncomparable),
    "pair": Model("pair", ["(1,a)", "(,)"], [], uncomparable),
    "doc": Model("json", JSON_VALUES, [], uncomparable),
    "docb": Model("jsonb", JSON_VALUES, [], uncomparable),
    "texts": Model(
        "text[]", [[], ["a"], ["a", "b"], ["b", "a"], ["a", None], [None], ["", "a,b", "a\\b"]], [["c"]], same, [], same
    ),
    "wholes": Model("integer[]", [[], [1], [1, 2], [2, 1, None], [2147483647]], [[3]], same, [], same),
    "exacts": Model("numeric[]", [[], ["1.5"], ["1.50", "0"], [None, "2"]], [["1.500"]], same, [], number),
    "flags": Model("boolean[]", [[], [True], [False, None, True]], [], same, [], same),
    "moods": Model("mood[]", [[], ["low"], ["a\\b", "low"], ["High, really", None]], [["😀"]], same, [], same),
    "blobs": Model("bytea[]", [[], ["AA=="], ["", "/w==", None]], [["AAE="]], same, [], same),
    "instants": Model(
        "timestamptz[]",
        [[], ["2024-05-01T12:00:00+00:00"], [None, "2024-05-01T12:00:00.5+00:00"]],
        [["2024-05-01T14:00:00+02:00"]],
        same,
        [],
        datetime.fromisoformat,
    ),
    "codes": Model("code[]", [[], ["a"], ["bb", None, "a"]], [["c"]], same, [], same),
    "bit_sets": Model("bit(3)[]", [[], ["010"], ["010", "111", None]], [["000"]], same, [], same),
    "docs": Model("jsonb[]", [[], ["text", 1], [None, 1]], [[2]], same, [], same),
    "places": Model("point[]", [[], ["(1,2)", None]], [], uncomparable),
}
"""By the column's name. The key column `id` stands beside them."""

SETUP = f"""
    CREATE TYPE mood AS ENUM ({", ".join("'" + label + "'" for label in LABELS)});
    CREATE TYPE pair AS (x integer, y text);
    CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
    CREATE DOMAIN code AS varchar(5) CHECK (VALUE <> 'bad');
    CREATE TABLE things (id integer PRIMARY KEY, {", ".join(f"{name} {model.sql}" for name, model in MODELS.items())});
    CREATE TABLE pairs (
        a text, b numeric, words text, exact numeric, mood mood, instant timestamptz, bytes bytea, PRIMARY KEY (b, a)
    );
    CREATE TABLE moving (LIKE pairs INCLUDING ALL);
"""
DEFINITIONS = dict.fromkeys(("things", "pairs", "moving"), "list: {limit: {default: 1000, max: 1000}}\n")


def things(count: int, seed: int, null_share: float = 0.2) -> list[dict[str, Any]]:
    """Rows with values drawn from the pools; equal arguments give equal rows."""
    chance = random.Random(seed)
    rows = []
    for number_of_row in range(1, count + 1):
        row: dict[str, Any] = {"id": number_of_row}
        for name, model in MODELS.items():
            pool = model.values + model.unsent
            row[name] = None if chance.random() < null_share else chance.choice(pool)
        rows.append(row)
    return rows


# --- the gateway without HTTP ------------------------------------------------------------------------------------------


class Bench(NamedTuple):
    """The pipeline over a database with the tables, in an event loop of its own, and a connection beside it."""

    runner: asyncio.Runner
    pipeline: Pipeline
    connection: asyncpg.Connection[asyncpg.Record]

    def resource(self, name: str) -> Resource:
        return self.pipeline.resource("v1", name)

    def page(self, name: str, request: ListRequest) -> Page:
        return self.runner.run(self.pipeline.list_rows(self.resource(name), request))

    def execute(self, sql: str, *values: Any) -> list[Any]:
        return self.runner.run(self.connection.fetch(sql, *values))

    def insert(self, table: str, rows: list[dict[str, Any]]) -> None:
        """By PostgreSQL's own reading of JSON, but for bytes, which it does not know as base64."""
        as_json = json.dumps([{name: _stored(name, value) for name, value in row.items()} for row in rows], default=_json_number)
        self.execute(
            f"INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, $1::text::json)", _unquoted(as_json)
        )


def _stored(name: str, value: Any) -> Any:
    if name == "bytes" and value is not None:
        return "\\x" + base64.b64decode(value).hex()
    if name == "blobs" and value is not None:
        return [None if element is None else "\\x" + base64.b64decode(element).hex() for element in value]
    return value


def _json_number(value: Any) -> Any:
    return f"\u0001{value}\u0001"


def _unquoted(text: str) -> str:
    """A Decimal's digits as they stand: json.dumps knows no number that is not a float."""
    return text.replace('"\\u0001', "").replace('\\u0001"', "")


@contextmanager
def bench(settings: Settings, url: str) -> Iterator[Bench]:
    """Makes the tables in the empty database at `url`. `settings` name the directory of the definitions."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url, server_settings=SESSION))
        runner.run(connection.execute(SETUP))
        catalog, faults = runner.run(assemble(settings))
        assert not faults
        pool = Pool(PoolOptions(url=url, name="tests", minimum=1, maximum=2))
        runner.run(pool.open())
        try:
            yield Bench(runner, Pipeline(catalog, Database(pool)), connection)
        finally:
            runner.run(pool.close())
            runner.run(connection.close())


# --- conditions, in plain Python ---------------------------------------------------------------------------------------

Verdict = bool | None
"""SQL's three values; None is unknown."""


class Ask(NamedTuple):
    """One comparison: `field` may be a JSON path. `operand` is a JSON value, or a list of them where the operator takes one."""

    field: str
    operator: str
    operand: Any


class Logic(NamedTuple):
    """`and`, `or`, `not`."""

    kind: str
    items: tuple[Any, ...]


def written(node: Ask | Logic) -> dict[str, Any]:
    """The JSON form of the grammar, as `filter=` takes it."""
    if isinstance(node, Ask):
        return {node.field: {node.operator: node.operand}}
    if node.kind == "not":
        return {"not": written(node.items[0])}
    return {node.kind: [written(item) for item in node.items]}


def parameter(ask: Ask) -> tuple[str, str] | None:
    """The URL's form of a condition: (name, value); None where a URL cannot say it."""
    name, operand = f"{ask.field}[{ask.operator}]", ask.operand
    if ask.field == "docs" and ask.operator != "null":
        return None  # JSON values are compared in the JSON dialect alone
    if not isinstance(operand, list):
        return name, text_of(operand)
    if not operand or None in operand or any(isinstance(item, list | dict) for item in operand):
        return None
    return name, join_list([text_of(item) for item in operand])


def text_of(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def holds(node: Ask | Logic, row: Mapping[str, Any], typed: bool = True) -> Verdict:
    """What SQL says of the row. `typed` tells the JSON dialect from the URL, where a JSON path's operand is text."""
    if isinstance(node, Ask):
        return _ask(node, row, typed)
    verdicts = [holds(item, row, typed) for item in node.items]
    match node.kind:
        case "not":
            return None if verdicts[0] is None else not verdicts[0]
        case "and":
            return False if False in verdicts else None if None in verdicts else True
        case _:
            return True if True in verdicts else None if None in verdicts else False


def _ask(ask: Ask, row: Mapping[str, Any], typed: bool) -> Verdict:
    name, _, path = ask.field.partition(".")
    value = row[name]
    if path:
        return _on_path(ask, name, value, path.split("."), typed)
    if ask.operator == "null":
        return (value is None) is ask.operand
    if value is None:
        return None
    if ask.operator in CONTAINED:
        return _contains(ask, name, value)
    if ask.operator in MATCHED:
        return MATCHED[ask.operator](value, ask.operand)
    model = MODELS[name]
    if model.element is not None:
        return COMPARED[ask.operator](_elements(model.element, value), _elements(model.element, ask.operand))
    return COMPARED[ask.operator](
        model.key(value), [model.key(item) for item in ask.operand] if isinstance(ask.operand, list) else model.key(ask.operand)
    )


def _contains(ask: Ask, name: str, value: Any) -> bool:
    """An array has elements; JSON has an object's keys, an array's strings, or is itself the string."""
    key = MODELS[name].element
    if key is None:
        strings = [value] if isinstance(value, str) else value if isinstance(value, dict | list) else []
        return CONTAINED[ask.operator]([item for item in strings if isinstance(item, str)], ask.operand)
    operand = [key(item) for item in ask.operand] if isinstance(ask.operand, list) else key(ask.operand)
    return CONTAINED[ask.operator]([key(element) for element in value if element is not None], operand)


def _elements(key: Key, array: list[Any]) -> list[Any]:
    """Within an array a null is equal to a null."""
    return [None if element is None else key(element) for element in array]


COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda x, a: x == a,
    "ne": lambda x, a: x != a,
    "gt": lambda x, a: x > a,
    "gte": lambda x, a: x >= a,
    "lt": lambda x, a: x < a,
    "lte": lambda x, a: x <= a,
    "in": lambda x, a: x in a,
    "nin": lambda x, a: x not in a,
    "between": lambda x, a: a[0] <= x <= a[1],
}
CONTAINED: dict[str, Callable[[list[Any], Any], bool]] = {
    "has": lambda x, a: a in x,
    "any": lambda x, a: any(item in x for item in a),
    "all": lambda x, a: all(item in x for item in a),
}
MATCHED: dict[str, Callable[[str, str], bool]] = {
    "like": lambda x, a: _like(a).fullmatch(x) is not None,
    "ilike": lambda x, a: _like(a.lower()).fullmatch(x.lower()) is not None,
    "contains": lambda x, a: a in x,
    "starts": lambda x, a: x.startswith(a),
    "ends": lambda x, a: x.endswith(a),
}


def _like(pattern: str) -> re.Pattern[str]:
    pieces = re.findall(r"\\(?:.|\n)|[^\\]", pattern)
    wild = {"%": ".*", "_": "."}
    return re.compile("".join(wild.get(piece) or re.escape(piece[-1]) for piece in pieces), re.DOTALL)


# --- JSON paths --------------------------------------------------------------------------------------------------------

ORDERING = ("gt", "gte", "lt", "lte", "between")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,6})?")


def _on_path(ask: Ask, name: str, value: Any, steps: list[str], typed: bool) -> Verdict:
    found = _follow(value, steps)
    if ask.operator == "null":
        return (found is None) is ask.operand
    if found is None:
        return None
    if ask.operator in MATCHED:
        return MATCHED[ask.operator](shown_by_postgresql(found, name == "docb"), text_of(ask.operand))
    operands = ask.operand if isinstance(ask.operand, list) else [ask.operand]
    numeric = _is_about_numbers(ask.operator, operands, typed)
    if numeric and not _is_number(found):
        return None
    read: Key = (lambda item: Decimal(str(item))) if numeric else text_of
    shown = read(found) if numeric else shown_by_postgresql(found, name == "docb")
    return COMPARED[ask.operator](
        shown, [read(item) for item in ask.operand] if isinstance(ask.operand, list) else read(ask.operand)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _is_about_numbers(operator: str, operands: list[Any], typed: bool) -> bool:
    """JSON numbers are compared as numbers; in a URL, digits are, where it is about order."""
    if typed:
        return all(_is_number(item) for item in operands)
    return operator in ORDERING and all(_NUMBER.fullmatch(text_of(item)) for item in operands)


def _follow(value: Any, steps: list[str]) -> Any:
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and re.fullmatch(r"-?[0-9]+", step) and -len(value) <= int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def shown_by_postgresql(value: Any, binary: bool) -> str:
    """The text that `#>>` gives: jsonb sorts an object's keys by their length, json keeps what was stored."""
    if isinstance(value, str):
        return value
    return _unquoted(json.dumps(_in_order(value) if binary else value, default=_json_number, ensure_ascii=False))


def _in_order(value: Any) -> Any:
    match value:
        case dict():
            keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
            return {key: _in_order(value[key]) for key in keys}
        case list():
            return [_in_order(item) for item in value]
        case _:
            return value
