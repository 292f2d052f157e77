"""What must hold of every request there can be: of any bytes a plan or one of our errors, and SQL that no value changes.

A failure found once stays as an `@example`.
"""

from __future__ import annotations

import itertools
import json
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.catalog.build import parse_sort_key
from gateway.catalog.model import Column, Resource, SortKey
from gateway.catalog.types import ColumnType
from gateway.errors import GatewayError
from gateway.http.requests import split_path
from gateway.http.responses import key_text, problem_response
from gateway.query.ast import Bound, Comparison, Condition, Grant, Group, ListPlan, Merge, States, WritePlan, Written
from gateway.query.compile import compile_estimate, compile_list
from gateway.query.cursor import Cursor, decode_cursor, encode_cursor
from gateway.query.operators import OPERATORS, operators_for
from gateway.query.payload import Form, plan_create, plan_delete, plan_patch
from gateway.query.plan import filter_values, plan_get, plan_list
from gateway.query.plans import Plans
from gateway.query.syntax.brackets import OPTIONS, join_list, parse_list, parse_parameters, split_list
from gateway.query.syntax.json import parse_filter
from tests.examples import examples
from tests.query.sample import BIGINT, EVERYTHING, JSONB, TEXT, resource, row_sql, table

PAIR = resource(
    table(
        "pairs",
        [Column("left", BIGINT, nullable=False), Column("right", TEXT, nullable=False), Column("doc", JSONB, nullable=True)],
        primary_key=("left", "right"),
    )
)
FEW = settings(max_examples=examples(120), deadline=None, derandomize=True)
MANY = settings(
    max_examples=examples(1500),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SAME = settings(parent=MANY, max_examples=examples(300))
"""For two ways that must come to the same: what any one way must hold of is tried by `MANY`."""
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)

NASTY_TEXTS = (
    "", " ", ",", "\\", "\\,", "%", "_", "\0", "a\0b", "é", "😀", "'", '"', "$1", "null", "true", "false", "NaN",
    "Infinity", "-0", "0", "1", "-1", "1.5", "1e5", "1e999999999", "1e-999999999", "9223372036854775807",
    "9223372036854775808", "99999999999999999999999", "0x10", "1_000", "٣", "1.", ".5", "+1", "--1", "12345678901.23",
    "2024-05-01", "2024-02-30", "0000-00-00", "10000-01-01", "2024-05-01T12:00:00", "2024-05-01T12:00:00Z",
    "2024-05-01T12:00:00+02:00", "2024-05-01 12:00:00 02:00", "24:00:00", "12:00", "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00", "2024-06-30T23:59:60Z", "12:00:00+02:00", "P1D", "P", "PT", "-P1Y2M", "aGk=", "aGk",
    "10.0.0.1", "10.0.0.1/8", "::1", "10.0.0.1/99", "08:00:2b:01:02:03", "[1,2)", "empty", "0101", "2", "ok", "red",
    "6f9619ff-8b86-d011-b42d-00c04fc964ff", "id", "-id", "name:nullslast", "price:nullsfirst", "a,b", "exact",
    "estimated", '{"status":"ok"}', '{"or":[{"price":1},{"doc.a":"x"}]}', '{"price":NaN}', '{"a":1,"a":2}',
    '{"doc.\\ud800":1}', '{"name":"\\ud800"}', '{"\\udfff":1}', '{"name":{"\\ud800":1}}', '{"price":1e999999999}',
)  # fmt: skip

DEEP = st.sampled_from("[{").map(lambda opening: opening * 10_000)
NASTY = st.one_of(st.sampled_from(NASTY_TEXTS), DEEP)

FIELD_NAMES = (*EVERYTHING.fields, "doc.color", "doc.a.0", "raw.x", "doc.", "doc..a", "name.x", "nope", "doc.\0")
OPERATOR_NAMES = (*OPERATORS, "", "notnull", "nope", "EQ")
NAMES = st.one_of(
    st.sampled_from(OPTIONS),
    st.sampled_from(("expand", "q", "nope")),
    st.sampled_from(FIELD_NAMES),
    st.builds("{}[{}]".format, st.sampled_from(FIELD_NAMES), st.sampled_from(OPERATOR_NAMES)),
    TEXTS,
)

SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from((2**31, -(2**31) - 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**400)),
    st.floats(allow_nan=True),
    st.sampled_from(NASTY_TEXTS),
    TEXTS,
    st.just("\ud800"),
)
TREES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from((*FIELD_NAMES, *OPERATORS, "and", "or", "not")), TEXTS), inner, max_size=4),
    ),
    max_leaves=8,
)
FITTING: dict[str, st.SearchStrategy[str]] = {
    "id": st.integers(-(2**63), 2**63 - 1).map(str),
    "price": st.decimals(-(10**9), 10**9, places=2).map(str),
    "ratio": st.floats(-1e9, 1e9).map(lambda number: f"{number:.6f}"),
    "name": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
    "token": st.uuids().map(str),
    "status": st.sampled_from(("sad", "ok", "happy")),
    "active": st.sampled_from(("true", "false")),
    "made_at": st.datetimes().map(lambda moment: f"{moment.replace(microsecond=0).isoformat()}Z"),
    "day": st.dates().map(str),
    "picture": st.binary(max_size=8).map(lambda content: b64encode(content).decode()),
    "address": st.ip_addresses(v=4).map(str),
    "period": st.sampled_from(("empty", "[2024-01-01,2024-02-01)", "'; DROP TABLE x --")),
    "bits": st.text("01", min_size=1, max_size=8),
    "tags": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
    "doc": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
}
"""For fields of every family with operators that take values: URL texts that fit."""


def operands(draw: st.DrawFn, name: str, arity: str) -> list[str]:
    """As many fitting texts as an operator takes."""
    least, greatest = {"one": (1, 1), "pair": (2, 2), "flag": (0, 0), "list": (1, 5)}[arity]
    return draw(st.lists(FITTING[name], min_size=least, max_size=greatest))


@st.composite
def fitting_comparison(draw: st.DrawFn) -> tuple[str, str, list[str]]:
    """A field, an operator that it takes, and operands that fit."""
    name = draw(st.sampled_from(sorted(FITTING)))
    operator = draw(st.sampled_from(operators_for(EVERYTHING.fields[name].type.family)))
    found = [text.replace("\\", "") for text in operands(draw, name, operator.arity)]
    return name, operator.name, found if operator.arity != "flag" else [draw(st.sampled_from(("true", "false")))]


def encoded(name: str, value: str, whole: bool) -> bytes:
    """One parameter, percent-encoded whole, or raw but for what would end it."""
    if whole:
        return f"{quote(name, safe='')}={quote(value, safe='')}".encode()
    return f"{name}={value}".replace("&", "%26").encode()


def comparison_member(comparison: tuple[str, str, list[str]]) -> dict[str, Any]:
    """The same in `filter=`, where lists are arrays and flags booleans; numbers stay strings, which they may be."""
    name, operator, found = comparison
    if operator == "null" or name == "active":
        typed: list[Any] = [text == "true" for text in found]
    else:
        typed = [float(text) if name == "ratio" else text for text in found]
    is_list = OPERATORS[operator].arity in ("list", "pair") or (
        name == "tags" and OPERATORS[operator].kind == "value" and operator != "null"
    )
    return {name: {operator: typed if is_list else typed[0]}}


LEAVES = st.one_of(
    fitting_comparison().map(comparison_member),
    fitting_comparison().map(comparison_member),
    fitting_comparison().map(comparison_member),
    st.builds(lambda path, value: {path: value}, st.sampled_from(("doc.color", "doc.a.0", "raw.x")), SCALARS),
    st.dictionaries(
        st.sampled_from(FIELD_NAMES),
        st.one_of(SCALARS, st.dictionaries(st.sampled_from(OPERATOR_NAMES), TREES, max_size=2)),
        max_size=3,
    ),
)
FILTERS: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda word, items: {word: items}, st.sampled_from(("and", "or")), st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda item: {"not": item}, inner),
    ),
    max_leaves=3,
)


