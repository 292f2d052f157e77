"""What is tried again and what is not: the table of faults, the budget, and a statement over a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import msgspec
import pytest

from gateway.connect import Connection
from gateway.database.execute import Database
from gateway.database.pool import Pool
from gateway.database.retry import (
    ANSWERED,
    DEMOTED,
    LOST,
    REFUSED,
    SERIALIZATION,
    STALE,
    TIMEOUT,
    UNREACHABLE,
    Budget,
    Kind,
    NoConnection,
    kind_of,
    pause_seconds,
)
from gateway.errors import GatewayError, NotSent, NotWritten, OutcomeUnknown
from gateway.events import Event, PoolLeft, Retried, StatementRan
from tests.conftest import throwaway_database
from tests.database.test_pool import opened, options
from tests.issuing import Clock


@pytest.fixture(scope="module")
def url(postgres_url: str) -> Iterator[str]:
    with throwaway_database(postgres_url) as found:
        yield found


def answer(state: str, severity: str = "ERROR") -> asyncpg.PostgresError:
    fault: asyncpg.PostgresError = asyncpg.PostgresError.new({"S": severity, "V": severity, "C": state, "M": "told"})
    return fault


@pytest.mark.parametrize(
    ("fault", "sent", "kind"),
    [
        (ConnectionRefusedError(), False, REFUSED),
        (FileNotFoundError("/socket"), False, REFUSED),
        (answer("57P03", "FATAL"), False, REFUSED),
        (asyncpg.ConnectionDoesNotExistError("x"), False, REFUSED),
        (answer("53300", "FATAL"), False, ANSWERED),
        (answer("28P01", "FATAL"), False, ANSWERED),
        (NoConnection(), False, UNREACHABLE),
        (TimeoutError(), False, UNREACHABLE),
        (NotSent("busy"), False, ANSWERED),
        (ConnectionResetError(), True, LOST),
        (asyncpg.ConnectionDoesNotExistError("x"), True, LOST),
        (asyncpg.InterfaceError("x"), True, LOST),
        (answer("57P01", "FATAL"), True, LOST),
        (answer("57P02", "FATAL"), True, LOST),
        (answer("25P03", "FATAL"), True, LOST),
        (TimeoutError(), True, TIMEOUT),
        (answer("40001"), True, SERIALIZATION),
        (answer("40P01"), True, SERIALIZATION),
        (answer("25006"), True, DEMOTED),
        (asyncpg.InvalidCachedStatementError("x"), True, STALE),
        *((answer(state), True, ANSWERED) for state in ("22003", "23505", "42P01", "42601", "57014", "53100", "55P03", "P0001")),
        (RuntimeError(), True, ANSWERED),
    ],
)
def test_every_fault_is_of_a_kind(fault: Exception, sent: bool, kind: Kind) -> None:
    assert kind_of(fault, sent) is kind


def test_a_pause_is_any_up_to_a_bound_that_doubles() -> None:
    assert [pause_seconds(retries, lambda: 1.0) for retries in (0, 1)] == [0.05, 0.1]
    assert pause_seconds(1, lambda: 0.0) == 0


def test_the_budget_is_a_part_of_all_statements_and_a_few_a_second() -> None:
    clock = Clock()
    budget = Budget(part=0.1, per_second=1, most=5, clock=clock)
    assert [budget.take() for _ in range(6)] == [True] * 5 + [False]
    budget.statements = 20
    assert [budget.take() for _ in range(3)] == [True, True, False]
    clock.seconds += 1
    assert [budget.take() for _ in range(2)] == [True, False]
    clock.seconds += 1000
    assert [budget.take() for _ in range(6)] == [True] * 5 + [False]


async def terminate_all(url: str, name: str = "pool-test") -> int:
    """Ends every connection of the pool; gives how many there were."""
    connection = await asyncpg.connect(url)
    try:
        whose = "application_name = $1 AND datname = current_database()"
        query = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {whose}"
        ended: int = await connection.fetchval(query, name)
        return ended
    finally:
        await connection.close()


def steps(events: list[Event]) -> list[Event]:
    """What happened beside the statements themselves."""
    return [event for event in events if not isinstance(event, StatementRan)]


def test_reads_outlive_the_end_of_all_connections(url: str) -> None:
    async def run() -> None:
        events: list[Event] = []
        async with opened(url, minimum=5, maximum=5, acquire_timeout_seconds=10) as pool:
            database = Database(pool, observe=events.append)
            for _ in range(5):
                running = [asyncio.create_task(database.fetch("SELECT 7 FROM pg_sleep(0.05)", ())) for _ in range(20)]
                async with asyncio.timeout(10):
                    while len(pool._in_use) < 5:
                        await asyncio.sleep(0.001)
                assert await terminate_all(url) >= 5
                assert [rows[0][0] for rows in await asyncio.gather(*running)] == [7] * 20
            assert Retried("lost") in events
            assert database.breaker.is_closed
            await database.stop()

    asyncio.run(run())


def test_a_write_whose_connection_is_lost_is_not_repeated_and_its_outcome_is_unknown(url: str) -> None:
    async def run() -> None:
        events: list[Event] = []
        async with opened(url) as pool:
            database = Database(pool, observe=events.append)
            await database.fetch("CREATE TABLE lost (n int)", ())
            insert = "WITH w AS (INSERT INTO lost VALUES (1) RETURNING n) SELECT n, pg_terminate_backend(pg_backend_pid()) FROM w"
            for timeout_seconds in (None, 3.0):
                with pytest.raises(GatewayError) as raised:
                    await database.fetch(insert, (), timeout_seconds, writing=True)
                # Within a transaction it is certain that COMMIT was not sent, so it may be tried again, and fails again.
                assert type(raised.value) is (OutcomeUnknown if timeout_seconds is None else NotWritten)
                assert steps(events) == ([] if timeout_seconds is None else [Retried("lost")] * 2)
            assert (await database.fetch("SELECT count(*) FROM lost", ()))[0][0] == 0
            await database.stop()

    asyncio.run(run())


def test_a_deadlock_is_tried_again_as_a_whole(url: str) -> None:
    async def run() -> None:
        events: list[Event] = []
        async with opened(url) as pool:
            database = Database(pool, observe=events.append)
            await database.fetch("CREATE TABLE counters (id int PRIMARY KEY, n int)", ())
            await database.fetch("INSERT INTO counters VALUES (1, 0), (2, 0)", ())
            first, second = (f"UPDATE counters SET n = n + 1 WHERE id = {name};" for name in ("a", "b"))
            body = f"BEGIN {first} PERFORM pg_sleep(0.1); {second} END"
            function = "CREATE FUNCTION both_of(a int, b int) RETURNS void LANGUAGE plpgsql SET deadlock_timeout = '50ms'"
            await database.fetch(f"{function} AS '{body}'", ())
            both = "SELECT both_of($1, $2)"
            await asyncio.gather(database.fetch(both, (1, 2), writing=True), database.fetch(both, (2, 1), writing=True))
            assert Retried("serialization") in events
            assert [row[0] for row in await database.fetch("SELECT n FROM counters", ())] == [2, 2]
            await database.stop()

    asyncio.run(run())


def test_a_server_that_takes_no_writes_is_left(url: str) -> None:
    async def run() -> None:
        events: list[Event] = []
        async with opened(url) as pool:
            pool = Pool(pool.options, events.append)
            await pool.open()
            database = Database(pool, observe=events.append)
            await database.fetch("CREATE TABLE written (n int)", ())
            await database.fetch("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", ())
            await database.fetch("INSERT INTO written VALUES (1)", (), writing=True)
            assert steps(events) == [PoolLeft("pool-test"), Retried("demoted")]
            assert (await database.fetch("SELECT count(*) FROM written", ()))[0][0] == 1
            await database.stop()
            await pool.close()

    asyncio.run(run())


def test_nothing_is_sent_while_the_breaker_is_open(url: str) -> None:
    async def run() -> None:
        async with opened(url) as pool:
            database = Database(pool)
            await database.fetch("CREATE TABLE untouched (n int)", ())
            database.breaker._open("the test says so")
            with pytest.raises(NotSent) as raised:
                await database.fetch("INSERT INTO untouched VALUES (1)", (), writing=True)
            assert raised.value.headers == (("Retry-After", "1"),)
            assert await database.is_well()
            assert (await database.fetch("SELECT count(*) FROM untouched", ()))[0][0] == 0
            await database.stop()

    asyncio.run(run())


def test_a_database_that_is_not_there_is_tried_thrice_and_nothing_was_written() -> None:
    async def run() -> None:
        events: list[Event] = []
        pool = Pool(msgspec.structs.replace(options("postgresql://nobody@127.0.0.1:1/nothing?sslmode=disable")), events.append)
        database = Database(pool, observe=events.append)
        with pytest.raises(NotSent):
            await database.fetch("INSERT INTO nothing VALUES (1)", (), writing=True)
        assert 0 < events.count(Retried("connect")) <= 2
        await database.stop()
        await pool.close()

    asyncio.run(run())


def test_a_connection_that_is_too_old_is_replaced(url: str) -> None:
    async def run() -> None:
        async with opened(url, minimum=1, maximum=1, idle_seconds=0.1, lifetime_seconds=0.2) as pool:
            first = await pool.acquire()
            pool.release(first)
            async with asyncio.timeout(10):
                while not first.is_closed():
                    await asyncio.sleep(0.01)
            second = await pool.acquire()
            assert second is not first
            pool.release(second)

    asyncio.run(run())


def test_leaving_gives_up_idle_connections_now_and_others_as_they_come_back(url: str) -> None:
    async def run() -> None:
        async with opened(url, maximum=2) as pool:
            used, idle = await pool.acquire(), await pool.acquire()
            pool.release(idle)
            pool.leave()
            assert (pool.idle, pool.size) == (0, 1)
            assert await used.fetchval("SELECT 1") == 1
            pool.release(used)
            assert pool.size == 0
            third = await pool.acquire()
            assert third not in (used, idle)
            pool.leave()  # again, at once, which changes nothing
            pool.release(third)
            assert pool.idle == 1

    asyncio.run(run())


def test_a_probes_connection_from_before_a_departure_does_not_stay(url: str) -> None:
    async def run() -> None:
        async with opened(url, maximum=2) as pool:
            await pool.probe()
            assert pool.idle == 1

            async def depart(_connection: Connection) -> None:
                pool.drop()

            pool._approve = depart
            await pool.probe()
            assert pool.size == 0

    asyncio.run(run())
