"""One connection to Redis, on which everything in flight is pipelined: commands in, their answers out, or `RedisDown` in time.

redis-py's way costs a point read's limit check more than the check: a lock, a retry policy, a timer and a stream for each call.
Here a trip is one write, one future, and hiredis, which parses in C. Answers come in the order of their questions, so the
oldest trip's deadline is the only one that needs a timer. A trip that is late ends the connection, and with it all that wait:
what comes after it on the same connection cannot have come before. The next trip connects anew; nothing is tried twice.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import hiredis
import msgspec

from gateway.errors import ConfigurationError

Command = tuple[bytes | str | int, ...]

DEFAULT_PORT = 6379
PLACE = ("host", "port", "db", "path", "username", "password")
TLS_OPTIONS = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")


class RedisDown(Exception):
    """Redis did not answer in time, could not be reached, or refused who asks."""


class Refused(Exception):
    """An error that Redis answered to one command. It is an answer, not raised."""


_pack = cast("Callable[[Command], bytes]", hiredis.pack_command)  # whose stub knows tuples of one member alone

_MORE = object()
"""What the parser gives while an answer is not whole."""


class Guard(Protocol):
    """A circuit breaker, as a wire uses it."""

    @property
    def is_closed(self) -> bool:
        """Whether trips may be made."""

    def succeeded(self) -> None:
        """Redis answered."""

    def failed(self, reason: str) -> None:
        """It did not."""


class _Trip(msgspec.Struct):
    count: int
    deadline: float
    future: asyncio.Future[list[Any]]
    answers: list[Any]


class _Connection(asyncio.Protocol):
    """The wire itself. `run_id` is the server's, where it was asked for."""

    def __init__(self, timeout_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout_seconds = timeout_seconds
        self._parser = hiredis.Reader(replyError=Refused, notEnoughData=_MORE)
        self._trips: deque[_Trip] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self.run_id = b""

    @property
    def is_open(self) -> bool:
        """Whether a trip can begin on it."""
        return self._transport is not None

    def ask(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """The answers to come. The future raises RedisDown."""
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if self._transport is None:
            future.set_exception(RedisDown("the connection was lost"))
            return future
        deadline = self._loop.time() + self._timeout_seconds
        self._trips.append(_Trip(len(commands), deadline, future, []))
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._look)
        self._transport.write(b"".join([_pack(command) for command in commands]))
        return future

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # which uvloop's is by its methods alone

    def data_received(self, data: bytes) -> None:
        parser, trips = self._parser, self._trips
        parser.feed(data)
        try:
            while (answer := parser.gets()) is not _MORE:
                trip = trips[0]
                trip.answers.append(answer)
                if len(trip.answers) == trip.count:
                    trips.popleft()
                    if not trip.future.done():  # its caller has not left
                        trip.future.set_result(trip.answers)
        except (hiredis.HiredisError, IndexError):  # no Redis speaks here, or it says what nobody asked
            self.end("its answer is not Redis's")

    def connection_lost(self, exc: Exception | None) -> None:
        self.end("the connection was lost" if exc is None else f"{type(exc).__name__}: {exc}")

    def end(self, reason: str) -> None:
        """Cuts the connection. Who waits on it is told."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._trips:
            future = self._trips.popleft().future
            if not future.done():
                future.set_exception(RedisDown(reason))

    def _look(self) -> None:
        """Ends the connection where its oldest trip is late. Set anew for the next one only when it has come to this."""
        self._timer = None
        if not self._trips:
            return
        deadline = self._trips[0].deadline
        if self._loop.time() >= deadline:
            self.end(f"no answer within {self._timeout_seconds:g} s")
        else:
            self._timer = self._loop.call_at(deadline, self._look)


class RedisWire:
    """A way to the Redis of `url`. No trip lasts longer than `timeout_seconds`, and none is tried again; to connect may take as
    long once more.

    `identified` asks each new connection which run of which server this is. Raises ConfigurationError for options of the URL
    that are not known. Where `breaker` is open no trip is made. Belongs to one event loop.
    """

    def __init__(self, url: str, timeout_seconds: float, *, identified: bool = False, breaker: Guard | None = None) -> None:
        self._options = _read_url(url)
        self._timeout_seconds = timeout_seconds
        self._identified = identified
        self._breaker = breaker
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None

    async def trip(self, commands: Sequence[Command]) -> tuple[list[Any], bytes]:
        """The answers, a `Refused` among them for each command that was, and the run id. Raises RedisDown."""
        breaker = self._breaker
        if breaker is None:
            return await self._trip(commands)
        if not breaker.is_closed:
            raise RedisDown("the circuit is open")
        try:
            told = await self._trip(commands)
        except RedisDown as down:
            breaker.failed(str(down))
            raise
        breaker.succeeded()
        return told

    async def _trip(self, commands: Sequence[Command]) -> tuple[list[Any], bytes]:
        connection = self._connection
        if connection is None or not connection.is_open:
            connection = await self._connected()
        return await connection.ask(commands), connection.run_id

    async def close(self) -> None:
        """Ends the connection at once."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._connection is not None:
            self._connection.end("it was closed")

    async def _connected(self) -> _Connection:
        """A new connection; who asks meanwhile gets the same."""
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add_done_callback(self._tried)
        return await asyncio.shield(self._connecting)  # who leaves leaves alone

    def _tried(self, task: asyncio.Task[_Connection]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # it may be that nobody waits for it any more

    async def _connect(self) -> _Connection:
        connection = _Connection(self._timeout_seconds)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._reach(connection)
                await self._greet(connection)
        except TimeoutError as fault:
            connection.end("")
            raise RedisDown(f"no connection within {self._timeout_seconds:g} s") from fault
        except OSError as fault:
            connection.end("")
            raise RedisDown(f"{type(fault).__name__}: {fault}") from fault
        except BaseException:
            connection.end("")
            raise
        self._connection = connection
        return connection

    async def _reach(self, connection: _Connection) -> None:
        loop, options = asyncio.get_running_loop(), self._options
        if "path" in options:
            await loop.create_unix_connection(lambda: connection, options["path"])
            return
        host = options.get("host", "localhost")
        tls = _tls(options) if options["tls"] else None
        await loop.create_connection(lambda: connection, host, options.get("port", DEFAULT_PORT), ssl=tls)

    async def _greet(self, connection: _Connection) -> None:
        options = self._options
        greetings: list[Command] = []
        if "password" in options:
            greetings.append(("AUTH", *filter(None, (options.get("username"), options["password"]))))
        if options.get("db"):
            greetings.append(("SELECT", options["db"]))
        if self._identified:
            greetings.append(("INFO", "server"))
        answers = await connection.ask(greetings) if greetings else []
        for answer in answers:
            if isinstance(answer, Refused):
                raise RedisDown(f"refused: {answer}") from answer
        if self._identified:
            connection.run_id = _run_id(answers[-1])


async def ping(url: str, timeout_seconds: float) -> None:
    """Raises RedisDown where Redis does not let us in and answer: what a breaker probes."""
    wire = RedisWire(url, timeout_seconds)
    try:
        await wire.trip([("PING",)])
    finally:
        await wire.close()


def _run_id(told: bytes) -> bytes:
    found = next((line.partition(b":")[2] for line in told.split(b"\r\n") if line.startswith(b"run_id:")), b"")
    if not found:
        raise RedisDown("the server does not tell its run id")
    return found


def _read_url(url: str) -> Mapping[str, Any]:
    """The parts of a `REDIS_URL` and its options, and whether it is for `tls`. Raises ConfigurationError for other options."""
    # Here, for redis-py takes a sixth of the time of a gateway's start, and a gateway without Redis needs none of it.
    from redis.asyncio.connection import SSLConnection, parse_url

    options: dict[str, Any] = dict(parse_url(url))
    tls = options.pop("connection_class", None) is SSLConnection
    unknown = [name for name in options if name not in (*PLACE, *TLS_OPTIONS)]
    if unknown:
        known = ", ".join(("db", *TLS_OPTIONS))
        raise ConfigurationError(f'REDIS_URL has the option "{unknown[0]}", which is not known here; options: {known}')
    return {**options, "tls": tls}


def _tls(options: Mapping[str, Any]) -> ssl.SSLContext:
    """The TLS that the URL's options ask for; without any, the server's certificate is held against the system's authorities."""
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_cert_reqs") in ("none", "optional"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE if options["ssl_cert_reqs"] == "none" else ssl.CERT_OPTIONAL
    elif options.get("ssl_check_hostname") in (False, "False", "false"):
        context.check_hostname = False
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context
