"""What `gateway dev` prints once it serves: where things are, tokens for a few roles, and requests that work as they stand.

Takes the settings of the serving process and the issuer that it believes. Who may do what is asked of the access rules, and
real rows of the process itself, by HTTP, so that every line that is printed answers.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from gateway.app import assemble
from gateway.catalog.model import Catalog, Resource
from gateway.definitions.model import Operation
from gateway.dev_issuer import OWN_CLAIMS, DevIssuer
from gateway.errors import Forbidden, Unauthorized
from gateway.guards.grants import Policy, Unrestricted
from gateway.guards.policy import ADMIN_ALONE, ANONYMOUS, access_claims
from gateway.guards.tokens import Caller
from gateway.query.ast import Grant
from gateway.settings import Settings

ADMIN = "admin"
MAX_TOKENS = 5
NOBODY_YET = {"uuid": "00000000-0000-4000-8000-000000000000"}
"""A subject by the type of the column that it is compared with, where no row has one; "1" is a number and a text."""
SAMPLE_ROWS = 20
READ_FIRST, OWNED_FIRST = "products", "orders"
"""Resources to show before others, where they are there."""


class Visitor(msgspec.Struct, frozen=True):
    """Someone to send a request as: nobody (no `caller`), or a role with the shell `variable` that holds its `token`."""

    role: str = ""
    variable: str = ""
    token: str = ""
    caller: Caller | None = None


NOBODY = Visitor()


class Site(msgspec.Struct, frozen=True):
    """What is served: where, by which catalog, and who may do what there."""

    settings: Settings
    catalog: Catalog
    policy: Policy | Unrestricted

    @property
    def url(self) -> str:
        """Where the site is, as a browser of this machine has it."""
        host = _reachable(self.settings.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.settings.port}"

    def resources(self, first: str) -> list[Resource]:
        """Every resource, those of the name `first` before others."""
        return sorted(self.catalog.resources.values(), key=lambda resource: (resource.name != first, resource.name))

    def grant(self, visitor: Visitor, resource: Resource, operation: Operation) -> Grant | None:
        """What the visitor may do, or None for nothing."""
        if operation not in resource.operations:
            return None
        try:
            return self.policy.grant(resource, operation, visitor.caller)
        except (Unauthorized, Forbidden):
            return None

    def rows(self, visitor: Visitor, resource: Resource, limit: int, **parameters: str) -> list[dict[str, Any]]:
        """Some rows that the visitor sees; none where that is refused."""
        query = urlencode({**parameters, "limit": min(limit, resource.limit_max)})
        body = fetch(self.settings, f"{_path(resource)}?{query}", visitor.token)
        rows: list[dict[str, Any]] = json.loads(body)["data"] if body else []
        return rows


def welcome(settings: Settings, issuer: DevIssuer | None) -> Iterator[str]:
    """The lines to print. `issuer` is None with AUTH=off. Raises ConfigurationError where the database is not there any more."""
    catalog, _ = asyncio.run(assemble(settings))
    site = Site(settings, catalog, Unrestricted() if issuer is None else Policy(catalog))
    visitors = [] if issuer is None else _visitors(site, issuer)
    yield from (
        "",
        f"  API           {site.url}/api/v1",
        f"  Docs          {site.url}/docs",
        f"  Health        {site.url}/health/ready",
        f"  DATABASE_URL  {settings.database_url}",
        f"  REDIS_URL     {settings.redis_url}",
    )
    if visitors:
        yield "\n  Tokens for a few roles, to paste before the lines that use them (gateway token makes others):"
        yield from (f"    export {visitor.variable}={visitor.token}" for visitor in visitors)
    for title, lines in _examples(site, visitors):
        if lines:
            yield f"\n  {title}:"
            yield from (f"    {line}" for line in lines)
    yield "\n  Ctrl-C stops it all; the data stays."


def fetch(settings: Settings, path: str, token: str = "") -> bytes | None:
    """The body of a 200 from the serving process, or None for any other answer."""
    connection = HTTPConnection(_reachable(settings.host), settings.port, timeout=10)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        body = response.read()
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
    return body if response.status == 200 else None


def _reachable(host: str) -> str:
    """An address to connect to, of a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - we connect, not listen


def _path(resource: Resource) -> str:
    return f"/api/{resource.version}/{resource.name}"


# --- tokens --------------------------------------------------------------------------------------------------------------


