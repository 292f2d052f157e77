"""The pool's laws, over a real PostgreSQL: bounds, order, what is given back, what is thrown away, and how it ends."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import cast

import asyncpg
import msgspec
import pytest
import uvloop

from gateway.connect import Connection
from gateway.database.execute import GRACE_SECONDS, Database
from gateway.database.pool import KEEPALIVE, SESSION, Pool, PoolOptions, _keep_alive
from gateway.database.retry import NoConnection
from gateway.errors import DatabaseTimeout, GatewayError, NotSent, Unavailable
from tests.conftest import throwaway_database


@pytest.fixture(scope="module")
def url(postgres_url: str) -> Iterator[str]:
    with throwaway_database(postgres_url) as found:
        yield found


def options(url: str, **changes: object) -> PoolOptions:
    return msgspec.structs.replace(PoolOptions(url=url, name="pool-test", minimum=0, maximum=3), **changes)


@asynccontextmanager
async def opened(url: str, **changes: object) -> AsyncIterator[Pool]:
    pool = Pool(options(url, **changes))
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close(timeout_seconds=1)


@asynccontextmanager
async def observer(url: str, name: str = "pool-test") -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Counts the pool's connections as the server sees them."""
    connection = await asyncpg.connect(url)

    async def count() -> int:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()"
        found: int = await connection.fetchval(query, name)
        return found

    try:
        yield count
    finally:
        await connection.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def _begun(pool: Pool) -> None:
    """Until a first connection is being opened, and no longer."""
    while not pool.size:
        await asyncio.sleep(0)


@contextmanager
def silent_server() -> Iterator[str]:
    """A server that takes connections and never says a word; gives its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        yield f"postgresql://postgres@127.0.0.1:{listener.getsockname()[1]}/postgres?sslmode=disable"


@contextmanager
def absent_server() -> Iterator[str]:
    """A port where nobody listens; gives its URL."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"postgresql://postgres@127.0.0.1:{unused.getsockname()[1]}/postgres?sslmode=disable"


# --- bounds ------------------------------------------------------------------------------------------------------------


async def _random_load(url: str, seed: int) -> None:
    chance = random.Random(seed)
    async with opened(url, maximum=4, minimum=1, acquire_timeout_seconds=5) as pool, observer(url) as connected:
        held: set[int] = set()
        most = 0

        async def caller() -> None:
            nonlocal most
            for _ in range(5):
                try:
                    async with asyncio.timeout(chance.choice([0.001, 0.01, 5])):
                        connection = await pool.acquire()
                except TimeoutError:
                    continue
                assert id(connection) not in held
                held.add(id(connection))
                most = max(most, len(held), pool.size)
                try:
                    await connection.fetchval("SELECT pg_sleep($1)", chance.choice([0, 0, 0.01]))
                    if chance.random() < 0.1:
                        connection.terminate()
                finally:
                    held.discard(id(connection))
                    pool.release(connection, in_doubt=chance.random() < 0.2)

        await asyncio.gather(*(caller() for _ in range(25)))
        await until(lambda: pool.waiting == 0 and pool.size == pool.idle)
        assert most <= 4
        assert pool.size <= 4
        connections = [await pool.acquire() for _ in range(4)]  # nothing was lost on the way
        assert len({connection.get_server_pid() for connection in connections}) == 4
        for connection in connections:
            pool.release(connection)
        async with asyncio.timeout(10):
            while await connected() != 4:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("seed", range(5))
def test_under_any_load_no_connection_is_shared_lost_or_beyond_the_maximum(url: str, seed: int) -> None:
    asyncio.run(_random_load(url, seed))


def test_a_connection_thrown_away_and_a_new_caller_do_not_go_beyond_the_maximum_together(url: str) -> None:
    async def run() -> None:
        async with opened(url, maximum=1, acquire_timeout_seconds=5) as pool:
            first = await pool.acquire()
            waiting = asyncio.create_task(pool.acquire())
            await until(lambda: pool.waiting == 1)
            pool.release(first, in_doubt=True)
            late = asyncio.create_task(pool.acquire())
            second = await waiting
            assert pool.size == 1
            assert not late.done()
            pool.release(second)
            assert await late is second
            pool.release(second)

    asyncio.run(run())


