"""More than can be done: what costs nothing is answered all the same, and what would cost is refused at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.journeys.answers import check_answer
from tests.journeys.gated import Gate
from tests.journeys.test_reload import Running, run

pytestmark = pytest.mark.xdist_group("reload")


def test_with_every_place_taken_the_rest_is_refused_and_what_costs_nothing_is_answered(database_url: str, tmp_path: Path) -> None:
    async def steps(running: Running) -> None:
        client, cache, admission = running.client, running.gateway.cache, running.gateway.gate
        assert cache is not None
        async with asyncio.timeout(60):
            while not cache.hits:
                await running.rows("/api/v1/notes/2")
                await asyncio.sleep(0.01)
        with Gate(database_url).running() as gate:
            await asyncio.to_thread(gate.close)
            holders = [asyncio.create_task(running.rows(f"/api/v1/gated/{key}")) for key in (1, 2)]
            while await asyncio.to_thread(gate.waiting) != 1:  # the second one gathers with it, or waits too
                await asyncio.sleep(0.01)
            async with asyncio.timeout(60):
                while admission.in_use != 2:
                    await asyncio.sleep(0.01)
            admission.limit = 2
            refused = await client.get("/api/v1/notes/1")
            check_answer(refused)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "UNAVAILABLE")
            assert refused.headers["retry-after"] == "1"
            expected = {
                ("GET", "/api/v1/notes/2"): 200,  # kept
                ("GET", "/api/v1/notes?nothing=1"): 400,
                ("GET", "/api/v1/nothing"): 404,
                ("PUT", "/api/v1/notes/1"): 405,
                ("OPTIONS", "/api/v1/notes"): 204,
                ("GET", "/api/v1/openapi.json"): 200,
                ("GET", "/health/live"): 200,
                ("GET", "/health/ready"): 200,
                ("GET", "/metrics"): 200,
            }
            answers = {place: await client.request(*place) for place in expected}
            assert {place: answer.status_code for place, answer in answers.items()} == expected
            assert (await client.post("/api/v1/notes", json={"id": "x"})).status_code == 400
            assert (await client.post("/api/v1/notes", json={"id": 1000, "body": "more"})).status_code == 503
            told = answers["GET", "/metrics"].text.splitlines()
            assert {"admission_limit 2.0", "admission_in_use 2.0", 'requests_shed_total{reason="busy"} 1.0'} <= set(told)
            await asyncio.to_thread(gate.open)
            assert [row["id"] for row in await asyncio.gather(*holders)] == [1, 2]
        assert admission.in_use == 0
        admission.limit = 100
        assert (await client.post("/api/v1/notes", json={"id": 1000, "body": "more"})).status_code == 201

    patient = {"DATABASE_STATEMENT_TIMEOUT_SECONDS": "600", "CACHE_TTL_SECONDS": "3600"}
    run(database_url, tmp_path, steps, WORKERS="1", **patient)


def test_with_every_connection_held_a_request_is_refused_and_the_process_is_ready(database_url: str, tmp_path: Path) -> None:
    async def steps(running: Running) -> None:
        with Gate(database_url).running() as gate:
            await asyncio.to_thread(gate.close)
            holders = [asyncio.create_task(running.rows(f"/api/v1/gated?id={key}")) for key in (1, 2)]
            while await asyncio.to_thread(gate.waiting) < 1:
                await asyncio.sleep(0.01)
            refused = await running.client.get("/api/v1/gated/3?fields=id,gate")
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            assert (await running.client.get("/health/live")).status_code == 200
            assert (await running.client.get("/health/ready")).status_code == 200
            await asyncio.to_thread(gate.open)
            await asyncio.gather(*holders)

    patient = {"DATABASE_STATEMENT_TIMEOUT_SECONDS": "600", "DATABASE_ACQUIRE_TIMEOUT_SECONDS": "0.1"}
    run(database_url, tmp_path, steps, DATABASE_POOL_MAX="1", **patient)
