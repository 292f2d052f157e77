"""Two gateways behind nginx, each stopped and started in turn under load: no request fails, no write is lost or made twice."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import count, cycle
from pathlib import Path

import asyncpg
import httpx
import pytest

from gateway.idempotency import make_tables
from tests.conftest import execute
from tests.deploy.proxy import Proxy, proxying
from tests.journeys.processes import COMMAND, PATIENCE_SECONDS, environment, free_port
from tests.journeys.test_stopping import eventually
from tests.serving import write_resources

THREADS = 4
TURN_SECONDS = THREADS / 300
"""From a thread's request to its next: 300 a second in all, on a machine that keeps up."""
LEAST_ANSWERS = 100
"""Between two steps, so that each meets requests."""
ROUNDS = 2
SCHEMA = f"""
CREATE TABLE entries (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL);
CREATE TABLE counters (id int PRIMARY KEY, value int NOT NULL);
INSERT INTO counters SELECT n, 0 FROM generate_series(1, {THREADS}) n;
"""
RESOURCES = {"entries": "list: {sort: [id]}\n", "counters": "require_if_match: true\nlist: {sort: [id]}\n"}


class Load:
    """Reads and writes, one after the other on each of some connections, until `over`.

    `acknowledged` has the id that each item was told to have; `counted`, by counter, how often it was told to be one higher.
    """

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.over = threading.Event()
        self.answers: Counter[str] = Counter()
        self.acknowledged: dict[str, int] = {}
        self.counted: Counter[int] = Counter()
        self.threads = [threading.Thread(target=self._run, args=(number,)) for number in range(1, THREADS + 1)]

    def _run(self, number: int) -> None:
        with self._proxy.client() as client:
            due = time.monotonic()
            for ask in cycle(self._requests(client, number)):
                due = max(due + TURN_SECONDS, time.monotonic())
                if self.over.wait(due - time.monotonic()):
                    return
                try:
                    told = ask()
                except httpx.TransportError as fault:
                    told = repr(fault)
                self.answers[told] += 1

    def _requests(self, client: httpx.Client, number: int) -> list[Callable[[], str]]:
        items = (f"{number}-{turn}" for turn in count())
        tag = client.get(f"/api/v1/counters/{number}").headers["etag"]

        def read(path: str) -> str:
            return f"GET {client.get(path).status_code}"

        def create(keyed: bool) -> str:
            item = next(items)
            headers = {"idempotency-key": f'"{item}"'} if keyed else {}
            answer = client.post("/api/v1/entries", json={"item": item}, headers=headers)
            if answer.status_code == 201:
                self.acknowledged[item] = answer.json()["data"]["id"]
            return f"POST {answer.status_code}"

        def add() -> str:
            nonlocal tag
            following = {"value": self.counted[number] + 1}
            answer = client.patch(f"/api/v1/counters/{number}", json=following, headers={"if-match": tag})
            if answer.status_code == 200:
                tag = answer.headers["etag"]
                self.counted[number] += 1
            return f"PATCH {answer.status_code}"

        return [
            lambda: read(f"/api/v1/counters/{number}"),
            lambda: create(keyed=False),
            lambda: read("/api/v1/entries?limit=5"),
            lambda: create(keyed=True),
            add,
        ]

    def goes_on(self) -> bool:
        """Whether some more answers come."""
        enough = self.answers.total() + LEAST_ANSWERS
        return eventually(lambda: self.answers.total() >= enough)


def start(directory: Path, url: str, port: int, workers: str) -> subprocess.Popen[bytes]:
    """A gateway, once it is ready."""
    variables = environment(url, SHUTDOWN_DRAIN_SECONDS="1", LOG_LEVEL="warning", CACHE_TTL_SECONDS="0", WORKERS=workers)
    with (directory / f"log-{port}").open("ab") as log:
        process = subprocess.Popen([COMMAND, "serve", "--port", str(port)], cwd=directory, env=variables, stdout=log, stderr=log)
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=20).status_code == 200:
                return process
        except httpx.TransportError:
            time.sleep(0.02)
    process.kill()
    raise AssertionError((directory / f"log-{port}").read_text())


def is_sent_to(port: int) -> bool:
    """Whether nginx sends requests to this gateway."""
    return 'route="/api/v1/entries' in httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=20).text


async def stored(url: str) -> tuple[dict[str, list[int]], dict[int, int]]:
    """The ids that each item has, and each counter's value."""
    connection = await asyncpg.connect(url)
    try:
        entries = await connection.fetch("SELECT item, array_agg(id) FROM entries GROUP BY item")
        return dict(map(tuple, entries)), dict(map(tuple, await connection.fetch("SELECT id, value FROM counters")))
    finally:
        await connection.close()


@pytest.mark.long
@pytest.mark.parametrize("workers", ["1", "2"])
def test_gateways_that_are_restarted_in_turn_behind_nginx_fail_no_request(
    database_url: str, tmp_path: Path, workers: str
) -> None:
    execute(database_url, SCHEMA)
    make_tables(database_url)
    write_resources(tmp_path / "resources", RESOURCES)
    ports = [free_port(), free_port()]
    (tmp_path / "nginx").mkdir()
    processes = {port: start(tmp_path, database_url, port, workers) for port in ports}
    try:
        with proxying(tmp_path / "nginx", [f"127.0.0.1:{port}" for port in ports]) as proxy:
            load = Load(proxy)
            for thread in load.threads:
                thread.start()
            try:
                for port in ports * ROUNDS:
                    assert load.goes_on()
                    processes[port].send_signal(signal.SIGTERM)
                    assert processes[port].wait(PATIENCE_SECONDS) == 0
                    assert load.goes_on()
                    processes[port] = start(tmp_path, database_url, port, workers)
                    assert eventually(partial(is_sent_to, port)), "nginx tries it again within its fail_timeout"
            finally:
                load.over.set()
                for thread in load.threads:
                    thread.join()
        assert load.answers.keys() == {"GET 200", "POST 201", "PATCH 200"}
        entries, counters = asyncio.run(stored(database_url))
        assert entries == {item: [key] for item, key in load.acknowledged.items()}
        assert counters == load.counted
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