def test_the_minimum_is_opened_at_the_start(url: str) -> None:
    async def run() -> None:
        async with opened(url, minimum=2) as pool, observer(url) as connected:
            assert (pool.size, pool.idle) == (2, 2)
            assert await connected() == 2

    asyncio.run(run())


def test_the_connection_that_was_used_last_is_used_first(url: str) -> None:
    async def run() -> None:
        async with opened(url, minimum=2) as pool:
            first, second = await pool.acquire(), await pool.acquire()
            pool.release(first)
            pool.release(second)
            assert await pool.acquire() is second
            pool.release(second)

    asyncio.run(run())


def test_idle_connections_are_closed_down_to_the_minimum(url: str) -> None:
    async def run() -> None:
        async with opened(url, minimum=1, maximum=4, idle_seconds=0.2) as pool, observer(url) as connected:
            connections = [await pool.acquire() for _ in range(4)]
            for connection in connections:
                pool.release(connection)
            assert pool.size == 4
            await until(lambda: pool.size == 1)
            async with asyncio.timeout(10):
                while await connected() != 1:
                    await asyncio.sleep(0.01)

    asyncio.run(run())


def test_the_minimum_is_opened_again_when_the_server_closed_it(url: str) -> None:
    async def run() -> None:
        async with opened(url, minimum=2, idle_seconds=0.2) as pool:
            before = [entry.connection for entry in pool._idle]
            pids = [connection.get_server_pid() for connection in before]
            connection = await asyncpg.connect(url)
            for process in pids:
                await connection.execute("SELECT pg_terminate_backend($1)", process)
            await connection.close()
            await until(lambda: pool.idle == 2 and not any(entry.connection in before for entry in pool._idle))

    asyncio.run(run())


# --- the line ----------------------------------------------------------------------------------------------------------


def test_waiters_are_served_in_the_order_in_which_they_came(url: str) -> None:
    async def run() -> None:
        served: list[int] = []
        async with opened(url, maximum=1, acquire_timeout_seconds=5) as pool:
            held = await pool.acquire()

            async def wait(number: int) -> None:
                connection = await pool.acquire()
                served.append(number)
                await asyncio.sleep(0)
                pool.release(connection)

            tasks = []
            for number in range(20):
                tasks.append(asyncio.create_task(wait(number)))
                await until(lambda number=number: pool.waiting == number + 1)  # type: ignore[misc]  # mypy infers no lambda with a default
            pool.release(held)
            await asyncio.gather(*tasks)
            assert served == list(range(20))

    asyncio.run(run())


def test_who_waits_too_long_is_told_that_every_connection_is_busy(url: str) -> None:
    async def run() -> None:
        async with opened(url, maximum=1, acquire_timeout_seconds=0.05) as pool:
            held = await pool.acquire()
            with pytest.raises(Unavailable, match="busy") as raised:
                await pool.acquire()
            assert raised.value.headers == (("Retry-After", "1"),)
            assert pool.waiting == 0
            pool.release(held)
            assert pool.idle == 1

    asyncio.run(run())


def test_a_waiter_that_is_cancelled_as_it_is_served_loses_no_connection(url: str) -> None:
    async def run() -> None:
        async with opened(url, maximum=1, acquire_timeout_seconds=5) as pool:
            held = await pool.acquire()
            waiting = asyncio.create_task(pool.acquire())
            await until(lambda: pool.waiting == 1)
            pool.release(held)  # the connection is the waiter's now, though its task has not run
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (pool.size, pool.idle) == (1, 1)
            assert await pool.acquire() is held
            pool.release(held)

    asyncio.run(run())


def test_a_waiter_that_is_cancelled_before_its_turn_leaves_the_line(url: str) -> None:
    async def run() -> None:
        async with opened(url, maximum=1, acquire_timeout_seconds=5) as pool:
            held = await pool.acquire()
            leaving, staying = asyncio.create_task(pool.acquire()), asyncio.create_task(pool.acquire())
            await until(lambda: pool.waiting == 2)
            leaving.cancel()
            await until(lambda: pool.waiting == 1)
            pool.release(held)
            assert await staying is held
            pool.release(held)

    asyncio.run(run())


