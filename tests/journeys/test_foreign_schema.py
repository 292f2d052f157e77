"""A schema that nobody designed for the gateway, served by nearly empty files: every operation on every table in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import httpx
import msgspec
import pytest

from gateway.app import assemble
from gateway.catalog.model import Field, Resource
from gateway.catalog.types import BadValue, Family
from gateway.http.responses import key_text
from gateway.query.operators import Operator, escape_like, operators_for, path_operators
from gateway.query.syntax.brackets import join_list
from tests.conftest import execute, throwaway_database
from tests.journeys.foreign_resources import FOREIGN, Row
from tests.serving import running, settings_for, write_resources

SCHEMA = Path(__file__).with_name("foreign_schema.sql")
JSON = {"content-type": "application/json"}
LEAKS = ("secret", "SELECT", "INSERT", "UPDATE", "pg_", "asyncpg", "constraint", "relation ")

pytestmark = pytest.mark.xdist_group("foreign schema")

encode = msgspec.json.Encoder(decimal_format="number").encode


def decode(response: httpx.Response) -> Any:
    return json.loads(response.content, parse_float=Decimal)


class Served(NamedTuple):
    """The gateway over the foreign schema, its rows posted, and the catalog that it works by."""

    client: httpx.Client
    resources: dict[str, Resource]
    locations: dict[str, list[str]]
    ask: Callable[[str], list[Any]]
    """The answer of PostgreSQL itself to a SELECT of one JSON column."""

    def row_url(self, name: str, row: Row) -> str:
        parts = [row[part] for part in self.resources[name].key]
        return f"/api/v1/{name}/" + ",".join(key_text(str(part) if isinstance(part, Decimal) else part) for part in parts)

    def rows(self, name: str, **parameters: str) -> list[Row]:
        response = self.client.get(f"/api/v1/{name}", params={"limit": "100", **parameters})
        assert response.status_code == 200, response.text
        found: list[Row] = decode(response)["data"]
        return found

    def key(self, name: str, row: Row) -> tuple[Any, ...]:
        return tuple(row[part] for part in self.resources[name].key)


@pytest.fixture(scope="module")
def served(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = write_resources(tmp_path_factory.mktemp("resources"), {name: foreign.yaml for name, foreign in FOREIGN.items()})
    with throwaway_database(postgres_url) as url:
        execute(url, SCHEMA.read_text())
        settings = settings_for(url, directory)
        catalog, faults = asyncio.run(assemble(settings))
        assert faults == ()
        with running(settings) as client, asking(url) as ask:
            served = Served(client, {name: catalog.resources["v1", name] for name in FOREIGN}, {}, ask)
            for name, foreign in FOREIGN.items():
                served.locations[name] = [_post(served, name, row) for row in foreign.rows]
            yield served


@contextmanager
def asking(url: str) -> Iterator[Callable[[str], list[Any]]]:
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))
        try:
            yield lambda sql: [json.loads(row[0], parse_float=Decimal) for row in runner.run(connection.fetch(sql))]
        finally:
            runner.run(connection.close())


def _post(served: Served, name: str, row: Row) -> str:
    response = served.client.post(f"/api/v1/{name}", content=encode(row), headers=JSON)
    assert response.status_code == 201, (name, row, response.text)
    shown = decode(response)["data"]
    assert {field: shown[field] for field in row} == row
    return response.headers["location"]


every_resource = pytest.mark.parametrize("name", FOREIGN)
writable_resources = pytest.mark.parametrize("name", [name for name, foreign in FOREIGN.items() if foreign.spare is not None])


@every_resource
def test_a_list_shows_the_rows_as_they_were_posted(served: Served, name: str) -> None:
    shown = {json.dumps(served.key(name, row), default=str): row for row in served.rows(name)}
    for posted in FOREIGN[name].rows:
        if set(served.resources[name].key) <= set(posted):
            row = shown[json.dumps(served.key(name, posted), default=str)]
            assert {field: row[field] for field in posted} == posted
    assert len(shown) >= len(FOREIGN[name].rows)
    assert all(list(row) == list(served.resources[name].visible) for row in shown.values())


@every_resource
def test_a_row_is_found_at_its_location_and_at_the_key_that_it_shows(served: Served, name: str) -> None:
    rows = served.rows(name)
    for row in rows:
        response = served.client.get(served.row_url(name, row))
        beyond = [part for part in served.resources[name].key if not _is_sendable(served.resources[name].fields[part], row[part])]
        assert (response.status_code, beyond) == (200, []), response.text
        assert decode(response)["data"] == row
    for location, posted in zip(served.locations[name], FOREIGN[name].rows, strict=True):
        found = decode(served.client.get(location))["data"]
        assert {field: found[field] for field in posted} == posted


@every_resource
def test_each_shown_value_can_be_patched_back_and_changes_nothing(served: Served, name: str) -> None:
    resource = served.resources[name]
    fields = _examined(name, resource)
    for row in served.rows(name):
        url = served.row_url(name, row)
        for field, _ in fields:
            response = served.client.patch(url, content=encode({field.name: row[field.name]}), headers=JSON)
            if not resource.writable:
                assert response.status_code == 405
            elif field.readonly or not _is_sendable(field, row[field.name]):
                assert response.status_code == 400, (field.name, row[field.name], response.text)
                assert decode(response)["error"]["details"]["field"] == field.name
            else:
                assert response.status_code == 200, (field.name, row[field.name], response.text)
                assert decode(response)["data"] == row
        assert decode(served.client.get(url))["data"] == row


@writable_resources
def test_a_row_comes_and_goes(served: Served, name: str) -> None:
    spare = FOREIGN[name].spare or {}
    before = served.rows(name)
    location = _post(served, name, spare)
    assert len(served.rows(name)) == len(before) + 1
    head = served.client.head(location)
    assert (head.status_code, head.content) == (200, b"")
    assert served.client.delete(location).status_code == 204
    for response in (served.client.get(location), served.client.delete(location)):
        assert response.status_code == 404, response.text
    assert served.rows(name) == before


@writable_resources
def test_a_new_key_moves_the_row(served: Served, name: str) -> None:
    resource = served.resources[name]
    moved = [part for part in resource.key if not resource.fields[part].readonly]
    spare = FOREIGN[name].spare or {}
    last = next((row for row in FOREIGN[name].rows if set(moved) <= set(row)), None)
    if not moved or last is None or not set(moved) <= set(spare):
        return
    location = _post(served, name, spare)
    taken = served.client.patch(location, content=encode({part: last[part] for part in moved}), headers=JSON)
    assert taken.status_code == 409, taken.text
    assert {problem["field"] for problem in decode(taken)["error"]["details"]["problems"]} >= set(moved)
    assert served.client.delete(location).status_code == 204


# --- order -------------------------------------------------------------------------------------------------------------

WIDE_SAMPLE = 23  # of the 300 columns
VALUES_OF_A_FIELD = 2


def _examined(name: str, resource: Resource) -> list[tuple[Field, bool]]:
    """The fields, each with whether it is the first of its type here: the others stand for their names alone."""
    fields = list(resource.visible.values())
    seen: dict[Any, Field] = {}
    for field in fields:
        seen.setdefault(field.type, field)
    return [(field, seen[field.type] is field) for field in (fields[:: len(fields) // WIDE_SAMPLE] if name == "wide" else fields)]


def _walk(served: Served, name: str, parameters: dict[str, str]) -> list[Row]:
    """All rows page by page, to the end by `next_cursor` and back by `prev_cursor`, which must show the same pages."""
    there = _follow(served, name, parameters, "next_cursor")
    back = _follow(served, name, {**parameters, "cursor": there[-1][1]}, "prev_cursor") if len(there) > 1 else []
    assert [page for page, _ in reversed(back)] == [page for page, _ in there[:-1]]
    return [row for page, _ in there for row in page]


def _follow(served: Served, name: str, parameters: dict[str, str], direction: str) -> list[tuple[list[Row], str]]:
    """Pages, each with the cursor that leads back from it."""
    pages: list[tuple[list[Row], str]] = []
    other = "prev_cursor" if direction == "next_cursor" else "next_cursor"
    while len(pages) < 200:
        response = served.client.get(f"/api/v1/{name}", params=parameters)
        assert response.status_code == 200, (parameters, response.text)
        content = decode(response)
        pages.append((content["data"], content["meta"][other]))
        if content["meta"][direction] is None:
            return pages
        parameters = {**parameters, "cursor": content["meta"][direction]}
    raise AssertionError("the pages have no end")


@every_resource
def test_every_field_with_an_order_sorts_and_pages_are_the_whole_list(served: Served, name: str) -> None:
    resource = served.resources[name]
    key = {"fields": join_list(list(resource.key))}
    for field, is_first in _examined(name, resource):
        if field.name.startswith("-") or field.name.endswith(":nullsfirst"):
            continue  # reached by descending order alone, or by a name of its own in YAML
        if not field.type.sortable:
            response = served.client.get(f"/api/v1/{name}", params={"sort": join_list([field.name])})
            assert response.status_code == 400
            continue
        terms = (field.name, f"-{field.name}", f"{field.name}:nullsfirst", f"-{field.name}:nullslast")
        for term in terms if is_first else terms[-1:]:
            sort = {"sort": join_list([term])}
            whole = served.rows(name, **sort)
            assert whole == _by_postgresql(served, resource, field, term, whole)
        assert _walk(served, name, {"limit": "2", **sort}) == whole
        if is_first:
            narrow = _walk(served, name, {"limit": "3", **sort, **key})
            assert [served.key(name, row) for row in narrow] == [served.key(name, row) for row in whole]


def _by_postgresql(served: Served, resource: Resource, field: Field, term: str, rows: list[Row]) -> list[Row]:
    """`rows` in the order in which PostgreSQL's own ORDER BY has them."""
    descending = " DESC" if term.startswith("-") else ""
    nulls = {"nullsfirst": " NULLS FIRST", "nullslast": " NULLS LAST"}.get(term.rpartition(":")[2], "")
    keys = [resource.fields[part] for part in resource.key]
    order = [
        f"{_quoted(field.column)}{descending}{nulls}",
        *(f"{_quoted(key.column)}{descending}" for key in keys if key != field),
    ]
    place = f"{_quoted(resource.table.schema)}.{_quoted(resource.table.name)}"
    shown = ", ".join(_quoted(key.column) for key in keys)
    ranked = served.ask(f"SELECT json_build_array({shown}) FROM {place} ORDER BY {', '.join(order)}")
    if not all(key.type.json_form == "natural" and key.type.family is not Family.TIME for key in keys):
        return rows  # only keys that PostgreSQL shows as the gateway does can be told apart here
    by_key = {tuple(row[part] for part in resource.key): row for row in rows}
    return [by_key[tuple(key)] for key in ranked]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# --- filters -----------------------------------------------------------------------------------------------------------


