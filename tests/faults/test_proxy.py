"""The proxy does what its modes say, and counts it: what the other tests here stand on."""

from __future__ import annotations

import asyncio
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.faults.proxy import Mode, Proxy, proxying


class _SayAgain(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with suppress(OSError):
            while data := self.request.recv(1000):
                self.request.sendall(data)


@contextmanager
def echo() -> Iterator[int]:
    """The port of a server that says again what it hears."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _SayAgain) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


async def hears(proxy: Proxy, text: bytes, seconds: float) -> bytes:
    """What comes back within so long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    heard = b""
    try:
        async with asyncio.timeout(seconds):
            writer.write(text)
            while len(heard) < len(text):
                piece = await reader.read(1000)
                if not piece:
                    break
                heard += piece
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    return heard


def test_bytes_pass_and_are_counted() -> None:
    with echo() as port, proxying(("127.0.0.1", port)) as proxy:
        assert asyncio.run(hears(proxy, b"hello", 10)) == b"hello"
        assert (proxy.counts.connections, proxy.counts.passed_bytes) == (1, 10)


def test_latency_delays_each_piece() -> None:
    with echo() as port, proxying(("127.0.0.1", port)) as proxy:
        proxy.turn("latency", delay_seconds=0.1)
        started = time.monotonic()
        assert asyncio.run(hears(proxy, b"hello", 10)) == b"hello"
        assert time.monotonic() - started >= 0.2
        assert proxy.counts.delayed_pieces == 2


@pytest.mark.parametrize(("mode", "count"), [("freeze", "held_pieces"), ("swallow", "swallowed_bytes"), ("refuse", "refused")])
def test_nothing_comes_through(mode: Mode, count: str) -> None:
    with echo() as port, proxying(("127.0.0.1", port)) as proxy:
        proxy.turn(mode)
        assert asyncio.run(hears(proxy, b"hello", 0.2)) == b""
        assert getattr(proxy.counts, count) > 0
        proxy.turn("pass")
        assert asyncio.run(hears(proxy, b"hello", 10)) == b"hello"


def test_a_trickle_is_a_byte_at_a_time() -> None:
    with echo() as port, proxying(("127.0.0.1", port)) as proxy:
        proxy.turn("trickle")
        assert asyncio.run(hears(proxy, b"hello", 0.3)) in (b"", b"h")
        assert 1 <= proxy.counts.trickled_bytes <= 3


def test_a_reset_ends_what_is_open() -> None:
    async def run(proxy: Proxy) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        while not proxy.open:
            await asyncio.sleep(0.01)
        proxy.reset()
        heard = b""
        with suppress(ConnectionResetError):
            heard = await reader.read(1)
        writer.transport.abort()
        return heard

    with echo() as port, proxying(("127.0.0.1", port)) as proxy:
        assert asyncio.run(run(proxy)) == b""
        assert proxy.counts.resets == 1
        assert asyncio.run(hears(proxy, b"hello", 10)) == b"hello"
