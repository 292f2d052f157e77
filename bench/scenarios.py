"""What is asked: each scenario makes questions, and each contender's dialect writes a question as a request. Pure.

A question is what a client wants (`Ask`), so that all contenders are asked the same, and their answers can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

PAGE_SIZE = 20
HOT_LISTS = 50
"""Different lists that the cache scenarios ask for; all are in the cache after the warm-up."""


class Rows(msgspec.Struct, frozen=True):
    """How many products and categories there are; keys run from 1 without gaps."""

    products: int
    categories: int


class Ask(msgspec.Struct, frozen=True):
    """A question. `key` None is the collection; a list has `filters`, `sort` and `page`; a write has `body`."""

    operation: str
    key: int | None = None
    filters: tuple[tuple[str, str, str], ...] = ()
    sort: tuple[str, ...] = ("-created_at",)
    page: int = 1
    body: dict[str, Any] | None = None


class Request(msgspec.Struct, frozen=True):
    """A question in a contender's words."""

    method: str
    path: str
    body: bytes = b""


class Scenario(msgspec.Struct, frozen=True):
    """`ask` takes a generator of random numbers, the rows there are, and the number of the request."""

    name: str
    title: str
    ask: Callable[[Random, Rows, int], Ask]
    writes: bool = False


def _point(random: Random, rows: Rows, _number: int) -> Ask:
    return Ask("get", key=random.randint(1, rows.products))


def _list(random: Random, rows: Rows, _number: int) -> Ask:
    filters = (_category(random, rows), ("price", "gte", f"{random.randint(0, 500)}"))
    return Ask("list", filters=filters, page=random.randint(1, 3))


def _sorted(random: Random, rows: Rows, _number: int) -> Ask:
    filters = (_category(random, rows), ("status", "eq", "active"), ("price", "gte", f"{random.randint(0, 500)}"))
    return Ask("list", filters=filters, sort=("-price",))


def _hot_list(random: Random, rows: Rows, _number: int) -> Ask:
    return Ask("list", filters=(("category_id", "eq", f"{random.randint(1, min(rows.categories, HOT_LISTS))}"),))


def _create(random: Random, rows: Rows, number: int) -> Ask:
    body = {
        "category_id": random.randint(1, rows.categories),
        "sku": f"B-{random.getrandbits(60):X}-{number}",
        "name": "Bench Lamp",
        "description": "Made by the bench. It is deleted with its database.",
        "status": "active",
        "price": f"{random.randint(1, 999)}.{random.randint(0, 99):02}",
        "currency": "EUR",
        "stock": random.randint(0, 500),
        "tags": ["Bench", "Lighting"],
        "attributes": {"size": "M", "color": "red"},
    }
    return Ask("create", body=body)


def _patch(random: Random, rows: Rows, _number: int) -> Ask:
    body = {"stock": random.randint(0, 500), "price": f"{random.randint(1, 999)}.50"}
    return Ask("patch", key=random.randint(1, rows.products), body=body)


def _category(random: Random, rows: Rows) -> tuple[str, str, str]:
    return ("category_id", "eq", f"{random.randint(1, rows.categories)}")


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("point", "point read, random keys", _point),
        Scenario("list", "list of 20, random filters, first pages", _list),
        Scenario("sorted", "list of 20, filtered and sorted", _sorted),
        Scenario("create", "create", _create, writes=True),
        Scenario("patch", "patch, random keys", _patch, writes=True),
        Scenario("cached", "list of 20, from the cache", _hot_list),
    )
}

METHODS = {"get": "GET", "list": "GET", "create": "POST", "patch": "PATCH"}
COLLECTION = "/api/v1/products"


def _gateway(ask: Ask) -> Request:
    """The gateway's grammar, which the Fastify peer speaks too."""
    body = json.dumps(ask.body).encode() if ask.body is not None else b""
    if ask.operation != "list":
        return Request(METHODS[ask.operation], COLLECTION if ask.key is None else f"{COLLECTION}/{ask.key}", body)
    parts = [f"{field}={value}" if operator == "eq" else f"{field}[{operator}]={value}" for field, operator, value in ask.filters]
    if ask.sort != ("-created_at",):
        parts.append(f"sort={','.join(ask.sort)}")
    if ask.page != 1:
        parts.append(f"page={ask.page}")
    return Request("GET", f"{COLLECTION}?{'&'.join(parts)}" if parts else COLLECTION)


def _platformatic(ask: Ask) -> Request:
    """Platformatic DB's: camel case, and PUT where others PATCH."""
    if ask.body is not None:
        body = json.dumps({camel_case(name): value for name, value in ask.body.items()}).encode()
        return Request("POST", "/products/", body) if ask.key is None else Request("PUT", f"/products/{ask.key}", body)
    if ask.key is not None:
        return Request("GET", f"/products/{ask.key}")
    parts = [f"limit={PAGE_SIZE}", f"offset={(ask.page - 1) * PAGE_SIZE}"]
    parts += [f"where.{camel_case(field)}.{operator}={value}" for field, operator, value in ask.filters]
    descending = False
    for term in ask.sort:
        descending = term.startswith("-")
        parts.append(f"orderby.{camel_case(term.lstrip('-'))}={'desc' if descending else 'asc'}")
    parts.append(f"orderby.id={'desc' if descending else 'asc'}")
    return Request("GET", f"/products/?{'&'.join(parts)}")


def camel_case(name: str) -> str:
    """`created_at` as `createdAt`."""
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


DIALECTS: dict[str, Callable[[Ask], Request]] = {
    "gateway": _gateway,
    "platformatic": _platformatic,
    "hello": lambda _ask: Request("GET", "/"),
}


def http_bytes(request: Request, token: str) -> bytes:
    """The request as HTTP/1.1 on the wire; an empty `token` sends none."""
    head = [f"{request.method} {request.path} HTTP/1.1", "Host: bench"]
    if token:
        head.append(f"Authorization: Bearer {token}")
    if request.body:
        head += ["Content-Type: application/json", f"Content-Length: {len(request.body)}"]
    return "\r\n".join([*head, "", ""]).encode() + request.body
