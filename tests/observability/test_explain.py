"""Plans: for the roles that may see them, of what those roles may read, and without running anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import execute
from tests.issuing import AUDIENCE, EC, ISSUER, issuer, public, token
from tests.serving import running, settings_for, write_resources

PLAN = "application/vnd.gateway.plan+json"
TABLES = """
    CREATE SCHEMA inner_sanctum;
    CREATE TABLE inner_sanctum.notes (id int PRIMARY KEY, owner text NOT NULL, body text);
    CREATE FUNCTION inner_sanctum.boom(text) RETURNS text LANGUAGE plpgsql VOLATILE AS $$ BEGIN RAISE 'it ran'; END $$;
"""
NOTES = """
table: inner_sanctum.notes
fields:
  body: {hidden: true}
access:
  admin: {read: {}}
  customer: {read: {rows: {owner: $sub}}}
  writer: {create: {}}
"""


def asking(*roles: str, **headers: str) -> dict[str, str]:
    sent = {"authorization": f"Bearer {token(EC, sub='ada', roles=list(roles)).decode()}", "accept": PLAN}
    return {**sent, **headers}


@pytest.fixture
def client(database_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    execute(database_url, TABLES)
    resources = write_resources(tmp_path / "resources", {"notes": NOTES})
    with issuer(public(EC)) as keys:
        settings = settings_for(
            database_url,
            resources,
            AUTH="on",
            AUTH_JWKS_URL=keys.url,
            AUTH_ISSUER=ISSUER,
            AUTH_AUDIENCE=AUDIENCE,
            EXPLAIN_ROLES="dba,writer",
        )
        with running(settings) as found:
            yield found


def test_a_role_that_may_sees_the_plan_of_what_it_may_read(client: httpx.Client) -> None:
    listed = client.get("/api/v1/notes?owner=grace&sort=owner", headers=asking("admin", "dba"))
    assert listed.status_code == 200
    assert listed.headers["content-type"] == PLAN
    assert "no-store" in listed.headers["cache-control"]
    assert "accept" in listed.headers["vary"]
    data = listed.json()["data"]
    assert data["sql"].startswith("SELECT row_to_json")
    assert "grace" not in data["sql"]
    assert data["plan"][0]["Plan"]["Node Type"]
    row = client.get("/api/v1/notes/7", headers=asking("admin", "dba"))
    assert "notes_pkey" in row.text
    own = client.get("/api/v1/notes", headers=asking("customer", "dba"))
    assert "ada" in own.text, "the row rule is part of the plan"


@pytest.mark.parametrize("path", ["/api/v1/notes", "/api/v1/notes/7", "/api/v1/notes?owner=grace"])
def test_others_are_refused_and_learn_nothing(client: httpx.Client, path: str) -> None:
    for answer in (
        client.get(path, headers=asking("admin")),
        client.get(path, headers=asking("customer")),
        client.get(path, headers=asking("writer")),  # who may see plans, but not read
    ):
        assert answer.status_code == 403
        assert "sanctum" not in answer.text
        assert "Plan" not in answer.text.replace("Plans are shown", "")
    assert client.get(path, headers={"accept": PLAN}).status_code == 401


def test_a_faulty_query_is_refused_as_ever(client: httpx.Client) -> None:
    answer = client.get("/api/v1/notes?body=x", headers=asking("admin", "dba"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_ERROR")
    assert client.get("/api/v1/notes/x", headers=asking("admin", "dba")).status_code in (400, 404)


def test_a_plan_is_for_who_accepts_nothing_else(client: httpx.Client) -> None:
    for accept in ("*/*", f"application/json, {PLAN}", f"{PLAN}, */*"):
        answer = client.get("/api/v1/notes", headers=asking("admin", "dba", accept=accept))
        assert answer.headers["content-type"] == "application/json"


def test_the_document_has_plans_for_who_may_see_them(client: httpx.Client) -> None:
    def told(*roles: str) -> bool:
        document = client.get("/api/v1/openapi.json", headers=asking(*roles)).json()
        return PLAN in document["paths"]["/api/v1/notes"]["get"]["responses"]["200"]["content"]

    assert told("admin", "dba")
    assert not told("admin")
