"""The gate: how its limit follows the database, who waits, who is refused, and that a flood is its sender's alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.errors import NotSent
from gateway.events import Event, Shed
from gateway.guards.gate import BURST, LEAST_LINE, WINDOW_SECONDS, Gate
from tests.issuing import Clock

LEAST = 8


def gate(clock: Clock, observe: Callable[[Event], None] = lambda _event: None, line_seconds: float = 600) -> Gate:
    """One that has learned that the database is slow: its limit is `LEAST`."""
    made = Gate(LEAST, 0.5, observe, clock, line_seconds, burst=LEAST_LINE)
    for _ in range(40):
        pass_window(made, clock, answers=0, busy=True)
    assert made.limit == LEAST
    return made


def pass_window(made: Gate, clock: Clock, answers: int, busy: bool) -> None:
    """A window in which so many were answered, of a gate that was full, or nearly empty."""
    inside = made.limit if busy else 1
    for number in range(inside):
        assert made.enter(f"client {number}")
    for _ in range(answers):
        made.leave("client 0", answered=True)
        assert made.enter("client 0")
    clock.seconds += WINDOW_SECONDS
    for number in range(inside):
        made.leave(f"client {number}", answered=False)


def test_the_limit_is_what_is_answered_in_the_longest_useful_stay() -> None:
    clock = Clock()
    made = Gate(LEAST, 0.5, clock=clock)
    for _ in range(40):
        pass_window(made, clock, answers=200, busy=True)
    assert made.limit == pytest.approx(2000 * 0.5, rel=0.05)


def test_a_database_that_slows_down_takes_the_limit_along_and_one_that_recovers_does_so_within_a_second() -> None:
    clock = Clock()
    made = gate(clock)
    began = clock.seconds
    while made.limit < 100:
        pass_window(made, clock, answers=made.limit * 4, busy=True)
    assert clock.seconds - began < 1


def test_few_requests_say_nothing_of_what_the_database_can_do() -> None:
    clock = Clock()
    made = Gate(LEAST, 0.5, clock=clock)
    limit = made.limit
    for _ in range(40):
        pass_window(made, clock, answers=1, busy=False)
    assert made.limit == limit


def test_time_in_which_nobody_asks_says_nothing() -> None:
    """Bursts with long pauses between them: the limit is by what was answered within them."""
    clock = Clock()
    made = Gate(LEAST, 0.5, clock=clock)
    for _ in range(40):
        for number in range(made.limit):
            assert made.enter(f"client {number}")
        clock.seconds += WINDOW_SECONDS
        for number in range(made.limit):
            made.leave(f"client {number}", answered=True)
        clock.seconds += 600
    assert made.limit > 1000


def test_a_burst_is_answered_whole_and_remembered_as_no_crowd() -> None:
    async def steps() -> None:
        clock = Clock()
        made = Gate(LEAST, 600, clock=clock)
        made.limit = LEAST
        for _ in range(3):
            over = asyncio.Event()
            burst = [asyncio.create_task(work(made, "one", over)) for _ in range(BURST)]
            await settle()
            assert made.in_use + made.waiting == BURST
            clock.seconds += WINDOW_SECONDS
            over.set()
            assert set(await asyncio.gather(*burst)) == {"served"}
            clock.seconds += 600

    run(steps)


def test_a_line_is_as_long_as_a_burst_and_no_longer() -> None:
    async def steps() -> None:
        made, over = Gate(LEAST, 600, clock=Clock()), asyncio.Event()
        made.limit = LEAST
        tasks = [asyncio.create_task(work(made, f"client {number}", over)) for number in range(LEAST + BURST + 7)]
        await settle()
        assert sum(task.done() for task in tasks) == 7
        over.set()
        await asyncio.gather(*tasks)

    run(steps)


def run(steps: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await steps()

    asyncio.run(bounded())


async def work(made: Gate, client: str, over: asyncio.Event) -> str:
    try:
        async with made.slot(client):
            await over.wait()
    except NotSent:
        return "refused"
    return "served"


async def settle() -> None:
    """Lets every task go as far as it can by itself."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_beyond_the_limit_a_few_wait_and_the_others_are_refused_at_once() -> None:
    events: list[Event] = []

    async def steps() -> None:
        made, over = gate(Clock(), events.append), asyncio.Event()
        tasks = [asyncio.create_task(work(made, f"client {number}", over)) for number in range(100)]
        await settle()
        assert (made.in_use, made.waiting) == (LEAST, LEAST_LINE)
        assert sum(task.done() for task in tasks) == 100 - LEAST - LEAST_LINE
        over.set()
        results = await asyncio.gather(*tasks)
        assert results.count("served") in range(LEAST, LEAST + LEAST_LINE + 1)
        assert (made.in_use, made.waiting) == (0, 0)
        assert events == [Shed("busy")] * results.count("refused")

    run(steps)


def test_who_waits_too_long_is_refused_and_leaves_no_trace() -> None:
    async def steps() -> None:
        made, over = gate(Clock(), line_seconds=0.01), asyncio.Event()
        inside = [asyncio.create_task(work(made, f"client {number}", over)) for number in range(LEAST)]
        await settle()
        assert await work(made, "late", over) == "refused"
        cancelled = asyncio.create_task(work(made, "gone", over))
        await settle()
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        assert (made.in_use, made.waiting) == (LEAST, 0)
        over.set()
        assert await asyncio.gather(*inside) == ["served"] * LEAST
        assert made.in_use == 0
        assert made.enter("anybody")

    run(steps)