FITTING_PARAMETERS = st.one_of(
    fitting_comparison().map(lambda found: encoded(f"{found[0]}[{found[1]}]", join_list(found[2]), True)),
    st.sampled_from((b"sort=-price,name", b"sort=-day:nullslast", b"fields=id,tags", b"limit=7", b"page=3", b"count=exact")),
)
PARAMETERS = st.builds(encoded, NAMES, st.one_of(NASTY, TEXTS), st.booleans())
FILTER_PARAMETERS = st.builds(lambda tree: encoded("filter", json.dumps(tree), True), FILTERS)
QUERIES = st.one_of(
    st.binary(max_size=60),
    st.lists(FITTING_PARAMETERS, max_size=3).map(b"&".join),
    st.tuples(FITTING_PARAMETERS, PARAMETERS).map(b"&".join),
    st.lists(st.one_of(FITTING_PARAMETERS, PARAMETERS, FILTER_PARAMETERS), min_size=1, max_size=4).map(b"&".join),
)


def check_told(error: GatewayError) -> None:
    """An error of ours that can be sent: below 500, and every problem of it named in an answer that is JSON."""
    assert error.status in (400, 404), error
    body = json.loads(problem_response(error).body)["error"]
    assert body["message"]
    assert all(problem["message"] for problem in body["details"].get("problems", []))


def check_parameters(sql: str, values: tuple[Any, ...]) -> None:
    """Each value has its parameter, and the driver can encode it."""
    for position, value in enumerate(values, 1):
        assert f"${position}::" in sql
        msgspec.msgpack.encode(value)
    assert f"${len(values) + 1}::" not in sql


@MANY
@given(QUERIES)
@example(b'filter={"doc.\\ud800":1}')
@example(b'filter={"name":"\\ud800"}')
@example(b'filter={"doc.color":{"contains":5}}')
@example(b"doc.%00=1")
@example(b"name=%FF")
@example(b"sort=")
@example(b"fields=")
@example(b"limit=%D9%A3")
def test_any_query_string_is_a_plan_or_an_error_of_ours(query: bytes) -> None:
    try:
        plan = plan_list(EVERYTHING, parse_list(query))
    except GatewayError as error:
        check_told(error)
        return
    check_parameters(compile_list(plan.shape, EVERYTHING), plan.values)
    check_parameters(compile_estimate(plan.shape.where, EVERYTHING), filter_values(plan))


@settings(parent=MANY, max_examples=examples(750))
@given(st.lists(FILTERS, min_size=1, max_size=2))
def test_any_filter_is_a_plan_or_an_error_of_ours(filters: list[Any]) -> None:
    query = b"&".join(encoded(name, json.dumps(tree), True) for name, tree in zip(("filter", "doc.x"), filters, strict=False))
    try:
        plan = plan_list(EVERYTHING, parse_list(query))
    except GatewayError as error:
        check_told(error)
        return
    check_parameters(compile_list(plan.shape, EVERYTHING), plan.values)


def dumped_twice(members: list[tuple[str, Any]]) -> bytes:
    """An object's JSON with its members as they come, of which several may have one key."""
    return ("{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in members) + "}").encode()


SENT: dict[str, st.SearchStrategy[Any]] = {
    name: strategy for name, strategy in FITTING.items() if name not in ("tags", "doc", "active", "ratio")
} | {
    "active": st.booleans(),
    "ratio": st.floats(-1e9, 1e9),
    "whole": st.integers(-(2**31), 2**31 - 1),
    "tags": st.lists(st.one_of(st.none(), st.text("ab,", max_size=3)), max_size=3),
    "doc": TREES,
    "code": st.none(),
}
"""For some fields: JSON values that fit."""
FITTING_MEMBERS = st.one_of([st.tuples(st.just(name), strategy) for name, strategy in SENT.items()])
MEMBERS = st.tuples(st.one_of(st.sampled_from(FIELD_NAMES), TEXTS, st.just("\ud800")), TREES)
BODIES = st.one_of(
    st.binary(max_size=60),
    TREES.map(lambda tree: json.dumps(tree).encode()),
    st.lists(FITTING_MEMBERS, max_size=4, unique_by=lambda member: member[0]).map(dumped_twice),
    st.lists(st.one_of(FITTING_MEMBERS, MEMBERS), max_size=3).map(dumped_twice),
    st.tuples(MEMBERS, st.binary(max_size=3)).map(lambda pair: dumped_twice([pair[0]])[:-1] + pair[1]),
    NASTY.map(str.encode),
)


