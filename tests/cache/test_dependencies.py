"""Which tables an answer is made from and a write changes, as a real PostgreSQL tells."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from gateway.cache.dependencies import Dependencies, read_dependencies

SCHEMA = """
CREATE SCHEMA "other one";
CREATE TABLE users (id int PRIMARY KEY);
CREATE TABLE categories (id int PRIMARY KEY);
CREATE TABLE orders (id int PRIMARY KEY, user_id int REFERENCES users ON DELETE CASCADE);
CREATE TABLE items (id int PRIMARY KEY, order_id int REFERENCES orders ON UPDATE CASCADE, category_id int REFERENCES categories);
CREATE TABLE notes (id int PRIMARY KEY, item_id int REFERENCES items ON DELETE SET NULL);
CREATE TABLE "other one"."Log.1" (id int PRIMARY KEY, user_id int REFERENCES users ON DELETE SET DEFAULT);
CREATE TABLE events (id int, day date) PARTITION BY RANGE (day);
CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE VIEW spending AS SELECT user_id, count(*) FROM orders JOIN items ON items.order_id = orders.id GROUP BY 1;
CREATE VIEW top AS SELECT * FROM spending JOIN users ON users.id = spending.user_id;
CREATE VIEW plain AS SELECT * FROM categories;
CREATE MATERIALIZED VIEW frozen AS SELECT * FROM categories;
CREATE TABLE audited (id int PRIMARY KEY);
CREATE TABLE audit (id int);
CREATE RULE noted AS ON INSERT TO audited DO ALSO INSERT INTO audit VALUES (new.id);
"""


def public(*names: str) -> tuple[str, ...]:
    return tuple(sorted(f"public.{name}" for name in names))


def read(database_url: str, schema: str = "SELECT") -> Dependencies:
    async def run() -> Dependencies:
        connection = await asyncpg.connect(database_url)
        try:
            await connection.execute(schema)
        finally:
            await connection.close()
        return await read_dependencies(database_url)

    return asyncio.run(run())


def test_the_database_tells_what_is_made_of_what(database_url: str) -> None:
    told = read(database_url, SCHEMA)
    made = {
        "users": public("users"),
        "events": public("events"),
        "spending": public("spending", "orders", "items"),
        "top": public("top", "spending", "orders", "items", "users"),
        "frozen": public("frozen"),
        "audited": public("audited"),
    }
    assert {name: told.made_from(f"public.{name}") for name in made} == made
    changed = {
        "categories": public("categories"),
        "notes": public("notes"),
        "items": public("items", "notes"),
        "orders": public("orders", "items", "notes"),
        "users": tuple(sorted((*public("users", "orders", "items", "notes"), "other one.Log.1"))),
        "events": public("events", "events_2026"),
        "events_2026": public("events", "events_2026"),
        "plain": public("plain", "categories"),
        "audited": public("audited", "audit"),
    }
    assert {name: told.changed_by(f"public.{name}") for name in changed} == changed
    assert told.made_from("public.users", "public.spending") == public("users", "spending", "orders", "items")


def test_a_table_that_nobody_knows_is_made_of_itself() -> None:
    assert Dependencies().made_from("public.new") == ("public.new",)
    assert Dependencies().changed_by("public.new") == ("public.new",)


def test_two_databases_are_told_apart_and_one_is_known_again(database_url: str, postgres_url: str) -> None:
    assert read(database_url).database == read(database_url).database
    assert read(database_url).database != read(postgres_url).database


@pytest.mark.parametrize("revoked", [False, True])
def test_an_ordinary_role_may_ask(database_url: str, revoked: bool) -> None:
    role = f"plain_{database_url.partition('@/')[2].partition('?')[0]}_{int(revoked)}"
    revoke = "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;" if revoked else ""
    read(database_url, f"{SCHEMA}; CREATE ROLE {role} LOGIN; {revoke}")
    try:
        told = read(database_url.replace("://postgres@", f"://{role}@"))
        assert told.changed_by("public.orders") == public("orders", "items", "notes")
        assert told.database
    finally:
        read(database_url, f"DROP OWNED BY {role}; DROP ROLE {role}")
