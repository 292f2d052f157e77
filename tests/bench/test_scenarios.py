"""What is asked, in each contender's words."""

from __future__ import annotations

import json
from random import Random
from urllib.parse import parse_qsl, urlsplit

import pytest

from bench.checks import Unequal, find_difference, normal, sample_asks
from bench.generator import Load, answer_length, requests_of
from bench.limits import Statements, pgbench_script
from bench.scenarios import DIALECTS, SCENARIOS, Ask, Request, Rows, http_bytes

ROWS = Rows(1000, 50)
LIST = Ask("list", filters=(("category_id", "eq", "7"), ("price", "gte", "100")), sort=("-price",), page=2)


def test_a_list_is_asked_for_in_the_gateways_grammar() -> None:
    assert DIALECTS["gateway"](LIST) == Request("GET", "/api/v1/products?category_id=7&price[gte]=100&sort=-price&page=2")
    assert DIALECTS["gateway"](Ask("list")) == Request("GET", "/api/v1/products")


def test_a_list_is_asked_for_in_platformatics_grammar() -> None:
    query = dict(parse_qsl(urlsplit(DIALECTS["platformatic"](LIST).path).query))
    assert query == {
        "limit": "20",
        "offset": "20",
        "where.categoryId.eq": "7",
        "where.price.gte": "100",
        "orderby.price": "desc",
        "orderby.id": "desc",
    }


@pytest.mark.parametrize("dialect", ["gateway", "platformatic"])
def test_rows_are_read_created_and_changed_by_key(dialect: str) -> None:
    render = DIALECTS[dialect]
    assert render(Ask("get", key=3)).path.endswith("/products/3")
    assert render(Ask("create", body={"stock": 1})).method == "POST"
    patch = render(Ask("patch", key=3, body={"category_id": 1}))
    assert (patch.method, patch.path.endswith("/products/3")) in (("PATCH", True), ("PUT", True))


def test_created_rows_have_keys_of_their_own() -> None:
    random = Random(1)
    bodies = [SCENARIOS["create"].ask(random, ROWS, number).body for number in range(100)]
    assert len({body["sku"] for body in bodies if body}) == 100


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_stays_within_the_rows_there_are(scenario: str) -> None:
    random = Random(2)
    for number in range(200):
        ask = SCENARIOS[scenario].ask(random, Rows(5, 2), number)
        assert ask.key is None or 1 <= ask.key <= 5
        assert {value for name, _, value in ask.filters if name == "category_id"} <= {"1", "2"}


def test_all_contenders_are_asked_the_same_in_every_run() -> None:
    names = ("point", "list", "create")
    assert sample_asks(ROWS, names) == sample_asks(ROWS, names)


def test_a_request_on_the_wire_has_its_token_and_its_length() -> None:
    wire = http_bytes(Request("POST", "/x", b"{}"), "abc")
    head, _, body = wire.partition(b"\r\n\r\n")
    assert (head.split(b"\r\n")[0], body) == (b"POST /x HTTP/1.1", b"{}")
    assert {b"Authorization: Bearer abc", b"Content-Length: 2"} <= set(head.split(b"\r\n"))


def test_reading_loads_repeat_and_writing_ones_never_do() -> None:
    def load(scenario: str) -> Load:
        return Load(port=1, scenario=scenario, dialect="gateway", rows=Rows(10, 2), connections=1, seconds=1)

    reads, writes = requests_of(load("point")), requests_of(load("create"))
    first = [next(reads) for _ in range(10)]
    assert [next(reads) for _ in range(10)] == first
    bodies = [json.loads(next(writes).partition(b"\r\n\r\n")[2]) for _ in range(50)]
    assert len({body["sku"] for body in bodies}) == 50


def test_an_answers_length_is_its_head_and_its_body() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    assert answer_length(answer) == answer_length(answer.replace(b"Content-L", b"content-l")) == len(answer)
    assert answer_length(answer[:30]) == 0
    with pytest.raises(ValueError, match="without Content-Length"):
        answer_length(b"HTTP/1.1 200 OK\r\n\r\n")


def test_answers_are_compared_as_values() -> None:
    row = {"id": 1, "category_id": 2, "price": "1.50", "created_at": "2026-01-01T00:00:00.123456+00:00"}
    row["updated_at"] = row["created_at"]
    other = {
        "id": "1",
        "categoryId": "2",
        "price": 1.5,
        "createdAt": "2026-01-01T00:00:00.123Z",
        "updatedAt": "2026-01-01T01:00:00.123+01:00",
    }
    assert find_difference([normal(row)], [normal(other)], written=False) == ""
    assert "price" in find_difference([normal(row)], [normal({**other, "price": "1.51"})], written=False)
    assert find_difference([normal(row)], [], written=False) == "1 rows, there 0"


def test_unequal_is_an_exception_with_a_reason() -> None:
    assert str(Unequal("row 1")) == "row 1"


def test_pgbench_runs_the_same_sql_with_random_values() -> None:
    statements = Statements("SELECT $1::text::bigint", "SELECT $1, $2 OFFSET $3::bigint", True)
    assert pgbench_script(statements, "point", ROWS) == "\\set key random(1, 1000)\nSELECT :key::text::bigint;\n"
    assert pgbench_script(statements, "list", ROWS).endswith("SELECT :category, :price OFFSET :offset::bigint;\n")
