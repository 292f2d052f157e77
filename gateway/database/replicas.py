"""Replicas of the primary: where each stands, and which of them may answer a read.

Writes go to the primary, whose log has a *position* after each of them. What a replica has replayed is looked at ten times a
second; it only grows, so what was seen is the least that a later read finds. A read says what it needs (`Need`); a replica that
is known to have that may answer it, and the primary answers where none is. Nothing ever waits for a replica to catch up.

What could make a position lie is another server behind the same address: one that was restored, rewound, or follows another
primary. So a position belongs to a *history*, which is the cluster's number and its timeline, and what is known of a replica
belongs to one run of one server: a connection to another is refused until the looks have seen that one too.
`docs/replicas.md` has the promise and why it holds.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import re
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, Literal

import msgspec

from gateway.coalesce import Coalescer
from gateway.connect import FAULTS, Connection, Connector, NoSuchServer
from gateway.database.execute import Database
from gateway.database.pool import Pool, PoolOptions
from gateway.errors import GatewayError, Problem, ValidationFailed
from gateway.events import Observer, ReplicaRead, nobody

logger = logging.getLogger("gateway.database")

POSITION_SECONDS = 0.25
"""How long a write's answer may wait to be told its position. The write itself is done."""
LOOK_SECONDS = 0.1
LOOK_TIMEOUT_SECONDS = 1.0
"""For a look. A replica that needs longer answers nothing, and who waits for it is answered by the primary."""
RETRY_SECONDS = 0.5
"""Between two attempts to connect for looking."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 5.0
"""How long a replica is left alone after a read failed there: twice as long each time, until one succeeds."""
MAX_SAMPLES = 40_000
"""Of the primary's position, in memory: an hour of them."""
MAX_TOKENS = 16
"""In one request."""

PRIMARY_IDENTITY = "SELECT system_identifier::text FROM pg_control_system()"
PRIMARY_POSITION = "SELECT here::text, left(pg_walfile_name(here), 8) FROM pg_current_wal_insert_lsn() here"
"""The name of a file of the log begins with the timeline. It is the log's end as of now: the end of what has reached the disk may
lie before a commit that does not wait for it (`synchronous_commit = off`)."""
REPLICA_IDENTITY = """
SELECT (SELECT system_identifier::text FROM pg_control_system()), extract(epoch FROM pg_postmaster_start_time())::text
"""
# What the control file says of the timeline is never ahead of what is replayed, and may be behind it by a checkpoint. What is
# received is exact; only a role with pg_read_all_stats sees it.
REPLICA_POSITION = """
SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()::text, coalesce(
    (SELECT received_tli FROM pg_stat_wal_receiver),
    greatest(
        (SELECT timeline_id FROM pg_control_checkpoint()),
        (SELECT min_recovery_end_timeline FROM pg_control_recovery())
    )
)
"""

_TOKEN = re.compile(rb"[0-9A-F]{24}")

Outcome = Literal["replica", "primary_behind", "primary_down"]


def clock() -> float:
    """Seconds that never go back. The cache's `seen_at` is of the same clock."""
    return time.monotonic()


class Position(msgspec.Struct, frozen=True):
    """A place in the log of one history. A replica of that history that has replayed up to it has all that was written before."""

    history: str
    lsn: int

    @property
    def token(self) -> bytes:
        """As callers get it and bring it back."""
        return f"{self.history}{self.lsn:016X}".encode()


UNKNOWN = Position("00000000", 2**64 - 1)
"""What no replica ever reaches: whoever brings it is answered by the primary."""


class Need(msgspec.Struct, frozen=True):
    """What a read must find: all that was written before the position `after`, and before the moment `since` (of `clock`).

    None is: nothing in particular, but not older than the setting says.
    """

    after: Position | None = None
    since: float | None = None


def read_tokens(text: bytes) -> Position | None:
    """The place that a caller's tokens, parted by commas, come to together; None for no text. Raises ValidationFailed."""
    if not text:
        return None
    tokens = [token.strip() for token in text.split(b",")]
    if len(tokens) > MAX_TOKENS or not all(_TOKEN.fullmatch(token) for token in tokens):
        message = f"takes what an earlier answer brought in this header, or up to {MAX_TOKENS} of them parted by commas"
        raise ValidationFailed("The consistency token is not valid.", [Problem("X-Consistency-Token", message)])
    if len({token[:8] for token in tokens}) > 1:
        return UNKNOWN  # no server has more than one history
    return Position(tokens[0][:8].decode(), max(int(token[8:], 16) for token in tokens))


