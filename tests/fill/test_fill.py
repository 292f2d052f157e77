"""`gateway fill` over real tables: every type and constraint, growth, interruption, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.errors import ConfigurationError
from gateway.fill import fill_all, fill_resource

TYPES = """
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "fine"');
    CREATE TYPE "Weird Type" AS ENUM ('a', 'b,c');
    CREATE DOMAIN mail AS text CHECK (VALUE ~ '^[^@ ]+@[^@ ]+[.][a-z]+$');
    CREATE DOMAIN positive AS integer NOT NULL CHECK (VALUE > 0);
    CREATE DOMAIN code AS varchar(8) CHECK (VALUE = upper(VALUE)) CHECK (length(VALUE) >= 4);
    CREATE TYPE pair AS (a integer, b text);
    CREATE TABLE "Every Type" (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "Mixed Case" text NOT NULL, "select" integer DEFAULT 3 NOT
        NULL, "limit" integer, page numeric(10, 2) NOT NULL, hundreds numeric(3, -2) NOT NULL, tiny numeric(2, 2) NOT
        NULL, m mood NOT NULL, wt "Weird Type"[] NOT NULL, em mail NOT NULL, pi positive, co code NOT NULL, ar text[]
        NOT NULL, nums numeric(5, 1)[] NOT NULL, js jsonb NOT NULL, j json NOT NULL, b bytea NOT NULL, ip inet NOT
        NULL, cd cidr NOT NULL, mac macaddr NOT NULL, mac8 macaddr8 NOT NULL, r int4range NOT NULL, r8 int8range NOT
        NULL, rn numrange NOT NULL, rd daterange NOT NULL, tr tstzrange NOT NULL, tsr tsrange NOT NULL, mr
        int4multirange NOT NULL, iv interval NOT NULL, tv tsvector NOT NULL, tq tsquery NOT NULL, ts timestamp(3) NOT
        NULL, tz timestamptz NOT NULL, d date NOT NULL, ti time NOT NULL, ttz timetz NOT NULL, u uuid NOT NULL, c
        char(5) NOT NULL, vc varchar(3) NOT NULL, mo money NOT NULL, bi bit(3) NOT NULL, vb varbit NOT NULL, p pair
        NOT NULL, pt point NOT NULL, li line NOT NULL, ls lseg NOT NULL, bx box NOT NULL, pa path NOT NULL, po polygon
        NOT NULL, ci circle NOT NULL, f4 real NOT NULL, f8 double precision NOT NULL, g integer GENERATED ALWAYS AS
        (COALESCE("limit", 0) * 2) STORED CHECK (g >= 0), o oid NOT NULL, nm name NOT NULL, ch "char" NOT NULL, lsn
        pg_lsn NOT NULL, jp jsonpath NOT NULL, doms mail[] NOT NULL, s2 smallint NOT NULL, bo boolean NOT NULL,
        serial_number serial, "tab	name" text NOT NULL, class regclass,
        kind_of regclass NOT NULL DEFAULT 'pg_class'::regclass
    );
