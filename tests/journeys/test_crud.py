"""The five routes over the seven resources: envelopes, headers, and what is refused before a row is looked at."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.journeys.answers import JSON, domain, gateway_over, links, made, problems
from tests.journeys.test_attacks import execute
from tests.serving import write_resources

pytestmark = pytest.mark.xdist_group("crud")
RESOURCES = sorted(path.stem for path in Path("resources").glob("*.yaml"))
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00")


@pytest.fixture(scope="module")
def client(postgres_url: str) -> Iterator[httpx.Client]:
    with domain(postgres_url) as found:
        yield found


@pytest.fixture(scope="module")
def rows(client: httpx.Client) -> dict[str, dict[str, Any]]:
    """One row of each resource, by the resource's name."""
    user = made(client, "users", email="ada@example.org", name="Ada")
    category = made(client, "categories", slug="lamps", name="Lamps")
    product = made(client, "products", category_id=category["id"], sku="LAMP-1", name="Lamp", price="12.3", currency="EUR")
    order = made(client, "orders", user_id=user["id"], currency="EUR")
    item = made(client, "order_items", order_id=order["id"], product_id=product["id"], quantity=3, unit_price=1.5)
    transaction = made(client, "transactions", user_id=user["id"], kind="expense", amount="4.50", currency="EUR")
    budget = made(
        client, "budgets", user_id=user["id"], category_id=category["id"], starts_on="2026-01-01", amount=100, currency="EUR"
    )
    return {
        "users": user,
        "categories": category,
        "products": product,
        "orders": order,
        "order_items": item,
        "transactions": transaction,
        "budgets": budget,
    }


# --- every resource ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resource", RESOURCES)
def test_a_row_is_read_as_it_was_made(client: httpx.Client, rows: dict[str, Any], resource: str) -> None:
    response = client.get(f"/api/v1/{resource}/{rows[resource]['id']}")
    assert response.status_code == 200
    assert response.json() == {"data": rows[resource]}
    assert response.headers["content-type"] == "application/json"
    assert RFC_3339.fullmatch(rows[resource]["created_at"])


@pytest.mark.parametrize("resource", RESOURCES)
def test_a_row_is_in_its_list(client: httpx.Client, rows: dict[str, Any], resource: str) -> None:
    response = client.get(f"/api/v1/{resource}", params={"id": rows[resource]["id"]})
    assert response.status_code == 200
    assert response.json()["data"] == [rows[resource]]
    meta = response.json()["meta"]
    assert {key: meta[key] for key in ("page", "has_more", "next_cursor")} == {"page": 1, "has_more": False, "next_cursor": None}
    assert "link" not in response.headers


@pytest.mark.parametrize("resource", RESOURCES)
def test_a_patch_changes_one_field_and_the_time(client: httpx.Client, rows: dict[str, Any], resource: str) -> None:
    field, value = {
        "users": ("phone", "+4930123456"),
        "categories": ("sort_order", 7),
        "products": ("stock", 12),
        "orders": ("shipping_address", {"city": "Köln"}),
        "order_items": ("quantity", 4),
        "transactions": ("cleared", True),
        "budgets": ("rollover", True),
    }[resource]
    before = client.get(f"/api/v1/{resource}/{rows[resource]['id']}").json()["data"]
    response = client.patch(f"/api/v1/{resource}/{before['id']}", json={field: value})
    assert response.status_code == 200
    after = response.json()["data"]
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {field, "updated_at"} | ({"amount"} if resource == "order_items" else set())
    assert after[field] == value
    assert client.get(f"/api/v1/{resource}/{before['id']}").json() == {"data": after}
    rows[resource] = after


@pytest.mark.parametrize("resource", RESOURCES)
def test_a_row_that_is_not_there_is_404_to_get_patch_and_delete(
    client: httpx.Client, rows: dict[str, Any], resource: str
) -> None:
    key = str(uuid.uuid4()) if isinstance(rows[resource]["id"], str) else "987654321"
    path = f"/api/v1/{resource}/{key}"
    field = "status" if resource in ("users", "orders") else "currency"
    value = {"users": "active", "orders": "paid"}.get(resource, "EUR")
    body = {"name": "x"} if resource == "categories" else {"quantity": 1} if resource == "order_items" else {field: value}
    for response in (client.get(path), client.patch(path, json=body), client.delete(path)):
        assert response.status_code == 404
        assert response.json() == {"error": {"code": "NOT_FOUND", "message": "There is nothing here.", "details": {}}}


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("key", ["x", "1,2", "1%2C2", "%00", "%ff", "-", "1e3", "99999999999999999999", "'", "%C3%BC", " 1", "٣"])
def test_a_key_that_does_not_parse_is_404(client: httpx.Client, resource: str, key: str) -> None:
    assert client.get(f"/api/v1/{resource}/{key}").status_code == 404
    assert client.patch(f"/api/v1/{resource}/{key}", json={"status": "active"}).status_code == 404
    assert client.delete(f"/api/v1/{resource}/{key}").status_code == 404


