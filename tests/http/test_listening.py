"""The end of listening, on real sockets: who is connected is heard, and who is not knows it."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import cast

import pytest
import uvloop

from gateway.http.listening import stop_listening

CONNECTIONS = 20
PATIENCE_SECONDS = 20


class Hearing(asyncio.Protocol):
    """Answers what it hears with the same."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_connections_that_nobody_has_taken_yet_are_taken_before_the_socket_is_closed(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def run() -> list[bytes]:
        server = await asyncio.get_running_loop().create_server(Hearing, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        # By the kernel: the loop stands still here.
        made = [socket.create_connection(address, timeout=PATIENCE_SECONDS) for _ in range(CONNECTIONS)]
        for connection in made:
            connection.sendall(b"a POST")
        await stop_listening([server])
        server.close()
        try:
            return [await asyncio.to_thread(connection.recv, 100) for connection in made]
        finally:
            for connection in made:
                connection.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(run()) == [b"a POST"] * CONNECTIONS


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux's kernel takes a filter for a socket")
def test_nobody_connects_before_the_socket_is_closed_and_then_they_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Where the system lets its user set a filter, or else the log says that it does not."""
    caplog.set_level(logging.INFO, "gateway")

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Hearing, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        try:  # uvloop does not end while a server that somebody knows of, a traceback for one, is open
            await stop_listening([server])
            is_refused = "new connections cannot be kept off before the socket is closed: Operation not permitted" in caplog.text
            with socket.socket() as late, nullcontext() if is_refused else pytest.raises(TimeoutError):
                late.settimeout(0.1)
                late.connect(address)
        finally:
            server.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)

    uvloop.run(run())
