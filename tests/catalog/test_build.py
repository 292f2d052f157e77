"""Definitions held against tables: what a resource becomes, and every mismatch with its file and line."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.catalog.build import as_exact, build, parse_sort_key, table_name, with_key
from gateway.catalog.model import Bounds, Catalog, Column, Constraint, ForeignKey, SortKey, Table
from gateway.catalog.reflect import Reflection
from gateway.catalog.types import ColumnType
from gateway.definitions.model import Fault, Loaded
from tests.query.sample import (
    BIGINT,
    BOOLEAN,
    DATE,
    JSONB,
    NUMERIC,
    TEXT,
    TIMESTAMPTZ,
    catalog_of,
    resource,
    source,
    table,
)

COLUMNS = (
    Column("id", BIGINT, nullable=False, filled=True),
    Column("user_id", BIGINT, nullable=False),
    Column("total", NUMERIC, nullable=False, comment="The sum"),
    Column("status", TEXT, nullable=False, filled=True),
    Column("internal_note", TEXT, nullable=True),
    Column("facts", JSONB, nullable=True),
    Column("created_at", TIMESTAMPTZ, nullable=False, filled=True),
    Column("serial", BIGINT, nullable=False, filled=True, generated=True),
    Column("paid", BOOLEAN, nullable=True),
)
ORDERS = table("orders", COLUMNS, constraints=(Constraint("orders_serial", "unique", ("serial",)),))


def faults_of(yaml: str, found: Table | None = ORDERS, *others: Any, known: tuple[str, ...] = ()) -> list[str]:
    """The faults of one definition as they are printed; `others` are (source, table) beside it."""
    read = source(yaml, "orders")
    tables = {table_name(each): other for each, other in [(read, found), *others] if other is not None}
    sources = (read, *(each for each, _ in others))
    names = known or tuple(other.name for other in tables.values())
    catalog, faults = build(Loaded(sources, (), ()), Reflection(tables, names))
    if faults:
        assert ("v1", "orders") not in catalog.resources
        assert ("v1", "orders") in catalog.broken
    return [str(fault) for fault in faults]


def test_an_empty_file_serves_every_column() -> None:
    found = resource(ORDERS)
    assert list(found.fields) == [column.name for column in COLUMNS]
    assert found.visible == found.fields
    assert (found.id, found.key, found.writable) == ("v1/orders", ("id",), True)
    assert (found.limit_default, found.limit_max, found.sort) == (20, 100, (SortKey("id"),))
    assert found.operations == ("read", "create", "patch", "delete")


def test_a_field_is_required_where_nobody_else_gives_a_value() -> None:
    found = resource(ORDERS, "fields: {user_id: {readonly: true}, total: {hidden: false}}")
    assert [name for name, field in found.fields.items() if field.required] == ["total"]


def test_a_generated_column_is_read_only() -> None:
    found = resource(ORDERS, "fields: {created_at: {readonly: true}}")
    assert [name for name, field in found.fields.items() if field.readonly] == ["created_at", "serial"]


def test_a_field_is_renamed_hidden_and_described() -> None:
    found = resource(ORDERS, "fields: {note: {column: internal_note, hidden: true}, status: {description: Where it is}}")
    assert found.fields["note"].column == "internal_note"
    assert "note" not in found.visible
    assert not found.fields["note"].filterable
    assert found.fields["status"].description == "Where it is"
    assert found.fields["total"].description == "The sum"
    assert found.field_of("internal_note") is found.fields["note"]
    assert "internal_note" not in found.fields


def test_bounds_are_kept_as_written() -> None:
    found = resource(
        ORDERS, 'fields: {total: {minimum: 0, maximum: 9.5}, status: {enum: [a, b], min_length: 1, max_length: 2, pattern: "^a"}}'
    )
    assert found.fields["total"].bounds == Bounds(minimum=0, maximum=9.5)
    assert found.fields["status"].bounds == Bounds(min_length=1, max_length=2, pattern="^a", enum=("a", "b"))


def test_ids_may_be_strings_in_json() -> None:
    assert resource(ORDERS, "fields: {id: {json: string}}").fields["id"].type.json_form == "text"


def test_only_the_fields_of_the_filter_list_are_filterable() -> None:
    found = resource(ORDERS, "list: {filter: [status, id]}")
    assert [name for name, field in found.fields.items() if field.filterable] == ["id", "status"]


def test_the_list_part_is_taken_over() -> None:
    found = resource(
        ORDERS, "list: {sort: [-created_at, total:nullsfirst], limit: {default: 5, max: 7}}\ntimeout: 2\ncache: {ttl: 3}"
    )
    assert found.sort == (SortKey("created_at", True, True), SortKey("total", False, True), SortKey("id"))
    assert (found.limit_default, found.limit_max, found.timeout_seconds, found.cache_ttl_seconds) == (5, 7, 2, 3)


def test_a_view_can_only_be_read() -> None:
    view = table("sums", COLUMNS[:2], primary_key=(), is_view=True)
    found = resource(view, "key: id")
    assert (found.writable, found.operations, found.key) == (False, ("read",), ("id",))


def test_a_version_column_holds_no_null() -> None:
    bare = table("orders", [Column("id", BIGINT, nullable=False), Column("revision", BIGINT, nullable=True)])
    assert faults_of("version_column: revision", bare) == [PATH + ':1: "revision" cannot tell versions: it may be null']


def test_a_version_column_is_found_by_its_field_or_its_column() -> None:
    yaml = "version_column: {}\nfields: {{made: {{column: created_at, hidden: true}}}}"
    assert {resource(ORDERS, yaml.format(name)).version_field for name in ("made", "created_at")} == {"made"}


@pytest.mark.parametrize(
    ("is_view", "message"),
    [
        (True, "require_if_match: a view takes no writes"),
        (
            False,
            "require_if_match: the database does not tell whether a row of this table has changed; name a version_column",
        ),
    ],
)
def test_if_match_is_required_only_where_it_can_be_held(is_view: bool, message: str) -> None:
    unversioned = msgspec.structs.replace(ORDERS, is_view=is_view, versioning="none")
    assert f"{PATH}:1: {message}" in faults_of("require_if_match: true\nkey: id", unversioned)


def test_another_version_stands_beside_the_first() -> None:
    second = table("orders_2", COLUMNS)
    catalog, faults = catalog_of((source("", "orders"), ORDERS), (source("version: v2", "orders_2"), second))
    assert not faults
    assert set(catalog.resources) == {("v1", "orders"), ("v2", "orders_2")}
    assert catalog.versions == ("v1", "v2")


def test_a_table_in_another_schema_is_named_with_it() -> None:
    elsewhere = table("orders", COLUMNS, schema="shop")
    found = resource(elsewhere, "table: shop.orders")
    assert (found.table.schema, found.table.name) == ("shop", "orders")


def test_a_unique_constraint_makes_a_key() -> None:
    assert resource(ORDERS, "key: serial").key == ("serial",)


# --- mismatches --------------------------------------------------------------------------------------------------------

PATH = "resources/orders.yaml"

MISMATCHES: list[tuple[str, str]] = [
    ("fields:\n  totl: {}", ':2: the table has no column "totl". Did you mean "total"?'),
    ("fields:\n  sum:\n    column: totl", ':3: the table has no column "totl". Did you mean "total"?'),
    ("fields:\n  qqq: {}", ':2: the table has no column "qqq".'),
    ("fields:\n  total: {}\n  sum: {column: total}", ':3: column "total" is already the field "total"'),
    ("fields:\n  total: {column: status}", ':2: two columns would be the field "total"'),
    (f"fields:\n  {'x' * 64}: {{column: total}}", ":2: a field's name has at most 63 bytes"),
    (f"fields:\n  {'é' * 32}: {{column: total}}", ":2: a field's name has at most 63 bytes"),
    ("fields:\n  status: {json: string}", ":2: json: applies to numbers"),
    ("fields:\n  status: {minimum: 1}", ":2: minimum: applies to number columns; this one is text"),
    ("fields:\n  paid: {maximum: 1}", ":2: maximum: applies to number columns; this one is boolean"),
    ("fields:\n  total: {min_length: 1}", ":2: min_length: applies to text columns; this one is numeric"),
    ("fields:\n  created_at: {max_length: 1}", ":2: max_length: applies to text columns; this one is timestamp with time zone"),
    ('fields:\n  facts: {pattern: "^a"}', ":2: pattern: applies to text columns; this one is jsonb"),
    ("fields:\n  paid: {enum: [1]}", ":2: enum: applies to text and number and enum columns; this one is boolean"),
    ("fields:\n  id: {minimum: 1.5}", ":2: minimum: 1.5 is not a value of the column, which takes an integer"),
    (
        "fields:\n  total: {maximum: 1.234}",
        ":2: maximum: 1.234 is not a value of the column, which takes at most 2 digits after the point",
    ),
    ("fields:\n  id: {enum: [1, x]}", ":2: enum: 'x' is not a value of the column, which takes an integer"),
    ("fields:\n  status: {enum: [1]}", ":2: enum: 1 is not a value of the column, which takes a string"),
    ("list:\n  filter: [status, statsu]", ':2: there is no visible field "statsu". Did you mean "status"?'),
    ("fields:\n  total: {hidden: true}\nlist:\n  filter:\n    - id\n    - total", ':6: there is no visible field "total".'),
    ("list:\n  sort:\n    - id\n    - -totl", ':4: there is no visible field "totl". Did you mean "total"?'),
    ("list:\n  sort: [facts]", ':2: "facts" cannot be sorted by: jsonb'),
    ("fields:\n  total: {hidden: true}\nlist:\n  sort: [total]", ':4: there is no visible field "total".'),
    ("table: orders\nkey: nope", ':2: there is no visible field "nope".'),
    ("table: orders\nkey: [id, stat]", ':2: there is no visible field "stat". Did you mean "status"?'),
    ("table: orders\nkey: status", ":2: key: needs NOT NULL columns with a unique constraint, so that it names one row"),
    ("table: orders\nkey: internal_note", ":2: key: needs NOT NULL columns with a unique constraint, so that it names one row"),
    ("table: orders\nkey: facts", ':2: "facts" cannot be of the key: jsonb has no order'),
    ("fields:\n  id:\n    hidden: true", ':3: "id" is of the key, so it cannot be hidden'),
    ("relations:\n  user: {to: usres}", ':2: there is no resource "usres". Did you mean "users"?'),
    (
        "relations:\n  lines: {to: items}",
        ":2: there is no foreign key from orders to items (is `many` right?); name the columns with `on:`",
    ),
    (
        "relations:\n  user: {to: users, many: true}",
        ":2: there is no foreign key from users to orders (is `many` right?); name the columns with `on:`",
    ),
    ("relations:\n  me: {to: orders}", ":2: there is no foreign key from orders to orders; name the columns with `on:`"),
    (
        "relations:\n  both: {to: pairs}",
        ":2: several foreign keys fit; say which with `on:`, one of {user_id: a}; {serial: b}",
    ),
    ("relations:\n  user:\n    to: users\n    on: {usr_id: id}", ':4: "orders" has no column "usr_id". Did you mean "user_id"?'),
    ("table: orders\nversion_column: revisoin", ':2: there is no field or column "revisoin".'),
    (
        "table: orders\nversion_column: status",
        ':2: "status" cannot tell versions: it is text; takes an integer or a timestamp that changes at each write',
    ),
    (
        "table: orders\nversion_column: paid",
        ':2: "paid" cannot tell versions: it is boolean; takes an integer or a timestamp that changes at each write',
    ),
    ("relations:\n  user:\n    to: users\n    on:\n      user_id: idd", ':5: "users" has no column "idd". Did you mean "id"?'),
]

USERS = table("users", [Column("id", BIGINT, nullable=False)])
ITEMS = Table(
    **{name: getattr(USERS, name) for name in ("schema", "columns", "primary_key")},
    name="items",
    foreign_keys=(ForeignKey("items_order", ("id",), "public", "orders", ("id",)),),
)
PAIRS = table("pairs", [Column(name, BIGINT, nullable=False) for name in ("id", "a", "b")])
RELATED = Table(
    **{name: getattr(ORDERS, name) for name in ("schema", "name", "columns", "primary_key", "constraints")},
    foreign_keys=(
        ForeignKey("orders_user", ("user_id",), "public", "users", ("id",)),
        ForeignKey("orders_a", ("user_id",), "public", "pairs", ("a",)),
        ForeignKey("orders_b", ("serial",), "public", "pairs", ("b",)),
    ),
)
BESIDE = tuple((source("", found.name), found) for found in (USERS, ITEMS, PAIRS))


@pytest.mark.parametrize(("yaml", "message"), MISMATCHES, ids=[message[:70] for _, message in MISMATCHES])
def test_a_mismatch_is_told_with_file_and_line(yaml: str, message: str) -> None:
    assert faults_of(yaml, RELATED, *BESIDE) == [PATH + message]


def test_a_missing_table_is_told_with_the_likeliest_there_is() -> None:
    assert faults_of("table: ordres", None, known=("orders", "users")) == [
        f'{PATH}:1: the database has no table or view "ordres". Did you mean "orders"?'
    ]
    assert faults_of("", None, known=("zebra",)) == [f'{PATH}:1: the database has no table or view "orders".']
    assert faults_of("# one\n\ntable: shop.ordres", None, known=("shop.orders",)) == [
        f'{PATH}:3: the database has no table or view "shop.ordres". Did you mean "shop.orders"?'
    ]


@pytest.mark.parametrize(("is_view", "kind"), [(True, "view"), (False, "table")])
def test_a_table_without_a_key_needs_one_named(is_view: bool, kind: str) -> None:
    bare = table("orders", COLUMNS, primary_key=(), is_view=is_view)
    assert faults_of("table: orders", bare) == [f"{PATH}:1: the {kind} has no primary key: name its key fields with `key:`"]


def test_a_partial_or_expression_index_makes_no_key() -> None:
    for constraint in (
        Constraint("part", "unique", ("status",), partial=True),
        Constraint("lower", "unique", ("status",), expression="lower(status)"),
        Constraint("check", "check", ("status",)),
    ):
        found = table("orders", COLUMNS, constraints=(constraint,))
        assert len(faults_of("key: status", found)) == 1


def test_every_mismatch_of_a_file_comes_at_once_in_order_of_its_lines() -> None:
    yaml = """key: status
