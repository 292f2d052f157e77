"""Replicas answer reads, and never an older one than was promised: with real ones, which lag, freeze and end as a test says."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.database.replicas import MAX_TOKENS, UNKNOWN, Position, Primary, Replica, read_tokens
from gateway.errors import ValidationFailed
from gateway.http.routes import STOPPED_WRITING
from tests.failover.read_own_writes import RESOURCES, SCHEMA, Result, others_writes, own_writes, prepare
from tests.journeys.processes import Server, server
from tests.replication import Node, cluster
from tests.serving import running, settings_for, write_resources

pytestmark = pytest.mark.xdist_group("replicas")  # which share the servers

PATIENCE_SECONDS = 30
NOTES = "/api/v1/notes"


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Node, ...]]:
    """A primary and a replica. Who stops or freezes the replica sees to it that it goes on."""
    with cluster("replica", schema=SCHEMA) as found:
        yield found


@pytest.fixture
def client(nodes: tuple[Node, ...], tmp_path: Path) -> Iterator[httpx.Client]:
    """Of a gateway that answers from the replica."""
    prepare(nodes[0])
    settings = settings_for(
        nodes[0].url,
        write_resources(tmp_path / "resources", RESOURCES),
        DATABASE_REPLICA_URLS=nodes[1].url,
        DATABASE_REPLICA_MAX_LAG_SECONDS="3600",
        CORS_ORIGINS="*",
    )
    with running(settings) as found:
        until(lambda: replica_of(found)["status"] == "ok" and "0 bytes" in replica_of(found)["reason"])
        try:
            yield found
        finally:
            nodes[1].execute("SELECT pg_wal_replay_resume()")


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def replica_of(client: httpx.Client, number: int = 1) -> dict[str, str]:
    found: dict[str, str] = client.get("/health/ready").json()["checks"][f"replica-{number}"]
    return found


def patch(client: httpx.Client, number: int, key: int = 1) -> str:
    """Writes; gives the token that the answer brought."""
    answer = client.patch(f"{NOTES}/{key}", json={"number": number})
    assert answer.status_code == 200, answer.text
    return answer.headers["x-consistency-token"]


def number(client: httpx.Client, key: int = 1, **headers: str) -> int:
    answer = client.get(f"{NOTES}/{key}", headers={name.replace("_", "-"): value for name, value in headers.items()})
    assert answer.status_code == 200, answer.text
    found: int = answer.json()["data"]["number"]
    return found


def test_a_write_that_the_end_of_the_service_cuts_off_is_answered_with_a_token(nodes: tuple[Node, ...], tmp_path: Path) -> None:
    """Its caller is told that the outcome is not known, looks for it, and a replica may not have it yet."""
    prepare(nodes[0])
    write_resources(tmp_path / "resources", RESOURCES)
    settings = {
        "DATABASE_REPLICA_URLS": nodes[1].url,
        "SHUTDOWN_TIMEOUT_SECONDS": "1",
        "DATABASE_STATEMENT_TIMEOUT_SECONDS": "600",
    }

    async def cut(served: Server) -> httpx.Response:
        connection = await asyncpg.connect(nodes[0].url)
        try:
            await connection.execute("BEGIN; LOCK TABLE notes")
            answer = asyncio.create_task(asyncio.to_thread(served.client.patch, f"{NOTES}/1", json={"number": 9}))
            while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                assert not answer.done()
                await asyncio.sleep(0.02)
            served.process.send_signal(signal.SIGTERM)
            return await answer
        finally:
            await connection.close()

    with server(tmp_path, nodes[0].url, tmp_path / "log", **settings) as served:
        until(lambda: served.client.get("/health/ready").status_code == 200)
        answer = asyncio.run(cut(served))
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, STOPPED_WRITING)
    assert answer.headers["x-consistency-token"] == UNKNOWN.token.decode()


# --- many reads, with a replica that lags at random ---------------------------------------------------------------------

READS, MOST_RUNS = 300, 40


def runs(nodes: tuple[Node, ...], directory: Path, run: Any, **named: Any) -> Iterator[Result]:
    """One run after another, each with other dice: what chance did not bring about in one it does in the next."""
    for seed in range(MOST_RUNS):
        prepare(nodes[0])
        yield asyncio.run(run(nodes, directory, READS, seed, **named))


@pytest.mark.parametrize("run", [own_writes, others_writes])
def test_no_read_is_stale_while_the_replica_lags_at_random(run: Any, nodes: tuple[Node, ...], tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for result in runs(nodes, tmp_path, run):
        assert result.stale == 0
        seen += result.outcomes + Counter(paused=result.paused)
        if seen["replica"] and seen["primary_behind"] and seen["paused"]:
            return
    pytest.fail(f"replica and primary did not both answer: {seen}")


def test_no_read_from_redis_is_stale_though_another_process_writes(
    nodes: tuple[Node, ...], tmp_path: Path, redis_url: str
) -> None:
    for result in runs(nodes, tmp_path, others_writes, redis_url=redis_url):
        assert result.stale == 0
        if result.outcomes["replica"] and result.paused:
            return
    pytest.fail("the replica never answered")


@pytest.mark.parametrize("run", [own_writes, others_writes])
def test_that_run_finds_stale_reads_where_nobody_asks_what_a_replica_has(
    run: Any, nodes: tuple[Node, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Replica, "has", lambda *_: True)
    assert any(result.stale > 0 for result in runs(nodes, tmp_path, run))


# --- one replica that is held back --------------------------------------------------------------------------------------


def test_a_caller_with_a_token_finds_what_it_wrote_and_one_without_may_find_older(
    client: httpx.Client, nodes: tuple[Node, ...]
) -> None:
    nodes[1].execute("SELECT pg_wal_replay_pause()")
    token = patch(client, 7)
    assert number(client) == 0
    assert number(client, x_consistency_token=token) == 7
    assert number(client, cache_control="no-cache") == 7
    page = client.get(NOTES, params={"id": "1"}, headers={"X-Consistency-Token": token}).json()
    assert page["data"] == [{"id": 1, "number": 7}]
    nodes[1].execute("SELECT pg_wal_replay_resume()")
    until(lambda: number(client) == 7)


def test_who_brings_a_token_is_given_nothing_that_was_kept_before(nodes: tuple[Node, ...], tmp_path: Path) -> None:
    prepare(nodes[0])
    settings = settings_for(
        nodes[0].url,
        write_resources(tmp_path, RESOURCES),
        DATABASE_REPLICA_URLS=nodes[1].url,
        WORKERS="1",
        CACHE_TTL_SECONDS="600",
    )
    paths = ("/api/v1/kept/1", "/api/v1/kept?id=1")

    def asked(client: httpx.Client, path: str, **headers: str) -> tuple[str, int]:
        answer = client.get(path, headers=headers)
        data = answer.json()["data"]
        return answer.headers["x-cache"], (data if path == paths[0] else data[0])["number"]

    with running(settings) as client:
        for path in paths:
            until(lambda path=path: asked(client, path) == ("hit", 0))  # type: ignore[misc]  # mypy infers no lambda with a default
        # Behind the gateway's back, so that the cache hears nothing of it, and its place by a write that changes nothing.
        nodes[0].execute("UPDATE notes SET number = 5 WHERE id = 1", "SELECT 1")
        refused = client.post("/api/v1/kept", json={"id": 1})
        assert refused.status_code == 409
        tokens = {"X-Consistency-Token": refused.headers["x-consistency-token"]}
        for path in paths:
            assert asked(client, path) == ("hit", 0)
            assert asked(client, path, **tokens) == ("bypass", 5)
            assert asked(client, path) == ("hit", 5), "the others have it too"


def test_every_write_brings_a_token_which_scripts_of_other_origins_may_read(client: httpx.Client) -> None:
    answers = [
        client.post(NOTES, json={"id": 9_000}, headers={"Origin": "https://a.example"}),
        client.patch(f"{NOTES}/9000", json={"number": 1}),
        client.delete(f"{NOTES}/9000"),
    ]
    assert [answer.status_code for answer in answers] == [201, 200, 204]
    tokens = [answer.headers["x-consistency-token"] for answer in answers]
    assert tokens == sorted(tokens)
    assert "X-Consistency-Token" in answers[0].headers["access-control-expose-headers"]
    assert "x-consistency-token" not in client.get(NOTES).headers


def test_of_several_tokens_the_furthest_counts(client: httpx.Client, nodes: tuple[Node, ...]) -> None:
    early = patch(client, 1)
    until(lambda: number(client) == 1)
    nodes[1].execute("SELECT pg_wal_replay_pause()")
    late = patch(client, 2)
    assert number(client, x_consistency_token=f"{late}, {early}") == 2
    headers = [("X-Consistency-Token", late), ("X-Consistency-Token", early)]
    assert client.get(f"{NOTES}/1", headers=headers).json()["data"]["number"] == 2


def test_a_token_of_another_history_is_the_primarys_to_answer(client: httpx.Client, nodes: tuple[Node, ...]) -> None:
    nodes[1].execute("SELECT pg_wal_replay_pause()")
    patch(client, 3)
    assert number(client, x_consistency_token="0BADCAFE0000000000000001") == 3


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_what_is_no_token_is_refused(client: httpx.Client, method: str) -> None:
    for token in ("x", "0" * 23, "0" * 25, "a" * 24, "0" * 24 + ",", ",".join(["0" * 24] * (MAX_TOKENS + 1)), "\x80"):
        headers: Any = {"X-Consistency-Token": token.encode("latin-1"), "Content-Type": "application/json"}
        answer = client.request(method, f"{NOTES}/1", headers=headers, content=b"{}" if method == "PATCH" else None)
        assert (answer.status_code, token) == (400, token)
        assert answer.json()["error"]["details"]["field"] == "X-Consistency-Token"


def test_after_a_write_that_was_refused_its_caller_reads_what_refused_it(client: httpx.Client, nodes: tuple[Node, ...]) -> None:
    nodes[1].execute("SELECT pg_wal_replay_pause()")
    nodes[0].execute("INSERT INTO notes VALUES (9001) RETURNING id")
    refused = client.post(NOTES, json={"id": 9_001})
    assert refused.status_code == 409
    assert client.get(f"{NOTES}/9001").status_code == 404
    token = refused.headers["x-consistency-token"]
    assert client.get(f"{NOTES}/9001", headers={"X-Consistency-Token": token}).status_code == 200


def test_a_replica_further_behind_than_allowed_answers_nobody(nodes: tuple[Node, ...], tmp_path: Path) -> None:
    prepare(nodes[0])
    resources = write_resources(tmp_path, RESOURCES)
    settings = settings_for(nodes[0].url, resources, DATABASE_REPLICA_URLS=nodes[1].url, DATABASE_REPLICA_MAX_LAG_SECONDS="0.5")
    with running(settings) as client:
        until(lambda: replica_of(client)["status"] == "ok")
        nodes[1].execute("SELECT pg_wal_replay_pause()")
        try:
            patch(client, 8)
            until(lambda: number(client) == 8)
            until(lambda: "too far behind" in replica_of(client)["reason"])
            assert client.get("/health/ready").status_code == 200
        finally:
            nodes[1].execute("SELECT pg_wal_replay_resume()")
        until(lambda: replica_of(client)["status"] == "ok")


# --- a replica that is not there ----------------------------------------------------------------------------------------


def test_no_read_fails_while_a_replica_is_killed_and_started_again(client: httpx.Client, nodes: tuple[Node, ...]) -> None:
    token = patch(client, 1)
    nodes[1].stop("immediate")
    try:
        assert {number(client, x_consistency_token=token) for _ in range(50)} == {1}
        until(lambda: "does not answer" in replica_of(client)["reason"])
        assert client.get("/health/ready").status_code == 200
        assert number(client) == 1
    finally:
        nodes[1].start()
    until(lambda: replica_of(client)["status"] == "ok")


def test_no_read_fails_while_a_replica_is_frozen(client: httpx.Client, nodes: tuple[Node, ...]) -> None:
    server = psutil.Process(int((nodes[1].data / "postmaster.pid").read_text().split()[0]))
    frozen = [server, *server.children(recursive=True)]
    for process in frozen:
        process.suspend()
    try:
        assert {number(client, key) for key in range(5)} == {0}
        until(lambda: "does not answer" in replica_of(client)["reason"])
        assert number(client) == 0
    finally:
        for process in frozen:
            process.resume()
    until(lambda: replica_of(client)["status"] == "ok")


def test_replicas_answer_while_the_primary_is_away(tmp_path: Path) -> None:
    with cluster("replica", schema=SCHEMA) as (primary, replica):
        prepare(primary)
        settings = settings_for(
            primary.url,
            write_resources(tmp_path, RESOURCES),
            DATABASE_REPLICA_URLS=replica.url,
            DATABASE_REPLICA_MAX_LAG_SECONDS="3600",
        )
        with running(settings) as client:
            until(lambda: replica_of(client)["status"] == "ok")
            token = patch(client, 1)
            until(lambda: number(client) == 1 and "0 bytes" in replica_of(client)["reason"])
            primary.stop("immediate")
            assert client.get(f"{NOTES}/1", headers={"X-Consistency-Token": token}).json()["data"] == {"id": 1, "number": 1}
            refused = client.patch(f"{NOTES}/1", json={"number": 2})
            assert refused.status_code == 503
            # Nobody knows what the write that was refused has done: only the primary can tell.
            assert client.get(f"{NOTES}/1", headers={"X-Consistency-Token": refused.headers["x-consistency-token"]}).is_error
            assert {number(client) for _ in range(20)} == {1}


def test_a_role_that_sees_no_statistics_can_read_from_a_replica(nodes: tuple[Node, ...], tmp_path: Path) -> None:
    prepare(nodes[0])
    nodes[0].execute("CREATE ROLE plain LOGIN", "GRANT SELECT ON notes TO plain", "SELECT 1")
    url = nodes[1].url.replace("postgres@", "plain@")
    until(lambda: nodes[1].execute("SELECT count(*) FROM pg_roles WHERE rolname = 'plain'") == 1)
    settings = settings_for(nodes[0].url, write_resources(tmp_path, RESOURCES), DATABASE_REPLICA_URLS=url)
    with running(settings) as client:
        until(lambda: replica_of(client)["status"] == "ok")
        before = client.get("/metrics").text
        assert number(client) == 0
        until(lambda: number(client) == 0 and 'replica_reads_total{outcome="replica"}' in client.get("/metrics").text)
        assert 'replica_lag_bytes{replica="replica-1"}' in before
        assert "plain" not in before


# --- other servers in its place, and promotions -------------------------------------------------------------------------


@pytest.mark.long
def test_an_older_copy_in_a_replicas_place_is_not_taken_for_it(tmp_path: Path) -> None:
    with cluster("replica", "older", schema=SCHEMA) as (primary, replica, older):
        prepare(primary)
        replayed = "SELECT number FROM notes WHERE id = 1"
        until(lambda: older.execute(replayed) == 0)
        older.stop()
        with (older.data / "postgresql.auto.conf").open("a") as settings:
            settings.write("primary_conninfo = ''\n")  # it will stay as old as it is
        with running(
            settings_for(
                primary.url,
                write_resources(tmp_path, RESOURCES),
                DATABASE_REPLICA_URLS=replica.url,
                DATABASE_REPLICA_MAX_LAG_SECONDS="3600",
            )
        ) as client:
            until(lambda: replica_of(client)["status"] == "ok")
            token = patch(client, 5)
            until(lambda: replica.execute(replayed) == 5)
            until(lambda: "0 bytes" in replica_of(client)["reason"])
            replica.stop("immediate")
            replica.data.rename(replica.directory / "newer")
            older.data.rename(replica.data)
            replica.start()
            assert replica.execute(replayed) == 0
            until(lambda: replica_of(client)["status"] == "ok" and "0 bytes" not in replica_of(client)["reason"])
            assert {number(client, x_consistency_token=token) for _ in range(50)} == {5}


@pytest.mark.long
def test_after_a_promotion_the_next_primary_answers_and_old_tokens_are_understood(tmp_path: Path) -> None:
    with cluster("second", "third", schema=SCHEMA) as (first, second, third):
        prepare(first)
        settings = settings_for(
            f"postgresql://postgres@/postgres?host={first.directory},{second.directory}",
            write_resources(tmp_path, RESOURCES),
            DATABASE_REPLICA_URLS=f"{second.url},{third.url}",
        )
        with running(settings) as client:
            until(lambda: {replica_of(client, which)["status"] for which in (1, 2)} == {"ok"})
            old = patch(client, 1)
            first.stop()
            second.promote()
            until(lambda: client.patch(f"{NOTES}/1", json={"number": 2}).status_code == 200)
            new = patch(client, 3)
            assert old[:8] != new[:8]
            assert number(client, x_consistency_token=old) == 3
            assert number(client, x_consistency_token=new) == 3
            # The third goes on following the first, which is gone: it is of the old timeline, and answers nothing.
            until(lambda: "another timeline" in replica_of(client, 2)["reason"])
            until(lambda: "no replica" in replica_of(client)["reason"])
            assert {number(client) for _ in range(20)} == {3}
            third.execute(
                f"ALTER SYSTEM SET primary_conninfo = 'host={second.directory} user=postgres'", "SELECT pg_reload_conf()"
            )
            until(lambda: replica_of(client, 2)["status"] == "ok")
            assert number(client, x_consistency_token=new) == 3


# --- by themselves ------------------------------------------------------------------------------------------------------


HISTORIES = st.integers(0, 2**32 - 1).map(lambda number: f"{number:08X}")
POSITIONS = st.builds(Position, HISTORIES, st.integers(0, 2**64 - 1))


@given(POSITIONS)
def test_a_token_is_read_as_the_position_that_it_was_made_of(position: Position) -> None:
    assert read_tokens(position.token) == position


@given(HISTORIES, st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=MAX_TOKENS))
def test_tokens_of_one_history_come_to_the_furthest(history: str, numbers: list[int]) -> None:
    tokens = b" , ".join(Position(history, number).token for number in numbers)
    assert read_tokens(tokens) == Position(history, max(numbers))


def test_tokens_of_several_histories_come_to_what_no_replica_reaches() -> None:
    assert read_tokens(b",".join([Position("00000001", 1).token, Position("00000002", 1).token])) == UNKNOWN


@given(st.binary(max_size=60))
def test_any_text_is_a_position_or_refused(text: bytes) -> None:
    with suppress(ValidationFailed):
        found = read_tokens(text)
        assert (found is None) == (text == b"")


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), min_size=1), st.integers(0, 60))
def test_a_replica_is_as_fresh_as_the_last_moment_whose_position_it_has(steps: list[tuple[int, int]], replayed: int) -> None:
    primary = Primary("postgresql://nowhere/", "test")
    moment, lsn, seen = 0.0, 0, []
    for seconds, written in steps:
        moment, lsn = moment + seconds, lsn + written
        primary.saw(moment, lsn, 1)
        seen.append((moment, lsn))
    assert primary.fresh_as_of(replayed) == max((at for at, there in seen if there <= replayed), default=float("-inf"))


def test_what_was_seen_of_one_timeline_tells_nothing_of_the_next() -> None:
    primary = Primary("postgresql://nowhere/", "test")
    primary.saw(1.0, 100, 1)
    primary.saw(2.0, 90, 2)
    assert primary.fresh_as_of(100) == 2.0
    assert primary.fresh_as_of(89) == float("-inf")
