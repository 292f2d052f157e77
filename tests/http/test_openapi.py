"""The OpenAPI document: valid, complete by the tables it is made from, and true of what the planner takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from gateway.catalog.model import Bounds, Catalog, Column, Field, Resource
from gateway.catalog.types import TYPES, ColumnType, Family
from gateway.errors import ERRORS, ValidationFailed
from gateway.http.digit_patterns import decimal_pattern, integer_pattern
from gateway.http.openapi import OPERATION_ERRORS, SECURED_ERRORS, document
from gateway.http.value_schemas import answered_schema, sent_schema
from gateway.query.operators import OPERATORS, operators_for
from gateway.query.payload import plan_create, plan_patch
from gateway.query.plan import plan_list
from gateway.query.syntax.brackets import OPTIONS, RESERVED, parse_list
from tests.examples import examples
from tests.journeys.schemathesis_hooks import keep_within_limits
from tests.query.sample import (
    BIGINT,
    EVERYTHING,
    INTEGER,
    JSONB,
    NUMERIC,
    TEXT,
    TIMESTAMPTZ,
    UUID,
    catalog_of,
    resource,
    source,
    table,
)

PRODUCTS = resource(
    table(
        "products",
        [
            Column("id", BIGINT, nullable=False, generated=True),
            Column("sku", ColumnType("varchar", "character varying", length=32), nullable=False),
            Column("price", NUMERIC, nullable=False),
            Column("stock", INTEGER, nullable=False, filled=True),
            Column("status", TEXT, nullable=False, filled=True),
            Column("secret", TEXT, nullable=True),
            Column("made_at", TIMESTAMPTZ, nullable=False, filled=True),
            Column("attributes", JSONB, nullable=False, filled=True),
        ],
    ),
    """
description: What can be bought.
fields:
  sku: {pattern: '^[A-Z]+$', min_length: 3, description: One product each}
  price: {minimum: 0}
  stock: {minimum: 1, maximum: 500}
  status: {enum: [draft, active]}
  secret: {hidden: true}
  made_at: {readonly: true}
