"""The contract's table of values: what each type takes in a body, gives in an answer, and refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import execute, throwaway_database
from tests.journeys.answers import JSON, gateway_over, problems
from tests.serving import write_resources

pytestmark = pytest.mark.xdist_group("values")

COLUMNS = {
    "small": "smallint",
    "whole": "integer",
    "big": "bigint",
    "big_text": "bigint",
    "exact": "numeric",
    "money": "numeric(12, 2)",
    "single": "real",
    "double": "double precision",
    "words": "text",
    "short": "varchar(5)",
    "fixed": "char(4)",
    "id_of": "uuid",
    "mood": "internal_mood",
    "address": "inet",
    "net": "cidr",
    "span": "int4range",
    "period": "tstzrange",
    "moment": "timestamptz",
    "second": "timestamptz(0)",
    "naive": "timestamp",
    "day": "date",
    "clock": "time",
    "lasting": "interval",
    "raw": "bytea",
    "doc": "jsonb",
    "text_doc": "json",
    "flags": "boolean[]",
    "numbers": "numeric[]",
    "wholes": "integer[]",
    "tags": "text[]",
    "grid": "integer[]",
    "blobs": "bytea[]",
    "yes": "boolean",
    "positive": "internal_positive",
    "mac": "macaddr",
    "bits": "varbit(4)",
}


@pytest.fixture(scope="module")
def client(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    sql = f"""
        CREATE TYPE internal_mood AS ENUM ('sad', 'ok', 'very happy');
        CREATE DOMAIN internal_positive AS integer CONSTRAINT internal_check CHECK (VALUE > 0);
        CREATE TABLE internal_values (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {columns});
    """
    yaml = "table: internal_values\nfields:\n  big_text: {json: string}\n"
    resources = write_resources(Path(tmp_path_factory.mktemp("values")) / "resources", {"values": yaml})
    with throwaway_database(postgres_url) as url:
        execute(url, sql)
        with gateway_over(url, resources) as found:
            yield found


def sent(client: httpx.Client, body: str) -> httpx.Response:
    return client.post("/api/v1/values", content=body.encode(), headers=JSON)


SAME = object()
TAKEN: list[tuple[str, str, Any]] = [
    ("small", "-32768", SAME),
    ("small", '"32767"', "32767"),
    ("small", "1e2", "100"),
    ("small", "7.0", "7"),
    ("whole", "2147483647", SAME),
    ("big", "9223372036854775807", SAME),
    ("big", '"-9223372036854775808"', "-9223372036854775808"),
    ("big_text", "9223372036854775807", '"9223372036854775807"'),
    ("big_text", '"12"', SAME),
    ("exact", '"12.30"', SAME),
    ("exact", "12.30", '"12.30"'),
    ("exact", "0.1000000000000000055511151231257827", '"0.1000000000000000055511151231257827"'),
    ("exact", "123456789012345678901234567890.123456789", '"123456789012345678901234567890.123456789"'),
    ("exact", "1e3", '"1000"'),
    ("exact", "-0", '"0"'),
    ("money", "12.3", '"12.30"'),
    ("money", '"9999999999.99"', SAME),
    ("single", "1.5", SAME),
    ("double", "0.1", SAME),
    ("double", "1e308", SAME),
    ("double", "5e-324", SAME),
    ("words", '"Ünïcödé 🎉 \\u0001 \\" \\\\"', SAME),
    ("words", '""', SAME),
    ("words", '"null"', SAME),
    ("short", '"🎉🎉🎉🎉🎉"', SAME),
    ("fixed", '"ab"', '"ab  "'),
    ("id_of", '"0F0E0D0C-0b0a-0908-0706-050403020100"', '"0f0e0d0c-0b0a-0908-0706-050403020100"'),
    ("mood", '"very happy"', SAME),
    ("address", '"192.168.0.1/24"', SAME),
    ("address", '"::1"', SAME),
    ("net", '"10.0.0.0/8"', SAME),
    ("span", '"[1,5)"', SAME),
    ("span", '"[1,4]"', '"[1,5)"'),
    ("period", '"[\\"2026-01-01 00:00:00+00\\",)"', SAME),
    ("moment", '"2026-05-01T12:00:00Z"', '"2026-05-01T12:00:00+00:00"'),
    ("moment", '"2026-05-01T12:00:00.123456+05:30"', '"2026-05-01T06:30:00.123456+00:00"'),
    ("moment", '"2026-05-01t12:00:00z"', '"2026-05-01T12:00:00+00:00"'),
    ("naive", '"2026-05-01T12:00:00.5"', SAME),
    ("day", '"2024-02-29"', SAME),
    ("clock", '"23:59:59.999999"', SAME),
    ("lasting", '"P1Y2M3DT4H5M6.5S"', SAME),
    ("lasting", '"PT0S"', SAME),
    ("raw", '"AAECAw=="', SAME),
    ("raw", '""', SAME),
    ("raw", json.dumps("/////" * 40), SAME),
    ("doc", '"text"', SAME),
    ("doc", "[]", SAME),
    ("doc", "false", SAME),
    ("flags", "[true, false, null]", SAME),
    ("numbers", '[1.10, "2.20", null]', '["1.10", "2.20", null]'),
    ("wholes", "[]", SAME),
    ("wholes", "[1, 2]", SAME),
    ("tags", '["a,b", "\\"q\\"", "{}", "NULL", "", "\\\\", null]', SAME),
    ("blobs", '["AAE=", null]', SAME),
    ("yes", "true", SAME),
    ("yes", "null", SAME),
    ("positive", "1", SAME),
    ("mac", '"08:00:2b:01:02:03"', SAME),
    ("bits", '"0101"', SAME),
]


@pytest.mark.parametrize(("field", "given", "expected"), TAKEN)
def test_a_value_comes_out_as_the_contract_says(client: httpx.Client, field: str, given: str, expected: Any) -> None:
    response = sent(client, f'{{"{field}": {given}}}')
    assert response.status_code == 201, response.text
    wanted = json.loads(given if expected is SAME else expected, parse_float=Decimal)
    assert json.loads(response.text, parse_float=Decimal)["data"][field] == wanted
    read = client.get(response.headers["location"])
    assert json.loads(read.text, parse_float=Decimal)["data"][field] == wanted


def test_json_keeps_its_numbers_as_they_were_written(client: httpx.Client) -> None:
    document = '{"a": 1.10, "b": 12345678901234567890.123456789, "c": [1e-9, -0.0, 1E2]}'
    response = sent(client, f'{{"doc": {document}, "text_doc": {document}}}')
    assert response.status_code == 201
    assert '"doc":{"a": 1.10, "b": 12345678901234567890.123456789, "c": [0.000000001, 0.0, 100]}' in response.text
    exact = json.loads(response.text, parse_float=Decimal)["data"]["text_doc"]
    assert exact == json.loads(document, parse_float=Decimal)


REFUSED: list[tuple[str, str, str]] = [
    ("small", "32768", "from -32768 to 32767"),
    ("small", "-32769", "from -32768 to 32767"),
    ("small", "true", "integer"),
    ("small", "1.5", "integer"),
    ("small", '"1.0"', "integer"),
    ("small", '""', "integer"),
    ("small", '"٣"', "integer"),
    ("small", "[1]", "integer"),
    ("small", "{}", "integer"),
    ("whole", "1e999999999", ""),
    ("whole", "1e400", "integer"),
    ("big", "9223372036854775808", "from"),
    ("big", "9" * 400, "from"),
    ("big", f'"{"9" * 400}"', "integer"),
    ("exact", '"NaN"', "decimal number"),
    ("exact", '"Infinity"', "decimal number"),
    ("exact", '"1e200000"', "digits"),
    ("exact", "true", "decimal number"),
    ("exact", '" 1"', "decimal number"),
    ("exact", '"0x10"', "decimal number"),
    ("exact", '"1_000"', "decimal number"),
    ("money", "12.345", "2 digits after the point"),
    ("money", "10000000000", "10 digits before the point"),
    ("single", "1e39", "range"),
    ("single", '"1"', "number"),
    ("double", "1e309", "range"),
    ("double", "1e-400", "range"),
    ("double", "true", "number"),
    ("words", "1", "string"),
    ("words", '"a\\u0000b"', "U+0000"),
    ("words", '"\\ud800"', "surrogate"),
    ("words", "[]", "string"),
    ("short", '"123456"', "at most 5 characters"),
    ("id_of", '"0f0e0d0c0b0a09080706050403020100"', "UUID"),
    ("id_of", '""', "UUID"),
    ("mood", '"Sad"', "sad, ok, very happy"),
    ("mood", "0", "sad, ok, very happy"),
    ("address", '"300.1.1.1"', "IP address"),
    ("net", '"10.0.0.1/8"', "network"),
    ("moment", '"2026-05-01T12:00:00"', "offset"),
    ("moment", '"2026-02-30T12:00:00Z"', "offset"),
    ("moment", '"now"', "offset"),
    ("moment", '"2026-05-01"', "offset"),
    ("moment", "1777636800", "offset"),
    ("naive", '"2026-05-01T12:00:00Z"', "without an offset"),
    ("second", '"2026-05-01T12:00:00.5Z"', "0 digits"),
    ("day", '"2023-02-29"', "date"),
    ("day", '"20240229"', "date"),
    ("day", '"2024-02-29\\n"', "date"),
    ("clock", '"24:00:00"', "time of day"),
    ("lasting", '"1 day"', "duration"),
    ("lasting", '"P"', "duration"),
    ("raw", '"AAECAw"', "base64"),
    ("raw", '"A-_="', "base64"),
    ("raw", "[1]", "base64"),
    ("doc", '{"a": "\\u0000"}', "U+0000"),
    ("doc", '{"\\u0000": 1}', "U+0000"),
    ("doc", '["\\ud800"]', "surrogate"),
    ("flags", "[1]", "position 0"),
    ("flags", "true", "array"),
    ("wholes", '["x"]', "position 0"),
    ("tags", '"a"', "array"),
    ("tags", '["a", 1]', "position 1"),
    ("tags", '["a\\u0000"]', "U+0000"),
    ("numbers", f"[{','.join(['1e131071'] * 10)}]", "written out"),
    ("numbers", json.dumps(["1e131071"] * 10), "written out"),
    ("doc", f"[{','.join(['1e131071'] * 10)}]", "written out"),
    ("doc", f'{{"a": [{",".join(["1e-16383"] * 100)}]}}', "written out"),
    ("yes", "1", "true or false"),
    ("yes", '"true"', "true or false"),
    ("mac", '"x"', "MAC"),
    ("bits", '"01010"', "at most 4 bits"),
    ("bits", '"2"', "bits"),
]


@pytest.mark.parametrize(("field", "given", "message"), REFUSED)
def test_a_value_that_its_column_does_not_take_is_refused_by_name(
    client: httpx.Client, field: str, given: str, message: str
) -> None:
    found = problems(sent(client, f'{{"{field}": {given}}}'))
    assert found.keys() <= {field, ""}
    assert message in "".join(found.values())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("field", ["exact", "double", "doc", "words"])
def test_what_is_no_json_number_is_refused(client: httpx.Client, field: str, number: str) -> None:
    assert number.lstrip("-") in problems(sent(client, f'{{"{field}": {number}}}'))[""]


def test_a_domain_that_refuses_names_its_field(client: httpx.Client) -> None:
    assert problems(sent(client, '{"positive": 0}')) == {"positive": "is not a value that is allowed here"}


def test_all_faults_of_a_body_come_at_once(client: httpx.Client) -> None:
    body = '{"small": 99999, "words": "a\\u0000", "nothing": 1, "day": "x", "id": 3, "yes": true}'
    assert problems(sent(client, body)).keys() == {"small", "words", "nothing", "day", "id"}


def test_what_is_not_sent_is_null(client: httpx.Client) -> None:
    row = sent(client, "{}")
    assert row.status_code == 201
    assert row.json()["data"] == {"id": row.json()["data"]["id"], **dict.fromkeys(COLUMNS)}
