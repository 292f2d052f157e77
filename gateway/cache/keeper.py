"""Whether this process may take answers from a store that others share, and what a writer does that cannot reach it.

A process *trusts* the store while it has a licence: it looked into PostgreSQL less than `LICENCE_SECONDS` ago, and saw nobody
hold the lock (see `listener`). Whoever was without one, or sees that another held the lock, throws everything in the store
away before it trusts it again. A writer that cannot give its tables new tokens holds the lock for as long as a licence lasts;
then nobody has one that is older, and the write may be acknowledged. `docs/caching.md` has the proof.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from gateway.cache.listener import Connect, Listener, clock
from gateway.cache.store import Store, StoreDown
from gateway.errors import Unavailable

logger = logging.getLogger("gateway.cache")

LICENCE_SECONDS = 1.0
HOLD_SECONDS = 1.1
"""How long the lock is held before it counts: a licence's length, and what two clocks may differ in that time."""

PROBE_SECONDS = 0.25
SETTLE_SECONDS = 10.0
"""How long a write may wait for Redis or PostgreSQL to take note of it, where neither answers."""

ALONE_LOOK_SECONDS = 5.0
NEVER = float("-inf")


class Off:
    """Stands for a keeper where there is no cache: nothing is ever trusted."""

    is_trusted = False
    reason = "it is off"

    def licence(self) -> int:
        """None."""
        return 0

    def still(self, _licence: int) -> bool:
        """Never."""
        return False

    def store_failed(self) -> None:
        """Makes no difference."""

    def distrust(self) -> None:
        """Makes no difference."""

    async def settle(self) -> None:
        """There is nothing to settle."""

    def start(self) -> None:
        """Begins nothing."""

    async def wait_until_trusted(self, _seconds: float) -> None:
        """There is nothing to wait for."""

    async def stop(self) -> None:
        """Ends nothing."""


class Alone(Off):
    """Stands for a keeper where the store is this process's own: it is always trusted, and never out of reach.

    It hears of changes that triggers tell of. Where the connection was lost for a while, everything is thrown away.
    """

    wants_hold = False
    hold_seconds = 0.0
    is_trusted = True
    reason = ""

    def __init__(
        self, store: Store, connect: Connect, heard: Callable[[str], None], *, look_seconds: float = ALONE_LOOK_SECONDS
    ) -> None:
        self._store = store
        self._heard = heard
        self._gap_seconds = 2 * look_seconds
        self._last_look = NEVER
        self._has_looked = asyncio.Event()
        self._listener = Listener(connect, self, timeout_seconds=look_seconds, look_seconds=look_seconds)
        self._tasks: set[asyncio.Task[None]] = set()

    def licence(self) -> int:
        """Always one and the same."""
        return 1

    def still(self, _licence: int) -> bool:
        """Always."""
        return True

    def heard(self, table: str) -> None:
        """A trigger told of a change."""
        self._heard(table)

    def looked(self, sent: float, received: float, _others: int, _held: bool) -> None:
        """Throws everything away where nothing could be heard for a while."""
        self._has_looked.set()
        if received - self._last_look > self._gap_seconds:
            task = asyncio.get_running_loop().create_task(self._store.clear())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._last_look = sent

    def start(self) -> None:
        """Begins to listen."""
        self._listener.start()

    async def wait_until_trusted(self, seconds: float) -> None:
        """Waits until it listens, or for so long."""
        await _wait(self._has_looked, seconds)

    async def stop(self) -> None:
        """Ends it."""
        await self._listener.stop()


