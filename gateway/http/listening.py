"""The end of listening, at which no connection is lost that its peer believes in.

A kernel makes connections on its own and keeps them for who listens. Those that nobody has taken when the listening socket is
closed are reset, with the requests that were sent on them; a proxy that has just sent a POST must tell its caller of a failure,
for it may not send it again. So new connections are kept from being made first, those that are there are taken, and then
the socket is closed. Whoever tried to connect meanwhile was not answered, tries again after a second, as TCP does, and is
refused: of that a proxy knows that nothing was sent, and goes to another gateway.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import socket
import struct
import sys
from asyncio.base_events import Server
from collections.abc import Iterable

logger = logging.getLogger("gateway")

TAKE_SECONDS = 0.05
"""For connections that are being made when the last one may begin: a few round trips to a proxy, and turns of the loop."""

SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python has no name for it
NO_SYN = (
    (0x30, 0, 0, 13),  # the flags of TCP's header (RFC 9293, 3.1)
    (0x45, 0, 1, 0x02),  # with SYN
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # else take the whole packet
)
"""A program of the classic BPF: code, jump if true, jump if false, operand. It may be set by whoever holds the socket."""


async def stop_listening(servers: Iterable[Server]) -> None:
    """No new connections from now on, and all that are there have been taken by the end.

    Where a socket is shared with other processes, each of them is to do so, and to close it. Where the kernel knows no filters
    (it is not Linux) or a system lets no ordinary user set one, a connection that is made in the last moment may be reset.
    """
    for server in servers:
        for listening in server.sockets:
            try:
                _refuse_new(listening.fileno())
            except OSError as fault:
                logger.info("new connections cannot be kept off before the socket is closed: %s", fault.strerror)
    await asyncio.sleep(TAKE_SECONDS)  # in which the loop takes all that are there


def _refuse_new(descriptor: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in NO_SYN)
    program = ctypes.create_string_buffer(code)
    with socket.socket(fileno=os.dup(descriptor)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(NO_SYN), ctypes.addressof(program)))
