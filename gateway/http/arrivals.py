"""Requests that have come and are not begun yet: begun a few each turn of the loop, and refused where they would wait too long.

A process that has more to do than it can falls behind by itself: each turn of its loop reads whatever has come, begins all of
it, and is longer than the one before, so that every answer is late, refusals and health too. Here a turn begins only as many
requests as keep it at about `TURN_SECONDS` of the process's own time, by what turns were measured to take; the others wait in
order of arrival. Once the first of them has waited for `WAIT_SECONDS` the line is `full`, and `protocol` refuses what comes by
its bytes alone, before it is parsed: a refusal must cost a small part of an answer, or refusing is all that is done. Who has
waited for `LATE_SECONDS` is refused too, for the answer would come too late to be of use.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from gateway.events import Observer, Shed, nobody

TURN_SECONDS = 0.01
"""Of processor time: while others have the processor, fewer requests in a turn would help nobody."""
WAIT_SECONDS = 0.25
LATE_SECONDS = 1.0
FEWEST, FIRST, MOST = 16, 64, 1024
"""Requests begun in a turn."""
LONGEST = 10_000
"""Requests in the line, whatever they wait: memory has an end."""
STEP = (0.5, 1.25)
"""By how much that number changes in a turn, at the most."""
LATE = Shed("late")

Begin = Callable[[bool], None]
"""Begins a request; False: refuses it."""


class Arrivals:
    """The line of one process. Belongs to one event loop. `full` says that what comes now must be refused."""

    def __init__(
        self,
        observe: Observer = nobody,
        clock: Callable[[], float] = time.perf_counter,
        worked: Callable[[], float] = time.thread_time,
    ) -> None:
        self._observe = observe
        self._clock = clock
        self._worked = worked
        self._line: deque[tuple[float, Begin]] = deque()
        self._in_a_turn = float(FIRST)
        self._begun = 0
        self._worked_before = 0.0
        self._is_turning = False
        self.full = False

    @property
    def waiting(self) -> int:
        """Requests in the line."""
        return len(self._line)

    def come(self, begin: Begin) -> None:
        """Calls `begin`: now, or in a later turn."""
        if not self._line:
            if self._begun < self._in_a_turn:
                self._begun += 1
                begin(True)
            else:
                self._worked_before = self._worked()
                self._line.append((self._clock(), begin))
        else:
            self._line.append((self._clock(), begin))
            self.full = self.full or len(self._line) >= LONGEST
        if not self._is_turning:
            self._is_turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def refused(self) -> None:
        """Takes note of one."""
        self._observe(LATE)

    def _turn(self) -> None:
        """Once in each turn, as long as requests come: begins the next ones."""
        if not self._line and not self._begun:
            self._is_turning = False
            return
        self._begun = 0
        if self._line:
            self._begin_more()
        asyncio.get_running_loop().call_soon(self._turn)

    def _begin_more(self) -> None:
        worked, now = self._worked(), self._clock()
        took = max(worked - self._worked_before, 1e-6)
        self._worked_before = worked
        change = min(max(TURN_SECONDS / took, STEP[0]), STEP[1])
        self._in_a_turn = min(max(self._in_a_turn * change, FEWEST), MOST)
        while self._line and self._begun < self._in_a_turn:
            self._begun += 1
            came, begin = self._line.popleft()
            begin(now - came < LATE_SECONDS)
        self.full = bool(self._line) and (now - self._line[0][0] > WAIT_SECONDS or len(self._line) >= LONGEST)
