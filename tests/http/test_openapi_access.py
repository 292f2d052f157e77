"""The document that a caller gets shows what they may use, and nothing else."""

from __future__ import annotations

import json
from typing import Any

from gateway.catalog.model import Catalog, Column, Constraint, Table
from gateway.catalog.types import ColumnType
from gateway.guards.grants import Policy, Unrestricted
from gateway.guards.tokens import Caller
from gateway.http.openapi import document
from tests.query.sample import resource

NOTES = Table(
    "public",
    "notes",
    (
        Column("id", ColumnType("int8", "bigint"), nullable=False, filled=True, generated=True),
        Column("owner", ColumnType("text", "text"), nullable=False),
        Column("body", ColumnType("text", "text"), nullable=False),
        Column("secret", ColumnType("text", "text"), nullable=True),
    ),
    primary_key=("id",),
    constraints=(Constraint("notes_pkey", "primary", ("id",)),),
)
YAML = """
access:
  admin: {read: {}, create: {}, patch: {}, delete: {}}
  writer:
    read: {fields: [id, body]}
    create: {fields: [body], set: {owner: $sub}}
  dropper: {create: {fields: [body, owner]}}
"""


def document_for(*roles: str, anonymous: bool = False) -> dict[str, Any]:
    notes = resource(NOTES, YAML)
    catalog = Catalog({("v1", "notes"): notes}, {})
    caller = None if anonymous else Caller("7", roles, {}, 0)
    policy = Policy(catalog)
    return document(
        catalog,
        "v1",
        max_body_bytes=1000,
        service_name="tests",
        secured=True,
        access=lambda found: policy.allowed(found, caller),
    )


def body_fields(found: dict[str, Any], operation: str) -> set[str]:
    return set(found["components"]["schemas"][f"notes.{operation}"]["properties"])


def test_who_may_do_everything_sees_everything() -> None:
    found = document_for("admin")
    assert found["paths"].keys() >= {"/api/v1/notes", "/api/v1/notes/{key}"}
    assert set(found["paths"]["/api/v1/notes"]) == {"get", "post"}
    assert set(found["paths"]["/api/v1/notes/{key}"]) == {"parameters", "get", "patch", "delete"}
    assert body_fields(found, "patch") == {"owner", "body", "secret"}


def test_who_may_do_nothing_sees_nothing_of_the_resource() -> None:
    for found in (document_for("nobody"), document_for(anonymous=True)):
        assert not any("notes" in path for path in found["paths"])
        assert "secret" not in json.dumps(found)
        assert "notes" not in json.dumps(found["tags"])


def test_only_readable_and_sendable_fields_are_told() -> None:
    found = document_for("writer")
    assert set(found["paths"]["/api/v1/notes"]) == {"get", "post"}
    assert set(found["paths"]["/api/v1/notes/{key}"]) == {"parameters", "get"}
    assert set(found["components"]["schemas"]["notes"]["properties"]) == {"id", "body"}
    assert body_fields(found, "create") == {"body"}
    assert "secret" not in json.dumps(found)
    assert "owner" not in json.dumps(found)


def test_who_may_only_create_is_told_of_no_answer_fields() -> None:
    found = document_for("dropper")
    assert set(found["paths"]["/api/v1/notes"]) == {"post"}
    assert "/api/v1/notes/{key}" not in found["paths"]
    assert found["components"]["schemas"]["notes"]["properties"] == {}
    assert body_fields(found, "create") == {"body", "owner"}


def test_without_tokens_everybody_may_use_all() -> None:
    notes = resource(NOTES, YAML)
    allowed = Unrestricted().allowed(notes, None)
    assert set(allowed) == {"read", "create", "patch", "delete"}