@MANY
@given(BODIES, st.booleans(), st.sampled_from((EVERYTHING, PAIR)))
@example(b'{"\\ud800": 1}', False, EVERYTHING)
@example(b'{"doc": {"\\ud800": 1}}', True, EVERYTHING)
@example(b"[" * 10_000, False, EVERYTHING)
@example(b'{"doc":' + b'{"a":' * 980 + b"1" + b"}" * 981, True, EVERYTHING)
@example(b'{"picture": 5}', False, EVERYTHING)
@example(b'{"price": 1e999999999}', False, EVERYTHING)
@example(b'{"ratio": 1e999999999}', False, EVERYTHING)
@example(b'{"id": 1e999999999}', False, EVERYTHING)
def test_any_body_is_a_plan_or_an_error_of_ours(body: bytes, merge: bool, found: Resource) -> None:
    key = ("1", "x")[: len(found.key)]
    plans: tuple[Callable[[], WritePlan], ...] = (lambda: plan_create(found, body), lambda: plan_patch(found, key, body, merge))
    for plan_of in plans:
        try:
            plan = plan_of()
        except GatewayError as error:
            check_told(error)
            continue
        check_parameters(row_sql(plan, found), plan.values)
        kept = WritePlan(msgspec.structs.replace(plan.shape, once=True), (1, b"id", b"print", b"view", *plan.values))
        check_parameters(row_sql(kept, found), kept.values)


def outcome(plan_of: Callable[[], Any]) -> Any:
    """A plan, or how it is refused."""
    try:
        return plan_of()
    except GatewayError as error:
        return error.code, error.message, error.problems


RULES = st.one_of(
    st.none(),
    st.sampled_from(("a", "b")).map(lambda text: Bound(Comparison("name", "eq"), (text,))),
    st.lists(st.integers(0, 3), min_size=1, max_size=2).map(lambda whole: Bound(Comparison("whole", "in"), (whole,))),
)
FIELD_SETS = st.one_of(st.none(), st.frozensets(st.sampled_from(("id", "name", "price", "tags", "doc")), min_size=3))
GRANTS = st.builds(
    Grant,
    readable=st.booleans(),
    read_fields=FIELD_SETS,
    write_fields=FIELD_SETS,
    rows=RULES,
    seen_rows=RULES,
    set=st.sampled_from(((), (("whole", 1),), (("whole", 2), ("code", "x")))),
)
READING = st.builds(Grant, read_fields=FIELD_SETS, rows=RULES)
STATES = st.one_of(st.none(), st.lists(st.integers(1, 3), max_size=2).map(tuple))
PLANS = Plans()


@SAME
@given(BODIES, st.booleans(), GRANTS, STATES)
def test_what_is_kept_for_a_grant_changes_no_plan_of_a_write(
    body: bytes, merge: bool, grant: Grant, states: States | None
) -> None:
    create = outcome(lambda: plan_create(EVERYTHING, body, grant))
    assert outcome(lambda: PLANS.create(EVERYTHING, body, grant)) == create
    patch = outcome(lambda: plan_patch(EVERYTHING, ("1",), body, merge, grant, states))
    assert outcome(lambda: PLANS.patch(EVERYTHING, ("1",), body, merge, grant, states)) == patch


OPTION_TEXTS = {
    "sort": ("-price,name", "-day:nullslast", "name", "nope"),
    "fields": ("id,tags", "id", "nope"),
    "limit": ("7", "20", "100", "0", "x"),
    "page": ("1", "2", "30", "99999", "x"),
    "count": ("exact", "estimated", "none", "x"),
    "filter": ('{"price":1}', "x"),
}
PATHS = (("doc.color", "eq"), ("doc.a.0", "gt"))


