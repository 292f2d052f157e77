"""No write that was acknowledged is lost, and none under an Idempotency-Key is made twice, whatever is killed when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import httpx
import pytest

from tests.faults.writers import PATH, Works, entries, run, works, wrong

pytestmark = pytest.mark.xdist_group("faults")


@pytest.fixture(scope="module")
def over() -> Iterator[Works]:
    """Three gateways over one PostgreSQL."""
    with works() as made:
        yield made


def test_the_same_key_by_fifty_at_once_to_gateways_that_are_killed_makes_one_row(over: Works) -> None:
    """In each round fifty send one request to three gateways, one of which is killed at some moment of it."""
    chance = random.Random(1)

    async def send(client: httpx.AsyncClient, port: int, item: str) -> httpx.Response | None:
        await asyncio.sleep(chance.random() * 0.05)
        try:
            headers = {"idempotency-key": f'"{item}"'}
            return await client.post(f"http://127.0.0.1:{port}{PATH}", json={"item": item}, headers=headers)
        except httpx.TransportError:
            return None

    async def crowd(item: str, ports: list[int], victim: int) -> list[httpx.Response | None]:
        async def kill() -> None:
            await asyncio.sleep(chance.random() * 0.05)
            over.gateways[victim].process.kill()

        async with httpx.AsyncClient(timeout=20) as client:
            answers = [send(client, ports[number % 3], item) for number in range(50)]
            return (await asyncio.gather(kill(), *answers))[1:]

    killed_in_the_middle = 0
    for attempt in range(3):
        over.wait_until_ready()
        item, victim = f"crowd {attempt}", attempt % 3
        answers = asyncio.run(crowd(item, [served.port for served in over.gateways], victim))
        over.kill_gateway(victim)
        told = [answer for answer in answers if answer is not None]
        killed_in_the_middle += len(told) < len(answers)
        assert {answer.status_code for answer in told} <= {201, 409}
        last = over.gateways[(victim + 1) % 3].client.post(PATH, json={"item": item}, headers={"idempotency-key": f'"{item}"'})
        assert last.status_code == 201
        assert {answer.content for answer in told if answer.status_code == 201} <= {last.content}
        assert entries(over)[item] == [last.json()["data"]["id"]]
    assert killed_in_the_middle


def test_writes_survive_killed_gateways_and_backends(over: Works) -> None:
    over.wait_until_ready()
    outcomes = asyncio.run(run(over, writes=100, writers=8, seed=2, with_server=False))
    assert wrong(outcomes, entries(over)) == []
    assert over.killed.backends > 0


@pytest.mark.long
def test_two_thousand_writes_survive_everything() -> None:
    with works() as over:
        outcomes = asyncio.run(run(over, writes=2000, writers=16, seed=1, with_server=True))
        assert wrong(outcomes, entries(over)) == []
        assert min(over.killed.gateways, over.killed.backends, over.killed.servers) > 0
