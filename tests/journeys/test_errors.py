"""What the database refuses, in the caller's words: the fields by their public names, and no name of the database's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.database.sqlstate import ERRORS, VIOLATIONS
from gateway.errors import DatabaseTimeout
from tests.conftest import execute, throwaway_database
from tests.journeys.answers import check_answer, gateway_over, made, problems
from tests.serving import running, settings_for, write_resources

pytestmark = pytest.mark.xdist_group("errors")

SQL = """
    CREATE DOMAIN internal_domain AS text CONSTRAINT internal_domain_check CHECK (VALUE <> 'bad');
    CREATE TABLE internal_parents (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        internal_code text CONSTRAINT internal_code_unique UNIQUE,
        internal_mail text,
        area text,
        number integer,
        CONSTRAINT internal_pair_unique UNIQUE (area, number),
        period int4range,
        CONSTRAINT internal_exclusion EXCLUDE USING gist (period WITH &&),
        low integer,
        high integer,
        CONSTRAINT internal_order CHECK (low <= high),
        kind internal_domain,
        needed text NOT NULL DEFAULT 'x',
        secret text,
        CONSTRAINT internal_secret_check CHECK (secret IS NOT DISTINCT FROM 'fine' OR length(internal_code) < 5)
    );
    CREATE UNIQUE INDEX internal_mail_unique ON internal_parents (lower(internal_mail));
    CREATE UNIQUE INDEX internal_partial ON internal_parents (needed) WHERE needed LIKE 'one%';
    CREATE TABLE internal_children (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        internal_parent bigint CONSTRAINT internal_foreign REFERENCES internal_parents ON DELETE RESTRICT,
        internal_parent_code text CONSTRAINT internal_foreign_code REFERENCES internal_parents (internal_code),
        area text,
        number integer,
        CONSTRAINT internal_foreign_pair FOREIGN KEY (area, number) REFERENCES internal_parents (area, number),
        boss bigint CONSTRAINT internal_self REFERENCES internal_children
    );
    CREATE TABLE internal_raisers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, state text, late boolean);
    CREATE FUNCTION internal_raise() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'internal_text about internal_raisers' USING ERRCODE = NEW.state,
            CONSTRAINT = 'internal_constraint', TABLE = 'internal_raisers', DETAIL = 'internal_detail', HINT = 'internal_hint';
    END $$;
    CREATE TRIGGER internal_raise BEFORE INSERT ON internal_raisers
        FOR EACH ROW WHEN (NEW.state IS NOT NULL) EXECUTE FUNCTION internal_raise();
    CREATE TABLE internal_late (id bigint PRIMARY KEY, other bigint,
        CONSTRAINT internal_deferred FOREIGN KEY (other) REFERENCES internal_late DEFERRABLE INITIALLY DEFERRED);
"""
RESOURCES = {
    "parents": """
table: internal_parents
fields:
  id: {readonly: true}
  code: {column: internal_code}
  mail: {column: internal_mail}
  secret: {hidden: true}
""",
    "children": """
table: internal_children
fields:
  parent: {column: internal_parent}
  parent_code: {column: internal_parent_code}
