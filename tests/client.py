"""A client of a gateway on this machine: httpx's own, over plain sockets.

What httpx sends by is made for every server there is, and takes a test more time than the gateway takes to answer. This one
speaks HTTP/1.1 in clear over connections that it keeps, takes each answer whole, and raises httpx's exceptions.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

import httptools
import httpx

KEPT_SECONDS = 4.0
"""Less than a server keeps a connection that is idle."""


def client_of(base_url: str, timeout: float = 20) -> httpx.Client:
    """A client that any number of threads may use."""
    return httpx.Client(base_url=base_url, timeout=timeout, transport=_Transport())


class _Answer:
    """What the parser tells of one answer; of those before it, which are interim, nothing is kept."""

    def __init__(self, to_head: bool) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []
        self.is_whole = False
        self.may_follow = False
        self._to_head = to_head

    def on_message_begin(self) -> None:
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        self.may_follow = self.parser.should_keep_alive()
        self.is_whole = self._to_head and self.status >= 200

    def on_body(self, part: bytes) -> None:
        self.body.append(part)

    def on_message_complete(self) -> None:
        self.is_whole = self.status >= 200

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the connection is the end of the body."""
        told = {name.lower() for name, _ in self.headers}
        return self.status >= 200 and not told & {b"content-length", b"transfer-encoding"}


class _Transport(httpx.BaseTransport):
    """Sends requests over connections that were kept, or new ones."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, tuple[str, int], socket.socket]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme != "http":
            raise httpx.UnsupportedProtocol("only http://", request=request)
        address = (request.url.host, request.url.port or 80)
        timeout = request.extensions.get("timeout", {}).get("read")
        connection = self._taken(address) or self._connected(address, timeout, request)
        connection.settimeout(timeout)
        try:
            with contextlib.suppress(ConnectionError):  # it may have answered before it hung up
                connection.sendall(_message(request))
            answer = _received(connection, request)
        except BaseException as fault:
            connection.close()
            if isinstance(fault, TimeoutError):
                raise httpx.ReadTimeout(str(fault), request=request) from fault
            if isinstance(fault, OSError):
                raise httpx.ReadError(str(fault), request=request) from fault
            raise
        if answer.may_follow:
            self._kept.append((time.monotonic(), address, connection))
        else:
            connection.close()
        stream = httpx.ByteStream(b"".join(answer.body))
        return httpx.Response(answer.status, headers=answer.headers, stream=stream)

    def _taken(self, address: tuple[str, int]) -> socket.socket | None:
        """A connection that was kept and is open still."""
        while self._kept:
            try:
                since, to, connection = self._kept.pop()
            except IndexError:  # another thread was quicker
                return None
            connection.settimeout(0)
            if to == address and time.monotonic() - since < KEPT_SECONDS:
                try:
                    connection.recv(1, socket.MSG_PEEK)
                except BlockingIOError:
                    return connection
                except OSError:
                    pass
            connection.close()
        return None

    def _connected(self, address: tuple[str, int], timeout: float | None, request: httpx.Request) -> socket.socket:
        try:
            connection = socket.create_connection(address, timeout)
        except TimeoutError as fault:
            raise httpx.ConnectTimeout(str(fault), request=request) from fault
        except OSError as fault:
            raise httpx.ConnectError(str(fault), request=request) from fault
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def close(self) -> None:
        while self._kept:
            self._kept.pop()[2].close()


def _message(request: httpx.Request) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%b: %b" % header for header in request.headers.raw]
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    stream: Any = request.stream
    if "transfer-encoding" not in request.headers:
        return head + b"".join(stream)
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in stream if part) + b"0\r\n\r\n"


def _received(connection: socket.socket, request: httpx.Request) -> _Answer:
    answer = _Answer(request.method == "HEAD")
    while not answer.is_whole:
        part = connection.recv(65536)
        if not part and answer.ends_with_connection:
            break
        if not part:
            raise httpx.RemoteProtocolError("the server hung up before its answer was whole", request=request)
        try:
            answer.parser.feed_data(part)
        except httptools.HttpParserError as fault:
            raise httpx.RemoteProtocolError(str(fault), request=request) from fault
    return answer