def history_name(cluster: str, timeline: int) -> str:
    """Eight digits that tell a cluster's timeline from every other, and nothing else."""
    return hashlib.blake2b(f"{cluster} {timeline}".encode(), digest_size=4).hexdigest().upper()


class ReplicaOptions(msgspec.Struct, frozen=True):
    """`urls` are of one server each, and no pooler. `pool` is the primary's, and for each, with its URL and a number after its
    name."""

    urls: tuple[str, ...]
    max_lag_seconds: float
    pool: PoolOptions


class Health(msgspec.Struct, frozen=True):
    """One replica, for operators. `lag_seconds` None is not known."""

    name: str
    answers: bool
    reason: str
    lag_bytes: int
    lag_seconds: float | None

    def __str__(self) -> str:
        lag = "how far behind is not known" if self.lag_seconds is None else f"{self.lag_seconds:.1f} s behind at the most"
        return f"{self.reason or 'answers'}; {lag}, {self.lag_bytes} bytes"


class _Watch:
    """A connection of its own to one server, on which the server is looked at again and again."""

    def __init__(self, url: str, name: str, is_pooled: bool = False) -> None:
        self._connector = Connector(url)
        self._name = name
        self._is_pooled = is_pooled
        self._connection: Connection | None = None

    async def connect(self) -> Connection:
        """The connection, which `close` ends."""
        self._connection = await self._connector.connect(
            timeout_seconds=LOOK_TIMEOUT_SECONDS,
            command_timeout=LOOK_TIMEOUT_SECONDS,
            statement_cache_size=0 if self._is_pooled else 10,
            server_settings={"application_name": self._name},
        )
        return self._connection

    async def ask(self, connection: Connection, sql: str) -> tuple[Any, ...]:
        """The one row of a statement."""
        if not self._is_pooled:
            return await _row(connection, sql)
        async with connection.transaction():  # so that what is prepared is run on the same server's connection
            return await _row(connection, sql)

    def close(self) -> None:
        """Cuts the connection, if there is one."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


class Primary:
    """Where the primary's log stands, and stood at which moment."""

    def __init__(self, url: str, name: str, is_pooled: bool = False) -> None:
        self._watch = _Watch(url, name, is_pooled)
        self._cluster = ""
        self._timeline = 0
        self._times: deque[float] = deque(maxlen=MAX_SAMPLES)
        self._positions: deque[int] = deque(maxlen=MAX_SAMPLES)
        self.history = ""
        self.reason = "has not been seen yet"

    @property
    def lsn(self) -> int:
        """The newest position that was seen."""
        return self._positions[-1] if self._positions else 0

    def history_of(self, timeline: int) -> str:
        """The name of a timeline of this cluster; empty while the cluster is not known."""
        return history_name(self._cluster, timeline) if self._cluster else ""

    def doubt(self) -> None:
        """It may be another server that takes the writes now: nothing is known until it has been looked at again."""
        self._watch.close()
        self._forget("", 0)

    def fresh_as_of(self, lsn: int) -> float:
        """The latest moment that is known of which all that was written before it lies below `lsn`."""
        place = bisect_right(self._positions, lsn)
        return self._times[place - 1] if place else float("-inf")

    def saw(self, moment: float, lsn: int, timeline: int) -> None:
        """Asked at `moment`, it was there: whatever was committed before that moment lies below."""
        if timeline != self._timeline or lsn < self.lsn:
            self._forget(self._cluster, timeline)
        if self._positions and self._positions[-1] == lsn:
            self._times[-1] = moment
        else:
            self._times.append(moment)
            self._positions.append(lsn)

    def _forget(self, cluster: str, timeline: int) -> None:
        self._times.clear()
        self._positions.clear()
        self._cluster, self._timeline = cluster, timeline
        self.history = history_name(cluster, timeline) if cluster and timeline else ""

    async def watch(self) -> None:
        """Looks until it is cancelled."""
        while True:
            try:
                await self._look_on(await self._watch.connect())
            except FAULTS as fault:
                self._lost(fault)
            finally:
                self._watch.close()
            await asyncio.sleep(RETRY_SECONDS)

    def _lost(self, fault: BaseException) -> None:
        if not self.reason:
            logger.warning("the primary is not seen, and replicas answer for as long as they may: %s", type(fault).__name__)
        self.reason = "the primary is not seen"

    async def _look_on(self, connection: Connection) -> None:
        (cluster,) = await self._watch.ask(connection, PRIMARY_IDENTITY)
        if cluster != self._cluster:
            self._forget(cluster, 0)
        while not connection.is_closed():
            moment = clock()
            lsn, timeline = await self._watch.ask(connection, PRIMARY_POSITION)
            if connection.is_closed():  # it came into doubt meanwhile
                return
            self.reason = ""
            self.saw(moment, _number(lsn), int(timeline, 16))
            await asyncio.sleep(LOOK_SECONDS)