class Keeper:
    """Keeps a licence, mends the store, and sees to writes that the store did not take note of.

    `clock` gives seconds and never goes back. `heard` is told which table a trigger spoke of.
    """

    def __init__(
        self,
        store: Store,
        connect: Connect,
        heard: Callable[[str], None],
        *,
        clock: Callable[[], float] = clock,
        licence_seconds: float = LICENCE_SECONDS,
        hold_seconds: float = HOLD_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self.hold_seconds = hold_seconds
        self._store = store
        self._heard = heard
        self._clock = clock
        self._licence_seconds = licence_seconds
        self._settle_seconds = settle_seconds
        self._listener = Listener(connect, self, timeout_seconds=licence_seconds, clock=clock)
        self._licence = 1
        self._until = NEVER
        self._last_look = NEVER
        self._others_held = False
        self._asked = 0  # how often everything had to be thrown away, …
        self._cleared = 0  # … how much of that is done, …
        self._owed = 0  # … and what of it is for writes of our own
        self._settling: dict[asyncio.Future[None], tuple[int, float]] = {}
        self._mending: asyncio.Task[None] | None = None
        self._first_licence = asyncio.Event()

    # --- reading -------------------------------------------------------------------------------------------------------

    def licence(self) -> int:
        """The licence's number, or 0 where there is none now."""
        return self._licence if self._clock() < self._until else 0

    def still(self, licence: int) -> bool:
        """Whether that licence has held all the while since it was given."""
        return licence == self._licence and self._clock() < self._until

    @property
    def is_trusted(self) -> bool:
        """Whether answers may come from the store."""
        return self._store.is_up and self.licence() != 0

    @property
    def reason(self) -> str:
        """Why not, for operators; empty where they may."""
        if not self._store.is_up:
            return "Redis does not answer"
        if self._others_held:
            return "another process cannot reach Redis"
        if self._asked != self._cleared:
            return "what Redis holds is being thrown away"
        return "" if self.licence() else "PostgreSQL did not answer in time"

    def store_failed(self) -> None:
        """The store did not answer: it is looked after from now on."""
        self._mend()

    # --- writing -------------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Waits until no process takes from the store what a write just made wrong, though the store took no note of it.

        That is when everything in the store was thrown away, or when the lock has been held for long enough.
        Raises Unavailable where neither comes to pass in time; the work goes on.
        """
        self._distrust()
        self._owed = self._asked
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settling[settled] = (self._owed, self._clock())
        self._mend()
        self._listener.kick()
        try:
            async with asyncio.timeout(self._settle_seconds):
                await settled
        except TimeoutError:
            raise Unavailable("The change was made, but other callers may not see it yet.") from None
        finally:
            del self._settling[settled]

    @property
    def wants_hold(self) -> bool:
        """Whether there is a write that the store does not know of."""
        return self._owed > self._cleared

    # --- what the listener tells ---------------------------------------------------------------------------------------

    def looked(self, sent: float, received: float, others: int, held: bool) -> None:
        """Renews the licence, or ends it. A look that comes too late has missed what happened in between."""
        missed = received - self._last_look > self._licence_seconds
        self._last_look = sent
        if held:
            self._settle(lambda _seq, since: since < sent)
        if others:
            if not self._others_held:
                logger.warning("cache: another process cannot reach Redis; answers come from the database until it can")
                self._distrust()
            self._others_held = True
            return
        if missed or self._others_held:
            self._others_held = False
            self._distrust()
            self._mend()
        elif self._asked == self._cleared:
            self._until = sent + self._licence_seconds
            self._first_licence.set()

    def heard(self, table: str) -> None:
        """A trigger told of a change."""
        self._heard(table)

    # --- mending -------------------------------------------------------------------------------------------------------

    def distrust(self) -> None:
        """Everything in the store is thrown away before it is trusted again."""
        self._distrust()
        self._mend()

    def _distrust(self) -> None:
        self._asked += 1
        self._licence += 1
        self._until = NEVER

    def _mend(self) -> None:
        if self._mending is None or self._mending.done():
            self._mending = asyncio.get_running_loop().create_task(self._mend_until_well())

    async def _mend_until_well(self) -> None:
        while not self._store.is_up or self._cleared != self._asked:
            asked = self._asked
            was_up = self._store.is_up
            try:
                if self._cleared != asked:
                    await self._store.clear()
                    self._cleared = asked
                    self._settle(lambda seq, _since, done=asked: seq <= done)  # type: ignore[misc]  # mypy infers no lambda with a default
                    self._listener.kick()
                else:
                    await self._store.probe()
            except StoreDown:
                await asyncio.sleep(PROBE_SECONDS)
            else:
                if not was_up:
                    logger.info("cache: Redis is well again")

    def _settle(self, is_settled: Callable[[int, float], bool]) -> None:
        for settled, (seq, since) in self._settling.items():
            if is_settled(seq, since) and not settled.done():
                settled.set_result(None)

    def start(self) -> None:
        """Begins to look. Without a first look there is no licence."""
        self._listener.start()

    async def wait_until_trusted(self, seconds: float) -> None:
        """Waits for the first licence, or for so long."""
        await _wait(self._first_licence, seconds)

    async def stop(self) -> None:
        """Ends it all."""
        await self._listener.stop()
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.wait([self._mending])


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