def _is_sendable(field: Field, value: Any) -> bool:
    """Whether the type takes what it shows: not so for infinities, years beyond four digits and the like."""
    if value is None:
        return field.nullable
    try:
        field.type.check_fit(field.type.load(value))
    except BadValue:
        return False
    return True


def _text(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _same(value: Any) -> Any:
    return value


OPERANDS: dict[str, tuple[bool, Callable[[Any], Any]]] = {
    "eq": (True, _same),
    "ne": (False, _same),
    "gt": (False, _same),
    "gte": (True, _same),
    "lt": (False, _same),
    "lte": (True, _same),
    "in": (True, lambda value: [value, value]),
    "nin": (False, lambda value: [value]),
    "like": (True, escape_like),
    "ilike": (True, escape_like),
    "contains": (True, lambda value: value[1:-1]),
    "starts": (True, lambda value: value[:2]),
    "ends": (True, lambda value: value[-2:]),
    "between": (True, lambda value: [value, value]),
    "has": (True, lambda value: value[0]),
    "any": (True, lambda value: value[:1]),
    "all": (True, lambda value: value),
}
"""For each operator, made of a row's own value: whether that row satisfies it, and the operand."""


def _conditions(field: Field, operator: Operator, value: Any) -> Iterator[tuple[dict[str, str], bool]]:
    """Parameters that say the operator about a row's own value, in both dialects, and whether the row satisfies them."""
    satisfied, operand_of = OPERANDS[operator.name]
    if operator.kind == "element":
        value = [element for element in value if element is not None]
        if not value:
            return
    operand = operand_of(value)
    yield {"filter": encode({field.name: {operator.name: operand}}).decode()}, satisfied
    if field.type.array and operator.kind != "element":
        if None not in operand and operand and not any(isinstance(element, dict | list) for element in operand):
            yield {f"{field.name}[{operator.name}]": join_list([_text(element) for element in operand])}, satisfied
    elif field.type.name in ("json", "jsonb") and field.type.array:
        return
    elif isinstance(operand, list):
        yield {f"{field.name}[{operator.name}]": join_list([_text(item) for item in operand])}, satisfied
    else:
        yield {f"{field.name}[{operator.name}]": _text(operand)}, satisfied


@every_resource
def test_every_operator_of_every_field_finds_a_row_by_its_own_value(served: Served, name: str) -> None:
    resource = served.resources[name]
    rows = served.rows(name)
    key = {"fields": join_list(list(resource.key)), "limit": "100"}
    for field, is_first in _examined(name, resource):
        values = {json.dumps(row[field.name], default=str): row for row in rows if row[field.name] is not None}
        for row in list(values.values())[: VALUES_OF_A_FIELD if is_first else 1]:
            for operator in operators_for(field.type.family):
                if not is_first and operator.name != "eq":
                    continue
                if operator.name == "null" or (field.type.family is Family.JSON and not isinstance(row[field.name], dict)):
                    continue
                value = list(row[field.name]) if field.type.family is Family.JSON else row[field.name]
                for parameters, satisfied in list(_conditions(field, operator, value))[
                    -1 if is_first and row is not rows[0] else 0 :
                ]:
                    response = served.client.get(f"/api/v1/{name}", params={**parameters, **key})
                    if field.name == "not" and "filter" in parameters:
                        continue  # in the JSON dialect `not` with an object is the logical one
                    if field.type.family is not Family.JSON and not _is_filterable_by(field, operator, value):
                        assert response.status_code == 400, (parameters, response.text)
                        continue
                    assert response.status_code == 200, (parameters, response.text)
                    found = [served.key(name, each) for each in decode(response)["data"]]
                    assert (served.key(name, row) in found) == satisfied, parameters


def _is_filterable_by(field: Field, operator: Operator, value: Any) -> bool:
    """A filter takes what the type loads; that it would not fit the column does not matter."""
    try:
        field.type.load([element for element in value if element is not None] if operator.kind == "element" else value)
    except BadValue:
        return False
    return True


@every_resource
def test_null_parts_the_rows_of_every_field(served: Served, name: str) -> None:
    resource = served.resources[name]
    rows = served.rows(name)
    for field, _ in _examined(name, resource):
        for flag, expected in (("true", True), ("false", False)):
            found = served.rows(name, **{f"{field.name}[null]": flag})
            assert found == [row for row in rows if (row[field.name] is None) == expected]
            if field.name != "not":
                assert served.rows(name, filter=json.dumps({field.name: {"null": expected}})) == found


def test_operators_that_a_family_lacks_are_refused(served: Served) -> None:
    everything = served.resources["every_type"]
    for field in everything.visible.values():
        allowed = {operator.name for operator in operators_for(field.type.family)}
        for name in OPERANDS.keys() - allowed:
            response = served.client.get("/api/v1/every_type", params={f"{field.name}[{name}]": "1"})
            assert response.status_code == 400, (field.name, name)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"a_jsonb.colour": "red"}, [1]),
        ({"a_jsonb.a.b": "deep"}, [1]),
        ({"a_jsonb.size[gt]": "2.4"}, [1]),
        ({"a_jsonb.size[gt]": "2.6"}, []),
        ({"a_json.a.0": "1.50"}, [1]),
        ({"a_json.a.2[in]": "x,y"}, [1]),
        ({"a_settings.on": "true"}, [1, 4]),
    ],
)
def test_json_paths_lead_into_rows(served: Served, parameters: dict[str, str], expected: list[int]) -> None:
    assert [row["id"] for row in served.rows("every_type", **parameters, sort="id")] == expected


