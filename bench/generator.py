"""The load of the closed-loop measures: each of N connections sends its next request when its last answer is whole.

    echo '{"port": 8000, …}' | python -m bench.generator

Takes a `Load` as JSON on stdin. Prints `begin` when the warm-up is over, `end` when the time is, then an `Outcome` as JSON.
One process on uvloop, no HTTP library: what it needs of the two cores is not there for the server. It reads only what it must
of an answer: the status, the length, and whether `X-Cache` says hit.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from random import Random
from typing import cast

import msgspec
import uvloop

from bench.model import Latency, latency_of
from bench.scenarios import DIALECTS, SCENARIOS, Rows, http_bytes

PREPARED_REQUESTS = 20_000
"""Of a reading scenario, made beforehand and then sent round and round."""
STALL_SECONDS = 10.0
"""The last answers may be late by this much."""
END_OF_HEAD = b"\r\n\r\n"
HEAD_BYTES = 1000
"""In which `X-Cache` is looked for."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to send where, and for how long. An empty `token` sends none."""

    port: int
    scenario: str
    dialect: str
    rows: Rows
    connections: int
    seconds: float
    warmup_seconds: float = 0.5
    token: str = ""
    seed: int = 1


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came back in the measured time. `hits` are answers with `X-Cache: hit`, `marked` those with any `X-Cache`."""

    requests: int
    errors: int
    seconds: float
    latency: Latency | None
    cpu_seconds: float
    hits: int
    marked: int
    first_error: str


def requests_of(load: Load) -> Iterator[bytes]:
    """Endless requests of a load. Those of a writing scenario are made one by one, for each must be another."""
    scenario, render, random = SCENARIOS[load.scenario], DIALECTS[load.dialect], Random(load.seed)

    def made(number: int) -> bytes:
        return http_bytes(render(scenario.ask(random, load.rows, number)), load.token)

    number = 0
    if scenario.writes:
        while True:
            number += 1
            yield made(number)
    prepared = [made(number) for number in range(min(PREPARED_REQUESTS, max(load.rows.products, 1)))]
    while True:
        yield from prepared


class _Tally:
    """Counts of one window of time."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.cpu = time.process_time()
        self.latencies = array("d")
        self.errors = 0
        self.hits = 0
        self.marked = 0
        self.first_error = ""

    def note(self, answer: bytes, seconds: float) -> None:
        self.latencies.append(seconds)
        if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")):
            self.fail(answer[:400].decode("latin-1"))
        place = answer.find(b"\r\nx-cache: ", 0, HEAD_BYTES)
        if place > 0:
            self.marked += 1
            self.hits += answer.startswith(b"hit", place + 11)

    def fail(self, reason: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or reason

    def outcome(self) -> Outcome:
        return Outcome(
            requests=len(self.latencies),
            errors=self.errors,
            seconds=time.perf_counter() - self.started,
            latency=latency_of(self.latencies),
            cpu_seconds=time.process_time() - self.cpu,
            hits=self.hits,
            marked=self.marked,
            first_error=self.first_error,
        )


def answer_length(buffer: bytes) -> int:
    """Bytes of the whole answer that `buffer` begins with, 0 while its head is not whole. Raises ValueError without a length."""
    head = buffer.find(END_OF_HEAD)
    if head < 0:
        return 0
    place = buffer.find(b"ontent-length: ", 0, head)
    if place < 0:
        place = buffer.find(b"ontent-Length: ", 0, head)
        if place < 0:
            raise ValueError("an answer without Content-Length")
    return head + len(END_OF_HEAD) + int(buffer[place + 15 : buffer.index(b"\r", place)])


class _Window:
    """A stretch of time in which every connection is kept busy; over when the last answer is there."""

    def __init__(self, seconds: float, connections: int, requests: Iterator[bytes]) -> None:
        self.tally = _Tally()
        self.deadline = self.tally.started + seconds
        self.requests = requests
        self.busy = connections
        self.over = asyncio.Event()

    def leave(self) -> None:
        """One connection less is at work."""
        self.busy -= 1
        if not self.busy:
            self.over.set()


class _Connection(asyncio.Protocol):
    """A keep-alive connection. `window` is what it works for, None while it has nothing to do.

    `length` is the whole answer's, 0 while its head is not there yet.
    """

    def __init__(self) -> None:
        self.window: _Window | None = None
        self.buffer = b""
        self.length = 0
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def work(self, window: _Window) -> None:
        """Begins to work for a window."""
        self.window = window
        self.sent = time.perf_counter()
        self.transport.write(next(window.requests))

    def data_received(self, data: bytes) -> None:
        window = self.window
        if window is None:
            return
        buffer = self.buffer + data if self.buffer else data
        if not self.length:
            try:
                self.length = answer_length(buffer)
            except ValueError as fault:
                self.give_up(str(fault))
                return
        if not self.length or len(buffer) < self.length:
            self.buffer = buffer
            return
        now = time.perf_counter()
        window.tally.note(buffer, now - self.sent)
        self.buffer, self.length = b"", 0
        if now < window.deadline:
            self.sent = now
            self.transport.write(next(window.requests))
        else:
            self.window = None
            window.leave()

    def connection_lost(self, fault: Exception | None) -> None:
        self.give_up(f"the server closed a connection that waited for an answer{f': {fault}' if fault else ''}")

    def give_up(self, reason: str) -> None:
        """What it waits for will not come: an error, and one connection less."""
        window, self.window = self.window, None
        self.transport.abort()
        if window is not None:
            window.tally.fail(f"{reason}, after {time.perf_counter() - self.sent:.2f} s")
            window.leave()


async def drive(load: Load, mark: Callable[[str], None]) -> Outcome:
    """Sends the load, tells `mark` of `begin` and `end`, and gives what came of it. Raises OSError."""
    requests = requests_of(load)
    next(requests)
    await _busy(await _connected(load), requests, load.warmup_seconds)
    connections = await _connected(load)
    mark("begin")
    outcome = (await _busy(connections, requests, load.seconds)).outcome()
    mark("end")
    return outcome


async def _busy(connections: list[_Connection], requests: Iterator[bytes], seconds: float) -> _Tally:
    """A window with these connections, which are closed at its end. Who has no answer long after the end has given up."""
    window = _Window(seconds, len(connections), requests)
    for connection in connections:
        connection.work(window)
    try:
        async with asyncio.timeout(seconds + STALL_SECONDS):
            await window.over.wait()
    except TimeoutError:
        for connection in connections:
            if connection.window is not None:
                connection.give_up("no answer")
    for connection in connections:
        connection.transport.abort()
    await asyncio.sleep(0)  # in which they are closed
    return window.tally


async def _connected(load: Load) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(_Connection, "127.0.0.1", load.port))[1] for _ in range(load.connections)]


def main() -> None:
    """Reads the load, drives it, writes the outcome."""
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    outcome = uvloop.run(drive(load, lambda word: print(word, flush=True)))
    print(msgspec.json.encode(outcome).decode(), flush=True)


if __name__ == "__main__":
    main()