@st.composite
def alike(draw: st.DrawFn) -> list[bytes]:
    """Three query strings with the same parameters, whose values differ; some of them cannot be taken."""
    named = st.sampled_from(sorted(FITTING)).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from(operators_for(EVERYTHING.fields[name].type.family)))
    )
    written = st.one_of(named.map(lambda pair: (pair[0], pair[1].name)), st.sampled_from(PATHS))
    conditions = draw(st.lists(written, max_size=3, unique=True))
    options = draw(st.lists(st.sampled_from(sorted(OPTION_TEXTS)), max_size=3, unique=True))
    queries: list[bytes] = []
    for _ in range(3):
        parts: list[bytes] = []
        for name, operator in conditions:
            fitting = FITTING.get(name, TEXTS)
            texts = draw(st.lists(fitting, min_size=1, max_size=2)) if operator in ("in", "nin", "between") else [draw(fitting)]
            text = draw(st.sampled_from(("true", "false"))) if operator == "null" else join_list(texts)
            text = draw(NASTY) if draw(st.integers(0, 9)) == 0 else text
            parts.append(encoded(name if operator == "eq" else f"{name}[{operator}]", text, draw(st.booleans())))
        parts += [encoded(option, draw(st.sampled_from(OPTION_TEXTS[option])), whole=True) for option in options]
        queries.append(b"&".join(parts))
    return queries


CURSOR_TEXTS = st.one_of(st.none(), st.sampled_from(("1", "2024-05-01", "x", "\0")))


@settings(parent=SAME, max_examples=examples(400))  # of three query strings each, each with two grants
@given(alike(), st.lists(READING, min_size=1, max_size=2), st.booleans(), st.lists(CURSOR_TEXTS, min_size=3, max_size=3))
def test_a_list_planned_by_a_template_is_planned_as_from_scratch(
    queries: list[bytes], grants: list[Grant], backward: bool, keys: list[str | None]
) -> None:
    plans = Plans()

    def found(query: bytes, grant: Grant) -> Any:
        """The plan from scratch, which is also the one by a template."""
        plan = outcome(lambda: plan_list(EVERYTHING, parse_list(query), grant))
        assert outcome(lambda: plans.list(EVERYTHING, query, grant)) == plan
        return plan

    for query, grant in itertools.product(queries, grants):
        plan = found(query, grant)
        if isinstance(plan, ListPlan):
            cursor = encode_cursor(Cursor(plan.fingerprint, backward, tuple(keys[: len(plan.shape.sort)]))).encode()
            for text in (cursor, cursor[:-1]):
                found(b"%b&cursor=%b" % (query, text), grant)