class Replica:
    """One replica. `run` counts the servers that were seen behind its address: what was known of one is not of the next."""

    def __init__(self, number: int, url: str, options: ReplicaOptions, primary: Primary, observe: Observer = nobody) -> None:
        self.name = f"replica-{number}"
        self.run = 0
        self.lsn = 0
        self.history = ""
        self.fresh_as_of = float("-inf")
        self.reason = "has not been seen yet"
        self._server: tuple[Any, ...] | None = None
        self._primary = primary
        self._paused_until = float("-inf")
        self._failures = 0
        name = f"{options.pool.name} {self.name}"
        self._watch = _Watch(url, f"{name} watch")
        self.pool = Pool(msgspec.structs.replace(options.pool, url=url, name=name, is_pooled=False), approve=self._approve)
        self.database = Database(self.pool, self.name, observe, max_retries=0)

    def is_well(self, now: float) -> bool:
        """Whether it is worth asking."""
        return not self.reason and self._paused_until <= now

    def has(self, need: Need, horizon: float) -> bool:
        """Whether it is known to have what a read needs; where that is nothing in particular, all from before `horizon`."""
        if not self.history or self.history != self._primary.history:
            return False
        if need.after is not None and (need.after.history != self.history or need.after.lsn > self.lsn):
            return False
        return self.fresh_as_of >= (horizon if need.since is None else need.since)

    def failed(self) -> None:
        """A read failed: the replica is left alone for a while."""
        pause = min(FIRST_PAUSE_SECONDS * 2**self._failures, LONGEST_PAUSE_SECONDS)
        self._failures = min(self._failures + 1, 16)
        self._paused_until = clock() + pause

    def succeeded(self) -> None:
        """A read succeeded."""
        self._failures = 0

    def health(self, now: float, max_lag_seconds: float) -> Health:
        """Where it stands, in words."""
        lag = now - self.fresh_as_of if self.fresh_as_of > float("-inf") else None
        reason = self._why_not(now, lag, max_lag_seconds)
        return Health(self.name, not reason, reason, max(0, self._primary.lsn - self.lsn) if self.lsn else 0, lag)

    def _why_not(self, now: float, lag: float | None, max_lag_seconds: float) -> str:
        if self.reason:
            return self.reason
        if not self._primary.history:
            return self._primary.reason or "the primary is not seen"
        if self.history != self._primary.history:
            return "follows another timeline than the primary's, as far as it tells"
        if self._paused_until > now:
            return "a read failed there a moment ago"
        return "is too far behind" if lag is None or lag > max_lag_seconds else ""

    async def watch(self) -> None:
        """Looks until it is cancelled."""
        while True:
            try:
                await self._look_on(await self._watch.connect())
            except (*FAULTS, GatewayError) as fault:
                self._lost(fault)
            finally:
                self._watch.close()
            await asyncio.sleep(RETRY_SECONDS)

    async def _look_on(self, connection: Connection) -> None:
        self._met(await self._watch.ask(connection, REPLICA_IDENTITY))
        while not connection.is_closed():
            in_recovery, lsn, timeline = await self._watch.ask(connection, REPLICA_POSITION)
            if not in_recovery or lsn is None:
                raise NoSuchServer("it is no replica")
            self._saw(_number(lsn), timeline)
            await self.pool.open()
            await asyncio.sleep(LOOK_SECONDS)

    def _met(self, server: tuple[Any, ...]) -> None:
        """The server at the other end, which may be another than the last time: then its connections are dropped."""
        if server != self._server:
            self._server = server
            self._forget()
            self.pool.drop()

    def _saw(self, lsn: int, timeline: int) -> None:
        if self.reason:
            logger.info("%s answers", self.name)
        self.reason = ""
        if lsn < self.lsn:  # which one run of a server does not do; nothing that was known of it counts any more
            self._forget()
        self.lsn = lsn
        cluster = self._server[0] if self._server else ""
        self.history = history_name(cluster, timeline)
        fresh = self._primary.history == self.history
        self.fresh_as_of = self._primary.fresh_as_of(lsn) if fresh else float("-inf")

    def _lost(self, fault: BaseException) -> None:
        """It does not answer: nobody is sent there, and who waits for it there is answered elsewhere."""
        if not self.reason:
            logger.warning("%s is not seen, and the primary answers in its place: %s", self.name, type(fault).__name__)
        self.reason = "is no replica" if isinstance(fault, NoSuchServer) else "does not answer"
        self.pool.drop(in_use=True)

    def _forget(self) -> None:
        self.run += 1
        self.lsn = 0
        self.history = ""
        self.fresh_as_of = float("-inf")

    async def _approve(self, connection: Connection) -> None:
        """Raises NoSuchServer for a connection to another server than the one that is looked at."""
        if await _row(connection, REPLICA_IDENTITY) != self._server:
            raise NoSuchServer("another server answers behind this address")


