"""A world for the cache's own code to run in: virtual time, a Redis, a PostgreSQL, and what happens to them.

The code under test is the real one, from `Cache` down to the commands that go to Redis. What is simulated is the network and
the two servers, as simple as can be: a dictionary, and rows that count their versions. Nothing sleeps for real, so a minute
of trouble takes milliseconds; and a seed gives the same world again.
"""

from __future__ import annotations

import asyncio
import fnmatch
import random
import selectors
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gateway.cache.cache import Cache, Cached
from gateway.cache.keeper import Keeper
from gateway.cache.listener import Session
from gateway.cache.redis_store import RedisStore
from gateway.cache.store import Key, StoreDown
from gateway.errors import Unavailable
from gateway.redis_wire import Command

TIMEOUT_SECONDS = 0.1
RESEND_SECONDS = 0.025
"""How soon what cannot get through is sent again."""
TABLE = ("public.rows",)


class _Instant(selectors.SelectSelector):
    """A selector that never waits: it moves the loop's clock on instead."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("the world stands still: nothing is left that could happen")
        self.loop.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when there is nothing to do, and then at once."""

    def __init__(self) -> None:
        selector = _Instant()
        selector.loop = self
        self.now = 1000.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run(work: Coroutine[Any, Any, None]) -> None:
    """Runs to the end in virtual time, and cancels what is left."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(work)


class Redis:
    """A dictionary with a run id. `up`, `frozen` (takes connections and says nothing) or `down` (refuses them)."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.data: dict[str, bytes] = {}
        self.state = "up"
        self.run_id = b"run-0"
        self.runs = 0
        self._saved: dict[str, bytes] = {}

    def flush(self) -> None:
        self.data.clear()

    def forget(self, pattern: str) -> None:
        """What eviction does."""
        for name in fnmatch.filter(self.data, pattern):
            del self.data[name]

    def save(self) -> None:
        self._saved = dict(self.data)

    def restart(self, from_save: bool) -> None:
        """Comes back empty, or as it was when it was saved."""
        self.runs += 1
        self.run_id = f"run-{self.runs}".encode()
        self.data = dict(self._saved) if from_save else {}
        self.state = "up"

    def execute(self, commands: Sequence[Command]) -> list[Any]:
        return [self._one(command) for command in commands]

    def _one(self, command: Command) -> Any:
        match command:
            case ("MGET", *names):
                return [self.data.get(str(name)) for name in names]
            case ("SET", str(name), bytes(value), *options):
                if "NX" in options and name in self.data:
                    return None
                self.data[name] = value
                return b"OK"
        raise ValueError(command)


class Network:
    """How long things take, and who is cut off from what. `delay` gives seconds for one way of a trip."""

    def __init__(self, chance: random.Random, delay: Callable[[], float]) -> None:
        self.chance = chance
        self.delay = delay
        self.cut_from_redis: set[str] = set()
        self.cut_from_postgres: set[str] = set()