@pytest.mark.parametrize("resource", RESOURCES)
def test_a_readonly_and_an_unknown_field_are_refused_with_what_is_missing(client: httpx.Client, resource: str) -> None:
    found = problems(client.post(f"/api/v1/{resource}", json={"created_at": "2026-01-01T00:00:00Z", "nonsense": 1}))
    assert found["created_at"] == "is read-only; leave it out"
    assert found["nonsense"].startswith("is not a field.")
    assert "is required" in found.values()


@pytest.mark.parametrize("resource", RESOURCES)
def test_a_patch_of_a_readonly_field_is_refused(client: httpx.Client, rows: dict[str, Any], resource: str) -> None:
    found = problems(client.patch(f"/api/v1/{resource}/{rows[resource]['id']}", json={"updated_at": None}))
    assert found == {"updated_at": "is read-only; leave it out"}


def test_a_hidden_field_does_not_exist(client: httpx.Client, rows: dict[str, Any]) -> None:
    path = f"/api/v1/orders/{rows['orders']['id']}"
    assert not {"note", "internal_note"} & rows["orders"].keys()
    assert "is not a field" in problems(client.patch(path, json={"note": "x"}))["note"]
    assert "is not a field" in problems(client.get("/api/v1/orders", params={"note": "x"}))["note"]
    assert "is not a field" in problems(client.get("/api/v1/orders", params={"sort": "note"}))["sort"]
    assert "is not a field" in problems(client.get(path, params={"fields": "note"}))["fields"]


# --- create and delete -------------------------------------------------------------------------------------------------


def test_location_leads_to_the_new_row(client: httpx.Client) -> None:
    response = client.post("/api/v1/categories", json={"slug": "located", "name": "Located"})
    assert response.status_code == 201
    assert response.headers["location"] == f"/api/v1/categories/{response.json()['data']['id']}"
    assert client.get(response.headers["location"]).json() == response.json()


def test_a_deleted_row_is_gone(client: httpx.Client) -> None:
    row = made(client, "categories", slug="deleted", name="Deleted")
    path = f"/api/v1/categories/{row['id']}"
    response = client.delete(path)
    assert response.status_code == 204
    assert response.content == b""
    assert client.delete(path).status_code == 404
    assert client.get(path).status_code == 404


def test_a_delete_takes_along_what_belongs_to_the_row(client: httpx.Client) -> None:
    user = made(client, "users", email="leaver@example.org", name="Leaver")
    transaction = made(client, "transactions", user_id=user["id"], kind="income", amount=1, currency="EUR")
    assert client.delete(f"/api/v1/users/{user['id']}").status_code == 204
    assert client.get(f"/api/v1/transactions/{transaction['id']}").status_code == 404


def test_a_create_with_defaults_alone_needs_only_what_is_required(client: httpx.Client) -> None:
    row = made(client, "categories", slug="plain", name="Plain")
    assert (row["kind"], row["sort_order"], row["parent_id"]) == ("product", 0, None)


def test_fields_chooses_the_members_of_a_row(client: httpx.Client, rows: dict[str, Any]) -> None:
    product = rows["products"]
    response = client.get(f"/api/v1/products/{product['id']}", params={"fields": "price,sku"})
    assert response.text == '{"data":{"price":"12.30","sku":"LAMP-1"}}'
    assert "is not a parameter" in problems(client.get(f"/api/v1/products/{product['id']}?limit=3"))["limit"]
    assert "takes none" in problems(client.delete(f"/api/v1/products/{product['id']}?force=true"))["force"]
    assert "takes none" in problems(client.post("/api/v1/products?x=1", json={}))["x"]


# --- pages -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(client: httpx.Client) -> list[int]:
    """The keys of 7 categories of one kind, in order."""
    return [made(client, "categories", slug=f"many-{n}", name="Ü & ä", kind="income")["id"] for n in range(7)]


FILTER = "kind=income&name=%C3%9C+%26+%C3%A4&sort=id&fields=id&limit=3"


def test_next_leads_through_the_whole_list_and_keeps_the_other_parameters(client: httpx.Client, many: list[int]) -> None:
    seen: list[int] = []
    target: str | None = f"/api/v1/categories?{FILTER}"
    asked = parse_qs(FILTER)
    while target:
        response = client.get(target)
        assert response.status_code == 200
        seen += [row["id"] for row in response.json()["data"]]
        target = links(response).get("next")
        assert bool(target) == response.json()["meta"]["has_more"]
        if target:
            query = parse_qs(urlsplit(target).query)
            assert {key: query[key] for key in asked} == asked
            assert response.json()["meta"]["next_cursor"] in target
    assert seen == many