def _visitors(site: Site, issuer: DevIssuer) -> list[Visitor]:
    """The admin, and a few of the other roles that the resource files name."""
    admin = _visitor(site, issuer, ADMIN, "dev", {})
    names = [role for resource in site.resources("") for role in resource.definition.access or ADMIN_ALONE]
    others = [role for role in dict.fromkeys(names) if role not in (ADMIN, ANONYMOUS)]
    found: dict[str, Visitor] = {}
    for role in [ADMIN, *others][:MAX_TOKENS]:
        visitor = _visitor(site, issuer, role, *_identity(site, admin, role))
        found.setdefault(visitor.variable, visitor)
    return list(found.values())


def _visitor(site: Site, issuer: DevIssuer, role: str, subject: str, claims: Mapping[str, Any]) -> Visitor:
    token = issuer.sign(subject, [role], claims=claims, roles_claim=site.settings.auth_roles_claim)
    return Visitor(role, _variable(role), token, Caller(subject, (role,), claims, math.inf))


def _variable(role: str) -> str:
    """A name for the shell that is not in use for something else, such as PATH or USER."""
    name = re.sub(r"^(?=\d)|\W", "_", role.upper(), flags=re.ASCII)
    return f"{name}_TOKEN" if not os.environ.get(name, "ey").startswith("ey") else name


def _identity(site: Site, admin: Visitor, role: str) -> tuple[str, dict[str, Any]]:
    """A subject and claims for the role that some rows belong to, by the fields that its rules compare with them."""
    wanted: dict[str, list[tuple[Resource, str]]] = {}
    for resource in site.resources(OWNED_FIRST):
        for holder, _, claim, field in access_claims(resource):
            if holder == role:
                wanted.setdefault(claim, []).append((resource, field))
    subject = _sample(site, admin, wanted.pop("$sub", []))
    taken = {*OWN_CLAIMS, site.settings.auth_roles_claim}
    names = {claim: claim.removeprefix("$claims.") for claim in wanted}
    claims = {name: _sample(site, admin, wanted[claim]) for claim, name in names.items() if name not in taken}
    return str("dev" if subject is None else subject), claims


def _sample(site: Site, admin: Visitor, places: Sequence[tuple[Resource, str]]) -> Any:
    """A value of the first of these fields that has one, or else of what one refers to; None where there are no fields.

    What refers comes before what is referred to: a user with orders is better to look at than one without.
    """
    referring = [(place, target) for place in places if (target := _referred(site.catalog, *place)) is not None]
    ordered = [*(place for place, _ in referring), *places, *(target for _, target in referring)]
    for resource, field in ordered:
        for row in site.rows(admin, resource, SAMPLE_ROWS, fields=field):
            if row[field] is not None:
                return row[field]
    return NOBODY_YET.get(places[0][0].fields[places[0][1]].type.name, "1") if places else None


def _referred(catalog: Catalog, resource: Resource, field: str) -> tuple[Resource, str] | None:
    """The resource and field that a field refers to by a foreign key of its own, if they are served."""
    column = resource.fields[field].column
    for key in resource.table.foreign_keys:
        if key.columns != (column,):
            continue
        for other in catalog.resources.values():
            found = other.field_of(key.referred[0])
            if (other.table.schema, other.table.name) == (key.schema, key.table) and found is not None:
                return other, found.name
    return None


# --- requests ------------------------------------------------------------------------------------------------------------


def _examples(site: Site, visitors: Sequence[Visitor]) -> Iterator[tuple[str, list[str]]]:
    """Titles and lines of curl: what may be read, what is one's own, what is refused, and what may be written."""
    admin = visitors[0] if visitors else NOBODY
    found = next(_readable(site, NOBODY), None) or next(_readable(site, admin), None)
    if found is not None:
        resource, row = found
        reader = NOBODY if site.grant(NOBODY, resource, "read") else admin
        title = "Without a token" if visitors and reader is NOBODY else "To read"
        yield title, list(_reads(site, reader, resource, row))
    refused: Resource | None = None
    for visitor in visitors[1:]:
        own = next((own for own, _ in _readable(site, visitor, OWNED_FIRST) if _is_limited(site, visitor, own)), None)
        if own is not None:
            refused = refused or own
            yield f"As this {visitor.role}, who sees only their own {own.name}", [_curl(site, visitor, f"{_path(own)}?limit=2")]
    if visitors:
        closed = [resource for resource in site.resources(OWNED_FIRST) if site.grant(NOBODY, resource, "read") is None]
        refused = refused if refused in closed else next(iter(closed), None)
        yield "Without a token that is refused", [_curl(site, NOBODY, f"{_path(refused)}?limit=2")] if refused else []
    if found is not None:
        yield f"As {ADMIN}, to write" if visitors else "To write", list(_writes(site, admin, *found))


