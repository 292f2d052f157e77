"""How many requests may be at the database at once: an adaptive limit, a short line before it, and fairness among clients.

What counts is a request about to read or write, not a connection: many reads share a statement (`reads`), and those that
gather for the next one cost nothing but the wait. By Little's law as many requests are in at once as come out in a second,
times the seconds that each stays; so with `stay_seconds` as the longest stay that is of use to a caller, the limit is the
measured rate times that. Where the database slows down the rate falls, and the limit with it: a request that gets in is
answered in time, and one that would not be is refused at once, while it has cost next to nothing.

The rate is learned when the gate is busy; from one that is half empty only a higher rate is believed, for a low one is what
was asked for. Time in which nobody is inside says nothing, and does not count. The limit is never below `least`, twice the
pool: a statement in each connection, and one waiting for it.

Beyond the limit is a line. It evens out a burst: hundreds that come at once are answered, the last of them a moment later,
and nobody waits for longer than the longest useful stay. Where the load stays, a line would only make each refusal later and
dearer. So it is short then, in places and in time (`line_seconds`): who is refused hears it at once. In a crowd a client has one
place in it and no more, and none where nobody else asks. Clients take turns in the line, whatever each has sent, and in a full
one the client with the most places loses its newest, who has waited least. While others ask, no client has more than `SHARE`
of what is inside.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from gateway.errors import NotSent, Refused
from gateway.events import Observer, Shed, nobody

FIRST_RATE = 1000.0
"""Answers a second, before any have been measured."""
MOST = 10_000
WINDOW_SECONDS = 0.1
SMOOTHING = 0.3
LINE_SECONDS = 0.015
BURST = 1000
"""Places in the line, where it is calm."""
LINE_PART = 8
"""Where it is not calm the line is the limit divided by this."""
LEAST_LINE = 4
SHARE = 0.75
CALM = 0.02
"""While no larger part of those who ask found no room in the last window, whatever comes is a burst and may wait."""
CROWD = 0.25
"""The part of those who ask that found no room in the last window: from there on it is no burst that a line would even out."""
OTHERS_SECONDS = 5.0
"""So long after two clients were seen the share holds: connections cannot be taken back from who has them."""

Waiter = asyncio.Future[None]


class Gate:
    """Let in, or refused with NotSent. Belongs to one event loop."""

    def __init__(
        self,
        least: int,
        stay_seconds: float,
        observe: Observer = nobody,
        clock: Callable[[], float] = time.perf_counter,
        line_seconds: float = LINE_SECONDS,
        burst: int = BURST,
    ) -> None:
        self._least = least
        self._stay_seconds = stay_seconds
        self._observe = observe
        self._clock = clock
        self._line_seconds = line_seconds
        self._burst = burst
        self._rate = FIRST_RATE
        self.limit = self._limit_at(FIRST_RATE)
        self.in_use = 0
        self.waiting = 0
        self._by_client: dict[str, int] = {}
        self._line: dict[str, deque[Waiter]] = {}  # clients in the order of their next turn
        self._last_client: str | None = None
        self._others_until = 0.0
        self._window_began = self._idle_since = clock()
        self._answered = 0
        self._most_in_use = 0
        self._asked = 0
        self._turned_away = 0
        self._is_calm = True
        self._is_crowded = False

    def slot(self, client: str) -> Slot:
        """`async with gate.slot(client):` around what goes to the database. Raises NotSent where there is no room."""
        return Slot(self, client)

    # --- in ------------------------------------------------------------------------------------------------------------

    def enter(self, client: str) -> bool:
        """Takes a place at once; False where there is none."""
        if client != self._last_client:
            self._others_until = 0.0 if self._last_client is None else self._clock() + OTHERS_SECONDS
            self._last_client = client
        self._asked += 1
        if self.waiting or not self._take(client):
            self._turned_away += 1
            return False
        return True

    def _take(self, client: str) -> bool:
        """Takes a place, where there is one for this client."""
        held = self._by_client.get(client, 0)
        if self.in_use >= self.limit or (held >= self.limit * SHARE and self._clock() < self._others_until):
            return False
        if not self.in_use:
            idle_seconds = self._clock() - self._idle_since
            self._window_began += idle_seconds
            if idle_seconds >= WINDOW_SECONDS:
                self._is_calm, self._is_crowded = True, False
        self._by_client[client] = held + 1
        self.in_use += 1
        if self.in_use > self._most_in_use:
            self._most_in_use = self.in_use
        return True

    async def wait(self, client: str) -> None:
        """Waits in the line until there is a place, which then is taken. Raises NotSent."""
        self._make_room_in_line(client)
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._line.setdefault(client, deque()).append(waiter)
        self.waiting += 1
        seconds = max(self._line_seconds, self._stay_seconds) if self._is_calm else self._line_seconds
        timer = asyncio.get_running_loop().call_later(seconds, _refuse, waiter)
        try:
            self._let_in()
            await waiter
        except NotSent:
            self._step_out(client, waiter)
            self._observe(Shed("busy"))
            raise
        except asyncio.CancelledError:
            self._step_out(client, waiter)
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.leave(client, answered=False)  # was let in at the moment that it left
            raise
        finally:
            timer.cancel()

    def _make_room_in_line(self, client: str) -> None:
        """Raises NotSent where the line has no place for this client."""
        if self.is_closed_to(client):
            raise self.refuse()
        if not self._is_line_full():
            return
        heaviest = self._heaviest()
        newest = self._line[heaviest][-1]
        _refuse(newest)
        self._step_out(heaviest, newest)

    def is_closed_to(self, client: str) -> bool:
        """Whether `wait` would refuse the client at once: the line is full, and no other has more places in it than this one
        would have; or there is a crowd, and it has a place already, or is a crowd by itself."""
        places = len(self._line.get(client, ()))
        if self._is_crowded and (places or self._clock() >= self._others_until):
            return True
        return self._is_line_full() and len(self._line[self._heaviest()]) <= places + 1

    def is_shut_to(self, client: str) -> bool:
        """Whether the client is a crowd by itself and there is no room, so that whatever it sends now will be refused."""
        return (
            self._is_crowded and self.in_use >= self.limit and client == self._last_client and self._clock() >= self._others_until
        )

    def turn_away(self) -> None:
        """Takes note of a request of such a client, which is not even begun."""
        self._asked += 1
        self._turned_away += 1
        self._observe(Shed("busy"))

    def refuse(self) -> Refused:
        """The refusal of a client that does not wait, which is taken note of."""
        self._observe(Shed("busy"))
        return _no_room()

    def _is_line_full(self) -> bool:
        return self.waiting >= (self._burst if self._is_calm else max(LEAST_LINE, self.limit // LINE_PART))

    def _heaviest(self) -> str:
        """The client with the most places in the line, which is not empty."""
        return max(self._line, key=lambda name: len(self._line[name]))

    def _step_out(self, client: str, waiter: Waiter) -> None:
        line = self._line.get(client)
        if line is not None and waiter in line:
            line.remove(waiter)
            self.waiting -= 1
            if not line:
                del self._line[client]

    # --- out -----------------------------------------------------------------------------------------------------------

    def leave(self, client: str, answered: bool) -> None:
        """Gives a place back. `answered` says that the database did its part."""
        self.in_use -= 1
        held = self._by_client[client] - 1
        if held:
            self._by_client[client] = held
        else:
            del self._by_client[client]
        self._answered += answered
        now = self._clock()
        if not self.in_use:
            self._idle_since = now
        if now - self._window_began >= WINDOW_SECONDS:
            self._measure(now)
        if self.waiting:
            self._let_in()

    def _let_in(self) -> None:
        """The next clients in turn, as many as there is room for."""
        for client in list(self._line):
            if self.in_use >= self.limit:
                return
            line = self._line.get(client)
            while line and line[0].done():  # who waited has left
                line.popleft()
                self.waiting -= 1
            if line and self._take(client):
                self.waiting -= 1
                line.popleft().set_result(None)
            if line is not None:
                del self._line[client]
                if line:
                    self._line[client] = line  # behind the others

    def _measure(self, now: float) -> None:
        rate = self._answered / (now - self._window_began)
        if rate > self._rate or self._most_in_use * 2 >= self.limit:
            self._rate += SMOOTHING * (rate - self._rate)
            self.limit = self._limit_at(self._rate)
        self._is_calm = self._turned_away <= CALM * self._asked
        self._is_crowded = self._turned_away > CROWD * self._asked
        self._window_began, self._answered, self._most_in_use = now, 0, self.in_use
        self._asked = self._turned_away = 0

    def _limit_at(self, rate: float) -> int:
        return min(max(self._least, round(rate * self._stay_seconds)), MOST)


class Slot:
    """See `Gate.slot`."""

    __slots__ = ("_client", "_gate")

    def __init__(self, gate: Gate, client: str) -> None:
        self._gate = gate
        self._client = client

    async def __aenter__(self) -> None:
        if not self._gate.enter(self._client):
            await self._gate.wait(self._client)

    async def __aexit__(
        self, kind: type[BaseException] | None, _fault: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._gate.leave(self._client, kind is None or not issubclass(kind, NotSent))


def _no_room() -> Refused:
    return Refused("The service has more to do than it can; try again.")


def _refuse(waiter: Waiter) -> None:
    if not waiter.done():
        waiter.set_exception(_no_room())
