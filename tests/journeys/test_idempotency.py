"""Idempotency-Key over HTTP: one write and one answer, however often and by however many a request is sent."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from gateway import migrate
from gateway.database.execute import Database
from gateway.database.pool import Pool, PoolOptions
from gateway.idempotency import CLEAN_BATCH, KeptAnswers, make_tables
from tests.conftest import throwaway_database, throwaway_directory
from tests.issuing import ALGORITHMS, AUDIENCE, EC, ISSUER, issuer, public, token
from tests.journeys.answers import JSON, MERGE, gateway_over, problems
from tests.journeys.processes import run
from tests.serving import write_resources

pytestmark = pytest.mark.xdist_group("idempotency")

SCHEMA = """
CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner text NOT NULL DEFAULT '', slug text UNIQUE,
    body text, secret text, data jsonb, count int NOT NULL DEFAULT 0 CHECK (count >= 0));
CREATE TABLE bare (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, made_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE parted (id int, part int, body text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE slow (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text);
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN PERFORM pg_advisory_xact_lock(4242); RETURN NEW; END$$;
CREATE TRIGGER wait BEFORE INSERT ON slow FOR EACH ROW EXECUTE FUNCTION wait();
"""
ROLES = """
access:
  admin: {read: {}, create: {}, patch: {}, delete: {}}
  author:
    read: {rows: {owner: $sub}}
    create: {set: {owner: $sub}}
    patch: {rows: {owner: $sub}}
    delete: {rows: {owner: $sub}}
  reader:
    read: {rows: {owner: $sub}, fields: [id, body]}
    create: {set: {owner: $sub}}
  blind: {create: {set: {owner: $sub}}}
"""
RESOURCES = {"notes": ROLES, "bare": "", "parted": "", "slow": ""}
NOTES = "/api/v1/notes"
REPLAYED = "idempotency-replayed"


@pytest.fixture(scope="module")
def url(postgres_url: str) -> Iterator[str]:
    with throwaway_database(postgres_url) as found:
        execute(found, SCHEMA)
        make_tables(found)
        yield found


@pytest.fixture(scope="module")
def resources() -> Iterator[Path]:
    with throwaway_directory() as directory:
        yield write_resources(directory / "resources", RESOURCES)


@pytest.fixture(scope="module")
def client(url: str, resources: Path) -> Iterator[httpx.Client]:
    with gateway_over(url, resources, DATABASE_POOL_MAX="25") as found:  # so that it always has room for fifty at once
        yield found


def execute(url: str, sql: str, *values: Any) -> list[Any]:
    async def run() -> list[Any]:
        connection = await asyncpg.connect(url)
        try:
            return (
                list(await connection.fetch(sql, *values))
                if values or sql.startswith("SELECT")
                else [await connection.execute(sql)]
            )
        finally:
            await connection.close()

    return asyncio.run(run())


def keyed(key: str, **headers: str) -> dict[str, str]:
    return {"idempotency-key": f'"{key}"', **headers}


def same(first: httpx.Response, again: httpx.Response) -> None:
    """The second is the first once more, and says so."""
    assert REPLAYED not in first.headers
    assert again.headers[REPLAYED] == "true"
    assert (first.status_code, first.content) == (again.status_code, again.content)
    for name in ("etag", "location", "content-type"):
        assert first.headers.get(name) == again.headers.get(name)


# --- the same request ----------------------------------------------------------------------------------------------------


def test_a_post_sent_twice_makes_one_row_and_gives_one_answer(client: httpx.Client, url: str) -> None:
    body = {"body": 'é\n"', "data": {"a": [1.50, None]}}
    first, again = (client.post(NOTES, json=body, headers=keyed("post")) for _ in range(2))
    same(first, again)
    assert first.status_code == 201
    assert execute(url, "SELECT count(*) FROM notes WHERE body = $1", body["body"])[0][0] == 1


def test_the_answer_is_that_of_then_whatever_the_row_is_now(client: httpx.Client) -> None:
    first = client.post(NOTES, json={"body": "then"}, headers=keyed("then"))
    client.patch(first.headers["location"], json={"body": "now"})
    same(first, client.post(NOTES, json={"body": "then"}, headers=keyed("then")))
    client.delete(first.headers["location"])
    same(first, client.post(NOTES, json={"body": "then"}, headers=keyed("then")))


def test_patch_and_delete_are_done_once_too(client: httpx.Client) -> None:
    place = client.post(NOTES, json={"data": {"a": 1}}).headers["location"]
    patch = [client.patch(place, content=b'{"data": {"b": 2}}', headers=keyed("k", **MERGE)) for _ in range(2)]
    same(*patch)
    assert patch[0].json()["data"]["data"] == {"a": 1, "b": 2}
    assert client.get(place).headers["etag"] == patch[0].headers["etag"]
    delete = [client.delete(place, headers=keyed("k")) for _ in range(2)]
    same(*delete)
    assert delete[0].status_code == 204


def test_a_patch_with_if_match_is_replayed_and_no_412(client: httpx.Client) -> None:
    made = client.post(NOTES, json={"body": "a"})
    place, tag = made.headers["location"], made.headers["etag"]
    headers = {**keyed("cas"), "if-match": tag}
    same(*(client.patch(place, json={"body": "b"}, headers=headers) for _ in range(2)))
    assert client.patch(place, json={"body": "b"}, headers={**keyed("other"), "if-match": tag}).status_code == 412


@pytest.mark.parametrize(("resource", "body"), [("bare", {}), ("parted", {"id": 1, "part": 1, "body": "a"})])
def test_tables_of_every_kind_keep_answers(client: httpx.Client, resource: str, body: dict[str, Any]) -> None:
    same(*(client.post(f"/api/v1/{resource}", json=body, headers=keyed("kinds")) for _ in range(2)))


def test_the_same_key_means_another_thing_elsewhere(client: httpx.Client) -> None:
    first = client.post(NOTES, json={"body": "a"}, headers=keyed("here"))
    other = client.post("/api/v1/bare", json={}, headers=keyed("here"))
    patched = client.patch(first.headers["location"], json={"body": "a"}, headers=keyed("here"))
    assert [REPLAYED in response.headers for response in (first, other, patched)] == [False] * 3


# --- another request -------------------------------------------------------------------------------------------------------


def test_another_request_under_the_same_key_is_422(client: httpx.Client) -> None:
    place = client.post(NOTES, json={"body": "a"}, headers=keyed("mine")).headers["location"]
    tag = client.patch(place, json={"body": "b"}, headers=keyed("mine")).headers["etag"]
    for response in (
        client.post(NOTES, json={"body": "b"}, headers=keyed("mine")),
        client.post(NOTES, content=b'{"body":  "a"}', headers=keyed("mine", **JSON)),
        client.patch(place, json={"body": "b"}, headers={**keyed("mine"), "if-match": tag}),
        client.patch(place, content=b'{"body":"b"}', headers=keyed("mine", **MERGE)),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (422, "IDEMPOTENCY_MISMATCH")
    assert client.get(place).headers["etag"] == tag


@pytest.mark.parametrize(
    "value", ["bare", '""', '"a', 'a"', '"a" "b"', '"a", "b"', '"é"', '"a\\b"', '"a";p=1', f'"{"a" * 256}"', ""]
)
def test_a_key_that_is_no_text_in_quotes_is_refused(client: httpx.Client, value: str) -> None:
    headers = [(b"idempotency-key", value.encode("latin-1")), (b"content-type", b"application/json")]
    assert problems(client.post(NOTES, content=b"{}", headers=headers)).keys() == {"Idempotency-Key"}


@pytest.mark.parametrize("value", ['"a"', f'"{"a" * 255}"', '"a \\" \\\\ b"', '" spaced "'])
def test_a_text_in_quotes_is_a_key(client: httpx.Client, value: str) -> None:
    assert client.post("/api/v1/bare", json={}, headers={"idempotency-key": value}).status_code == 201


def test_what_is_refused_is_not_kept(client: httpx.Client) -> None:
    """The caller may mend what stood in the way and send the same again."""
    client.post(NOTES, json={"slug": "taken"})
    refused = client.post(NOTES, json={"slug": "taken"}, headers=keyed("again"))
    assert (refused.status_code, *problems(refused, 409)) == (409, "slug")
    assert client.post(NOTES, json={"count": -1}, headers=keyed("check")).status_code == 400
    assert client.patch(f"{NOTES}/987654", json={"count": 1}, headers=keyed("gone")).status_code == 404
    assert client.delete(f"{NOTES}/987654", headers=keyed("gone")).status_code == 404
    taken = client.get(NOTES, params={"slug": "taken"}).json()["data"][0]["id"]
    client.delete(f"{NOTES}/{taken}")
    mended = client.post(NOTES, json={"slug": "taken"}, headers=keyed("again"))
    assert mended.status_code == 201
    same(mended, client.post(NOTES, json={"slug": "taken"}, headers=keyed("again")))


# --- at once ---------------------------------------------------------------------------------------------------------------


def test_fifty_at_once_make_one_row(client: httpx.Client, url: str) -> None:
    for name in (f"crowd-{attempt}" for attempt in range(5)):
        send = partial(client.post, NOTES, json={"slug": name}, headers=keyed(name))
        with ThreadPoolExecutor(50) as pool:
            answers = [sent.result() for sent in [pool.submit(send) for _ in range(50)]]
        counts = Counter(response.status_code for response in answers)
        assert set(counts) <= {201, 409}
        assert len({response.content for response in answers if response.status_code == 201}) == 1
        assert sum(response.status_code == 201 and REPLAYED not in response.headers for response in answers) == 1
        for response in answers:
            if response.status_code == 409:
                assert response.json()["error"]["message"] == "The same request is under way; try again."
                assert response.headers["retry-after"] == "1"
    assert execute(url, "SELECT count(*) FROM notes WHERE slug LIKE $1", "crowd-%")[0][0] == 5


def test_a_request_that_is_under_way_is_409_at_once(client: httpx.Client, url: str) -> None:
    """The first waits for a lock that the test holds; the second is answered meanwhile."""

    async def meet() -> tuple[httpx.Response, httpx.Response]:
        holder = await asyncpg.connect(url)
        try:
            await holder.execute("SELECT pg_advisory_lock(4242)")
            async with httpx.AsyncClient(base_url=client.base_url, timeout=20) as caller:
                first = asyncio.create_task(caller.post("/api/v1/slow", json={"body": "a"}, headers=keyed("slow")))
                async with asyncio.timeout(10):
                    while not await holder.fetchval("SELECT count(*) FROM pg_locks WHERE objid = 4242 AND NOT granted"):
                        await asyncio.sleep(0.01)
                second = await caller.post("/api/v1/slow", json={"body": "a"}, headers=keyed("slow"))
                await holder.execute("SELECT pg_advisory_unlock(4242)")
                return await first, second
        finally:
            await holder.close()

    first, second = asyncio.run(meet())
    assert (first.status_code, second.status_code) == (201, 409)
    same(first, client.post("/api/v1/slow", json={"body": "a"}, headers=keyed("slow")))


# --- whose key it is ---------------------------------------------------------------------------------------------------------


def test_a_key_is_its_callers_and_an_answer_is_shown_by_todays_rights(url: str, resources: Path) -> None:
    with issuer(public(EC)) as keys:
        auth = {
            "AUTH": "on",
            "AUTH_JWKS_URL": keys.url,
            "AUTH_ISSUER": ISSUER,
            "AUTH_AUDIENCE": AUDIENCE,
            "AUTH_ALGORITHMS": ",".join(ALGORITHMS),
        }

        def bearer(subject: str, *roles: str) -> dict[str, str]:
            return {"authorization": f"Bearer {token(sub=subject, roles=list(roles)).decode()}"}

        with gateway_over(url, resources, **auth) as guarded:

            def post(caller: dict[str, str], **body: Any) -> httpx.Response:
                return guarded.post(NOTES, json=body, headers={**keyed("shared"), **caller})

            ann, bob = post(bearer("ann", "author"), secret="s"), post(bearer("bob", "author"), secret="s")
            assert (ann.status_code, bob.status_code) == (201, 201)
            assert REPLAYED not in bob.headers
            assert ann.json()["data"]["id"] != bob.json()["data"]["id"]
            same(ann, post(bearer("ann", "author"), secret="s"))
            for lesser in ("reader", "blind"):
                again = post(bearer("ann", lesser), secret="s")
                assert (again.status_code, again.headers[REPLAYED], again.json()) == (201, "true", {"data": {}})
                assert again.headers["location"] == ann.headers["location"]
            assert post(bearer("ann", "nobody"), secret="s").status_code == 403
            assert post({}, secret="s").status_code == 401
            assert post(bearer("ann", "author"), secret="t").status_code == 422
            stolen = guarded.patch(ann.headers["location"], json={"body": "b"}, headers={**keyed("x"), **bearer("bob", "author")})
            assert stolen.status_code == 404
    assert execute(url, "SELECT count(*) FROM notes WHERE secret = $1", "s")[0][0] == 2


def test_nothing_of_a_key_or_a_caller_is_kept_as_it_came(client: httpx.Client, url: str) -> None:
    client.post(NOTES, json={"body": "a"}, headers=keyed("a telling key"))
    kept = execute(url, "SELECT k::text FROM gateway.idempotency_keys k WHERE true")
    assert kept
    assert not any("telling" in row[0] for row in kept)


LOSING = """
CREATE SEQUENCE attempts;
CREATE TABLE lost (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
    IF nextval('attempts') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
    PERFORM pg_sleep(60);
    RETURN NEW;
END$$;
CREATE TRIGGER lose BEFORE INSERT ON lost FOR EACH ROW EXECUTE FUNCTION lose();
"""


def test_after_a_lost_attempt_one_that_wrote_nothing_makes_nothing_certain(database_url: str, tmp_path: Path) -> None:
    """The first attempt's connection is cut, whatever became of it; the second one runs out of time."""
    execute(database_url, LOSING)
    make_tables(database_url)
    resources = write_resources(tmp_path / "resources", {"lost": ""})
    with gateway_over(database_url, resources, DATABASE_STATEMENT_TIMEOUT_SECONDS="1") as client:
        answer = client.post("/api/v1/lost", json={}, headers=keyed("lost"))
    assert answer.status_code == 503
    told = answer.json()["error"]["message"]
    assert told.endswith("is not known. Send it again with the same Idempotency-Key.")
    assert execute(database_url, "SELECT last_value FROM attempts")[0][0] >= 2


# --- the table ---------------------------------------------------------------------------------------------------------------


def test_without_the_table_a_key_is_refused_until_migrate_own_makes_it(database_url: str, tmp_path: Path) -> None:
    execute(database_url, "CREATE TABLE bare (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)")
    with gateway_over(database_url, write_resources(tmp_path / "resources", {"bare": ""})) as client:
        refused = client.post("/api/v1/bare", json={}, headers=keyed("a"))
        assert problems(refused).keys() == {"Idempotency-Key"}
        assert client.post("/api/v1/bare", json={}).status_code == 201
        ready = client.get("/health/ready")
        assert (ready.status_code, "gateway migrate own" in ready.json()["checks"]["Idempotency-Key"]["reason"]) == (200, True)
        for _ in range(2):
            finished = run(tmp_path, database_url, "migrate", "own")
            assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
        same(*(client.post("/api/v1/bare", json={}, headers=keyed("a")) for _ in range(2)))
        assert "Idempotency-Key" not in client.get("/health/ready").json()["checks"]


DESCRIPTION = """
SELECT json_agg(t) FROM (
    SELECT a.attname, a.atttypid::regtype::text AS type, a.attnotnull, pg_get_expr(d.adbin, d.adrelid) AS filled,
           (SELECT array_agg(pg_get_indexdef(x.indexrelid) ORDER BY 1) FROM pg_index x WHERE x.indrelid = a.attrelid) AS indexes,
           obj_description(a.attrelid) AS comment
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = 'gateway.idempotency_keys'::regclass AND a.attnum > 0 ORDER BY a.attnum) AS t WHERE true
"""


def test_the_migration_makes_the_same_table_as_migrate_own(postgres_url: str, url: str) -> None:
    with throwaway_database(postgres_url) as migrated:
        migrate.upgrade(migrated)
        assert json.loads(execute(migrated, DESCRIPTION.strip())[0][0]) == json.loads(execute(url, DESCRIPTION.strip())[0][0])
        make_tables(migrated)
        migrate.downgrade(migrated, "base")


def test_what_was_kept_long_enough_is_cleaned_up_in_batches_by_one_at_a_time(database_url: str) -> None:
    make_tables(database_url)
    fill = """
        INSERT INTO gateway.idempotency_keys (id, fingerprint, view, state, kept_at)
        SELECT sha256(n::text::bytea), '', '', 0, now() - CASE WHEN n <= $1 THEN interval '2 days' ELSE interval '1 hour' END
        FROM generate_series(1, $1 + 3) AS n
    """

    async def clean() -> list[int]:
        pool = Pool(PoolOptions(database_url, "tests", minimum=1, maximum=2))
        await pool.open()
        database = Database(pool)
        try:
            await database.fetch(fill, (CLEAN_BATCH + 5,), writing=True)
            kept = KeptAnswers(database)
            other = await asyncpg.connect(database_url)
            async with other.transaction():
                await other.execute("SELECT pg_advisory_xact_lock(7093846120573490)")
                deleted = [await kept.clean()]
            deleted += [await kept.clean() for _ in range(3)]
            deleted.append(await other.fetchval("SELECT count(*) FROM gateway.idempotency_keys"))
            await other.close()
            return deleted
        finally:
            await database.stop()
            await pool.close()

    assert asyncio.run(clean()) == [0, CLEAN_BATCH, 5, 0, 3]