def test_every_operator_on_a_path_below_a_name_with_a_dot_answers(served: Served) -> None:
    assert [row["per%cent %s %(x)s"] for row in served.rows("weird", **{"dotted.json.a.b": "2"})] == [2]
    for operator in path_operators():
        value = {"between": "1,2", "null": "false"}.get(operator.name, "1")
        served.rows("weird", **{f"dotted.json.a.b[{operator.name}]": value})


# --- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "fields"),
    [
        ("POST", "staff", {"email": "ANN@example.COM"}, 409, {"email"}),
        ("POST", "staff", {"handle": "ann"}, 409, {"handle"}),
        ("POST", "staff", {"manager_id": 77}, 409, {"manager_id"}),
        ("POST", "staff", {"id": 501}, 409, {"id"}),
        ("POST", "staff", {"low": 2, "high": 1}, 400, {"low", "high"}),
        ("POST", "staff", {"age": 0}, 400, {"age"}),
        ("POST", "staff", {"motto": None}, 400, {"motto"}),
        ("PATCH", "staff/501", {"motto": None}, 400, {"motto"}),
        ("PATCH", "staff/501", {"manager_id": 77}, 409, {"manager_id"}),
        ("PATCH", "staff/501", {"id": 600}, 409, {"id"}),
        ("DELETE", "staff/501", None, 409, {"id"}),
        ("POST", "bookings", {"id": 7, "during": "[4,6)"}, 409, {"during"}),
        ("PATCH", "bookings/2", {"during": "[4,6)"}, 409, {"during"}),
        ("POST", "measurements", {"city": "Ulm", "taken": "2023-05-01"}, 409, {"city", "taken"}),
        ("POST", "measurements", {"city": "Bonn", "taken": "2024-05-01", "station": "u1"}, 409, {"taken", "station"}),
        ("POST", "measurements", {"city": "Bonn", "taken": "2023-05-01", "station": "u1"}, 409, {"taken", "station"}),
        ("POST", "measurements", {"city": "Bonn", "taken": "2023-05-02", "celsius": 60}, 400, {"celsius"}),
        ("POST", "measurements", {"city": "Bonn", "taken": "2024-05-02", "celsius": 60}, 400, {"celsius"}),
        ("POST", "measurements", {"city": "Bonn", "taken": "2030-01-01"}, 400, set()),
        ("POST", "grandchildren", {"id": 9, "k": "none", "b": 1, "c": "2024-01-02"}, 409, {"k", "b", "c"}),
        ("PATCH", "grandchildren/2", {"k": "none", "b": 1, "c": "2024-01-02"}, 409, {"k", "b", "c"}),
        ("DELETE", "two_part_keys/1,a,2024-01-02", None, 409, {"a", "b", "c"}),
        ("PATCH", "two_part_keys/1,a,2024-01-02", {"a": "moved"}, 409, {"a"}),
        ("POST", "dotted", {"id": 7, "name": "a"}, 409, {"name"}),
        ("POST", "every_type", {"id": 7, "a_positive": -1}, 400, {"a_positive"}),
        ("POST", "every_type", {"id": 7, "positives": [1, -1]}, 400, {"positives"}),
        ("POST", "every_type", {"id": 7, "a_short": "xxx"}, 400, {"a_short"}),
        ("POST", "every_type", {"id": 7, "a_short": "toolong"}, 400, {"a_short"}),
        ("POST", "every_type", {"id": 7, "a_tags": ["a", "b", "c", "d"]}, 400, {"a_tags"}),
        ("POST", "every_type", {"id": 7, "a_settings": []}, 400, {"a_settings"}),
        ("POST", "every_type", {"id": 7, "a_name": "n" * 64}, 400, {"a_name"}),
        ("POST", "every_type", {"id": 7, "a_name": "é" * 32}, 400, {"a_name"}),
        ("POST", "every_type", {"id": 7, "a_byte": "ab"}, 400, {"a_byte"}),
        ("POST", "every_type", {"id": 7, "a_bit": "01"}, 400, {"a_bit"}),
        ("POST", "every_type", {"id": 7, "a_mood": "happy"}, 400, {"a_mood"}),
        ("POST", "every_type", {"id": 7, "a_xml": "<a/>"}, 400, set()),
        ("POST", "every_type", {"id": 7, "a_point": "nowhere"}, 400, set()),
        ("POST", "every_type", {"id": 7, "a_tsvector": "'"}, 400, set()),
        ("POST", "every_type", {"id": 7, "a_regclass": "no_such_table"}, 400, set()),
        ("POST", "every_type", {"id": 7, "a_composite": "(1"}, 400, set()),
        ("POST", "every_type", {"id": 7, "a_int4range": "[5,1)"}, 400, set()),
        ("POST", "every_type", {"id": 7, "a_cash": "much"}, 400, set()),
        ("POST", "every_type", {"id": 7, "ranges": ["[1"]}, 400, set()),
        ("POST", "identities", {"doubled": 3}, 400, {"doubled"}),
        ("POST", "orders", {"Id": 3}, 400, {"Id"}),
        ("PATCH", "orders/1", {"Id": 3}, 400, {"Id"}),
        ("POST", "people_view", {"Id": 3}, 405, set()),
        ("PATCH", "born_counts/2000-01-01", {"people": 3}, 405, set()),
        ("DELETE", "born_counts/2000-01-01", None, 405, set()),
        ("POST", "guarded", {"id": 7, "v": "raise"}, 400, set()),
        ("POST", "guarded", {"id": 7, "v": "check"}, 400, set()),
        ("POST", "guarded", {"id": 7, "v": "strict"}, 400, set()),
        ("POST", "guarded", {"id": 7, "v": "own code"}, 400, set()),
        ("POST", "guarded", {"id": 7, "v": "swallow"}, 409, set()),
        ("PATCH", "guarded/2", {"v": "raise"}, 400, set()),
        ("PATCH", "guarded/2", {"v": "swallow"}, 409, set()),
        ("DELETE", "guarded/1", None, 409, set()),
        ("PATCH", "guarded/77", {"v": "x"}, 404, set()),
    ],
)  # fmt: skip
def test_what_the_database_refuses_is_told_in_the_words_of_the_fields(
    served: Served, method: str, path: str, body: Row | None, status: int, fields: set[str]
) -> None:
    before = served.rows(path.partition("/")[0])
    response = served.client.request(method, f"/api/v1/{path}", content=b"" if body is None else encode(body), headers=JSON)
    assert response.status_code == status, response.text
    assert not [leak for leak in LEAKS if leak in response.text], response.text
    problems = decode(response)["error"]["details"].get("problems", [])
    assert {problem["field"] for problem in problems} - {""} == fields
    assert served.rows(path.partition("/")[0]) == before