fields:
  totl: {}
  status: {minimum: 1}
list:
  sort: [nope]
  filter: [nopes]
relations:
  x: {to: y}
"""
    assert [fault.partition(": ")[0] for fault in faults_of(yaml)] == [f"{PATH}:{line}" for line in (1, 3, 4, 6, 7, 9)]


def test_a_bad_file_leaves_the_others_served() -> None:
    catalog, faults = catalog_of((source("key: nope", "orders"), ORDERS), (source("", "users"), USERS))
    assert list(catalog.resources) == [("v1", "users")]
    assert list(catalog.broken) == [("v1", "orders")]
    assert [fault.file for fault in faults] == ["resources/orders.yaml"]


def test_a_file_that_does_not_parse_is_broken_and_its_faults_are_kept() -> None:
    fault = Fault("resources/bad.yaml", 3, "unknown key")
    catalog, faults = build(
        Loaded((source("", "users"),), (fault,), (("v1", "bad"),)), Reflection({(None, "users"): USERS}, ("users",))
    )
    assert isinstance(catalog, Catalog)
    assert ("v1", "bad") in catalog.broken
    assert faults == (fault,)


def test_a_relation_to_a_broken_file_is_that_files_fault_alone() -> None:
    read = source("relations: {user: {to: users}}", "orders")
    catalog, faults = build(
        Loaded((read,), (Fault("resources/users.yaml", 1, "bad"),), (("v1", "users"),)),
        Reflection({(None, "orders"): RELATED}, ("orders",)),
    )
    assert [fault.file for fault in faults] == ["resources/users.yaml"]
    assert ("v1", "orders") in catalog.resources


# --- relations ---------------------------------------------------------------------------------------------------------


def test_a_relation_is_to_its_own_version_or_else_to_the_nearest_older_one() -> None:
    to_users = "relations: {user: {to: users}}"
    pairs = [
        (source(to_users, "orders"), RELATED),
        (source(to_users, "orders.v2"), RELATED),
        (source(to_users, "orders.v3"), RELATED),
        (source("", "users.v2"), USERS),
        (source("", "users.v4"), USERS),
    ]
    catalog, faults = catalog_of(*pairs)
    assert not faults
    found = {version: resource.relations["user"] for (version, name), resource in catalog.resources.items() if name == "orders"}
    assert {version: (relation.version, relation.to) for version, relation in found.items()} == {
        "v1": ("v2", "users"),  # there is none older
        "v2": ("v2", "users"),
        "v3": ("v2", "users"),
    }


def test_a_relation_is_joined_over_its_foreign_key() -> None:
    yaml = "relations: {user: {to: users}, items: {to: items, many: true}, other: {to: pairs, on: {serial: id}}}"
    catalog, faults = catalog_of((source(yaml, "orders"), RELATED), *BESIDE)
    assert not faults
    relations = catalog.resources["v1", "orders"].relations
    assert {name: (relation.to, relation.many, relation.pairs) for name, relation in relations.items()} == {
        "user": ("users", False, (("user_id", "id"),)),
        "items": ("items", True, (("id", "id"),)),
        "other": ("pairs", False, (("serial", "id"),)),
    }


# --- small parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("a", SortKey("a")),
        ("-a", SortKey("a", True, True)),
        ("a:nullsfirst", SortKey("a", False, True)),
        ("a:nullslast", SortKey("a", False, False)),
        ("-a:nullslast", SortKey("a", True, False)),
        ("a:b", SortKey("a:b")),
        ("a:b:nullsfirst", SortKey("a:b", False, True)),
        ("", SortKey("")),
        ("-", SortKey("", True, True)),
    ],
)
def test_a_sort_key_is_read(written: str, key: SortKey) -> None:
    assert parse_sort_key(written) == key


def test_the_key_comes_last_in_the_last_terms_direction() -> None:
    assert with_key((), ("a", "b")) == (SortKey("a"), SortKey("b"))
    assert with_key((SortKey("x", True, True),), ("a",)) == (SortKey("x", True, True), SortKey("a", True, True))
    assert with_key((SortKey("a", True, True), SortKey("x")), ("a", "b")) == (
        SortKey("a", True, True),
        SortKey("x"),
        SortKey("b"),
    )


def test_yamls_floats_are_the_digits_that_were_written() -> None:
    assert str(as_exact({"a": [0.1, 1, "x", True, None, {"b": 2.50}]})) == str(
        {"a": [as_exact(0.1), 1, "x", True, None, {"b": as_exact(2.5)}]}
    )
    assert str(as_exact(0.1)) == "0.1"


def test_an_array_cannot_be_of_the_key() -> None:
    arrays = table(
        "orders",
        [Column("id", ColumnType("int4", "integer", array=True), nullable=False), Column("day", DATE, nullable=False)],
    )
    assert faults_of("table: orders", arrays) == [f'{PATH}:1: "id" cannot be of the key: integer[] is an array']