BOUNDED = resource(
    table(
        "bounded",
        [
            Column("id", BIGINT, nullable=False, filled=True, generated=True),
            Column("title", TEXT, nullable=False),
            Column("code", ColumnType("varchar", "character varying", length=3), nullable=True),
            Column("genre", TEXT, nullable=True),
            Column("mood", ColumnType("enum", "mood", labels=("sad", "o,k", "")), nullable=False, filled=True),
            Column("pages", ColumnType("int2", "smallint"), nullable=True),
            Column("stock", ColumnType("int4", "integer"), nullable=False, filled=True),
            Column("size", ColumnType("int4", "integer"), nullable=True),
            Column("price", ColumnType("numeric", "numeric", precision=4, scale=2), nullable=True),
            Column("sold", ColumnType("bool", "boolean"), nullable=False, filled=True),
            Column("words", ColumnType("text", "text", array=True), nullable=True),
            Column("codes", ColumnType("varchar", "character varying", array=True, length=2), nullable=True),
            Column("facts", JSONB, nullable=False, filled=True),
            Column("with space", TEXT, nullable=True),
        ],
    ),
    """
fields:
  title: {min_length: 1, max_length: 4, pattern: "^[a-z]+$"}
  code:  {min_length: 2}
  genre: {enum: [crime, verse]}
  pages: {minimum: 1}
  stock: {minimum: 0, maximum: 10}
  size:  {enum: [1, 2]}
  price: {minimum: 0, maximum: "9.5"}
""",
)
SMALL_TEXTS = st.one_of(
    st.sampled_from(("crime", "verse", "sad", "o,k", "", "abc", "abc\n", "1", "2.50", "a:b")), st.text("ab:1\n😀", max_size=5)
)
SMALL_NUMBERS = st.one_of(st.integers(-2, 12), st.sampled_from((1.0, 2.5, 9.5, 9.75, 1e3, 40000, 2**31, 2**63, 10**30)))
SMALL: st.SearchStrategy[Any] = st.one_of(
    SMALL_TEXTS,
    SMALL_NUMBERS,
    st.none(),
    st.booleans(),
    st.lists(st.one_of(SMALL_TEXTS, st.none(), SMALL_NUMBERS), max_size=3),
    st.dictionaries(SMALL_TEXTS, st.one_of(SMALL_NUMBERS, st.dictionaries(SMALL_TEXTS, SMALL_TEXTS, max_size=2)), max_size=2),
)
RIGHT: dict[str, st.SearchStrategy[Any]] = {
    "title": st.text("abc", min_size=1, max_size=4),
    "code": st.text("a😀", min_size=2, max_size=3),
    "genre": st.sampled_from(("crime", "verse")),
    "mood": st.sampled_from(("sad", "o,k", "")),
    "pages": st.integers(1, 2**15 - 1),
    "stock": st.integers(0, 10),
    "price": st.sampled_from(("1.50", 2.5, 3)),
    "sold": st.booleans(),
    "words": st.lists(st.one_of(st.none(), SMALL_TEXTS), max_size=3),
    "facts": SMALL.filter(lambda value: value is not None),
    "with space": SMALL_TEXTS,
}
NEAR: dict[str, tuple[Any, ...]] = {
    "title": ("", "abcde", "ABC", "abc\n", "a1", None),
    "code": ("abcd", "a", "😀", "😀😀😀", "😀😀😀😀"),
    "genre": ("crimes", "", 1),
    "mood": ("ok", None),
    "pages": (0, 1, 2**15, "3", 3.0),
    "stock": (-1, 11, True, "10", None),
    "size": (1, 2, 3, 2.0),
    "price": ("9.51", 9.5, "1.005", -0.0),
    "sold": (0, "true"),
    "words": (["a", 1], "a", {}),
    "codes": (["ab", None], ["abc"], ["😀😀"]),
    "facts": ({"a": 1}, None),
}
RIGHT_MEMBERS = st.one_of([st.tuples(st.just(name), strategy) for name, strategy in RIGHT.items()])
NEAR_MEMBERS = st.one_of([st.tuples(st.just(name), st.sampled_from(values)) for name, values in NEAR.items()])
SMALL_MEMBERS = st.tuples(st.sampled_from([*BOUNDED.fields, "nope"]), SMALL)
BOUNDED_BODIES = st.one_of(
    st.lists(RIGHT_MEMBERS, max_size=5, unique_by=lambda member: member[0]),
    st.tuples(st.lists(RIGHT_MEMBERS, max_size=2), NEAR_MEMBERS).map(lambda pair: [*pair[0], pair[1]]),
    st.tuples(st.lists(RIGHT_MEMBERS, max_size=3), SMALL_MEMBERS).map(lambda pair: [*pair[0], pair[1]]),
    st.lists(SMALL_MEMBERS, max_size=3),
)


@SAME
@given(BOUNDED_BODIES, st.booleans(), st.text("abc", min_size=1, max_size=3))
def test_a_body_read_in_one_go_is_what_it_is_field_by_field(members: list[tuple[str, Any]], as_ascii: bool, title: str) -> None:
    body = (
        "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value, ensure_ascii=as_ascii)}" for name, value in members) + "}"
    ).encode()
    titled = b'{"title":"%b",%b' % (title.encode(), body[1:])
    for sent in (body, titled if members else body):
        create = outcome(partial(plan_create, BOUNDED, sent))
        assert outcome(partial(PLANS.create, BOUNDED, sent)) == create
        patch = outcome(partial(plan_patch, BOUNDED, ("1",), sent, False))
        assert outcome(partial(PLANS.patch, BOUNDED, ("1",), sent, False)) == patch


def test_a_body_with_names_that_json_escapes_is_read_field_by_field() -> None:
    name = 'a "quoted" \\ name'
    found = resource(table("odd", [Column("id", BIGINT, nullable=False), Column(name, TEXT, nullable=True)]))
    body = json.dumps({"id": 1, name: "x"}).encode()
    assert Form(found, Grant()).read(body) is None
    assert Plans().create(found, body) == plan_create(found, body)


