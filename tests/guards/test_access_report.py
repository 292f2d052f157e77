"""What `gateway check` tells of access rules that make sense: the table of what they allow, and what to beware of."""

from __future__ import annotations

import msgspec
import pytest

from gateway.access_report import access_cells, short
from gateway.catalog.model import Column, Table
from gateway.guards.policy import STANDARD_CLAIMS, AccessRow, access_claims, access_table, access_warnings, check_access
from tests.query.sample import BIGINT, JSONB, TEXT, catalog_of, source, table

ORDERS = msgspec.structs.replace(
    table(
        "orders",
        [
            Column("id", BIGINT, nullable=False, filled=True),
            Column("user_id", BIGINT, nullable=False),
            Column("status", TEXT, nullable=False, filled=True),
            Column("org", TEXT, nullable=True),
            Column("internal_note", TEXT, nullable=True),
            Column("facts", JSONB, nullable=True),
        ],
    ),
    indexes=(("user_id", "id"), ("org", "status"), ("id",)),
)
VIEW = msgspec.structs.replace(ORDERS, primary_key=(), constraints=(), indexes=(), is_view=True)
HEAD = "key: id\nfields: {note: {column: internal_note, hidden: true}}\n"
PATH = "resources/orders.yaml"


def warnings_of(access: str, found: Table = ORDERS, claims: frozenset[str] = STANDARD_CLAIMS) -> list[str]:
    """The warnings for an `access` part that begins on the third line."""
    read = source(f"{HEAD}{access}", "orders")
    catalog, faults = catalog_of((read, found))
    resource = catalog.resources["v1", "orders"]
    assert not [*faults, *check_access(read, resource)]
    return [str(warning) for warning in access_warnings(read, resource, claims)]


def table_of(yaml: str, found: Table = ORDERS) -> list[AccessRow]:
    read = source(yaml, "orders")
    return list(access_table(catalog_of((read, found))[0].resources["v1", "orders"]))


def test_table_has_a_row_for_every_role_and_operation_that_is_allowed() -> None:
    yaml = """key: id
access:
  customer: {read: {rows: {user_id: $sub}}, create: {fields: [status], set: {user_id: $sub}}}
  anonymous: {}
"""
    assert table_of(yaml) == [
        AccessRow("v1", "orders", "customer", "read", {"user_id": "$sub"}, None, None),
        AccessRow("v1", "orders", "customer", "create", None, ["status"], {"user_id": "$sub"}),
    ]


def test_without_an_access_part_the_admin_alone_may_do_everything() -> None:
    assert [(row.role, row.operation) for row in table_of("")] == [
        ("admin", operation) for operation in ("read", "create", "patch", "delete")
    ]
    assert [(row.role, row.operation) for row in table_of("key: id", VIEW)] == [("admin", "read")]


def test_operations_with_one_rule_share_a_line() -> None:
    yaml = """key: id
access:
  admin: {read: {}, create: {}, patch: {}, delete: {}}
  customer:
    {read: {rows: {user_id: $sub}}, create: {set: {user_id: $sub}}, patch: {fields: [status]}, delete: {rows: {user_id: 1}}}
  guest: {read: {rows: {or: [{org: a}, {not: {status: {in: [x, y]}}}]}}, patch: {fields: []}}
"""
    assert list(access_cells(table_of(yaml))) == [
        ("orders", "admin", "everything", "all", "all", ""),
        ("orders", "customer", "read", "user_id: $sub", "all", ""),
        ("orders", "customer", "create", "all", "all", "user_id: $sub"),
        ("orders", "customer", "patch", "all", "status", ""),
        ("orders", "customer", "delete", "user_id: 1", "", ""),
        ("orders", "guest", "read", "or: [{org: a}, {not: {status: {in: [x, y]}}}]", "all", ""),
        ("orders", "guest", "patch", "all", "none", ""),
    ]


def test_resource_of_another_version_is_named_with_it() -> None:
    assert {cells[0] for cells in access_cells([AccessRow("v2", "orders", "admin", "read", None, None, None)])} == {"v2/orders"}


def test_values_are_shown_as_yaml_has_them() -> None:
    assert short({"a": True, "b": None, "c": 1.5, "d": ["x", {"e": False}]}) == "a: true, b: null, c: 1.5, d: [x, {e: false}]"


def test_claims_are_found_with_the_fields_that_they_meet() -> None:
    yaml = """key: id
access:
  customer:
    read: {rows: {or: [{user_id: $sub}, {org: {in: [a, $claims.org]}}, {facts.owner: $sub}]}}
    create: {set: {org: $claims.org, status: open}}
  guest: {}
"""
    resource = catalog_of((source(yaml, "orders"), ORDERS))[0].resources["v1", "orders"]
    assert list(access_claims(resource)) == [
        ("customer", "read", "$sub", "user_id"),
        ("customer", "read", "$claims.org", "org"),
        ("customer", "create", "$claims.org", "org"),
    ]


@pytest.mark.parametrize("operation", ["create", "patch", "delete"])
def test_rule_that_lets_everybody_write_is_warned_of(operation: str) -> None:
    assert warnings_of(f"access:\n  anonymous:\n    {operation}: {{}}") == [
        f"{PATH}:5: everybody may {operation} here, any row and without a token"
    ]


@pytest.mark.parametrize(
    "rule", ["anonymous: {read: {}}", "anonymous: {patch: {rows: {status: open}}}", "customer: {delete: {}}"]
)
def test_rule_that_lets_everybody_read_or_some_write_is_no_warning(rule: str) -> None:
    assert warnings_of(f"access:\n  {rule}") == []


@pytest.mark.parametrize(
    ("rows", "fields"),
    [
        ("{user_id: $sub}", ""),
        ("{id: 1}", ""),
        ("{status: open}", '"status"'),
        ("{note: x}", '"note"'),
        ("{facts.owner: $sub}", '"facts"'),
        ("{user_id: $sub, status: open}", ""),
        ("{status: open, note: x}", '"status" or "note"'),
        ("{or: [{user_id: $sub}, {org: a}]}", ""),
        ("{or: [{user_id: $sub}, {status: open}]}", '"status"'),
        ("{not: {status: open}}", '"status"'),
        ("{status: {ne: open, starts: o}}", '"status"'),
    ],
)
def test_read_rule_that_no_index_serves_is_warned_of(rows: str, fields: str) -> None:
    found = warnings_of(f"access:\n  customer:\n    read: {{rows: {rows}}}")
    told = f"{PATH}:5: rows: no index leads with {fields}; a list may pass over many rows to find those it shows"
    assert found == ([told] if fields else [])


def test_index_is_asked_for_by_lists_alone_and_of_tables_alone() -> None:
    assert warnings_of("access:\n  customer: {patch: {rows: {status: open}}, delete: {rows: {status: open}}}") == []
    assert warnings_of("access:\n  customer: {read: {rows: {status: open}}}", VIEW) == []


def test_claim_that_no_token_is_known_to_carry_is_warned_of_at_its_line() -> None:
    access = """access:
  customer:
    read:
      rows:
        or:
          - {org: $claims.orgg}
          - {org: $claims.tenant.id}
          - {org: $claims.address.country}
          - {user_id: $sub}
    create:
      set:
        org: $claims.desk
"""
    assert warnings_of(access, claims=STANDARD_CLAIMS | {"org", "tenant"}) == [
        f'{PATH}:8: no token is known to carry the claim "orgg", and without it this denies. Did you mean "org"?',
        f'{PATH}:14: no token is known to carry the claim "desk", and without it this denies.',
    ]
