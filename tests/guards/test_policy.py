"""The `access` part of a definition, checked before anything stands on it: every name, value and claim must make sense."""

from __future__ import annotations

import pytest

from gateway.catalog.model import Column
from gateway.guards.policy import check_access, is_claim
from tests.query.sample import BIGINT, BOOLEAN, INTEGER, JSONB, NUMERIC, TEXT, TIMESTAMPTZ, catalog_of, source, table

ORDERS = table(
    "orders",
    [
        Column("id", BIGINT, nullable=False, filled=True, generated=True),
        Column("user_id", BIGINT, nullable=False),
        Column("total", NUMERIC, nullable=False),
        Column("count", INTEGER, nullable=True),
        Column("status", TEXT, nullable=False, filled=True),
        Column("paid", BOOLEAN, nullable=True),
        Column("internal_note", TEXT, nullable=True),
        Column("facts", JSONB, nullable=True),
        Column("created_at", TIMESTAMPTZ, nullable=False, filled=True),
    ],
)
VIEW = table("orders", ORDERS.columns, primary_key=(), is_view=True)
FIELDS = "fields: {note: {column: internal_note, hidden: true}, created_at: {readonly: true}}\nlist: {filter: [id]}\n"
PATH = "resources/orders.yaml"


def faults_of(access: str, is_view: bool = False) -> list[str]:
    """The faults of an `access` part that begins on the third line."""
    read = source(f"{FIELDS if not is_view else 'key: id' + chr(10) + chr(10)}{access}", "orders")
    catalog, faults = catalog_of((read, VIEW if is_view else ORDERS))
    assert not faults
    return [str(fault) for fault in check_access(read, catalog.resources["v1", "orders"])]


SOUND = """access:
  admin: {read: {}, create: {}, patch: {}, delete: {}}
  customer:
    read:
      rows: {user_id: $sub, or: [{status: open}, {total: {lt: 9.95}}, {note: secret}, {"facts.level": {gte: 3}}]}
      fields: [id, total, status]
    create:
      fields: [status, total]
      set: {user_id: $sub, note: $claims.org.name, count: 3, total: 1.5, paid: null, created_at: "2024-05-01T12:00:00Z"}
    patch: {rows: {user_id: $claims.user, status: {in: [open, held]}, count: {in: [$claims.count, 4]}}, fields: [status]}
  anonymous: {}
"""


def test_rules_that_make_sense_have_no_fault() -> None:
    assert faults_of(SOUND) == []


def test_no_access_part_has_no_fault() -> None:
    assert faults_of("") == []


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("read: {rows: {user_di: 1}}", 'rows: "user_di" is not a field or parameter here. Did you mean "user_id"?'),
        ("read: {rows: {user_id: x}}", 'rows: "user_id" takes an integer'),
        ("read: {rows: {user_id: 1.5}}", 'rows: "user_id" takes an integer'),
        ("read: {rows: {user_id: {gtt: 1}}}", 'rows: "user_id" "gtt" is not an operator; allowed: '),
        ("read: {rows: {paid: {gt: true}}}", 'rows: "paid" "gt" does not apply here; allowed: '),
        ("read: {rows: {status: null}}", 'rows: "status" is null; write {"status": {"null": true}}'),
        ("read: {rows: {}}", "rows: is empty; leave it out to mean every row"),
        ("read: {rows: {or: []}}", 'rows: "or" takes at least one condition'),
        ("read: {rows: {user_id: {in: []}}}", 'rows: "user_id" in takes at least one value'),
        ("read: {rows: {total: 1.23, status: 7}}", 'rows: "status" takes a string'),
        ("read: {rows: {created_at: {gt: 2024-05-01}}}", 'rows: "created_at" takes a time with an offset'),
        ("read: {rows: {user_id: $sbu}}", '"$sbu" is no claim: write $sub or $claims.NAME'),
        ("read: {rows: {user_id: $claims}}", '"$claims" is no claim: write $sub or $claims.NAME'),
        ("read: {rows: {or: [{user_id: {in: [1, $me]}}]}}", '"$me" is no claim: write $sub or $claims.NAME'),
        ("read: {fields: [id, totl]}", 'there is no visible field "totl". Did you mean "total"?'),
        ("read: {fields: [id, note]}", 'there is no visible field "note".'),
        ("read: {fields: [id, internal_note]}", 'there is no visible field "internal_note".'),
        ("create: {fields: [created_at]}", '"created_at" is read-only: no role can send it'),
        ("patch: {fields: [id]}", '"id" is read-only: no role can send it'),
        ("create: {set: {usr_id: 1}}", 'there is no field "usr_id". Did you mean "user_id"?'),
        ("create: {set: {user_id: x}}", '"user_id" takes an integer'),
        ("create: {set: {user_id: null}}", '"user_id" takes no null'),
        ("create: {set: {user_id: $subject}}", '"$subject" is no claim: write $sub or $claims.NAME'),
        ("create: {set: {total: 1.234}}", '"total" takes at most 2 digits after the point'),
        ("create: {set: {paid: 1}}", '"paid" takes true or false'),
        ("patch: {set: {count: 2147483648}}", '"count" takes an integer from -2147483648 to 2147483647'),
    ],
)
def test_a_rule_that_makes_no_sense_is_told_with_its_line(rule: str, message: str) -> None:
    (found,) = faults_of(f"access:\n  customer:\n    {rule}")
    place, _, said = found.partition(": ")
    assert place == f"{PATH}:5"
    assert said.startswith(message)


@pytest.mark.parametrize("operation", ["create", "patch", "delete"])
def test_what_a_view_cannot_do_no_role_may_be_given(operation: str) -> None:
    assert faults_of(f"access:\n  admin:\n    read: {{}}\n    {operation}: {{}}", is_view=True) == [
        f"{PATH}:6: {operation} is not possible: this resource can only be read"
    ]


def test_every_fault_of_every_role_comes_at_once_at_its_own_line() -> None:
    access = """access:
  one:
    read:
      rows:
        user_di: 1
        user_id: $sbu
      fields:
        - id
        - nope
  two:
    create:
      set:
        nope: 1
        total: x
"""
    assert [fault.split(":")[1] for fault in faults_of(access)] == ["8", "7", "11", "15", "16"]


@pytest.mark.parametrize(
    ("value", "claim"),
    [
        ("$sub", True),
        ("$claims.org_id", True),
        ("$claims.a.b", True),
        ("$claims.", False),
        ("$claims", False),
        ("$subs", False),
        ("sub", False),
        ("$", False),
        ("$claims.a b", False),
        ("$sub\n", False),
        (1, False),
        (None, False),
    ],
)
def test_a_claim_is_written_in_two_ways(value: object, claim: bool) -> None:
    assert is_claim(value) == claim
