"""The breaker's laws: what opens it, what does not, that probes come one at a time, and what is told of its moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.breaker import Breaker
from gateway.events import BreakerMoved, Event
from tests.issuing import Clock


class Server:
    """Something that is well or not, as the test says; `probes` counts how often it was asked, `most` at once."""

    def __init__(self, well: bool = True) -> None:
        self.well = well
        self.probes = self.now = self.most = 0
        self.hangs = False

    async def probe(self) -> None:
        self.probes += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(30 if self.hangs else 0)
            if not self.well:
                raise ConnectionRefusedError("nobody there")
        finally:
            self.now -= 1


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_it_opens_where_half_of_enough_calls_fail_and_not_before() -> None:
    async def run() -> None:
        server = Server()
        breaker = Breaker("x", server.probe, minimum_calls=10, clock=Clock())
        for _ in range(5):
            breaker.succeeded()
        for _ in range(4):
            breaker.failed("lost")
        assert breaker.is_closed
        breaker.failed("lost")
        assert (breaker.state, breaker.reason) == ("open", "lost")
        await breaker.stop()

    asyncio.run(run())


def test_few_failures_among_many_successes_open_nothing() -> None:
    async def run() -> None:
        breaker = Breaker("x", Server().probe, minimum_calls=10, clock=Clock())
        for _ in range(100):
            breaker.succeeded()
        for _ in range(99):
            breaker.failed("lost")
        assert breaker.is_closed
        await breaker.stop()

    asyncio.run(run())


@pytest.mark.parametrize(("later_seconds", "opens"), [(0.9, True), (1.9, True), (2.1, False), (60, False)])
def test_failures_count_for_as_long_as_the_window(later_seconds: float, opens: bool) -> None:
    async def run() -> None:
        clock = Clock()
        breaker = Breaker("x", Server().probe, minimum_calls=10, window_seconds=2, clock=clock)
        for _ in range(9):
            breaker.failed("lost")
        clock.seconds += later_seconds
        breaker.failed("lost")
        assert breaker.is_closed is not opens
        await breaker.stop()

    asyncio.run(run())


def test_a_first_failure_is_looked_into_and_opens_it_where_a_probe_fails_too() -> None:
    async def run() -> None:
        server = Server(well=False)
        breaker = Breaker("x", server.probe, pause_seconds=10)
        breaker.failed("no answer")
        assert breaker.is_closed
        await until(lambda: breaker.state == "open")
        assert (server.probes, breaker.reason) == (1, "no answer")
        await breaker.stop()

    asyncio.run(run())


def test_a_first_failure_opens_nothing_where_a_probe_succeeds() -> None:
    async def run() -> None:
        server = Server()
        breaker = Breaker("x", server.probe)
        breaker.failed("no answer")
        await until(lambda: server.probes == 1 and not server.now)
        await asyncio.sleep(0)
        assert breaker.is_closed
        await breaker.stop()

    asyncio.run(run())


def test_it_probes_one_at_a_time_while_open_and_closes_with_the_first_that_succeeds() -> None:
    async def run() -> None:
        moves: list[Event] = []
        server = Server(well=False)
        breaker = Breaker("x", server.probe, minimum_calls=1, pause_seconds=0.002, observe=moves.append)
        breaker.failed("gone")
        await until(lambda: server.probes >= 3)
        assert not breaker.is_closed
        assert not any(await asyncio.gather(*(breaker.is_well() for _ in range(20))))
        server.well = True
        await until(lambda: breaker.is_closed)
        assert server.most == 1
        assert (breaker.state, breaker.reason) == ("closed", "")
        assert moves[:3] == [
            BreakerMoved("x", "open", "gone"),
            BreakerMoved("x", "half_open", "gone"),
            BreakerMoved("x", "open", "ConnectionRefusedError: nobody there"),
        ]
        assert moves[-1] == BreakerMoved("x", "closed", "")
        probes = server.probes
        await asyncio.sleep(0.02)
        assert server.probes == probes, "a closed breaker does not probe"
        await breaker.stop()

    asyncio.run(run())


def test_what_was_counted_before_it_closed_counts_no_more() -> None:
    async def run() -> None:
        server = Server()
        breaker = Breaker("x", server.probe, minimum_calls=5, pause_seconds=0.001, clock=Clock())
        for _ in range(5):
            breaker.failed("gone")
        await until(lambda: breaker.is_closed)
        for _ in range(4):
            breaker.failed("gone")
        assert breaker.is_closed
        await breaker.stop()

    asyncio.run(run())


def test_a_probe_that_hangs_ends_with_its_bound() -> None:
    async def run() -> None:
        server = Server()
        server.hangs = True
        breaker = Breaker("x", server.probe, probe_seconds=0.01)
        async with asyncio.timeout(10):
            assert not await breaker.is_well()
        assert breaker.reason == "no answer within 0.01 s"
        await breaker.stop()

    asyncio.run(run())


def test_who_leaves_while_a_probe_runs_does_not_take_it_from_the_others() -> None:
    async def run() -> None:
        server = Server()
        breaker = Breaker("x", server.probe)
        leaving, staying = asyncio.create_task(breaker.is_well()), asyncio.create_task(breaker.is_well())
        await until(lambda: server.probes == 1)
        leaving.cancel()
        assert await staying
        assert server.probes == 1
        await breaker.stop()

    asyncio.run(run())


def test_stopping_ends_what_runs() -> None:
    async def run() -> None:
        server = Server(well=False)
        breaker = Breaker("x", server.probe, minimum_calls=1, pause_seconds=0.001)
        breaker.failed("gone")
        await until(lambda: server.probes > 1)
        await breaker.stop()
        probes = server.probes
        await asyncio.sleep(0.01)
        assert server.probes == probes

    asyncio.run(run())