def test_prev_leads_back_by_cursor(client: httpx.Client, many: list[int]) -> None:
    first = client.get(f"/api/v1/categories?{FILTER}")
    second = client.get(links(first)["next"])
    assert second.json()["meta"].get("page") is None
    back = client.get(links(second)["prev"])
    assert back.json()["data"] == first.json()["data"]
    assert back.json()["meta"]["prev_cursor"] is None
    assert client.get(links(back)["next"]).json()["data"] == second.json()["data"]


def test_numbered_pages_have_prev_and_first(client: httpx.Client, many: list[int]) -> None:
    third = client.get(f"/api/v1/categories?page=3&{FILTER}")
    assert [row["id"] for row in third.json()["data"]] == many[6:]
    assert links(third).keys() == {"prev", "first"}
    assert [row["id"] for row in client.get(links(third)["prev"]).json()["data"]] == many[3:6]
    assert [row["id"] for row in client.get(links(third)["first"]).json()["data"]] == many[:3]


def test_a_page_behind_the_last_is_empty(client: httpx.Client, many: list[int]) -> None:
    beyond = client.get(f"/api/v1/categories?page=9&{FILTER}")
    assert beyond.json()["data"] == []
    assert beyond.json()["meta"]["has_more"] is False
    assert [row["id"] for row in client.get(links(beyond)["first"]).json()["data"]] == many[:3]


def test_a_percent_encoded_page_is_not_there_twice_in_links(client: httpx.Client, many: list[int]) -> None:
    second = client.get(f"/api/v1/categories?%70age=2&{FILTER}")
    assert client.get(links(second)["prev"]).status_code == 200
    assert client.get(links(second)["next"]).status_code == 200


@pytest.mark.parametrize("count", ["exact", "estimated"])
def test_a_count_is_told_with_its_kind(client: httpx.Client, many: list[int], count: str) -> None:
    meta = client.get(f"/api/v1/categories?{FILTER}&count={count}").json()["meta"]
    assert meta["count"] == count
    assert isinstance(meta["total"], int)
    if count == "exact":
        assert meta["total"] == len(many)


# --- methods, paths, headers -------------------------------------------------------------------------------------------

COLLECTION_METHODS = "GET, HEAD, OPTIONS, POST"
ROW_METHODS = "GET, HEAD, OPTIONS, PATCH, DELETE"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE"])
def test_a_collection_takes_no_other_method(client: httpx.Client, method: str) -> None:
    response = client.request(method, "/api/v1/products")
    assert (response.status_code, response.headers["allow"]) == (405, COLLECTION_METHODS)


@pytest.mark.parametrize("method", ["PUT", "POST", "TRACE"])
def test_a_row_takes_no_other_method(client: httpx.Client, method: str) -> None:
    response = client.request(method, "/api/v1/products/1")
    assert (response.status_code, response.headers["allow"]) == (405, ROW_METHODS)


