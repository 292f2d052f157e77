"""A TCP port that leads to a server, and does to what passes whatever a network can do.

It lives in a thread and a loop of its own, so that a test that waits cannot hold it up. What it did it counts: a test of a
fault proves by these counters that its fault really happened.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, Literal, TypeVar

import msgspec

T = TypeVar("T")

Mode = Literal["pass", "latency", "freeze", "swallow", "trickle", "refuse"]
"""What happens to bytes, both ways.

`latency`   each piece waits `delay_seconds`, and up to `jitter_seconds` more; order is kept
`freeze`    bytes are held until another mode comes: a peer that stands still, or a route that is gone for a while
`swallow`   new connections are taken, and whatever comes is thrown away: a half-open peer
`trickle`   one byte a second
`refuse`    new connections are reset at once, and those that were open are
"""

CHUNK_BYTES = 65536
TRICKLE_SECONDS = 1.0


class Counts(msgspec.Struct):
    """What the proxy did so far. Bytes are of both directions."""

    connections: int = 0
    passed_bytes: int = 0
    delayed_pieces: int = 0
    held_pieces: int = 0
    swallowed_bytes: int = 0
    trickled_bytes: int = 0
    refused: int = 0
    resets: int = 0


class Proxy:
    """Use `proxying`. All methods are for other threads than its own."""

    def __init__(self, target: str | tuple[str, int], chance: random.Random) -> None:
        self.counts = Counts()
        self.port = 0
        self.delay_seconds = 0.0
        self.jitter_seconds = 0.0
        self._target = target
        self._chance = chance
        self._mode: Mode = "pass"
        self._moved = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None

    @property
    def mode(self) -> Mode:
        """What it does now."""
        return self._mode

    def turn(self, mode: Mode, *, delay_seconds: float = 0.0, jitter_seconds: float = 0.0) -> None:
        """Another mode, from now on, for open connections too."""
        self.delay_seconds, self.jitter_seconds = delay_seconds, jitter_seconds
        self._in_loop(lambda: self._turn(mode))

    def reset(self) -> None:
        """Cuts all connections that are open, by RST; new ones are taken."""
        self._in_loop(self._reset)

    @property
    def open(self) -> int:
        """Connections that clients hold now."""
        return len(self._open)

    def run(self, ready: Future[None]) -> None:
        """The thread's life."""
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._listen())
            ready.set_result(None)
            self._loop.run_forever()
        except BaseException as fault:
            if not ready.done():
                ready.set_exception(fault)
            raise
        finally:
            self._loop.close()

    def stop(self) -> None:
        """Ends every connection, and the loop."""
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)

    # --- in its own loop -------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # transports say that they are lost a turn later

    def _turn(self, mode: Mode) -> None:
        self._mode = mode
        self._moved.set()
        self._moved = asyncio.Event()
        if mode == "refuse":
            self._reset()

    def _reset(self) -> None:
        for writer in list(self._open):
            self.counts.resets += 1
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "refuse":
            self.counts.refused += 1
            writer.transport.abort()
            return
        self.counts.connections += 1
        self._open.add(writer)
        if task := asyncio.current_task():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            await self._connect(reader, writer)
        except asyncio.CancelledError:
            pass  # by `_close` alone; asyncio's streams would log one that is passed on
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "swallow":
            await self._swallow(reader)
            return
        try:
            if isinstance(self._target, str):
                upstream, back = await asyncio.open_unix_connection(self._target)
            else:
                upstream, back = await asyncio.open_connection(*self._target)
        except OSError:
            return
        ways = [self._spawn(self._pass_on(reader, back)), self._spawn(self._pass_on(upstream, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            back.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._pass(data, writer)

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self._mode == "freeze":
            self.counts.held_pieces += 1
        while self._mode == "freeze":
            await self._moved.wait()
        match self._mode:
            case "swallow":
                self.counts.swallowed_bytes += len(data)
                return
            case "trickle":
                await self._trickle(data, writer)
                return
            case "latency":
                self.counts.delayed_pieces += 1
                await asyncio.sleep(self.delay_seconds + self.jitter_seconds * self._chance.random())
        self.counts.passed_bytes += len(data)
        writer.write(data)
        await writer.drain()

    async def _trickle(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        for position in range(len(data)):
            if self._mode != "trickle":
                await self._pass(data[position:], writer)
                return
            writer.write(data[position : position + 1])
            self.counts.trickled_bytes += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), TRICKLE_SECONDS)

    async def _swallow(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                self.counts.swallowed_bytes += len(data)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _in_loop(self, call: Callable[[], None]) -> None:
        async def do() -> None:
            call()

        self._wait(do())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


@contextmanager
def proxying(target: str | tuple[str, int], seed: int = 0) -> Iterator[Proxy]:
    """A proxy to a Unix socket's path or an address, until the block ends."""
    proxy = Proxy(target, random.Random(seed))
    ready: Future[None] = Future()
    thread = threading.Thread(target=proxy.run, args=(ready,), daemon=True)
    thread.start()
    try:
        ready.result(10)
        yield proxy
    finally:
        proxy.stop()
        thread.join(10)
