"""The JSON Schema of a resource file, and the shapes it is made of."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from gateway.cli import main
from gateway.definitions.load import load_text
from gateway.definitions.model import ResourceDefinition, Source
from gateway.definitions.nodes import plain_value, read_nodes
from gateway.definitions.schema import CONSTRAINTS, json_schema, members_of, shape_of

VALID = [
    "null",
    "{table: a, key: [a, b], version: v2, timeout: 0.5, rate_limit: 5/day}",
    "{fields: {a: , b: {minimum: 1, maximum: '2', enum: [1, x], json: string, pattern: '^a$'}}}",
    "{relations: {u: {to: users, many: true, on: {a: b}}}}",
    "{list: {sort: [a, '-b:nullslast'], limit: {default: 5, max: 10}, filter: []}, cache: }",
    "{deprecated: {since: 2026-11-01, sunset: 2027-05-01, link: 'https://example.com/a?b=c#d'}}",
    "{access: {admin: {read: , patch: {rows: {or: [{a: {gte: 1}}]}, set: {b: null}, fields: [c]}}, anonymous: }}",
]
INVALID = [
    "[]",
    "{tabel: a}",
    "{key: []}",
    "{key: [a, a]}",
    "{version: v0}",
    "{timeout: 0}",
    "{rate_limit: 5/week}",
    "{fields: {a: {hidden: 1}}}",
    "{fields: {'': {}}}",
    "{fields: {a: {enum: []}}}",
    "{fields: {a: {pattern: '('}}}",
    "{relations: {u: }}",
    "{relations: {u: {to: users, on: {}}}}",
    "{list: {limit: {max: 0}}}",
    "{list: {sort: ['a:x']}}",
    "{list: {sort: }}",
    "{deprecated: }",
    "{deprecated: {since: 1 May}}",
    "{deprecated: {since: 2026-11-01, link: 'javascript:alert(1)'}}",
    "{access: {a: {write: {}}}}",
    "{access: {a: {read: {rows: }}}}",
]


def is_valid_by_the_schema(text: str) -> bool:
    validator: Any = jsonschema_rs.validator_for(json_schema(), validate_formats=True)
    return bool(validator.is_valid(plain_value(read_nodes("a.yaml", text)[0])))


@pytest.mark.parametrize("text", VALID)
def test_what_the_loader_takes_is_valid_by_the_schema(text: str) -> None:
    assert isinstance(load_text("a", "a.yaml", text), Source)
    assert is_valid_by_the_schema(text)


@pytest.mark.parametrize("text", INVALID)
def test_what_the_schema_refuses_the_loader_refuses(text: str) -> None:
    assert not isinstance(load_text("a", "a.yaml", text), Source)
    assert not is_valid_by_the_schema(text)


def test_every_constraint_is_of_a_key_that_exists() -> None:
    assert all(name in members_of(struct) for struct, name in CONSTRAINTS)


def test_every_key_is_in_the_schema() -> None:
    assert list(json_schema()["$defs"]["ResourceDefinition"]["properties"]) == list(ResourceDefinition.__struct_fields__)


def test_key_added_to_a_struct_is_known_by_existing() -> None:
    class Wider(msgspec.Struct, frozen=True):
        needed: int
        extra: dict[str, bool] | None = None

    members = members_of(Wider)
    assert [(member.name, member.required) for member in members.values()] == [("needed", True), ("extra", False)]


def test_type_that_no_file_can_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="a resource file cannot hold <class 'bytes'>"):
        shape_of(bytes)


def structs_below(struct: type[msgspec.Struct]) -> set[type[msgspec.Struct]]:
    shapes = [shape for member in members_of(struct).values() for shape in (member.shape, member.shape.item, member.shape.value)]
    below = {shape.struct for shape in shapes if shape and shape.struct}
    return {struct}.union(*map(structs_below, below))


def test_every_key_is_in_the_schema_and_on_the_authors_page() -> None:
    definitions = json_schema()["$defs"]
    page = (Path(__file__).parents[2] / "docs" / "schema-authors.md").read_text()
    for struct in structs_below(ResourceDefinition):
        assert list(definitions[struct.__name__]["properties"]) == list(struct.__struct_fields__)
        missing = [name for name in struct.__struct_fields__ if not re.search(rf"\b{name}:|`{name}\b", page)]
        assert missing == [], f"keys of {struct.__name__} that docs/schema-authors.md does not show"


def test_the_command_prints_it_and_needs_no_database(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()
