"""What replicas cost the process: CPU of a point read and of a write, without them and with one, in one run.

    .venv/bin/python -m bench.replica_costs [--rounds 5] [--requests 4000]

In process, 32 requests in flight, over a primary and a streaming replica of this run. Each round measures all in turn, so that a
machine whose speed drifts shifts all of them; medians are printed, in µs of this process's CPU for one request. A read is of a
row that is not cached, by whoever brings no token; a write is a PATCH, with the token that its answer would bring.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from gateway.app import Gateway
from gateway.pipeline import Pipeline
from tests.failover.read_own_writes import RESOURCES, SCHEMA, prepare, until_all_answer
from tests.replication import Node, cluster
from tests.serving import settings_for, write_resources

IN_FLIGHT = 32
ROWS = 400

Request = Callable[[Pipeline, int], Awaitable[object]]


async def _read(pipeline: Pipeline, key: int) -> object:
    return await pipeline.read_row(pipeline.resource("v1", "notes"), (str(key),), {})


async def _write(pipeline: Pipeline, key: int) -> object:
    await pipeline.patch_row(pipeline.resource("v1", "notes"), (str(key),), b'{"number": 1}', False)
    return await pipeline.position()


async def _cpu_us(pipeline: Pipeline, request: Request, requests: int) -> float:
    left = iter(range(requests))

    async def caller() -> None:
        for _ in left:
            await request(pipeline, random.randrange(ROWS))

    began = time.process_time()
    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    return (time.process_time() - began) / requests * 1e6


async def _measure(nodes: tuple[Node, ...], directory: Path, rounds: int, requests: int) -> dict[str, float]:
    resources = write_resources(directory, RESOURCES)
    patient = {"DATABASE_POOL_MAX": "32", "DATABASE_ACQUIRE_TIMEOUT_SECONDS": "30"}
    alone = Gateway(settings_for(nodes[0].url, resources, **patient))
    several = Gateway(settings_for(nodes[0].url, resources, DATABASE_REPLICA_URLS=nodes[1].url, **patient))
    found: dict[str, list[float]] = {}
    await alone.start()
    await several.start()
    try:
        await until_all_answer(several)
        for _ in range(rounds):
            for kind, request in (("read", _read), ("write", _write)):
                for name, gateway in (("without", alone), ("with", several)):
                    cost = await _cpu_us(gateway._serving.pipeline, request, requests)
                    found.setdefault(f"{kind} {name}", []).append(cost)
    finally:
        await alone.stop()
        await several.stop()
    return {name: statistics.median(costs) for name, costs in found.items()}


def main() -> None:
    """Prints the medians and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=4000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, cluster("replica", schema=SCHEMA) as nodes:
        prepare(nodes[0])
        work = _measure(nodes, Path(directory), arguments.rounds, arguments.requests)
        costs = uvloop.run(work)
    for kind in ("read", "write"):
        without, having = costs[f"{kind} without"], costs[f"{kind} with"]
        print(f"{kind}: {without:.1f} µs without replicas, {having:.1f} µs with one: {having / without:.2f} x")


if __name__ == "__main__":
    main()