def test_a_flood_of_one_client_takes_neither_all_places_nor_the_line_from_others() -> None:
    async def steps() -> None:
        made, over = gate(Clock()), asyncio.Event()
        assert made.enter("other")
        made.leave("other", answered=True)
        flood = [asyncio.create_task(work(made, "flood", over)) for _ in range(50)]
        await settle()
        assert made.in_use == LEAST * 3 / 4
        assert made.waiting == LEAST_LINE
        others = [asyncio.create_task(work(made, "other", over)) for _ in range(LEAST // 4)]
        await settle()
        over.set()
        assert await asyncio.gather(*others) == ["served"] * len(others)
        assert "refused" in await asyncio.gather(*flood)

    run(steps)


def test_alone_a_client_may_have_every_place() -> None:
    clock = Clock()
    made = gate(clock)
    clock.seconds += 60
    assert made.enter("alone")
    clock.seconds += 60
    assert all(made.enter("alone") for _ in range(LEAST - 1))
    assert not made.enter("alone")


def test_a_client_without_a_name_is_one_among_the_others() -> None:
    made = gate(Clock())
    assert made.enter("")
    made.leave("", answered=True)
    assert [made.enter("flood") for _ in range(LEAST)].count(True) == LEAST * 3 / 4


def test_clients_take_turns_in_the_line() -> None:
    order: list[str] = []

    async def steps() -> None:
        made, over = gate(Clock()), asyncio.Event()
        inside = [asyncio.create_task(work(made, f"client {number}", over)) for number in range(LEAST)]
        await settle()

        async def note(client: str) -> None:
            async with made.slot(client):
                order.append(client)

        waiting = [asyncio.create_task(note(client)) for client in ("a", "a", "b")]
        await settle()
        inside.pop().cancel()
        await asyncio.gather(*waiting)
        over.set()
        await asyncio.gather(*inside)

    run(steps)
    assert order == ["a", "b", "a"]


def test_in_a_full_line_the_client_with_the_most_places_makes_room() -> None:
    async def steps() -> None:
        made, over = gate(Clock()), asyncio.Event()
        inside = [asyncio.create_task(work(made, f"client {number}", over)) for number in range(LEAST)]
        await settle()
        flood = [asyncio.create_task(work(made, "flood", over)) for _ in range(LEAST_LINE)]
        await settle()
        other = asyncio.create_task(work(made, "other", over))
        await settle()
        assert [task.done() for task in flood] == [False] * (LEAST_LINE - 1) + [True]
        assert not other.done()
        over.set()
        await asyncio.gather(*inside, *flood, other)

    run(steps)


def crowd(made: Gate, clock: Clock, clients: tuple[str, ...]) -> None:
    """A window in which many asked and few got in; afterwards the gate is full."""
    while made.enter(clients[0]) or made.enter(clients[-1]):
        pass
    for _ in range(100):
        for client in clients:
            assert not made.enter(client)
    clock.seconds += 2 * WINDOW_SECONDS
    made.leave(clients[0], answered=True)
    assert made.enter(clients[-1])


def test_who_is_a_crowd_alone_is_refused_at_once() -> None:
    clock = Clock()
    made = gate(clock)
    clock.seconds += 60
    assert made.enter("flood")
    clock.seconds += 60
    assert not made.is_closed_to("flood")
    crowd(made, clock, ("flood",))
    assert made.is_closed_to("flood")
    assert made.is_shut_to("flood")
    assert not made.is_shut_to("other")
    made.leave("flood", answered=True)
    assert not made.is_shut_to("flood")
    assert made.enter("flood")  # as soon as there is room, and without a line
    assert made.is_shut_to("flood")
    assert not made.enter("other")
    assert not made.is_shut_to("other")
    assert not made.is_shut_to("flood")


def test_who_is_turned_away_keeps_up_the_crowd() -> None:
    events: list[Event] = []
    clock = Clock()
    made = gate(clock, events.append)
    clock.seconds += 60
    assert made.enter("flood")
    clock.seconds += 60
    crowd(made, clock, ("flood",))
    for _ in range(20):
        made.turn_away()
    clock.seconds += 2 * WINDOW_SECONDS
    made.leave("flood", answered=True)
    assert made.enter("flood")
    assert made.is_shut_to("flood")
    assert events == [Shed("busy")] * 20


def test_in_a_crowd_each_client_has_one_place_in_the_line() -> None:
    async def steps() -> None:
        clock, over = Clock(), asyncio.Event()
        made = gate(clock)
        crowd(made, clock, ("one", "other"))
        waiting = [asyncio.create_task(work(made, client, over)) for client in ("one", "one", "other", "other")]
        await settle()
        assert [task.done() for task in waiting] == [False, True, False, True]
        for client in ("one", "other"):
            made.leave(client, answered=True)
        over.set()
        assert await asyncio.gather(*waiting) == ["served", "refused", "served", "refused"]

    run(steps)


def test_a_crowd_that_has_gone_is_a_crowd_no_more() -> None:
    clock = Clock()
    made = gate(clock)
    clock.seconds += 60
    assert made.enter("flood")
    clock.seconds += 60
    crowd(made, clock, ("flood",))
    for _ in range(2):
        clock.seconds += 2 * WINDOW_SECONDS
        made.leave("flood", answered=True)
        assert made.enter("flood")
    assert not made.is_closed_to("flood")
