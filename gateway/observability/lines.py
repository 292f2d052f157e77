"""Lines on their way out, by a thread of their own, onto a stream whose reader may be slow, or gone.

A pipe that nobody empties stops whoever writes to it. Here that is the thread; the service goes on, and what waits beyond
`MAX_WAITING` lines is dropped and counted. To tell a line costs its teller an append: it is encoded by the thread, with those
that come in the next moment. They are written in pieces of at most `PIECE_BYTES`, which a pipe takes in one, so that the lines
of several processes do not run into each other.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO, Generic, TypeVar

Line = TypeVar("Line")

MAX_WAITING = 20_000
GATHER_SECONDS = 0.1
PIECE_BYTES = 4096
"""PIPE_BUF of Linux (POSIX asks for 512 at least): what is no longer is written to a pipe whole, or not at all."""


class LineWriter(Generic[Line]):
    """Writes what `encode` makes of each line, its line feed with it, to `stream`.

    `dropped` counts the lines that found no room, or no stream. Safe among threads.
    """

    def __init__(self, stream: IO[bytes], encode: Callable[[Line], bytes]) -> None:
        self._stream = stream
        self._encode = encode
        self._waiting: deque[Line] = deque()
        self._thread: threading.Thread | None = None
        self._awake = threading.Event()
        self._is_woken = False
        """As `_awake`, and sooner told: of an event it would take a call."""
        self._hurry = threading.Event()
        self._idle = threading.Event()
        self._starting = threading.Lock()
        self.dropped = 0

    def write(self, line: Line) -> None:
        """Takes a line and returns at once."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        self._waiting.append(line)
        if not self._is_woken:
            self._wake()

    def _wake(self) -> None:
        self._idle.clear()
        self._is_woken = True
        self._awake.set()
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="log lines", daemon=True)
                    self._thread.start()

    def drain(self, timeout_seconds: float) -> bool:
        """Waits until all is written; False where that takes longer."""
        self._hurry.set()
        try:
            end = time.monotonic() + timeout_seconds
            while self._waiting or (self._thread is not None and not self._idle.is_set()):
                if time.monotonic() > end or not self._idle.wait(max(0.0, end - time.monotonic())):
                    return False
            return True
        finally:
            self._hurry.clear()

    def _run(self) -> None:
        while True:
            self._awake.wait()
            self._hurry.wait(GATHER_SECONDS)
            self._awake.clear()
            self._is_woken = False  # before looking, so that a line that comes after the last look wakes this thread again
            for lines, piece in self._pieces():
                if not self._put(piece):
                    self.dropped += lines
            if not self._awake.is_set():
                self._idle.set()

    def _pieces(self) -> Iterator[tuple[int, bytes]]:
        """What waits, as many lines together as fit, with how many they are."""
        piece: list[bytes] = []
        size = 0
        while self._waiting:
            line = self._encode(self._waiting.popleft())
            if piece and size + len(line) > PIECE_BYTES:
                yield len(piece), b"".join(piece)
                piece, size = [], 0
            piece.append(line)
            size += len(line)
        if piece:
            yield len(piece), b"".join(piece)

    def _put(self, piece: bytes) -> bool:
        try:
            self._stream.write(piece)
            self._stream.flush()
        except (OSError, ValueError):  # it is closed, or its reader has gone
            return False
        return True