@pytest.mark.parametrize(
    "parameters",
    [
        {"a_tsvector": "'"},
        {"a_regclass": "no_such_table"},
        {"a_int4range": "[5,1)"},
        {"a_int4range[in]": "empty,[1"},
        {"a_cash[gt]": "much"},
        {"a_lsn": "x"},
        {"a_interval": "P"},
        {"a_interval": "P999999999Y"},
        {"ranges[has]": "[1"},
        {"a_timetz": "12:00:00+19:00"},
    ],
)
def test_a_filter_value_that_the_type_does_not_read_is_refused(served: Served, parameters: dict[str, str]) -> None:
    response = served.client.get("/api/v1/every_type", params=parameters)
    assert response.status_code == 400, response.text
    assert not [leak for leak in LEAKS if leak in response.text], response.text


@pytest.mark.parametrize(
    "path",
    [
        "bigint_keys/x", "bigint_keys/9223372036854775808", "bigint_keys/1,2", "bigint_keys/", "uuid_keys/x", "range_keys/%5B1",
        "two_part_keys/1,a", "two_part_keys/x,a,2024-01-01", "boolean_keys/yes", "bytea_keys/%25", "text_keys/%00",
        "text_keys/%FF",
        "enum_keys/happy", "timestamptz_keys/2024-05-01", "char_keys/abcdefgh", "inet_keys/10.0.0.1%2F40", "without_key/1",
    ],
)  # fmt: skip
def test_a_key_that_cannot_be_is_not_found(served: Served, path: str) -> None:
    for method in ("GET", "DELETE"):
        response = served.client.request(method, f"/api/v1/{path}")
        assert response.status_code == 404, response.text


def test_a_table_without_a_key_is_left_out_with_a_reason(postgres_url: str, tmp_path: Path) -> None:
    directory = write_resources(tmp_path, {"without_key": "", "bad_key": "table: without_key\nkey: a\n", "t": ""})
    with throwaway_database(postgres_url) as url:
        execute(url, SCHEMA.read_text())
        catalog, faults = asyncio.run(assemble(settings_for(url, directory)))
    assert set(catalog.resources) == {("v1", "t")}
    assert [("no primary key" in fault.message, "needs NOT NULL" in fault.message) for fault in faults] == [
        (False, True),
        (True, False),
    ]


def test_counts_and_documents_of_every_resource_are_answered(served: Served) -> None:
    assert served.client.get("/api/v1/openapi.json").status_code == 200
    assert served.client.get("/health/ready").status_code == 200
    for name in FOREIGN:
        response = served.client.get(f"/api/v1/{name}", params={"count": "exact"})
        assert decode(response)["meta"]["total"] == len(served.rows(name))
        assert served.client.get(f"/api/v1/{name}", params={"count": "estimated"}).status_code == 200
