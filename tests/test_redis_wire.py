"""The connection to Redis: against a real Valkey, and against servers that are none."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest
import uvloop

from gateway.breaker import Breaker
from gateway.errors import ConfigurationError
from gateway.redis_wire import RedisDown, RedisWire, Refused, ping

PATIENT_SECONDS = 20.0
HASTY_SECONDS = 0.1


@asynccontextmanager
async def wired(url: str, timeout_seconds: float = PATIENT_SECONDS, *, identified: bool = False) -> AsyncIterator[RedisWire]:
    wire = RedisWire(url, timeout_seconds, identified=identified)
    try:
        yield wire
    finally:
        await wire.close()


@asynccontextmanager
async def impostor(talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """The URL of a server that says what `talk` says, and then nothing."""

    talking: list[asyncio.Task[None]] = []

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talking.append(cast("asyncio.Task[None]", asyncio.current_task()))
        await talk(reader, writer)
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.wait(talking, timeout=PATIENT_SECONDS)


@pytest.mark.parametrize("run_in", [asyncio.run, uvloop.run])
def test_trips_in_flight_together_get_their_own_answers(redis_url: str, run_in: Callable[..., None]) -> None:
    async def run() -> None:
        async with wired(redis_url) as wire:
            trips = [wire.trip([("ECHO", f"{number}"), ("ECHO", b"\0\r\n"), ("ECHO", number)]) for number in range(200)]
            for number, (answers, _) in enumerate(await asyncio.gather(*trips)):
                assert answers == [b"%d" % number, b"\0\r\n", b"%d" % number]

    run_in(run())


def test_a_refusal_is_the_answer_to_its_own_command(redis_url: str) -> None:
    async def run() -> None:
        async with wired(redis_url) as wire:
            answers, _ = await wire.trip([("ECHO", "before"), ("NONSENSE",), ("ECHO", "after")])
            assert answers[0] == b"before"
            assert isinstance(answers[1], Refused)
            assert answers[2] == b"after"

    asyncio.run(run())


def test_a_caller_that_leaves_takes_no_answer_of_others_with_it(redis_url: str) -> None:
    async def run() -> None:
        async with wired(redis_url) as wire:
            await wire.trip([("PING",)])
            leaving = [asyncio.ensure_future(wire.trip([("ECHO", "left")])) for _ in range(20)]
            staying = [asyncio.ensure_future(wire.trip([("ECHO", f"{number}")])) for number in range(20)]
            await asyncio.sleep(0)
            for task in leaving:
                task.cancel()
            assert [answers for answers, _ in await asyncio.gather(*staying)] == [[b"%d" % number] for number in range(20)]

    asyncio.run(run())


def test_a_connection_that_ends_is_followed_by_another(redis_url: str) -> None:
    async def run() -> None:
        async with wired(redis_url, identified=True) as wire, wired(redis_url) as other:
            (number,), run_id = await wire.trip([("CLIENT", "ID")])
            assert len(run_id) == 40
            assert (await other.trip([("CLIENT", "KILL", "ID", number)]))[0] == [1]
            for _ in range(2):  # the one that is lost, where it is not known yet, and the one after it
                try:
                    (now,), run_id_now = await wire.trip([("CLIENT", "ID")])
                except RedisDown:
                    continue
            assert now != number
            assert run_id_now == run_id

    asyncio.run(run())


def test_callers_that_come_before_there_is_a_connection_share_one(redis_url: str) -> None:
    async def run() -> None:
        async with wired(redis_url) as wire:
            trips = await asyncio.gather(*(wire.trip([("CLIENT", "ID")]) for _ in range(20)))
            assert len({answers[0] for answers, _ in trips}) == 1

    asyncio.run(run())


def test_the_database_and_the_user_of_the_url_are_taken(redis_url: str) -> None:
    def with_(user: str, rest: str) -> str:
        scheme, _, place = redis_url.partition("://")
        return f"{scheme}://{user}{place.partition('?')[0].removesuffix('/0')}{rest}"

    in_path = "?db=3" if redis_url.startswith("unix") else "/3"

    async def run() -> None:
        async with wired(with_("", in_path)) as third, wired(redis_url) as first:
            await third.trip([("SET", "wire:database", "third", "EX", 60)])
            assert (await third.trip([("GET", "wire:database")]))[0] == [b"third"]
            assert (await first.trip([("GET", "wire:database")]))[0] == [None]
            await first.trip([("ACL", "SETUSER", "wire", "on", ">secret", "+ping")])
            async with wired(with_("wire:secret@", "")) as allowed:
                assert (await allowed.trip([("PING",)]))[0] == [b"PONG"]
            async with wired(with_("wire:wrong@", "")) as refused:
                with pytest.raises(RedisDown, match="WRONGPASS"):
                    await refused.trip([("PING",)])
            await first.trip([("ACL", "DELUSER", "wire")])

    asyncio.run(run())


def test_a_server_that_does_not_answer_costs_every_trip_its_time_and_no_more() -> None:
    async def silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        return

    async def run() -> None:
        async with impostor(silent) as url, wired(url, HASTY_SECONDS) as wire:
            for outcome in await asyncio.gather(*(wire.trip([("PING",)]) for _ in range(20)), return_exceptions=True):
                assert str(outcome) == "no answer within 0.1 s"
            with pytest.raises(RedisDown):
                await wire.trip([("PING",)])

    asyncio.run(run())


@pytest.mark.parametrize("told", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"*1\r\n$x\r\n"])
def test_what_is_no_redis_is_down(told: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        writer.write(told)

    async def run() -> None:
        async with impostor(talk) as url, wired(url) as wire:
            with pytest.raises(RedisDown):
                await wire.trip([("PING",)])

    asyncio.run(run())


def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    """Whose answer the next one is, nobody could tell."""
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"PING\r\n")
        writer.write(b"+PONG\r\n+PONG\r\n")

    async def run() -> None:
        async with impostor(talk) as url, wired(url) as wire:
            for expected in (1, 2):
                assert (await wire.trip([("PING",)]))[0] == [b"PONG"]
                assert connections == expected

    asyncio.run(run())


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "unix:///nowhere/redis.sock", "rediss://127.0.0.1:1?ssl_cert_reqs=none"])
def test_a_server_that_is_not_there_is_down_for_all_that_wait(url: str) -> None:
    async def run() -> None:
        async with wired(url) as wire:
            for outcome in await asyncio.gather(*(wire.trip([("PING",)]) for _ in range(5)), return_exceptions=True):
                assert isinstance(outcome, RedisDown)
        gc.collect(1)  # a failure that nobody fetched would be told of here, which the suite takes for a fault

    asyncio.run(run())


def test_an_option_that_is_not_known_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigurationError, match='"socket_keepalive", which is not known here; options: db, ssl_cert_reqs'):
        RedisWire("redis://localhost?socket_keepalive=yes", 1)


def test_no_trip_is_made_while_the_breaker_is_open_and_the_breaker_hears_how_trips_end(redis_url: str) -> None:
    async def run() -> None:
        breaker = Breaker("redis", lambda: ping(redis_url, PATIENT_SECONDS), minimum_calls=2, pause_seconds=0.01)
        answering = RedisWire(redis_url, PATIENT_SECONDS, breaker=breaker)
        absent = RedisWire("unix:///nowhere/valkey.sock", HASTY_SECONDS, breaker=breaker)
        (answers, _) = await answering.trip([("ECHO", "1"), ("NOSUCH",)])
        assert isinstance(answers[1], Refused), "which is an answer, and no failure"
        assert breaker.is_closed
        with pytest.raises(RedisDown, match="FileNotFoundError"):
            await absent.trip([("PING",)])
        assert breaker.state == "open"
        with pytest.raises(RedisDown, match="the circuit is open"):
            await answering.trip([("PING",)])
        async with asyncio.timeout(10):
            while not breaker.is_closed:
                await asyncio.sleep(0.001)
        await answering.trip([("PING",)])
        for wire in (answering, absent):
            await wire.close()
        await breaker.stop()

    asyncio.run(run())
