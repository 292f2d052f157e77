"""uvicorn's server, with an end that loses nothing and a reload on SIGHUP.

    SIGTERM           drain: not ready at once, serve on for `drain_seconds`, then stop
    SIGINT, SIGQUIT   stop now: what is in flight is finished, within uvicorn's `timeout_graceful_shutdown`
    either again      sooner: a drain becomes a stop, a stop waits for nothing
    SIGHUP            the application's `reload`, beside the requests

While it drains every answer says `Connection: close`, so that a balancer's kept connections end after an answer and never under
a request. Then nobody is let in any more (`listening`), and a connection that is idle stays until its peer lets go of it or its
own time is over: a POST may just be coming on it, and a balancer may not send that twice. The process then ends by itself, with
0: uvicorn would raise the signal once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any, Protocol, cast

import uvicorn
from uvicorn.server import ServerState

from gateway.http.listening import stop_listening

logger = logging.getLogger("gateway")

STUCK_SECONDS = 15.0
"""A loop that has not come round for so long is taken for hung. A turn takes milliseconds, a stalled disk a second or two."""
LAST_ANSWER_SECONDS = 1
"""Of the time to stop, what is left to a request that comes on an idle connection at the last moment."""

Handler = Callable[[int, FrameType | None], Any]


class DrainableState(ServerState):
    """What the connections of a server share. `draining` says that each answer is its connection's last; `linger_seconds`, at
    the server's end, how long a connection may have been idle and still stay open."""

    draining = False
    linger_seconds = 0


class Application(Protocol):
    """What a server asks of an application beyond ASGI."""

    def drain(self) -> None:
        """Requests still come, but should not: health says so from now on."""

    async def reload(self) -> None:
        """Serve by the files as they are now, or go on as before. Does not raise."""


class Server(uvicorn.Server):
    """One process that serves. `parent` is the process that started it as a worker: it stops when that is gone, and leaves
    Ctrl-C, which reaches both, to that."""

    def __init__(self, config: uvicorn.Config, drain_seconds: float = 0, parent: int | None = None) -> None:
        super().__init__(config)
        self.server_state: DrainableState = DrainableState()
        self.stopped_by: signal.Signals | None = None
        self._drain_seconds = drain_seconds
        self._parent = parent
        self._drained_at: float | None = None
        self._last_turn = time.monotonic()
        self._reload_asked = False
        self._reloading: asyncio.Task[None] | None = None

    @property
    def is_stuck(self) -> bool:
        """Whether the loop, which should be serving, has not come round for long. May be asked from another thread."""
        return self.started and not self.should_exit and time.monotonic() - self._last_turn > STUCK_SECONDS

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Takes the signals for as long as the block runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        stop = cast("Handler", self.handle_exit)
        handlers: dict[signal.Signals, Any] = {
            signal.SIGTERM: stop,
            signal.SIGQUIT: stop,
            signal.SIGINT: stop if self._parent is None else signal.SIG_IGN,
            signal.SIGHUP: self._ask_for_reload,
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Takes a signal to stop, as the module says."""
        first = self.stopped_by is None
        self.stopped_by = self.stopped_by or signal.Signals(sig)
        if first:
            self._begin_to_drain()
        if first and sig == signal.SIGTERM and self._drain_seconds:
            self._drained_at = time.monotonic() + self._drain_seconds
        elif self.should_exit:
            self.force_exit = True
        else:
            self.should_exit = True

    def _begin_to_drain(self) -> None:
        self.server_state.draining = True
        if self.config.loaded:
            cast("Application", self.config.loaded_app).drain()

    def _ask_for_reload(self, _sig: int, _frame: FrameType | None) -> None:
        self._reload_asked = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop now."""
        self._last_turn = time.monotonic()
        if self._reload_asked and (self._reloading is None or self._reloading.done()):
            self._reload_asked = False
            application = cast("Application", self.config.loaded_app)
            self._reloading = asyncio.get_running_loop().create_task(application.reload())
        if self._parent is not None and os.getppid() != self._parent:
            logger.error("the process that started this worker is gone; stopping")
            self.should_exit = True
        if self._drained_at is not None and self._last_turn >= self._drained_at and not self.should_exit:
            self.should_exit = True
            self.server_state.linger_seconds = self._linger_seconds()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        """Stops in order: no new connections, what is in flight, then the application."""
        if self._reloading is not None:
            self._reloading.cancel()
            await asyncio.gather(self._reloading, return_exceptions=True)
        if not self.force_exit:
            await stop_listening(self.servers)
        await super().shutdown(sockets)

    def _linger_seconds(self) -> int:
        whole, kept = self.config.timeout_graceful_shutdown, self.config.timeout_keep_alive
        return kept if whole is None else min(kept, whole - LAST_ANSWER_SECONDS)
