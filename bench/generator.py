"""The load of the closed-loop measures: each of N connections sends its next request when its last answer is whole.

    echo '{"port": 8000, …}' | python -m bench.generator

Takes a `Load` as JSON on stdin. Prints `begin` when the warm-up is over, `end` when the time is, then an `Outcome` as JSON.
One thread, one selector, no HTTP library: what it needs of the two cores is not there for the server. It reads only what it
must of an answer: the status, the length, and whether `X-Cache` says hit.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from random import Random

import msgspec

from bench.model import Latency, latency_of
from bench.scenarios import DIALECTS, SCENARIOS, Rows, http_bytes

PREPARED_REQUESTS = 20_000
"""Of a reading scenario, made beforehand and then sent round and round."""
STALL_SECONDS = 10.0
"""Without any answer for this long the load ends, and what is in flight counts as errors."""
END_OF_HEAD = b"\r\n\r\n"


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


class _Connection:
    """A socket with one request under way. `length` is what the whole answer has, 0 while its head is not there yet."""

    __slots__ = ("buffer", "length", "sent", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=STALL_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.length = 0
        self.sent = 0.0


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
        place = answer.find(b"\r\nx-cache: ", 0, 2000)
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


def drive(load: Load, mark: Callable[[str], None]) -> Outcome:
    """Sends the load, tells `mark` of `begin` and `end`, and gives what came of it. Raises OSError, ValueError."""
    requests = requests_of(load)
    next(requests)
    selector = selectors.DefaultSelector()
    connections = [_Connection(load.port) for _ in range(load.connections)]
    for connection in connections:
        connection.socket.setblocking(False)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    try:
        _window(selector, connections, requests, load.warmup_seconds)
        mark("begin")
        tally = _window(selector, connections, requests, load.seconds)
        outcome = tally.outcome()
        mark("end")
    finally:
        for connection in connections:
            connection.socket.close()
        selector.close()
    return outcome


def _window(
    selector: selectors.BaseSelector, connections: list[_Connection], requests: Iterator[bytes], seconds: float
) -> _Tally:
    """Keeps every connection busy for `seconds`, then waits for what is under way."""
    clock = time.perf_counter
    tally = _Tally()
    deadline = tally.started + seconds
    for connection in connections:
        connection.sent = clock()
        connection.socket.send(next(requests))
    busy = len(connections)
    while busy:
        ready = selector.select(STALL_SECONDS)
        if not ready:
            for _ in range(busy):
                tally.fail(f"no answer for {STALL_SECONDS:g} seconds")
            break
        for key, _ in ready:
            connection = key.data
            data = connection.socket.recv(262_144)
            if not data:
                raise ConnectionError("the server closed a connection")
            buffer = connection.buffer + data if connection.buffer else data
            if not connection.length:
                connection.length = answer_length(buffer)
            if not connection.length or len(buffer) < connection.length:
                connection.buffer = buffer
                continue
            now = clock()
            tally.note(buffer, now - connection.sent)
            connection.buffer, connection.length = b"", 0
            if now < deadline:
                connection.sent = now
                connection.socket.send(next(requests))
            else:
                busy -= 1
    return tally


def main() -> None:
    """Reads the load, drives it, writes the outcome."""
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    outcome = drive(load, lambda word: print(word, flush=True))
    print(msgspec.json.encode(outcome).decode(), flush=True)


if __name__ == "__main__":
    main()