def test_most_bodies_are_read_in_one_go() -> None:
    form = Form(BOUNDED, Grant())
    body = {
        "title": "abc",
        "genre": "verse",
        "mood": "o,k",
        "pages": 3,
        "stock": 0,
        "price": 2.5,
        "sold": True,
        "facts": {"a:": {"b": 1}},
    }
    assert form.read(json.dumps(body).encode()) is None  # for the colon in a key
    body["facts"] = {"a": [{"b": 1}]}
    names, values = form.read(json.dumps(body).encode()) or ((), [])
    assert dict(zip(names, values, strict=True)) == {**body, "price": "2.5", "facts": '{"a":[{"b":1}]}'}


@settings(parent=FEW, max_examples=examples(400))
@given(st.lists(st.one_of(st.sampled_from(NASTY_TEXTS), TEXTS), max_size=3).map(tuple), QUERIES)
def test_any_key_and_parameters_are_a_plan_or_an_error_of_ours(key: tuple[str, ...], query: bytes) -> None:
    for found in (EVERYTHING, PAIR):
        try:
            plan = plan_get(found, key, parse_parameters(query))
            deletion = plan_delete(found, key)
        except GatewayError as error:
            check_told(error)
            continue
        check_parameters(row_sql(plan, found), plan.values)
        check_parameters(row_sql(deletion, found), deletion.values)


# --- SQL never depends on values ---------------------------------------------------------------------------------------


