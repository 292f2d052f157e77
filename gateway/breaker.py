"""A circuit breaker: calls to something that is away fail at once, until a probe has found it again.

    closed ──► open ──► half-open ──► closed
                 ▲          │
                 └──────────┘

It opens where, within a sliding window, enough calls failed and they are a large enough part of all. A first failure that is not
enough for that is looked into: one probe runs at once, and where that fails too it opens, for a quiet service would else take
long to have calls enough. While it is open a probe runs several times a second, one at a time (half-open), and the first that
succeeds closes it. No caller is sent ahead to find out.

It counts what its user tells it of: faults of the infrastructure (no connection, no answer in time), never what the other side
answered. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from gateway.events import BreakerMoved, BreakerState, Observer, nobody

logger = logging.getLogger("gateway.breaker")

MINIMUM_CALLS = 10
FAILURE_RATE = 0.5
WINDOW_SECONDS = 2.0
PAUSE_SECONDS = 0.15
PROBE_SECONDS = 1.0

Probe = Callable[[], Awaitable[None]]
"""Finds out whether the other side is well. Raises anything where it is not."""


class Breaker:
    """Guards one thing, called `name`. `is_closed` says whether calls may go on, and costs nothing to ask.

    The window slides by halves: what counts is the running half of `window_seconds` and the whole one before it. `pause_seconds`
    is the mean of the pauses between probes, `probe_seconds` how long one may take. `clock` gives seconds and never goes back.
    """

    def __init__(
        self,
        name: str,
        probe: Probe,
        *,
        minimum_calls: int = MINIMUM_CALLS,
        failure_rate: float = FAILURE_RATE,
        window_seconds: float = WINDOW_SECONDS,
        pause_seconds: float = PAUSE_SECONDS,
        probe_seconds: float = PROBE_SECONDS,
        observe: Observer = nobody,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.state: BreakerState = "closed"
        self.is_closed = True
        self.reason = ""
        self._probe = probe
        self._minimum_calls = minimum_calls
        self._failure_rate = failure_rate
        self._half_seconds = window_seconds / 2
        self._pause_seconds = pause_seconds
        self._probe_seconds = probe_seconds
        self._observe = observe
        self._clock = clock
        self._told_closed = True
        self._turn_at = 0.0
        self._calls = self._failures = self._calls_before = self._failures_before = 0
        self._probing: asyncio.Task[bool] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        # What runs here belongs to no request: without a context of its own it would run in that of the first that failed.
        self._context = contextvars.copy_context()

    # --- what its user tells ---------------------------------------------------------------------------------------------

    def succeeded(self) -> None:
        """The other side answered, whatever it said."""
        now = self._clock()
        if now >= self._turn_at:
            self._turn(now)
        self._calls += 1

    def failed(self, reason: str) -> None:
        """The other side could not be reached, or did not answer in time. `reason` is for operators."""
        now = self._clock()
        if now >= self._turn_at:
            self._turn(now)
        self._calls += 1
        self._failures += 1
        if not self.is_closed:
            return
        calls, failures = self._calls + self._calls_before, self._failures + self._failures_before
        if calls >= self._minimum_calls and failures >= self._failure_rate * calls:
            self._open(reason)
        elif not self._tasks:
            self._spawn(self._look_into(reason))

    def _turn(self, now: float) -> None:
        """Begins a new half of the window."""
        recent = now < self._turn_at + self._half_seconds
        self._calls_before, self._failures_before = (self._calls, self._failures) if recent else (0, 0)
        self._calls = self._failures = 0
        self._turn_at = now + self._half_seconds

    # --- finding out -----------------------------------------------------------------------------------------------------

    async def is_well(self) -> bool:
        """Whether a probe succeeds now; joins the one that is under way. Closes the breaker where it does."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.get_running_loop().create_task(self._try(), context=self._context)
        return await asyncio.shield(self._probing)

    async def _try(self) -> bool:
        if not self.is_closed:
            self._move("half_open")
        try:
            async with asyncio.timeout(self._probe_seconds):
                await self._probe()
        except Exception as fault:  # noqa: BLE001 - whatever it is, the other side is not well
            self.reason = f"no answer within {self._probe_seconds:g} s" if isinstance(fault, TimeoutError) else described(fault)
            if not self.is_closed:
                self._move("open")
            return False
        if not self.is_closed:
            self._calls = self._failures = self._calls_before = self._failures_before = 0
            self.reason = ""
            self._move("closed")
        return True

    async def _look_into(self, reason: str) -> None:
        if not await self.is_well() and self.is_closed:
            self._open(reason)

    def _open(self, reason: str) -> None:
        self.reason = reason
        self._move("open")
        self._spawn(self._recover())

    async def _recover(self) -> None:
        while not self.is_closed:
            await asyncio.sleep(self._pause_seconds * random.uniform(0.5, 1.5))  # noqa: S311 - so that processes spread out
            await self.is_well()

    def _move(self, state: BreakerState) -> None:
        self.state = state
        self.is_closed = state == "closed"
        if state != "half_open" and (state == "closed") is not self._told_closed:
            self._told_closed = state == "closed"
            logger.warning("breaker: %s: %s", self.name, "closed" if self.is_closed else f"open: {self.reason}")
        self._observe(BreakerMoved(self.name, state, self.reason))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, context=self._context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Ends what runs in the background."""
        tasks: list[asyncio.Task[Any]] = [*self._tasks, *([self._probing] if self._probing is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def described(fault: BaseException) -> str:
    """A fault in a few words, for operators."""
    text = str(fault).strip()
    return f"{type(fault).__name__}: {text.splitlines()[0]}" if text else type(fault).__name__