def test_a_caller_that_is_cancelled_while_its_connection_opens_leaves_it_to_others(url: str) -> None:
    async def run() -> None:
        async with opened(url, maximum=1, acquire_timeout_seconds=5) as pool:
            leaving = asyncio.create_task(pool.acquire())
            await _begun(pool)
            leaving.cancel()
            connection = await pool.acquire()
            assert pool.size == 1
            pool.release(connection)

    asyncio.run(run())


def test_a_connection_that_is_thrown_away_is_replaced_for_who_waits(url: str) -> None:
    async def run() -> None:
        async with opened(url, maximum=1, acquire_timeout_seconds=5) as pool:
            held = await pool.acquire()
            waiting = asyncio.create_task(pool.acquire())
            await until(lambda: pool.waiting == 1)
            pool.release(held, in_doubt=True)
            replacement = await waiting
            assert replacement is not held
            assert held.is_closed()
            pool.release(replacement)

    asyncio.run(run())


def test_an_idle_connection_that_the_server_closed_is_not_handed_out(url: str) -> None:
    async def run() -> None:
        async with opened(url, maximum=1) as pool:
            connection = await pool.acquire()
            pool.release(connection)
            connection.terminate()
            other = await pool.acquire()
            assert other is not connection
            assert await other.fetchval("SELECT 1") == 1
            pool.release(other)

    asyncio.run(run())


def test_a_connection_cannot_be_given_back_twice(url: str) -> None:
    async def run() -> None:
        async with opened(url) as pool:
            connection = await pool.acquire()
            pool.release(connection)
            with pytest.raises(KeyError):
                pool.release(connection)

    asyncio.run(run())


# --- a database that is away -------------------------------------------------------------------------------------------


