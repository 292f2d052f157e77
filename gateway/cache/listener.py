"""The cache's one connection to PostgreSQL: where a process that cannot reach Redis says so, and where all others look.

Whoever may write can reach PostgreSQL; so it is the one place where a writer that is cut off from Redis can still stop the
others. It *holds* an advisory lock, in shared mode, for as long as it is cut off. Every process *looks* several times a second
who else holds one. The connection also hears of changes that triggers tell of (`gateway migrate new --notify TABLE`).

The lock belongs to a transaction, so that all this works through a pooler in transaction mode too, all but the hearing. It
goes by itself when the process or the connection ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from gateway.connect import FAULTS, Connector

logger = logging.getLogger("gateway.cache")

CHANNEL = "gateway_cache"
"""What triggers tell on: `NOTIFY gateway_cache, 'schema.table'`."""

LOCK = (0x67617465, 0x77617900)
"""The advisory lock's two numbers: "gate", "way" in ASCII. The migrators' lock is one number, and so another."""

CONNECT_TIMEOUT_SECONDS = 5.0
RETRY_SECONDS = 0.25
LOOK_SECONDS = 0.25
GOODBYE_SECONDS = 1.0

# An advisory lock of two numbers has objsubid 2. No values are sent apart and no rows come back (the count stands in the
# command's status), so this is one message each way, which a pooler may give to any of its connections.
OTHERS = f"""
SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted
AND classid = {LOCK[0]} AND objid = {LOCK[1]} AND pid <> pg_backend_pid()
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""  # noqa: S608 - numbers of ours


MAY_IDLE = "SET LOCAL idle_in_transaction_session_timeout = 0"
SESSION = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
"""The transaction that holds the lock may idle, but the server soon lets go of one whose process is out of reach."""


def clock() -> float:
    """Seconds that never go back, and go on while the machine sleeps, where it can tell."""
    return time.clock_gettime(_CLOCK)


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Audience(Protocol):
    """Who is told what the connection sees and hears."""

    @property
    def wants_hold(self) -> bool:
        """Whether the lock is to be held now."""

    @property
    def hold_seconds(self) -> float:
        """How long a lock must have been held before it counts."""

    def looked(self, sent: float, received: float, others: int, held: bool) -> None:
        """One look: when it was sent and answered, how many others hold the lock, and whether ours counts: it had been held
        for `hold_seconds` when the look was sent, and was held still."""

    def heard(self, table: str) -> None:
        """A trigger told of a change in `schema.table`."""


class Session(Protocol):
    """One connection's life. Anything may raise OSError, TimeoutError or asyncpg's errors; then it is over."""

    async def look(self) -> int:
        """How many others hold the lock."""

    async def hold(self) -> None:
        """Takes the lock."""

    async def release(self) -> None:
        """Lets it go."""

    async def close(self) -> None:
        """Ends the session, and with it the lock."""


Connect = Callable[[Callable[[str], None]], Awaitable[Session]]
"""Opens a session; what it hears goes to the function."""


class Listener:
    """Keeps a session open, and tells an audience. `timeout_seconds` is for each thing that is asked of the session."""

    def __init__(
        self,
        connect: Connect,
        audience: Audience,
        *,
        timeout_seconds: float,
        look_seconds: float = LOOK_SECONDS,
        clock: Callable[[], float] = clock,
    ) -> None:
        self._connect = connect
        self._audience = audience
        self._timeout_seconds = timeout_seconds
        self._look_seconds = look_seconds
        self._clock = clock
        self._kicked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_well = True

    def start(self) -> None:
        """Begins."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Ends the session."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def kick(self) -> None:
        """Asks for a look that is sent after this call, as soon as can be."""
        self._kicked.set()

    async def _run(self) -> None:
        """Session after session. Nothing ends it but `stop`: without it no write could be settled that Redis took no note of."""
        while True:
            try:
                await self._live()
            except FAULTS as fault:
                self._told(fault)
            except Exception:
                logger.exception("cache: the connection to PostgreSQL failed")
            await asyncio.sleep(RETRY_SECONDS)

    async def _live(self) -> None:
        """One session, which ends with a fault."""
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            session = await self._connect(self._audience.heard)
        try:
            await self._attend(session)
        finally:
            await asyncio.shield(session.close())

    async def _attend(self, session: Session) -> None:
        """Looks again and again, and holds the lock while the audience wants it. Ends with a fault."""
        audience = self._audience
        held_since: float | None = None
        while True:
            self._kicked.clear()
            async with asyncio.timeout(self._timeout_seconds):
                if audience.wants_hold and held_since is None:
                    await session.hold()
                    held_since = self._clock()
                elif held_since is not None and not audience.wants_hold:
                    held_since = None
                    await session.release()
                counts_from = None if held_since is None else held_since + audience.hold_seconds
                sent = self._clock()
                others = await session.look()
            received = self._clock()
            self._is_well = True
            audience.looked(sent, received, others, counts_from is not None and sent >= counts_from)
            pause = self._look_seconds
            if counts_from is not None and sent < counts_from:
                pause = min(pause, max(0.0, counts_from - received) + 0.001)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._kicked.wait()

    def _told(self, fault: BaseException) -> None:
        if self._is_well:
            self._is_well = False
            logger.warning(
                "cache: no connection to PostgreSQL; no answer is taken from the cache: %s", fault or type(fault).__name__
            )


def postgres_session(url: str, name: str, is_pooled: bool = False) -> Connect:
    """How a real session is opened: a connection of its own to `url`, under the application name `name`.

    Behind a pooler in transaction mode (`is_pooled`) it hears nothing, and the server's keepalives are the pooler's business.
    """

    connector = Connector(url)

    async def connect(heard: Callable[[str], None]) -> Session:
        connection = await connector.connect(
            timeout_seconds=CONNECT_TIMEOUT_SECONDS,
            statement_cache_size=0,
            server_settings={"application_name": name, **({} if is_pooled else SESSION)},
        )
        if is_pooled:
            return _PostgresSession(connection)
        try:
            await connection.add_listener(CHANNEL, lambda *told: heard(str(told[3])))
        except BaseException:
            connection.terminate()
            raise
        return _PostgresSession(connection)

    return connect


class _PostgresSession:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def look(self) -> int:
        status: str = await self._connection.execute(OTHERS)
        return int(status.removeprefix("SELECT "))

    async def hold(self) -> None:
        await self._connection.execute(f"BEGIN; {MAY_IDLE}; SELECT pg_advisory_xact_lock_shared({LOCK[0]}, {LOCK[1]})")

    async def release(self) -> None:
        await self._connection.execute("COMMIT")

    async def close(self) -> None:
        """Politely while the server answers; else the connection is cut, and the server finds out."""
        with contextlib.suppress(*FAULTS):
            await self._connection.close(timeout=GOODBYE_SECONDS)
