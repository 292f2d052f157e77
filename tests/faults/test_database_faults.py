"""The database is restarted, cut off, frozen and exhausted under load: nothing hangs, nothing lies, and it is back at once."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import httpx
import pytest

from tests.faults.load import loading
from tests.faults.machines import Gateway
from tests.faults.proxy import Mode
from tests.faults.shop import Machines, mixed, reads

pytestmark = pytest.mark.xdist_group("faults")

START = "SELECT pg_postmaster_start_time()::text"
TERMINATE = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
MOST_SECONDS = 6.5
"""An answer's, whatever the database does: the statement timeout, a second of grace, and what two busy cores add."""


def levels_of_503(served: Gateway) -> Counter[str]:
    """How many lines of its log tell of a request for data that was answered 503, by their level."""
    lines = map(json.loads, served.log.read_text().splitlines())
    return Counter(line["level"] for line in lines if line.get("status") == 503 and line["route"].startswith("/api/"))


def test_a_database_that_is_restarted_under_load_costs_503s_and_no_other_failure(machines: Machines, served: Gateway) -> None:
    with loading(served.port, mixed()) as load:
        load.wait_for(300)
        (before,) = machines.sql(START)
        machines.postgres.restart(signal.SIGQUIT)
        load.wait_for_success()
        load.wait_for(300)
    assert machines.sql(START) != [before]
    assert load.answers.wrong() == []
    assert load.answers.statuses()[503] > 0
    assert load.answers.slowest() < MOST_SECONDS


def test_reads_survive_that_all_backends_are_terminated(machines: Machines, served: Gateway) -> None:
    with loading(served.port, reads()) as load:
        ended = 0
        for _ in range(5):
            load.wait_for(200)
            ended += machines.sql(TERMINATE)[0]
        load.wait_for(200)
    assert ended >= 5
    assert load.answers.statuses().keys() == {200}


def test_reads_survive_that_all_connections_are_reset(machines: Machines, served: Gateway) -> None:
    with loading(served.port, reads()) as load:
        for _ in range(5):
            load.wait_for(200)
            machines.database.reset()
        load.wait_for(200)
    assert machines.database.counts.resets >= 5
    assert load.answers.statuses().keys() == {200}


@pytest.mark.parametrize(
    "mode", ["freeze", "refuse", *(pytest.param(mode, marks=pytest.mark.long) for mode in ("swallow", "trickle"))]
)
def test_a_way_to_the_database_that_is_blocked_costs_503s_and_no_hang(mode: Mode, machines: Machines, served: Gateway) -> None:
    with loading(served.port, reads()) as load:
        load.wait_for(200)
        machines.database.turn(mode)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert served.client.get("/health/live").status_code == 200
            time.sleep(0.1)
        assert served.ready().status_code == 503
        machines.database.turn("pass")
        back = time.monotonic()
        load.wait_for_success()
        load.wait_for(200)
        served.wait_until_ready()
    counts = machines.database.counts
    assert counts.held_pieces + counts.swallowed_bytes + counts.trickled_bytes + counts.refused > 0
    assert load.answers.wrong() == []
    assert load.answers.statuses()[503] > 0
    assert load.answers.slowest() < MOST_SECONDS
    assert load.answers.statuses(since=back + 5).keys() <= {200}
    levels = levels_of_503(served)
    assert levels["warning"] > levels["error"], "what the breaker refused, and what met the fault itself"


def test_a_database_that_stands_still_costs_503s_and_no_slot(machines: Machines, served: Gateway) -> None:
    with loading(served.port, mixed()) as load:
        load.wait_for(200)
        with machines.postgres.frozen() as frozen:
            end = time.monotonic() + 3
            while time.monotonic() < end:
                time.sleep(0.1)
            assert served.ready().status_code == 503
        load.wait_for_success()
        load.wait_for(300)
    assert frozen > 5
    assert load.answers.wrong((200, 408, 503)) == []
    assert load.answers.statuses()[503] > 0
    assert load.answers.slowest() < MOST_SECONDS


@pytest.mark.long
def test_latency_makes_answers_late_and_nothing_else(machines: Machines, served: Gateway) -> None:
    machines.database.turn("latency", delay_seconds=0.02, jitter_seconds=0.02)
    with loading(served.port, mixed()) as load:
        load.wait_for(300)
    assert machines.database.counts.delayed_pieces > 0
    assert load.answers.statuses().keys() == {200}


@pytest.mark.long
def test_slow_queries_that_hold_every_slot_keep_nobody_from_an_answer(machines: Machines) -> None:
    slots = 3
    settings = {"DATABASE_POOL_MIN": "1", "DATABASE_POOL_MAX": str(slots), "DATABASE_ACQUIRE_TIMEOUT_SECONDS": "0.2"}
    with machines.gateway(**settings) as served, ThreadPoolExecutor(slots) as threads:
        url = f"http://127.0.0.1:{served.port}/api/v1"
        held = [threads.submit(httpx.get, f"{url}/{path}", timeout=20) for path in ("slow", "slow/1", "slow?sort=-id")]
        end = time.monotonic() + 2
        while time.monotonic() < end and machines.sql(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%slow%' AND wait_event = 'PgSleep'"
        ) != [slots]:
            time.sleep(0.01)
        refused = served.client.get("/api/v1/counters/1", headers={"Cache-Control": "no-cache"})
        assert (refused.status_code, refused.headers["retry-after"].isdigit()) == (503, True)
        assert served.client.get("/health/live").status_code == 200
        assert [answer.result().status_code for answer in held] == [200] * slots
        assert served.client.get("/api/v1/counters/1").status_code == 200


@pytest.mark.long
def test_a_server_without_connections_left_is_told_of_and_recovered_from(machines: Machines) -> None:
    async def take_all(enough: threading.Event, done: threading.Event) -> int:
        """Those that come free as well, for the gateway's are among them once it has lost them."""
        taken = []
        while not done.is_set():
            try:
                taken.append(await asyncpg.connect(machines.postgres.url))
            except asyncpg.TooManyConnectionsError:
                enough.set()
                await asyncio.sleep(0.005)
        for connection in taken:
            connection.terminate()
        return len(taken)

    enough, done = threading.Event(), threading.Event()
    with (
        machines.gateway(DATABASE_POOL_MIN="0", DATABASE_IDLE_SECONDS="1") as served,
        ThreadPoolExecutor(1) as thread,
        loading(served.port, reads(), pause_seconds=0.01) as load,
    ):
        load.wait_for(20)
        taking = thread.submit(asyncio.run, take_all(enough, done))
        try:
            assert enough.wait(30)
            end = time.monotonic() + 30
            while not load.answers.statuses()[503]:
                assert time.monotonic() < end
                machines.database.reset()
                time.sleep(0.2)
        finally:
            done.set()
        assert taking.result() > 100
        load.wait_for_success()
    assert load.answers.wrong() == []