""",
    "raisers": "table: internal_raisers\n",
    "late": "table: internal_late\n",
    "patient_late": "table: internal_late\ntimeout: 3\n",
}


@pytest.fixture(scope="module")
def database(postgres_url: str) -> Iterator[str]:
    with throwaway_database(postgres_url) as url:
        execute(url, SQL)
        yield url


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_resources(Path(tmp_path_factory.mktemp("errors")) / "resources", RESOURCES)


@pytest.fixture(scope="module")
def client(database: str, directory: Path) -> Iterator[httpx.Client]:
    with gateway_over(database, directory) as found:
        yield found


def refused(client: httpx.Client, resource: str, status: int, **body: Any) -> dict[str, str]:
    return problems(client.post(f"/api/v1/{resource}", json=body), status)


# --- unique ------------------------------------------------------------------------------------------------------------


def test_a_taken_value_names_its_field(client: httpx.Client) -> None:
    made(client, "parents", code="u1")
    assert refused(client, "parents", 409, code="u1") == {"code": "is taken: another row has it"}


def test_a_taken_value_of_a_patch_names_its_field(client: httpx.Client) -> None:
    made(client, "parents", code="u2")
    row = made(client, "parents", code="u3")
    assert problems(client.patch(f"/api/v1/parents/{row['id']}", json={"code": "u2"}), 409).keys() == {"code"}
    assert client.patch(f"/api/v1/parents/{row['id']}", json={"code": "u3"}).status_code == 200


def test_a_taken_pair_names_both_fields(client: httpx.Client) -> None:
    made(client, "parents", area="north", number=1)
    made(client, "parents", area="north", number=2)
    assert refused(client, "parents", 409, area="north", number=2).keys() == {"area", "number"}


def test_a_unique_expression_names_the_field_that_it_reads(client: httpx.Client) -> None:
    made(client, "parents", mail="Ada@example.org")
    assert refused(client, "parents", 409, mail="aDA@example.org").keys() == {"mail"}


def test_a_partial_unique_index_names_its_field(client: httpx.Client) -> None:
    made(client, "parents", needed="one-1")
    assert refused(client, "parents", 409, needed="one-1").keys() == {"needed"}


def test_a_taken_key_names_the_key(client: httpx.Client) -> None:
    made(client, "late", id=10)
    assert refused(client, "late", 409, id=10).keys() == {"id"}


def test_an_overlap_names_its_field(client: httpx.Client) -> None:
    made(client, "parents", period="[1,5)")
    assert refused(client, "parents", 409, period="[4,9)") == {"period": "overlaps another row's"}


# --- foreign keys ------------------------------------------------------------------------------------------------------


def test_a_reference_to_nothing_names_its_field(client: httpx.Client) -> None:
    assert refused(client, "children", 409, parent=999) == {"parent": "refers to a row that does not exist"}
    assert refused(client, "children", 409, parent_code="nobody").keys() == {"parent_code"}
    assert refused(client, "children", 409, area="nowhere", number=1).keys() == {"area", "number"}
    child = made(client, "children")
    assert problems(client.patch(f"/api/v1/children/{child['id']}", json={"boss": 999}), 409).keys() == {"boss"}


def test_a_reference_to_nothing_is_found_at_the_commit_too(client: httpx.Client) -> None:
    for resource in ("late", "patient_late"):
        assert refused(client, resource, 409, id=1, other=999).keys() == {"other"}
        assert client.get(f"/api/v1/{resource}/1").status_code == 404


def test_a_row_that_others_refer_to_is_not_deleted(client: httpx.Client) -> None:
    parent = made(client, "parents", code="d1")
    path = f"/api/v1/parents/{parent['id']}"
    child = made(client, "children", parent=parent["id"])
    assert problems(client.delete(path), 409) == {"id": "is referred to"}
    client.delete(f"/api/v1/children/{child['id']}")
    child = made(client, "children", parent_code="d1")
    assert problems(client.delete(path), 409) == {"id": "is referred to"}
    client.delete(f"/api/v1/children/{child['id']}")
    assert client.delete(path).status_code == 204


def test_a_row_that_refers_to_itself_in_its_table_is_not_deleted(client: httpx.Client) -> None:
    boss = made(client, "children")
    made(client, "children", boss=boss["id"])
    assert problems(client.delete(f"/api/v1/children/{boss['id']}"), 409) == {"id": "is referred to"}


def test_a_value_that_others_refer_to_is_not_changed(client: httpx.Client) -> None:
    parent = made(client, "parents", code="r1", area="south", number=1)
    made(client, "children", parent_code="r1", area="south", number=1)
    path = f"/api/v1/parents/{parent['id']}"
    response = client.patch(path, json={"code": "r2"})
    assert response.json()["error"]["message"] == "Other rows refer to this one."
    assert problems(response, 409) == {"code": "is referred to"}
    assert problems(client.patch(path, json={"number": 2, "low": 1}), 409) == {"number": "is referred to"}


# --- values ------------------------------------------------------------------------------------------------------------


def test_a_check_names_the_fields_that_it_reads(client: httpx.Client) -> None:
    assert refused(client, "parents", 400, low=2, high=1).keys() == {"low", "high"}
    row = made(client, "parents", low=1, high=2)
    assert problems(client.patch(f"/api/v1/parents/{row['id']}", json={"low": 3})).keys() == {"low", "high"}


def test_a_check_of_a_hidden_field_names_the_others_alone(client: httpx.Client) -> None:
    assert refused(client, "parents", 400, code="much too long").keys() == {"code"}


def test_a_domain_that_refuses_names_its_field(client: httpx.Client) -> None:
    assert refused(client, "parents", 400, kind="bad").keys() == {"kind"}


def test_null_where_there_must_be_a_value_names_its_field(client: httpx.Client) -> None:
    assert refused(client, "parents", 400, needed=None) == {"needed": "takes no null"}


def test_what_is_refused_is_not_written(client: httpx.Client) -> None:
    before = client.get("/api/v1/parents?count=exact&limit=1").json()["meta"]["total"]
    refused(client, "parents", 400, low=2, high=1, code="w1")
    assert client.get("/api/v1/parents?count=exact&limit=1").json()["meta"]["total"] == before


# --- the whole table ---------------------------------------------------------------------------------------------------

KIND_STATUS = {"unique": 409, "foreign": 409, "exclusion": 409, "not_null": 400, "check": 400, "value": 400}


@pytest.mark.parametrize("state", VIOLATIONS)
def test_every_violation_reaches_the_caller_as_400_or_409(client: httpx.Client, state: str) -> None:
    response = client.post("/api/v1/raisers", json={"state": state})
    assert response.status_code == KIND_STATUS[VIOLATIONS[state][0]]


@pytest.mark.parametrize("state", ERRORS)
def test_every_error_reaches_the_caller_with_its_code(client: httpx.Client, state: str) -> None:
    error, message = ERRORS[state]
    response = client.post("/api/v1/raisers", json={"state": state.ljust(5, "9")})
    assert response.status_code == error.status
    told = response.json()["error"]
    assert (told["code"], told["message"]) == (error.code, message or DatabaseTimeout.default_message)


def test_a_fault_that_nobody_foresaw_is_logged_by_its_kind_and_told_nothing(
    database: str, directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("gateway.database")
    monkeypatch.setattr(log, "propagate", False)  # what `client` listens to must stay without an error
    monkeypatch.setattr(log, "handlers", [caplog.handler])
    with running(settings_for(database, directory)) as client, caplog.at_level(logging.WARNING):
        response = client.post("/api/v1/raisers", json={"state": "XX000"}, headers={"X-Request-Id": "find-me"})
        check_answer(response)
        assert response.json() == {"error": {"code": "INTERNAL_ERROR", "message": "Something went wrong.", "details": {}}}
        assert client.get("/api/v1/raisers").status_code == 200
    (record,) = [record for record in caplog.records if record.name == "gateway.database"]
    assert (record.levelname, record.getMessage()) == ("ERROR", "database: InternalServerError (XX000)")
    assert "internal_text" not in caplog.text  # a trigger may say what a row holds


def test_a_value_of_a_filter_that_the_database_refuses_is_a_400(client: httpx.Client) -> None:
    for parameters in ({"period": "[5,1)"}, {"period": "nonsense"}, {"kind": "bad\\"}, {"code[like]": "a\\"}):
        assert client.get("/api/v1/parents", params=parameters).status_code in (200, 400)
    assert client.get("/api/v1/parents", params={"period": "nonsense"}).status_code == 400