def test_every_waiter_is_told_when_connecting_fails() -> None:
    async def run() -> None:
        with absent_server() as url:
            pool = Pool(options(url, maximum=1, acquire_timeout_seconds=5))
            outcomes = await asyncio.gather(*(pool.acquire() for _ in range(10)), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [ConnectionRefusedError] * 10
            assert (pool.size, pool.waiting) == (0, 0)
            await pool.close()

    asyncio.run(run())


def test_opening_the_pool_without_a_database_raises() -> None:
    async def run() -> None:
        with absent_server() as url, pytest.raises(ConnectionRefusedError):
            await Pool(options(url, minimum=2)).open()

    asyncio.run(run())


def test_a_server_that_does_not_answer_costs_no_more_than_the_acquire_timeout() -> None:
    async def run() -> None:
        with silent_server() as url:
            pool = Pool(options(url, maximum=2, acquire_timeout_seconds=0.1))
            async with asyncio.timeout(3):
                outcomes = await asyncio.gather(*(pool.acquire() for _ in range(5)), return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {NoConnection}
            assert pool.size <= 2
            async with asyncio.timeout(3):
                await pool.close()

    asyncio.run(run())


def test_who_waits_while_the_server_is_full_gets_a_connection_that_comes_free(url: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE ROLE few LOGIN CONNECTION LIMIT 1")
        few = url.replace("postgres@/", "few@/")
        try:
            async with opened(few, maximum=3, acquire_timeout_seconds=10) as pool:
                held = await pool.acquire()
                waiting = [asyncio.create_task(pool.acquire()) for _ in range(2)]
                await until(lambda: not pool._openings and pool.waiting == 2)
                assert not any(task.done() for task in waiting)
                pool.release(held)
                assert await waiting[0] is held
                pool.release(held)
                assert await waiting[1] is held
                pool.release(held)
            async with opened(few, minimum=1), opened(few) as other:
                with pytest.raises(asyncpg.TooManyConnectionsError):  # where there is none that could come free, it is told
                    await other.acquire()
        finally:
            await connection.execute("DROP ROLE few")
            await connection.close()

    asyncio.run(run())


# --- the end -----------------------------------------------------------------------------------------------------------


def test_closing_waits_for_what_is_in_use(url: str) -> None:
    async def run() -> None:
        pool = Pool(options(url))
        await pool.open()
        connection = await pool.acquire()
        closing = asyncio.create_task(pool.close(timeout_seconds=10))
        assert await connection.fetchval("SELECT 1 FROM pg_sleep(0.1)") == 1
        pool.release(connection)
        await closing
        assert connection.is_closed()
        assert pool.size == 0

    asyncio.run(run())


def test_closing_cuts_what_does_not_come_back(url: str) -> None:
    async def run() -> None:
        pool = Pool(options(url))
        await pool.open()
        connection = await pool.acquire()
        running = asyncio.create_task(connection.fetch("SELECT pg_sleep(30)"))
        async with asyncio.timeout(3):
            await pool.close(timeout_seconds=0.1)
        with pytest.raises((asyncpg.InterfaceError, asyncpg.PostgresError, OSError)):
            await running
        pool.release(connection)
        assert pool.size == 0

    asyncio.run(run())


def test_closing_refuses_who_waits_and_who_comes(url: str) -> None:
    async def run() -> None:
        pool = Pool(options(url, maximum=1, acquire_timeout_seconds=5))
        await pool.open()
        held = await pool.acquire()
        waiting = asyncio.create_task(pool.acquire())
        await until(lambda: pool.waiting == 1)
        closing = asyncio.create_task(pool.close(timeout_seconds=10))
        with pytest.raises(Unavailable, match="stopping"):
            await waiting
        with pytest.raises(Unavailable, match="stopping"):
            await pool.acquire()
        pool.release(held)
        await closing

    asyncio.run(run())


def test_closing_while_a_connection_is_being_opened_leaves_none_behind(url: str) -> None:
    async def run() -> None:
        async with observer(url, "pool-closing") as connected:
            pool = Pool(options(url, name="pool-closing"))
            await pool.open()
            opening = asyncio.create_task(pool.acquire())
            await _begun(pool)
            await pool.close()
            with pytest.raises(Unavailable):
                await opening
            assert pool.size == 0
            async with asyncio.timeout(10):
                while await connected() != 0:
                    await asyncio.sleep(0.01)

    asyncio.run(run())


# --- sessions ----------------------------------------------------------------------------------------------------------


def test_a_session_has_its_settings_and_its_name(url: str) -> None:
    async def run() -> None:
        async with opened(url, statement_timeout_seconds=2.5) as pool:
            connection = await pool.acquire()
            for name, value in {**SESSION, "application_name": "pool-test", "statement_timeout": "2500ms"}.items():
                assert await connection.fetchval("SELECT current_setting($1)", name) == value, name
            assert await connection.fetchval("SELECT current_setting('idle_in_transaction_session_timeout')") == "7500ms"
            query = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"
            assert await connection.fetchval(query) == "pool-test"
            pool.release(connection)

    asyncio.run(run())


@pytest.mark.parametrize("run_in", [asyncio.run, uvloop.run])
def test_a_peer_that_vanishes_without_a_word_is_asked_for(run_in: Callable[..., None]) -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, *listener.getsockname())
            _keep_alive(cast("Connection", SimpleNamespace(_transport=transport)))
            found = transport.get_extra_info("socket")
            assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for option, value in KEEPALIVE.items():
                if hasattr(socket, option):
                    assert found.getsockopt(socket.IPPROTO_TCP, getattr(socket, option)) == value, option
            transport.abort()

    run_in(run())


# --- statements --------------------------------------------------------------------------------------------------------


def test_a_statement_has_its_own_time(url: str) -> None:
    async def run() -> None:
        async with opened(url, statement_timeout_seconds=0.2) as pool:
            database = Database(pool)
            with pytest.raises(DatabaseTimeout):
                await database.fetch("SELECT pg_sleep(30)", ())
            with pytest.raises(DatabaseTimeout):
                await database.fetch("SELECT pg_sleep(30)", (), timeout_seconds=0.1)
            assert (await database.fetch("SELECT 7 FROM pg_sleep(0.4)", (), timeout_seconds=5))[0][0] == 7
            assert (await database.fetch("SHOW statement_timeout", ()))[0][0] == "200ms"
            assert pool.idle == 1

    asyncio.run(run())


def test_a_statement_whose_time_went_by_in_line_is_not_sent(url: str) -> None:
    async def run() -> None:
        async with opened(url, maximum=1, acquire_timeout_seconds=60) as pool:
            database = Database(pool)
            held = await pool.acquire()
            insert = "CREATE TABLE begun_too_late (n int)"
            late = asyncio.create_task(database.fetch(insert, (), timeout_seconds=0.01, writing=True))
            await until(lambda: pool.waiting == 1)
            await asyncio.sleep(0.01 + GRACE_SECONDS)
            pool.release(held)
            with pytest.raises(NotSent):
                await late
            assert pool.idle == 1
            assert await pool.acquire() is held, "for nothing was wrong with it"
            pool.release(held)
            assert (await database.fetch("SELECT to_regclass('begun_too_late')", ()))[0][0] is None
            assert database.breaker._failures == 0

    asyncio.run(run())


def test_a_write_that_runs_out_of_time_has_written_nothing(url: str) -> None:
    async def run() -> None:
        async with opened(url) as pool:
            database = Database(pool)
            await database.fetch("CREATE TABLE IF NOT EXISTS written (n int)", ())
            insert = "WITH w AS (INSERT INTO written VALUES (1) RETURNING n) SELECT n, pg_sleep(30) FROM w"
            with pytest.raises(DatabaseTimeout):
                await database.fetch(insert, (), timeout_seconds=0.1, writing=True)
            assert (await database.fetch("SELECT count(*) FROM written", ()))[0][0] == 0
            assert pool.idle == 1

    asyncio.run(run())


def test_a_caller_that_is_cancelled_in_the_middle_of_a_statement_throws_the_connection_away(url: str) -> None:
    async def run() -> None:
        async with opened(url, maximum=1) as pool:
            database = Database(pool)
            running = asyncio.create_task(database.fetch("SELECT pg_sleep(30)", ()))
            await until(lambda: len(pool._in_use) == 1)
            (connection,) = pool._in_use
            await asyncio.sleep(0.1)  # the connection is handed over before the statement is on its way
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert connection.is_closed()
            assert pool.size == 0
            assert (await database.fetch("SELECT 1", ()))[0][0] == 1

    asyncio.run(run())


def test_a_stale_plan_is_made_anew_within_a_transaction(url: str) -> None:
    async def run() -> None:
        async with opened(url, maximum=1) as pool:
            database = Database(pool)
            await database.fetch("CREATE TABLE IF NOT EXISTS changing (n int)", ())
            for timeout_seconds in (None, 3.0):
                assert await database.fetch("SELECT * FROM changing", (), timeout_seconds) == []
                await database.fetch(f"ALTER TABLE changing ADD COLUMN c{re.sub('[^0-9]', '', str(timeout_seconds))}x int", ())
                assert await database.fetch("SELECT * FROM changing", (), timeout_seconds) == []

    asyncio.run(run())


def test_a_connection_that_dies_under_a_statement_is_unavailable(url: str) -> None:
    async def run() -> None:
        async with opened(url, maximum=1) as pool:
            with pytest.raises(Unavailable):
                await Database(pool).fetch("SELECT pg_terminate_backend(pg_backend_pid())", ())
            assert pool.idle == 0
            assert (await Database(pool).fetch("SELECT 1", ()))[0][0] == 1

    asyncio.run(run())


def test_a_value_that_the_driver_cannot_send_is_our_bug_and_costs_no_connection(url: str) -> None:
    async def run() -> None:
        async with opened(url, maximum=1) as pool:
            with pytest.raises(GatewayError) as raised:
                await Database(pool).fetch("SELECT $1::int", ("not a number",))
            assert raised.value.status == 500
            assert (await Database(pool).fetch("SELECT 1", ()))[0][0] == 1

    asyncio.run(run())
