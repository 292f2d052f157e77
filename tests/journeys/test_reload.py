"""Reloads: another catalog beside the live one, swapped in whole or refused whole, and tables that change under the gateway."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from gateway.app import Gateway
from gateway.events import Event, Reloaded
from gateway.reload import Reloader
from tests.cache.simulation import run as run_in_no_time
from tests.journeys.gated import RESOURCES, Gate, site
from tests.journeys.processes import server
from tests.journeys.test_stopping import eventually, serving_workers
from tests.serving import settings_for, write_resources

pytestmark = pytest.mark.xdist_group("reload")

Steps = Callable[["Running"], Awaitable[None]]


class Running:
    """A gateway in this loop, a client of it, and its resource files."""

    def __init__(self, url: str, directory: Path, **variables: str) -> None:
        self.url = url
        self.resources = directory / "resources"
        self.gateway = Gateway(settings_for(url, self.resources, **variables))
        self.events: list[Event] = []
        self._told = self.gateway.reloader._observe
        self.gateway.reloader._observe = self._hear
        transport = httpx.ASGITransport(self.gateway)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=60)

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        self._told(event)

    def write(self, **files: str) -> None:
        """Resource files, by name."""
        write_resources(self.resources, files)

    async def reload(self) -> None:
        """What SIGHUP does."""
        await self.gateway.reload()

    async def rows(self, path: str) -> Any:
        """The `data` of an answer of 200."""
        answer = await self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def notices(self) -> dict[str, str]:
        """What `/health/ready` tells of resources and reloads; the tables of these tests have no place for idempotency keys."""
        ready = await self.client.get("/health/ready")
        assert ready.status_code == 200
        checks = ready.json()["checks"].items()
        told = {name: check["reason"] for name, check in checks if check["status"] == "broken"}
        return {name: reason for name, reason in told.items() if name == "reload" or "/" in name}


def run(url: str, directory: Path, steps: Steps, **variables: str) -> None:
    """The steps, on a gateway over `site`."""

    @asynccontextmanager
    async def started() -> AsyncIterator[Running]:
        running = Running(url, directory, **variables)
        await running.gateway.start()
        try:
            yield running
        finally:
            await running.client.aclose()
            await running.gateway.stop()

    async def go() -> None:
        async with started() as running:
            await steps(running)

    site(url, directory)
    asyncio.run(go())


ROUNDS = 8
HIDDEN = "list: {sort: [id]}\nfields:\n  body: {hidden: true}\n"


def test_files_of_now_are_served_and_told_of_and_no_answer_of_before_is_kept(database_url: str, tmp_path: Path) -> None:
    async def steps(running: Running) -> None:
        one = {"id": 1, "body": "note 1"}
        assert await running.rows("/api/v1/notes/1") == one
        cache = running.gateway.cache
        assert cache is not None
        async with asyncio.timeout(60):
            while not cache.hits:  # it may take a moment to be trusted
                assert await running.rows("/api/v1/notes/1") == one
                await asyncio.sleep(0.01)
        running.write(notes=HIDDEN, letters="table: notes\n")
        await running.reload()
        assert await running.rows("/api/v1/notes/1") == {"id": 1}
        assert await running.rows("/api/v1/letters/1") == one
        assert (await running.client.get("/api/v1/notes?body=x")).status_code == 400
        paths = (await running.client.get("/api/v1/openapi.json")).json()["paths"]
        assert "/api/v1/letters" in paths
        (running.resources / "letters.yaml").unlink()
        await running.reload()
        assert (await running.client.get("/api/v1/letters/1")).status_code == 404
        assert running.gateway.reloader.version == 3
        await running.reload()
        assert running.gateway.reloader.version == 3, "nothing has changed"
        metrics = (await running.client.get("/metrics")).text.splitlines()
        assert 'catalog_reloads_total{outcome="swapped"} 2.0' in metrics
        assert 'catalog_reloads_total{outcome="unchanged"} 1.0' in metrics
        assert "catalog_version 3.0" in metrics
        assert running.events == [Reloaded("swapped"), Reloaded("swapped"), Reloaded("unchanged")]

    run(database_url, tmp_path, steps, WORKERS="1")


def test_what_hangs_on_which_table_is_read_anew_though_all_else_is_as_it_was(database_url: str, tmp_path: Path) -> None:
    """A view that is made from another table, and a foreign key that carries a deletion on."""

    async def steps(running: Running) -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute(
            """
            CREATE TABLE others (LIKE notes INCLUDING ALL);
            INSERT INTO others VALUES (1, 'other 1');
            CREATE VIEW shown AS SELECT id, body FROM notes;
            CREATE TABLE hanging (id integer PRIMARY KEY, note integer NOT NULL CONSTRAINT of_note REFERENCES notes);
            INSERT INTO hanging VALUES (1, 2);
            """
        )
        running.write(others="", shown="key: id\nlist: {sort: [id]}\n", hanging="")
        await running.reload()

        async def kept(path: str) -> Any:
            async with asyncio.timeout(60):
                while (answer := await running.client.get(path)).headers["x-cache"] != "hit":
                    await asyncio.sleep(0.01)
            return answer.json()["data"]

        assert await kept("/api/v1/shown/1") == {"id": 1, "body": "note 1"}
        await connection.execute("CREATE OR REPLACE VIEW shown AS SELECT id, body FROM others")
        await running.reload()
        assert await kept("/api/v1/shown/1") == {"id": 1, "body": "other 1"}
        assert (await running.client.patch("/api/v1/others/1", json={"body": "new"})).status_code == 200
        assert await running.rows("/api/v1/shown/1") == {"id": 1, "body": "new"}

        await connection.execute(
            """
            ALTER TABLE hanging DROP CONSTRAINT of_note;
            ALTER TABLE hanging ADD CONSTRAINT of_note FOREIGN KEY (note) REFERENCES notes ON DELETE CASCADE
            """
        )
        await running.reload()
        assert await kept("/api/v1/hanging/1") == {"id": 1, "note": 2}
        assert (await running.client.delete("/api/v1/notes/2")).status_code == 204
        assert (await running.client.get("/api/v1/hanging/1")).status_code == 404
        await running.reload()
        assert running.events == [Reloaded("swapped")] * 3 + [Reloaded("unchanged")]
        await connection.close()

    run(database_url, tmp_path, steps, WORKERS="1", CACHE_TTL_SECONDS="600")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"gated": "key: [id\n"}, "would not be served any more: v1/gated"),
        ({"gated": "key: id\nfields:\n  nothing: {hidden: true}\n"}, "v1/gated"),
        ({"gated": "key: id\naccess:\n  admin: {read: {rows: {nothing: 1}}}\n"}, "v1/gated"),
        ({"another": "table: nowhere\n"}, "v1/another"),
    ],
)
def test_a_bad_file_refuses_the_whole_reload_and_the_old_one_serves_on(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, files: dict[str, str], told: str
) -> None:
    async def steps(running: Running) -> None:
        running.write(notes=HIDDEN, **files)
        await running.reload()
        assert await running.rows("/api/v1/notes/1") == {"id": 1, "body": "note 1"}
        assert len(await running.rows("/api/v1/gated")) == 20
        notices = await running.notices()
        assert notices.keys() == {"reload"}
        assert told in notices["reload"]
        (event,) = running.events
        assert isinstance(event, Reloaded)
        assert (event.outcome, told in event.reason) == ("refused", True)
        assert f"{next(iter(files))}.yaml:" in caplog.text
        for name in files:
            (running.resources / f"{name}.yaml").unlink()
        running.write(gated=RESOURCES["gated"])
        await running.reload()
        assert await running.notices() == {}
        assert await running.rows("/api/v1/notes/1") == {"id": 1}

    run(database_url, tmp_path, steps)


def test_what_is_broken_already_keeps_no_reload_from_being_served(database_url: str, tmp_path: Path) -> None:
    async def steps(running: Running) -> None:
        running.write(notes=HIDDEN)
        await running.reload()
        assert await running.rows("/api/v1/notes/1") == {"id": 1}
        assert (await running.notices()).keys() == {"v1/broken"}

    write_resources(tmp_path / "resources", {"broken": "feilds: {}\n"})
    run(database_url, tmp_path, steps)


def test_a_database_that_lets_nobody_in_refuses_the_reload_and_requests_go_on(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def steps(running: Running) -> None:
        name = database_url.rpartition("@/")[2].partition("?")[0]
        elsewhere = await asyncpg.connect(database_url.replace(f"/{name}?", "/postgres?"))
        try:
            await elsewhere.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            running.write(notes=HIDDEN)
            await running.reload()
            assert await running.rows("/api/v1/notes/1") == {"id": 1, "body": "note 1"}
            told = "the files or the database could not be read"
            assert f"goes on: {told}; the log says more" in running.gateway.reloader.notice
            assert running.events == [Reloaded("refused", told)]
            assert name in caplog.text
            assert name not in running.gateway.reloader.notice
        finally:
            await elsewhere.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
            await elsewhere.close()
        await running.reload()
        assert await running.rows("/api/v1/notes/1") == {"id": 1}

    run(database_url, tmp_path, steps)


def test_what_is_in_flight_ends_on_the_catalog_that_it_began_on(database_url: str, tmp_path: Path) -> None:
    async def steps(running: Running) -> None:
        with Gate(database_url).running() as gate:
            await asyncio.to_thread(gate.close)
            in_flight = asyncio.create_task(running.rows("/api/v1/gated/1"))
            while await asyncio.to_thread(gate.waiting) != 1:
                await asyncio.sleep(0.01)
            running.write(gated="key: id\nlist: {sort: [id]}\nfields:\n  body: {hidden: true}\n")
            await running.reload()
            assert running.gateway.reloader.version == 2
            await asyncio.to_thread(gate.open)
            assert (await in_flight)["body"] == "note 1"
            assert "body" not in await running.rows("/api/v1/gated/1")

    run(database_url, tmp_path, steps, DATABASE_STATEMENT_TIMEOUT_SECONDS="600")


def test_tables_that_change_under_load_again_and_again_cost_no_request_its_answer(database_url: str, tmp_path: Path) -> None:
    """A column comes and goes; when it has gone, what named it is asked again by the tables of now."""
    statuses: dict[int, int] = {}

    async def steps(running: Running) -> None:
        over = asyncio.Event()

        async def ask(number: int) -> None:
            while not over.is_set():
                key = number * 10 + 1
                answers = [
                    await running.client.get(f"/api/v1/notes/{key}"),
                    await running.client.get("/api/v1/notes?limit=5"),
                    await running.client.patch(f"/api/v1/notes/{key}", json={"body": "another"}),
                ]
                for answer in answers:
                    statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1

        askers = [asyncio.create_task(ask(number)) for number in range(4)]
        connection = await asyncpg.connect(database_url)
        for _ in range(ROUNDS):
            await connection.execute("ALTER TABLE notes ADD COLUMN extra text DEFAULT 'more'")
            await running.reload()
            assert "extra" in await running.rows("/api/v1/notes/1")
            await connection.execute("ALTER TABLE notes DROP COLUMN extra")
            assert "extra" not in await running.rows("/api/v1/notes/1")
        over.set()
        await asyncio.gather(*askers)
        await connection.close()
        assert running.gateway.reloader.version == 2 * ROUNDS + 1

    run(database_url, tmp_path, steps)
    assert statuses.keys() == {200}


def test_a_file_that_is_being_written_is_no_business_of_a_statement_that_met_another_table(
    database_url: str, tmp_path: Path
) -> None:
    async def steps(running: Running) -> None:
        connection = await asyncpg.connect(database_url)
        running.write(notes=HIDDEN, gated="key: [id\n")
        await connection.execute("DROP VIEW gated; ALTER TABLE notes RENAME COLUMN body TO words")
        await connection.execute("CREATE VIEW gated AS SELECT id, words FROM notes")
        assert await running.rows("/api/v1/notes/1") == {"id": 1, "words": "note 1"}
        await connection.execute("DROP TABLE notes CASCADE")
        answer = await running.client.get("/api/v1/notes/1")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "UNAVAILABLE")
        assert answer.headers["retry-after"]
        await connection.close()

    run(database_url, tmp_path, steps)


def test_a_catalog_that_stays_wrong_is_looked_at_ever_more_rarely() -> None:
    looks = 0

    async def go() -> None:
        nonlocal looks
        live: Any = object()

        async def draft(with_files: bool) -> Any:
            nonlocal looks
            assert not with_files
            looks += 1
            raise RuntimeError

        async def swap(_draft: Any) -> None:
            raise AssertionError

        reloader = Reloader(lambda: live, lambda: b"", draft, swap, clock=lambda: 1000.0)
        for _ in range(8):
            assert await asyncio.gather(*(reloader.catch_up(live) for _ in range(10))) == [False] * 10

    run_in_no_time(go())
    assert looks == 4, "after pauses of 0.5, 1 and 2 seconds; the next one is longer than a request waits"


def test_sighup_reloads_every_worker_and_none_is_started_anew(database_url: str, tmp_path: Path) -> None:
    resources = site(database_url, tmp_path)
    with server(tmp_path, database_url, tmp_path / "log", "--workers", "2") as found:
        before = serving_workers(found)
        write_resources(resources, {"notes": HIDDEN})
        found.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: found.log.read_text().count("resources are served anew") == 2)
        assert found.client.get("/api/v1/notes/1").json()["data"] == {"id": 1}
        assert all(worker.is_running() for worker in before)
