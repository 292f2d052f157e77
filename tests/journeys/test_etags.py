"""ETag, If-None-Match and If-Match over HTTP: what a tag tells, when it changes, and that no update is ever lost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conftest import execute, throwaway_database, throwaway_directory
from tests.issuing import ALGORITHMS, AUDIENCE, EC, ISSUER, issuer, public, token
from tests.journeys.answers import JSON, gateway_over, problems
from tests.serving import write_resources

pytestmark = pytest.mark.xdist_group("etags")

SCHEMA = """
CREATE TABLE notes (id int PRIMARY KEY, owner text NOT NULL DEFAULT '', body text, count int NOT NULL DEFAULT 0);
CREATE TABLE kept (id int PRIMARY KEY, body text);
CREATE TABLE counted (id int PRIMARY KEY, body text, revision int NOT NULL DEFAULT 1);
CREATE TABLE parted (id int, part int, body text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
CREATE TABLE echoed (id int PRIMARY KEY, body text, echo text);
CREATE VIEW shown AS SELECT id, body FROM notes;
CREATE FUNCTION echo() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN UPDATE echoed SET echo = body || '!' WHERE id = NEW.id AND echo IS DISTINCT FROM body || '!'; RETURN NULL; END$$;
CREATE TRIGGER echo AFTER INSERT OR UPDATE ON echoed FOR EACH ROW EXECUTE FUNCTION echo();
"""
RESOURCES = {
    "notes": "access: {admin: {read: {}, create: {}, patch: {}, delete: {}}, "
    "writer: {read: {rows: {owner: $sub}, fields: [id, body]}, create: {set: {owner: $sub}}, "
    "patch: {rows: {owner: $sub}}, delete: {rows: {owner: $sub}}}, blind: {create: {}, patch: {}}}\n",
    "kept": "require_if_match: true\n",
    "counted": "version_column: revision\nfields: {revision: {hidden: true}}\n",
    "parted": "",
    "echoed": "",
    "shown": "key: id\n",
}
TAG = re.compile(r'"[0-9a-f]{16}-[0-9a-f]{8}"')


@pytest.fixture(scope="module")
def url(postgres_url: str) -> Iterator[str]:
    with throwaway_database(postgres_url) as found:
        execute(found, SCHEMA)
        yield found


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with throwaway_directory() as directory, gateway_over(url, write_resources(directory, RESOURCES)) as found:
        yield found


def made(client: httpx.Client, resource: str = "notes", **body: Any) -> tuple[str, str]:
    """A new row's place and its ETag."""
    response = client.post(f"/api/v1/{resource}", json=body)
    assert response.status_code == 201, response.text
    return response.headers["location"], response.headers["etag"]


def tag_of(client: httpx.Client, place: str, **parameters: str) -> str:
    return str(client.get(place, params=parameters).headers["etag"])


def patched(client: httpx.Client, place: str, tag: str, **body: Any) -> httpx.Response:
    return client.patch(place, json=body, headers={"if-match": tag})


def insist(send: Callable[[], httpx.Response]) -> httpx.Response:
    """The first answer that is not a refusal for want of room, which a hundred at once may meet, and after which nothing is."""
    while (answer := send()).status_code == 503:
        assert answer.json()["error"]["code"] == "UNAVAILABLE"
        time.sleep(0.05)
    return answer


# --- what a tag tells ---------------------------------------------------------------------------------------------------


def test_get_head_post_and_patch_tell_one_tag_of_one_state(client: httpx.Client) -> None:
    place, first = made(client, id=1, body="a")
    assert TAG.fullmatch(first)
    assert tag_of(client, place) == first == client.head(place).headers["etag"]
    second = client.patch(place, json={"body": "b"}).headers["etag"]
    assert second != first
    assert tag_of(client, place) == second
    assert "etag" not in client.get("/api/v1/notes").headers


def test_every_write_changes_the_tag_even_one_that_sets_what_is_there(client: httpx.Client) -> None:
    place, tag = made(client, id=2, body="a")
    seen = {tag}
    for _ in range(5):
        seen.add(client.patch(place, json={"body": "a"}).headers["etag"])
    assert len(seen) == 6


def test_reading_locking_and_vacuum_leave_the_tag_as_it_is(client: httpx.Client, url: str) -> None:
    place, tag = made(client, id=3, body="a")
    execute(url, "SELECT * FROM notes FOR UPDATE", "VACUUM (FREEZE) notes", "ANALYZE notes")
    assert tag_of(client, place) == tag


def test_the_tag_tells_the_fields_too_and_any_of_a_state_lets_write(client: httpx.Client) -> None:
    place, tag = made(client, id=4, body="a")
    narrow = tag_of(client, place, fields="id")
    assert narrow != tag
    assert client.get(place, headers={"if-none-match": narrow}).status_code == 200
    assert patched(client, place, narrow, body="b").status_code == 200
    assert patched(client, place, narrow, body="c").status_code == 412


@pytest.mark.parametrize(("resource", "body"), [("counted", {"id": 1}), ("parted", {"id": 1, "part": 1}), ("kept", {"id": 1})])
def test_tables_of_every_kind_tell_versions(client: httpx.Client, url: str, resource: str, body: dict[str, Any]) -> None:
    place, tag = made(client, resource, body="a", **body)
    assert tag_of(client, place) == tag
    execute(url, f"UPDATE {resource} SET body = 'b'{', revision = revision + 1' if resource == 'counted' else ''}")
    changed = tag_of(client, place)
    assert changed != tag
    assert patched(client, place, tag, body="c").status_code == 412
    after = patched(client, place, changed, body="c")
    assert after.status_code == 200
    if resource != "counted":  # its revision is what its writers make of it
        assert tag_of(client, place) == after.headers["etag"]
        assert client.delete(place, headers={"if-match": changed}).status_code == 412
    assert client.delete(place, headers={"if-match": after.headers["etag"]}).status_code == 204


def test_a_hidden_version_column_is_told_by_no_tag(client: httpx.Client) -> None:
    _, tag = made(client, "counted", id=7, body="a")
    assert "0000000001" not in tag


def test_a_row_that_moves_to_another_partition_is_another(client: httpx.Client, url: str) -> None:
    _, tag = made(client, "parted", id=9, part=1, body="a")
    execute(url, "UPDATE parted SET part = 2 WHERE id = 9", "UPDATE parted SET part = 1 WHERE id = 9")
    assert patched(client, "/api/v1/parted/9,1", tag, body="b").status_code == 412


def test_what_a_trigger_changes_after_the_answer_was_made_is_another_state(client: httpx.Client) -> None:
    place, tag = made(client, "echoed", id=1, body="a")
    assert client.get(place).json()["data"]["echo"] == "a!"
    assert patched(client, place, tag, body="b").status_code == 412


def test_a_view_has_a_tag_of_its_bytes_alone(client: httpx.Client) -> None:
    made(client, id=5, body="a")
    tag = tag_of(client, "/api/v1/shown/5")
    assert not TAG.fullmatch(tag)
    assert client.get("/api/v1/shown/5", headers={"if-none-match": tag}).status_code == 304
    client.patch("/api/v1/notes/5", json={"body": "b"})
    assert client.get("/api/v1/shown/5", headers={"if-none-match": tag}).status_code == 200


# --- If-None-Match -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "form"), [(60, "{tag}"), (61, "W/{tag}"), (62, '"x", {tag}'), (63, ', ,"x",W/"y" ,{tag},'), (64, "*")]
)
def test_304_where_the_caller_has_it(client: httpx.Client, number: int, form: str) -> None:
    place, tag = made(client, id=number, body="a")
    for method in ("GET", "HEAD"):
        response = client.request(method, place, headers={"if-none-match": form.format(tag=tag)})
        assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", tag)
        assert "content-type" not in response.headers
        assert "content-length" not in response.headers
    client.patch(place, json={"body": "b"})
    again = client.get(place, headers={"if-none-match": form.format(tag=tag)})
    assert again.status_code == (304 if form == "*" else 200)