"""


@pytest.fixture
def resources(tmp_path: Path) -> Callable[..., Path]:
    """Writes resource files, `name` or `name=text`, and gives their directory."""

    def write(*names: str, **texts: str) -> Path:
        for name in names:
            (tmp_path / f"{name}.yaml").write_text("")
        for name, text in texts.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path

    return write


def run(url: str, sql: str, *arguments: object) -> Any:
    async def query() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return (
                await connection.fetch(sql, *arguments)
                if arguments or sql.startswith("SELECT")
                else await connection.execute(sql)
            )
        finally:
            await connection.close()

    return asyncio.run(query())


def value(url: str, sql: str) -> Any:
    return run(url, sql)[0][0]


def test_every_type_gets_values(database_url: str, resources: Callable[..., Path]) -> None:
    run(database_url, TYPES)
    report = fill_resource(database_url, resources(everything="table: Every Type"), "everything", 500)
    assert (report.resource, report.rows, report.unsatisfied) == ("everything", 500, ())
    assert value(database_url, 'SELECT count(*) FROM "Every Type"') == 500
    assert value(database_url, 'SELECT count(DISTINCT u) FROM "Every Type"') == 500
    assert value(database_url, 'SELECT count(*) FROM "Every Type" WHERE class IS NOT NULL') == 0


def test_same_seed_gives_the_same_rows_and_another_seed_others(database_url: str, resources: Callable[..., Path]) -> None:
    run(database_url, TYPES)
    directory = resources(everything="table: Every Type")
    contents = []
    for seed in (7, 7, 8):
        run(database_url, 'TRUNCATE "Every Type" RESTART IDENTITY')
        fill_resource(database_url, directory, "everything", 300, seed)
        contents.append(value(database_url, "SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM \"Every Type\" t"))
    assert contents[0] == contents[1] != contents[2]


CHECKED = """
    CREATE FUNCTION is_even(number integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT number % 2 = 0';
    CREATE TABLE checked (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        price numeric(12, 2) NOT NULL CHECK (price BETWEEN 5 AND 7.5),
        discount numeric(12, 2) NOT NULL CHECK (discount < price),
        status varchar(20) NOT NULL CHECK (status IN ('new', 'paid', 'gone')),
        name text NOT NULL CHECK (char_length(name) BETWEEN 30 AND 33),
        code text NOT NULL CHECK (code ~ '^[A-Z]{2}-[0-9]{3}$'),
        currency char(3) NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        email text NOT NULL CHECK (email = lower(email) AND email LIKE '%@%'),
        starts_on date NOT NULL CHECK (starts_on >= '1999-01-01' AND starts_on < '1999-03-01'),
        ends_on date NOT NULL CHECK (ends_on > starts_on AND ends_on < '1999-06-01'),
        quantity integer NOT NULL CHECK (quantity > 0 AND quantity <> 3),
        total numeric(14, 2) NOT NULL CHECK (total = quantity * price),
        even integer NOT NULL CHECK (is_even(even)),
        rating smallint CHECK (rating IS NULL OR rating >= 1 AND rating <= 5),
        paid_at timestamptz, CHECK ((status = 'paid') = (paid_at IS NOT NULL)),
        user_name text, company_name text, CHECK (num_nonnulls(user_name, company_name) = 1),
        tags text[] NOT NULL CHECK (tags <@ ARRAY['a', 'b', 'c'] AND cardinality(tags) <= 2),
        document jsonb NOT NULL CHECK (jsonb_typeof(document) = 'array'),
        trimmed text NOT NULL CHECK (length(btrim(trimmed)) > 0),
        is_open boolean NOT NULL CHECK (NOT is_open OR quantity > 5),
        seen_at timestamptz NOT NULL CHECK (seen_at <= now()),
        expires_at timestamptz NOT NULL CHECK (expires_at > now()),
        level integer NOT NULL CHECK (level = ANY ('{1,2,3}'::integer[])),
        kind text NOT NULL CHECK (CASE WHEN kind = 'x' THEN false ELSE true END)
    );
"""


def test_checks_are_satisfied(database_url: str, resources: Callable[..., Path]) -> None:
    run(database_url, CHECKED)
    report = fill_resource(database_url, resources("checked"), "checked", 2000)
    assert (report.rows, report.unsatisfied) == (2000, ())
    assert value(database_url, "SELECT count(DISTINCT status) FROM checked") == 3
    assert value(database_url, "SELECT count(*) FROM checked WHERE paid_at IS NOT NULL") > 100
    assert value(database_url, "SELECT count(*) FROM checked WHERE company_name IS NULL") > 100


def test_bounds_of_the_resource_file_are_kept(database_url: str, resources: Callable[..., Path]) -> None:
    run(
        database_url,
        "CREATE TABLE things (id serial PRIMARY KEY, a integer NOT NULL, b text NOT NULL, c text NOT NULL, d text NOT NULL)",
    )
    text = """
fields:
  a: {minimum: -5, maximum: 5}
  b: {min_length: 70, max_length: 75}
  c: {pattern: '^x[0-9]{4}y$'}
  d: {enum: [one, two]}
"""
    assert fill_resource(database_url, resources(things=text), "things", 300).rows == 300
    rows = run(database_url, "SELECT a, b, c, d FROM things")
    assert {row["a"] for row in rows} == set(range(-5, 6))
    assert {len(row["b"]) for row in rows} <= set(range(70, 76))
    assert all(row["c"][0] == "x" and row["c"][1:5].isdigit() and row["c"][5:] == "y" for row in rows)
    assert {row["d"] for row in rows} == {"one", "two"}


UNIQUES = """
    CREATE TABLE parents (a integer, b text, PRIMARY KEY (a, b));
    INSERT INTO parents SELECT n, 'p' || n % 3 FROM generate_series(1, 12) n;
    CREATE TABLE uniques (
        id integer PRIMARY KEY,
        email text NOT NULL, slug varchar(12) NOT NULL UNIQUE CHECK (slug ~ '^[a-z-]+$'), short char(3) NOT NULL UNIQUE,
        number smallint NOT NULL UNIQUE, token bytea NOT NULL UNIQUE, address inet UNIQUE, day date NOT NULL UNIQUE,
        a integer NOT NULL, b text NOT NULL, kind text NOT NULL CHECK (kind IN ('x', 'y', 'z')),
        place integer NOT NULL CHECK (place BETWEEN 1 AND 60),
        is_default boolean NOT NULL, deleted_at timestamptz,
        FOREIGN KEY (a, b) REFERENCES parents, UNIQUE (a, b, kind, place)
    );
    CREATE UNIQUE INDEX uniques_email ON uniques (lower(email));
    CREATE UNIQUE INDEX uniques_default ON uniques (a) WHERE is_default;
    CREATE UNIQUE INDEX uniques_alive ON uniques (kind, number) WHERE deleted_at IS NULL;
"""


def test_uniques_hold_single_composite_partial_and_by_expression(database_url: str, resources: Callable[..., Path]) -> None:
    run(database_url, UNIQUES)
    report = fill_resource(database_url, resources("uniques"), "uniques", 2000)
    assert (report.rows, report.unsatisfied) == (2000, ())


def test_a_filled_table_is_added_to(database_url: str, resources: Callable[..., Path]) -> None:
    run(database_url, UNIQUES)
    directory = resources("uniques")
    for seed in (1, 1, 2):
        assert fill_resource(database_url, directory, "uniques", 600, seed).rows == 600
    assert value(database_url, "SELECT count(*) FROM uniques") == 1800


def test_a_sequence_behind_its_keys_is_moved_past_them(database_url: str, resources: Callable[..., Path]) -> None:
    run(
        database_url,
        "CREATE TABLE t (id serial PRIMARY KEY, n integer); INSERT INTO t SELECT g, g FROM generate_series(1, 30000) g",
    )
    assert fill_resource(database_url, resources("t"), "t", 10).rows == 10
    assert value(database_url, "SELECT min(id) FROM t WHERE id > 30000") == 30001


def test_deferrable_unique_and_exclusion_constraints_hold(database_url: str, resources: Callable[..., Path]) -> None:
    run(
        database_url,
        "CREATE TABLE d (id integer PRIMARY KEY DEFERRABLE, a integer NOT NULL CHECK (a < 60), b integer NOT NULL CHECK (b < 60),"
        " UNIQUE (a, b) DEFERRABLE);"
        "CREATE TABLE booked (id serial PRIMARY KEY, during tsrange NOT NULL, EXCLUDE USING gist (during WITH &&))",
    )
    directory = resources("d", "booked")
    for _ in range(2):
        assert fill_resource(database_url, directory, "d", 900).rows == 900
    assert fill_resource(database_url, directory, "booked", 300).rows > 100


def test_foreign_keys_point_to_real_rows(database_url: str, resources: Callable[..., Path]) -> None:
    run(
        database_url,
        """
        CREATE TABLE tenants (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL);
        CREATE TABLE members (tenant_id uuid REFERENCES tenants, number integer, PRIMARY KEY (tenant_id, number));
        CREATE TABLE rooms (tenant_id uuid REFERENCES tenants, name text, PRIMARY KEY (tenant_id, name));
        CREATE TABLE stays (
            id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, tenant_id uuid NOT NULL REFERENCES tenants,
            member integer NOT NULL, room text NOT NULL, guest integer,
            FOREIGN KEY (tenant_id, member) REFERENCES members, FOREIGN KEY (tenant_id, room) REFERENCES rooms,
            FOREIGN KEY (tenant_id, guest) REFERENCES members
        );
        CREATE TABLE profiles (tenant_id uuid PRIMARY KEY REFERENCES tenants ON DELETE CASCADE, bio text);
        """,
    )
    reports = fill_all(database_url, resources("tenants", "members", "rooms", "stays", "profiles"), 400)
    assert [report.unsatisfied for report in reports if report.resource != "profiles"] == [()] * 4
    assert value(database_url, "SELECT count(*) FROM stays") == 400
    assert value(database_url, "SELECT count(*) FROM stays WHERE guest IS NOT NULL") > 200
    profiles = next(report for report in reports if report.resource == "profiles")
    assert profiles.rows == value(database_url, "SELECT count(*) FROM tenants")
    assert profiles.unsatisfied[0].startswith("profiles_pkey allows at most")


def test_a_unique_foreign_key_reaches_parents_beyond_the_sample(
    database_url: str, resources: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.fill.keys.SAMPLE_SIZE", 300)
    run(
        database_url,
        "CREATE TABLE p (id integer PRIMARY KEY); INSERT INTO p SELECT generate_series(1, 1000);"
        "CREATE TABLE one (p_id integer PRIMARY KEY REFERENCES p);"
        "CREATE TABLE two (p_id integer REFERENCES p, k integer, PRIMARY KEY (p_id, k), CHECK (k IN (1, 2)))",
    )
    directory = resources("one", "two")
    assert fill_resource(database_url, directory, "one", 400).rows == 400
    assert fill_resource(database_url, directory, "one", 600).rows == 600
    assert fill_resource(database_url, directory, "two", 1900).rows == 1900


def test_a_table_that_refers_to_itself_becomes_a_tree(database_url: str, resources: Callable[..., Path]) -> None:
    run(
        database_url,
        """
        CREATE TABLE nodes (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, parent_id bigint REFERENCES nodes, name text NOT NULL
        );
        CREATE TABLE strict (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, parent_id bigint NOT NULL REFERENCES strict);
        CREATE TABLE keyed (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(), parent_id uuid NOT NULL REFERENCES keyed, n integer CHECK (n > 10)
        );
        """,
    )
    directory = resources("nodes", "strict", "keyed")
    for name in ("nodes", "strict", "keyed"):
        assert fill_resource(database_url, directory, name, 300).rows == 300
        assert value(database_url, f"SELECT count(DISTINCT parent_id) FROM {name}") > 30
    assert value(database_url, "SELECT count(*) FROM nodes WHERE parent_id IS NULL") < 150


def test_a_cycle_of_tables_is_filled_where_null_breaks_it(database_url: str, resources: Callable[..., Path]) -> None:
    run(
        database_url,
        """
        CREATE TABLE teams (id serial PRIMARY KEY, lead_id integer);
        CREATE TABLE people (id serial PRIMARY KEY, team_id integer NOT NULL REFERENCES teams);
        ALTER TABLE teams ADD FOREIGN KEY (lead_id) REFERENCES people;
        CREATE TABLE hens (id serial PRIMARY KEY, egg_id integer NOT NULL);
        CREATE TABLE eggs (id serial PRIMARY KEY, hen_id integer NOT NULL REFERENCES hens);
        ALTER TABLE hens ADD FOREIGN KEY (egg_id) REFERENCES eggs DEFERRABLE INITIALLY DEFERRED;
        """,
    )
    reports = {report.resource: report for report in fill_all(database_url, resources("teams", "people", "hens", "eggs"), 50)}
    assert reports["teams"].rows > 0
    assert reports["people"].rows == 50
    assert reports["hens"].rows == reports["eggs"].rows == 0
    assert "hens_egg_id_fkey" in reports["hens"].unsatisfied[0] + reports["eggs"].unsatisfied[0]


def test_partitioned_tables_get_rows_that_some_partition_takes(database_url: str, resources: Callable[..., Path]) -> None:
    run(
        database_url,
        """
        CREATE TABLE events (id integer, day date NOT NULL, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
        CREATE TABLE events_old PARTITION OF events FOR VALUES FROM ('2001-01-01') TO ('2001-02-01');
        CREATE TABLE events_new PARTITION OF events (CHECK (id % 2 = 0)) FOR VALUES FROM ('2030-01-01') TO ('2031-01-01');
        CREATE TABLE regions (region text, n integer, PRIMARY KEY (region, n)) PARTITION BY LIST (region);
        CREATE TABLE regions_eu PARTITION OF regions FOR VALUES IN ('de', 'fr');
        CREATE TABLE regions_us PARTITION OF regions FOR VALUES IN ('us');
        CREATE TABLE hashed (id uuid DEFAULT gen_random_uuid() PRIMARY KEY) PARTITION BY HASH (id);
        CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 3, REMAINDER 0);
        CREATE TABLE empty (id integer PRIMARY KEY) PARTITION BY RANGE (id);
        """,
    )
    directory = resources("events", "regions", "hashed", "empty")
    for name in ("events", "regions", "hashed"):
        assert fill_resource(database_url, directory, name, 300).rows == 300
    assert value(database_url, "SELECT count(*) FROM events_old") > 50
    assert value(database_url, "SELECT count(*) FROM events_new") > 50
    assert value(database_url, "SELECT count(DISTINCT region) FROM regions") == 3
    with pytest.raises(ConfigurationError, match="empty: it has no partition"):
        fill_resource(database_url, directory, "empty", 1)


def test_a_table_of_nothing_but_identities_is_filled(database_url: str, resources: Callable[..., Path]) -> None:
    run(database_url, "CREATE TABLE ids (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)")
    assert fill_resource(database_url, resources("ids"), "ids", 25).rows == 25


def test_another_schema_and_reserved_names_are_quoted(database_url: str, resources: Callable[..., Path]) -> None:
    run(
        database_url,
        'CREATE SCHEMA "Other"; CREATE TABLE "Other"."order" (id serial PRIMARY KEY,'
        ' "from" text NOT NULL CHECK ("from" <> \'\'), "a""b" integer)',
    )
    assert fill_resource(database_url, resources(orders="table: Other.order"), "orders", 40).rows == 40


def test_values_look_like_what_their_columns_are_called(database_url: str, resources: Callable[..., Path]) -> None:
    run(
        database_url,
        "CREATE TABLE users (id serial PRIMARY KEY, email text NOT NULL UNIQUE, name text NOT NULL, currency text NOT NULL,"
        " created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, deleted_at timestamptz,"
        " price numeric(10, 2) NOT NULL, phone text NOT NULL, url text NOT NULL)",
    )
    fill_resource(database_url, resources("users"), "users", 6000)
    assert (
        value(database_url, r"SELECT count(*) FROM users WHERE email !~ '^[a-z]+\.[a-z]+[0-9]*@[a-z.]*example\.(com|org|net)$'")
        == 0
    )
    assert value(database_url, "SELECT count(*) FROM users WHERE name !~ '^[A-Z][a-z]+ [A-Z][a-z]+$'") == 0
    assert value(database_url, "SELECT count(*) FROM users WHERE currency !~ '^[A-Z]{3}$'") == 0
    assert (
        value(
            database_url,
            "SELECT count(*) FROM users WHERE created_at NOT BETWEEN '2024-11-01' AND '2026-11-02' OR updated_at < created_at",
        )
        == 0
    )
    assert 300 < value(database_url, "SELECT count(deleted_at) FROM users") < 1800
    assert value(database_url, "SELECT count(*) FROM users WHERE price <= 0") == 0


# --- what it says ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (
            "CREATE TABLE t (id serial PRIMARY KEY, a integer NOT NULL CONSTRAINT never CHECK (false))",
            "t: no row was found that satisfies never",
        ),
        (
            "CREATE TABLE t (id serial PRIMARY KEY, a integer NOT NULL"
            " CONSTRAINT low CHECK (a < 1) CONSTRAINT high CHECK (a > 5))",
            "low|high",
        ),
        (
            "CREATE TABLE t (id serial PRIMARY KEY, a text NOT NULL CONSTRAINT hash CHECK (md5(a) = 'x'))",
            "t: no row was found that satisfies hash",
        ),
        (
            "CREATE DOMAIN odd AS text CONSTRAINT palindrome CHECK (VALUE <> VALUE);"
            "CREATE TABLE t (id serial PRIMARY KEY, a odd NOT NULL)",
            "palindrome",
        ),
        (
            "CREATE TABLE t (id serial PRIMARY KEY, a text NOT NULL CONSTRAINT numeric_text CHECK (a::integer > 0))",
            "numeric_text",
        ),
    ],
)
def test_an_unsatisfiable_check_is_named_and_nothing_is_written(
    database_url: str, resources: Callable[..., Path], sql: str, message: str
) -> None:
    run(database_url, sql)
    with pytest.raises(ConfigurationError, match=message):
        fill_resource(database_url, resources("t"), "t", 10)
    assert value(database_url, "SELECT count(*) FROM t") == 0


def test_a_nullable_column_that_nothing_fits_is_left_null_and_its_check_named(
    database_url: str, resources: Callable[..., Path]
) -> None:
    run(database_url, "CREATE TABLE t (id serial PRIMARY KEY, a text CONSTRAINT secret CHECK (md5(a) = 'x'), b text NOT NULL)")
    report = fill_resource(database_url, resources("t"), "t", 50)
    assert report.rows == 50
    assert report.unsatisfied == ("secret: no value was found that satisfies it, so a is always null",)


@pytest.mark.parametrize(
    ("resource", "rows", "message"),
    [
        ("things", 0, "rows must be from 1"),
        ("things", -3, "rows must be from 1"),
        ("things", 10**12, "rows must be from 1"),
        ("thing", 1, 'there is no resource "thing". Did you mean "things"'),
        ("shown", 1, '"shown" is a view'),
        ("gone", 1, 'the resource "gone" cannot be filled'),
        ("children", 1, "children_thing_fkey refers to t, which has no rows: fill things first"),
        ("colours", 4, "colours_colour_key allows at most 3 rows"),
        ("odd", 1, 'odd: no values are known for column "what" of type regclass'),
    ],
)
def test_what_cannot_be_done_is_said(
    database_url: str, resources: Callable[..., Path], resource: str, rows: int, message: str
) -> None:
    run(
        database_url,
        """
        CREATE TABLE t (id serial PRIMARY KEY);
        CREATE TABLE children (id serial PRIMARY KEY, thing integer NOT NULL CONSTRAINT children_thing_fkey REFERENCES t);
        CREATE VIEW shown AS SELECT id FROM t;
        CREATE TYPE colour AS ENUM ('red', 'green', 'blue');
        CREATE TABLE colours (id serial PRIMARY KEY, colour colour NOT NULL UNIQUE);
        CREATE TABLE odd (id serial PRIMARY KEY, what regclass NOT NULL);
        """,
    )
    directory = resources("children", "colours", "gone", "odd", things="table: t", shown="key: id")
    with pytest.raises(ConfigurationError) as caught:
        fill_resource(database_url, directory, resource, rows)
    assert message in str(caught.value)


def test_a_trigger_that_refuses_is_quoted_and_nothing_is_written(database_url: str, resources: Callable[..., Path]) -> None:
    run(
        database_url,
        """
        CREATE TABLE t (id serial PRIMARY KEY);
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not on a Sunday'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION refuse();
        """,
    )
    with pytest.raises(ConfigurationError, match="not on a Sunday"):
        fill_resource(database_url, resources("t"), "t", 5)


def test_a_database_that_is_not_there_is_said(resources: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot connect to the database"):
        fill_resource(f"postgresql://postgres@/none?host={tmp_path}", resources("t"), "t", 5)


def test_rows_that_a_key_has_no_room_for_are_told(database_url: str, resources: Callable[..., Path]) -> None:
    run(
        database_url,
        "CREATE TABLE t (id serial PRIMARY KEY, a integer NOT NULL,"
        " CONSTRAINT apart EXCLUDE USING btree (a WITH =), CHECK (a BETWEEN 1 AND 7))",
    )
    report = fill_resource(database_url, resources("t"), "t", 20)
    assert report.rows == 7
    assert "apart" in report.unsatisfied[0]
    assert "7 of 20" in report.unsatisfied[0]


# --- how it runs -------------------------------------------------------------------------------------------------------

WIDE = """
    CREATE TABLE wide (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, sku text NOT NULL UNIQUE, name text NOT NULL,
        price numeric(12, 2) NOT NULL CHECK (price >= 0), status text NOT NULL CHECK (status IN ('a', 'b')),
        created_at timestamptz NOT NULL)
"""


def test_memory_stays_flat(database_url: str, resources: Callable[..., Path]) -> None:
    run(database_url, WIDE)
    directory = resources("wide")
    peaks = []
    for rows in (10_000, 30_000):  # one batch, and three
        tracemalloc.start()
        fill_resource(database_url, directory, "wide", rows)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert value(database_url, "SELECT count(*) FROM wide") == 40_000
    assert peaks[1] < peaks[0] * 1.3 + 2_000_000


def test_progress_rises_to_the_total_and_the_planner_knows(database_url: str, resources: Callable[..., Path]) -> None:
    run(database_url, WIDE)
    seen: list[tuple[int, int]] = []
    report = fill_resource(
        database_url, resources("wide"), "wide", 25_000, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == sorted(seen)
    assert seen[-1] == (25_000, 25_000)
    assert len(seen) > 1
    assert report.lines[0].startswith("wide: 25,000 rows in ")
    assert value(database_url, "SELECT reltuples FROM pg_class WHERE relname = 'wide'") == 25_000


def test_an_interruption_leaves_nothing(database_url: str, resources: Callable[..., Path]) -> None:
    run(database_url, WIDE)

    def interrupt(done: int, _total: int) -> None:
        if done > 15_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill_resource(database_url, resources("wide"), "wide", 50_000, progress=interrupt)
    assert value(database_url, "SELECT count(*) FROM wide") == 0


def test_all_fills_what_is_empty_with_parents_first_and_fewer_of_them(database_url: str, resources: Callable[..., Path]) -> None:
    run(
        database_url,
        """
        CREATE TABLE a_items (id serial PRIMARY KEY, z_id integer NOT NULL);
        CREATE TABLE z_orders (id serial PRIMARY KEY, u_id integer NOT NULL);
        CREATE TABLE users (id serial PRIMARY KEY, name text);
        ALTER TABLE a_items ADD FOREIGN KEY (z_id) REFERENCES z_orders;
        ALTER TABLE z_orders ADD FOREIGN KEY (u_id) REFERENCES users;
        CREATE TABLE kept (id serial PRIMARY KEY); INSERT INTO kept DEFAULT VALUES;
        CREATE VIEW seen AS SELECT id FROM users;
        """,
    )
    told: list[tuple[str, int, int]] = []
    directory = resources("a_items", "z_orders", "users", "kept", seen="key: id")
    reports = fill_all(database_url, directory, 1600, progress=lambda *news: told.append(news))
    assert [(report.resource, report.rows) for report in reports] == [("users", 100), ("z_orders", 400), ("a_items", 1600)]
    assert ("users", 100, 100) in told
    assert fill_all(database_url, directory, 1600) == []