def test_options_tells_the_methods(client: httpx.Client) -> None:
    for path, methods in (("/api/v1/products", COLLECTION_METHODS), ("/api/v1/products/1", ROW_METHODS)):
        response = client.options(path)
        assert (response.status_code, response.headers["allow"], response.content) == (204, methods, b"")
    assert client.options("/api/v1/nothing").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/categories",
        "/api/v1/categories?limit=1",
        "/api/v1/categories/1",
        "/api/v1/categories/0",
        "/api/v1/categories?limit=0",
        "/api/v1/openapi.json",
        "/api/v3/openapi.json",
        "/docs",
        "/health/live",
        "/health/ready",
        "/nothing",
    ],
)
def test_head_has_the_headers_of_get_and_no_body(client: httpx.Client, rows: dict[str, Any], many: list[int], path: str) -> None:
    get, head = client.get(path), client.head(path)
    assert head.status_code == get.status_code
    assert head.content == b""
    own = {"date", "x-request-id"}
    assert {name: value for name, value in head.headers.items() if name not in own} == {
        name: value for name, value in get.headers.items() if name not in own
    }


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/",
        "/api/v1",
        "/api/v1/",
        "/api/v1/nothing",
        "/api/v1/nothing/1",
        "/api/v1/products/",
        "/api/v1/products/1/",
        "/api/v1/products/1/items",
        "/api/v1//products",
        "/api//v1/products",
        "/api/v2/products",
        "/api/V1/products",
        "/api/v1/Products",
        "/api/v1/products%2F1",
        "/api/v1/%70roducts%00",
        "/api/v1/products%00",
        "/api/v1/%ff",
        "/api/%ff/products",
        "/API/v1/products",
        "/docs/nothing",
        "/health",
    ],
)
def test_a_path_that_leads_nowhere_is_404(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404
    assert client.post(path, json={}).status_code in (404, 405)


def test_two_slashes_at_the_start_are_404(client: httpx.Client) -> None:
    port = client.base_url.port
    assert client.get(f"http://127.0.0.1:{port}//api/v1/products").status_code == 404


def test_an_encoded_path_is_the_path(client: httpx.Client) -> None:
    assert client.get("/api/v1/%70roducts").status_code == 200


SANE = ["a", "0123456789", "A.b_c:d-e", "x" * 128, str(uuid.uuid4())]
INSANE = ["", "x" * 129, "a b", "a\tb", "ü".encode().decode("latin-1"), '"', "<script>", "a,b", "é", "a;b", "{}"]
PLACES = ["/api/v1/products", "/api/v1/nothing", "/api/v1/products?nonsense=1", "/nothing", "/health/live", "/docs"]


@pytest.mark.parametrize("path", PLACES)
def test_a_sane_request_id_is_the_answers(client: httpx.Client, path: str) -> None:
    for request_id in SANE:
        assert client.get(path, headers={"X-Request-Id": request_id}).headers["x-request-id"] == request_id
        assert client.put(path, headers={"x-request-id": request_id}).headers["x-request-id"] == request_id


@pytest.mark.parametrize("path", PLACES)
def test_another_request_id_is_replaced(client: httpx.Client, path: str) -> None:
    given = set()
    for request_id in INSANE:
        answer = client.get(path, headers=[(b"X-Request-Id", request_id.encode("latin-1"))]).headers["x-request-id"]
        assert re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", answer)
        given.add(answer)
    assert len(given) == len(INSANE)


OTHER_TYPES = [
    None,
    "",
    "text/plain",
    "application/xml",
    "application/json2",
    "application/json; charset=latin-1",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
]
SPELLINGS = ["application/json", "Application/JSON", "application/json;charset=utf-8", 'application/json; charset="UTF-8"']


@pytest.mark.parametrize("content_type", OTHER_TYPES)
def test_another_content_type_is_415(client: httpx.Client, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    for method, path in (("POST", "/api/v1/categories"), ("PATCH", "/api/v1/categories/1")):
        response = client.request(method, path, content=b"{}", headers=headers)
        assert response.status_code == 415
        assert "application/json" in response.json()["error"]["message"]


@pytest.mark.parametrize("content_type", SPELLINGS)
def test_json_is_taken_however_it_is_spelt(client: httpx.Client, content_type: str) -> None:
    response = client.post("/api/v1/categories", content=b"{}", headers={"content-type": content_type})
    assert problems(response).keys() == {"slug", "name"}


def test_a_merge_patch_creates_nothing(client: httpx.Client) -> None:
    response = client.post("/api/v1/categories", content=b"{}", headers={"content-type": "application/merge-patch+json"})
    assert response.status_code == 415


def test_a_body_over_the_limit_is_413_with_and_without_its_length(client: httpx.Client) -> None:
    body = b'{"slug": "' + b"a" * 1048576 + b'"}'
    assert client.post("/api/v1/categories", content=body, headers=JSON).status_code == 413
    pieces = (body[start : start + 65536] for start in range(0, len(body), 65536))
    assert client.post("/api/v1/categories", content=pieces, headers=JSON).status_code == 413
    assert client.patch("/api/v1/categories/1", content=body, headers=JSON).status_code == 413
    just = b'{"slug": "' + b"a" * (1048576 - 12) + b'"}'
    assert len(just) == 1048576
    assert client.post("/api/v1/categories", content=just, headers=JSON).status_code == 400


def test_an_array_with_bounds_of_its_own_is_shown_as_elements_and_counts_from_one_once_written(
    database_url: str, tmp_path: Path
) -> None:
    execute(database_url, "CREATE TABLE things (id int PRIMARY KEY, marks int[] NOT NULL)")
    execute(database_url, "INSERT INTO things VALUES (1, '[5:6]={1,2}')")
    with gateway_over(database_url, write_resources(tmp_path / "resources", {"things": ""})) as client:
        path = "/api/v1/things"
        shown = client.get(f"{path}/1").json()["data"]["marks"]
        assert shown == [1, 2]
        found = {op: len(client.get(path, params={f"marks[{op}]": "1,2"}).json()["data"]) for op in ("eq", "all", "any")}
        assert found == {"eq": 0, "all": 1, "any": 1}
        assert client.patch(f"{path}/1", json={"marks": shown}).status_code == 200
        assert len(client.get(path, params={"marks[eq]": "1,2"}).json()["data"]) == 1