@pytest.mark.parametrize("value", ["x", '"', "W/", '"a" "b"', "*, *", '"a', 'w/"a"', '"a",*', ""])
@pytest.mark.parametrize("header", ["if-none-match", "if-match"])
def test_a_header_that_holds_no_tags_is_refused(client: httpx.Client, header: str, value: str) -> None:
    client.post("/api/v1/notes", json={"id": 70})  # there from the first time on
    place = "/api/v1/notes/70" if header == "if-none-match" else "/api/v1/kept/1"
    method = "GET" if header == "if-none-match" else "DELETE"
    assert problems(client.request(method, place, headers={header: value})).keys() == {
        "If-None-Match" if method == "GET" else "If-Match"
    }


def test_a_header_that_does_not_apply_is_refused(client: httpx.Client) -> None:
    place, tag = made(client, id=10, body="a")
    assert problems(client.post("/api/v1/notes", json={"id": 11}, headers={"if-match": tag})).keys() == {"If-Match"}
    for method in ("POST", "PATCH", "DELETE"):
        path = "/api/v1/notes" if method == "POST" else place
        response = client.request(method, path, headers={"if-none-match": "*", **JSON}, content=b'{"id": 12}')
        assert problems(response).keys() == {"If-None-Match"}
    assert tag_of(client, place) == tag


def test_a_kept_answer_has_its_tag_and_is_304_without_the_database(url: str, tmp_path: Any) -> None:
    with gateway_over(url, write_resources(tmp_path, RESOURCES), WORKERS="1") as client:
        place, tag = made(client, id=20, body="é")
        assert [client.get(place).headers["x-cache"] for _ in range(2)] == ["miss", "hit"]
        held = client.get(place, headers={"if-none-match": tag})
        assert (held.status_code, held.headers["etag"], held.headers["x-cache"]) == (304, tag, "hit")
        assert "age" in held.headers
        changed = client.patch(place, json={"body": "b"}).headers["etag"]
        fresh = client.get(place, headers={"if-none-match": tag})
        assert (fresh.status_code, fresh.headers["etag"], fresh.headers["x-cache"]) == (200, changed, "miss")


# --- If-Match ------------------------------------------------------------------------------------------------------------