class SimulatedLink:
    """One process's way to Redis. What was sent may arrive long after its sender gave it up."""

    def __init__(self, name: str, redis: Redis, network: Network) -> None:
        self._name = name
        self._redis = redis
        self._network = network
        self._tasks: set[asyncio.Task[None]] = set()

    async def trip(self, commands: Sequence[Command]) -> tuple[list[Any], bytes]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[list[Any], bytes]] = loop.create_future()
        task = loop.create_task(self._deliver(list(commands), self._redis.run_id, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await answer
        except TimeoutError:
            raise StoreDown("no answer") from None
        except ConnectionError as fault:
            raise StoreDown(str(fault)) from None

    async def _deliver(self, commands: list[Command], run_id: bytes, answer: asyncio.Future[tuple[list[Any], bytes]]) -> None:
        await asyncio.sleep(self._network.delay())
        await self._passable()
        redis = self._redis
        if redis.state == "down" or (redis.run_id != run_id and self._network.chance.random() < 0.5):
            self._fail(answer)  # a connection of before the restart is no more; a new one may have been made in time
            return
        told, by = redis.execute(commands), redis.run_id
        await asyncio.sleep(self._network.delay())
        await self._passable()
        if redis.run_id != by:
            self._fail(answer)
        elif not answer.done():
            answer.set_result((told, by))

    async def _passable(self) -> None:
        while self._redis.state == "frozen" or self._name in self._network.cut_from_redis:
            await asyncio.sleep(RESEND_SECONDS)

    @staticmethod
    def _fail(answer: asyncio.Future[tuple[list[Any], bytes]]) -> None:
        if not answer.done():
            answer.set_exception(ConnectionError("reset"))

    async def close(self) -> None:
        """What is under way goes on: the network has no memory of who sent it."""


class Postgres:
    """Rows that count their versions, and who holds the lock."""

    def __init__(self) -> None:
        self.versions: dict[str, int] = {}
        self.holders: set[SimulatedSession] = set()


class SimulatedSession:
    """One connection of a listener."""

    def __init__(self, name: str, postgres: Postgres, network: Network) -> None:
        self._name = name
        self._postgres = postgres
        self._network = network
        self._open = True

    async def look(self) -> int:
        others: int = await self._ask(lambda: len(self._postgres.holders - {self}))
        return others

    async def hold(self) -> None:
        await self._ask(lambda: self._postgres.holders.add(self))

    async def release(self) -> None:
        await self._ask(lambda: self._postgres.holders.discard(self))

    async def _ask(self, what: Callable[[], Any]) -> Any:
        await asyncio.sleep(self._network.delay())
        await self._passable()
        if not self._open:
            raise OSError("the connection is lost")
        told = what()
        await asyncio.sleep(self._network.delay())
        await self._passable()
        return told

    async def _passable(self) -> None:
        while self._name in self._network.cut_from_postgres:
            await asyncio.sleep(RESEND_SECONDS)

    def lose(self) -> None:
        """The server ends the session, and the lock goes with it."""
        self._open = False
        self._postgres.holders.discard(self)

    async def close(self) -> None:
        self.lose()


class Process:
    """A gateway: a cache over the shared servers, and requests that read and write rows."""

    def __init__(self, name: str, world: World, keeper_options: dict[str, Any] | None = None) -> None:
        self.name = name
        self.world = world
        self.sessions: list[SimulatedSession] = []
        store = RedisStore(SimulatedLink(name, world.redis, world.network), "sim")
        loop_time = asyncio.get_running_loop().time
        self.keeper = Keeper(store, self._connect, lambda _table: None, clock=loop_time, **(keeper_options or {}))
        self.store = store
        self.cache = Cache(store, self.keeper, clock=loop_time)
        self.requests: set[asyncio.Task[None]] = set()

    async def _connect(self, _heard: Callable[[str], None]) -> Session:
        await asyncio.sleep(self.world.network.delay())
        if self.name in self.world.network.cut_from_postgres:
            raise OSError("unreachable")
        session = SimulatedSession(self.name, self.world.postgres, self.world.network)
        self.sessions.append(session)
        return session

    async def read(self, row: str) -> None:
        """A request: what it gets must not be older than what was acknowledged before it arrived."""
        world = self.world
        wanted = world.acknowledged.get(row, 0)
        key = Key(f"row={row}", f"row={row}".encode())
        cached: Cached = await self.cache.read(key, TABLE, lambda: self._load(row), 60)
        world.outcomes[cached.outcome] = world.outcomes.get(cached.outcome, 0) + 1
        if int(cached.body) < wanted:
            now = asyncio.get_running_loop().time()
            world.stale.append(f"{now:.3f} {self.name} got {int(cached.body)} of {row}, by {cached.outcome}, after {wanted}")

    async def _load(self, row: str) -> bytes:
        await asyncio.sleep(self.world.network.delay())
        version = self.world.postgres.versions.get(row, 0)
        await asyncio.sleep(self.world.network.delay())  # the delay between load and store
        return str(version).encode()

    async def write(self, row: str) -> None:
        """A request that makes a new version."""
        world = self.world
        try:
            async with self.cache.writing(TABLE):
                await asyncio.sleep(world.network.delay())
                version = world.postgres.versions[row] = world.postgres.versions.get(row, 0) + 1
                await asyncio.sleep(world.network.delay())
        except Unavailable:
            world.unsettled += 1
            return
        world.acknowledged[row] = max(world.acknowledged.get(row, 0), version)
        world.writes += 1

    def request(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Lets a request run by itself."""
        task = asyncio.get_running_loop().create_task(work)
        self.requests.add(task)
        task.add_done_callback(self.requests.discard)
        return task

    async def crash(self) -> None:
        """Everything in the process ends at once; the servers notice."""
        for task in self.requests:
            task.cancel()
        for session in self.sessions:
            session.lose()
        await self.cache.stop()


class World:
    """Processes, the two servers, the network between them, and what came of it."""

    def __init__(self, seed: int = 0, delay: Callable[[], float] | None = None, processes: int = 3) -> None:
        self.chance = random.Random(seed)
        self.network = Network(self.chance, delay or self._some_delay)
        self.redis = Redis(self.chance)
        self.postgres = Postgres()
        self.acknowledged: dict[str, int] = {}
        self.outcomes: dict[str, int] = {}
        self.stale: list[str] = []
        self.writes = 0
        self.unsettled = 0
        self.processes: list[Process] = []
        self._count = processes

    def _some_delay(self) -> float:
        return self.chance.choice((0.0, 0.0, 0.0002, 0.001, 0.003, 0.02))

    async def begin(self, **keeper_options: Any) -> None:
        """Starts the processes."""
        for number in range(self._count):
            self.processes.append(Process(f"p{number}", self, keeper_options))
        await asyncio.gather(*(process.cache.start() for process in self.processes))

    async def end(self) -> None:
        """Lets the requests come to their end, and stops the processes."""
        for process in self.processes:
            await asyncio.gather(*process.requests)
        for process in self.processes:
            await process.cache.stop()


@contextmanager
def mutated(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """One safeguard taken away."""
    original = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)
