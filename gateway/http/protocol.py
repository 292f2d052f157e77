"""uvicorn's HTTP protocol, kept to what an honest caller sends: a deadline and a cap for the head of a request.

uvicorn waits for ever for a head that never ends, reads an endless one into memory, and takes what comes after a body (trailers)
for headers of the request. Here a head must be whole within `head_seconds` of its connection's or its own first byte and no
larger than `max_head_bytes`, the same holds for a body that nobody reads any more, and trailers are dropped. Refusals are the
contract's 400 with its envelope, and end the connection.

A request whose head comes in one packet, which is nearly every one, pays for three small Python calls and sets no timer.

Give it to uvicorn as `http="gateway.http.protocol:HttpProtocol"`, or as the class.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.errors import GatewayError, Problem, ValidationFailed
from gateway.http.edge import CLOSE, MAX_HEAD_BYTES, MAX_HEADERS, SECURITY, head_too_large
from gateway.http.requests import read_headers
from gateway.http.responses import Header, problem_response

HEAD_DEADLINE_SECONDS = 10.0


class _NoTrailers(list[Header]):
    """Where what comes after a body goes. RFC 9110, 6.5.1: a trailer is no header unless somebody knows that it may be one."""

    def append(self, _header: Header) -> None:
        """Drops it."""


_NO_TRAILERS = _NoTrailers()


class HttpProtocol(HttpToolsProtocol):
    """One connection. The limits are the class's, so that another class can have others."""

    head_seconds = HEAD_DEADLINE_SECONDS
    max_head_bytes = MAX_HEAD_BYTES

    _in_head = False
    _head_bytes = 0
    """Of the unfinished head, and only where it did not come in one packet."""
    _packet_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _refusal: GatewayError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._packet_bytes = len(data)
        super().data_received(data)
        if self._in_head or self._is_idle():
            self._wait_for_more()
        elif self._deadline is not None:
            self._drop_deadline()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if len(self.headers) > MAX_HEADERS or self._head_bytes or self._packet_bytes > self.max_head_bytes:
            self._check_size()
        self._in_head = False
        super().on_headers_complete()
        self.headers = _NO_TRAILERS

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no HTTP, or what `_refusal` says, and ends the connection.

        Where an earlier request of the connection still waits for its answer, nothing is written: it would be taken for that.
        """
        if self._may_answer():
            self.transport.write(self._refusal_bytes())
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _should_upgrade_to_ws(self) -> bool:
        return False  # there is none here, whatever else is installed

    def _unsupported_upgrade_warning(self) -> None:
        """Says nothing: anybody could fill the log with it. The request is answered as one that asks for no upgrade."""

    def _is_idle(self) -> bool:
        """Whether no request waits for its answer."""
        return self.cycle is None or self.cycle.response_complete

    def _may_answer(self) -> bool:
        """Whether what is written now is the answer to the request at fault."""
        return self._is_idle() or (self.cycle.more_body and not self.pipeline and not self.cycle.response_started)

    def _wait_for_more(self) -> None:
        """A head, or what is left of a body that nobody reads, goes on in another packet."""
        if self._deadline is None:
            self._set_deadline()
        if not self._in_head or self.transport.is_closing():
            return
        # Of its first packet only the parsed part surely is of the head; of later ones all is.
        self._head_bytes += self._packet_bytes if self._head_bytes else self._parsed_bytes() + 1
        if self._head_bytes > self.max_head_bytes:
            self._refuse(head_too_large(f"together they are longer than {self.max_head_bytes} bytes"))

    def _check_size(self) -> None:
        """Raises, which the parser takes for a fault of the request, for a head that is too large."""
        self._head_bytes = 0
        if len(self.headers) > MAX_HEADERS:
            self._refusal = head_too_large(f"there are {len(self.headers)}; at most {MAX_HEADERS} are taken")
        elif self._parsed_bytes() > self.max_head_bytes:
            self._refusal = head_too_large(f"together they are longer than {self.max_head_bytes} bytes")
        if self._refusal is not None:
            raise self._refusal

    def _parsed_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.head_seconds, self._on_deadline)

    def _drop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if not self._is_idle():
            self._set_deadline()  # its reading may be paused until the answer before it is out
        elif self._in_head:
            reason = f"they did not arrive whole within {self.head_seconds:g} seconds"
            self._refuse(ValidationFailed("The request did not arrive in time.", [Problem("headers", reason)], [CLOSE]))
        else:
            self.transport.close()

    def _refuse(self, error: GatewayError) -> None:
        self._refusal = error
        self.send_400_response("")

    def _refusal_bytes(self) -> bytes:
        error = self._refusal or ValidationFailed("The request is not valid HTTP.", headers=[CLOSE])
        response = problem_response(error)
        request_id = read_headers({"headers": ()}).request_id
        length = str(len(response.body)).encode()
        headers = [*self.server_state.default_headers, *response.headers, *SECURITY]
        headers += [(b"x-request-id", request_id), (b"content-length", length)]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return STATUS_LINE[response.status] + lines + b"\r\n" + response.body