def test_if_match_lets_the_first_write_through_and_no_second(client: httpx.Client) -> None:
    place, tag = made(client, id=30, body="a")
    assert patched(client, place, tag, body="b").status_code == 200
    refused = patched(client, place, tag, body="c")
    assert (refused.status_code, refused.json()["error"]["code"]) == (412, "PRECONDITION_FAILED")
    assert client.delete(place, headers={"if-match": tag}).status_code == 412
    assert client.get(place).json()["data"]["body"] == "b"
    assert client.get(place, headers={"if-match": tag}).status_code == 412
    now = tag_of(client, place)
    assert client.get(place, headers={"if-match": f'"x", {now}'}).status_code == 200
    assert client.delete(place, headers={"if-match": f'"x", {now}'}).status_code == 204
    for response in (patched(client, place, now, body="d"), client.delete(place, headers={"if-match": "*"})):
        assert response.status_code == 404


def test_a_weak_or_strange_tag_never_lets_write(client: httpx.Client) -> None:
    place, tag = made(client, id=31, body="a")
    for value in (f"W/{tag}", '"x"', '""', tag.upper(), f'"{tag[1:18]}"'):
        assert patched(client, place, value, body="b").status_code == 412
    assert patched(client, place, "*", body="b").status_code == 200


def test_require_if_match_is_428_without_it(client: httpx.Client) -> None:
    place, tag = made(client, "kept", id=30, body="a")
    for response in (client.patch(place, json={"body": "b"}), client.delete(place)):
        assert (response.status_code, response.json()["error"]["code"]) == (428, "PRECONDITION_REQUIRED")
    assert client.delete("/api/v1/kept/987").status_code == 428
    assert patched(client, place, tag, body="b").status_code == 200
    document = client.get("/api/v1/openapi.json").json()["paths"]["/api/v1/kept/{key}"]["patch"]
    assert "428" in document["responses"]
    assert next(each for each in document["parameters"] if each.get("name") == "If-Match")["required"]


def test_a_hundred_writers_of_one_counter_lose_no_update(client: httpx.Client) -> None:
    """Each reads the row and writes one more, if nobody was faster: what is there in the end is how often that was so."""
    place, _ = made(client, id=40)

    def add(_: int) -> int:
        row = insist(lambda: client.get(place))
        tag, count = row.headers["etag"], row.json()["data"]["count"] + 1
        return insist(lambda: patched(client, place, tag, count=count)).status_code

    with ThreadPoolExecutor(100) as pool:
        statuses = list(pool.map(add, range(300)))
    assert set(statuses) <= {200, 412}
    assert client.get(place).json()["data"]["count"] == statuses.count(200) > 0


def test_of_a_hundred_writers_of_one_state_one_gets_through(client: httpx.Client) -> None:
    place, tag = made(client, id=41)
    with ThreadPoolExecutor(100) as pool:
        statuses = list(
            pool.map(lambda number: insist(lambda: patched(client, place, tag, count=number)).status_code, range(100))
        )
    assert (statuses.count(200), statuses.count(412)) == (1, 99)


# --- and access -----------------------------------------------------------------------------------------------------------


def test_a_tag_tells_nothing_of_a_row_that_is_not_the_callers(url: str, tmp_path: Any) -> None:
    """With the right tag, a wrong one or `*`: a row that the caller cannot reach is not there."""
    with issuer(public(EC)) as keys:
        auth = {
            "AUTH": "on",
            "AUTH_JWKS_URL": keys.url,
            "AUTH_ISSUER": ISSUER,
            "AUTH_AUDIENCE": AUDIENCE,
            "AUTH_ALGORITHMS": ",".join(ALGORITHMS),
        }

        def bearer(subject: str, role: str) -> dict[str, str]:
            return {"authorization": f"Bearer {token(sub=subject, roles=[role]).decode()}"}

        ann, bob, admin, blind = bearer("ann", "writer"), bearer("bob", "writer"), bearer("x", "admin"), bearer("y", "blind")
        with gateway_over(url, write_resources(tmp_path, RESOURCES), **auth) as client:
            created = client.post("/api/v1/notes", json={"id": 50, "body": "a"}, headers=ann)
            place, tag = created.headers["location"], created.headers["etag"]
            whole = client.get(place, headers=admin).headers["etag"]
            assert whole != tag
            for condition in (tag, whole, '"x"', "*"):
                for method in ("GET", "PATCH", "DELETE"):
                    content = b'{"body": "b"}' if method == "PATCH" else None
                    response = client.request(method, place, headers={**bob, **JSON, "if-match": condition}, content=content)
                    assert response.status_code == 404
                    assert "etag" not in response.headers
            assert client.get(place, headers={**bob, "if-none-match": tag}).status_code == 404
            unseen = client.patch(place, json={"body": "c"}, headers={**blind, "if-match": tag})
            assert (unseen.status_code, unseen.json()) == (200, {"data": {}})
            assert client.patch(place, json={"body": "d"}, headers={**ann, "if-match": whole}).status_code == 412
            assert client.patch(place, json={"body": "d"}, headers={**ann, "if-match": unseen.headers["etag"]}).status_code == 200
