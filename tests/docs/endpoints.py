"""docs/endpoints.md, made of the catalog: every endpoint of every resource, who may use it, and a line to paste for each.

`make docs` writes it; a test holds the committed page against what this makes, and another runs it. What a resource has comes
from its file and its table; what stands here are values for the examples to use.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gateway import migrate
from gateway.access_report import access_cells
from gateway.app import assemble
from gateway.catalog.model import Catalog, Field, Resource
from gateway.fill.order import Ranked, filling_order
from gateway.guards.policy import access_table
from gateway.query.payload import writable_fields
from tests.conftest import throwaway_postgres
from tests.docs.pages import ROOT
from tests.serving import settings_for

PAGE = ROOT / "docs" / "endpoints.md"
HOST = "http://127.0.0.1:8000"
AS_ADMIN = '-H "$TOKEN"'
WITH_JSON = '-H "$JSON"'


class Example(msgspec.Struct, frozen=True):
    """Values for one resource's examples: a list's filter, what a create sends beside keys of other rows (`{n}` makes it
    unique), and what a patch changes."""

    filter: str
    create: Mapping[str, Any]
    patch: Mapping[str, Any]


EXAMPLES: Mapping[str, Example] = {
    "users": Example("status=active", {"email": "ada{n}@example.com", "name": "Ada"}, {"phone": "+4930123456"}),
    "categories": Example("kind=product", {"slug": "example-{n}", "name": "Lamps"}, {"name": "Lights"}),
    "products": Example(
        "status=active&price[lt]=50",
        {"sku": "EXAMPLE-{n}", "name": "Lamp", "price": "19.90", "currency": "EUR"},
        {"price": "17.50", "status": "active"},
    ),
    "orders": Example("status[in]=pending,paid", {"currency": "EUR"}, {"status": "paid"}),
    "order_items": Example("quantity[gte]=2", {"unit_price": "19.90"}, {"quantity": 2}),
    "transactions": Example(
        "kind=expense&amount[gte]=10", {"kind": "expense", "amount": "19.90", "currency": "EUR"}, {"cleared": True}
    ),
    "budgets": Example("period=month", {"starts_on": "2031-0{n}-01", "amount": "100.00", "currency": "EUR"}, {"rollover": True}),
}

HEAD = """\
# Every endpoint

Made of the resource files and the database by `make docs`; do not edit it. What all endpoints have in common (filters, pages,
values, errors, tags) is told in [clients.md](clients.md). The lines run as they stand against `make dev`, after its `export`
lines; they need curl 7.84 or newer.

| request | answer |
| --- | --- |
| `GET /api/v1/openapi.json` | what you may use, as an OpenAPI 3.1 document |
| `GET /docs` | the same as a page to read and try |
| `GET /health/live`, `GET /health/ready` | whether it runs, whether it can serve |

```console
$ curl 'http://127.0.0.1:8000/api/v1/openapi.json' -o /dev/null
$ curl 'http://127.0.0.1:8000/docs' -o /dev/null
$ curl 'http://127.0.0.1:8000/health/live'
$ curl 'http://127.0.0.1:8000/health/ready'
```

## Rows for the examples to refer to
"""

TAIL = """
## And away again

```console
{deletes}
```
"""


def page(catalog: Catalog) -> str:
    """The page's text."""
    resources = [resource for resource in catalog.resources.values() if resource.version == "v1"]
    ranked = filling_order([Ranked(resource.name, resource.table) for resource in resources])
    ordered = [catalog.resources["v1", each.name] for each in ranked]
    referred = [resource for resource in ordered if any(resource in _parents(catalog, other).values() for other in ordered)]
    lines = [HEAD, "```console", "$ TOKEN=\"Authorization: Bearer $ADMIN\" JSON='Content-Type: application/json'"]
    lines += [f"$ {_variable(resource)}={_key(_posted(catalog, resource, 1))}" for resource in referred]
    lines += ["```"]
    for resource in sorted(resources, key=lambda resource: resource.name):
        lines += _section(catalog, resource)
    deletes = [f'$ curl -X DELETE "{_url(resource)}/${_variable(resource)}" {AS_ADMIN}' for resource in reversed(referred)]
    return "\n".join(lines) + "\n" + TAIL.format(deletes="\n".join(deletes))


