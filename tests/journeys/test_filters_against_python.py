"""The database's answer to a filter is what a plain-Python filter over the same rows gives: every operator, every type."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.catalog.types import TYPES
from gateway.query.ast import ListRequest
from gateway.query.operators import OPERATORS, Operator, operators_for, path_operators
from gateway.query.syntax.brackets import parse_list
from tests.conftest import throwaway_database
from tests.examples import examples
from tests.journeys.value_models import (
    COMPARED,
    CONTAINED,
    DEFINITIONS,
    MATCHED,
    MODELS,
    Ask,
    Bench,
    Logic,
    bench,
    holds,
    parameter,
    things,
    written,
)
from tests.serving import settings_for, write_resources

pytestmark = pytest.mark.xdist_group("filters against python")

ROWS = things(count=150, seed=4)
PATHS = [f"{column}.{path}" for column in ("doc", "docb") for path in ("a", "b", "a.b", "a.0", "a.-1", "2.a", "bb", "a.c", "0")]
PATH_OPERANDS = ["x", "1", "1.0", "10", "2", "deep", "true", "", "a", 1, 10, Decimal("1.5"), True, -2]
PATTERNS = ["%", "", "a%", "%b", "_", "a_b", "a\\_b", "a\\\\b", "\\%", "%\\%", "É", "ab", "%\n%", "a,b"]
VALUES_OF_AN_OPERATOR = 3
JSON_KEYS = ["a", "b", "", "bb", "x", "a.b"]

encode = msgspec.json.Encoder(decimal_format="number").encode


@pytest.fixture(scope="module")
def served(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = write_resources(tmp_path_factory.mktemp("resources"), DEFINITIONS)
    with throwaway_database(postgres_url) as url, bench(settings_for(url, directory), url) as made:
        made.insert("things", ROWS)
        yield made


def found_by_database(served: Bench, request: ListRequest) -> set[int]:
    page = served.page("things", request)
    assert page.next_cursor is None
    return {row["id"] for row in json.loads(b"[%b]" % page.data)}


def found_by_python(node: Ask | Logic, typed: bool = True) -> set[int]:
    return {row["id"] for row in ROWS if holds(node, row, typed)}


def in_url(conditions: list[Ask]) -> ListRequest | None:
    """The conditions as a query string, or None where a URL cannot say them."""
    pieces = [parameter(ask) for ask in conditions]
    if None in pieces:
        return None
    named = dict(piece for piece in pieces if piece is not None)
    if len(named) < len(pieces):
        return None
    return parse_list("&".join(f"{quote(name)}={quote(value)}" for name, value in named.items()).encode() + b"&fields=id")


# --- what can be asked -------------------------------------------------------------------------------------------------


def operands(field: str, operator: Operator) -> list[Any]:
    """All single values that an operator of this field can be given."""
    if operator.arity == "flag":
        return [True, False]
    if operator.kind == "pattern":
        return PATTERNS
    if "." in field:
        return PATH_OPERANDS
    if field in ("doc", "docb"):
        return JSON_KEYS
    model = MODELS[field]
    pool = model.values + model.others
    if operator.kind == "element":
        return [element for value in pool for element in value if element is not None]
    return pool


def asked(operator: Operator, pool: list[Any]) -> st.SearchStrategy[Any]:
    one = st.sampled_from(pool)
    match operator.arity:
        case "list":
            return st.lists(one, min_size=1, max_size=4)
        case "pair":
            return st.lists(one, min_size=2, max_size=2)
        case _:
            return one


def questions(served: Bench) -> list[tuple[str, Operator]]:
    """Every field and path with every operator that it takes, by the gateway's own tables."""
    fields = served.resource("things").fields
    own = [(name, operator) for name in MODELS for operator in operators_for(fields[name].type.family)]
    return own + [(path, operator) for path in PATHS for operator in path_operators()]


def test_the_model_knows_every_operator_and_the_table_has_every_type(served: Bench) -> None:
    assert {*COMPARED, *CONTAINED, *MATCHED, "null"} == set(OPERATORS)
    types = {field.type.name for field in served.resource("things").fields.values()}
    assert set(TYPES) - types == {"citext"}  # an extension's, which not every PostgreSQL has


def test_rows_are_shown_as_the_model_has_them(served: Bench) -> None:
    page = served.page("things", ListRequest(sort="id"))
    shown = json.loads(b"[%b]" % page.data, parse_float=Decimal)
    stored = json.loads(encode(ROWS), parse_float=Decimal)
    for one, two in zip(shown, stored, strict=True):
        assert one == two


def test_each_operator_of_each_field_selects_what_python_selects(served: Bench) -> None:
    for field, operator in questions(served):
        pool = operands(field, operator)
        match operator.arity:
            case "list":
                asked_for: list[Any] = [pool[:1], pool[1:4] or pool]
            case "pair":
                asked_for = [list(pair) for pair in itertools.product(pool[:2], pool[1:3])]
            case _:
                asked_for = pool[:: len(pool) // VALUES_OF_AN_OPERATOR or 1]
        for operand in asked_for:
            ask = Ask(field, operator.name, operand)
            request = ListRequest(filter=encode(written(ask)).decode(), fields="id")
            assert found_by_database(served, request) == found_by_python(ask), ask
            in_query = in_url([ask])
            if in_query is not None:
                assert found_by_database(served, in_query) == found_by_python(ask, typed=False), ask


# --- logic -------------------------------------------------------------------------------------------------------------


@st.composite
def asks(draw: st.DrawFn, choices: list[tuple[str, Operator]]) -> Ask:
    field, operator = draw(st.sampled_from(choices))
    return Ask(field, operator.name, draw(asked(operator, operands(field, operator))))


def filters(choices: list[tuple[str, Operator]], depth: int) -> st.SearchStrategy[Ask | Logic]:
    if depth == 0:
        return asks(choices)
    below = filters(choices, depth - 1)
    several = st.lists(below, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        asks(choices),
        st.builds(Logic, st.sampled_from(["and", "or"]), several),
        below.map(lambda item: Logic("not", (item,))),
    )


@settings(max_examples=examples(70), deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_nested_logic_and_conditions_of_a_url_select_what_python_selects(served: Bench, data: st.DataObject) -> None:
    choices = questions(served)
    node = data.draw(filters(choices, 3))
    beside = data.draw(st.lists(asks(choices), max_size=2))
    request = in_url(beside) or ListRequest(fields="id")
    beside = beside if request.conditions else []
    request = msgspec.structs.replace(request, filter=encode(written(node)).decode())
    expected = found_by_python(node)
    for ask in beside:
        expected &= found_by_python(ask, typed=False)
    assert found_by_database(served, request) == expected
