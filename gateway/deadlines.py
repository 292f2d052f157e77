"""Bounds on many waits at once, by one timer: each costs a set's entry where `asyncio.timeout` costs a timer of its own.

Time is in ticks, so a bound may be held up to a tick too long, and never too short. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

TICK_SECONDS = 0.05


class Endable(Protocol):
    """What has a bound."""

    def end(self) -> None:
        """Its time is over."""


class Deadlines:
    """Waits with a bound: `with deadlines.within(5.0): await …` raises TimeoutError, or what `late` makes, where the block takes
    longer."""

    def __init__(self, tick_seconds: float = TICK_SECONDS) -> None:
        self._tick_seconds = tick_seconds
        self._ticks: dict[int, set[Endable]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float, late: Callable[[], Exception] = TimeoutError) -> _Bound:
        """A bound that begins with the block."""
        return _Bound(self, seconds, late)

    def watch(self, seconds: float, bound: Endable) -> set[Endable]:
        """Calls `bound.end` when the time is over, unless it has been taken out of the set that this gives."""
        loop = asyncio.get_running_loop()
        number = int((loop.time() + seconds) / self._tick_seconds) + 1
        tick = self._ticks.get(number)
        if tick is None:
            tick = self._ticks[number] = set()
            if self._timer is None:
                self._timer = loop.call_later(self._tick_seconds, self._pass, loop)
        tick.add(bound)
        return tick

    def _pass(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends what is overdue, and goes on while there is anything that may come to be."""
        now = loop.time() / self._tick_seconds
        for number in [number for number in self._ticks if number <= now]:
            tick = self._ticks.pop(number)
            while tick:  # one that ends takes itself out, and may take out others
                tick.pop().end()
        self._timer = loop.call_later(self._tick_seconds, self._pass, loop) if self._ticks else None


class _Bound:
    """One wait. It does to its task what `asyncio.timeout` does: a cancellation that becomes another exception outside."""

    __slots__ = ("_cancelling", "_deadlines", "_ended", "_late", "_seconds", "_task", "_tick")

    def __init__(self, deadlines: Deadlines, seconds: float, late: Callable[[], Exception]) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self._late = late
        self._ended = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a bound is for what runs in a task")
        self._task: asyncio.Task[Any] = task
        self._cancelling = task.cancelling()
        self._tick = self._deadlines.watch(self._seconds, self)

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, _trace: TracebackType | None) -> None:
        if not self._ended:
            self._tick.discard(self)
            return
        if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise self._late() from fault

    def end(self) -> None:
        """Its time is over."""
        self._ended = True
        self._task.cancel()