def _section(catalog: Catalog, resource: Resource) -> Iterator[str]:
    yield f"\n## {resource.name}\n\n{resource.description}\n"
    yield "| field | type | |\n| --- | --- | --- |"
    for field in resource.visible.values():
        yield f"| `{field.name}` | {_type(field)} | {_notes(resource, field)} |"
    yield "\n| role | may | rows | fields | set |\n| --- | --- | --- | --- | --- |"
    for _, *cells in access_cells(access_table(resource)):
        yield f"| {' | '.join(f'`{cell}`' if '$' in cell else cell for cell in cells)} |"
    yield "\n```console"
    example = EXAMPLES[resource.name]
    yield f"$ curl -g '{_url(resource)}?{example.filter}&limit=2&count=exact' {AS_ADMIN}"
    yield f"$ ROW={_key(_posted(catalog, resource, 2))}"
    yield f'$ curl "{_url(resource)}/$ROW" {AS_ADMIN}'
    yield f'$ curl -X PATCH "{_url(resource)}/$ROW" {AS_ADMIN} {WITH_JSON} -d {_quoted(example.patch)}'
    yield f'$ curl -X DELETE "{_url(resource)}/$ROW" {AS_ADMIN}'
    yield "```"


def _url(resource: Resource) -> str:
    return f"{HOST}/api/{resource.version}/{resource.name}"


def _variable(resource: Resource) -> str:
    return f"OF_{resource.name.upper()}"


def _posted(catalog: Catalog, resource: Resource, number: int) -> str:
    values = EXAMPLES[resource.name].create
    parents = _parents(catalog, resource)
    body = {name: f"${_variable(parent)}" for name, parent in parents.items()}
    body |= {name: value.replace("{n}", str(number)) if isinstance(value, str) else value for name, value in values.items()}
    missing = {name for name, field in writable_fields(resource).items() if field.required} - body.keys()
    assert not missing, f"EXAMPLES of {resource.name} lacks {', '.join(sorted(missing))}"
    return f"curl -X POST '{_url(resource)}' {AS_ADMIN} {WITH_JSON} -d {_quoted(body)} -o /dev/null -w '%header{{location}}'"


def _key(posted: str) -> str:
    return f'$(basename "$({posted})")'


def _quoted(body: Mapping[str, Any]) -> str:
    """A JSON object in single quotes, which end for a variable and begin again behind it."""
    text = json.dumps(body, ensure_ascii=False)
    for name in {value for value in body.values() if isinstance(value, str) and value.startswith("$")}:
        text = text.replace(f'"{name}"', f"\"'{name}'\"")
    return f"'{text}'"


def _parents(catalog: Catalog, resource: Resource) -> dict[str, Resource]:
    """The fields that a create must send with the key of another row, and whose."""
    referred = {key.columns[0]: key.table for key in resource.table.foreign_keys}
    tables = {each.table.name: each for each in catalog.resources.values()}
    needed = [field for field in resource.fields.values() if field.required and field.column in referred]
    return {field.name: tables[referred[field.column]] for field in needed}


def _type(field: Field) -> str:
    kind = field.type
    sizes = [str(size) for size in (kind.length, kind.precision, kind.scale) if size is not None]
    sized = f"{kind.sql}({', '.join(sizes)})" if sizes else kind.sql
    return f"{sized}[]" if kind.array else sized


def _notes(resource: Resource, field: Field) -> str:
    bounds = field.bounds
    notes = [field.description]
    notes += ["the key" if field.name in resource.key else ""]
    notes += ["read-only" if field.readonly else "required" if field.required else ""]
    notes += ["may be null" if field.nullable else ""]
    notes += [f"one of {', '.join(f'`{each}`' for each in bounds.enum)}" if bounds.enum else ""]
    notes += [f"from {bounds.minimum}" if bounds.minimum is not None else ""]
    notes += [f"to {bounds.maximum}" if bounds.maximum is not None else ""]
    notes += [f"at least {bounds.min_length} characters" if bounds.min_length is not None else ""]
    notes += [f"at most {bounds.max_length} characters" if bounds.max_length is not None else ""]
    notes += [f"`{bounds.pattern}`" if bounds.pattern is not None else ""]
    return "; ".join(note for note in notes if note).replace("|", "\\|")


def read_catalog(database_url: str) -> Catalog:
    """The sample resources over a migrated database."""
    catalog, faults = asyncio.run(assemble(settings_for(database_url, ROOT / "resources")))
    assert not faults
    return catalog


if __name__ == "__main__":
    with throwaway_postgres() as url:
        migrate.upgrade(url)
        PAGE.write_text(page(read_catalog(url)))