list: {filter: [sku, price, attributes], limit: {default: 7, max: 70}, sort: [-made_at]}
""",
)


def made(*resources: Resource, secured: bool = False) -> dict[str, Any]:
    catalog = Catalog({(each.version, each.name): each for each in resources}, {})
    return document(catalog, "v1", max_body_bytes=1_048_576, service_name="shop", secured=secured)


DOCUMENT = made(PRODUCTS, EVERYTHING)


def operation(path: str, method: str, of: Mapping[str, Any] = DOCUMENT) -> dict[str, Any]:
    found: dict[str, Any] = of["paths"][path][method]
    return found


def parameters(path: str, of: Mapping[str, Any] = DOCUMENT) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in map(resolved, operation(path, "get", of)["parameters"])}


def resolved(node: Any, of: Mapping[str, Any] = DOCUMENT) -> Any:
    while isinstance(node, dict) and "$ref" in node:
        found: Any = of
        for step in node["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        node = found
    return node


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for member in node.values():
            yield from references(member)
    elif isinstance(node, list):
        for member in node:
            yield from references(member)


def accepts(schema: Mapping[str, Any], value: Any) -> bool:
    return jsonschema_rs.validator_for({**schema, "components": DOCUMENT["components"]}, validate_formats=True).is_valid(value)


# --- the document as a whole -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secured", [False, True])
def test_the_document_is_valid_openapi_3_1(secured: bool) -> None:
    found = made(PRODUCTS, EVERYTHING, secured=secured)
    assert [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(found)] == []
    for schema in found["components"]["schemas"].values():
        jsonschema_rs.Draft202012Validator({**schema, "components": found["components"]})


def test_every_reference_leads_somewhere() -> None:
    for reference in references(DOCUMENT):
        assert resolved({"$ref": reference}), reference


def test_the_document_is_json_as_it_stands() -> None:
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT


def test_operation_ids_are_unique() -> None:
    ids = [found["operationId"] for item in DOCUMENT["paths"].values() for found in item.values() if "operationId" in found]
    assert len(ids) == len(set(ids))
    assert {"products_list", "products_get", "products_create", "products_patch", "products_delete"} <= set(ids)


def test_a_resource_is_in_the_document_of_its_own_version_alone() -> None:
    later = resource(table("later", [Column("id", BIGINT, nullable=False)]), "version: v2")
    catalog = Catalog({("v1", "products"): PRODUCTS, ("v2", "later"): later}, {})
    of_v2 = document(catalog, "v2", max_body_bytes=1, service_name="shop")
    assert of_v2["info"]["x-versions"] == ["v1", "v2"]
    assert [path for path in of_v2["paths"] if path.startswith("/api/")] == [
        "/api/v2/later",
        "/api/v2/later/{key}",
        "/api/v2/openapi.json",
    ]


def test_a_broken_resource_is_not_in_the_document() -> None:
    catalog, _ = catalog_of(
        (source("", "gone"), None), (source("", "plain"), table("plain", [Column("id", UUID, nullable=False)]))
    )
    found = document(catalog, "v1", max_body_bytes=1, service_name="shop")
    assert "/api/v1/plain" in found["paths"]
    assert "/api/v1/gone" not in found["paths"]


def test_a_view_can_only_be_read() -> None:
    view = resource(table("seen", [Column("id", BIGINT, nullable=True)], primary_key=(), is_view=True), "key: id")
    paths = made(view)["paths"]
    assert paths["/api/v1/seen"].keys() == {"get"}
    assert paths["/api/v1/seen/{key}"].keys() == {"parameters", "get"}


def test_a_wide_table_shares_its_schemas() -> None:
    columns = [Column("id", BIGINT, nullable=False), *(Column(f"c{number}", TEXT, nullable=True) for number in range(300))]
    found = made(resource(table("wide", columns)))
    assert len(operation("/api/v1/wide", "get", found)["parameters"]) > 300 * len(operators_for(Family.TEXT))
    assert len(json.dumps(found)) < 1_200_000
    assert len(found["components"]["schemas"]) < 30


# --- completeness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_is_a_parameter_and_a_member_of_filter(name: str) -> None:
    found = parameters("/api/v1/everything")
    members = DOCUMENT["components"]["schemas"]["everything.filter"]["properties"]
    fields = [field for field in EVERYTHING.visible.values() if OPERATORS[name] in operators_for(field.type.family)]
    assert fields
    for field in fields:
        assert f"{field.name}[{name}]" in found
        condition = resolved(members[field.name])
        assert any(name in each.get("properties", {}) for each in condition.get("anyOf", [condition]))


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_a_parameter(name: str) -> None:
    assert name in parameters("/api/v1/everything")


@pytest.mark.parametrize("name", TYPES)
def test_every_type_has_schemas_that_are_schemas(name: str) -> None:
    column = ColumnType(name, name, labels=("a", "b") if name == "enum" else ())
    for field in (Field("x", "x", column), Field("x", "x", column, nullable=False)):
        jsonschema_rs.Draft202012Validator(sent_schema(field))
        assert accepts(answered_schema(field), None) == (field.nullable or column.family is Family.JSON)
        assert accepts(sent_schema(field), None) == field.nullable


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_every_error_is_described(error: Any) -> None:
    response = DOCUMENT["components"]["responses"][error.__name__]
    schema = response["content"]["application/json"]["schema"]
    assert accepts(schema, {"error": {"code": error.code, "message": "No.", "details": {}}})
    assert not accepts(schema, {"error": {"code": "OTHER", "message": "No.", "details": {}}})
    assert f"`{error.code}`" in DOCUMENT["info"]["description"]
    assert response["headers"]["X-Request-Id"]


@pytest.mark.parametrize("name", ["list", "get", "create", "patch", "delete"])
def test_an_operation_has_its_errors_and_those_of_tokens_where_they_are_looked_at(name: str) -> None:
    path = "/api/v1/products" if name in ("list", "create") else "/api/v1/products/{key}"
    method = {"list": "get", "create": "post"}.get(name, name)
    plain = {int(status) for status in operation(path, method)["responses"] if status >= "400"}
    secured = {int(status) for status in operation(path, method, made(PRODUCTS, secured=True))["responses"] if status >= "400"}
    assert plain == {error.status for error in OPERATION_ERRORS[name]}
    assert secured == plain | {error.status for error in SECURED_ERRORS[name]}


def test_headers_of_an_answer_are_described() -> None:
    created = operation("/api/v1/products", "post")["responses"]["201"]
    assert {"X-Request-Id", "Location"} <= created["headers"].keys()
    assert "Link" in operation("/api/v1/products", "get")["responses"]["200"]["headers"]
    responses = DOCUMENT["components"]["responses"]
    assert "Allow" in responses["MethodNotAllowed"]["headers"]
    assert "Retry-After" in responses["Unavailable"]["headers"]
    assert "Retry-After" in responses["RateLimited"]["headers"]
    assert "WWW-Authenticate" in responses["Unauthorized"]["headers"]


def test_tokens_are_described_where_they_are_looked_at() -> None:
    assert "security" not in DOCUMENT
    assert made(PRODUCTS, secured=True)["security"] == [{"bearer": []}, {}]


def test_a_created_row_links_to_what_can_be_done_with_it() -> None:
    links = operation("/api/v1/products", "post")["responses"]["201"]["links"]
    assert links["get"] == {"operationId": "products_get", "parameters": {"key": "$response.body#/data/id"}}
    assert links.keys() == {"get", "patch", "delete"}


# --- one resource ------------------------------------------------------------------------------------------------------


def test_fields_that_cannot_be_filtered_by_are_no_parameters() -> None:
    headers = {"X-Request-Id", "X-Consistency-Token"}
    conditions = {name.partition("[")[0] for name in parameters("/api/v1/products")} - {*OPTIONS, *headers}
    assert conditions == {"sku", "price", "attributes"}


def test_hidden_fields_are_nowhere() -> None:
    assert "secret" not in json.dumps(made(PRODUCTS))


def test_sort_offers_each_direction_and_nulls_where_there_can_be_some() -> None:
    schema = parameters("/api/v1/everything")["sort"]["schema"]
    assert "-price:nullslast" in schema["items"]["enum"]
    assert "name" in schema["items"]["enum"]
    assert "name:nullsfirst" not in schema["items"]["enum"]
    assert "doc" not in schema["items"]["enum"]
    assert accepts(schema, ["-price", "name"])
    assert not accepts(schema, ["-price", "price:nullsfirst"])


def test_limits_come_from_the_definition() -> None:
    assert parameters("/api/v1/products")["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 70, "default": 7}


def test_a_column_with_a_reserved_name_has_no_short_form() -> None:
    found = parameters("/api/v1/everything")
    assert "limit[eq]" in found
    assert found["limit"]["description"] == "How many rows at most."
    assert all(name not in found for name in RESERVED if name not in OPTIONS)


def test_a_create_says_what_is_required_and_takes_nothing_else() -> None:
    schema = DOCUMENT["components"]["schemas"]["products.create"]
    assert schema["required"] == ["sku", "price"]
    assert schema["properties"].keys() == {"sku", "price", "stock", "status", "attributes"}
    body = {"sku": "LAMP", "price": "12.30"}
    assert accepts(schema, body)
    for wrong in ({"id": 1}, {"made_at": "2026-01-01T00:00:00Z"}, {"secret": ""}, {"sku": "no"}, {"price": "-1"}, {"stock": 501}):
        assert not accepts(schema, body | wrong), wrong


def test_a_patch_changes_at_least_one_field() -> None:
    request = operation("/api/v1/products/{key}", "patch")["requestBody"]["content"]
    assert request.keys() == {"application/json", "application/merge-patch+json"}
    schema = DOCUMENT["components"]["schemas"]["products.patch"]
    assert not accepts(schema, {})
    assert accepts(schema, {"stock": 5})


def test_an_answer_may_leave_out_fields_where_fields_can_be_chosen() -> None:
    listed = operation("/api/v1/products", "get")["responses"]["200"]["content"]["application/json"]["schema"]
    meta = {"limit": 7, "page": 1, "has_more": False, "next_cursor": None, "prev_cursor": None}
    assert accepts(listed, {"data": [{"id": 1}], "meta": meta})
    assert not accepts(listed, {"data": [{"id": 1, "secret": "x"}], "meta": meta})
    created = operation("/api/v1/products", "post")["responses"]["201"]["content"]["application/json"]["schema"]
    assert not accepts(created, {"data": {"id": 1}})


def test_a_composite_key_is_one_parameter_of_parts_between_commas() -> None:
    pairs = resource(table("pairs", [Column("a", BIGINT, nullable=False), Column("b", TEXT, nullable=False)], ("a", "b")))
    found = made(pairs)
    key = found["paths"]["/api/v1/pairs/{key}"]["parameters"][0]
    assert accepts(key["schema"], "1,x")
    assert not accepts(key["schema"], "x")
    link = operation("/api/v1/pairs", "post", found)["responses"]["201"]["links"]["get"]
    assert link["parameters"]["key"] == "{$response.body#/data/a},{$response.body#/data/b}"


def test_an_enum_type_of_any_name_can_be_a_component() -> None:
    mood = ColumnType("enum", '"my mood"', labels=("sad, but true", "ok"))
    found = made(resource(table("people", [Column("id", BIGINT, nullable=False), Column("mood", mood, nullable=True)])))
    assert found["components"]["schemas"]["query.value..22.my.20.mood.22."]["enum"] == ["sad, but true", "ok"]
    assert [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(found)] == []


# --- numbers written as strings ----------------------------------------------------------------------------------------


@given(st.integers(-(10**6), 10**6), st.integers(0, 10**6), st.integers(-(10**7), 10**7))
def test_an_integer_pattern_matches_the_integers_between_its_ends(least: int, width: int, value: int) -> None:
    matched = re.fullmatch(integer_pattern(least, least + width), str(value)) is not None
    assert matched == (least <= value <= least + width)


@given(st.integers(-9999, 9999), st.integers(0, 9999), st.integers(-19999, 19999), st.integers(0, 3))
def test_a_decimal_pattern_matches_nothing_beyond_its_ends(least: int, width: int, value: int, places: int) -> None:
    low, high, number = (Decimal(each).scaleb(-places) for each in (least, least + width, value))
    matched = re.fullmatch(decimal_pattern(low, high, places), f"{number:f}") is not None
    assert not matched or low <= number <= high
    assert matched or not (low.to_integral_value() == low and high.to_integral_value() == high and low <= number <= high)


@pytest.mark.parametrize(
    ("bounds", "taken", "refused"),
    [
        (Bounds(minimum=0), ["0", "0.5", "9999999999.99", 0, 7.25], ["-1", "-0.01", "1.005", -1]),
        (Bounds(minimum="0.01"), ["0.01", "1", "0.10"], ["0", "0.00", 0]),
        (Bounds(minimum=1, maximum=5), ["1", "4.99", "5", "5.00"], ["0.99", "5.01", "6", 6]),
        (Bounds(), ["-9999999999.99", "12.3"], ["99999999999", "1.234"]),
    ],
)
def test_bounds_hold_for_a_decimal_in_either_form(bounds: Bounds, taken: list[Any], refused: list[Any]) -> None:
    schema = sent_schema(Field("price", "price", NUMERIC, nullable=False, bounds=bounds))
    assert [value for value in taken if not accepts(schema, value)] == []
    assert [value for value in refused if accepts(schema, value)] == []


# --- what the document allows, the planner takes -----------------------------------------------------------------------

# A range, a bit string of fixed length and the like are text to us: which text they take only PostgreSQL knows.
GENERATED = settings(max_examples=examples(35), phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None)
SCHEMA = schemathesis.openapi.from_dict(json.loads(json.dumps(made(EVERYTHING))))
SCHEMA.config.generation.update(allow_x00=False)


@GENERATED
@given(SCHEMA["/api/v1/everything"]["GET"].as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE))
def test_a_query_that_the_document_allows_has_a_plan(case: Any) -> None:
    query = dict(case.query)
    keep_within_limits(query)
    text = urlencode({name: json.dumps(value) if isinstance(value, dict) else value for name, value in query.items()})
    request = parse_list(text.encode())
    try:
        plan_list(EVERYTHING, request)
    except ValidationFailed as refusal:
        pytest.fail(f"{refusal.problems} for {text}")


@GENERATED
@given(SCHEMA["/api/v1/everything"]["POST"].as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE))
def test_a_body_that_the_document_allows_has_a_plan(case: Any) -> None:
    plan_create(EVERYTHING, json.dumps(case.body).encode())


@GENERATED
@given(SCHEMA["/api/v1/everything/{key}"]["PATCH"].as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
def test_a_body_that_the_document_refuses_has_no_plan(case: Any) -> None:
    schema = DOCUMENT["components"]["schemas"]["everything.patch"]
    if not isinstance(case.body, dict) or accepts(schema, case.body):
        return
    with pytest.raises(ValidationFailed):
        plan_patch(EVERYTHING, ("1",), json.dumps(case.body).encode(), merge=False)
