"""Two users, and everything that one may ask about the other's rows, generated from the catalog as it stands in `resources/`.

A new resource is covered by existing. Every table gets rows of both users, full of values that occur nowhere else. Then each
caller (with every role but `admin`, with none, without a token) tries every route, operator, sort and field choice, with the
other's own values, and then every write. What must hold:

- no byte of a row that the caller cannot see, nor of a hidden column, is in any answer, header or cursor;
- answers to reads are the same, byte for byte, where the rows that the caller cannot see do not exist at all;
- nothing of the other's changes, and nothing is written in the other's name.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_plus

import asyncpg
import httpx
import msgspec
import pytest

from gateway import fill, migrate
from gateway.app import assemble
from gateway.catalog.model import Catalog, Field, Resource
from gateway.catalog.types import Family
from gateway.definitions.model import OPERATIONS, RuleDefinition
from gateway.query.compile import quote as quoted
from gateway.query.operators import OPERATORS, Operator, operators_for, path_operators
from tests.conftest import throwaway_database
from tests.issuing import ALGORITHMS, AUDIENCE, EC, ISSUER, issuer, public, token
from tests.journeys.answers import JSON, MERGE, check_answer, gateway_over, links
from tests.journeys.test_attacks import execute
from tests.serving import settings_for

pytestmark = pytest.mark.xdist_group("two users")

REPOSITORY = Path(__file__).parent.parent.parent
ADMIN, ANONYMOUS = "admin", "anonymous"
USERS = ("ann", "bob")
ROWS_EACH = 2
Row = dict[str, Any]
Place = tuple[str, int]
"""Whose row it is, and which of theirs: the first meets the literal conditions of the rules, the second does not."""
PLACES: list[Place] = [(user, number) for user in USERS for number in range(ROWS_EACH)]
SUBJECTS = {"ann": "a11a0000-7e57-4aaa-8aaa-aaaaaaaaaaaa", "bob": "b0b00000-7e57-4bbb-8bbb-bbbbbbbbbbbb"}
STRANGER = "c0000000-7e57-4ccc-8ccc-cccccccccccc"


class Caller(msgspec.Struct, frozen=True):
    """Who asks: `user` is None for who owns no row; `other` is whose rows the questions are about."""

    name: str
    user: str | None
    other: str
    headers: dict[str, str]


class Request(msgspec.Struct, frozen=True):
    """One request of a caller."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()


# --- rules, as far as rows must be made to fit them ----------------------------------------------------------------------


def rules(resource: Resource) -> Iterator[tuple[str, str, RuleDefinition]]:
    """Each role's rule for each operation; `admin` is left out."""
    for role, definition in (resource.definition.access or {}).items():
        for operation in OPERATIONS:
            rule: RuleDefinition | None = getattr(definition, operation)
            if rule is not None and role != ADMIN:
                yield role, operation, rule