def _readable(site: Site, visitor: Visitor, first: str = READ_FIRST) -> Iterator[tuple[Resource, dict[str, Any]]]:
    """Every resource that has a row for the visitor, and one row of it."""
    for resource in site.resources(first):
        rows = site.rows(visitor, resource, 1) if site.grant(visitor, resource, "read") else []
        if rows:
            yield resource, rows[0]


def _is_limited(site: Site, visitor: Visitor, resource: Resource) -> bool:
    """Whether the visitor sees what belongs to them alone."""
    return any((role, operation) == (visitor.role, "read") for role, operation, _, _ in access_claims(resource)) and bool(
        site.grant(visitor, resource, "read")
    )


def _reads(site: Site, reader: Visitor, resource: Resource, row: Mapping[str, Any]) -> Iterator[str]:
    """A list, a filtered list, and one row."""
    path = _path(resource)
    yield _curl(site, reader, f"{path}?limit=2")
    for field, value in sorted(row.items(), key=lambda item: item[0] != "status"):
        query = urlencode({field: value, "limit": 2}) if isinstance(value, str) and value.isalpha() else ""
        if query and fetch(site.settings, f"{path}?{query}", reader.token):
            yield _curl(site, reader, f"{path}?{query}")
            break
    yield _curl(site, reader, _location(resource, row))


def _writes(site: Site, writer: Visitor, resource: Resource, row: Mapping[str, Any]) -> Iterator[str]:
    """A POST of a row like this one, and a PATCH of this one."""
    moment = int(time.time())
    location = _location(resource, row)
    body = fetch(site.settings, location, writer.token)
    whole = json.loads(body)["data"] if body else {}
    made = _made(site, writer, resource, whole, f"-{moment}")
    if made and site.grant(writer, resource, "create"):
        yield _curl(site, writer, _path(resource), "POST", made)
    changes = {
        field: value for field, value in _made(site, writer, resource, whole, f"-{moment + 1}").items() if value != whole[field]
    }
    if changes and site.grant(writer, resource, "patch"):
        yield _curl(site, writer, location, "PATCH", changes)


def _location(resource: Resource, row: Mapping[str, Any]) -> str:
    return f"{_path(resource)}/{','.join(quote(str(row[name]), safe='') for name in resource.key)}"


def _curl(site: Site, visitor: Visitor, path: str, method: str = "", body: Mapping[str, Any] | None = None) -> str:
    parts = ["curl", f"-X {method}" if method else "", f"'{site.url}{path}'"]
    if visitor.token:
        parts.append(f'-H "Authorization: Bearer ${visitor.variable}"')
    if body is not None:
        parts.append(f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body, ensure_ascii=False))}")
    return " ".join(filter(None, parts))


def _made(site: Site, writer: Visitor, resource: Resource, row: Mapping[str, Any], mark: str) -> dict[str, Any]:
    """What a POST needs, by the OpenAPI document: the row's own values, with `mark` on free text, so that it is unique."""
    document = json.loads(fetch(site.settings, f"/api/{resource.version}/openapi.json", writer.token) or b"{}")
    paths: dict[str, Any] = document.get("paths", {})
    operation: dict[str, Any] = next(
        (item["post"] for path, item in paths.items() if path.endswith(f"/{resource.name}") and "post" in item), {}
    )
    content = _resolved(document, operation.get("requestBody", {})).get("content", {})
    schema = _resolved(document, content.get("application/json", {}).get("schema", {}))
    properties = {field: _resolved(document, part) for field, part in schema.get("properties", {}).items()}
    return {field: _made_new(row[field], properties[field], mark) for field in schema.get("required", ()) if row.get(field)}


def _resolved(document: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a `$ref` within the document stands for, or `part` itself."""
    while "$ref" in part:
        found: Any = document
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step.replace("~1", "/").replace("~0", "~")]
        part = found
    return part


def _made_new(value: Any, schema: Mapping[str, Any], mark: str) -> Any:
    """`value` with `mark` at its end where it is free text, in words, that may end so; else as it is."""
    room = schema.get("maxLength", 1000) - len(mark)
    if not isinstance(value, str) or schema.get("type") != "string" or {"enum", "format"} & schema.keys() or room <= 0:
        return value
    marked = value[:room] + mark
    return marked if re.search(r"[^\W\d]", value) and re.search(schema.get("pattern", ""), marked) else value