async def _row(connection: Connection, sql: str) -> tuple[Any, ...]:
    """The one row of a statement that has one."""
    (row,) = await connection.fetch(sql)
    return tuple(row)


class Replicas:
    """All replicas of one primary. Used from one event loop; `start` before and `stop` after."""

    def __init__(self, database: Database, options: ReplicaOptions, observe: Observer = nobody) -> None:
        self._database = database
        self._max_lag_seconds = options.max_lag_seconds
        self._observe = observe
        self._departures = database.pool.departures
        self.primary = Primary(options.pool.url, f"{options.pool.name} primary watch", options.pool.is_pooled)
        self.all = tuple(Replica(number, url, options, self.primary, observe) for number, url in enumerate(options.urls, 1))
        self._turns = itertools.cycle(range(len(self.all)))
        self._positions: Coalescer[None, Position] = Coalescer(self._ask_position)
        self._tasks: list[asyncio.Task[None]] = []

    def choose(self, need: Need) -> Replica | None:
        """A replica that has what a read needs, each in its turn; None where there is none now."""
        if self._departures != self._database.pool.departures:
            self._departures = self._database.pool.departures
            self.primary.doubt()
        now = clock()
        horizon = now - self._max_lag_seconds
        first = next(self._turns)
        well = [replica for replica in (*self.all[first:], *self.all[:first]) if replica.is_well(now)]
        for replica in well:
            if replica.has(need, horizon):
                return replica
        self._observe(ReplicaRead("primary_behind" if well else "primary_down"))
        return None

    def answered(self, replica: Replica) -> None:
        """A replica gave an answer."""
        replica.succeeded()
        self._observe(ReplicaRead("replica"))

    def failed(self, replica: Replica) -> None:
        """A replica gave none, and the primary is asked."""
        replica.failed()
        self._observe(ReplicaRead("primary_down"))

    async def position(self) -> Position:
        """Where the log stands after all that has been committed: what a write's answer carries. Where the primary does not tell
        any more, it is one that no replica reaches."""
        try:
            async with asyncio.timeout(POSITION_SECONDS):
                return await self._positions.ask(None)
        except (GatewayError, TimeoutError):
            return UNKNOWN

    async def _ask_position(self, batch: Sequence[None]) -> list[Position]:
        rows = await self._database.fetch(PRIMARY_POSITION, ())
        lsn, timeline = _number(rows[0][0]), int(rows[0][1], 16)
        history = self.primary.history_of(timeline)
        if self.primary.history and history != self.primary.history:
            self.primary.doubt()  # writes go to another server than the one that is looked at
        return [Position(history, lsn) if history else UNKNOWN] * len(batch)

    def health(self) -> list[Health]:
        """Each replica, for operators."""
        now = clock()
        return [replica.health(now, self._max_lag_seconds) for replica in self.all]

    def start(self) -> None:
        """Begins to look. Until a replica has been seen, the primary answers."""
        self._tasks = [self._spawn(self.primary.watch()), *(self._spawn(replica.watch()) for replica in self.all)]

    async def stop(self) -> None:
        """Ends it all, waiting a bounded time for statements that run."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._positions.close()
        await asyncio.gather(*(replica.database.stop() for replica in self.all))
        await asyncio.gather(*(replica.pool.close() for replica in self.all))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(_for_ever(work))


async def _for_ever(work: Coroutine[Any, Any, None]) -> None:
    """A watch that ends, but by being cancelled, is a bug of ours, and is told: without it the primary answers everything."""
    try:
        await work
    except Exception:
        logger.exception("a watch over the database ended")
        raise


def _number(lsn: str) -> int:
    """`16/B374D848` as the number that it is."""
    high, _, low = lsn.partition("/")
    return int(high, 16) << 32 | int(low, 16)
