"""Callers of a gateway: a bounded load over keep-alive connections, every answer noted, in a process's own thread.

It speaks HTTP/1.1 by hand, for a client library costs more CPU than the gateway, and the two share the machine's cores.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress

import msgspec

PATIENCE_SECONDS = 30.0


class Ask(msgspec.Struct, frozen=True):
    """One request. `headers` are (name, value) pairs."""

    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self) -> bytes:
        """Its bytes."""
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: gateway"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(self.body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


class Answer(msgspec.Struct, frozen=True):
    """What came back. `status` 0 is none: the connection was lost or refused, or nothing came in `PATIENCE_SECONDS`.

    `at` is when it was asked, by `time.monotonic`.
    """

    ask: Ask
    at: float
    seconds: float
    status: int
    headers: dict[str, str]
    body: bytes


class Answers:
    """What a load got, in the order in which it came."""

    def __init__(self) -> None:
        self.all: list[Answer] = []

    def __len__(self) -> int:
        return len(self.all)

    def statuses(self, since: float = 0.0) -> Counter[int]:
        """How many of each status, of those asked from `since` on."""
        return Counter(answer.status for answer in self.all if answer.at >= since)

    def slowest(self, since: float = 0.0) -> float:
        """Seconds of the slowest."""
        return max((answer.seconds for answer in self.all if answer.at >= since), default=0.0)

    def percentile(self, share: float, of: Callable[[Answer], bool] = lambda _answer: True) -> float:
        """Seconds that `share` of the answers took at the most."""
        found = sorted(answer.seconds for answer in self.all if of(answer))
        return found[min(len(found) - 1, int(share * len(found)))] if found else 0.0

    def first_success(self, since: float) -> float | None:
        """Seconds from `since` to the end of the first 2xx that was asked after it; None where there is none."""
        ends = [answer.at + answer.seconds for answer in self.all if answer.at >= since and 200 <= answer.status < 300]
        return min(ends) - since if ends else None

    def wrong(self, allowed: Sequence[int] = (200, 201, 204, 503)) -> list[Answer]:
        """Answers of other statuses, and refusals that do not say when to come back."""
        return [
            answer
            for answer in self.all
            if answer.status not in allowed or (answer.status == 503 and "retry-after" not in answer.headers)
        ]


class Load:
    """`callers` connections, each asking what `next_ask` gives it, one after another. Use `loading`."""

    def __init__(self, port: int, callers: int, next_ask: Callable[[], Ask], pause_seconds: float) -> None:
        self.answers = Answers()
        self._port = port
        self._callers = callers
        self._next_ask = next_ask
        self._pause_seconds = pause_seconds
        self._stopping = False

    def run(self, done: Future[None]) -> None:
        """The thread's life, until `stop`."""
        try:
            asyncio.run(self._run())
        except BaseException as fault:  # noqa: BLE001 - it is the test's, which waits for it
            done.set_exception(fault)
        else:
            done.set_result(None)

    def stop(self) -> None:
        """No more requests; those under way are waited for."""
        self._stopping = True

    def wait_for(self, count: int, seconds: float = 60.0) -> None:
        """Until so many more answers came. Raises TimeoutError."""
        wanted = len(self.answers) + count
        end = time.monotonic() + seconds
        while len(self.answers) < wanted:
            if time.monotonic() > end:
                raise TimeoutError(f"{wanted - len(self.answers)} of {count} answers are missing after {seconds:g} s")
            time.sleep(0.005)

    def wait_for_success(self, seconds: float = 60.0) -> None:
        """Until a request that is asked from now on succeeds. Raises TimeoutError."""
        since = time.monotonic()
        end = since + seconds
        while self.answers.first_success(since) is None:
            if time.monotonic() > end:
                raise TimeoutError(f"no 2xx within {seconds:g} s: {self.answers.statuses(since)}")
            time.sleep(0.005)

    async def _run(self) -> None:
        await asyncio.gather(*(self._call() for _ in range(self._callers)))

    async def _call(self) -> None:
        connection: Connection | None = None
        while not self._stopping:
            ask = self._next_ask()
            started = time.monotonic()
            status, body = 0, b""
            headers: dict[str, str] = {}
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    if connection is None:
                        connection = await Connection.open(self._port)
                    status, headers, body = await connection.ask(ask)
            except (OSError, EOFError, TimeoutError):
                pass
            self.answers.all.append(Answer(ask, started, time.monotonic() - started, status, headers, body))
            if connection is not None and (status == 0 or headers.get("connection") == "close"):
                connection.close()
                connection = None
            if status == 0 or self._pause_seconds:
                await asyncio.sleep(self._pause_seconds or 0.01)
        if connection is not None:
            connection.close()


class Connection:
    """One keep-alive connection to a gateway on this machine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Raises OSError."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, ask: Ask) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case name, body. Raises OSError or EOFError where the connection is lost."""
        self._writer.write(ask.encode())
        await self._writer.drain()
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        pairs = [line.partition(": ") for line in lines]
        headers = {name.lower(): value for name, _, value in pairs}
        length = 0 if ask.method == "HEAD" else int(headers.get("content-length", "0"))
        body = await self._reader.readexactly(length) if length else b""
        return int(first.split(" ")[1]), headers, body

    def close(self) -> None:
        """Ends it."""
        with suppress(OSError):
            self._writer.close()


def stale(writes: Answers, reads: Answers) -> list[str]:
    """Reads that gave a row as it was before a write that had been acknowledged when they were asked.

    `writes` are of one caller, and each writes a greater `value` than the one before; so a row's may only grow.
    """
    acknowledged: dict[str, list[tuple[float, int]]] = {}
    for write in writes.all:
        if write.status == 200:
            value: int = msgspec.json.decode(write.ask.body)["value"]
            acknowledged.setdefault(write.ask.path, []).append((write.at + write.seconds, value))
    found = []
    for read in reads.all:
        if read.status == 200:
            value = msgspec.json.decode(read.body)["data"]["value"]
            wanted = max((least for end, least in acknowledged.get(read.ask.path, ()) if end < read.at), default=0)
            if value < wanted:
                found.append(f"{read.ask.path}: {value} after {wanted} was acknowledged, x-cache {read.headers['x-cache']}")
    return found


@contextmanager
def loading(port: int, next_ask: Callable[[], Ask], callers: int = 8, pause_seconds: float = 0.0) -> Iterator[Load]:
    """A load for as long as the block runs; at its end all answers are there. `pause_seconds` is each caller's, between asks."""
    load = Load(port, callers, next_ask, pause_seconds)
    done: Future[None] = Future()
    thread = threading.Thread(target=load.run, args=(done,), daemon=True)
    thread.start()
    try:
        yield load
    finally:
        load.stop()
        done.result(PATIENCE_SECONDS + 10)
        thread.join(10)
