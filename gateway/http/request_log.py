"""One JSON line for each request on the data path: what was asked of which route, by whom, how it ended and how long it took.

It tells routes, never paths or queries, and subjects, never tokens: no value that a caller sent stands in a log. Lines are
gathered for a moment and written together, for a write costs more than a line.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import IO

import msgspec

METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PATCH", "DELETE", "PUT"})
FLUSH_SECONDS = 0.2
MAX_GATHERED = 500


class _Line(msgspec.Struct, omit_defaults=True):
    timestamp: str
    level: str
    service: str
    message: str
    method: str
    route: str
    status: int
    durationMs: float  # noqa: N815 - the log's field names are the contract's
    requestId: str  # noqa: N815
    userId: str = ""  # noqa: N815
    errorCode: str = ""  # noqa: N815


_encode = msgspec.json.Encoder().encode


class RequestLog:
    """Writes to `stream` (standard error) from one event loop. `close` writes what is left."""

    def __init__(self, service: str, stream: IO[bytes] | None = None) -> None:
        self._service = service
        self._stream = stream or sys.stderr.buffer
        self._lines: list[_Line] = []
        self._timer: asyncio.TimerHandle | None = None
        self._second = 0
        self._moment = ""

    def tell(
        self,
        method: str,
        route: str,
        status: int,
        seconds: float,
        request_id: str,
        subject: str = "",
        error_code: str = "",
    ) -> None:
        """Notes one request. `seconds` is what it took."""
        level = "info" if status < 500 else "error"
        line = _Line(
            self._now(),
            level,
            self._service,
            "request",
            method if method in METHODS else "OTHER",
            route,
            status,
            round(seconds * 1000, 3),
            request_id,
            subject,
            error_code,
        )
        self._lines.append(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        elif len(self._lines) >= MAX_GATHERED:
            self.flush()

    def flush(self) -> None:
        """Writes what was gathered. A stream that is gone takes the log with it, and nothing else."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        try:
            self._stream.write(b"".join([_encode(line) + b"\n" for line in lines]))
            self._stream.flush()
        except (OSError, ValueError):
            return

    def _now(self) -> str:
        """The time, RFC 3339 in UTC. The text of a second is made once."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._moment}.{int((now - second) * 1000):03}Z"