@st.composite
def same_shape(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two query strings of the same fields and operators with values of their own."""
    pair: list[list[bytes]] = [[], []]
    names = draw(st.lists(st.sampled_from(sorted(FITTING)), min_size=1, max_size=4, unique=True))
    for name in names:
        taken = [each for each in operators_for(EVERYTHING.fields[name].type.family) if each.arity != "flag"]
        operator = draw(st.sampled_from(taken))
        for query in pair:
            texts = [text.replace("\\", "") for text in operands(draw, name, operator.arity)]
            query.append(encoded(f"{name}[{operator.name}]", texts[0] if operator.arity == "one" else join_list(texts), True))
    for query in pair:
        query.append(f"limit={draw(st.integers(30, 99))}&page={draw(st.integers(2, 900))}".encode())
    return b"&".join(pair[0]), b"&".join(pair[1])


@settings(parent=FEW, max_examples=examples(300))
@given(same_shape())
def test_sql_never_depends_on_values(queries: tuple[bytes, bytes]) -> None:
    first, second = (plan_list(EVERYTHING, parse_list(query)) for query in queries)
    assert first.shape == second.shape
    assert hash(first.shape) == hash(second.shape)
    assert compile_list(first.shape, EVERYTHING) == compile_list(second.shape, EVERYTHING)


@FEW
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30))
def test_no_text_of_a_callers_reaches_sql(text: str) -> None:
    marked = f"zqz{text}zqz"
    query = b"&".join(
        encoded(name, value, True)
        for name, value in (
            ("name", marked),
            ("tags[has]", marked),
            ("doc.size[ne]", marked),
            (f"doc.{marked.replace('.', '')}", "1"),
        )
    )
    sql = compile_list(plan_list(EVERYTHING, parse_list(query)).shape, EVERYTHING)
    assert "zqz" not in sql


@FEW
@given(st.lists(st.integers(0, 99), min_size=1, max_size=40))
def test_a_lists_length_does_not_change_the_shape(numbers: list[int]) -> None:
    shape = plan_list(EVERYTHING, parse_list(f"whole[in]={','.join(map(str, numbers))}".encode())).shape
    assert shape == plan_list(EVERYTHING, parse_list(b"whole[in]=1")).shape


# --- parse(render(x)) == x ---------------------------------------------------------------------------------------------


@FEW
@given(st.lists(st.text("ab,\\ é", max_size=6), min_size=1, max_size=5))
@example(["\\"])
@example(["\\,", ""])
@example(["", ""])
def test_a_list_comes_back_as_it_was_joined(elements: list[str]) -> None:
    assert split_list(join_list(elements)) == elements


@FEW
@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), st.sampled_from(sorted(OPERATORS)), TEXTS),
        max_size=5,
        unique_by=lambda row: row[:2],
    )
)
@example([("a[eq]", "eq", "&=+%")])
def test_conditions_come_back_as_they_were_written(rows: list[tuple[str, str, str]]) -> None:
    query = "&".join(f"{quote(f'{name}[{operator}]', safe='')}={quote(value, safe='')}" for name, operator, value in rows)
    assert parse_list(query.encode()).conditions == tuple(
        Condition(f"{name}[{operator}]", name, operator, value) for name, operator, value in rows
    )


def rendered(written: Written) -> Any:
    """The JSON form of conditions."""
    if isinstance(written, Condition):
        return {written.name: {written.operator: written.value}}
    if written.kind == "not":
        return {"not": rendered(written.items[0])}
    return {written.kind: [rendered(item) for item in written.items]}


CONDITIONS = st.builds(
    lambda name, operator, value: Condition("filter", name, operator, value, typed=True),
    st.text(min_size=1, max_size=5).filter(lambda name: name not in ("and", "or", "not")),
    st.sampled_from(sorted(OPERATORS)),
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4), st.lists(st.integers(), max_size=3)),
)


def _groups(inner: st.SearchStrategy[Written]) -> st.SearchStrategy[Written]:
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.builds(Group, st.sampled_from(("and", "or")), several), st.builds(lambda item: Group("not", (item,)), inner)
    )


WRITTEN: st.SearchStrategy[Written] = CONDITIONS
for _depth in range(3):
    WRITTEN = st.one_of(CONDITIONS, _groups(WRITTEN))


@FEW
@given(WRITTEN)
def test_a_filter_comes_back_as_it_was_written(written: Written) -> None:
    assert parse_filter(rendered(written), "filter") == written


CURSORS = st.builds(
    Cursor,
    st.binary(min_size=6, max_size=6),
    st.booleans(),
    st.lists(st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), min_size=1, max_size=4).map(
        tuple
    ),
)


@FEW
@given(CURSORS)
def test_a_cursor_comes_back_as_it_was_made(cursor: Cursor) -> None:
    text = encode_cursor(cursor)
    assert quote(text, safe="") == text
    assert decode_cursor(text, cursor.fingerprint, len(cursor.values)) == cursor


@FEW
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), min_size=1, max_size=3).map(tuple))
@example(("a/b", "c,d"))
@example(("100%", "😀"))
@example((".", ".."))
def test_a_key_comes_back_as_it_stood_in_the_path(key: tuple[str, ...]) -> None:
    path = f"/api/v1/things/{','.join(key_text(part) for part in key)}"
    assert split_path(path.encode()) == ("v1", "things", key)


@FEW
@given(
    st.builds(
        SortKey,
        st.text(min_size=1, max_size=8).filter(lambda name: name[0] != "-" and not name.endswith((":nullsfirst", ":nullslast"))),
        st.booleans(),
        st.booleans(),
    )
)
def test_a_sort_key_comes_back_as_it_was_printed(key: SortKey) -> None:
    assert parse_sort_key(str(key)) == key


# --- merges ------------------------------------------------------------------------------------------------------------

PATCHES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.integers(0, 9), st.text("ab", max_size=2)),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=1), inner, max_size=3),
    max_leaves=8,
)


def merge_of(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2, as its pseudocode has it."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_of(merged.get(name), value)
    return merged


def applied(target: Any, merge: Merge, values: list[Any]) -> Any:
    """What the SQL of a merge does, in Python: the values are taken in its order."""
    whole = dict(target) if isinstance(target, dict) else {}
    dropped, members = values.pop(0), json.loads(values.pop(0))
    merged = {name: value for name, value in whole.items() if name not in dropped} | members
    for nested in merge.nested:
        key = values.pop(0)
        merged[key] = applied(target.get(key) if isinstance(target, dict) else None, nested, values)
    return merged


@FEW
@given(PATCHES, st.dictionaries(st.text("abc", min_size=1, max_size=1), PATCHES, max_size=3))
def test_a_merge_does_what_rfc_7396_says(target: Any, patch: dict[str, Any]) -> None:
    plan = plan_patch(PAIR, ("1", "x"), json.dumps({"doc": patch}).encode(), merge=True)
    merge = plan.shape.assigned[0].merge
    assert merge is not None
    values = list(plan.values[:-2])
    assert applied(target, merge, values) == merge_of(target, patch)
    assert values == []