def leaves(conditions: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a rule that must equal a value, with the value."""
    for name, member in conditions.items():
        if name in ("and", "or"):
            for each in member:
                yield from leaves(each)
        elif not isinstance(member, dict):
            yield name, member


def equalities(resource: Resource) -> dict[str, Any]:
    """The fields that rules hold against one value: a claim's name or a literal."""
    found: dict[str, Any] = {}
    for _, _, rule in rules(resource):
        for name, value in (*leaves(rule.rows or {}), *(rule.set or {}).items()):
            found.setdefault(name, value)
    return found


def is_claim(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("$")


CLAIMS_BY_FAMILY: dict[Family, Any] = {Family.NUMBER: {"ann": 7101, "bob": 7202}, Family.UUID: SUBJECTS}


def claims_of(catalog: Catalog, user: str) -> dict[str, Any]:
    """Every claim that a rule names, with a value that is this user's own."""
    found: dict[str, Any] = {}
    for resource in catalog.resources.values():
        for name, value in equalities(resource).items():
            if is_claim(value) and value != "$sub":
                values = CLAIMS_BY_FAMILY.get(resource.fields[name].type.family, {"ann": "of-ann", "bob": "of-bob"})
                found[value.removeprefix("$claims.")] = values[user]
    return found


# --- rows that cannot be mistaken ----------------------------------------------------------------------------------------

TAGS = {"ann": "QZA", "bob": "QZB"}


def candidates(field: Field, place: Place) -> list[Any]:
    """Values that say whose they are, the likeliest first; the database takes one or none."""
    user, number = place
    tag, digit = f"{TAGS[user]}{'KL'[number]}", USERS.index(user) * ROWS_EACH + number + 1
    if field.type.array:
        return [f'{{"{tag} array"}}', f"{{{9170 + digit}}}"]
    match field.type.family:
        case Family.TEXT if not field.bounds.enum:
            mail = f"{tag.lower()}@marker.example"
            forms = [f"{tag} marker", f"{tag.lower()}-marker", f"{tag}-MARKER", mail, f"+4930077{digit}31", f"Q{tag[2:]}"]
            return forms if "@" not in (field.bounds.pattern or "") else [mail, *forms]
        case Family.NUMBER:
            return [f"9173{digit}.{digit}7", f"9173{digit}7", f"917{digit}", f"4.1{digit}7{digit}3", f"9{digit}"]
        case Family.TIME if field.type.name == "date":
            return [f"197{digit}-05-1{digit}"]
        case Family.TIME:
            return [f"198{digit}-03-1{digit}T11:22:33.12345{digit}Z", f"11:22:33.12345{digit}", f"P9173{digit}D"]
        case Family.JSON:
            return [json.dumps({"color": f"{tag} json", f"{tag}-key": 9170 + digit})]
        case Family.UUID:
            return [f"{digit}9170000-7e57-4{tag[2].lower()}"[:18] + f"-8000-{tag[2].lower() * 11}{digit}"]
        case _:
            return []


STORED_COLUMNS = """
    SELECT attname FROM pg_attribute
    WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
"""
"""Those that are not generated from others."""


class Tables:
    """The tables behind the catalog, by a connection of the test's own: rows are made, hidden, put back and compared."""

    def __init__(self, url: str, catalog: Catalog) -> None:
        self.url, self.catalog = url, catalog
        self.runner = asyncio.Runner()
        self.connection: asyncpg.Connection[asyncpg.Record] = self.runner.run(asyncpg.connect(url))
        self.resources = {resource.name: resource for resource in catalog.resources.values() if not resource.table.is_view}

    def close(self) -> None:
        self.runner.run(self.connection.close())
        self.runner.close()

    def run(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        return self.runner.run(self.connection.fetch(statement, *values))

    def sql_name(self, resource: Resource) -> str:
        return f"{quoted(resource.table.schema)}.{quoted(resource.table.name)}"

    def texts(self, resource: Resource) -> dict[str, list[str]]:
        """Every column's values as PostgreSQL writes them, which is how cursors hold them, by the row's key."""
        key = self.key_sql(resource)
        columns = ", ".join(f"t.{quoted(column.name)}::text" for column in resource.table.columns)
        found = self.run(f"SELECT {key}, {columns} FROM {self.sql_name(resource)} AS t")
        return {record[0]: [value for value in list(record)[1:] if value is not None] for record in found}

    def key_sql(self, resource: Resource) -> str:
        columns = (f"t.{quoted(resource.fields[name].column)}::text" for name in resource.key)
        return f"concat_ws(',', {', '.join(columns)})"

    def key_of(self, resource: Resource, row: Row) -> str:
        """By the row's columns, or by its fields."""
        names = [name if name in row else resource.fields[name].column for name in resource.key]
        return ",".join(str(row[name]) for name in names)

    def make(self, directory: Path, claims: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[Place, str]]:
        """Rows of both users in every table; gives their keys by resource and place."""
        for number, resource in enumerate(self.resources.values()):
            for column in resource.table.columns:
                start = 7731_0000 + 1000 * number
                self.run(
                    "SELECT setval(name, $3) FROM pg_get_serial_sequence($1, $2) AS name WHERE name IS NOT NULL",
                    self.sql_name(resource), column.name, start,
                )  # fmt: skip
        for report in fill.fill_all(self.url, directory, rows=len(PLACES)):
            assert not report.unsatisfied, report
        self.run("SET session_replication_role = replica")  # no triggers, and foreign keys are seen to below
        found: dict[str, dict[Place, str]] = {}
        for resource in self.resources.values():
            filled = list(self.everything([resource.name])[resource.name])
            self._delete(resource, filled[len(PLACES) :])
            keys = dict(zip(PLACES, filled[: len(PLACES)], strict=True))
            found[resource.name] = {place: self._marked(resource, place, key, claims[place[0]]) for place, key in keys.items()}
        for resource in self.resources.values():
            for place, key in found[resource.name].items():
                self._refer(resource, place, key, found)
        self.run("SET session_replication_role = origin")
        self._keep()
        return found

    def _marked(self, resource: Resource, place: Place, key: str, claims: Mapping[str, Any]) -> str:
        """Puts the markers into one row; gives its key, which may be another then."""
        fixed = equalities(resource)
        referring = {column for foreign in resource.table.foreign_keys for column in foreign.columns}
        for name, field in resource.fields.items():
            column = resource.table.column(field.column)
            assert column is not None
            if column.generated:
                continue
            if name in fixed and is_claim(fixed[name]):
                wanted = [SUBJECTS[place[0]] if fixed[name] == "$sub" else claims[fixed[name].removeprefix("$claims.")]]
            elif name in fixed:
                others = [each for each in field.bounds.enum or field.type.labels if each != fixed[name]]
                wanted = [fixed[name]] if place[1] == 0 else [*others, *candidates(field, place)]
            elif field.column in referring:
                continue
            else:
                wanted = candidates(field, place)
            for value in wanted:
                changed = self._set(resource, key, field, value)
                if changed is not None:
                    key = changed
                    break
        return key

    def _set(self, resource: Resource, key: str, field: Field, value: Any) -> str | None:
        """The row's key after the change, None where the database refuses it."""
        cast = f"{field.type.sql}[]" if field.type.array else field.type.sql
        try:
            found = self.run(
                f"UPDATE {self.sql_name(resource)} AS t SET {quoted(field.column)} = $1::text::{cast}"
                f" WHERE {self.key_sql(resource)} = $2 RETURNING {self.key_sql(resource)}",
                None if value is None else str(value), key,
            )  # fmt: skip
        except asyncpg.PostgresError:
            return None
        key_after: str = found[0][0]
        return key_after

    def _refer(self, resource: Resource, place: Place, key: str, keys: Mapping[str, Mapping[Place, str]]) -> None:
        """Points the row to rows of the same user, and of nobody else."""
        owned = {resource.fields[name].column for name, value in equalities(resource).items() if is_claim(value)}
        for foreign in resource.table.foreign_keys:
            other = next(found for found in self.resources.values() if found.table.name == foreign.table)
            if owned & set(foreign.columns):
                continue
            for column, part in zip(foreign.columns, keys[other.name][place].split(","), strict=True):
                field = resource.field_of(column)
                assert field is not None
                to_itself = other is resource and field.nullable
                assert self._set(resource, key, field, None if to_itself else part) is not None

    # what is there, and what is not

    def _keep(self) -> None:
        self.run("CREATE SCHEMA kept")
        for name, resource in self.resources.items():
            self.run(f"CREATE TABLE kept.{quoted(name)} AS TABLE {self.sql_name(resource)}")

    def hide(self, keys: Mapping[str, set[str]]) -> None:
        """Takes these rows away."""
        self.run("SET session_replication_role = replica")
        for name, gone in keys.items():
            self._delete(self.resources[name], list(gone))
        self.run("SET session_replication_role = origin")

    def _delete(self, resource: Resource, keys: list[str]) -> None:
        self.run(f"DELETE FROM {self.sql_name(resource)} AS t WHERE {self.key_sql(resource)} = ANY ($1)", keys)

    def put_back(self, names: Iterable[str] | None = None) -> None:
        """All rows as they were made, or those of some resources."""
        self.run("SET session_replication_role = replica")
        for name in self.resources if names is None else names:
            resource = self.resources[name]
            table = self.sql_name(resource)
            stored = self.run(STORED_COLUMNS, table)
            columns = ", ".join(quoted(record[0]) for record in stored)
            self.run(f"DELETE FROM {table}")
            self.run(f"INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM kept.{quoted(name)}")
        self.run("SET session_replication_role = origin")

    def everything(self, names: Iterable[str] | None = None) -> dict[str, dict[str, Row]]:
        """All rows with all columns, by resource and key, or those of some resources."""
        found: dict[str, dict[str, Row]] = {name: {} for name in names or self.resources}
        selects = [
            f"SELECT {position}, {self.key_sql(self.resources[name])}, row_to_json(t.*)::text"
            f" FROM {self.sql_name(self.resources[name])} AS t"
            for position, name in enumerate(found)
        ]
        for position, key, row in self.run(" UNION ALL ".join(selects)):
            list(found.values())[position][key] = json.loads(row)
        return found


# --- what is asked -------------------------------------------------------------------------------------------------------


def in_url(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case list():
            return ",".join(map(in_url, value))
        case dict():
            return next(iter(value), "")
        case _:
            return str(value).replace("\\", "\\\\").replace(",", "\\,")


def operand(operator: Operator, theirs: Any, mine: Any) -> str:
    text = in_url(theirs)
    match operator.arity:
        case "flag":
            return "false"
        case "list":
            return f"{text},{in_url(mine)}"
        case "pair":
            return f"{text},{text}"
        case _:
            return {
                "starts": text[:4],
                "ends": text[-3:],
                "contains": text[1:5],
                "like": f"{text[:3]}%",
                "ilike": f"%{text[2:]}",
            }.get(operator.name, text)


def reads(resource: Resource, mine: list[Row], theirs: list[Row], refused: bool) -> Iterator[Request]:
    """Every way to ask for rows. `theirs` are the other's, as an admin sees them, what the caller cannot see first.

    Where every read is `refused` for who asks, one filter of a field stands for all.
    """
    path = f"/api/{resource.version}/{resource.name}"
    yield from (Request(method, path) for method in ("GET", "HEAD", "OPTIONS"))
    for query in ("count=exact", "count=estimated", "limit=1&count=exact", "limit=1&page=2&count=exact", "page=1000", "limit=0"):
        yield Request("GET", path, tuple((name, value) for name, _, value in (part.partition("=") for part in query.split("&"))))
    own = mine[0] if mine else theirs[0]
    for name, field in resource.fields.items():
        yield from (Request("GET", path, (("sort", sort), ("limit", "1"))) for sort in (name, f"-{name}", f"-{name}:nullslast"))
        yield Request("GET", path, (("fields", name),))
        yield from islice(_filters(path, name, field, theirs[0].get(name), own.get(name)), 1 if refused else None)
    for row in (*theirs, {name: own[name] for name in resource.key}):
        key = ",".join(quote(str(row[name]), safe="") for name in resource.key)
        yield from (Request(method, f"{path}/{key}") for method in ("GET", "HEAD", "OPTIONS"))
        yield from (Request("GET", f"{path}/{key}", (("fields", name),)) for name in (*resource.fields, "nothing"))
    for parameter in ("nothing", "sort", "fields", "filter", "cursor", "limit", "expand", "q"):
        yield Request("GET", path, ((parameter, "nothing"),))
    yield from (Request("GET", path, (("cursor", cursor),)) for cursor in ("AAAA", "a" * 9000))


def _filters(path: str, name: str, field: Field, theirs: Any, mine: Any) -> Iterator[Request]:
    allowed = operators_for(field.type.family)
    for operator in OPERATORS.values():
        if operator in allowed or operator.name in ("eq", "like"):
            yield Request("GET", path, ((f"{name}[{operator.name}]", operand(operator, theirs, mine)),))
    yield Request("GET", path, ((f"{name}[null]", "true"), ("count", "exact")))
    yield Request("GET", path, ((f"{name}[eq]", "no such value"),))
    if isinstance(theirs, dict):
        for step, value in theirs.items():
            for operator in path_operators():
                yield Request("GET", path, ((f"{name}.{step}[{operator.name}]", operand(operator, value, value)),))
    elif theirs is not None and not isinstance(theirs, list):
        for conditions in (
            {"not": {name: theirs}},
            {"or": [{name: theirs}, {name: {"null": True}}]},
            {"and": [{"not": {"not": {name: {"in": [theirs]}}}}]},
        ):
            yield Request("GET", path, (("filter", json.dumps(conditions)), ("count", "exact")))


def writes(resource: Resource, mine: list[Row], theirs: list[Row]) -> Iterator[Request]:
    """Every way to change rows: the other's, one's own into the other's, and new ones in the other's name."""
    path = f"/api/{resource.version}/{resource.name}"
    fields = [name for name, field in resource.visible.items() if not field.readonly]
    for method in ("PUT", "PATCH", "DELETE", "TRACE"):
        yield Request(method, path)
    allowed = [tuple(rule.fields) for _, operation, rule in rules(resource) if operation in ("create", "patch") and rule.fields]
    choices = list(dict.fromkeys([tuple(fields), *allowed]))
    own = mine or theirs
    for row in (*theirs, *mine[:1]):
        place = f"{path}/{','.join(quote(str(row[name]), safe='') for name in resource.key)}"
        yield from (Request(method, place) for method in ("POST", "PUT"))
        for other in (own[0], theirs[0]):
            for names in choices:
                for headers in (JSON, MERGE):
                    yield Request("PATCH", place, (), {name: other[name] for name in names}, tuple(headers.items()))
            for name in resource.fields:
                yield Request("PATCH", place, (), {name: other.get(name)}, tuple(JSON.items()))
        yield Request("PATCH", place, (), {}, tuple(JSON.items()))
        yield Request("PATCH", place, (("fields", fields[0]),), {fields[0]: None}, tuple(JSON.items()))
    for row in (own[0], theirs[0]):
        for names in choices:
            body = {name: row[name] for name in names}
            yield Request("POST", path, (), body, tuple(JSON.items()))
            for name in resource.fields:
                yield Request("POST", path, (), {**body, name: theirs[0].get(name)}, tuple(JSON.items()))
                yield Request("POST", path, (), {each: body[each] for each in body if each != name}, tuple(JSON.items()))
    for row in (*theirs, *mine):
        yield Request("DELETE", f"{path}/{','.join(quote(str(row[name]), safe='') for name in resource.key)}")


# --- the house -----------------------------------------------------------------------------------------------------------


class Court:
    """A running gateway over the tables, with everybody's tokens."""

    def __init__(
        self,
        client: httpx.Client,
        tables: Tables,
        keys: dict[str, dict[Place, str]],
        claims: dict[str, Any],
        variables: dict[str, str],
    ) -> None:
        self.client, self.tables, self.keys, self.variables = client, tables, keys, variables
        self.resources = tables.resources
        roles = {role for resource in self.resources.values() for role, _, _ in rules(resource)} - {ANONYMOUS}
        self.admin = self._bearer("d0000000-7e57-4ddd-8ddd-dddddddddddd", [ADMIN])
        self.callers = [Caller("nobody", None, "bob", {}), Caller("stranger", None, "bob", self._bearer(STRANGER, []))]
        for role in sorted(roles):
            for user, other in (USERS, USERS[::-1]):
                headers = self._bearer(SUBJECTS[user], [role], **claims[user])
                self.callers.append(Caller(f"{user} as {role}", user, other, headers))
        self.seen_by_admin = {
            name: {tables.key_of(resource, row): row for row in self.all_of(self.admin, resource)}
            for name, resource in self.resources.items()
        }

    def _bearer(self, subject: str, roles: list[str], **claims: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {token(EC, sub=subject, roles=roles, **claims).decode()}"}

    def all_of(self, headers: dict[str, str], resource: Resource) -> list[Row]:
        """What a plain list shows; nothing where it is refused."""
        path = f"/api/{resource.version}/{resource.name}"
        response = self.client.get(path, params={"limit": resource.limit_max}, headers=headers)
        assert response.status_code in (200, 401, 403)
        rows: list[Row] = response.json()["data"] if response.status_code == 200 else []
        return rows

    def visible(self, caller: Caller) -> dict[str, set[str]]:
        """The keys of the rows that the caller's lists show, by resource."""
        return {
            name: {self.tables.key_of(resource, row) for row in self.all_of(caller.headers, resource)}
            for name, resource in self.resources.items()
        }

    def rows_of(self, resource: Resource, user: str | None) -> list[Row]:
        known = self.seen_by_admin[resource.name]
        return [known[key] for place, key in self.keys[resource.name].items() if place[0] == user and key in known]

    def others(self, resource: Resource, caller: Caller, visible: Mapping[str, set[str]]) -> list[Row]:
        """The other's rows, those that the caller cannot see first."""
        return sorted(
            self.rows_of(resource, caller.other), key=lambda row: self.tables.key_of(resource, row) in visible[resource.name]
        )

    def markers(self, caller: Caller) -> re.Pattern[str]:
        """What must be in no answer to the caller: every value of rows and columns that they cannot see, and nowhere else."""
        visible = self.visible(caller)
        secret: set[str] = set()
        known = {"true", "false"}
        for name, resource in self.resources.items():
            hidden = [field.column for field in resource.fields.values() if field.hidden]
            known |= {str(each) for field in resource.fields.values() for each in (*field.bounds.enum, *field.type.labels)}
            texts = self.tables.texts(resource)
            for key, row in self.tables.everything([name])[name].items():
                values = set(flat(row)) | set(texts[key])
                secrets = set(flat({column: row[column] for column in hidden}))
                secret |= secrets | (set() if key in visible[name] else values)
                known |= values - secrets if key in visible[name] else set()
        found = {each for each in secret - known if len(each) >= 5}
        assert found, f"{caller.name} can see everything: what is this test about?"
        return re.compile("|".join(sorted(map(re.escape, found), key=len, reverse=True)))

    def reads(self, caller: Caller, visible: Mapping[str, set[str]]) -> list[Request]:
        """Everything that the caller may ask about the other's rows."""
        return [
            request
            for resource in self.resources.values()
            for request in reads(
                resource,
                self.rows_of(resource, caller.user),
                self.others(resource, caller, visible),
                refused=not visible[resource.name],
            )
        ]

    def ask(self, caller: Caller, request: Request, client: httpx.Client | None = None) -> httpx.Response:
        response = (client or self.client).request(
            request.method,
            request.path,
            params=list(request.query) or None,
            content=None if request.body is None else json.dumps(request.body),
            headers={**caller.headers, **dict(request.headers)},
        )
        check_answer(response)
        assert response.status_code < 500, (request, response.text)
        return response

    def follow(self, caller: Caller, resource: Resource, sort: str) -> list[httpx.Response]:
        """All pages of one row each."""
        pages = [self.ask(caller, Request("GET", f"/api/{resource.version}/{resource.name}", (("sort", sort), ("limit", "1"))))]
        while "next" in links(pages[-1]) and len(pages) < 50:
            pages.append(self.client.get(links(pages[-1])["next"], headers=caller.headers))
        return pages


UNTOLD = ("x-request-id", "date")


def flat(value: Any) -> Iterator[str]:
    """Every value within, as text; numbers too."""
    match value:
        case dict():
            for name, member in value.items():
                if name.startswith("QZ"):
                    yield name
                yield from flat(member)
        case list():
            for member in value:
                yield from flat(member)
        case None | bool():
            return
        case _:
            yield str(value)


def told(response: httpx.Response) -> tuple[int, tuple[tuple[str, str], ...], str]:
    """All that an answer says."""
    headers = tuple((name, value) for name, value in response.headers.items() if name not in UNTOLD)
    return response.status_code, headers, response.text


def with_cursors_opened(text: str) -> str:
    """The text, and what its cursors hold."""
    found = re.findall(r'cursor[="_:]+(?:\w+":")?([A-Za-z0-9_-]{8,})', text)
    return text + "".join(base64.urlsafe_b64decode(each + "=" * (-len(each) % 4)).decode("utf-8", "replace") for each in found)


def check_silence(request: Request, response: httpx.Response, secret: re.Pattern[str], who: str) -> None:
    """Fails where an answer has what the caller may not know and did not say themselves."""
    said = f"{unquote_plus(str(response.request.url))} {json.dumps(request.body)} {request.query}"
    leaked = {each for each in secret.findall(with_cursors_opened(repr(told(response)))) if each not in said}
    assert not leaked, (who, request, response.status_code, response.text, leaked)


RECEIPTS = """
key: id
fields:
  note: {column: internal_note, hidden: true}
access:
  admin:    {read: {}}
  customer: {read: {rows: {user_id: $sub}}}
"""
"""A view of `orders`, with the rules for reading that they have."""


@pytest.fixture(scope="module")
def court(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Court]:
    """The resources as they are, and a view, without limits and cache, for rows come and go behind the gateway's back."""
    directory = tmp_path_factory.mktemp("court") / "resources"
    shutil.copytree(REPOSITORY / "resources", directory)
    (directory / "receipts.yaml").write_text(RECEIPTS)
    with throwaway_database(postgres_url) as url, issuer(public(EC)) as keys:
        migrate.upgrade(url)
        execute(url, "CREATE VIEW receipts AS SELECT * FROM orders")
        catalog, faults = asyncio.run(assemble(settings_for(url, directory)))
        assert not faults
        assert {path.stem for path in directory.glob("*.yaml")} == {resource.name for resource in catalog.resources.values()}
        variables = {
            "AUTH": "on",
            "AUTH_JWKS_URL": keys.url,
            "AUTH_ISSUER": ISSUER,
            "AUTH_AUDIENCE": AUDIENCE,
            "AUTH_ALGORITHMS": ",".join(ALGORITHMS),
        }
        with closing(Tables(url, catalog)) as tables:
            claims = {user: claims_of(catalog, user) for user in USERS}
            made = tables.make(directory, claims)
            with gateway_over(url, directory, **variables) as client:
                yield Court(client, tables, made, claims, variables)


# --- the tests -----------------------------------------------------------------------------------------------------------


def test_every_table_has_rows_of_both_users_that_cannot_be_mistaken(court: Court) -> None:
    for name, resource in court.resources.items():
        rows = court.tables.everything()[name]
        assert set(court.keys[name].values()) == set(rows)
        for place, key in court.keys[name].items():
            others = {value for other, row in rows.items() if other != key for value in flat(row)}
            assert len({value for value in flat(rows[key]) if len(value) >= 5} - others) >= 3, (name, place)
        assert len(court.seen_by_admin[name]) == len(PLACES), resource.name


def test_a_list_shows_own_rows_and_none_of_the_others(court: Court) -> None:
    for caller in court.callers:
        visible = court.visible(caller)
        for name, resource in court.resources.items():
            owners = [field for field, value in equalities(resource).items() if is_claim(value)]
            if owners and caller.user is not None:
                assert court.keys[name][caller.user, 0] in visible[name], (caller.name, name)
            if owners:
                theirs = {key for place, key in court.keys[name].items() if place[0] != caller.user}
                assert not theirs & visible[name], (caller.name, name)


def test_no_answer_to_a_read_has_a_byte_of_what_the_caller_cannot_see_or_depends_on_it(court: Court) -> None:
    asked = 0
    for caller in court.callers:
        if caller.user == USERS[1]:
            continue  # what he may ask is what the first user asks, with the names changed
        secret, visible = court.markers(caller), court.visible(caller)
        requests = court.reads(caller, visible)
        requests += [Request("GET", path) for path in ("/api/v1/openapi.json", "/docs", "/api/v1/nothing")]
        answers = [court.ask(caller, request) for request in requests]
        pages = _pages(court, caller)
        for request, answer in (*zip(requests, answers, strict=True), *((Request("GET", "pages"), page) for page in pages)):
            check_silence(request, answer, secret, caller.name)
        asked += len(requests) + len(pages)
        court.tables.hide({name: set(court.keys[name].values()) - visible[name] for name in court.resources})
        try:
            for request, answer in zip(requests, answers, strict=True):
                if answer.status_code not in (200, 404) or '"count":"estimated"' in answer.text:
                    continue  # it was refused before any row was looked at; or the planner guessed, at rows that are all visible
                assert told(court.ask(caller, request)) == told(answer), (caller.name, request)
            assert list(map(told, _pages(court, caller))) == list(map(told, pages))
        finally:
            court.tables.put_back()
    assert asked > 200 * len(court.resources)


def test_a_view_tells_no_more_than_the_table_below_it(court: Court) -> None:
    view, orders = court.tables.catalog.resources["v1", "receipts"], court.resources["orders"]
    for caller in court.callers:
        secret, visible = court.markers(caller), court.visible(caller)
        shown = {court.tables.key_of(view, row) for row in court.all_of(caller.headers, view)}
        assert shown == visible["orders"]
        theirs = court.others(orders, caller, visible)
        requests = list(reads(view, court.rows_of(orders, caller.user), theirs, refused=not shown))
        answers = [court.ask(caller, request) for request in requests]
        for request, answer in zip(requests, answers, strict=True):
            check_silence(request, answer, secret, caller.name)
        court.tables.hide({"orders": set(court.keys["orders"].values()) - shown})
        try:
            for request, answer in zip(requests, answers, strict=True):
                if answer.status_code in (200, 404) and '"count":"estimated"' not in answer.text:
                    assert told(court.ask(caller, request)) == told(answer), (caller.name, request)
        finally:
            court.tables.put_back(["orders"])


def _pages(court: Court, caller: Caller) -> list[httpx.Response]:
    return [
        page
        for resource in court.resources.values()
        for field in resource.visible.values()
        if field.type.sortable
        for page in court.follow(caller, resource, f"-{field.name}")
    ]


def test_answers_that_are_kept_or_made_together_are_each_callers_own(court: Court) -> None:
    asked = [
        (caller, request)
        for caller in court.callers
        for request in court.reads(caller, court.visible(caller))[:: 2 * len(court.callers) + 3]
        if ("count", "estimated") not in request.query
    ]
    alone = [court.ask(caller, request) for caller, request in asked]
    at_once = [*range(len(asked)), *range(len(asked))]
    random.Random(7).shuffle(at_once)
    with (
        gateway_over(court.tables.url, REPOSITORY / "resources", **court.variables, WORKERS="1") as keeping,
        ThreadPoolExecutor(8) as threads,
    ):
        answers = list(threads.map(lambda number: court.ask(*asked[number], keeping), at_once))
    assert {"HIT", "MISS"} <= {answer.headers.get("x-cache", "").upper() for answer in answers}
    for number, answer in zip(at_once, answers, strict=True):
        assert (answer.status_code, answer.text) == (alone[number].status_code, alone[number].text), asked[number]


def test_a_cursor_made_by_an_admin_opens_nothing_for_others(court: Court) -> None:
    admin = Caller("admin", None, "bob", court.admin)
    for caller in court.callers:
        secret = court.markers(caller)
        for resource in court.resources.values():
            path = f"/api/{resource.version}/{resource.name}"
            for sort in ("", *resource.key):
                query = (("sort", sort), ("limit", "1")) if sort else (("limit", "1"),)
                cursor = court.ask(admin, Request("GET", path, query)).json()["meta"]["next_cursor"]
                request = Request("GET", path, (*query, ("cursor", cursor)))
                response = court.ask(caller, request)
                check_silence(request, response, secret, caller.name)
                if response.status_code == 200:
                    hidden = court.tables.everything()[resource.name].keys() - court.visible(caller)[resource.name]
                    assert not hidden, (caller.name, request)


def test_document_of_a_caller_tells_of_what_they_may_use_and_of_nothing_else(court: Court) -> None:
    body = tuple(JSON.items())
    for caller in (Caller("admin", None, "bob", court.admin), *court.callers):
        document = court.ask(caller, Request("GET", "/api/v1/openapi.json"))
        told_of = {(path, method) for path, methods in document.json()["paths"].items() for method in methods}
        for name, resource in court.resources.items():
            path = f"/api/{resource.version}/{name}"
            asked = {
                "get": court.ask(caller, Request("GET", path)),
                "post": court.ask(caller, Request("POST", path, (), [], body)),
                "patch": court.ask(caller, Request("PATCH", f"{path}/nothing", (), [], body)),
                "delete": court.ask(caller, Request("DELETE", f"{path}/nothing")),
            }
            for method, response in asked.items():
                allowed = response.status_code not in (401, 403)
                places = {place for place, of in told_of if of == method and (place == path or place.startswith(f"{path}/"))}
                assert bool(places) == allowed, (caller.name, name, method)
            for field in resource.fields.values():
                if field.hidden:
                    assert f'"{field.name}"' not in document.text, (caller.name, field.name)
                    assert f'"{field.column}"' not in document.text, (caller.name, field.column)


def test_no_write_touches_what_is_the_others_or_tells_of_it(court: Court) -> None:
    written = 0
    before = court.tables.everything()
    for caller in court.callers:
        secret = court.markers(caller)
        others = [other for other in court.callers if other.user == caller.other]
        seen = [_lists(court, other) for other in others]
        for resource in court.resources.values():
            for request in writes(resource, court.rows_of(resource, caller.user), court.rows_of(resource, caller.other)):
                response = court.ask(caller, request)
                check_silence(request, response, secret, caller.name)
                if response.status_code < 300 and request.method != "OPTIONS":
                    after = court.tables.everything()
                    _check_changes(court, caller, before, after)
                    assert [_lists(court, other) for other in others] == seen
                    court.tables.put_back(name for name in after if after[name] != before[name])
                    written += 1
        assert court.tables.everything() == before, caller.name
    assert written, "nobody could write anything: what is this test about?"


def _check_changes(
    court: Court, caller: Caller, before: Mapping[str, Mapping[str, Row]], after: Mapping[str, Mapping[str, Row]]
) -> None:
    """Fails where a row that is not the caller's is another than before, or a changed one is in another's name."""
    assert caller.user is not None, caller.name
    for name, resource in court.resources.items():
        mine = {key for place, key in court.keys[name].items() if place[0] == caller.user}
        for key in before[name].keys() - mine:
            assert after[name].get(key) == before[name][key], (caller.name, name, key)
        owners = [resource.fields[field].column for field, value in equalities(resource).items() if value == "$sub"]
        for key in after[name].keys() - (before[name].keys() - mine):
            row = after[name][key]
            assert row == before[name].get(key) or {row[column] for column in owners} == {SUBJECTS[caller.user]}, (name, row)


def _lists(court: Court, caller: Caller) -> list[list[Row]]:
    return [court.all_of(caller.headers, resource) for resource in court.resources.values()]
